//! Looks at the world at intervals, and makes pictures of it.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{EndpointView, GroupView, Mark, Playing, View};
use crate::demo::load::Group;
use crate::demo::plain::clock;
use crate::demo::scene::{SCENES, Verdict};
use crate::demo::summary::quantile;
use crate::demo::tally::Counts;
use crate::demo::world::{News, World};

/// Rates and shares are over this long.
const WINDOW: Duration = Duration::from_secs(1);

/// Lines of the event log that are kept.
const LOG: usize = 200;

/// What has to be remembered between two pictures.
pub(super) struct Sampler {
    samples: VecDeque<Sample>,
    scene: Option<Playing>,
    marks: Vec<(&'static str, Mark)>,
    log: VecDeque<String>,
}

/// Both groups at a time.
struct Sample {
    at: Duration,
    mesh: Counts,
    control: Counts,
}

impl Sampler {
    pub(super) fn new() -> Self {
        Self {
            samples: VecDeque::new(),
            scene: None,
            marks: SCENES.iter().map(|it| (it.name, Mark::NotYet)).collect(),
            log: VecDeque::new(),
        }
    }

    pub(super) fn hear(&mut self, at: Duration, news: &News) {
        match news {
            News::Scene(scene) => {
                self.scene = Some(Playing {
                    name: scene.name,
                    title: scene.title,
                    promise: scene.promise,
                });
                self.mark(scene.name, Mark::Playing);
                self.write(at, format!("{}: {}", scene.name, scene.title));
            }
            News::Said(at, text) => self.write(*at, text.clone()),
            News::Verdict(verdict) => self.verdict(at, verdict),
            News::End => {}
        }
    }

    fn verdict(&mut self, at: Duration, verdict: &Verdict) {
        let (mark, word) = match (verdict.touched, verdict.kept()) {
            (true, _) => (Mark::ByHand, "not judged, you had your hand in it"),
            (false, true) => (Mark::Kept, "kept"),
            (false, false) => (Mark::Broken, "BROKEN"),
        };
        self.mark(verdict.scene.name, mark);
        for claim in &verdict.claims {
            let sign = if claim.held { "+" } else { "!" };
            self.write(at, format!("  {sign} {}", claim.text));
        }
        self.write(at, format!("promise {word}"));
    }

    fn mark(&mut self, name: &str, mark: Mark) {
        for (scene, old) in &mut self.marks {
            if *scene == name {
                *old = mark;
            } else if *old == Mark::Playing {
                // It was skipped.
                *old = Mark::NotYet;
            }
        }
    }

    fn write(&mut self, at: Duration, text: String) {
        self.log.push_back(format!("{}  {text}", clock(at)));
        if self.log.len() > LOG {
            self.log.pop_front();
        }
    }

    /// Takes a picture.
    pub(super) fn picture(&mut self, world: &World) -> View {
        let now = Sample {
            at: world.elapsed(),
            mesh: world.mesh.total.counts(),
            control: world.control.total.counts(),
        };
        while self.samples.len() > 1 && now.at.saturating_sub(self.samples[1].at) >= WINDOW {
            self.samples.pop_front();
        }
        let before = self.samples.front().unwrap_or(&now);
        let view = View {
            elapsed: now.at,
            paused: world.paused.load(Ordering::Relaxed),
            control_plane: world.control_plane.address().to_string(),
            control_plane_up: world.control_plane.is_up(),
            scene: self.scene,
            endpoints: endpoints(world, before, &now),
            mesh: group(
                &world.mesh,
                rate(before.at, now.at, &before.mesh, &now.mesh),
            ),
            control: group(
                &world.control,
                rate(before.at, now.at, &before.control, &now.control),
            ),
            marks: self.marks.clone(),
            log: self.log.iter().cloned().collect(),
        };
        self.samples.push_back(now);
        view
    }
}

fn endpoints(world: &World, before: &Sample, now: &Sample) -> Vec<EndpointView> {
    let backends = world.backends.iter();
    let view = |backend: &crate::demo::backend::Backend| EndpointView {
        name: backend.name,
        version: backend.version,
        address: backend
            .address()
            .map_or_else(String::new, |it| it.to_string()),
        state: backend.state(),
        mesh_share: share(backend.name, &before.mesh, &now.mesh),
        control_share: share(backend.name, &before.control, &now.control),
    };
    backends.map(view).collect()
}

fn share(backend: &str, before: &Counts, now: &Counts) -> f64 {
    let all = now.ok - before.ok;
    let theirs = now.by(backend) - before.by(backend);
    if all == 0 {
        0.0
    } else {
        theirs as f64 / all as f64
    }
}

fn rate(since: Duration, until: Duration, before: &Counts, now: &Counts) -> f64 {
    let seconds = until.saturating_sub(since).as_secs_f64();
    if seconds == 0.0 {
        0.0
    } else {
        (now.calls() - before.calls()) as f64 / seconds
    }
}

fn group(group: &Group, calls_per_second: f64) -> GroupView {
    let counts = group.scene().counts();
    GroupView {
        calls_per_second,
        ok: counts.ok,
        failed: counts.failures(),
        retried: counts.retried,
        p50: quantile(&counts, 0.5),
        p99: quantile(&counts, 0.99),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::tally::Outcome;

    fn counts(a: u32, b: u32) -> Counts {
        let mut counts = Counts::default();
        for (name, calls) in [("a", a), ("b", b)] {
            for _ in 0..calls {
                let outcome = Outcome::Answered {
                    by: name.to_owned(),
                    attempts: 1,
                };
                counts.record(outcome, Duration::from_millis(1));
            }
        }
        counts
    }

    #[test]
    fn shares_and_rates_are_of_the_window_alone() {
        let (before, now) = (counts(10, 0), counts(13, 1));
        assert_eq!(share("a", &before, &now), 0.75);
        let second = Duration::from_secs(1);
        assert_eq!(rate(second, 3 * second, &before, &now), 2.0);
    }

    #[test]
    fn nothing_happened_is_no_share_and_no_rate() {
        let same = counts(1, 1);
        assert_eq!(share("a", &same, &same), 0.0);
        assert_eq!(rate(Duration::ZERO, Duration::ZERO, &same, &same), 0.0);
    }

    #[test]
    fn a_scene_that_was_skipped_is_not_in_play_any_more() {
        let mut sampler = Sampler::new();
        sampler.hear(Duration::ZERO, &News::Scene(SCENES[0]));
        sampler.hear(Duration::ZERO, &News::Scene(SCENES[1]));
        assert_eq!(sampler.marks[0].1, Mark::NotYet);
        assert_eq!(sampler.marks[1].1, Mark::Playing);
    }
}
