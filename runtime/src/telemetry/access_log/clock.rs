//! `%START_TIME%` and its formats, in UTC. Pure.

use std::fmt::Write as _;
use std::time::SystemTime;

use time::OffsetDateTime;

/// How a moment is written: made once, at load.
#[derive(Debug, Clone)]
pub(super) struct TimeFormat(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    /// Seconds since the epoch.
    Epoch,
    /// So many digits of the fraction of the second.
    Fraction(usize),
    Part(Append),
}

/// Appends a part of a moment.
type Append = fn(OffsetDateTime, &mut String);

/// A specifier that there is not; `at` counts bytes from the start of the format.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownSpecifier {
    pub(super) specifier: String,
    pub(super) at: usize,
}

/// The parts of C's `strftime` that logs use. `%Z` and `%z`: always UTC.
const PARTS: &[(char, Append)] = &[
    ('Y', |t, out| put(out, t.year(), 4)),
    ('y', |t, out| put(out, t.year().rem_euclid(100), 2)),
    ('m', |t, out| put(out, i32::from(u8::from(t.month())), 2)),
    ('d', |t, out| put(out, i32::from(t.day()), 2)),
    ('e', |t, out| _ = write!(out, "{:2}", t.day())),
    ('j', |t, out| put(out, i32::from(t.ordinal()), 3)),
    ('H', |t, out| put(out, i32::from(t.hour()), 2)),
    ('I', |t, out| {
        put(out, i32::from((t.hour() + 11) % 12 + 1), 2)
    }),
    ('M', |t, out| put(out, i32::from(t.minute()), 2)),
    ('S', |t, out| put(out, i32::from(t.second()), 2)),
    ('p', |t, out| {
        out.push_str(if t.hour() < 12 { "AM" } else { "PM" })
    }),
    ('b', |t, out| out.push_str(&t.month().to_string()[..3])),
    ('B', |t, out| out.push_str(&t.month().to_string())),
    ('a', |t, out| out.push_str(&t.weekday().to_string()[..3])),
    ('A', |t, out| out.push_str(&t.weekday().to_string())),
    ('F', |t, out| {
        _ = write!(
            out,
            "{:04}-{:02}-{:02}",
            t.year(),
            u8::from(t.month()),
            t.day()
        );
    }),
    ('T', |t, out| {
        _ = write!(out, "{:02}:{:02}:{:02}", t.hour(), t.minute(), t.second());
    }),
    ('z', |_, out| out.push_str("+0000")),
    ('Z', |_, out| out.push_str("UTC")),
    ('%', |_, out| out.push('%')),
];

fn put(out: &mut String, number: i32, width: usize) {
    _ = write!(out, "{number:0width$}");
}

impl Default for TimeFormat {
    /// Envoy's: `2016-04-15T20:17:00.310Z`.
    fn default() -> Self {
        Self::parse("%Y-%m-%dT%H:%M:%S.%3fZ").expect("every specifier of it is in the list")
    }
}

impl TimeFormat {
    /// Reads a format: `strftime`'s specifiers, `%s`, `%f` and `%1f` to `%9f`, and `%E3S` as
    /// Envoy's own default has it.
    pub(super) fn parse(text: &str) -> Result<Self, UnknownSpecifier> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            if at > 0 {
                pieces.push(Piece::Text(rest[..at].to_owned()));
            }
            let after = &rest[at + 1..];
            let unknown = || UnknownSpecifier {
                specifier: after
                    .chars()
                    .take(1)
                    .fold("%".to_owned(), |s, c| s + &c.to_string()),
                at: text.len() - after.len() - 1,
            };
            let length = specifier(after, &mut pieces).ok_or_else(unknown)?;
            rest = &after[length..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Self(pieces))
    }

    /// Appends a moment.
    pub(super) fn write(&self, moment: SystemTime, out: &mut String) {
        let moment = OffsetDateTime::from(moment);
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Epoch => _ = write!(out, "{}", moment.unix_timestamp()),
                Piece::Fraction(digits) => {
                    let nanos = format!("{:09}", moment.nanosecond());
                    out.push_str(&nanos[..*digits]);
                }
                Piece::Part(part) => part(moment, out),
            }
        }
    }
}

/// Reads what follows a `%`; answers with its length.
fn specifier(text: &str, pieces: &mut Vec<Piece>) -> Option<usize> {
    let mut chars = text.chars();
    match chars.next()? {
        's' => pieces.push(Piece::Epoch),
        'f' => pieces.push(Piece::Fraction(9)),
        digit @ '1'..='9' if chars.next() == Some('f') => {
            pieces.push(Piece::Fraction(digit as usize - '0' as usize));
            return Some(2);
        }
        'E' => {
            let (digits, 'S') = (chars.next()?.to_digit(10)?, chars.next()?) else {
                return None;
            };
            let seconds = |t: OffsetDateTime, out: &mut String| put(out, i32::from(t.second()), 2);
            pieces.push(Piece::Part(seconds));
            if digits > 0 {
                pieces.push(Piece::Text(".".to_owned()));
                pieces.push(Piece::Fraction(digits as usize));
            }
            return Some(3);
        }
        letter => {
            let (_, part) = PARTS.iter().find(|(known, _)| *known == letter)?;
            pieces.push(Piece::Part(*part));
        }
    }
    Some(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn written(format: &str) -> String {
        // 2016-04-15T20:17:00.310Z, a Friday, with six more digits.
        let moment = SystemTime::UNIX_EPOCH + Duration::new(1_460_751_420, 310_045_006);
        let mut out = String::new();
        TimeFormat::parse(format).unwrap().write(moment, &mut out);
        out
    }

    #[test]
    fn formats_table() {
        let mut default = String::new();
        let moment = SystemTime::UNIX_EPOCH + Duration::new(1_460_751_420, 310_045_006);
        TimeFormat::default().write(moment, &mut default);
        assert_eq!(default, "2016-04-15T20:17:00.310Z");
        for (format, expected) in [
            ("%Y-%m-%dT%H:%M:%E3SZ", "2016-04-15T20:17:00.310Z"),
            (
                "%Y/%m/%dT%H:%M:%S%z %s",
                "2016/04/15T20:17:00+0000 1460751420",
            ),
            ("%s.%3f", "1460751420.310"),
            ("%s.%6f", "1460751420.310045"),
            ("%f %9f %1f", "310045006 310045006 3"),
            (
                "%a %A %b %B %j %y %I%p %e",
                "Fri Friday Apr April 106 16 08PM 15",
            ),
            ("%F %T %Z 100%%", "2016-04-15 20:17:00 UTC 100%"),
            ("plain", "plain"),
            ("", ""),
        ] {
            assert_eq!(written(format), expected, "{format}");
        }
    }

    #[test]
    fn unknown_specifiers_are_refused_with_their_place() {
        for (format, specifier, at) in [
            ("%Y%Q", "%Q", 2),
            ("%0f", "%0", 0),
            ("a%", "%", 1),
            ("%4", "%4", 0),
        ] {
            let expected = UnknownSpecifier {
                specifier: specifier.to_owned(),
                at,
            };
            assert_eq!(TimeFormat::parse(format).unwrap_err(), expected, "{format}");
        }
    }

    #[test]
    fn midnight_and_noon_are_twelve() {
        let at = |hours: u64| {
            let mut out = String::new();
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600);
            TimeFormat::parse("%I%p").unwrap().write(moment, &mut out);
            out
        };
        assert_eq!(
            [at(0), at(11), at(12), at(23)],
            ["12AM", "11AM", "12PM", "11PM"]
        );
    }
}
