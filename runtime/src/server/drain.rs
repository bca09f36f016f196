//! Telling the connections of one configuration that they shall end, without failing a call.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

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

/// Counts the calls of one connection: one reference each, beside its own.
#[derive(Debug, Default)]
pub(super) struct InFlight(Arc<()>);

/// A call in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct OpenCall {
    _counted: Arc<()>,
}

/// Looks at the calls of a connection from outside.
#[derive(Debug)]
pub(super) struct InFlightView(Weak<()>);

impl InFlight {
    pub(super) fn begin(&self) -> OpenCall {
        OpenCall {
            _counted: self.0.clone(),
        }
    }

    pub(super) fn view(&self) -> InFlightView {
        InFlightView(Arc::downgrade(&self.0))
    }
}

impl InFlightView {
    /// Resolves when there is no call `patience` (or a multiple) from now.
    ///
    /// A draining connection ends by itself once its peer has confirmed the GOAWAY and its calls
    /// are over. One that is still there, without a call, has a peer that does not listen.
    pub(super) async fn abandoned(&self, patience: Duration) {
        loop {
            sleep(patience).await;
            if self.0.strong_count() <= 1 {
                return;
            }
        }
    }
}
