//! From JSON values to a [`Bootstrap`].

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::json::Json;
use super::name::percent_encode_segment;
use super::{
    Authority, Bootstrap, BootstrapError, CertificateProviderConfig, Credentials, Node, Server,
    ServerFeatures,
};
use crate::resource::Locality;

const DEFAULT_REFRESH: Duration = Duration::from_secs(600);

pub(super) fn bootstrap(json: &str) -> Result<Bootstrap, BootstrapError> {
    let value: Value = serde_json::from_str(json).map_err(|e| BootstrapError::NotJson {
        line: e.line(),
        column: e.column(),
        reason: reason_without_position(&e),
    })?;
    let mut ignored = Vec::new();
    let mut root = Json::root(&value).object()?;
    let servers = parse_servers(&root.required("xds_servers")?, &mut ignored)?;
    let bootstrap = Bootstrap {
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
            .filled_or_none("server_listener_resource_name_template")?
            .map(|(_, template)| template),
        client_listener_template: root
            .filled_or_none("client_default_listener_resource_name_template")?
            .map(|(_, template)| template)
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
    Ok(Bootstrap {
        ignored,
        ..bootstrap
    })
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
        let kind = credentials.text_or_empty("type")?;
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
    Err(BootstrapError::Credentials {
        path: json.path(),
        found: unknown.join(", "),
    })
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
            .transpose()?
            // Nobody reads files without pause: zero is the default said aloud.
            .filter(|interval| !interval.is_zero()),
    };
    if files.certificate.is_some() != files.key.is_some() {
        return Err(json.invalid("certificate_file and private_key_file belong together"));
    }
    // Only what lies in one directory can be replaced in one step (gRFC A29).
    if let (Some(certificate), Some(key)) = (&files.certificate, &files.key)
        && certificate.parent() != key.parent()
    {
        return Err(
            json.invalid("certificate_file and private_key_file must be in the same directory")
        );
    }
    config.unread(ignored);
    Ok(files)
}

fn parse_provider(
    json: &Json<'_>,
    ignored: &mut Vec<String>,
) -> Result<CertificateProviderConfig, BootstrapError> {
    let mut provider = json.object()?;
    let plugin_name = provider.text_or_empty("plugin_name")?;
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
            None => Locality::default(),
        },
        metadata: match node.optional("metadata") {
            Some(metadata) => metadata.protobuf_struct()?,
            None => prost_types::Struct::default(),
        },
    };
    node.unread(ignored);
    Ok(parsed)
}

fn parse_locality(json: &Json<'_>, ignored: &mut Vec<String>) -> Result<Locality, BootstrapError> {
    let mut locality = json.object()?;
    let parsed = Locality {
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
    let prefix = format!("xdstp://{}/", percent_encode_segment(name));
    let client_listener_template =
        match authority.filled_or_none("client_listener_resource_name_template")? {
            None => format!("{prefix}envoy.config.listener.v3.Listener/%s"),
            Some((json, template)) => {
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
