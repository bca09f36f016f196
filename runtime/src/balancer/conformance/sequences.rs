//! Every policy under random sequences of updates and connection events; a sequence that breaks a
//! rule is shrunk to its shortest form, which becomes a test here ([`breaks_no_rule`]).
//!
//! The rules, after every event:
//! - what calls were given is of the policy's state, and its state is what was last published;
//! - a call is sent only to an endpoint that is there and ready, of the first priority that has one;
//! - where the first priority has one that is ready, a call is sent;
//! - a failing state says why; where every endpoint has failed, calls fail;
//! - an update that says nothing new does nothing; timers come to rest.
//!
//! And at the end: once the network is well, everything that the policy wants is connected again;
//! once it is down, calls fail with the last connection's error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};
use sidestep_proto::code;
use sidestep_proto::resource::LbPolicy;

use super::super::{
    Action, Actions, Connectivity, Endpoint, Failing, Failure, LoadBalancer, Pick, Picker,
    Queueing, SubchannelId, endpoint_balancer,
};
use super::{Rig, rigs};

/// Sequences that each policy is put through; `PROPTEST_CASES` in the environment says another
/// number, and has new ones drawn.
const CASES: u32 = 12;
/// Events of a sequence, at most.
const EVENTS: usize = 50;
/// Endpoints that come and go.
const ENDPOINTS: u32 = 8;
/// Rounds in which connections must come to rest: a policy that tries one endpoint after the other, in each of two
/// localities of each of three priorities, needs more than twenty.
const ROUNDS: usize = 40;

/// Where an endpoint is said to be: id, zone, priority, weight.
type Place = (u32, &'static str, u32, u32);

/// What can happen to a policy.
#[derive(Debug, Clone, PartialEq)]
enum Event {
    /// The endpoints are these.
    Update(Vec<Place>),
    /// There are none, and this is why.
    Lost(&'static str),
    /// The last update comes again.
    Again,
    /// The connection of this endpoint takes its next step, for better or for worse.
    Step(u32, bool),
    /// So many milliseconds pass.
    Wait(u64),
    /// A call with this hash.
    Call(u64),
}

/// A seed of the policy's random decisions, and what happens to it.
type Story = (u64, Vec<Event>);

fn places(priorities: u32) -> impl Strategy<Value = Vec<Place>> {
    let ids = subsequence((0..ENDPOINTS).collect::<Vec<_>>(), 0..=ENDPOINTS as usize);
    let details = vec(
        (prop_oneof![Just("a"), Just("b")], 0..priorities, 1..4u32),
        ENDPOINTS as usize,
    );
    (ids.prop_shuffle(), details).prop_map(|(ids, details)| {
        let places = ids.into_iter().zip(details);
        let place = |(id, (zone, priority, weight))| (id, zone, priority, weight);
        places.map(place).collect()
    })
}

fn event(priorities: u32) -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => places(priorities).prop_map(Event::Update),
        1 => Just(Event::Lost("the resource is gone")),
        2 => Just(Event::Again),
        24 => (0..ENDPOINTS, any::<bool>()).prop_map(|(id, good)| Event::Step(id, good)),
        3 => (0..20_000u64).prop_map(Event::Wait),
        1 => (0..1_000_000u64).prop_map(Event::Wait),
        8 => any::<u64>().prop_map(Event::Call),
    ]
}

fn story(priorities: u32) -> impl Strategy<Value = Story> {
    let first = places(priorities).prop_map(Event::Update);
    let rest = vec(event(priorities), 0..EVENTS);
    (any::<u64>(), first, rest).prop_map(|(seed, first, mut events)| {
        events.insert(0, first);
        (seed, events)
    })
}

/// What a policy is like, as far as the rules differ.
#[derive(Debug, Clone, Copy)]
struct Nature {
    /// It connects to everything at once.
    eager: bool,
    /// Each call wants an endpoint of its own, ready or not.
    hashed: bool,
    /// Its state is the best of several children's, and a call goes to one of them.
    divided: bool,
}

impl Nature {
    fn of(name: &str) -> Self {
        Self {
            eager: !["PickFirst", "Subset"].iter().any(|n| name.contains(n)),
            hashed: ["RingHash", "Maglev"].iter().any(|n| name.contains(n)),
            divided: name.contains("Subsets"),
        }
    }
}

/// Connections as `control` would have them.
struct World {
    rig: Rig,
    nature: Nature,
    endpoints: Vec<Endpoint>,
    lost: Option<&'static str>,
    states: BTreeMap<SubchannelId, Connectivity>,
    asked: BTreeSet<SubchannelId>,
    /// How many of the rig's connects and closes have been carried out.
    seen: (usize, usize),
}

impl World {
    fn new(rig: Rig, nature: Nature) -> Self {
        Self {
            rig,
            nature,
            endpoints: Vec::new(),
            lost: None,
            states: BTreeMap::new(),
            asked: BTreeSet::new(),
            seen: (0, 0),
        }
    }

    fn ready(&self, id: SubchannelId) -> bool {
        self.states.get(&id) == Some(&Connectivity::Ready)
    }

    fn happens(&mut self, event: &Event) -> TestCaseResult {
        match event {
            Event::Update(places) => {
                self.endpoints = places.iter().map(|place| self.endpoint(place)).collect();
                self.lost = None;
                self.update();
            }
            Event::Lost(why) => {
                self.endpoints.clear();
                self.lost = Some(why);
                self.update();
            }
            Event::Again => self.again()?,
            Event::Step(id, good) => self.step(SubchannelId(*id), *good),
            Event::Wait(ms) => self.rig.advance(Duration::from_millis(*ms)),
            Event::Call(hash) => self.call(*hash)?,
        }
        self.obey();
        Ok(())
    }

    fn endpoint(&self, (id, zone, priority, weight): &Place) -> Endpoint {
        let locality_weight = 1 + u32::from(*zone == "b");
        // Policies that share endpoints among several see each of these twice.
        let parity = if id % 2 == 0 { "even" } else { "odd" };
        Endpoint {
            weight: *weight,
            labels: [("parity", parity)].into_iter().collect(),
            ..self.rig.endpoint_in(*id, zone, locality_weight, *priority)
        }
    }

    fn update(&mut self) {
        let mut old = std::mem::take(&mut self.states);
        for endpoint in &self.endpoints {
            let state = old.remove(&endpoint.id).unwrap_or(Connectivity::Idle);
            self.states.insert(endpoint.id, state);
        }
        self.asked.retain(|id| self.states.contains_key(id));
        self.tell();
    }

    fn tell(&mut self) {
        match self.lost {
            Some(why) => self.rig.update_failed(why),
            None => self.rig.update(&self.endpoints),
        }
    }

    fn again(&mut self) -> TestCaseResult {
        let said = |rig: &Rig| (rig.publishes, rig.connects.len(), rig.closes.len());
        let before = said(&self.rig);
        self.tell();
        prop_assert_eq!(before, said(&self.rig), "an equal update did something");
        Ok(())
    }

    /// Idle or failed, and asked for: connecting; failed and not asked for: idle after the backoff.
    /// Connecting: ready, or failed. Ready: closed by the peer, or failed (as one that is ejected).
    fn step(&mut self, id: SubchannelId, good: bool) {
        let failed = |text| {
            let failure = Failure::new(code::CANNOT_CONNECT, text);
            Connectivity::TransientFailure(failure)
        };
        let next = match self.states.get(&id) {
            None => return,
            Some(Connectivity::Ready) if good => Connectivity::Idle,
            Some(Connectivity::Ready) => failed("lost"),
            Some(Connectivity::Connecting) if good => Connectivity::Ready,
            Some(Connectivity::Connecting) => failed("refused"),
            Some(_) if self.asked.contains(&id) => Connectivity::Connecting,
            Some(Connectivity::Idle) => return,
            // Its backoff is over and nobody asks.
            Some(Connectivity::TransientFailure(_)) => Connectivity::Idle,
        };
        if next != Connectivity::Connecting {
            self.asked.remove(&id);
        }
        self.states.insert(id, next.clone());
        self.rig.set(id, next);
    }

    fn call(&mut self, hash: u64) -> TestCaseResult {
        if let Pick::Connect(id) = self.rig.pick(hash) {
            prop_assert!(self.states.contains_key(&id), "a call asks for a stranger");
            self.rig.connect_requested(id);
        }
        Ok(())
    }

    /// Carries out what the policy asked for since the last time.
    fn obey(&mut self) {
        for id in &self.rig.connects[self.seen.0..] {
            if self.states.contains_key(id) && !self.ready(*id) {
                self.asked.insert(*id);
            }
        }
        for id in &self.rig.closes[self.seen.1..] {
            self.asked.remove(id);
            if let Some(state) = self.states.get_mut(id) {
                *state = Connectivity::Idle;
            }
        }
        self.seen = (self.rig.connects.len(), self.rig.closes.len());
    }

    /// Smallest priority among the endpoints of which `wanted` is true.
    fn first_priority(&self, wanted: impl Fn(SubchannelId) -> bool) -> Option<u32> {
        let endpoints = self.endpoints.iter().filter(|e| wanted(e.id));
        endpoints.map(|e| e.priority).min()
    }

    fn check(&self) -> TestCaseResult {
        let state = self.rig.state();
        prop_assert_eq!(&state, &self.rig.policy.connectivity(), "not published");
        if let Connectivity::TransientFailure(Failure(text, _)) = &state {
            prop_assert!(!text.is_empty(), "fails without a reason");
        }
        let failed = |s: &Connectivity| matches!(s, Connectivity::TransientFailure(_));
        // One that connects on demand may be idle, or wait in a new pass for an old backoff.
        if self.nature.eager && self.states.values().all(failed) {
            prop_assert!(failed(&state), "all have failed, and it is {state:?}");
        }
        for hash in [0, 1, u64::MAX / 3, u64::MAX / 7 * 5] {
            self.check_pick(&state, self.rig.pick(hash))?;
        }
        Ok(())
    }

    fn check_pick(&self, state: &Connectivity, pick: Pick<'_>) -> TestCaseResult {
        let Nature {
            hashed, divided, ..
        } = self.nature;
        let fits = match (state, pick) {
            (_, Pick::Connect(id)) if hashed => self.states.contains_key(&id) && !self.ready(id),
            (_, Pick::Queue) if hashed => !self.states.is_empty(),
            (Connectivity::Ready, Pick::Ready(id)) => self.ready(id),
            (Connectivity::Idle, Pick::Connect(id)) => {
                self.states.contains_key(&id) && !self.ready(id)
            }
            (Connectivity::Connecting, Pick::Queue) => !self.states.is_empty(),
            (Connectivity::TransientFailure(a), Pick::Fail(b)) => a == b,
            // What is said of the call's child is no better than what is said of all.
            (Connectivity::Ready, Pick::Queue) => divided,
            (Connectivity::Ready | Connectivity::Connecting, Pick::Connect(id)) => {
                divided && self.states.contains_key(&id)
            }
            (_, Pick::Fail(_)) => divided,
            _ => false,
        };
        prop_assert!(fits, "{state:?}, but {pick:?}; {:?}", self.states);
        let first_ready = self.first_priority(|id| self.ready(id));
        match pick {
            Pick::Ready(id) => {
                let at = self.first_priority(|other| other == id);
                prop_assert_eq!(at, first_ready, "a better priority is ready");
            }
            Pick::Connect(_) | Pick::Queue if hashed => {}
            _ => {
                let first = self.first_priority(|_| true);
                let unused = first_ready.is_some() && first_ready == first;
                prop_assert!(!unused, "{pick:?} with one ready: {:?}", self.states);
            }
        }
        Ok(())
    }

    /// Every connection that is asked for takes its next step this way; calls come for all hashes.
    fn round(&mut self, good: bool) -> TestCaseResult {
        for id in self.states.keys().copied().collect::<Vec<_>>() {
            if !(good && self.ready(id)) {
                self.step(id, good);
                self.obey();
            }
        }
        let calls = if self.nature.hashed { 16 } else { 2 };
        for hash in hashes().take(calls) {
            self.happens(&Event::Call(hash))?;
        }
        // Failover timers give the next priorities their turn.
        self.happens(&Event::Wait(5_000))?;
        self.check()
    }

    /// The network is well: what is wanted gets connected, and stays so.
    fn recovers(&mut self) -> TestCaseResult {
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            let before = (self.states.clone(), self.asked.clone());
            self.round(true)?;
            let same = before.0 == self.states && before.1 == self.asked;
            quiet = if same { quiet + 1 } else { 0 };
            if quiet == 2 {
                break;
            }
        }
        prop_assert!(quiet == 2, "connections come and go");
        let first = self.first_priority(|_| true);
        for endpoint in self.endpoints.iter().filter(|e| Some(e.priority) == first) {
            let wanted = self.nature.eager && !self.nature.hashed;
            let left_out = wanted && !self.ready(endpoint.id);
            prop_assert!(!left_out, "{} stays unconnected", endpoint.id.0);
        }
        for hash in hashes() {
            let pick = self.rig.pick(hash);
            let used = matches!(pick, Pick::Ready(_));
            prop_assert!(used || first.is_none(), "{pick:?}: {:?}", self.states);
        }
        Ok(())
    }

    /// The network is down: calls do not wait for it, and are told the last error.
    fn gives_up(&mut self) -> TestCaseResult {
        for _ in 0..ROUNDS {
            self.round(false)?;
            if let Pick::Fail(Failure(text, _)) = self.rig.pick(1)
                && (self.endpoints.is_empty() || text.ends_with("refused"))
            {
                return Ok(());
            }
        }
        let pick = self.rig.pick(1);
        Err(TestCaseError::fail(format!("{pick:?}, all being down")))
    }
}

/// Hashes of calls that meet every endpoint.
fn hashes() -> impl Iterator<Item = u64> {
    (0..16u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

fn play(rig: Rig, nature: Nature, events: &[Event]) -> TestCaseResult {
    let mut world = World::new(rig, nature);
    for event in events {
        world.happens(event)?;
        world.check()?;
    }
    world.recovers()?;
    world.gives_up()
}

/// The shortest story found that breaks a rule, and which.
fn explore(
    runner: &mut TestRunner,
    nature: Nature,
    priorities: u32,
    make: impl Fn(u64) -> Rig,
) -> Result<(), (String, Story)> {
    let outcome = runner.run(&story(priorities), |(seed, events)| {
        play(make(seed), nature, &events)
    });
    match outcome {
        Ok(()) => Ok(()),
        Err(TestError::Fail(why, story)) => Err((why.to_string(), story)),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

fn config() -> Config {
    let usual = Config::default();
    let cases = std::env::var_os("PROPTEST_CASES").map_or(CASES, |_| usual.cases);
    Config {
        cases,
        failure_persistence: None,
        ..usual
    }
}

/// The same sequences every time, others for each policy; where `PROPTEST_CASES` asks for a number, new ones every
/// time.
fn runner(policy: usize, priorities: u32) -> TestRunner {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return TestRunner::new(config());
    }
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(policy as u64).to_le_bytes());
    seed[8..12].copy_from_slice(&priorities.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    TestRunner::new_with_rng(config(), rng)
}

#[test]
fn random_sequences_break_no_rule() {
    let names: Vec<String> = rigs(0).map(|(name, _)| name).collect();
    for priorities in [1, 3] {
        for (at, name) in names.iter().enumerate() {
            if priorities > 1 && !name.contains("priority") {
                continue;
            }
            let make = |seed| rigs(seed).nth(at).expect("it is in the list").1;
            let mut runner = runner(at, priorities);
            let broken = explore(&mut runner, Nature::of(name), priorities, make);
            if let Err((why, story)) = broken {
                panic!("{name}, {priorities} priorities: {why}\n{story:#?}");
            }
        }
    }
}

/// A story that broke a rule once, told to the policy of the suite's list that has this name.
fn breaks_no_rule(name: &str, events: &[Event]) {
    let rig = rigs(1).find(|(other, _)| other == name);
    let (_, rig) = rig.unwrap_or_else(|| panic!("{name} is not in the list"));
    if let Err(why) = play(rig, Nature::of(name), events) {
        panic!("{name}: {why}");
    }
}

/// The text of a failing ring named its first error for ever.
#[test]
fn a_ring_that_keeps_failing_tells_its_last_error() {
    let name = "RingHash { min_ring_size: 64, max_ring_size: 4096 }";
    let one = Event::Update(vec![(7, "a", 0, 1)]);
    // Ready, then lost: the tries after that are refused.
    let lost = [true, true, false].map(|good| Event::Step(7, good));
    let story = [vec![one, Event::Call(0)], lost.to_vec()].concat();
    breaks_no_rule(name, &story);
    breaks_no_rule(&format!("{name} in priority"), &story);
}

/// Who moves to another priority must be known there, and told apart from who was closed.
#[test]
fn an_endpoint_keeps_its_state_where_it_goes_unless_it_was_closed() {
    let here = |priority| Event::Update(vec![(0, "a", priority, 1), (1, "b", 1, 1)]);
    let ready = |id| [Event::Step(id, true), Event::Step(id, true)];
    let lost = Event::Step(0, false);
    for name in [
        "RoundRobin in priority",
        "PickFirst { shuffle: false } in priority",
    ] {
        let mut story = vec![here(0), Event::Call(0)];
        story.extend(ready(0));
        story.extend([here(2), Event::Again, Event::Call(1)]);
        story.extend(ready(1));
        // An unused priority is dropped after fifteen minutes, its connections with it.
        story.extend([here(0), Event::Wait(901_000), lost.clone(), Event::Call(2)]);
        breaks_no_rule(name, &story);
    }
}

/// What a policy may do wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It keeps using connections that were lost.
    DeafToLoss,
    /// It does not connect again.
    GivesUp,
    /// Every update is news.
    Chatty,
    /// It tells nobody that a connection failed.
    Mute,
    /// Calls wait although nothing can be reached.
    Hangs,
    /// It fails without a reason.
    Wordless,
    /// Its timer is always due.
    Restless,
    /// It takes the endpoints of all priorities for one set.
    Flat,
}

/// A round robin with a fault.
struct Faulty {
    policy: Box<dyn LoadBalancer>,
    fault: Fault,
    updated: Option<Instant>,
}

impl LoadBalancer for Faulty {
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        self.updated = Some(now);
        self.policy.update(now, endpoints, error, out);
        if self.fault == Fault::Chatty {
            out.push(Action::Changed);
        }
    }

    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        if self.fault == Fault::DeafToLoss && *state == Connectivity::Idle {
            return;
        }
        let before = out.len();
        self.policy.subchannel_changed(now, id, state, out);
        match self.fault {
            Fault::GivesUp => out.retain(|action| !matches!(action, Action::Connect(_))),
            Fault::Mute if matches!(state, Connectivity::TransientFailure(_)) => {
                out.truncate(before);
            }
            _ => {}
        }
    }

    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions) {
        self.policy.connect_requested(now, id, out);
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.updated.filter(|_| self.fault == Fault::Restless)
    }

    fn connectivity(&self) -> Connectivity {
        match (self.policy.connectivity(), self.fault) {
            (Connectivity::TransientFailure(_), Fault::Hangs) => Connectivity::Connecting,
            (Connectivity::TransientFailure(_), Fault::Wordless) => {
                Connectivity::TransientFailure(Failure::new(code::CANNOT_CONNECT, ""))
            }
            (state, _) => state,
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        match self.connectivity() {
            Connectivity::TransientFailure(failure) => Arc::new(Failing(failure)),
            Connectivity::Ready => self.policy.picker(),
            _ => Arc::new(Queueing),
        }
    }
}

#[test]
fn a_planted_fault_is_found_and_its_story_is_short() {
    for (fault, priorities, said, longest) in [
        (Fault::DeafToLoss, 1, "but Ready", 5),
        (Fault::GivesUp, 1, "all being down", 2),
        (Fault::Chatty, 1, "an equal update did something", 3),
        (Fault::Mute, 1, "not published", 4),
        (Fault::Hangs, 1, "all have failed", 2),
        (Fault::Wordless, 1, "without a reason", 2),
        (Fault::Restless, 1, "the same timeout", 3),
        (Fault::Flat, 3, "a better priority is ready", 6),
    ] {
        let make = |seed| {
            let policy = endpoint_balancer(&LbPolicy::RoundRobin, seed);
            let updated = None;
            Rig::new(Box::new(Faulty {
                policy,
                fault,
                updated,
            }))
        };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let enough = Config {
            cases: 256,
            ..config()
        };
        let mut runner = TestRunner::new_with_rng(enough, rng);
        let nature = Nature::of("RoundRobin");
        let Err((why, (_, events))) = explore(&mut runner, nature, priorities, make) else {
            panic!("{fault:?} was not found");
        };
        assert!(why.contains(said), "{fault:?}: {why}");
        assert!(events.len() <= longest, "{fault:?}: {events:?}");
    }
}
