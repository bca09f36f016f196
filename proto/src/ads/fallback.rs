//! The client's machine against several servers that go up and down: whatever happens, what was
//! once there is never lost, and in the end the highest server that works is the one that serves.
//! Failures print their seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use prost::Message;

use super::fake::{self, World};
use super::{
    Authorities, ClientConfig, ClientStream, Event, Output, Request, Response, ServerInfo,
    ServerOutput, ServerStream, Timers, Variant,
};
use crate::bootstrap::ServerFeatures;
use crate::resource::{Resource, ResourceType};
use crate::wire::core::Node;
use crate::wire::discovery::{DeltaDiscoveryResponse, DiscoveryResponse};

const NAMES: [&str; 3] = ["a", "b", "c"];
const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];

type Key = (ResourceType, String);

/// One server and the wire to it.
struct Server {
    variant: Variant,
    /// The content of every resource is the server's number.
    world: World,
    is_up: bool,
    has_delta: bool,
    is_connecting: bool,
    stream: Option<ServerStream>,
    up: VecDeque<Request>,
    down: VecDeque<Response>,
}

struct Rig {
    now: Instant,
    client: ClientStream,
    servers: Vec<Server>,
    wanted: BTreeSet<Key>,
    held: BTreeMap<Key, Resource>,
    /// Names of which an error was the last word.
    absent: BTreeSet<Key>,
    events: Vec<Event>,
}

impl Rig {
    fn new(variant: Variant, count: usize, seed: u64) -> Self {
        let all: Vec<usize> = (0..count).collect();
        let authorities = Authorities {
            default: all.clone(),
            named: [("last".to_owned(), vec![count - 1])].into(),
            others: false,
        };
        let config = ClientConfig {
            variant,
            node: Node::default(),
            context: crate::codec::Context::default(),
            servers: all.iter().map(|i| info(*i)).collect(),
            authorities,
            timers: Timers::default(),
            seed,
        };
        let now = Instant::now();
        Self {
            now,
            client: ClientStream::with_decode(config, now, fake::decode),
            servers: all.iter().map(|i| Server::new(variant, *i)).collect(),
            wanted: BTreeSet::new(),
            held: BTreeMap::new(),
            absent: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    fn subscribe(&mut self, t: ResourceType, name: &str) {
        self.wanted.insert((t, name.to_owned()));
        self.client.subscribe(self.now, t, name);
        self.drain();
    }

    fn unsubscribe(&mut self, t: ResourceType, name: &str) {
        let key = (t, name.to_owned());
        self.wanted.remove(&key);
        self.client.unsubscribe(self.now, t, name);
        self.drain();
        self.held.remove(&key);
        self.absent.remove(&key);
    }

    fn set_up(&mut self, server: usize, is_up: bool) {
        self.servers[server].is_up = is_up;
        if !is_up && (self.servers[server].stream.is_some() || self.servers[server].is_connecting) {
            self.servers[server].cut();
            self.client.handle_closed(self.now, server, "down");
        }
        self.drain();
    }

    /// One step of one server's connection. Whether there was one.
    fn step(&mut self, server: usize) -> bool {
        let now = self.now;
        let it = &mut self.servers[server];
        if it.is_connecting {
            it.is_connecting = false;
            if !it.is_up {
                self.client.handle_closed(now, server, "refused");
            } else if it.variant == Variant::Delta && !it.has_delta {
                self.client.handle_connected(now, server);
                self.client.handle_unimplemented(now, server, "no delta");
            } else {
                it.stream = Some(ServerStream::new(it.variant));
                self.client.handle_connected(now, server);
            }
        } else if let (Some(request), Some(stream)) = (it.up.pop_front(), &mut it.stream) {
            stream.handle_request(now, request, &it.world);
        } else if let Some(response) = it.down.pop_front() {
            self.client.handle_response(now, server, response);
        } else {
            return false;
        }
        self.drain();
        true
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Connect { server, variant } => {
                    self.servers[server].cut();
                    self.servers[server].variant = variant;
                    self.servers[server].is_connecting = true;
                }
                Output::Disconnect { server } => self.servers[server].cut(),
                Output::Send { server, request } => self.servers[server].up.push_back(request),
                Output::Event(event) => self.note(event),
            }
        }
        for server in &mut self.servers {
            server.drain();
        }
    }

    fn note(&mut self, event: Event) {
        match &event {
            Event::Resource(resource) => {
                let key = (resource.resource_type(), resource.name().to_owned());
                assert!(self.wanted.contains(&key), "not wanted: {key:?}");
                self.absent.remove(&key);
                self.held.insert(key, resource.clone());
            }
            Event::Error {
                resource_type,
                name,
                cached,
                ..
            } => {
                let key = (*resource_type, name.clone());
                assert_eq!(*cached, self.held.contains_key(&key), "{key:?} is lost");
                self.absent.insert(key);
            }
            _ => {}
        }
        self.events.push(event);
    }

    /// No more faults: until nothing has happened for longer than any pause.
    fn settle(&mut self) {
        let end = self.now + Duration::from_secs(600);
        while self.now < end {
            let mut any = 0..self.servers.len();
            if any.any(|server| self.step(server)) {
                continue;
            }
            let server = self.servers.iter().filter_map(|s| s.stream.as_ref());
            let due = server.filter_map(ServerStream::poll_timeout);
            let next = due.chain(self.client.poll_timeout()).min();
            self.pass(next.map_or(end, |at| at.max(self.now)));
        }
    }

    fn pass(&mut self, to: Instant) {
        self.now = to;
        self.client.handle_timeout(to);
        for server in &mut self.servers {
            if let Some(stream) = &mut server.stream {
                stream.handle_timeout(to, &server.world);
            }
        }
        self.drain();
    }

    fn assert_highest_serves(&self) {
        let highest = self.servers.iter().position(|server| server.is_up);
        let Some(highest) = highest else {
            return;
        };
        let serving = self.client.serving(0).expect("there are servers");
        // One that is down may count as the one in use as long as nothing is missing.
        assert!(serving <= highest, "{serving} serves, {highest} works");
        for (t, name) in &self.wanted {
            let key = (*t, name.clone());
            match self.held.get(&key) {
                Some(held) if serving == highest => {
                    assert_eq!(*held, content(*t, name, highest), "{t} {name}");
                }
                Some(_) => {}
                // A server whose silence said so was believed before it was lost.
                None => assert!(
                    serving != highest && self.absent.contains(&key),
                    "{t} {name} is missing"
                ),
            }
        }
    }

    /// Every change of the server in use so far, as `from` and `to`.
    fn changes(&mut self) -> Vec<(usize, usize)> {
        let events = std::mem::take(&mut self.events);
        let changes = events.into_iter().filter_map(|event| match event {
            Event::Fallback { from, to, .. } => Some((from, to)),
            _ => None,
        });
        changes.collect()
    }
}

impl Server {
    fn new(variant: Variant, number: usize) -> Self {
        let mut world = World::default();
        for t in ResourceType::ALL {
            for name in NAMES {
                world.put(t, name, &number.to_string());
            }
            let url = t.type_url().rsplit('/').next().unwrap_or_default();
            let name = format!("xdstp://last/{url}/x");
            world.put(t, &name, &number.to_string());
        }
        Self {
            variant,
            world,
            is_up: true,
            has_delta: true,
            is_connecting: false,
            stream: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
        }
    }

    fn cut(&mut self) {
        self.is_connecting = false;
        self.stream = None;
        self.up.clear();
        self.down.clear();
    }

    fn drain(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        while let Some(output) = stream.poll_output() {
            if let ServerOutput::Send(response) = output {
                self.down.push_back(read(self.variant, &response.encode()));
            }
        }
    }
}

fn read(variant: Variant, bytes: &[u8]) -> Response {
    match variant {
        Variant::StateOfTheWorld => {
            Response::StateOfTheWorld(DiscoveryResponse::decode(bytes).expect("well formed"))
        }
        Variant::Delta => {
            Response::Delta(DeltaDiscoveryResponse::decode(bytes).expect("well formed"))
        }
    }
}

fn info(number: usize) -> ServerInfo {
    ServerInfo {
        uri: format!("server-{number}"),
        features: ServerFeatures::default(),
    }
}

fn content(t: ResourceType, name: &str, server: usize) -> Resource {
    fake::resource(t, name, &server.to_string())
}

/// Two servers, everything subscribed, the first one down from the start.
fn fallen(variant: Variant) -> Rig {
    let mut rig = Rig::new(variant, 2, 1);
    rig.set_up(0, false);
    for t in ResourceType::ALL {
        rig.subscribe(t, "a");
    }
    rig.settle();
    assert_eq!(rig.changes(), [(0, 1)], "{variant:?}");
    rig.assert_highest_serves();
    rig
}

#[test]
fn servers_may_go_up_and_down_at_random() {
    for variant in BOTH {
        for seed in 0..150 {
            println!("{variant:?} seed {seed}");
            let mut rng = Rng::with_seed(seed);
            let mut rig = Rig::new(variant, rng.usize(1..4), seed);
            for _ in 0..rng.usize(10..300) {
                let server = rng.usize(0..rig.servers.len());
                let t = *rng.choice(&ResourceType::ALL).expect("not empty");
                let name = *rng.choice(&NAMES).expect("not empty");
                match rng.u32(0..20) {
                    0..3 => rig.set_up(server, rng.bool()),
                    3..6 => rig.subscribe(t, name),
                    6 => rig.unsubscribe(t, name),
                    7 => rig.pass(rig.now + Duration::from_millis(rng.u64(0..20_000))),
                    _ => _ = rig.step(server),
                }
            }
            rig.settle();
            rig.assert_highest_serves();
            // All come back: the first one serves everything.
            for server in 0..rig.servers.len() {
                rig.set_up(server, true);
            }
            rig.settle();
            rig.assert_highest_serves();
            if !rig.wanted.is_empty() {
                assert_eq!(rig.client.serving(0), Some(0));
            }
        }
    }
}

#[test]
fn the_first_server_is_tried_on_and_its_first_word_closes_the_next_ones_stream() {
    for variant in BOTH {
        let mut rig = fallen(variant);
        rig.set_up(0, true);
        rig.settle();
        assert_eq!(rig.changes(), [(1, 0)], "{variant:?}");
        assert!(rig.servers[0].stream.is_some() && rig.servers[1].stream.is_none());
        rig.assert_highest_serves();
        // All is cached: the loss of the first is no reason to leave it.
        rig.set_up(0, false);
        rig.settle();
        assert!(rig.changes().is_empty());
        assert!(rig.servers[1].stream.is_none());
    }
}

#[test]
fn a_first_server_that_is_silent_does_not_take_over() {
    for variant in BOTH {
        let mut rig = fallen(variant);
        rig.servers[0].is_up = true;
        let mut waited = 0;
        while rig.servers[0].stream.is_none() {
            if !rig.step(0) {
                let next = rig.client.poll_timeout().expect("it is tried again");
                rig.pass(next.max(rig.now));
            }
            waited += 1;
            assert!(waited < 100);
        }
        // Its requests are never read: not even its timers say anything of a resource.
        rig.subscribe(ResourceType::Cluster, "b");
        while rig.step(1) {}
        rig.pass(rig.now + Duration::from_secs(100));
        while rig.step(1) {}
        assert!(rig.changes().is_empty());
        let b = (ResourceType::Cluster, "b".to_owned());
        assert_eq!(rig.held[&b], content(b.0, "b", 1));
    }
}

#[test]
fn another_authority_keeps_the_stream_of_a_server_that_is_let_go() {
    for variant in BOTH {
        let mut rig = fallen(variant);
        let listener = "xdstp://last/envoy.config.listener.v3.Listener/x";
        rig.subscribe(ResourceType::Listener, listener);
        rig.set_up(0, true);
        rig.settle();
        assert_eq!(rig.client.serving(0), Some(0));
        assert_eq!(rig.client.serving(1), Some(1));
        assert!(rig.servers[1].stream.is_some(), "{variant:?}");
        let a = (ResourceType::Listener, "a".to_owned());
        assert_eq!(rig.held[&a], content(a.0, "a", 0));
        let x = (ResourceType::Listener, listener.to_owned());
        assert_eq!(rig.held[&x], content(x.0, listener, 1));
        // What it says of names that were taken back there does not count.
        rig.servers[1].world.put(ResourceType::Listener, "a", "9");
        rig.settle();
        assert_eq!(rig.held[&a], content(a.0, "a", 0));
    }
}

#[test]
fn a_server_without_delta_is_remembered() {
    let mut rig = Rig::new(Variant::Delta, 1, 1);
    rig.servers[0].has_delta = false;
    rig.subscribe(ResourceType::Cluster, "a");
    while rig.step(0) {}
    rig.assert_highest_serves();
    assert_eq!(rig.servers[0].variant, Variant::StateOfTheWorld);
    rig.set_up(0, false);
    rig.set_up(0, true);
    rig.settle();
    let refusals = rig.events.iter();
    let refusals = refusals.filter(|event| matches!(event, Event::NoDelta { .. }));
    assert_eq!(refusals.count(), 1);
    rig.assert_highest_serves();
}

#[test]
fn names_of_nobody_are_an_error_of_their_own() {
    let mut rig = Rig::new(Variant::Delta, 1, 1);
    let nobody = "xdstp://nobody/envoy.config.cluster.v3.Cluster/x";
    for (name, text) in [
        (nobody, "no authority \"nobody\""),
        (
            "xdstp://last/envoy.config.listener.v3.Listener/x",
            "names the type",
        ),
        ("xdstp:x", "is not of the form"),
    ] {
        rig.subscribe(ResourceType::Cluster, name);
        let Some(Event::Error {
            error,
            cached: false,
            ..
        }) = rig.events.pop()
        else {
            panic!("{name}: {:?}", rig.events);
        };
        assert!(error.to_string().contains(text), "{error}");
    }
    assert!(!rig.servers[0].is_connecting, "nobody is asked");
    let known: Vec<_> = rig.client.resources().map(|known| known.name).collect();
    assert_eq!(known.len(), 3);
}
