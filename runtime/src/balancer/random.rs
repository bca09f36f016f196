//! Any ready endpoint, each call on its own (xDS `RANDOM`).
//!
//! Without turns there is nothing that calls of many threads would have to write to. Endpoints are
//! drawn by weight. Connects to every endpoint at once.

use std::sync::Arc;

use sidestep_proto::resource::LbPolicy;

use super::over_ready::over_endpoints;
use super::stride::Stride;
use super::weights;
use super::{Call, LoadBalancer, LoadBalancerFactory, Pick, Picker, SubchannelId};
use crate::routing::{Purpose, draw};

/// Makes the policy.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "random"
    }

    fn build(&self, policy: &LbPolicy, _seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::Random = policy else {
            return None;
        };
        Some(over_endpoints(|endpoints| {
            let weights = weights::configured(endpoints.ready());
            Arc::new(Any {
                ids: endpoints.ready().map(|e| e.id).collect(),
                stride: Stride::new(weights.iter().copied()),
            })
        }))
    }
}

/// The ready endpoints. Never empty.
#[derive(Debug)]
struct Any {
    ids: Box<[SubchannelId]>,
    stride: Stride,
}

impl Picker for Any {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let number = draw(call.random, Purpose::Endpoint(0));
        Pick::Ready(self.ids[self.stride.at(number)])
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Rig, counts};
    use super::super::{Connectivity, Endpoint};
    use super::*;

    #[test]
    fn each_ready_endpoint_gets_its_share() {
        let mut rig = Rig::new(Factory.build(&LbPolicy::Random, 1).unwrap());
        let endpoints: Vec<_> = (0..5).map(|i| rig.endpoint(i)).collect();
        rig.update(&endpoints);
        for endpoint in &endpoints[..4] {
            rig.set(endpoint.id, Connectivity::Ready);
        }
        let counts = counts(&rig, 10_000);
        assert_eq!(counts.len(), 4);
        // 5 sigma of a binomial with 10,000 trials at 1/4 is 217.
        for count in counts {
            assert!(count.abs_diff(2_500) < 217, "{count}");
        }
    }

    #[test]
    fn weights_are_honoured() {
        let mut rig = Rig::new(Factory.build(&LbPolicy::Random, 1).unwrap());
        let endpoints = [(0, 1), (1, 3)].map(|(id, weight)| Endpoint {
            weight,
            ..rig.endpoint(id)
        });
        rig.update(&endpoints);
        for endpoint in &endpoints {
            rig.set(endpoint.id, Connectivity::Ready);
        }
        let counts = counts(&rig, 10_000);
        // 5 sigma of a binomial with 10,000 trials at 1/4 is 217.
        assert!(counts[0].abs_diff(2_500) < 217, "{counts:?}");
    }
}
