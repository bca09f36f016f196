//! One connection: the first endpoint that works (gRFC A61, A62; `pick_first.v3.PickFirst`).
//!
//! ```text
//!            update                    one is ready
//!   (none) ---------> Connecting ------------------------> Ready
//!                     |  ^                                   |
//!        all failed   |  | a call asks (Pick::Connect)       | lost
//!                     v  |                                   v
//!                 Failing |------------------------------- Idle
//!                 (sticky: keeps trying all, until one is ready)
//! ```
//!
//! Endpoints are tried in order (shuffled if so configured, then with the families of their first
//! addresses taking turns), the next one when the last failed or after 250 ms, whichever is
//! first; the others are given up once one is ready.

use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::LbPolicy;

use super::constant::{Always, Failing, Queueing, Wakes};
use super::endpoints::{no_endpoints, unreachable};
use super::{
    Action, Actions, Connectivity, Endpoint, Failure, LoadBalancer, LoadBalancerFactory, Picker,
    Standing, SubchannelId,
};
use crate::subchannel::race::{ATTEMPT_DELAY, interleave};

/// Makes [`PickFirst`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "pick_first"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::PickFirst { shuffle } = *policy else {
            return None;
        };
        Some(Box::new(PickFirst {
            phase: Phase::Idle,
            order: Vec::new(),
            states: Vec::new(),
            given: None,
            last_failure: None,
            shuffle: shuffle.then(|| fastrand::Rng::with_seed(seed)),
        }))
    }
}

/// The policy.
#[derive(Debug)]
struct PickFirst {
    phase: Phase,
    /// In the order in which they are tried.
    order: Vec<SubchannelId>,
    /// What is known of each, along `order`.
    states: Vec<Known>,
    /// The last update: ids and weights as they came, and the error.
    given: Option<Given>,
    last_failure: Option<Failure>,
    shuffle: Option<fastrand::Rng>,
}

type Given = (Vec<(SubchannelId, u64)>, Option<Failure>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is connected and no call has asked.
    Idle,
    /// A pass over the endpoints is under way.
    Connecting {
        /// The next one to try.
        next: usize,
        /// When it is tried even if the last one has not failed.
        at: Option<Instant>,
    },
    /// Calls go here.
    Ready(SubchannelId),
    /// All have failed once; each is tried again after its own backoff.
    Failing,
}

/// An endpoint during a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Not tried, or lost.
    Idle,
    /// Being tried.
    Trying,
    /// Failed in this pass.
    Failed,
    /// Connected.
    Ready,
}

impl PickFirst {
    fn reorder(&mut self, endpoints: &[Endpoint]) {
        let mut old: Vec<_> = self.order.drain(..).zip(self.states.drain(..)).collect();
        old.sort_unstable_by_key(|(id, _)| *id);
        let order: Vec<_> = match &mut self.shuffle {
            Some(random) => shuffled(endpoints, random),
            None => endpoints.iter().collect(),
        };
        let order = interleave(&order, |endpoint| endpoint.family);
        self.order = order.into_iter().map(|endpoint| endpoint.id).collect();
        let known = |id: &SubchannelId| {
            let found = old.binary_search_by_key(id, |(id, _)| *id);
            found.map_or(Known::Idle, |at| old[at].1)
        };
        self.states = self.order.iter().map(known).collect();
    }

    /// Starts a pass from the first endpoint; a failure stays in force meanwhile (gRFC A62).
    fn start_pass(&mut self, now: Instant, out: &mut Actions) {
        let failing = self.phase == Phase::Failing;
        for state in &mut self.states {
            if *state != Known::Ready {
                *state = Known::Idle;
            }
        }
        if let Some(at) = self.states.iter().position(|s| *s == Known::Ready) {
            return self.select(self.order[at], out);
        }
        if failing {
            let ids = self.order.iter().map(|id| Action::Connect(*id));
            out.extend(ids);
            return out.push(Action::Changed);
        }
        self.phase = Phase::Connecting { next: 0, at: None };
        self.try_next(now, out);
        out.push(Action::Changed);
    }

    /// Tries the next endpoint of the pass, if one is left.
    fn try_next(&mut self, now: Instant, out: &mut Actions) {
        let Phase::Connecting { next, .. } = self.phase else {
            return;
        };
        let more = next + 1 < self.order.len();
        if let Some(id) = self.order.get(next) {
            self.states[next] = Known::Trying;
            out.push(Action::Connect(*id));
            self.phase = Phase::Connecting {
                next: next + 1,
                at: more.then(|| now + ATTEMPT_DELAY),
            };
        }
    }

    /// Keeps `id` and gives the others up.
    fn select(&mut self, id: SubchannelId, out: &mut Actions) {
        for (other, state) in self.order.iter().zip(&mut self.states) {
            if *other == id {
                *state = Known::Ready;
            } else {
                if *state != Known::Idle {
                    out.push(Action::Close(*other));
                }
                *state = Known::Idle;
            }
        }
        self.phase = Phase::Ready(id);
        out.push(Action::Changed);
    }

    fn failed(&mut self, now: Instant, at: usize, out: &mut Actions) {
        self.states[at] = Known::Failed;
        match self.phase {
            Phase::Connecting { next, .. } if next < self.order.len() => {
                // Only the latest attempt's failure calls for the next one: an older one had its
                // successor when its time was over.
                if at + 1 == next {
                    self.try_next(now, out);
                }
            }
            Phase::Connecting { .. } => {
                if self.states.iter().all(|s| *s == Known::Failed) {
                    self.phase = Phase::Failing;
                    out.extend(self.order.iter().map(|id| Action::Connect(*id)));
                    out.push(Action::Changed);
                }
            }
            Phase::Failing => {
                out.push(Action::Connect(self.order[at]));
            }
            Phase::Idle | Phase::Ready(_) => {}
        }
    }

    fn failure(&self) -> Failure {
        if self.order.is_empty() {
            let error = self.given.as_ref().and_then(|(_, error)| error.clone());
            return error.unwrap_or_else(no_endpoints);
        }
        unreachable(self.order.len(), &self.last_failure)
    }
}

impl LoadBalancer for PickFirst {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let ids = endpoints.iter().map(|e| (e.id, weight(e))).collect();
        let given = (ids, error.filter(|_| endpoints.is_empty()).cloned());
        if self.given.as_ref() == Some(&given) {
            return;
        }
        self.given = Some(given);
        self.reorder(endpoints);
        match self.phase {
            _ if self.order.is_empty() => {
                self.phase = Phase::Failing;
                out.push(Action::Changed);
            }
            Phase::Ready(id) if self.order.contains(&id) => {}
            _ => self.start_pass(now, out),
        }
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        let Some(at) = self.order.iter().position(|other| *other == id) else {
            return;
        };
        match (state, self.phase) {
            (Connectivity::Ready, Phase::Ready(current)) if current == id => {}
            // Another won meanwhile.
            (Connectivity::Ready, Phase::Ready(_)) => out.push(Action::Close(id)),
            (Connectivity::Ready, _) => self.select(id, out),
            (lost, Phase::Ready(current)) if current == id => {
                if let Connectivity::TransientFailure(failure) = lost {
                    self.last_failure = Some(failure.clone());
                }
                self.states[at] = Known::Idle;
                self.phase = Phase::Idle;
                out.push(Action::Changed);
            }
            (Connectivity::TransientFailure(failure), phase) => {
                let news = self.last_failure.as_ref() != Some(failure);
                self.last_failure = Some(failure.clone());
                self.failed(now, at, out);
                if news && phase == Phase::Failing {
                    out.push(Action::Changed);
                }
            }
            (Connectivity::Idle, Phase::Failing) => out.push(Action::Connect(id)),
            (Connectivity::Idle | Connectivity::Connecting, _) => {}
        }
    }

    fn connect_requested(&mut self, now: Instant, _id: SubchannelId, out: &mut Actions) {
        if self.phase == Phase::Idle && !self.order.is_empty() {
            self.start_pass(now, out);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Connecting { at, .. } => at,
            _ => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        if self.next_timeout().is_some_and(|at| at <= now) {
            self.try_next(now, out);
        }
    }

    fn connectivity(&self) -> Connectivity {
        match self.phase {
            Phase::Ready(_) => Connectivity::Ready,
            Phase::Idle if !self.order.is_empty() => Connectivity::Idle,
            Phase::Connecting { .. } => Connectivity::Connecting,
            Phase::Failing | Phase::Idle => Connectivity::TransientFailure(self.failure()),
        }
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let passed_over = match self.phase {
            Phase::Ready(chosen) if chosen != id => Some("another endpoint was first".into()),
            _ => None,
        };
        Standing {
            passed_over,
            ..Standing::default()
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        match (self.phase, self.order.first()) {
            (Phase::Ready(id), _) => Arc::new(Always(id)),
            (Phase::Idle, Some(first)) => Arc::new(Wakes(*first)),
            (Phase::Connecting { .. }, _) => Arc::new(Queueing),
            (Phase::Failing | Phase::Idle, _) => Arc::new(Failing(self.failure())),
        }
    }
}

fn weight(endpoint: &Endpoint) -> u64 {
    u64::from(endpoint.weight) * u64::from(endpoint.locality_weight)
}

/// A random order in which heavier endpoints tend to come first (gRFC A113): by `u^(1/weight)`,
/// falling, which is the order of `-ln(u) / weight`, rising.
fn shuffled<'a>(endpoints: &'a [Endpoint], random: &mut fastrand::Rng) -> Vec<&'a Endpoint> {
    let mut keyed: Vec<(f64, &Endpoint)> = endpoints
        .iter()
        // `1 - u` is never zero, so the logarithm is finite.
        .map(|e| (-(1.0 - random.f64()).ln() / weight(e) as f64, e))
        .collect();
    keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
    keyed.into_iter().map(|(_, endpoint)| endpoint).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::conformance::Rig;
    use super::super::{Family, Pick};
    use super::*;

    const A: SubchannelId = SubchannelId(0);
    const B: SubchannelId = SubchannelId(1);
    const C: SubchannelId = SubchannelId(2);

    fn rig(count: u32) -> Rig {
        let policy = LbPolicy::PickFirst { shuffle: false };
        let mut rig = Rig::new(Factory.build(&policy, 1).unwrap());
        let endpoints: Vec<_> = (0..count).map(|i| rig.endpoint(i)).collect();
        rig.update(&endpoints);
        rig
    }

    #[test]
    fn tries_in_order_and_keeps_the_first_that_works() {
        let mut rig = rig(3);
        assert_eq!(rig.connects, [A]);
        rig.fail(A, "refused");
        assert_eq!(rig.connects, [A, B]);
        rig.set(B, Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(B));
        assert_eq!(rig.connects, [A, B]);
        assert_eq!(rig.closes, [A]);
    }

    #[test]
    fn families_take_turns() {
        let policy = LbPolicy::PickFirst { shuffle: false };
        let mut rig = Rig::new(Factory.build(&policy, 1).unwrap());
        let families = [Family::V6, Family::V6, Family::V6, Family::V4];
        let endpoints = (0..).zip(families).map(|(id, family)| Endpoint {
            family,
            ..rig.endpoint(id)
        });
        let endpoints: Vec<_> = endpoints.collect();
        rig.update(&endpoints);
        for id in [0, 3, 1, 2] {
            rig.fail(SubchannelId(id), "refused");
        }
        assert_eq!(rig.connects[..4], [0, 3, 1, 2].map(SubchannelId));
    }

    #[test]
    fn a_slow_endpoint_gets_company_after_250_ms() {
        let mut rig = rig(2);
        rig.advance(ATTEMPT_DELAY - Duration::from_millis(1));
        assert_eq!(rig.connects, [A]);
        rig.advance(Duration::from_millis(1));
        assert_eq!(rig.connects, [A, B]);
        assert_eq!(rig.next_timeout(), None);
        rig.set(A, Connectivity::Ready);
        assert_eq!(rig.closes, [B]);
        assert_eq!(rig.pick(0), Pick::Ready(A));
    }

    #[test]
    fn a_late_failure_does_not_hurry_the_pass() {
        let mut rig = rig(3);
        rig.advance(ATTEMPT_DELAY);
        rig.fail(A, "refused");
        assert_eq!(rig.connects, [A, B]);
        rig.fail(B, "refused");
        assert_eq!(rig.connects, [A, B, C]);
    }

    #[test]
    fn failure_is_sticky_and_every_endpoint_is_tried_again() {
        let mut rig = rig(2);
        rig.fail(A, "refused");
        rig.fail(B, "no route");
        let text = "none of 2 endpoints can be reached; the last error: no route";
        assert_eq!(
            rig.pick(0),
            Pick::Fail(&Failure::new(sidestep_proto::code::CANNOT_CONNECT, text))
        );
        assert_eq!(rig.connects, [A, B, A, B]);
        rig.set(A, Connectivity::Connecting);
        assert!(matches!(rig.pick(0), Pick::Fail(_)));
        rig.fail(A, "refused");
        assert_eq!(rig.connects, [A, B, A, B, A]);
        rig.set(B, Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(B));
    }

    #[test]
    fn a_lost_connection_waits_for_a_call() {
        let mut rig = rig(2);
        rig.set(A, Connectivity::Ready);
        rig.set(A, Connectivity::Idle);
        assert_eq!(rig.state(), Connectivity::Idle);
        assert_eq!(rig.pick(0), Pick::Connect(A));
        assert_eq!(rig.connects, [A]);
        rig.connect_requested(A);
        rig.connect_requested(A);
        assert_eq!(rig.connects, [A, A]);
        assert_eq!(rig.state(), Connectivity::Connecting);
    }

    #[test]
    fn an_update_that_keeps_the_selected_endpoint_changes_nothing() {
        let mut rig = rig(2);
        rig.set(A, Connectivity::Ready);
        let kept = [rig.endpoint(2), rig.endpoint(0)];
        rig.update(&kept);
        assert_eq!(rig.pick(0), Pick::Ready(A));
        assert_eq!(rig.connects, [A]);
        let gone = [rig.endpoint(2)];
        rig.update(&gone);
        assert_eq!(rig.pick(0), Pick::Queue);
        assert_eq!(rig.connects, [A, C]);
    }

    #[test]
    fn shuffling_favours_weight() {
        let mut random = fastrand::Rng::with_seed(7);
        let rig = rig(0);
        let endpoints = [1, 3].map(|weight| Endpoint {
            weight,
            ..rig.endpoint(weight)
        });
        let heavy_first = (0..10_000)
            .filter(|_| shuffled(&endpoints, &mut random)[0].id == endpoints[1].id)
            .count();
        // Three of four; 5 sigma is 217.
        assert!(heavy_first.abs_diff(7_500) < 217, "{heavy_first}");
    }
}
