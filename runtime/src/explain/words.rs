//! Configuration in a few words each.

use sidestep_proto::resource::{
    Discovery, Health, LbPolicy, Locality, RetryPolicy, SessionState, StringMatcher, UpstreamTls,
};

use crate::balancer::Connectivity;
use crate::routing::{Criteria, RouteTimeout};

/// How an endpoint is picked.
#[must_use]
pub fn policy(policy: &LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin => "round robin",
        LbPolicy::LeastRequest { .. } => "least request",
        LbPolicy::PickFirst { .. } => "pick first",
        LbPolicy::Random => "random",
        LbPolicy::RingHash { .. } => "ring hash",
        LbPolicy::Maglev { .. } => "Maglev",
        LbPolicy::WeightedRoundRobin(_) => "weighted round robin",
        LbPolicy::PeakEwma(_) => "peak EWMA",
        LbPolicy::SlowStart { child: inside, .. } | LbPolicy::WrrLocality(inside) => {
            self::policy(inside)
        }
        LbPolicy::ZoneAware(aware) => self::policy(&aware.policy),
        LbPolicy::Subsets(subsets) => self::policy(&subsets.policy),
        LbPolicy::Custom(_) => "a policy of this program",
        LbPolicy::RandomSubset { child, .. } => self::policy(child),
        _ => "another policy",
    }
}

/// An aggregate, in the place of a policy.
#[must_use]
pub fn aggregate(leaves: usize) -> String {
    match leaves {
        1 => "aggregate of 1 cluster".to_owned(),
        count => format!("aggregate of {count} clusters"),
    }
}

/// Where a cluster's endpoints come from.
#[must_use]
pub fn discovery(discovery: &Discovery) -> String {
    match discovery {
        Discovery::Eds { service_name } => format!("EDS {service_name}"),
        Discovery::LogicalDns { host, port, .. } => format!("LOGICAL_DNS {host}:{port}"),
        Discovery::StrictDns { localities, .. } => {
            let named = localities.iter().flat_map(|locality| &locality.endpoints);
            let named = named.map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port));
            format!("STRICT_DNS {}", named.collect::<Vec<_>>().join(" "))
        }
        Discovery::Aggregate { clusters } => format!("aggregate {}", clusters.join(" ")),
    }
}

/// How an endpoint is picked, with each policy around the one that picks it.
#[must_use]
pub fn policy_tree(policy: &LbPolicy) -> String {
    match policy {
        LbPolicy::WrrLocality(inside) => {
            format!("{} in localities by weight", policy_tree(inside))
        }
        LbPolicy::RandomSubset { size, child } => {
            format!("{} in a subset of {size}", policy_tree(child))
        }
        LbPolicy::ZoneAware(aware) => {
            let inside = policy_tree(&aware.policy);
            format!("{inside} in localities, the own zone first")
        }
        LbPolicy::Subsets(subsets) => {
            let by = subsets.selectors.iter().map(|selector| {
                let keys: Vec<_> = selector.keys.iter().map(|key| &**key).collect();
                keys.join(" and ")
            });
            let by: Vec<_> = by.collect();
            let inside = policy_tree(&subsets.policy);
            format!("{inside} in subsets by {}", by.join(", by "))
        }
        LbPolicy::SlowStart { growth, child } => {
            let window = growth.window;
            format!("{} with slow start over {window:?}", policy_tree(child))
        }
        LbPolicy::Custom(custom) if custom.config == "{}" => custom.name.clone(),
        LbPolicy::Custom(custom) => format!("{} {}", custom.name, custom.config),
        leaf => self::policy(leaf).to_owned(),
    }
}

/// gRPC's word for a state.
#[must_use]
pub fn connectivity(connectivity: &Connectivity) -> &'static str {
    match connectivity {
        Connectivity::Idle => "IDLE",
        Connectivity::Connecting => "CONNECTING",
        Connectivity::Ready => "READY",
        Connectivity::TransientFailure(_) => "TRANSIENT_FAILURE",
    }
}

/// How a connection is secured.
#[must_use]
pub fn security(tls: Option<&UpstreamTls>) -> String {
    let Some(tls) = tls else {
        return "plaintext".to_owned();
    };
    let kind = if tls.identity.is_some() {
        "mutual TLS"
    } else {
        "TLS"
    };
    let names: Vec<String> = tls.sans.iter().map(wanted).collect();
    if names.is_empty() {
        return kind.to_owned();
    }
    format!("{kind}, the server must be {}", names.join(" or "))
}

fn wanted(matcher: &StringMatcher) -> String {
    match matcher {
        StringMatcher::Exact(text) => text.value.to_string(),
        StringMatcher::Prefix(text) => format!("{}…", text.value),
        StringMatcher::Suffix(text) => format!("…{}", text.value),
        StringMatcher::Contains(text) => format!("…{}…", text.value),
        StringMatcher::Regex(pattern) => format!("a match of {}", pattern.as_str()),
    }
}

/// How long a call may take.
#[must_use]
pub fn timeout(timeout: RouteTimeout) -> String {
    match timeout {
        RouteTimeout::Application => "the caller's own deadline".to_owned(),
        RouteTimeout::AtMost(limit) => {
            format!("at most {limit:?}, or the caller's own deadline if that is sooner")
        }
    }
}

/// Whether a call is tried again.
#[must_use]
pub fn retry(policy: Option<&RetryPolicy>) -> String {
    match policy {
        None => "only calls that no server has begun".to_owned(),
        Some(policy) => format!(
            "up to {} attempts in all, on {}",
            policy.max_attempts,
            policy.on.to_wire()
        ),
    }
}

/// What keeps the calls of a session at one endpoint.
#[must_use]
pub fn session(state: &SessionState) -> String {
    match state {
        SessionState::Header { name } => format!("at the endpoint that the header {name:?} names"),
        SessionState::Cookie(cookie) => {
            let mut text = format!("at the endpoint that the cookie {:?} names", cookie.name);
            if !cookie.path.is_empty() {
                text.push_str(&format!(", for calls below {}", cookie.path));
            }
            text
        }
    }
}

/// What a call asks for whose cluster has no subsets.
#[must_use]
pub fn no_subsets(asked: &Criteria) -> String {
    format!("subset {}: the cluster has no subsets", asked.labels())
}

/// What sets an endpoint apart, beside its address.
#[must_use]
pub fn place(locality: &Locality, weight: u32) -> String {
    let mut parts = Vec::new();
    if !locality.zone.is_empty() {
        parts.push(format!("zone {}", locality.zone));
    }
    if weight != 1 {
        parts.push(format!("weight {weight}"));
    }
    parts.join(", ")
}

/// The wire's word.
#[must_use]
pub fn health(health: Health) -> &'static str {
    match health {
        Health::Unknown => "UNKNOWN",
        Health::Healthy => "HEALTHY",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
        Health::Timeout => "TIMEOUT",
        Health::Degraded => "DEGRADED",
    }
}
