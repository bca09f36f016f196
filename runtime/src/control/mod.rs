//! The single owner of everything that changes.
//!
//! ```text
//!   Handle ─────┐
//!   Cluster ────┼─> Inbox ─> one task ─┬─> resource_cache ─> dependency ─> reconcile   (pure)
//!   connections ┤                      ├─> cluster: load balancer, subchannels, picker
//!   ADS stream ─┘                      └─> Target, Cluster: swapped for the calls to read
//! ```

mod handle;

use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use sidestep_proto::bootstrap::Bootstrap;
use sidestep_proto::resource::ServerListener;
use tokio::sync::{mpsc, watch};

use crate::balancer::{Failure, SubchannelId};
use crate::resolver::DirectTarget;
use crate::routing::RouteTable;
use crate::security::CertificateProviders;
use crate::snapshot::{ClusterId, Slot, Target};
use crate::subchannel::{Connector, Http2Options};

pub use handle::Handle;

/// The way into the task. Unbounded, so that nobody who talks to the task can block it or be
/// blocked by it: what goes in is bounded by the number of targets, endpoints and streams.
pub(crate) type Inbox = mpsc::UnboundedSender<Input>;

/// For what the task itself owns or started, so that it can end.
pub(crate) type WeakInbox = mpsc::WeakUnboundedSender<Input>;

/// All that the task hears.
#[derive(Debug)]
pub(crate) enum Input {
    /// A channel wants a listener.
    Watch {
        /// Its name.
        listener: Box<str>,
        /// Selects the virtual host.
        authority: Box<str>,
        /// Where the outcome goes.
        target: Weak<Target>,
    },
    /// A channel wants addresses.
    WatchDirect {
        /// Which.
        direct: DirectTarget,
        /// Where the outcome goes.
        target: Weak<Target>,
    },
    /// A server wants its listener.
    WatchServer {
        /// Its name.
        listener: Box<str>,
        /// Where the outcome goes.
        state: watch::Sender<ServerState>,
    },
    /// A target's last user is gone.
    TargetDropped,
    /// A call met an idle endpoint.
    ConnectRequested {
        /// Which cluster.
        cluster: ClusterId,
        /// Which endpoint of it.
        endpoint: SubchannelId,
        /// The very slot that the call saw: its id may have passed to another endpoint since.
        slot: Arc<Slot>,
    },
}

/// What a server's listener name has come to.
#[derive(Debug, Clone)]
pub enum ServerState {
    /// Nothing yet.
    Pending,
    /// The server must not serve, and why.
    Failed(Failure),
    /// Serve by this. A new value means: new connections by it, old ones are drained (gRFC A36).
    Serving(Arc<ServerConfig>),
}

/// One Listener and the routes of each of its filter chains.
#[derive(Debug)]
pub struct ServerConfig {
    /// The Listener, as validated.
    pub listener: Arc<ServerListener>,
    /// Index-aligned with `listener.filter_chains`; the default chain's comes last, if there is one.
    pub chains: Vec<ChainRoutes>,
}

/// The routes of one filter chain. A change of a referenced RouteConfiguration is swapped in here
/// and reaches live connections at once.
#[derive(Debug, Clone)]
pub struct ChainRoutes {
    /// Shared by chains that refer to the same RouteConfiguration.
    pub routes: Arc<ArcSwap<RoutesState>>,
}

/// What a filter chain's routes have come to.
#[derive(Debug)]
pub enum RoutesState {
    /// Requests can be routed.
    Ready(RouteTable),
    /// Every request fails `UNAVAILABLE` with this text.
    Failed(Failure),
}


/// What the task is told at the start.
#[derive(Debug)]
pub struct Config {
    /// Where configuration comes from. `None`: direct targets only.
    pub bootstrap: Option<Bootstrap>,
    /// Which form of ADS is spoken.
    pub variant: Variant,
    /// What happens where the control plane gives no transport security.
    pub plaintext: PlaintextPolicy,
    /// By instance name.
    pub providers: CertificateProviders,
    /// How sockets are opened.
    pub connector: Connector,
    /// Of the connections to endpoints.
    pub http2: Arc<Http2Options>,
    /// Largest ADS response taken, in bytes. Default 256 MiB.
    pub max_response_bytes: usize,
    /// Shortened by tests.
    pub timers: Timers,
}

/// Whether a connection may be unencrypted where the control plane gives no transport security.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlaintextPolicy {
    /// Only to a loopback address or a Unix socket.
    #[default]
    Loopback,
    /// To every peer: the builder's `plaintext_where_unsecured()`.
    Always,
}
