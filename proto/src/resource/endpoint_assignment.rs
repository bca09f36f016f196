//! `envoy.config.endpoint.v3.ClusterLoadAssignment`: the endpoints of a cluster.

use std::fmt;
use std::net::SocketAddr;

use super::{Labels, PerMillion};

/// The endpoints of a cluster.
#[doc(alias = "ClusterLoadAssignment")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointAssignment {
    /// The name under which it is subscribed.
    pub cluster: String,
    /// Localities in the order written; those without weight are already left out. Priorities
    /// have no gap.
    pub localities: Vec<LocalityEndpoints>,
    /// Shares of calls to drop, drawn in this order.
    pub drops: Vec<DropCategory>,
}

/// The endpoints of one locality.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LocalityEndpoints {
    /// Which.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Relative to the other localities of the priority; at least 1.
    pub weight: u32,
    /// All of them, whatever their health.
    pub endpoints: Vec<Endpoint>,
}

/// A place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Largest part.
    pub region: String,
    /// Middle part.
    pub zone: String,
    /// Smallest part.
    pub sub_zone: String,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Where it listens, in the order to try (gRFC A61); at least one.
    pub addresses: Vec<Address>,
    /// `Endpoint.hostname`; may be empty.
    pub hostname: String,
    /// Relative to the locality's other endpoints; at least 1.
    pub weight: u32,
    /// Whether the control plane holds it fit.
    pub health: Health,
    /// Where policies that pick by hash place it, in place of its first address (gRFC A76:
    /// `hash_key` in its `envoy.lb` metadata).
    pub hash_key: Option<Box<str>>,
    /// What else is noted of it in its `envoy.lb` metadata: by that subsets are made.
    pub labels: Labels,
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IP address and port.
    Tcp(SocketAddr),
    /// Path of a Unix socket (`Address.pipe`).
    Unix(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// `HealthStatus`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Not said; used.
    #[default]
    Unknown,
    /// Used.
    Healthy,
    /// Not used.
    Unhealthy,
    /// Gets no new calls.
    Draining,
    /// Not used.
    Timeout,
    /// Not used.
    Degraded,
}

impl Health {
    /// Whether calls may go there: `HEALTHY` and `UNKNOWN` (gRFC A27).
    #[must_use]
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Unknown | Self::Healthy)
    }
}

/// `ClusterLoadAssignment.Policy.DropOverload`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DropCategory {
    /// Its name, for reports.
    pub category: String,
    /// Share of calls to drop.
    pub share: PerMillion,
}
