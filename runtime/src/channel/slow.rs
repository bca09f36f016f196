//! The slow way of a call: everything that waits or repeats, as an ordinary `async fn`.

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::HeaderMap;
use http::header::HeaderValue;
use http_body::Body;

use super::body::ResponseBody;
use super::call::{self, Observed, Picked};
use super::deadline::{self, Deadline};
use super::head::{self, PREVIOUS_ATTEMPTS, Terms};
use super::in_flight::InFlight;
use super::session::{self, Kept, Session};
use super::status::{CANCELLED, CallError, INTERNAL, UNAVAILABLE, code_of_headers, code_of_reset};
use super::{Inner, config_error};
use crate::balancer::SubchannelId;
use crate::retry::policy::{Decision, Outcome, Retries};
use crate::retry::replay::Replay;
use crate::routing::{Action, Call, Criteria, Forward, RouteTimeout};
use crate::snapshot::{Cluster, Published, Slot, Snapshot, TargetState};
use crate::subchannel::{
    BoxError, Connection, Incoming, RequestBody, SendError, SendFailure, Turn,
};
use sidestep_proto::code;
use sidestep_proto::resource::RetryPolicy;

type Request<B> = http::Request<RequestBody<B>>;

/// Runs a call to its end. `unbegun` counts the sends so far that no server began.
pub(super) async fn run<B>(
    inner: Arc<Inner>,
    terms: Terms,
    request: Request<B>,
    unbegun: u32,
    mut observed: Observed,
) -> Result<http::Response<ResponseBody>, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let outcome = routed(&inner, terms, request, unbegun, &mut observed).await;
    if let (Err(error), Some(call)) = (&outcome, &mut observed) {
        call.failed(error);
    }
    outcome
}

async fn routed<B>(
    inner: &Inner,
    mut terms: Terms,
    request: Request<B>,
    unbegun: u32,
    observed: &mut Observed,
) -> Result<http::Response<ResponseBody>, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let own = terms.deadline(RouteTimeout::Application);
    let before = inner.target.version();
    let state = within(
        own,
        "configuration",
        inner.target.name(),
        configured(inner, terms.wait_for_ready),
    )
    .await??;
    let TargetState::Ready(snapshot) = &*state else {
        return Err(no_configuration(inner));
    };
    let Routed {
        name,
        forward,
        cluster,
        session,
        subset,
    } = route(inner, &terms, request.uri(), request.headers(), snapshot)?;
    if let Some(call) = observed {
        call.routed(name, inner.target.version() != before);
    }
    terms.hash = forward.hash.hash(request.headers(), inner.id);
    let deadline = terms.deadline(forward.timeout);
    let mut run = Run {
        inner,
        terms: &terms,
        cluster: Arc::clone(cluster),
        session,
        subset,
        deadline,
        observed,
    };
    match &forward.retry {
        None => run.once(request, unbegun).await,
        Some(policy) => {
            let retries = Retries::new(policy, terms.random);
            run.repeatedly(request, retries, None).await
        }
    }
}

/// What a call on a route with retries needs once its first attempt, which went the direct way, is
/// over.
pub(super) struct Armed {
    pub(super) policy: Arc<RetryPolicy>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) session: Option<Box<Kept>>,
    pub(super) subset: Option<Arc<Criteria>>,
}

/// What became of an attempt, and what the call ends with if there is no other one.
pub(super) type Tried = (
    Outcome,
    Result<(http::Response<Incoming>, InFlight), CallError>,
);

/// Goes on with a call whose first attempt ended so.
pub(super) async fn after_first<B>(
    inner: Arc<Inner>,
    terms: Terms,
    armed: Armed,
    deadline: Option<Deadline>,
    (request, first): (Request<B>, Tried),
    mut observed: Observed,
) -> Result<http::Response<ResponseBody>, CallError>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let mut run = Run {
        inner: &inner,
        terms: &terms,
        cluster: armed.cluster,
        session: armed.session.map(|session| *session),
        subset: armed.subset,
        deadline,
        observed: &mut observed,
    };
    let retries = Retries::new(&armed.policy, terms.random);
    let outcome = run.repeatedly(request, retries, Some(first)).await;
    if let (Err(error), Some(call)) = (&outcome, &mut observed) {
        call.failed(error);
    }
    outcome
}

/// Waits for a configuration, or for the definite answer that there is none.
async fn configured(inner: &Inner, wait_for_ready: bool) -> Result<Arc<TargetState>, CallError> {
    loop {
        let seen = inner.target.version();
        let state = Arc::clone(&inner.target.load());
        match &*state {
            TargetState::Ready(_) => return Ok(state),
            TargetState::Ended(failure) => return Err(config_error(failure.clone())),
            TargetState::Failed(failure) if !wait_for_ready => {
                return Err(config_error(failure.clone()));
            }
            TargetState::Failed(_) | TargetState::Pending => {}
        }
        inner.target.changed_since(seen).await;
    }
}

fn no_configuration(inner: &Inner) -> CallError {
    CallError::Config {
        code: code::MESH_ENDED,
        reason: format!("{}: no configuration", inner.target.name()),
    }
}

/// Where a call goes by a configuration.
struct Routed<'a> {
    name: &'a str,
    forward: &'a Forward,
    cluster: &'a Arc<Cluster>,
    session: Option<Kept>,
    subset: Option<Arc<Criteria>>,
}

fn route<'a>(
    inner: &Inner,
    terms: &Terms,
    uri: &http::Uri,
    headers: &HeaderMap,
    snapshot: &'a Snapshot,
) -> Result<Routed<'a>, CallError> {
    let call = call::view(inner, terms, uri, headers);
    let route = snapshot
        .routes
        .find(&call)
        .ok_or_else(|| call::no_route(inner, &call))?;
    let Action::Forward(forward) = &route.action else {
        return Err(CallError::UnsupportedRoute {
            route: route.name.to_string(),
            origin: inner.target.origin(),
        });
    };
    let mut buffer = None;
    let session = Session::of(forward, call.random, call.path, headers, &mut buffer);
    let index = session::cluster(session.as_ref(), snapshot, forward, call.random);
    Ok(Routed {
        name: &route.name,
        forward,
        cluster: snapshot.cluster(index),
        session: session.as_ref().map(Session::keep),
        subset: forward.subset(call.random, index).cloned(),
    })
}

/// Bounds a wait by the deadline, and says what was waited for.
async fn within<T>(
    deadline: Option<Deadline>,
    waiting_for: &'static str,
    of: &str,
    wait: impl Future<Output = T>,
) -> Result<T, CallError> {
    let Some(deadline) = deadline else {
        return Ok(wait.await);
    };
    tokio::time::timeout_at(deadline.at.into(), wait)
        .await
        .map_err(|_| CallError::DeadlineExceeded {
            after: deadline.after,
            waiting_for,
            of: of.to_owned(),
        })
}

/// Where a call is picked an endpoint: in the cluster that its route named, or in the leaf that
/// takes that one's calls at this moment.
struct Way<'a> {
    named: &'a Arc<Cluster>,
    seen: u64,
    /// With the leaf's version.
    leaf: Option<(Arc<Cluster>, u64)>,
    published: Arc<Published>,
}

impl<'a> Way<'a> {
    fn of(named: &'a Arc<Cluster>) -> Self {
        let seen = named.version();
        let published = Arc::clone(&named.published());
        let (leaf, published) = match &published.leaf {
            None => (None, published),
            Some(leaf) => {
                let of_leaf = leaf.version();
                let published = Arc::clone(&leaf.published());
                (Some((Arc::clone(leaf), of_leaf)), published)
            }
        };
        Self {
            named,
            seen,
            leaf,
            published,
        }
    }

    fn cluster(&self) -> &Arc<Cluster> {
        self.leaf.as_ref().map_or(self.named, |(leaf, _)| leaf)
    }

    /// Waits for a later picker, wherever the calls go by then.
    async fn changed(&self) {
        match &self.leaf {
            None => self.named.changed_since(self.seen).await,
            Some((leaf, of_leaf)) => self.named.changed_with(self.seen, leaf, *of_leaf).await,
        }
    }
}

/// A routed call: it keeps its route's time-out and retry policy whatever happens, and its
/// cluster for as long as that exists (gRFC A31).
struct Run<'a> {
    inner: &'a Inner,
    terms: &'a Terms,
    cluster: Arc<Cluster>,
    /// All attempts of a call go by the session that its request names.
    session: Option<Kept>,
    /// What its route asks of endpoints.
    subset: Option<Arc<Criteria>>,
    deadline: Option<Deadline>,
    observed: &'a mut Observed,
}

impl Run<'_> {
    /// Without a retry policy: only sends that no server has begun are repeated.
    async fn once<B>(
        &mut self,
        mut request: Request<B>,
        mut unbegun: u32,
    ) -> Result<http::Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        loop {
            match self.attempt(request, 0).await? {
                Attempt::Answered(response, in_flight) => {
                    return Ok(self.answer(response, in_flight, 1));
                }
                Attempt::Failed {
                    again: Some(next),
                    unbegun: true,
                    error,
                } if unbegun < MOST_UNBEGUN => {
                    unbegun += 1;
                    self.attempt_ended(error.grpc_code());
                    request = next;
                }
                Attempt::Failed { error, .. } => return Err(error),
            }
        }
    }

    /// With a retry policy (gRFC A44 over A6), of which the first attempt may have been `tried`.
    async fn repeatedly<B>(
        &mut self,
        request: Request<B>,
        mut retries: Retries<'_>,
        mut tried: Option<Tried>,
    ) -> Result<http::Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let mut body = repeatable(body);
        let mut next = match tried {
            Some(_) => None,
            None => again(&body),
        };
        loop {
            let previous = retries.previous_attempts();
            let (outcome, end) = match (tried.take(), next.take()) {
                (Some(tried), _) => tried,
                (None, Some(attempt)) => {
                    let mut request = http::Request::from_parts(copy(&head), attempt);
                    if previous > 0 {
                        request
                            .headers_mut()
                            .insert(PREVIOUS_ATTEMPTS, HeaderValue::from(previous));
                    }
                    self.tried(request, previous).await?
                }
                (None, None) => unreachable!(
                    "a body is whole at its first attempt, and is looked at before each other one"
                ),
            };
            let left = self.deadline.map(|deadline| deadline.left(deadline::now()));
            let retry = match retries.decide(&outcome, left) {
                // Only now: from here on the attempt that ended takes nothing more of the body.
                Decision::Retry { after } => again(&body).map(|again| (after, again)),
                Decision::GiveUp => {
                    if let Some(call) = self.observed
                        && retries.exhausted(&outcome)
                    {
                        call.exhausted();
                    }
                    None
                }
            };
            let Some((after, again)) = retry else {
                commit(&mut body);
                return end
                    .map(|(response, in_flight)| self.answer(response, in_flight, previous + 1));
            };
            next = Some(again);
            drop(end);
            self.attempt_ended(outcome.code());
            if !after.is_zero() {
                within(
                    self.deadline,
                    "a retry",
                    self.inner.target.name(),
                    tokio::time::sleep(after),
                )
                .await?;
            }
        }
    }

    /// Makes an attempt that may be repeated.
    async fn tried<B>(&mut self, request: Request<B>, previous: u32) -> Result<Tried, CallError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        Ok(match self.attempt(request, previous).await {
            // Dropped, circuit open, deadline: final whatever the policy says.
            Err(error @ CallError::NoEndpoint { .. }) => {
                (Outcome::failed(error.grpc_code()), Err(error))
            }
            Err(error) => return Err(error),
            Ok(Attempt::Failed {
                error,
                unbegun: true,
                ..
            }) => (Outcome::unbegun(error.grpc_code()), Err(error)),
            Ok(Attempt::Failed { error, .. }) => (Outcome::failed(error.grpc_code()), Err(error)),
            Ok(Attempt::Answered(response, in_flight)) => {
                let outcome = match trailers_only(&response) {
                    Some(code) => Outcome::answered(code, response.headers()),
                    None => Outcome::committed(),
                };
                (outcome, Ok((response, in_flight)))
            }
        })
    }

    /// Picks an endpoint, waiting for one if need be, and sends the request there.
    async fn attempt<B>(
        &mut self,
        request: Request<B>,
        previous: u32,
    ) -> Result<Attempt<B>, CallError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let deadline = self.deadline;
        if let Some(call) = self.observed {
            let way = Way::of(&self.cluster);
            call.attempt_started(previous, way.cluster().backend());
        }
        let inner = self.inner;
        let picked = self.picked(&head, previous);
        let (place, mut in_flight, waited) =
            within(deadline, "an endpoint", inner.target.name(), picked).await??;
        let mut request = http::Request::from_parts(head, body);
        if let Some(call) = self.observed {
            let headers = request.headers_mut();
            call.picked(&in_flight.backend(), in_flight.endpoint(), waited, headers);
        }
        let endpoint = in_flight.endpoint().clone();
        let slot = in_flight.slot().clone();
        let Place {
            cluster,
            id,
            mut connection,
        } = place;
        let mut turn = None;
        let sent = loop {
            if connection.is_none() {
                let waiting = in_line(&cluster, &slot, id, &mut turn);
                connection = within(deadline, "room on a connection", &endpoint, waiting).await?;
            }
            let Some(connection) = connection.take() else {
                in_flight.withdraw();
                return Ok(Attempt::Failed {
                    error: lost_in_line(&endpoint),
                    again: Some(request),
                    unbegun: true,
                });
            };
            head::address(inner, connection.scheme(), &mut request);
            let left = deadline.map(|deadline| deadline.left(deadline::now()));
            let headers = request.headers_mut();
            head::bound(headers, self.terms.timeout, left, deadline::format);
            let mut exchange = connection.send(request);
            let sent = std::future::poll_fn(|cx| {
                let count = self.observed.as_mut().and_then(|call| call.outgoing());
                let polled = exchange.poll_counted(cx, count);
                if !matches!(&polled, Poll::Ready(Err(error)) if is_full(error)) {
                    // It is on its way: the next in line may go.
                    turn = None;
                }
                polled
            });
            let sent = within(deadline, "an answer", &endpoint, sent)
                .await
                .inspect_err(|late| in_flight.failed(late.grpc_code()))?;
            match sent {
                // Others were faster.
                Err(SendError {
                    cause: SendFailure::Full,
                    unprocessed: Some(whole),
                    ..
                }) => request = whole,
                sent => break sent,
            }
        };
        Ok(match sent {
            Ok(response) => {
                in_flight.answered(&response, self.terms.grpc);
                if let Some(call) = self.observed {
                    call.answered(&response);
                }
                Attempt::Answered(response, in_flight)
            }
            Err(SendError {
                cause,
                unprocessed,
                unbegun,
            }) => {
                let error = transport_error(&cause, in_flight.endpoint(), self.deadline);
                in_flight.unsent(&cause, unbegun);
                // A request that HTTP/2 cannot carry goes nowhere else either.
                let unbegun = unbegun && !matches!(cause, SendFailure::Invalid(_));
                Attempt::Failed {
                    error,
                    again: unprocessed,
                    unbegun,
                }
            }
        })
    }

    async fn picked(
        &mut self,
        head: &http::request::Parts,
        previous: u32,
    ) -> Result<(Place, InFlight, bool), CallError> {
        let mut waited = false;
        let mut call = call::view(self.inner, self.terms, &head.uri, &head.headers);
        // Another draw for each attempt, so that a retry is not bound to the endpoint that failed.
        call.random = call
            .random
            .wrapping_add(u64::from(previous).wrapping_mul(GOLDEN));
        call.hash = self.terms.hash.unwrap_or(call.random);
        loop {
            let session = self.session.as_ref().map(Kept::session);
            let call = Call {
                session: session.as_ref().map(Session::sticky),
                subset: self.subset.as_deref(),
                ..call
            };
            let way = Way::of(&self.cluster);
            let wait_for_ready = self.terms.wait_for_ready;
            let published = &way.published;
            match call::pick(self.inner, way.cluster(), published, &call, wait_for_ready) {
                Picked::Send {
                    id,
                    connection,
                    in_flight,
                } => {
                    let cluster = way.cluster().clone();
                    let place = Place {
                        cluster,
                        id,
                        connection,
                    };
                    return Ok((place, in_flight, waited));
                }
                // Its leaf failed, and the calls go to another by now.
                Picked::Fail(_) if self.cluster.has_left(way.cluster()) => {}
                Picked::Fail(error) => {
                    if let Some(call) = &mut *self.observed {
                        call.found_nobody(published);
                    }
                    return Err(error);
                }
                Picked::Wait if self.cluster.is_removed() => self.route_again(head).await?,
                Picked::Wait => way.changed().await,
            }
            waited = true;
        }
    }

    /// The cluster is gone for good: the call goes where the routes lead by now.
    async fn route_again(&mut self, head: &http::request::Parts) -> Result<(), CallError> {
        loop {
            let seen = self.inner.target.version();
            let state = configured(self.inner, self.terms.wait_for_ready).await?;
            let TargetState::Ready(snapshot) = &*state else {
                return Err(no_configuration(self.inner));
            };
            let routed = route(self.inner, self.terms, &head.uri, &head.headers, snapshot)?;
            if !routed.cluster.is_removed() {
                if let Some(call) = &mut *self.observed {
                    call.routed(routed.name, false);
                }
                self.cluster = Arc::clone(routed.cluster);
                self.session = routed.session;
                self.subset = routed.subset;
                return Ok(());
            }
            // A target hears that a cluster goes before it is gone, so this ends.
            self.inner.target.changed_since(seen).await;
        }
    }

    fn attempt_ended(&mut self, code: u32) {
        if let Some(call) = self.observed {
            call.attempt_ended(code);
        }
    }

    fn answer(
        &mut self,
        response: http::Response<Incoming>,
        in_flight: InFlight,
        attempts: u32,
    ) -> http::Response<ResponseBody> {
        let session = self.session.as_ref().map(Kept::session);
        let told = session.and_then(|session| session.told(&in_flight, self.cluster.name()));
        call::answer(
            response,
            in_flight,
            self.deadline,
            self.terms.grpc,
            attempts,
            self.observed.take(),
            told,
        )
    }
}

/// Odd, so that consecutive attempts draw far apart.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A request that no connection ever took is given up after so many connections.
const MOST_UNBEGUN: u32 = 32;

enum Attempt<B> {
    Answered(http::Response<Incoming>, InFlight),
    Failed {
        error: CallError,
        /// The request, if it is still whole.
        again: Option<Request<B>>,
        /// No server can have begun with it.
        unbegun: bool,
    },
}

/// Where a picked endpoint takes the call.
struct Place {
    /// The cluster of the endpoint.
    cluster: Arc<Cluster>,
    id: SubchannelId,
    /// `None`: on the next one with room.
    connection: Option<Arc<Connection>>,
}

/// Waits in line for room on a connection to the endpoint; `None` if its last one is lost before.
/// The place in line is left in `turn`, and holds until that is dropped.
async fn in_line<'a>(
    cluster: &Cluster,
    slot: &'a Arc<Slot>,
    id: SubchannelId,
    turn: &mut Option<Turn<'a>>,
) -> Option<Arc<Connection>> {
    let turn = match turn {
        Some(turn) => turn,
        None => turn.insert(slot.connections.turn().await),
    };
    turn.room(|| cluster.request_room(id, slot)).await
}

/// With an endpoint's last connection its line is lost (gRFC A105); the call may go elsewhere.
fn lost_in_line(endpoint: &str) -> CallError {
    CallError::Transport {
        code: UNAVAILABLE,
        endpoint: endpoint.to_owned(),
        reason: "the connection was lost while the call waited for room on it".to_owned(),
    }
}

fn is_full<B>(error: &SendError<B>) -> bool {
    matches!(error.cause, SendFailure::Full)
}

/// Makes a body that can be sent again. The first poll already records a unary call's message.
fn repeatable<B>(body: RequestBody<B>) -> RequestBody<B> {
    match body {
        RequestBody::Stream(body) => RequestBody::Replay(Replay::new(body)),
        body => body,
    }
}

fn again<B>(body: &RequestBody<B>) -> Option<RequestBody<B>> {
    match body {
        RequestBody::Whole(data) => Some(RequestBody::Whole(data.clone())),
        RequestBody::Replay(replay) => replay.again().map(RequestBody::Replay),
        RequestBody::Stream(_) => None,
    }
}

fn commit<B>(body: &mut RequestBody<B>) {
    if let RequestBody::Replay(replay) = body {
        replay.commit();
    }
}

fn copy(head: &http::request::Parts) -> http::request::Parts {
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.clone();
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers.clone();
    *request.extensions_mut() = head.extensions.clone();
    request.into_parts().0
}

/// The status code of an answer that is nothing but a status.
pub(super) fn trailers_only(response: &http::Response<Incoming>) -> Option<u32> {
    code_of_headers(response.headers()).or_else(|| {
        // Not a gRPC answer at all: what stands between us failed (gRPC's HTTP mapping).
        let status = response.status().as_u16();
        match status {
            200 => None,
            429 | 502..=504 => Some(UNAVAILABLE),
            _ => None,
        }
    })
}

/// What a broken exchange means to the caller. A server that gives a call up because its time is over
/// may be heard before the caller's own timer: that is the deadline too, as in grpc-go.
pub(super) fn transport_error(
    cause: &SendFailure,
    endpoint: &str,
    deadline: Option<Deadline>,
) -> CallError {
    let code = match cause {
        SendFailure::RequestBody(error) => return CallError::RequestBody(error.to_string()),
        SendFailure::Reset(reason) => code_of_reset(*reason),
        SendFailure::Invalid(_) => INTERNAL,
        _ => UNAVAILABLE,
    };
    let late =
        deadline.filter(|deadline| code == CANCELLED && deadline.left(deadline::now()).is_zero());
    if let Some(deadline) = late {
        return CallError::DeadlineExceeded {
            after: deadline.after,
            waiting_for: "an answer",
            of: format!("endpoint {endpoint}"),
        };
    }
    CallError::Transport {
        code,
        endpoint: endpoint.to_owned(),
        reason: cause.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::status::DEADLINE_EXCEEDED;
    use super::*;

    #[test]
    fn a_server_that_cancels_in_time_cancels_and_too_late_is_the_deadline() {
        let hour = Duration::from_secs(3600);
        let over = Deadline::new(Instant::now() - hour, Duration::from_millis(300));
        let ahead = Deadline::new(Instant::now(), hour);
        let cancelled = SendFailure::Reset(h2::Reason::CANCEL);
        for (cause, deadline, expected) in [
            (&cancelled, None, CANCELLED),
            (&cancelled, ahead, CANCELLED),
            (&cancelled, over, DEADLINE_EXCEEDED),
            (
                &SendFailure::Reset(h2::Reason::INTERNAL_ERROR),
                over,
                INTERNAL,
            ),
        ] {
            let error = transport_error(cause, "here", deadline);
            assert_eq!(error.grpc_code(), expected, "{error}");
        }
    }
}
