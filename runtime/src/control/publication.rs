//! When a cluster's picker goes out. Pure.
//!
//! A picker costs what its endpoints cost, and while many endpoints connect each of them changes
//! it. So pickers go out with a pause between them that grows with the number of endpoints: what
//! they cost stays a small share of the time that connecting takes, however many there are.

use std::time::{Duration, Instant};

use crate::balancer::Connectivity;

/// Between two pickers of a small cluster.
const SHORTEST: Duration = Duration::from_millis(5);

/// Between two pickers of any cluster.
const LONGEST: Duration = Duration::from_millis(50);

/// For each endpoint; a picker costs about a twentieth of it.
const EACH: Duration = Duration::from_micros(1);

/// The last word of a cluster's policy, and whether it is out.
#[derive(Debug)]
pub(super) struct Publication {
    connectivity: Connectivity,
    /// The state that is out.
    shown: Connectivity,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Publication {
    /// Connecting is out.
    pub(super) fn new() -> Self {
        Self {
            connectivity: Connectivity::Connecting,
            shown: Connectivity::Connecting,
            due: None,
            last: None,
        }
    }

    /// The policy's last word.
    pub(super) fn connectivity(&self) -> &Connectivity {
        &self.connectivity
    }

    /// The policy has spoken, over so many endpoints.
    pub(super) fn decide(&mut self, now: Instant, connectivity: Connectivity, endpoints: usize) {
        self.connectivity = connectivity;
        self.want(now, endpoints);
    }

    /// What goes out with the picker has changed.
    pub(super) fn want(&mut self, now: Instant, endpoints: usize) {
        // Calls may be waiting for this very moment.
        let served = |state: &Connectivity| *state == Connectivity::Ready;
        if served(&self.connectivity) && !served(&self.shown) {
            self.due = Some(now);
            return;
        }
        let paced = self.last.map(|last| last + pause(endpoints));
        self.due = Some(paced.map_or(now, |paced| paced.max(now)));
    }

    /// It goes out now, whatever it costs.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// When it is to go out; `None`: it is out.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it goes out now. If so, it is out.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|at| at > now) {
            return false;
        }
        self.due = None;
        self.last = Some(now);
        self.shown = self.connectivity.clone();
        true
    }
}

fn pause(endpoints: usize) -> Duration {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    EACH.saturating_mul(endpoints).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: Connectivity = Connectivity::Ready;

    fn after(now: Instant, millis: u64) -> Instant {
        now + Duration::from_millis(millis)
    }

    #[test]
    fn the_first_word_goes_out_at_once_and_the_next_after_a_pause() {
        let now = Instant::now();
        for (endpoints, millis) in [(1, 5), (4_000, 5), (20_000, 20), (1_000_000, 50)] {
            let mut publication = Publication::new();
            publication.decide(now, READY, endpoints);
            assert!(publication.take(now));
            assert!(!publication.take(now), "it is out");
            publication.decide(now, READY, endpoints);
            assert!(!publication.take(after(now, millis - 1)));
            assert_eq!(publication.due(), Some(after(now, millis)));
            assert!(publication.take(after(now, millis)));
        }
    }

    #[test]
    fn the_first_that_can_serve_calls_does_not_wait() {
        let now = Instant::now();
        let mut publication = Publication::new();
        publication.want(now, 50_000);
        assert!(publication.take(now));
        publication.decide(after(now, 1), Connectivity::Connecting, 50_000);
        assert!(!publication.take(after(now, 1)));
        publication.decide(after(now, 2), READY, 50_000);
        assert!(publication.take(after(now, 2)));
        publication.decide(after(now, 3), READY, 50_000);
        assert!(!publication.take(after(now, 3)));
    }

    /// Endpoints that come up one after the other, a twentieth of a millisecond apart.
    fn endpoints_visited(endpoints: usize) -> usize {
        let mut now = Instant::now();
        let mut publication = Publication::new();
        let mut visited = 0;
        for ready in 1..=endpoints {
            now += Duration::from_micros(50);
            publication.decide(now, READY, endpoints);
            if publication.take(now) {
                visited += ready;
            }
        }
        visited
    }

    #[test]
    fn many_endpoints_that_come_up_cost_a_share_that_does_not_grow() {
        for endpoints in [5_000, 10_000, 20_000, 40_000] {
            let share = endpoints_visited(endpoints) as f64 / endpoints as f64;
            assert!(share < 40.0, "{endpoints}: each was visited {share} times");
        }
    }
}
