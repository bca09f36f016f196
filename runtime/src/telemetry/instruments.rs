//! Every instrument: its name, labels, unit and buckets, as the gRFCs have them.
//!
//! One static each and one list, [`ALL`]; what is not in the list is not exported.
//!
//! | gRFC | instruments |
//! |---|---|
//! | A66, A89 | `grpc.client.attempt.*`, `grpc.client.call.duration`, `grpc.server.call.*` |
//! | A96 | `grpc.client.call.{retries,transparent_retries,retry_delay}` |
//! | A78 | `grpc.xds_client.*` |
//! | A94 | `grpc.subchannel.*` |
//! | – | `sidestep.channel.direct` |

/// One instrument. Its name, unit and description are OpenTelemetry's.
#[derive(Debug)]
#[non_exhaustive]
pub struct Instrument {
    /// With dots: `grpc.client.call.duration`.
    pub name: &'static str,
    /// In UCUM, as OpenTelemetry has it: `s`, `By`, `{call}`.
    pub unit: &'static str,
    /// One sentence.
    pub description: &'static str,
    /// What is done with its values.
    pub kind: Kind,
    /// Names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
}

/// What is done with an instrument's values.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Added up; never falls.
    Counter,
    /// Added up; rises and falls.
    UpDownCounter,
    /// The last one counts.
    Gauge,
    /// Sorted into buckets.
    Histogram(&'static Buckets),
}

/// Buckets of a histogram. Values are whole numbers inside of us: nanoseconds where the unit is
/// the second.
#[derive(Debug)]
pub struct Buckets {
    /// The inclusive upper bounds, ascending; one more bucket takes what is above the last.
    pub bounds: &'static [u64],
    /// So many of our whole numbers are one of the instrument's unit: 1, or 10⁹ for seconds.
    pub per_unit: u64,
}

impl Buckets {
    /// A value of ours in the instrument's unit.
    #[must_use]
    #[allow(
        clippy::cast_precision_loss,
        reason = "beyond 2^53 nanoseconds or bytes the last digits mean nothing"
    )]
    pub fn in_unit(&self, value: u64) -> f64 {
        value as f64 / self.per_unit as f64
    }
}

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// A66, latency.
pub static LATENCY: Buckets = Buckets {
    bounds: &[
        0,
        10 * US,
        50 * US,
        100 * US,
        300 * US,
        600 * US,
        800 * US,
        MS,
        2 * MS,
        3 * MS,
        4 * MS,
        5 * MS,
        6 * MS,
        8 * MS,
        10 * MS,
        13 * MS,
        16 * MS,
        20 * MS,
        25 * MS,
        30 * MS,
        40 * MS,
        50 * MS,
        65 * MS,
        80 * MS,
        100 * MS,
        130 * MS,
        160 * MS,
        200 * MS,
        250 * MS,
        300 * MS,
        400 * MS,
        500 * MS,
        650 * MS,
        800 * MS,
        S,
        2 * S,
        5 * S,
        10 * S,
        20 * S,
        50 * S,
        100 * S,
    ],
    per_unit: S,
};

/// A66, sizes in bytes.
pub static SIZE: Buckets = Buckets {
    bounds: &[
        0,
        1 << 10,
        1 << 11,
        1 << 12,
        1 << 14,
        1 << 16,
        1 << 18,
        1 << 20,
        1 << 22,
        1 << 24,
        1 << 26,
        1 << 28,
        1 << 30,
        1 << 32,
    ],
    per_unit: 1,
};

/// A96, retries of one call.
pub static RETRIES: Buckets = Buckets {
    bounds: &[1, 2, 3, 4, 5],
    per_unit: 1,
};

/// A96, transparent retries of one call.
pub static TRANSPARENT_RETRIES: Buckets = Buckets {
    bounds: &[1, 2, 3, 4, 5, 10],
    per_unit: 1,
};

/// Full method name without the leading slash, or `other`.
pub const METHOD: &str = "grpc.method";
/// The target as dialled, with its scheme.
pub const TARGET: &str = "grpc.target";
/// A status code's name: `OK`, `DEADLINE_EXCEEDED`.
pub const STATUS: &str = "grpc.status";
/// `{region="…", zone="…", sub_zone="…"}`, or empty (A78).
pub const LOCALITY: &str = "grpc.lb.locality";
/// The xDS cluster, or empty (A89).
pub const BACKEND_SERVICE: &str = "grpc.lb.backend_service";
/// What found an outlier.
pub const DETECTION_METHOD: &str = "grpc.lb.outlier_detection.detection_method";

macro_rules! instruments {
    ($($(#[$doc:meta])* $ident:ident = $name:literal, $unit:literal, $kind:expr, [$($label:expr),*], $description:literal;)*) => {
        $(
            $(#[$doc])*
            #[doc = $description]
            pub static $ident: Instrument = Instrument {
                name: $name,
                unit: $unit,
                description: $description,
                kind: $kind,
                labels: &[$($label),*],
            };
        )*

        /// All of them, in the order in which they are exported.
        pub static ALL: &[&Instrument] = &[$(&$ident),*];
    };
}

instruments! {
    CLIENT_ATTEMPT_STARTED = "grpc.client.attempt.started", "{attempt}", Kind::Counter,
        [METHOD, TARGET],
        "Attempts of calls started, those under way included.";
    CLIENT_ATTEMPT_DURATION = "grpc.client.attempt.duration", "s", Kind::Histogram(&LATENCY),
        [METHOD, TARGET, STATUS, LOCALITY, BACKEND_SERVICE],
        "Time of an attempt from its start, the pick included, to its end.";
    CLIENT_ATTEMPT_SENT = "grpc.client.attempt.sent_total_compressed_message_size", "By", Kind::Histogram(&SIZE),
        [METHOD, TARGET, STATUS, LOCALITY, BACKEND_SERVICE],
        "Bytes of all request messages of an attempt, compressed, without framing.";
    CLIENT_ATTEMPT_RCVD = "grpc.client.attempt.rcvd_total_compressed_message_size", "By", Kind::Histogram(&SIZE),
        [METHOD, TARGET, STATUS, LOCALITY, BACKEND_SERVICE],
        "Bytes of all response messages of an attempt, compressed, without framing.";
    CLIENT_CALL_DURATION = "grpc.client.call.duration", "s", Kind::Histogram(&LATENCY),
        [METHOD, TARGET, STATUS],
        "Time of a call as the application sees it, with all its attempts.";
    CLIENT_CALL_RETRIES = "grpc.client.call.retries", "{retry}", Kind::Histogram(&RETRIES),
        [METHOD, TARGET],
        "Retries of a call; calls without one are not in it.";
    CLIENT_CALL_TRANSPARENT_RETRIES = "grpc.client.call.transparent_retries", "{transparent_retry}",
        Kind::Histogram(&TRANSPARENT_RETRIES), [METHOD, TARGET],
        "Transparent retries of a call; calls without one are not in it.";
    CLIENT_CALL_RETRY_DELAY = "grpc.client.call.retry_delay", "s", Kind::Histogram(&LATENCY),
        [METHOD, TARGET],
        "Time of a call in which no attempt was under way; calls that were not retried are not in it.";
    SERVER_CALL_STARTED = "grpc.server.call.started", "{call}", Kind::Counter,
        [METHOD],
        "Calls started, those under way included.";
    SERVER_CALL_SENT = "grpc.server.call.sent_total_compressed_message_size", "By", Kind::Histogram(&SIZE),
        [METHOD, STATUS],
        "Bytes of all response messages of a call, compressed, without framing.";
    SERVER_CALL_RCVD = "grpc.server.call.rcvd_total_compressed_message_size", "By", Kind::Histogram(&SIZE),
        [METHOD, STATUS],
        "Bytes of all request messages of a call, compressed, without framing.";
    SERVER_CALL_DURATION = "grpc.server.call.duration", "s", Kind::Histogram(&LATENCY),
        [METHOD, STATUS],
        "Time of a call from its headers to the end of its reply.";
    XDS_CLIENT_CONNECTED = "grpc.xds_client.connected", "{bool}", Kind::Gauge,
        [TARGET, "grpc.xds.server"],
        "Whether the ADS stream to the control plane works: 1 or 0.";
    XDS_CLIENT_SERVER_FAILURE = "grpc.xds_client.server_failure", "{failure}", Kind::Counter,
        [TARGET, "grpc.xds.server"],
        "Times that the control plane went from healthy to unhealthy.";
    XDS_CLIENT_RESOURCE_UPDATES_VALID = "grpc.xds_client.resource_updates_valid", "{resource}", Kind::Counter,
        [TARGET, "grpc.xds.server", "grpc.xds.resource_type"],
        "Resources received that were valid, unchanged ones included.";
    XDS_CLIENT_RESOURCE_UPDATES_INVALID = "grpc.xds_client.resource_updates_invalid", "{resource}", Kind::Counter,
        [TARGET, "grpc.xds.server", "grpc.xds.resource_type"],
        "Resources received that were not valid.";
    XDS_CLIENT_RESOURCES = "grpc.xds_client.resources", "{resource}", Kind::Gauge,
        [TARGET, "grpc.xds.authority", "grpc.xds.cache_state", "grpc.xds.resource_type"],
        "Resources by the state of their cache entry.";
    SUBCHANNEL_DISCONNECTIONS = "grpc.subchannel.disconnections", "{disconnection}", Kind::Counter,
        [TARGET, BACKEND_SERVICE, LOCALITY, "grpc.disconnect_error"],
        "Connections to endpoints that ended, by reason.";
    SUBCHANNEL_CONNECTION_ATTEMPTS_SUCCEEDED = "grpc.subchannel.connection_attempts_succeeded", "{attempt}",
        Kind::Counter, [TARGET, BACKEND_SERVICE, LOCALITY],
        "Attempts to connect to an endpoint that succeeded.";
    SUBCHANNEL_CONNECTION_ATTEMPTS_FAILED = "grpc.subchannel.connection_attempts_failed", "{attempt}",
        Kind::Counter, [TARGET, BACKEND_SERVICE, LOCALITY],
        "Attempts to connect to an endpoint that failed.";
    SUBCHANNEL_OPEN_CONNECTIONS = "grpc.subchannel.open_connections", "{connection}", Kind::UpDownCounter,
        [TARGET, "grpc.security_level", BACKEND_SERVICE, LOCALITY],
        "Open connections to endpoints.";
    OUTLIER_DETECTION_EJECTIONS_ENFORCED = "grpc.lb.outlier_detection.ejections_enforced", "{ejection}",
        Kind::Counter, [TARGET, DETECTION_METHOD, BACKEND_SERVICE],
        "Endpoints left out for what their calls came to, by what found them.";
    OUTLIER_DETECTION_EJECTIONS_UNENFORCED = "grpc.lb.outlier_detection.ejections_unenforced", "{ejection}",
        Kind::Counter,
        [TARGET, DETECTION_METHOD, "grpc.lb.outlier_detection.unenforced_reason", BACKEND_SERVICE],
        "Endpoints that were to be left out and stay in, by why.";
    /// Ours: no gRFC has it.
    CHANNEL_DIRECT = "sidestep.channel.direct", "{channel}", Kind::Gauge,
        [TARGET],
        "1 for a target whose calls go around the mesh, because of SIDESTEP_MODE=direct.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_buckets_ascend() {
        let mut names: Vec<_> = ALL.iter().map(|i| i.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for instrument in ALL {
            if let Kind::Histogram(buckets) = instrument.kind {
                assert!(buckets.bounds.is_sorted(), "{}", instrument.name);
            }
        }
    }

    /// As A66 writes them, in seconds.
    #[test]
    fn the_buckets_are_those_of_the_grfc() {
        let latency = "0, 0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, \
            0.004, 0.005, 0.006, 0.008, 0.01, 0.013, 0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, \
            0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1, 2, 5, 10, 20, 50, 100";
        let size = "0, 1024, 2048, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, \
            67108864, 268435456, 1073741824, 4294967296";
        for (buckets, text) in [(&LATENCY, latency), (&SIZE, size)] {
            let ours: Vec<_> = buckets
                .bounds
                .iter()
                .map(|b| buckets.in_unit(*b).to_string())
                .collect();
            assert_eq!(ours.join(", "), text);
        }
    }
}
