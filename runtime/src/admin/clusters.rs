//! `/clusters`: each cluster in use and each of its endpoints.
//!
//! The text has Envoy's lines, `cluster::endpoint::key::value`, made for `grep`.

use std::fmt::{Display, Write as _};
use std::sync::Arc;

use serde_json::{Value, json};
use sidestep_proto::resource::{Address, Discovery};

use super::page::{Context, FORMAT, Page, Query, Reply, answer, render};
use super::timestamp;
use crate::control::Question;
use crate::explain::words;
use crate::inspect::{Cluster, Connectivity, Endpoint};

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/clusters",
    about: "each cluster's policy, limit and use, and each endpoint's place, health, connection, \
            calls in flight and last error",
    parameters: &[FORMAT],
    answer: |context, query| answer(clusters(context, query)),
};

async fn clusters(context: Arc<Context>, query: Query) -> Result<Reply, Reply> {
    let clusters = context.ask(Question::Clusters).await?;
    render(move || {
        Ok(match query.wants_json() {
            true => Reply::json(&to_json(&clusters)),
            false => Reply::text(to_text(&clusters)),
        })
    })
    .await
}

/// gRPC's word.
pub(super) fn word(connectivity: &Connectivity) -> &'static str {
    match connectivity {
        Connectivity::Idle => "IDLE",
        Connectivity::Connecting => "CONNECTING",
        Connectivity::Ready => "READY",
        Connectivity::TransientFailure(_) => "TRANSIENT_FAILURE",
    }
}

fn policy(cluster: &Cluster) -> Option<&'static str> {
    cluster.policy.map(words::policy)
}

fn to_text(clusters: &[Cluster]) -> String {
    let mut out = String::new();
    for cluster in clusters {
        let mut line = |key: &str, value: &dyn Display| {
            // Cannot fail: the target is a string.
            let _ = writeln!(out, "{}::{key}::{value}", cluster.name);
        };
        line("lb_policy", &policy(cluster).unwrap_or("not known yet"));
        line("connectivity", &word(&cluster.connectivity));
        if !cluster.security.is_empty() {
            line("security", &cluster.security);
        }
        line("default_priority::max_requests", &cluster.max_requests);
        line("default_priority::rq_active", &cluster.in_flight);
        line("added_via_api", &cluster.from_control_plane);
        if let Some(error) = &cluster.error {
            line("error", error);
        }
        for (category, share) in &cluster.drops {
            let percent = f64::from(*share) / 10_000.0;
            line(&format!("drop::{category}"), &format!("{percent} %"));
        }
        for endpoint in &cluster.endpoints {
            let address = endpoint.address();
            endpoint_lines(endpoint, &mut |key, value| {
                line(&format!("{address}::{key}"), value);
            });
        }
    }
    out
}

fn endpoint_lines(endpoint: &Endpoint, line: &mut dyn FnMut(&str, &dyn Display)) {
    line("rq_active", &endpoint.in_flight);
    line("hostname", &endpoint.hostname);
    line("health_flags", &health_flags(endpoint));
    line("weight", &endpoint.weight);
    line("region", &endpoint.locality.region);
    line("zone", &endpoint.locality.zone);
    line("sub_zone", &endpoint.locality.sub_zone);
    line("priority", &endpoint.priority);
    line("eds_health", &words::health(endpoint.health));
    line("connectivity", &endpoint_word(endpoint));
    if let Some(error) = &endpoint.last_error {
        line("last_error", &error.reason);
        line("last_error_at", &timestamp::text(error.at));
    }
}

/// What Envoy's users look for first.
fn health_flags(endpoint: &Endpoint) -> &'static str {
    if !endpoint.health.is_usable() {
        return "/failed_eds_health";
    }
    match endpoint.connectivity {
        Some(Connectivity::TransientFailure(_)) => "/failed_active_hc",
        _ => "healthy",
    }
}

fn endpoint_word(endpoint: &Endpoint) -> &'static str {
    endpoint.connectivity.as_ref().map_or("NOT_USED", word)
}

fn to_json(clusters: &[Cluster]) -> Value {
    json!({
        "cluster_statuses": clusters.iter().map(cluster_json).collect::<Vec<_>>(),
    })
}

fn cluster_json(cluster: &Cluster) -> Value {
    let eds = match &cluster.discovery {
        Some(Discovery::Eds { service_name }) if cluster.from_control_plane => Some(service_name),
        _ => None,
    };
    let drops = cluster.drops.iter().map(
        |(category, share)| json!({"category": category, "percent": f64::from(*share) / 10_000.0}),
    );
    json!({
        "name": cluster.name,
        "added_via_api": cluster.from_control_plane,
        "eds_service_name": eds,
        "lb_policy": policy(cluster),
        "security": cluster.security,
        "connectivity": word(&cluster.connectivity),
        "error": cluster.error,
        "circuit_breakers": {
            "thresholds": [{
                "priority": "DEFAULT",
                "max_requests": cluster.max_requests,
                "rq_active": cluster.in_flight,
            }],
        },
        "drops": drops.collect::<Vec<_>>(),
        "host_statuses": cluster.endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
    })
}

fn endpoint_json(endpoint: &Endpoint) -> Value {
    let mut addresses = endpoint.addresses.iter().map(address_json);
    json!({
        "address": addresses.next(),
        "additional_addresses": addresses.collect::<Vec<_>>(),
        "hostname": endpoint.hostname,
        "locality": {
            "region": endpoint.locality.region,
            "zone": endpoint.locality.zone,
            "sub_zone": endpoint.locality.sub_zone,
        },
        "priority": endpoint.priority,
        "weight": endpoint.weight,
        "locality_weight": endpoint.locality_weight,
        "health_status": {"eds_health_status": words::health(endpoint.health)},
        "connectivity": endpoint_word(endpoint),
        "stats": [{"name": "rq_active", "type": "GAUGE", "value": endpoint.in_flight.to_string()}],
        "last_error": endpoint.last_error.as_ref().map(|error| json!({
            "reason": error.reason,
            "at": timestamp::text(error.at),
        })),
    })
}

fn address_json(address: &Address) -> Value {
    match address {
        Address::Tcp(address) => json!({"socket_address": {
            "address": address.ip().to_string(),
            "port_value": address.port(),
        }}),
        Address::Unix(path) => json!({"pipe": {"path": path}}),
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::{Health, LbPolicy, Locality};

    use super::*;

    fn cluster(connectivity: Connectivity) -> Cluster {
        Cluster {
            name: "c".into(),
            from_control_plane: true,
            policy: Some(LbPolicy::RoundRobin),
            discovery: None,
            security: String::new(),
            connectivity: connectivity.clone(),
            error: None,
            max_requests: 5,
            in_flight: 2,
            drops: vec![("overload".into(), 25_000)],
            endpoints: vec![Endpoint {
                addresses: vec![Address::Tcp(([127, 0, 0, 1], 7).into())],
                hostname: String::new(),
                locality: Locality::default(),
                priority: 0,
                weight: 1,
                locality_weight: 1,
                health: Health::Healthy,
                connectivity: Some(connectivity),
                in_flight: 2,
                last_error: None,
            }],
        }
    }

    #[test]
    fn lines_are_made_for_grep() {
        let text = to_text(&[cluster(Connectivity::Ready)]);
        for line in [
            "c::lb_policy::round robin",
            "c::default_priority::max_requests::5",
            "c::default_priority::rq_active::2",
            "c::drop::overload::2.5 %",
            "c::127.0.0.1:7::rq_active::2",
            "c::127.0.0.1:7::health_flags::healthy",
            "c::127.0.0.1:7::connectivity::READY",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn what_keeps_an_endpoint_out_is_said() {
        let mut draining = cluster(Connectivity::Idle);
        draining.endpoints[0].health = Health::Draining;
        draining.endpoints[0].connectivity = None;
        let text = to_text(&[draining]);
        assert!(
            text.contains("::health_flags::/failed_eds_health\n"),
            "{text}"
        );
        assert!(text.contains("::connectivity::NOT_USED\n"), "{text}");
    }
}
