//! A moving average of latencies that believes the worst at once and the best slowly.
//!
//! A call slower than the average is the new average; a faster one pulls it down by how much time
//! has passed: after one decay time the old average counts 1/e. Without calls it sinks towards
//! zero, so that an endpoint that was slow gets another chance.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use std::time::{Duration, Instant};

/// How latencies are averaged, for all endpoints of a policy; and the time, as the last call that
/// read the clock saw it.
#[derive(Debug)]
pub struct LatencyTerms {
    /// Until the old average counts 1/e, in milliseconds.
    decay: f32,
    /// What a call in trouble counts as, in seconds.
    penalty: f32,
    epoch: Instant,
    /// Milliseconds since `epoch`; may wrap.
    recent: AtomicU32,
}

/// An endpoint cannot ask to be left alone for longer.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

impl LatencyTerms {
    /// `now` is where the policy's time begins.
    #[must_use]
    pub fn new(now: Instant, decay: Duration, penalty: Duration) -> Self {
        Self {
            decay: decay.as_secs_f32() * 1000.0,
            penalty: penalty.as_secs_f32(),
            epoch: now,
            recent: AtomicU32::new(0),
        }
    }

    /// Takes the time over; answers in milliseconds.
    pub(super) fn advance(&self, now: Instant) -> u32 {
        // Wraps after 49 days, and so does every difference.
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u32;
        // Calls of one millisecond do not fight for the word.
        if self.recent.load(Relaxed) != millis {
            self.recent.store(millis, Relaxed);
        }
        millis
    }

    pub(super) fn clock(&self) -> u32 {
        self.recent.load(Relaxed)
    }

    /// What is left of an average after so many milliseconds.
    fn left(&self, millis: u32) -> f32 {
        (-(millis as f32) / self.decay).exp()
    }
}

/// The average of one endpoint, in one word.
#[derive(Debug, Default)]
pub(super) struct Latency(AtomicU64);

/// Seconds, and the millisecond in which they were right.
#[derive(Clone, Copy)]
struct Average {
    seconds: f32,
    at: u32,
}

impl Average {
    /// `None` before the first call: no average is zero, see [`Average::pack`].
    fn unpack(word: u64) -> Option<Self> {
        (word != 0).then(|| Self {
            seconds: f32::from_bits((word >> 32) as u32),
            // The lower half.
            at: word as u32,
        })
    }

    fn pack(self) -> u64 {
        let seconds = self.seconds.max(f32::MIN_POSITIVE);
        (u64::from(seconds.to_bits()) << 32) | u64::from(self.at)
    }

    /// Milliseconds since it was right. A clock read before another call wrote here is no age.
    fn age(self, now: u32) -> u32 {
        let age = now.wrapping_sub(self.at);
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// Goes towards `target` by the time that has passed. Within a millisecond nothing changes.
    fn towards(self, target: f32, now: u32, terms: &LatencyTerms) -> Self {
        let age = self.age(now);
        if age == 0 {
            return self;
        }
        let left = terms.left(age);
        Self {
            seconds: self.seconds * left + target * (1.0 - left),
            at: now,
        }
    }

    fn sampled(self, sample: f32, now: u32, terms: &LatencyTerms) -> Self {
        if sample > self.seconds {
            return Self {
                seconds: sample,
                at: now,
            };
        }
        self.towards(sample, now, terms)
    }
}

impl Latency {
    /// The average by now.
    pub(super) fn at(&self, now: u32, terms: &LatencyTerms) -> Option<f32> {
        let average = Average::unpack(self.0.load(Relaxed))?;
        Some(average.seconds * terms.left(average.age(now)))
    }

    pub(super) fn took(&self, now: u32, elapsed: Duration, terms: &LatencyTerms) {
        let sample = elapsed.as_secs_f32();
        self.change(|average| match average {
            Some(average) => average.sampled(sample, now, terms),
            None => Average {
                seconds: sample,
                at: now,
            },
        });
    }

    /// Beside the time it took, a call in trouble is a slow one: not the new average at once, so
    /// that one failure among thousands banishes nobody, but many soon do. What the endpoint
    /// itself asks for counts at once.
    pub(super) fn troubled(
        &self,
        now: u32,
        elapsed: Duration,
        pushback: Option<Duration>,
        terms: &LatencyTerms,
    ) {
        let sample = elapsed.as_secs_f32();
        let pushback = pushback.map(|asked| asked.min(LONGEST_PUSHBACK).as_secs_f32());
        self.change(|average| {
            let fresh = Average {
                seconds: sample.max(terms.penalty),
                at: now,
            };
            let average = average.map_or(fresh, |average| {
                let slow = average.towards(terms.penalty.max(sample), now, terms);
                Average {
                    seconds: slow.seconds.max(sample),
                    at: slow.at,
                }
            });
            match pushback {
                Some(asked) if asked > average.seconds => Average {
                    seconds: asked,
                    at: now,
                },
                _ => average,
            }
        });
    }

    /// A lower bound: never pulls the average down.
    pub(super) fn at_least(&self, now: u32, elapsed: Duration, terms: &LatencyTerms) {
        let bound = elapsed.as_secs_f32();
        if self.at(now, terms).is_some_and(|seconds| seconds < bound) {
            self.took(now, elapsed, terms);
        }
    }

    pub(super) fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    fn change(&self, change: impl Fn(Option<Average>) -> Average) {
        let change = |word| Some(change(Average::unpack(word)).pack());
        // Never refused.
        let _ = self.0.fetch_update(AcqRel, Acquire, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = 1000;

    fn terms() -> LatencyTerms {
        LatencyTerms::new(
            super::super::beginning(),
            Duration::from_secs(10),
            Duration::from_secs(5),
        )
    }

    fn millis(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[track_caller]
    fn near(found: Option<f32>, expected: f32) {
        let found = found.expect("measured");
        assert!((found / expected - 1.0).abs() < 0.01, "{found} {expected}");
    }

    #[test]
    fn a_peak_counts_at_once_and_passes_slowly() {
        let (latency, terms) = (Latency::default(), terms());
        assert_eq!(latency.at(0, &terms), None);
        latency.took(0, millis(10), &terms);
        latency.took(1, millis(500), &terms);
        near(latency.at(1, &terms), 0.5);
        // A fast call after one decay time: 1/e of the old, the rest of the new.
        latency.took(1 + 10 * SECOND, millis(10), &terms);
        near(
            latency.at(1 + 10 * SECOND, &terms),
            0.5 / std::f32::consts::E + 0.01 * 0.632,
        );
        // Without calls it sinks.
        near(
            latency.at(1 + 20 * SECOND, &terms),
            0.19 / std::f32::consts::E,
        );
    }

    #[test]
    fn many_calls_in_a_millisecond_do_not_hold_the_average_up() {
        let (latency, terms) = (Latency::default(), terms());
        latency.took(0, millis(1000), &terms);
        for now in 0..10 * SECOND {
            for _ in 0..3 {
                latency.took(now, millis(1), &terms);
            }
        }
        near(
            latency.at(10 * SECOND, &terms),
            1.0 / std::f32::consts::E + 0.000_632,
        );
    }

    #[test]
    fn failures_count_as_slow_by_their_share() {
        let (latency, terms) = (Latency::default(), terms());
        latency.took(0, millis(1), &terms);
        latency.troubled(1, millis(1), None, &terms);
        let one = latency.at(1, &terms).unwrap();
        assert!(one < 0.003, "one failure banishes nobody: {one}");
        for now in 2..SECOND {
            latency.troubled(now, millis(1), None, &terms);
        }
        let all = latency.at(SECOND, &terms).unwrap();
        assert!(all > 0.4, "a second of failures does: {all}");
    }

    #[test]
    fn a_first_call_that_fails_is_slow() {
        let (latency, terms) = (Latency::default(), terms());
        latency.troubled(0, millis(1), None, &terms);
        near(latency.at(0, &terms), 5.0);
    }

    #[test]
    fn pushback_counts_at_once_and_has_a_bound() {
        let (latency, terms) = (Latency::default(), terms());
        latency.took(0, millis(1), &terms);
        latency.troubled(1, millis(1), Some(Duration::from_secs(9)), &terms);
        near(latency.at(1, &terms), 9.0);
        latency.troubled(2, millis(1), Some(Duration::from_secs(86_400)), &terms);
        near(latency.at(2, &terms), 60.0);
    }

    #[test]
    fn what_a_caller_gave_up_only_raises_the_average() {
        let (latency, terms) = (Latency::default(), terms());
        latency.at_least(0, millis(100), &terms);
        assert_eq!(latency.at(0, &terms), None);
        latency.took(0, millis(50), &terms);
        latency.at_least(0, millis(10), &terms);
        near(latency.at(0, &terms), 0.05);
        latency.at_least(0, millis(100), &terms);
        near(latency.at(0, &terms), 0.1);
    }

    #[test]
    fn the_clock_may_wrap_and_be_late() {
        let (latency, terms) = (Latency::default(), terms());
        latency.took(u32::MAX - 4999, millis(1000), &terms);
        near(latency.at(5000, &terms), 1.0 / std::f32::consts::E);
        near(latency.at(u32::MAX - 6000, &terms), 1.0);
    }
}
