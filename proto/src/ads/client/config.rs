//! What a client stream is told once, at its start.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ads::Variant;
use crate::bootstrap::ServerFeatures;
use crate::codec::{Context, Decoded, Reason};
use crate::resource::ResourceType;
use crate::wire::Any;
use crate::wire::core::Node;

/// How resources are read; [`crate::codec::decode`] outside tests.
pub(super) type Decode = fn(ResourceType, &Any, &Context) -> Result<Decoded, Reason>;

/// Everything a [`super::ClientStream`] needs to know.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Which of the two streams it speaks. A server that has no delta is spoken to in state of the
    /// world, once it has said so.
    pub variant: Variant,
    /// Sent in the first request of each stream.
    pub node: Node,
    /// What decoding resources depends on.
    pub context: Context,
    /// Every server there is, once: one stream each, whoever needs it.
    pub servers: Vec<ServerInfo>,
    /// Who answers for which names.
    pub authorities: Authorities,
    /// The protocol's periods.
    pub timers: Timers,
    /// Of the jitter, so that processes spread and tests repeat.
    pub seed: u64,
}

/// Which servers answer for which names, as indices into [`ClientConfig::servers`], most preferred
/// first (gRFC A71); without one nothing is ever asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Of names that are not `xdstp:` names.
    pub default: Vec<usize>,
    /// Of `xdstp:` names, by their authority (gRFC A47).
    pub named: BTreeMap<String, Vec<usize>>,
    /// Whether the default's servers answer for authorities that are not named here, too.
    pub others: bool,
}

/// One xDS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// How texts call it: `server_uri` of the bootstrap.
    pub uri: String,
    /// How its answers are to be taken.
    pub features: ServerFeatures,
}

/// The protocol's periods. The defaults are gRPC's; tests shorten them.
#[derive(Debug, Clone, PartialEq)]
pub struct Timers {
    /// From sending a subscription to concluding that the resource does not exist. 15 s.
    pub does_not_exist: Duration,
    /// The same where silence is a passing fault (`resource_timer_is_transient_error`). 30 s.
    pub does_not_exist_transient: Duration,
    /// The first pause after a failed attempt. 1 s.
    pub backoff_initial: Duration,
    /// How much longer each further pause is. 1.6.
    pub backoff_multiplier: f64,
    /// The longest pause before jitter. 120 s.
    pub backoff_max: Duration,
    /// How far a pause may be off, as a share of it, 0 to 1. 0.2.
    pub backoff_jitter: f64,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            does_not_exist: Duration::from_secs(15),
            does_not_exist_transient: Duration::from_secs(30),
            backoff_initial: Duration::from_secs(1),
            backoff_multiplier: 1.6,
            backoff_max: Duration::from_secs(120),
            backoff_jitter: 0.2,
        }
    }
}
