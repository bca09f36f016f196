//! One endpoint of a cluster: the state of its connections, and the connections.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::Address;

use super::attempt::{AttemptId, Claim, Outcome};
use super::connection_log::ConnectionLog;
use super::dialer::{Dialer, Security};
use super::inspect::Calendar;
use super::reconcile::{Added, EndpointKey};
use super::reports::{Reports, Source};
use crate::balancer::{Connectivity, Failure, SubchannelId};
use crate::inspect::LastError;
use crate::snapshot::{self, ClusterId, Slot};
use crate::subchannel::growth::Growth;
use crate::subchannel::state::{Machine, Output, Outputs};
use crate::subchannel::{Closed, ConnectError, Connection};

/// The surroundings of one step.
pub(super) struct Step<'a> {
    pub(super) now: Instant,
    pub(super) security: &'a Security,
    pub(super) dialer: &'a mut Dialer,
    /// Most connections to one endpoint.
    pub(super) most_connections: u32,
    /// The states that the endpoint passed through, for the policy.
    pub(super) states: &'a mut Vec<Connectivity>,
}

/// One endpoint.
pub(super) struct Endpoint {
    cluster: ClusterId,
    id: SubchannelId,
    key: EndpointKey,
    /// Where it listens, in the order to try.
    addresses: Arc<[Address]>,
    pub(super) slot: Arc<Slot>,
    /// When it is going to be called, as its cluster noted.
    pub(super) timer: Option<Instant>,
    machine: Machine,
    /// The race over all addresses, while it is under way.
    race: Option<Claim>,
    /// Tries of one address each, after all of them have failed.
    retries: Vec<(Address, Claim)>,
    /// The connections in use, oldest first.
    open: Vec<Open>,
    /// What is known of further ones; made when a call first waits for room.
    growth: Option<Box<Growing>>,
    /// The try for a connection by changed security, beside those in use.
    replacement: Option<Claim>,
    last_error: Option<(Instant, Failure)>,
    log: ConnectionLog,
    reports: Reports,
}

struct Open {
    claim: Claim,
    connection: Arc<Connection>,
}

struct Growing {
    machine: Growth,
    /// The try under way.
    claim: Option<Claim>,
}

impl Endpoint {
    pub(super) fn new(
        cluster: &snapshot::Cluster,
        added: &Added,
        slot: Arc<Slot>,
        target: &Arc<str>,
        dialer: &Dialer,
    ) -> Self {
        let name = cluster.name().clone();
        let log = ConnectionLog::new(dialer.telemetry.clone(), target.clone(), name, slot.clone());
        Self {
            cluster: cluster.id(),
            id: added.id,
            key: added.key.clone(),
            addresses: added.addresses.clone(),
            slot,
            timer: None,
            log,
            reports: Reports::default(),
            machine: Machine::with_backoff(dialer.backoff, fastrand::u64(..)),
            race: None,
            retries: Vec::new(),
            open: Vec::new(),
            growth: None,
            replacement: None,
            last_error: None,
        }
    }

    /// The control plane names its addresses in another order: the next try follows it.
    pub(super) fn reorder(&mut self, addresses: Arc<[Address]>) {
        self.addresses = addresses;
    }

    /// The policy wants it connected.
    pub(super) fn connect(&mut self, step: &mut Step<'_>) {
        let mut outputs = Outputs::new();
        self.machine.connect_requested(step.now, &mut outputs);
        self.follow(step, outputs);
    }

    /// The policy gives the connection up; calls in flight go on.
    pub(super) fn close(&mut self, _step: &mut Step<'_>) {
        self.log.given_up("the policy wants it no more");
        self.release();
        self.machine.closed();
    }

    /// The whole cluster gives its connections up; calls in flight go on.
    pub(super) fn sleep(&mut self, _step: &mut Step<'_>) {
        self.log.given_up("the cluster has no calls");
        self.release();
        self.machine.closed();
    }

    /// The cluster's security changed: a new connection is made, and the one in use goes when
    /// that one is there.
    pub(super) fn secure(&mut self, step: &mut Step<'_>) {
        let mut outputs = Outputs::new();
        if !self.open.is_empty() {
            self.growth = None;
            match self.dial(step, &self.addresses) {
                Ok(claim) => self.replacement = Some(claim),
                Err(failure) => self.outlawed(step.now, failure.1, &failure.0, &mut outputs),
            }
        } else if self.race.is_some() || !self.retries.is_empty() {
            // A try by the old rules must not succeed any more.
            self.retries.clear();
            self.machine.restarted(step.now);
            self.start(step, &mut outputs);
        }
        self.follow(step, outputs);
    }

    /// Calls may be waiting for room: opens one more connection, if that is of use and allowed
    /// (gRFC A105).
    pub(super) fn grow(&mut self, step: &mut Step<'_>) {
        let most = step.most_connections;
        let growing = self.growth.get_or_insert_with(|| {
            let machine = Growth::new(step.dialer.backoff, fastrand::u64(..));
            Box::new(Growing {
                machine,
                claim: None,
            })
        });
        if !growing.machine.may_open(self.open.len(), most) || !self.slot.connections.need_more() {
            return;
        }
        // The address that has answered.
        let peer = self.open[0].connection.peer().clone();
        if let Ok(claim) = self.dial(step, std::slice::from_ref(&peer))
            && let Some(growing) = &mut self.growth
        {
            self.log.connecting();
            growing.machine.opening(step.now);
            growing.claim = Some(claim);
        }
    }

    /// More connections are allowed than before. Matters only where calls have waited.
    pub(super) fn grow_again(&mut self, step: &mut Step<'_>) {
        if self.growth.is_some() {
            self.grow(step);
        }
    }

    /// Hears from a connection.
    pub(super) fn heard(&mut self, step: &mut Step<'_>, attempt: AttemptId, outcome: Outcome) {
        let mut outputs = Outputs::new();
        let grows = self.growth.as_ref().map(|growing| &growing.claim);
        if let Outcome::Lost(closed) = outcome {
            self.heard_lost(step, attempt, &closed, &mut outputs);
        } else if is(&self.replacement, attempt) {
            self.heard_replacement(step.now, outcome, &mut outputs);
        } else if is(&self.race, attempt) {
            self.heard_race(step.now, outcome, &mut outputs);
        } else if grows.is_some_and(|claim| is(claim, attempt)) {
            self.heard_growth(step, outcome);
        } else {
            self.heard_retry(step.now, attempt, outcome, &mut outputs);
        }
        self.follow(step, outputs);
    }

    /// Asks for load reports as policies want them by now, over the connection that there is.
    pub(super) fn follow_reports(&mut self) {
        let oldest = self.open.first().map(|open| &*open.connection);
        let asked = self.slot.load.report_period();
        self.reports.follow(oldest, asked, || Source {
            cluster: self.log.cluster().clone(),
            endpoint: self.slot.address.clone(),
            hostname: self.key.hostname.clone(),
            load: self.slot.load.clone(),
            backoff: self.machine.backoff(),
        });
    }

    /// When [`Endpoint::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        #[cfg(test)]
        visits::count();
        let growth = self.growth.as_ref();
        let growth = growth.and_then(|growing| growing.machine.next_timeout());
        self.machine.next_timeout().into_iter().chain(growth).min()
    }

    /// The moment has come.
    pub(super) fn handle_timeout(&mut self, step: &mut Step<'_>) {
        let mut outputs = Outputs::new();
        self.machine.timeout(step.now, &mut outputs);
        self.follow(step, outputs);
        let growing = self.growth.as_mut();
        if growing.is_some_and(|growing| growing.machine.timeout(step.now)) {
            self.grow(step);
        }
    }

    /// The state that a policy new to this endpoint has to know.
    pub(super) fn connectivity(&self) -> Connectivity {
        self.machine.connectivity()
    }

    /// What makes it this endpoint.
    pub(super) fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Calls in flight there.
    pub(super) fn in_flight(&self) -> u32 {
        self.slot.load.in_flight.load(Ordering::Relaxed)
    }

    /// The last connection that failed or was lost.
    pub(super) fn last_error(&self, calendar: Calendar) -> Option<LastError> {
        let (at, failure) = self.last_error.as_ref()?;
        Some(LastError {
            reason: failure.0.to_string(),
            at: calendar.date(*at),
        })
    }

    fn heard_race(&mut self, now: Instant, outcome: Outcome, out: &mut Outputs) {
        let Some(claim) = self.race.take() else {
            return;
        };
        match outcome {
            Outcome::Connected(connection) => self.connected(claim, connection, out),
            Outcome::Failed(error) => {
                let failure = self.failed(now, &error);
                let tried = error.attempts.into_iter();
                let tried = tried.map(|attempt| (attempt.address, attempt.begun));
                self.machine.failed(now, failure, tried, out);
            }
            Outcome::Lost(_) => {}
        }
    }

    fn heard_retry(
        &mut self,
        now: Instant,
        attempt: AttemptId,
        outcome: Outcome,
        out: &mut Outputs,
    ) {
        let mut retries = self.retries.iter();
        let Some(its) = retries.position(|(_, claim)| claim.attempt == attempt) else {
            return;
        };
        let (address, claim) = self.retries.swap_remove(its);
        match outcome {
            Outcome::Connected(connection) => {
                // The others have lost.
                self.retries.clear();
                self.connected(claim, connection, out);
            }
            Outcome::Failed(error) => {
                let failure = self.failed(now, &error);
                self.machine.retry_failed(now, &address, failure, out);
            }
            Outcome::Lost(_) => {}
        }
    }

    fn heard_replacement(&mut self, now: Instant, outcome: Outcome, out: &mut Outputs) {
        match outcome {
            Outcome::Connected(connection) => {
                let claim = self.replacement.take();
                let reason = "replaced by a connection under the new security";
                self.log.given_up(reason);
                self.open.clear();
                self.opened(claim, connection);
                self.show_newest();
            }
            // What the control plane now demands cannot be had. The connections in use were made
            // by other rules and must not stay; the reconnect will say what is wrong.
            Outcome::Failed(error) => self.outlawed(now, error.code(), &error.to_string(), out),
            Outcome::Lost(_) => {}
        }
    }

    fn heard_growth(&mut self, step: &mut Step<'_>, outcome: Outcome) {
        let Some(growing) = &mut self.growth else {
            return;
        };
        let claim = growing.claim.take();
        match outcome {
            Outcome::Connected(connection) => {
                growing.machine.opened();
                self.opened(claim, connection);
                self.show_newest();
                self.grow(step);
            }
            Outcome::Failed(error) => {
                growing.machine.failed(step.now);
                self.failed(step.now, &error);
            }
            Outcome::Lost(_) => {}
        }
    }

    fn heard_lost(
        &mut self,
        step: &mut Step<'_>,
        attempt: AttemptId,
        closed: &Closed,
        out: &mut Outputs,
    ) {
        let mut open = self.open.iter();
        let Some(its) = open.position(|open| open.claim.attempt == attempt) else {
            return;
        };
        self.last_error = Some((
            step.now,
            self.failure(code::CONNECTION_LOST, &closed.reason),
        ));
        self.log.closed(attempt, closed);
        self.open.remove(its);
        if self.open.is_empty() {
            self.release();
            self.machine.lost(out);
        } else {
            self.show();
            self.grow(step);
        }
    }

    /// The first connection.
    fn connected(&mut self, claim: Claim, connection: Connection, out: &mut Outputs) {
        self.opened(Some(claim), connection);
        self.show_newest();
        self.machine.connected(out);
    }

    fn opened(&mut self, claim: Option<Claim>, connection: Connection) {
        if let Some(claim) = claim {
            // Nearly all endpoints have one connection for ever.
            self.open.reserve_exact(1);
            self.open.push(Open::new(claim, connection));
        }
    }

    /// Notes a failed try.
    fn failed(&mut self, now: Instant, error: &ConnectError) -> Failure {
        let text = error.to_string();
        self.log.failed(&text);
        let failure = self.failure(error.code(), &text);
        self.last_error = Some((now, failure.clone()));
        failure
    }

    /// There is no connection by the new rules, so the one by the old rules goes.
    fn outlawed(&mut self, now: Instant, code: Code, reason: &str, out: &mut Outputs) {
        self.last_error = Some((now, self.failure(code, reason)));
        self.log.failed(reason);
        self.log.given_up("the cluster's security has changed");
        self.release();
        self.machine.lost(out);
    }

    fn show_newest(&mut self) {
        if let Some(newest) = self.open.last() {
            self.log.ready(newest.claim.attempt, &newest.connection);
        }
        self.show();
    }

    /// Lets calls use the connections that there are.
    fn show(&self) {
        let open = self.open.iter().map(|open| open.connection.clone());
        self.slot.connections.set(open);
    }

    fn release(&mut self) {
        self.race = None;
        self.retries.clear();
        self.open.clear();
        self.growth = None;
        self.replacement = None;
        self.show();
    }

    /// Does what the machine decided.
    fn follow(&mut self, step: &mut Step<'_>, outputs: Outputs) {
        let mut outputs = VecDeque::from(outputs);
        while let Some(output) = outputs.pop_front() {
            match output {
                Output::StartConnecting => {
                    let mut more = Outputs::new();
                    self.start(step, &mut more);
                    outputs.extend(more);
                }
                Output::Retry(address) => {
                    let mut more = Outputs::new();
                    self.retry(step, address, &mut more);
                    outputs.extend(more);
                }
                Output::Report(state) => step.states.push(state),
            }
        }
    }

    fn start(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        match self.dial(step, &self.addresses) {
            Ok(claim) => {
                self.log.connecting();
                self.race = Some(claim);
            }
            Err(failure) => {
                self.log.failed(&failure.0);
                self.race = None;
                self.last_error = Some((step.now, failure.clone()));
                self.machine.failed(step.now, failure, None, out);
            }
        }
    }

    fn retry(&mut self, step: &mut Step<'_>, address: Address, out: &mut Outputs) {
        match self.dial(step, std::slice::from_ref(&address)) {
            Ok(claim) => {
                self.log.connecting();
                self.retries.push((address, claim));
            }
            Err(failure) => {
                self.log.failed(&failure.0);
                self.last_error = Some((step.now, failure.clone()));
                self.machine.retry_failed(step.now, &address, failure, out);
            }
        }
    }

    /// Starts a try at `addresses`.
    fn dial(&self, step: &mut Step<'_>, addresses: &[Address]) -> Result<Claim, Failure> {
        let allowed = step.dialer.allowed(step.security, addresses);
        let addresses = allowed.map_err(|(code, reason)| self.failure(code, reason))?;
        let server_name = self.key.hostname.to_string();
        let (security, ids) = (step.security, (self.cluster, self.id));
        Ok(step.dialer.dial(security, ids, addresses, server_name))
    }

    fn failure(&self, code: Code, reason: &str) -> Failure {
        Failure::new(code, format!("endpoint {}: {reason}", self.slot.address))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Calls that still hold the slot wait for the next picker instead.
        self.slot.connections.set(std::iter::empty());
    }
}

impl Open {
    fn new(claim: Claim, connection: Connection) -> Self {
        Self {
            claim,
            connection: Arc::new(connection),
        }
    }
}

fn is(claim: &Option<Claim>, attempt: AttemptId) -> bool {
    claim.as_ref().is_some_and(|claim| claim.attempt == attempt)
}

/// How often an endpoint was looked at, by the thread: each step asks for its next time-out.
#[cfg(test)]
pub(super) mod visits {
    use std::cell::Cell;

    thread_local! {
        static VISITS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        VISITS.set(VISITS.get() + 1);
    }

    pub(in crate::control) fn take() -> usize {
        VISITS.replace(0)
    }
}
