//! Which priority is in use (gRFC A56, A115).
//!
//! One child per priority, made when it is first needed; [`failover`](super::failover) has the
//! rules. A deactivated child lives on for a while. One that has left the configuration is dropped
//! at once (A115). Children are known by their priority; an endpoint that moves to another keeps
//! its connection, because `control` owns it and the new child is told its state before any choice
//! is made.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::Locality;

use super::constant::{Failing, Queueing};
use super::endpoints::no_endpoints;
use super::failover::{Candidate, Choice, choose};
use super::{
    Action, Actions, Connectivity, Endpoint, Failure, LoadBalancer, Picker, Standing, SubchannelId,
    child,
};

/// Makes the policy of a priority.
type MakeChild = Box<dyn FnMut(u32) -> Box<dyn LoadBalancer> + Send>;

/// A policy per priority, and the choice of one.
pub struct Priority {
    make: MakeChild,
    /// The priorities that have endpoints, most preferred first.
    levels: Vec<Level>,
    known: HashMap<SubchannelId, Known>,
    error: Option<Failure>,
    chosen: Option<Chosen>,
}

/// What calls were last told to use.
#[derive(Debug, PartialEq, Eq)]
struct Chosen {
    /// A place among the levels, if there is one.
    at: Option<usize>,
    state: Connectivity,
}

/// One priority.
struct Level {
    priority: u32,
    endpoints: Box<[Endpoint]>,
    child: Option<Child>,
}

/// Where an endpoint is, and what its connection last did: a child that meets it later than that
/// must be told.
struct Known {
    priority: u32,
    locality: Arc<Locality>,
    state: Connectivity,
}

struct Child {
    child: child::Child,
    state: Connectivity,
    /// It has changed since the last choice.
    changed: bool,
    candidate: Candidate,
}

impl Child {
    fn new(now: Instant, balancer: Box<dyn LoadBalancer>) -> Self {
        Self {
            child: child::Child::new(balancer),
            state: Connectivity::Connecting,
            changed: true,
            candidate: Candidate::new(now),
        }
    }

    /// Runs one step of the balancer, and follows its state.
    fn step(
        &mut self,
        now: Instant,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) {
        if self.child.step(out, step) {
            self.changed = true;
            self.state = self.child.connectivity();
            self.candidate.heard(now, &self.state);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let own = self.candidate.next_timeout();
        let child = self.child.balancer().next_timeout();
        own.into_iter().chain(child).min()
    }

    /// Lets what is due happen. Whether it is kept: `false` once nobody has needed it for long.
    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) -> bool {
        let is_kept = self.candidate.handle_timeout(now);
        let next = self.child.balancer().next_timeout();
        if next.is_some_and(|at| at <= now) {
            self.step(now, out, |b, out| b.handle_timeout(now, out));
        }
        is_kept
    }
}

impl Priority {
    /// `make` is asked for the policy of a priority when that is first needed.
    pub fn new(make: impl FnMut(u32) -> Box<dyn LoadBalancer> + Send + 'static) -> Self {
        Self {
            make: Box::new(make),
            levels: Vec::new(),
            known: HashMap::new(),
            error: None,
            chosen: None,
        }
    }

    /// Notes where the endpoints are now. Those that have moved, with the states to tell.
    fn locate(&mut self, endpoints: &[Endpoint]) -> Vec<SubchannelId> {
        let mut old = std::mem::take(&mut self.known);
        let mut moved = Vec::new();
        for endpoint in endpoints {
            let before = old.remove(&endpoint.id);
            let stays = before.as_ref().is_some_and(|known| {
                known.priority == endpoint.priority && known.locality == endpoint.locality
            });
            if !stays {
                moved.push(endpoint.id);
            }
            let known = Known {
                priority: endpoint.priority,
                locality: Arc::clone(&endpoint.locality),
                state: before.map_or(Connectivity::Idle, |known| known.state),
            };
            self.known.insert(endpoint.id, known);
        }
        moved
    }

    /// Groups the endpoints anew; children stay with their priorities.
    fn regroup(&mut self, endpoints: &[Endpoint]) {
        let mut children: HashMap<u32, Child> = self
            .levels
            .drain(..)
            .filter_map(|level| Some((level.priority, level.child?)))
            .collect();
        let mut levels = std::collections::BTreeMap::<u32, Vec<Endpoint>>::new();
        for endpoint in endpoints {
            let level = levels.entry(endpoint.priority).or_default();
            level.push(endpoint.clone());
        }
        let levels = levels.into_iter().map(|(priority, endpoints)| Level {
            priority,
            // Kept for as long as the configuration lasts.
            endpoints: endpoints.into_boxed_slice(),
            child: children.remove(&priority),
        });
        self.levels = levels.collect();
    }

    /// Tells a child the states of connections that it has not followed.
    fn tell(
        known: &HashMap<SubchannelId, Known>,
        now: Instant,
        child: &mut Child,
        ids: impl Iterator<Item = SubchannelId>,
        out: &mut Actions,
    ) {
        for id in ids {
            if let Some(known) = known.get(&id).filter(|k| k.state != Connectivity::Idle) {
                child.step(now, out, |b, out| {
                    b.subchannel_changed(now, id, &known.state, out);
                });
            }
        }
    }

    fn create(&mut self, now: Instant, at: usize, out: &mut Actions) {
        let since = out.len();
        let level = &mut self.levels[at];
        let mut child = Child::new(now, (self.make)(level.priority));
        child.step(now, out, |b, out| {
            b.update(now, &level.endpoints, None, out)
        });
        let ids = level.endpoints.iter().map(|e| e.id);
        Self::tell(&self.known, now, &mut child, ids, out);
        level.child = Some(child);
        self.note_closed(&out[since..]);
    }

    /// Decides which priority is in use, and says so if that, or what is in it, has changed. The
    /// actions from `since` on are this event's.
    fn choose(&mut self, now: Instant, since: usize, out: &mut Actions) {
        self.note_closed(&out[since..]);
        let at = self.candidate(now, out);
        let child = at.and_then(|at| self.levels[at].child.as_mut());
        let (state, changed) = match child {
            Some(child) => {
                let changed = std::mem::take(&mut child.changed);
                (child.state.clone(), changed)
            }
            None => (Connectivity::TransientFailure(self.nothing()), false),
        };
        let chosen = Some(Chosen { at, state });
        if changed || chosen != self.chosen {
            self.chosen = chosen;
            out.push(Action::Changed);
        }
    }

    /// Nobody need report that a connection was closed as asked; a child that is told of it later
    /// must not take it for ready.
    fn note_closed(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Close(id) = action
                && let Some(known) = self.known.get_mut(id)
            {
                known.state = Connectivity::Idle;
            }
        }
    }

    /// The level that takes calls, if there is any; makes children on the way.
    fn candidate(&mut self, now: Instant, out: &mut Actions) -> Option<usize> {
        loop {
            let candidates = self.levels.iter_mut().map(|level| {
                let child = level.child.as_mut();
                child.map(|child| &mut child.candidate)
            });
            match choose(now, candidates)? {
                Choice::Make(at) => self.create(now, at, out),
                Choice::Use(at, _) => return Some(at),
            }
        }
    }

    /// The priority that calls were last told to use.
    fn in_use(&self) -> Option<u32> {
        let at = self.chosen.as_ref()?.at?;
        Some(self.levels.get(at)?.priority)
    }

    fn nothing(&self) -> Failure {
        self.error.clone().unwrap_or_else(no_endpoints)
    }

    /// Drops a child that nobody has used for long, and its connections.
    fn expire(&mut self, at: usize, out: &mut Actions) {
        let level = &mut self.levels[at];
        level.child = None;
        out.extend(level.endpoints.iter().map(|e| Action::Close(e.id)));
    }

    fn child_of(&mut self, id: SubchannelId) -> Option<&mut Child> {
        let priority = self.known.get(&id)?.priority;
        let level = self.levels.iter_mut().find(|l| l.priority == priority)?;
        level.child.as_mut()
    }
}

impl LoadBalancer for Priority {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let since = out.len();
        self.error = error.filter(|_| endpoints.is_empty()).cloned();
        let before = self.in_use();
        let moved = self.locate(endpoints);
        self.regroup(endpoints);
        for level in &mut self.levels {
            if let Some(child) = &mut level.child {
                child.step(now, out, |b, out| {
                    b.update(now, &level.endpoints, None, out)
                });
                let here = |id: &SubchannelId| {
                    self.known
                        .get(id)
                        .is_some_and(|k| k.priority == level.priority)
                };
                let moved = moved.iter().copied().filter(here);
                Self::tell(&self.known, now, child, moved, out);
            }
        }
        if before != self.in_use() {
            // Its place now means another priority.
            self.chosen = None;
        }
        self.choose(now, since, out);
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        if let Some(known) = self.known.get_mut(&id) {
            known.state = state.clone();
        }
        if let Some(child) = self.child_of(id) {
            let since = out.len();
            child.step(now, out, |b, out| b.subchannel_changed(now, id, state, out));
            self.choose(now, since, out);
        }
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        if let Some(child) = self.child_of(id) {
            let since = out.len();
            child.step(now, out, |b, out| b.connect_requested(now, id, out));
            self.choose(now, since, out);
        }
    }

    fn noticed(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        if let Some(child) = self.child_of(id) {
            let since = out.len();
            child.step(now, out, |b, out| b.noticed(now, id, out));
            self.choose(now, since, out);
        }
    }

    fn next_timeout(&self) -> Option<Instant> {
        let children = self.levels.iter().filter_map(|level| level.child.as_ref());
        children.filter_map(Child::next_timeout).min()
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        let since = out.len();
        for at in 0..self.levels.len() {
            let Some(child) = &mut self.levels[at].child else {
                continue;
            };
            if !child.handle_timeout(now, out) {
                self.expire(at, out);
            }
        }
        self.choose(now, since, out);
    }

    fn connectivity(&self) -> Connectivity {
        let chosen = self.chosen.as_ref();
        chosen.map_or(Connectivity::Connecting, |chosen| chosen.state.clone())
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        let Some(known) = self.known.get(&id) else {
            return Standing::default();
        };
        let mut levels = self.levels.iter();
        let level = levels.find(|level| level.priority == known.priority);
        let child = level.and_then(|level| level.child.as_ref());
        let standing = child.map_or_else(Standing::default, |child| child.child.standing(id));
        match self.in_use() {
            Some(used) if used != known.priority => Standing {
                passed_over: Some(format!("priority {used} is in use").into()),
                ..standing
            },
            _ => standing,
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        let Some(chosen) = &self.chosen else {
            return Arc::new(Queueing);
        };
        let level = chosen.at.map(|at| &mut self.levels[at]);
        match level.and_then(|level| level.child.as_mut()) {
            Some(child) => child.child.picker(),
            None => Arc::new(Failing(self.nothing())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidestep_proto::resource::LbPolicy;

    use super::super::conformance::Rig;
    use super::super::failover::{FAILOVER, RETENTION};
    use super::super::{Pick, build};
    use super::*;

    const A: SubchannelId = SubchannelId(0);
    const B: SubchannelId = SubchannelId(1);

    /// One endpoint in each of two priorities.
    fn two() -> Rig {
        let mut rig = Rig::new(build(&LbPolicy::round_robin(), 1));
        let endpoints = [rig.endpoint_in(0, "a", 1, 0), rig.endpoint_in(1, "b", 1, 1)];
        rig.update(&endpoints);
        rig
    }

    #[test]
    fn the_next_priority_is_made_when_the_timer_is_over() {
        let mut rig = two();
        rig.set(A, Connectivity::Connecting);
        rig.advance(FAILOVER - Duration::from_millis(1));
        assert_eq!(rig.connects, [A]);
        rig.advance(Duration::from_millis(1));
        assert_eq!(rig.connects, [A, B]);
        assert_eq!(rig.pick(0), Pick::Queue);
        rig.set(B, Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(B));
        rig.set(A, Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(A));
    }

    #[test]
    fn a_failure_fails_over_at_once() {
        let mut rig = two();
        rig.fail(A, "refused");
        assert!(rig.connects.contains(&B));
        assert_eq!(rig.pick(0), Pick::Queue);
        rig.fail(B, "no route");
        let text = "the only endpoint cannot be reached: no route";
        assert_eq!(
            rig.pick(0),
            Pick::Fail(&Failure::new(sidestep_proto::code::CANNOT_CONNECT, text))
        );
    }

    #[test]
    fn who_is_passed_over_is_told_why() {
        let mut rig = two();
        rig.set(A, Connectivity::Ready);
        assert_eq!(rig.standing(A).passed_over, None);
        let why = rig.standing(B).passed_over;
        assert_eq!(why.as_deref(), Some("priority 0 is in use"));
        rig.fail(A, "refused");
        rig.set(B, Connectivity::Ready);
        assert_eq!(rig.standing(B).passed_over, None);
        let why = rig.standing(A).passed_over;
        assert_eq!(why.as_deref(), Some("priority 1 is in use"));
    }

    #[test]
    fn a_lost_priority_has_ten_seconds_to_come_back() {
        let mut rig = two();
        rig.set(A, Connectivity::Ready);
        rig.set(A, Connectivity::Idle);
        assert_eq!(rig.pick(0), Pick::Queue);
        rig.advance(FAILOVER / 2);
        // News of the same kind do not wind the timer up again.
        rig.set(A, Connectivity::Connecting);
        rig.advance(FAILOVER / 2);
        assert!(rig.connects.contains(&B));
    }

    #[test]
    fn an_unused_priority_lives_for_fifteen_minutes() {
        let mut rig = two();
        rig.fail(A, "refused");
        rig.set(B, Connectivity::Ready);
        rig.set(A, Connectivity::Ready);
        rig.advance(RETENTION - Duration::from_secs(1));
        assert_eq!(rig.closes, []);
        // Needed again before that, it is still there.
        rig.fail(A, "refused");
        assert_eq!(rig.pick(0), Pick::Ready(B));
        rig.set(A, Connectivity::Ready);
        rig.advance(RETENTION);
        assert_eq!(rig.closes, [B]);
        rig.fail(A, "refused");
        assert_eq!(rig.pick(0), Pick::Queue);
        assert_eq!(rig.connects.last(), Some(&B));
    }

    #[test]
    fn an_endpoint_that_changes_its_priority_stays_connected() {
        let mut rig = two();
        rig.fail(A, "refused");
        rig.set(B, Connectivity::Ready);
        rig.update(&[rig.endpoint_in(1, "b", 1, 0), rig.endpoint_in(0, "a", 1, 1)]);
        assert_eq!(rig.pick(0), Pick::Ready(B));
        assert_eq!(rig.closes, []);
    }
}
