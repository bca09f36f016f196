//! A whole configuration for an Envoy beside a service: explicit ports, everything else by ADS.
//!
//! Egress ports send what the application dials through the mesh's routes; ingress ports take
//! what others call, ask for their certificates, and hand it to the application. Nothing is
//! captured: the application dials the egress port by itself.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;

use serde_json::{Value, json};

use super::{Certificates, Process, RequestError, ServerAddress};

const CONTROL_PLANE: &str = "control-plane";

/// What an Envoy does beside its service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Ports that the application dials.
    pub egress: Vec<Egress>,
    /// Ports that others dial.
    pub ingress: Vec<Ingress>,
    /// Whether it also takes the listeners among the mesh file's `resources`.
    pub lds: bool,
    /// Its admin interface; on loopback.
    pub admin: SocketAddr,
    /// How it speaks to the control plane.
    pub protocol: Protocol,
}

/// A port on loopback whose calls go to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Where the application dials; 0 takes any free one.
    pub port: u16,
    /// Whose routes its calls take.
    pub service: String,
}

/// A port whose calls go to the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingress {
    /// Where others dial.
    pub listen: SocketAddr,
    /// The application's own port, on 127.0.0.1.
    pub application: u16,
}

/// The form of ADS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Only what changes.
    Delta,
    /// State of the world.
    Sotw,
}

impl FromStr for Egress {
    type Err = String;

    /// `PORT=SERVICE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?}: expected PORT=SERVICE, such as 15001=greeter");
        let (port, service) = text.split_once('=').ok_or_else(bad)?;
        if service.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            port: port.parse().map_err(|_| bad())?,
            service: service.to_owned(),
        })
    }
}

impl FromStr for Ingress {
    type Err = String;

    /// `[IP:]PORT=APPLICATION-PORT`; without an IP address all of the machine.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?}: expected [IP:]PORT=PORT, such as 50051=8080");
        let (listen, application) = text.split_once('=').ok_or_else(bad)?;
        let everywhere = IpAddr::from([0, 0, 0, 0]);
        let port = listen
            .parse::<u16>()
            .map(|p| SocketAddr::new(everywhere, p));
        Ok(Self {
            listen: port.or_else(|_| listen.parse()).map_err(|_| bad())?,
            application: application.parse().map_err(|_| bad())?,
        })
    }
}

/// Whether the ports make sense together.
///
/// # Errors
/// There is none, one is there twice, or one is open to other machines that must not be.
pub fn check(process: &Process, sidecar: &Sidecar, insecure: bool) -> Result<(), RequestError> {
    if sidecar.egress.is_empty() && sidecar.ingress.is_empty() && !sidecar.lds {
        return Err(RequestError::NoPorts);
    }
    if !sidecar.admin.ip().is_loopback() {
        return Err(RequestError::OpenAdmin(sidecar.admin));
    }
    let mut seen = HashSet::new();
    let egress = sidecar.egress.iter().map(|egress| egress.port);
    let ingress = sidecar.ingress.iter().map(|ingress| ingress.listen.port());
    for port in egress.chain(ingress).chain([sidecar.admin.port()]) {
        if port != 0 && !seen.insert(port) {
            return Err(RequestError::SamePort(port));
        }
    }
    let open = |ingress: &&Ingress| !ingress.listen.ip().is_loopback();
    match sidecar.ingress.iter().find(open) {
        Some(ingress) if process.certificates.is_none() && !insecure => {
            Err(RequestError::PlaintextIngress(ingress.listen))
        }
        _ => Ok(()),
    }
}

/// The configuration, for `envoy --config-path`.
#[must_use]
pub fn config(process: &Process, sidecar: &Sidecar) -> Value {
    let egress = sidecar.egress.iter().map(egress_listener);
    let ingress = sidecar
        .ingress
        .iter()
        .map(|ingress| ingress_listener(process, ingress));
    let listeners: Vec<Value> = egress.chain(ingress).collect();
    let applications = sidecar
        .ingress
        .iter()
        .map(|ingress| application(ingress.application));
    let clusters: Vec<Value> = [control_plane(process)]
        .into_iter()
        .chain(applications)
        .collect();
    let api_type = match sidecar.protocol {
        Protocol::Delta => "DELTA_GRPC",
        Protocol::Sotw => "GRPC",
    };
    let mut dynamic = json!({
        "ads_config": {
            "api_type": api_type,
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_PLANE}}],
        },
        "cds_config": ads(),
    });
    if sidecar.lds {
        dynamic["lds_config"] = ads();
    }
    json!({
        "node": process.node(),
        "admin": {"address": socket_address(sidecar.admin)},
        "dynamic_resources": dynamic,
        "static_resources": {
            "listeners": listeners,
            "clusters": clusters,
            "secrets": secrets(process),
        },
    })
}

/// The secrets that our control plane's clusters name where it tells gRPC a certificate provider.
fn secrets(process: &Process) -> Vec<Value> {
    let Some(certificates) = &process.certificates else {
        return Vec::new();
    };
    vec![
        json!({"name": "default", "tls_certificate": certificate(certificates)}),
        json!({
            "name": "default-roots",
            "validation_context": {"trusted_ca": file(&certificates.roots)},
        }),
    ]
}

fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn egress_listener(egress: &Egress) -> Value {
    let routes = json!({"rds": {"route_config_name": egress.service, "config_source": ads()}});
    json!({
        "name": format!("egress-{}", egress.service),
        "address": socket_address(([127, 0, 0, 1], egress.port).into()),
        "filter_chains": [{"filters": [connection_manager("egress", routes)]}],
    })
}

fn ingress_listener(process: &Process, ingress: &Ingress) -> Value {
    let routes = json!({"route_config": {"name": "inbound", "virtual_hosts": [{
        "name": "inbound",
        "domains": ["*"],
        // Deadlines are the callers'; Envoy's own default would end calls after 15 s.
        "routes": [{"match": {"prefix": "/"}, "route": {
            "cluster": application_name(ingress.application),
            "timeout": "0s",
        }}],
    }]}});
    let mut chain = json!({"filters": [connection_manager("ingress", routes)]});
    if let Some(certificates) = &process.certificates {
        chain["transport_socket"] = tls(
            "DownstreamTlsContext",
            json!({
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificates": [certificate(certificates)],
                    "validation_context": {"trusted_ca": file(&certificates.roots)},
                },
                "require_client_certificate": true,
            }),
        );
    }
    json!({
        "name": format!("ingress-{}", ingress.listen.port()),
        "address": socket_address(ingress.listen),
        "filter_chains": [chain],
    })
}

fn connection_manager(name: &str, routes: Value) -> Value {
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "AUTO",
        // A gRPC stream may be silent for long.
        "stream_idle_timeout": "0s",
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    if let (Value::Object(config), Value::Object(routes)) = (&mut config, routes) {
        config.extend(routes);
    }
    json!({"name": "http", "typed_config": config})
}

fn application_name(port: u16) -> String {
    format!("application-{port}")
}

fn application(port: u16) -> Value {
    let name = application_name(port);
    let address = socket_address(([127, 0, 0, 1], port).into());
    cluster(&name, "STATIC", &address)
}

fn control_plane(process: &Process) -> Value {
    let (kind, address) = match &process.server {
        ServerAddress::Unix(path) => ("STATIC", json!({"pipe": {"path": path}})),
        ServerAddress::Tcp { host, port } => {
            let kind = match host.parse::<IpAddr>() {
                Ok(_) => "STATIC",
                Err(_) => "STRICT_DNS",
            };
            let address = json!({"socket_address": {"address": host, "port_value": port}});
            (kind, address)
        }
    };
    let mut cluster = cluster(CONTROL_PLANE, kind, &address);
    if let (Some(certificates), true, ServerAddress::Tcp { host, .. }) =
        (&process.certificates, process.tls, &process.server)
    {
        cluster["transport_socket"] = control_plane_tls(certificates, host);
    }
    cluster
}

/// The server must be made out to the host that is dialled, as gRPC clients demand it.
fn control_plane_tls(certificates: &Certificates, host: &str) -> Value {
    let san_type = match host.parse::<IpAddr>() {
        Ok(_) => "IP_ADDRESS",
        Err(_) => "DNS",
    };
    let mut context = json!({
        "common_tls_context": {
            "tls_certificates": [certificate(certificates)],
            "validation_context": {
                "trusted_ca": file(&certificates.roots),
                "match_typed_subject_alt_names": [
                    {"san_type": san_type, "matcher": {"exact": host}},
                ],
            },
        },
    });
    if san_type == "DNS" {
        context["sni"] = json!(host);
    }
    tls("UpstreamTlsContext", context)
}

fn cluster(name: &str, kind: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "type": kind,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {
                    "connection_keepalive": {"interval": "30s", "timeout": "20s"},
                }},
            },
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": address},
        }]}]},
    })
}

fn tls(kind: &str, mut context: Value) -> Value {
    let base = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.";
    context["@type"] = json!(format!("{base}{kind}"));
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn certificate(files: &Certificates) -> Value {
    json!({
        "certificate_chain": file(&files.certificate),
        "private_key": file(&files.key),
    })
}

fn file(path: &Path) -> Value {
    json!({"filename": path})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(certificates: bool) -> Process {
        let certificates = certificates.then(|| Certificates {
            roots: "/c/ca.pem".into(),
            certificate: "/c/web.pem".into(),
            key: "/c/web.key".into(),
        });
        let server = "mesh.example:18000".parse().expect("an address");
        Process::new("web", server, certificates, true).expect("allowed")
    }

    fn sidecar(egress: &[&str], ingress: &[&str]) -> Sidecar {
        Sidecar {
            egress: egress.iter().map(|e| e.parse().expect("egress")).collect(),
            ingress: ingress
                .iter()
                .map(|i| i.parse().expect("ingress"))
                .collect(),
            lds: false,
            admin: ([127, 0, 0, 1], 9901).into(),
            protocol: Protocol::Delta,
        }
    }

    #[test]
    fn ports_that_make_no_sense_are_refused() {
        let refused = |sidecar: &Sidecar, certificates| {
            check(&process(certificates), sidecar, false)
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(&sidecar(&[], &[]), true).contains("--egress"));
        let twice = sidecar(&["15001=a", "15001=b"], &[]);
        assert!(refused(&twice, true).contains("15001"));
        let admin = sidecar(&["9901=a"], &[]);
        assert!(refused(&admin, true).contains("9901"));
        let open = sidecar(&[], &["50051=8080"]);
        assert!(refused(&open, false).contains("0.0.0.0:50051"));
        assert!(check(&process(true), &open, false).is_ok());
        assert!(check(&process(false), &open, true).is_ok());
        let local = sidecar(&["0=a", "0=b"], &["127.0.0.1:50051=8080"]);
        assert!(check(&process(false), &local, false).is_ok());
        let admin = Sidecar {
            admin: ([0, 0, 0, 0], 9901).into(),
            ..local
        };
        assert!(refused(&admin, true).contains("127.0.0.1"));
    }

    #[test]
    fn ports_are_given_as_port_and_what_they_lead_to() {
        for text in ["", "15001", "x=greeter", "15001="] {
            assert!(text.parse::<Egress>().is_err(), "{text}");
        }
        for text in ["", "50051", "50051=x", "10.0.0.1=1"] {
            assert!(text.parse::<Ingress>().is_err(), "{text}");
        }
        let ingress: Ingress = "[::1]:50051=8080".parse().expect("an address");
        assert_eq!(ingress.listen, "[::1]:50051".parse().expect("an address"));
    }

    #[test]
    fn an_ingress_port_asks_for_certificates_where_there_are_some() {
        let sidecar = sidecar(&[], &["50051=8080"]);
        let with = config(&process(true), &sidecar).to_string();
        assert!(with.contains("require_client_certificate"), "{with}");
        let without = config(&process(false), &sidecar).to_string();
        assert!(!without.contains("tls"), "{without}");
    }
}
