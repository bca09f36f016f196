//! One endpoint of a cluster: the state of its connection, and the connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::Address;

use super::attempt::{self, AttemptId, Claim, Outcome, Owner};
use super::connection_log::ConnectionLog;
use super::inspect::Calendar;
use super::reconcile::EndpointKey;
use super::{PlaintextPolicy, WeakInbox};
use crate::balancer::{Connectivity, Failure, SubchannelId};
use crate::inspect::LastError;
use crate::security::ClientTls;
use crate::snapshot::{self, ClusterId, Slot};
use crate::subchannel::state::Backoff;
use crate::subchannel::state::{Machine, Output, Outputs};
use crate::subchannel::{Closed, ConnectTarget, Connection, Connector, Http2Options};
use crate::telemetry::Telemetry;

/// What every connection of the process is made with.
pub(super) struct Dialer {
    pub(super) inbox: WeakInbox,
    pub(super) connector: Connector,
    pub(super) http2: Arc<Http2Options>,
    pub(super) plaintext: PlaintextPolicy,
    pub(super) backoff: Backoff,
    pub(super) attempts: u64,
    pub(super) telemetry: Arc<Telemetry>,
}

/// How the endpoints of a cluster are secured.
pub(super) enum Security {
    /// The control plane says nothing of it.
    Unsaid,
    /// Plaintext to any peer: asked for by the program and by the operator.
    Plaintext,
    /// TLS.
    Tls(Arc<ClientTls>),
}

impl Security {
    fn tls(&self) -> Option<Arc<ClientTls>> {
        match self {
            Self::Tls(tls) => Some(tls.clone()),
            Self::Unsaid | Self::Plaintext => None,
        }
    }
}

/// The surroundings of one step.
pub(super) struct Step<'a> {
    pub(super) now: Instant,
    pub(super) security: &'a Security,
    pub(super) dialer: &'a mut Dialer,
    /// The states that the endpoint passed through, for the policy.
    pub(super) states: &'a mut Vec<Connectivity>,
}

/// One endpoint.
pub(super) struct Endpoint {
    cluster: ClusterId,
    id: SubchannelId,
    key: EndpointKey,
    pub(super) slot: Arc<Slot>,
    machine: Machine,
    /// The try under way, or the connection in use.
    claim: Option<Claim>,
    /// The try for a connection by changed security, beside the one in use.
    replacement: Option<Claim>,
    last_error: Option<(Instant, Failure)>,
    log: ConnectionLog,
}

impl Endpoint {
    pub(super) fn new(
        cluster: &snapshot::Cluster,
        id: SubchannelId,
        key: EndpointKey,
        slot: Arc<Slot>,
        target: &Arc<str>,
        dialer: &Dialer,
    ) -> Self {
        let name = cluster.name().clone();
        let log = ConnectionLog::new(dialer.telemetry.clone(), target.clone(), name, slot.clone());
        Self {
            cluster: cluster.id(),
            id,
            key,
            slot,
            log,
            machine: Machine::with_backoff(dialer.backoff, fastrand::u64(..)),
            claim: None,
            replacement: None,
            last_error: None,
        }
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

    /// The cluster's security changed: a new connection is made, and the one in use goes when
    /// that one is there.
    pub(super) fn secure(&mut self, step: &mut Step<'_>) {
        let mut outputs = Outputs::new();
        if self.slot.connection.load().is_some() {
            match self.dial(step) {
                Ok(claim) => self.replacement = Some(claim),
                Err(failure) => self.outlawed(step.now, failure.1, &failure.0, &mut outputs),
            }
        } else if self.claim.is_some() {
            // A try by the old rules must not succeed any more.
            self.start(step, &mut outputs);
        }
        self.follow(step, outputs);
    }

    /// Hears from a connection.
    pub(super) fn heard(&mut self, step: &mut Step<'_>, attempt: AttemptId, outcome: Outcome) {
        let mut outputs = Outputs::new();
        if is(&self.replacement, attempt) {
            self.heard_replacement(step.now, outcome, &mut outputs);
        } else if is(&self.claim, attempt) {
            self.heard_claim(step.now, outcome, &mut outputs);
        }
        self.follow(step, outputs);
    }

    /// When [`Endpoint::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.machine.next_timeout()
    }

    /// The moment has come.
    pub(super) fn handle_timeout(&mut self, step: &mut Step<'_>) {
        let mut outputs = Outputs::new();
        self.machine.timeout(step.now, &mut outputs);
        self.follow(step, outputs);
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

    fn heard_claim(&mut self, now: Instant, outcome: Outcome, out: &mut Outputs) {
        match outcome {
            Outcome::Connected(connection) => {
                self.log.ready(&connection);
                self.hold(connection);
                self.machine.connected(out);
            }
            Outcome::Failed(error) => {
                self.claim = None;
                self.log.failed(&error.to_string());
                let failure = self.failure(error.code(), &error.to_string());
                self.last_error = Some((now, failure.clone()));
                self.machine.failed(now, failure, out);
            }
            Outcome::Lost(closed) => self.lost(now, &closed, out),
        }
    }

    fn heard_replacement(&mut self, now: Instant, outcome: Outcome, out: &mut Outputs) {
        match outcome {
            Outcome::Connected(connection) => {
                self.claim = self.replacement.take();
                self.log.ready(&connection);
                self.hold(connection);
            }
            // What the control plane now demands cannot be had. The connection in use was made
            // by other rules and must not stay; the reconnect will say what is wrong.
            Outcome::Failed(error) => self.outlawed(now, error.code(), &error.to_string(), out),
            Outcome::Lost(closed) => self.lost(now, &closed, out),
        }
    }

    /// There is no connection by the new rules, so the one by the old rules goes.
    fn outlawed(&mut self, now: Instant, code: Code, reason: &str, out: &mut Outputs) {
        self.last_error = Some((now, self.failure(code, reason)));
        self.log.failed(reason);
        self.log.given_up("the cluster's security has changed");
        self.release();
        self.machine.lost(out);
    }

    fn hold(&self, connection: Connection) {
        self.slot.connection.store(Some(Arc::new(connection)));
    }

    fn release(&mut self) {
        self.claim = None;
        self.replacement = None;
        self.slot.connection.store(None);
    }

    fn lost(&mut self, now: Instant, closed: &Closed, out: &mut Outputs) {
        self.last_error = Some((now, self.failure(code::CONNECTION_LOST, &closed.reason)));
        self.log.closed(closed);
        self.release();
        self.machine.lost(out);
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
                Output::Report(state) => step.states.push(state),
            }
        }
    }

    fn start(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        match self.dial(step) {
            Ok(claim) => {
                self.log.connecting();
                self.claim = Some(claim);
            }
            Err(failure) => {
                self.log.failed(&failure.0);
                self.claim = None;
                self.last_error = Some((step.now, failure.clone()));
                self.machine.failed(step.now, failure, out);
            }
        }
    }

    fn dial(&self, step: &mut Step<'_>) -> Result<Claim, Failure> {
        let addresses = self.addresses(step)?;
        step.dialer.attempts += 1;
        let owner = Owner {
            cluster: self.cluster,
            endpoint: self.id,
            attempt: AttemptId(step.dialer.attempts),
        };
        let target = ConnectTarget {
            addresses,
            tls: step.security.tls(),
            server_name: self.key.hostname.to_string(),
            options: step.dialer.http2.clone(),
        };
        let connector = step.dialer.connector.clone();
        Ok(attempt::start(
            step.dialer.inbox.clone(),
            connector,
            owner,
            target,
        ))
    }

    /// The addresses that may be dialled: without transport security only those whose traffic
    /// stays on this machine, unless the builder allowed all.
    fn addresses(&self, step: &Step<'_>) -> Result<Vec<Address>, Failure> {
        let all = self.key.addresses.iter();
        let unsaid = matches!(step.security, Security::Unsaid);
        if !unsaid || step.dialer.plaintext == PlaintextPolicy::Always {
            return Ok(all.cloned().collect());
        }
        let local: Vec<_> = all.filter(|address| is_local(address)).cloned().collect();
        if local.is_empty() {
            return Err(self.failure(
                code::PLAINTEXT_NOT_ALLOWED,
                "the control plane gives no transport security and the peer is not local; \
                 plaintext_where_unsecured() of the builder allows it",
            ));
        }
        Ok(local)
    }

    fn failure(&self, code: Code, reason: &str) -> Failure {
        Failure::new(code, format!("endpoint {}: {reason}", self.slot.address))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // Calls that still hold the slot wait for the next picker instead.
        self.slot.connection.store(None);
    }
}

fn is(claim: &Option<Claim>, attempt: AttemptId) -> bool {
    claim.as_ref().is_some_and(|claim| claim.attempt == attempt)
}

fn is_local(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Address::Unix(_) => true,
    }
}
