//! Some endpoints of many, others for each process (gRFC A68).
//!
//! With many clients and many endpoints, connections from each to each cost more than they give.
//! Each balancer draws a seed of its own, and the policy below sees only the endpoints whose keys
//! hash lowest under it: one endpoint that comes or goes changes one member at most.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::LbPolicy;
use xxhash_rust::xxh64::xxh64;

use super::child::Child;
use super::{
    Action, Actions, Connectivity, Endpoint, Failure, LoadBalancer, LoadBalancerFactory, Picker,
    Standing, SubchannelId, endpoint_balancer,
};

/// Makes [`RandomSubset`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "random_subsetting_experimental"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::RandomSubset { size, child } = policy else {
            return None;
        };
        let mut seeds = fastrand::Rng::with_seed(seed);
        Some(Box::new(RandomSubset {
            size: usize::try_from(*size).unwrap_or(usize::MAX),
            seed: seeds.u64(..),
            child: Child::new(endpoint_balancer(child, seeds.u64(..))),
            members: HashSet::new(),
            others: HashSet::new(),
            strangers: None,
        }))
    }
}

/// A policy that sees some of the endpoints.
struct RandomSubset {
    size: usize,
    seed: u64,
    child: Child,
    members: HashSet<SubchannelId>,
    others: HashSet<SubchannelId>,
    /// Those of the others that came with the update of this moment: they may be connected for
    /// the policy of before.
    strangers: Option<(Instant, HashSet<SubchannelId>)>,
}

impl RandomSubset {
    fn step(&mut self, out: &mut Actions, step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions)) {
        if self.child.step(out, step) {
            out.push(Action::Changed);
        }
    }

    fn is_stranger(&self, now: Instant, id: SubchannelId) -> bool {
        let strangers = self.strangers.as_ref();
        strangers.is_some_and(|(came, ids)| *came == now && ids.contains(&id))
    }
}

/// The endpoints that a seed draws, in the order of the control plane.
fn draw(endpoints: &[Endpoint], size: usize, seed: u64) -> Vec<Endpoint> {
    if endpoints.len() <= size {
        return endpoints.to_vec();
    }
    let keys = endpoints.iter();
    let mut order: Vec<_> = keys
        .map(|e| (xxh64(e.hash_key.as_bytes(), seed), e.id))
        .collect();
    order.select_nth_unstable(size);
    let drawn: HashSet<_> = order[..size].iter().map(|(_, id)| *id).collect();
    let drawn = endpoints.iter().filter(|e| drawn.contains(&e.id));
    drawn.cloned().collect()
}

impl LoadBalancer for RandomSubset {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let drawn = draw(endpoints, self.size, self.seed);
        let members: HashSet<_> = drawn.iter().map(|e| e.id).collect();
        let before = std::mem::replace(&mut self.members, members);
        let ids = endpoints.iter().map(|e| e.id);
        let others: HashSet<_> = ids.filter(|id| !self.members.contains(id)).collect();
        // In order: the same decisions for the same inputs.
        let left = endpoints.iter().map(|e| e.id);
        let left = left.filter(|id| others.contains(id) && before.contains(id));
        out.extend(left.map(Action::Close));
        let known = |id: &SubchannelId| self.others.contains(id) || before.contains(id);
        let strangers = others.iter().copied().filter(|id| !known(id)).collect();
        self.strangers = Some((now, strangers));
        self.others = others;
        self.step(out, |child, out| child.update(now, &drawn, error, out));
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        if self.members.contains(&id) {
            self.step(out, |child, out| {
                child.subchannel_changed(now, id, state, out);
            });
        } else if self.is_stranger(now, id) && *state != Connectivity::Idle {
            out.push(Action::Close(id));
        }
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.step(out, |child, out| child.connect_requested(now, id, out));
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.step(out, |child, out| child.noticed(now, id, out));
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.child.balancer().next_timeout()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        self.step(out, |child, out| child.handle_timeout(now, out));
    }

    fn connectivity(&self) -> Connectivity {
        self.child.connectivity()
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        if self.others.contains(&id) {
            return Standing {
                passed_over: Some("it is not in this process's subset".into()),
                ..Standing::default()
            };
        }
        self.child.standing(id)
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        self.child.picker()
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::Rig;
    use super::super::{Load, Pick, build};
    use super::*;

    fn policy(size: u32) -> LbPolicy {
        LbPolicy::RandomSubset {
            size,
            child: Box::new(LbPolicy::round_robin()),
        }
    }

    fn ids(endpoints: &[Endpoint]) -> HashSet<u32> {
        endpoints.iter().map(|e| e.id.0).collect()
    }

    fn endpoint(rig: &Rig, id: u32) -> Endpoint {
        let load: Arc<Load> = Arc::default();
        Endpoint {
            id: SubchannelId(id),
            load,
            hash_key: format!("10.0.{}.{}:443", id / 256, id % 256).into(),
            ..rig.endpoint(0)
        }
    }

    #[test]
    fn one_that_comes_or_goes_changes_one_member_at_most() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let rig = Rig::new(build(&policy(1), 1));
        for _ in 0..50 {
            let (size, own) = (random.usize(1..20), random.u64(..));
            let mut all: Vec<_> = (0..random.u32(1..60))
                .map(|id| endpoint(&rig, id))
                .collect();
            let mut next = 1000;
            for _ in 0..40 {
                let before = ids(&draw(&all, size, own));
                assert_eq!(before.len(), size.min(all.len()));
                if random.bool() && all.len() > 1 {
                    all.remove(random.usize(..all.len()));
                } else {
                    next += 1;
                    all.insert(random.usize(..=all.len()), endpoint(&rig, next));
                }
                let after = ids(&draw(&all, size, own));
                assert!(before.difference(&after).count() <= 1);
                assert!(after.difference(&before).count() <= 1);
                random.shuffle(&mut all);
                assert_eq!(ids(&draw(&all, size, own)), after, "their order is nothing");
            }
        }
    }

    #[test]
    fn many_processes_spread_over_all_endpoints() {
        let rig = Rig::new(build(&policy(1), 1));
        let all: Vec<_> = (0..20).map(|id| endpoint(&rig, id)).collect();
        let mut counts = [0_u32; 20];
        for process in 0..2_000 {
            for id in ids(&draw(&all, 5, process)) {
                counts[id as usize] += 1;
            }
        }
        // A quarter each: 500, and 5 sigma is 97.
        assert!(counts.iter().all(|n| n.abs_diff(500) < 97), "{counts:?}");
    }

    #[test]
    fn only_members_are_connected_and_used() {
        let mut rig = Rig::new(build(&policy(2), 7));
        let all: Vec<_> = (0..6).map(|id| rig.endpoint(id)).collect();
        rig.update(&all);
        assert_eq!(rig.connects.len(), 2);
        for id in rig.connects.clone() {
            rig.set(id, Connectivity::Ready);
        }
        for random in 0..20 {
            assert!(matches!(rig.pick(random), Pick::Ready(id) if rig.connects.contains(&id)));
        }
        let out = all.iter().find(|e| !rig.connects.contains(&e.id)).unwrap();
        let why = rig.standing(out.id).passed_over;
        assert_eq!(why.as_deref(), Some("it is not in this process's subset"));
        // A member goes: one takes its place, the other member stays.
        let gone = rig.connects[0];
        let rest: Vec<_> = all.iter().filter(|e| e.id != gone).cloned().collect();
        rig.update(&rest);
        assert_eq!(rig.connects.len(), 3);
        assert!(rig.closes.is_empty());
        // It comes back, and so its place is taken from the new one, whose connection is left.
        rig.set(rig.connects[2], Connectivity::Ready);
        rig.update(&all);
        assert_eq!(rig.closes, [rig.connects[2]]);
        assert_eq!(rig.connects[3], gone);
    }

    #[test]
    fn connections_of_the_policy_before_are_left() {
        let mut rig = Rig::new(build(&policy(2), 7));
        let all: Vec<_> = (0..6).map(|id| rig.endpoint(id)).collect();
        rig.update(&all);
        for endpoint in &all {
            rig.set(endpoint.id, Connectivity::Ready);
        }
        assert_eq!(rig.closes.len(), 4);
        assert!(rig.closes.iter().all(|id| !rig.connects.contains(id)));
        // Whom somebody else has connected since is none of our business.
        rig.advance(std::time::Duration::from_secs(1));
        rig.set(rig.closes[0], Connectivity::Ready);
        assert_eq!(rig.closes.len(), 4);
    }
}
