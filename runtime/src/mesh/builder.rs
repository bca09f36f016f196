//! What a [`Mesh`] is made of, and the environment that it is read from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sidestep_proto::ads::Variant;
use sidestep_proto::bootstrap::{Bootstrap, Node};
use sidestep_proto::code;
use sidestep_proto::codec::Context;
use sidestep_proto::resource::RegisteredPolicy;

use super::{BuildError, Inner, Mesh};
use crate::balancer::{self, CustomPolicy};
use crate::control::{self, Config, PlaintextPolicy, Timers};
use crate::mode::Mode;
use crate::resolver::{self, NameResolver};
use crate::security::{CertificateProvider, CertificateProviders};
use crate::source::static_::StaticResources;
use crate::subchannel::{Connector, Http2Options};
use crate::telemetry::access_log::{AccessLog, AccessLogSink};
use crate::telemetry::{Telemetry, TelemetryOptions};

/// Makes a [`Mesh`].
pub struct MeshBuilder {
    bootstrap: Option<Bootstrap>,
    static_resources: Option<StaticResources>,
    mode: Option<Mode>,
    providers: Vec<(String, Arc<dyn CertificateProvider>)>,
    policies: Vec<Arc<dyn RegisteredPolicy>>,
    plaintext: PlaintextPolicy,
    variant: Variant,
    http2: Http2Options,
    most_connections: u32,
    idle_timeout: Option<Duration>,
    connector: Connector,
    resolver: Arc<dyn NameResolver>,
    max_response_bytes: usize,
    timers: Timers,
    telemetry: Option<TelemetryOptions>,
    access_log: Option<AccessLog>,
    /// Where `SIDESTEP_ADMIN` wants the admin endpoint.
    admin: Option<String>,
}

impl MeshBuilder {
    pub(super) fn new() -> Self {
        Self {
            bootstrap: None,
            static_resources: None,
            mode: None,
            providers: Vec::new(),
            policies: Vec::new(),
            plaintext: PlaintextPolicy::default(),
            variant: Variant::StateOfTheWorld,
            http2: Http2Options::default(),
            most_connections: control::MOST_CONNECTIONS,
            idle_timeout: Some(control::IDLE_TIMEOUT),
            connector: crate::subchannel::default_connector(),
            resolver: resolver::default(),
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

    /// Adds a load-balancing policy of the program's own, for the control plane to choose by its
    /// name (gRFC A52); it replaces an earlier one of that name. See [`CustomPolicy`].
    #[must_use]
    pub fn load_balancer(mut self, policy: impl CustomPolicy) -> Self {
        let policy = balancer::register(policy);
        self.policies.retain(|known| known.name() != policy.name());
        self.policies.push(policy);
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

    /// Most connections to one endpoint, at least 1; default 10. The control plane says how many
    /// there may be (`circuit_breakers.per_host_thresholds`, where nothing said means 1), and this
    /// bounds what it says. One more is opened only when a call waits because all have as many
    /// streams as their peer allows (gRFC A105).
    #[must_use]
    pub fn max_connections_per_endpoint(mut self, most: u32) -> Self {
        self.most_connections = most.max(1);
        self
    }

    /// How long a cluster keeps its connections without a call, and at most a quarter longer;
    /// default 30 min, as in gRPC. Then they are closed, whatever the policy; the next call, or
    /// `Channel::ready`, has them made again and waits for that. `None` or zero: they stay.
    /// Configuration goes on to be followed meanwhile.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// How sockets are opened. Default: TCP without delay, and Unix sockets.
    #[must_use]
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Who looks up the host names of DNS clusters, of `dns:` targets and of control planes.
    ///
    /// Default: the system's resolver, [`System`](resolver::System), whose answers count for 30 s
    /// or `dns_refresh_rate`, whichever is longer. With the cargo feature `hickory-dns`: the
    /// system's name servers, `Dns::system`, whose answers count for their TTL, from 1 s to 5 min.
    /// Either way what was found last stays in use when a later look-up fails, and a failed
    /// connection brings the next look-up forward.
    ///
    /// ```
    /// # #[cfg(feature = "hickory-dns")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::Arc;
    /// use sidestep::Mesh;
    /// use sidestep::resolver::Dns;
    ///
    /// let name_server = "127.0.0.1:8600".parse()?;
    /// let builder = Mesh::builder().name_resolver(Arc::new(Dns::at(name_server)));
    /// # let _ = builder;
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "hickory-dns"))]
    /// # fn main() {}
    /// ```
    #[must_use]
    pub fn name_resolver(mut self, resolver: Arc<dyn NameResolver>) -> Self {
        self.resolver = resolver;
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
        let configured = match &self.bootstrap {
            Some(bootstrap) => {
                warn_of(bootstrap);
                CertificateProviders::from_bootstrap(&bootstrap.certificate_providers)?
            }
            None => CertificateProviders::default(),
        };
        let providers = self
            .providers
            .into_iter()
            .fold(configured, |all, (name, provider)| all.with(name, provider));
        if let Some(resources) = &self.static_resources {
            resources.check(&known(&providers, &self.policies))?;
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
            policies: self.policies.clone(),
            connector: self.connector,
            resolver: self.resolver,
            http2: Arc::new(self.http2),
            most_connections: self.most_connections,
            idle_timeout: self.idle_timeout,
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
            policies: self.policies,
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

/// Reports what is probably not meant.
fn warn_of(bootstrap: &Bootstrap) {
    for key in &bootstrap.ignored {
        let code = code::BOOTSTRAP_UNKNOWN_KEY;
        tracing::warn!(target: "sidestep::config", %code, key, "unknown bootstrap key ignored");
    }
    if bootstrap.node.id.is_empty() {
        let (code, key) = (code::BOOTSTRAP_NO_NODE_ID, "node.id");
        tracing::warn!(target: "sidestep::config", %code, key, "the bootstrap names no node id");
    }
}

/// What resources may ask of this process.
pub(super) fn known(
    providers: &CertificateProviders,
    policies: &[Arc<dyn RegisteredPolicy>],
) -> Context {
    Context {
        certificate_providers: Some(providers.names().map(str::to_owned).collect()),
        custom_policies: Some(policies.to_vec()),
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

impl fmt::Debug for MeshBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeshBuilder")
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

pub(super) const FILE_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP";
pub(super) const TEXT_VARIABLE: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";
/// Set by the operator, so that a program that does not think of it can be looked into.
pub(super) const ADMIN_VARIABLE: &str = "SIDESTEP_ADMIN";

/// What bootstraps of gRPC servers usually have (gRFC A36).
pub(super) const SERVER_LISTENER_TEMPLATE: &str = "grpc/server?xds.resource.listening_address=%s";
