//! Configuration in a few words each.

use sidestep_proto::resource::{
    Endpoint, Health, LbPolicy, Locality, RetryPolicy, StringMatcher, UpstreamTls,
};

use crate::routing::RouteTimeout;

/// How an endpoint is picked.
#[must_use]
pub fn policy(policy: LbPolicy) -> &'static str {
    match policy {
        LbPolicy::RoundRobin => "round robin",
        LbPolicy::LeastRequest { .. } => "least request",
        LbPolicy::PickFirst { .. } => "pick first",
        LbPolicy::Random => "random",
        LbPolicy::RingHash { .. } => "ring hash",
        LbPolicy::Maglev { .. } => "Maglev",
        _ => "another policy",
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

/// An endpoint of an assignment.
#[must_use]
pub fn endpoint(endpoint: &Endpoint, locality: &Locality) -> String {
    let address = endpoint.addresses.first();
    let mut text = address.map(ToString::to_string).unwrap_or_default();
    text.push_str(&place(locality, endpoint.weight));
    if !endpoint.health.is_usable() {
        text.push_str(", not used");
    }
    text
}

/// What sets an endpoint apart, beside its address.
#[must_use]
pub fn place(locality: &Locality, weight: u32) -> String {
    let mut text = String::new();
    if !locality.zone.is_empty() {
        text.push_str(&format!(", zone {}", locality.zone));
    }
    if weight != 1 {
        text.push_str(&format!(", weight {weight}"));
    }
    text
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
