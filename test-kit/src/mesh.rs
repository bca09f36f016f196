//! The mesh of a test: its file, its control plane and its processes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use sidestep::control::Timers;
use sidestep::resolver::Pace;
use sidestep::subchannel::Io;
use sidestep::subchannel::state::Backoff;
use sidestep::{Channel, Mesh, MeshBuilder, StaticResources};
use sidestep_server::Bundle;
use tokio::time::{Instant, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use crate::authority::Authority;
use crate::backend::{Backend, BackendBuilder};
use crate::file::{self, Endpoint, Endpoints, Filled};
use crate::pipe::Pipes;
use crate::plane::ControlPlane;
use crate::{Error, PATIENCE};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A whole mesh inside a test: a control plane that serves the text of a mesh file, started
/// backends, and channels as the mesh's services see them.
///
/// See the [crate](crate) for a test with it. Clones are handles on the same mesh.
#[derive(Clone)]
pub struct TestMesh {
    core: Arc<Core>,
}

impl TestMesh {
    /// Starts a mesh by the text of a mesh file, over loopback sockets.
    ///
    /// A service that has no `endpoints` there runs where its [backends](Self::serve) are started.
    /// With a `trust_domain`, every process gets a certificate of a development authority under
    /// the provider name that the mesh file's `mtls` uses, so `mtls: strict` just works.
    ///
    /// # Errors
    /// The text has faults (each with its line), or there is no free loopback port.
    pub async fn start(mesh_file: &str) -> Result<Self, Error> {
        let plane = Plane::Ads(Mutex::new(Some(ControlPlane::start().await?)));
        Self::with(plane, mesh_file)
    }

    /// Starts a mesh without any socket: connections are pipes in memory, and each process is
    /// given its resources as by a [`Mesh::from_static`]. Routing, balancing, retries, deadlines,
    /// TLS and HTTP/2 are the real ones; the ADS protocol is spoken inside each process.
    ///
    /// This is the mesh for virtual time: under `#[tokio::test(start_paused = true)]` a retry's
    /// backoff or a ten-second time-out costs nothing. Everything must live in that one
    /// current-thread runtime.
    ///
    /// # Errors
    /// The text has faults, each with its line.
    pub fn in_memory(mesh_file: &str) -> Result<Self, Error> {
        Self::with(Plane::Memory(Pipes::default()), mesh_file)
    }

    fn with(plane: Plane, mesh_file: &str) -> Result<Self, Error> {
        let core = Arc::new(Core {
            plane,
            authority: Authority::default(),
            state: Mutex::default(),
        });
        let _nobody_to_tell = core.change(|state| mesh_file.clone_into(&mut state.text))?;
        Ok(Self { core })
    }

    /// Starts a backend of `service` on a free port (in memory: a pipe), waits until it serves,
    /// and makes it an endpoint of the service.
    ///
    /// # Errors
    /// As for [`BackendBuilder::start`].
    pub async fn serve<S, B>(&self, service: &str, tonic_service: S) -> Result<Backend, Error>
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
        self.backend(service)
            .add_service(tonic_service)
            .start()
            .await
    }

    /// Prepares a backend of `service` that has a version, a zone, a weight, or several services.
    pub fn backend(&self, service: &str) -> BackendBuilder {
        BackendBuilder::new(self.core.clone(), service)
    }

    /// A channel to `target` (`xds:///greeter`) of a process that is the service `caller`.
    ///
    /// # Errors
    /// The mesh file has no service `caller`, or the target cannot be dialled.
    pub fn channel_as(&self, caller: &str, target: &str) -> Result<Channel, Error> {
        Ok(self.process_as(caller)?.channel(target)?)
    }

    /// The process that is the service `caller` and only calls others: one for each name, made
    /// when it is first asked for.
    ///
    /// # Errors
    /// The mesh file has no service `caller`.
    pub fn process_as(&self, caller: &str) -> Result<Mesh, Error> {
        if let Some(known) = self.core.lock().callers.get(caller) {
            return Ok(known.clone());
        }
        let process = self.core.process_at(caller, None)?;
        let mut state = self.core.lock();
        state.callers.insert(caller.to_owned(), process.clone());
        Ok(process)
    }

    /// Replaces the mesh file. `.applied().await` waits until the change is in use.
    ///
    /// # Errors
    /// The text has faults; the last good one stays in use.
    pub fn push(&self, mesh_file: &str) -> Result<Push, Error> {
        self.core
            .change(|state| mesh_file.clone_into(&mut state.text))
    }

    /// Cuts the control plane off, as its crash would: every stream breaks and its port is closed
    /// until [`TestMesh::restore_control_plane`]. What the processes know stays in use; in memory,
    /// no change reaches them.
    pub async fn cut_control_plane(&self) {
        let plane = {
            let mut state = self.core.lock();
            state.cut = true;
            self.core.plane.take()
        };
        if let Some(mut plane) = plane {
            plane.cut().await;
            self.core.plane.put(plane);
        }
    }

    /// Brings the control plane back at its old address, with the newest mesh file.
    ///
    /// # Errors
    /// Somebody else has taken its port.
    pub async fn restore_control_plane(&self) -> Result<Push, Error> {
        if let Some(mut plane) = self.core.plane.take() {
            let restored = plane.restore().await;
            self.core.plane.put(plane);
            restored?;
        }
        self.core.lock().cut = false;
        self.core.change(|_| {})
    }

    /// The authority that has issued the certificates of this mesh.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.core.authority
    }
}

/// A change that was pushed.
#[must_use = "a change is on its way; `.applied().await` waits for it"]
pub struct Push {
    core: Arc<Core>,
    /// Of the control plane; `None` while that is cut off.
    revision: Option<u64>,
}

impl Push {
    /// Waits until every process of this mesh has taken the change, or a later one, into use:
    /// calls that begin after it go by the new routes and endpoints. An endpoint that is new gets
    /// calls as soon as it is connected; a server whose Listener changed follows at once, but on
    /// its own.
    ///
    /// # Errors
    /// The control plane is cut off, or it takes longer than [`PATIENCE`].
    pub async fn applied(self) -> Result<(), Error> {
        let Some(revision) = self.revision else {
            return Err(Error::Cut);
        };
        let deadline = Instant::now() + PATIENCE;
        let late = |waiting: String| Error::NotApplied {
            after: PATIENCE,
            waiting,
        };
        if let Some(mut progress) = self.core.plane.progress() {
            let all = progress.wait_for(|streams| {
                let mut streams = streams.values();
                streams.all(|settled| settled.is_some_and(|at| at >= revision))
            });
            match timeout_at(deadline, all).await {
                Ok(Ok(_)) => {}
                // The observer went with its control plane.
                Ok(Err(_)) => return Err(Error::Cut),
                Err(_) => return Err(late("a process has not answered the control plane".into())),
            }
        }
        for (name, process) in self.core.processes() {
            if timeout_at(deadline, process.settled()).await.is_err() {
                return Err(late(format!("a process of {name:?} waits for resources")));
            }
        }
        Ok(())
    }
}

/// What all handles on one mesh share.
pub(crate) struct Core {
    plane: Plane,
    authority: Authority,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    text: String,
    endpoints: Endpoints,
    /// By service: processes that only call.
    callers: BTreeMap<String, Mesh>,
    /// Every process, with its service and, in memory, its own place among the endpoints.
    processes: Vec<(String, Mesh, Option<Endpoint>)>,
    cut: bool,
    changes: u64,
}

/// How configuration and calls travel.
#[allow(clippy::large_enum_variant, reason = "held once per mesh")]
enum Plane {
    /// Over loopback sockets. `None` while it is being cut or restored.
    Ads(Mutex<Option<ControlPlane>>),
    /// Within the process.
    Memory(Pipes),
}

impl Plane {
    fn lock(&self) -> Option<MutexGuard<'_, Option<ControlPlane>>> {
        match self {
            Self::Ads(plane) => Some(plane.lock().unwrap_or_else(PoisonError::into_inner)),
            Self::Memory(_) => None,
        }
    }

    fn take(&self) -> Option<ControlPlane> {
        self.lock()?.take()
    }

    fn put(&self, plane: ControlPlane) {
        if let Some(mut place) = self.lock() {
            *place = Some(plane);
        }
    }

    fn progress(&self) -> Option<tokio::sync::watch::Receiver<crate::plane::Progress>> {
        Some(self.lock()?.as_ref()?.progress())
    }
}

impl Core {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> Vec<(String, Mesh)> {
        let state = self.lock();
        let processes = state.processes.iter();
        processes
            .map(|(name, process, _)| (name.clone(), process.clone()))
            .collect()
    }

    /// Changes the mesh and gives it out; if it is not good then, nothing has changed.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) -> Result<Push, Error> {
        let mut state = self.lock();
        let before = (state.text.clone(), state.endpoints.clone());
        change(&mut state);
        let outcome = self.give_out(&mut state);
        if outcome.is_err() {
            (state.text, state.endpoints) = before;
        }
        Ok(Push {
            core: self.clone(),
            revision: outcome?,
        })
    }

    fn give_out(&self, state: &mut State) -> Result<Option<u64>, Error> {
        let filled = file::fill(&state.text, &state.endpoints).map_err(Error::MeshFile)?;
        match &self.plane {
            Plane::Ads(plane) => {
                let mut plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
                let plane = plane.as_mut().ok_or(Error::Cut)?;
                plane.apply(filled.configuration).map_err(Error::MeshFile)
            }
            Plane::Memory(_) if state.cut => Ok(None),
            Plane::Memory(_) => {
                for (service, process, own) in &state.processes {
                    process.replace(resources(state, service, own.as_ref())?)?;
                }
                state.changes += 1;
                Ok(Some(state.changes))
            }
        }
    }

    /// A process of `service`; `own` is where it is about to serve.
    pub(crate) fn process_at(
        self: &Arc<Self>,
        service: &str,
        own: Option<Endpoint>,
    ) -> Result<Mesh, Error> {
        let mut state = self.lock();
        let filled = file::fill(&state.text, &state.endpoints).map_err(Error::MeshFile)?;
        let number = state.processes.len() + 1;
        let mut builder = self.builder(&state, service, number, own.as_ref())?;
        if let Some(id) = spiffe_id(&filled, service)? {
            let provider = self.authority.provider(&id);
            builder = builder.certificate_provider(CERTIFICATES, provider);
        }
        let process = builder.build()?;
        let entry = (service.to_owned(), process.clone(), own);
        state.processes.push(entry);
        Ok(process)
    }

    fn builder(
        &self,
        state: &State,
        service: &str,
        number: usize,
        own: Option<&Endpoint>,
    ) -> Result<MeshBuilder, Error> {
        let builder = Mesh::builder().timers(quick());
        match &self.plane {
            Plane::Ads(plane) => {
                let plane = plane.lock().unwrap_or_else(PoisonError::into_inner);
                let address = plane.as_ref().ok_or(Error::Cut)?.address().to_string();
                let id = format!("{service}-{number}");
                let bootstrap = bootstrap(&address, service, &id);
                Ok(builder.bootstrap_json(&bootstrap.to_string())?)
            }
            Plane::Memory(pipes) => {
                let resources = resources(state, service, own)?;
                let builder = builder.static_resources(resources);
                Ok(builder.connector(pipes.connector()))
            }
        }
    }

    /// Where a new backend may listen.
    pub(crate) fn new_address(&self, service: &str) -> Result<String, Error> {
        let state = self.lock();
        if file::says_endpoints(&state.text, service) {
            return Err(Error::OwnEndpoints {
                service: service.to_owned(),
            });
        }
        Ok(match &self.plane {
            Plane::Ads(_) => "127.0.0.1:0".to_owned(),
            Plane::Memory(pipes) => pipes.address().to_string(),
        })
    }

    /// In memory: the connections to `address`.
    pub(crate) fn listen(&self, address: &str) -> Option<UnboundedReceiverStream<Box<dyn Io>>> {
        match &self.plane {
            Plane::Ads(_) => None,
            Plane::Memory(pipes) => Some(pipes.listen(address.parse().ok()?)),
        }
    }

    pub(crate) fn add_endpoint(
        self: &Arc<Self>,
        service: &str,
        endpoint: Endpoint,
    ) -> Result<(), Error> {
        let _on_its_way = self.change(|state| {
            let endpoints = state.endpoints.entry(service.to_owned());
            endpoints.or_default().push(endpoint);
        })?;
        Ok(())
    }

    pub(crate) fn remove_endpoint(
        self: &Arc<Self>,
        service: &str,
        address: &str,
    ) -> Result<Push, Error> {
        self.change(|state| {
            if let Some(endpoints) = state.endpoints.get_mut(service) {
                endpoints.retain(|endpoint| endpoint.address != address);
            }
        })
    }
}

/// The name under which compiled resources ask for certificates.
const CERTIFICATES: &str = sidestep_server::compile::CERTIFICATE_INSTANCE;

/// What a process without a control plane knows; its own place is there before it is an endpoint,
/// since its Listener comes with it.
fn resources(
    state: &State,
    service: &str,
    own: Option<&Endpoint>,
) -> Result<StaticResources, Error> {
    let mut endpoints = state.endpoints.clone();
    if let Some(own) = own {
        let known = endpoints.entry(service.to_owned()).or_default();
        if !known.contains(own) {
            known.push(own.clone());
        }
    }
    let filled = file::fill(&state.text, &endpoints).map_err(Error::MeshFile)?;
    let bundle = Bundle::from_mesh(&[filled.text]).map_err(Error::MeshFile)?;
    let resources = StaticResources::new(bundle.resources);
    Ok(resources.map_err(sidestep::BuildError::from)?)
}

fn spiffe_id(filled: &Filled, service: &str) -> Result<Option<String>, Error> {
    let found = filled.mesh.services.get(service);
    let found = found.ok_or_else(|| Error::NoService {
        name: service.to_owned(),
        known: filled.mesh.services.keys().cloned().collect(),
    })?;
    Ok(filled.mesh.spiffe_id(found))
}

/// The bootstrap of a process that is `service` under the control plane at `address`.
#[must_use]
pub fn bootstrap(address: &str, service: &str, node_id: &str) -> serde_json::Value {
    serde_json::json!({
        "xds_servers": [{
            "server_uri": address,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": node_id, "cluster": service},
        "server_listener_resource_name_template": LISTENER_TEMPLATE,
    })
}

/// The usual listener template of gRPC servers.
pub const LISTENER_TEMPLATE: &str = "grpc/server?xds.resource.listening_address=%s";

/// Timers whose periods a test can wait for: reconnects after 20 to 100 ms, of control planes and
/// endpoints.
#[must_use]
pub fn quick() -> Timers {
    let mut timers = Timers::default();
    timers.ads.backoff_initial = Duration::from_millis(20);
    timers.ads.backoff_max = Duration::from_millis(100);
    timers.connect_backoff = Backoff {
        first: Duration::from_millis(20),
        longest: Duration::from_millis(100),
    };
    timers.lookup = Pace {
        shortest: Duration::from_millis(20),
        doubt: Duration::from_millis(20),
        backoff: Duration::from_millis(20),
    };
    timers
}
