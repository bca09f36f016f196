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
//! gRPC connection backoff: 1 s, times 1.6 after each failure, ±20 %, at most 120 s; forgotten
//! once a connection was ready. A connection that is lost leaves the endpoint idle, without any
//! backoff; the policy decides whether it wants it back.

use std::time::{Duration, Instant};

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
    /// Failures since the last ready connection.
    failures: u32,
    backoff: Backoff,
    random: fastrand::Rng,
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
        /// No try before this.
        until: Instant,
        /// Why it failed.
        failure: Failure,
        /// Whether to connect when the time is over.
        requested: bool,
    },
}

/// What the owner has to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Begin to connect.
    StartConnecting,
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
            failures: 0,
            backoff,
            random: fastrand::Rng::with_seed(seed),
        }
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
            State::Backoff { failure, .. } => Connectivity::TransientFailure(failure.clone()),
        }
    }

    /// Somebody wants a connection. During a backoff it is remembered.
    pub fn connect_requested(&mut self, now: Instant, out: &mut Outputs) {
        match &mut self.state {
            State::Idle => self.start(now, out),
            State::Backoff { until, .. } if *until <= now => self.start(now, out),
            State::Backoff { requested, .. } => *requested = true,
            State::Connecting { .. } | State::Ready => {}
        }
    }

    /// The try succeeded.
    pub fn connected(&mut self, out: &mut Outputs) {
        if let State::Connecting { .. } = self.state {
            self.failures = 0;
            self.enter(State::Ready, out);
        }
    }

    /// The try failed.
    pub fn failed(&mut self, now: Instant, failure: Failure, out: &mut Outputs) {
        if let State::Connecting { since } = self.state {
            // The wait counts from the begin of the try, so a slow failure has partly waited.
            let until = (since + self.next_backoff()).max(now);
            let requested = false;
            self.enter(
                State::Backoff {
                    until,
                    failure,
                    requested,
                },
                out,
            );
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
    }

    /// When [`Self::timeout`] wants to be called.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Backoff { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Instant, out: &mut Outputs) {
        match self.state {
            State::Backoff {
                until, requested, ..
            } if until <= now => {
                if requested {
                    self.start(now, out);
                } else {
                    self.enter(State::Idle, out);
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, now: Instant, out: &mut Outputs) {
        self.enter(State::Connecting { since: now }, out);
        out.push(Output::StartConnecting);
    }

    fn enter(&mut self, state: State, out: &mut Outputs) {
        self.state = state;
        out.push(Output::Report(self.connectivity()));
    }

    fn next_backoff(&mut self) -> Duration {
        let exponent = i32::try_from(self.failures).unwrap_or(i32::MAX);
        self.failures = self.failures.saturating_add(1);
        let grown = self.backoff.first.as_secs_f64() * GROWTH.powi(exponent);
        let base = grown.min(self.backoff.longest.as_secs_f64());
        let jitter = 1.0 + JITTER * (2.0 * self.random.f64() - 1.0);
        Duration::from_secs_f64(base * jitter)
    }
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
            machine.failed(now, failure(), out);
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
        machine.failed(now, failure(), out);
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
        machine.failed(now, failure(), out);
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
        machine.failed(later, failure(), out);
        assert_eq!(machine.next_timeout(), Some(later));
    }

    #[test]
    fn answers_that_come_too_late_change_nothing() {
        let now = Instant::now();
        let mut machine = Machine::new(3);
        assert_eq!(run(|out| machine.connected(out)), []);
        assert_eq!(run(|out| machine.failed(now, failure(), out)), []);
        assert_eq!(run(|out| machine.lost(out)), []);
        assert_eq!(*machine.state(), State::Idle);
    }
}
