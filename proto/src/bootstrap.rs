//! The gRPC xDS bootstrap file, parsed: where the control plane is and who this process is.
//!
//! Only the text is read here; finding it (`GRPC_XDS_BOOTSTRAP`, `GRPC_XDS_BOOTSTRAP_CONFIG`) is
//! the caller's. Keys that Sidestep does not know are allowed and listed in
//! [`Bootstrap::ignored`], because a misspelt key looks the same.

mod json;
mod name;
mod parse;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use name::NameError;

use crate::code::{self, Code};
use crate::wire::core;

/// A parsed bootstrap.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    /// `xds_servers`: the control plane's servers, most preferred first; not empty.
    pub servers: Vec<Server>,
    /// `node`: who this process is.
    pub node: Node,
    /// `certificate_providers` by instance name (gRFC A29). Default: none.
    pub certificate_providers: BTreeMap<String, CertificateProviderConfig>,
    /// `server_listener_resource_name_template` (gRFC A36); `%s` is the listening address.
    /// Without it no server can start.
    pub server_listener_template: Option<String>,
    /// `client_default_listener_resource_name_template` (gRFC A47); `%s` is the target.
    /// Default `%s`.
    pub client_listener_template: String,
    /// `authorities` by name (gRFC A47). Default: none.
    pub authorities: BTreeMap<String, Authority>,
    /// JSON paths of keys and entries that are not read.
    pub ignored: Vec<String>,
}

/// An entry of `xds_servers`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// `server_uri`: a gRPC target URI.
    pub uri: String,
    /// The first entry of `channel_creds` that is supported.
    pub credentials: Credentials,
    /// `server_features`.
    pub features: ServerFeatures,
}

/// How the connection to a control-plane server is secured.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// Type `insecure`: plaintext.
    Insecure,
    /// Type `tls` (gRFC A65). The files are read again after each `refresh_interval`.
    Tls {
        /// Trusted roots, PEM. Default: the system's.
        ca_certificate_file: Option<PathBuf>,
        /// This process's certificate chain, PEM; only together with the key.
        certificate_file: Option<PathBuf>,
        /// The key of the certificate, PEM.
        private_key_file: Option<PathBuf>,
        /// Default 600 s.
        refresh_interval: Duration,
    },
}

/// `server_features` that change what this process does; `xds_v3` and unknown ones do not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ServerFeatures {
    /// Keeps resources that the server deletes (gRFC A53).
    pub ignore_resource_deletion: bool,
    /// The server may rewrite authorities (gRFC A81).
    pub trusted_xds_server: bool,
    /// Drops a cached resource on a data error (gRFC A88).
    pub fail_on_data_errors: bool,
    /// A resource that does not come in time is a passing trouble (gRFC A88).
    pub resource_timer_is_transient_error: bool,
}

/// `node`: who this process is, as sent to the control plane. All parts may be empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// `id`.
    pub id: String,
    /// `cluster`: the group of processes it belongs to.
    pub cluster: String,
    /// `locality`: where it runs.
    pub locality: crate::resource::Locality,
    /// `metadata`: anything the control plane wants to know.
    pub metadata: prost_types::Struct,
}

/// An entry of `certificate_providers`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateProviderConfig {
    /// Plugin `file_watcher`: PEM files that are read again after each `refresh_interval`. The
    /// certificate and key, or the roots, or all three are there.
    FileWatcher {
        /// Certificate chain; only together with the key.
        certificate_file: Option<PathBuf>,
        /// Its key.
        private_key_file: Option<PathBuf>,
        /// Trusted roots.
        ca_certificate_file: Option<PathBuf>,
        /// Default 600 s.
        refresh_interval: Duration,
    },
    /// A plugin that is not there. It is an error only where a resource refers to it.
    Unsupported {
        /// `plugin_name`; empty where it is not said.
        plugin_name: String,
    },
}

/// An entry of `authorities` (gRFC A47).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    /// `client_listener_resource_name_template`. Default
    /// `xdstp://NAME/envoy.config.listener.v3.Listener/%s`.
    pub client_listener_template: String,
    /// `xds_servers`. Default: the bootstrap's own.
    pub servers: Vec<Server>,
}

/// Why a bootstrap was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapError {
    /// The text is not JSON.
    #[error("line {line}, column {column}: {reason}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// A required key is not there.
    #[error("{path}: is required")]
    Missing {
        /// Where: `xds_servers[0].server_uri`.
        path: String,
    },
    /// No entry of `channel_creds` is of a type that there is.
    #[error("{path}: none of the types is supported: {found}")]
    Credentials {
        /// Where: `xds_servers[0].channel_creds`.
        path: String,
        /// The types that stand there.
        found: String,
    },
    /// A value that is wrong.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where: `xds_servers[0].channel_creds`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
}

impl BootstrapError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NotJson { .. } => code::BOOTSTRAP_NOT_JSON,
            Self::Missing { .. } => code::BOOTSTRAP_MISSING_KEY,
            Self::Credentials { .. } => code::BOOTSTRAP_CREDENTIALS,
            Self::Invalid { .. } => code::BOOTSTRAP_BAD_VALUE,
        }
    }
}

/// How this client names itself to the control plane.
const USER_AGENT: &str = "sidestep";
/// What it does that a server must know of.
const CLIENT_FEATURES: [&str; 2] = [
    "envoy.lb.does_not_support_overprovisioning",
    "xds.config.resource-in-sotw",
];

impl Bootstrap {
    /// Parses the text of a bootstrap file.
    ///
    /// # Errors
    /// The text is not JSON, a required key is missing or a value is wrong, with its place.
    pub fn parse(json: &str) -> Result<Self, BootstrapError> {
        parse::bootstrap(json)
    }

    /// The name of the Listener for a client's target: `authority` and `target` are those of
    /// `xds://authority/target`, the target without its leading slash (gRFC A47).
    ///
    /// # Errors
    /// The bootstrap has no such authority.
    pub fn client_listener_name(
        &self,
        authority: Option<&str>,
        target: &str,
    ) -> Result<String, NameError> {
        let template = match authority.filter(|name| !name.is_empty()) {
            None => &self.client_listener_template,
            Some(name) => match self.authorities.get(name) {
                Some(authority) => &authority.client_listener_template,
                None => return Err(NameError::UnknownAuthority(name.to_owned())),
            },
        };
        Ok(name::fill(template, target))
    }

    /// The name of the Listener for a server that listens on `address`, an IP address and port,
    /// IPv6 in brackets (gRFC A36).
    ///
    /// # Errors
    /// The bootstrap has no `server_listener_resource_name_template`.
    pub fn server_listener_name(&self, address: &str) -> Result<String, NameError> {
        let template = self.server_listener_template.as_ref();
        let template = template.ok_or(NameError::NoServerTemplate)?;
        Ok(name::fill(template, address))
    }

    /// The node as it is sent, with the name, version and features of this client.
    #[must_use]
    pub fn wire_node(&self, user_agent_version: &str) -> core::Node {
        let node = &self.node;
        let locality = &node.locality;
        core::Node {
            id: node.id.clone(),
            cluster: node.cluster.clone(),
            metadata: (!node.metadata.fields.is_empty()).then(|| node.metadata.clone()),
            locality: (*locality != Default::default()).then(|| core::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            user_agent_name: USER_AGENT.to_owned(),
            user_agent_version_type: Some(core::node::UserAgentVersionType::UserAgentVersion(
                user_agent_version.to_owned(),
            )),
            client_features: CLIENT_FEATURES.map(str::to_owned).to_vec(),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests;
