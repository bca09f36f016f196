//! Rows of styled cells into a picture of a terminal window.
//!
//! Lines and bars are drawn as shapes, because fonts leave gaps between them; everything else is
//! text that is held to its columns by `textLength`, whatever font the reader has.

use super::ansi::{Cell, Rgb, Style};
use super::svg::{Canvas, MONO, short};

const CELL: (f64, f64) = (7.8, 16.0);
const MARGIN: f64 = 16.0;
/// The bar with the window's title.
const BAR: f64 = 34.0;
const FOREGROUND: Rgb = [0xc9, 0xd1, 0xd9];
const BACKGROUND: Rgb = [0x0d, 0x11, 0x17];

/// A window with these rows, as wide as the longest of them.
pub(super) fn draw(rows: &[Vec<Cell>], title: &str) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = columns as f64 * CELL.0 + 2.0 * MARGIN;
    let height = rows.len() as f64 * CELL.1 + BAR + MARGIN;
    let mut canvas = Canvas::new(width, height);
    window(&mut canvas, width, height, title);
    for (index, row) in rows.iter().enumerate() {
        draw_row(&mut canvas, row, BAR + index as f64 * CELL.1);
    }
    let style = format!(
        "text{{font:13px {MONO};fill:{};white-space:pre}}.b{{font-weight:600}}",
        hex(FOREGROUND)
    );
    canvas.finish(title, &style, "")
}

fn window(canvas: &mut Canvas, width: f64, height: f64, title: &str) {
    let frame = format!(r##"rx="10" fill="{}" stroke="#30363d""##, hex(BACKGROUND));
    canvas.rect([0.5, 0.5, width - 1.0, height - 1.0], &frame);
    for (index, colour) in ["#ff5f57", "#febc2e", "#28c840"].into_iter().enumerate() {
        let x = MARGIN + index as f64 * 18.0;
        canvas.rect(
            [x, 11.0, 11.0, 11.0],
            &format!(r#"rx="5.5" fill="{colour}""#),
        );
    }
    let attributes = r##"text-anchor="middle" style="fill:#8b949e""##;
    canvas.text(width / 2.0, 21.0, attributes, title);
}

fn draw_row(canvas: &mut Canvas, row: &[Cell], top: f64) {
    let mut column = 0;
    for run in row.chunk_by(|a, b| a.style == b.style && kind(a.glyph) == kind(b.glyph)) {
        let left = MARGIN + column as f64 * CELL.0;
        column += run.len();
        let (ink, paper) = colours(run[0].style);
        let width = run.len() as f64 * CELL.0;
        if paper != BACKGROUND {
            canvas.rect([left, top, width, CELL.1], &fill(paper));
        }
        match kind(run[0].glyph) {
            Kind::Blank => {}
            Kind::Block => blocks(canvas, run, left, top, ink),
            Kind::Line => lines(canvas, run, left, top, ink),
            Kind::Text => text(canvas, run, left, top, ink),
        }
    }
}

/// How a character is drawn.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
enum Kind {
    Blank,
    Block,
    Line,
    Text,
}

fn kind(glyph: char) -> Kind {
    if glyph == ' ' {
        Kind::Blank
    } else if block(glyph).is_some() {
        Kind::Block
    } else if arms(glyph).is_some() {
        Kind::Line
    } else {
        Kind::Text
    }
}

fn text(canvas: &mut Canvas, run: &[Cell], left: f64, top: f64, ink: Rgb) {
    let glyphs: String = run.iter().map(|cell| cell.glyph).collect();
    let mut attributes = format!(r#"textLength="{}""#, short(run.len() as f64 * CELL.0));
    if ink != FOREGROUND {
        attributes.push_str(&format!(r#" style="fill:{}""#, hex(ink)));
    }
    if run[0].style.bold {
        attributes.push_str(r#" class="b""#);
    }
    canvas.text(left, top + CELL.1 * 0.75, &attributes, &glyphs);
}

fn blocks(canvas: &mut Canvas, run: &[Cell], left: f64, top: f64, ink: Rgb) {
    // A bar is one rectangle, so that no seams show between its cells.
    let mut left = left;
    for same in run.chunk_by(|a, b| a.glyph == b.glyph && block(a.glyph) == Some([0, 0, 8, 8])) {
        let [x, y, width, height] = block(same[0].glyph).unwrap_or_default().map(f64::from);
        let all = same.len() as f64 * CELL.0;
        let shape = [
            left + x / 8.0 * CELL.0,
            top + y / 8.0 * CELL.1,
            if same.len() > 1 {
                all
            } else {
                width / 8.0 * CELL.0
            },
            height / 8.0 * CELL.1,
        ];
        canvas.rect(shape, &fill(ink));
        left += all;
    }
}

/// A block element as x, y, width and height in eighths of the cell.
fn block(glyph: char) -> Option<[u8; 4]> {
    let code = u32::from(glyph);
    // Both ranges are within eight of their start.
    let eighths = |from: u32| (code - from) as u8;
    match glyph {
        '▀' => Some([0, 0, 8, 4]),
        '▁'..='█' => {
            let height = eighths(0x2580);
            Some([0, 8 - height, 8, height])
        }
        '▉'..='▏' => Some([0, 0, 8 - eighths(0x2588), 8]),
        '▐' => Some([4, 0, 4, 8]),
        _ => None,
    }
}

fn lines(canvas: &mut Canvas, run: &[Cell], left: f64, top: f64, ink: Rgb) {
    let (middle, bottom) = (short(top + CELL.1 / 2.0), short(top + CELL.1));
    let mut d = String::new();
    for (index, cell) in run.iter().enumerate() {
        let left = left + index as f64 * CELL.0;
        let (centre, right) = (short(left + CELL.0 / 2.0), short(left + CELL.0));
        let ends = [
            format!("V{}", short(top)),
            format!("H{right}"),
            format!("V{bottom}"),
            format!("H{}", short(left)),
        ];
        for (end, _) in ends
            .iter()
            .zip(arms(cell.glyph).unwrap_or_default())
            .filter(|(_, arm)| *arm)
        {
            d.push_str(&format!("M{centre},{middle}{end}"));
        }
    }
    canvas.path(&d, &format!(r#"fill="none" stroke="{}""#, hex(ink)));
}

/// Which of its four arms a line character has: up, right, down, left.
fn arms(glyph: char) -> Option<[bool; 4]> {
    let arms = match glyph {
        '─' | '━' => 0b0101,
        '│' | '┃' => 0b1010,
        '┌' | '╭' => 0b0110,
        '┐' | '╮' => 0b0011,
        '└' | '╰' => 0b1100,
        '┘' | '╯' => 0b1001,
        '├' => 0b1110,
        '┤' => 0b1011,
        '┬' => 0b0111,
        '┴' => 0b1101,
        '┼' => 0b1111,
        _ => return None,
    };
    Some([8, 4, 2, 1].map(|bit| arms & bit != 0))
}

/// Ink and paper.
fn colours(style: Style) -> (Rgb, Rgb) {
    let mut ink = style.foreground.unwrap_or(FOREGROUND);
    let paper = style.background.unwrap_or(BACKGROUND);
    if style.dim {
        ink = std::array::from_fn(|i| ink[i].midpoint(paper[i]));
    }
    if style.reversed {
        (paper, ink)
    } else {
        (ink, paper)
    }
}

fn fill(colour: Rgb) -> String {
    format!(r#"fill="{}""#, hex(colour))
}

fn hex([red, green, blue]: Rgb) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

#[cfg(test)]
mod tests {
    use super::super::ansi::parse;
    use super::*;

    /// What is drawn for a row, without the window.
    fn drawn(text: &str) -> String {
        let whole = draw(&parse(text), "t");
        let (_, body) = whole.split_once(">t</text>\n").expect("a title");
        body.trim_end_matches("</svg>\n").trim_end().to_owned()
    }

    #[test]
    fn cells_become_shapes() {
        let cases = [
            ("   ", ""),
            ("ab", r#"<text x="16" y="46" textLength="15.6">ab</text>"#),
            (
                " \x1b[1;38;2;1;2;3ma<",
                r##"<text x="23.8" y="46" textLength="15.6" style="fill:#010203" class="b">a&lt;</text>"##,
            ),
            (
                "\x1b[48;2;1;2;3m ",
                r##"<rect x="16" y="34" width="7.8" height="16" fill="#010203"/>"##,
            ),
            (
                "\x1b[7m ",
                r##"<rect x="16" y="34" width="7.8" height="16" fill="#c9d1d9"/>"##,
            ),
            (
                "███",
                r##"<rect x="16" y="34" width="23.4" height="16" fill="#c9d1d9"/>"##,
            ),
            (
                "▌",
                r##"<rect x="16" y="34" width="3.9" height="16" fill="#c9d1d9"/>"##,
            ),
            (
                "▂",
                r##"<rect x="16" y="46" width="7.8" height="4" fill="#c9d1d9"/>"##,
            ),
            (
                "─",
                r##"<path d="M19.9,42H23.8M19.9,42H16" fill="none" stroke="#c9d1d9"/>"##,
            ),
            (
                "┌",
                r##"<path d="M19.9,42H23.8M19.9,42V50" fill="none" stroke="#c9d1d9"/>"##,
            ),
            (
                "\x1b[2;38;2;255;255;255m│",
                r##"<path d="M19.9,42V34M19.9,42V50" fill="none" stroke="#86888b"/>"##,
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(drawn(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_bar_with_a_partial_end_has_no_gap() {
        let svg = drawn("██▍");
        assert!(svg.contains(r#"x="16" y="34" width="15.6""#), "{svg}");
        assert!(svg.contains(r#"x="31.6" y="34" width="2.93""#), "{svg}");
    }

    #[test]
    fn the_window_is_as_large_as_its_rows() {
        let svg = draw(&parse("ab\nabcd\n"), "t");
        assert!(svg.contains(r#"width="63.2" height="82""#), "{svg}");
    }
}
