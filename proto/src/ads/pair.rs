//! Both machines against each other: a virtual clock, a wire that breaks, delays, repeats and
//! reorders, and a model of what the events add up to.
//!
//! Whatever happens, once the faults end the client must come to hold what the view has. Failures
//! print their seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use prost::Message;

use super::fake::{self, BAD, World};
use super::{
    Authorities, ClientConfig, ClientStream, Event, Output, Request, ResourceError, Response,
    ServerInfo, ServerOutput, ServerStream, Timers, Variant,
};
use crate::bootstrap::ServerFeatures;
use crate::resource::{Resource, ResourceType};
use crate::wire::core::Node;
use crate::wire::discovery::{DeltaDiscoveryResponse, DiscoveryResponse};

type Key = (ResourceType, String);

/// What the events say about one name.
#[derive(Debug, Default)]
struct Seen {
    resource: Option<Resource>,
    error: Option<ResourceError>,
}

struct Pair {
    variant: Variant,
    now: Instant,
    client: ClientStream,
    server: Option<ServerStream>,
    world: World,
    is_connecting: bool,
    up: VecDeque<Request>,
    down: VecDeque<Response>,
    wanted: BTreeSet<Key>,
    seen: BTreeMap<Key, Seen>,
    /// Types that the server was asked for on this stream.
    asked: BTreeSet<String>,
    /// Resources that crossed the wire.
    carried: usize,
}

impl Pair {
    fn new(variant: Variant, features: ServerFeatures, seed: u64) -> Self {
        let now = Instant::now();
        let config = ClientConfig {
            variant,
            node: Node {
                id: "node".into(),
                ..Node::default()
            },
            context: crate::codec::Context::default(),
            servers: vec![ServerInfo {
                uri: "xds:1".into(),
                features,
            }],
            authorities: Authorities {
                default: vec![0],
                ..Authorities::default()
            },
            timers: Timers::default(),
            seed,
        };
        Self {
            variant,
            now,
            client: ClientStream::with_decode(config, now, fake::decode),
            server: None,
            world: World::default(),
            is_connecting: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            wanted: BTreeSet::new(),
            seen: BTreeMap::new(),
            asked: BTreeSet::new(),
            carried: 0,
        }
    }

    fn subscribe(&mut self, t: ResourceType, name: &str) {
        if self.wanted.insert((t, name.to_owned())) {
            self.client.subscribe(self.now, t, name);
        }
    }

    fn unsubscribe(&mut self, t: ResourceType, name: &str) {
        let key = (t, name.to_owned());
        if self.wanted.remove(&key) {
            self.client.unsubscribe(self.now, t, name);
            self.drain();
            self.seen.remove(&key);
        }
    }

    fn world_changed(&mut self) {
        if let Some(server) = &mut self.server {
            server.handle_view(self.now, &self.world);
        }
    }

    fn connect(&mut self) {
        if std::mem::take(&mut self.is_connecting) {
            self.server = Some(ServerStream::new(self.variant));
            self.client.handle_connected(self.now, 0);
        }
    }

    /// Everything on the wire is lost with it.
    fn break_stream(&mut self) {
        self.is_connecting = false;
        self.server = None;
        self.asked.clear();
        self.up.clear();
        self.down.clear();
        self.client.handle_closed(self.now, 0, "broken");
    }

    fn deliver_up(&mut self) {
        if let (Some(request), Some(server)) = (self.up.pop_front(), &mut self.server) {
            self.asked.insert(request.type_url().to_owned());
            server.handle_request(self.now, request, &self.world);
        }
    }

    fn deliver_down(&mut self) {
        if let Some(response) = self.down.pop_front() {
            self.client.handle_response(self.now, 0, response);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Connect { .. } => self.is_connecting = true,
                Output::Disconnect { .. } => panic!("there is no other server"),
                Output::Send { request, .. } => self.up.push_back(request),
                Output::Event(event) => self.note(event),
            }
        }
        let Some(server) = &mut self.server else {
            return;
        };
        while let Some(output) = server.poll_output() {
            if let ServerOutput::Send(response) = output {
                self.carried += response.entries.len();
                self.down
                    .push_back(over_the_wire(&response.encode(), self.variant));
            }
        }
    }

    /// Adds an event to the model and holds it against what the contract of events says.
    fn note(&mut self, event: Event) {
        match event {
            Event::Resource(resource) => {
                let key = (resource.resource_type(), resource.name().to_owned());
                assert!(self.wanted.contains(&key), "not wanted: {key:?}");
                let seen = self.seen.entry(key).or_default();
                assert!(seen.resource.as_ref() != Some(&resource), "repeated");
                assert!(
                    seen.resource.is_none() || seen.error.is_none(),
                    "changed without clearing the ambient error"
                );
                seen.resource = Some(resource);
                seen.error = None;
            }
            Event::Error {
                resource_type,
                name,
                error,
                cached,
            } => {
                let key = (resource_type, name);
                assert!(self.wanted.contains(&key), "not wanted: {key:?}");
                let seen = self.seen.entry(key).or_default();
                if !cached {
                    assert!(
                        seen.resource.is_some() || seen.error.as_ref() != Some(&error),
                        "repeated"
                    );
                    seen.resource = None;
                }
                assert_eq!(cached, seen.resource.is_some());
                seen.error = Some(error);
            }
            Event::Cleared {
                resource_type,
                name,
            } => {
                let seen = self.seen.get_mut(&(resource_type, name)).expect("known");
                assert!(seen.resource.is_some() && seen.error.is_some());
                seen.error = None;
            }
            _ => {}
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        if let Some(server) = &mut self.server {
            server.handle_timeout(self.now, &self.world);
        }
    }

    /// No more faults: runs until nobody has anything left to do.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.drain();
            if self.is_connecting {
                self.connect();
            } else if !self.up.is_empty() {
                self.deliver_up();
            } else if !self.down.is_empty() {
                self.deliver_down();
            } else if let Some(at) = self.next_timeout() {
                self.pass(at.saturating_duration_since(self.now));
            } else {
                return;
            }
        }
        panic!("never comes to rest");
    }

    fn next_timeout(&self) -> Option<Instant> {
        let server = self.server.as_ref().and_then(ServerStream::poll_timeout);
        self.client.poll_timeout().into_iter().chain(server).min()
    }

    fn assert_converged(&self) {
        for (t, name) in &self.wanted {
            let seen = self.seen.get(&(*t, name.clone()));
            let seen = seen.unwrap_or_else(|| panic!("{t} {name}: no word of it"));
            match self.world.content(*t, name) {
                Some(content) if content.starts_with(BAD) => assert!(
                    matches!(seen.error, Some(ResourceError::Invalid(_))),
                    "{t} {name}: {seen:?} is invalid"
                ),
                Some(content) => {
                    let expected = fake::resource(*t, name, content);
                    assert_eq!(seen.resource, Some(expected), "{t} {name}");
                    assert_eq!(seen.error, None, "{t} {name}");
                }
                None => assert!(seen.error.is_some(), "{t} {name}: {seen:?} is missing"),
            }
        }
    }
}

fn over_the_wire(bytes: &[u8], variant: Variant) -> Response {
    match variant {
        Variant::StateOfTheWorld => {
            Response::StateOfTheWorld(DiscoveryResponse::decode(bytes).expect("well formed"))
        }
        Variant::Delta => {
            Response::Delta(DeltaDiscoveryResponse::decode(bytes).expect("well formed"))
        }
    }
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const CONTENTS: [&str; 6] = ["1", "2", "3", "odd", "bad", "bad2"];

fn any_type(rng: &mut Rng) -> ResourceType {
    *rng.choice(&ResourceType::ALL).expect("not empty")
}

fn any_name(rng: &mut Rng) -> &'static str {
    rng.choice(&NAMES).expect("not empty")
}

/// One random move of the world, the user, the wire or the clock.
fn disturb(pair: &mut Pair, rng: &mut Rng) {
    match rng.u32(0..100) {
        0..15 => {
            for _ in 0..rng.usize(1..4) {
                let content = rng.choice(&CONTENTS).expect("not empty");
                pair.world.put(any_type(rng), any_name(rng), content);
            }
            pair.world_changed();
        }
        15..20 => {
            pair.world.remove(any_type(rng), any_name(rng));
            pair.world_changed();
        }
        20..32 => pair.subscribe(any_type(rng), any_name(rng)),
        32..40 => pair.unsubscribe(any_type(rng), any_name(rng)),
        40..62 => pair.deliver_up(),
        62..84 => pair.deliver_down(),
        84..88 => pair.connect(),
        88..90 => pair.break_stream(),
        90..92 => pair.pass(Duration::from_millis(rng.u64(0..5000))),
        92..94 => swap_types(&mut pair.down, rng, Response::type_url),
        94..96 => swap_types(&mut pair.up, rng, Request::type_url),
        96 => repeat(&mut pair.down),
        97 => repeat(&mut pair.up),
        _ => {
            let stray = stray(pair.variant, rng);
            // As the first of its type it would be a subscription, and not the client's.
            if pair.asked.contains(stray.type_url()) {
                pair.up.push_back(stray);
            }
        }
    }
}

/// Reorders two neighbours of different types; within one type a stream keeps its order.
fn swap_types<T>(queue: &mut VecDeque<T>, rng: &mut Rng, type_url: fn(&T) -> &str) {
    if queue.len() > 1 {
        let i = rng.usize(1..queue.len());
        if type_url(&queue[i]) != type_url(&queue[i - 1]) {
            queue.swap(i, i - 1);
        }
    }
}

fn repeat<T: Clone>(queue: &mut VecDeque<T>) {
    if let Some(first) = queue.front().cloned() {
        queue.push_front(first);
    }
}

/// A request that no client of ours would send: an unknown nonce.
fn stray(variant: Variant, rng: &mut Rng) -> Request {
    let mut config = Pair::new(variant, ServerFeatures::default(), 0);
    config.subscribe(any_type(rng), "stray");
    config.drain();
    config.connect();
    config.drain();
    let mut request = config.up.pop_front().expect("subscribed");
    match &mut request {
        Request::StateOfTheWorld(r) => r.response_nonce = "stray".into(),
        Request::Delta(r) => {
            r.response_nonce = "stray".into();
            r.resource_names_subscribe.clear();
            r.resource_names_unsubscribe = vec!["stray".into()];
        }
    }
    request
}

fn storm(variant: Variant, features: ServerFeatures, seed: u64, steps: usize) {
    println!("{variant:?} {features:?} seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut pair = Pair::new(variant, features, seed);
    for step in 0..steps {
        disturb(&mut pair, &mut rng);
        pair.drain();
        // Now and then a lull, so that every fault is also seen to heal by itself.
        if step % 200 == 199 {
            pair.settle();
            pair.assert_converged();
        }
    }
    pair.settle();
    pair.assert_converged();
}

fn storms(variant: Variant) {
    for seed in 0..60 {
        let features = ServerFeatures {
            fail_on_data_errors: seed % 2 == 1,
            resource_timer_is_transient_error: seed % 3 == 1,
            ..ServerFeatures::default()
        };
        storm(variant, features, seed, 1000);
    }
}

#[test]
fn state_of_the_world_survives_storms() {
    storms(Variant::StateOfTheWorld);
}

#[test]
fn delta_survives_storms() {
    storms(Variant::Delta);
}

const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];

fn filled(variant: Variant) -> Pair {
    let mut pair = Pair::new(variant, ServerFeatures::default(), 1);
    for t in ResourceType::ALL {
        for name in NAMES {
            pair.world.put(t, name, "1");
            pair.subscribe(t, name);
        }
    }
    pair.settle();
    pair.assert_converged();
    pair
}

#[test]
fn everything_arrives_once() {
    for variant in BOTH {
        assert_eq!(filled(variant).carried, 20, "{variant:?}");
    }
}

#[test]
fn nothing_is_carried_again_after_a_reconnect() {
    for variant in BOTH {
        let mut pair = filled(variant);
        pair.break_stream();
        pair.settle();
        assert!(pair.server.is_some(), "reconnected");
        assert_eq!(pair.carried, 20, "{variant:?}");
        // And the new stream is alive.
        pair.world.put(ResourceType::EndpointAssignment, "a", "2");
        pair.world_changed();
        pair.settle();
        pair.assert_converged();
        assert_eq!(pair.carried, 21, "{variant:?}");
    }
}

#[test]
fn changes_while_apart_arrive_after_the_reconnect() {
    for variant in BOTH {
        let mut pair = filled(variant);
        pair.break_stream();
        for t in ResourceType::ALL {
            pair.world.put(t, "a", "2");
            pair.world.remove(t, "b");
        }
        pair.settle();
        pair.assert_converged();
    }
}

#[test]
fn a_change_of_one_carries_one_where_the_variant_allows() {
    for t in ResourceType::ALL {
        for variant in BOTH {
            let mut pair = filled(variant);
            pair.world.put(t, "c", "2");
            pair.world_changed();
            pair.settle();
            pair.assert_converged();
            let is_whole = variant == Variant::StateOfTheWorld && t.is_full_state();
            let expected = if is_whole { NAMES.len() } else { 1 };
            assert_eq!(pair.carried - 20, expected, "{variant:?} {t}");
        }
    }
}

#[test]
fn a_refused_version_travels_once() {
    for variant in BOTH {
        let mut pair = filled(variant);
        pair.world.put(ResourceType::RouteConfiguration, "a", BAD);
        for _ in 0..5 {
            pair.world_changed();
            pair.settle();
        }
        pair.assert_converged();
        assert_eq!(pair.carried, 21, "{variant:?}");
        let key = (ResourceType::RouteConfiguration, "a".to_owned());
        assert!(pair.seen[&key].resource.is_some(), "the good one stays");
        pair.world.put(ResourceType::RouteConfiguration, "a", "1");
        pair.world_changed();
        pair.settle();
        pair.assert_converged();
    }
}

#[test]
fn names_that_appear_later_are_sent_then() {
    for variant in BOTH {
        let mut pair = Pair::new(variant, ServerFeatures::default(), 1);
        for t in ResourceType::ALL {
            pair.subscribe(t, "later");
        }
        let start = pair.now;
        pair.settle();
        assert_eq!(pair.now, start, "the answer came before any timer");
        for t in ResourceType::ALL {
            let error = pair.seen[&(t, "later".to_owned())].error.clone();
            let text = error.expect("missing").to_string();
            assert!(text.contains("no later"), "{text}");
            pair.world.put(t, "later", "1");
        }
        pair.world_changed();
        pair.settle();
        pair.assert_converged();
    }
}
