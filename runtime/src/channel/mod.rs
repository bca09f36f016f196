//! The client's end of a call.
//!
//! ```text
//!   call ─> snapshot.load ─> routes.find ─> picker.pick ─> Connection::send ─> response
//!           └──────────── no lock of ours, no allocation ────────────┘
//! ```
//!
//! A call that finds all of that ready stays in its caller's task, without a box
//! ([`call::CallFuture`]'s direct state). So does the first attempt of a call that a retry policy may
//! repeat: a request of one message is kept by reference, a longer one while it is sent. Whatever has to
//! wait or is repeated (configuration or endpoint not there yet, an attempt that failed, a stream
//! that no server began) pays one box and is an ordinary `async fn` in `slow.rs`.

mod body;
mod call;
pub(crate) mod deadline;
mod head;
mod in_flight;
mod options;
mod session;
mod slow;
pub(crate) mod status;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body;
use tower_service::Service;

pub use body::ResponseBody;
pub use call::CallFuture;
pub use options::{Authority, CallInfo, WaitForReady};
pub use status::CallError;
#[cfg(test)]
pub(crate) use {deadline::Deadline, in_flight::InFlight};

use crate::balancer::Failure;
use crate::explain::Answer;
use crate::explain::process::Known;
use crate::mesh::{BuildError, Mesh};
use crate::resolver::DirectTarget;
use crate::snapshot::Target;
use crate::subchannel::BoxError;
use crate::telemetry::client::ClientCells;

/// A meshed client connection: routes and balances every call by the live configuration.
///
/// Use it wherever a `tonic::transport::Channel` goes: generated clients of tonic 0.12, 0.13 and
/// 0.14 take it, and so does any tower layer. Cheap to clone; clones share everything.
/// `Send + Sync`. Connections are shared by all channels of a [`Mesh`].
///
/// gRPC calls never fail as a service: what goes wrong here becomes a gRPC status (see
/// [`CallError`]).
#[derive(Debug, Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    /// Drawn at random, for calls that are hashed by their channel (gRFC A42).
    id: u64,
    target: Arc<Target>,
    telemetry: Arc<ClientCells>,
    /// What was dialled: selects the virtual host, and is the `:authority` unless the caller says
    /// another one.
    authority: http::uri::Authority,
    wait_for_ready: bool,
    authority_override: Option<http::uri::Authority>,
    /// There if the operator sent the process around the mesh: dials instead of the target.
    detour: Option<Mesh>,
}

impl Inner {
    /// The `:authority` of calls that do not say otherwise.
    fn shown_authority(&self) -> &http::uri::Authority {
        self.authority_override.as_ref().unwrap_or(&self.authority)
    }
}

impl Channel {
    pub(crate) fn new(
        target: Arc<Target>,
        authority: http::uri::Authority,
        telemetry: Arc<ClientCells>,
    ) -> Self {
        let inner = Inner {
            id: fastrand::u64(..),
            target,
            telemetry,
            authority,
            wait_for_ready: false,
            authority_override: None,
            detour: None,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A channel that leads nowhere but where its `or_direct` says.
    pub(crate) fn with_detour(mut self, mesh: Mesh) -> Self {
        Arc::make_mut(&mut self.inner).detour = Some(mesh);
        self
    }

    /// Where calls go when (and only when) the operator has set `SIDESTEP_MODE=direct`:
    /// `http://host[:port]` (plaintext) or `https://host[:port]` (TLS by the platform's roots, to
    /// that host), spread over all addresses of the host in turn. The undo of meshing: no
    /// routing, mutual TLS or other rule of the mesh applies then.
    ///
    /// Never taken by itself: without that variable this only checks the URL, and a failing mesh
    /// fails its calls. Taken, it is logged as a warning, once for each channel, and shown by the
    /// metric `sidestep.channel.direct`. Say it first, as its result has other options unset.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), sidestep::BuildError> {
    /// let mesh = sidestep::Mesh::from_env()?;
    /// let channel = mesh
    ///     .channel("xds:///greeter")?
    ///     .or_direct("http://greeter:50051")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// `url` is neither form, in whatever mode: an undo that does not work is no undo.
    pub fn or_direct(self, url: &str) -> Result<Self, BuildError> {
        let direct = DirectTarget::parse_url(url).map_err(|error| BuildError::Target {
            target: url.to_owned(),
            reason: error.reason.to_owned(),
        })?;
        match &self.inner.detour {
            None => Ok(self),
            Some(mesh) => mesh.detour(self.inner.target.name(), url, direct),
        }
    }

    /// Whether calls that do not say otherwise wait for an endpoint instead of failing at once.
    /// Default: `false`. A call says otherwise by the request extension [`WaitForReady`].
    #[must_use]
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        Arc::make_mut(&mut self.inner).wait_for_ready = wait;
        self
    }

    /// The `:authority` of calls that do not say otherwise. Default: the target's name. A call
    /// says otherwise by the request extension [`Authority`].
    #[must_use]
    pub fn authority(mut self, authority: http::uri::Authority) -> Self {
        Arc::make_mut(&mut self.inner).authority_override = Some(authority);
        self
    }

    /// Waits, through failures, until the configuration is there and each of its clusters has a
    /// connected endpoint. For start-up probes; calls need not wait for it.
    pub async fn ready(&self) {
        self.inner.target.ready().await;
    }

    /// Where this call would go now, and why: the rule that takes it, the cluster, its policy, and
    /// each endpoint with what keeps it from being chosen. Of `request` the path and the headers
    /// count; nothing is sent. `None` once the mesh has ended.
    ///
    /// For people ([`Answer::to_text`]) and tests; it allocates, and asks the task that owns the
    /// configuration. `sidestep explain --process` shows the same.
    ///
    /// ```no_run
    /// # async fn run(channel: sidestep::Channel) -> Result<(), http::Error> {
    /// let call = http::Request::post("/hello.Greeter/SayHello").body(())?;
    /// if let Some(answer) = channel.explain(&call).await {
    ///     print!("{}", answer.to_text(|_, text| text.to_owned()));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn explain<B>(&self, request: &http::Request<B>) -> Option<Answer> {
        let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
        let known = Known::ask(&self.inner.target.asker()?).await?;
        let target = known.target(&self.inner.target, self.inner.authority.as_str());
        Some(known.explain(&target, &path, &headers))
    }

    /// Waits for the first definite answer about this target.
    ///
    /// # Errors
    /// There is no usable configuration: the text names resource, server and node.
    pub async fn loaded(&self) -> Result<(), CallError> {
        self.inner.target.loaded().await.map_err(config_error)
    }
}

fn config_error(failure: Failure) -> CallError {
    CallError::Config {
        code: failure.1,
        reason: failure.0.to_string(),
    }
}

impl<B> Service<http::Request<B>> for Channel
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = http::Response<ResponseBody>;
    type Error = CallError;
    type Future = CallFuture<B>;

    /// Always ready: which cluster a call needs is unknown before it is routed.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> CallFuture<B> {
        call::start(&self.inner, request)
    }
}
