//! The `file_watcher` certificate provider (gRFC A29): PEM files, read again at an interval.
//!
//! Key and chain count only together: while a rotation has replaced one of them the pair does not
//! fit, and the previous one stays in use. The same holds for files that cannot be read or
//! parsed. What was never read at all is an error of the handshake, and read again at the next.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::security::tls::crypto_provider;
use crate::security::{CertificateProvider, Material, SecurityError};

/// Which files, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Chain (leaf first) and private key, both PEM; one without the other is not expressible.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Trusted roots, PEM.
    pub roots: Option<PathBuf>,
    /// Between two readings; 600 s by default in the bootstrap.
    pub refresh_interval: Duration,
}

/// Keeps the material of some files.
#[derive(Debug)]
pub struct FileWatcher {
    files: Files,
    crypto: Arc<CryptoProvider>,
    loaded: Mutex<Loaded>,
}

/// Contents of files.
type Raw = Vec<Vec<u8>>;

/// The raw bytes decide whether something changed; equal bytes keep their `Arc`s, and with them
/// the rustls configurations made from them.
#[derive(Debug, Default)]
struct Loaded {
    identity: Option<(Raw, Arc<CertifiedKey>)>,
    roots: Option<(Raw, Arc<RootCertStore>)>,
    material: Option<Arc<Material>>,
}

impl FileWatcher {
    /// Reads the files for the first time. What cannot be read yet is read again at the first
    /// handshake and at each refresh.
    #[must_use]
    pub fn new(files: Files) -> Self {
        let watcher = Self {
            files,
            crypto: crypto_provider(),
            loaded: Mutex::default(),
        };
        watcher.reload_now();
        watcher
    }

    /// Reads the files again. What is unfit is logged and leaves the last good one in use.
    pub fn reload_now(&self) {
        if let Err(error) = self.reload() {
            let code = error.code();
            tracing::warn!(
                target: "sidestep::security", %code, %error,
                "certificate files are not usable; the last good ones stay in use"
            );
        }
    }

    /// How often to do so.
    #[must_use]
    pub fn refresh_interval(&self) -> Duration {
        self.files.refresh_interval
    }

    /// Takes over each part that is good; the first fault is returned.
    fn reload(&self) -> Result<(), SecurityError> {
        let identity = self.files.identity.as_ref().map(|(chain, key)| {
            load(&[chain, key], |raw| {
                parse_identity(&raw[0], &raw[1], &self.crypto)
            })
        });
        let roots = self
            .files
            .roots
            .as_ref()
            .map(|roots| load(&[roots], |raw| parse_roots(&raw[0])));
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let first = adopt(&mut loaded.identity, identity);
        let second = adopt(&mut loaded.roots, roots);
        self.publish(&mut loaded);
        first.and(second)
    }

    /// Offers the material once every configured part of it was good at least once.
    fn publish(&self, loaded: &mut Loaded) {
        let identity = loaded.identity.as_ref().map(|(_, key)| Arc::clone(key));
        let roots = loaded.roots.as_ref().map(|(_, roots)| Arc::clone(roots));
        let complete = self.files.identity.is_some() == identity.is_some()
            && self.files.roots.is_some() == roots.is_some();
        let same = loaded.material.as_ref().is_some_and(|now| {
            same(now.identity.as_ref(), identity.as_ref())
                && same(now.roots.as_ref(), roots.as_ref())
        });
        if complete && !same {
            loaded.material = Some(Arc::new(Material { identity, roots }));
        }
    }

    fn good(&self) -> Option<Arc<Material>> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.material.clone()
    }
}

impl CertificateProvider for FileWatcher {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        if let Some(material) = self.good() {
            return Ok(material);
        }
        self.reload()?;
        self.good()
            .ok_or_else(|| SecurityError::Tls("certificate files were never complete".to_owned()))
    }
}

/// Re-reads at the watcher's interval for as long as somebody else uses it.
pub(super) async fn refresh(watcher: Weak<FileWatcher>) {
    while let Some(interval) = watcher.upgrade().map(|watcher| watcher.refresh_interval()) {
        tokio::time::sleep(interval).await;
        let Some(watcher) = watcher.upgrade() else {
            return;
        };
        // Files may live on a slow disk; the runtime's threads should not.
        let reloaded = tokio::task::spawn_blocking(move || watcher.reload_now()).await;
        if reloaded.is_err() {
            tracing::warn!(target: "sidestep::security", "reading certificate files was interrupted");
        }
    }
}

/// Reads and parses; the raw bytes come along to tell a later change.
fn load<T>(
    paths: &[&PathBuf],
    parse: impl FnOnce(&[Vec<u8>]) -> Result<T, PemError>,
) -> Result<(Raw, T), SecurityError> {
    let raw: Result<Vec<_>, _> = paths.iter().map(|path| read(path)).collect();
    let raw = raw?;
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    let parsed = parse(&raw).map_err(|error| error.of(&names))?;
    Ok((raw, parsed))
}

fn read(path: &Path) -> Result<Vec<u8>, SecurityError> {
    std::fs::read(path).map_err(|error| SecurityError::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// Replaces `slot` by what was read, if that is good and different.
fn adopt<T>(
    slot: &mut Option<(Raw, Arc<T>)>,
    read: Option<Result<(Raw, T), SecurityError>>,
) -> Result<(), SecurityError> {
    let Some((raw, parsed)) = read.transpose()? else {
        return Ok(());
    };
    if slot.as_ref().is_none_or(|(old, _)| *old != raw) {
        *slot = Some((raw, Arc::new(parsed)));
    }
    Ok(())
}

fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// A chain with its key, from PEM; the key must be the leaf's.
pub(super) fn parse_identity(
    chain: &[u8],
    key: &[u8],
    crypto: &CryptoProvider,
) -> Result<CertifiedKey, PemError> {
    let chain = parse_certificates(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key);
    let key = key.map_err(|error| PemError::Key(format!("private key: {error}")))?;
    CertifiedKey::from_der(chain, key, crypto).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => PemError::Mismatch,
        other => PemError::Certificate(other.to_string()),
    })
}

/// What is wrong with PEM texts, before it is known which files they are from.
pub(super) enum PemError {
    /// In the first: certificates.
    Certificate(String),
    /// In the second: the key.
    Key(String),
    /// They do not belong together.
    Mismatch,
}

impl PemError {
    /// The error of the files (or whatever it was) of these names: certificates, and the key.
    pub(super) fn of(self, names: &[String]) -> SecurityError {
        let name = |at: usize| names.get(at).cloned().unwrap_or_default();
        match self {
            Self::Certificate(reason) => SecurityError::Content {
                path: name(0),
                reason,
            },
            Self::Key(reason) => SecurityError::Content {
                path: name(1),
                reason,
            },
            Self::Mismatch => SecurityError::KeyMismatch {
                path: name(0),
                key: name(1),
            },
        }
    }
}

/// Trusted roots, from PEM; all of them must be good, and there must be one.
pub(super) fn parse_roots(pem: &[u8]) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for certificate in parse_certificates(pem)? {
        let added = roots.add(certificate);
        added.map_err(|error| PemError::Certificate(error.to_string()))?;
    }
    Ok(roots)
}

fn parse_certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates =
        parsed.map_err(|error| PemError::Certificate(format!("certificate: {error}")))?;
    if certificates.is_empty() {
        return Err(PemError::Certificate("no certificate in it".to_owned()));
    }
    Ok(certificates)
}
