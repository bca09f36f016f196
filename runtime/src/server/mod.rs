//! A meshed server: our accept loop, the Listener's filter chains, the user's tonic services.
//!
//! ```text
//!   accept -> admission ( first bytes -> filter chain -> TLS -> preface ) -> connection ( HTTP/2 )
//!               ^                                                              |  per call
//!   Listener -> serving ( Gate, Generation )                     service ( route -> deadline -> handler )
//! ```
//!
//! Semantics follow gRFC A36 (serving mode, filter chains, draining) and A29 (TLS), with one
//! addition of our own: a *permissive* port, on which a chain for `transport_protocol: tls` and one
//! for `raw_buffer` are told apart by the first bytes of each connection.
//!
//! A Listener that is missing, unusable or for another address means that nobody is served.
//! Nothing falls back to plaintext.

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use http::{Request, Response};
use sidestep_proto::bootstrap::NameError;
use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::Address;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower_layer::{Identity, Layer, Stack};
use tower_service::Service;

use crate::telemetry::Telemetry;
use crate::telemetry::server::Services;

mod accept;
mod admission;
mod connect_info;
mod connection;
mod direct;
mod drain;
mod filter_chain;
mod first_bytes;
mod incoming;
mod reply_body;
mod run;
mod service;
mod serving;
mod stats;
#[cfg(test)]
mod tests;
mod timeout;

pub(crate) use accept::{Acceptor, Bound, Raw, Sockets};
use admission::Limits;
use connection::Shared;
use serving::{Gate, OnMode};

pub use connect_info::ConnectInfo;
pub use incoming::{Accepted, Incoming};
pub use serving::{ServerMode, ServerSource, Subscribe};
pub use stats::{Refusal, ServerStats};

use crate::{BuildError, Mode};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a server cannot run. A missing Listener is no error: it is waited for.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerError {
    /// Neither `IP:port` nor `unix:path`.
    Address(String),
    /// The address cannot be bound.
    Bind {
        /// The address asked for.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// The bound address cannot be listened on.
    Listen {
        /// The real address.
        address: Address,
        /// What the system says.
        source: io::Error,
    },
    /// There is no way to a Listener for the address, such as no name template in the bootstrap.
    Listener {
        /// The real address.
        address: Address,
        /// What is missing.
        source: BoxError,
    },
    /// The operator set `SIDESTEP_MODE=direct`, and the program does not allow plaintext then.
    Direct {
        /// The real address.
        address: Address,
    },
}

impl ServerError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Address(_) => code::SERVER_ADDRESS,
            Self::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                code::SERVER_ADDRESS_IN_USE
            }
            Self::Bind { .. } => code::SERVER_BIND,
            Self::Listen { .. } => code::SERVER_LISTEN,
            Self::Listener { source, .. } => code_of(source),
            Self::Direct { .. } => code::SERVER_DIRECT,
        }
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.code().hint()
    }

    fn say(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(text) => write!(
                f,
                "{text:?} is no listening address; give IP:port, [IPv6]:port or unix:/path"
            ),
            Self::Bind { address, source } => write!(f, "cannot bind {address}: {source}"),
            Self::Listen { address, source } => write!(f, "cannot listen on {address}: {source}"),
            Self::Listener { address, source } => {
                // The cause may show code and hint as well; once is enough.
                let cause = source.to_string();
                let cause = cause.split(" [SX").next().unwrap_or_default();
                write!(f, "no Listener can be named for {address}: {cause}")
            }
            Self::Direct { address } => write!(
                f,
                "{address}: SIDESTEP_MODE=direct takes the mesh's security away, and this server \
                 does not serve without it; Server::or_direct_plaintext() allows it"
            ),
        }
    }
}

fn code_of(cause: &BoxError) -> Code {
    let name = cause.downcast_ref().map(NameError::code);
    let build = cause.downcast_ref().map(BuildError::code);
    name.or(build).unwrap_or(code::SERVER_LISTENER_NAME)
}

/// What and where on the first line, which ends with the code; what to do on the second.
impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(f)?;
        write!(f, " [{}]\n  hint: {}", self.code(), self.hint())
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind { source, .. } | Self::Listen { source, .. } => Some(source),
            Self::Listener { source, .. } => Some(&**source),
            Self::Address(_) | Self::Direct { .. } => None,
        }
    }
}

/// Bounds of a server's connections.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerOptions {
    /// Calls that one connection may have open at once. Default 1,000.
    pub max_concurrent_streams: u32,
    /// Largest header list of a call, in bytes as HTTP/2 counts them. Default 16 KiB.
    pub max_header_list_bytes: u32,
    /// Silence after which a connection is asked for a sign of life; `None`: never. Default 2 h, as
    /// in other gRPC servers.
    pub keepalive_interval: Option<Duration>,
    /// How long that sign may take, and how long a peer without calls may take to answer a
    /// GOAWAY. Default 20 s.
    pub keepalive_timeout: Duration,
    /// How long calls in flight may go on once their connection is drained. Default 10 min (A36).
    pub drain_grace: Duration,
    limits: Limits,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1000,
            max_header_list_bytes: 16 * 1024,
            keepalive_interval: Some(Duration::from_secs(2 * 60 * 60)),
            keepalive_timeout: Duration::from_secs(20),
            drain_grace: Duration::from_secs(10 * 60),
            limits: Limits::default(),
        }
    }
}

/// Builds a meshed server around tonic services.
///
/// It listens once the control plane has given it a Listener for its address, and keeps serving by
/// the last good one when the control plane is lost.
#[must_use = "a server does nothing until it is served"]
pub struct Server<L = Identity> {
    address: String,
    source: ServerSource,
    routes: Routes,
    layer: L,
    options: ServerOptions,
    direct_plaintext: bool,
    on_mode: Option<OnMode>,
    stats: Arc<ServerStats>,
    telemetry: Arc<Telemetry>,
    services: Services,
}

impl Server {
    /// A server for `address`: `IP:port` (port 0 picks one), `[IPv6]:port` or `unix:/path`.
    pub fn new(address: impl Into<String>, source: ServerSource) -> Self {
        Self {
            address: address.into(),
            source,
            routes: Routes::default(),
            layer: Identity::new(),
            options: ServerOptions::default(),
            direct_plaintext: false,
            on_mode: None,
            stats: Arc::default(),
            telemetry: Telemetry::new(None),
            services: Services::Named(Vec::new()),
        }
    }
}

impl<L> Server<L> {
    /// Adds a generated tonic service, with or without an interceptor around it.
    pub fn add_service<S, B>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.routes = self.routes.add_service(service);
        if let Services::Named(names) = &mut self.services {
            names.push(S::NAME);
        }
        self
    }

    /// Serves these routes. Services added before are replaced; add further ones after.
    pub fn add_routes(mut self, routes: Routes) -> Self {
        self.routes = routes;
        self.services = Services::Any;
        self
    }

    /// Puts a tower layer around all services. The first one added is the outermost.
    pub fn layer<N>(self, layer: N) -> Server<Stack<N, L>> {
        Server {
            address: self.address,
            source: self.source,
            routes: self.routes,
            layer: Stack::new(layer, self.layer),
            options: self.options,
            direct_plaintext: self.direct_plaintext,
            on_mode: self.on_mode,
            stats: self.stats,
            telemetry: self.telemetry,
            services: self.services,
        }
    }

    /// Changes the bounds of connections: `.options(|o| o.max_concurrent_streams = 100)`.
    pub fn options(mut self, change: impl FnOnce(&mut ServerOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Allows plaintext from other hosts where xDS configures no TLS. A permissive port needs no
    /// such word: there xDS itself asks for plaintext. Where xDS configures TLS, nothing changes:
    /// an error there never ends in plaintext.
    pub fn plaintext_where_unsecured(mut self) -> Self {
        self.source.plaintext_where_unsecured = true;
        self
    }

    /// Serves in plaintext, to everybody who can connect, when (and only when) the operator has
    /// set `SIDESTEP_MODE=direct`: there is no Listener then, so no mutual TLS and no rule of the
    /// mesh. Logged as a warning. Without this word such a server does not start
    /// ([`ServerError::Direct`]): security never fails open by itself.
    pub fn or_direct_plaintext(mut self) -> Self {
        self.direct_plaintext = true;
        self
    }

    /// Calls `tell` with the real address at each change of mode, from the task that serves. It
    /// must not block. Changes are logged in any case.
    pub fn on_mode_change(
        mut self,
        tell: impl Fn(&Address, &ServerMode) + Send + Sync + 'static,
    ) -> Self {
        self.on_mode = Some(Arc::new(tell));
        self
    }

    /// Where its calls are counted.
    pub(crate) fn telemetry(mut self, telemetry: Arc<Telemetry>) -> Self {
        self.telemetry = telemetry;
        self
    }

    /// The counters of this server, to be read while it runs and after.
    #[must_use]
    pub fn stats(&self) -> Arc<ServerStats> {
        self.stats.clone()
    }

    /// Takes connections from within the process in place of a socket; the address only names the
    /// Listener. For tests over in-memory pipes, the other end of which a
    /// [`MeshBuilder::connector`](crate::MeshBuilder::connector) hands out: whoever comes this way
    /// counts as being on this host.
    ///
    /// # Errors
    /// The address is none.
    pub fn bind_pipes(
        self,
        pipes: impl Stream<Item = Box<dyn crate::subchannel::Io>> + Send + 'static,
    ) -> Result<BoundServer<L>, ServerError> {
        let sockets = pipes.map(|io| {
            Ok(Raw {
                io: Box::new(io),
                addresses: None,
            })
        });
        Ok(BoundServer {
            bound: Bound::from_sockets(parse_address(&self.address)?, sockets.boxed()),
            server: self,
        })
    }

    /// Binds the address, so that the real one is known; nobody can connect yet.
    ///
    /// # Errors
    /// The address is none, or cannot be bound.
    pub fn bind(self) -> Result<BoundServer<L>, ServerError> {
        let address = parse_address(&self.address)?;
        let bound =
            Bound::bind(&address).map_err(|source| ServerError::Bind { address, source })?;
        Ok(BoundServer {
            bound,
            server: self,
        })
    }
}

impl<L, B> Server<L>
where
    L: Layer<Routes>,
    L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
    <L::Service as Service<Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Serves for ever. Dropping the future closes all connections at once.
    ///
    /// # Errors
    /// See [`ServerError`]. Trouble with the control plane is none.
    pub async fn serve(self) -> Result<(), ServerError> {
        self.bind()?.serve().await
    }

    /// Serves until `signal` resolves, then drains: no new connection, GOAWAY on the old ones, and
    /// their calls are finished within [`ServerOptions::drain_grace`].
    ///
    /// # Errors
    /// See [`ServerError`]. Trouble with the control plane is none.
    pub async fn serve_with_shutdown<F: Future>(self, signal: F) -> Result<(), ServerError> {
        self.bind()?.serve_with_shutdown(signal).await
    }
}

/// A server whose address is bound.
#[must_use = "a server does nothing until it is served"]
pub struct BoundServer<L = Identity> {
    bound: Bound,
    server: Server<L>,
}

impl<L> BoundServer<L> {
    /// The real address: port 0 has become the port that the system picked.
    #[must_use]
    pub fn address(&self) -> &Address {
        self.bound.address()
    }

    /// Gives authenticated connections to tonic's own server; the services and layers added here
    /// are not used. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// There is no way to a Listener for the address.
    pub fn incoming(self) -> Result<Incoming, ServerError> {
        let (gate, bound, shared) = self.open()?.0;
        Ok(Incoming::start(gate, bound, shared))
    }

    #[allow(clippy::type_complexity, reason = "taken apart at once, in this file")]
    fn open(self) -> Result<((Gate, Bound, Arc<Shared>), (Routes, L)), ServerError> {
        let Self { bound, mut server } = self;
        let address = bound.address().clone();
        if server.source.mode == Mode::Direct {
            if !server.direct_plaintext {
                return Err(ServerError::Direct { address });
            }
            tracing::warn!(
                target: "sidestep::server",
                %address,
                "SIDESTEP_MODE=direct: serving in plaintext, without the mesh"
            );
            server.source.subscribe = Arc::new(|address| Ok(direct::plaintext(address)));
            server.source.plaintext_where_unsecured = true;
        }
        let gate = Gate::open(address.clone(), server.source, server.on_mode)
            .map_err(|source| ServerError::Listener { address, source })?;
        let shared = Shared {
            options: server.options,
            stats: server.stats,
            telemetry: Arc::clone(server.telemetry.server()),
            services: Arc::new(server.services),
        };
        Ok((
            (gate, bound, Arc::new(shared)),
            (server.routes, server.layer),
        ))
    }
}

impl<L, B> BoundServer<L>
where
    L: Layer<Routes>,
    L::Service: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    <L::Service as Service<Request<Body>>>::Error: Into<BoxError>,
    <L::Service as Service<Request<Body>>>::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// As [`Server::serve`].
    ///
    /// # Errors
    /// As [`Server::serve`].
    pub async fn serve(self) -> Result<(), ServerError> {
        self.serve_with_shutdown(pending::<()>()).await
    }

    /// As [`Server::serve_with_shutdown`].
    ///
    /// # Errors
    /// As [`Server::serve_with_shutdown`].
    pub async fn serve_with_shutdown<F: Future>(self, signal: F) -> Result<(), ServerError> {
        let ((gate, bound, shared), (routes, layer)) = self.open()?;
        let handler = layer.layer(routes.prepare());
        let every = shared.clone();
        let handle = move |raw, generation, draining| {
            connection::serve(raw, generation, draining, handler.clone(), every.clone())
        };
        run::run(gate, bound, shared, signal, handle).await
    }
}

pub(crate) fn parse_address(text: &str) -> Result<Address, ServerError> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        // `unix:///path` is how gRPC names an absolute path.
        return Ok(Address::Unix(
            path.strip_prefix("//").unwrap_or(path).into(),
        ));
    }
    let parsed = text.parse().map(Address::Tcp);
    parsed.map_err(|_| ServerError::Address(text.into()))
}
