//! New endpoints grow into their weight, around a policy that goes by weight (Envoy's
//! `slow_start_config`; gRFC A100 for one policy alone).
//!
//! ```text
//!   Waiting ── ready ──> Growing ── window over ──> Grown
//!      ^                    │                         │
//!      └───── failed ───────┴─────────────────────────┘
//! ```
//!
//! An endpoint begins to grow when it is first ready. A connection that is lost and renewed changes
//! nothing; one that cannot be renewed does, for whoever comes back then has been away. What an
//! endpoint has of its weight is written into its `Load`, where the policy inside reads it whenever
//! it makes a picker; while anyone grows, a timer has one made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidestep_proto::resource::{LbPolicy, SlowStart as Config};

use super::child::Child;
use super::{
    Action, Actions, Connectivity, Endpoint, Failure, Load, LoadBalancer, LoadBalancerFactory,
    Picker, Standing, SubchannelId, endpoint_balancer,
};

/// Makes [`SlowStart`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "slow_start"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::SlowStart { growth, child } = policy else {
            return None;
        };
        Some(Box::new(SlowStart {
            growth: growth.clone(),
            child: Child::new(endpoint_balancer(child, seed)),
            members: HashMap::new(),
            next: None,
        }))
    }
}

/// A window is cut into so many steps, of these lengths.
const STEPS: u32 = 100;
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// The policy around.
#[derive(Debug)]
struct SlowStart {
    growth: Config,
    child: Child,
    members: HashMap<SubchannelId, Member>,
    /// When shares are looked at next; while anyone grows.
    next: Option<Instant>,
}

#[derive(Debug)]
struct Member {
    load: Arc<Load>,
    weight: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Growing { since: Instant },
    Grown,
}

impl SlowStart {
    /// What an endpoint has of its weight so long after it began to grow.
    fn share(&self, grown: Duration) -> f64 {
        let time = grown.as_secs_f64() / self.growth.window.as_secs_f64();
        let least = self.growth.min_weight_percent.get() / 100.0;
        time.powf(1.0 / self.growth.aggression.get())
            .clamp(least, 1.0)
    }

    fn step(&self) -> Duration {
        (self.growth.window / STEPS).clamp(SHORTEST, LONGEST)
    }

    /// Notes what became of an endpoint's connection. Whether its share is another one now.
    fn note(&mut self, now: Instant, id: SubchannelId, state: &Connectivity) -> bool {
        let (least, next) = (self.share(Duration::ZERO), now + self.step());
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        match (state, member.stage) {
            (Connectivity::Ready, Stage::Waiting) => {
                member.stage = Stage::Growing { since: now };
                member.load.set_share(least);
                self.next.get_or_insert(next);
                true
            }
            (Connectivity::TransientFailure(_), Stage::Growing { .. } | Stage::Grown) => {
                member.stage = Stage::Waiting;
                true
            }
            _ => false,
        }
    }

    /// Has the child make a picker by the shares of now.
    fn renew(&mut self, out: &mut Actions) {
        self.child.renew();
        out.push(Action::Changed);
    }
}

impl LoadBalancer for SlowStart {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let mut old = std::mem::take(&mut self.members);
        for endpoint in endpoints {
            let known = old.remove(&endpoint.id);
            let known = known.filter(|member| Arc::ptr_eq(&member.load, &endpoint.load));
            let stage = known.map_or(Stage::Waiting, |member| member.stage);
            let member = Member {
                load: Arc::clone(&endpoint.load),
                weight: endpoint.weight,
                stage,
            };
            self.members.insert(endpoint.id, member);
        }
        let changed = self
            .child
            .step(out, |child, out| child.update(now, endpoints, error, out));
        if changed {
            out.push(Action::Changed);
        }
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        let grows = self.note(now, id, state);
        let changed = self.child.step(out, |child, out| {
            child.subchannel_changed(now, id, state, out);
        });
        if grows {
            self.renew(out);
        } else if changed {
            out.push(Action::Changed);
        }
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let changed = self
            .child
            .step(out, |child, out| child.connect_requested(now, id, out));
        if changed {
            out.push(Action::Changed);
        }
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let changed = self
            .child
            .step(out, |child, out| child.noticed(now, id, out));
        if changed {
            out.push(Action::Changed);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let child = self.child.balancer().next_timeout();
        self.next.into_iter().chain(child).min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let changed = self
            .child
            .step(out, |child, out| child.handle_timeout(now, out));
        if self.next.is_some_and(|at| at <= now) {
            self.grow(now);
            self.renew(out);
        } else if changed {
            out.push(Action::Changed);
        }
    }

    fn connectivity(&self) -> Connectivity {
        self.child.connectivity()
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let mut standing = self.child.standing(id);
        let growing = self.members.get(&id).filter(|m| m.stage != Stage::Grown);
        if let Some(member) = growing {
            let whole = standing.weight.unwrap_or_else(|| f64::from(member.weight));
            standing.weight = Some(whole * member.load.share());
        }
        standing
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        self.child.picker()
    }
}

impl SlowStart {
    /// Gives everyone who grows the share of now.
    fn grow(&mut self, now: Instant) {
        let mut members = std::mem::take(&mut self.members);
        let mut growing = false;
        for member in members.values_mut() {
            if let Stage::Growing { since } = member.stage {
                let share = self.share(now.saturating_duration_since(since));
                member.load.set_share(share);
                if share < 1.0 {
                    growing = true;
                } else {
                    member.stage = Stage::Grown;
                }
            }
        }
        self.members = members;
        self.next = growing.then(|| now + self.step());
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::{Finite, WeightedRoundRobin};

    use super::super::conformance::{Rig, counts};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(child: LbPolicy, growth: Config) -> LbPolicy {
        child.with_slow_start(Some(growth))
    }

    fn over(window: Duration) -> Config {
        Config::over(window)
    }

    fn finite(number: f64) -> Finite {
        Finite::new(number).unwrap()
    }

    /// Two endpoints that are grown, and one that is ready only now.
    fn joined(policy: &LbPolicy) -> Rig {
        let mut rig = Rig::new(Factory.build(policy, 1).unwrap());
        let endpoints = [0, 1, 2].map(|id| rig.endpoint(id));
        rig.update(&endpoints[..2]);
        rig.set(SubchannelId(0), Connectivity::Ready);
        rig.set(SubchannelId(1), Connectivity::Ready);
        rig.advance(Duration::from_secs(3600));
        assert_eq!(rig.load(SubchannelId(0)).share(), 1.0, "grown");
        rig.update(&endpoints);
        rig.set(SubchannelId(2), Connectivity::Ready);
        rig
    }

    /// The share of 10,000 calls that the third one gets.
    fn share(rig: &Rig) -> f64 {
        let counts = counts(rig, 10_000);
        counts.get(2).map_or(0.0, |count| *count as f64 / 10_000.0)
    }

    /// What it ought to be at this part of its weight.
    fn of(part: f64) -> f64 {
        part / (2.0 + part)
    }

    #[track_caller]
    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.012, "{found} {expected}");
    }

    #[test]
    fn a_new_endpoint_grows_into_its_weight() {
        let mut rig = joined(&policy(LbPolicy::RoundRobin, over(40 * SECOND)));
        near(share(&rig), of(0.1));
        let least = rig.load(SubchannelId(2)).share();
        assert_eq!(rig.standing(SubchannelId(2)).weight, Some(least));
        rig.advance(2 * SECOND);
        near(share(&rig), of(0.1));
        rig.advance(18 * SECOND);
        near(share(&rig), of(0.5));
        rig.advance(10 * SECOND);
        near(share(&rig), of(0.75));
        rig.advance(10 * SECOND);
        near(share(&rig), of(1.0));
        assert_eq!(rig.next_timeout(), None);
        assert_eq!(rig.standing(SubchannelId(2)).weight, None);
    }

    #[test]
    fn least_request_is_led_by_the_same_weights() {
        let least = LbPolicy::LeastRequest { choice_count: 2 };
        let mut rig = joined(&policy(least, over(40 * SECOND)));
        near(share(&rig), of(0.1));
        rig.advance(20 * SECOND);
        near(share(&rig), of(0.5));
        rig.advance(20 * SECOND);
        near(share(&rig), of(1.0));
    }

    #[test]
    fn reported_weights_are_grown_into_as_well() {
        let weighted = LbPolicy::WeightedRoundRobin(WeightedRoundRobin::default());
        let mut rig = joined(&policy(weighted, over(40 * SECOND)));
        near(share(&rig), of(0.1));
        rig.advance(20 * SECOND);
        near(share(&rig), of(0.5));
    }

    #[test]
    fn aggression_and_least_share_are_as_configured() {
        let growth = Config {
            aggression: finite(2.0),
            min_weight_percent: finite(20.0),
            ..over(40 * SECOND)
        };
        let mut rig = joined(&policy(LbPolicy::RoundRobin, growth));
        near(share(&rig), of(0.2));
        rig.advance(10 * SECOND);
        near(share(&rig), of(0.5));
    }

    #[test]
    fn a_renewed_connection_is_no_new_endpoint_and_a_failed_one_is() {
        let mut rig = joined(&policy(LbPolicy::RoundRobin, over(40 * SECOND)));
        rig.advance(20 * SECOND);
        rig.set(SubchannelId(2), Connectivity::Idle);
        rig.set(SubchannelId(2), Connectivity::Connecting);
        rig.set(SubchannelId(2), Connectivity::Ready);
        near(share(&rig), of(0.5));
        rig.fail(SubchannelId(2), "refused");
        rig.set(SubchannelId(2), Connectivity::Ready);
        near(share(&rig), of(0.1));
    }

    #[test]
    fn an_update_does_not_begin_again() {
        let mut rig = joined(&policy(LbPolicy::RoundRobin, over(40 * SECOND)));
        rig.advance(20 * SECOND);
        let endpoints = [3, 2, 1, 0].map(|id| rig.endpoint(id));
        rig.update(&endpoints);
        near(share(&rig), of(0.5));
    }

    #[test]
    fn endpoints_that_are_all_new_share_evenly() {
        let policy = policy(LbPolicy::RoundRobin, over(40 * SECOND));
        let mut rig = Rig::new(Factory.build(&policy, 1).unwrap());
        let endpoints = [0, 1, 2].map(|id| rig.endpoint(id));
        rig.update(&endpoints);
        for id in 0..3 {
            rig.set(SubchannelId(id), Connectivity::Ready);
        }
        assert_eq!(counts(&rig, 300), [100, 100, 100]);
    }
}
