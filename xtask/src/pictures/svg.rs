//! The few SVG elements that the pictures are made of.

use std::fmt::{Display, Write as _};

/// Fonts that every system has; a picture brings none.
pub(crate) const SANS: &str = "-apple-system,'Segoe UI',Helvetica,Arial,sans-serif";
/// The same, with letters of one width.
pub(crate) const MONO: &str =
    "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace";

/// Elements in the order in which they are painted. Lengths are user units: pixels at scale 1.
pub(crate) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self {
            width,
            height,
            body: String::new(),
        }
    }

    /// A rectangle; `attributes` are written as they are.
    pub(crate) fn rect(&mut self, [x, y, width, height]: [f64; 4], attributes: &str) {
        let [x, y, width, height] = [x, y, width, height].map(short);
        self.push(format_args!(
            r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" {attributes}/>"#
        ));
    }

    /// Text with its base line at `y`; `attributes` are written as they are.
    pub(crate) fn text(&mut self, x: f64, y: f64, attributes: &str, text: &str) {
        let (x, y, text) = (short(x), short(y), escape(text));
        self.push(format_args!(
            r#"<text x="{x}" y="{y}" {attributes}>{text}</text>"#
        ));
    }

    /// A line of any shape, in the syntax of a path's `d`.
    pub(crate) fn path(&mut self, d: &str, attributes: &str) {
        self.push(format_args!(r#"<path d="{d}" {attributes}/>"#));
    }

    fn push(&mut self, element: impl Display) {
        // Cannot fail: the target is a string.
        let _ = writeln!(self.body, "{element}");
    }

    /// The whole file. `title` is what a screen reader says; `style` is CSS, `definitions` are
    /// elements for later reference.
    pub(crate) fn finish(self, title: &str, style: &str, definitions: &str) -> String {
        let (width, height) = (short(self.width), short(self.height));
        let (title, body) = (escape(title), self.body);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{title}</title>\n\
             <style>{style}</style>\n<defs>{definitions}</defs>\n{body}</svg>\n"
        )
    }
}

/// Text that is only text inside XML.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// A length with at most two decimals.
pub(crate) fn short(length: f64) -> f64 {
    (length * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_lengths_are_short() {
        let mut canvas = Canvas::new(10.0, 20.0);
        canvas.text(1.0 / 3.0, 2.0, "", "a<b & c>d");
        let svg = canvas.finish("x & y", "", "");
        assert!(svg.contains(r#"<text x="0.33" y="2" >a&lt;b &amp; c&gt;d</text>"#));
        assert!(svg.contains("<title>x &amp; y</title>"));
    }
}
