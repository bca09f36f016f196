//! From an accepted socket to a connection that may carry calls: first bytes, filter chain, TLS,
//! HTTP/2 preface, each within its limit. Whatever does not pass is closed, counted and logged.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::accept::Raw;
use super::filter_chain::{self, Arrival, Transport};
use super::first_bytes::{self, FirstBytes};
use super::serving::Generation;
use super::{ConnectInfo, Refusal};
use crate::control::ChainRoutes;
use crate::security::{ServerTls, peer_identity};
use crate::subchannel::Io;

/// How long a peer may take for each step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) first_bytes: Duration,
    pub(super) handshake: Duration,
    pub(super) preface: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_bytes: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            preface: Duration::from_secs(10),
        }
    }
}

/// A connection that passed.
pub(super) struct Admitted {
    pub(super) io: Box<dyn Io>,
    pub(super) info: ConnectInfo,
    pub(super) routes: ChainRoutes,
    /// The HTTP/2 preface was seen already.
    preface_seen: bool,
}

/// A connection that did not.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    pub(super) detail: String,
}

impl From<Refusal> for Refused {
    fn from(why: Refusal) -> Self {
        Self {
            why,
            detail: String::new(),
        }
    }
}

impl Refused {
    fn because(why: Refusal, detail: impl Display) -> Self {
        Self {
            why,
            detail: detail.to_string(),
        }
    }
}

/// Takes a socket through everything that comes before HTTP/2.
pub(super) async fn admit(
    raw: Raw,
    generation: &Generation,
    limits: &Limits,
) -> Result<Admitted, Refused> {
    let Raw { io, addresses } = raw;
    let (transport, io) = match generation.looks_at_first_bytes {
        true => tell_apart(io, limits.first_bytes).await?,
        // Where nothing tells them apart, gRPC calls every connection raw.
        false => (Transport::RawBuffer, io),
    };
    let arrival = Arrival {
        addresses,
        transport,
    };
    let position = filter_chain::find(&generation.listener, &arrival);
    let chain = position.and_then(|position| generation.chain(position));
    let (tls, routes) = chain.ok_or(Refusal::NoFilterChain)?;
    let asks_for_plaintext = position.is_some_and(|at| generation.asks_for_plaintext(at));
    let info = ConnectInfo::new(addresses);
    let (io, info) = match tls {
        Some(tls) => handshake(io, info, tls, limits.handshake).await?,
        None if generation.plaintext_for_all || is_on_this_host(addresses) => (io, info),
        // A chain for `raw_buffer` beside one for TLS is the control plane's word: a permissive
        // port. A chain that merely says nothing of TLS is not.
        None if generation.looks_at_first_bytes && asks_for_plaintext => (io, info),
        None => return Err(Refusal::Plaintext.into()),
    };
    let told_plaintext = generation.looks_at_first_bytes && transport == Transport::RawBuffer;
    Ok(Admitted {
        io,
        preface_seen: told_plaintext && tls.is_none(),
        info,
        routes: routes.clone(),
    })
}

impl Admitted {
    /// Waits for the HTTP/2 preface, so that a silent peer does not hold a connection for ever.
    pub(super) async fn expect_preface(mut self, limits: &Limits) -> Result<Self, Refused> {
        if self.preface_seen {
            return Ok(self);
        }
        let read = first_bytes::read(self.io);
        match within(limits.preface, Refusal::PrefaceTimeout, read).await? {
            (FirstBytes::Http2, io) => {
                self.io = Box::new(io);
                Ok(self)
            }
            (FirstBytes::Tls, _) => Err(Refused::because(
                Refusal::Preface,
                "it begins with a TLS hello, and no TLS is configured for it",
            )),
            (FirstBytes::Other, _) => Err(Refusal::Preface.into()),
        }
    }
}

/// Permissive ports: TLS or plaintext, by the first bytes.
async fn tell_apart(io: Box<dyn Io>, limit: Duration) -> Result<(Transport, Box<dyn Io>), Refused> {
    let read = first_bytes::read(io);
    let (first, io) = within(limit, Refusal::FirstBytesTimeout, read).await?;
    match first {
        FirstBytes::Tls => Ok((Transport::Tls, Box::new(io))),
        FirstBytes::Http2 => Ok((Transport::RawBuffer, Box::new(io))),
        FirstBytes::Other => Err(Refusal::FirstBytesJunk.into()),
    }
}

async fn handshake(
    io: Box<dyn Io>,
    info: ConnectInfo,
    tls: &ServerTls,
    limit: Duration,
) -> Result<(Box<dyn Io>, ConnectInfo), Refused> {
    let config = tls
        .config()
        .map_err(|error| Refused::because(Refusal::Security, error))?;
    let accept = TlsAcceptor::from(config).accept(io);
    let io = match timeout(limit, accept).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return Err(Refused::because(blame(&error), error)),
        Err(_) => return Err(Refusal::HandshakeTimeout.into()),
    };
    let certificates = io.get_ref().1.peer_certificates();
    let info = info.secured(certificates.map(peer_identity));
    Ok((Box::new(io), info))
}

/// A peer that leaves in the middle, as a health check does, is no failure of TLS.
fn blame(error: &io::Error) -> Refusal {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | ConnectionReset | BrokenPipe => Refusal::Gone,
        _ => Refusal::Handshake,
    }
}

async fn within<T>(
    limit: Duration,
    late: Refusal,
    read: impl Future<Output = io::Result<T>>,
) -> Result<T, Refused> {
    match timeout(limit, read).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Refused::because(Refusal::Gone, error)),
        Err(_) => Err(late.into()),
    }
}

fn is_on_this_host(addresses: Option<(SocketAddr, SocketAddr)>) -> bool {
    addresses.is_none_or(|(_, peer)| peer.ip().to_canonical().is_loopback())
}
