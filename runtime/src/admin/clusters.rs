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
use crate::inspect::{Cluster, Connectivity, Endpoint, Leaf};

/// The page.
pub(super) const PAGE: Page = Page {
    path: "/clusters",
    about: "each cluster's policy, limit and use, and each endpoint's place, health, connection, \
            weight, calls in flight and last error, and why it gets no calls",
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

/// Its state, or that it is not connected because nothing needs it.
fn leaf_word(leaf: &Leaf) -> &'static str {
    leaf.connectivity
        .as_ref()
        .map_or("NOT_USED", words::connectivity)
}

fn policy(cluster: &Cluster) -> Option<&'static str> {
    if !cluster.leaves.is_empty() {
        return Some("that of the leaf in use");
    }
    cluster.policy.as_ref().map(words::policy)
}

/// A direct target's endpoints are its own.
fn discovery(cluster: &Cluster) -> Option<String> {
    let discovery = cluster.discovery.as_ref();
    let discovery = discovery.filter(|_| cluster.from_control_plane);
    discovery.map(words::discovery)
}

fn to_text(clusters: &[Cluster]) -> String {
    let mut out = String::new();
    for cluster in clusters {
        let mut line = |key: &str, value: &dyn Display| {
            // Cannot fail: the target is a string.
            let _ = writeln!(out, "{}::{key}::{value}", cluster.name);
        };
        line("lb_policy", &policy(cluster).unwrap_or("not known yet"));
        if let Some(discovery) = discovery(cluster) {
            line("discovery", &discovery);
        }
        line("connectivity", &words::connectivity(&cluster.connectivity));
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
        for leaf in &cluster.leaves {
            let name = &leaf.name;
            line(&format!("leaf::{name}::takes_calls"), &leaf.takes_calls);
            line(&format!("leaf::{name}::why"), &leaf.why);
            line(&format!("leaf::{name}::connectivity"), &leaf_word(leaf));
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
    line("weight_now", &endpoint.current_weight);
    if let Some(share) = endpoint.locality_share {
        line("locality_share", &share);
    }
    if let Some(ejection) = &endpoint.ejected {
        line("ejected", &ejection.reason);
        line("ejected_until", &timestamp::text(ejection.until));
    }
    let excluded = endpoint.excluded();
    line("takes_calls", &excluded.is_none());
    if let Some(reason) = excluded {
        line("takes_no_calls_because", &reason);
    }
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
        _ if endpoint.ejected.is_some() => "/failed_outlier_check",
        Some(Connectivity::TransientFailure(_)) => "/failed_active_hc",
        _ => "healthy",
    }
}

fn endpoint_word(endpoint: &Endpoint) -> &'static str {
    endpoint
        .connectivity
        .as_ref()
        .map_or("NOT_USED", words::connectivity)
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
        "discovery": discovery(cluster),
        "lb_policy": policy(cluster),
        "security": cluster.security,
        "connectivity": words::connectivity(&cluster.connectivity),
        "error": cluster.error,
        "circuit_breakers": {
            "thresholds": [{
                "priority": "DEFAULT",
                "max_requests": cluster.max_requests,
                "rq_active": cluster.in_flight,
            }],
        },
        "drops": drops.collect::<Vec<_>>(),
        "leaves": cluster.leaves.iter().map(leaf_json).collect::<Vec<_>>(),
        "host_statuses": cluster.endpoints.iter().map(endpoint_json).collect::<Vec<_>>(),
    })
}

fn leaf_json(leaf: &Leaf) -> Value {
    json!({
        "name": leaf.name,
        "takes_calls": leaf.takes_calls,
        "why": leaf.why,
        "connectivity": leaf_word(leaf),
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
        "health_status": {
            "eds_health_status": words::health(endpoint.health),
            "failed_outlier_check": endpoint.ejected.is_some(),
        },
        "weight_now": endpoint.current_weight,
        "locality_share": endpoint.locality_share,
        "ejected": endpoint.ejected.as_ref().map(|ejection| json!({
            "reason": ejection.reason,
            "until": timestamp::text(ejection.until),
        })),
        "takes_calls": endpoint.excluded().is_none(),
        "takes_no_calls_because": endpoint.excluded(),
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
    use std::time::{Duration, SystemTime};

    use sidestep_proto::resource::{Health, LbPolicy, Locality};

    use super::*;
    use crate::inspect::Ejection;

    fn cluster(connectivity: Connectivity) -> Cluster {
        Cluster {
            name: "c".into(),
            from_control_plane: true,
            policy: Some(LbPolicy::round_robin()),
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
                ejected: None,
                current_weight: 1.0,
                locality_share: None,
                passed_over: None,
                last_error: None,
            }],
            leaves: Vec::new(),
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
    fn an_aggregate_tells_its_leaves() {
        let mut all = cluster(Connectivity::Ready);
        let leaf = |name: &str, takes_calls| Leaf {
            name: name.into(),
            takes_calls,
            why: "so".into(),
            connectivity: takes_calls.then_some(Connectivity::Ready),
        };
        all.leaves = vec![leaf("a", true), leaf("b", false)];
        let text = to_text(&[all]);
        for line in [
            "c::lb_policy::that of the leaf in use",
            "c::leaf::a::takes_calls::true",
            "c::leaf::a::why::so",
            "c::leaf::a::connectivity::READY",
            "c::leaf::b::connectivity::NOT_USED",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn an_ejected_endpoint_says_why_and_until_when() {
        let mut ejected = cluster(Connectivity::Ready);
        ejected.endpoints[0].ejected = Some(Ejection {
            reason: "5 calls in a row failed".into(),
            remaining: Duration::from_millis(2_500),
            until: SystemTime::UNIX_EPOCH + Duration::from_secs(1),
        });
        let json = to_json(std::slice::from_ref(&ejected));
        let json = &json["cluster_statuses"][0]["host_statuses"][0];
        assert_eq!(json["health_status"]["failed_outlier_check"], true);
        assert_eq!(json["ejected"]["until"], "1970-01-01T00:00:01Z");
        assert_eq!(json["takes_calls"], false);
        let text = to_text(&[ejected]);
        for line in [
            "c::127.0.0.1:7::health_flags::/failed_outlier_check",
            "c::127.0.0.1:7::ejected::5 calls in a row failed",
            "c::127.0.0.1:7::ejected_until::1970-01-01T00:00:01Z",
            "c::127.0.0.1:7::takes_no_calls_because::\
             ejected for another 2.5 s: 5 calls in a row failed",
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
