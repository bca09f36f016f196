//! Coloured terminal text, as `tmux capture-pane -e` writes it, into rows of styled cells.
//!
//! Only what such a capture contains is understood: printable characters and SGR (`ESC [ … m`).
//! Every other escape sequence is skipped. Each character takes one cell.

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// How a cell looks; colours of `None` are the terminal's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) foreground: Option<Rgb>,
    pub(super) background: Option<Rgb>,
    pub(super) bold: bool,
    pub(super) dim: bool,
    pub(super) reversed: bool,
}

/// A character and its look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) glyph: char,
    pub(super) style: Style,
}

/// The sixteen named colours, for a dark background.
const NAMED: [Rgb; 16] = [
    [0x48, 0x4f, 0x58],
    [0xff, 0x7b, 0x72],
    [0x3f, 0xb9, 0x50],
    [0xd2, 0x99, 0x22],
    [0x58, 0xa6, 0xff],
    [0xbc, 0x8c, 0xff],
    [0x39, 0xc5, 0xcf],
    [0xb1, 0xba, 0xc4],
    [0x6e, 0x76, 0x81],
    [0xff, 0xa1, 0x98],
    [0x56, 0xd3, 0x64],
    [0xe3, 0xb3, 0x41],
    [0x79, 0xc0, 0xff],
    [0xd2, 0xa8, 0xff],
    [0x56, 0xd4, 0xdd],
    [0xff, 0xff, 0xff],
];

/// Rows of cells. The style carries over line ends, as on a terminal.
pub(super) fn parse(text: &str) -> Vec<Vec<Cell>> {
    let mut style = Style::default();
    text.lines().map(|line| row(line, &mut style)).collect()
}

fn row(line: &str, style: &mut Style) -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut rest = line.chars();
    while let Some(glyph) = rest.next() {
        match glyph {
            '\x1b' => {
                if let Some(codes) = sequence(&mut rest) {
                    *style = apply(*style, &codes);
                }
            }
            control if control.is_control() => {}
            glyph => cells.push(Cell {
                glyph,
                style: *style,
            }),
        }
    }
    cells
}

/// Takes one escape sequence; the codes of an SGR, `None` for any other.
fn sequence(rest: &mut std::str::Chars<'_>) -> Option<Vec<u8>> {
    match rest.next()? {
        '[' => {}
        // An operating system command (a title, a link) ends with ESC \ or BEL.
        ']' => {
            if rest.find(|c| matches!(c, '\x07' | '\x1b')) == Some('\x1b') {
                rest.next();
            }
            return None;
        }
        // A choice of character set names the set in one more character.
        '(' | ')' => {
            rest.next();
            return None;
        }
        _ => return None,
    }
    let mut parameters = String::new();
    let last = rest.find(|c| {
        let is_last = ('@'..='~').contains(c);
        if !is_last {
            parameters.push(*c);
        }
        is_last
    })?;
    let code = |text: &str| text.parse().unwrap_or(0);
    (last == 'm').then(|| parameters.split([';', ':']).map(code).collect())
}

fn apply(mut style: Style, codes: &[u8]) -> Style {
    let mut rest = codes;
    while let [code, after @ ..] = rest {
        rest = after;
        match code {
            0 => style = Style::default(),
            1 => style.bold = true,
            2 => style.dim = true,
            7 => style.reversed = true,
            22 => (style.bold, style.dim) = (false, false),
            27 => style.reversed = false,
            30..=37 => style.foreground = Some(NAMED[usize::from(code - 30)]),
            38 => style.foreground = colour(&mut rest).or(style.foreground),
            39 => style.foreground = None,
            40..=47 => style.background = Some(NAMED[usize::from(code - 40)]),
            48 => style.background = colour(&mut rest).or(style.background),
            49 => style.background = None,
            90..=97 => style.foreground = Some(NAMED[usize::from(code - 90 + 8)]),
            100..=107 => style.background = Some(NAMED[usize::from(code - 100 + 8)]),
            _ => {}
        }
    }
    style
}

/// Takes what follows 38 or 48: `5;INDEX` or `2;R;G;B`.
fn colour(rest: &mut &[u8]) -> Option<Rgb> {
    match **rest {
        [5, index, ref after @ ..] => {
            *rest = after;
            Some(indexed(index))
        }
        [2, red, green, blue, ref after @ ..] => {
            *rest = after;
            Some([red, green, blue])
        }
        _ => None,
    }
}

/// A colour of the usual table of 256: 16 names, a cube of 6 × 6 × 6, 24 greys.
fn indexed(index: u8) -> Rgb {
    let level = |step: u8| if step == 0 { 0 } else { 55 + step * 40 };
    match index {
        0..=15 => NAMED[usize::from(index)],
        16..=231 => {
            let cube = index - 16;
            [cube / 36, cube / 6 % 6, cube % 6].map(level)
        }
        232.. => [8 + (index - 232) * 10; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_of_the_last_character() {
        let red = Some(NAMED[1]);
        let plain = Style::default();
        let with = |change: fn(&mut Style)| {
            let mut style = plain;
            change(&mut style);
            style
        };
        let cases = [
            ("x", plain),
            ("\x1b[1mx", with(|s| s.bold = true)),
            ("\x1b[1;2;22mx", plain),
            ("\x1b[7mx", with(|s| s.reversed = true)),
            ("\x1b[7;27mx", plain),
            (
                "\x1b[31mx",
                Style {
                    foreground: red,
                    ..plain
                },
            ),
            ("\x1b[31;39mx", plain),
            (
                "\x1b[41mx",
                Style {
                    background: red,
                    ..plain
                },
            ),
            ("\x1b[91mx", with(|s| s.foreground = Some(NAMED[9]))),
            ("\x1b[102mx", with(|s| s.background = Some(NAMED[10]))),
            (
                "\x1b[38;5;1mx",
                Style {
                    foreground: red,
                    ..plain
                },
            ),
            (
                "\x1b[38;5;196mx",
                with(|s| s.foreground = Some([255, 0, 0])),
            ),
            ("\x1b[48;5;232mx", with(|s| s.background = Some([8; 3]))),
            ("\x1b[48;5;255mx", with(|s| s.background = Some([238; 3]))),
            (
                "\x1b[38;2;1;2;3;1mx",
                with(|s| {
                    s.foreground = Some([1, 2, 3]);
                    s.bold = true;
                }),
            ),
            ("\x1b[31mab\x1b[0mx", plain),
            ("\x1b[31mab\x1b[mx", plain),
            // A cut or unknown colour changes nothing.
            (
                "\x1b[31;38;9mx",
                Style {
                    foreground: red,
                    ..plain
                },
            ),
        ];
        for (text, expected) in cases {
            let rows = parse(text);
            assert_eq!(rows[0].last().map(|c| c.style), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn only_printable_characters_take_a_cell() {
        let cases = [
            ("ab", "ab"),
            ("\x1b[31ma\x1b[0mb", "ab"),
            ("\x1b[2Ka\x1b[3;4Hb", "ab"),
            ("\x1b]0;title\x07ab", "ab"),
            ("\x1b]8;;link\x1b\\a\x1b]8;;\x1b\\b", "ab"),
            ("\x1b(Ba\x0fb", "ab"),
            ("a│█b", "a│█b"),
            ("a\x1b[3", "a"),
            ("a\x1b", "a"),
        ];
        for (text, expected) in cases {
            let glyphs: String = parse(text)[0].iter().map(|cell| cell.glyph).collect();
            assert_eq!(glyphs, expected, "{text:?}");
        }
    }

    #[test]
    fn a_style_lasts_beyond_the_line() {
        let rows = parse("\x1b[32ma\nb");
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0][0].style, rows[1][0].style);
    }
}
