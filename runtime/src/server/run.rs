//! The loop of a server: follow the configuration, accept, and on shutdown finish what is in flight.

use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::accept::{Acceptor, Bound, Raw};
use super::connection::Shared;
use super::drain::Draining;
use super::serving::{Gate, Generation};
use super::{Refusal, ServerError};

/// Runs until `shutdown` is ready and every connection has ended. `handle` serves one connection.
pub(super) async fn run<F, H, C>(
    mut gate: Gate,
    bound: Bound,
    shared: Arc<Shared>,
    shutdown: F,
    handle: H,
) -> Result<(), ServerError>
where
    F: Future,
    H: Fn(Raw, Arc<Generation>, Draining) -> C,
    C: Future<Output = ()> + Send + 'static,
{
    let mut door = Door::Closed(bound);
    let mut connections = JoinSet::new();
    let admit = |raw: Raw, gate: &Gate, connections: &mut JoinSet<()>| match gate.current() {
        Some((generation, draining)) => {
            connections.spawn(handle(raw, generation, draining));
        }
        None => shared.refuse(
            &Refusal::NotServing.into(),
            raw.addresses.map(|(_, peer)| peer),
        ),
    };
    let mut shutdown = pin!(shutdown);
    loop {
        if gate.current().is_some() {
            door = door.open(&shared)?;
        }
        gate.announce();
        tokio::select! {
            _ = &mut shutdown => break,
            () = gate.changed() => gate.apply(),
            raw = door.next() => admit(raw, &gate, &mut connections),
            Some(_) = connections.join_next() => {}
        }
    }
    // Whoever is in the queue was promised a connection: serve the calls it brings.
    while let Some(raw) = door.next_waiting() {
        admit(raw, &gate, &mut connections);
    }
    drop((door, gate));
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The listening socket over its life.
enum Door {
    /// Bound; connecting is refused.
    Closed(Bound),
    /// Listening. It stays so: a server that stops serving closes connections instead, because
    /// giving up the port could lose it.
    Open(Acceptor),
}

impl Door {
    fn open(self, shared: &Shared) -> Result<Self, ServerError> {
        let Self::Closed(bound) = self else {
            return Ok(self);
        };
        let address = bound.address().clone();
        match bound.listen() {
            Ok(sockets) => Ok(Self::Open(Acceptor::new(sockets, shared.stats.clone()))),
            Err(source) => Err(ServerError::Listen { address, source }),
        }
    }

    async fn next(&mut self) -> Raw {
        match self {
            Self::Closed(_) => pending().await,
            Self::Open(acceptor) => acceptor.next().await,
        }
    }

    fn next_waiting(&mut self) -> Option<Raw> {
        match self {
            Self::Closed(_) => None,
            Self::Open(acceptor) => acceptor.next_waiting(),
        }
    }
}
