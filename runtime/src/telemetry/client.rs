//! One observed call of a client: where its events come in.
//!
//! The channel makes a [`ClientCall`] if telemetry is on, and carries it as one box through
//! whatever becomes of the call; [`events`](super::events) has the picture. However a call ends,
//! it is counted once: a call that is dropped is `CANCELLED`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue};
use http_body::Body;
use tonic::GrpcMethod;

use super::backend::Backend;
pub(crate) use super::client_cells::ClientCells;
use super::client_cells::{AttemptFigures, ClientMethod};
use super::events::{AttemptEnd, AttemptKind, ClientEnd, ClientEvents, ClientStart, Picked};
use super::messages::{Messages, Outgoing};
use crate::channel::CallError;
use crate::channel::status::{CANCELLED, UNAVAILABLE, UNKNOWN, code_of_head, code_of_headers};
use crate::snapshot::Published;
use crate::subchannel::SendFailure;

/// From the call's start to its end.
pub(crate) struct ClientCall {
    method: Arc<ClientMethod>,
    started: Instant,
    attempt: Option<Attempt>,
    /// When the last attempt ended.
    idle_since: Option<Instant>,
    attempts: u32,
    /// By the retry policy, the first included, before the last attempt.
    previous: u32,
    retries: u32,
    transparent: u32,
    delay: Duration,
    /// What the head of the response says, if that says how the call ends.
    answer: Option<u32>,
    /// The retry policy allows no further attempt.
    exhausted: bool,
    /// Connections could not be made when no endpoint was found.
    unreachable: bool,
    over: bool,
    wants_messages: bool,
    events: Vec<Box<dyn ClientEvents>>,
}

/// The attempt under way.
struct Attempt {
    started: Instant,
    backend: Arc<Backend>,
    sent: Outgoing,
    received: Messages,
}

/// Why a call ended.
#[derive(Default)]
struct Cause<'a> {
    message: Option<&'a HeaderValue>,
    trailers: Option<&'a HeaderMap>,
    error: Option<&'a CallError>,
    dropped: bool,
}

impl ClientCall {
    /// The call was made.
    pub(crate) fn started<B>(
        cells: &ClientCells,
        authority: &str,
        request: &http::Request<B>,
    ) -> Box<Self> {
        let at = Instant::now();
        let registered = request.extensions().get::<GrpcMethod<'static>>();
        let method = cells.method(registered, request.uri().path());
        let sinks = cells.shared.sinks();
        let mut events = Vec::new();
        if !sinks.is_empty() {
            let start = ClientStart {
                at,
                target: &cells.target,
                method: &method.name,
                authority,
                uri: request.uri(),
                headers: request.headers(),
                extensions: request.extensions(),
            };
            events.extend(sinks.iter().filter_map(|sink| sink.client_call(&start)));
        }
        Box::new(Self {
            method,
            started: at,
            attempt: None,
            idle_since: None,
            attempts: 0,
            previous: 0,
            retries: 0,
            transparent: 0,
            delay: Duration::ZERO,
            answer: None,
            exhausted: false,
            unreachable: false,
            over: false,
            wants_messages: events.iter().any(|events| events.wants_messages()),
            events,
        })
    }

    /// A route takes the call.
    pub(crate) fn routed(&mut self, route: &str, waited: bool) {
        for events in &mut self.events {
            events.routed(route, waited);
        }
    }

    /// There was no endpoint to pick.
    pub(crate) fn found_nobody(&mut self, published: &Published) {
        self.unreachable = published.unreachable();
    }

    /// The retry policy would try again, and may not.
    pub(crate) fn exhausted(&mut self) {
        self.exhausted = true;
    }

    /// The first attempt begins with the call, which waited for nothing. `backend` is the cluster
    /// that it is to go to.
    pub(crate) fn attempt_started_at_once(&mut self, backend: &Arc<Backend>) {
        self.begin_attempt(self.started, AttemptKind::Original, 0, backend);
    }

    /// An attempt begins, unless one is under way. `previous` counts the attempts of the retry
    /// policy before it.
    pub(crate) fn attempt_started(&mut self, previous: u32, backend: &Arc<Backend>) {
        if self.attempt.is_some() {
            return;
        }
        let now = Instant::now();
        let kind = match self.idle_since.take() {
            None => AttemptKind::Original,
            Some(idle_since) => {
                self.delay += now - idle_since;
                self.repeated(previous)
            }
        };
        self.begin_attempt(now, kind, previous, backend);
    }

    fn begin_attempt(
        &mut self,
        at: Instant,
        kind: AttemptKind,
        previous: u32,
        backend: &Arc<Backend>,
    ) {
        self.attempts += 1;
        self.previous = previous;
        self.answer = None;
        self.attempt = Some(Attempt {
            started: at,
            backend: Arc::clone(backend),
            sent: Outgoing::new(self.wants_messages),
            received: Messages::new(self.wants_messages),
        });
        self.method.attempt_started();
        for events in &mut self.events {
            events.attempt_started(at, kind);
        }
    }

    fn repeated(&mut self, previous: u32) -> AttemptKind {
        if previous > self.previous {
            self.retries += 1;
            AttemptKind::Retry { previous }
        } else {
            self.transparent += 1;
            AttemptKind::Transparent
        }
    }

    /// The attempt has an endpoint. `headers` go out next.
    pub(crate) fn picked(
        &mut self,
        backend: &Arc<Backend>,
        endpoint: &Arc<str>,
        waited: bool,
        headers: &mut HeaderMap,
    ) {
        if let Some(attempt) = &mut self.attempt {
            attempt.backend = Arc::clone(backend);
        }
        let pick = Picked {
            backend,
            endpoint,
            waited,
        };
        for events in &mut self.events {
            events.picked(&pick, headers);
        }
    }

    /// Counts what the attempt sends.
    pub(crate) fn outgoing(&mut self) -> Option<&mut Outgoing> {
        self.attempt.as_mut().map(|attempt| &mut attempt.sent)
    }

    /// The head of the attempt's response came.
    pub(crate) fn answered<B>(&mut self, response: &http::Response<B>) {
        self.answer = code_of_head(response.status(), response.headers());
        for events in &mut self.events {
            events.answered(response.status(), response.headers());
        }
    }

    /// The attempt's response is the call's. `None`: it ends the call, being nothing but a status,
    /// or having no body.
    pub(crate) fn goes_on<B: Body>(
        mut self: Box<Self>,
        response: &http::Response<B>,
        grpc: bool,
    ) -> Option<Box<Self>> {
        let headers = response.headers();
        if code_of_headers(headers).is_none() && !response.body().is_end_stream() {
            return Some(self);
        }
        self.conclude(Some(headers), None, grpc);
        None
    }

    /// A part of the response's body came.
    pub(crate) fn received(&mut self, data: &[u8]) {
        if let Some(attempt) = &mut self.attempt {
            attempt.received.take(data);
        }
    }

    /// No server has begun with the attempt. Where its connection merely had no room, it waits and
    /// goes on.
    pub(crate) fn not_begun(&mut self, cause: &SendFailure) {
        if !matches!(cause, SendFailure::Full) {
            self.attempt_ended(UNAVAILABLE);
        }
    }

    /// The attempt is over and is not the last: see [`Self::ended`] for that one.
    pub(crate) fn attempt_ended(&mut self, code: u32) {
        self.end_attempt(code, Instant::now());
    }

    fn end_attempt(&mut self, code: u32, at: Instant) {
        let Some(mut attempt) = self.attempt.take() else {
            return;
        };
        self.idle_since = Some(at);
        let figures = AttemptFigures {
            code,
            duration: at - attempt.started,
            sent: attempt.sent.bytes(),
            received: attempt.received.bytes(),
        };
        self.method.attempt_ended(&attempt.backend, &figures);
        if self.events.is_empty() {
            return;
        }
        let end = AttemptEnd {
            at,
            code,
            sent: figures.sent,
            received: figures.received,
            body_sent: attempt.sent.body_bytes(),
            body_received: attempt.received.body_bytes(),
            sent_messages: &attempt.sent.noted(),
            received_messages: &attempt.received.noted(),
        };
        for events in &mut self.events {
            events.attempt_ended(&end);
        }
    }

    /// The response is complete with these trailers; `None`: it ended without any.
    pub(crate) fn ended(&mut self, trailers: Option<&HeaderMap>, grpc: bool) {
        self.conclude(trailers, trailers, grpc);
    }

    /// `status` may be the headers of a response that is nothing but a status.
    fn conclude(&mut self, status: Option<&HeaderMap>, trailers: Option<&HeaderMap>, grpc: bool) {
        let told = status.and_then(code_of_headers);
        let code = told
            .or(self.answer)
            .unwrap_or(if grpc { UNKNOWN } else { 0 });
        let cause = Cause {
            message: status.and_then(|headers| headers.get("grpc-message")),
            trailers,
            ..Cause::default()
        };
        self.end(code, &cause);
    }

    /// This process ended the call.
    pub(crate) fn failed(&mut self, error: &CallError) {
        let cause = Cause {
            error: Some(error),
            ..Cause::default()
        };
        self.end(error.grpc_code(), &cause);
    }

    fn end(&mut self, code: u32, cause: &Cause<'_>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        let at = Instant::now();
        self.end_attempt(code, at);
        self.method.call_ended(code, at - self.started);
        if self.attempts > 1 {
            self.method
                .retried(self.retries, self.transparent, self.delay);
        }
        let end = ClientEnd {
            at,
            code,
            message: cause.message,
            trailers: cause.trailers,
            exhausted: self.exhausted,
            unreachable: self.unreachable,
            error: cause.error,
            dropped: cause.dropped,
            attempts: self.attempts,
        };
        for events in &mut self.events {
            events.ended(&end);
        }
    }
}

impl Drop for ClientCall {
    fn drop(&mut self) {
        let cause = Cause {
            dropped: true,
            ..Cause::default()
        };
        self.end(self.answer.unwrap_or(CANCELLED), &cause);
    }
}

impl std::fmt::Debug for ClientCall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCall")
            .field("method", &self.method.name)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
