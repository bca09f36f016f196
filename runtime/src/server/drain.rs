//! Telling the connections of one configuration that they shall end, without failing a call.

use tokio::sync::watch;

/// Held by the owner of a configuration; dropping it drains every connection made under it.
#[derive(Debug)]
pub(super) struct Drain(watch::Sender<()>);

/// Held by each connection.
#[derive(Debug, Clone)]
pub(super) struct Draining(watch::Receiver<()>);

impl Drain {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(()))
    }

    pub(super) fn watch(&self) -> Draining {
        Draining(self.0.subscribe())
    }
}

impl Draining {
    /// Resolves once the connection shall take no new call.
    pub(super) async fn started(&mut self) {
        // Nothing is ever sent: the only news is that the sender is gone.
        while self.0.changed().await.is_ok() {}
    }
}
