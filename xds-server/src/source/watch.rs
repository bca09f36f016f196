//! Wakes its owner when something happens in a set of directories.
//!
//! Directories are watched, not files: editors and Kubernetes replace files (and the symbolic
//! links that lead to them) rather than write into them, and a watch on the old file would see
//! nothing more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// How often to look where the system reports changes: only against lost reports and for file
/// systems that never send any.
const SLOW_POLL: Duration = Duration::from_secs(2);

/// How often to look where the system reports nothing.
const FAST_POLL: Duration = Duration::from_millis(50);

/// A set of watched directories.
pub(crate) struct DirectoryWatch {
    watcher: Option<RecommendedWatcher>,
    directories: BTreeSet<PathBuf>,
    /// Whether all of `directories` are really watched.
    complete: bool,
    signal: Arc<Notify>,
}

impl DirectoryWatch {
    /// Watches nothing yet.
    pub(crate) fn new() -> Self {
        let signal = Arc::new(Notify::new());
        let raised = Arc::clone(&signal);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |event| matters(&event.kind)) {
                raised.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(target: "sidestep_server::source", %error, "polling files"),
            )
            .ok();
        Self {
            complete: watcher.is_some(),
            watcher,
            directories: BTreeSet::new(),
            signal,
        }
    }

    /// Never uses the system's reports, as if there were none.
    #[cfg(test)]
    pub(crate) fn polling() -> Self {
        Self {
            watcher: None,
            directories: BTreeSet::new(),
            complete: false,
            signal: Arc::new(Notify::new()),
        }
    }

    /// Watches exactly these directories from now on.
    pub(crate) fn set(&mut self, directories: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        if self.complete && self.directories == directories {
            return;
        }
        for gone in self.directories.difference(&directories) {
            // A directory that was deleted is no longer watched anyway.
            let _ = watcher.unwatch(gone);
        }
        self.complete = true;
        for directory in &directories {
            // Also for those watched before: one that was deleted and made again is a new one.
            if watcher
                .watch(directory, RecursiveMode::NonRecursive)
                .is_err()
            {
                self.complete = false;
            }
        }
        self.directories = directories;
    }

    /// Waits until something may have changed; whether the system said so, or it is merely time
    /// to look.
    pub(crate) async fn changed(&self) -> bool {
        let poll = if self.complete { SLOW_POLL } else { FAST_POLL };
        tokio::time::timeout(poll, self.signal.notified())
            .await
            .is_ok()
    }
}

/// Reading a file is reported too; acting on that would be an endless loop.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}
