//! The endpoints of a policy that connects to all of them, and the state they add up to.
//!
//! ```text
//!   Idle -> Connecting -> Ready
//!             ^             | lost: Idle, asked to connect again at once
//!             +-------------+
//!   a failure sticks until Ready: an endpoint that keeps trying is not "connecting" again
//! ```

use super::{Action, Actions, Connectivity, Endpoint, Failure, SubchannelId};
use sidestep_proto::code;

/// Endpoints with what is known of their connections.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    entries: Vec<Entry>,
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
        let mut old: std::collections::HashMap<_, _> = self
            .entries
            .drain(..)
            .map(|entry| (entry.endpoint.id, entry.state))
            .collect();
        for endpoint in endpoints {
            let state = old.remove(&endpoint.id).unwrap_or_else(|| {
                out.push(Action::Connect(endpoint.id));
                Connectivity::Idle
            });
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
        let Some(entry) = self.entries.iter_mut().find(|e| e.endpoint.id == id) else {
            return false;
        };
        match state {
            Connectivity::Idle => out.push(Action::Connect(id)),
            Connectivity::TransientFailure(failure) => {
                self.last_failure = Some(failure.clone());
                out.push(Action::Connect(id));
            }
            Connectivity::Connecting | Connectivity::Ready => {}
        }
        let was_failing = matches!(entry.state, Connectivity::TransientFailure(_));
        let trying = matches!(state, Connectivity::Idle | Connectivity::Connecting);
        if entry.state == *state || (was_failing && trying) {
            return false;
        }
        entry.state = state.clone();
        true
    }

    /// A call asked for this endpoint.
    pub(super) fn connect_requested(&self, id: SubchannelId, out: &mut Actions) {
        if self
            .entries
            .iter()
            .any(|e| e.endpoint.id == id && e.state != Connectivity::Ready)
        {
            out.push(Action::Connect(id));
        }
    }

    /// The endpoints that calls can be sent to.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Endpoint> {
        let ready = self
            .entries
            .iter()
            .filter(|e| e.state == Connectivity::Ready);
        ready.map(|e| &e.endpoint)
    }

    /// Ready if any is, else connecting if any may still get there, else failing.
    pub(super) fn connectivity(&self) -> Connectivity {
        let any = |state: &Connectivity| self.entries.iter().any(|e| e.state == *state);
        if any(&Connectivity::Ready) {
            Connectivity::Ready
        } else if any(&Connectivity::Connecting) || any(&Connectivity::Idle) {
            Connectivity::Connecting
        } else {
            Connectivity::TransientFailure(self.failure())
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
    a.id == b.id && a.weight == b.weight && std::sync::Arc::ptr_eq(&a.load, &b.load)
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
