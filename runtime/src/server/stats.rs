//! What came in, by which way, and what was turned away.

use std::sync::atomic::{AtomicU64, Ordering};

use sidestep_proto::code::{self, Code};

/// Why a connection was closed before its first call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no valid Listener at the moment (gRFC A36: not serving).
    #[error("the server is not serving")]
    NotServing,
    /// The peer closed, or its connection broke, before anything could be decided.
    #[error("the peer closed the connection")]
    Gone,
    /// A permissive port saw neither a whole start of a TLS hello nor the HTTP/2 preface in time.
    #[error("neither a TLS hello nor the HTTP/2 preface came in time")]
    FirstBytesTimeout,
    /// A permissive port saw bytes that are neither TLS nor HTTP/2.
    #[error("the first bytes are neither a TLS hello nor the HTTP/2 preface")]
    FirstBytesJunk,
    /// No filter chain matches and there is no default one.
    #[error("no filter chain matches the connection")]
    NoFilterChain,
    /// xDS secures nothing here and the builder did not allow plaintext for other hosts.
    #[error(
        "xDS configures no TLS for this connection and plaintext is allowed from loopback and \
         Unix sockets only; configure TLS, or build with .plaintext_where_unsecured()"
    )]
    Plaintext,
    /// The server's own certificate or trusted roots cannot be used. Never served in plaintext.
    #[error("the TLS configuration cannot be used")]
    Security,
    /// The TLS handshake failed: no or no trusted client certificate, or no TLS at all.
    #[error("the TLS handshake failed")]
    Handshake,
    /// The TLS handshake took too long.
    #[error("the TLS handshake was not over in time")]
    HandshakeTimeout,
    /// What came is not the HTTP/2 preface.
    #[error("the connection does not begin with the HTTP/2 preface")]
    Preface,
    /// The HTTP/2 preface took too long.
    #[error("the HTTP/2 preface did not come in time")]
    PrefaceTimeout,
}

impl Refusal {
    /// Its code.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::NotServing => code::REFUSED_NOT_SERVING,
            Self::Gone => code::REFUSED_GONE,
            Self::FirstBytesTimeout | Self::HandshakeTimeout | Self::PrefaceTimeout => {
                code::REFUSED_SLOW
            }
            Self::FirstBytesJunk | Self::Preface => code::REFUSED_NOT_GRPC,
            Self::NoFilterChain => code::REFUSED_NO_CHAIN,
            Self::Plaintext => code::SERVER_PLAINTEXT_NOT_ALLOWED,
            Self::Security => code::TLS_UNUSABLE,
            Self::Handshake => code::REFUSED_HANDSHAKE,
        }
    }
}

const REFUSALS: usize = Refusal::PrefaceTimeout as usize + 1;

/// Counters of one server since it was built. All only grow, except [`ServerStats::open`].
#[derive(Debug, Default)]
pub struct ServerStats {
    tls: AtomicU64,
    plaintext: AtomicU64,
    open: AtomicU64,
    cut: AtomicU64,
    accept_errors: AtomicU64,
    refused: [AtomicU64; REFUSALS],
}

impl ServerStats {
    /// Connections that came in by TLS and were served.
    #[must_use]
    pub fn tls(&self) -> u64 {
        self.tls.load(Ordering::Relaxed)
    }

    /// Connections that came in as plaintext and were served.
    #[must_use]
    pub fn plaintext(&self) -> u64 {
        self.plaintext.load(Ordering::Relaxed)
    }

    /// Connections being served now.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Draining connections that still had calls when the grace time was over.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Times that accepting failed for want of something (file descriptors, memory) and paused.
    #[must_use]
    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Ordering::Relaxed)
    }

    /// Connections closed before their first call, for this reason.
    #[must_use]
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count_tls(&self) {
        self.tls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_plaintext(&self) {
        self.plaintext.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_cut(&self) {
        self.cut.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection as open for as long as the guard lives.
    pub(super) fn opened(&self) -> OpenGuard<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenGuard(self)
    }
}

pub(super) struct OpenGuard<'a>(&'a ServerStats);

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
