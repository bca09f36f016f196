//! `envoy.config.route.v3.RouteConfiguration` and its virtual hosts (gRFC A28).

use std::collections::BTreeSet;

use super::at::{At, Result};
use super::http_filter::decode_overrides;
use super::route::{self, Inherited};
use super::{Reason, retry};
use crate::resource::{FilterOverrides, RouteConfiguration, VirtualHost};
use crate::wire::route as wire;

pub(super) fn decode(at: &At<'_>, wire: wire::RouteConfiguration) -> Result<RouteConfiguration> {
    let plugins = decode_plugins(at, &wire.cluster_specifier_plugins)?;
    let none = FilterOverrides::new();
    let overrides = decode_overrides(at, &none, &wire.typed_per_filter_config)?;
    note_ignored(at, &wire);
    let mut domains = BTreeSet::new();
    let mut virtual_hosts = Vec::with_capacity(wire.virtual_hosts.len());
    for (i, host) in wire.virtual_hosts.into_iter().enumerate() {
        let at = at.item("virtual_hosts", i);
        let host = decode_virtual_host(&at, &plugins, &overrides, host)?;
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
fn decode_plugins(at: &At<'_>, wire: &[wire::ClusterSpecifierPlugin]) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for (i, plugin) in wire.iter().enumerate() {
        let at = at.item("cluster_specifier_plugins", i);
        let name = plugin.extension.as_ref().map(|e| e.name.clone());
        let name = name.unwrap_or_default();
        if !plugin.is_optional {
            let place = at.field("extension");
            return Err(place.unsupported(format!("the cluster specifier {name:?}")));
        }
        names.insert(name);
    }
    Ok(names)
}

pub(super) const HEADERS: &str = "headers are not changed";
pub(super) const MIRRORING: &str = "calls are not mirrored";

fn note_ignored(at: &At<'_>, wire: &wire::RouteConfiguration) {
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
    inherited: &FilterOverrides,
    wire: wire::VirtualHost,
) -> Result<VirtualHost> {
    at.refuse("matcher", wire.matcher.is_some())?;
    at.refuse("route_specifiers", !wire.route_specifiers.is_empty())?;
    // Nobody checks it: to go on would let plaintext calls in.
    at.refuse("require_tls", wire.require_tls != 0)?;
    let overrides = decode_overrides(at, inherited, &wire.typed_per_filter_config)?;
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
            route::decode(
                &at,
                plugins,
                &Inherited {
                    retry: retry.as_ref(),
                    overrides: &overrides,
                },
                route,
            )
            .transpose()
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

pub(super) fn encode(routes: &RouteConfiguration) -> wire::RouteConfiguration {
    let encode_host = |host: &VirtualHost| wire::VirtualHost {
        name: host.name.clone(),
        domains: host.domains.clone(),
        routes: host.routes.iter().map(route::encode).collect(),
        ..Default::default()
    };
    wire::RouteConfiguration {
        name: routes.name.clone(),
        virtual_hosts: routes.virtual_hosts.iter().map(encode_host).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
