//! Validated domain types: what a resource *means*.
//!
//! After [`crate::codec`] has decoded one of these, no value in it can be wrong: names are there,
//! weights sum up, patterns compile. All of them compare and hash, so that an equal update is no
//! update. Wire types never appear here.

use std::fmt;
use std::sync::Arc;

mod cluster;
mod custom_policy;
mod endpoint_assignment;
mod labels;
mod lb_policy;
mod listener;
mod matching;
pub mod name;
mod outlier_detection;
mod re2;
mod rewrite;
mod route_configuration;
mod security;
mod session;
mod subsets;
mod zone_aware;

pub use cluster::{
    AddressFamilies, Cluster, Discovery, DnsLookup, NamedEndpoint, NamedLocality, SessionHosts,
};
pub use custom_policy::{CustomPolicy, RegisteredPolicy};
pub use endpoint_assignment::{
    Address, DropCategory, Endpoint, EndpointAssignment, Health, Locality, LocalityEndpoints,
};
pub use labels::{LabelValue, Labels};
pub use lb_policy::{Finite, LbPolicy, Metric, PeakEwma, SlowStart, WeightedRoundRobin};
pub use listener::{
    CidrRange, FilterChain, FilterChainMatch, FilterConfig, FilterOverrides, HttpConnectionManager,
    HttpFilter, Listener, ListenerKind, RouteSource, ServerListener, SourceType, TransportProtocol,
};
pub use matching::{Pattern, PerMillion, StringMatcher, Text};
pub use outlier_detection::{FailurePercentage, FailureRun, OutlierDetection, SuccessRate};
pub use rewrite::Rewrite;
pub use route_configuration::{
    Forward, HashPolicy, HashSource, HeaderCondition, HeaderMatcher, PathMatcher, RetryOn,
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
pub use security::{CertificateInstance, DownstreamTls, UpstreamTls};
pub use session::{SessionCookie, SessionState};
pub use subsets::{SelectorFallback, SubsetFallback, SubsetSelector, Subsets};
pub use zone_aware::ZoneAware;

/// The four resource types that the protocol machines carry, in make-before-break order of
/// *addition*: clusters, endpoints, listeners, routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceType {
    /// `envoy.config.cluster.v3.Cluster` (CDS).
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment` (EDS).
    EndpointAssignment,
    /// `envoy.config.listener.v3.Listener` (LDS).
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration` (RDS).
    RouteConfiguration,
}

impl ResourceType {
    /// All types, in the order in which a change is sent.
    pub const ALL: [Self; 4] = [
        Self::Cluster,
        Self::EndpointAssignment,
        Self::Listener,
        Self::RouteConfiguration,
    ];

    /// The type URL as it stands in requests, responses and `Any`.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::EndpointAssignment => {
                "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
            }
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::RouteConfiguration => {
                "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
            }
        }
    }

    /// The type with this URL, if it is one of ours.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }

    /// Whether absence from a state-of-the-world response means deletion (LDS and CDS only), and
    /// whether wildcard subscriptions exist for it.
    #[must_use]
    pub fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }

    /// The wire's own noun, as people know it: `Listener`, `ClusterLoadAssignment`, …
    #[must_use]
    pub fn wire_name(self) -> &'static str {
        self.type_url()
            .rsplit('.')
            .next()
            .expect("a type URL has dots")
    }
}

impl fmt::Display for ResourceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.wire_name())
    }
}

/// Any validated resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Resource {
    /// A listener.
    Listener(Arc<Listener>),
    /// A route configuration.
    RouteConfiguration(Arc<RouteConfiguration>),
    /// A cluster.
    Cluster(Arc<Cluster>),
    /// The endpoints of a cluster.
    EndpointAssignment(Arc<EndpointAssignment>),
}

impl Resource {
    /// Which type it is.
    #[must_use]
    pub fn resource_type(&self) -> ResourceType {
        match self {
            Self::Listener(_) => ResourceType::Listener,
            Self::RouteConfiguration(_) => ResourceType::RouteConfiguration,
            Self::Cluster(_) => ResourceType::Cluster,
            Self::EndpointAssignment(_) => ResourceType::EndpointAssignment,
        }
    }

    /// The name under which it is subscribed.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Listener(r) => &r.name,
            Self::RouteConfiguration(r) => &r.name,
            Self::Cluster(r) => &r.name,
            Self::EndpointAssignment(r) => &r.cluster,
        }
    }
}
