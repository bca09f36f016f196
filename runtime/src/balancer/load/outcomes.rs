//! Successes and failures.

use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};

/// What a failed call says of its endpoint. Every failure counts for shares of failures (gRFC
/// A50); in a row count those that Envoy takes for a server's own, having translated gRPC's status
/// to HTTP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// It answered, and the caller asked for the wrong thing (HTTP 4xx): ends a row.
    Answered,
    /// It failed (HTTP 500, 501).
    Server,
    /// It was not there, or not in time (HTTP 502 to 504).
    Gateway,
}

impl Blame {
    /// Whose fault this gRPC status is.
    #[must_use]
    pub fn of(code: u32) -> Self {
        match code {
            // DEADLINE_EXCEEDED, UNAVAILABLE.
            4 | 14 => Self::Gateway,
            // CANCELLED, INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED,
            // RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNAUTHENTICATED.
            1 | 3 | 5..=11 | 16 => Self::Answered,
            // UNKNOWN, UNIMPLEMENTED, INTERNAL, DATA_LOSS, and what nobody knows.
            _ => Self::Server,
        }
    }
}

/// Counters that a policy takes away, and the failures in a row.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    /// Failures in the upper half, successes in the lower: taken away together.
    counts: AtomicU64,
    /// Failures with any blame in a row. Not 0 as long as anything waits for a success.
    server: Row,
    gateway: Row,
    probe: AtomicU8,
    /// The policy has been woken and has not yet been called.
    waking: AtomicBool,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Row {
    length: AtomicU32,
    /// 0: none.
    limit: AtomicU32,
}

const FAILURE: u64 = 1 << 32;
const NO_PROBE: u8 = 0;
const AWAITED: u8 = 1;
const PASSED: u8 = 2;
const FAILED: u8 = 3;

impl Row {
    /// Whether it is now as long as it may be.
    fn grow(&self) -> bool {
        let length = self.length.fetch_add(1, Relaxed).saturating_add(1);
        let limit = self.limit.load(Relaxed);
        limit != 0 && length >= limit
    }

    fn end(&self) {
        self.length.store(0, Relaxed);
    }

    fn is_limited(&self) -> bool {
        self.limit.load(Relaxed) != 0
    }
}

impl Outcomes {
    /// Whether the policy is to be woken.
    pub(super) fn succeeded(&self) -> bool {
        self.counts.fetch_add(1, Relaxed);
        // The usual success follows a success: nothing to write.
        self.server.length.load(Relaxed) != 0 && self.end_rows()
    }

    /// Whether the policy is to be woken.
    pub(super) fn failed(&self, blame: Blame) -> bool {
        self.counts.fetch_add(FAILURE, Relaxed);
        let mut reached = false;
        match blame {
            Blame::Answered => return self.end_rows(),
            Blame::Server => self.gateway.end(),
            Blame::Gateway => reached = self.gateway.grow(),
        }
        reached |= self.server.grow();
        let counts = self.server.is_limited() || blame == Blame::Gateway;
        let told = self.probed(if counts { FAILED } else { PASSED });
        (reached || told) && self.wakes()
    }

    /// The endpoint has answered.
    fn end_rows(&self) -> bool {
        self.reset_rows();
        self.probed(PASSED) && self.wakes()
    }

    /// Whether this is the outcome that somebody waits for.
    fn probed(&self, outcome: u8) -> bool {
        let answer = self
            .probe
            .compare_exchange(AWAITED, outcome, AcqRel, Relaxed);
        answer.is_ok()
    }

    fn wakes(&self) -> bool {
        !self.waking.swap(true, AcqRel)
    }

    pub(super) fn told(&self) {
        self.waking.store(false, Release);
    }

    pub(super) fn take(&self) -> (u32, u32) {
        let counts = self.counts.swap(0, Relaxed);
        // The two halves, each of 32 bits.
        (counts as u32, (counts >> 32) as u32)
    }

    pub(super) fn set_limits(&self, server: Option<u32>, gateway: Option<u32>) {
        let write = |row: &Row, limit: Option<u32>| {
            row.limit.store(limit.map_or(0, |n| n.max(1)), Relaxed);
        };
        write(&self.server, server);
        write(&self.gateway, gateway);
    }

    pub(super) fn rows(&self) -> (u32, u32) {
        (
            self.server.length.load(Relaxed),
            self.gateway.length.load(Relaxed),
        )
    }

    pub(super) fn reset_rows(&self) {
        self.server.end();
        self.gateway.end();
    }

    pub(super) fn await_probe(&self) {
        self.probe.store(AWAITED, Release);
        // Even a success has to look further then.
        let _ = self.server.length.compare_exchange(0, 1, Relaxed, Relaxed);
    }

    pub(super) fn end_probe(&self) -> Option<bool> {
        match self.probe.load(Acquire) {
            PASSED => {
                self.probe.store(NO_PROBE, Relaxed);
                Some(true)
            }
            FAILED => {
                self.probe.store(NO_PROBE, Relaxed);
                Some(false)
            }
            _ => None,
        }
    }

    pub(super) fn forget(&self) {
        self.set_limits(None, None);
        self.reset_rows();
        self.probe.store(NO_PROBE, Relaxed);
        self.take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_taken_away() {
        let outcomes = Outcomes::default();
        for _ in 0..3 {
            assert!(!outcomes.succeeded());
        }
        assert!(!outcomes.failed(Blame::Gateway), "nobody set a limit");
        assert_eq!(outcomes.take(), (3, 1));
        assert_eq!(outcomes.take(), (0, 0));
    }

    #[test]
    fn the_limit_wakes_once_until_the_policy_was_told() {
        let outcomes = Outcomes::default();
        outcomes.set_limits(Some(3), None);
        let woken = |times| {
            let calls = (0..times).filter(|_| outcomes.failed(Blame::Server));
            calls.count()
        };
        assert_eq!(woken(2), 0);
        assert_eq!(woken(4), 1, "at the third, and not again");
        outcomes.told();
        assert_eq!(woken(3), 1, "a policy that let it pass hears of the next");
        outcomes.told();
        outcomes.reset_rows();
        assert_eq!(woken(2), 0);
        assert!(!outcomes.succeeded());
        assert_eq!(outcomes.rows(), (0, 0));
        assert_eq!(woken(2), 0, "a success ends the row");
    }

    #[test]
    fn rows_are_of_what_envoy_would_count() {
        let outcomes = Outcomes::default();
        outcomes.set_limits(Some(4), Some(2));
        assert!(!outcomes.failed(Blame::of(14)));
        assert!(!outcomes.failed(Blame::of(13)), "INTERNAL is no gateway's");
        assert!(!outcomes.failed(Blame::of(4)));
        assert_eq!(outcomes.rows(), (3, 1));
        assert!(!outcomes.failed(Blame::of(5)), "NOT_FOUND is an answer");
        assert_eq!(outcomes.rows(), (0, 0));
        assert!(!outcomes.failed(Blame::of(4)));
        assert!(outcomes.failed(Blame::of(14)));
        assert_eq!(outcomes.take(), (0, 6), "failures all the same");
    }

    #[test]
    fn a_limit_of_nothing_is_a_limit_of_one() {
        let outcomes = Outcomes::default();
        outcomes.set_limits(Some(0), None);
        assert!(outcomes.failed(Blame::Server));
    }

    #[test]
    fn a_probe_is_told_of_whatever_it_comes_to() {
        let outcomes = Outcomes::default();
        outcomes.set_limits(Some(5), None);
        for (end, expected) in [
            (None, true),
            (Some(Blame::Answered), true),
            (Some(Blame::Server), false),
        ] {
            let run = || end.map_or_else(|| outcomes.succeeded(), |blame| outcomes.failed(blame));
            outcomes.await_probe();
            assert_eq!(outcomes.end_probe(), None);
            assert!(run());
            assert!(!run(), "one is awaited");
            outcomes.told();
            assert_eq!(outcomes.end_probe(), Some(expected));
            assert_eq!(outcomes.end_probe(), None);
        }
    }
}
