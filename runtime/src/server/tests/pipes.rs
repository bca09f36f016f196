//! Servers on in-memory pipes instead of sockets, for tests in virtual time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use sidestep_proto::resource::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::super::accept::{Bound, Raw};
use super::super::{BoundServer, Incoming, Server, ServerMode, ServerStats};
use super::kit::*;
use crate::control::ServerState;
use crate::security::CertificateProviders;

/// A server whose "socket" is a queue of pipes.
pub(super) struct Piped {
    queue: mpsc::UnboundedSender<std::io::Result<Raw>>,
    pub(super) running: Running,
}

/// The address that a piped server believes to listen on.
pub(super) const PIPED: &str = "0.0.0.0:50051";
/// A peer on another host.
pub(super) const FAR: &str = "10.9.9.9:40000";
/// A peer on this host.
pub(super) const NEAR: &str = "127.0.0.1:40000";

/// Must run with the clock paused: nothing outside this runtime takes part.
pub(super) async fn start_piped(
    plan: &Plan,
    providers: CertificateProviders,
    build: impl FnOnce(Server) -> Server,
) -> Piped {
    let address: SocketAddr = PIPED.parse().unwrap();
    let (queue, sockets) = mpsc::unbounded_channel();
    let sockets = stream::unfold(sockets, |mut sockets| async {
        sockets.recv().await.map(|socket| (socket, sockets))
    });
    let bound = Bound::from_sockets(Address::Tcp(address), sockets.boxed());
    let mut running = run_server(plan, providers, build, |server| {
        Ok(BoundServer { bound, server })
    });
    running.mode_is(&ServerMode::Serving).await;
    Piped { queue, running }
}

impl Piped {
    /// A new connection from `peer`.
    pub(super) fn connect(&self, peer: &str) -> tokio::io::DuplexStream {
        let (near, raw) = pipe(peer);
        assert!(self.queue.send(Ok(raw)).is_ok(), "the server runs");
        near
    }

    /// Writes `bytes`, one each `gap`, until the server closes; what it answered, and when.
    pub(super) async fn trickle(
        &self,
        peer: &str,
        bytes: &[u8],
        gap: Duration,
    ) -> (Vec<u8>, Duration) {
        let began = tokio::time::Instant::now();
        let (mut read, mut write) = tokio::io::split(self.connect(peer));
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + gap, gap);
            for byte in bytes {
                ticks.tick().await;
                if write.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
        let mut answer = Vec::new();
        // A reset is as good an end as a close.
        let _ = read.read_to_end(&mut answer).await;
        writing.abort();
        (answer, began.elapsed())
    }
}

/// An [`Incoming`] with one connection waiting; its other end, the states and the counters.
pub(super) fn piped_incoming(
    plan: &Plan,
) -> (
    Incoming,
    tokio::io::DuplexStream,
    Arc<watch::Sender<ServerState>>,
    Arc<ServerStats>,
) {
    let address: SocketAddr = PIPED.parse().unwrap();
    let (near, raw) = pipe(NEAR);
    let sockets = stream::iter([Ok(raw)]).boxed();
    let states = pending_states();
    states.send_replace(plan.state(address).0);
    let server = Server::new(PIPED, source(&states, no_certificates()));
    let stats = server.stats();
    let bound = Bound::from_sockets(Address::Tcp(address), sockets);
    let incoming = BoundServer { bound, server }.incoming().unwrap();
    (incoming, near, states, stats)
}

/// A pipe and the accepted end of it.
fn pipe(peer: &str) -> (tokio::io::DuplexStream, Raw) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let raw = Raw {
        io: Box::new(far),
        addresses: Some(("10.0.0.1:50051".parse().unwrap(), peer.parse().unwrap())),
    };
    (near, raw)
}
