//! `envoy.config.route.v3.RouteConfiguration` (gRFC A28, A31, A44, A63).

use std::collections::BTreeSet;

use super::at::{At, Result, wire_duration};
use super::http_filter::check_overrides;
use super::matching::{
    decode_fraction, decode_header, decode_pattern, encode_fraction, encode_header, encode_pattern,
};
use super::{Reason, retry};
use crate::resource::{
    Forward, HeaderMatcher, PathMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration,
    RouteMatch, Text, VirtualHost, WeightedCluster,
};
use crate::wire::core::RuntimeFractionalPercent;
use crate::wire::route::{
    self, route::Action, route_action::ClusterSpecifier, route_action::HashPolicy,
    route_action::MaxStreamDuration, route_match::PathSpecifier, weighted_cluster::ClusterWeight,
};

pub(super) fn decode(at: &At<'_>, wire: route::RouteConfiguration) -> Result<RouteConfiguration> {
    let plugins = decode_plugins(at, &wire.cluster_specifier_plugins)?;
    check_overrides(at, &wire.typed_per_filter_config)?;
    note_ignored(at, &wire);
    let mut names = BTreeSet::new();
    let mut domains = BTreeSet::new();
    let mut virtual_hosts = Vec::with_capacity(wire.virtual_hosts.len());
    for (i, host) in wire.virtual_hosts.into_iter().enumerate() {
        let at = at.item("virtual_hosts", i);
        let host = decode_virtual_host(&at, &plugins, host)?;
        if !host.name.is_empty() && !names.insert(host.name.clone()) {
            return Err(at.field("name").fault(Reason::Duplicate(host.name)));
        }
        for (i, domain) in host.domains.iter().enumerate() {
            if !domains.insert(domain.clone()) {
                let place = at.item("domains", i);
                return Err(place.fault(Reason::Duplicate(domain.clone())));
            }
        }
        virtual_hosts.push(host);
    }
    Ok(RouteConfiguration {
        name: wire.name,
        virtual_hosts,
    })
}

/// Names of the declared plugins. None is supported; routes that use an optional one are skipped.
fn decode_plugins(at: &At<'_>, wire: &[route::ClusterSpecifierPlugin]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (i, plugin) in wire.iter().enumerate() {
        let at = at.item("cluster_specifier_plugins", i);
        let extension = at.field("extension").required(plugin.extension.as_ref())?;
        if !plugin.is_optional {
            let place = at.field("extension");
            return Err(place.unsupported(format!("the cluster specifier {:?}", extension.name)));
        }
        if !names.insert(extension.name.clone()) {
            return Err(at.fault(Reason::Duplicate(extension.name.clone())));
        }
    }
    Ok(names)
}

const HEADERS: &str = "headers are not changed";
const MIRRORING: &str = "calls are not mirrored";

fn note_ignored(at: &At<'_>, wire: &route::RouteConfiguration) {
    at.ignore(
        "vhds",
        wire.vhds.is_some(),
        "virtual hosts are not discovered one by one",
    );
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
        "internal_only_headers",
        !wire.internal_only_headers.is_empty(),
        HEADERS,
    );
    at.ignore(
        "request_mirror_policies",
        !wire.request_mirror_policies.is_empty(),
        MIRRORING,
    );
    at.ignore(
        "ignore_port_in_host_matching",
        wire.ignore_port_in_host_matching,
        "the authority is compared as it is",
    );
    at.ignore(
        "vhost_header",
        !wire.vhost_header.is_empty(),
        "the authority selects the virtual host",
    );
    at.ignore(
        "ignore_path_parameters_in_path_matching",
        wire.ignore_path_parameters_in_path_matching,
        "gRPC paths have no parameters",
    );
}

fn decode_virtual_host(
    at: &At<'_>,
    plugins: &BTreeSet<String>,
    wire: route::VirtualHost,
) -> Result<VirtualHost> {
    at.refuse("matcher", wire.matcher.is_some())?;
    at.refuse("route_specifiers", !wire.route_specifiers.is_empty())?;
    check_overrides(at, &wire.typed_per_filter_config)?;
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
        "request_mirror_policies",
        !wire.request_mirror_policies.is_empty(),
        MIRRORING,
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
        "include_request_attempt_count",
        wire.include_request_attempt_count,
        HEADERS,
    );
    let retry = match wire.retry_policy {
        Some(policy) => retry::decode(&at.field("retry_policy"), policy)?,
        None => None,
    };
    if wire.domains.is_empty() {
        return Err(at.field("domains").fault(Reason::Empty));
    }
    let domains = wire.domains.into_iter().enumerate();
    let domains = domains.map(|(i, domain)| decode_domain(&at.item("domains", i), &domain));
    let domains = domains.collect::<Result<_>>()?;
    let routes = wire.routes.into_iter().enumerate();
    let routes = routes
        .filter_map(|(i, route)| {
            let at = at.item("routes", i);
            decode_route(&at, plugins, retry.as_ref(), route).transpose()
        })
        .collect::<Result<_>>()?;
    Ok(VirtualHost {
        name: wire.name,
        domains,
        routes,
    })
}

fn decode_domain(at: &At<'_>, wire: &str) -> Result<String> {
    let inner = wire.strip_prefix('*').unwrap_or(wire);
    let inner = match inner.len() == wire.len() {
        true => inner.strip_suffix('*').unwrap_or(inner),
        false => inner,
    };
    if wire.is_empty() || inner.contains('*') {
        return Err(at.rule(format!(
            "{wire:?} is neither a name nor one with a single * at its beginning or end"
        )));
    }
    Ok(wire.to_ascii_lowercase())
}

/// A route, or `None` for one that gRPC skips.
fn decode_route(
    at: &At<'_>,
    plugins: &BTreeSet<String>,
    inherited: Option<&RetryPolicy>,
    wire: route::Route,
) -> Result<Option<Route>> {
    check_overrides(at, &wire.typed_per_filter_config)?;
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
    let matches = decode_match(&place, place.required(wire.r#match)?)?;
    let action = match wire.action {
        Some(Action::Route(action)) => {
            let at = at.field("route");
            decode_action(&at, plugins, inherited, action)?.map(RouteAction::Forward)
        }
        Some(Action::NonForwardingAction(_)) => Some(RouteAction::NonForwarding),
        _ => Some(RouteAction::Unsupported),
    };
    Ok(matches.zip(action).map(|(matches, action)| Route {
        name: wire.name,
        matches,
        action,
    }))
}

/// The condition, or `None` for one that gRPC calls never meet.
fn decode_match(at: &At<'_>, wire: route::RouteMatch) -> Result<Option<RouteMatch>> {
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
    if !wire.query_parameters.is_empty() {
        let place = at.field("query_parameters");
        place.note("gRPC calls have no query, so the route is never taken");
        return Ok(None);
    }
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
    inherited: Option<&RetryPolicy>,
    wire: route::RouteAction,
) -> Result<Option<Forward>> {
    note_ignored_in_action(at, &wire);
    for (i, policy) in wire.hash_policy.iter().enumerate() {
        check_hash_policy(&at.item("hash_policy", i), policy)?;
    }
    let clusters = decode_clusters(at, plugins, wire.cluster_specifier)?;
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
        None => inherited.cloned(),
    };
    let max = place.optional_duration("max_stream_duration", limits.max_stream_duration)?;
    let header_max =
        place.optional_duration("grpc_timeout_header_max", limits.grpc_timeout_header_max)?;
    Ok(clusters.map(|clusters| Forward {
        clusters,
        max_stream_duration: max,
        grpc_timeout_header_max: header_max,
        retry,
    }))
}

fn decode_clusters(
    at: &At<'_>,
    plugins: &BTreeSet<String>,
    wire: Option<ClusterSpecifier>,
) -> Result<Option<Vec<WeightedCluster>>> {
    match wire {
        Some(ClusterSpecifier::Cluster(name)) => {
            let name = at.field("cluster").text(name)?;
            Ok(Some(vec![WeightedCluster { name, weight: 1 }]))
        }
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            decode_weighted(&at.field("weighted_clusters"), weighted).map(Some)
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

fn decode_weighted(at: &At<'_>, wire: route::WeightedCluster) -> Result<Vec<WeightedCluster>> {
    at.ignore(
        "random_value_specifier",
        wire.random_value_specifier.is_some(),
        "the cluster is always drawn at random",
    );
    let mut total: u32 = 0;
    let mut clusters = Vec::with_capacity(wire.clusters.len());
    for (i, cluster) in wire.clusters.into_iter().enumerate() {
        let at = at.item("clusters", i);
        check_overrides(&at, &cluster.typed_per_filter_config)?;
        let weight = cluster.weight.unwrap_or(0);
        if weight == 0 {
            continue;
        }
        total = total.checked_add(weight).ok_or_else(|| {
            at.field("weight")
                .rule("the weights add up to more than 4294967295")
        })?;
        at.refuse("cluster_header", !cluster.cluster_header.is_empty())?;
        note_ignored_in_weight(&at, &cluster);
        let name = at.field("name").text(cluster.name)?;
        clusters.push(WeightedCluster { name, weight });
    }
    if clusters.is_empty() {
        return Err(at.field("clusters").rule("no cluster has a weight"));
    }
    Ok(clusters)
}

fn note_ignored_in_weight(at: &At<'_>, wire: &ClusterWeight) {
    at.ignore(
        "metadata_match",
        wire.metadata_match.is_some(),
        "endpoints have no subsets",
    );
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
    at.ignore("timeout", wire.timeout.is_some(), TIMEOUT);
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
        "metadata_match",
        wire.metadata_match.is_some(),
        "endpoints have no subsets",
    );
    at.ignore(
        "request_mirror_policies",
        !wire.request_mirror_policies.is_empty(),
        MIRRORING,
    );
    at.ignore(
        "hash_policy",
        !wire.hash_policy.is_empty(),
        "no policy that picks by hash is there",
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

/// Hash policies are not used, but one that no runtime could use is still an error.
fn check_hash_policy(at: &At<'_>, wire: &HashPolicy) -> Result<()> {
    use route::route_action::hash_policy::PolicySpecifier;
    if let Some(PolicySpecifier::Header(header)) = &wire.policy_specifier
        && let Some(rewrite) = &header.regex_rewrite
    {
        let at = at.field("header");
        let at = at.field("regex_rewrite");
        let at = at.field("pattern");
        decode_pattern(&at, at.required(rewrite.pattern.as_ref())?)?;
    }
    Ok(())
}

pub(super) fn encode(routes: &RouteConfiguration) -> route::RouteConfiguration {
    let encode_host = |host: &VirtualHost| route::VirtualHost {
        name: host.name.clone(),
        domains: host.domains.clone(),
        routes: host.routes.iter().map(encode_route).collect(),
        ..Default::default()
    };
    route::RouteConfiguration {
        name: routes.name.clone(),
        virtual_hosts: routes.virtual_hosts.iter().map(encode_host).collect(),
        ..Default::default()
    }
}

fn encode_route(route: &Route) -> route::Route {
    let action = match &route.action {
        RouteAction::Forward(forward) => Some(Action::Route(encode_action(forward))),
        RouteAction::NonForwarding => {
            Some(Action::NonForwardingAction(route::NonForwardingAction {}))
        }
        // No action is one that nobody has.
        RouteAction::Unsupported => None,
    };
    route::Route {
        name: route.name.clone(),
        r#match: Some(encode_match(&route.matches)),
        action,
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
        max_stream_duration: (limits != MaxStreamDuration::default()).then_some(limits),
        retry_policy: forward.retry.as_ref().map(retry::encode),
        ..Default::default()
    }
}

fn encode_clusters(clusters: &[WeightedCluster]) -> ClusterSpecifier {
    if let [WeightedCluster { name, weight: 1 }] = clusters {
        return ClusterSpecifier::Cluster(name.clone());
    }
    let encode = |cluster: &WeightedCluster| ClusterWeight {
        name: cluster.name.clone(),
        weight: Some(cluster.weight),
        ..Default::default()
    };
    ClusterSpecifier::WeightedClusters(route::WeightedCluster {
        clusters: clusters.iter().map(encode).collect(),
        ..Default::default()
    })
}
