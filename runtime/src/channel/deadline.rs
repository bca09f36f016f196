//! `grpc-timeout`: reading, writing, and the smaller of two bounds.
//!
//! Pure: the current time is an argument.

use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The header's name.
pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The caller's bound, if the request carries a readable one. An unreadable value is no bound,
/// as in other gRPC runtimes.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get(GRPC_TIMEOUT)?.as_bytes())
}

/// One to eight digits and a unit.
pub(crate) fn parse(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = digits
        .iter()
        .fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// Writes a bound in the finest unit that eight digits allow, never longer than it is.
pub(crate) fn format(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units: [(u128, char); 6] = [
        (timeout.as_nanos(), 'n'),
        (timeout.as_micros(), 'u'),
        (timeout.as_millis(), 'm'),
        (u128::from(timeout.as_secs()), 'S'),
        (u128::from(timeout.as_secs() / 60), 'M'),
        (u128::from(timeout.as_secs() / 3600), 'H'),
    ];
    let (n, unit) = units
        .into_iter()
        .find(|(n, _)| *n <= MOST)
        .unwrap_or((MOST, 'H'));
    HeaderValue::from_str(&format!("{n}{unit}")).expect("digits and a letter are a header value")
}

/// By tokio's clock, so that tests may pause it; the same as the system's otherwise.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// When a call ends at the latest, and how long that was at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

impl Deadline {
    /// A deadline so far away that the clock cannot hold it is none.
    pub(crate) fn new(start: Instant, after: Duration) -> Option<Self> {
        Some(Self {
            at: start.checked_add(after)?,
            after,
        })
    }

    /// What is left of it.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_protocol_allows() {
        let cases: [(&str, Option<Duration>); 12] = [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("123456789n", None),
            ("S", None),
            ("", None),
            ("1x", None),
            ("-1S", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back_and_is_never_longer() {
        for nanos in [
            0u64,
            1,
            99_999_999,
            100_000_000,
            800_000_000,
            5_000_000_123,
            u64::MAX,
        ] {
            let timeout = Duration::from_nanos(nanos);
            let back = parse(format(timeout).as_bytes()).expect("readable");
            assert!(
                back <= timeout && timeout - back < Duration::from_secs(3600),
                "{timeout:?}"
            );
        }
        assert_eq!(
            parse(format(Duration::MAX).as_bytes()),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
    }
}
