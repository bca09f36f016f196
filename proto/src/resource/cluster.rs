//! `envoy.config.cluster.v3.Cluster`: a set of endpoints and how to use it.

use std::time::Duration;

use super::{Health, Labels, LbPolicy, Locality, OutlierDetection, UpstreamTls};

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
    /// Whom to leave out for what its calls came to (gRFC A50).
    pub outlier_detection: Option<OutlierDetection>,
    /// With fewer than this percentage of a priority's endpoints fit for calls, those that are not
    /// are used as well. Default 0: never (gRPC has no such rule).
    pub panic_threshold: u8,
    /// Which of its endpoints sessions may lead to.
    pub sessions: SessionHosts,
    /// Connections that one process may have to one endpoint, at least 1 (gRFC A105). Default 1;
    /// a client has a bound of its own.
    pub max_connections_per_endpoint: u32,
}

/// Which endpoints a session leads to, whatever the policy would pick (gRFC A55, A75).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionHosts {
    /// Those without a health state. Default: yes.
    pub unknown: bool,
    /// `HEALTHY` ones. Default: yes.
    pub healthy: bool,
    /// `DRAINING` ones, which then get the calls of their own sessions and no others. Default: no.
    pub draining: bool,
    /// How long a connection that only sessions need is kept after the last call of one. Default
    /// 1 h.
    pub idle_timeout: Duration,
}

impl Default for SessionHosts {
    fn default() -> Self {
        Self {
            unknown: true,
            healthy: true,
            draining: false,
            idle_timeout: Duration::from_secs(3600),
        }
    }
}

impl SessionHosts {
    /// Whether a session may lead to an endpoint of this health.
    #[must_use]
    pub fn admit(&self, health: Health) -> bool {
        match health {
            Health::Unknown => self.unknown,
            Health::Healthy => self.healthy,
            Health::Draining => self.draining,
            Health::Unhealthy | Health::Timeout | Health::Degraded => false,
        }
    }
}

impl Cluster {
    /// Calls in flight that one process may have where the control plane does not say.
    pub const DEFAULT_MAX_REQUESTS: u32 = 1024;

    /// A cluster of which nothing else is said: round robin, no transport security, every other
    /// setting at its default.
    #[must_use]
    pub fn new(name: impl Into<String>, discovery: Discovery) -> Self {
        Self {
            name: name.into(),
            discovery,
            lb_policy: LbPolicy::round_robin(),
            tls: None,
            max_requests: Self::DEFAULT_MAX_REQUESTS,
            outlier_detection: None,
            panic_threshold: 0,
            sessions: SessionHosts::default(),
            max_connections_per_endpoint: 1,
        }
    }

    /// A cluster of which nothing else is said, with its endpoints by EDS under its own name.
    #[must_use]
    pub fn eds(name: impl Into<String>) -> Self {
        let name = name.into();
        let service_name = name.clone();
        Self::new(name, Discovery::Eds { service_name })
    }
}

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Discovery {
    /// EDS, under this name (`service_name`, else the cluster's name).
    Eds {
        /// The name to subscribe.
        service_name: String,
    },
    /// The addresses of a host name, which together are one endpoint (gRFC A37, A61).
    LogicalDns {
        /// To be resolved.
        host: String,
        /// Of every address found.
        port: u16,
        /// How.
        lookup: DnsLookup,
        /// What is noted of the endpoint.
        labels: Labels,
    },
    /// The addresses of host names, each of which is an endpoint: Envoy's kind, which gRPC does not
    /// have.
    StrictDns {
        /// Where the names are.
        localities: Vec<NamedLocality>,
        /// How they are resolved.
        lookup: DnsLookup,
    },
    /// Other clusters in order of preference (gRFC A37). Policy, security and limits are those of the
    /// cluster that is used (gRFC A75).
    Aggregate {
        /// Most preferred first; not empty.
        clusters: Vec<String>,
    },
}

/// How host names are resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsLookup {
    /// Least time between two look-ups of a name, if its records do not count for longer
    /// (`dns_refresh_rate`). Default 5 s.
    pub refresh: Duration,
    /// Which addresses count.
    pub families: AddressFamilies,
}

impl Default for DnsLookup {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(5),
            families: AddressFamilies::All,
        }
    }
}

/// Which addresses of a host name count (`dns_lookup_family`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamilies {
    /// IPv4 and IPv6 alike, as in gRPC.
    #[default]
    All,
    /// IPv4 alone.
    V4Only,
    /// IPv6 alone.
    V6Only,
    /// IPv4, and IPv6 only if there is no IPv4 address.
    V4Preferred,
}

/// The host names of one locality.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedLocality {
    /// Which.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Relative to the other localities of the priority; at least 1.
    pub weight: u32,
    /// All of them, whatever their health.
    pub endpoints: Vec<NamedEndpoint>,
}

/// A host name whose addresses are endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedEndpoint {
    /// To be resolved; an IP address stands for itself.
    pub host: String,
    /// Of every address found.
    pub port: u16,
    /// Of each address, relative to the locality's other endpoints; at least 1.
    pub weight: u32,
    /// Whether the control plane holds it fit.
    pub health: Health,
    /// What is noted of it, and so of each address found.
    pub labels: Labels,
}
