//! Questions about the state, and their answers.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use super::task::Task;
use super::{Input, WeakInbox};
use crate::inspect::{Cluster, Process, Resource};

/// What somebody asks.
#[derive(Debug)]
pub(crate) enum Question {
    /// The process as a whole.
    Process(oneshot::Sender<Process>),
    /// Every subscribed resource, by type and name.
    Resources(oneshot::Sender<Vec<Resource>>),
    /// Every cluster in use, by name.
    Clusters(oneshot::Sender<Vec<Cluster>>),
    /// When the task ends: it drops this then.
    End(oneshot::Sender<()>),
}

/// Asks the task, without keeping it alive.
#[derive(Debug, Clone)]
pub(crate) struct Asker(pub(super) WeakInbox);

impl Asker {
    /// The answer; `None` once the task has ended.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Question,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        // The way in is let go of at once: who waits must not keep the task.
        self.0.upgrade()?.send(Input::Ask(question(sender))).ok()?;
        answer.await.ok()
    }
}

/// From the task's time, which tests may pause, to the calendar's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calendar {
    now: Instant,
    wall: SystemTime,
}

impl Calendar {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            now,
            wall: SystemTime::now(),
        }
    }

    /// How long it is until then.
    pub(super) fn left(self, at: Instant) -> Duration {
        at.saturating_duration_since(self.now)
    }

    pub(super) fn date(self, at: Instant) -> SystemTime {
        let age = self.now.saturating_duration_since(at);
        let past = self.wall.checked_sub(age);
        let ahead = past.and_then(|wall| wall.checked_add(self.until(at)));
        ahead.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How long it is until then.
    pub(super) fn until(self, at: Instant) -> Duration {
        at.saturating_duration_since(self.now)
    }
}

impl Task {
    /// Answers. Nobody may be waiting any more; that is no trouble.
    pub(super) fn answer(&mut self, now: Instant, question: Question) {
        let calendar = Calendar::new(now);
        match question {
            Question::Process(sender) => _ = sender.send(self.inspect()),
            Question::Resources(sender) => _ = sender.send(self.resources(calendar)),
            Question::Clusters(sender) => _ = sender.send(self.inspect_clusters(calendar)),
            Question::End(sender) => {
                self.ends.retain(|end| !end.is_closed());
                self.ends.push(sender);
            }
        }
    }

    fn inspect(&self) -> Process {
        let source = self.source.as_ref();
        let mut targets = self.clients.inspect();
        targets.extend(self.directs.inspect());
        Process {
            node: source.map(|source| source.node().clone()),
            control_plane: source.map(super::config_source::ConfigSource::inspect),
            control_planes: source.map_or_else(Vec::new, |source| source.inspect_all()),
            targets,
            servers: self.servers.inspect(),
        }
    }

    fn resources(&self, calendar: Calendar) -> Vec<Resource> {
        let source = self.source.as_ref();
        source.map_or_else(Vec::new, |source| source.resources(calendar))
    }

    fn inspect_clusters(&mut self, calendar: Calendar) -> Vec<Cluster> {
        let mut all = self.clusters.inspect(true, calendar);
        all.extend(self.directs.clusters().inspect(false, calendar));
        all
    }
}
