//! Authenticated connections for tonic's own server.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use sidestep_proto::resource::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::transport::server::Connected;

use super::accept::{Bound, Raw};
use super::admission::admit;
use super::connection::Shared;
use super::drain::Draining;
use super::run::run;
use super::serving::{Gate, Generation};
use super::{ConnectInfo, ServerError};
use crate::subchannel::Io;

/// Connections that passed the filter chain and the TLS handshake of the server's Listener, for
/// `tonic::transport::Server::serve_with_incoming_shutdown`.
///
/// Everything about *connections* is ours: serving mode, certificates, permissive ports, the
/// plaintext rule. Everything about *calls* is tonic's: the Listener's routes are not asked, and a
/// connection that a new Listener replaces gets no GOAWAY; it is cut when the drain grace time is
/// over. A service that wants both uses [`Server`](super::Server).
///
/// Dropping it closes the listening socket.
#[derive(Debug)]
pub struct Incoming {
    address: Address,
    accepted: mpsc::Receiver<Result<Accepted, ServerError>>,
    _task: AbortOnDrop,
}

/// Connections that are ready and that tonic has not taken yet.
const WAITING: usize = 64;

impl Incoming {
    pub(super) fn start(gate: Gate, bound: Bound, shared: Arc<Shared>) -> Self {
        let (sender, accepted) = mpsc::channel(WAITING);
        let address = bound.address().clone();
        let task = tokio::spawn(async move {
            let closed = sender.closed();
            let handle = |raw, generation, draining| {
                pass_on(raw, generation, draining, shared.clone(), sender.clone())
            };
            if let Err(error) = run(gate, bound, shared.clone(), closed, handle).await {
                // Without a receiver nobody is left to tell.
                let _ = sender.send(Err(error)).await;
            }
        });
        Self {
            address,
            accepted,
            _task: AbortOnDrop(task),
        }
    }

    /// The real listening address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.accepted.poll_recv(cx);
        next.map(|item| item.map(|accepted| accepted.map_err(io::Error::other)))
    }
}

#[derive(Debug)]
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn pass_on(
    raw: Raw,
    generation: Arc<Generation>,
    draining: Draining,
    shared: Arc<Shared>,
    sender: mpsc::Sender<Result<Accepted, ServerError>>,
) {
    let peer = raw.addresses.map(|(_, peer)| peer);
    match admit(raw, &generation, &shared.options.limits).await {
        Ok(admitted) => {
            shared.count_way_in(&admitted);
            let accepted = Accepted {
                io: admitted.io,
                info: admitted.info,
                cut: Box::pin(cut(draining, shared)),
            };
            // tonic stopped in the meantime: the connection closes.
            let _ = sender.send(Ok(accepted)).await;
        }
        Err(refused) => shared.refuse(&refused, peer),
    }
}

/// Resolves when a connection of a replaced configuration must end.
async fn cut(mut draining: Draining, shared: Arc<Shared>) {
    draining.started().await;
    sleep(shared.options.drain_grace).await;
    shared.stats.count_cut();
}

/// One authenticated connection.
pub struct Accepted {
    io: Box<dyn Io>,
    info: ConnectInfo,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Connected for Accepted {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
