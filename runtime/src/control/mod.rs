//! The single owner of everything that changes.
//!
//! ```text
//!   Handle ─────┐
//!   Cluster ────┼─> Inbox ─> one task ─┬─> resource_cache ─> dependency ─> reconcile   (pure)
//!   connections ┤                      ├─> cluster: load balancer, subchannels, picker
//!   ADS stream ─┘                      └─> Target, Cluster: swapped for the calls to read
//! ```

mod admission;
mod aggregate;
mod attempt;
mod authorities;
mod clients;
mod cluster;
mod clusters;
mod config_source;
mod connection_log;
mod dependency;
mod dialer;
mod directs;
mod endpoint;
mod events;
mod failover;
mod handle;
mod idle;
mod inspect;
mod named;
mod names;
mod outliers;
mod publication;
mod reconcile;
mod reports;
mod resource_cache;
mod servers;
mod task;
#[cfg(test)]
mod tests;
mod xds_metrics;

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use sidestep_proto::ads;
use sidestep_proto::bootstrap::Bootstrap;
use sidestep_proto::code;
use sidestep_proto::resource::{RegisteredPolicy, ServerListener};
use tokio::sync::{mpsc, oneshot, watch};

use crate::balancer::{Failure, SubchannelId};
use crate::resolver::{self, DirectTarget, NameResolver, Pace, ResolveError, Resolved};
use crate::routing::RouteTable;
use crate::security::CertificateProviders;
use crate::snapshot::{ClusterId, Slot, Target, TargetState};
use crate::source::ads::{LinkId, Said};
use crate::source::static_::StaticResources;
use crate::subchannel::state::Backoff;
use crate::subchannel::{Connector, Http2Options, default_connector};
use crate::telemetry::Telemetry;

pub(crate) use authorities::SharedOrigins;
pub(crate) use dependency::SharedOrigin;
pub use handle::Handle;
pub use sidestep_proto::ads::Variant;

pub(crate) use inspect::{Asker, Question};

use attempt::{Outcome, Owner};
use names::Host;
use task::Task;

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
    /// A call waits for room on the connections of an endpoint.
    RoomRequested {
        /// Which cluster.
        cluster: ClusterId,
        /// Which endpoint of it.
        endpoint: SubchannelId,
        /// The very slot that the call saw: its id may have passed to another endpoint since.
        slot: Arc<Slot>,
    },
    /// An endpoint's load is such that its policy wants to look at it.
    Noticed {
        /// Which cluster.
        cluster: ClusterId,
        /// Which endpoint of it.
        endpoint: SubchannelId,
        /// The very slot: its id may have passed to another endpoint since.
        slot: Arc<Slot>,
    },
    /// A connection was made, was not, or ended.
    Connection {
        /// Whose.
        owner: Owner,
        /// What became of it.
        outcome: Outcome,
    },
    /// The ADS stream has news.
    Ads {
        /// Which try.
        link: LinkId,
        /// What.
        said: Said,
    },
    /// Somebody asks about the state.
    Ask(Question),
    /// Somebody waits until nothing is on its way into use.
    Settled(oneshot::Sender<()>),
    /// The resources in the process were replaced.
    Replaced(StaticResources),
    /// A host name was looked up.
    Found {
        /// Which.
        host: Host,
        /// Its addresses, or why there are none.
        found: Result<Resolved, ResolveError>,
    },
}

/// Answers who asks when the task has ended.
fn refuse(input: Input) {
    match input {
        Input::Watch { target, .. } | Input::WatchDirect { target, .. } => {
            if let Some(target) = target.upgrade() {
                target.publish(Arc::new(TargetState::Ended(ended())));
            }
        }
        Input::WatchServer { state, .. } => {
            state.send_replace(ServerState::Failed(ended()));
        }
        _ => {}
    }
}

fn ended() -> Failure {
    Failure::new(
        code::MESH_ENDED,
        "the control task of this mesh has ended: the tokio runtime on which the mesh was first \
         used was shut down, or it panicked",
    )
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
    /// Said by the server once it has taken this over: whether it serves by it, or why it must not.
    pub verdict: OnceLock<Result<(), String>>,
}

/// The routes of one filter chain. A change of a referenced RouteConfiguration is swapped in here
/// and reaches live connections at once.
#[derive(Debug, Clone)]
pub struct ChainRoutes {
    /// To be loaded anew for each request.
    pub routes: Arc<ArcSwap<RoutesState>>,
}

/// What a filter chain's routes have come to.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "held once per filter chain, behind an Arc"
)]
pub enum RoutesState {
    /// Requests can be routed.
    Ready(RouteTable),
    /// Every request fails `UNAVAILABLE` with this text.
    Failed(Failure),
}

/// What the task is told at the start.
pub struct Config {
    /// Where configuration comes from. `None`: direct targets only.
    pub bootstrap: Option<Bootstrap>,
    /// Resources in the process, which take the place of the bootstrap's control planes.
    pub static_resources: Option<StaticResources>,
    /// Which form of ADS is spoken.
    pub variant: Variant,
    /// What happens where the control plane gives no transport security.
    pub plaintext: PlaintextPolicy,
    /// By instance name.
    pub providers: CertificateProviders,
    /// Load-balancing policies of the program's own.
    pub policies: Vec<Arc<dyn RegisteredPolicy>>,
    /// How sockets are opened.
    pub connector: Connector,
    /// Who looks host names up.
    pub resolver: Arc<dyn NameResolver>,
    /// Of the connections to endpoints.
    pub http2: Arc<Http2Options>,
    /// Most connections to one endpoint, whatever the control plane says. Default 10 (gRFC A105).
    pub most_connections: u32,
    /// How long a cluster keeps its connections without calls. Default 30 min, as in gRPC;
    /// `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// What its clusters and connections are counted in.
    pub telemetry: Arc<Telemetry>,
    /// Largest ADS response taken, in bytes. Default 256 MiB.
    pub max_response_bytes: usize,
    /// Shortened by tests.
    pub timers: Timers,
}

/// Most connections to one endpoint, if the program says nothing (gRFC A105).
pub(crate) const MOST_CONNECTIONS: u32 = 10;

/// How long a cluster keeps its connections without calls, if the program says nothing.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Config {
    /// Everything at its default.
    #[must_use]
    pub fn new(bootstrap: Option<Bootstrap>, providers: CertificateProviders) -> Self {
        Self {
            bootstrap,
            static_resources: None,
            variant: Variant::StateOfTheWorld,
            plaintext: PlaintextPolicy::default(),
            providers,
            policies: Vec::new(),
            connector: default_connector(),
            resolver: resolver::default(),
            http2: Arc::default(),
            most_connections: MOST_CONNECTIONS,
            idle_timeout: Some(IDLE_TIMEOUT),
            telemetry: Telemetry::new(None),
            max_response_bytes: 256 * 1024 * 1024,
            timers: Timers::default(),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("bootstrap", &self.bootstrap)
            .field("variant", &self.variant)
            .field("plaintext", &self.plaintext)
            .finish_non_exhaustive()
    }
}

/// All periods of the control task. Not for users: tests shorten them.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Timers {
    /// Of the ADS protocol.
    pub ads: ads::Timers,
    /// Between tries to connect to an endpoint.
    pub connect_backoff: Backoff,
    /// How long one try to connect to a control plane may take. 20 s.
    pub connect_timeout: Duration,
    /// How long a snapshot waits for its new clusters to be ready for calls. 1 s.
    pub publish_wait: Duration,
    /// Of looking host names up.
    pub lookup: Pace,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            ads: ads::Timers::default(),
            connect_backoff: Backoff::default(),
            connect_timeout: Duration::from_secs(20),
            publish_wait: Duration::from_secs(1),
            lookup: Pace::default(),
        }
    }
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
