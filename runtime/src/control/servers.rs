//! The servers' listeners: from resolved routes to configurations to serve by.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use sidestep_proto::resource::{ListenerKind, RouteConfiguration};
use tokio::sync::watch;

use super::authorities::Origins;
use super::config_source::Stale;
use super::dependency::{self, Needs, Resolution, ServerRoutes};
use super::resource_cache::{Key, ResourceCache};
use super::{ChainRoutes, RoutesState, ServerConfig, ServerState};
use crate::balancer::Failure;
use crate::inspect;
use crate::routing::{ClusterIndex, RouteTable};

/// All listeners that servers watch.
#[derive(Default)]
pub(super) struct Servers {
    watches: Vec<Watch>,
}

struct Watch {
    listener: Arc<str>,
    state: watch::Sender<ServerState>,
    current: Option<(ServerRoutes, Arc<ServerConfig>)>,
    needs: Needs,
}

impl Servers {
    /// A server was made.
    pub(super) fn watch(&mut self, listener: Arc<str>, state: watch::Sender<ServerState>) {
        self.watches.push(Watch {
            listener,
            state,
            current: None,
            needs: Needs::new(),
        });
    }

    /// Forgets servers that are gone.
    pub(super) fn sweep(&mut self) {
        self.watches.retain(|watch| !watch.state.is_closed());
    }

    /// Follows the cache, for servers that rest on what is `stale` and for new ones. `origins` say
    /// who answers for it, and whether anybody can be asked.
    pub(super) fn resolve(
        &mut self,
        cache: &ResourceCache,
        origins: &Origins,
        revision: &str,
        stale: &Stale,
    ) {
        // Whoever was resolved once rests at least on its Listener.
        let watches = self.watches.iter_mut();
        for watch in watches.filter(|w| w.needs.is_empty() || stale.touches(&w.needs)) {
            watch.needs.clear();
            let name = watch.listener.clone();
            match dependency::server_routes(cache, origins, &name, &mut watch.needs) {
                // What is in use stays in use.
                Resolution::Waiting => {}
                Resolution::Failed(failure) => watch.fail(failure),
                Resolution::Ready(routes) => watch.serve(routes, revision),
            }
            let is_pending = matches!(*watch.state.borrow(), ServerState::Pending);
            let stuck = dependency::stuck(cache, origins, &watch.needs);
            if let Some(failure) = stuck.filter(|_| is_pending) {
                watch.state.send_replace(ServerState::Failed(failure));
            }
        }
    }

    /// There is no control plane to ask.
    pub(super) fn fail_all(&mut self, failure: &Failure) {
        for watch in &mut self.watches {
            watch.fail(failure.clone());
        }
    }

    /// Every server that runs, and whether it serves.
    pub(super) fn inspect(&self) -> Vec<inspect::Server> {
        let running = self.watches.iter().filter(|w| !w.state.is_closed());
        let servers = running.map(|watch| inspect::Server {
            listener: watch.listener.clone(),
            problem: problem(&watch.state.borrow()),
        });
        servers.collect()
    }

    /// Every name that a server rests on.
    pub(super) fn needs(&self) -> impl Iterator<Item = &Key> {
        self.watches.iter().flat_map(|watch| &watch.needs)
    }
}

impl Watch {
    fn fail(&mut self, failure: Failure) {
        self.current = None;
        self.state.send_if_modified(|state| {
            let same = matches!(state, ServerState::Failed(last) if *last == failure);
            *state = ServerState::Failed(failure);
            !same
        });
    }

    fn serve(&mut self, routes: ServerRoutes, revision: &str) {
        match &mut self.current {
            Some((current, _)) if *current == routes => {}
            // A change behind a name reaches live connections and drains none (gRFC A36).
            Some((current, config)) if current.listener == routes.listener => {
                for (index, chain) in config.chains.iter().enumerate() {
                    if current.chains[index] != routes.chains[index] {
                        chain.routes.store(Arc::new(compile(&routes.chains[index])));
                    }
                }
                *current = routes;
                tracing::info!(
                    target: "sidestep::config",
                    listener = &*self.listener,
                    revision,
                    "server routes applied"
                );
            }
            _ => self.replace(routes, revision),
        }
    }

    fn replace(&mut self, routes: ServerRoutes, revision: &str) {
        // The resolution of a server's listener is one of this kind only.
        let ListenerKind::Server(listener) = &routes.listener.kind else {
            return;
        };
        let chains = routes.chains.iter().map(|chain| ChainRoutes {
            routes: Arc::new(ArcSwap::from_pointee(compile(chain))),
        });
        let config = Arc::new(ServerConfig {
            listener: Arc::new(listener.clone()),
            chains: chains.collect(),
            verdict: OnceLock::new(),
        });
        tracing::info!(
            target: "sidestep::config",
            listener = &*self.listener,
            revision,
            chains = config.chains.len(),
            "server configuration applied"
        );
        self.state
            .send_replace(ServerState::Serving(config.clone()));
        self.current = Some((routes, config));
    }
}

fn problem(state: &ServerState) -> Option<String> {
    match state {
        ServerState::Pending => Some("waiting for its Listener".to_owned()),
        ServerState::Failed(failure) => Some(failure.0.to_string()),
        ServerState::Serving(config) => match config.verdict.get() {
            Some(Ok(())) => None,
            Some(Err(reason)) => Some(reason.clone()),
            None => Some("has not begun to serve by its Listener".to_owned()),
        },
    }
}

/// A server forwards nothing, so the clusters that its routes might name stay unresolved: a
/// request that meets such a route fails.
fn compile(routes: &Result<Arc<RouteConfiguration>, Failure>) -> RoutesState {
    match routes {
        Ok(routes) => RoutesState::Ready(RouteTable::compile(routes, |_| ClusterIndex(0), None)),
        Err(failure) => {
            tracing::warn!(
                target: "sidestep::config",
                code = %failure.1,
                reason = &*failure.0,
                "server has no routes"
            );
            RoutesState::Failed(failure.clone())
        }
    }
}
