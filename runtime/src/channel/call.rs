//! The future of one call.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::Sleep;

use super::body::ResponseBody;
use super::deadline::Deadline;
use super::head::{self, Terms};
use super::in_flight::InFlight;
use super::options::CallInfo;
use super::session::{self, Session};
use super::slow::Armed;
use super::status::CallError;
use super::{Inner, slow};
use crate::balancer::{Pick, SubchannelId};
use crate::retry::policy as retry;
use crate::routing::{Action, Call, Told};
use crate::snapshot::{Cluster, Published, TargetState};
use crate::subchannel::{
    BoxError, Choice, Connection, Exchange, Incoming, RequestBody, SendError, SendFailure,
};
use crate::telemetry::client::ClientCall;
use crate::telemetry::trace_context;

type Outcome = Result<http::Response<ResponseBody>, CallError>;

pin_project! {
    /// The future of one call; see [`Channel`](super::Channel).
    pub struct CallFuture<B> {
        #[pin]
        state: State<B>,
        grpc: bool,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<B> {
        /// Everything was ready: straight to the connection.
        Direct {
            #[pin]
            direct: Direct<B>,
        },
        /// Something has to wait or may be repeated.
        Slow {
            slow: Slow,
        },
        /// Ended before it was sent.
        Failed {
            error: Option<CallError>,
        },
    }
}

pin_project! {
    struct Direct<B> {
        #[pin]
        exchange: Exchange<B>,
        #[pin]
        timer: Option<Sleep>,
        // Taken when the call ends or goes the slow way.
        rest: Option<Rest>,
    }
}

struct Rest {
    inner: Arc<Inner>,
    terms: Terms,
    deadline: Option<Deadline>,
    in_flight: InFlight,
    observed: Observed,
    /// What the client learns of its session, should this be answered.
    told: Option<Box<Told>>,
    /// On a route with retries.
    armed: Option<Armed>,
}

/// What telemetry follows of a call; `None` while it is off.
pub(super) type Observed = Option<Box<ClientCall>>;

/// Begins a call: everything in here is synchronous, without a lock of ours or, unless it is
/// observed, an allocation.
pub(super) fn start<B>(inner: &Arc<Inner>, mut request: http::Request<B>) -> CallFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut terms = Terms::read(inner, &request);
    let grpc = terms.grpc;
    let mut observed = (inner.telemetry.on())
        .then(|| ClientCall::started(&inner.telemetry, inner.shown_authority().as_str(), &request));
    trace_context::carry(&mut request);
    let state = match go(inner, &mut terms, &mut request, &mut observed) {
        Go::Send {
            connection,
            deadline,
            in_flight,
            told,
            armed,
        } => State::Direct {
            direct: Direct {
                exchange: connection.send_kept(request.map(RequestBody::Stream), armed.is_some()),
                timer: None,
                rest: Some(Rest {
                    inner: Arc::clone(inner),
                    terms,
                    deadline,
                    in_flight,
                    observed,
                    told,
                    armed,
                }),
            },
        },
        Go::Slowly => State::Slow {
            slow: Box::pin(slow::run(
                Arc::clone(inner),
                terms,
                request.map(RequestBody::Stream),
                0,
                observed,
            )),
        },
        Go::Fail(error) => {
            if let Some(call) = &mut observed {
                call.failed(&error);
            }
            State::Failed { error: Some(error) }
        }
    };
    CallFuture { state, grpc }
}

enum Go {
    Send {
        connection: Arc<Connection>,
        deadline: Option<Deadline>,
        in_flight: InFlight,
        told: Option<Box<Told>>,
        armed: Option<Armed>,
    },
    Slowly,
    Fail(CallError),
}

fn go<B>(
    inner: &Inner,
    terms: &mut Terms,
    request: &mut http::Request<B>,
    observed: &mut Observed,
) -> Go {
    let state = inner.target.load();
    let TargetState::Ready(snapshot) = &**state else {
        return Go::Slowly;
    };
    let call = view(inner, terms, request.uri(), request.headers());
    let Some(route) = snapshot.routes.find(&call) else {
        return Go::Fail(no_route(inner, &call));
    };
    let Action::Forward(forward) = &route.action else {
        return Go::Fail(CallError::UnsupportedRoute {
            route: route.name.to_string(),
            origin: inner.target.origin(),
        });
    };
    let mut buffer = None;
    let session = Session::of(forward, call.random, call.path, call.headers, &mut buffer);
    let index = session::cluster(session.as_ref(), snapshot, forward, call.random);
    let named = snapshot.cluster(index);
    let published = named.published();
    let of_leaf;
    let (cluster, published) = match &published.leaf {
        None => (named, &*published),
        Some(leaf) => {
            of_leaf = leaf.published();
            (leaf, &*of_leaf)
        }
    };
    if let Some(call) = observed {
        call.routed(&route.name, false);
        call.attempt_started_at_once(cluster.backend());
    }
    let hash = forward.hash.hash(call.headers, inner.id);
    let call = Call {
        hash: hash.unwrap_or(call.random),
        session: session.as_ref().map(Session::sticky),
        subset: forward.subset(call.random, index).map(|asked| &**asked),
        ..call
    };
    match pick(inner, cluster, published, &call, terms.wait_for_ready) {
        Picked::Wait => Go::Slowly,
        // Finding nobody is an attempt, too.
        Picked::Fail(CallError::NoEndpoint { .. }) if forward.retry.is_some() => Go::Slowly,
        // Its leaf failed, and the calls go to another by now.
        Picked::Fail(_) if named.has_left(cluster) => Go::Slowly,
        Picked::Send {
            connection: None,
            mut in_flight,
            ..
        } => {
            // It gets in line, but not on this way.
            in_flight.withdraw();
            Go::Slowly
        }
        Picked::Fail(error) => {
            if let Some(call) = observed {
                call.found_nobody(published);
            }
            Go::Fail(error)
        }
        Picked::Send {
            connection: Some(connection),
            in_flight,
            ..
        } => {
            let deadline = terms.deadline(forward.timeout);
            head::address(inner, connection.scheme(), request);
            if let Some(call) = observed {
                let headers = request.headers_mut();
                call.picked(&in_flight.backend(), in_flight.endpoint(), false, headers);
            }
            head::bound(
                request.headers_mut(),
                terms.timeout,
                deadline.map(|d| d.after),
                |left| forward.grpc_timeout(left),
            );
            let armed = forward.retry.as_ref().map(|policy| Armed {
                policy: Arc::clone(policy),
                cluster: Arc::clone(named),
                session: session.as_ref().map(|session| Box::new(session.keep())),
                subset: forward.subset(terms.random, index).cloned(),
            });
            terms.hash = hash;
            let told = session.and_then(|session| session.told(&in_flight, named.name()));
            Go::Send {
                connection,
                deadline,
                in_flight,
                told,
                armed,
            }
        }
    }
}

/// What routes and pickers may see of the call.
pub(super) fn view<'a>(
    inner: &'a Inner,
    terms: &Terms,
    uri: &'a http::Uri,
    headers: &'a http::HeaderMap,
) -> Call<'a> {
    Call {
        authority: inner.authority.as_str(),
        path: uri.path(),
        headers,
        random: terms.random,
        hash: terms.hash.unwrap_or(terms.random),
        session: None,
        subset: None,
    }
}

pub(super) fn no_route(inner: &Inner, call: &Call<'_>) -> CallError {
    CallError::NoRoute {
        authority: call.authority.to_owned(),
        path: call.path.to_owned(),
        origin: inner.target.origin(),
    }
}

/// What became of a pick.
pub(super) enum Picked {
    Send {
        id: SubchannelId,
        /// `None`: to wait in line for one with room.
        connection: Option<Arc<Connection>>,
        in_flight: InFlight,
    },
    /// For the next picker.
    Wait,
    Fail(CallError),
}

/// Picks an endpoint and takes the circuit breaker's permit for it.
pub(super) fn pick(
    inner: &Inner,
    cluster: &Cluster,
    published: &Published,
    call: &Call<'_>,
    wait_for_ready: bool,
) -> Picked {
    let id = match published.picker.pick(call) {
        Pick::Ready(id) => id,
        Pick::Queue => return Picked::Wait,
        Pick::Connect(id) => {
            cluster.request_connect(published, id);
            return Picked::Wait;
        }
        Pick::Fail(_) if wait_for_ready => return Picked::Wait,
        Pick::Fail(failure) => {
            cluster.breaker().mark_used();
            return Picked::Fail(CallError::no_endpoint(
                cluster.name(),
                failure,
                &inner.target.origin(),
            ));
        }
        Pick::Drop { category } => {
            return Picked::Fail(CallError::Dropped {
                cluster: cluster.name().to_string(),
                category: category.to_owned(),
                origin: inner.target.origin(),
            });
        }
    };
    let Some(slot) = published.slot(id) else {
        return Picked::Wait;
    };
    let connection = match slot.connections.choose() {
        Choice::Send(connection) => Some(connection),
        Choice::Full => None,
        Choice::None => return Picked::Wait,
    };
    let Some(permit) = cluster.breaker().try_acquire() else {
        return Picked::Fail(CallError::CircuitOpen {
            cluster: cluster.name().to_string(),
            limit: cluster.breaker().max(),
            origin: inner.target.origin(),
        });
    };
    let in_flight = InFlight::new(Arc::clone(slot), permit);
    Picked::Send {
        id,
        connection,
        in_flight,
    }
}

/// Turns what the connection answered into what the caller gets.
pub(super) fn answer(
    response: http::Response<Incoming>,
    in_flight: InFlight,
    deadline: Option<Deadline>,
    grpc: bool,
    attempts: u32,
    observed: Observed,
    told: Option<Box<Told>>,
) -> http::Response<ResponseBody> {
    let info = CallInfo {
        endpoint: Arc::clone(in_flight.endpoint()),
        attempts,
    };
    let observed = observed.and_then(|call| call.goes_on(&response, grpc));
    let mut response =
        response.map(|incoming| ResponseBody::new(incoming, in_flight, deadline, grpc, observed));
    response.extensions_mut().insert(info);
    if let Some(told) = told {
        told.apply(response.headers_mut());
    }
    response
}

impl<B> Future for CallFuture<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut this = self.project();
        loop {
            let outcome = match this.state.as_mut().project() {
                StateProj::Slow { slow } => ready!(slow.as_mut().poll(cx)),
                StateProj::Failed { error } => Err(error.take().expect("polled after the end")),
                StateProj::Direct { direct } => match ready!(direct.poll(cx)) {
                    Ok(outcome) => outcome,
                    Err(slow) => {
                        this.state.set(State::Slow { slow });
                        continue;
                    }
                },
            };
            return Poll::Ready(match outcome {
                Err(error) if *this.grpc => Ok(error.into_response(ResponseBody::default())),
                outcome => outcome,
            });
        }
    }
}

impl<B> Direct<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// The outcome, or the slow way on for a request that no server has begun.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Outcome, Slow>> {
        let mut this = self.project();
        let observed = this.rest.as_mut().and_then(|rest| rest.observed.as_mut());
        let count = observed.and_then(|call| call.outgoing());
        let sent = match this.exchange.poll_counted(cx, count) {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                let Some(deadline) = this.rest.as_ref().and_then(|rest| rest.deadline) else {
                    return Poll::Pending;
                };
                if this.timer.is_none() {
                    this.timer
                        .set(Some(tokio::time::sleep_until(deadline.at.into())));
                }
                if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                    ready!(timer.poll(cx));
                }
                let rest = this.rest.as_mut();
                let endpoint = rest.as_ref().map(|rest| rest.in_flight.endpoint());
                let error = CallError::DeadlineExceeded {
                    after: deadline.after,
                    waiting_for: "an answer",
                    of: endpoint.map_or_else(String::new, |e| format!("endpoint {e}")),
                };
                if let Some(rest) = rest {
                    rest.in_flight.failed(error.grpc_code());
                    if let Some(call) = &mut rest.observed {
                        call.failed(&error);
                    }
                }
                return Poll::Ready(Ok(Err(error)));
            }
        };
        let rest = this.rest.take().expect("polled after the end");
        Poll::Ready(match sent {
            Ok(response) => rest.answered(response, &mut this.exchange),
            Err(error) => rest.unsent(error, &mut this.exchange),
        })
    }
}

/// The slow way on.
type Slow = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl Rest {
    fn answered<B>(
        mut self,
        response: http::Response<Incoming>,
        exchange: &mut Exchange<B>,
    ) -> Result<Outcome, Slow>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let grpc = self.terms.grpc;
        self.in_flight.answered(&response, grpc);
        if let Some(call) = &mut self.observed {
            call.answered(&response);
        }
        if exchange.has_kept()
            && let Some(armed) = self.armed
            && let Some(code) = slow::trailers_only(&response)
            && armed.policy.on.contains(code)
            && let Some(request) = exchange.again()
        {
            let outcome = retry::Outcome::answered(code, response.headers());
            return Err(Box::pin(slow::after_first(
                self.inner,
                self.terms,
                armed,
                self.deadline,
                (request, (outcome, Ok((response, self.in_flight)))),
                self.observed,
            )));
        }
        Ok(Ok(answer(
            response,
            self.in_flight,
            self.deadline,
            grpc,
            1,
            self.observed,
            self.told,
        )))
    }

    fn unsent<B>(mut self, error: SendError<B>, exchange: &mut Exchange<B>) -> Result<Outcome, Slow>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let SendError {
            cause,
            mut unprocessed,
            unbegun,
        } = error;
        self.in_flight.unsent(&cause, unbegun);
        let full = matches!(cause, SendFailure::Full);
        if let Some(request) = unprocessed.take_if(|_| full || self.armed.is_none()) {
            drop(self.in_flight);
            if let Some(call) = &mut self.observed {
                call.not_begun(&cause);
            }
            let slow = slow::run(self.inner, self.terms, request, 1, self.observed);
            return Err(Box::pin(slow));
        }
        let error = slow::transport_error(&cause, self.in_flight.endpoint(), self.deadline);
        if let Some(armed) = self.armed
            && let Some(request) = unprocessed.or_else(|| exchange.again())
        {
            drop(self.in_flight);
            let code = error.grpc_code();
            // A request that HTTP/2 cannot carry goes nowhere else either.
            let outcome = match unbegun && !matches!(cause, SendFailure::Invalid(_)) {
                true => retry::Outcome::unbegun(code),
                false => retry::Outcome::failed(code),
            };
            return Err(Box::pin(slow::after_first(
                self.inner,
                self.terms,
                armed,
                self.deadline,
                (request, (outcome, Err(error))),
                self.observed,
            )));
        }
        if let Some(call) = &mut self.observed {
            call.failed(&error);
        }
        Ok(Err(error))
    }
}
