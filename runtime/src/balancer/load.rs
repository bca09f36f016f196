//! What is known of an endpoint's calls.
//!
//! ```text
//!   policy ── watch, ask ──> Load <── in_flight, outcome, latency, report ── calls
//!      └────── reads ─────────┘
//! ```
//!
//! Calls write what a policy asked for, and nothing else: with no [`Interest`] a call reads one
//! word and is done. Everything is an atomic; a policy that reads while calls write sees a state
//! that was true a moment ago.

mod latency;
mod orca;
mod outcomes;
mod weight;

use std::ops::BitOr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

pub use latency::LatencyTerms;
pub use orca::{Metrics, Recipe};

use latency::Latency;
pub use outcomes::Blame;
use outcomes::Outcomes;
use weight::ReportedWeight;

/// The load of one endpoint: calls in flight, and what policies asked calls to write down.
#[derive(Debug, Default)]
pub struct Load {
    /// Calls in flight: raised before a call is sent, lowered when its response has ended or was
    /// dropped.
    pub in_flight: AtomicU32,
    interest: AtomicU8,
    outcomes: Outcomes,
    latency: Latency,
    latency_terms: ArcSwapOption<LatencyTerms>,
    weight: ReportedWeight,
    recipe: ArcSwapOption<Recipe>,
    /// In milliseconds; 0: nobody asks.
    report_period: AtomicU64,
    /// What is missing from its full weight, in 65536ths.
    held_back: AtomicU32,
}

const WHOLE: f64 = 65_536.0;

/// What policies want to know of an endpoint's calls. Several add up with `|`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest(u8);

impl Interest {
    /// Nothing: calls write nothing and read no clock.
    pub const NONE: Self = Self(0);
    /// How calls end: see [`Load::take_outcomes`] and [`Load::set_failure_limits`].
    pub const OUTCOMES: Self = Self(1);
    /// How long calls take: see [`Load::latency`].
    pub const LATENCY: Self = Self(2);
    /// What the endpoint reports at the end of calls: see [`Load::weight`].
    pub const REPORTS: Self = Self(4);

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether all of `other` is wanted.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Without `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// For policies.
impl Load {
    /// Has calls that start from now on write this down, too. Policies say it in `update`.
    pub fn watch(&self, interest: Interest) {
        self.interest.fetch_or(interest.0, Relaxed);
    }

    /// Has calls that start from now on leave this out: nobody wants it any more.
    pub fn unwatch(&self, interest: Interest) {
        self.interest.fetch_and(!interest.0, Relaxed);
    }

    /// What calls write down.
    #[must_use]
    pub fn interest(&self) -> Interest {
        Interest(self.interest.load(Relaxed))
    }

    /// Forgets who asked for what, and what was written down. `control` says it before another
    /// policy takes the endpoint over.
    pub fn forget(&self) {
        self.interest.store(0, Relaxed);
        self.report_period.store(0, Relaxed);
        self.set_share(1.0);
        self.latency_terms.store(None);
        self.recipe.store(None);
        self.outcomes.forget();
        self.latency.forget();
        self.weight.forget();
    }

    /// Holds the endpoint at this share of its weight, 0 to 1, while it warms up. Policies that go
    /// by weight read it when they make a picker.
    pub fn set_share(&self, share: f64) {
        // In range, as the share is.
        let held_back = ((1.0 - share.clamp(0.0, 1.0)) * WHOLE).round() as u32;
        self.held_back.store(held_back, Relaxed);
    }

    /// The share of its weight that the endpoint has.
    #[must_use]
    pub fn share(&self) -> f64 {
        1.0 - f64::from(self.held_back.load(Relaxed)) / WHOLE
    }

    /// Successes and failures since it was last asked (gRFC A50: the counters are swapped). gRPC
    /// status OK is a success, every other a failure, as is a connection lost under the call and a
    /// deadline; what its caller gave up is neither. Counts attempts: each at its own endpoint.
    pub fn take_outcomes(&self) -> (u32, u32) {
        self.outcomes.take()
    }

    /// From so many failures in a row on (at least 1), `LoadBalancer::noticed` is called: `server`
    /// of any [`Blame`] but an answer's, `gateway` of [`Blame::Gateway`] alone; `None`: never. A
    /// policy that was called either starts the rows over, by [`Load::reset_consecutive_failures`],
    /// or is called again by the next failure.
    pub fn set_failure_limits(&self, server: Option<u32>, gateway: Option<u32>) {
        self.outcomes.set_limits(server, gateway);
    }

    /// Failures in a row with blame of any kind, and of the gateway's kind alone.
    #[must_use]
    pub fn consecutive_failures(&self) -> (u32, u32) {
        self.outcomes.rows()
    }

    /// Starts the rows of failures over.
    pub fn reset_consecutive_failures(&self) {
        self.outcomes.reset_rows();
    }

    /// Has `LoadBalancer::noticed` called when the next call has ended, however it did.
    pub fn await_probe(&self) {
        self.outcomes.await_probe();
    }

    /// Whether the call that [`Load::await_probe`] waited for ended well, once; `None`: it has not
    /// ended. A failure is one that counts in a row that has a limit.
    pub fn end_probe(&self) -> Option<bool> {
        self.outcomes.end_probe()
    }

    /// Has latencies averaged by these terms, and watches them.
    pub fn watch_latency(&self, terms: &Arc<LatencyTerms>) {
        let current = self.latency_terms.load();
        if !current
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, terms))
        {
            // What was measured is in another time.
            self.latency.forget();
            self.latency_terms.store(Some(Arc::clone(terms)));
        }
        self.watch(Interest::LATENCY);
    }

    /// The moving average of latencies, in seconds, as the terms' clock last stood; `None` before
    /// the first call has ended. Reads no clock.
    #[must_use]
    pub fn latency(&self, terms: &LatencyTerms) -> Option<f32> {
        self.latency.at(terms.clock(), terms)
    }

    /// Has reports made into a weight by this recipe. With `per_call`, those at the end of calls;
    /// others arrive where [`Load::ask_reports`] asks for them.
    pub fn watch_reports(&self, recipe: &Arc<Recipe>, per_call: bool) {
        let current = self.recipe.load();
        if !current
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, recipe))
        {
            // What was reported is in another time.
            self.weight.forget();
            self.recipe.store(Some(Arc::clone(recipe)));
        }
        if per_call {
            self.watch(Interest::REPORTS);
        }
    }

    /// Has the endpoint asked for a report once in this period, on its own connection. Of several
    /// periods the smallest counts; less than 1 ms counts as 1 ms.
    pub fn ask_reports(&self, period: Duration) {
        let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(1);
        let smallest = |old| (old == 0 || millis < old).then_some(millis);
        // Refused where another period is smaller already.
        let _ = self.report_period.fetch_update(Relaxed, Relaxed, smallest);
    }

    /// How often reports are asked for on the endpoint's connection, if they are.
    #[must_use]
    pub fn report_period(&self) -> Option<Duration> {
        let millis = self.report_period.load(Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    /// The weight that the last report gives (gRFC A58): `None` inside `blackout` after the first
    /// report, and from `expiration` after the last on, which lets the blackout begin again.
    #[must_use]
    pub fn weight(&self, now: Instant, blackout: Duration, expiration: Duration) -> Option<f32> {
        let recipe = self.recipe.load();
        self.weight
            .get(recipe.as_ref()?.since_epoch(now), blackout, expiration)
    }

    /// The next report is the first again: the endpoint was not connected in between.
    pub fn restart_blackout(&self) {
        self.weight.restart_blackout();
    }
}

/// For whoever makes calls.
impl Load {
    /// A call is about to be sent, and somebody wants to know how long it takes.
    pub fn started(&self, now: Instant) {
        if let Some(terms) = &*self.latency_terms.load() {
            terms.advance(now);
        }
    }

    /// A call ended well. Whether this is the moment to wake the policy.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.outcomes.succeeded()
    }

    /// A call failed. Whether this is the moment to wake the policy.
    #[must_use]
    pub fn failed(&self, blame: Blame) -> bool {
        self.outcomes.failed(blame)
    }

    /// The policy has been called: the next failure may wake it again.
    pub fn told(&self) {
        self.outcomes.told();
    }

    /// A call took so long.
    pub fn took(&self, now: Instant, elapsed: Duration) {
        if let Some(terms) = &*self.latency_terms.load() {
            let now = terms.advance(now);
            self.latency.took(now, elapsed, terms);
        }
    }

    /// A call ended in a way that tells of trouble at the endpoint: counts as slow. `pushback`: the
    /// endpoint asked to be left alone for so long.
    pub fn troubled(&self, now: Instant, elapsed: Duration, pushback: Option<Duration>) {
        if let Some(terms) = &*self.latency_terms.load() {
            let now = terms.advance(now);
            self.latency.troubled(now, elapsed, pushback, terms);
        }
    }

    /// A caller gave up after so long: the call would have taken longer.
    pub fn gave_up(&self, now: Instant, elapsed: Duration) {
        if let Some(terms) = &*self.latency_terms.load() {
            let now = terms.advance(now);
            self.latency.at_least(now, elapsed, terms);
        }
    }

    /// A report arrived: an encoded `xds.data.orca.v3.OrcaLoadReport`. What cannot be read, and
    /// each value that makes no sense, is ignored.
    pub fn reported(&self, now: Instant, report: &[u8]) {
        let recipe = self.recipe.load();
        if let Some(recipe) = &*recipe
            && let Some(weight) = recipe.weight(report)
        {
            self.weight.set(recipe.since_epoch(now), weight);
        }
    }
}

/// Where a test's time begins.
#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make one"
)]
fn beginning() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interests_add_up_until_they_are_forgotten() {
        let load = Load::default();
        assert!(load.interest().is_empty());
        load.watch(Interest::OUTCOMES);
        load.watch(Interest::REPORTS);
        assert_eq!(load.interest(), Interest::OUTCOMES | Interest::REPORTS);
        assert!(load.interest().contains(Interest::OUTCOMES));
        assert!(!load.interest().contains(Interest::LATENCY));
        load.forget();
        assert_eq!(load.interest(), Interest::NONE);
    }

    #[test]
    fn a_share_is_whole_unless_it_is_held_back() {
        let load = Load::default();
        assert_eq!(load.share(), 1.0);
        for (set, expected) in [(0.25, 0.25), (-1.0, 0.0), (7.0, 1.0), (0.5, 0.5)] {
            load.set_share(set);
            assert_eq!(load.share(), expected);
        }
        load.forget();
        assert_eq!(load.share(), 1.0);
    }

    #[test]
    fn the_smallest_period_wins() {
        let load = Load::default();
        assert_eq!(load.report_period(), None);
        for seconds in [10, 3, 7] {
            load.ask_reports(Duration::from_secs(seconds));
        }
        assert_eq!(load.report_period(), Some(Duration::from_secs(3)));
    }
}
