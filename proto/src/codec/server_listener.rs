//! The listening-socket half of `envoy.config.listener.v3.Listener` (gRFC A36).
//!
//! Filter chains decide who may talk to whom, so nothing in them is skipped: what is not
//! understood is refused.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::Reason;
use super::at::{At, Result};
use super::http_filter::{Side, decode_chain as decode_chain_of_filters};
use super::listener::{decode_http, encode_http};
use super::security::{decode_downstream, encode_downstream};
use crate::resource::{
    CidrRange, FilterChain, FilterChainMatch, HttpConnectionManager, ServerListener, SourceType,
    TransportProtocol,
};
use crate::wire::core::{self, socket_address::PortSpecifier};
use crate::wire::listener::filter_chain_match::ConnectionSourceType;
use crate::wire::listener::{self, filter, listener_filter};
use crate::wire::listener_filter::TlsInspector;
use crate::wire::{Any, hcm};

/// The name that Envoy gives its connection manager.
const HTTP_FILTER_NAME: &str = "envoy.filters.network.http_connection_manager";

pub(super) fn decode(at: &At<'_>, wire: listener::Listener) -> Result<ServerListener> {
    at.refuse("use_original_dst", wire.use_original_dst == Some(true))?;
    at.refuse("fcds_config", wire.fcds_config.is_some())?;
    at.refuse("filter_chain_matcher", wire.filter_chain_matcher.is_some())?;
    at.refuse("listener_specifier", wire.listener_specifier.is_some())?;
    for (i, filter) in wire.listener_filters.iter().enumerate() {
        check_listener_filter(&at.item("listener_filters", i), filter)?;
    }
    note_ignored(at, &wire);
    let address = decode_address(&at.field("address"), wire.address)?;
    let filter_chains = decode_chains(at, wire.filter_chains)?;
    let default_filter_chain = wire
        .default_filter_chain
        .map(|chain| decode_default_chain(&at.field("default_filter_chain"), chain))
        .transpose()?;
    if default_filter_chain.is_none() {
        let place = at.field("filter_chains");
        if filter_chains.is_empty() {
            return Err(place.fault(Reason::Empty));
        }
        if !filter_chains.iter().any(|c| can_match(&c.matches)) {
            return Err(place.rule("none can ever match, and there is no default_filter_chain"));
        }
    }
    Ok(ServerListener {
        address,
        filter_chains,
        default_filter_chain,
    })
}

/// Listener filters see a connection before its chain is known. The only one that we have does
/// what our servers always do: tell TLS from plaintext.
fn check_listener_filter(at: &At<'_>, filter: &listener::ListenerFilter) -> Result<()> {
    let at = at.field("typed_config");
    match &filter.config_type {
        Some(listener_filter::ConfigType::TypedConfig(any)) if any.is::<TlsInspector>() => {
            at.refuse("filter_disabled", filter.filter_disabled.is_some())
        }
        Some(listener_filter::ConfigType::TypedConfig(any)) => {
            Err(at.unsupported(format!("the listener filter {}", any.type_name())))
        }
        _ => Err(at.fault(Reason::Missing)),
    }
}

fn note_ignored(at: &At<'_>, wire: &listener::Listener) {
    const SOCKET: &str = "the process opens its own socket";
    at.ignore(
        "additional_addresses",
        !wire.additional_addresses.is_empty(),
        "only the address itself is served",
    );
    at.ignore("transparent", wire.transparent == Some(true), SOCKET);
    at.ignore("freebind", wire.freebind == Some(true), SOCKET);
    at.ignore("bind_to_port", wire.bind_to_port == Some(false), SOCKET);
    at.ignore("tcp_keepalive", wire.tcp_keepalive.is_some(), SOCKET);
    at.ignore("enable_mptcp", wire.enable_mptcp, SOCKET);
    at.ignore(
        "per_connection_buffer_limit_bytes",
        wire.per_connection_buffer_limit_bytes.is_some(),
        "buffers have the process's own limits",
    );
}

fn decode_address(at: &At<'_>, wire: Option<core::Address>) -> Result<SocketAddr> {
    use core::address::Address;
    match at.required(wire)?.address {
        Some(Address::SocketAddress(socket)) => {
            decode_socket_address(&at.field("socket_address"), &socket)
        }
        Some(Address::Pipe(_)) => Err(at.field("pipe").unsupported("listening on a Unix socket")),
        Some(Address::EnvoyInternalAddress(_)) => Err(at
            .field("envoy_internal_address")
            .unsupported("an internal address")),
        None => Err(at.fault(Reason::Missing)),
    }
}

/// An IP address and port.
pub(super) fn decode_socket_address(at: &At<'_>, wire: &core::SocketAddress) -> Result<SocketAddr> {
    at.refuse(
        "protocol",
        wire.protocol != core::socket_address::Protocol::Tcp as i32,
    )?;
    at.ignore(
        "resolver_name",
        !wire.resolver_name.is_empty(),
        "there is nothing to resolve in an IP address",
    );
    let ip = decode_ip(&at.field("address"), &wire.address)?;
    let port = match &wire.port_specifier {
        Some(PortSpecifier::PortValue(port)) => at.field("port_value").port(*port)?,
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(at.field("named_port").unsupported("a named port"));
        }
        None => return Err(at.field("port_value").fault(Reason::Missing)),
    };
    Ok(SocketAddr::new(ip, port))
}

fn decode_ip(at: &At<'_>, text: &str) -> Result<IpAddr> {
    if text.is_empty() {
        return Err(at.fault(Reason::Missing));
    }
    text.parse()
        .map_err(|_| at.rule(format!("{text:?} is not an IP address")))
}

pub(super) fn encode_socket_address(address: SocketAddr) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..Default::default()
        })),
    }
}

fn decode_chains(at: &At<'_>, wire: Vec<listener::FilterChain>) -> Result<Vec<FilterChain>> {
    let mut chains: Vec<FilterChain> = Vec::with_capacity(wire.len());
    for (i, chain) in wire.into_iter().enumerate() {
        let at = at.item("filter_chains", i);
        let matches = chain.filter_chain_match.as_ref();
        // The port is asked first, so leaving the chain out changes no other chain's chances.
        if matches
            .and_then(|m| m.destination_port)
            .is_some_and(|p| p != 0)
        {
            at.field("filter_chain_match")
                .field("destination_port")
                .note("no connection matches a port, so the chain is left out");
            continue;
        }
        let chain = decode_chain(&at, chain)?;
        if let Some(other) = chains
            .iter()
            .position(|c| overlap(&c.matches, &chain.matches))
        {
            let place = at.field("filter_chain_match");
            return Err(place.rule(format!(
                "matches the same connections as filter_chains[{other}]"
            )));
        }
        chains.push(chain);
    }
    Ok(chains)
}

/// Whether two matches have a rule in common once every list is multiplied out. Two such products
/// meet exactly if the lists meet in every dimension.
fn overlap(a: &FilterChainMatch, b: &FilterChainMatch) -> bool {
    fn meet<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        (a.is_empty() && b.is_empty()) || a.iter().any(|x| b.contains(x))
    }
    a.destination_port == b.destination_port
        && a.transport_protocol == b.transport_protocol
        && a.source_type == b.source_type
        && meet(&a.prefix_ranges, &b.prefix_ranges)
        && meet(&a.server_names, &b.server_names)
        && meet(&a.application_protocols, &b.application_protocols)
        && meet(&a.source_prefix_ranges, &b.source_prefix_ranges)
        && meet(&a.source_ports, &b.source_ports)
}

/// Whether some connection could meet every condition.
fn can_match(matches: &FilterChainMatch) -> bool {
    matches.destination_port.is_none()
        && matches.server_names.is_empty()
        && matches.application_protocols.is_empty()
        && !matches!(matches.transport_protocol, TransportProtocol::Other(_))
}

/// The chain for connections that nothing else takes: it has no conditions of its own.
fn decode_default_chain(at: &At<'_>, mut wire: listener::FilterChain) -> Result<FilterChain> {
    let matches = wire.filter_chain_match.take().unwrap_or_default();
    at.ignore(
        "filter_chain_match",
        matches != listener::FilterChainMatch::default(),
        "the default chain takes whatever is left",
    );
    decode_chain(at, wire)
}

fn decode_chain(at: &At<'_>, wire: listener::FilterChain) -> Result<FilterChain> {
    at.refuse("use_proxy_proto", wire.use_proxy_proto == Some(true))?;
    at.ignore(
        "transport_socket_connect_timeout",
        wire.transport_socket_connect_timeout.is_some(),
        "handshakes have the server's own time limit",
    );
    let matches = wire.filter_chain_match.unwrap_or_default();
    let tls = wire
        .transport_socket
        .map(|socket| decode_downstream(&at.field("transport_socket"), socket));
    Ok(FilterChain {
        name: wire.name,
        matches: decode_match(&at.field("filter_chain_match"), matches)?,
        tls: tls.transpose()?,
        http: decode_network_filters(at, wire.filters)?,
    })
}

/// The first connection manager takes the calls. More of them may follow; they must be valid but
/// see nothing (gRFC A36).
fn decode_network_filters(
    at: &At<'_>,
    wire: Vec<listener::Filter>,
) -> Result<HttpConnectionManager> {
    let mut names = BTreeSet::new();
    let mut http = None;
    for (i, filter) in wire.into_iter().enumerate() {
        let at = at.item("filters", i);
        let name = at.field("name").text(filter.name)?;
        if !names.insert(name.clone()) {
            return Err(at.field("name").fault(Reason::Duplicate(name)));
        }
        let manager = unpack_network_filter(&at, filter.config_type)?;
        let at = at.field("typed_config");
        if http.is_some() {
            decode_chain_of_filters(&at, Side::Server, manager.http_filters)?;
            at.note("the HTTP connection manager before it takes all calls");
        } else {
            http = Some(decode_http(&at, Side::Server, manager)?);
        }
    }
    http.ok_or_else(|| at.field("filters").fault(Reason::Empty))
}

fn unpack_network_filter(
    at: &At<'_>,
    wire: Option<filter::ConfigType>,
) -> Result<hcm::HttpConnectionManager> {
    let at = at.field("typed_config");
    match wire {
        Some(filter::ConfigType::TypedConfig(any)) if any.is::<hcm::HttpConnectionManager>() => {
            at.unpack(&any)
        }
        Some(filter::ConfigType::TypedConfig(any)) => {
            Err(at.unsupported(format!("the network filter {}", any.type_name())))
        }
        Some(filter::ConfigType::ConfigDiscovery(_)) => {
            Err(at.unsupported("discovery of filter configurations"))
        }
        None => Err(at.fault(Reason::Missing)),
    }
}

fn decode_match(at: &At<'_>, wire: listener::FilterChainMatch) -> Result<FilterChainMatch> {
    at.refuse("address_suffix", !wire.address_suffix.is_empty())?;
    at.refuse("suffix_len", wire.suffix_len.is_some())?;
    at.refuse(
        "direct_source_prefix_ranges",
        !wire.direct_source_prefix_ranges.is_empty(),
    )?;
    // Zero is no condition.
    let destination_port = wire
        .destination_port
        .filter(|port| *port != 0)
        .map(|port| matched_port(&at.field("destination_port"), port));
    let source_ports = wire.source_ports.into_iter().enumerate();
    let source_ports = source_ports.map(|(i, p)| matched_port(&at.item("source_ports", i), p));
    let lower = |names: Vec<String>| names.into_iter().map(|n| n.to_ascii_lowercase()).collect();
    Ok(FilterChainMatch {
        destination_port: destination_port.transpose()?,
        prefix_ranges: decode_ranges(at, "prefix_ranges", wire.prefix_ranges)?,
        server_names: distinct(at, "server_names", lower(wire.server_names))?,
        transport_protocol: match wire.transport_protocol.as_str() {
            "" => TransportProtocol::Any,
            "raw_buffer" => TransportProtocol::RawBuffer,
            "tls" => TransportProtocol::Tls,
            _ => TransportProtocol::Other(wire.transport_protocol),
        },
        application_protocols: distinct(at, "application_protocols", wire.application_protocols)?,
        source_type: decode_source_type(&at.field("source_type"), wire.source_type)?,
        source_prefix_ranges: decode_ranges(at, "source_prefix_ranges", wire.source_prefix_ranges)?,
        source_ports: distinct(at, "source_ports", source_ports.collect::<Result<_>>()?)?,
    })
}

fn matched_port(at: &At<'_>, wire: u32) -> Result<u16> {
    match at.port(wire)? {
        0 => Err(at.out_of_range(0, "a port from 1 to 65535")),
        port => Ok(port),
    }
}

/// A repeated value would multiply out to two equal rules.
fn distinct<T: PartialEq + std::fmt::Debug>(
    at: &At<'_>,
    field: &'static str,
    values: Vec<T>,
) -> Result<Vec<T>> {
    for (i, value) in values.iter().enumerate() {
        if values[..i].contains(value) {
            let place = at.item(field, i);
            return Err(place.rule(format!("{value:?} appears twice")));
        }
    }
    Ok(values)
}

fn decode_source_type(at: &At<'_>, wire: i32) -> Result<SourceType> {
    match ConnectionSourceType::try_from(wire) {
        Ok(ConnectionSourceType::Any) => Ok(SourceType::Any),
        Ok(ConnectionSourceType::SameIpOrLoopback) => Ok(SourceType::SameIpOrLoopback),
        Ok(ConnectionSourceType::External) => Ok(SourceType::External),
        Err(_) => Err(at.out_of_range(wire, "ANY, SAME_IP_OR_LOOPBACK or EXTERNAL")),
    }
}

fn decode_ranges(
    at: &At<'_>,
    field: &'static str,
    wire: Vec<core::CidrRange>,
) -> Result<Vec<CidrRange>> {
    let ranges = wire.into_iter().enumerate().map(|(i, range)| {
        let at = at.item(field, i);
        decode_range(&at, &range)
    });
    distinct(at, field, ranges.collect::<Result<_>>()?)
}

fn decode_range(at: &At<'_>, wire: &core::CidrRange) -> Result<CidrRange> {
    let place = at.field("address_prefix");
    let prefix = decode_ip(&place, &wire.address_prefix)?;
    let (longest, expected) = match prefix {
        IpAddr::V4(_) => (32, "0 to 32"),
        // Its length could mean bits of either family.
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            return Err(place.rule(format!("{v6} must be written as an IPv4 address")));
        }
        IpAddr::V6(_) => (128, "0 to 128"),
    };
    let len = wire.prefix_len.unwrap_or(0);
    if len > longest {
        return Err(at.field("prefix_len").out_of_range(len, expected));
    }
    Ok(CidrRange::new(prefix, len))
}

pub(super) fn encode(name: &str, server: &ServerListener) -> listener::Listener {
    let encode_chain = |chain| encode_chain(name, chain);
    listener::Listener {
        name: name.to_owned(),
        address: Some(encode_socket_address(server.address)),
        filter_chains: server.filter_chains.iter().map(encode_chain).collect(),
        default_filter_chain: server.default_filter_chain.as_ref().map(encode_chain),
        traffic_direction: core::TrafficDirection::Inbound as i32,
        ..Default::default()
    }
}

fn encode_chain(listener: &str, chain: &FilterChain) -> listener::FilterChain {
    let matches = encode_match(&chain.matches);
    listener::FilterChain {
        filter_chain_match: (matches != listener::FilterChainMatch::default()).then_some(matches),
        filters: vec![listener::Filter {
            name: HTTP_FILTER_NAME.to_owned(),
            config_type: Some(filter::ConfigType::TypedConfig(Any::pack(&encode_http(
                listener,
                &chain.http,
            )))),
        }],
        transport_socket: chain.tls.as_ref().map(encode_downstream),
        name: chain.name.clone(),
        ..Default::default()
    }
}

fn encode_match(matches: &FilterChainMatch) -> listener::FilterChainMatch {
    let encode_ranges = |ranges: &[CidrRange]| {
        let encode = |range: &CidrRange| core::CidrRange {
            address_prefix: range.prefix.to_string(),
            prefix_len: Some(range.len.into()),
        };
        ranges.iter().map(encode).collect()
    };
    listener::FilterChainMatch {
        destination_port: matches.destination_port.map(u32::from),
        prefix_ranges: encode_ranges(&matches.prefix_ranges),
        server_names: matches.server_names.clone(),
        transport_protocol: match &matches.transport_protocol {
            TransportProtocol::Any => String::new(),
            TransportProtocol::RawBuffer => "raw_buffer".to_owned(),
            TransportProtocol::Tls => "tls".to_owned(),
            TransportProtocol::Other(other) => other.clone(),
        },
        application_protocols: matches.application_protocols.clone(),
        source_type: match matches.source_type {
            SourceType::Any => ConnectionSourceType::Any,
            SourceType::SameIpOrLoopback => ConnectionSourceType::SameIpOrLoopback,
            SourceType::External => ConnectionSourceType::External,
        } as i32,
        source_prefix_ranges: encode_ranges(&matches.source_prefix_ranges),
        source_ports: matches
            .source_ports
            .iter()
            .copied()
            .map(u32::from)
            .collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
