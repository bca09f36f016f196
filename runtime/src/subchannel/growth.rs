//! When one more connection to an endpoint is opened (gRFC A105). Pure: `now` is an argument.
//!
//! ```text
//!              a call waits, all are full, fewer than the most
//!   Resting ────────────────────────────────────────> Opening
//!    ^  ^                     opened                   │  │
//!    │  └──────────────────────────────────────────────┘  │ failed
//!    └──────────── time-out ──── Backoff <────────────────┘
//! ```
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::Instant;

use super::state::{Backoff, pause};

/// Of one endpoint that is connected.
#[derive(Debug)]
pub struct Growth {
    state: State,
    /// In a row.
    failures: u32,
    backoff: Backoff,
    random: fastrand::Rng,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Resting,
    Opening { since: Instant },
    Backoff { until: Instant },
}

impl Growth {
    /// Nothing is being opened; `seed` decides the jitter.
    #[must_use]
    pub fn new(backoff: Backoff, seed: u64) -> Self {
        Self {
            state: State::Resting,
            failures: 0,
            backoff,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Whether one more may be opened beside `open` others, of `most`.
    #[must_use]
    pub fn may_open(&self, open: usize, most: u32) -> bool {
        let room = u32::try_from(open).is_ok_and(|open| open < most);
        room && open > 0 && self.state == State::Resting
    }

    /// One is being opened.
    pub fn opening(&mut self, now: Instant) {
        self.state = State::Opening { since: now };
    }

    /// It is open.
    pub fn opened(&mut self) {
        self.state = State::Resting;
        self.failures = 0;
    }

    /// It could not be opened. The wait counts from the begin of the try.
    pub fn failed(&mut self, now: Instant) {
        if let State::Opening { since } = self.state {
            let pause = pause(&self.backoff, self.failures, &mut self.random);
            self.failures = self.failures.saturating_add(1);
            self.state = State::Backoff {
                until: (since + pause).max(now),
            };
        }
    }

    /// When [`Self::timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Backoff { until } => Some(until),
            State::Resting | State::Opening { .. } => None,
        }
    }

    /// Time has passed. Whether a backoff is over: then look whether calls wait.
    pub fn timeout(&mut self, now: Instant) -> bool {
        let over = self.next_timeout().is_some_and(|until| until <= now);
        if over {
            self.state = State::Resting;
        }
        over
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an instant"
)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_at_a_time_and_never_above_the_most() {
        let now = Instant::now();
        let mut growth = Growth::new(Backoff::default(), 1);
        let rows = [
            (0, 10, false),
            (1, 1, false),
            (1, 2, true),
            (2, 2, false),
            (9, 10, true),
        ];
        for (open, most, may) in rows {
            assert_eq!(growth.may_open(open, most), may, "{open} of {most}");
        }
        growth.opening(now);
        assert!(!growth.may_open(1, 10));
        growth.opened();
        assert!(growth.may_open(2, 10));
    }

    #[test]
    fn a_failure_is_followed_by_a_backoff_that_grows_until_one_opens() {
        let mut now = Instant::now();
        let mut growth = Growth::new(Backoff::default(), 1);
        for least in [800, 1280] {
            growth.opening(now);
            growth.failed(now);
            assert!(!growth.may_open(1, 10));
            let until = growth.next_timeout().unwrap();
            assert!(until >= now + Duration::from_millis(least));
            assert!(!growth.timeout(until - Duration::from_millis(1)));
            assert!(growth.timeout(until));
            assert!(growth.may_open(1, 10));
            now = until;
        }
        growth.opening(now);
        growth.opened();
        growth.opening(now);
        growth.failed(now);
        assert!(growth.next_timeout().unwrap() <= now + Duration::from_millis(1200));
    }
}
