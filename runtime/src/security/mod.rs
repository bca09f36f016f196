//! Transport security: from a validated security context to rustls configurations.
//!
//! ```text
//!   files ── file_watcher ──┐
//!                           ├─> CertificateProvider ── Material ─> ClientTls / ServerTls ─> rustls
//!   memory ── static_ ──────┘       (by name)
//! ```
//!
//! Nothing here falls back. A missing certificate, an unreadable file or a name that does not
//! match is an error of the handshake (gRFC A29).

mod ads;
mod host;
mod peer;
pub mod provider;
mod san;
mod tls;
mod verifier;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use sidestep_proto::code::{self, Code};

pub use peer::peer_identity;
pub use provider::CertificateProviders;
pub use tls::{ClientTls, ServerTls};
pub(crate) use verifier::handshake_error;

/// Supplies certificates under a name of the bootstrap's `certificate_providers`.
///
/// Read at each handshake, so a rotation reaches every new connection.
pub trait CertificateProvider: Send + Sync + std::fmt::Debug {
    /// What is valid now.
    ///
    /// # Errors
    /// When nothing valid was ever loaded.
    fn current(&self) -> Result<Arc<Material>, SecurityError>;
}

/// Certificates of one provider.
#[derive(Debug)]
pub struct Material {
    /// Certificate chain and key, if the provider has them.
    pub identity: Option<Arc<rustls::sign::CertifiedKey>>,
    /// Trusted roots, if the provider has them.
    pub roots: Option<Arc<rustls::RootCertStore>>,
}

/// Why a connection cannot be secured.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SecurityError {
    /// The bootstrap has no provider of this name.
    #[error("no certificate provider {0:?} in the bootstrap")]
    NoProvider(String),
    /// A file cannot be read.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The private key is not the certificate's.
    #[error("{path}: the private key of {key} is not this certificate's")]
    KeyMismatch {
        /// The certificate's file.
        path: String,
        /// The key's file.
        key: String,
    },
    /// What is in a file cannot be parsed.
    #[error("{path}: {reason}")]
    Content {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The provider has no such material.
    #[error("certificate provider {instance:?} has no {what}")]
    Lacks {
        /// The provider's name.
        instance: String,
        /// `identity certificate` or `trusted roots`.
        what: &'static str,
    },
    /// rustls refused the material.
    #[error("{0}")]
    Tls(String),
}

impl SecurityError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoProvider(_) => code::NO_PROVIDER,
            Self::File { .. } => code::CERTIFICATE_UNREADABLE,
            Self::Content { .. } => code::CERTIFICATE_INVALID,
            Self::KeyMismatch { .. } => code::KEY_MISMATCH,
            Self::Lacks { .. } => code::PROVIDER_LACKS,
            Self::Tls(_) => code::TLS_UNUSABLE,
        }
    }
}

/// Who is at the other end of a connection; in the extensions of every request to a server.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// The client's certificate chain, leaf first.
    pub certificates: Arc<Vec<CertificateDer<'static>>>,
    /// URI names of the leaf: the SPIFFE id.
    pub uri_sans: Arc<[String]>,
    /// DNS names of the leaf.
    pub dns_sans: Arc<[String]>,
}
