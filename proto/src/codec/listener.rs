//! `envoy.config.listener.v3.Listener` and the connection manager in it.

use std::sync::Arc;
use std::time::Duration;

use super::at::{At, Result, ads, wire_duration};
use super::http_filter::{Side, decode_chain, encode_chain};
use super::{Reason, route_configuration, server_listener};
use crate::resource::name::into_canonical;
use crate::resource::{HttpConnectionManager, Listener, ListenerKind, RouteSource};
use crate::wire::hcm::{self, http_connection_manager::RouteSpecifier};
use crate::wire::{Any, core, listener};

pub(super) fn decode(at: &At<'_>, wire: listener::Listener) -> Result<Listener> {
    let name = wire.name.clone();
    let kind = match wire.api_listener {
        Some(api) => ListenerKind::Api(decode_api(&at.field("api_listener"), api)?),
        None => ListenerKind::Server(server_listener::decode(at, wire)?),
    };
    Ok(Listener { name, kind })
}

fn decode_api(at: &At<'_>, api: listener::ApiListener) -> Result<HttpConnectionManager> {
    let at = at.field("api_listener");
    let any = at.required(api.api_listener)?;
    decode_http(&at, Side::Client, at.unpack(&any)?)
}

/// Reads a connection manager of either side.
pub(super) fn decode_http(
    at: &At<'_>,
    side: Side,
    wire: hcm::HttpConnectionManager,
) -> Result<HttpConnectionManager> {
    // Filters take the peer's address for the caller's, so trusting a forwarded one would let
    // anybody through (gRFC A41).
    at.refuse("xff_num_trusted_hops", wire.xff_num_trusted_hops != 0)?;
    at.refuse(
        "original_ip_detection_extensions",
        !wire.original_ip_detection_extensions.is_empty(),
    )?;
    note_ignored(at, &wire);
    let common = wire.common_http_protocol_options.unwrap_or_default();
    Ok(HttpConnectionManager {
        routes: decode_routes(at, wire.route_specifier)?,
        max_stream_duration: decode_common(&at.field("common_http_protocol_options"), common)?,
        filters: decode_chain(at, side, wire.http_filters)?,
    })
}

fn decode_routes(at: &At<'_>, wire: Option<RouteSpecifier>) -> Result<RouteSource> {
    match wire {
        Some(RouteSpecifier::Rds(rds)) => {
            let at = at.field("rds");
            at.field("config_source").config_source(rds.config_source)?;
            let name = at.field("route_config_name").text(rds.route_config_name)?;
            Ok(RouteSource::Named(into_canonical(name)))
        }
        Some(RouteSpecifier::RouteConfig(routes)) => {
            let routes = route_configuration::decode(&at.field("route_config"), routes)?;
            Ok(RouteSource::Inline(Arc::new(routes)))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            Err(at.field("scoped_routes").unsupported("scoped routes"))
        }
        None => Err(at.field("route_specifier").fault(Reason::Missing)),
    }
}

/// `max_stream_duration` of the connection manager; zero is no limit.
fn decode_common(at: &At<'_>, wire: core::HttpProtocolOptions) -> Result<Option<Duration>> {
    const LIFETIME: &str = "connections have the server's own lifetime";
    at.ignore("idle_timeout", wire.idle_timeout.is_some(), LIFETIME);
    at.ignore(
        "max_connection_duration",
        wire.max_connection_duration.is_some(),
        LIFETIME,
    );
    at.ignore(
        "max_requests_per_connection",
        wire.max_requests_per_connection.is_some(),
        LIFETIME,
    );
    at.ignore(
        "max_headers_count",
        wire.max_headers_count.is_some(),
        "headers are limited by size only",
    );
    at.ignore(
        "headers_with_underscores_action",
        wire.headers_with_underscores_action != 0,
        "such headers are ordinary gRPC metadata",
    );
    let duration = at.optional_duration("max_stream_duration", wire.max_stream_duration)?;
    Ok(duration.filter(|d| !d.is_zero()))
}

fn note_ignored(at: &At<'_>, wire: &hcm::HttpConnectionManager) {
    const TIMEOUT: &str = "calls end by their deadline and max_stream_duration only";
    at.ignore(
        "stream_idle_timeout",
        wire.stream_idle_timeout.is_some(),
        TIMEOUT,
    );
    at.ignore("request_timeout", wire.request_timeout.is_some(), TIMEOUT);
    at.ignore(
        "request_headers_timeout",
        wire.request_headers_timeout.is_some(),
        TIMEOUT,
    );
    at.ignore(
        "drain_timeout",
        wire.drain_timeout.is_some(),
        "draining has the server's own grace period",
    );
    at.ignore(
        "http2_protocol_options",
        wire.http2_protocol_options.is_some(),
        "HTTP/2 is tuned in the process",
    );
    at.ignore(
        "server_name",
        !wire.server_name.is_empty(),
        "responses carry no server header",
    );
    at.ignore("via", !wire.via.is_empty(), "no via header is added");
    at.ignore(
        "generate_request_id",
        wire.generate_request_id == Some(true),
        "no request id is added",
    );
    at.ignore(
        "use_remote_address",
        wire.use_remote_address == Some(true),
        "no forwarded-for header is read or written",
    );
    at.ignore(
        "upgrade_configs",
        !wire.upgrade_configs.is_empty(),
        "gRPC has no upgrades",
    );
    at.ignore(
        "normalize_path",
        wire.normalize_path == Some(true),
        "gRPC paths are compared as they are",
    );
    at.ignore(
        "merge_slashes",
        wire.merge_slashes,
        "gRPC paths are compared as they are",
    );
    at.ignore(
        "strip_port_mode",
        wire.strip_port_mode.is_some(),
        "the authority is compared as it is",
    );
    at.ignore(
        "strip_matching_host_port",
        wire.strip_matching_host_port,
        "the authority is compared as it is",
    );
    at.ignore(
        "early_header_mutation_extensions",
        !wire.early_header_mutation_extensions.is_empty(),
        "headers are not changed",
    );
}

pub(super) fn encode(listener: &Listener) -> listener::Listener {
    match &listener.kind {
        ListenerKind::Api(http) => listener::Listener {
            name: listener.name.clone(),
            api_listener: Some(listener::ApiListener {
                api_listener: Some(Any::pack(&encode_http(&listener.name, http))),
            }),
            ..Default::default()
        },
        ListenerKind::Server(server) => server_listener::encode(&listener.name, server),
    }
}

/// Writes a connection manager; `stat_prefix` is what Envoy demands a name for its metrics for.
pub(super) fn encode_http(
    stat_prefix: &str,
    http: &HttpConnectionManager,
) -> hcm::HttpConnectionManager {
    let routes = match &http.routes {
        RouteSource::Named(name) => RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: name.clone(),
        }),
        RouteSource::Inline(routes) => {
            RouteSpecifier::RouteConfig(route_configuration::encode(routes))
        }
    };
    let max_stream_duration = http.max_stream_duration.map(wire_duration);
    hcm::HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(routes),
        http_filters: encode_chain(&http.filters),
        common_http_protocol_options: max_stream_duration.map(|d| core::HttpProtocolOptions {
            max_stream_duration: Some(d),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
