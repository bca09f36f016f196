//! The weight that an endpoint's reports give it (gRFC A58).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The last weight and its times. Times are nanoseconds since a policy's beginning, plus one: 0 is
/// never.
#[derive(Debug, Default)]
pub(super) struct ReportedWeight {
    /// The bits of an `f32`.
    weight: AtomicU32,
    updated: AtomicU64,
    /// When the first report since the blackout was restarted came.
    first: AtomicU64,
}

impl ReportedWeight {
    pub(super) fn set(&self, now: Duration, weight: f32) {
        let now = stamp(now);
        self.weight.store(weight.to_bits(), Relaxed);
        self.updated.store(now, Relaxed);
        // Left alone where a report came before.
        let _ = self.first.compare_exchange(0, now, Relaxed, Relaxed);
    }

    pub(super) fn get(
        &self,
        now: Duration,
        blackout: Duration,
        expiration: Duration,
    ) -> Option<f32> {
        let (updated, first) = (self.updated.load(Relaxed), self.first.load(Relaxed));
        if updated == 0 || first == 0 {
            return None;
        }
        let now = stamp(now);
        let since = |then: u64| u128::from(now.saturating_sub(then));
        if since(updated) >= expiration.as_nanos() {
            self.restart_blackout();
            return None;
        }
        if since(first) < blackout.as_nanos() {
            return None;
        }
        Some(f32::from_bits(self.weight.load(Relaxed)))
    }

    pub(super) fn restart_blackout(&self) {
        self.first.store(0, Relaxed);
    }

    pub(super) fn forget(&self) {
        self.updated.store(0, Relaxed);
        self.restart_blackout();
    }
}

/// Overflows after 584 years.
fn stamp(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).map_or(u64::MAX, |nanos| nanos.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_weight_counts_from_the_end_of_the_blackout_until_it_expires() {
        let weight = ReportedWeight::default();
        let get = |now| weight.get(at(now), at(10), at(180));
        assert_eq!(get(0), None);
        weight.set(at(1), 2.0);
        weight.set(at(5), 3.0);
        assert_eq!(get(10), None, "ten seconds from the first report");
        assert_eq!(get(11), Some(3.0));
        assert_eq!(get(184), Some(3.0));
        assert_eq!(get(185), None, "three minutes after the last");
        weight.set(at(186), 4.0);
        assert_eq!(get(195), None, "another blackout");
        assert_eq!(get(196), Some(4.0));
        weight.restart_blackout();
        assert_eq!(get(197), None);
        weight.set(at(198), 5.0);
        assert_eq!(get(207), None);
        assert_eq!(get(208), Some(5.0));
    }

    #[test]
    fn without_a_blackout_a_weight_counts_at_once() {
        let weight = ReportedWeight::default();
        weight.set(at(0), 2.0);
        assert_eq!(weight.get(at(0), at(0), at(180)), Some(2.0));
    }
}
