//! Endpoints in turn, by weights made of what they report about themselves (gRFC A58, A114; xDS
//! `client_side_weighted_round_robin`).
//!
//! A weight is how many calls an endpoint answers per unit of its utilization, so that turns in
//! proportion bring all of them to the same utilization. Reports arrive in the endpoints' `Load`;
//! a timer takes new weights into use. An endpoint whose report does not count (yet, or any more)
//! has the average of the others, in proportion to its weight from the control plane; where fewer
//! than two endpoints report, this is round robin. Connects to every endpoint at once.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use sidestep_proto::resource::{LbPolicy, WeightedRoundRobin as Config};

use super::endpoints::Endpoints;
use super::round_robin::Turns;
use super::weights;
use super::{
    Action, Actions, Connectivity, Endpoint, Failure, LoadBalancer, LoadBalancerFactory, Picker,
    Recipe, Standing, SubchannelId,
};

/// Makes [`WeightedRoundRobin`]s.
#[derive(Debug)]
pub(super) struct Factory;

impl LoadBalancerFactory for Factory {
    fn name(&self) -> &'static str {
        "weighted_round_robin"
    }

    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>> {
        let LbPolicy::WeightedRoundRobin(config) = policy else {
            return None;
        };
        Some(Box::new(WeightedRoundRobin {
            endpoints: Endpoints::default(),
            config: config.clone(),
            recipe: None,
            turn: Arc::new(AtomicU32::new(fastrand::Rng::with_seed(seed).u32(..))),
            now: None,
            next: None,
            in_use: Vec::new(),
        }))
    }
}

/// The policy.
#[derive(Debug)]
struct WeightedRoundRobin {
    endpoints: Endpoints,
    config: Config,
    /// From the first update on, where its time begins.
    recipe: Option<Arc<Recipe>>,
    /// Goes on from picker to picker: most of them differ by nothing but weights.
    turn: Arc<AtomicU32>,
    /// The last step's.
    now: Option<Instant>,
    /// When weights are looked at next; while there is an endpoint to send calls to.
    next: Option<Instant>,
    /// The weights of the picker that was made last.
    in_use: Vec<u32>,
}

impl WeightedRoundRobin {
    fn watch(&mut self, now: Instant, endpoints: &[Endpoint]) {
        let config = &self.config;
        let recipe = self.recipe.get_or_insert_with(|| {
            let penalty = config.error_penalty.get();
            Arc::new(Recipe::new(now, penalty, config.metrics.as_slice().into()))
        });
        for endpoint in endpoints {
            let per_call = config.out_of_band.is_none();
            endpoint.load.watch_reports(recipe, per_call);
            if let Some(period) = config.out_of_band {
                endpoint.load.ask_reports(period);
            }
        }
    }

    fn reported(&self, endpoint: &Endpoint) -> Option<f64> {
        let Config {
            blackout,
            expiration,
            ..
        } = self.config;
        let weight = endpoint.load.weight(self.now?, blackout, expiration);
        weight.map(f64::from)
    }

    /// Of the endpoints that calls can be sent to, in their order.
    fn weights(&self) -> Vec<u32> {
        let ready = self.endpoints.ready();
        let reported: Vec<_> = ready.clone().map(|e| self.reported(e)).collect();
        let known = reported.iter().flatten().count();
        if known < 2 {
            return weights::configured(ready);
        }
        let average = reported.iter().flatten().sum::<f64>() / known as f64;
        let configured: f64 = ready.clone().map(|e| f64::from(e.weight)).sum();
        let configured = configured / reported.len() as f64;
        let weights = ready.zip(&reported).map(|(endpoint, reported)| {
            let unknown = || average * f64::from(endpoint.weight) / configured;
            reported.unwrap_or_else(unknown) * endpoint.load.share()
        });
        weights::scaled(weights.collect())
    }

    /// Has weights looked at again, while there are any.
    fn schedule(&mut self, now: Instant) {
        let ready = self.endpoints.connectivity() == Connectivity::Ready;
        self.next = ready.then(|| self.next.unwrap_or(now + self.config.update_period));
    }
}

impl LoadBalancer for WeightedRoundRobin {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        self.now = Some(now);
        self.watch(now, endpoints);
        if self.endpoints.update(endpoints, error, out) {
            out.push(Action::Changed);
        }
        self.schedule(now);
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        self.now = Some(now);
        if self.endpoints.changed(id, state, out) {
            if *state == Connectivity::Ready
                && let Some(endpoint) = self.endpoints.get(id)
            {
                endpoint.load.restart_blackout();
            }
            out.push(Action::Changed);
        }
        self.schedule(now);
    }

    fn connect_requested(&mut self, _now: Instant, id: SubchannelId, out: &mut Actions) {
        self.endpoints.connect_requested(id, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.next
    }

    fn handle_timeout(&mut self, now: Instant, out: &mut Actions) {
        if self.next.is_none_or(|at| now < at) {
            return;
        }
        self.now = Some(now);
        self.next = None;
        self.schedule(now);
        if self.next.is_some() && self.weights() != self.in_use {
            out.push(Action::Changed);
        }
    }

    fn connectivity(&self) -> Connectivity {
        self.endpoints.connectivity()
    }

    fn standing(&self, id: SubchannelId) -> Standing {
        Standing {
            weight: self.endpoints.get(id).and_then(|e| self.reported(e)),
            ..Standing::default()
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        self.in_use = self.weights();
        let (weights, turn) = (&self.in_use, &self.turn);
        self.endpoints
            .picker(|endpoints| Arc::new(Turns::new(endpoints, weights, Arc::clone(turn))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;
    use sidestep_proto::resource::Finite;
    use sidestep_proto::wire::orca::OrcaLoadReport;

    use super::super::conformance::{Rig, counts};
    use super::super::{Interest, Pick};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rig(config: Config, weights: &[u32]) -> Rig {
        let policy = LbPolicy::WeightedRoundRobin(config);
        let mut rig = Rig::new(Factory.build(&policy, 1).unwrap());
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

    fn report(rig: &Rig, id: u32, rate: f64, utilization: f64) {
        let report = OrcaLoadReport {
            rps_fractional: rate,
            cpu_utilization: utilization,
            ..OrcaLoadReport::default()
        };
        rig.load(SubchannelId(id))
            .reported(rig.now, &report.encode_to_vec());
    }

    #[track_caller]
    fn shares(rig: &Rig, expected: &[f64]) {
        let sum: f64 = expected.iter().sum();
        let counts = counts(rig, 10_000);
        assert_eq!(counts.len(), expected.len());
        for (count, expected) in counts.iter().zip(expected) {
            let expected = 10_000.0 * expected / sum;
            assert!((*count as f64 - expected).abs() <= 4.0, "{counts:?}");
        }
    }

    /// Pearson's χ² of 100,000 calls against the weights; with three degrees of freedom, one in a
    /// million samples of a fair die is above 30.7. Turns are much more even than dice.
    #[test]
    fn calls_spread_by_rates_and_utilizations() {
        let mut rig = rig(Config::default(), &[1; 4]);
        let reports = [(100.0, 0.5), (100.0, 0.25), (300.0, 0.5), (50.0, 0.125)];
        for second in 0..12 {
            for (id, (rate, utilization)) in reports.iter().enumerate() {
                report(&rig, id as u32, *rate, *utilization);
            }
            rig.advance(SECOND);
            if second < 8 {
                shares(&rig, &[1.0; 4]);
            }
        }
        let weights = reports.map(|(rate, utilization)| rate / utilization);
        let sum: f64 = weights.iter().sum();
        let counts = counts(&rig, 100_000);
        let chi2: f64 = counts
            .iter()
            .zip(weights)
            .map(|(count, weight)| {
                let expected = 100_000.0 * weight / sum;
                (*count as f64 - expected).powi(2) / expected
            })
            .sum();
        assert!(chi2 < 30.7, "{chi2}: {counts:?}");
        let standing = rig.standing(SubchannelId(1));
        assert_eq!(standing.weight, Some(400.0));
    }

    fn at_once() -> Config {
        Config {
            blackout: Duration::ZERO,
            ..Config::default()
        }
    }

    #[test]
    fn who_does_not_report_has_the_average_by_its_configured_weight() {
        let mut rig = rig(at_once(), &[1, 1, 1, 5]);
        report(&rig, 0, 100.0, 0.5);
        report(&rig, 1, 400.0, 0.5);
        rig.advance(SECOND);
        // Average 500; the mean configured weight is 2.
        shares(&rig, &[200.0, 800.0, 250.0, 1250.0]);
    }

    #[test]
    fn one_report_is_none() {
        let mut rig = rig(at_once(), &[1, 3]);
        report(&rig, 0, 100.0, 0.5);
        rig.advance(SECOND);
        shares(&rig, &[1.0, 3.0]);
    }

    #[test]
    fn weights_expire_and_begin_again_with_a_blackout() {
        let mut rig = rig(Config::default(), &[1, 1]);
        let both = |rig: &Rig| {
            report(rig, 0, 100.0, 0.5);
            report(rig, 1, 300.0, 0.5);
        };
        both(&rig);
        rig.advance(9 * SECOND);
        shares(&rig, &[1.0, 1.0]);
        rig.advance(2 * SECOND);
        shares(&rig, &[1.0, 3.0]);
        rig.advance(170 * SECOND);
        shares(&rig, &[1.0, 1.0]);
        both(&rig);
        rig.advance(5 * SECOND);
        shares(&rig, &[1.0, 1.0]);
        rig.advance(6 * SECOND);
        shares(&rig, &[1.0, 3.0]);
    }

    #[test]
    fn a_reconnect_begins_with_a_blackout() {
        let mut rig = rig(Config::default(), &[1, 1]);
        for id in [0, 1] {
            report(&rig, id, 100.0 + 200.0 * f64::from(id), 0.5);
        }
        rig.advance(12 * SECOND);
        shares(&rig, &[1.0, 3.0]);
        rig.set(SubchannelId(1), Connectivity::Idle);
        rig.set(SubchannelId(1), Connectivity::Ready);
        report(&rig, 0, 100.0, 0.5);
        report(&rig, 1, 300.0, 0.5);
        rig.advance(5 * SECOND);
        shares(&rig, &[1.0, 1.0]);
        rig.advance(6 * SECOND);
        shares(&rig, &[1.0, 3.0]);
    }

    #[test]
    fn new_weights_come_by_the_update_period_and_only_if_they_differ() {
        let config = Config {
            update_period: 3 * SECOND,
            ..at_once()
        };
        let mut rig = rig(config, &[1, 1]);
        let before = rig.publishes;
        rig.advance(30 * SECOND);
        assert_eq!(rig.publishes, before, "nothing changed");
        for id in [0, 1] {
            report(&rig, id, 100.0 + 200.0 * f64::from(id), 0.5);
        }
        rig.advance(2 * SECOND);
        shares(&rig, &[1.0, 1.0]);
        rig.advance(SECOND);
        shares(&rig, &[1.0, 3.0]);
        assert_eq!(rig.publishes, before + 1);
    }

    #[test]
    fn without_an_endpoint_there_is_no_timer() {
        let mut rig = rig(Config::default(), &[1]);
        assert!(rig.next_timeout().is_some());
        rig.set(SubchannelId(0), Connectivity::Idle);
        assert_eq!(rig.next_timeout(), None);
    }

    #[test]
    fn endpoints_are_watched_as_configured() {
        let mut rig = rig(Config::default(), &[1]);
        let load = Arc::clone(rig.load(SubchannelId(0)));
        assert_eq!(load.interest(), Interest::REPORTS);
        assert_eq!(load.report_period(), None);
        load.forget();
        let config = Config {
            out_of_band: Some(3 * SECOND),
            ..Config::default()
        };
        rig = self::rig(config, &[1]);
        let load = rig.load(SubchannelId(0));
        assert_eq!(
            load.interest(),
            Interest::NONE,
            "what calls bring is not read"
        );
        assert_eq!(load.report_period(), Some(3 * SECOND));
    }

    #[test]
    fn errors_weigh_by_the_penalty() {
        let config = Config {
            error_penalty: Finite::new(3.0).unwrap(),
            ..at_once()
        };
        let mut rig = rig(config, &[1, 1]);
        for (id, eps) in [(0, 0.0), (1, 50.0)] {
            let report = OrcaLoadReport {
                rps_fractional: 100.0,
                cpu_utilization: 0.5,
                eps,
                ..OrcaLoadReport::default()
            };
            rig.load(SubchannelId(id))
                .reported(rig.now, &report.encode_to_vec());
        }
        rig.advance(SECOND);
        shares(&rig, &[4.0, 1.0]);
    }

    #[test]
    fn turns_go_on_over_new_weights() {
        let mut rig = rig(at_once(), &[1; 3]);
        let mut first = Vec::new();
        for round in 0..3 {
            let Pick::Ready(id) = rig.pick(0) else {
                panic!();
            };
            first.push(id);
            // The weights stay equal, and a new picker comes all the same.
            for id in 0..3 {
                report(&rig, id, 100.0 + f64::from(round), 0.5);
            }
            rig.advance(SECOND);
            rig.set(SubchannelId(7), Connectivity::Ready);
        }
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 3, "each had its turn: {first:?}");
    }
}
