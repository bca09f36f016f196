//! Bounds the calls in flight to one cluster (gRFC A32).
//!
//! Counted for the whole process: whoever calls the same (cluster, EDS name) shares the breaker.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// Calls in flight of one cluster, and their limit.
#[derive(Debug)]
pub struct CircuitBreaker {
    max: AtomicU32,
    in_flight: AtomicU32,
    /// There was a call. Beside the count, so that a call has its cache line already.
    used: AtomicBool,
}

impl CircuitBreaker {
    /// The limit where nothing is configured (gRFC A32).
    pub const DEFAULT_MAX: u32 = 1024;

    /// A breaker for at most `max` calls at a time; 0 refuses every call.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self {
            max: AtomicU32::new(max),
            in_flight: AtomicU32::new(0),
            used: AtomicBool::new(false),
        }
    }

    /// Changes the limit. Calls in flight go on; after a decrease new ones are refused until
    /// enough have ended.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    /// The limit.
    #[must_use]
    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Room for one call until the permit is dropped; `None` at the limit: the call then fails
    /// `UNAVAILABLE` and is not retried. Allocates nothing.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        let max = self.max();
        let one_more = |n| (n < max).then_some(n + 1);
        // The counter guards no other memory, so `Relaxed` is enough.
        let taken = self.in_flight.fetch_update(Relaxed, Relaxed, one_more);
        taken.ok().map(|_| {
            self.mark_used();
            Permit(Arc::clone(self))
        })
    }

    /// Notes that a call wants the cluster.
    pub(crate) fn mark_used(&self) {
        if !self.used.load(Relaxed) {
            self.used.store(true, Relaxed);
        }
    }

    /// Whether a call wanted the cluster since this was last asked.
    pub(crate) fn take_used(&self) -> bool {
        self.used.swap(false, Relaxed)
    }
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self::new(Self::DEFAULT_MAX)
    }
}

/// Counts as one call in flight until it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<CircuitBreaker>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_above_the_limit_and_recovers() {
        let breaker = Arc::new(CircuitBreaker::new(2));
        let first = breaker.try_acquire().unwrap();
        let _second = breaker.try_acquire().unwrap();
        assert!(breaker.try_acquire().is_none());
        drop(first);
        assert_eq!(breaker.in_flight(), 1);
        assert!(breaker.try_acquire().is_some());
    }

    #[test]
    fn a_lowered_limit_waits_for_calls_to_end() {
        let breaker = Arc::new(CircuitBreaker::default());
        let mut permits: Vec<_> = (0..3).map(|_| breaker.try_acquire().unwrap()).collect();
        breaker.set_max(2);
        assert!(breaker.try_acquire().is_none());
        permits.pop();
        assert!(breaker.try_acquire().is_none());
        permits.pop();
        assert!(breaker.try_acquire().is_some());
        breaker.set_max(0);
        assert!(breaker.try_acquire().is_none());
    }

    #[test]
    fn never_exceeds_the_limit_under_contention() {
        let breaker = Arc::new(CircuitBreaker::new(3));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let permit = breaker.try_acquire();
                        assert!(breaker.in_flight() <= 3);
                        drop(permit);
                    }
                });
            }
        });
        assert_eq!(breaker.in_flight(), 0);
    }
}
