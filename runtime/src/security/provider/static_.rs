//! Certificates from memory, exchanged by hand: for tests, demos and programs that get their
//! certificates in a way of their own.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::security::tls::crypto_provider;
use crate::security::{CertificateProvider, Material, SecurityError};

/// A provider whose material is set by the program.
#[derive(Debug)]
pub struct StaticProvider {
    material: ArcSwap<Material>,
}

impl StaticProvider {
    /// Starts with `material`.
    #[must_use]
    pub fn new(material: Material) -> Self {
        Self {
            material: ArcSwap::from_pointee(material),
        }
    }

    /// From PEM text: a certificate chain with its key, and trusted roots; either may be missing.
    ///
    /// # Errors
    /// When the text cannot be parsed or the key is not the certificate's.
    pub fn from_pem(
        identity: Option<(&[u8], &[u8])>,
        roots: Option<&[u8]>,
    ) -> Result<Self, SecurityError> {
        Material::from_pem(identity, roots).map(Self::new)
    }

    /// What new handshakes use from now on. Connections that exist keep what they have.
    pub fn rotate(&self, material: Material) {
        self.material.store(Arc::new(material));
    }
}

impl CertificateProvider for StaticProvider {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        Ok(self.material.load_full())
    }
}

impl Material {
    /// From PEM text: a certificate chain with its key, and trusted roots; either may be missing.
    ///
    /// # Errors
    /// When the text cannot be parsed or the key is not the certificate's.
    pub fn from_pem(
        identity: Option<(&[u8], &[u8])>,
        roots: Option<&[u8]>,
    ) -> Result<Self, SecurityError> {
        use super::file_watcher::{parse_identity, parse_roots};
        let provider = crypto_provider();
        let identity = identity.map(|(chain, key)| parse_identity(chain, key, &provider));
        Ok(Self {
            identity: identity
                .transpose()
                .map_err(|error| error.of(&[CHAIN.to_owned(), KEY.to_owned()]))?
                .map(Arc::new),
            roots: roots
                .map(parse_roots)
                .transpose()
                .map_err(|error| error.of(&[ROOTS.to_owned()]))?
                .map(Arc::new),
        })
    }
}

/// What stands in errors where files have their paths.
const CHAIN: &str = "PEM text of the certificates";
const KEY: &str = "the PEM text of the key";
const ROOTS: &str = "PEM text of the roots";
