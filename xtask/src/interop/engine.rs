//! Plays scenarios side by side: most of the time of each is waiting.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cast::Cast;
use super::install::Installed;
use super::options::Options;
use super::peer::Peer;
use super::scenario::{self, Scenario};
use super::stage::Stage;
use crate::codegen::root;

/// One scenario with one cast, once.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) scenario: &'static Scenario,
    pub(super) cast: Cast,
    /// From 1, where it is repeated.
    repetition: Option<usize>,
}

/// What became of a run.
pub(super) struct Outcome {
    pub(super) run: Run,
    pub(super) result: Result<()>,
    pub(super) took: Duration,
}

impl Run {
    /// Whom it needs.
    pub(super) fn peers(&self) -> BTreeSet<Peer> {
        let mut peers = self.cast.peers();
        peers.extend(self.scenario.helpers);
        peers
    }

    /// Where its logs and configurations are.
    pub(super) fn folder(&self) -> PathBuf {
        let scenario = root().join("target/interop/logs").join(self.scenario.name);
        let folder = scenario.join(self.cast.to_string());
        match self.repetition {
            Some(repetition) => folder.join(repetition.to_string()),
            None => folder,
        }
    }

    fn play(self, installed: &Installed) -> Outcome {
        let started = Instant::now();
        let folder = self.folder();
        let result = fresh(&folder).and_then(|()| {
            let folder = &folder;
            let cast = self.cast;
            (self.scenario.play)(&Stage {
                installed,
                folder,
                cast,
            })
        });
        if self.repetition.is_some() && result.is_ok() {
            // Only what failed is of interest among so many; what stays behind harms nobody.
            _ = fs::remove_dir_all(&folder);
        }
        Outcome {
            run: self,
            result,
            took: started.elapsed(),
        }
    }
}

/// Everything that is to be played, each scenario's casts one after the other.
pub(super) fn runs(options: &Options) -> Vec<Run> {
    let casts = scenario::all().flat_map(|s| s.casts.iter().map(move |cast| (s, *cast)));
    let wanted = casts.filter(|(scenario, cast)| options.wants(scenario, cast));
    let is_repeated = options.repeat > 1;
    let repeated = wanted.flat_map(|(scenario, cast)| {
        (1..=options.repeat).map(move |repetition| Run {
            scenario,
            cast,
            repetition: is_repeated.then_some(repetition),
        })
    });
    repeated.collect()
}

/// Plays all of them, so many at a time, and tells of each as it ends.
pub(super) fn play(
    installed: &Installed,
    runs: &[Run],
    jobs: usize,
    mut ended: impl FnMut(&Outcome),
) -> Vec<Outcome> {
    let queue: Mutex<VecDeque<Run>> = Mutex::new(runs.iter().copied().collect());
    let (sender, outcomes) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let sender = sender.clone();
            let queue = &queue;
            scope.spawn(move || {
                while let Some(run) = next(queue) {
                    if sender.send(run.play(installed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        outcomes.iter().inspect(|outcome| ended(outcome)).collect()
    })
}

fn next(queue: &Mutex<VecDeque<Run>>) -> Option<Run> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    queue.pop_front()
}

/// An empty folder.
fn fresh(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::create_dir_all(folder)?)
}
