//! Counting calls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

/// How one call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered by a backend.
    Answered {
        /// Which one.
        by: String,
        /// Attempts made, this one included.
        attempts: u32,
    },
    /// Failed for good.
    Failed {
        /// The status code's name.
        code: String,
        /// What the status says.
        message: String,
    },
}

/// The calls of a group over some time.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    /// Calls answered.
    pub(super) ok: u64,
    /// Failed calls by status code.
    pub(super) failed: BTreeMap<String, u64>,
    /// Calls answered after more than one attempt.
    pub(super) retried: u64,
    /// Answered calls by backend.
    pub(super) endpoints: BTreeMap<String, u64>,
    /// What the first failure said.
    pub(super) first_failure: Option<String>,
    /// Of answered calls, in microseconds.
    latency: Histogram<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            ok: 0,
            failed: BTreeMap::new(),
            retried: 0,
            endpoints: BTreeMap::new(),
            first_failure: None,
            latency: Histogram::new_with_bounds(1, 60_000_000, 2)
                .expect("these bounds are valid ones"),
        }
    }
}

impl Counts {
    /// Counts a call that took `latency`.
    pub(super) fn record(&mut self, outcome: Outcome, latency: Duration) {
        match outcome {
            Outcome::Answered { by, attempts } => {
                self.ok += 1;
                self.retried += u64::from(attempts > 1);
                *self.endpoints.entry(by).or_default() += 1;
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latency.saturating_record(micros);
            }
            Outcome::Failed { code, message } => {
                self.first_failure
                    .get_or_insert_with(|| format!("{code}: {message}"));
                *self.failed.entry(code).or_default() += 1;
            }
        }
    }

    /// All calls that ended.
    pub(super) fn calls(&self) -> u64 {
        self.ok + self.failures()
    }

    /// All failed calls.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Calls answered by one backend.
    pub(super) fn by(&self, backend: &str) -> u64 {
        self.endpoints.get(backend).copied().unwrap_or(0)
    }

    /// Latency at a quantile between 0 and 1; `None` without an answered call.
    pub(super) fn latency(&self, quantile: f64) -> Option<Duration> {
        let some = !self.latency.is_empty();
        some.then(|| Duration::from_micros(self.latency.value_at_quantile(quantile)))
    }
}

/// [`Counts`] that several tasks write.
#[derive(Debug, Default)]
pub(super) struct Tally {
    counts: Mutex<Counts>,
    open: AtomicU64,
}

/// A call in flight; counted as such until it is dropped.
#[derive(Debug)]
pub(super) struct OpenCall(Arc<Tally>);

impl Tally {
    pub(super) fn begin(self: &Arc<Self>) -> OpenCall {
        self.open.fetch_add(1, Ordering::AcqRel);
        OpenCall(Arc::clone(self))
    }

    /// Calls begun and not ended.
    pub(super) fn open(&self) -> u64 {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// All calls that ended, without copying everything.
    pub(super) fn calls(&self) -> u64 {
        self.lock().calls()
    }

    /// Calls answered by one backend, without copying everything.
    pub(super) fn by(&self, backend: &str) -> u64 {
        self.lock().by(backend)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenCall {
    pub(super) fn end(self, outcome: Outcome, latency: Duration) {
        self.0.lock().record(outcome, latency);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(by: &str, attempts: u32) -> Outcome {
        Outcome::Answered {
            by: by.to_owned(),
            attempts,
        }
    }

    #[test]
    fn each_call_is_counted_once() {
        let tally = Arc::new(Tally::default());
        let first = tally.begin();
        let second = tally.begin();
        assert_eq!((tally.open(), tally.calls()), (2, 0));
        first.end(answered("a", 2), Duration::from_millis(3));
        let failed = Outcome::Failed {
            code: "UNAVAILABLE".to_owned(),
            message: "gone".to_owned(),
        };
        second.end(failed, Duration::from_millis(1));
        let counts = tally.counts();
        assert_eq!((tally.open(), counts.calls()), (0, 2));
        assert_eq!((counts.ok, counts.retried, counts.failures()), (1, 1, 1));
        assert_eq!(counts.first_failure.as_deref(), Some("UNAVAILABLE: gone"));
    }

    #[test]
    fn latency_is_of_answered_calls() {
        let mut counts = Counts::default();
        assert_eq!(counts.latency(0.5), None);
        for ms in 1..=100 {
            counts.record(answered("a", 1), Duration::from_millis(ms));
        }
        let median = counts.latency(0.5).expect("there are calls").as_millis();
        assert!((49..=51).contains(&median), "{median}");
    }

    #[test]
    fn an_abandoned_call_is_not_open_for_ever() {
        let tally = Arc::new(Tally::default());
        drop(tally.begin());
        assert_eq!((tally.open(), tally.calls()), (0, 0));
    }
}
