//! The part that most policies have in common: all endpoints are kept connected, and calls are
//! spread over those that are ready.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use super::endpoints::Endpoints;
use super::{Action, Actions, Connectivity, Endpoint, Failure, LoadBalancer, Picker, SubchannelId};

/// A policy that connects to every endpoint at once and keeps them connected, with calls spread by
/// what `spread` makes of the ready ones. It is asked when they change, and is never given none:
/// calls wait while endpoints connect, and fail with the last error when all of them fail.
pub fn over_ready<S>(mut spread: S) -> Box<dyn LoadBalancer>
where
    S: FnMut(&[Endpoint]) -> Arc<dyn Picker> + Send + 'static,
{
    over_endpoints(move |endpoints| {
        let ready: Vec<_> = endpoints.ready().cloned().collect();
        spread(&ready)
    })
}

/// [`over_ready`], for those that need no copy of the ready endpoints.
pub(super) fn over_endpoints<S>(spread: S) -> Box<dyn LoadBalancer>
where
    S: FnMut(&Endpoints) -> Arc<dyn Picker> + Send + 'static,
{
    Box::new(OverReady {
        endpoints: Endpoints::default(),
        spread,
    })
}

struct OverReady<S> {
    endpoints: Endpoints,
    spread: S,
}

impl<S> LoadBalancer for OverReady<S>
where
    S: FnMut(&Endpoints) -> Arc<dyn Picker> + Send,
{
    fn update(
        &mut self,
        _now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        if self.endpoints.update(endpoints, error, out) {
            out.push(Action::Changed);
        }
    }

    fn subchannel_changed(
        &mut self,
        _now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        if self.endpoints.changed(id, state, out) {
            out.push(Action::Changed);
        }
    }

    fn connect_requested(&mut self, _now: Instant, id: SubchannelId, out: &mut Actions) {
        self.endpoints.connect_requested(id, out);
    }

    fn connectivity(&self) -> Connectivity {
        self.endpoints.connectivity()
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        self.endpoints.picker(&mut self.spread)
    }
}

impl<S> fmt::Debug for OverReady<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverReady")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}
