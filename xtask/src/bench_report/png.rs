//! A picture as pixels, for places that show no SVG.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Pixels for each unit: sharp on screens of twice the density.
const SCALE: f32 = 2.0;

/// The fonts that may stand for what a picture asks for, the best first.
const FONTS: [&str; 5] = [
    "DejaVu Sans",
    "Liberation Sans",
    "Noto Sans",
    "Arial",
    "Helvetica",
];

/// Paints an SVG picture with the fonts of this machine.
///
/// # Errors
/// It is no SVG, or there is none of the fonts.
pub(super) fn paint(svg: &str) -> Result<Vec<u8>> {
    let mut fonts = fontdb::Database::new();
    fonts.load_system_fonts();
    let is_there = |name: &&&str| {
        let families = fonts.faces().flat_map(|face| &face.families);
        families
            .map(|(family, _)| family)
            .any(|family| family == **name)
    };
    let found = FONTS.iter().find(is_there).copied();
    ensure!(
        found.is_some(),
        "no font to write with (apt-get install fonts-dejavu-core)"
    );
    let font = found.unwrap_or_default();
    fonts.set_sans_serif_family(font);
    let options = Options {
        font_family: font.to_owned(),
        fontdb: Arc::new(fonts),
        ..Options::default()
    };
    let tree = Tree::from_str(svg, &options)?;
    let size = tree.size().to_int_size().scale_by(SCALE);
    let size = size.context("a picture without a size")?;
    let mut pixels = Pixmap::new(size.width(), size.height()).context("too large a picture")?;
    let scale = Transform::from_scale(SCALE, SCALE);
    resvg::render(&tree, scale, &mut pixels.as_mut());
    Ok(pixels.encode_png()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_twice_its_size_in_pixels() {
        let svg = r##"<svg xmlns="http://www.w3.org/2000/svg" width="20" height="10"><rect width="20" height="10" fill="#123456"/></svg>"##;
        let png = paint(svg).unwrap();
        let pixels = Pixmap::decode_png(&png).unwrap();
        assert_eq!((pixels.width(), pixels.height()), (40, 20));
        let pixel = pixels.pixel(39, 19).unwrap();
        assert_eq!(
            (pixel.red(), pixel.green(), pixel.blue()),
            (0x12, 0x34, 0x56)
        );
        assert!(paint("no picture").is_err());
    }
}
