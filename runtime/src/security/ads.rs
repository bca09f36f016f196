//! TLS to the control plane: the bootstrap's `tls` credentials (gRFC A65).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sidestep_proto::resource::{CertificateInstance, UpstreamTls};

use super::provider::file_watcher::{FileWatcher, Files};
use super::{CertificateProvider, ClientTls, Material, SecurityError};

/// Stands in errors and keys where a mesh's configuration has the name of a provider.
const INSTANCE: &str = "xds_servers[].channel_creds";

impl ClientTls {
    /// For a connection to a control plane: the server must be made out to the host that is
    /// dialled, and be vouched for by `roots` (PEM file) or, without them, by the platform's.
    /// `identity` (chain and key, PEM files) is shown if it is asked for.
    ///
    /// The files are read again at each handshake: there are few, and long apart.
    #[must_use]
    pub fn for_control_plane(roots: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>) -> Self {
        let instance = || CertificateInstance {
            instance: INSTANCE.to_owned(),
            certificate_name: String::new(),
        };
        let tls = UpstreamTls {
            roots: instance(),
            identity: identity.is_some().then(instance),
            sans: Vec::new(),
        };
        let files = FileWatcher::new(Files {
            identity,
            roots,
            refresh_interval: Duration::MAX,
        });
        Self::verifying_host_name(tls, Arc::new(EachHandshake(files)))
    }
}

/// Reads its files whenever it is asked.
#[derive(Debug)]
struct EachHandshake(FileWatcher);

impl CertificateProvider for EachHandshake {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        self.0.reload_now();
        self.0.current()
    }
}
