//! A server stream against a peer that asks for everything and also by name, as Envoy does; our
//! own client never does. The peer applies responses to a plain map, which must come to equal the
//! view. Failures print their seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::fake::World;
use super::message::WILDCARD;
use super::{Request, Response, ServerOutput, ServerStream, Variant};
use crate::resource::ResourceType::{self, Cluster};
use crate::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::wire::rpc::Status;

const T: ResourceType = Cluster;
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

struct Peer {
    variant: Variant,
    now: Instant,
    world: World,
    server: ServerStream,
    up: VecDeque<Request>,
    down: VecDeque<Response>,
    /// Names wanted, `*` among them for everything.
    names: BTreeSet<String>,
    held: BTreeMap<String, String>,
    missing: BTreeSet<String>,
    nonce: String,
}

impl Peer {
    fn new(variant: Variant) -> Self {
        let mut peer = Self {
            variant,
            now: Instant::now(),
            world: World::default(),
            server: ServerStream::new(variant),
            up: VecDeque::new(),
            down: VecDeque::new(),
            names: BTreeSet::from([WILDCARD.to_owned()]),
            held: BTreeMap::new(),
            missing: BTreeSet::new(),
            nonce: String::new(),
        };
        peer.ask(&[WILDCARD], &[], None);
        peer
    }

    fn ask(&mut self, subscribe: &[&str], unsubscribe: &[&str], verdict: Option<Option<Status>>) {
        let to_owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        let is_answer = verdict.is_some();
        let error_detail = verdict.flatten();
        let nonce = self.nonce.clone();
        let request = match self.variant {
            Variant::StateOfTheWorld => Request::StateOfTheWorld(DiscoveryRequest {
                type_url: T.type_url().into(),
                resource_names: self.names.iter().cloned().collect(),
                response_nonce: nonce,
                error_detail,
                ..DiscoveryRequest::default()
            }),
            Variant::Delta => Request::Delta(DeltaDiscoveryRequest {
                type_url: T.type_url().into(),
                resource_names_subscribe: to_owned(subscribe),
                resource_names_unsubscribe: to_owned(unsubscribe),
                response_nonce: if is_answer { nonce } else { String::new() },
                error_detail,
                ..DeltaDiscoveryRequest::default()
            }),
        };
        self.up.push_back(request);
    }

    fn toggle(&mut self, name: &str) {
        if self.names.remove(name) {
            self.ask(&[], &[name], None);
            self.missing.remove(name);
            self.drop_unwanted();
        } else {
            self.names.insert(name.to_owned());
            self.ask(&[name], &[], None);
        }
    }

    fn drop_unwanted(&mut self) {
        if !self.names.contains(WILDCARD) {
            let names = &self.names;
            self.held.retain(|name, _| names.contains(name));
        }
    }

    fn deliver_up(&mut self) {
        if let Some(request) = self.up.pop_front() {
            self.server.handle_request(self.now, request, &self.world);
            self.drain();
        }
    }

    fn deliver_down(&mut self, is_refused: bool) {
        let Some(response) = self.down.pop_front() else {
            return;
        };
        self.nonce = response.nonce().to_owned();
        let errors = match response {
            Response::StateOfTheWorld(r) => {
                let texts = r.resources.iter().map(|any| any.value.to_vec());
                self.held = texts.map(name_and_content).collect();
                r.resource_errors
            }
            Response::Delta(r) => {
                for resource in r.resources {
                    self.missing.remove(&resource.name);
                    self.held.insert(resource.name, resource.version);
                }
                for name in r.removed_resources {
                    self.held.remove(&name);
                }
                r.resource_errors
            }
        };
        let named = errors.into_iter().filter_map(|e| e.resource_name);
        self.missing.extend(named.map(|n| n.name));
        let held = &self.held;
        self.missing.retain(|name| !held.contains_key(name));
        self.drop_unwanted();
        self.ask(&[], &[], Some(is_refused.then(Status::default)));
    }

    fn change(&mut self, rng: &mut Rng) {
        let name = NAMES[rng.usize(..NAMES.len())];
        if rng.u32(0..3) == 0 {
            self.world.remove(T, name);
        } else {
            self.world.put(T, name, &rng.u32(0..3).to_string());
        }
        self.server.handle_view(self.now, &self.world);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.server.poll_output() {
            if let ServerOutput::Send(response) = output {
                self.down.push_back(response.into_wire());
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.up.is_empty() {
                self.deliver_up();
            } else if !self.down.is_empty() {
                self.deliver_down(false);
            } else if let Some(at) = self.server.poll_timeout() {
                self.now = at;
                self.server.handle_timeout(at, &self.world);
                self.drain();
            } else {
                return;
            }
        }
        panic!("never comes to rest");
    }

    fn assert_converged(&self) {
        let wanted = |name: &&str| self.names.contains(WILDCARD) || self.names.contains(*name);
        let there = |name: &str| Some((name.to_owned(), self.world.content(T, name)?.to_owned()));
        let expected: BTreeMap<String, String> =
            NAMES.into_iter().filter(wanted).filter_map(there).collect();
        assert_eq!(self.held, expected, "names {:?}", self.names);
        for name in self.names.iter().filter(|name| *name != WILDCARD) {
            let is_missing = self.world.content(T, name).is_none();
            assert_eq!(self.missing.contains(name), is_missing, "{name}");
        }
    }
}

fn name_and_content(text: Vec<u8>) -> (String, String) {
    let text = String::from_utf8(text).expect("our own");
    let (name, content) = text.split_once('=').expect("our own");
    (name.to_owned(), content.to_owned())
}

fn storm(variant: Variant) {
    for seed in 0..100 {
        println!("{variant:?} seed {seed}");
        let mut rng = Rng::with_seed(seed);
        let mut peer = Peer::new(variant);
        for step in 0..400 {
            match rng.u32(0..10) {
                0..2 => peer.change(&mut rng),
                2 => peer.toggle(NAMES[rng.usize(..NAMES.len())]),
                3 if rng.u32(0..4) == 0 => peer.toggle(WILDCARD),
                3..6 => peer.deliver_up(),
                6..9 => peer.deliver_down(rng.u32(0..4) == 0),
                _ => peer.now += Duration::from_millis(rng.u64(0..3000)),
            }
            if step % 40 == 39 {
                peer.settle();
                peer.assert_converged();
            }
        }
    }
}

#[test]
fn state_of_the_world_peers_come_to_hold_the_view() {
    storm(Variant::StateOfTheWorld);
}

#[test]
fn delta_peers_come_to_hold_the_view() {
    storm(Variant::Delta);
}
