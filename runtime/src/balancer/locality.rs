//! Which locality of a priority takes a call: a ready one, at random, by weight
//! (`wrr_locality`, `weighted_target`; gRFC A28, A52).
//!
//! Weights of localities that are not ready count for nothing. Unlike the other runtimes a
//! locality that was removed is forgotten at once: its connections belong to `control`, so there
//! is nothing to keep alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::{LbPolicy, Locality};

use super::child::Child;
use super::constant::{Failing, Queueing};
use super::endpoints::no_endpoints;
use super::zone_aware::{Zone, Zones};
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, LoadBalancer, LoadBalancerFactory,
    Pick, Picker, Standing, SubchannelId, endpoint_balancer,
};
use crate::routing::{Purpose, below, draw};

/// Makes [`LocalityBalancer`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "wrr_locality"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::WrrLocality(policy) = policy else {
            return None;
        };
        Some(Box::new(LocalityBalancer::new(policy, seed, None)))
    }
}

/// A policy per locality, and a choice among them.
pub(super) struct LocalityBalancer {
    /// Of each locality.
    policy: LbPolicy,
    seeds: fastrand::Rng,
    children: Vec<Member>,
    owners: HashMap<SubchannelId, Owned>,
    /// What decides the shares, unless the weights alone do.
    zones: Option<Zones>,
    /// The share of the calls that each child gets.
    shares: Vec<u64>,
    error: Option<Failure>,
    started: bool,
}

/// What is known of an endpoint.
struct Owned {
    /// Its child.
    at: usize,
    weight: u64,
    failing: bool,
}

struct Member {
    locality: Arc<Locality>,
    weight: u32,
    zone: Zone,
    child: Child,
    /// The child's, as of its last change.
    state: Connectivity,
}

impl Member {
    /// Runs one step of the child. Whether it has changed.
    fn step(
        &mut self,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) -> bool {
        let changed = self.child.step(out, step);
        if changed {
            self.state = self.child.connectivity();
        }
        changed
    }
}

impl LocalityBalancer {
    /// `policy` inside of each locality.
    pub(super) fn new(policy: &LbPolicy, seed: u64, zones: Option<Zones>) -> Self {
        Self {
            policy: policy.clone(),
            seeds: fastrand::Rng::with_seed(seed),
            children: Vec::new(),
            owners: HashMap::new(),
            zones,
            shares: Vec::new(),
            error: None,
            started: false,
        }
    }

    /// The child of a locality, taken over from the last update or new.
    fn adopt(
        &mut self,
        old: &mut HashMap<Arc<Locality>, Member>,
        locality: &Arc<Locality>,
        weight: u32,
    ) -> Member {
        if let Some(member) = old.remove(locality) {
            return Member { weight, ..member };
        }
        let balancer = endpoint_balancer(&self.policy, self.seeds.u64(..));
        Member {
            locality: Arc::clone(locality),
            weight,
            zone: Zone::default(),
            child: Child::new(balancer),
            state: Connectivity::Connecting,
        }
    }

    /// Runs one step of the child that owns `id`.
    fn with_owner(
        &mut self,
        id: SubchannelId,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) {
        let Some(owner) = self.owners.get(&id) else {
            return;
        };
        let mut changed = self.children[owner.at].step(out, step);
        changed |= self.decide();
        if changed {
            out.push(Action::Changed);
        }
    }

    /// Notes whether an endpoint is failing: one that tries again after that still is.
    fn follow(&mut self, id: SubchannelId, state: &Connectivity) {
        let Some(owned) = self.owners.get_mut(&id) else {
            return;
        };
        let fit = &mut self.children[owned.at].zone.fit;
        match state {
            Connectivity::TransientFailure(_) if !owned.failing => {
                owned.failing = true;
                *fit -= owned.weight;
            }
            Connectivity::Ready if owned.failing => {
                owned.failing = false;
                *fit += owned.weight;
            }
            _ => {}
        }
    }

    /// Shares the calls among the children in the best state. Whether that has changed anything.
    fn decide(&mut self) -> bool {
        let best = self.best();
        let weights = self.children.iter().map(|member| Zone {
            open: best.as_ref() == Some(&member.state),
            weight: u64::from(member.weight),
            ..member.zone
        });
        let shares = match &mut self.zones {
            Some(zones) => zones.shares(&weights.collect::<Vec<_>>()),
            None => weights
                .map(|zone| if zone.open { zone.weight } else { 0 })
                .collect(),
        };
        let changed = shares != self.shares;
        self.shares = shares;
        changed
    }

    /// The best state that a child has; `None` if all of them fail.
    fn best(&self) -> Option<Connectivity> {
        let order = [
            Connectivity::Ready,
            Connectivity::Connecting,
            Connectivity::Idle,
        ];
        let any = |state: &Connectivity| self.children.iter().any(|c| c.state == *state);
        order.into_iter().find(any)
    }

    fn failure(&self) -> Failure {
        let mut failures = self.children.iter().filter_map(|child| match &child.state {
            Connectivity::TransientFailure(failure) => Some(failure),
            _ => None,
        });
        match (failures.next_back(), self.children.len()) {
            (None, _) => self.error.clone().unwrap_or_else(no_endpoints),
            (Some(failure), 1) => failure.clone(),
            (Some(Failure(last, code)), count) => Failure::new(
                *code,
                format!("no endpoint in {count} localities; in the last one {last}"),
            ),
        }
    }

    /// The share of the calls that a child gets.
    fn share_of(&self, at: usize) -> f64 {
        let parts = |share: u64| share as f64;
        parts(self.shares[at]) / parts(self.shares.iter().sum::<u64>().max(1))
    }

    fn share(&mut self) -> Arc<dyn Picker> {
        let mut sum = 0_u64;
        let shares = self.children.iter_mut().zip(&self.shares);
        let shares: Box<[_]> = shares
            .filter(|(_, share)| **share > 0)
            .map(|(member, share)| {
                sum += share;
                (sum, member.child.picker())
            })
            .collect();
        match &*shares {
            [(_, only)] => Arc::clone(only),
            _ => Arc::new(Weighted { shares }),
        }
    }
}

impl LoadBalancer for LocalityBalancer {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let mut changed = !std::mem::replace(&mut self.started, true);
        let error = error.filter(|_| endpoints.is_empty()).cloned();
        changed |= error != self.error;
        self.error = error;

        let weights = |children: &[Member]| -> Vec<_> {
            let pairs = children.iter().map(|c| (Arc::clone(&c.locality), c.weight));
            pairs.collect()
        };
        let before = weights(&self.children);
        let old = std::mem::take(&mut self.children).into_iter();
        let mut old = old.map(|c| (Arc::clone(&c.locality), c)).collect();
        let known = std::mem::take(&mut self.owners);
        for (locality, members) in by_locality(endpoints) {
            let mut member = self.adopt(&mut old, &locality, members[0].locality_weight);
            changed |= member.step(out, |b, out| b.update(now, &members, None, out));
            let at = self.children.len();
            let owned = members.iter().map(|endpoint| {
                let weight = u64::from(endpoint.weight);
                let failing = known.get(&endpoint.id).is_some_and(|known| known.failing);
                (
                    endpoint.id,
                    Owned {
                        at,
                        weight,
                        failing,
                    },
                )
            });
            let owned: Vec<_> = owned.collect();
            member.zone = zone(&members, &owned);
            self.owners.extend(owned);
            self.children.push(member);
        }
        changed |= self.decide();
        if changed || before != weights(&self.children) {
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
        self.follow(id, state);
        self.with_owner(id, out, |child, out| {
            child.subchannel_changed(now, id, state, out)
        });
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.with_owner(id, out, |child, out| child.connect_requested(now, id, out));
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.with_owner(id, out, |child, out| child.noticed(now, id, out));
    }

    fn next_timeout(&self) -> Option<Instant> {
        let children = self.children.iter();
        children
            .filter_map(|member| member.child.balancer().next_timeout())
            .min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let mut changed = false;
        for member in &mut self.children {
            let next = member.child.balancer().next_timeout();
            if next.is_some_and(|at| at <= now) {
                changed |= member.step(out, |b, out| b.handle_timeout(now, out));
            }
        }
        changed |= self.decide();
        if changed {
            out.push(Action::Changed);
        }
    }

    /// The best state that a child has.
    fn connectivity(&self) -> Connectivity {
        self.best()
            .unwrap_or_else(|| Connectivity::TransientFailure(self.failure()))
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let Some(owner) = self.owners.get(&id) else {
            return Standing::default();
        };
        let member = &self.children[owner.at];
        let share = self.share_of(owner.at);
        let aside = share == 0.0 && member.state == Connectivity::Ready;
        Standing {
            locality_share: Some(share),
            passed_over: aside.then(|| "the own zone carries all calls".into()),
            ..member.child.standing(id)
        }
    }

    /// The children in the best state share the calls.
    fn picker(&mut self) -> Arc<dyn Picker> {
        match self.connectivity() {
            Connectivity::Ready | Connectivity::Idle => self.share(),
            Connectivity::Connecting => Arc::new(Queueing),
            Connectivity::TransientFailure(failure) => Arc::new(Failing(failure)),
        }
    }
}

/// A locality of these endpoints, whose weight is said elsewhere.
fn zone(members: &[Endpoint], owned: &[(SubchannelId, Owned)]) -> Zone {
    let given: u64 = owned.iter().map(|(_, owned)| owned.weight).sum();
    let fitness = u64::from(members[0].locality_fitness.max(1));
    let fit = owned.iter().filter(|(_, owned)| !owned.failing);
    Zone {
        own: members[0].own_zone,
        endpoints: members.len(),
        known: given * 1_000_000 / fitness,
        fit: fit.map(|(_, owned)| owned.weight).sum(),
        ..Zone::default()
    }
}

/// Groups endpoints; localities in the order in which they first appear.
fn by_locality(endpoints: &[Endpoint]) -> Vec<(Arc<Locality>, Vec<Endpoint>)> {
    let mut groups: Vec<(Arc<Locality>, Vec<Endpoint>)> = Vec::new();
    let mut positions = HashMap::new();
    for endpoint in endpoints {
        let at = *positions.entry(&*endpoint.locality).or_insert(groups.len());
        if at == groups.len() {
            groups.push((Arc::clone(&endpoint.locality), Vec::new()));
        }
        groups[at].1.push(endpoint.clone());
    }
    groups
}

/// Cumulative weights, ascending. Never empty.
#[derive(Debug)]
struct Weighted {
    shares: Box<[(u64, Arc<dyn Picker>)]>,
}

impl Picker for Weighted {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let sum = self.shares.last().map_or(0, |(sum, _)| *sum);
        let at = below(draw(call.random, Purpose::Locality), sum);
        let index = self.shares.partition_point(|(upto, _)| *upto <= at);
        self.shares
            .get(index)
            .map_or(Pick::Queue, |(_, picker)| picker.pick(call))
    }
}

#[cfg(test)]
mod tests {
    use super::super::build;
    use super::super::conformance::{Rig, counts};
    use super::*;

    const A: SubchannelId = SubchannelId(0);
    const B: SubchannelId = SubchannelId(1);

    #[test]
    fn ready_localities_share_by_weight() {
        let mut rig = Rig::new(build(&LbPolicy::round_robin(), 1));
        let endpoints = [rig.endpoint_in(0, "a", 1, 0), rig.endpoint_in(1, "b", 3, 0)];
        rig.update(&endpoints);
        rig.set(A, Connectivity::Ready);
        assert_eq!(counts(&rig, 100), [100]);
        assert_eq!(rig.standing(A).locality_share, Some(1.0));
        assert_eq!(rig.standing(B).locality_share, Some(0.0));
        rig.set(B, Connectivity::Ready);
        assert_eq!(rig.standing(A).locality_share, Some(0.25));
        assert_eq!(rig.standing(B).locality_share, Some(0.75));
        // One of four; 5 sigma of a binomial with 10,000 trials is 217.
        let shares = counts(&rig, 10_000);
        assert!(shares[0].abs_diff(2_500) < 217, "{shares:?}");
        rig.update(&[rig.endpoint_in(0, "a", 1, 0), rig.endpoint_in(1, "b", 1, 0)]);
        let shares = counts(&rig, 10_000);
        assert!(shares[0].abs_diff(5_000) < 250, "{shares:?}");
        rig.fail(A, "refused");
        assert_eq!(counts(&rig, 100), [0, 100]);
    }

    #[test]
    fn an_endpoint_may_change_its_locality_and_stays_ready() {
        let mut rig = Rig::new(build(&LbPolicy::round_robin(), 1));
        rig.update(&[rig.endpoint_in(0, "a", 1, 0)]);
        rig.set(A, Connectivity::Ready);
        rig.update(&[rig.endpoint_in(0, "b", 1, 0)]);
        assert_eq!(rig.pick(0), Pick::Ready(A));
        assert_eq!(rig.closes, []);
    }

    #[test]
    fn only_the_touched_locality_has_its_picker_built_again() {
        let rig = Rig::new(build(&LbPolicy::round_robin(), 1));
        let now = rig.now;
        let mut balancer = LocalityBalancer::new(&LbPolicy::RoundRobin, 1, None);
        let in_zone = |id: u32| rig.endpoint_in(id, ["a", "b", "c"][id as usize % 3], 1, 0);
        let mut endpoints: Vec<_> = (0..9).map(in_zone).collect();
        let out = &mut Actions::new();
        balancer.update(now, &endpoints, None, out);
        for endpoint in &endpoints {
            balancer.subchannel_changed(now, endpoint.id, &Connectivity::Ready, out);
        }
        let pickers = |balancer: &mut LocalityBalancer| {
            let children = balancer.children.iter_mut();
            children.map(|c| c.child.picker()).collect::<Vec<_>>()
        };
        let kept = |before: &[Arc<dyn Picker>], after: &[Arc<dyn Picker>]| {
            let both = before.iter().zip(after);
            both.map(|(a, b)| Arc::ptr_eq(a, b)).collect::<Vec<_>>()
        };
        let first = pickers(&mut balancer);
        // One endpoint of zone b goes, and another one comes.
        endpoints[1] = rig.endpoint_in(10, "b", 1, 0);
        balancer.update(now, &endpoints, None, out);
        let second = pickers(&mut balancer);
        assert_eq!(kept(&first, &second), [true, false, true]);
        // A connection of zone c is lost.
        balancer.subchannel_changed(now, SubchannelId(2), &Connectivity::Idle, out);
        let third = pickers(&mut balancer);
        assert_eq!(kept(&second, &third), [true, true, false]);
    }
}
