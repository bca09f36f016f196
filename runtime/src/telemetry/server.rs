//! One observed call of a server: where its events come in. As [`client`](super::client).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::events::{Refusal, ServerEnd, ServerEvents, ServerStart};
use super::messages::{Messages, Progress, Shared};
use super::server_cells::ServerMethod;
pub(crate) use super::server_cells::{ServerCells, Services};
use crate::channel::status::{CANCELLED, UNKNOWN, code_of_head, code_of_headers};
use crate::server::ConnectInfo;

/// From the call's headers to the end of its reply.
pub(crate) struct ServerCall {
    cells: Arc<ServerCells>,
    method: Method,
    grpc: bool,
    started: Instant,
    sent: Messages,
    received: Arc<Progress>,
    /// What the head of the reply says, if that says how the call ends.
    answer: Option<u32>,
    refusal: Option<Refusal>,
    over: bool,
    events: Vec<Box<dyn ServerEvents>>,
}

enum Method {
    Known(Arc<ServerMethod>),
    /// What it counts as is said by the reply.
    Unknown {
        path: Box<str>,
        services: Arc<Services>,
    },
}

impl ServerCall {
    /// A call came in.
    pub(crate) fn started<B>(
        cells: &Arc<ServerCells>,
        services: &Arc<Services>,
        connection: &ConnectInfo,
        request: &mut Request<B>,
    ) -> Box<Self> {
        let at = Instant::now();
        let path = request.uri().path();
        let method = match cells.find(path) {
            Some(method) => {
                method.started();
                Method::Known(method)
            }
            None => Method::Unknown {
                path: path.into(),
                services: Arc::clone(services),
            },
        };
        let events = begin(cells, at, connection, request);
        let wants = events.iter().any(|events| events.wants_messages());
        Box::new(Self {
            cells: Arc::clone(cells),
            method,
            grpc: is_grpc(request.headers()),
            started: at,
            sent: Messages::new(wants),
            received: Progress::new(wants),
            answer: None,
            refusal: None,
            over: false,
            events,
        })
    }

    /// The request's body, its messages counted.
    pub(crate) fn incoming<B>(&self, body: B) -> Counted<B> {
        Counted {
            body,
            received: Shared::new(Arc::clone(&self.received)),
        }
    }

    /// The head of the reply is there. Ends the call if it is nothing but a status, or has no
    /// body: then nobody asks for its end.
    pub(crate) fn answered<B>(&mut self, reply: &http::Response<B>, bodiless: bool) {
        let headers = reply.headers();
        self.answer = code_of_head(reply.status(), headers);
        self.settle(self.answer.is_none());
        for events in &mut self.events {
            events.answered(reply.status(), headers);
        }
        if code_of_headers(headers).is_some() || bodiless {
            self.conclude(Some(headers), None);
        }
    }

    /// This process answers in the handler's place.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
    }

    /// Decides what an unknown method counts as.
    fn settle(&mut self, begun: bool) {
        let Method::Unknown { path, services } = &self.method else {
            return;
        };
        let method = begun
            .then(|| self.cells.begun(path, services))
            .flatten()
            .unwrap_or_else(|| Arc::clone(self.cells.other()));
        method.started();
        self.method = Method::Known(method);
    }

    /// A part of the reply's body goes out.
    pub(crate) fn sent(&mut self, data: &[u8]) {
        self.sent.take(data);
    }

    /// The reply is complete, with these trailers if there are any.
    pub(crate) fn ended(&mut self, trailers: Option<&HeaderMap>) {
        self.conclude(trailers, trailers);
    }

    /// `status` may be the headers of a reply that is nothing but a status.
    fn conclude(&mut self, status: Option<&HeaderMap>, trailers: Option<&HeaderMap>) {
        let told = status.and_then(code_of_headers).or(self.answer);
        let code = told.unwrap_or(if self.grpc { UNKNOWN } else { 0 });
        let message = status.and_then(|headers| headers.get("grpc-message"));
        self.end(code, message, trailers, false);
    }

    fn end(
        &mut self,
        code: u32,
        message: Option<&HeaderValue>,
        trailers: Option<&HeaderMap>,
        dropped: bool,
    ) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.settle(false);
        let at = Instant::now();
        let (sent, received) = (self.sent.bytes(), self.received.bytes());
        if let Method::Known(method) = &self.method {
            method.ended(code, at - self.started, sent, received);
        }
        if self.events.is_empty() {
            return;
        }
        let end = ServerEnd {
            at,
            code,
            message,
            sent,
            received,
            body_sent: self.sent.body_bytes(),
            body_received: self.received.body_bytes(),
            sent_messages: &self.sent.noted(),
            received_messages: &self.received.noted(),
            trailers,
            refusal: self.refusal,
            dropped,
        };
        for events in &mut self.events {
            events.ended(&end);
        }
    }
}

fn begin<B>(
    cells: &ServerCells,
    at: Instant,
    connection: &ConnectInfo,
    request: &mut Request<B>,
) -> Vec<Box<dyn ServerEvents>> {
    let sinks = cells.shared.sinks();
    if sinks.is_empty() {
        return Vec::new();
    }
    // Lent apart from the rest of the request, which sinks only read.
    let mut extensions = std::mem::take(request.extensions_mut());
    let mut events = Vec::new();
    for sink in sinks {
        events.extend(sink.server_call(&mut ServerStart {
            at,
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: &mut extensions,
            connection,
        }));
    }
    *request.extensions_mut() = extensions;
    events
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let value = headers.get(http::header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

impl Drop for ServerCall {
    fn drop(&mut self) {
        self.end(self.answer.unwrap_or(CANCELLED), None, None, true);
    }
}

pin_project! {
    /// A request's body whose messages are counted.
    pub(crate) struct Counted<B> {
        #[pin]
        body: B,
        received: Shared,
    }
}

impl<B: Body<Data = Bytes>> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let next = ready!(this.body.poll_frame(cx));
        if let Some(Ok(frame)) = &next
            && let Some(data) = frame.data_ref()
        {
            this.received.take(data);
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
