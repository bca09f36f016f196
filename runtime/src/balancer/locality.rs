//! Which locality of a priority takes a call: a ready one, at random, by weight
//! (`wrr_locality`, `weighted_target`; gRFC A28, A52).
//!
//! Weights of localities that are not ready count for nothing. Unlike the other runtimes a
//! locality that was removed is forgotten at once: its connections belong to `control`, so there
//! is nothing to keep alive.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::Locality;

use super::constant::{Failing, Queueing};
use super::endpoints::no_endpoints;
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, LoadBalancer, Pick, Picker,
    SubchannelId,
};
use crate::routing::{Purpose, below, draw};

/// Makes the policy inside of a locality.
type MakeLeaf = Box<dyn FnMut() -> Box<dyn LoadBalancer> + Send>;

/// A policy per locality, and a choice among them.
pub struct LocalityBalancer {
    make: MakeLeaf,
    children: Vec<Child>,
    owners: HashMap<SubchannelId, Arc<Locality>>,
    error: Option<Failure>,
    started: bool,
}

struct Child {
    locality: Arc<Locality>,
    weight: u32,
    balancer: Box<dyn LoadBalancer>,
    state: Connectivity,
    picker: Arc<dyn Picker>,
}

impl Child {
    /// Keeps what the child publishes, passes the rest on. Whether it has published.
    fn take(&mut self, actions: Actions, out: &mut Actions) -> bool {
        let mut published = false;
        for action in actions {
            match action {
                Action::Publish(state, picker) => {
                    (self.state, self.picker) = (state, picker);
                    published = true;
                }
                other => out.push(other),
            }
        }
        published
    }
}

impl LocalityBalancer {
    /// `make` is asked once for each locality.
    pub fn new(make: impl FnMut() -> Box<dyn LoadBalancer> + Send + 'static) -> Self {
        Self {
            make: Box::new(make),
            children: Vec::new(),
            owners: HashMap::new(),
            error: None,
            started: false,
        }
    }

    /// The child of a locality, taken over from the last update or new.
    fn adopt(&mut self, old: &mut Vec<Child>, locality: &Arc<Locality>, weight: u32) -> Child {
        if let Some(at) = old.iter().position(|c| c.locality == *locality) {
            let child = old.swap_remove(at);
            return Child { weight, ..child };
        }
        Child {
            locality: Arc::clone(locality),
            weight,
            balancer: (self.make)(),
            state: Connectivity::Connecting,
            picker: Arc::new(Queueing),
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
        let Some(child) = self.children.iter_mut().find(|c| c.locality == *owner) else {
            return;
        };
        let mut actions = Actions::new();
        step(&mut *child.balancer, &mut actions);
        if child.take(actions, out) {
            self.publish(out);
        }
    }

    /// The best state that a child has; the children in it share the calls.
    fn publish(&self, out: &mut Actions) {
        let state = self.connectivity();
        let picker: Arc<dyn Picker> = match &state {
            Connectivity::Ready | Connectivity::Idle => self.share(&state),
            Connectivity::Connecting => Arc::new(Queueing),
            Connectivity::TransientFailure(failure) => Arc::new(Failing(failure.clone())),
        };
        out.push(Action::Publish(state, picker));
    }

    fn connectivity(&self) -> Connectivity {
        let order = [
            Connectivity::Ready,
            Connectivity::Connecting,
            Connectivity::Idle,
        ];
        let any = |state: &Connectivity| self.children.iter().any(|c| c.state == *state);
        let best = order.into_iter().find(any);
        best.unwrap_or_else(|| Connectivity::TransientFailure(self.failure()))
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

    fn share(&self, state: &Connectivity) -> Arc<dyn Picker> {
        let mut sum = 0_u64;
        let chosen = self.children.iter().filter(|c| c.state == *state);
        let shares: Box<[_]> = chosen
            .map(|child| {
                sum += u64::from(child.weight);
                (sum, Arc::clone(&child.picker))
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
        let mut published = !std::mem::replace(&mut self.started, true);
        let error = error.filter(|_| endpoints.is_empty()).cloned();
        published |= error != self.error;
        self.error = error;

        let weights = |children: &[Child]| -> Vec<_> {
            children
                .iter()
                .map(|c| (Arc::clone(&c.locality), c.weight))
                .collect()
        };
        let before = weights(&self.children);
        let mut old = std::mem::take(&mut self.children);
        self.owners = endpoints
            .iter()
            .map(|e| (e.id, Arc::clone(&e.locality)))
            .collect();
        for (locality, members) in by_locality(endpoints) {
            let mut child = self.adopt(&mut old, &locality, members[0].locality_weight);
            let mut actions = Actions::new();
            child.balancer.update(now, &members, None, &mut actions);
            published |= child.take(actions, out);
            self.children.push(child);
        }
        if published || before != weights(&self.children) {
            self.publish(out);
        }
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        self.with_owner(id, out, |child, out| {
            child.subchannel_changed(now, id, state, out)
        });
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.with_owner(id, out, |child, out| child.connect_requested(now, id, out));
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.children
            .iter()
            .filter_map(|c| c.balancer.next_timeout())
            .min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let mut published = false;
        for child in &mut self.children {
            if child.balancer.next_timeout().is_some_and(|at| at <= now) {
                let mut actions = Actions::new();
                child.balancer.handle_timeout(now, &mut actions);
                published |= child.take(actions, out);
            }
        }
        if published {
            self.publish(out);
        }
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
    use sidestep_proto::resource::LbPolicy;

    use super::super::build;
    use super::super::conformance::{Rig, counts};
    use super::*;

    const A: SubchannelId = SubchannelId(0);
    const B: SubchannelId = SubchannelId(1);

    #[test]
    fn ready_localities_share_by_weight() {
        let mut rig = Rig::new(build(&LbPolicy::RoundRobin, 1));
        let endpoints = [rig.endpoint_in(0, "a", 1, 0), rig.endpoint_in(1, "b", 3, 0)];
        rig.update(&endpoints);
        rig.set(A, Connectivity::Ready);
        assert_eq!(counts(&rig, 100), [100]);
        rig.set(B, Connectivity::Ready);
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
        let mut rig = Rig::new(build(&LbPolicy::RoundRobin, 1));
        rig.update(&[rig.endpoint_in(0, "a", 1, 0)]);
        rig.set(A, Connectivity::Ready);
        rig.update(&[rig.endpoint_in(0, "b", 1, 0)]);
        assert_eq!(rig.pick(0), Pick::Ready(A));
        assert_eq!(rig.closes, []);
    }
}
