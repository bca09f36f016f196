//! The process's part in the mesh: one [`Mesh`], shared by all its channels and servers.

mod build_error;
mod builder;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::uri::Authority;
use sidestep_proto::bootstrap::Bootstrap;
use sidestep_proto::resource::{Address, RegisteredPolicy};

use crate::admin::{self, AdminError, ClientStatus, Reach};
use crate::channel::Channel;
use crate::control::{self, PlaintextPolicy, Question};
use crate::inspect;
use crate::mode::Mode;
use crate::resolver::DirectTarget;
use crate::security::CertificateProviders;
use crate::server::{Incoming, Server, ServerError, ServerSource};
use crate::snapshot::Target;
use crate::source::static_::StaticResources;
use crate::subchannel::BoxError;
use crate::telemetry::Telemetry;
use crate::telemetry::access_log;
use crate::telemetry::instruments::CHANNEL_DIRECT;

pub use build_error::BuildError;
pub use builder::MeshBuilder;
use builder::known;

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
    policies: Vec<Arc<dyn RegisteredPolicy>>,
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
        resources.check(&known(&self.inner.providers, &self.inner.policies))?;
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

    /// Client status discovery (CSDS, gRFC A40) as a service, for a server that the application
    /// opens anyway, such as one for its operators. Whoever may call it reads the configuration.
    #[must_use]
    pub fn client_status(&self) -> ClientStatus {
        let telemetry = self.inner.telemetry.clone();
        ClientStatus::new(self.inner.control.asker(), telemetry)
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

/// An `xds:` target as metrics name it: `xds:name` is another way to write `xds:///name`.
fn canonical(target: &str) -> String {
    match target.strip_prefix("xds:") {
        Some(rest) if !rest.starts_with("//") => {
            format!("xds:///{}", rest.trim_start_matches('/'))
        }
        _ => target.to_owned(),
    }
}
