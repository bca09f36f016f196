//! The least loaded of a few random endpoints (gRFC A48, xDS `LEAST_REQUEST`).
//!
//! `choice_count` ready endpoints are drawn, with repetition; the one with the fewest calls in
//! flight takes the call, the first of them if there are several. Where endpoint weights differ
//! (which A48 ignores), endpoints are drawn in proportion to them, and the fewest calls are those
//! in proportion to the weight. Connects to every endpoint at once.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sidestep_proto::resource::LbPolicy;

use super::over_ready::over_endpoints;
use super::stride::Stride;
use super::weights;
use super::{Call, Load, LoadBalancer, LoadBalancerFactory, Pick, Picker, SubchannelId};
use crate::routing::{Purpose, draw};

/// Makes the policy.
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
        Some(over_endpoints(move |endpoints| {
            let weights = weights::configured(endpoints.ready());
            let ready = endpoints.ready().zip(&weights);
            let choices = ready.map(|(endpoint, weight)| Choice {
                id: endpoint.id,
                weight: *weight,
                load: Arc::clone(&endpoint.load),
            });
            Arc::new(Choices {
                endpoints: choices.collect(),
                stride: Stride::new(weights.iter().copied()),
                choice_count,
            })
        }))
    }
}

/// The ready endpoints. Never empty.
#[derive(Debug)]
struct Choices {
    endpoints: Box<[Choice]>,
    stride: Stride,
    choice_count: u32,
}

#[derive(Debug)]
struct Choice {
    id: SubchannelId,
    weight: u32,
    load: Arc<Load>,
}

impl Choices {
    /// One of them, and its calls in flight.
    fn drawn(&self, random: u64, nth: u32) -> (&Choice, u32) {
        let number = draw(random, Purpose::Endpoint(nth));
        let choice = &self.endpoints[self.stride.at(number)];
        (choice, choice.load.in_flight.load(Relaxed))
    }
}

impl Picker for Choices {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let drawn = (0..self.choice_count).map(|nth| self.drawn(call.random, nth));
        let least = drawn.min_by(|(a, of_a), (b, of_b)| {
            // By what each has of its weight, without a division.
            let (of_a, of_b) = (u64::from(*of_a), u64::from(*of_b));
            (of_a * u64::from(b.weight)).cmp(&(of_b * u64::from(a.weight)))
        });
        Pick::Ready(least.map_or(self.endpoints[0].id, |(choice, _)| choice.id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Rig, counts};
    use super::super::{Connectivity, Endpoint};
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

    fn weighted() -> Rig {
        let mut rig = ready(0);
        let endpoints = [(0, 1), (1, 3)].map(|(id, weight)| Endpoint {
            weight,
            ..rig.endpoint(id)
        });
        rig.update(&endpoints);
        for endpoint in &endpoints {
            rig.set(endpoint.id, Connectivity::Ready);
        }
        rig
    }

    #[test]
    fn an_idle_set_is_used_by_weight() {
        let counts = counts(&weighted(), 10_000);
        // 5 sigma of a binomial with 10,000 trials at 1/4 is 217.
        assert!(counts[0].abs_diff(2_500) < 217, "{counts:?}");
    }

    #[test]
    fn calls_in_flight_count_by_weight() {
        let rig = weighted();
        rig.load(SubchannelId(0)).in_flight.store(1, Relaxed);
        rig.load(SubchannelId(1)).in_flight.store(2, Relaxed);
        // Taken only if drawn twice: one of sixteen.
        let counts = counts(&rig, 16_000);
        assert!(counts[0].abs_diff(1_000) < 153, "{counts:?}");
    }
}
