//! What a client is told of the other side, and where certificates lie.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

/// Where the servers and the control plane are.
pub struct Lab {
    /// `host:port` of each server; for a sidecar, its own.
    pub servers: Vec<String>,
    /// `host:port` of the control plane; empty if there is none.
    pub control: String,
    /// The service to call, as the control plane knows it.
    pub service: String,
    /// The service that the client is.
    pub node: String,
}

impl Lab {
    /// Reads `{"servers": [...], "control": "...", "service": "...", "node": "..."}`.
    ///
    /// # Errors
    /// The text is no such object, or has no servers.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("--lab")?;
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let servers = value["servers"].as_array().context("--lab: no servers")?;
        Ok(Self {
            servers: servers
                .iter()
                .filter_map(|server| Some(server.as_str()?.to_owned()))
                .collect(),
            control: text("control"),
            service: text("service"),
            node: text("node"),
        })
    }

    /// The bootstrap file of a process in the mesh; `scheme` comes before the control plane's
    /// address, for those that want one.
    #[must_use]
    pub fn bootstrap(&self, scheme: &str, certificates: Option<&Certificates>) -> String {
        let mut content = json!({
            "xds_servers": [{
                "server_uri": format!("{scheme}{}", self.control),
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": "bench", "cluster": self.node},
            "server_listener_resource_name_template":
                "grpc/server?xds.resource.listening_address=%s",
        });
        if let Some(certificates) = certificates {
            content["certificate_providers"] = json!({"default": {
                "plugin_name": "file_watcher",
                "config": {
                    "certificate_file": certificates.file("certificate.pem"),
                    "private_key_file": certificates.file("key.pem"),
                    "ca_certificate_file": certificates.file("roots.pem"),
                    "refresh_interval": "600s",
                },
            }});
        }
        content.to_string()
    }
}

/// A folder with `certificate.pem`, `key.pem` and `roots.pem`.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Those of this folder. They are read when they are needed.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let file = self.file(name);
        std::fs::read_to_string(&file).with_context(|| file.display().to_string())
    }

    fn identity(&self) -> Result<Identity> {
        Ok(Identity::from_pem(
            self.read("certificate.pem")?,
            self.read("key.pem")?,
        ))
    }

    fn roots(&self) -> Result<Certificate> {
        Ok(Certificate::from_pem(self.read("roots.pem")?))
    }

    /// A plain tonic client's side of mutual TLS.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of_client(&self) -> Result<ClientTlsConfig> {
        let tls = ClientTlsConfig::new().identity(self.identity()?);
        Ok(tls.ca_certificate(self.roots()?))
    }

    /// A plain tonic server's side of it.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of_server(&self) -> Result<ServerTlsConfig> {
        let tls = ServerTlsConfig::new().identity(self.identity()?);
        Ok(tls.client_ca_root(self.roots()?))
    }
}
