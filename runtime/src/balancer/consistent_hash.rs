//! What ring hash and Maglev have in common: connections on demand, and a walk over a table from
//! the place that a call's hash names (gRFC A42, as A61 simplified it).
//!
//! ```text
//!   the endpoint at the hash is READY: it takes the call
//!                               IDLE: it is connected, the call waits
//!                               CONNECTING: the call waits
//!                               failing: the next one in the table is asked
//!   state of the whole: READY if any is; failing if two are; else CONNECTING if any is, or if one of
//!   several fails; else IDLE if any is; else failing
//! ```
//!
//! While the whole is CONNECTING or failing and nothing is being connected, an idle endpoint is
//! connected without a call: a priority policy above sends no calls to what fails.
//!
//! States are bytes that the table's picker reads, so a new state does not make a new table.

use std::collections::{BTreeSet, HashMap};
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Instant;

use super::constant::Failing;
use super::endpoints::{no_endpoints, unreachable};
use super::{
    Action, Actions, Call, Connectivity, Endpoint, Failure, LoadBalancer, Pick, Picker,
    SubchannelId,
};

/// What a table is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share<'a> {
    /// What the endpoint is placed by.
    pub(super) key: &'a str,
    /// Its weight as a share of all, above zero; all add up to 1.
    pub(super) share: f64,
}

/// Endpoints, each at several positions.
pub(super) trait Table: Send + Sync + Debug {
    /// Positions; 0 if there is no endpoint.
    fn len(&self) -> usize;
    /// Where a hash leads. There must be a position.
    fn start(&self, hash: u64) -> usize;
    /// Who is there: an index into the shares.
    fn endpoint(&self, position: usize) -> u32;
}

type MakeTable = dyn Fn(&[Share<'_>]) -> Box<dyn Table> + Send;

/// The policy.
pub(super) struct ConsistentHash {
    make: Box<MakeTable>,
    endpoints: Vec<Endpoint>,
    places: HashMap<SubchannelId, usize>,
    /// Made when the next picker is.
    table: Option<(Arc<dyn Table>, Ids)>,
    states: States,
    tally: Tally,
    /// Where the idle ones are.
    idle: BTreeSet<usize>,
    error: Option<Failure>,
    last_failure: Option<Failure>,
    updated: bool,
}

impl Debug for ConsistentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConsistentHash")
            .field("endpoints", &self.endpoints)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// The states of the endpoints, along the shares.
type States = Arc<[AtomicU8]>;
type Ids = Arc<[SubchannelId]>;

/// A connectivity as a byte. A failure sticks until the endpoint is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum State {
    Idle,
    Connecting,
    Ready,
    Failing,
}

impl State {
    const ALL: [Self; 4] = [Self::Idle, Self::Connecting, Self::Ready, Self::Failing];

    fn of(connectivity: &Connectivity) -> Self {
        match connectivity {
            Connectivity::Idle => Self::Idle,
            Connectivity::Connecting => Self::Connecting,
            Connectivity::Ready => Self::Ready,
            Connectivity::TransientFailure(_) => Self::Failing,
        }
    }

    fn read(states: &[AtomicU8], at: usize) -> Self {
        Self::ALL[usize::from(states[at].load(Relaxed))]
    }
}

/// How many endpoints are in each state.
#[derive(Debug, Default)]
struct Tally([usize; 4]);

impl Tally {
    fn of(&self, state: State) -> usize {
        self.0[state as usize]
    }

    fn moves(&mut self, from: State, to: State) {
        self.0[from as usize] -= 1;
        self.0[to as usize] += 1;
    }
}

impl ConsistentHash {
    /// A balancer over tables that `make` makes.
    pub(super) fn new(make: impl Fn(&[Share<'_>]) -> Box<dyn Table> + Send + 'static) -> Self {
        Self {
            table: None,
            make: Box::new(make),
            endpoints: Vec::new(),
            places: HashMap::new(),
            states: States::from([]),
            tally: Tally::default(),
            idle: BTreeSet::new(),
            error: None,
            last_failure: None,
            updated: false,
        }
    }

    fn rebuild(&mut self, endpoints: &[Endpoint]) {
        let old = std::mem::take(&mut self.places);
        let known = |id| {
            let place = old.get(id);
            place.map_or(State::Idle, |at| State::read(&self.states, *at))
        };
        let states: Vec<State> = endpoints.iter().map(|e| known(&e.id)).collect();
        self.tally = Tally::default();
        self.idle.clear();
        for (at, state) in states.iter().enumerate() {
            self.tally.0[*state as usize] += 1;
            if *state == State::Idle {
                self.idle.insert(at);
            }
        }
        self.states = states.iter().map(|s| AtomicU8::new(*s as u8)).collect();
        self.places = (endpoints.iter().map(|e| e.id)).zip(0..).collect();
        self.endpoints = endpoints.to_vec();
        self.table = None;
    }

    fn failure(&self) -> Failure {
        match &self.error {
            _ if !self.endpoints.is_empty() => {
                unreachable(self.tally.of(State::Failing), &self.last_failure)
            }
            Some(error) => error.clone(),
            None => no_endpoints(),
        }
    }

    /// Whether it is a failure, and another one than the last.
    fn note_failure(&mut self, state: &Connectivity) -> bool {
        let Connectivity::TransientFailure(failure) = state else {
            return false;
        };
        let last = self.last_failure.replace(failure.clone());
        last.as_ref() != Some(failure)
    }

    /// Sees to it that a set that is not usable is on its way to be.
    fn keep_trying(&self, out: &mut Actions) {
        let stuck = matches!(
            self.connectivity(),
            Connectivity::Connecting | Connectivity::TransientFailure(_)
        );
        if !stuck || self.tally.of(State::Connecting) > 0 {
            return;
        }
        if let Some(at) = self.idle.first() {
            out.push(Action::Connect(self.endpoints[*at].id));
        }
    }
}

/// The weight of its locality is part of an endpoint's weight.
fn shares(endpoints: &[Endpoint]) -> Vec<Share<'_>> {
    let mut localities = HashMap::<_, f64>::new();
    for endpoint in endpoints {
        *localities.entry(&endpoint.locality).or_default() += f64::from(endpoint.weight);
    }
    let weight =
        |e: &Endpoint| f64::from(e.locality_weight) * f64::from(e.weight) / localities[&e.locality];
    let sum: f64 = endpoints.iter().map(weight).sum();
    let shares = endpoints.iter().map(|e| Share {
        key: &e.hash_key,
        share: weight(e) / sum,
    });
    shares.collect()
}

/// Whether both lists make the same table.
fn alike(a: &[Endpoint], b: &[Endpoint]) -> bool {
    let key = |e: &Endpoint| (e.id, e.weight, e.locality_weight);
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| key(a) == key(b) && a.locality == b.locality && a.hash_key == b.hash_key)
}

impl LoadBalancer for ConsistentHash {
    fn update(
        &mut self,
        _now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    ) {
        let first = !std::mem::replace(&mut self.updated, true);
        let error = error.filter(|_| endpoints.is_empty()).cloned();
        if !first && error == self.error && alike(&self.endpoints, endpoints) {
            return;
        }
        self.error = error;
        self.rebuild(endpoints);
        out.push(Action::Changed);
        self.keep_trying(out);
    }

    fn subchannel_changed(
        &mut self,
        _now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    ) {
        let Some(at) = self.places.get(&id).copied() else {
            return;
        };
        if let Connectivity::TransientFailure(_) = state {
            // It is tried again after its backoff, whether or not a call asks.
            out.push(Action::Connect(id));
        }
        let (old, new) = (State::read(&self.states, at), State::of(state));
        let sticks = old == State::Failing && new != State::Ready;
        if sticks && new == State::Idle {
            out.push(Action::Connect(id));
        }
        let news = self.note_failure(state);
        if old == new || sticks {
            // Calls are told the last error, not the first.
            if news && matches!(self.connectivity(), Connectivity::TransientFailure(_)) {
                out.push(Action::Changed);
            }
            return;
        }
        self.states[at].store(new as u8, Relaxed);
        self.tally.moves(old, new);
        if old == State::Idle {
            self.idle.remove(&at);
        }
        if new == State::Idle {
            self.idle.insert(at);
        }
        out.push(Action::Changed);
        self.keep_trying(out);
    }

    fn connect_requested(&mut self, _now: Instant, id: SubchannelId, out: &mut Actions) {
        let place = self.places.get(&id);
        if place.is_some_and(|at| State::read(&self.states, *at) != State::Ready) {
            out.push(Action::Connect(id));
        }
    }

    fn connectivity(&self) -> Connectivity {
        let count = |state| self.tally.of(state);
        if count(State::Ready) > 0 {
            Connectivity::Ready
        } else if count(State::Failing) > 1 {
            Connectivity::TransientFailure(self.failure())
        } else if count(State::Connecting) > 0
            || (count(State::Failing) == 1 && self.endpoints.len() > 1)
        {
            Connectivity::Connecting
        } else if count(State::Idle) > 0 {
            Connectivity::Idle
        } else {
            Connectivity::TransientFailure(self.failure())
        }
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        if self.endpoints.is_empty() {
            return Arc::new(Failing(self.failure()));
        }
        let (table, ids) = self.table.get_or_insert_with(|| {
            let table = (self.make)(&shares(&self.endpoints)).into();
            (table, self.endpoints.iter().map(|e| e.id).collect())
        });
        let (table, ids) = (Arc::clone(table), Arc::clone(ids));
        Arc::new(Walk {
            table,
            ids,
            states: Arc::clone(&self.states),
            failure: self.failure(),
        })
    }
}

/// Asks the endpoint that the hash names, and those after it if it fails.
#[derive(Debug)]
struct Walk {
    /// Of at least one endpoint.
    table: Arc<dyn Table>,
    states: States,
    ids: Ids,
    failure: Failure,
}

impl Picker for Walk {
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a> {
        let len = self.table.len();
        let start = self.table.start(call.hash);
        let positions = (start..len).chain(0..start);
        let mut last = None;
        for position in positions {
            let at = self.table.endpoint(position) as usize;
            // Neighbours are often the same endpoint.
            if last.replace(at) == Some(at) {
                continue;
            }
            match State::read(&self.states, at) {
                State::Ready => return Pick::Ready(self.ids[at]),
                State::Idle => return Pick::Connect(self.ids[at]),
                State::Connecting => return Pick::Queue,
                State::Failing => {}
            }
        }
        Pick::Fail(&self.failure)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::conformance::Rig;
    use super::*;
    use crate::balancer::ring_hash;
    use sidestep_proto::resource::LbPolicy;

    use super::super::LoadBalancerFactory as _;

    const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

    /// Endpoints with these weights.
    pub(in crate::balancer) fn shares(weights: &[f64]) -> Vec<Share<'static>> {
        let sum: f64 = weights.iter().sum();
        let pairs = KEYS.into_iter().zip(weights);
        pairs
            .map(|(key, weight)| Share {
                key,
                share: weight / sum,
            })
            .collect()
    }

    fn addresses(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("10.0.0.{n}:443")).collect()
    }

    fn equal(addresses: &[String]) -> Vec<Share<'_>> {
        let share = 1.0 / addresses.len() as f64;
        addresses.iter().map(|key| Share { key, share }).collect()
    }

    fn keys() -> impl Iterator<Item = u64> {
        (0_u64..100_000).map(|n| xxhash_rust::xxh64::xxh64(&n.to_le_bytes(), 9))
    }

    /// The share of 100,000 keys that find another endpoint when one of 100 leaves.
    pub(in crate::balancer) fn moved(make: impl Fn(&[Share<'_>]) -> Box<dyn Table>) -> f64 {
        let addresses = addresses(100);
        let before = make(&equal(&addresses));
        let after = make(&equal(&addresses[..99]));
        let at = |table: &dyn Table, key| table.endpoint(table.start(key));
        let moved = keys().filter(|key| at(&*before, *key) != at(&*after, *key));
        moved.count() as f64 / 100_000.0
    }

    /// The least and the greatest share of keys that one of 100 endpoints gets, of the mean.
    pub(in crate::balancer) fn spread(make: impl Fn(&[Share<'_>]) -> Box<dyn Table>) -> (f64, f64) {
        let addresses = addresses(100);
        let table = make(&equal(&addresses));
        let mut counts = [0_u32; 100];
        for key in keys() {
            counts[table.endpoint(table.start(key)) as usize] += 1;
        }
        let of_mean = |count: Option<&u32>| f64::from(*count.unwrap()) / 1_000.0;
        (of_mean(counts.iter().min()), of_mean(counts.iter().max()))
    }

    fn rig(count: u32) -> Rig {
        let policy = LbPolicy::RingHash {
            min_ring_size: 1024,
            max_ring_size: 4096,
        };
        let mut rig = Rig::new(ring_hash::Factory.build(&policy, 1).unwrap());
        let endpoints: Vec<_> = (0..count).map(|id| rig.endpoint(id)).collect();
        rig.update(&endpoints);
        rig
    }

    fn wanted(rig: &Rig, hash: u64) -> SubchannelId {
        match rig.pick(hash) {
            Pick::Connect(id) | Pick::Ready(id) => id,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn connections_are_made_on_demand_and_hashes_stay() {
        let mut rig = rig(8);
        assert!(rig.connects.is_empty());
        assert_eq!(rig.state(), Connectivity::Idle);
        let id = wanted(&rig, 42);
        assert_eq!(rig.pick(42), Pick::Connect(id));
        rig.connect_requested(id);
        assert_eq!(rig.connects, [id]);
        rig.set(id, Connectivity::Connecting);
        assert_eq!(rig.pick(42), Pick::Queue);
        rig.set(id, Connectivity::Ready);
        for _ in 0..100 {
            assert_eq!(rig.pick(42), Pick::Ready(id));
        }
        // A lost connection is not renewed by itself, and the hash does not move.
        rig.set(id, Connectivity::Idle);
        assert_eq!(rig.pick(42), Pick::Connect(id));
        assert_eq!(rig.connects, [id]);
    }

    #[test]
    fn a_failing_endpoint_is_walked_past_and_kept_trying() {
        let mut rig = rig(3);
        let first = wanted(&rig, 42);
        rig.fail(first, "refused");
        let second = wanted(&rig, 42);
        assert_ne!(second, first);
        // One of several failed: something is on its way, without a call.
        assert_eq!(rig.state(), Connectivity::Connecting);
        assert!(rig.connects.contains(&first));
        assert_eq!(rig.connects.iter().filter(|id| **id != first).count(), 1);
        rig.set(first, Connectivity::Connecting);
        assert_eq!(wanted(&rig, 42), second, "a failure sticks until ready");
        rig.set(first, Connectivity::Ready);
        assert_eq!(rig.pick(42), Pick::Ready(first));
    }

    #[test]
    fn two_failures_make_the_whole_fail_while_a_third_is_tried() {
        let mut rig = rig(3);
        rig.fail(SubchannelId(0), "refused");
        rig.fail(SubchannelId(1), "refused");
        let Connectivity::TransientFailure(Failure(text, _)) = rig.state() else {
            panic!("{:?}", rig.state());
        };
        assert!(text.contains("none of 2 endpoints"), "{text}");
        assert!(rig.connects.contains(&SubchannelId(2)));
        // Calls still find the one that may work.
        assert_eq!(rig.pick(42), Pick::Connect(SubchannelId(2)));
        rig.set(SubchannelId(2), Connectivity::Ready);
        assert_eq!(rig.pick(42), Pick::Ready(SubchannelId(2)));
        assert_eq!(rig.state(), Connectivity::Ready);
    }

    #[test]
    fn weights_of_localities_and_endpoints_multiply() {
        let rig = Rig::new(
            ring_hash::Factory
                .build(
                    &LbPolicy::RingHash {
                        min_ring_size: 1,
                        max_ring_size: 1,
                    },
                    1,
                )
                .unwrap(),
        );
        let mut endpoints = vec![
            rig.endpoint_in(0, "a", 1, 0),
            rig.endpoint_in(1, "a", 1, 0),
            rig.endpoint_in(2, "b", 3, 0),
        ];
        endpoints[1].weight = 3;
        let found: Vec<f64> = super::shares(&endpoints).iter().map(|s| s.share).collect();
        assert_eq!(found, [1.0 / 16.0, 3.0 / 16.0, 12.0 / 16.0]);
    }
}
