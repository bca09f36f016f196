//! Where certificates come from: the bootstrap's `certificate_providers` (gRFC A29).

pub mod file_watcher;
pub mod static_;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{CertificateProvider, SecurityError};
use file_watcher::{FileWatcher, Files};
use sidestep_proto::bootstrap::CertificateProviderConfig;
use tracing::warn;

/// The certificate providers of a process, by instance name.
#[derive(Debug, Clone, Default)]
pub struct CertificateProviders {
    by_name: BTreeMap<String, Arc<dyn CertificateProvider>>,
    /// Those that read files, for [`Self::spawn_refresh`].
    watchers: Vec<Arc<FileWatcher>>,
}

impl CertificateProviders {
    /// The bootstrap's `certificate_providers`. Files are read now; what cannot be read now is an
    /// error of the handshakes that need it, until it can. A plugin that there is not is left out,
    /// so that resources which refer to it are refused.
    #[must_use]
    pub fn from_bootstrap(configured: &BTreeMap<String, CertificateProviderConfig>) -> Self {
        configured.iter().fold(Self::default(), |all, (name, config)| match config {
            CertificateProviderConfig::FileWatcher {
                certificate_file,
                private_key_file,
                ca_certificate_file,
                refresh_interval,
            } => {
                let files = Files {
                    identity: certificate_file.clone().zip(private_key_file.clone()),
                    roots: ca_certificate_file.clone(),
                    refresh_interval: *refresh_interval,
                };
                all.with_file_watcher(name, Arc::new(FileWatcher::new(files)))
            }
            CertificateProviderConfig::Unsupported { plugin_name } => {
                warn!(target: "sidestep::security", instance = name, plugin_name, "no such certificate provider");
                all
            }
        })
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
