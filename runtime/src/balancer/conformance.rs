//! The suite that every policy passes, and the rig in which policies are tested.

mod sequences;
mod spread;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use sidestep_proto::resource::{
    self, FailurePercentage, FailureRun, LbPolicy, Locality, OutlierDetection, PeakEwma,
    RegisteredPolicy, SlowStart, SubsetFallback, SubsetSelector, Subsets, SuccessRate,
    WeightedRoundRobin, ZoneAware,
};

use super::constant::Always;
use super::{
    Action, Actions, BUILTIN, Call, Connectivity, CustomPolicy, Endpoint, Failure, Load,
    LoadBalancer, Pick, Picker, Queueing, Standing, SubchannelId, build, endpoint_balancer,
    over_ready, register,
};

/// A policy, with everything that it said.
pub(super) struct Rig {
    policy: Box<dyn LoadBalancer>,
    pub(super) now: Instant,
    loads: Vec<Arc<Load>>,
    published: Option<(Connectivity, Arc<dyn Picker>)>,
    pub(super) publishes: usize,
    pub(super) connects: Vec<SubchannelId>,
    pub(super) closes: Vec<SubchannelId>,
}

impl Rig {
    pub(super) fn new(policy: Box<dyn LoadBalancer>) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to make one"
        )]
        let now = Instant::now();
        Self {
            policy,
            now,
            loads: (0..64).map(|_| Arc::default()).collect(),
            published: None,
            publishes: 0,
            connects: Vec::new(),
            closes: Vec::new(),
        }
    }

    /// With a policy around the one that is there.
    pub(super) fn around(
        self,
        make: impl FnOnce(Box<dyn LoadBalancer>, Instant) -> Box<dyn LoadBalancer>,
    ) -> Self {
        Self {
            policy: make(self.policy, self.now),
            ..self
        }
    }

    pub(super) fn endpoint(&self, id: u32) -> Endpoint {
        self.endpoint_in(id, "a", 1, 0)
    }

    pub(super) fn endpoint_in(&self, id: u32, zone: &str, weight: u32, priority: u32) -> Endpoint {
        Endpoint {
            locality: Arc::new(Locality {
                zone: zone.into(),
                ..Locality::default()
            }),
            locality_weight: weight,
            own_zone: zone == "a",
            priority,
            load: Arc::clone(self.load(SubchannelId(id))),
            ..Endpoint::new(SubchannelId(id), format!("10.0.0.{id}:443"))
        }
    }

    pub(super) fn load(&self, id: SubchannelId) -> &Arc<Load> {
        &self.loads[id.0 as usize]
    }

    fn run(&mut self, step: impl FnOnce(&mut dyn LoadBalancer, Instant, &mut Actions)) {
        let mut actions = Actions::new();
        step(&mut *self.policy, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Connect(id) => self.connects.push(id),
                Action::Close(id) => self.closes.push(id),
                Action::Changed => {
                    self.published = Some((self.policy.connectivity(), self.policy.picker()));
                    self.publishes += 1;
                }
            }
        }
    }

    pub(super) fn update(&mut self, endpoints: &[Endpoint]) {
        self.run(|p, now, out| p.update(now, endpoints, None, out));
    }

    pub(super) fn update_failed(&mut self, error: &str) {
        let error = Failure::new(sidestep_proto::code::CANNOT_CONNECT, error);
        self.run(|p, now, out| p.update(now, &[], Some(&error), out));
    }

    pub(super) fn set(&mut self, id: SubchannelId, state: Connectivity) {
        self.run(|p, now, out| p.subchannel_changed(now, id, &state, out));
    }

    pub(super) fn fail(&mut self, id: SubchannelId, text: &str) {
        self.set(
            id,
            Connectivity::TransientFailure(Failure::new(
                sidestep_proto::code::CANNOT_CONNECT,
                text,
            )),
        );
    }

    pub(super) fn connect_requested(&mut self, id: SubchannelId) {
        self.run(|p, now, out| p.connect_requested(now, id, out));
    }

    /// A call comes, which one that connects on demand waits for.
    fn call(&mut self, random: u64) {
        if let Pick::Connect(id) = self.pick(random) {
            self.connect_requested(id);
        }
    }

    /// Whether a call waits, perhaps for what it has asked for.
    fn waits(&self, random: u64) -> bool {
        matches!(self.pick(random), Pick::Queue | Pick::Connect(_))
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.policy.next_timeout()
    }

    pub(super) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        let mut turns = 0;
        while let Some(at) = self.next_timeout().filter(|at| *at <= end) {
            // Policies inside of others may be due one after the other.
            turns = if at > self.now { 0 } else { turns + 1 };
            assert!(turns < 100, "the same timeout comes again and again");
            self.now = self.now.max(at);
            self.run(|p, now, out| p.handle_timeout(now, out));
        }
        self.now = end;
    }

    pub(super) fn state(&self) -> Connectivity {
        let published = self.published.as_ref();
        published.expect("nothing was published").0.clone()
    }

    pub(super) fn standing(&self, id: SubchannelId) -> Standing {
        self.policy.standing(id)
    }

    pub(super) fn picker(&self) -> &dyn Picker {
        let published = self.published.as_ref();
        &*published.expect("nothing was published").1
    }

    pub(super) fn pick(&self, random: u64) -> Pick<'_> {
        pick(self.picker(), random)
    }
}

/// One pick of a call without metadata.
pub(super) fn pick(picker: &dyn Picker, random: u64) -> Pick<'_> {
    let call = Call {
        authority: "a",
        path: "/a.A/M",
        headers: &HeaderMap::new(),
        random,
        hash: random,
        session: None,
        subset: None,
    };
    picker.pick(&call)
}

/// How many of `calls` calls each endpoint gets, by id.
pub(super) fn counts(rig: &Rig, calls: u64) -> Vec<usize> {
    let mut counts = Vec::new();
    for random in 0..calls {
        let Pick::Ready(SubchannelId(id)) = rig.pick(random) else {
            panic!("{:?}", rig.pick(random));
        };
        let index = id as usize;
        counts.resize(counts.len().max(index + 1), 0);
        counts[index] += 1;
    }
    counts
}

/// A program's own policy: the first endpoint that is ready.
#[derive(Debug)]
pub(super) struct First;

impl CustomPolicy for First {
    fn name(&self) -> &str {
        "org.First"
    }

    fn build(&self, config: &str, _: u64) -> Result<Box<dyn LoadBalancer>, String> {
        match config {
            "{}" => Ok(over_ready(|ready| Arc::new(Always(ready[0].id)))),
            _ => Err("there is nothing to configure".to_owned()),
        }
    }
}

/// The policy as a cluster would ask for it.
pub(super) fn custom(registered: &Arc<dyn RegisteredPolicy>, config: &str) -> LbPolicy {
    LbPolicy::Custom(resource::CustomPolicy {
        name: registered.name().to_owned(),
        config: config.to_owned(),
        registered: Some(registered.clone()),
    })
}

fn policies() -> Vec<LbPolicy> {
    let slow_start = SlowStart::over(Duration::from_secs(30));
    let leaves = [
        LbPolicy::RoundRobin,
        LbPolicy::LeastRequest { choice_count: 3 },
        LbPolicy::PickFirst { shuffle: false },
        LbPolicy::PickFirst { shuffle: true },
        LbPolicy::Random,
        LbPolicy::RingHash {
            min_ring_size: 64,
            max_ring_size: 4096,
        },
        LbPolicy::Maglev { table_size: 251 },
        LbPolicy::WeightedRoundRobin(WeightedRoundRobin::default()),
        LbPolicy::PeakEwma(PeakEwma::default()),
        LbPolicy::RoundRobin.with_slow_start(Some(slow_start.clone())),
        LbPolicy::LeastRequest { choice_count: 2 }.with_slow_start(Some(slow_start)),
        custom(&register(First), "{}"),
    ];
    let localities = leaves.clone().map(LbPolicy::by_locality);
    // Greater than any set here: who is left out is not used, which is another suite's business.
    let subsets = leaves.clone().map(|leaf| LbPolicy::RandomSubset {
        size: 100,
        child: Box::new(leaf.by_locality()),
    });
    // The choice of a zone is the same whatever is inside.
    let zones = leaves.clone().into_iter().step_by(2);
    let zones = zones.map(|leaf| LbPolicy::ZoneAware(Box::new(ZoneAware::new(leaf))));
    // Calls ask for nothing here, so all endpoints are theirs. A policy that connects on demand may
    // be idle in one subset while calls to another one fail: the suite knows no such state.
    let on_demand = |leaf: &LbPolicy| matches!(leaf, LbPolicy::PickFirst { .. });
    let by_labels = leaves.clone().into_iter().step_by(3);
    let by_labels = by_labels.filter(|leaf| !on_demand(leaf)).map(|leaf| {
        let selectors = vec![SubsetSelector::by(&["parity"])];
        LbPolicy::Subsets(Box::new(Subsets {
            fallback: SubsetFallback::Any,
            ..Subsets::new(leaf.by_locality(), selectors)
        }))
    });
    let composed = localities.into_iter().chain(subsets);
    let composed = composed.chain(zones).chain(by_labels);
    leaves.into_iter().chain(composed).collect()
}

/// The whole of a cluster with every rule of outlier detection.
fn watched(policy: &LbPolicy, seed: u64) -> Rig {
    let rule = FailureRun {
        count: 5,
        enforcing: 100,
    };
    let config = OutlierDetection {
        success_rate: Some(SuccessRate::default()),
        failure_percentage: Some(FailurePercentage::default()),
        consecutive_failures: Some(rule),
        ..OutlierDetection::default()
    };
    let rig = Rig::new(build(policy, seed));
    rig.around(|policy, now| {
        let mut policy = super::OutlierDetection::new(policy, now, seed);
        policy.configure(now, Some(&config), &mut Actions::new());
        Box::new(policy)
    })
}

/// Each policy on its own and as the whole balancer of a cluster.
fn rigs(seed: u64) -> impl Iterator<Item = (String, Rig)> {
    policies().into_iter().flat_map(move |policy| {
        let name = format!("{policy:?}");
        let within = format!("{name} in priority in outlier_detection");
        let within = (within, watched(&policy, seed));
        let whole = format!("{name} in priority");
        let whole = (whole, Rig::new(build(&policy, seed)));
        // Who has moved to another locality is told by the priority policy.
        let words = format!("{policy:?}");
        let alone = !words.contains("WrrLocality") && !words.contains("ZoneAware");
        let alone = alone.then(|| (name, Rig::new(endpoint_balancer(&policy, seed))));
        alone.into_iter().chain([whole, within])
    })
}

#[test]
fn each_policy_has_one_factory() {
    for policy in policies() {
        let makers = BUILTIN.iter().filter(|f| f.build(&policy, 0).is_some());
        let names: Vec<_> = makers.map(|f| f.name()).collect();
        assert_eq!(names.len(), 1, "{policy:?}: {names:?}");
    }
}

#[test]
fn an_empty_set_fails_calls_and_says_why() {
    for (name, mut rig) in rigs(1) {
        rig.update(&[]);
        let Pick::Fail(Failure(text, _)) = rig.pick(0) else {
            panic!("{name}");
        };
        assert_eq!(&**text, "the cluster has no usable endpoint", "{name}");
        rig.update_failed("EDS resource \"x\" does not exist");
        let expected = Failure::new(
            sidestep_proto::code::CANNOT_CONNECT,
            "EDS resource \"x\" does not exist",
        );
        assert_eq!(rig.pick(0), Pick::Fail(&expected), "{name}");
        assert_eq!(
            rig.state(),
            Connectivity::TransientFailure(expected),
            "{name}"
        );
    }
}

#[test]
fn one_endpoint_is_connected_and_used() {
    for (name, mut rig) in rigs(1) {
        let endpoint = rig.endpoint(5);
        rig.update(&[endpoint]);
        rig.call(0);
        assert_eq!(rig.connects, [SubchannelId(5)], "{name}");
        assert!(rig.waits(0), "{name}");
        rig.set(SubchannelId(5), Connectivity::Connecting);
        assert_eq!(rig.pick(0), Pick::Queue, "{name}");
        rig.set(SubchannelId(5), Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(SubchannelId(5)), "{name}");
        assert_eq!(rig.state(), Connectivity::Ready, "{name}");
    }
}

#[test]
fn all_failing_says_so_and_keeps_trying() {
    for (name, mut rig) in rigs(1) {
        let endpoints = [0, 1, 2].map(|id| rig.endpoint(id));
        rig.update(&endpoints);
        rig.call(0);
        // Whatever is asked for fails; a policy that tries in order asks for the next one then.
        let mut failed = BTreeSet::new();
        for _ in 0..3 {
            let mut asked = rig.connects.iter().copied();
            let Some(id) = asked.find(|id| !failed.contains(id)) else {
                panic!("{name}: only {failed:?} were tried");
            };
            rig.fail(id, "connection refused");
            failed.insert(id);
        }
        let Pick::Fail(Failure(text, _)) = rig.pick(0) else {
            panic!("{name}: {:?}", rig.pick(0));
        };
        assert!(text.contains("3 endpoints"), "{name}: {text}");
        assert!(text.contains("connection refused"), "{name}: {text}");
        for endpoint in &endpoints {
            let asked = rig.connects.iter().filter(|c| **c == endpoint.id).count();
            assert_eq!(asked, 2, "{name}: {endpoint:?}");
        }
        rig.set(SubchannelId(1), Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(SubchannelId(1)), "{name}");
    }
}

#[test]
fn a_removed_endpoint_is_never_picked_again() {
    for (name, mut rig) in rigs(1) {
        let endpoints = [0, 1].map(|id| rig.endpoint(id));
        rig.update(&endpoints);
        rig.call(0);
        let Some(first) = rig.connects.first().copied() else {
            panic!("{name}");
        };
        rig.set(first, Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(first), "{name}");
        let rest: Vec<_> = endpoints.into_iter().filter(|e| e.id != first).collect();
        rig.update(&rest);
        assert!(rig.waits(0), "{name}");
        // Late news of it are ignored.
        rig.set(first, Connectivity::Ready);
        assert!(rig.waits(0), "{name}");
        rig.set(rest[0].id, Connectivity::Ready);
        assert_eq!(rig.pick(0), Pick::Ready(rest[0].id), "{name}");
    }
}

#[test]
fn an_equal_update_does_nothing() {
    for (name, mut rig) in rigs(1) {
        let endpoints = [0, 1].map(|id| rig.endpoint(id));
        rig.update(&endpoints);
        rig.call(0);
        let first = rig.connects[0];
        rig.set(first, Connectivity::Ready);
        let before = (rig.publishes, rig.connects.len(), rig.closes.len());
        rig.update(&endpoints);
        let after = (rig.publishes, rig.connects.len(), rig.closes.len());
        assert_eq!(before, after, "{name}");
    }
}

#[test]
fn a_queueing_picker_queues() {
    assert_eq!(pick(&Queueing, 0), Pick::Queue);
}
