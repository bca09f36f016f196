//! The newest accepted state, the verdict on the last change, and those who wait for the next.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::model::Diagnostic;
use crate::snapshot::Snapshot;
use crate::source::{Configuration, SourceError};

/// The newest accepted state of the configuration. Cheap to clone; clones are the same store.
#[derive(Clone)]
pub struct Store {
    snapshots: Arc<watch::Sender<Arc<Snapshot>>>,
    reports: Arc<watch::Sender<Report>>,
}

/// What became of the changes so far.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The revision in use.
    pub revision: u64,
    /// What is in it, in a few words.
    pub summary: String,
    /// What is allowed in it but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// The newest change, if it was refused. The state in use is then an older one.
    pub refusal: Option<Refusal>,
    /// How long the newest change took to check and encode.
    pub took: Duration,
}

/// A change that was refused as a whole.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// When.
    pub at: SystemTime,
    /// Everything that was wrong with it.
    pub error: SourceError,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// Empty, at revision 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            snapshots: Arc::new(watch::Sender::new(Arc::default())),
            reports: Arc::new(watch::Sender::default()),
        }
    }

    /// Checks a new state and, if it is sound, puts it in the place of the old one and wakes all
    /// who wait. Otherwise the old one stays and the refusal is remembered.
    ///
    /// # Errors
    /// With everything that is wrong with the new state.
    pub fn apply(
        &self,
        change: Result<Configuration, SourceError>,
    ) -> Result<Arc<Snapshot>, SourceError> {
        let started = Instant::now();
        match change.and_then(|configuration| self.build(configuration)) {
            Ok((snapshot, report)) => {
                self.snapshots.send_replace(Arc::clone(&snapshot));
                self.reports.send_replace(Report {
                    took: started.elapsed(),
                    ..report
                });
                Ok(snapshot)
            }
            Err(error) => {
                self.refuse(error.clone(), started);
                Err(error)
            }
        }
    }

    /// The state in use.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Follows the state in use.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    /// What became of the changes so far.
    #[must_use]
    pub fn report(&self) -> Report {
        self.reports.borrow().clone()
    }

    /// Follows what becomes of changes, refused ones included.
    #[must_use]
    pub fn watch_reports(&self) -> watch::Receiver<Report> {
        self.reports.subscribe()
    }

    fn build(&self, configuration: Configuration) -> Result<(Arc<Snapshot>, Report), SourceError> {
        let previous = self.snapshot();
        let revision = previous.revision() + 1;
        let snapshot = Snapshot::build(
            revision,
            configuration.resources,
            configuration.references,
            &previous,
        )?
        .with_server_listeners(configuration.server_listeners)
        .with_delivery(configuration.delivery);
        let report = Report {
            revision,
            summary: configuration.summary,
            warnings: configuration.warnings,
            refusal: match configuration.refresh {
                true => self.report().refusal,
                false => None,
            },
            ..Report::default()
        };
        Ok((Arc::new(snapshot), report))
    }

    fn refuse(&self, error: SourceError, started: Instant) {
        self.reports.send_modify(|report| {
            report.took = started.elapsed();
            report.refusal = Some(Refusal {
                at: SystemTime::now(),
                error,
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{assignment, cluster};
    use crate::snapshot::RawResource;

    fn configuration(anys: Vec<sidestep_proto::wire::Any>) -> Configuration {
        Configuration {
            resources: anys
                .into_iter()
                .map(|any| RawResource::from_any(any).expect("named"))
                .collect(),
            summary: "a test".to_owned(),
            ..Configuration::default()
        }
    }

    #[test]
    fn a_sound_change_replaces_the_state_and_wakes_watchers() {
        let store = Store::new();
        let watcher = store.watch();
        let sound = configuration(vec![cluster("a"), assignment("a", &[])]);
        let snapshot = store.apply(Ok(sound)).expect("sound");
        assert_eq!(snapshot.revision(), 1);
        assert!(watcher.has_changed().expect("the store lives"));
        assert_eq!(store.report().summary, "a test");
    }

    #[test]
    fn a_broken_change_leaves_the_last_good_state() {
        let store = Store::new();
        let sound = configuration(vec![cluster("a"), assignment("a", &[])]);
        store.apply(Ok(sound.clone())).expect("sound");
        let mut watcher = store.watch();
        watcher.mark_unchanged();

        let broken = configuration(vec![cluster("a")]);
        store.apply(Ok(broken)).expect_err("a hole");
        assert_eq!(store.snapshot().revision(), 1);
        assert!(!watcher.has_changed().expect("the store lives"));
        let refusal = store.report().refusal.expect("is remembered");
        assert!(refusal.error.to_string().contains("does not exist"));

        store.apply(Ok(sound)).expect("sound again");
        assert!(store.report().refusal.is_none(), "is over");
        assert_eq!(store.snapshot().revision(), 2);
    }
}
