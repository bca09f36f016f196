//! `grpc-timeout`: how long a caller still waits. Pure.

use std::time::Duration;

use http::HeaderMap;

use crate::channel::deadline::parse;

/// The header is there and is not 1 to 8 digits with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed grpc-timeout {0:?}")]
pub(super) struct MalformedTimeout(String);

/// The time that the caller allows, if it sets a limit.
///
/// # Errors
/// When the value does not follow the gRPC protocol; a call whose bound is unknown is refused,
/// as it is by grpc-go.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, MalformedTimeout> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    match parse(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(MalformedTimeout(text.into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_and_the_largest_amount() {
        let cases = [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("0S", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_timeout_is_refused() {
        for text in [
            "",
            "S",
            "1",
            "1s",
            "-1S",
            "+1S",
            "1.5S",
            "123456789S",
            " 1S",
            "1é",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-timeout"),
            http::HeaderValue::from_bytes(b"\xff").unwrap(),
        )]);
        assert!(grpc_timeout(&headers).is_err());
        assert_eq!(grpc_timeout(&HeaderMap::new()), Ok(None));
    }
}
