//! Envoy at its leanest, as a sidecar: the router is its only filter, and it logs no calls.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::peers::Peers;
use super::processor;
use crate::interop::{Envoy, eventually};

/// A running sidecar.
pub(super) struct Sidecar {
    envoy: Envoy,
    /// Where it listens: for each way through, its own port.
    pub(super) listeners: Vec<String>,
}

impl Sidecar {
    pub(super) fn id(&self) -> u32 {
        self.envoy.id()
    }
}

/// A port of the sidecar, and the servers behind it.
pub(super) struct Way<'a> {
    pub(super) servers: &'a [String],
}

/// Who holds a certificate, and which identity the other end must have.
pub(super) struct Tls<'a> {
    /// The folder with the sidecar's own certificate, key and roots.
    pub(super) own: &'a Path,
    /// The SPIFFE ID of the other end.
    pub(super) peer: String,
}

/// Where a sidecar stands, which decides on which end of it TLS is.
pub(super) enum Side<'a> {
    /// With the client: TLS to the servers.
    Client(Option<Tls<'a>>),
    /// With the servers: TLS from the clients.
    Servers(Option<Tls<'a>>),
}

/// Starts one with a single worker on one processor; its files go to `folder`.
pub(super) fn start(
    peers: &Peers,
    folder: &Path,
    side: &Side<'_>,
    ways: &[Way<'_>],
    core: usize,
) -> Result<Sidecar> {
    fs::create_dir_all(folder)?;
    let file = folder.join("envoy.json");
    fs::write(&file, configuration(side, ways)?.to_string())?;
    let envoy = Envoy::by_file(&peers.envoy, folder, &file)?;
    processor::pin(envoy.id(), core)?;
    let listeners = eventually(|| listeners(&envoy, ways.len()))?;
    Ok(Sidecar { envoy, listeners })
}

/// The addresses of all of them, in the order of the ways.
fn listeners(envoy: &Envoy, count: usize) -> Result<Vec<String>> {
    let answer = envoy.admin("/listeners?format=json")?;
    let all = answer["listener_statuses"].as_array().context("a list")?;
    ensure!(all.len() == count, "{} of {count} listeners", all.len());
    let address = |number: usize| -> Result<String> {
        let name = listener_name(number);
        let found = all.iter().find(|status| status["name"] == name);
        let address = &found.context("a listener")?["local_address"]["socket_address"];
        let port = address["port_value"].as_u64().context("a port")?;
        Ok(format!("127.0.0.1:{port}"))
    };
    (0..count).map(address).collect()
}

fn listener_name(way: usize) -> String {
    format!("way-{way}")
}

fn configuration(side: &Side<'_>, ways: &[Way<'_>]) -> Result<Value> {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (number, way) in ways.iter().enumerate() {
        let name = listener_name(number);
        listeners.push(listener(&name, downstream(side)));
        clusters.push(cluster(&name, way.servers, upstream(side))?);
    }
    Ok(json!({
        "admin": {"address": socket("127.0.0.1", 0)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }))
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn listener(name: &str, transport: Option<Value>) -> Value {
    let mut chain = json!({"filters": [{
        "name": "http",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "codec_type": "HTTP2",
            "route_config": {"name": name, "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": {"prefix": "/"},
                    "route": {"cluster": name, "timeout": "60s"},
                }],
            }]},
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        },
    }]});
    if let Some(transport) = transport {
        chain["transport_socket"] = transport;
    }
    json!({"name": name, "address": socket("127.0.0.1", 0), "filter_chains": [chain]})
}

fn cluster(name: &str, servers: &[String], transport: Option<Value>) -> Result<Value> {
    let mut endpoints = Vec::new();
    for server in servers {
        let (address, port) = server.rsplit_once(':').context("host:port")?;
        endpoints.push(json!({"endpoint": {"address": socket(address, port.parse()?)}}));
    }
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            },
        },
    });
    if let Some(transport) = transport {
        cluster["transport_socket"] = transport;
    }
    Ok(cluster)
}

/// TLS from the clients.
fn downstream(side: &Side<'_>) -> Option<Value> {
    let Side::Servers(Some(tls)) = side else {
        return None;
    };
    Some(json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": context(tls),
        },
    }))
}

/// TLS to the servers.
fn upstream(side: &Side<'_>) -> Option<Value> {
    let Side::Client(Some(tls)) = side else {
        return None;
    };
    Some(json!({
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": context(tls),
        },
    }))
}

/// TLS 1.3, as everybody else speaks here.
fn context(tls: &Tls<'_>) -> Value {
    let file = |name: &str| json!({"filename": tls.own.join(name)});
    json!({
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{
            "certificate_chain": file("certificate.pem"),
            "private_key": file("key.pem"),
        }],
        "validation_context": {
            "trusted_ca": file("roots.pem"),
            "match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": tls.peer}},
            ],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_on_the_side_of_the_network() {
        let servers = ["127.0.0.1:7".to_owned()];
        let ways = [Way { servers: &servers }];
        let tls = || {
            Some(Tls {
                own: Path::new("/certificates"),
                peer: "spiffe://bench.example/sa/echo".to_owned(),
            })
        };
        let of = |side| {
            let all = configuration(&side, &ways).unwrap()["static_resources"].take();
            let from = &all["listeners"][0]["filter_chains"][0]["transport_socket"];
            let to = &all["clusters"][0]["transport_socket"];
            (from.is_object(), to.is_object())
        };
        assert_eq!(of(Side::Client(tls())), (false, true));
        assert_eq!(of(Side::Servers(tls())), (true, false));
        assert_eq!(of(Side::Servers(None)), (false, false));
    }
}
