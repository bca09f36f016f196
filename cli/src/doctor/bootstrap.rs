//! Is the bootstrap there, and is it right?

use std::path::PathBuf;

use sidestep_proto::bootstrap::Bootstrap;
use sidestep_server::model::Mesh;

use super::{Group, Report};
use crate::bootstrap::check_service;

/// Where a bootstrap comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A file, as `GRPC_XDS_BOOTSTRAP` names one.
    File(PathBuf),
    /// The text itself, and what to call it.
    Text {
        /// `GRPC_XDS_BOOTSTRAP_CONFIG`.
        name: String,
        /// JSON.
        text: String,
    },
    /// Made from parts that the user named: nothing in it can be misspelt or forgotten.
    Made(String),
    /// There is none.
    Nowhere,
}

const GROUP: Group = Group::Bootstrap;

const WRITE_ONE: &str =
    "write one: sidestep bootstrap runtime --service NAME --server ADDR --certs DIR --out FILE";

/// The bootstrap, if it can be used.
pub(super) fn check(
    origin: &Origin,
    mesh: Option<&Mesh>,
    report: &mut Report,
) -> Option<Bootstrap> {
    let (name, text) = read(origin, report)?;
    let bootstrap = match Bootstrap::parse(&text) {
        Ok(bootstrap) => bootstrap,
        Err(error) => {
            report.fail(GROUP, format!("{name}: {error}"), WRITE_ONE);
            return None;
        }
    };
    let servers: Vec<&str> = bootstrap.servers.iter().map(|s| s.uri.as_str()).collect();
    let node = &bootstrap.node;
    report.good(
        GROUP,
        format!(
            "{name}: service {:?}, node {:?}, control plane {}",
            node.cluster,
            node.id,
            servers.join(", ")
        ),
    );
    if matches!(origin, Origin::Made(_)) {
        return Some(bootstrap);
    }
    for key in &bootstrap.ignored {
        report.warn(
            GROUP,
            format!("{name}: {key} is not read"),
            "is it misspelt? Keys for other gRPC libraries are harmless",
        );
    }
    if node.cluster.is_empty() {
        report.warn(
            GROUP,
            format!("{name}: node.cluster is empty, so nobody knows which service this is"),
            "servers of this process will not start; put the service's name there",
        );
    } else if let Some(mesh) = mesh {
        match check_service(mesh, &node.cluster) {
            Ok(()) => report.good(
                GROUP,
                format!("the mesh file has the service {:?}", node.cluster),
            ),
            Err(error) => report.fail(
                GROUP,
                format!("{name}: node.cluster {error}"),
                "correct node.cluster, or add the service to the mesh file",
            ),
        }
    }
    if bootstrap.server_listener_template.is_none() {
        report.warn(
            GROUP,
            format!("{name}: no server_listener_resource_name_template"),
            "calls work, servers of this process will not start; `sidestep bootstrap` writes it",
        );
    }
    Some(bootstrap)
}

fn read(origin: &Origin, report: &mut Report) -> Option<(String, String)> {
    match origin {
        Origin::Made(text) => Some(("as asked for".to_owned(), text.clone())),
        Origin::Text { name, text } => Some((name.clone(), text.clone())),
        Origin::File(path) => match std::fs::read_to_string(path) {
            Ok(text) => Some((path.display().to_string(), text)),
            Err(error) => {
                let hint = match error.kind() {
                    std::io::ErrorKind::PermissionDenied => {
                        "run as the user of the service, or let that user read it"
                    }
                    _ => WRITE_ONE,
                };
                report.fail(GROUP, format!("{}: {error}", path.display()), hint);
                None
            }
        },
        Origin::Nowhere => {
            report.fail(
                GROUP,
                "neither GRPC_XDS_BOOTSTRAP nor GRPC_XDS_BOOTSTRAP_CONFIG is set, and no --server is given",
                WRITE_ONE,
            );
            None
        }
    }
}
