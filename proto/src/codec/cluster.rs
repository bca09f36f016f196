//! `envoy.config.cluster.v3.Cluster` (gRFC A27, A29, A32, A37).

use std::collections::BTreeMap;
use std::time::Duration;

use super::at::{At, Result, ads, wire_duration};
use super::security::{decode_upstream, encode_upstream};
use super::{Reason, lb_policy};
use crate::resource::name::into_canonical;
use crate::resource::{Cluster, Discovery};
use crate::wire::Any;
use crate::wire::cluster::{
    self, CircuitBreakers, OutlierDetection, circuit_breakers::Thresholds,
    cluster::ClusterDiscoveryType, cluster::CustomClusterType, cluster::DiscoveryType,
    cluster::EdsClusterConfig,
};
use crate::wire::cluster_type::AggregateCluster;
use crate::wire::core::{
    self, Http2ProtocolOptions, RoutingPriority, SocketAddress, address::Address,
    config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
};
use crate::wire::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use crate::wire::upstream_http::{
    HttpProtocolOptions, http_protocol_options::ExplicitHttpConfig,
    http_protocol_options::UpstreamProtocolOptions,
    http_protocol_options::explicit_http_config::ProtocolConfig,
};

/// Calls in flight where the control plane names no limit (gRFC A32).
const DEFAULT_MAX_REQUESTS: u32 = 1024;
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
    if let Some(detection) = &wire.outlier_detection {
        let at = at.field("outlier_detection");
        check_outlier_detection(&at, detection)?;
        at.note("no endpoint is ejected for its results");
    }
    let tls = wire
        .transport_socket
        .clone()
        .map(|socket| decode_upstream(&at.field("transport_socket"), socket));
    Ok(Cluster {
        lb_policy: lb_policy::decode(at, &wire)?,
        tls: tls.transpose()?,
        max_requests: max_requests(wire.circuit_breakers.as_ref()),
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
    at.ignore(
        "common_lb_config",
        wire.common_lb_config.is_some(),
        "priorities fail over without panic or zone rules",
    );
    at.ignore(
        "upstream_connection_options",
        wire.upstream_connection_options.is_some(),
        "connections are tuned in the process",
    );
    at.ignore(
        "upstream_config",
        wire.upstream_config.is_some(),
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
        at.ignore(
            "per_host_thresholds",
            !breakers.per_host_thresholds.is_empty(),
            "endpoints have no limits of their own",
        );
    }
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
    at.ignore(
        "priority",
        wire.priority != RoutingPriority::Default as i32,
        "all calls have the default priority",
    );
    at.ignore("max_connections", wire.max_connections.is_some(), LIMITS);
    at.ignore(
        "max_pending_requests",
        wire.max_pending_requests.is_some(),
        LIMITS,
    );
    at.ignore("max_retries", wire.max_retries.is_some(), LIMITS);
    at.ignore("retry_budget", wire.retry_budget.is_some(), LIMITS);
    at.ignore(
        "max_connection_pools",
        wire.max_connection_pools.is_some(),
        LIMITS,
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

/// Outlier detection is not done, but what gRPC refuses is refused (gRFC A50).
fn check_outlier_detection(at: &At<'_>, wire: &OutlierDetection) -> Result<()> {
    at.optional_duration("interval", wire.interval)?;
    at.optional_duration("base_ejection_time", wire.base_ejection_time)?;
    at.optional_duration("max_ejection_time", wire.max_ejection_time)?;
    let percentages = [
        ("max_ejection_percent", wire.max_ejection_percent),
        ("enforcing_success_rate", wire.enforcing_success_rate),
        (
            "failure_percentage_threshold",
            wire.failure_percentage_threshold,
        ),
        (
            "enforcing_failure_percentage",
            wire.enforcing_failure_percentage,
        ),
    ];
    for (field, value) in percentages {
        if let Some(value @ 101..) = value {
            return Err(at.field(field).out_of_range(value, "0 to 100"));
        }
    }
    Ok(())
}

/// The first entry for the default priority decides, whether or not it names a limit.
fn max_requests(wire: Option<&CircuitBreakers>) -> u32 {
    let thresholds = wire.map(|b| b.thresholds.as_slice()).unwrap_or_default();
    let mut default = thresholds
        .iter()
        .filter(|t| t.priority == RoutingPriority::Default as i32);
    let limit = default.next().and_then(|t| t.max_requests);
    limit.unwrap_or(DEFAULT_MAX_REQUESTS)
}

fn decode_discovery(at: &At<'_>, wire: &cluster::Cluster) -> Result<Discovery> {
    match &wire.cluster_discovery_type {
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            decode_custom(&at.field("cluster_type"), custom)
        }
        Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
            Ok(DiscoveryType::Eds) => decode_eds(at, wire),
            Ok(DiscoveryType::LogicalDns) => {
                decode_dns(&at.field("load_assignment"), wire.load_assignment.as_ref())
            }
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

fn decode_dns(at: &At<'_>, wire: Option<&ClusterLoadAssignment>) -> Result<Discovery> {
    let [locality] = at.required(wire)?.endpoints.as_slice() else {
        return Err(at.field("endpoints").rule("must be exactly one locality"));
    };
    let at = at.item("endpoints", 0);
    let [endpoint] = locality.lb_endpoints.as_slice() else {
        return Err(at
            .field("lb_endpoints")
            .rule("must be exactly one endpoint"));
    };
    let at = at.item("lb_endpoints", 0);
    let at = at.field("endpoint");
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        return Err(at.fault(Reason::Missing));
    };
    let at = at.field("address");
    let address = endpoint.address.as_ref().and_then(|a| a.address.as_ref());
    let Some(Address::SocketAddress(socket)) = address else {
        return Err(at.field("socket_address").fault(Reason::Missing));
    };
    decode_host(&at.field("socket_address"), socket)
}

fn decode_host(at: &At<'_>, wire: &SocketAddress) -> Result<Discovery> {
    at.refuse("resolver_name", !wire.resolver_name.is_empty())?;
    let host = at.field("address").text(wire.address.clone())?;
    let at = at.field("port_value");
    let port = match &wire.port_specifier {
        Some(PortSpecifier::PortValue(port)) => at.port(*port)?,
        _ => 0,
    };
    if port == 0 {
        return Err(at.out_of_range(port, "a port from 1 to 65535"));
    }
    Ok(Discovery::LogicalDns { host, port })
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
        circuit_breakers: encode_max_requests(cluster.max_requests),
        transport_socket: cluster.tls.as_ref().map(encode_upstream),
        typed_extension_protocol_options: BTreeMap::from([(
            HTTP_OPTIONS.to_owned(),
            Any::pack(&http2_options()),
        )]),
        ..Default::default()
    };
    lb_policy::encode(cluster.lb_policy, &mut wire);
    encode_discovery(&cluster.discovery, &mut wire);
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

fn encode_max_requests(max_requests: u32) -> Option<CircuitBreakers> {
    (max_requests != DEFAULT_MAX_REQUESTS).then(|| CircuitBreakers {
        thresholds: vec![Thresholds {
            priority: RoutingPriority::Default as i32,
            max_requests: Some(max_requests),
            ..Default::default()
        }],
        ..Default::default()
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
        Discovery::LogicalDns { host, port } => {
            wire.load_assignment = Some(encode_host(&wire.name, host, *port));
            ClusterDiscoveryType::Type(DiscoveryType::LogicalDns as i32)
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

fn encode_host(cluster: &str, host: &str, port: u16) -> ClusterLoadAssignment {
    let socket = SocketAddress {
        address: host.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    let endpoint = Endpoint {
        address: Some(core::Address {
            address: Some(Address::SocketAddress(socket)),
        }),
        ..Default::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
