//! What `crate::control` will define: stands in until that piece is merged.

use std::sync::Arc;

use arc_swap::ArcSwap;
use sidestep_proto::resource::ServerListener;

use crate::balancer::Failure;
use crate::routing::RouteTable;

/// What a server's listener name has come to.
#[derive(Debug, Clone)]
pub enum ServerState {
    /// Nothing yet.
    Pending,
    /// The server must not serve, and why.
    Failed(Failure),
    /// Serve by this.
    Serving(Arc<ServerConfig>),
}

/// One Listener and the routes of each of its filter chains.
#[derive(Debug)]
pub struct ServerConfig {
    /// The Listener, as validated.
    pub listener: Arc<ServerListener>,
    /// Index-aligned with `listener.filter_chains`; the default chain's comes last.
    pub chains: Vec<ChainRoutes>,
}

/// The routes of one filter chain, swapped in place.
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
    /// Every request fails `UNAVAILABLE`.
    Failed(Failure),
}
