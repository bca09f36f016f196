//! What is counted in: a number, a histogram, and one of either for each status.
//!
//! A cell is found once and then only added to, with relaxed atomics. Beside its own numbers it
//! tells whatever [`Exporter`]s the process installed.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::instruments::{Buckets, Instrument};

/// Takes measurements elsewhere as they are made, such as to an OpenTelemetry meter.
pub trait Exporter: fmt::Debug + Send + Sync {
    /// One instrument with one set of label values. Asked once; then every value goes to it.
    fn series(&self, instrument: &'static Instrument, labels: &[&str]) -> Box<dyn Series>;
}

/// One instrument with one set of label values, elsewhere.
pub trait Series: fmt::Debug + Send + Sync {
    /// A counter: this much more. A gauge: this is it now. A histogram: one value, in our whole
    /// numbers (see [`Buckets::in_unit`]).
    fn record(&self, value: i64);
}

pub(super) type Also = Box<[Box<dyn Series>]>;

fn tell(also: &Also, value: u64) {
    if !also.is_empty() {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        for series in also {
            series.record(value);
        }
    }
}

/// A sum.
#[derive(Debug)]
pub(crate) struct Count {
    n: AtomicU64,
    also: Also,
}

impl Count {
    pub(super) fn new(also: Also) -> Self {
        Self {
            n: AtomicU64::new(0),
            also,
        }
    }

    pub(super) fn add_one(&self) {
        self.n.fetch_add(1, Ordering::Relaxed);
        tell(&self.also, 1);
    }

    pub(super) fn get(&self) -> u64 {
        self.n.load(Ordering::Relaxed)
    }
}

/// Values sorted into buckets.
#[derive(Debug)]
pub struct Histogram {
    buckets: &'static Buckets,
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
    also: Also,
}

impl Histogram {
    pub(super) fn new(buckets: &'static Buckets, also: Also) -> Self {
        Self {
            buckets,
            counts: (0..=buckets.bounds.len())
                .map(|_| AtomicU64::new(0))
                .collect(),
            sum: AtomicU64::new(0),
            also,
        }
    }

    pub(super) fn record(&self, value: u64) {
        let at = self.buckets.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        tell(&self.also, value);
    }

    /// Its bounds.
    #[must_use]
    pub fn buckets(&self) -> &'static Buckets {
        self.buckets
    }

    /// How many values each bucket has, not cumulative; the last has no upper bound.
    #[must_use]
    pub fn counts(&self) -> Vec<u64> {
        let counts = self.counts.iter();
        counts.map(|n| n.load(Ordering::Relaxed)).collect()
    }

    /// Of all values, in the instrument's unit.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.buckets.in_unit(self.sum.load(Ordering::Relaxed))
    }
}

/// The names of gRPC's status codes, by number.
pub const STATUS_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A code that gRPC does not have counts as `UNKNOWN`.
const UNKNOWN: usize = 2;

/// One cell for each status code, made when the code first occurs.
#[derive(Debug)]
pub(super) struct PerStatus<T>([OnceLock<Box<T>>; STATUS_NAMES.len()]);

impl<T> Default for PerStatus<T> {
    fn default() -> Self {
        Self([const { OnceLock::new() }; STATUS_NAMES.len()])
    }
}

impl<T> PerStatus<T> {
    pub(super) fn get(&self, code: u32, make: impl FnOnce(&'static str) -> T) -> &T {
        let at = usize::try_from(code).unwrap_or(UNKNOWN);
        let at = if at < STATUS_NAMES.len() { at } else { UNKNOWN };
        self.0[at].get_or_init(|| Box::new(make(STATUS_NAMES[at])))
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &T)> {
        let made = self.0.iter().zip(STATUS_NAMES);
        made.filter_map(|(cell, name)| Some((name, &**cell.get()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::instruments::{LATENCY, SIZE};
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::new(&SIZE, Box::default());
        for value in [0, 1, 1024, 1025, u64::from(u32::MAX) + 2] {
            histogram.record(value);
        }
        let counts = histogram.counts();
        assert_eq!(counts[..3], [1, 2, 1]);
        assert_eq!(counts[SIZE.bounds.len()], 1);
        assert_eq!(counts.iter().sum::<u64>(), 5);
    }

    #[test]
    fn sums_are_in_the_unit() {
        let histogram = Histogram::new(&LATENCY, Box::default());
        histogram.record(1_500_000_000);
        histogram.record(500_000_000);
        assert!((histogram.sum() - 2.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_code_that_grpc_does_not_have_is_unknown() {
        let cells = PerStatus::default();
        cells.get(99, |name| name);
        cells.get(u32::MAX, |name| name);
        cells.get(0, |name| name);
        assert_eq!(
            cells.each().collect::<Vec<_>>(),
            [("OK", &"OK"), ("UNKNOWN", &"UNKNOWN")]
        );
    }
}
