//! The suite that every policy passes, and the rig in which policies are tested.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use sidestep_proto::resource::{LbPolicy, Locality};

use super::{
    Action, Actions, BUILTIN, Call, Connectivity, Endpoint, Failure, Load, LoadBalancer, Pick,
    Picker, Queueing, SubchannelId, build,
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

    pub(super) fn endpoint(&self, id: u32) -> Endpoint {
        self.endpoint_in(id, "a", 1, 0)
    }

    pub(super) fn endpoint_in(&self, id: u32, zone: &str, weight: u32, priority: u32) -> Endpoint {
        Endpoint {
            id: SubchannelId(id),
            weight: 1,
            locality: Arc::new(Locality {
                zone: zone.into(),
                ..Locality::default()
            }),
            locality_weight: weight,
            priority,
            load: Arc::clone(self.load(SubchannelId(id))),
            hash_key: format!("10.0.0.{id}:443").into(),
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
                Action::Publish(state, picker) => {
                    self.published = Some((state, picker));
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
        for turn in 0.. {
            let Some(at) = self.next_timeout().filter(|at| *at <= end) else {
                break;
            };
            assert!(turn < 1_000, "the same timeout comes again and again");
            self.now = self.now.max(at);
            self.run(|p, now, out| p.handle_timeout(now, out));
        }
        self.now = end;
    }

    pub(super) fn state(&self) -> Connectivity {
        let published = self.published.as_ref();
        published.expect("nothing was published").0.clone()
    }

    pub(super) fn pick(&self, random: u64) -> Pick<'_> {
        let published = self.published.as_ref();
        pick(&*published.expect("nothing was published").1, random)
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

const POLICIES: [LbPolicy; 7] = [
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
];

/// Each policy on its own and as the whole balancer of a cluster.
fn rigs(seed: u64) -> impl Iterator<Item = (String, Rig)> {
    POLICIES.iter().flat_map(move |policy| {
        let alone = BUILTIN.iter().find_map(|f| f.build(policy, seed)).unwrap();
        let name = format!("{policy:?}");
        let whole = format!("{name} in priority and locality");
        [
            (name, Rig::new(alone)),
            (whole, Rig::new(build(policy, seed))),
        ]
    })
}

#[test]
fn each_policy_has_one_factory() {
    for policy in POLICIES {
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

/// Connections as `control` would have them.
struct World {
    /// Whether the policy connects to everything at once.
    eager: bool,
    /// Whether each call wants an endpoint of its own, ready or not.
    hashed: bool,
    rng: fastrand::Rng,
    states: BTreeMap<SubchannelId, Connectivity>,
    asked: BTreeSet<SubchannelId>,
    seen: (usize, usize),
}

impl World {
    fn ready(&self, id: SubchannelId) -> bool {
        self.states.get(&id) == Some(&Connectivity::Ready)
    }

    /// Carries out what the policy asked for since the last time.
    fn obey(&mut self, rig: &Rig) {
        for id in &rig.connects[self.seen.0..] {
            if !self.ready(*id) {
                self.asked.insert(*id);
            }
        }
        for id in &rig.closes[self.seen.1..] {
            self.asked.remove(id);
            if let Some(state) = self.states.get_mut(id) {
                *state = Connectivity::Idle;
            }
        }
        self.seen = (rig.connects.len(), rig.closes.len());
    }

    fn random_update(&mut self, rig: &mut Rig, priorities: u32) {
        let mut endpoints = Vec::new();
        for id in 0..8 {
            if self.rng.u8(..3) > 0 {
                let zone = self.rng.choice(["a", "b"]).unwrap();
                let priority = self.rng.u32(0..priorities);
                endpoints.push(rig.endpoint_in(id, zone, 1 + u32::from(zone == "b"), priority));
            }
        }
        if self.rng.u8(..10) == 0 {
            endpoints.clear();
        }
        let mut old = std::mem::take(&mut self.states);
        for endpoint in &endpoints {
            let state = old.remove(&endpoint.id).unwrap_or(Connectivity::Idle);
            self.states.insert(endpoint.id, state);
        }
        self.asked.retain(|id| self.states.contains_key(id));
        rig.update(&endpoints);
    }

    fn random_change(&mut self, rig: &mut Rig) {
        let ids: Vec<_> = self.states.keys().copied().collect();
        let Some(id) = self.rng.choice(ids) else {
            return;
        };
        let next = if self.ready(id) {
            self.asked.remove(&id);
            match self.rng.u8(..3) {
                0 => Connectivity::TransientFailure(Failure::new(
                    sidestep_proto::code::CANNOT_CONNECT,
                    "lost",
                )),
                _ => Connectivity::Idle,
            }
        } else if self.states[&id] == Connectivity::Connecting {
            self.asked.remove(&id);
            match self.rng.u8(..2) {
                0 => Connectivity::TransientFailure(Failure::new(
                    sidestep_proto::code::CANNOT_CONNECT,
                    "refused",
                )),
                _ => Connectivity::Ready,
            }
        } else if self.asked.contains(&id) {
            Connectivity::Connecting
        } else {
            return;
        };
        self.states.insert(id, next.clone());
        rig.set(id, next);
    }

    fn step(&mut self, rig: &mut Rig, priorities: u32) {
        match self.rng.u8(..12) {
            0 => self.random_update(rig, priorities),
            1 => rig.advance(Duration::from_millis(self.rng.u64(..20_000))),
            2 => rig.advance(Duration::from_secs(self.rng.u64(..1_000))),
            _ => self.random_change(rig),
        }
        self.obey(rig);
        if let Pick::Connect(id) = rig.pick(self.rng.u64(..)) {
            assert!(self.states.contains_key(&id), "asks for a stranger");
            rig.connect_requested(id);
            self.obey(rig);
        }
    }

    /// What must hold after every event.
    fn check(&mut self, rig: &Rig, priorities: u32) {
        let any_ready = self.states.values().any(|s| *s == Connectivity::Ready);
        for _ in 0..4 {
            let pick = rig.pick(self.rng.u64(..));
            let fits = match (rig.state(), pick) {
                (_, Pick::Connect(id)) if self.hashed => !self.ready(id),
                (_, Pick::Queue) if self.hashed => !self.states.is_empty(),
                (Connectivity::Ready, Pick::Ready(id)) => self.ready(id),
                (Connectivity::Idle, Pick::Connect(id)) => !self.ready(id),
                (Connectivity::Connecting, Pick::Queue) => !self.states.is_empty(),
                (Connectivity::TransientFailure(a), Pick::Fail(b)) => a == *b,
                _ => false,
            };
            assert!(fits, "{:?} {pick:?} {:?}", rig.state(), self.states);
            // A lower priority may have to wait for the failover timer.
            if priorities == 1 {
                let picks_ready = matches!(pick, Pick::Ready(_));
                let waits = matches!(pick, Pick::Queue | Pick::Connect(_));
                assert!(
                    picks_ready == any_ready || (self.hashed && waits),
                    "{pick:?} {:?}",
                    self.states
                );
            }
        }
        // One that connects on demand may be idle, or wait in a new pass for an old backoff.
        let failed = |s: &Connectivity| matches!(s, Connectivity::TransientFailure(_));
        if self.eager && priorities == 1 && self.states.values().all(failed) {
            assert!(failed(&rig.state()), "{:?}", self.states);
        }
    }
}

#[test]
fn random_events_never_lead_to_an_endpoint_that_is_not_ready() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    for priorities in [1, 3] {
        for (name, mut rig) in rigs(seed) {
            if priorities > 1 && !name.contains("priority") {
                continue;
            }
            println!("{name}, {priorities} priorities");
            let mut world = World {
                eager: !name.starts_with("PickFirst"),
                hashed: name.starts_with("RingHash") || name.starts_with("Maglev"),
                rng: fastrand::Rng::with_seed(seed),
                states: BTreeMap::new(),
                asked: BTreeSet::new(),
                seen: (0, 0),
            };
            world.random_update(&mut rig, priorities);
            for _ in 0..5_000 {
                world.obey(&rig);
                world.check(&rig, priorities);
                world.step(&mut rig, priorities);
            }
        }
    }
}

#[test]
fn a_queueing_picker_queues() {
    assert_eq!(pick(&Queueing, 0), Pick::Queue);
}
