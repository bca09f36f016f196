//! The least loaded of a few random endpoints (gRFC A48, xDS `LEAST_REQUEST`).
//!
//! `choice_count` ready endpoints are drawn, with repetition; the one with the fewest calls in
//! flight takes the call. Endpoint weights do not count. Connects to every endpoint at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use sidestep_proto::resource::LbPolicy;

use super::constant::{Failing, Queueing};
use super::endpoints::Endpoints;
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, Load, LoadBalancer,
    LoadBalancerFactory, Pick, Picker, SubchannelId,
};
use crate::routing::{Purpose, below, draw};

/// Makes [`LeastRequest`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "least_request"
    }

    fn build(&self, policy: &LbPolicy, _seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::LeastRequest { choice_count } = *policy else {
            return None;
        };
        Some(Box::new(LeastRequest {
            endpoints: Endpoints::default(),
            choice_count,
        }))
    }
}

/// The policy.
#[derive(Debug)]
struct LeastRequest {
    endpoints: Endpoints,
    choice_count: u32,
}

impl LeastRequest {
    fn publish(&self, out: &mut Actions) {
        let state = self.endpoints.connectivity();
        let picker: Arc<dyn Picker> = match &state {
            Connectivity::Ready => Arc::new(Choices {
                endpoints: self
                    .endpoints
                    .ready()
                    .map(|e| (e.id, Arc::clone(&e.load)))
                    .collect(),
                choice_count: self.choice_count,
            }),
            Connectivity::TransientFailure(failure) => Arc::new(Failing(failure.clone())),
            Connectivity::Idle | Connectivity::Connecting => Arc::new(Queueing),
        };
        out.push(Action::Publish(state, picker));
    }
}

impl LoadBalancer for LeastRequest {
    fn update(
        &mut self,
        _now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        if self.endpoints.update(endpoints, error, out) {
            self.publish(out);
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
            self.publish(out);
        }
    }

    fn connect_requested(&mut self, _now: Instant, id: SubchannelId, out: &mut Actions) {
        self.endpoints.connect_requested(id, out);
    }
}

/// The ready endpoints. Never empty.
#[derive(Debug)]
struct Choices {
    endpoints: Box<[(SubchannelId, Arc<Load>)]>,
    choice_count: u32,
}

impl Choices {
    fn drawn(&self, random: u64, nth: u32) -> &(SubchannelId, Arc<Load>) {
        let number = draw(random, Purpose::Endpoint(nth));
        // Below the length, so it fits.
        &self.endpoints[below(number, self.endpoints.len() as u64) as usize]
    }
}

impl Picker for Choices {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let drawn = (0..self.choice_count).map(|nth| self.drawn(call.random, nth));
        let least = drawn.min_by_key(|(_, load)| load.in_flight.load(Relaxed));
        Pick::Ready(least.unwrap_or(&self.endpoints[0]).0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Rig, counts};
    use super::*;

    fn ready(count: u32) -> Rig {
        let policy = LbPolicy::LeastRequest { choice_count: 2 };
        let mut rig = Rig::new(Factory.build(&policy, 1).unwrap());
        let endpoints: Vec<_> = (0..count).map(|i| rig.endpoint(i)).collect();
        rig.update(&endpoints);
        for endpoint in &endpoints {
            rig.set(endpoint.id, Connectivity::Ready);
        }
        rig
    }

    #[test]
    fn an_idle_set_is_used_evenly() {
        // 5 sigma of a binomial with 10,000 trials at 1/4 is 217.
        for count in counts(&ready(4), 10_000) {
            assert!(count.abs_diff(2_500) < 217, "{count}");
        }
    }

    #[test]
    fn a_busy_endpoint_is_taken_only_if_drawn_twice() {
        let rig = ready(4);
        rig.load(SubchannelId(2)).in_flight.store(9, Relaxed);
        let counts = counts(&rig, 16_000);
        // Both draws fall on it in one of sixteen calls; 5 sigma is 153.
        assert!(counts[2].abs_diff(1_000) < 153, "{counts:?}");
    }
}
