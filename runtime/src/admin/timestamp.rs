//! Points in time as people and protobuf write them.

use std::time::SystemTime;

use prost_types::Timestamp;

/// For messages.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    time.into()
}

/// RFC 3339, UTC, in milliseconds: `2026-11-21T13:00:00.125Z`.
pub(super) fn text(time: SystemTime) -> String {
    let mut at = timestamp(time);
    at.nanos -= at.nanos % 1_000_000;
    at.to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn milliseconds_suffice() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_125_999_999);
        assert_eq!(text(at), "1970-01-01T00:00:01.125Z");
    }
}
