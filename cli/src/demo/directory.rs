//! The files of the demo: what a user would have on disk for a mesh of their own.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
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
        let key = self.root.join(format!("{process}-key.pem"));
        replace_with(&key, &issued.key, OWNER_ONLY)?;
        replace(&self.root.join(format!("{process}.pem")), &issued.chain)
    }
}

/// File modes: what everybody may read, and keys.
const EVERYBODY: u32 = 0o644;
const OWNER_ONLY: u32 = 0o600;

fn replace(path: &Path, text: &str) -> io::Result<()> {
    replace_with(path, text, EVERYBODY)
}

/// Readers see the old file or the new one, never half of it.
fn replace_with(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut new = path.to_owned();
    new.as_mut_os_string().push(".new");
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_for_its_owner_alone() {
        let directory = Directory::open(None).expect("a directory");
        let issued = Issued {
            chain: "chain".to_owned(),
            key: "key".to_owned(),
        };
        directory.write_identity("a", &issued).expect("writes");
        let key = fs::metadata(directory.root().join("a-key.pem")).expect("is there");
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        let chain = fs::read_to_string(directory.root().join("a.pem"));
        assert_eq!(chain.expect("is there"), "chain");
    }

    #[test]
    fn a_bootstrap_is_one() {
        let directory = Directory::open(None).expect("a directory");
        let written = directory.write_bootstrap("127.0.0.1:1", "a", "greeter");
        written.expect("writes");
        let text = fs::read_to_string(directory.bootstrap("a")).expect("is there");
        let bootstrap = sidestep_proto::bootstrap::Bootstrap::parse(&text).expect("is valid");
        assert_eq!(bootstrap.node.cluster, "greeter");
        assert!(bootstrap.ignored.is_empty(), "{:?}", bootstrap.ignored);
    }
}
