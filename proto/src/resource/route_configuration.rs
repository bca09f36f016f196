//! `envoy.config.route.v3.RouteConfiguration`: which cluster a request goes to, and how.

use std::ops::Range;
use std::time::Duration;

use super::{FilterOverrides, Labels, Pattern, PerMillion, Rewrite, StringMatcher, Text};

/// A table of virtual hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteConfiguration {
    /// Its name; empty is legal for inline routes.
    pub name: String,
    /// In the order written. Domains are unique over all of them.
    pub virtual_hosts: Vec<VirtualHost>,
}

/// Routes for a set of authorities.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VirtualHost {
    /// For people.
    pub name: String,
    /// Exact (`a.b`), suffix (`*.b`), prefix (`a.*`) or `*`; at least one, ASCII lower case.
    pub domains: Vec<String>,
    /// First match wins.
    pub routes: Vec<Route>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// For people; may be empty.
    pub name: String,
    /// When it applies.
    pub matches: RouteMatch,
    /// What it does.
    pub action: RouteAction,
}

/// When a route applies: all conditions together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteMatch {
    /// Condition on the path.
    pub path: PathMatcher,
    /// Conditions on headers.
    pub headers: Vec<HeaderMatcher>,
    /// Share of requests it takes; `None` is all.
    pub fraction: Option<PerMillion>,
}

/// Condition on the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathMatcher {
    /// Begins with; the empty prefix takes everything.
    Prefix(Text),
    /// Is.
    Exact(Text),
    /// Full-match regular expression.
    Regex(Pattern),
}

impl PathMatcher {
    /// Whether `path` (`/package.Service/Method`) matches. Allocates nothing.
    #[must_use]
    pub fn is_match(&self, path: &str) -> bool {
        match self {
            Self::Prefix(text) => text.starts(path),
            Self::Exact(text) => text.equals(path),
            Self::Regex(pattern) => pattern.is_match(path),
        }
    }
}

/// Condition on a header (gRFC A28, A63).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderMatcher {
    /// ASCII lower case.
    pub name: String,
    /// What its value must be.
    pub condition: HeaderCondition,
    /// The answer is turned round. An absent header still does not match a value condition.
    pub invert: bool,
}

/// What a header's (comma-joined) value must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderCondition {
    /// Its text.
    Value(StringMatcher),
    /// A decimal number in `start..end`.
    Range(Range<i64>),
    /// Whether it is there.
    Present(bool),
}

/// What a route does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteAction {
    /// Sends the request to a cluster: a client's action.
    Forward(Forward),
    /// Lets the server's own handler answer: a server's action (gRFC A36).
    NonForwarding,
    /// An action that gRPC does not have (redirect, direct response, …): a request that meets
    /// the route fails `UNAVAILABLE`.
    Unsupported,
}

/// Sends the request on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Forward {
    /// At least one, weights above zero, sum within `u32`.
    pub clusters: Vec<WeightedCluster>,
    /// `max_stream_duration` (gRFC A31).
    pub max_stream_duration: Option<Duration>,
    /// `grpc_timeout_header_max`: decides over `max_stream_duration` if set; zero takes the
    /// application's deadline as it is.
    pub grpc_timeout_header_max: Option<Duration>,
    /// The route's own retry policy, or else its virtual host's (gRFC A44).
    pub retry: Option<RetryPolicy>,
    /// What calls are hashed by, for policies that pick by hash (gRFC A42); empty is at random.
    pub hash_policies: Vec<HashPolicy>,
}

/// One part of what a call is hashed by. Each one that finds something is mixed into the hash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HashPolicy {
    /// What it looks at.
    pub source: HashSource,
    /// Later policies count only if there is no hash yet.
    pub terminal: bool,
}

/// What a call is hashed by. Kinds that gRPC does not have find nothing, and are left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HashSource {
    /// The (comma-joined) value of a header.
    Header {
        /// ASCII lower case.
        name: String,
        /// What the value is made into before it is hashed.
        rewrite: Option<Rewrite>,
    },
    /// The channel (`filter_state` with the key `io.grpc.channel_id`).
    ChannelId,
}

/// A cluster and its relative weight.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedCluster {
    /// Cluster name.
    pub name: String,
    /// Relative to the sum of the route's weights; at least 1.
    pub weight: u32,
    /// What filters do to calls that draw this cluster: the most specific word of cluster, route,
    /// virtual host and route configuration for each filter (gRFC A39).
    pub overrides: FilterOverrides,
    /// What the endpoints must have that its calls meet: the `metadata_match` of the route and of
    /// the cluster, whose words win. It counts where the cluster has subsets.
    pub subset: Labels,
}

impl WeightedCluster {
    /// A share for which every filter does what its chain says.
    #[must_use]
    pub fn new(name: impl Into<String>, weight: u32) -> Self {
        Self {
            name: name.into(),
            weight,
            overrides: FilterOverrides::new(),
            subset: Labels::default(),
        }
    }
}

/// When and how a failed call is tried again (gRFC A44 over A6).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Which outcomes may be tried again; not empty.
    pub on: RetryOn,
    /// First try included, 2 to 5.
    pub max_attempts: u32,
    /// Delay before the first retry; doubles each time. At least 1 ms.
    pub base_interval: Duration,
    /// Upper bound of the delay.
    pub max_interval: Duration,
}

/// The five gRPC codes that `retry_on` may name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RetryOn {
    /// `cancelled`
    pub cancelled: bool,
    /// `deadline-exceeded`
    pub deadline_exceeded: bool,
    /// `internal`
    pub internal: bool,
    /// `resource-exhausted`
    pub resource_exhausted: bool,
    /// `unavailable`
    pub unavailable: bool,
}

impl RetryOn {
    /// Reads `retry_on`: a comma-separated list; words of other meaning are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut on = Self::default();
        for word in text.split(',') {
            match word.trim() {
                "cancelled" => on.cancelled = true,
                "deadline-exceeded" => on.deadline_exceeded = true,
                "internal" => on.internal = true,
                "resource-exhausted" => on.resource_exhausted = true,
                "unavailable" => on.unavailable = true,
                _ => {}
            }
        }
        on
    }

    /// Whether no code is named.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Whether a call that ended with this gRPC status code may be tried again.
    #[must_use]
    pub fn contains(self, code: u32) -> bool {
        match code {
            1 => self.cancelled,
            4 => self.deadline_exceeded,
            8 => self.resource_exhausted,
            13 => self.internal,
            14 => self.unavailable,
            _ => false,
        }
    }

    /// The list as `retry_on` writes it.
    #[must_use]
    pub fn to_wire(self) -> String {
        let words = [
            (self.cancelled, "cancelled"),
            (self.deadline_exceeded, "deadline-exceeded"),
            (self.internal, "internal"),
            (self.resource_exhausted, "resource-exhausted"),
            (self.unavailable, "unavailable"),
        ];
        words
            .iter()
            .filter(|(on, _)| *on)
            .map(|(_, w)| *w)
            .collect::<Vec<_>>()
            .join(",")
    }
}
