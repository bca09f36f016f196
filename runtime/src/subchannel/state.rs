//! When an endpoint is connected, and when again after a failure. Pure: `now` is an argument.
//!
//! ```text
//!          connect_requested            connected
//!   Idle ───────────────────> Connecting ───────> Ready
//!    ^                          │    ^               │
//!    │                   failed │    │ requested     │ lost
//!    │                          v    │ during it     │
//!    ├──────── time-out ──── Backoff ┘               │
//!    └───────────────────────────────────────────────┘
//! ```
//!
//! An endpoint with several addresses connects by a race over all of them ([`super::race`]). Once
//! that is lost the endpoint has failed, and from then on each address is tried again on its own,
//! with its own backoff, until one of them answers (gRFC A61).
//!
//! gRPC connection backoff: 1 s, times 1.6 after each failure, ±20 %, at most 120 s; forgotten
//! once a connection was ready. A connection that is lost leaves the endpoint idle, without any
//! backoff; the policy decides whether it wants it back.

use std::time::{Duration, Instant};

use sidestep_proto::resource::Address;

use crate::balancer::{Connectivity, Failure};

const GROWTH: f64 = 1.6;
const JITTER: f64 = 0.2;

/// The pauses between failed tries. The default is gRPC's; tests shorten them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first, before jitter. 1 s.
    pub first: Duration,
    /// The longest, before jitter. 120 s.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(120),
        }
    }
}

/// The connection of one endpoint, as far as decisions go.
#[derive(Debug)]
pub struct Machine {
    state: State,
    /// What failed since the last ready connection.
    failing: Vec<Failing>,
    backoff: Backoff,
    random: fastrand::Rng,
}

/// What has failed and is to be tried again.
#[derive(Debug)]
struct Failing {
    /// `None`: the try failed before any address was dialled.
    address: Option<Address>,
    /// In a row.
    failures: u32,
    /// No try before this.
    until: Instant,
    /// A try of this address alone is under way, since then.
    trying: Option<Instant>,
}

/// Where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not connected and not trying.
    Idle,
    /// A try is under way.
    Connecting {
        /// When it began; the backoff counts from here.
        since: Instant,
    },
    /// Connected.
    Ready,
    /// The last try failed.
    Backoff {
        /// Why it failed.
        failure: Failure,
        /// Whether to connect when the time is over.
        requested: bool,
    },
}

/// What the owner has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Begin to connect: a race over all addresses.
    StartConnecting,
    /// Try this address again, beside others that may be tried.
    Retry(Address),
    /// Tell the policy.
    Report(Connectivity),
}

/// Outputs in the order in which they were decided.
pub type Outputs = Vec<Output>;

impl Machine {
    /// Idle, with gRPC's backoff; `seed` decides the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self::with_backoff(Backoff::default(), seed)
    }

    /// Idle, with a backoff of one's own.
    #[must_use]
    pub fn with_backoff(backoff: Backoff, seed: u64) -> Self {
        Self {
            state: State::Idle,
            failing: Vec::new(),
            backoff,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The pauses between failed tries.
    #[must_use]
    pub fn backoff(&self) -> Backoff {
        self.backoff
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state in the words of policies.
    #[must_use]
    pub fn connectivity(&self) -> Connectivity {
        match &self.state {
            State::Idle => Connectivity::Idle,
            State::Connecting { .. } => Connectivity::Connecting,
            State::Ready => Connectivity::Ready,
            State::Backoff { .. } if self.is_trying() => Connectivity::Connecting,
            State::Backoff { failure, .. } => Connectivity::TransientFailure(failure.clone()),
        }
    }

    /// Somebody wants a connection. During a backoff it is remembered.
    pub fn connect_requested(&mut self, now: Instant, out: &mut Outputs) {
        match &mut self.state {
            State::Idle => self.start(now, out),
            State::Backoff { requested, .. } => {
                *requested = true;
                self.timeout(now, out);
            }
            State::Connecting { .. } | State::Ready => {}
        }
    }

    /// A try succeeded.
    pub fn connected(&mut self, out: &mut Outputs) {
        if matches!(self.state, State::Connecting { .. }) || self.is_trying() {
            self.failing.clear();
            self.enter(State::Ready, out);
        }
    }

    /// The race is lost. `attempts` are the addresses that were tried, and when each was begun;
    /// none if it did not come to that.
    pub fn failed(
        &mut self,
        now: Instant,
        failure: Failure,
        attempts: impl IntoIterator<Item = (Address, Instant)>,
        out: &mut Outputs,
    ) {
        let State::Connecting { since } = self.state else {
            return;
        };
        let before = std::mem::take(&mut self.failing);
        let failures = |address: &Option<Address>| {
            let known = before.iter().find(|failing| failing.address == *address);
            known.map_or(0, |failing| failing.failures)
        };
        let mut tried: Vec<_> = attempts
            .into_iter()
            .map(|(address, begun)| (Some(address), begun))
            .collect();
        if tried.is_empty() {
            tried.push((None, since));
        }
        let failing = tried.into_iter().map(|(address, begun)| {
            let failures = failures(&address);
            let pause = pause(&self.backoff, failures, &mut self.random);
            Failing {
                address,
                failures: failures.saturating_add(1),
                // The wait counts from the begin of the try, so a slow failure has partly waited.
                until: (begun + pause).max(now),
                trying: None,
            }
        });
        // No more room than is needed: most endpoints have one address, and this may be kept of
        // each of them for long.
        self.failing = failing.collect();
        let requested = false;
        self.enter(State::Backoff { failure, requested }, out);
    }

    /// The try of one address, asked for with [`Output::Retry`], has failed.
    pub fn retry_failed(
        &mut self,
        now: Instant,
        address: &Address,
        why: Failure,
        out: &mut Outputs,
    ) {
        let mut failing = self.failing.iter_mut();
        let its = failing.find(|failing| failing.address.as_ref() == Some(address));
        let Some((failing, begun)) = its.and_then(|f| f.trying.take().map(|at| (f, at))) else {
            return;
        };
        let failures = failing.failures;
        failing.failures = failures.saturating_add(1);
        let until = (begun + pause(&self.backoff, failures, &mut self.random)).max(now);
        failing.until = until;
        let trying = self.is_trying();
        if let State::Backoff { failure, requested } = &mut self.state {
            *failure = why;
            if !trying {
                *requested = false;
                out.push(Output::Report(self.connectivity()));
            }
        }
    }

    /// The connection ended or takes no more streams.
    pub fn lost(&mut self, out: &mut Outputs) {
        if self.state == State::Ready {
            self.enter(State::Idle, out);
        }
    }

    /// The owner gave the connection, or the try, up. Nobody is told: who decided it knows.
    pub fn closed(&mut self) {
        self.state = State::Idle;
        for failing in &mut self.failing {
            failing.trying = None;
        }
    }

    /// The owner gives up whatever it tries and begins a race over all addresses instead. Nobody
    /// is told: it is connecting as before.
    pub fn restarted(&mut self, now: Instant) {
        self.closed();
        self.state = State::Connecting { since: now };
    }

    /// When [`Self::timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        let State::Backoff { requested, .. } = self.state else {
            return None;
        };
        let waiting = self.failing.iter().filter(|f| f.trying.is_none());
        let times = waiting.map(|failing| failing.until);
        if requested { times.min() } else { times.max() }
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Instant, out: &mut Outputs) {
        let State::Backoff { requested, .. } = self.state else {
            return;
        };
        let over = |failing: &Failing| failing.trying.is_none() && failing.until <= now;
        match self.failing.as_slice() {
            all if !requested => {
                if all.iter().all(over) {
                    self.enter(State::Idle, out);
                }
            }
            // Nothing to choose between.
            [only] if over(only) => self.start(now, out),
            [_] => {}
            _ => self.retry(now, out),
        }
    }

    /// Tries each address whose time has come.
    fn retry(&mut self, now: Instant, out: &mut Outputs) {
        let trying = self.is_trying();
        let mut begun = Vec::new();
        for failing in &mut self.failing {
            if failing.trying.is_none() && failing.until <= now {
                failing.trying = Some(now);
                begun.extend(failing.address.clone().map(Output::Retry));
            }
        }
        if !trying && !begun.is_empty() {
            out.push(Output::Report(self.connectivity()));
        }
        out.extend(begun);
    }

    fn is_trying(&self) -> bool {
        let backoff = matches!(self.state, State::Backoff { .. });
        backoff && self.failing.iter().any(|f| f.trying.is_some())
    }

    fn start(&mut self, now: Instant, out: &mut Outputs) {
        self.enter(State::Connecting { since: now }, out);
        out.push(Output::StartConnecting);
    }

    fn enter(&mut self, state: State, out: &mut Outputs) {
        self.state = state;
        out.push(Output::Report(self.connectivity()));
    }
}

/// After so many failures before this one.
pub(super) fn pause(backoff: &Backoff, failures: u32, random: &mut fastrand::Rng) -> Duration {
    let exponent = i32::try_from(failures).unwrap_or(i32::MAX);
    let grown = backoff.first.as_secs_f64() * GROWTH.powi(exponent);
    let base = grown.min(backoff.longest.as_secs_f64());
    let jitter = 1.0 + JITTER * (2.0 * random.f64() - 1.0);
    Duration::from_secs_f64(base * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        Failure::new(sidestep_proto::code::CANNOT_CONNECT, "refused")
    }

    fn run(act: impl FnOnce(&mut Outputs)) -> Outputs {
        let mut out = Outputs::new();
        act(&mut out);
        out
    }

    /// Fails `times` times in a row, each try at once after its backoff; returns the backoffs.
    fn backoffs(machine: &mut Machine, start: Instant, times: usize) -> Vec<Duration> {
        let mut now = start;
        let mut waits = Vec::new();
        let out = &mut Outputs::new();
        for _ in 0..times {
            machine.connect_requested(now, out);
            machine.failed(now, failure(), None, out);
            let until = machine.next_timeout().expect("in backoff");
            waits.push(until - now);
            now = until;
            machine.timeout(now, out);
        }
        waits
    }

    #[test]
    fn connects_on_request_and_reports_each_step() {
        let now = Instant::now();
        let mut machine = Machine::new(1);
        assert_eq!(
            run(|out| machine.connect_requested(now, out)),
            [
                Output::Report(Connectivity::Connecting),
                Output::StartConnecting
            ]
        );
        assert_eq!(run(|out| machine.connect_requested(now, out)), []);
        assert_eq!(
            run(|out| machine.connected(out)),
            [Output::Report(Connectivity::Ready)]
        );
        assert_eq!(
            run(|out| machine.lost(out)),
            [Output::Report(Connectivity::Idle)]
        );
    }

    #[test]
    fn backoff_grows_to_its_bound_within_the_jitter() {
        for seed in 0..50 {
            let mut machine = Machine::new(seed);
            for (n, wait) in backoffs(&mut machine, Instant::now(), 15)
                .into_iter()
                .enumerate()
            {
                let base = (1.6f64.powi(i32::try_from(n).unwrap())).min(120.0);
                let seconds = wait.as_secs_f64();
                assert!(
                    (base * 0.8 - 1e-6..=base * 1.2 + 1e-6).contains(&seconds),
                    "seed {seed}: backoff {n} is {seconds} s, base {base} s"
                );
            }
        }
    }

    #[test]
    fn a_ready_connection_forgets_the_failures() {
        let now = Instant::now();
        let mut machine = Machine::new(7);
        backoffs(&mut machine, now, 10);
        let out = &mut Outputs::new();
        machine.connect_requested(now, out);
        machine.connected(out);
        machine.lost(out);
        assert!(backoffs(&mut machine, now, 1)[0] <= Duration::from_millis(1200));
    }

    #[test]
    fn a_request_during_the_backoff_connects_at_its_end() {
        let now = Instant::now();
        let mut machine = Machine::new(3);
        let out = &mut Outputs::new();
        machine.connect_requested(now, out);
        machine.failed(now, failure(), None, out);
        let until = machine.next_timeout().unwrap();
        assert_eq!(run(|out| machine.connect_requested(now, out)), []);
        let early = until - Duration::from_millis(1);
        assert_eq!(run(|out| machine.timeout(early, out)), []);
        assert_eq!(
            run(|out| machine.timeout(until, out)),
            [
                Output::Report(Connectivity::Connecting),
                Output::StartConnecting
            ]
        );
    }

    #[test]
    fn without_a_request_the_backoff_ends_idle() {
        let now = Instant::now();
        let mut machine = Machine::new(3);
        let out = &mut Outputs::new();
        machine.connect_requested(now, out);
        machine.failed(now, failure(), None, out);
        let until = machine.next_timeout().unwrap();
        assert_eq!(
            run(|out| machine.timeout(until, out)),
            [Output::Report(Connectivity::Idle)]
        );
        assert_eq!(machine.next_timeout(), None);
    }

    #[test]
    fn a_slow_failure_has_waited_already() {
        let now = Instant::now();
        let mut machine = Machine::new(3);
        let out = &mut Outputs::new();
        machine.connect_requested(now, out);
        let later = now + Duration::from_secs(20);
        machine.failed(later, failure(), None, out);
        assert_eq!(machine.next_timeout(), Some(later));
    }

    #[test]
    fn answers_that_come_too_late_change_nothing() {
        let now = Instant::now();
        let mut machine = Machine::new(3);
        assert_eq!(run(|out| machine.connected(out)), []);
        assert_eq!(run(|out| machine.failed(now, failure(), None, out)), []);
        assert_eq!(run(|out| machine.lost(out)), []);
        assert_eq!(*machine.state(), State::Idle);
    }

    fn at(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    /// Ports 1 and 2 have failed: the first was begun at `now`, the second half a second later.
    fn lost_race(machine: &mut Machine, now: Instant) -> Instant {
        let out = &mut Outputs::new();
        machine.connect_requested(now, out);
        let later = now + Duration::from_millis(500);
        machine.failed(later, failure(), [(at(1), now), (at(2), later)], out);
        assert!(matches!(
            machine.connectivity(),
            Connectivity::TransientFailure(_)
        ));
        later
    }

    #[test]
    fn after_a_lost_race_each_address_has_its_own_backoff() {
        let mut machine = Machine::new(5);
        let now = Instant::now();
        let later = lost_race(&mut machine, now);
        assert_eq!(run(|out| machine.connect_requested(later, out)), []);
        let first = machine.next_timeout().unwrap();
        assert!(first < now + Duration::from_millis(1201), "from its begin");
        assert_eq!(
            run(|out| machine.timeout(first, out)),
            [
                Output::Report(Connectivity::Connecting),
                Output::Retry(at(1))
            ]
        );
        let second = machine.next_timeout().unwrap();
        assert!(second >= now + Duration::from_millis(1300));
        // The second begins although the first is still tried, and needs no further report.
        assert_eq!(
            run(|out| machine.timeout(second, out)),
            [Output::Retry(at(2))]
        );
        assert_eq!(machine.next_timeout(), None);
        let text = |why| Failure::new(sidestep_proto::code::CANNOT_CONNECT, why);
        assert_eq!(
            run(|out| machine.retry_failed(second, &at(2), text("two"), out)),
            [],
            "the first may still answer"
        );
        assert_eq!(
            run(|out| machine.retry_failed(second, &at(1), text("one"), out)),
            [Output::Report(Connectivity::TransientFailure(text("one")))]
        );
        // Nobody asked again: idle, once both have waited.
        let idle = machine.next_timeout().unwrap();
        assert!(idle > second + Duration::from_millis(1200), "it has grown");
        assert_eq!(
            run(|out| machine.timeout(idle, out)),
            [Output::Report(Connectivity::Idle)]
        );
    }

    #[test]
    fn one_address_that_answers_ends_the_failure() {
        let mut machine = Machine::new(5);
        let later = lost_race(&mut machine, Instant::now());
        let out = &mut Outputs::new();
        machine.connect_requested(later, out);
        let first = machine.next_timeout().unwrap();
        machine.timeout(first, out);
        assert_eq!(
            run(|out| machine.connected(out)),
            [Output::Report(Connectivity::Ready)]
        );
        assert_eq!(machine.next_timeout(), None);
        assert_eq!(
            run(|out| machine.retry_failed(first, &at(1), failure(), out)),
            []
        );
        assert_eq!(*machine.state(), State::Ready);
    }

    #[test]
    fn a_restart_races_over_all_addresses_again() {
        let mut machine = Machine::new(5);
        let later = lost_race(&mut machine, Instant::now());
        let out = &mut Outputs::new();
        machine.connect_requested(later, out);
        let first = machine.next_timeout().unwrap();
        machine.timeout(first, out);
        machine.restarted(first);
        assert_eq!(*machine.state(), State::Connecting { since: first });
        assert_eq!(
            run(|out| machine.connected(out)),
            [Output::Report(Connectivity::Ready)]
        );
    }
}
