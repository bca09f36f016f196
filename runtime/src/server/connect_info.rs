//! What a handler may know of the connection that a call came by.

use std::net::SocketAddr;

use crate::security::PeerIdentity;

/// The connection of a call; in the extensions of every request.
///
/// Beside it the extensions hold tonic's own `TcpConnectInfo` for TCP connections, so that
/// `tonic::Request::remote_addr` works, and the [`PeerIdentity`] of a client that showed a
/// certificate.
#[derive(Debug, Clone)]
pub struct ConnectInfo {
    addresses: Option<(SocketAddr, SocketAddr)>,
    tls: bool,
    identity: Option<PeerIdentity>,
}

impl ConnectInfo {
    pub(crate) fn new(addresses: Option<(SocketAddr, SocketAddr)>) -> Self {
        Self {
            addresses,
            tls: false,
            identity: None,
        }
    }

    pub(super) fn secured(self, identity: Option<PeerIdentity>) -> Self {
        Self {
            tls: true,
            identity,
            ..self
        }
    }

    /// Our end of the connection. `None` for a Unix socket.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.map(|(local, _)| local)
    }

    /// The peer's end. `None` for a Unix socket.
    #[must_use]
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.addresses.map(|(_, peer)| peer)
    }

    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Who the peer is. `None` without TLS, or if it showed no certificate.
    #[must_use]
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.identity.as_ref()
    }
}
