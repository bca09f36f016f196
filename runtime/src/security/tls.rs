//! rustls configurations, made from the material that is valid now.
//!
//! A configuration is kept for as long as its material is the same object, so a rotation reaches
//! the next handshake and none before it. Sessions are never resumed: a resumed one would skip
//! the certificates, and with them every rotation and removal of a root.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sidestep_proto::resource::{CertificateInstance, DownstreamTls, StringMatcher, UpstreamTls};

use super::verifier::{SanVerifier, host_name_verifier};
use super::{CertificateProvider, CertificateProviders, Material, SecurityError};

/// HTTP/2, the only protocol that is offered and accepted.
const ALPN: &[u8] = b"h2";

/// The cryptography that this build uses: aws-lc-rs, or ring where only that feature is on.
///
/// Always passed explicitly: with both compiled in, rustls has no default.
pub(super) fn crypto_provider() -> Arc<CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    return Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    #[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
    return Arc::new(rustls::crypto::ring::default_provider());
    #[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
    compile_error!("one of the features `aws-lc-rs` and `ring` is needed");
}

/// A client's side of a cluster's transport security.
pub struct ClientTls {
    tls: UpstreamTls,
    roots: Source,
    identity: Option<Source>,
    trust: Trust,
    cache: Cache<ClientConfig>,
}

/// What makes a server the right one, besides its chain.
enum Trust {
    /// One of its names matches (the mesh).
    Sans(Arc<[StringMatcher]>),
    /// It is made out to the host that was dialled (the control plane).
    HostName,
}

impl ClientTls {
    /// Looks up the providers that `tls` names; reads nothing yet.
    ///
    /// # Errors
    /// When there is no provider of such a name.
    pub fn new(tls: &UpstreamTls, providers: &CertificateProviders) -> Result<Self, SecurityError> {
        let identity = tls.identity.as_ref();
        Ok(Self {
            roots: Source::find(&tls.roots.instance, providers)?,
            identity: identity
                .map(|identity| Source::find(&identity.instance, providers))
                .transpose()?,
            trust: Trust::Sans(tls.sans.as_slice().into()),
            tls: tls.clone(),
            cache: Cache::default(),
        })
    }

    /// What this was made from; equal keys may share connections.
    #[must_use]
    pub fn key(&self) -> &UpstreamTls {
        &self.tls
    }

    /// The configuration for a handshake now.
    ///
    /// # Errors
    /// When a provider has nothing, or not what is needed.
    pub fn config(&self) -> Result<Arc<ClientConfig>, SecurityError> {
        let used = (
            self.roots.current()?,
            self.identity.as_ref().map(Source::current).transpose()?,
        );
        self.cache.get(used, |(roots, identity)| {
            let identity = self.identity.as_ref().zip(identity.as_ref());
            let identity = identity.map(|(source, material)| source.identity(material));
            self.build(roots, identity.transpose()?)
        })
    }

    /// For a control plane: verified by host name, against `provider`'s roots or, where it has
    /// none, the platform's.
    pub(super) fn verifying_host_name(
        tls: UpstreamTls,
        provider: Arc<dyn CertificateProvider>,
    ) -> Self {
        let source = |named: &CertificateInstance| Source {
            instance: named.instance.clone(),
            provider: Arc::clone(&provider),
        };
        Self {
            roots: source(&tls.roots),
            identity: tls.identity.as_ref().map(source),
            trust: Trust::HostName,
            tls,
            cache: Cache::default(),
        }
    }

    fn build(
        &self,
        material: &Material,
        identity: Option<Arc<CertifiedKey>>,
    ) -> Result<ClientConfig, SecurityError> {
        let crypto = crypto_provider();
        let verifier: Arc<dyn ServerCertVerifier> = match &self.trust {
            Trust::Sans(sans) => {
                let roots = self.roots.roots(material)?;
                Arc::new(SanVerifier::new(roots, Arc::clone(sans), &crypto))
            }
            Trust::HostName => host_name_verifier(material.roots.clone(), &crypto)?,
        };
        let builder = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTls").field(&self.tls).finish()
    }
}

/// A server's side of a filter chain's transport security.
pub struct ServerTls {
    tls: DownstreamTls,
    identity: Source,
    roots: Option<Source>,
    cache: Cache<ServerConfig>,
}

impl ServerTls {
    /// Looks up the providers that `tls` names; reads nothing yet.
    ///
    /// # Errors
    /// When there is no provider of such a name, or client certificates are required without
    /// roots to check them against.
    pub fn new(
        tls: &DownstreamTls,
        providers: &CertificateProviders,
    ) -> Result<Self, SecurityError> {
        if tls.require_client_certificate && tls.roots.is_none() {
            return Err(SecurityError::Tls(
                "client certificates are required but there are no roots for them".to_owned(),
            ));
        }
        let roots = tls.roots.as_ref();
        Ok(Self {
            identity: Source::find(&tls.identity.instance, providers)?,
            roots: roots
                .map(|roots| Source::find(&roots.instance, providers))
                .transpose()?,
            tls: tls.clone(),
            cache: Cache::default(),
        })
    }

    /// What this was made from.
    #[must_use]
    pub fn key(&self) -> &DownstreamTls {
        &self.tls
    }

    /// The configuration for a handshake now.
    ///
    /// # Errors
    /// When a provider has nothing, or not what is needed.
    pub fn config(&self) -> Result<Arc<ServerConfig>, SecurityError> {
        let used = (
            self.identity.current()?,
            self.roots.as_ref().map(Source::current).transpose()?,
        );
        self.cache.get(used, |(identity, roots)| {
            let identity = self.identity.identity(identity)?;
            let roots = self.roots.as_ref().zip(roots.as_ref());
            let roots = roots.map(|(source, material)| source.roots(material));
            self.build(identity, roots.transpose()?)
        })
    }

    fn build(
        &self,
        identity: Arc<CertifiedKey>,
        roots: Option<Arc<RootCertStore>>,
    ) -> Result<ServerConfig, SecurityError> {
        let crypto = crypto_provider();
        let verifier = match roots {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(roots) => {
                let builder =
                    WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&crypto));
                let builder = if self.tls.require_client_certificate {
                    builder
                } else {
                    builder.allow_unauthenticated()
                };
                builder
                    .build()
                    .map_err(|error| SecurityError::Tls(error.to_string()))?
            }
        };
        let mut config = ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .map_err(refused)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ServerTls").field(&self.tls).finish()
    }
}

pub(super) fn refused(error: rustls::Error) -> SecurityError {
    SecurityError::Tls(error.to_string())
}

/// A provider with its name, for errors.
struct Source {
    instance: String,
    provider: Arc<dyn CertificateProvider>,
}

impl Source {
    fn find(instance: &str, providers: &CertificateProviders) -> Result<Self, SecurityError> {
        Ok(Self {
            provider: providers.find(instance)?,
            instance: instance.to_owned(),
        })
    }

    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        self.provider.current()
    }

    fn roots(&self, material: &Material) -> Result<Arc<RootCertStore>, SecurityError> {
        let roots = material.roots.clone();
        roots.ok_or_else(|| self.lacks("trusted roots"))
    }

    fn identity(&self, material: &Material) -> Result<Arc<CertifiedKey>, SecurityError> {
        let identity = material.identity.clone();
        identity.ok_or_else(|| self.lacks("identity certificate"))
    }

    fn lacks(&self, what: &'static str) -> SecurityError {
        SecurityError::Lacks {
            instance: self.instance.clone(),
            what,
        }
    }
}

/// The material that a configuration was made from.
type Used = (Arc<Material>, Option<Arc<Material>>);

/// The last configuration, valid while its material is.
struct Cache<T>(Mutex<Option<(Used, Arc<T>)>>);

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Cache<T> {
    fn get(
        &self,
        used: Used,
        build: impl FnOnce(&Used) -> Result<T, SecurityError>,
    ) -> Result<Arc<T>, SecurityError> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_from, config)) = &*cached
            && same(made_from, &used)
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(build(&used)?);
        *cached = Some((used, Arc::clone(&config)));
        Ok(config)
    }
}

fn same(a: &Used, b: &Used) -> bool {
    Arc::ptr_eq(&a.0, &b.0)
        && match (&a.1, &b.1) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        }
}
