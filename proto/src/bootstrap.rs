//! The gRPC xDS bootstrap file, parsed: where the control plane is and who this process is.
//!
//! Only the text is read here; finding it (`GRPC_XDS_BOOTSTRAP`, `GRPC_XDS_BOOTSTRAP_CONFIG`) is
//! the caller's. Keys that Sidestep does not know are allowed and listed in
//! [`Bootstrap::ignored`], because a misspelt key looks the same.

mod json;
mod name;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

pub use name::NameError;

use crate::wire::core;
use json::Json;

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
        /// `plugin_name`.
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
    /// A value that is missing or wrong.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where: `xds_servers[0].channel_creds`.
        path: String,
        /// What is wrong there.
        reason: String,
    },
}

/// How this client names itself to the control plane.
const USER_AGENT: &str = "sidestep";
/// What it does that a server must know of.
const CLIENT_FEATURES: [&str; 2] = [
    "envoy.lb.does_not_support_overprovisioning",
    "xds.config.resource-in-sotw",
];
const DEFAULT_REFRESH: Duration = Duration::from_secs(600);

impl Bootstrap {
    /// Parses the text of a bootstrap file.
    ///
    /// # Errors
    /// The text is not JSON, a required key is missing or a value is wrong, with its place.
    pub fn parse(json: &str) -> Result<Self, BootstrapError> {
        let value: Value = serde_json::from_str(json).map_err(|e| BootstrapError::NotJson {
            line: e.line(),
            column: e.column(),
            reason: reason_without_position(&e),
        })?;
        let mut ignored = Vec::new();
        let mut root = Json::root(&value).object()?;
        let servers = parse_servers(&root.required("xds_servers")?, &mut ignored)?;
        let bootstrap = Self {
            node: root
                .optional("node")
                .map(|node| parse_node(&node, &mut ignored))
                .transpose()?
                .unwrap_or_default(),
            certificate_providers: root
                .entries("certificate_providers")?
                .into_iter()
                .map(|(name, json)| Ok((name, parse_provider(&json, &mut ignored)?)))
                .collect::<Result<_, _>>()?,
            server_listener_template: root
                .optional("server_listener_resource_name_template")
                .map(|t| t.text())
                .transpose()?,
            client_listener_template: root
                .optional("client_default_listener_resource_name_template")
                .map(|t| t.text())
                .transpose()?
                .unwrap_or_else(|| "%s".to_owned()),
            authorities: root
                .entries("authorities")?
                .into_iter()
                .map(|(name, json)| {
                    let authority = parse_authority(&name, &json, &servers, &mut ignored)?;
                    Ok((name, authority))
                })
                .collect::<Result<_, _>>()?,
            servers,
            ignored: Vec::new(),
        };
        root.unread(&mut ignored);
        Ok(Self {
            ignored,
            ..bootstrap
        })
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

/// The parser puts line and column into its text; they stand in fields of their own.
fn reason_without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

fn parse_servers(
    json: &Json<'_>,
    ignored: &mut Vec<String>,
) -> Result<Vec<Server>, BootstrapError> {
    let servers = json.items()?;
    if servers.is_empty() {
        return Err(json.invalid("must not be empty"));
    }
    servers.iter().map(|s| parse_server(s, ignored)).collect()
}

fn parse_server(json: &Json<'_>, ignored: &mut Vec<String>) -> Result<Server, BootstrapError> {
    let mut server = json.object()?;
    let parsed = Server {
        uri: server.required("server_uri")?.filled_text()?,
        credentials: parse_credentials(&server.required("channel_creds")?, ignored)?,
        features: match server.optional("server_features") {
            Some(features) => parse_features(&features, ignored)?,
            None => ServerFeatures::default(),
        },
    };
    server.unread(ignored);
    Ok(parsed)
}

fn parse_features(
    json: &Json<'_>,
    ignored: &mut Vec<String>,
) -> Result<ServerFeatures, BootstrapError> {
    let mut features = ServerFeatures::default();
    for feature in json.items()? {
        // Entries may be of any type; those of tomorrow must not break today's processes.
        match feature.text().as_deref() {
            Ok("ignore_resource_deletion") => features.ignore_resource_deletion = true,
            Ok("trusted_xds_server") => features.trusted_xds_server = true,
            Ok("fail_on_data_errors") => features.fail_on_data_errors = true,
            Ok("resource_timer_is_transient_error") => {
                features.resource_timer_is_transient_error = true;
            }
            Ok("xds_v3") => {}
            _ => ignored.push(feature.path()),
        }
    }
    Ok(features)
}

/// The first entry of a supported type; the ones before it are not for us.
fn parse_credentials(
    json: &Json<'_>,
    ignored: &mut Vec<String>,
) -> Result<Credentials, BootstrapError> {
    let entries = json.items()?;
    if entries.is_empty() {
        return Err(json.invalid("must not be empty"));
    }
    let mut unknown = Vec::new();
    for entry in &entries {
        let mut credentials = entry.object()?;
        let kind = credentials.required("type")?.text()?;
        let config = credentials.optional("config");
        let parsed = match kind.as_str() {
            "insecure" => Credentials::Insecure,
            "tls" => parse_tls(config.as_ref(), ignored)?,
            _ => {
                unknown.push(kind);
                continue;
            }
        };
        credentials.unread(ignored);
        return Ok(parsed);
    }
    Err(json.invalid(format!(
        "none of the types is supported: {}",
        unknown.join(", ")
    )))
}

fn parse_tls(
    config: Option<&Json<'_>>,
    ignored: &mut Vec<String>,
) -> Result<Credentials, BootstrapError> {
    let files = config.map(|json| parse_files(json, ignored)).transpose()?;
    let files = files.unwrap_or_default();
    Ok(Credentials::Tls {
        ca_certificate_file: files.roots,
        certificate_file: files.certificate,
        private_key_file: files.key,
        refresh_interval: files.refresh_interval.unwrap_or(DEFAULT_REFRESH),
    })
}

/// What `tls` credentials and `file_watcher` have in common.
#[derive(Default)]
struct Files {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    roots: Option<PathBuf>,
    refresh_interval: Option<Duration>,
}

fn parse_files(json: &Json<'_>, ignored: &mut Vec<String>) -> Result<Files, BootstrapError> {
    let mut config = json.object()?;
    if let Some(bundles) = config.optional("spiffe_trust_bundle_map_file") {
        // It would replace the roots: to go on without it would trust others.
        return Err(bundles.invalid("is not supported"));
    }
    let mut path = |key| {
        let json = config.optional(key);
        let text = json.map(|json| json.filled_text()).transpose();
        text.map(|text| text.map(PathBuf::from))
    };
    let files = Files {
        certificate: path("certificate_file")?,
        key: path("private_key_file")?,
        roots: path("ca_certificate_file")?,
        refresh_interval: config
            .optional("refresh_interval")
            .map(|json| json.duration())
            .transpose()?,
    };
    if files.certificate.is_some() != files.key.is_some() {
        return Err(json.invalid("certificate_file and private_key_file belong together"));
    }
    config.unread(ignored);
    Ok(files)
}

fn parse_provider(
    json: &Json<'_>,
    ignored: &mut Vec<String>,
) -> Result<CertificateProviderConfig, BootstrapError> {
    let mut provider = json.object()?;
    let plugin_name = provider.required("plugin_name")?.filled_text()?;
    let config = provider.optional("config");
    provider.unread(ignored);
    if plugin_name != "file_watcher" {
        return Ok(CertificateProviderConfig::Unsupported { plugin_name });
    }
    let files = config.map(|c| parse_files(&c, ignored)).transpose()?;
    let files = files.unwrap_or_default();
    if files.certificate.is_none() && files.roots.is_none() {
        return Err(json.invalid(
            "needs certificate_file and private_key_file, or ca_certificate_file, or all",
        ));
    }
    Ok(CertificateProviderConfig::FileWatcher {
        certificate_file: files.certificate,
        private_key_file: files.key,
        ca_certificate_file: files.roots,
        refresh_interval: files.refresh_interval.unwrap_or(DEFAULT_REFRESH),
    })
}

fn parse_node(json: &Json<'_>, ignored: &mut Vec<String>) -> Result<Node, BootstrapError> {
    let mut node = json.object()?;
    let parsed = Node {
        id: node.text_or_empty("id")?,
        cluster: node.text_or_empty("cluster")?,
        locality: match node.optional("locality") {
            Some(locality) => parse_locality(&locality, ignored)?,
            None => crate::resource::Locality::default(),
        },
        metadata: match node.optional("metadata") {
            Some(metadata) => metadata.protobuf_struct()?,
            None => prost_types::Struct::default(),
        },
    };
    node.unread(ignored);
    Ok(parsed)
}

fn parse_locality(
    json: &Json<'_>,
    ignored: &mut Vec<String>,
) -> Result<crate::resource::Locality, BootstrapError> {
    let mut locality = json.object()?;
    let parsed = crate::resource::Locality {
        region: locality.text_or_empty("region")?,
        zone: locality.text_or_empty("zone")?,
        sub_zone: locality.text_or_empty("sub_zone")?,
    };
    locality.unread(ignored);
    Ok(parsed)
}

fn parse_authority(
    name: &str,
    json: &Json<'_>,
    default_servers: &[Server],
    ignored: &mut Vec<String>,
) -> Result<Authority, BootstrapError> {
    let mut authority = json.object()?;
    let prefix = format!("xdstp://{name}/");
    let client_listener_template =
        match authority.optional("client_listener_resource_name_template") {
            None => format!("{prefix}envoy.config.listener.v3.Listener/%s"),
            Some(json) => {
                let template = json.text()?;
                if !template.starts_with(&prefix) {
                    return Err(json.invalid(format!("must begin with {prefix}")));
                }
                template
            }
        };
    let servers = match authority.optional("xds_servers") {
        None => default_servers.to_vec(),
        // An empty list is the default said aloud.
        Some(json) if json.items()?.is_empty() => default_servers.to_vec(),
        Some(json) => parse_servers(&json, ignored)?,
    };
    authority.unread(ignored);
    Ok(Authority {
        client_listener_template,
        servers,
    })
}

#[cfg(test)]
mod tests;
