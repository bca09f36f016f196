//! `envoy.config.cluster.v3.Cluster`: a set of endpoints and how to use it.

use super::UpstreamTls;

/// A set of endpoints and how to use it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Where its endpoints come from.
    pub discovery: Discovery,
    /// How calls are spread over them.
    pub lb_policy: LbPolicy,
    /// Transport security; `None` where the control plane gives none.
    pub tls: Option<UpstreamTls>,
    /// Calls in flight that one process may have (gRFC A32). Default 1024.
    pub max_requests: u32,
}

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// EDS, under this name (`service_name`, else the cluster's name).
    Eds {
        /// The name to subscribe.
        service_name: String,
    },
    /// A host name and port (gRFC A37). Accepted, but calls to it fail until the runtime resolves names.
    LogicalDns {
        /// To be resolved.
        host: String,
        /// Of every address found.
        port: u16,
    },
    /// Other clusters in order of preference (gRFC A37). Accepted, but calls to it fail as yet.
    Aggregate {
        /// Most preferred first; not empty.
        clusters: Vec<String>,
    },
}

/// The endpoint-picking policies that the runtime has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LbPolicy {
    /// Each ready endpoint in turn.
    RoundRobin,
    /// The least loaded of `choice_count` random ones (gRFC A48), 2 to 10.
    LeastRequest {
        /// How many are drawn, with repetition.
        choice_count: u32,
    },
    /// One connection, the first that works (gRFC A62).
    PickFirst {
        /// Whether the order is random, so that clients spread.
        shuffle: bool,
    },
    /// The ready endpoint that a random number names.
    Random,
    /// The next endpoint on a ring of hashes (gRFC A42): calls with one hash meet one endpoint.
    RingHash {
        /// Least number of entries; default 1024, at most 8 Mi and `max_ring_size`.
        min_ring_size: u32,
        /// Greatest number of entries; default and at most 8 Mi. The runtime caps it again.
        max_ring_size: u32,
    },
    /// The endpoint in a table of hashes: spreads more evenly than a ring, and moves a little more
    /// when endpoints change.
    Maglev {
        /// Entries of the table: a prime of at most 5000011; default 65537.
        table_size: u32,
    },
}
