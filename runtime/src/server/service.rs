//! One call: its route, its deadline, its handler (gRFC A36, per RPC).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::transport::server::TcpConnectInfo;
use tower::util::Oneshot;
use tower_service::Service;

use super::connection::Shared;
use super::drain::{InFlight, InFlightView, OpenCall};
use super::reply_body::ReplyBody;
use super::timeout::grpc_timeout;
use super::{BoxError, ConnectInfo};
use crate::control::{ChainRoutes, RoutesState};
use crate::routing::{Action, Call};
use crate::telemetry::Refusal;
use crate::telemetry::server::ServerCall;
use crate::telemetry::trace_context::{Carried, TraceContext};

/// What telemetry follows of a call; `None` while it is off.
pub(super) type Observed = Option<Box<ServerCall>>;

/// The calls of one connection.
#[derive(Debug)]
pub(super) struct Calls<S> {
    handler: S,
    routes: ChainRoutes,
    info: Arc<ConnectInfo>,
    in_flight: InFlight,
    shared: Arc<Shared>,
}

impl<S> Calls<S> {
    pub(super) fn new(
        handler: S,
        routes: ChainRoutes,
        info: ConnectInfo,
        shared: &Arc<Shared>,
    ) -> Self {
        Self {
            handler,
            routes,
            info: Arc::new(info),
            in_flight: InFlight::default(),
            shared: Arc::clone(shared),
        }
    }

    pub(super) fn in_flight(&self) -> InFlightView {
        self.in_flight.view()
    }

    /// Whether a handler may answer, by the connection's routes.
    fn check_route<B>(&self, request: &Request<B>) -> Result<(), Status> {
        let state = self.routes.routes.load();
        let RoutesState::Ready(table) = &**state else {
            return Err(Status::unavailable(
                "the server has no valid route configuration",
            ));
        };
        let host = || request.headers().get(http::header::HOST)?.to_str().ok();
        let authority = request.uri().authority().map(http::uri::Authority::as_str);
        let call = Call {
            authority: authority.or_else(host).unwrap_or_default(),
            path: request.uri().path(),
            headers: request.headers(),
            random: fastrand::u64(..),
            hash: 0,
            session: None,
            subset: None,
        };
        match table.find(&call).map(|route| &route.action) {
            Some(Action::NonForwarding) => Ok(()),
            Some(_) => Err(Status::unavailable(
                "the server's route for this call is not one for servers (non_forwarding_action)",
            )),
            None => Err(Status::unavailable("the server has no route for this call")),
        }
    }

    /// Follows the call if telemetry is on.
    fn observe<B>(&self, request: &mut Request<B>) -> Observed {
        let Shared {
            telemetry,
            services,
            ..
        } = &*self.shared;
        (telemetry.on()).then(|| ServerCall::started(telemetry, services, &self.info, request))
    }

    fn introduce<B>(&self, request: &mut Request<B>) {
        let extensions = request.extensions_mut();
        if self.info.remote_addr().is_some() {
            extensions.insert(TcpConnectInfo {
                local_addr: self.info.local_addr(),
                remote_addr: self.info.remote_addr(),
            });
        }
        if let Some(identity) = self.info.identity() {
            extensions.insert(identity.clone());
        }
        extensions.insert(ConnectInfo::clone(&self.info));
    }
}

impl<S, B> hyper::service::Service<Request<Incoming>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
{
    type Response = Response<ReplyBody<B>>;
    type Error = Infallible;
    type Future = Reply<Oneshot<S, Request<Body>>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        if let Some(context) = TraceContext::from_headers(request.headers()) {
            request.extensions_mut().insert(context);
        }
        let mut observed = self.observe(&mut request);
        if let Err(status) = self.check_route(&request) {
            refused(&mut observed, Refusal::NoRoute);
            return Reply::status(status, observed);
        }
        let deadline = match grpc_timeout(request.headers()) {
            Ok(timeout) => timeout.map(|timeout| Box::pin(sleep(timeout))),
            Err(malformed) => {
                refused(&mut observed, Refusal::Malformed);
                return Reply::status(Status::internal(malformed.to_string()), observed);
            }
        };
        self.introduce(&mut request);
        let carried = Carried::of(request.extensions());
        let request = match &observed {
            Some(call) => request.map(|body| Body::new(call.incoming(body))),
            None => request.map(Body::new),
        };
        let call = Oneshot::new(self.handler.clone(), request);
        Reply {
            handler: Some(call),
            deadline,
            status: None,
            open: Some(self.in_flight.begin()),
            observed,
            carried,
        }
    }
}

pin_project! {
    /// The head of a reply: the handler's, or a status if it fails or is too late.
    pub(super) struct Reply<F> {
        #[pin]
        handler: Option<F>,
        deadline: Option<Pin<Box<Sleep>>>,
        status: Option<Status>,
        open: Option<OpenCall>,
        observed: Observed,
        carried: Carried,
    }
}

impl<F> Reply<F> {
    fn status(status: Status, observed: Observed) -> Self {
        Self {
            handler: None,
            deadline: None,
            status: Some(status),
            open: None,
            observed,
            carried: Carried::default(),
        }
    }
}

impl<F, B, E> Future for Reply<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    E: Into<BoxError>,
    B: http_body::Body<Data = Bytes>,
{
    type Output = Result<Response<ReplyBody<B>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let carried = &*this.carried;
        let handled = this.handler.as_mut().as_pin_mut();
        let status = match handled.map(|call| carried.enter(|| call.poll(cx))) {
            Some(Poll::Ready(Ok(response))) => {
                let (deadline, open) = (this.deadline.take(), this.open.take());
                let mut observed = this.observed.take();
                if let Some(call) = &mut observed {
                    call.answered(&response, response.body().is_end_stream());
                }
                let carried = std::mem::take(this.carried);
                return Poll::Ready(Ok(
                    response.map(|body| ReplyBody::new(body, deadline, open, observed, carried))
                ));
            }
            Some(Poll::Ready(Err(error))) => Status::from_error(error.into()),
            Some(Poll::Pending) => match this.deadline.as_mut().map(|d| d.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    refused(this.observed, Refusal::Deadline);
                    deadline_exceeded()
                }
                _ => return Poll::Pending,
            },
            None => this.status.take().unwrap_or_else(deadline_exceeded),
        };
        this.handler.set(None);
        let reply = trailers_only(status);
        if let Some(mut call) = this.observed.take() {
            call.answered(&reply, true);
        }
        Poll::Ready(Ok(reply))
    }
}

/// This process answers in the handler's place.
pub(super) fn refused(observed: &mut Observed, refusal: Refusal) {
    if let Some(call) = observed {
        call.refused(refusal);
    }
}

pub(super) fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the call's deadline passed at the server")
}

fn trailers_only<B>(status: Status) -> Response<ReplyBody<B>> {
    status.into_http::<()>().map(|()| ReplyBody::empty())
}
