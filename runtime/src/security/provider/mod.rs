//! Where certificates come from: the bootstrap's `certificate_providers` (gRFC A29).

pub mod file_watcher;
pub mod static_;

use std::collections::BTreeMap;
use std::sync::Arc;

use sidestep_proto::bootstrap::CertificateProviderConfig;

use super::{CertificateProvider, SecurityError};
use file_watcher::{FileWatcher, Files};

/// The certificate providers of a process, by instance name.
#[derive(Debug, Clone, Default)]
pub struct CertificateProviders {
    by_name: BTreeMap<String, Arc<dyn CertificateProvider>>,
    /// Those that read files, for [`Self::spawn_refresh`].
    watchers: Vec<Arc<FileWatcher>>,
}

impl CertificateProviders {
    /// One provider for each supported entry. Files that cannot be read yet are no error: they
    /// fail handshakes, and are read again. An entry with an unknown plugin gives no provider.
    ///
    /// # Errors
    /// When an entry has a certificate without its key, or a key without its certificate.
    pub fn from_bootstrap(
        entries: &BTreeMap<String, CertificateProviderConfig>,
    ) -> Result<Self, SecurityError> {
        let mut providers = Self::default();
        for (name, entry) in entries {
            if let Some(files) = files(name, entry)? {
                let watcher = Arc::new(FileWatcher::new(files));
                providers = providers.with_file_watcher(name, watcher);
            }
        }
        Ok(providers)
    }

    /// The same with `provider` under `name`, in place of what had that name.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, provider: Arc<dyn CertificateProvider>) -> Self {
        self.by_name.insert(name.into(), provider);
        self
    }

    /// The same with a file watcher under `name`; [`Self::spawn_refresh`] will keep it fresh.
    #[must_use]
    pub fn with_file_watcher(mut self, name: impl Into<String>, watcher: Arc<FileWatcher>) -> Self {
        self.watchers.push(Arc::clone(&watcher));
        self.with(name, watcher)
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<Arc<dyn CertificateProvider>, SecurityError> {
        let found = self.by_name.get(name).cloned();
        found.ok_or_else(|| SecurityError::NoProvider(name.to_owned()))
    }

    /// All names, in order: what a resource may refer to.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Re-reads all files at their intervals, in one task of the current runtime each. A task
    /// ends when its watcher is used by nobody else.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_refresh(&self) {
        for watcher in &self.watchers {
            tokio::spawn(file_watcher::refresh(Arc::downgrade(watcher)));
        }
    }
}

fn files(name: &str, entry: &CertificateProviderConfig) -> Result<Option<Files>, SecurityError> {
    let CertificateProviderConfig::FileWatcher {
        certificate_file,
        private_key_file,
        ca_certificate_file,
        refresh_interval,
    } = entry
    else {
        return Ok(None);
    };
    let identity = match (certificate_file, private_key_file) {
        (Some(chain), Some(key)) => Some((chain.clone(), key.clone())),
        (None, None) => None,
        _ => {
            return Err(SecurityError::Tls(format!(
                "certificate provider {name:?} needs both a certificate and its key"
            )));
        }
    };
    Ok(Some(Files {
        identity,
        roots: ca_certificate_file.clone(),
        refresh_interval: *refresh_interval,
    }))
}
