//! How answers look: exit codes, colours, tables.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::process::ExitCode;

/// How a command ended. The numbers are documented in `--help` and do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything is in order.
    Ok = 0,
    /// A check failed, or the command could not do its work.
    Failed = 1,
    /// The arguments make no sense together. (What clap finds by itself ends alike.)
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 3,
    /// In order for some, not for all.
    Partial = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Colours, if whoever reads wants them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    coloured: bool,
}

impl Style {
    /// Colours on terminals, unless `NO_COLOR` is set (to anything but the empty text).
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            coloured: stream.is_terminal() && !refused,
        }
    }

    /// Whether there are colours.
    pub(crate) fn is_coloured(self) -> bool {
        self.coloured
    }

    /// Something is in order.
    pub(crate) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// Something deserves a look.
    pub(crate) fn odd(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// Something is wrong.
    pub(crate) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// A heading.
    pub(crate) fn strong(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.coloured {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// A cell: what it says, and how it is painted once its width is settled.
pub(crate) struct Cell {
    text: String,
    paint: fn(Style, &str) -> String,
}

impl Cell {
    /// Text as it is.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            paint: |_, text| text.to_owned(),
        }
    }

    /// Painted text.
    pub(crate) fn painted(text: impl Into<String>, paint: fn(Style, &str) -> String) -> Self {
        Self {
            text: text.into(),
            paint,
        }
    }
}

/// Rows as columns two spaces apart; the first row is the heading.
pub(crate) fn table(style: Style, rows: &[Vec<Cell>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (index, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(&(cell.paint)(style, &cell.text));
            if index + 1 < row.len() {
                let gap = width - cell.text.chars().count() + 2;
                line.push_str(&" ".repeat(gap));
            }
        }
        // Cannot fail: the target is a string.
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_with_and_without_colour() {
        let rows = || {
            [
                vec![Cell::plain("NAME"), Cell::plain("STATE")],
                vec![Cell::painted("greeter", Style::good), Cell::plain("SYNCED")],
            ]
        };
        let plain = Style { coloured: false };
        assert_eq!(table(plain, &rows()), "NAME     STATE\ngreeter  SYNCED\n");
        let coloured = Style { coloured: true };
        assert_eq!(
            table(coloured, &rows()),
            "NAME     STATE\n\x1b[32mgreeter\x1b[0m  SYNCED\n"
        );
    }
}
