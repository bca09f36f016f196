//! The operators that read a call, one line each. Pure.
//!
//! Those that take an argument (`REQ`, `RESP`, `TRAILER`, `START_TIME`, `GRPC_STATUS`,
//! `ENVIRONMENT`) are read by [`super::format`].

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use super::record::{Record, Side};

/// What an operator finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// Not set: `-` in text, `null` in JSON.
    Missing,
    Text(Cow<'a, str>),
    Number(u64),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        if text.is_empty() {
            return Self::Missing;
        }
        Self::Text(text.into())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        if text.is_empty() {
            return Self::Missing;
        }
        Self::Text(text.into())
    }
}

impl<'a, T: Into<Self>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Missing, Into::into)
    }
}

/// Reads one thing of a call.
pub(super) type Read = for<'a> fn(&'a Record) -> Value<'a>;

/// Every operator without an argument.
pub(super) const PLAIN: &[(&str, Read)] = &[
    ("PROTOCOL", |_| "HTTP/2".into()),
    ("UPSTREAM_PROTOCOL", |r| match (r.side, r.attempts) {
        (Side::Client, 1..) => "HTTP/2".into(),
        _ => Value::Missing,
    }),
    ("RESPONSE_CODE", |r| Value::Number(r.response_code.into())),
    ("RESPONSE_CODE_DETAILS", |r| r.details.into()),
    ("RESPONSE_FLAGS", |r| r.flags.short().into()),
    ("RESPONSE_FLAGS_LONG", |r| r.flags.long().into()),
    ("BYTES_RECEIVED", |r| Value::Number(r.received)),
    ("BYTES_SENT", |r| Value::Number(r.sent)),
    ("DURATION", |r| millis(r.duration)),
    ("RESPONSE_DURATION", |r| {
        r.answered.map_or(Value::Missing, millis)
    }),
    ("RESPONSE_TX_DURATION", |r| {
        let answered = r.answered.map(|until| r.duration.saturating_sub(until));
        answered.map_or(Value::Missing, millis)
    }),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", |r| {
        Value::Number(r.attempts.into())
    }),
    ("UPSTREAM_HOST", |r| r.host.as_deref().into()),
    ("UPSTREAM_REMOTE_ADDRESS", |r| r.host.as_deref().into()),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |r| {
        upstream(r).map(|a| a.ip().to_string()).into()
    }),
    ("UPSTREAM_REMOTE_PORT", |r| port(upstream(r))),
    ("UPSTREAM_CLUSTER", |r| r.cluster.as_deref().into()),
    ("UPSTREAM_CLUSTER_RAW", |r| r.cluster.as_deref().into()),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", |r| {
        r.failure.as_deref().into()
    }),
    ("ROUTE_NAME", |r| r.route.as_deref().into()),
    ("GRPC_STATUS_NUMBER", |r| {
        r.grpc_status
            .map_or(Value::Missing, |code| Value::Number(code.into()))
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS", |r| {
        r.remote.map(|a| a.to_string()).into()
    }),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", |r| {
        r.remote.map(|a| a.ip().to_string()).into()
    }),
    ("DOWNSTREAM_REMOTE_PORT", |r| port(r.remote)),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", |r| {
        r.remote.map(|a| a.to_string()).into()
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", |r| {
        r.remote.map(|a| a.ip().to_string()).into()
    }),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", |r| port(r.remote)),
    ("DOWNSTREAM_LOCAL_ADDRESS", |r| {
        r.local.map(|a| a.to_string()).into()
    }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", |r| {
        r.local.map(|a| a.ip().to_string()).into()
    }),
    ("DOWNSTREAM_LOCAL_PORT", |r| port(r.local)),
    ("DOWNSTREAM_PEER_URI_SAN", |r| {
        r.peer.as_ref().map(|peer| peer.uri_sans.join(",")).into()
    }),
    ("DOWNSTREAM_PEER_DNS_SAN", |r| {
        r.peer.as_ref().map(|peer| peer.dns_sans.join(",")).into()
    }),
    ("DOWNSTREAM_PEER_SUBJECT", |r| {
        certificate(r, |c| c.subject().to_string()).into()
    }),
    ("DOWNSTREAM_PEER_ISSUER", |r| {
        certificate(r, |c| c.issuer().to_string()).into()
    }),
    ("DOWNSTREAM_PEER_SERIAL", |r| {
        certificate(r, |c| hex(c.raw_serial())).into()
    }),
];

/// Operators of Envoy that nothing in this process could fill.
pub(super) const NOT_HERE: &[&str] = &[
    "BYTES_RETRANSMITTED",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DYNAMIC_METADATA",
    "EMIT_TIME",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "LOCAL_REPLY_BODY",
    "METADATA",
    "PATH",
    "QUERY_PARAM",
    "REQUESTED_SERVER_NAME",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "REQ_WITHOUT_QUERY",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "STREAM_ID",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

fn millis(duration: Duration) -> Value<'static> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

fn port(address: Option<SocketAddr>) -> Value<'static> {
    address.map_or(Value::Missing, |a| Value::Number(a.port().into()))
}

fn upstream(record: &Record) -> Option<SocketAddr> {
    record.host.as_ref()?.parse().ok()
}

fn certificate(
    record: &Record,
    read: fn(&x509_parser::certificate::X509Certificate<'_>) -> String,
) -> Option<String> {
    let leaf = record.peer.as_ref()?.certificates.first()?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
    Some(read(&leaf))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How `%GRPC_STATUS(..)%` writes a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusStyle {
    /// `InvalidArgument`.
    Camel,
    /// `INVALID_ARGUMENT`.
    Snake,
    /// `3`.
    Number,
}

impl StatusStyle {
    /// Envoy's names of the styles.
    pub(super) const NAMES: &[(&str, Self)] = &[
        ("CAMEL_STRING", Self::Camel),
        ("SNAKE_STRING", Self::Snake),
        ("NUMBER", Self::Number),
    ];

    /// A code that gRPC does not know stays a number.
    pub(super) fn write(self, code: u32) -> Value<'static> {
        let names = usize::try_from(code).ok().and_then(|code| CODES.get(code));
        match (self, names) {
            (Self::Camel, Some((camel, _))) => Value::Text((*camel).into()),
            (Self::Snake, Some((_, snake))) => Value::Text((*snake).into()),
            _ => Value::Number(code.into()),
        }
    }
}

/// By code. `OK` and `Canceled` are Envoy's spellings.
const CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_is_listed_twice() {
        let mut names: Vec<_> = PLAIN.iter().map(|(name, _)| *name).collect();
        names.extend(NOT_HERE);
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn status_styles_table() {
        for (style, code, expected) in [
            (StatusStyle::Camel, 3, "InvalidArgument"),
            (StatusStyle::Snake, 3, "INVALID_ARGUMENT"),
            (StatusStyle::Camel, 0, "OK"),
            (StatusStyle::Snake, 1, "CANCELLED"),
        ] {
            assert_eq!(style.write(code), expected.into());
        }
        assert_eq!(StatusStyle::Number.write(14), Value::Number(14));
        assert_eq!(StatusStyle::Camel.write(99), Value::Number(99));
    }
}
