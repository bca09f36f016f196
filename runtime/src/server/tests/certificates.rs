//! Certificates made for a test, and TLS clients that use them.

use std::sync::Arc;

use sidestep_proto::resource::{CertificateInstance, DownstreamTls};

use super::kit::soon;
use crate::security::{CertificateProvider, CertificateProviders, Material, SecurityError};
use crate::subchannel::Io;

/// A certificate authority and what it signed, as a provider.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) roots: Arc<rustls::RootCertStore>,
    pub(super) identity: Option<Arc<rustls::sign::CertifiedKey>>,
}

impl CertificateProvider for Issued {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        Ok(Arc::new(Material {
            identity: self.identity.clone(),
            roots: Some(self.roots.clone()),
        }))
    }
}

/// A certificate authority.
pub(super) struct Ca(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Ca {
    pub(super) fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Roots of this authority and a certificate for `echo.test` with a SPIFFE id.
    pub(super) fn issue(&self) -> Issued {
        let mut params = rcgen::CertificateParams::new(["echo.test".to_owned()]).unwrap();
        let id = "spiffe://test/echo".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(id));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let signer = crypto().key_provider.load_private_key(der.into()).unwrap();
        let identity = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signer);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Issued {
            roots: Arc::new(roots),
            identity: Some(Arc::new(identity)),
        }
    }

    /// The provider `server` with a fresh certificate.
    pub(super) fn providers(&self) -> CertificateProviders {
        no_certificates().with("server", Arc::new(self.issue()))
    }
}

fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// A TLS client that trusts `trusted` and shows the certificate of `shown`.
pub(super) async fn tls_connect(
    io: impl Io + 'static,
    trusted: &Ca,
    shown: Option<&Ca>,
) -> std::io::Result<tokio_rustls::client::TlsStream<Box<dyn Io>>> {
    let builder = rustls::ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted.issue().roots);
    let mut config = match shown {
        Some(ca) => {
            let identity = ca.issue().identity.expect("issued");
            let resolver = rustls::sign::SingleCertAndKey::from((*identity).clone());
            builder.with_client_cert_resolver(Arc::new(resolver))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = "echo.test".try_into().unwrap();
    soon(connector.connect(name, Box::new(io) as Box<dyn Io>)).await
}

/// Identity (and roots, if client certificates are asked for) from the provider `server`.
pub(super) fn downstream_tls(ask: bool, require: bool) -> DownstreamTls {
    let instance = || CertificateInstance {
        instance: "server".into(),
        certificate_name: String::new(),
    };
    DownstreamTls {
        identity: instance(),
        roots: ask.then(instance),
        require_client_certificate: require,
    }
}

/// No provider of any name.
pub(super) fn no_certificates() -> CertificateProviders {
    CertificateProviders::default()
}
