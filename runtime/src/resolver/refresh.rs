//! When a host name is looked up again. Pure.
//!
//! ```text
//!   running ── found ──> fresh ── its records have run out, or it is doubted ──> running
//!      └────── failed ─> failed ── backoff ────────────────────────────────────> running
//! ```
//!
//! A doubt (a connection failed, or was lost) brings the next look-up forward, but not so far that
//! a cluster in trouble becomes one for the name server.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

/// Records that say longer are asked for again all the same: a name's owner may have made a
/// mistake, and nobody wants to wait a day for its end.
const LONGEST: Duration = Duration::from_secs(5 * 60);
/// Where nothing says how long an answer counts: the system's own resolver does not.
const UNSAID: Duration = Duration::from_secs(30);
/// The backoff is doubled so many times.
const DOUBLINGS: u32 = 7;

/// What [`Refresh`] goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Least time between two look-ups where all goes well. 1 s.
    pub shortest: Duration,
    /// Least time from an answer to a look-up because of a doubt. 5 s.
    pub doubt: Duration,
    /// From the first failure to the next look-up; doubled up to 128 times. 1 s.
    pub backoff: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(1),
            doubt: Duration::from_secs(5),
            backoff: Duration::from_secs(1),
        }
    }
}

/// The look-ups of one name.
#[derive(Debug, Clone)]
pub struct Refresh {
    pace: Pace,
    /// What the cluster says of the least time between two look-ups.
    wanted: Duration,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many failed before it.
    Running { failures: u32 },
    /// Counts until then.
    Fresh { since: Instant, until: Instant },
    /// So many failed in a row.
    Failed { failures: u32, again: Instant },
}

impl Refresh {
    /// A name of which nothing is known: a look-up is to be started at once.
    #[must_use]
    pub fn new(pace: Pace, wanted: Duration) -> Self {
        Self {
            pace,
            wanted,
            state: State::Running { failures: 0 },
        }
    }

    /// The look-up found addresses, which count for `ttl`. Not asked for: nothing happens.
    pub fn found(&mut self, now: Instant, ttl: Option<Duration>) {
        if let State::Running { .. } = self.state {
            let wanted = ttl.unwrap_or(UNSAID).max(self.wanted);
            let period = wanted.min(LONGEST).max(self.pace.shortest);
            self.state = State::Fresh {
                since: now,
                until: now + period,
            };
        }
    }

    /// The look-up failed. Not asked for: nothing happens.
    pub fn failed(&mut self, now: Instant) {
        if let State::Running { failures } = self.state {
            let pause = self.pace.backoff * 2_u32.pow(failures.min(DOUBLINGS));
            self.state = State::Failed {
                failures: failures.saturating_add(1),
                again: now + pause,
            };
        }
    }

    /// What was found may not be right any more.
    pub fn doubt(&mut self, now: Instant) {
        if let State::Fresh { since, until } = &mut self.state {
            let soonest = (*since + self.pace.doubt).max(now);
            *until = soonest.min(*until);
        }
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        match self.state {
            State::Running { failures } | State::Failed { failures, .. } => failures,
            State::Fresh { .. } => 0,
        }
    }

    /// When [`Refresh::handle_timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Running { .. } => None,
            State::Fresh { until, .. } => Some(until),
            State::Failed { again, .. } => Some(again),
        }
    }

    /// Whether a look-up is to be started now.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = self.next_timeout().is_some_and(|at| at <= now);
        if due {
            let failures = self.failures();
            self.state = State::Running { failures };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Instant {
        #[allow(clippy::disallowed_methods, reason = "any moment will do")]
        Instant::now()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_answer_counts_for_its_ttl_within_bounds() {
        let now = start();
        for (ttl, wanted, expected) in [
            (Some(60), 5, 60),
            (Some(60), 90, 90),
            (Some(0), 5, 5),
            (Some(0), 0, 1),
            (Some(86_400), 5, 300),
            (Some(1), 86_400, 300),
            (None, 5, 30),
            (None, 60, 60),
        ] {
            let mut refresh = Refresh::new(Pace::default(), seconds(wanted));
            assert_eq!(refresh.next_timeout(), None, "it runs");
            refresh.found(now, ttl.map(seconds));
            let expected = now + seconds(expected);
            assert_eq!(refresh.next_timeout(), Some(expected), "{ttl:?} {wanted}");
            assert!(!refresh.handle_timeout(expected - seconds(1)));
            assert!(refresh.handle_timeout(expected));
            assert_eq!(refresh.next_timeout(), None, "it runs again");
        }
    }

    #[test]
    fn failures_back_off_until_an_answer() {
        let mut now = start();
        let mut refresh = Refresh::new(Pace::default(), seconds(5));
        for pause in [1, 2, 4, 8, 16, 32, 64, 128, 128] {
            refresh.failed(now);
            now += seconds(pause);
            assert_eq!(refresh.next_timeout(), Some(now));
            assert!(refresh.handle_timeout(now));
        }
        assert_eq!(refresh.failures(), 9);
        refresh.found(now, Some(seconds(60)));
        assert!(refresh.handle_timeout(now + seconds(60)));
        refresh.failed(now);
        assert_eq!(refresh.next_timeout(), Some(now + seconds(1)));
    }

    #[test]
    fn a_doubt_brings_the_next_look_up_forward_but_not_too_far() {
        let now = start();
        let fresh = || {
            let mut refresh = Refresh::new(Pace::default(), seconds(5));
            refresh.found(now, Some(seconds(60)));
            refresh
        };
        for (doubted, expected) in [(1, 5), (5, 5), (20, 20), (59, 59)] {
            let mut refresh = fresh();
            refresh.doubt(now + seconds(doubted));
            let expected = now + seconds(expected);
            assert_eq!(refresh.next_timeout(), Some(expected), "{doubted}");
            // More doubts change nothing.
            refresh.doubt(now + seconds(doubted));
            assert_eq!(refresh.next_timeout(), Some(expected), "{doubted}");
        }
        // What runs, or has failed, has its own time.
        let mut refresh = fresh();
        assert!(refresh.handle_timeout(now + seconds(60)));
        refresh.doubt(now + seconds(60));
        assert_eq!(refresh.next_timeout(), None);
        refresh.failed(now + seconds(60));
        refresh.doubt(now + seconds(60));
        assert_eq!(refresh.next_timeout(), Some(now + seconds(61)));
    }
}
