//! Whether a server serves, and by which configuration (gRFC A36).
//!
//! ```text
//!                     valid Listener                 other valid Listener
//!   NotServing (start) ------------> Serving <-----------------------------> Serving
//!        ^                              |        old connections drain
//!        +------------------------------+
//!          Listener gone or unusable: all connections drain
//! ```
//!
//! A lost control plane is no input here: the last good configuration stays.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use sidestep_proto::code;
use sidestep_proto::resource::{Address, ServerListener, TransportProtocol};
use tokio::sync::watch;

use super::drain::{Drain, Draining};
use super::{BoxError, filter_chain};
use crate::Mode;
use crate::balancer::Failure;
use crate::control::{ChainRoutes, ServerConfig, ServerState};
use crate::security::{CertificateProviders, SecurityError, ServerTls};

/// Whether a server takes connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerMode {
    /// It has a valid Listener and serves by it.
    Serving,
    /// It has none, or not one it may serve by: nobody is let in.
    NotServing {
        /// What is missing or wrong, for people; it ends with the error's code.
        reason: String,
    },
}

/// Told of each change of mode: the server's real address and its new mode.
pub(super) type OnMode = Arc<dyn Fn(&Address, &ServerMode) + Send + Sync>;

/// Watches the Listener for a real listening address.
pub type Subscribe =
    Arc<dyn Fn(&Address) -> Result<watch::Receiver<ServerState>, BoxError> + Send + Sync>;

/// Where a server's configuration comes from.
#[derive(Clone)]
pub struct ServerSource {
    /// Called once, inside the runtime, when the real address is known (port 0 has become a real
    /// port); makes the Listener's name from it. What it captures lives as long as the server.
    pub subscribe: Subscribe,
    /// Certificates by the instance names of the bootstrap.
    pub providers: Arc<CertificateProviders>,
    /// Whether connections from other hosts may be plaintext where xDS configures no TLS.
    /// Loopback and Unix sockets always may.
    pub plaintext_where_unsecured: bool,
    /// Whether the operator sent the process around the mesh; `subscribe` is not called then.
    pub mode: Mode,
}

impl fmt::Debug for ServerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerSource")
            .field("plaintext_where_unsecured", &self.plaintext_where_unsecured)
            .finish_non_exhaustive()
    }
}

/// One configuration, ready to admit connections.
pub(super) struct Generation {
    pub(super) listener: Arc<ServerListener>,
    pub(super) looks_at_first_bytes: bool,
    pub(super) plaintext_for_all: bool,
    /// By position (see [`filter_chain::find`]). `None`: the chain is plaintext.
    tls: Vec<Option<ServerTls>>,
    routes: Vec<ChainRoutes>,
}

impl Generation {
    /// The TLS side of the chain at `position`, and the routes of its connections.
    pub(super) fn chain(&self, position: usize) -> Option<(Option<&ServerTls>, &ChainRoutes)> {
        Some((self.tls.get(position)?.as_ref(), self.routes.get(position)?))
    }

    /// Whether the chain at `position` is for plaintext in so many words.
    pub(super) fn asks_for_plaintext(&self, position: usize) -> bool {
        filter_chain::chains(&self.listener)
            .nth(position)
            .is_some_and(|chain| chain.matches.transport_protocol == TransportProtocol::RawBuffer)
    }

    /// Makes a configuration usable, or says why the server must not serve by it.
    fn build(
        config: &ServerConfig,
        address: &Address,
        source: &ServerSource,
    ) -> Result<Self, Failure> {
        let listener = &config.listener;
        check_address(listener, address)?;
        let tls = filter_chain::chains(listener)
            .map(|chain| {
                let build = |tls| ServerTls::new(tls, &source.providers);
                let named = |error: SecurityError| {
                    let text = format!("filter chain {:?}: {error}", chain.name);
                    Failure::new(error.code(), text)
                };
                chain.tls.as_ref().map(build).transpose().map_err(named)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let plaintext_for_all = source.plaintext_where_unsecured;
        if !plaintext_for_all && tls.iter().all(Option::is_none) && is_for_others_only(address) {
            let why = super::Refusal::Plaintext;
            return Err(Failure::new(why.code(), why.to_string()));
        }
        Ok(Self {
            listener: listener.clone(),
            looks_at_first_bytes: filter_chain::looks_at_first_bytes(listener),
            plaintext_for_all,
            tls,
            routes: config.chains.clone(),
        })
    }

    /// Whether `config` says nothing new.
    fn is(&self, config: &ServerConfig) -> bool {
        let same_cell = |(a, b): (&ChainRoutes, &ChainRoutes)| Arc::ptr_eq(&a.routes, &b.routes);
        self.listener == config.listener
            && self.routes.len() == config.chains.len()
            && self.routes.iter().zip(&config.chains).all(same_cell)
    }
}

/// The Listener must be for this very socket; one for every address (`0.0.0.0`, `::`) is for it too.
fn check_address(listener: &ServerListener, address: &Address) -> Result<(), Failure> {
    let Address::Tcp(real) = address else {
        // A Unix socket has no address that a Listener could name.
        return Ok(());
    };
    let named = listener.address;
    let same_ip = named.ip() == real.ip() || named.ip().is_unspecified();
    match same_ip && named.port() == real.port() {
        true => Ok(()),
        false => Err(Failure::new(
            code::LISTENER_ADDRESS_MISMATCH,
            format!("the Listener is for {named}, the server listens on {real}"),
        )),
    }
}

/// On such an address no peer is loopback.
fn is_for_others_only(address: &Address) -> bool {
    match address {
        Address::Tcp(real) => {
            let ip = real.ip().to_canonical();
            !ip.is_unspecified() && !ip.is_loopback()
        }
        Address::Unix(_) => false,
    }
}

/// Follows the control plane and holds what new connections are admitted by.
pub(super) struct Gate {
    address: Address,
    source: ServerSource,
    states: watch::Receiver<ServerState>,
    current: Option<(Arc<Generation>, Drain)>,
    mode: ServerMode,
    /// What to do about [`ServerMode::NotServing`].
    hint: &'static str,
    told: Option<ServerMode>,
    on_mode: Option<OnMode>,
}

impl Gate {
    /// Subscribes and takes in what is known already.
    pub(super) fn open(
        address: Address,
        source: ServerSource,
        on_mode: Option<OnMode>,
    ) -> Result<Self, BoxError> {
        let states = (source.subscribe)(&address)?;
        let mut gate = Self {
            address,
            source,
            states,
            current: None,
            mode: ServerMode::NotServing {
                reason: WAITING.into(),
            },
            hint: "",
            told: None,
            on_mode,
        };
        gate.apply();
        Ok(gate)
    }

    /// Waits for news of the Listener; takes them in with [`Gate::apply`].
    pub(super) async fn changed(&mut self) {
        if self.states.changed().await.is_err() {
            // Nobody will tell us more: the last good configuration stays.
            pending::<()>().await;
        }
    }

    /// Takes in the current state. Replacing a configuration drains its connections.
    pub(super) fn apply(&mut self) {
        let state = self.states.borrow_and_update().clone();
        match state {
            ServerState::Pending if self.current.is_some() => {}
            ServerState::Pending => self.close(WAITING.into()),
            ServerState::Failed(failure) => self.fail(&failure),
            ServerState::Serving(config) => self.serve_by(&config),
        }
    }

    /// What a new connection is admitted by.
    pub(super) fn current(&self) -> Option<(Arc<Generation>, Draining)> {
        let (generation, drain) = self.current.as_ref()?;
        Some((generation.clone(), drain.watch()))
    }

    /// Tells the mode, if it is news. Called when the socket is in that mode.
    pub(super) fn announce(&mut self) {
        if self.told.as_ref() == Some(&self.mode) {
            return;
        }
        let address = &self.address;
        match &self.mode {
            ServerMode::Serving => {
                tracing::info!(target: "sidestep::server", %address, "serving");
            }
            ServerMode::NotServing { reason } if reason == WAITING => {
                tracing::info!(target: "sidestep::server", %address, reason, "not serving yet");
            }
            ServerMode::NotServing { reason } => {
                let hint = self.hint;
                tracing::warn!(target: "sidestep::server", %address, reason, hint, "not serving");
            }
        }
        if let Some(tell) = &self.on_mode {
            tell(address, &self.mode);
        }
        self.told = Some(self.mode.clone());
    }

    fn serve_by(&mut self, config: &ServerConfig) {
        let unchanged = |(generation, _): &(Arc<Generation>, Drain)| generation.is(config);
        if self.current.as_ref().is_some_and(unchanged) {
            // Said before by an equal one, perhaps.
            let _ = config.verdict.set(Ok(()));
            return;
        }
        let built = Generation::build(config, &self.address, &self.source);
        // Each server is given configurations of its own, so nobody else has said anything.
        let _ = config
            .verdict
            .set(built.as_ref().map(drop).map_err(Failure::to_string));
        match built {
            Ok(generation) => {
                self.current = Some((Arc::new(generation), Drain::new()));
                self.mode = ServerMode::Serving;
            }
            Err(failure) => self.fail(&failure),
        }
    }

    fn fail(&mut self, failure: &Failure) {
        self.close(failure.to_string());
        self.hint = failure.1.hint();
    }

    fn close(&mut self, reason: String) {
        self.current = None;
        self.mode = ServerMode::NotServing { reason };
    }
}

const WAITING: &str = "waiting for the Listener";
