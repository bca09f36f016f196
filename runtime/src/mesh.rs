//! The process's part in the mesh: one [`Mesh`], shared by all its channels and servers.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::uri::Authority;
use sidestep_proto::ads::Variant;
use sidestep_proto::bootstrap::{Bootstrap, BootstrapError, NameError, Node};
use sidestep_proto::code::{self, Code};
use sidestep_proto::codec::Context;
use sidestep_proto::resource::Address;

use crate::admin::{self, AdminError, Reach};
use crate::channel::Channel;
use crate::control::{self, Config, PlaintextPolicy, Question, Timers};
use crate::inspect;
use crate::mode::Mode;
use crate::resolver::DirectTarget;
use crate::security::{CertificateProvider, CertificateProviders, SecurityError};
use crate::server::{Incoming, Server, ServerError, ServerSource};
use crate::snapshot::Target;
use crate::source::static_::{InvalidResources, StaticResources};
use crate::subchannel::{BoxError, Connector, Http2Options};
use crate::telemetry::access_log::{self, AccessLog, AccessLogError, AccessLogSink};
use crate::telemetry::instruments::CHANNEL_DIRECT;
use crate::telemetry::{Telemetry, TelemetryOptions};

/// The process's handle to the mesh: make one, early, and clone it freely.
///
/// It holds the one ADS stream to the control plane and the connections to endpoints, shared by
/// all channels and servers made from it. Making it reads files but never waits for the network:
/// a service starts while its control plane is down. `Send + Sync`, cheap to clone.
///
/// ```no_run
/// # async fn run() -> Result<(), sidestep::BuildError> {
/// let mesh = sidestep::Mesh::from_env()?;
/// let channel = mesh.channel("xds:///greeter")?; // goes where a tonic Channel goes
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: control::Handle,
    telemetry: Arc<Telemetry>,
    bootstrap: Option<Bootstrap>,
    providers: Arc<CertificateProviders>,
    plaintext: PlaintextPolicy,
    mode: Mode,
    is_static: bool,
    targets: Mutex<Vec<Weak<Target>>>,
    access_log: Option<Arc<access_log::Log>>,
}

impl Mesh {
    /// Reads the standard gRPC bootstrap: the file that `GRPC_XDS_BOOTSTRAP` names, or else the
    /// JSON text in `GRPC_XDS_BOOTSTRAP_CONFIG`. With `SIDESTEP_ADMIN=127.0.0.1:9901` the admin
    /// endpoint is opened there, as by [`Mesh::admin`].
    ///
    /// # Errors
    /// Neither is set, the file cannot be read, or the bootstrap is not valid; or the admin
    /// endpoint cannot be opened.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::builder().from_env()?.build()
    }

    /// A mesh that knows these resources and asks nobody: for a process without a control plane.
    /// [`Mesh::replace`] changes them.
    ///
    /// # Errors
    /// A resource names a certificate provider, which only a bootstrap (see
    /// [`MeshBuilder::static_resources`]) or [`MeshBuilder::certificate_provider`] can bring, or
    /// `SIDESTEP_MODE` has an unknown value.
    pub fn from_static(resources: StaticResources) -> Result<Self, BuildError> {
        Self::builder().static_resources(resources).build()
    }

    /// Starts from nothing: for a bootstrap in code, other options, or no control plane at all.
    #[must_use]
    pub fn builder() -> MeshBuilder {
        MeshBuilder::new()
    }

    /// Replaces all resources of a mesh [without a control plane](Mesh::from_static), at once: no
    /// call sees some old and some new ones. As with a control plane, a resource that is gone
    /// while something still rests on it stays in use, and no call in flight is disturbed.
    ///
    /// # Errors
    /// The mesh has a control plane, or a resource names a certificate provider that it does not
    /// have. Nothing has changed then.
    pub fn replace(&self, resources: StaticResources) -> Result<(), BuildError> {
        if !self.inner.is_static {
            return Err(BuildError::NotStatic);
        }
        resources.check(&known(&self.inner.providers))?;
        self.inner.control.replace(resources);
        Ok(())
    }

    /// A channel to `target`: `xds:///name` or `xds://authority/name` through the control plane;
    /// `dns:///host:port`, `host:port`, `ipv4:…`, `ipv6:…` or `unix:…` without one.
    ///
    /// Never waits. Call it inside a tokio runtime, or make the first call inside one.
    ///
    /// # Errors
    /// The target does not parse, names an unknown authority, or needs a bootstrap and there is
    /// none.
    pub fn channel(&self, target: &str) -> Result<Channel, BuildError> {
        let bad = |reason: String| BuildError::Target {
            target: target.to_owned(),
            reason,
        };
        let (watched, authority, canonical) = match target.strip_prefix("xds:") {
            Some(_) if self.inner.mode == Mode::Direct => return self.nowhere(target),
            Some(rest) => {
                let (watched, authority) = self.xds(target, rest)?;
                (watched, authority, canonical(target))
            }
            None => {
                let direct = DirectTarget::parse(target).map_err(|e| bad(e.reason.to_owned()))?;
                let (authority, canonical) = (direct.authority(), direct.to_string());
                (self.inner.control.direct(direct), authority, canonical)
            }
        };
        self.remember(&watched);
        let authority = Authority::try_from(authority.as_str())
            .map_err(|e| bad(format!("{authority:?} cannot be an authority: {e}")))?;
        let telemetry = self.inner.telemetry.client(&canonical);
        Ok(Channel::new(watched, authority, telemetry))
    }

    /// In [`Mode::Direct`]: leads nowhere until `or_direct` says where. The other channels of the
    /// process go on working, which is the point of an undo.
    fn nowhere(&self, target: &str) -> Result<Channel, BuildError> {
        let reason = format!(
            "SIDESTEP_MODE=direct, and the channel to {target:?} has no or_direct(..) that says \
             where its calls go: add one, or unset SIDESTEP_MODE"
        );
        let nowhere = self.inner.control.nowhere(target, &reason);
        let authority = Authority::from_static("sidestep-mode-direct");
        let telemetry = self.inner.telemetry.client(&canonical(target));
        Ok(Channel::new(nowhere, authority, telemetry).with_detour(self.clone()))
    }

    /// The channel that takes the place of one to `target`.
    pub(crate) fn detour(
        &self,
        target: &str,
        url: &str,
        direct: DirectTarget,
    ) -> Result<Channel, BuildError> {
        let authority = direct.authority();
        let authority =
            Authority::try_from(authority.as_str()).map_err(|error| BuildError::Target {
                target: url.to_owned(),
                reason: format!("{authority:?} cannot be an authority: {error}"),
            })?;
        tracing::warn!(
            target: "sidestep::channel",
            channel = target,
            url,
            "SIDESTEP_MODE=direct: calls go around the mesh"
        );
        let watched = self.inner.control.direct(direct);
        self.remember(&watched);
        // Under the name that the calls are known by, whichever way they go.
        let canonical = canonical(target);
        self.inner.telemetry.set(&CHANNEL_DIRECT, &[&canonical], 1);
        let telemetry = self.inner.telemetry.client(&canonical);
        Ok(Channel::new(watched, authority, telemetry))
    }

    fn xds(&self, target: &str, rest: &str) -> Result<(Arc<Target>, String), BuildError> {
        let bad = |reason: String| BuildError::Target {
            target: target.to_owned(),
            reason,
        };
        let bootstrap = self
            .inner
            .bootstrap
            .as_ref()
            .ok_or(BuildError::NoBootstrap)?;
        let (authority, name) = match rest.strip_prefix("//") {
            Some(rest) => rest
                .split_once('/')
                .ok_or_else(|| bad("expected xds:///name or xds://authority/name".to_owned()))?,
            None => ("", rest.trim_start_matches('/')),
        };
        if name.is_empty() {
            return Err(bad("the name is empty".to_owned()));
        }
        let authority = (!authority.is_empty()).then_some(authority);
        let listener = bootstrap
            .client_listener_name(authority, name)
            .map_err(|error| BuildError::Authority {
                target: target.to_owned(),
                error,
            })?;
        Ok((self.inner.control.target(&listener, name), name.to_owned()))
    }

    /// A meshed server for `address`: `IP:port` (port 0 picks one), `[IPv6]:port` or `unix:/path`.
    /// Its Listener's name comes from the bootstrap's `server_listener_resource_name_template`.
    ///
    /// ```no_run
    /// # async fn run<S>(mesh: sidestep::Mesh) -> Result<(), Box<dyn std::error::Error>> {
    /// mesh.server("0.0.0.0:50051")
    ///     // .add_service(GreeterServer::new(service))
    ///     .serve_with_shutdown(async { /* until SIGTERM */ })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn server(&self, address: impl Into<String>) -> Server {
        let inner = Arc::clone(&self.inner);
        let subscribe = move |address: &Address| -> Result<_, BoxError> {
            let bootstrap = inner.bootstrap.as_ref().ok_or(BuildError::NoBootstrap)?;
            let name = bootstrap.server_listener_name(&address.to_string())?;
            Ok(inner.control.server(&name))
        };
        Server::new(
            address,
            ServerSource {
                subscribe: Arc::new(subscribe),
                providers: Arc::clone(&self.inner.providers),
                plaintext_where_unsecured: self.inner.plaintext == PlaintextPolicy::Always,
                mode: self.inner.mode,
            },
        )
        .telemetry(Arc::clone(&self.inner.telemetry))
    }

    /// The connections of a meshed server, accepted and authenticated by the control plane's
    /// rules, for tonic's own `serve_with_incoming_shutdown`.
    ///
    /// # Errors
    /// The address cannot be bound, or the bootstrap has no listener template.
    pub fn incoming(&self, address: impl Into<String>) -> Result<Incoming, ServerError> {
        self.server(address).bind()?.incoming()
    }

    /// Opens the admin endpoint (as `SIDESTEP_ADMIN=ADDRESS` does in the environment of
    /// [`Mesh::from_env`]) on a loopback address (port 0 picks one) or a Unix socket, and
    /// returns the real address: `curl` it for an index. Read-only; whoever can reach it sees the
    /// whole configuration, but no keys. It is closed when the last handle, channel and server of
    /// this mesh is gone, and holds up nothing. Turns [telemetry](Mesh::telemetry) on, for
    /// `/metrics`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let mesh = sidestep::Mesh::from_env()?;
    /// let address = mesh.admin("127.0.0.1:9901")?; // curl http://127.0.0.1:9901/clusters
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The address is none, can be reached from elsewhere, or cannot be bound; or no tokio runtime
    /// is current.
    pub fn admin(&self, address: &str) -> Result<Address, AdminError> {
        self.open_admin(address, Reach::Loopback)
    }

    /// [`Mesh::admin`] on any address, such as `0.0.0.0:9901` for a Prometheus elsewhere. There is
    /// no authentication: the network must keep strangers out.
    ///
    /// # Errors
    /// As for [`Mesh::admin`].
    pub fn admin_beyond_loopback(&self, address: &str) -> Result<Address, AdminError> {
        self.open_admin(address, Reach::Anyone)
    }

    fn open_admin(&self, address: &str, reach: Reach) -> Result<Address, AdminError> {
        let telemetry = &self.inner.telemetry;
        let real = admin::open(address, reach, self.inner.control.asker(), telemetry)?;
        telemetry.turn_on();
        Ok(real)
    }

    /// Each cluster in use and the state of each of its endpoints: what the admin endpoint's
    /// `/clusters` shows. `None` once the mesh has ended.
    pub async fn clusters(&self) -> Option<Vec<inspect::Cluster>> {
        let asker = self.inner.control.asker();
        asker.ask(Question::Clusters).await
    }

    /// Each subscribed resource and how far it has come: what `/config_dump` shows. `None` once
    /// the mesh has ended.
    pub async fn resources(&self) -> Option<Vec<inspect::Resource>> {
        let asker = self.inner.control.asker();
        asker.ask(Question::Resources).await
    }

    /// The process as a whole: control plane, targets, servers, and what keeps it from being
    /// ready. `None` once the mesh has ended.
    pub async fn inspect(&self) -> Option<inspect::Process> {
        let asker = self.inner.control.asker();
        asker.ask(Question::Process).await
    }

    /// What this process counts of its calls and of itself. See [`crate::telemetry`].
    #[must_use]
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.inner.telemetry
    }

    /// The access log, if one is written.
    #[must_use]
    pub fn access_log(&self) -> Option<&access_log::Log> {
        self.inner.access_log.as_deref()
    }

    fn remember(&self, target: &Arc<Target>) {
        let mut targets = self
            .inner
            .targets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        targets.retain(|known| known.strong_count() > 0);
        targets.push(Arc::downgrade(target));
    }

    /// Waits until all that the control plane has said is in use by calls, and all that was asked
    /// of it is answered. For tests.
    #[doc(hidden)]
    pub async fn settled(&self) {
        self.inner.control.settled().await;
    }

    /// Waits until every channel made so far has its configuration and a connected endpoint in
    /// each of its clusters. For start-up probes; nothing else needs to wait.
    pub async fn ready(&self) {
        let targets: Vec<_> = {
            let targets = self
                .inner
                .targets
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            targets.iter().filter_map(Weak::upgrade).collect()
        };
        for target in targets {
            target.ready().await;
        }
    }
}

/// Makes a [`Mesh`].
pub struct MeshBuilder {
    bootstrap: Option<Bootstrap>,
    static_resources: Option<StaticResources>,
    mode: Option<Mode>,
    providers: Vec<(String, Arc<dyn CertificateProvider>)>,
    plaintext: PlaintextPolicy,
    variant: Variant,
    http2: Http2Options,
    connector: Connector,
    max_response_bytes: usize,
    timers: Timers,
    telemetry: Option<TelemetryOptions>,
    access_log: Option<AccessLog>,
    /// Where `SIDESTEP_ADMIN` wants the admin endpoint.
    admin: Option<String>,
}

impl MeshBuilder {
    fn new() -> Self {
        Self {
            bootstrap: None,
            static_resources: None,
            mode: None,
            providers: Vec::new(),
            plaintext: PlaintextPolicy::default(),
            variant: Variant::StateOfTheWorld,
            http2: Http2Options::default(),
            connector: crate::subchannel::default_connector(),
            max_response_bytes: 256 << 20,
            timers: Timers::default(),
            access_log: None,
            admin: None,
            telemetry: None,
        }
    }

    /// Takes the bootstrap that the environment names; see [`Mesh::from_env`].
    ///
    /// # Errors
    /// As for [`Mesh::from_env`].
    pub fn from_env(self) -> Result<Self, BuildError> {
        self.from_lookup(|name| std::env::var_os(name))
    }

    /// [`MeshBuilder::from_env`] over any environment: `lookup` answers for a variable's name.
    ///
    /// # Errors
    /// As for [`Mesh::from_env`].
    pub fn from_lookup(
        mut self,
        lookup: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, BuildError> {
        let mode = Mode::from_lookup(&lookup)?;
        self.mode = Some(mode);
        if self.access_log.is_none() {
            self.access_log = AccessLog::from_lookup(&lookup)?;
        }
        let admin = lookup(ADMIN_VARIABLE).filter(|address| !address.is_empty());
        self.admin = admin.map(|address| address.to_string_lossy().into_owned());
        if mode == Mode::Direct {
            // The way out must not depend on what may be the trouble.
            return Ok(self);
        }
        if let Some(path) = lookup(FILE_VARIABLE) {
            let path = PathBuf::from(path);
            let text = std::fs::read_to_string(&path).map_err(|source| BuildError::Read {
                path: path.clone(),
                source,
            })?;
            let bootstrap = Bootstrap::parse(&text).map_err(|error| BuildError::Bootstrap {
                origin: path.display().to_string(),
                error,
            })?;
            return Ok(self.bootstrap(bootstrap));
        }
        if let Some(text) = lookup(TEXT_VARIABLE) {
            return self
                .bootstrap_json(&text.to_string_lossy())
                .map_err(|error| match error {
                    BuildError::Bootstrap { error, .. } => BuildError::Bootstrap {
                        origin: TEXT_VARIABLE.to_owned(),
                        error,
                    },
                    other => other,
                });
        }
        Err(BuildError::NoBootstrap)
    }

    /// Takes these resources in place of a control plane. A bootstrap is not needed; one that is
    /// given says who the process is and brings certificate providers and name templates, and its
    /// control planes are never dialled. Without one, servers ask for
    /// `grpc/server?xds.resource.listening_address=IP:PORT`.
    #[must_use]
    pub fn static_resources(mut self, resources: StaticResources) -> Self {
        self.static_resources = Some(resources);
        self
    }

    /// Whether the process goes by the mesh. Default: as `SIDESTEP_MODE` says when the mesh is
    /// built.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Takes a bootstrap from its JSON text.
    ///
    /// # Errors
    /// The text is not a valid bootstrap.
    pub fn bootstrap_json(self, text: &str) -> Result<Self, BuildError> {
        let bootstrap = Bootstrap::parse(text).map_err(|error| BuildError::Bootstrap {
            origin: "bootstrap".to_owned(),
            error,
        })?;
        Ok(self.bootstrap(bootstrap))
    }

    /// Takes a bootstrap made in code.
    #[must_use]
    pub fn bootstrap(mut self, bootstrap: Bootstrap) -> Self {
        self.bootstrap = Some(bootstrap);
        self
    }

    /// Adds a certificate provider under a name that resources refer to; it replaces one of the
    /// bootstrap.
    #[must_use]
    pub fn certificate_provider(
        mut self,
        instance: &str,
        provider: Arc<dyn CertificateProvider>,
    ) -> Self {
        self.providers.push((instance.to_owned(), provider));
        self
    }

    /// Allows plaintext to and from any peer where the control plane gives no transport security.
    /// Without it, only loopback peers and Unix sockets may be unencrypted. An *error* in a
    /// security context never falls back to plaintext, whatever is said here.
    #[must_use]
    pub fn plaintext_where_unsecured(mut self) -> Self {
        self.plaintext = PlaintextPolicy::Always;
        self
    }

    /// Which form of ADS is spoken: state of the world (default, understood by every control
    /// plane) or delta.
    #[must_use]
    pub fn variant(mut self, variant: Variant) -> Self {
        self.variant = variant;
        self
    }

    /// Options of the HTTP/2 connections to endpoints.
    #[must_use]
    pub fn http2(mut self, options: Http2Options) -> Self {
        self.http2 = options;
        self
    }

    /// How sockets are opened. Default: TCP without delay, and Unix sockets.
    #[must_use]
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Largest message taken from the control plane, in bytes. Default 256 MiB: 10,000 clusters
    /// can come in one response.
    #[must_use]
    pub fn max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// Observes calls: metrics from now on, and whatever else the options install. Default: off,
    /// which costs a call one load and a branch; [`Telemetry::turn_on`] switches metrics on later.
    #[must_use]
    pub fn telemetry(mut self, options: TelemetryOptions) -> Self {
        self.telemetry = Some(options);
        self
    }

    /// Writes a line for each call of the mesh's channels and servers. Without it, the
    /// environment variable `SIDESTEP_ACCESS_LOG` decides; it turns telemetry on.
    ///
    /// ```
    /// use sidestep::{AccessLog, Mesh};
    ///
    /// let log = AccessLog::default_json().to_stderr();
    /// let mesh = Mesh::builder().access_log(log).build()?;
    /// # Ok::<(), sidestep::BuildError>(())
    /// ```
    #[must_use]
    pub fn access_log(mut self, log: AccessLog) -> Self {
        self.access_log = Some(log);
        self
    }

    /// Shortened timers, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn timers(mut self, timers: Timers) -> Self {
        self.timers = timers;
        self
    }

    /// Makes the mesh. Reads certificate files if there are any; waits for nothing.
    ///
    /// # Errors
    /// A certificate provider of the bootstrap is of a kind that there is not, a static resource
    /// names one that there is not, or `SIDESTEP_MODE` has an unknown value.
    pub fn build(mut self) -> Result<Mesh, BuildError> {
        let mode = match self.mode {
            Some(mode) => mode,
            None => Mode::from_lookup(|name| std::env::var_os(name))?,
        };
        if self.static_resources.is_some() {
            self.bootstrap.get_or_insert_with(nobody);
        }
        for key in self.bootstrap.iter().flat_map(|b| &b.ignored) {
            let code = code::BOOTSTRAP_UNKNOWN_KEY;
            tracing::warn!(target: "sidestep::config", %code, key, "unknown bootstrap key ignored");
        }
        if self
            .bootstrap
            .as_ref()
            .is_some_and(|b| b.node.id.is_empty())
        {
            let (code, key) = (code::BOOTSTRAP_NO_NODE_ID, "node.id");
            tracing::warn!(target: "sidestep::config", %code, key, "the bootstrap names no node id");
        }
        let configured = match &self.bootstrap {
            Some(bootstrap) => {
                CertificateProviders::from_bootstrap(&bootstrap.certificate_providers)?
            }
            None => CertificateProviders::default(),
        };
        let providers = self
            .providers
            .into_iter()
            .fold(configured, |all, (name, provider)| all.with(name, provider));
        if let Some(resources) = &self.static_resources {
            resources.check(&known(&providers))?;
        }
        let is_static = self.static_resources.is_some();
        let access_log = match self.access_log {
            Some(log) => Some(log),
            None => AccessLog::from_lookup(|name| std::env::var_os(name))?,
        };
        let access_log = access_log.map(AccessLog::start).transpose()?;
        let options = match &access_log {
            None => self.telemetry,
            // Last, so that it sees what the others wrote into requests.
            Some(log) => {
                let sink = Arc::new(AccessLogSink(Arc::clone(log)));
                Some(self.telemetry.unwrap_or_default().sink(sink))
            }
        };
        let telemetry = Telemetry::new(options);
        let control = control::Handle::new(Config {
            bootstrap: self.bootstrap.clone(),
            static_resources: self.static_resources,
            variant: self.variant,
            plaintext: self.plaintext,
            providers: providers.clone(),
            connector: self.connector,
            http2: Arc::new(self.http2),
            telemetry: Arc::clone(&telemetry),
            max_response_bytes: self.max_response_bytes,
            timers: self.timers,
        });
        let inner = Inner {
            access_log,
            control,
            telemetry,
            bootstrap: self.bootstrap,
            providers: Arc::new(providers),
            plaintext: self.plaintext,
            mode,
            is_static,
            targets: Mutex::default(),
        };
        let mesh = Mesh {
            inner: Arc::new(inner),
        };
        if let Some(address) = self.admin {
            mesh.admin(&address)?;
        }
        Ok(mesh)
    }
}

/// Which provider names resources may use.
fn known(providers: &CertificateProviders) -> Context {
    Context {
        certificate_providers: Some(providers.names().map(str::to_owned).collect()),
    }
}

/// Who a process is that has resources and no bootstrap.
fn nobody() -> Bootstrap {
    Bootstrap {
        servers: Vec::new(),
        node: Node::default(),
        certificate_providers: BTreeMap::new(),
        server_listener_template: Some(SERVER_LISTENER_TEMPLATE.to_owned()),
        client_listener_template: "%s".to_owned(),
        authorities: BTreeMap::new(),
        ignored: Vec::new(),
    }
}

/// An `xds:` target as metrics name it: `xds:name` is another way to write `xds:///name`.
fn canonical(target: &str) -> String {
    match target.strip_prefix("xds:") {
        Some(rest) if !rest.starts_with("//") => {
            format!("xds:///{}", rest.trim_start_matches('/'))
        }
        _ => target.to_owned(),
    }
}

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
const TEXT_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";
/// Set by the operator, so that a program that does not think of it can be looked into.
const ADMIN_VARIABLE: &str = "SIDESTEP_ADMIN";

/// What bootstraps of gRPC servers usually have (gRFC A36).
const SERVER_LISTENER_TEMPLATE: &str = "grpc/server?xds.resource.listening_address=%s";

/// Why a mesh, a channel or a server could not be made. Nothing was sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum BuildError {
    /// `SIDESTEP_ADMIN` asks for an admin endpoint that cannot be opened.
    Admin(AdminError),
    /// The access log cannot be written as asked.
    AccessLog(AccessLogError),
    /// The environment names no bootstrap.
    NoBootstrap,
    /// The bootstrap file cannot be read.
    Read {
        /// As `GRPC_XDS_BOOTSTRAP` says.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The bootstrap is not valid.
    Bootstrap {
        /// The file, or where else the text came from.
        origin: String,
        /// What is wrong, and where in it.
        error: BootstrapError,
    },
    /// A target that cannot be dialled.
    Target {
        /// As given.
        target: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A target whose authority the bootstrap does not have.
    Authority {
        /// As given.
        target: String,
        /// Which authority.
        error: NameError,
    },
    /// Transport security cannot be set up.
    Security(SecurityError),
    /// Static resources that cannot be used.
    StaticResources(InvalidResources),
    /// Resources were to be replaced in a mesh that has a control plane.
    NotStatic,
    /// `SIDESTEP_MODE` has a value that means nothing.
    Mode {
        /// As set.
        value: String,
    },
}

impl BuildError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Admin(error) => error.code(),
            Self::AccessLog(error) => error.code(),
            Self::NoBootstrap => code::NO_BOOTSTRAP,
            Self::Read { .. } => code::BOOTSTRAP_UNREADABLE,
            Self::Bootstrap { error, .. } => error.code(),
            Self::Target { .. } => code::BAD_TARGET,
            Self::Authority { error, .. } => error.code(),
            Self::Security(error) => error.code(),
            Self::StaticResources(error) => error.code(),
            Self::NotStatic => code::NOT_STATIC,
            Self::Mode { .. } => code::BAD_MODE,
        }
    }

    /// What to do about it, in one line.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.code().hint()
    }

    fn say(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin(error) => write!(f, "{ADMIN_VARIABLE}: {error}"),
            Self::AccessLog(error) => match error.source() {
                Some(cause) => write!(f, "{error}: {cause}"),
                None => write!(f, "{error}"),
            },
            Self::NoBootstrap => write!(
                f,
                "no xDS bootstrap: set {FILE_VARIABLE} to a bootstrap file or {TEXT_VARIABLE} to \
                 its text, pass one to Mesh::builder().bootstrap_json(), or dial a target that \
                 needs none (dns:///host:port, host:port, unix:path)"
            ),
            Self::Read { path, source } => write!(f, "bootstrap {}: {source}", path.display()),
            Self::Bootstrap { origin, error } => write!(f, "bootstrap {origin}: {error}"),
            Self::Target { target, reason } => write!(f, "target {target:?}: {reason}"),
            Self::Authority { target, error } => write!(f, "target {target:?}: {error}"),
            Self::Security(error) => write!(f, "{error}"),
            Self::StaticResources(error) => write!(f, "static resources: {error}"),
            Self::NotStatic => f.write_str(
                "this mesh takes its resources from a control plane: only one made by \
                 from_static() or static_resources() can have them replaced",
            ),
            Self::Mode { value } => write!(
                f,
                "SIDESTEP_MODE is {value:?}; allowed are `mesh` (the default) and `direct`"
            ),
        }
    }
}

/// What and where on the first line, which ends with the code; what to do on the second.
impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(f)?;
        // Of several faults, each shows its own code.
        if !matches!(self, Self::StaticResources(_)) {
            write!(f, " [{}]", self.code())?;
        }
        write!(f, "\n  hint: {}", self.hint())
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<AdminError> for BuildError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl From<AccessLogError> for BuildError {
    fn from(error: AccessLogError) -> Self {
        Self::AccessLog(error)
    }
}

impl From<SecurityError> for BuildError {
    fn from(error: SecurityError) -> Self {
        Self::Security(error)
    }
}

impl From<InvalidResources> for BuildError {
    fn from(error: InvalidResources) -> Self {
        Self::StaticResources(error)
    }
}
