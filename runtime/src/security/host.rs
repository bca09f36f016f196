//! TLS to a host outside the mesh, as any client would speak it.

use std::sync::Arc;

use sidestep_proto::resource::{CertificateInstance, UpstreamTls};

use super::{CertificateProvider, ClientTls, Material, SecurityError};

impl ClientTls {
    /// The server must be made out to the host that is dialled and be vouched for by the
    /// platform's roots. No certificate is shown.
    #[must_use]
    pub(crate) fn for_host() -> Self {
        let tls = UpstreamTls {
            roots: CertificateInstance {
                instance: "the platform's roots".to_owned(),
                certificate_name: String::new(),
            },
            identity: None,
            sans: Vec::new(),
        };
        let nothing = Material {
            identity: None,
            roots: None,
        };
        Self::verifying_host_name(tls, Arc::new(Nothing(Arc::new(nothing))))
    }
}

/// Has no certificates of its own.
#[derive(Debug)]
struct Nothing(Arc<Material>);

impl CertificateProvider for Nothing {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        Ok(Arc::clone(&self.0))
    }
}
