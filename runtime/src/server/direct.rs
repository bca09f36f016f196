//! A server outside the mesh: what takes the Listener's place when the operator says so.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sidestep_proto::resource::{
    Address, FilterChain, FilterChainMatch, FilterConfig, HttpConnectionManager, HttpFilter,
    PathMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, RouteSource, ServerListener,
    Text, VirtualHost,
};
use tokio::sync::watch;

use crate::control::{ChainRoutes, RoutesState, ServerConfig, ServerState};
use crate::routing::{ClusterIndex, RouteTable};

/// Lets everybody in, in plaintext, to all of the server's own handlers.
pub(super) fn plaintext(address: &Address) -> watch::Receiver<ServerState> {
    let routes = RoutesState::Ready(RouteTable::compile(&own(), |_| ClusterIndex(0), None));
    let config = ServerConfig {
        listener: Arc::new(listener(address)),
        chains: vec![ChainRoutes {
            routes: Arc::new(ArcSwap::from_pointee(routes)),
        }],
        verdict: std::sync::OnceLock::new(),
    };
    watch::channel(ServerState::Serving(Arc::new(config))).1
}

fn listener(address: &Address) -> ServerListener {
    let chain = FilterChain {
        name: "direct".to_owned(),
        matches: FilterChainMatch::default(),
        tls: None,
        http: HttpConnectionManager {
            routes: RouteSource::Inline(Arc::new(own())),
            max_stream_duration: None,
            filters: vec![HttpFilter {
                name: "router".to_owned(),
                config: FilterConfig::Router,
            }],
        },
    };
    ServerListener {
        address: match address {
            Address::Tcp(address) => *address,
            // A Unix socket has no address that a Listener could name.
            Address::Unix(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        },
        filter_chains: vec![chain],
        default_filter_chain: None,
    }
}

fn own() -> RouteConfiguration {
    RouteConfiguration {
        name: "direct".to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "direct".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: String::new(),
                matches: RouteMatch {
                    path: PathMatcher::Prefix(Text::exact("")),
                    headers: Vec::new(),
                    fraction: None,
                },
                action: RouteAction::NonForwarding,
            }],
        }],
    }
}
