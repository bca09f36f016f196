//! The files of the demo: what a user would have on disk for a mesh of their own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::certificates::Issued;

/// How often certificate files are read again; the bootstrap's default is 600 s.
pub(super) const REFRESH: &str = "0.5s";

/// Where the files are. A temporary directory is removed when this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Directory {
    /// `keep`, made if need be, or a temporary one.
    pub(super) fn open(keep: Option<&Path>) -> io::Result<Self> {
        let Some(keep) = keep else {
            let temporary = tempfile::Builder::new()
                .prefix("sidestep-demo-")
                .tempdir()?;
            return Ok(Self {
                root: temporary.path().to_owned(),
                _temporary: Some(temporary),
            });
        };
        fs::create_dir_all(keep)?;
        Ok(Self {
            // Bootstraps name certificates by absolute paths: processes start anywhere.
            root: fs::canonicalize(keep)?,
            _temporary: None,
        })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn mesh_file(&self) -> PathBuf {
        self.root.join("mesh.yaml")
    }

    pub(super) fn bootstrap(&self, process: &str) -> PathBuf {
        self.root.join(format!("{process}.json"))
    }

    /// Replaces the mesh file as editors do: the new one is renamed into place.
    pub(super) fn write_mesh(&self, text: &str) -> io::Result<()> {
        replace(&self.mesh_file(), text)
    }

    /// Writes the bootstrap of a process that is part of `service`.
    pub(super) fn write_bootstrap(
        &self,
        control_plane: &str,
        process: &str,
        service: &str,
    ) -> io::Result<()> {
        let file = |suffix: &str| self.root.join(format!("{process}{suffix}"));
        let bootstrap = json!({
            "xds_servers": [{
                "server_uri": control_plane,
                "channel_creds": [{"type": "insecure"}],
                "server_features": ["xds_v3"],
            }],
            "node": {"id": process, "cluster": service},
            "certificate_providers": {
                "default": {
                    "plugin_name": "file_watcher",
                    "config": {
                        "certificate_file": file(".pem"),
                        "private_key_file": file("-key.pem"),
                        "ca_certificate_file": self.root.join("ca.pem"),
                        "refresh_interval": REFRESH,
                    },
                },
            },
            "server_listener_resource_name_template":
                "grpc/server?xds.resource.listening_address=%s",
        });
        replace(&self.bootstrap(process), &format!("{bootstrap:#}\n"))
    }

    /// Writes the root certificate.
    pub(super) fn write_root(&self, pem: &str) -> io::Result<()> {
        replace(&self.root.join("ca.pem"), pem)
    }

    /// Writes a process's certificate and key. Between the two writes they do not fit together,
    /// as in any rotation of files; readers have to cope.
    pub(super) fn write_identity(&self, process: &str, issued: &Issued) -> io::Result<()> {
        replace(&self.root.join(format!("{process}-key.pem")), &issued.key)?;
        replace(&self.root.join(format!("{process}.pem")), &issued.chain)
    }
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut new = path.to_owned();
    new.as_mut_os_string().push(".new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}
