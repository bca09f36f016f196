//! One `Route`: its condition and its action (gRFC A28, A31, A44, A63).

use std::collections::{BTreeMap, BTreeSet};

use prost_types::Duration;

use super::at::{At, Result, wire_duration};
use super::http_filter::{decode_overrides, encode_overrides};
use super::matching::{
    decode_fraction, decode_header, decode_pattern, encode_fraction, encode_header, encode_pattern,
};
use super::route_configuration::{HEADERS, MIRRORING};
use super::{Reason, hash_policy, labels, retry};
use crate::resource::name::into_canonical;
use crate::resource::{
    FilterOverrides, Forward, HeaderMatcher, Labels, PathMatcher, RetryPolicy, Route, RouteAction,
    RouteMatch, Text, WeightedCluster,
};
use crate::wire::core::RuntimeFractionalPercent;
use crate::wire::route::{
    self, route::Action, route_action::ClusterSpecifier, route_action::MaxStreamDuration,
    route_match::PathSpecifier, weighted_cluster::ClusterWeight,
};

/// What the virtual host says, where a route says nothing.
pub(super) struct Inherited<'a> {
    pub(super) retry: Option<&'a RetryPolicy>,
    pub(super) overrides: &'a FilterOverrides,
}

/// A route, or `None` for one that gRPC skips.
pub(super) fn decode(
    at: &At<'_>,
    plugins: &BTreeSet<String>,
    inherited: &Inherited<'_>,
    wire: route::Route,
) -> Result<Option<Route>> {
    at.refuse("route_specifiers", !wire.route_specifiers.is_empty())?;
    at.ignore(
        "request_headers_to_add",
        !wire.request_headers_to_add.is_empty(),
        HEADERS,
    );
    at.ignore(
        "request_headers_to_remove",
        !wire.request_headers_to_remove.is_empty(),
        HEADERS,
    );
    at.ignore(
        "response_headers_to_add",
        !wire.response_headers_to_add.is_empty(),
        HEADERS,
    );
    at.ignore(
        "response_headers_to_remove",
        !wire.response_headers_to_remove.is_empty(),
        HEADERS,
    );
    let place = at.field("match");
    let Some(matches) = decode_match(&place, place.required(wire.r#match)?)? else {
        return Ok(None);
    };
    let overrides = decode_overrides(at, inherited.overrides, &wire.typed_per_filter_config)?;
    let inherited = Inherited {
        overrides: &overrides,
        ..*inherited
    };
    let action = match wire.action {
        Some(Action::Route(action)) => {
            let at = at.field("route");
            decode_action(&at, plugins, &inherited, action)?.map(RouteAction::Forward)
        }
        Some(Action::NonForwardingAction(_)) => Some(RouteAction::NonForwarding),
        _ => Some(RouteAction::Unsupported),
    };
    let Some(action) = action else {
        return Ok(None);
    };
    Ok(Some(Route {
        name: wire.name,
        matches,
        action,
    }))
}

/// The condition, or `None` for one that gRPC calls never meet.
fn decode_match(at: &At<'_>, wire: route::RouteMatch) -> Result<Option<RouteMatch>> {
    if !wire.query_parameters.is_empty() {
        let place = at.field("query_parameters");
        place.note("gRPC calls have no query, so the route is never taken");
        return Ok(None);
    }
    // To ignore a condition would send calls where they must not go.
    at.refuse("tls_context", wire.tls_context.is_some())?;
    at.refuse("dynamic_metadata", !wire.dynamic_metadata.is_empty())?;
    at.refuse("filter_state", !wire.filter_state.is_empty())?;
    at.refuse("cookies", !wire.cookies.is_empty())?;
    let ignore_case = wire.case_sensitive == Some(false);
    let text = |value| Text { value, ignore_case };
    let path = match wire.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => PathMatcher::Prefix(text(prefix)),
        Some(PathSpecifier::Path(path)) => PathMatcher::Exact(text(path)),
        Some(PathSpecifier::SafeRegex(regex)) => {
            PathMatcher::Regex(decode_pattern(&at.field("safe_regex"), &regex)?)
        }
        Some(_) => {
            return Err(at
                .field("path_specifier")
                .unsupported("this path condition"));
        }
        None => return Err(at.field("path_specifier").fault(Reason::Missing)),
    };
    let headers = wire.headers.into_iter().enumerate();
    let headers = headers.map(|(i, header)| decode_header(&at.item("headers", i), header));
    let headers: Vec<HeaderMatcher> = headers.collect::<Result<_>>()?;
    let fraction = wire.runtime_fraction.map(|fraction| {
        let at = at.field("runtime_fraction");
        let at = at.field("default_value");
        decode_fraction(&at, fraction.default_value.unwrap_or_default())
    });
    let fraction = fraction.transpose()?;
    Ok(Some(RouteMatch {
        path,
        headers,
        fraction,
    }))
}

/// The action, or `None` if it names its cluster in a way that gRPC skips.
fn decode_action(
    at: &At<'_>,
    plugins: &BTreeSet<String>,
    inherited: &Inherited<'_>,
    wire: route::RouteAction,
) -> Result<Option<Forward>> {
    note_ignored_in_action(at, &wire);
    let policies = wire.hash_policy.into_iter().enumerate();
    let policies =
        policies.map(|(i, policy)| hash_policy::decode(&at.item("hash_policy", i), policy));
    let hash_policies: Vec<_> = policies.collect::<Result<_>>()?;
    let share = Share {
        overrides: inherited.overrides,
        subset: labels::of_route(wire.metadata_match),
    };
    let Some(clusters) = decode_clusters(at, plugins, &share, wire.cluster_specifier)? else {
        return Ok(None);
    };
    let place = at.field("max_stream_duration");
    let limits = wire.max_stream_duration.unwrap_or_default();
    place.ignore(
        "grpc_timeout_header_offset",
        limits.grpc_timeout_header_offset.is_some(),
        "deadlines are taken as they are",
    );
    // A policy of the route's own replaces the virtual host's even if nothing in it is left.
    let retry = match wire.retry_policy {
        Some(policy) => retry::decode(&at.field("retry_policy"), policy)?,
        None => inherited.retry.cloned(),
    };
    let max = place.optional_duration("max_stream_duration", limits.max_stream_duration)?;
    let header_max =
        place.optional_duration("grpc_timeout_header_max", limits.grpc_timeout_header_max)?;
    Ok(Some(Forward {
        clusters,
        max_stream_duration: max,
        grpc_timeout_header_max: header_max,
        retry,
        hash_policies: hash_policies.into_iter().flatten().collect(),
    }))
}

/// What a route says, where a cluster of it says nothing.
struct Share<'a> {
    overrides: &'a FilterOverrides,
    subset: Labels,
}

fn decode_clusters(
    at: &At<'_>,
    plugins: &BTreeSet<String>,
    share: &Share<'_>,
    wire: Option<ClusterSpecifier>,
) -> Result<Option<Vec<WeightedCluster>>> {
    match wire {
        Some(ClusterSpecifier::Cluster(name)) => {
            let name = into_canonical(at.field("cluster").text(name)?);
            Ok(Some(vec![WeightedCluster {
                name,
                weight: 1,
                overrides: share.overrides.clone(),
                subset: share.subset.clone(),
            }]))
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            decode_weighted(&at.field("weighted_clusters"), share, weighted).map(Some)
        }
        Some(ClusterSpecifier::ClusterSpecifierPlugin(name)) if !plugins.contains(&name) => {
            let place = at.field("cluster_specifier_plugin");
            Err(place.rule(format!("{name:?} is not declared")))
        }
        _ => {
            at.field("cluster_specifier").note(
                "the cluster is named in a way that gRPC does not have, so the route is skipped",
            );
            Ok(None)
        }
    }
}

fn decode_weighted(
    at: &At<'_>,
    share: &Share<'_>,
    wire: route::WeightedCluster,
) -> Result<Vec<WeightedCluster>> {
    at.ignore(
        "random_value_specifier",
        wire.random_value_specifier.is_some(),
        "the cluster is always drawn at random",
    );
    let mut total: u32 = 0;
    let mut clusters = Vec::with_capacity(wire.clusters.len());
    for (i, cluster) in wire.clusters.into_iter().enumerate() {
        let at = at.item("clusters", i);
        let weight = cluster.weight.unwrap_or(0);
        if weight == 0 {
            continue;
        }
        let overrides = decode_overrides(&at, share.overrides, &cluster.typed_per_filter_config)?;
        total = total.checked_add(weight).ok_or_else(|| {
            at.field("weight")
                .rule("the weights add up to more than 4294967295")
        })?;
        at.refuse("cluster_header", !cluster.cluster_header.is_empty())?;
        note_ignored_in_weight(&at, &cluster);
        let name = into_canonical(at.field("name").text(cluster.name)?);
        let own = labels::of_route(cluster.metadata_match);
        clusters.push(WeightedCluster {
            name,
            weight,
            overrides,
            subset: share.subset.overridden_by(&own),
        });
    }
    if clusters.is_empty() {
        return Err(at.field("clusters").rule("no cluster has a weight"));
    }
    Ok(clusters)
}

fn note_ignored_in_weight(at: &At<'_>, wire: &ClusterWeight) {
    at.ignore(
        "request_headers_to_add",
        !wire.request_headers_to_add.is_empty(),
        HEADERS,
    );
    at.ignore(
        "request_headers_to_remove",
        !wire.request_headers_to_remove.is_empty(),
        HEADERS,
    );
    at.ignore(
        "response_headers_to_add",
        !wire.response_headers_to_add.is_empty(),
        HEADERS,
    );
    at.ignore(
        "response_headers_to_remove",
        !wire.response_headers_to_remove.is_empty(),
        HEADERS,
    );
    at.ignore(
        "host_rewrite_specifier",
        wire.host_rewrite_specifier.is_some(),
        "the authority is not rewritten",
    );
}

fn note_ignored_in_action(at: &At<'_>, wire: &route::RouteAction) {
    const TIMEOUT: &str = "calls end by their deadline and max_stream_duration only";
    const PATH: &str = "the path is not rewritten";
    const REDIRECT: &str = "redirects are not followed";
    // Zero switches the limit off, which is what gRPC does anyway.
    let limited = wire
        .timeout
        .is_some_and(|limit| limit != Duration::default());
    at.ignore("timeout", limited, TIMEOUT);
    at.ignore("idle_timeout", wire.idle_timeout.is_some(), TIMEOUT);
    at.ignore("flush_timeout", wire.flush_timeout.is_some(), TIMEOUT);
    at.ignore("max_grpc_timeout", wire.max_grpc_timeout.is_some(), TIMEOUT);
    at.ignore(
        "grpc_timeout_offset",
        wire.grpc_timeout_offset.is_some(),
        TIMEOUT,
    );
    at.ignore("prefix_rewrite", !wire.prefix_rewrite.is_empty(), PATH);
    at.ignore("regex_rewrite", wire.regex_rewrite.is_some(), PATH);
    at.ignore(
        "path_rewrite_policy",
        wire.path_rewrite_policy.is_some(),
        PATH,
    );
    at.ignore("path_rewrite", !wire.path_rewrite.is_empty(), PATH);
    at.ignore(
        "host_rewrite_specifier",
        wire.host_rewrite_specifier.is_some(),
        "the authority is not rewritten",
    );
    at.ignore(
        "append_x_forwarded_host",
        wire.append_x_forwarded_host,
        HEADERS,
    );
    at.ignore(
        "request_mirror_policies",
        !wire.request_mirror_policies.is_empty(),
        MIRRORING,
    );
    at.ignore(
        "priority",
        wire.priority != 0,
        "all calls share the default priority's limits",
    );
    at.ignore(
        "hedge_policy",
        wire.hedge_policy.is_some(),
        "calls are not hedged",
    );
    at.ignore(
        "retry_policy_typed_config",
        wire.retry_policy_typed_config.is_some(),
        "only retry_policy is read",
    );
    at.ignore(
        "internal_redirect_action",
        wire.internal_redirect_action != 0,
        REDIRECT,
    );
    at.ignore(
        "max_internal_redirects",
        wire.max_internal_redirects.is_some(),
        REDIRECT,
    );
    at.ignore(
        "upgrade_configs",
        !wire.upgrade_configs.is_empty(),
        "gRPC has no upgrades",
    );
    at.ignore(
        "cluster_not_found_response_code",
        wire.cluster_not_found_response_code != 0,
        "calls fail UNAVAILABLE",
    );
}

pub(super) fn encode(route: &Route) -> route::Route {
    let action = match &route.action {
        RouteAction::Forward(forward) => Some(Action::Route(encode_action(forward))),
        RouteAction::NonForwarding => {
            Some(Action::NonForwardingAction(route::NonForwardingAction {}))
        }
        // No action is one that nobody has.
        RouteAction::Unsupported => None,
    };
    // A route with one cluster has no better place for what is said of the cluster.
    let overrides = match &route.action {
        RouteAction::Forward(forward) => match forward.clusters.as_slice() {
            [
                WeightedCluster {
                    weight: 1,
                    overrides,
                    ..
                },
            ] => encode_overrides(overrides),
            _ => BTreeMap::new(),
        },
        RouteAction::NonForwarding | RouteAction::Unsupported => BTreeMap::new(),
    };
    route::Route {
        name: route.name.clone(),
        r#match: Some(encode_match(&route.matches)),
        action,
        typed_per_filter_config: overrides,
        ..Default::default()
    }
}

fn encode_match(matches: &RouteMatch) -> route::RouteMatch {
    let (path, ignore_case) = match &matches.path {
        PathMatcher::Prefix(t) => (PathSpecifier::Prefix(t.value.clone()), t.ignore_case),
        PathMatcher::Exact(t) => (PathSpecifier::Path(t.value.clone()), t.ignore_case),
        PathMatcher::Regex(p) => (PathSpecifier::SafeRegex(encode_pattern(p)), false),
    };
    route::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: ignore_case.then_some(false),
        headers: matches.headers.iter().map(encode_header).collect(),
        runtime_fraction: matches.fraction.map(|share| RuntimeFractionalPercent {
            default_value: Some(encode_fraction(share)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn encode_action(forward: &Forward) -> route::RouteAction {
    let limits = MaxStreamDuration {
        max_stream_duration: forward.max_stream_duration.map(wire_duration),
        grpc_timeout_header_max: forward.grpc_timeout_header_max.map(wire_duration),
        ..Default::default()
    };
    route::RouteAction {
        cluster_specifier: Some(encode_clusters(&forward.clusters)),
        metadata_match: match forward.clusters.as_slice() {
            [only] if only.weight == 1 => labels::to_route(&only.subset),
            _ => None,
        },
        max_stream_duration: (limits != MaxStreamDuration::default()).then_some(limits),
        // Without it Envoy ends calls after 15 s, where gRPC clients have no limit.
        timeout: Some(Duration::default()),
        retry_policy: forward.retry.as_ref().map(retry::encode),
        hash_policy: forward
            .hash_policies
            .iter()
            .map(hash_policy::encode)
            .collect(),
        ..Default::default()
    }
}

fn encode_clusters(clusters: &[WeightedCluster]) -> ClusterSpecifier {
    if let [
        WeightedCluster {
            name, weight: 1, ..
        },
    ] = clusters
    {
        return ClusterSpecifier::Cluster(name.clone());
    }
    let encode = |cluster: &WeightedCluster| ClusterWeight {
        name: cluster.name.clone(),
        weight: Some(cluster.weight),
        typed_per_filter_config: encode_overrides(&cluster.overrides),
        metadata_match: labels::to_route(&cluster.subset),
        ..Default::default()
    };
    ClusterSpecifier::WeightedClusters(route::WeightedCluster {
        clusters: clusters.iter().map(encode).collect(),
        ..Default::default()
    })
}
