//! A server under test, its service, its client and its certificates.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sidestep_proto::resource::{
    Address, CertificateInstance, DownstreamTls, FilterChain, FilterChainMatch,
    HttpConnectionManager, RouteSource, ServerListener, TransportProtocol,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::super::accept::{Bound, Io, Raw};
use super::super::provisional::{
    CertificateProviders, ChainRoutes, RoutesState, ServerConfig, ServerState,
};
use super::super::{
    BoundServer, ConnectInfo, Incoming, Server, ServerError, ServerMode, ServerSource, ServerStats,
};
use crate::security::{CertificateProvider, Material, PeerIdentity, SecurityError};

/// Nothing here takes longer; a test that would hang fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits with a limit.
pub(super) async fn soon<T>(future: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.expect("this should not take long")
}

// ---- the service -------------------------------------------------------------------------------

/// A hand-written tonic service `test.Echo` over strings.
#[derive(Clone, Default)]
pub(super) struct Echo(pub(super) Arc<EchoState>);

#[derive(Default)]
pub(super) struct EchoState {
    /// `Hold` calls that have begun.
    pub(super) held: AtomicUsize,
    /// `Hold` and `Never` calls whose handler has ended or was dropped.
    pub(super) ended: AtomicUsize,
    /// Told of each change of the two.
    pub(super) moved: tokio::sync::Notify,
    /// A permit lets one `Hold` go.
    pub(super) release: Option<Arc<Semaphore>>,
}

impl EchoState {
    /// Waits until `what` is true.
    pub(super) async fn until(&self, what: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let moved = self.moved.notified();
                if what(self) {
                    return;
                }
                moved.await;
            }
        };
        soon(wait).await;
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

struct EndGuard(Arc<EchoState>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.moved.notify_waiters();
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Codec = ProstCodec<String, String>;

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Method(self.0.clone(), request.uri().path().to_owned());
        async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match method.1.as_str() {
                "/test.Echo/Count" | "/test.Echo/Trickle" => {
                    grpc.server_streaming(method, request).await
                }
                "/test.Echo/Chat" => grpc.streaming(method, request).await,
                _ => grpc.unary(method, request).await,
            })
        }
        .boxed()
    }
}

struct Method(Arc<EchoState>, String);

impl tonic::server::UnaryService<String> for Method {
    type Response = String;
    type Future = BoxFuture<'static, Result<tonic::Response<String>, Status>>;

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        let (state, path) = (self.0.clone(), self.1.clone());
        async move {
            match path.as_str() {
                "/test.Echo/Unary" => Ok(request.into_inner()),
                "/test.Echo/Who" => Ok(who(&request)),
                "/test.Echo/Fail" => Err(Status::failed_precondition("as asked")),
                "/test.Echo/Hold" => hold(state, request.into_inner()).await,
                other => Err(Status::unimplemented(other)),
            }
        }
        .map(|result| result.map(tonic::Response::new))
        .boxed()
    }
}

async fn hold(state: Arc<EchoState>, text: String) -> Result<String, Status> {
    let _end = EndGuard(state.clone());
    state.held.fetch_add(1, Ordering::SeqCst);
    state.moved.notify_waiters();
    match &state.release {
        Some(release) => release.acquire().await.expect("never closed").forget(),
        None => std::future::pending().await,
    }
    Ok(text)
}

fn who(request: &tonic::Request<String>) -> String {
    let extensions = request.extensions();
    let info = extensions.get::<ConnectInfo>().expect("always there");
    let identity = extensions.get::<PeerIdentity>();
    let names = identity.map_or(0, |identity| identity.certificates.len());
    assert_eq!(info.remote_addr(), request.remote_addr());
    assert_eq!(info.local_addr(), request.local_addr());
    format!(
        "tls={} certificates={names} loopback={:?}",
        info.is_tls(),
        request.remote_addr().map(|addr| addr.ip().is_loopback()),
    )
}

impl tonic::server::ServerStreamingService<String> for Method {
    type Response = String;
    type ResponseStream = BoxStream<'static, Result<String, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<String>) -> Self::Future {
        let end = EndGuard(self.0.clone());
        let three = stream::iter(["1", "2", "3"].map(|n| Ok(n.to_owned())));
        let replies = match self.1.as_str() {
            "/test.Echo/Trickle" => three.chain(stream::pending()).boxed(),
            _ => three.boxed(),
        };
        let replies = replies.map(move |reply| {
            let _until_dropped = &end;
            reply
        });
        std::future::ready(Ok(tonic::Response::new(replies.boxed()))).boxed()
    }
}

impl tonic::server::StreamingService<String> for Method {
    type Response = String;
    type ResponseStream = BoxStream<'static, Result<String, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<String>>) -> Self::Future {
        let replies = request.into_inner().boxed();
        std::future::ready(Ok(tonic::Response::new(replies))).boxed()
    }
}

// ---- configuration -----------------------------------------------------------------------------

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

/// Identity (and roots, if client certificates are asked for) from the provider `server`.
pub(super) fn downstream_tls(ask: bool, require: bool) -> DownstreamTls {
    let instance = || CertificateInstance {
        instance: "server".into(),
        certificate_name: String::new(),
    };
    DownstreamTls {
        identity: instance(),
        roots: ask.then(instance),
        require_client_certificate: require,
    }
}

// ---- the server --------------------------------------------------------------------------------

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
    }
}

pub(super) fn no_certificates() -> CertificateProviders {
    CertificateProviders::default()
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

fn run_server(
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
        Client::over(TcpStream::connect(self.address).await.unwrap()).await
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

// ---- a server on in-memory pipes, for virtual time ---------------------------------------------

/// A server whose "socket" is a queue of pipes.
pub(super) struct Piped {
    queue: mpsc::UnboundedSender<std::io::Result<Raw>>,
    pub(super) running: Running,
}

/// The address that a piped server believes to listen on.
pub(super) const PIPED: &str = "0.0.0.0:50051";
/// A peer on another host.
pub(super) const FAR: &str = "10.9.9.9:40000";
/// A peer on this host.
pub(super) const NEAR: &str = "127.0.0.1:40000";

/// Must run with the clock paused: nothing outside this runtime takes part.
pub(super) async fn start_piped(
    plan: &Plan,
    providers: CertificateProviders,
    build: impl FnOnce(Server) -> Server,
) -> Piped {
    let address: SocketAddr = PIPED.parse().unwrap();
    let (queue, sockets) = mpsc::unbounded_channel();
    let sockets = stream::unfold(sockets, |mut sockets| async {
        sockets.recv().await.map(|socket| (socket, sockets))
    });
    let bound = Bound::from_sockets(Address::Tcp(address), sockets.boxed());
    let mut running = run_server(plan, providers, build, |server| {
        Ok(BoundServer { bound, server })
    });
    running.mode_is(&ServerMode::Serving).await;
    Piped { queue, running }
}

impl Piped {
    /// A new connection from `peer`.
    pub(super) fn connect(&self, peer: &str) -> tokio::io::DuplexStream {
        let (near, raw) = pipe(peer);
        assert!(self.queue.send(Ok(raw)).is_ok(), "the server runs");
        near
    }

    /// Writes `bytes`, one each `gap`, until the server closes; what it answered, and when.
    pub(super) async fn trickle(
        &self,
        peer: &str,
        bytes: &[u8],
        gap: Duration,
    ) -> (Vec<u8>, Duration) {
        let began = tokio::time::Instant::now();
        let (mut read, mut write) = tokio::io::split(self.connect(peer));
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + gap, gap);
            for byte in bytes {
                ticks.tick().await;
                if write.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
            std::future::pending::<()>().await;
        });
        let mut answer = Vec::new();
        // A reset is as good an end as a close.
        let _ = read.read_to_end(&mut answer).await;
        writing.abort();
        (answer, began.elapsed())
    }
}

/// An [`Incoming`] with one connection waiting; its other end, the states and the counters.
pub(super) fn piped_incoming(
    plan: &Plan,
) -> (
    Incoming,
    tokio::io::DuplexStream,
    Arc<watch::Sender<ServerState>>,
    Arc<ServerStats>,
) {
    let address: SocketAddr = PIPED.parse().unwrap();
    let (near, raw) = pipe(NEAR);
    let sockets = stream::iter([Ok(raw)]).boxed();
    let states = pending_states();
    states.send_replace(plan.state(address).0);
    let server = Server::new(PIPED, source(&states, no_certificates()));
    let stats = server.stats();
    let bound = Bound::from_sockets(Address::Tcp(address), sockets);
    let incoming = BoundServer { bound, server }.incoming().unwrap();
    (incoming, near, states, stats)
}

/// A pipe and the accepted end of it.
fn pipe(peer: &str) -> (tokio::io::DuplexStream, Raw) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let raw = Raw {
        io: Box::new(far),
        addresses: Some(("10.0.0.1:50051".parse().unwrap(), peer.parse().unwrap())),
    };
    (near, raw)
}

// ---- certificates ------------------------------------------------------------------------------

/// A certificate authority and what it signed, as a provider.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) roots: Arc<rustls::RootCertStore>,
    pub(super) identity: Option<Arc<rustls::sign::CertifiedKey>>,
}

impl CertificateProvider for Issued {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        Ok(Arc::new(Material {
            identity: self.identity.clone(),
            roots: Some(self.roots.clone()),
        }))
    }
}

/// A certificate authority.
pub(super) struct Ca(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Ca {
    pub(super) fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        Self(rcgen::CertifiedIssuer::self_signed(params, key).unwrap())
    }

    /// Roots of this authority and a certificate for `echo.test` with a SPIFFE id.
    pub(super) fn issue(&self) -> Issued {
        let mut params = rcgen::CertificateParams::new(["echo.test".to_owned()]).unwrap();
        let id = "spiffe://test/echo".try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(id));
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let der = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
        let signer = crypto().key_provider.load_private_key(der.into()).unwrap();
        let identity = rustls::sign::CertifiedKey::new(vec![certificate.der().clone()], signer);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Issued {
            roots: Arc::new(roots),
            identity: Some(Arc::new(identity)),
        }
    }

    /// The provider `server` with a fresh certificate.
    pub(super) fn providers(&self) -> CertificateProviders {
        no_certificates().with("server", Arc::new(self.issue()))
    }
}

fn crypto() -> Arc<rustls::crypto::CryptoProvider> {
    #[cfg(feature = "aws-lc-rs")]
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    #[cfg(not(feature = "aws-lc-rs"))]
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(provider)
}

/// A TLS client that trusts `trusted` and shows the certificate of `shown`.
pub(super) async fn tls_connect(
    io: impl Io + 'static,
    trusted: &Ca,
    shown: Option<&Ca>,
) -> std::io::Result<tokio_rustls::client::TlsStream<Box<dyn Io>>> {
    let builder = rustls::ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted.issue().roots);
    let mut config = match shown {
        Some(ca) => {
            let identity = ca.issue().identity.expect("issued");
            let resolver = rustls::sign::SingleCertAndKey::from((*identity).clone());
            builder.with_client_cert_resolver(Arc::new(resolver))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = "echo.test".try_into().unwrap();
    soon(connector.connect(name, Box::new(io) as Box<dyn Io>)).await
}

// ---- the client --------------------------------------------------------------------------------

/// One HTTP/2 connection as a tonic client's transport.
#[derive(Clone)]
pub(super) struct Client {
    sender: http2::SendRequest<Body>,
    /// Becomes true when the connection is over.
    closed: watch::Receiver<bool>,
}

impl Client {
    pub(super) async fn over(io: impl Io + 'static) -> Self {
        let io = TokioIo::new(Box::new(io) as Box<dyn Io>);
        let (sender, connection) = soon(http2::handshake(TokioExecutor::new(), io))
            .await
            .unwrap();
        let (over, closed) = watch::channel(false);
        tokio::spawn(async move {
            // How it ended shows in the calls.
            let _ = connection.await;
            over.send_replace(true);
        });
        Self { sender, closed }
    }

    pub(super) async fn closed(&mut self) {
        soon(self.closed.wait_for(|closed| *closed)).await.unwrap();
    }

    fn grpc(&self) -> tonic::client::Grpc<Self> {
        let origin = "http://echo.test".parse().unwrap();
        tonic::client::Grpc::with_origin(self.clone(), origin)
    }

    pub(super) async fn unary(&self, method: &str, text: &str) -> Result<String, Status> {
        self.unary_request(method, tonic::Request::new(text.to_owned()))
            .await
    }

    pub(super) async fn unary_request(
        &self,
        method: &str,
        request: tonic::Request<String>,
    ) -> Result<String, Status> {
        let path = method_path(method);
        let reply = soon(self.grpc().unary(request, path, Codec::default())).await;
        reply.map(tonic::Response::into_inner)
    }

    pub(super) async fn unary_without_limit(
        &self,
        method: &str,
        text: &str,
    ) -> Result<String, Status> {
        let (path, request) = (method_path(method), tonic::Request::new(text.to_owned()));
        let reply = self.grpc().unary(request, path, Codec::default()).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Whether a call failed because its connection took no calls any more: no server saw it.
    pub(super) fn was_unsent(&self, status: &Status) -> bool {
        let source = std::error::Error::source(status);
        let error = source.and_then(|source| source.downcast_ref::<hyper::Error>());
        error.is_some_and(hyper::Error::is_canceled) || self.sender.is_closed()
    }

    pub(super) async fn server_streaming(
        &self,
        method: &str,
        request: tonic::Request<String>,
    ) -> Result<tonic::Streaming<String>, Status> {
        let path = method_path(method);
        let reply = soon(
            self.grpc()
                .server_streaming(request, path, Codec::default()),
        )
        .await;
        reply.map(tonic::Response::into_inner)
    }

    pub(super) async fn chat(
        &self,
        words: impl futures_core::Stream<Item = String> + Send + 'static,
    ) -> Result<tonic::Streaming<String>, Status> {
        let path = method_path("test.Echo/Chat");
        let request = tonic::Request::new(words);
        let reply = soon(self.grpc().streaming(request, path, Codec::default())).await;
        reply.map(tonic::Response::into_inner)
    }
}

fn method_path(method: &str) -> http::uri::PathAndQuery {
    format!("/{method}").parse().unwrap()
}

impl Service<Request<Body>> for Client {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.sender.send_request(request).boxed()
    }
}
