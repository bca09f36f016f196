//! What one endpoint's connection tells of itself: `tracing` events of the target
//! `sidestep::connection` (listed in docs/events.md). Never one per call.

use std::sync::Arc;

use crate::subchannel::{Closed, Connection, Disconnect};

/// The life of one endpoint's connections, one after the other.
#[derive(Debug)]
pub(super) struct ConnectionLog {
    cluster: Arc<str>,
    endpoint: Arc<str>,
    open: bool,
    /// Failed tries since the last connection.
    failures: u32,
}

impl ConnectionLog {
    pub(super) fn new(cluster: Arc<str>, endpoint: Arc<str>) -> Self {
        Self {
            cluster,
            endpoint,
            open: false,
            failures: 0,
        }
    }

    /// A try begins.
    pub(super) fn connecting(&self) {
        let (cluster, endpoint) = (&*self.cluster, &*self.endpoint);
        tracing::debug!(target: "sidestep::connection", cluster, endpoint, "connecting");
    }

    /// A try succeeded.
    pub(super) fn ready(&mut self, connection: &Connection) {
        self.given_up("replaced by a connection under the new security");
        self.open = true;
        self.failures = 0;
        tracing::info!(
            target: "sidestep::connection",
            cluster = &*self.cluster,
            endpoint = &*self.endpoint,
            peer = %connection.peer(),
            tls = *connection.scheme() == http::uri::Scheme::HTTPS,
            "ready"
        );
    }

    /// A try failed. Only the first of a row is a warning: the next ones are paced by the backoff
    /// and tell nothing new.
    pub(super) fn failed(&mut self, reason: &str) {
        self.failures = self.failures.saturating_add(1);
        let (cluster, endpoint, failures) = (&*self.cluster, &*self.endpoint, self.failures);
        if failures == 1 {
            tracing::warn!(target: "sidestep::connection", cluster, endpoint, reason, failures, "failed");
        } else {
            tracing::debug!(target: "sidestep::connection", cluster, endpoint, reason, failures, "failed");
        }
    }

    /// The connection takes no new calls.
    pub(super) fn closed(&mut self, closed: &Closed) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let (cluster, endpoint) = (&*self.cluster, &*self.endpoint);
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
    }

    /// We let the connection go, if there is one.
    pub(super) fn given_up(&mut self, reason: &str) {
        self.closed(&Closed {
            reason: reason.to_owned(),
            disconnect: Disconnect::Shutdown,
        });
    }
}

impl Drop for ConnectionLog {
    fn drop(&mut self) {
        self.given_up("the endpoint left the configuration");
    }
}
