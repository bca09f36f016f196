//! A backend: one process of a service, with faults that its code knows nothing of.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use sidestep::{Mesh, ServerMode};
use tokio::sync::watch;
use tonic::Code;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower_service::Service;

use crate::fault::Faults;
use crate::file::Endpoint;
use crate::mesh::Core;
use crate::served::Served;
use crate::{Error, PATIENCE};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Prepares a backend; see [`TestMesh::backend`](crate::TestMesh::backend).
#[must_use = "a backend does nothing until it is started"]
pub struct BackendBuilder {
    core: Arc<Core>,
    service: String,
    routes: Routes,
    version: Option<String>,
    zone: Option<String>,
    weight: u32,
}

impl BackendBuilder {
    pub(crate) fn new(core: Arc<Core>, service: &str) -> Self {
        Self {
            core,
            service: service.to_owned(),
            routes: Routes::default(),
            version: None,
            zone: None,
            weight: 1,
        }
    }

    /// Adds a tonic service, as it is in production.
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
        self
    }

    /// What it runs, as `versions` of the mesh file name it. Default: nothing.
    pub fn version(mut self, version: &str) -> Self {
        self.version = Some(version.to_owned());
        self
    }

    /// Where it runs. Default: nowhere in particular.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.to_owned());
        self
    }

    /// Its share of calls relative to the service's other backends. Default 1.
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Starts it, waits until it serves, and makes it an endpoint of its service.
    ///
    /// # Errors
    /// The mesh file has no such service or says itself where it runs, or the server does not
    /// begin to serve within [`PATIENCE`].
    pub async fn start(self) -> Result<Backend, Error> {
        let (service, core) = (self.service, self.core);
        let address = core.new_address(&service)?;
        let endpoint = Endpoint {
            address: address.clone(),
            version: self.version,
            zone: self.zone,
            weight: self.weight,
        };
        let process = core.process_at(&service, Some(endpoint.clone()))?;
        let inner = Inner {
            service,
            process,
            routes: self.routes,
            faults: Faults::default(),
            served: Mutex::default(),
            bound: Mutex::new(address),
            core,
        };
        inner.serve().await?;
        let endpoint = Endpoint {
            address: inner.address(),
            ..endpoint
        };
        inner.core.add_endpoint(&inner.service, endpoint)?;
        Ok(Backend {
            inner: Arc::new(inner),
        })
    }
}

/// A running backend. Clones are handles on the same one; dropping them leaves it running for as
/// long as the test's tokio runtime.
#[derive(Clone)]
pub struct Backend {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    service: String,
    process: Mesh,
    routes: Routes,
    faults: Faults,
    served: Mutex<Option<Served>>,
    /// With port 0 until it is bound.
    bound: Mutex<String>,
}

impl Backend {
    /// Where it listens: what [`CallInfo::endpoint`](sidestep::CallInfo) says of a call that it
    /// answered.
    #[must_use]
    pub fn address(&self) -> String {
        self.inner.address()
    }

    /// Calls that have come in so far, those that a fault ate included.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.inner.faults.calls()
    }

    /// Lets a share of the calls fail with `UNAVAILABLE`, 0 to 1. They are spread evenly and not
    /// drawn: at 0.2 every fifth fails.
    pub fn fail(&self, share: f64) {
        self.fail_with(share, Code::Unavailable);
    }

    /// [`Backend::fail`] with another status.
    pub fn fail_with(&self, share: f64, code: Code) {
        self.inner.faults.fail(share, code);
    }

    /// Answers each call this much later, failures included.
    pub fn slow(&self, delay: Duration) {
        self.inner.faults.slow(delay);
    }

    /// Takes calls and never answers them; those that hang go on hanging when it is healed.
    pub fn hang(&self) {
        self.inner.faults.hang();
    }

    /// Ends [`fail`](Self::fail), [`slow`](Self::slow) and [`hang`](Self::hang) for calls to come.
    pub fn heal(&self) {
        self.inner.faults.heal();
    }

    /// Cuts its connections and closes its port, as a crash would: the mesh still names it as an
    /// endpoint. [`Backend::revive`] brings it back.
    pub async fn kill(&self) {
        let served = self.inner.lock().take();
        if let Some(served) = served {
            served.kill().await;
        }
    }

    /// Starts it again at the same address after [`Backend::kill`] or [`Backend::shutdown`], and
    /// waits until it serves.
    ///
    /// # Errors
    /// It does not begin to serve within [`PATIENCE`].
    pub async fn revive(&self) -> Result<(), Error> {
        self.inner.serve().await
    }

    /// Ends it in good order: no new connection, and the calls that it has are answered. The mesh
    /// still names it as an endpoint, as with a deployment that has not been told.
    ///
    /// # Errors
    /// The server ended badly.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let served = self.inner.lock().take();
        let Some(served) = served else {
            return Ok(());
        };
        let ended = served.shutdown().await;
        ended.map_err(|source| self.inner.server_error(source))
    }

    /// Takes it out of its service's endpoints and then [shuts it down](Self::shutdown), as a
    /// deployment does. No call fails of it.
    ///
    /// # Errors
    /// As for [`Backend::shutdown`] and [`Push::applied`](crate::Push::applied).
    pub async fn remove(&self) -> Result<(), Error> {
        let push = self
            .inner
            .core
            .remove_endpoint(&self.inner.service, &self.address())?;
        push.applied().await?;
        self.shutdown().await
    }
}

impl Inner {
    fn address(&self) -> String {
        let bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        bound.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Served>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server_error(&self, source: sidestep::ServerError) -> Error {
        Error::Server {
            service: self.service.clone(),
            source,
        }
    }

    async fn serve(&self) -> Result<(), Error> {
        if self.lock().is_some() {
            return Ok(());
        }
        let (mode, mut modes) = watch::channel(None);
        let server = self
            .process
            .server(self.address())
            .add_routes(self.routes.clone())
            .layer(self.faults.clone())
            .on_mode_change(move |_, new| _ = mode.send_replace(Some(new.clone())));
        let bound = match self.core.listen(&self.address()) {
            Some(pipes) => server.bind_pipes(pipes),
            None => server.bind(),
        };
        let bound = bound.map_err(|source| self.server_error(source))?;
        let address = bound.address().to_string();
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = address.clone();
        let served = Served::spawn(|stop| bound.serve_with_shutdown(stop));
        let serving = modes.wait_for(|mode| *mode == Some(ServerMode::Serving));
        let outcome = tokio::time::timeout(PATIENCE, serving).await;
        let outcome = outcome.map(|serving| serving.is_ok());
        if outcome == Ok(false) {
            // The server has ended: it says why.
            let ended = served.shutdown().await;
            return ended.map_err(|source| self.server_error(source));
        }
        *self.lock() = Some(served);
        outcome.map(drop).map_err(|_| Error::NotServing {
            service: self.service.clone(),
            address,
            after: PATIENCE,
            reason: match &*modes.borrow() {
                Some(ServerMode::NotServing { reason }) => reason.clone(),
                _ => "no word from it".to_owned(),
            },
        })
    }
}
