//! `envoy.config.cluster.v3.Cluster` (gRFC A27, A29, A32, A37, A50).

mod outlier_detection;

use std::collections::BTreeMap;
use std::time::Duration;

use super::at::{At, Result, ads, wire_duration};
use super::security::{decode_upstream, encode_upstream};
use super::{Reason, dns, lb_policy, session_hosts};
use crate::resource::name::into_canonical;
use crate::resource::{Cluster, Discovery};
use crate::wire::Any;
use crate::wire::cluster::{
    self, CircuitBreakers, circuit_breakers::Thresholds, cluster::ClusterDiscoveryType,
    cluster::CommonLbConfig, cluster::CustomClusterType, cluster::DiscoveryType,
    cluster::EdsClusterConfig, cluster::common_lb_config::LocalityConfigSpecifier,
};
use crate::wire::cluster_type::AggregateCluster;
use crate::wire::core::{
    self, Http2ProtocolOptions, RoutingPriority, config_source::ConfigSourceSpecifier,
};
use crate::wire::number::Percent;
use crate::wire::upstream_http::{
    HttpProtocolOptions, http_protocol_options::ExplicitHttpConfig,
    http_protocol_options::UpstreamProtocolOptions,
    http_protocol_options::explicit_http_config::ProtocolConfig,
};

/// Calls in flight where the control plane names no limit (gRFC A32).
const DEFAULT_MAX_REQUESTS: u32 = 1024;
/// Connections to one endpoint where the control plane names no limit (gRFC A105).
const DEFAULT_MAX_CONNECTIONS: u32 = 1;
/// Envoy's default, said aloud: to say it is to ask for nothing.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The key under which Envoy looks for HTTP options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const AGGREGATE_NAME: &str = "envoy.clusters.aggregate";
/// What names of the new style begin with (gRFC A47).
const XDSTP: &str = "xdstp:";

pub(super) fn decode(at: &At<'_>, wire: cluster::Cluster) -> Result<Cluster> {
    at.refuse(
        "transport_socket_matches",
        !wire.transport_socket_matches.is_empty(),
    )?;
    at.refuse(
        "transport_socket_matcher",
        wire.transport_socket_matcher.is_some(),
    )?;
    note_ignored(at, &wire);
    check_load_reports(at, wire.lrs_server.as_ref())?;
    let detection = wire.outlier_detection.as_ref();
    let detection =
        detection.map(|wire| outlier_detection::decode(&at.field("outlier_detection"), wire));
    let tls = wire
        .transport_socket
        .clone()
        .map(|socket| decode_upstream(&at.field("transport_socket"), socket));
    Ok(Cluster {
        lb_policy: lb_policy::decode(at, &wire)?,
        tls: tls.transpose()?,
        max_requests: max_requests(wire.circuit_breakers.as_ref()),
        outlier_detection: detection.transpose()?,
        panic_threshold: panic_threshold(&wire),
        sessions: session_hosts::decode(at, &wire)?,
        max_connections_per_endpoint: max_connections(at, wire.circuit_breakers.as_ref())?,
        discovery: decode_discovery(at, &wire)?,
        name: wire.name,
    })
}

fn note_ignored(at: &At<'_>, wire: &cluster::Cluster) {
    at.ignore(
        "connect_timeout",
        wire.connect_timeout
            .is_some_and(|d| d != wire_duration(CONNECT_TIMEOUT)),
        "connecting has the process's own time limit",
    );
    at.ignore(
        "filters",
        !wire.filters.is_empty(),
        "filters of the upstream side do not run",
    );
    if let Some(config) = &wire.common_lb_config {
        note_ignored_balancing(&at.field("common_lb_config"), config);
    }
    at.ignore(
        "upstream_connection_options",
        wire.upstream_connection_options.is_some(),
        "connections are tuned in the process",
    );
    at.ignore(
        "max_requests_per_connection",
        wire.max_requests_per_connection.is_some(),
        "connections carry any number of calls",
    );
    at.ignore(
        "ignore_health_on_host_removal",
        wire.ignore_health_on_host_removal,
        "removed endpoints are left at once",
    );
    at.ignore(
        "connection_pool_per_downstream_connection",
        wire.connection_pool_per_downstream_connection,
        "connections are shared",
    );
    if let Some(any) = wire.typed_extension_protocol_options.get(HTTP_OPTIONS) {
        let place = at.entry("typed_extension_protocol_options", HTTP_OPTIONS);
        note_ignored_options(&place, any);
    }
    if let Some(breakers) = &wire.circuit_breakers {
        let at = at.field("circuit_breakers");
        for (i, thresholds) in breakers.thresholds.iter().enumerate() {
            note_ignored_thresholds(&at.item("thresholds", i), thresholds);
        }
        for (i, thresholds) in breakers.per_host_thresholds.iter().enumerate() {
            note_ignored_per_host(&at.item("per_host_thresholds", i), thresholds);
        }
    }
}

fn note_ignored_balancing(at: &At<'_>, wire: &CommonLbConfig) {
    at.ignore(
        "locality_weighted_lb_config",
        matches!(
            wire.locality_config_specifier,
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        ),
        "localities are always weighted",
    );
    at.ignore(
        "update_merge_window",
        wire.update_merge_window.is_some(),
        "updates are taken over as they come",
    );
    at.ignore(
        "ignore_new_hosts_until_first_hc",
        wire.ignore_new_hosts_until_first_hc,
        "clients do not check health themselves",
    );
    at.ignore(
        "close_connections_on_host_set_change",
        wire.close_connections_on_host_set_change,
        "connections to endpoints that stay are kept",
    );
    at.ignore(
        "consistent_hashing_lb_config",
        wire.consistent_hashing_lb_config.is_some(),
        "an endpoint may get more than its share",
    );
}

/// Below this percentage an endpoint's health does not keep it out.
fn panic_threshold(wire: &cluster::Cluster) -> u8 {
    let config = wire.common_lb_config.as_ref();
    let threshold = config.and_then(|config| config.healthy_panic_threshold.as_ref());
    // Percentages of whole numbers, as Envoy reads them; what is no number becomes 0.
    threshold.map_or(0, |percent| percent.value.clamp(0.0, 100.0) as u8)
}

fn note_ignored_options(at: &At<'_>, any: &Any) {
    let Ok(options) = any.unpack::<HttpProtocolOptions>() else {
        return at.note("is not HTTP protocol options");
    };
    let http2 = matches!(
        options.upstream_protocol_options,
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
            }
        ))
    );
    at.ignore(
        "upstream_protocol_options",
        !http2,
        "endpoints are always spoken to in HTTP/2",
    );
    at.ignore(
        "common_http_protocol_options",
        options.common_http_protocol_options.is_some(),
        "connections have the process's own lifetime",
    );
    at.ignore(
        "http_filters",
        !options.http_filters.is_empty(),
        "filters of the upstream side do not run",
    );
}

fn note_ignored_thresholds(at: &At<'_>, wire: &Thresholds) {
    const LIMITS: &str = "only max_requests limits";
    at.ignore("max_connections", wire.max_connections.is_some(), LIMITS);
    note_ignored_limits(at, wire, LIMITS);
}

/// Of a single endpoint.
fn note_ignored_per_host(at: &At<'_>, wire: &Thresholds) {
    const LIMITS: &str = "only max_connections limits an endpoint";
    at.ignore("max_requests", wire.max_requests.is_some(), LIMITS);
    note_ignored_limits(at, wire, LIMITS);
}

fn note_ignored_limits(at: &At<'_>, wire: &Thresholds, limits: &'static str) {
    at.ignore(
        "priority",
        wire.priority != RoutingPriority::Default as i32,
        "all calls have the default priority",
    );
    at.ignore(
        "max_pending_requests",
        wire.max_pending_requests.is_some(),
        limits,
    );
    at.ignore("max_retries", wire.max_retries.is_some(), limits);
    at.ignore("retry_budget", wire.retry_budget.is_some(), limits);
    at.ignore(
        "max_connection_pools",
        wire.max_connection_pools.is_some(),
        limits,
    );
}

fn check_load_reports(at: &At<'_>, wire: Option<&core::ConfigSource>) -> Result<()> {
    let at = at.field("lrs_server");
    match wire.map(|source| &source.config_source_specifier) {
        None => Ok(()),
        Some(Some(ConfigSourceSpecifier::Self_(_))) => {
            at.note("load is not reported");
            Ok(())
        }
        Some(_) => Err(at.unsupported("a load-report server other than self")),
    }
}

/// The first entry for the default priority decides, whether or not it names a limit.
fn of_default_priority(all: &[Thresholds]) -> Option<(usize, &Thresholds)> {
    let mut all = all.iter().enumerate();
    all.find(|(_, thresholds)| thresholds.priority == RoutingPriority::Default as i32)
}

fn max_requests(wire: Option<&CircuitBreakers>) -> u32 {
    let thresholds = wire.and_then(|breakers| of_default_priority(&breakers.thresholds));
    let limit = thresholds.and_then(|(_, thresholds)| thresholds.max_requests);
    limit.unwrap_or(DEFAULT_MAX_REQUESTS)
}

/// Connections to one endpoint (gRFC A105).
fn max_connections(at: &At<'_>, wire: Option<&CircuitBreakers>) -> Result<u32> {
    let thresholds = wire.and_then(|breakers| of_default_priority(&breakers.per_host_thresholds));
    match thresholds.and_then(|(i, thresholds)| Some((i, thresholds.max_connections?))) {
        None => Ok(DEFAULT_MAX_CONNECTIONS),
        Some((i, 0)) => {
            let at = at.field("circuit_breakers");
            let at = at.item("per_host_thresholds", i);
            Err(at.field("max_connections").out_of_range(0, "at least 1"))
        }
        Some((_, limit)) => Ok(limit),
    }
}

fn decode_discovery(at: &At<'_>, wire: &cluster::Cluster) -> Result<Discovery> {
    match &wire.cluster_discovery_type {
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            decode_custom(&at.field("cluster_type"), custom)
        }
        Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
            Ok(DiscoveryType::Eds) => decode_eds(at, wire),
            Ok(DiscoveryType::LogicalDns) => dns::decode_logical(at, wire),
            Ok(DiscoveryType::StrictDns) => dns::decode_strict(at, wire),
            Ok(other) => Err(at.field("type").unsupported(other.as_str_name())),
            Err(_) => Err(at.field("type").unsupported(format!("the number {kind}"))),
        },
        None => Err(at.field("type").fault(Reason::Missing)),
    }
}

fn decode_eds(at: &At<'_>, wire: &cluster::Cluster) -> Result<Discovery> {
    let at = at.field("eds_cluster_config");
    let config = at.required(wire.eds_cluster_config.clone())?;
    at.field("eds_config").config_source(config.eds_config)?;
    let service_name = match config.service_name.is_empty() {
        false => into_canonical(config.service_name),
        // A cluster's name is of another type than its endpoints', which new names spell out.
        true if wire.name.starts_with(XDSTP) => {
            return Err(at.field("service_name").fault(Reason::Missing));
        }
        true => wire.name.clone(),
    };
    Ok(Discovery::Eds { service_name })
}

fn decode_custom(at: &At<'_>, custom: &CustomClusterType) -> Result<Discovery> {
    if custom.name != AGGREGATE_NAME {
        let place = at.field("name");
        return Err(place.unsupported(format!("the cluster type {:?}", custom.name)));
    }
    let at = at.field("typed_config");
    let aggregate: AggregateCluster = at.unpack(at.required(custom.typed_config.as_ref())?)?;
    if aggregate.clusters.is_empty() {
        return Err(at.field("clusters").fault(Reason::Empty));
    }
    Ok(Discovery::Aggregate {
        clusters: aggregate.clusters.into_iter().map(into_canonical).collect(),
    })
}

pub(super) fn encode(cluster: &Cluster) -> cluster::Cluster {
    let mut wire = cluster::Cluster {
        name: cluster.name.clone(),
        connect_timeout: Some(wire_duration(CONNECT_TIMEOUT)),
        circuit_breakers: encode_breakers(cluster),
        outlier_detection: (cluster.outlier_detection.as_ref()).map(outlier_detection::encode),
        transport_socket: cluster.tls.as_ref().map(encode_upstream),
        typed_extension_protocol_options: BTreeMap::from([(
            HTTP_OPTIONS.to_owned(),
            Any::pack(&http2_options()),
        )]),
        ..Default::default()
    };
    lb_policy::encode(&cluster.lb_policy, &mut wire);
    if cluster.panic_threshold > 0 {
        let config = wire.common_lb_config.get_or_insert_default();
        config.healthy_panic_threshold = Some(Percent {
            value: cluster.panic_threshold.into(),
        });
    }
    encode_discovery(&cluster.discovery, &mut wire);
    session_hosts::encode(&cluster.sessions, &mut wire);
    wire
}

/// gRPC always speaks HTTP/2; Envoy only if told.
fn http2_options() -> HttpProtocolOptions {
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                    Http2ProtocolOptions::default(),
                )),
            },
        )),
        ..Default::default()
    }
}

fn encode_breakers(cluster: &Cluster) -> Option<CircuitBreakers> {
    let requests = cluster.max_requests;
    let requests = (requests != DEFAULT_MAX_REQUESTS).then(|| Thresholds {
        max_requests: Some(requests),
        ..Default::default()
    });
    let connections = cluster.max_connections_per_endpoint;
    let connections = (connections != DEFAULT_MAX_CONNECTIONS).then(|| Thresholds {
        max_connections: Some(connections),
        ..Default::default()
    });
    let any = requests.is_some() || connections.is_some();
    any.then(|| CircuitBreakers {
        thresholds: requests.into_iter().collect(),
        per_host_thresholds: connections.into_iter().collect(),
    })
}

fn encode_discovery(discovery: &Discovery, wire: &mut cluster::Cluster) {
    let kind = match discovery {
        Discovery::Eds { service_name } => {
            wire.eds_cluster_config = Some(EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: service_name.clone(),
            });
            ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)
        }
        Discovery::LogicalDns {
            host,
            port,
            lookup,
            labels,
        } => {
            wire.load_assignment = Some(dns::encode_host(&wire.name, host, *port, labels));
            dns::encode_lookup(*lookup, wire);
            ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32)
        }
        Discovery::StrictDns { localities, lookup } => {
            wire.load_assignment = Some(dns::encode_localities(&wire.name, localities));
            dns::encode_lookup(*lookup, wire);
            ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32)
        }
        Discovery::Aggregate { clusters } => ClusterDiscoveryType::ClusterType(CustomClusterType {
            name: AGGREGATE_NAME.to_owned(),
            typed_config: Some(Any::pack(&AggregateCluster {
                clusters: clusters.clone(),
            })),
        }),
    };
    wire.cluster_discovery_type = Some(kind);
}

#[cfg(test)]
mod tests;
