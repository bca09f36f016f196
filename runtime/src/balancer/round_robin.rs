//! Each ready endpoint in turn, from a random start; endpoint weights give longer turns.
//!
//! Connects to every endpoint at once and keeps them connected (gRFC A61, xDS `ROUND_ROBIN`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sidestep_proto::resource::LbPolicy;

use super::endpoints::Endpoints;
use super::over_ready::over_endpoints;
use super::stride::Stride;
use super::weights;
use super::{Call, LoadBalancer, LoadBalancerFactory, Pick, Picker, SubchannelId};

/// Makes the policy.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::RoundRobin = policy else {
            return None;
        };
        let mut random = fastrand::Rng::with_seed(seed);
        Some(over_endpoints(move |endpoints| {
            let turn = Arc::new(AtomicU32::new(random.u32(..)));
            let weights = weights::configured(endpoints.ready());
            Arc::new(Turns::new(endpoints, &weights, turn))
        }))
    }
}

/// Endpoints in turn.
#[derive(Debug)]
pub(super) struct Turns {
    ids: Box<[SubchannelId]>,
    stride: Stride,
    turn: Arc<AtomicU32>,
}

impl Turns {
    /// There must be a ready endpoint, and a weight for each. `turn` may go on from another picker.
    pub(super) fn new(endpoints: &Endpoints, weights: &[u32], turn: Arc<AtomicU32>) -> Self {
        Self {
            ids: endpoints.ready().map(|e| e.id).collect(),
            stride: Stride::new(weights.iter().copied()),
            turn,
        }
    }
}

impl Picker for Turns {
    fn pick<'a>(&'a self, _: &Call<'_>) -> Pick<'a> {
        let index = self.stride.next(self.turn.fetch_add(1, Relaxed));
        Pick::Ready(self.ids[index])
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{Rig, counts};
    use super::super::{Connectivity, Endpoint};
    use super::*;

    fn ready(weights: &[u32], seed: u64) -> Rig {
        let mut rig = Rig::new(Factory.build(&LbPolicy::RoundRobin, seed).unwrap());
        let endpoints = weights.iter().enumerate().map(|(i, weight)| Endpoint {
            weight: *weight,
            ..rig.endpoint(i as u32)
        });
        let endpoints: Vec<_> = endpoints.collect();
        rig.update(&endpoints);
        for endpoint in &endpoints {
            rig.set(endpoint.id, Connectivity::Ready);
        }
        rig
    }

    #[test]
    fn calls_go_round() {
        assert_eq!(counts(&ready(&[1, 1, 1], 1), 300), [100, 100, 100]);
    }

    #[test]
    fn weights_are_honoured() {
        let counts = counts(&ready(&[1, 3], 1), 400);
        assert!(counts[0].abs_diff(100) <= 2, "{counts:?}");
    }

    #[test]
    fn the_start_is_random() {
        let mut seeds = fastrand::Rng::with_seed(1);
        let starts: std::collections::BTreeSet<_> = (0..100)
            .map(|_| format!("{:?}", ready(&[1, 1, 1, 1], seeds.u64(..)).pick(0)))
            .collect();
        assert_eq!(starts.len(), 4, "{starts:?}");
    }

    #[test]
    fn a_lost_connection_is_renewed_without_a_call() {
        let mut rig = ready(&[1], 1);
        rig.set(SubchannelId(0), Connectivity::Idle);
        assert_eq!(rig.connects.last(), Some(&SubchannelId(0)));
        assert_eq!(rig.state(), Connectivity::Connecting);
    }

    #[test]
    fn failure_sticks_until_ready() {
        let mut rig = ready(&[1, 1], 1);
        for id in [0, 1] {
            rig.fail(SubchannelId(id), "refused");
            rig.set(SubchannelId(id), Connectivity::Connecting);
        }
        let failure = match rig.state() {
            Connectivity::TransientFailure(failure) => failure.0,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            &*failure,
            "none of 2 endpoints can be reached; the last error: refused"
        );
        rig.set(SubchannelId(1), Connectivity::Ready);
        assert_eq!(rig.state(), Connectivity::Ready);
    }
}
