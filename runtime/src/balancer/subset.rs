//! The endpoints that a call's route asks for by their metadata: Envoy's `lb_subset_config` and
//! `subset.v3.Subset`. gRPC's runtimes have no subsets.
//!
//! ```text
//!   at an update     each selector's keys, and the values that an endpoint has under them, are a
//!                    subset: {stage=canary}; it has a policy of its own, over all priorities
//!   a call asks for  {stage=canary}: that subset, if it has endpoints
//!                    else what the selector by {stage} falls back to, if that is said
//!                    else what the cluster falls back to: nothing, any endpoint, the default subset
//! ```
//!
//! What is asked for was compiled with the routes ([`Criteria`]), and the names of subsets with the
//! endpoints: a pick looks a number up and compares one set of labels. An endpoint is in as many
//! subsets as there are selectors, so the connection it has is shared: it is given up when nobody
//! wants it any more, and one that moves to another subset keeps it.
//!
//! An endpoint that the control plane holds unfit is in no subset. In Envoy a subset of such
//! endpoints alone is still one, and its calls fail; here they fall back.

mod index;
mod members;
mod sorting;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::code;
use sidestep_proto::resource::{LbPolicy, Subsets};

use super::child::Child;
use super::endpoints::no_endpoints;
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, LoadBalancer, LoadBalancerFactory,
    Pick, Picker, Priority, Standing, SubchannelId, endpoint_balancer,
};
use index::Index;
use members::Members;
use sorting::{Sort, Sorting};

/// Makes [`SubsetBalancer`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "subset"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::Subsets(subsets) = policy else {
            return None;
        };
        Some(Box::new(SubsetBalancer::new(subsets, seed)))
    }
}

/// A policy for each subset.
struct SubsetBalancer {
    subsets: Arc<Subsets>,
    seeds: fastrand::Rng,
    /// By place; a place that was set free is taken again.
    children: Vec<Option<Subset>>,
    places: HashMap<Sort, usize>,
    members: Members,
    /// How many children are in which state.
    tally: [usize; 4],
    /// When children want to be called.
    timers: BTreeSet<(Instant, usize)>,
    index: Arc<Index>,
    error: Option<Failure>,
    started: bool,
}

/// One of the children.
struct Subset {
    sort: Sort,
    child: Child,
    /// The child's, as of its last change.
    state: Connectivity,
    due: Option<Instant>,
    /// Who is in it, in order.
    ids: Vec<SubchannelId>,
}

impl SubsetBalancer {
    fn new(subsets: &Subsets, seed: u64) -> Self {
        let subsets = Arc::new(subsets.clone());
        Self {
            index: Arc::new(Index::new(Arc::clone(&subsets), no_endpoints())),
            subsets,
            seeds: fastrand::Rng::with_seed(seed),
            children: Vec::new(),
            places: HashMap::new(),
            members: Members::default(),
            tally: [0; 4],
            timers: BTreeSet::new(),
            error: None,
            started: false,
        }
    }

    /// A policy for a subset. One of a single endpoint has no choice to make.
    fn make(&mut self, single: bool) -> Box<dyn LoadBalancer> {
        let seed = self.seeds.u64(..);
        if single {
            return endpoint_balancer(&LbPolicy::RoundRobin, seed);
        }
        let subsets = Arc::clone(&self.subsets);
        Box::new(Priority::new(move |priority| {
            let seed = seed ^ u64::from(priority).rotate_left(32);
            endpoint_balancer(&subsets.policy, seed)
        }))
    }

    /// The place of a subset, which is made if it is new.
    fn place(&mut self, sorting: &Sorting<'_>, sort: &Sort) -> usize {
        if let Some(at) = self.places.get(sort) {
            return *at;
        }
        let balancer = self.make(sorting.is_single(sort));
        let subset = Subset {
            sort: sort.clone(),
            child: Child::new(balancer),
            state: Connectivity::Connecting,
            due: None,
            ids: Vec::new(),
        };
        self.tally[rank(&subset.state)] += 1;
        let free = self.children.iter().position(Option::is_none);
        let at = free.unwrap_or(self.children.len());
        match free {
            Some(at) => self.children[at] = Some(subset),
            None => self.children.push(Some(subset)),
        }
        self.places.insert(sort.clone(), at);
        at
    }

    /// Runs one step of a child, and of others for what that does to connections they share.
    /// Whether any has changed.
    fn step(
        &mut self,
        now: Instant,
        at: usize,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) -> bool {
        let mut queue = VecDeque::new();
        let mut changed = self.run(at, &mut queue, step);
        while let Some((at, action)) = queue.pop_front() {
            match action {
                Action::Connect(id) => {
                    out.push(Action::Connect(id));
                    // It gave the connection up, and another kept it.
                    if let Some(state) = self.members.want(id, at) {
                        changed |= self.run(at, &mut queue, |child, out| {
                            child.subchannel_changed(now, id, &state, out);
                        });
                    }
                }
                Action::Close(id) => self.members.give_up(id, at),
                Action::Changed => {}
            }
        }
        changed
    }

    /// Runs one step of a child; what it wants of connections goes into the queue.
    fn run(
        &mut self,
        at: usize,
        queue: &mut VecDeque<(usize, Action)>,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) -> bool {
        let Some(subset) = self.children.get_mut(at).and_then(Option::as_mut) else {
            return false;
        };
        let mut actions = Actions::new();
        let changed = subset.child.step(&mut actions, step);
        queue.extend(actions.into_iter().map(|action| (at, action)));
        if changed {
            self.tally[rank(&subset.state)] -= 1;
            subset.state = subset.child.connectivity();
            self.tally[rank(&subset.state)] += 1;
        }
        let due = subset.child.balancer().next_timeout();
        let before = std::mem::replace(&mut subset.due, due);
        if before != due {
            before.map(|before| self.timers.remove(&(before, at)));
            due.map(|due| self.timers.insert((due, at)));
        }
        changed
    }

    /// Connections that nobody wants any more are closed, and who followed them hears of it.
    fn close(&mut self, now: Instant, out: &mut Actions) -> bool {
        let mut changed = false;
        while let Some((id, followers)) = self.members.next_unwanted() {
            out.push(Action::Close(id));
            for at in followers {
                changed |= self.step(now, at, out, |child, out| {
                    child.subchannel_changed(now, id, &Connectivity::Idle, out);
                });
            }
        }
        changed
    }

    /// An event of one endpoint, for these children.
    fn each_of(
        &mut self,
        now: Instant,
        children: Vec<usize>,
        out: &mut Actions,
        step: impl Fn(&mut dyn LoadBalancer, &mut Actions),
    ) {
        let mut changed = false;
        for at in children {
            changed |= self.step(now, at, out, &step);
        }
        changed |= self.close(now, out);
        if changed {
            out.push(Action::Changed);
        }
    }

    /// Lets a subset have these endpoints. Whether it has changed.
    fn fill(&mut self, now: Instant, at: usize, endpoints: &[Endpoint], out: &mut Actions) -> bool {
        let Some(subset) = self.children[at].as_mut() else {
            return false;
        };
        let ids = endpoints.iter().map(|endpoint| endpoint.id).collect();
        let before = std::mem::replace(&mut subset.ids, ids);
        let new = self.members.exchange(at, &before, &subset.ids);
        // Pickers are told who is in it even if the policy has nothing new to say.
        let mut changed = before != subset.ids;
        let error = self.error.clone();
        changed |= self.step(now, at, out, |child, out| {
            child.update(now, endpoints, error.as_ref(), out);
        });
        // Connections that others have are not made again.
        for (id, state) in new {
            changed |= self.step(now, at, out, |child, out| {
                child.subchannel_changed(now, id, &state, out);
            });
        }
        changed
    }

    /// A subset without endpoints is none.
    fn drop_subset(&mut self, at: usize) {
        let Some(subset) = self.children[at].take() else {
            return;
        };
        self.places.remove(&subset.sort);
        self.tally[rank(&subset.state)] -= 1;
        subset.due.map(|due| self.timers.remove(&(due, at)));
        self.members.exchange(at, &subset.ids, &[]);
    }

    /// What a call is told that meets no endpoint.
    fn nowhere(&self, endpoints: &[Endpoint]) -> Failure {
        match (&self.error, endpoints.len()) {
            (Some(error), _) => error.clone(),
            (None, 0) => no_endpoints(),
            (None, _) => Failure::new(
                code::NO_SUBSET,
                "no endpoint of the cluster is in the subset that the route asks for, and there \
                 is nothing to fall back to",
            ),
        }
    }

    fn child(&self, at: usize) -> Option<&Subset> {
        self.children.get(at)?.as_ref()
    }

    fn failure(&self) -> Failure {
        let mut children = self.children.iter().flatten();
        let failure = children.find_map(|subset| match &subset.state {
            Connectivity::TransientFailure(failure) => Some(failure.clone()),
            _ => None,
        });
        failure.unwrap_or_else(|| self.index.nowhere().clone())
    }
}

/// The best state first.
fn rank(state: &Connectivity) -> usize {
    match state {
        Connectivity::Ready => 0,
        Connectivity::Connecting => 1,
        Connectivity::Idle => 2,
        Connectivity::TransientFailure(_) => 3,
    }
}

impl LoadBalancer for SubsetBalancer {
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
        self.members.retain(endpoints);
        let subsets = Arc::clone(&self.subsets);
        let sorting = Sorting::of(&subsets, endpoints);
        let gone: Vec<_> = self
            .places
            .iter()
            .filter(|(sort, _)| !sorting.has(sort))
            .collect();
        let mut gone: Vec<_> = gone.into_iter().map(|(_, at)| *at).collect();
        gone.sort_unstable();
        let mut different = !gone.is_empty();
        for (sort, endpoints) in sorting.subsets() {
            different |= !self.places.contains_key(sort);
            let at = self.place(&sorting, sort);
            changed |= self.fill(now, at, endpoints, out);
        }
        // Last, so that connections of endpoints that have moved are kept.
        for at in gone {
            self.drop_subset(at);
        }
        changed |= self.close(now, out);
        let nowhere = self.nowhere(endpoints);
        if different || changed || nowhere != *self.index.nowhere() {
            let mut index = Index::new(subsets, nowhere);
            let filled = self.children.iter().enumerate();
            for (at, subset) in filled.filter_map(|(at, subset)| Some((at, subset.as_ref()?))) {
                index.insert(&subset.sort, at, &subset.ids);
            }
            self.index = Arc::new(index);
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
        if !self.members.follow(id, state) {
            // It is in no subset: whoever had it connected was the policy of before.
            if *state != Connectivity::Idle && self.members.is_known(id) {
                out.push(Action::Close(id));
            }
            return;
        }
        let followers = self.members.followers(id);
        self.each_of(now, followers, out, |child, out| {
            child.subchannel_changed(now, id, state, out);
        });
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        // Of one who gave the connection up, too: now it is asked for again.
        let children = self.members.of(id).collect();
        self.each_of(now, children, out, |child, out| {
            child.connect_requested(now, id, out);
        });
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        let children = self.members.of(id).collect();
        self.each_of(now, children, out, |child, out| child.noticed(now, id, out));
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let due = self.timers.iter().take_while(|(at, _)| *at <= now);
        let due: Vec<_> = due.map(|(_, at)| *at).collect();
        let mut changed = false;
        for at in due {
            changed |= self.step(now, at, out, |child, out| child.handle_timeout(now, out));
        }
        changed |= self.close(now, out);
        if changed {
            out.push(Action::Changed);
        }
    }

    /// The best state that a subset has.
    fn connectivity(&self) -> Connectivity {
        match self.tally {
            [ready, ..] if ready > 0 => Connectivity::Ready,
            [_, connecting, ..] if connecting > 0 => Connectivity::Connecting,
            [_, _, idle, _] if idle > 0 => Connectivity::Idle,
            _ => Connectivity::TransientFailure(self.failure()),
        }
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let subsets = self.members.of(id).filter_map(|at| self.child(at));
        let below: Vec<_> = subsets.map(|subset| subset.child.standing(id)).collect();
        let Some(first) = below.first() else {
            return Standing {
                passed_over: Some("it is in no subset".into()),
                ..Standing::default()
            };
        };
        // One that takes calls in any subset is a candidate.
        let taking = below.iter().find(|standing| standing.passed_over.is_none());
        taking.unwrap_or(first).clone()
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        let pickers = self.children.iter_mut().map(|subset| {
            let subset = subset.as_mut()?;
            Some(subset.child.picker())
        });
        Arc::new(BySubset {
            pickers: pickers.collect(),
            index: Arc::clone(&self.index),
        })
    }
}

/// The picker of the subset that a call asks for.
#[derive(Debug)]
struct BySubset {
    index: Arc<Index>,
    /// By place.
    pickers: Box<[Option<Arc<dyn Picker>>]>,
}

impl Picker for BySubset {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let place = self.index.find(call.subset).at;
        match place.and_then(|at| self.pickers.get(at)?.as_deref()) {
            Some(picker) => picker.pick(call),
            None => Pick::Fail(self.index.nowhere()),
        }
    }

    fn admits(&self, call: &Call<'_>, id: SubchannelId) -> bool {
        self.index.admits(call.subset, id)
    }

    fn explain(&self, call: &Call<'_>) -> Option<String> {
        Some(self.index.explain(call.subset))
    }
}
