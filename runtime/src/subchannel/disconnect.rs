//! Why a connection ended, in the closed list of gRFC A94 (`grpc.disconnect_error`). Pure.

use std::fmt;
use std::io;

/// One entry of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disconnect {
    /// The peer said GOAWAY, or made h2 say it.
    GoAway(&'static str),
    /// We gave it up: the endpoint or the cluster is gone, or the policy wants it no more.
    Shutdown,
    /// ECONNRESET.
    Reset,
    /// ETIMEDOUT, or no answer to a keepalive ping (gRFC A8).
    TimedOut,
    /// ECONNABORTED.
    Aborted,
    /// Any other error of the socket.
    Socket,
    /// Whatever else; the peer closing without a word.
    Unknown,
}

impl Disconnect {
    /// What h2's error says.
    pub(crate) fn of(error: &h2::Error) -> Self {
        if error.is_go_away() {
            return Self::GoAway(error.reason().map_or("GOAWAY INTERNAL_ERROR", code));
        }
        error.get_io().map_or(Self::Unknown, Self::of_io)
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset => Self::Reset,
            io::ErrorKind::TimedOut => Self::TimedOut,
            io::ErrorKind::ConnectionAborted => Self::Aborted,
            _ => Self::Socket,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::GoAway(with_code) => with_code,
            Self::Shutdown => "subchannel shutdown",
            Self::Reset => "connection reset",
            Self::TimedOut => "connection timed out",
            Self::Aborted => "connection aborted",
            Self::Socket => "socket error",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The codes of RFC 9113, section 7; one that is not in it counts as INTERNAL_ERROR, as it says.
fn code(reason: h2::Reason) -> &'static str {
    const LABELS: [&str; 14] = [
        "GOAWAY NO_ERROR",
        "GOAWAY PROTOCOL_ERROR",
        "GOAWAY INTERNAL_ERROR",
        "GOAWAY FLOW_CONTROL_ERROR",
        "GOAWAY SETTINGS_TIMEOUT",
        "GOAWAY STREAM_CLOSED",
        "GOAWAY FRAME_SIZE_ERROR",
        "GOAWAY REFUSED_STREAM",
        "GOAWAY CANCEL",
        "GOAWAY COMPRESSION_ERROR",
        "GOAWAY CONNECT_ERROR",
        "GOAWAY ENHANCE_YOUR_CALM",
        "GOAWAY INADEQUATE_SECURITY",
        "GOAWAY HTTP_1_1_REQUIRED",
    ];
    let known = LABELS.get(u32::from(reason) as usize);
    known.unwrap_or(&LABELS[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_label() {
        for (reason, label) in [
            (h2::Reason::NO_ERROR, "GOAWAY NO_ERROR"),
            (h2::Reason::REFUSED_STREAM, "GOAWAY REFUSED_STREAM"),
            (h2::Reason::ENHANCE_YOUR_CALM, "GOAWAY ENHANCE_YOUR_CALM"),
            (h2::Reason::HTTP_1_1_REQUIRED, "GOAWAY HTTP_1_1_REQUIRED"),
            (h2::Reason::from(0xff), "GOAWAY INTERNAL_ERROR"),
        ] {
            assert_eq!(code(reason), label);
        }
        // h2's own names are RFC 9113's.
        for number in 0..14 {
            let reason = h2::Reason::from(number);
            assert_eq!(code(reason), format!("GOAWAY {reason:?}"));
        }
    }

    #[test]
    fn socket_errors_table() {
        use io::ErrorKind as K;
        for (kind, expected) in [
            (K::ConnectionReset, "connection reset"),
            (K::TimedOut, "connection timed out"),
            (K::ConnectionAborted, "connection aborted"),
            (K::BrokenPipe, "socket error"),
            (K::UnexpectedEof, "socket error"),
        ] {
            assert_eq!(Disconnect::of_io(&kind.into()).label(), expected);
        }
        assert_eq!(
            Disconnect::of(&h2::Error::from(h2::Reason::CANCEL)),
            Disconnect::Unknown
        );
    }
}
