//! What one endpoint's connection tells of itself: `tracing` events of the target
//! `sidestep::connection` (listed in docs/events.md), and the metrics of gRFC A94. Never one per
//! call.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attempt::AttemptId;
use crate::snapshot::Slot;
use crate::subchannel::{Closed, Connection, Disconnect};
use crate::telemetry::instruments::{
    SUBCHANNEL_CONNECTION_ATTEMPTS_FAILED, SUBCHANNEL_CONNECTION_ATTEMPTS_SUCCEEDED,
    SUBCHANNEL_DISCONNECTIONS, SUBCHANNEL_OPEN_CONNECTIONS,
};
use crate::telemetry::{Backend, Telemetry};

/// The life of one endpoint's connections.
pub(super) struct ConnectionLog {
    telemetry: Arc<Telemetry>,
    /// `grpc.target`. A connection is shared by all targets that lead to its cluster; it counts
    /// for the one that named the cluster first.
    target: Arc<str>,
    cluster: Arc<str>,
    slot: Arc<Slot>,
    open: Vec<(AttemptId, Open)>,
    /// Failed tries since the last connection.
    failures: u32,
}

/// A connection, labelled as when it was made.
struct Open {
    backend: Arc<Backend>,
    security: &'static str,
}

impl ConnectionLog {
    pub(super) fn new(
        telemetry: Arc<Telemetry>,
        target: Arc<str>,
        cluster: Arc<str>,
        slot: Arc<Slot>,
    ) -> Self {
        Self {
            telemetry,
            target,
            cluster,
            slot,
            open: Vec::new(),
            failures: 0,
        }
    }

    /// The endpoint's cluster.
    pub(super) fn cluster(&self) -> &Arc<str> {
        &self.cluster
    }

    /// A try begins.
    pub(super) fn connecting(&self) {
        let (cluster, endpoint) = (&*self.cluster, &*self.slot.address);
        tracing::debug!(target: "sidestep::connection", cluster, endpoint, "connecting");
    }

    /// A try succeeded.
    pub(super) fn ready(&mut self, attempt: AttemptId, connection: &Connection) {
        self.failures = 0;
        self.slot.unreachable.store(false, Ordering::Relaxed);
        let tls = *connection.scheme() == http::uri::Scheme::HTTPS;
        tracing::info!(
            target: "sidestep::connection",
            cluster = &*self.cluster,
            endpoint = &*self.slot.address,
            peer = %connection.peer(),
            tls,
            "ready"
        );
        let backend = self.slot.backend.load_full();
        let labels = [&*self.target, backend.service(), backend.locality()];
        let succeeded = &SUBCHANNEL_CONNECTION_ATTEMPTS_SUCCEEDED;
        self.telemetry.add(succeeded, &labels, 1);
        let security = if tls { "privacy_and_integrity" } else { "none" };
        let open = Open { backend, security };
        self.count_open(&open, 1);
        self.open.reserve_exact(1);
        self.open.push((attempt, open));
    }

    /// A try failed. Only the first of a row is a warning: the next ones are paced by the backoff
    /// and tell nothing new.
    pub(super) fn failed(&mut self, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        let unreachable = self.open.is_empty();
        self.slot.unreachable.store(unreachable, Ordering::Relaxed);
        let (cluster, endpoint) = (&*self.cluster, &*self.slot.address);
        let failures = self.failures;
        if failures == 1 {
            tracing::warn!(
                target: "sidestep::connection", cluster, endpoint, reason, failures, "failed"
            );
        } else {
            tracing::debug!(
                target: "sidestep::connection", cluster, endpoint, reason, failures, "failed"
            );
        }
        let backend = self.slot.backend.load();
        let labels = [&*self.target, backend.service(), backend.locality()];
        let failed = &SUBCHANNEL_CONNECTION_ATTEMPTS_FAILED;
        self.telemetry.add(failed, &labels, 1);
    }

    /// A connection takes no new calls.
    pub(super) fn closed(&mut self, attempt: AttemptId, closed: &Closed) {
        let mut open = self.open.iter();
        if let Some(its) = open.position(|(other, _)| *other == attempt) {
            let (_, open) = self.open.swap_remove(its);
            self.tell_closed(&open, closed);
        }
    }

    fn tell_closed(&self, open: &Open, closed: &Closed) {
        let (cluster, endpoint) = (&*self.cluster, &*self.slot.address);
        let (reason, disconnect) = (&*closed.reason, closed.disconnect.label());
        match closed.disconnect {
            Disconnect::Shutdown => tracing::debug!(
                target: "sidestep::connection", cluster, endpoint, reason, disconnect, "closed"
            ),
            // What is still in flight on it goes on.
            Disconnect::GoAway(_) => tracing::info!(
                target: "sidestep::connection", cluster, endpoint, reason, disconnect, "going away"
            ),
            _ => tracing::info!(
                target: "sidestep::connection", cluster, endpoint, reason, disconnect, "closed"
            ),
        }
        let (service, locality) = (open.backend.service(), open.backend.locality());
        let labels = [&*self.target, service, locality, disconnect];
        self.telemetry.add(&SUBCHANNEL_DISCONNECTIONS, &labels, 1);
        self.count_open(open, -1);
    }

    fn count_open(&self, open: &Open, n: i64) {
        let (service, locality) = (open.backend.service(), open.backend.locality());
        let labels = [&*self.target, open.security, service, locality];
        self.telemetry.add(&SUBCHANNEL_OPEN_CONNECTIONS, &labels, n);
    }

    /// We let all connections go that there are.
    pub(super) fn given_up(&mut self, reason: &str) {
        let closed = Closed {
            reason: reason.to_owned(),
            disconnect: Disconnect::Shutdown,
        };
        for (_, open) in std::mem::take(&mut self.open) {
            self.tell_closed(&open, &closed);
        }
    }
}

impl Drop for ConnectionLog {
    fn drop(&mut self) {
        self.given_up("the endpoint left the configuration");
        self.slot.unreachable.store(false, Ordering::Relaxed);
    }
}
