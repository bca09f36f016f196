//! The endpoints of a policy that connects to all of them, and the state they add up to.
//!
//! ```text
//!   Idle -> Connecting -> Ready
//!             ^             | lost: Idle, asked to connect again at once
//!             +-------------+
//!   a failure sticks until Ready: an endpoint that keeps trying is not "connecting" again
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use sidestep_proto::code;

use super::constant::{Failing, Queueing};
use super::{Action, Actions, Connectivity, Endpoint, Failure, Picker, SubchannelId};

/// Endpoints with what is known of their connections.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    entries: Vec<Entry>,
    /// Where each is in `entries`.
    places: HashMap<SubchannelId, usize>,
    tally: Tally,
    /// Why there are none.
    error: Option<Failure>,
    last_failure: Option<Failure>,
    updated: bool,
}

#[derive(Debug)]
struct Entry {
    endpoint: Endpoint,
    state: Connectivity,
}

/// How many entries are in which state.
#[derive(Debug, Default)]
struct Tally {
    ready: usize,
    /// Idle or connecting: they may still get there.
    trying: usize,
}

impl Tally {
    fn of(&mut self, state: &Connectivity) -> Option<&mut usize> {
        match state {
            Connectivity::Ready => Some(&mut self.ready),
            Connectivity::Idle | Connectivity::Connecting => Some(&mut self.trying),
            Connectivity::TransientFailure(_) => None,
        }
    }

    fn add(&mut self, state: &Connectivity) {
        if let Some(count) = self.of(state) {
            *count += 1;
        }
    }

    fn remove(&mut self, state: &Connectivity) {
        if let Some(count) = self.of(state) {
            *count -= 1;
        }
    }
}

impl Endpoints {
    /// Takes the new list over, keeps the states of endpoints that stay and asks for connections
    /// to new ones. Whether anything that a picker depends on has changed.
    pub(super) fn update(
        &mut self,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) -> bool {
        let first = !std::mem::replace(&mut self.updated, true);
        let same = endpoints.len() == self.entries.len()
            && self
                .entries
                .iter()
                .zip(endpoints)
                .all(|(a, b)| alike(&a.endpoint, b));
        let error = error.filter(|_| endpoints.is_empty()).cloned();
        if same && error == self.error && !first {
            return false;
        }
        let mut old = std::mem::take(&mut self.entries);
        let places = std::mem::take(&mut self.places);
        self.tally = Tally::default();
        self.entries.reserve_exact(endpoints.len());
        for (place, endpoint) in endpoints.iter().enumerate() {
            let state = match places.get(&endpoint.id) {
                Some(at) => std::mem::replace(&mut old[*at].state, Connectivity::Idle),
                None => {
                    out.push(Action::Connect(endpoint.id));
                    Connectivity::Idle
                }
            };
            self.tally.add(&state);
            self.places.insert(endpoint.id, place);
            let endpoint = endpoint.clone();
            self.entries.push(Entry { endpoint, state });
        }
        self.error = error;
        true
    }

    /// Notes a new state and keeps the endpoint connecting. Whether anything that a picker depends
    /// on has changed.
    pub(super) fn changed(
        &mut self,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) -> bool {
        let Some(place) = self.places.get(&id) else {
            return false;
        };
        let entry = &mut self.entries[*place];
        match state {
            Connectivity::Idle => out.push(Action::Connect(id)),
            Connectivity::TransientFailure(_) => out.push(Action::Connect(id)),
            Connectivity::Connecting | Connectivity::Ready => {}
        }
        let was_failing = matches!(entry.state, Connectivity::TransientFailure(_));
        let trying = matches!(state, Connectivity::Idle | Connectivity::Connecting);
        if entry.state == *state || (was_failing && trying) {
            return false;
        }
        if let Connectivity::TransientFailure(failure) = state {
            self.last_failure = Some(failure.clone());
        }
        self.tally.remove(&entry.state);
        self.tally.add(state);
        entry.state = state.clone();
        true
    }

    /// A call asked for this endpoint.
    pub(super) fn connect_requested(&self, id: SubchannelId, out: &mut Actions) {
        let entry = self.places.get(&id).map(|place| &self.entries[*place]);
        if entry.is_some_and(|entry| entry.state != Connectivity::Ready) {
            out.push(Action::Connect(id));
        }
    }

    /// One of them.
    pub(super) fn get(&self, id: SubchannelId) -> Option<&Endpoint> {
        let place = self.places.get(&id)?;
        Some(&self.entries[*place].endpoint)
    }

    /// The endpoints that calls can be sent to.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Endpoint> + Clone {
        let ready = self
            .entries
            .iter()
            .filter(|e| e.state == Connectivity::Ready);
        ready.map(|e| &e.endpoint)
    }

    /// Ready if any is, else connecting if any may still get there, else failing.
    pub(super) fn connectivity(&self) -> Connectivity {
        match &self.tally {
            Tally { ready: 1.., .. } => Connectivity::Ready,
            Tally { trying: 1.., .. } => Connectivity::Connecting,
            Tally { .. } => Connectivity::TransientFailure(self.failure()),
        }
    }

    /// The picker for the state of the moment, made by `ready` where an endpoint is.
    pub(super) fn picker(&self, ready: impl FnOnce(&Self) -> Arc<dyn Picker>) -> Arc<dyn Picker> {
        match self.connectivity() {
            Connectivity::Ready => ready(self),
            Connectivity::TransientFailure(failure) => Arc::new(Failing(failure)),
            Connectivity::Idle | Connectivity::Connecting => Arc::new(Queueing),
        }
    }

    fn failure(&self) -> Failure {
        match (&self.error, &self.last_failure) {
            _ if !self.entries.is_empty() => unreachable(self.entries.len(), &self.last_failure),
            (Some(error), _) => error.clone(),
            (None, _) => no_endpoints(),
        }
    }
}

fn alike(a: &Endpoint, b: &Endpoint) -> bool {
    a.id == b.id
        && a.weight == b.weight
        && Arc::ptr_eq(&a.load, &b.load)
        && a.locality == b.locality
        && a.locality_weight == b.locality_weight
        && a.hash_key == b.hash_key
}

/// What a call is told when a set of `count` endpoints has all failed.
pub(super) fn unreachable(count: usize, last: &Option<Failure>) -> Failure {
    let code = last.as_ref().map_or(code::CANNOT_CONNECT, |last| last.1);
    let last = last.as_ref().map_or("not known", |failure| &*failure.0);
    let text = match count {
        1 => format!("the only endpoint cannot be reached: {last}"),
        _ => format!("none of {count} endpoints can be reached; the last error: {last}"),
    };
    Failure::new(code, text)
}

/// What a call is told when there is nowhere to go.
pub(super) fn no_endpoints() -> Failure {
    Failure::new(code::NO_ENDPOINTS, "the cluster has no usable endpoint")
}
