//! TLS of the ADS port, from PEM files that may change while the server runs.
//!
//! Chain, key and client roots count only together: while a rotation has replaced one of them they
//! may not fit, and the last good ones stay in use. A change reaches every connection made after it
//! and none made before.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sidestep_proto::code::{self, Code};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::source::DirectoryWatch;

/// HTTP/2, the only protocol that gRPC speaks.
const ALPN: &[u8] = b"h2";

/// How often the age of the certificate is looked at, besides at each change.
const AGE_CHECK: Duration = Duration::from_secs(3600);

/// How long a rotation of several files may take before it is called broken.
const SETTLE_WRONG: Duration = Duration::from_millis(100);

/// The part of a certificate's life at whose end its renewal is overdue: those who renew do so
/// after two thirds.
const OVERDUE: f64 = 0.8;

/// The PEM files that secure the ADS port: TLS 1.2 or newer, HTTP/2.
///
/// They are read again whenever they change. Files that cannot be used then are logged, and leave
/// the last good ones in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl ServerTls {
    /// Shows the certificate chain in `certificate` (PEM, leaf first), whose private key is in
    /// `key` (PEM). Clients need no certificate.
    #[must_use]
    pub fn from_files(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self {
            certificate: certificate.into(),
            key: key.into(),
            client_ca: None,
        }
    }

    /// Turns away clients without a certificate for which one of the roots in this file (PEM)
    /// vouches.
    #[must_use]
    pub fn client_ca(mut self, roots: impl Into<PathBuf>) -> Self {
        self.client_ca = Some(roots.into());
        self
    }

    /// Whether clients must show a certificate.
    #[must_use]
    pub fn demands_client_certificate(&self) -> bool {
        self.client_ca.is_some()
    }

    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key]
            .into_iter()
            .chain(&self.client_ca)
    }

    fn read(&self) -> Result<Contents, TlsError> {
        let contents: Result<Vec<_>, _> = self.files().map(|path| read(path)).collect();
        Ok(Contents(contents?))
    }

    fn load(&self, contents: &Contents) -> Result<Loaded, TlsError> {
        let crypto = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = certificates(&self.certificate, &contents.0[0])?;
        let lifetime = lifetime(&self.certificate, &chain[0])?;
        let identity = self.identity(chain, &contents.0[1], &crypto)?;
        let verifier = match (&self.client_ca, contents.0.get(2)) {
            (Some(path), Some(pem)) => {
                let roots = Arc::new(roots(path, pem)?);
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&crypto))
                    .build()
                    .map_err(|error| TlsError::unfit(path, error))?
            }
            _ => WebPkiClientVerifier::no_client_auth(),
        };
        let mut config = ServerConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::unfit(&self.certificate, error))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::new(identity))));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the certificates, and with them every rotation.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Loaded {
            config: Arc::new(config),
            lifetime,
        })
    }

    fn identity(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &[u8],
        crypto: &CryptoProvider,
    ) -> Result<CertifiedKey, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::unfit(&self.key, format!("no private key: {error}")))?;
        CertifiedKey::from_der(chain, key, crypto).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                certificate: self.certificate.clone(),
                key: self.key.clone(),
            },
            error => TlsError::unfit(&self.key, error),
        })
    }
}

/// Why TLS files cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// What is in a file is not what it should be.
    #[error("{}: {reason}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The private key belongs to another certificate.
    #[error("the private key {} does not belong to the certificate {}", key.display(), certificate.display())]
    Mismatch {
        /// The chain's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

impl TlsError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unreadable { .. } => code::CERTIFICATE_UNREADABLE,
            Self::Unfit { .. } => code::CERTIFICATE_INVALID,
            Self::Mismatch { .. } => code::KEY_MISMATCH,
        }
    }

    fn unfit(path: &Path, reason: impl fmt::Display) -> Self {
        Self::Unfit {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = parsed.map_err(|error| TlsError::unfit(path, error))?;
    if found.is_empty() {
        return Err(TlsError::unfit(path, "holds no certificate in PEM form"));
    }
    Ok(found)
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::unfit(path, error))?;
    }
    Ok(roots)
}

fn lifetime(path: &Path, leaf: &CertificateDer<'_>) -> Result<Lifetime, TlsError> {
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| TlsError::unfit(path, error))?;
    let seconds = |time: x509_parser::time::ASN1Time| {
        // Before 1970 is as good as 1970: both are over.
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
    };
    Ok(Lifetime {
        from: seconds(parsed.validity().not_before),
        until: seconds(parsed.validity().not_after),
    })
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lifetime {
    from: SystemTime,
    until: SystemTime,
}

/// What there is to say about a certificate's age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Nothing.
    Good,
    /// Its time has not come.
    NotYet,
    /// It should have been renewed by now.
    Overdue,
    /// No client will take it.
    Expired,
}

impl Lifetime {
    fn age(self, now: SystemTime) -> Age {
        let Ok(lived) = now.duration_since(self.from) else {
            return Age::NotYet;
        };
        if now >= self.until {
            return Age::Expired;
        }
        let whole = self.until.duration_since(self.from).unwrap_or_default();
        if lived >= whole.mul_f64(OVERDUE) {
            return Age::Overdue;
        }
        Age::Good
    }

    /// Says what a person should do something about.
    fn log(self, path: &Path, now: SystemTime) {
        let left = self.until.duration_since(now).unwrap_or_default();
        let hours = left.as_secs() / 3600;
        let file = path.display();
        match self.age(now) {
            Age::Good => tracing::info!(
                target: "sidestep_server::tls", %file, hours_left = hours,
                "certificate of the ADS port loaded"
            ),
            Age::NotYet => tracing::warn!(
                target: "sidestep_server::tls", %file,
                "the certificate of the ADS port is not valid yet: is the clock right?"
            ),
            Age::Overdue => tracing::warn!(
                target: "sidestep_server::tls", %file, hours_left = hours,
                "the certificate of the ADS port expires soon: renew it"
            ),
            Age::Expired => tracing::error!(
                target: "sidestep_server::tls", %file,
                "the certificate of the ADS port has expired, no client will connect: renew it"
            ),
        }
    }
}

/// What the files hold, in the order of [`ServerTls::files`].
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents(Vec<Vec<u8>>);

/// What files that are fit were made into.
struct Loaded {
    config: Arc<ServerConfig>,
    lifetime: Lifetime,
}

/// The configuration in use, followed as the files change.
pub(crate) struct Reloading {
    tls: ServerTls,
    contents: Contents,
    lifetime: Lifetime,
    config: watch::Sender<Arc<ServerConfig>>,
    /// What was last said to be wrong.
    complaint: Option<TlsError>,
}

impl Reloading {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// If they cannot be used.
    pub(crate) fn start(tls: ServerTls) -> Result<Self, TlsError> {
        let contents = tls.read()?;
        let loaded = tls.load(&contents)?;
        loaded.lifetime.log(&tls.certificate, SystemTime::now());
        Ok(Self {
            config: watch::Sender::new(loaded.config),
            lifetime: loaded.lifetime,
            complaint: None,
            tls,
            contents,
        })
    }

    /// What new connections are to use.
    pub(crate) fn config(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.config.subscribe()
    }

    /// Follows the files for ever.
    pub(crate) async fn follow(mut self) {
        let mut directories = DirectoryWatch::new();
        let mut age_check = tokio::time::interval(AGE_CHECK);
        age_check.tick().await;
        loop {
            directories.set(self.directories());
            tokio::select! {
                _ = directories.changed() => self.look().await,
                _ = age_check.tick() => {
                    if self.lifetime.age(SystemTime::now()) != Age::Good {
                        self.lifetime.log(&self.tls.certificate, SystemTime::now());
                    }
                }
            }
        }
    }

    /// What is wrong must stay wrong for a while before it is said: a rotation replaces one file
    /// after the other.
    async fn look(&mut self) {
        if self.reload(SystemTime::now()).is_err() {
            tokio::time::sleep(SETTLE_WRONG).await;
            if let Err(error) = self.reload(SystemTime::now()) {
                self.complain(error);
            }
        }
    }

    /// Where the files are, and where the links that lead to them end.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let mut directories = BTreeSet::new();
        for path in self.tls.files() {
            let real = std::fs::canonicalize(path).ok();
            for path in std::iter::once(path).chain(&real) {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                directories.insert(parent.unwrap_or_else(|| Path::new(".")).to_owned());
            }
        }
        directories
    }

    /// Takes over what the files hold now, if it is new and fit.
    fn reload(&mut self, now: SystemTime) -> Result<(), TlsError> {
        let contents = self.tls.read()?;
        if contents != self.contents {
            let loaded = self.tls.load(&contents)?;
            loaded.lifetime.log(&self.tls.certificate, now);
            self.contents = contents;
            self.lifetime = loaded.lifetime;
            self.config.send_replace(loaded.config);
        }
        self.complaint = None;
        Ok(())
    }

    /// Says what is wrong, once.
    fn complain(&mut self, error: TlsError) {
        if self.complaint.as_ref() != Some(&error) {
            tracing::warn!(
                target: "sidestep_server::tls", %error,
                "the TLS files changed and cannot be used; the last good ones stay in use"
            );
            self.complaint = Some(error);
        }
    }
}

#[cfg(test)]
mod tests;
