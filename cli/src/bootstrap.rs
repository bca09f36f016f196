//! Bootstrap files: who a process is, where its control plane is, and which certificates it has.
//!
//! [`grpc()`] is the standard file of all gRPC libraries, ours included; [`envoy::config`] is a
//! whole configuration for an Envoy beside a service. Pure, but for [`Certificates::of`], which
//! looks whether the files are there.

pub mod envoy;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde_json::{Value, json};
use sidestep_proto::code::{self, Code};
use sidestep_server::model::Mesh;
use sidestep_server::nearest;

/// How often processes look for new certificates. Leaves of `sidestep cert dev` are renewed in
/// place, and nobody wants to wait long for that.
const REFRESH_INTERVAL: &str = "60s";

/// Under this name the server asks for a listener (gRFC A36); `%s` is its address.
const LISTENER_TEMPLATE: &str = "grpc/server?xds.resource.listening_address=%s";

/// Who a process is and how it reaches the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// `node.cluster`: the service that it is.
    pub service: String,
    /// `node.id`: tells processes of one service apart in `sidestep status`.
    pub node_id: String,
    /// `node.locality.region`; may be empty.
    pub region: String,
    /// `node.locality.zone`; may be empty.
    pub zone: String,
    /// The control plane.
    pub server: ServerAddress,
    /// Its certificates, for peers in the mesh.
    pub certificates: Option<Certificates>,
    /// Whether the stream to the control plane is encrypted (with those certificates).
    pub tls: bool,
}

impl Process {
    /// Decides how the control plane is reached: by TLS where there are certificates, except
    /// through a Unix socket; in plaintext on this machine; further only if `insecure` says so.
    ///
    /// # Errors
    /// The stream would leave this machine in plaintext and nobody allowed it, or the service has
    /// no name.
    pub fn new(
        service: &str,
        server: ServerAddress,
        certificates: Option<Certificates>,
        insecure: bool,
    ) -> Result<Self, RequestError> {
        if service.is_empty() {
            return Err(RequestError::NoService);
        }
        let unix = matches!(server, ServerAddress::Unix(_));
        let tls = certificates.is_some() && !insecure && !unix;
        if !tls && !server.is_local() && !insecure {
            return Err(RequestError::PlaintextToOthers(server));
        }
        Ok(Self {
            service: service.to_owned(),
            node_id: service.to_owned(),
            region: String::new(),
            zone: String::new(),
            server,
            certificates,
            tls,
        })
    }

    fn node(&self) -> Value {
        let mut node = json!({"id": self.node_id, "cluster": self.service});
        let mut locality = serde_json::Map::new();
        for (key, value) in [("region", &self.region), ("zone", &self.zone)] {
            if !value.is_empty() {
                locality.insert(key.to_owned(), json!(value));
            }
        }
        // Also if it is empty: grpc-node takes no node without one.
        node["locality"] = Value::Object(locality);
        node
    }
}

/// Whether the mesh has a service of this name.
///
/// # Errors
/// It has not; the nearest names are in the text.
pub fn check_service(mesh: &Mesh, service: &str) -> Result<(), RequestError> {
    if mesh.services.contains_key(service) {
        return Ok(());
    }
    Err(RequestError::UnknownService {
        service: service.to_owned(),
        hint: nearest::hint(service, mesh.services.keys().map(String::as_str)),
    })
}

/// The bootstrap that grpc-go, gRPC C++ and Python, gRPC Java, grpc-node and Sidestep's runtime read
/// from `GRPC_XDS_BOOTSTRAP`: only keys that all of them take.
#[must_use]
pub fn grpc(process: &Process) -> Value {
    let files = process.certificates.as_ref().map(Certificates::config);
    let credentials = match (&files, process.tls) {
        (Some(files), true) => json!({"type": "tls", "config": files}),
        _ => json!({"type": "insecure"}),
    };
    let mut bootstrap = json!({
        "xds_servers": [{
            "server_uri": process.server.to_string(),
            "channel_creds": [credentials],
            // Older C-core and Java demand it.
            "server_features": ["xds_v3"],
        }],
        "node": process.node(),
    });
    if let Some(files) = files {
        let provider = json!({"plugin_name": "file_watcher", "config": files});
        let instance = sidestep_server::compile::CERTIFICATE_INSTANCE;
        bootstrap["certificate_providers"] = json!({instance: provider});
    }
    bootstrap["server_listener_resource_name_template"] = json!(LISTENER_TEMPLATE);
    bootstrap
}

/// The certificate files of a process; absolute, since it may run anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificates {
    /// The roots that it trusts.
    pub roots: PathBuf,
    /// Its own chain.
    pub certificate: PathBuf,
    /// The key of that.
    pub key: PathBuf,
}

impl Certificates {
    /// Those of `service` in a directory that `sidestep cert dev` wrote: `ca.pem`, `SERVICE.pem`,
    /// `SERVICE.key`.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn of(directory: &Path, service: &str) -> Result<Self, RequestError> {
        let absolute = |name: String| {
            let path = directory.join(name);
            let missing = |source| RequestError::NoCertificate {
                path: path.clone(),
                directory: directory.to_owned(),
                service: service.to_owned(),
                source,
            };
            let absolute = std::path::absolute(&path).map_err(missing)?;
            std::fs::metadata(&absolute).map_err(missing)?;
            Ok(absolute)
        };
        Ok(Self {
            roots: absolute("ca.pem".to_owned())?,
            certificate: absolute(format!("{service}.pem"))?,
            key: absolute(format!("{service}.key"))?,
        })
    }

    fn config(&self) -> Value {
        json!({
            "ca_certificate_file": self.roots,
            "certificate_file": self.certificate,
            "private_key_file": self.key,
            "refresh_interval": REFRESH_INTERVAL,
        })
    }
}

/// Where the control plane is: `HOST:PORT` or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A host name or IP address, and a port.
    Tcp {
        /// Without brackets.
        host: String,
        /// Not 0.
        port: u16,
    },
    /// A Unix socket, absolute.
    Unix(PathBuf),
}

impl ServerAddress {
    /// Whether only this machine can listen in.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                let ip = host.parse::<IpAddr>();
                host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

impl FromStr for ServerAddress {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        let bad = || RequestError::BadServer(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.starts_with('/') {
                true => Ok(Self::Unix(path.into())),
                false => Err(bad()),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let valid = match bracketed {
            Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                !host.is_empty() && host.chars().all(letter)
            }
        };
        if port == 0 || !valid {
            return Err(bad());
        }
        Ok(Self::Tcp {
            host: bracketed.unwrap_or(host).to_owned(),
            port,
        })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl RequestError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownService { .. } => code::NO_SUCH_SERVICE,
            Self::PlaintextToOthers(_) | Self::PlaintextIngress(_) => code::BOOTSTRAP_PLAINTEXT,
            Self::NoCertificate { .. } => code::CERTIFICATE_UNREADABLE,
            Self::BadServer(_)
            | Self::NoService
            | Self::NoPorts
            | Self::SamePort(_)
            | Self::OpenAdmin(_) => code::WRONG_USAGE,
        }
    }
}

/// Why there is no bootstrap.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The control plane's address does not parse.
    #[error("{0:?} is no address of a control plane, expected HOST:PORT or unix:/PATH")]
    BadServer(String),
    /// The process has no service.
    #[error("--service is empty: it is the name of the service that the process is")]
    NoService,
    /// The mesh has no such service.
    #[error("{service:?}: the mesh file has no such service{hint}")]
    UnknownService {
        /// As given.
        service: String,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// Routes, addresses and security settings would travel in the open.
    #[error(
        "{0} is another machine, and the stream to it would not be encrypted: \
         give --certs DIR (`sidestep cert dev` makes them), or say --insecure if the network is trusted"
    )]
    PlaintextToOthers(ServerAddress),
    /// A certificate file is not there.
    #[error(
        "{}: {source}; `sidestep cert dev --out {} {service}` makes it",
        path.display(), directory.display()
    )]
    NoCertificate {
        /// Which.
        path: PathBuf,
        /// As given.
        directory: PathBuf,
        /// Whose.
        service: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// A port of an Envoy would be open to other machines without TLS.
    #[error(
        "--ingress {0}: other machines can reach it, and without --certs it takes plaintext: \
         give --certs DIR, or listen on 127.0.0.1, or say --insecure if the network is trusted"
    )]
    PlaintextIngress(std::net::SocketAddr),
    /// An Envoy would have nothing to do.
    #[error(
        "an Envoy needs a port to listen on: --egress PORT=SERVICE for calls of the application, \
         --ingress PORT=PORT for calls to it, or --lds for listeners of the mesh file's `resources`"
    )]
    NoPorts,
    /// Two listeners of an Envoy on one port.
    #[error("port {0} is given twice")]
    SamePort(u16),
    /// An Envoy's admin port can stop it and shows its configuration.
    #[error(
        "--admin {0}: other machines can reach it, and it asks nobody for a password: use 127.0.0.1"
    )]
    OpenAdmin(std::net::SocketAddr),
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidestep_proto::bootstrap::{Bootstrap, CertificateProviderConfig, Credentials};

    fn server(text: &str) -> ServerAddress {
        text.parse().expect("an address")
    }

    fn certificates() -> Certificates {
        Certificates {
            roots: "/c/ca.pem".into(),
            certificate: "/c/web.pem".into(),
            key: "/c/web.key".into(),
        }
    }

    #[test]
    fn addresses_of_control_planes() {
        for (text, local) in [
            ("127.0.0.1:18000", true),
            ("localhost:18000", true),
            ("[::1]:18000", true),
            ("unix:/run/sidestep.sock", true),
            ("10.0.0.1:18000", false),
            ("[2001:db8::1]:18000", false),
            ("mesh.example:18000", false),
        ] {
            assert_eq!(server(text).to_string(), text);
            assert_eq!(server(text).is_local(), local, "{text}");
        }
        for text in [
            "",
            "host",
            ":1",
            "host:0",
            "host:x",
            "::1:80",
            "unix:x",
            "http://h:1",
        ] {
            let refused = text.parse::<ServerAddress>();
            assert!(matches!(refused, Err(RequestError::BadServer(_))), "{text}");
        }
    }

    #[test]
    fn plaintext_leaves_the_machine_only_by_a_word() {
        let to = |address, certificates, insecure| {
            Process::new("web", server(address), certificates, insecure)
        };
        let refused = to("10.0.0.1:1", None, false);
        assert!(matches!(refused, Err(RequestError::PlaintextToOthers(_))));
        for (address, certificates, insecure, tls) in [
            ("10.0.0.1:1", None, true, false),
            ("10.0.0.1:1", Some(certificates()), false, true),
            ("10.0.0.1:1", Some(certificates()), true, false),
            ("127.0.0.1:1", Some(certificates()), false, true),
            ("127.0.0.1:1", None, false, false),
            ("unix:/s", Some(certificates()), false, false),
        ] {
            let process = to(address, certificates, insecure).expect("allowed");
            assert_eq!(process.tls, tls, "{address} {insecure}");
        }
    }

    #[test]
    fn the_runtime_reads_every_key_of_it() {
        let process = Process {
            region: "eu".to_owned(),
            zone: "a".to_owned(),
            node_id: "web-1".to_owned(),
            ..Process::new("web", server("[::1]:18000"), Some(certificates()), false)
                .expect("allowed")
        };
        let read = Bootstrap::parse(&grpc(&process).to_string()).expect("a bootstrap");
        assert_eq!(read.ignored, [""; 0]);
        assert_eq!(read.servers[0].uri, "[::1]:18000");
        assert_eq!(read.node.id, "web-1");
        assert_eq!(read.node.cluster, "web");
        assert_eq!(read.node.locality.region, "eu");
        assert_eq!(read.node.locality.zone, "a");
        assert!(matches!(
            read.servers[0].credentials,
            Credentials::Tls { .. }
        ));
        let provider = &read.certificate_providers["default"];
        assert!(matches!(
            provider,
            CertificateProviderConfig::FileWatcher { .. }
        ));
        let name = read.server_listener_name("10.0.0.1:1").expect("a template");
        assert!(name.ends_with("=10.0.0.1:1"), "{name}");
    }

    #[test]
    fn a_certificate_that_is_not_there_names_the_command() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Certificates::of(directory.path(), "web").expect_err("none there");
        assert!(
            error.to_string().contains("sidestep cert dev --out"),
            "{error}"
        );
    }
}
