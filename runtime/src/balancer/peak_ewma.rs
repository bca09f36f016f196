//! The one of two random endpoints where a call is likely to be answered sooner.
//!
//! What an endpoint would cost is its latency, a moving average that believes the worst at once,
//! times the calls that would then be under way there. Calls that fail count as slow, so that an
//! endpoint which fails fast draws no calls; see [`Load`]. One that has not answered yet costs what
//! the other one costs for each call, and so gets its share and no more. Endpoints are drawn by
//! weight, and calls in flight are counted in proportion to it. Connects to every endpoint at once.
//!
//! The idea is Finagle's and Linkerd's; gRPC has nothing like it.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use sidestep_proto::resource::{LbPolicy, PeakEwma as Config};

use super::endpoints::Endpoints;
use super::stride::Stride;
use super::weights;
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, LatencyTerms, Load, LoadBalancer,
    LoadBalancerFactory, Pick, Picker, Standing, SubchannelId,
};
use crate::routing::{Purpose, draw};

/// Makes [`PeakEwma`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "peak_ewma"
    }

    fn build(&self, policy: &LbPolicy, _seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::PeakEwma(config) = policy else {
            return None;
        };
        Some(Box::new(PeakEwma {
            endpoints: Endpoints::default(),
            config: config.clone(),
            terms: None,
        }))
    }
}

/// Shorter latencies count as this, in seconds: an endpoint that was not asked for long, and so is
/// believed to answer in no time, must not draw all calls at once.
const FLOOR: f32 = 0.001;

/// So often another second endpoint is drawn if it is the first one again.
const DRAWS: u32 = 4;

/// The policy.
#[derive(Debug)]
struct PeakEwma {
    endpoints: Endpoints,
    config: Config,
    /// From the first update on, where its time begins.
    terms: Option<Arc<LatencyTerms>>,
}

impl PeakEwma {
    fn terms(&mut self, now: Instant) -> &Arc<LatencyTerms> {
        let Config {
            decay,
            failure_penalty,
            ..
        } = self.config;
        self.terms
            .get_or_insert_with(|| Arc::new(LatencyTerms::new(now, decay, failure_penalty)))
    }
}

impl LoadBalancer for PeakEwma {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let terms = self.terms(now);
        for endpoint in endpoints {
            endpoint.load.watch_latency(terms);
        }
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

    fn standing(&self, id: SubchannelId) -> Standing {
        let latency = self.terms.as_ref().and_then(|terms| {
            let endpoint = self.endpoints.get(id)?;
            endpoint.load.latency(terms)
        });
        Standing {
            // Calls per second that one after the other would be answered there.
            weight: latency.map(|seconds| 1.0 / f64::from(seconds.max(FLOOR))),
            ..Standing::default()
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        let default = self.config.default_latency.map(|d| d.as_secs_f32());
        let terms = &self.terms;
        self.endpoints.picker(|endpoints| {
            // Endpoints are ready only after an update.
            let terms = terms.as_ref().expect("made by the first update");
            Arc::new(Candidates::new(endpoints, Arc::clone(terms), default))
        })
    }
}

/// The ready endpoints. Never empty.
#[derive(Debug)]
struct Candidates {
    endpoints: Box<[Candidate]>,
    stride: Stride,
    terms: Arc<LatencyTerms>,
    default: Option<f32>,
}

#[derive(Debug)]
struct Candidate {
    id: SubchannelId,
    /// Of the average weight.
    weight: f32,
    load: Arc<Load>,
}

impl Candidate {
    /// What a call costs there, if one alone takes so long.
    fn cost(&self, latency: f32) -> f32 {
        let in_flight = self.load.in_flight.load(Relaxed) as f32;
        latency.max(FLOOR) * (in_flight / self.weight + 1.0)
    }
}

impl Candidates {
    fn new(endpoints: &Endpoints, terms: Arc<LatencyTerms>, default: Option<f32>) -> Self {
        let weights = weights::configured(endpoints.ready());
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        let average = sum as f32 / weights.len() as f32;
        let candidates = endpoints
            .ready()
            .zip(&weights)
            .map(|(e, weight)| Candidate {
                id: e.id,
                weight: *weight as f32 / average,
                load: Arc::clone(&e.load),
            });
        Self {
            endpoints: candidates.collect(),
            stride: Stride::new(weights.iter().copied()),
            terms,
            default,
        }
    }

    /// Two of them, where there are two.
    fn drawn(&self, random: u64) -> (&Candidate, &Candidate) {
        let nth = |n| self.stride.at(draw(random, Purpose::Endpoint(n)));
        let first = nth(0);
        let second = (1..=DRAWS).map(nth).find(|second| *second != first);
        let second = second.unwrap_or((first + 1) % self.endpoints.len());
        (&self.endpoints[first], &self.endpoints[second])
    }

    fn latency(&self, candidate: &Candidate) -> Option<f32> {
        candidate.load.latency(&self.terms).or(self.default)
    }
}

impl Picker for Candidates {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let (a, b) = self.drawn(call.random);
        let latencies = (self.latency(a), self.latency(b));
        let costs = match latencies {
            (Some(of_a), Some(of_b)) => (a.cost(of_a), b.cost(of_b)),
            (Some(one), None) | (None, Some(one)) => (a.cost(one), b.cost(one)),
            (None, None) => (a.cost(FLOOR), b.cost(FLOOR)),
        };
        Pick::Ready(if costs.1 < costs.0 { b.id } else { a.id })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::conformance::{Rig, counts};
    use super::*;

    fn rig_of(config: Config, weights: &[u32]) -> Rig {
        let mut rig = Rig::new(Factory.build(&LbPolicy::PeakEwma(config), 1).unwrap());
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

    fn rig(count: usize) -> Rig {
        rig_of(Config::default(), &vec![1; count])
    }

    fn took(rig: &Rig, id: u32, millis: u64) {
        let elapsed = Duration::from_millis(millis);
        rig.load(SubchannelId(id)).took(rig.now, elapsed);
    }

    fn in_flight(rig: &Rig, id: u32, calls: u32) {
        let load = rig.load(SubchannelId(id));
        load.in_flight.store(calls, Relaxed);
    }

    #[test]
    fn the_faster_one_is_taken() {
        let rig = rig(2);
        took(&rig, 0, 10);
        took(&rig, 1, 50);
        assert_eq!(counts(&rig, 1000), [1000]);
    }

    #[test]
    fn until_its_queue_is_longer_than_it_is_faster() {
        let rig = rig(2);
        took(&rig, 0, 10);
        took(&rig, 1, 50);
        in_flight(&rig, 0, 3);
        assert_eq!(counts(&rig, 1000), [1000]);
        in_flight(&rig, 0, 5);
        assert_eq!(counts(&rig, 1000), [0, 1000]);
    }

    #[test]
    fn the_slowest_of_many_is_never_taken() {
        let rig = rig(10);
        for id in 0..10 {
            took(&rig, id, 10);
        }
        took(&rig, 9, 200);
        let counts = counts(&rig, 10_000);
        assert_eq!(counts.len(), 9, "the tenth got none");
    }

    #[test]
    fn a_new_one_is_neither_avoided_nor_flooded() {
        let rig = rig(4);
        for id in 0..3 {
            took(&rig, id, 10);
        }
        let idle = counts(&rig, 10_000);
        assert!(idle[3].abs_diff(2_500) < 217, "{idle:?}");
        in_flight(&rig, 3, 1);
        assert_eq!(counts(&rig, 10_000).get(3), None, "the others are idle");
    }

    #[test]
    fn what_is_not_known_may_be_configured() {
        let config = Config {
            default_latency: Some(Duration::from_millis(20)),
            ..Config::default()
        };
        let rig = rig_of(config, &[1, 1]);
        took(&rig, 0, 10);
        assert_eq!(counts(&rig, 100), [100]);
        took(&rig, 0, 30);
        assert_eq!(counts(&rig, 100), [0, 100]);
    }

    #[test]
    fn an_endpoint_that_was_slow_is_tried_again() {
        let mut rig = rig(2);
        took(&rig, 0, 10);
        took(&rig, 1, 500);
        rig.advance(Duration::from_secs(60));
        took(&rig, 0, 10);
        let counts = counts(&rig, 1000);
        assert!(counts[1] > 300, "{counts:?}");
    }

    #[test]
    fn one_that_fails_fast_draws_no_calls() {
        let mut rig = rig(2);
        for _ in 0..20 {
            rig.advance(Duration::from_millis(50));
            took(&rig, 0, 10);
            let load = rig.load(SubchannelId(1));
            load.troubled(rig.now, Duration::from_millis(1), None);
        }
        assert_eq!(counts(&rig, 1000), [1000]);
    }

    #[test]
    fn weights_are_honoured() {
        let rig = rig_of(Config::default(), &[1, 3]);
        // Drawn by weight and then as costly as each other: two of them are always two.
        in_flight(&rig, 0, 2);
        in_flight(&rig, 1, 4);
        assert_eq!(counts(&rig, 1000), [0, 1000], "4 of 3 is less than 2 of 1");
        in_flight(&rig, 1, 8);
        assert_eq!(counts(&rig, 1000), [1000]);
    }

    #[test]
    fn one_endpoint_needs_no_choice() {
        assert_eq!(counts(&rig(1), 10), [10]);
    }
}
