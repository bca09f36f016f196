//! A server on a real loopback socket, and its configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sidestep_proto::resource::{
    Address, DownstreamTls, FilterChain, FilterChainMatch, HttpConnectionManager, RouteSource,
    ServerListener, TransportProtocol,
};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::super::{BoundServer, Server, ServerError, ServerMode, ServerSource, ServerStats};
pub(super) use super::certificates::*;
pub(super) use super::client::*;
pub(super) use super::echo::*;
pub(super) use super::pipes::*;
use crate::control::{ChainRoutes, RoutesState, ServerConfig, ServerState};
use crate::security::CertificateProviders;

/// Nothing here takes longer; a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits with a limit.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.expect("this should not take long")
}

/// What a test's Listener says; turned into a new [`ServerState`] each time.
#[derive(Clone, Default)]
pub(super) struct Plan {
    pub(super) address: Option<SocketAddr>,
    /// Protocol and TLS of each chain. Empty: one plaintext chain for everything.
    pub(super) chains: Vec<(TransportProtocol, Option<DownstreamTls>)>,
}

impl Plan {
    pub(super) fn tls(tls: DownstreamTls) -> Self {
        Self {
            chains: vec![(TransportProtocol::Any, Some(tls))],
            ..Self::default()
        }
    }

    pub(super) fn permissive(tls: DownstreamTls) -> Self {
        Self {
            chains: vec![
                (TransportProtocol::Tls, Some(tls)),
                (TransportProtocol::RawBuffer, None),
            ],
            ..Self::default()
        }
    }

    /// The state for a server at `real`, with the cell of its routes.
    pub(super) fn state(&self, real: SocketAddr) -> (ServerState, Arc<ArcSwap<RoutesState>>) {
        let mut chains = self.chains.clone();
        if chains.is_empty() {
            chains.push((TransportProtocol::Any, None));
        }
        let cell = Arc::new(ArcSwap::from_pointee(super::routes::everything()));
        let routes = ChainRoutes {
            routes: cell.clone(),
        };
        let config = ServerConfig {
            verdict: std::sync::OnceLock::new(),
            chains: vec![routes; chains.len()],
            listener: Arc::new(ServerListener {
                address: self.address.unwrap_or(real),
                filter_chains: chains.into_iter().map(filter_chain).collect(),
                default_filter_chain: None,
            }),
        };
        (ServerState::Serving(Arc::new(config)), cell)
    }
}

fn filter_chain(
    (transport_protocol, tls): (TransportProtocol, Option<DownstreamTls>),
) -> FilterChain {
    FilterChain {
        name: String::new(),
        matches: FilterChainMatch {
            transport_protocol,
            ..FilterChainMatch::default()
        },
        tls,
        http: HttpConnectionManager {
            routes: RouteSource::Named("routes".into()),
            max_stream_duration: None,
            filters: Vec::new(),
        },
    }
}

/// A running server.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) states: Arc<watch::Sender<ServerState>>,
    pub(super) routes: Arc<ArcSwap<RoutesState>>,
    pub(super) stats: Arc<ServerStats>,
    pub(super) echo: Arc<EchoState>,
    pub(super) modes: mpsc::UnboundedReceiver<ServerMode>,
    pub(super) shutdown: Option<oneshot::Sender<()>>,
    pub(super) served: JoinHandle<Result<(), ServerError>>,
}

/// A source whose states the test sends.
pub(super) fn source(
    states: &Arc<watch::Sender<ServerState>>,
    providers: CertificateProviders,
) -> ServerSource {
    let states = states.clone();
    ServerSource {
        subscribe: Arc::new(move |_| Ok(states.subscribe())),
        providers: Arc::new(providers),
        plaintext_where_unsecured: false,
        mode: crate::Mode::Mesh,
    }
}

pub(super) fn pending_states() -> Arc<watch::Sender<ServerState>> {
    Arc::new(watch::Sender::new(ServerState::Pending))
}

/// A server by `plan` on a loopback port, changed by `build` before it starts.
pub(super) fn start_with(
    plan: &Plan,
    providers: CertificateProviders,
    build: impl FnOnce(Server) -> Server,
) -> Running {
    run_server(plan, providers, build, Server::bind)
}

pub(super) fn run_server(
    plan: &Plan,
    providers: CertificateProviders,
    build: impl FnOnce(Server) -> Server,
    bind: impl FnOnce(Server) -> Result<BoundServer, ServerError>,
) -> Running {
    let states = pending_states();
    let server = build(Server::new("127.0.0.1:0", source(&states, providers)));
    let echo = Echo(Arc::new(EchoState {
        release: Some(Arc::new(Semaphore::new(0))),
        ..EchoState::default()
    }));
    let (tell, modes) = mpsc::unbounded_channel();
    let server = server
        .add_service(echo.clone())
        .on_mode_change(move |_, mode| {
            // The test may be over already.
            let _ = tell.send(mode.clone());
        });
    let stats = server.stats();
    let bound = bind(server).unwrap();
    let address = tcp(&bound);
    let (state, routes) = plan.state(address);
    states.send_replace(state);
    let (shutdown, signal) = oneshot::channel::<()>();
    Running {
        address,
        states,
        routes,
        stats,
        echo: echo.0,
        modes,
        shutdown: Some(shutdown),
        served: tokio::spawn(bound.serve_with_shutdown(signal)),
    }
}

pub(super) fn tcp<L>(bound: &BoundServer<L>) -> SocketAddr {
    match bound.address() {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("{path} is no TCP address"),
    }
}

/// A plaintext server that serves already.
pub(super) async fn start() -> Running {
    started(start_with(&Plan::default(), no_certificates(), |server| {
        server
    }))
    .await
}

/// Waits until it serves.
pub(super) async fn started(mut running: Running) -> Running {
    running.mode_is(&ServerMode::Serving).await;
    running
}

impl Running {
    pub(super) async fn mode_is(&mut self, expected: &ServerMode) {
        let modes = &mut self.modes;
        soon(async { while modes.recv().await.expect("the server runs").ne(expected) {} }).await;
    }

    pub(super) async fn not_serving(&mut self) -> String {
        soon(async {
            loop {
                match self.modes.recv().await.expect("the server runs") {
                    ServerMode::NotServing { reason } => return reason,
                    ServerMode::Serving => {}
                }
            }
        })
        .await
    }

    pub(super) async fn client(&self) -> Client {
        Client::over(connect(self.address).await.unwrap()).await
    }

    /// Lets `n` calls of `Hold` go.
    pub(super) fn release(&self, n: usize) {
        self.echo.release.as_ref().unwrap().add_permits(n);
    }

    /// Signals the shutdown.
    pub(super) fn stop(&mut self) {
        let _ = self.shutdown.take().expect("stopped once").send(());
    }
}

/// Connects by TCP; small frames go out at once.
pub(super) async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let io = TcpStream::connect(address).await?;
    io.set_nodelay(true)?;
    Ok(io)
}

/// Connects as soon as somebody listens.
pub(super) async fn connect_until_listening(address: SocketAddr) -> TcpStream {
    soon(async {
        loop {
            if let Ok(io) = connect(address).await {
                return io;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}
