//! A server that does everything wrong, at each step of a stream, and then behaves.
//!
//! Whatever it does, the client keeps what it has, answers each response once, does not run hot,
//! remembers nothing that it did not ask for, and has the truth as soon as the server tells it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Authorities, ClientConfig, ClientStream, Event, Output, ServerInfo, Timers};
use crate::ads::fake::{self, any};
use crate::ads::{Request, Response, Variant};
use crate::bootstrap::ServerFeatures;
use crate::codec::Context;
use crate::resource::{Resource, ResourceType as T};
use crate::wire::Any;
use crate::wire::core::Node;
use crate::wire::discovery::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as WireResource, ResourceError,
    ResourceName,
};
use crate::wire::rpc::Status;

const BOTH: [Variant; 2] = [Variant::StateOfTheWorld, Variant::Delta];
const NAMES: [&str; 2] = ["a", "b"];

struct Play {
    variant: Variant,
    now: Instant,
    client: ClientStream,
    is_connecting: bool,
    /// When each attempt began.
    attempts: Vec<Instant>,
    /// Types that the open stream was asked for, in this order.
    asked: Vec<T>,
    /// Answers that the open stream owes, by type.
    owed: BTreeMap<T, VecDeque<String>>,
    held: BTreeMap<(T, String), Resource>,
    last: u64,
    rng: Rng,
}

impl Play {
    fn new(variant: Variant, seed: u64) -> Self {
        let now = Instant::now();
        let config = ClientConfig {
            variant,
            node: Node::default(),
            context: Context::default(),
            servers: vec![ServerInfo {
                uri: "xds:1".into(),
                features: ServerFeatures::default(),
            }],
            authorities: Authorities {
                default: vec![0],
                ..Authorities::default()
            },
            timers: Timers::default(),
            seed,
        };
        let mut play = Self {
            variant,
            now,
            client: ClientStream::with_decode(config, now, fake::decode),
            is_connecting: false,
            attempts: Vec::new(),
            asked: Vec::new(),
            owed: BTreeMap::new(),
            held: BTreeMap::new(),
            last: 0,
            rng: Rng::with_seed(seed),
        };
        for t in T::ALL {
            for name in NAMES {
                play.client.subscribe(now, t, name);
            }
        }
        play.drain();
        play.open();
        play
    }

    /// Lets the client have a stream, however long it takes it to ask for one.
    fn open(&mut self) {
        while !self.is_connecting && self.asked.is_empty() {
            let at = self.client.poll_timeout().expect("it wants a stream");
            self.pass(at.saturating_duration_since(self.now));
        }
        if std::mem::take(&mut self.is_connecting) {
            self.client.handle_connected(self.now, 0);
            self.drain();
        }
    }

    fn close(&mut self) {
        self.asked.clear();
        self.owed.clear();
        self.client.handle_closed(self.now, 0, "cut");
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Connect { .. } => {
                    self.is_connecting = true;
                    self.attempts.push(self.now);
                }
                Output::Disconnect { .. } => panic!("there is no other server"),
                Output::Send { request, .. } => self.note(&request),
                Output::Event(Event::Resource(resource)) => {
                    let key = (resource.resource_type(), resource.name().to_owned());
                    self.held.insert(key, resource);
                }
                Output::Event(Event::Error {
                    resource_type,
                    name,
                    cached,
                    error,
                }) => {
                    let was_held = self.held.contains_key(&(resource_type, name.clone()));
                    assert_eq!(cached, was_held, "{resource_type} {name}: {error}");
                }
                Output::Event(_) => {}
            }
        }
    }

    /// Each response is answered once, in order.
    fn note(&mut self, request: &Request) {
        let t = T::from_type_url(request.type_url()).expect("one of ours");
        if !self.asked.contains(&t) {
            return self.asked.push(t);
        }
        let nonce = match request {
            Request::StateOfTheWorld(request) => &request.response_nonce,
            Request::Delta(request) => &request.response_nonce,
        };
        let owed = self.owed.entry(t).or_default().pop_front();
        assert_eq!(owed.as_ref(), Some(nonce), "{t}");
    }

    /// The open stream brings this.
    fn give(&mut self, response: Response) {
        let t = T::from_type_url(response.type_url()).filter(|t| self.asked.contains(t));
        if let Some(t) = t.filter(|_| response.variant() == self.variant) {
            let owed = self.owed.entry(t).or_default();
            owed.push_back(response.nonce().to_owned());
        }
        self.client.handle_response(self.now, 0, response);
        self.drain();
        assert!(self.owed.values().all(VecDeque::is_empty), "answered");
    }

    fn tell(&mut self, t: T, texts: &[&str]) {
        let anys = texts.iter().map(|text| any(t, text)).collect();
        let response = self.response(t, anys);
        self.give(response);
    }

    fn response(&mut self, t: T, anys: Vec<Any>) -> Response {
        self.last += 1;
        let (version, nonce) = (self.last.to_string(), format!("n{}", self.last));
        match self.variant {
            Variant::StateOfTheWorld => Response::StateOfTheWorld(DiscoveryResponse {
                version_info: version,
                nonce,
                type_url: t.type_url().into(),
                resources: anys,
                ..DiscoveryResponse::default()
            }),
            Variant::Delta => Response::Delta(DeltaDiscoveryResponse {
                system_version_info: version.clone(),
                nonce,
                type_url: t.type_url().into(),
                resources: anys.into_iter().map(|any| wrapped(&version, any)).collect(),
                ..DeltaDiscoveryResponse::default()
            }),
        }
    }

    fn any_type(&mut self) -> T {
        *self.rng.choice(&T::ALL).expect("not empty")
    }

    /// From here on the server says the truth: on the stream that is there, or on the next one.
    fn behave(&mut self, content: &str) {
        self.open();
        let texts = NAMES.map(|name| format!("{name}={content}"));
        for t in self.asked.clone() {
            self.tell(t, &texts.each_ref().map(String::as_str));
        }
        for t in T::ALL {
            for name in NAMES {
                let expected = fake::resource(t, name, content);
                let held = self.held.get(&(t, name.to_owned()));
                assert_eq!(held, Some(&expected), "{t} {name}");
            }
        }
        let problems = self
            .client
            .resources()
            .filter(|known| known.error.is_some());
        assert_eq!(problems.count(), 0, "nothing is wrong any more");
    }

    /// A second of patience for each attempt, once the first two are made.
    fn assert_not_hot(&self) {
        for attempts in self.attempts.windows(3) {
            let took = attempts[2] - attempts[0];
            assert!(took >= Duration::from_millis(800), "3 in {took:?}");
        }
    }
}

fn wrapped(version: &str, any: Any) -> WireResource {
    let text = String::from_utf8_lossy(&any.value).into_owned();
    WireResource {
        name: text.split('=').next().unwrap_or_default().into(),
        version: version.into(),
        resource: Some(any),
        ..WireResource::default()
    }
}

type Act = fn(&mut Play);

/// What the server may do wrong while a stream is open.
const ACTS: &[(&str, Act)] = &[
    ("a nonce twice", |play| {
        let t = play.any_type();
        let response = play.response(t, vec![any(t, "a=1")]);
        play.give(response.clone());
        play.give(response);
    }),
    ("no nonce, no version", |play| {
        let t = play.any_type();
        let mut response = play.response(t, vec![any(t, "a=2")]);
        match &mut response {
            Response::StateOfTheWorld(r) => (r.nonce, r.version_info) = Default::default(),
            Response::Delta(r) => (r.nonce, r.system_version_info) = Default::default(),
        }
        play.give(response);
    }),
    ("a version from before", |play| {
        let t = play.any_type();
        play.tell(t, &["a=2", "b=2"]);
        let newest = std::mem::replace(&mut play.last, 0);
        play.tell(t, &["a=1", "b=3"]);
        play.last += newest;
    }),
    ("an unknown type", |play| {
        let t = play.any_type();
        let mut response = play.response(t, vec![any(t, "a=1")]);
        match &mut response {
            Response::StateOfTheWorld(r) => r.type_url = "type.googleapis.com/x".into(),
            Response::Delta(r) => r.type_url.clear(),
        }
        play.give(response);
    }),
    ("the other variant", |play| {
        let variant = play.variant;
        play.variant = BOTH[usize::from(variant == BOTH[0])];
        let response = play.response(T::Cluster, vec![any(T::Cluster, "a=3")]);
        play.variant = variant;
        play.give(response);
    }),
    ("another type inside", |play| {
        let (t, inner) = (play.any_type(), play.any_type());
        let response = play.response(t, vec![any(inner, "a=2"), any(t, "b=2")]);
        play.give(response);
    }),
    ("a name twice", |play| {
        let t = play.any_type();
        play.tell(t, &["a=1", "a=2", "b=3"]);
    }),
    ("what nobody asked for", |play| {
        let t = play.any_type();
        let texts: Vec<String> = (0..300).map(|n| format!("stranger-{n}=1")).collect();
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts.extend(["a=1", "b=1"]);
        play.tell(t, &texts);
    }),
    ("one is missing", |play| {
        let t = play.any_type();
        play.tell(t, &["b=1"]);
    }),
    ("nothing in it", |play| {
        let t = play.any_type();
        play.tell(t, &[]);
    }),
    ("no protobuf", |play| {
        let t = play.any_type();
        let junk = Any {
            type_url: t.type_url().into(),
            value: vec![0xff; 40].into(),
        };
        let response = play.response(t, vec![junk, Any::default()]);
        play.give(response);
    }),
    ("against the rules", |play| {
        let t = play.any_type();
        play.tell(t, &["a=bad", "b=2"]);
    }),
    ("removals and errors of all kinds", |play| {
        let t = play.any_type();
        let mut response = play.response(t, vec![]);
        let error = |name: &str, code| ResourceError {
            resource_name: Some(ResourceName { name: name.into() }),
            error_detail: Some(Status {
                code,
                ..Status::default()
            }),
        };
        let errors = vec![
            error("a", 5),
            error("a", 99),
            error("stranger", -1),
            ResourceError::default(),
        ];
        match &mut response {
            Response::StateOfTheWorld(r) => r.resource_errors = errors,
            Response::Delta(r) => {
                r.resource_errors = errors;
                r.removed_resources = ["a", "b", "b", "stranger", ""].map(Into::into).into();
                r.resources = vec![WireResource::default(), wrapped("9", any(t, "b=2"))];
                r.resources[1].name = "a".into();
            }
        }
        play.give(response);
    }),
    ("a flood", |play| {
        let t = play.any_type();
        for n in 0..200 {
            play.tell(t, &[["a=1", "a=2", "a=bad"][n % 3]]);
        }
    }),
    ("silence", |play| play.pass(Duration::from_secs(40))),
    ("a cut", |play| {
        play.close();
        play.open();
    }),
    ("flapping", |play| {
        for _ in 0..10 {
            if let Some(t) = play.asked.first().copied() {
                play.tell(t, &["a=1"]);
            }
            play.close();
            play.open();
        }
    }),
    ("attempts in vain", |play| {
        for _ in 0..5 {
            play.close();
            while !play.is_connecting {
                let at = play.client.poll_timeout().expect("a pause");
                play.pass(at.saturating_duration_since(play.now));
            }
        }
        play.open();
    }),
];

#[test]
fn each_wrong_at_each_step_costs_nothing() {
    for variant in BOTH {
        for (name, act) in ACTS {
            for step in 0..=T::ALL.len() {
                println!("{variant:?}: {name}, after {step} good responses");
                let mut play = Play::new(variant, step as u64);
                for t in &T::ALL[..step] {
                    play.tell(*t, &["a=1", "b=1"]);
                }
                act(&mut play);
                assert!(play.held.len() >= 2 * step, "what was there is there");
                play.behave("3");
                play.assert_not_hot();
            }
        }
    }
}

#[test]
fn whatever_went_wrong_the_truth_wins() {
    for variant in BOTH {
        for seed in 0..150 {
            println!("{variant:?} seed {seed}");
            let mut play = Play::new(variant, seed);
            for _ in 0..play.rng.usize(1..60) {
                let (_, act) = ACTS[play.rng.usize(0..ACTS.len())];
                act(&mut play);
            }
            play.behave("3");
            play.behave("1");
            play.assert_not_hot();
        }
    }
}

#[test]
fn a_flood_of_strangers_leaves_nothing_behind() {
    for variant in BOTH {
        let mut play = Play::new(variant, 1);
        play.behave("1");
        let size = |play: &Play| format!("{:?}", play.client).len();
        let before = size(&play);
        for round in 0..20 {
            let texts: Vec<String> = (0..500).map(|n| format!("{round}-{n}=1")).collect();
            let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            texts.extend(["a=1", "b=1"]);
            for t in T::ALL {
                play.tell(t, &texts);
            }
        }
        assert!(size(&play) < before + 200, "{before}: {:?}", play.client);
    }
}

#[test]
fn all_names_stay_the_ones_that_were_asked_for() {
    let mut play = Play::new(Variant::Delta, 2);
    for (_, act) in ACTS {
        act(&mut play);
    }
    let names: BTreeSet<&str> = play.client.resources().map(|known| known.name).collect();
    assert_eq!(names, BTreeSet::from(NAMES));
}
