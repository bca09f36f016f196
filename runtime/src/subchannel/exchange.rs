//! One request and its response head: the future that the caller's own task polls.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Extensions, Method, Request, Response, Uri, Version};
use http_body::{Body, Frame};

use super::connection::{Connection, Permit};
use super::incoming::Incoming;
use super::pump::{self, PumpLink};
use super::request_body::{BoxError, RequestBody};
use crate::channel::status::code_of_head;
use crate::retry::replay::{LIMIT, Replay};
use crate::telemetry::messages::Outgoing;

/// A request under way; resolves with the head of the response.
///
/// Dropping it resets the stream with `CANCEL`.
#[must_use = "nothing is sent before the exchange is polled"]
pub struct Exchange<B> {
    step: Step<B>,
    /// Whether the request may be wanted again: see [`Connection::send_kept`].
    keep: bool,
}

enum Step<B> {
    /// Not polled yet.
    Start(Connection, Request<RequestBody<B>>),
    /// HEADERS were given to h2.
    Sent(Sent<B>),
    /// Resolved.
    Over,
    /// Resolved in a way after which the request may be wanted again.
    Kept(Box<Request<RequestBody<B>>>),
}

struct Sent<B> {
    response: ResponseFuture,
    permit: Permit,
    /// For a transparent retry.
    head: Kept,
    /// The body if it was one message.
    whole: Option<Option<Bytes>>,
    /// The body if it goes on and is to be kept.
    replay: Option<Replay<B>>,
    /// Only if the request's body goes on.
    pump: Option<PumpLink>,
}

/// A request that failed.
#[derive(Debug)]
pub struct SendError<B> {
    /// Why.
    pub cause: SendFailure,
    /// The request, whole again, if no server can have begun with it and its body was one
    /// message or untouched. It may be sent elsewhere without anybody noticing (gRFC A6,
    /// transparent retries).
    pub unprocessed: Option<Request<RequestBody<B>>>,
    /// No server can have begun with it: refused, above GOAWAY's last stream or never written.
    /// Holds also where the body is spent and `unprocessed` is `None`.
    pub unbegun: bool,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendFailure {
    /// The connection ended.
    #[error("connection closed: {0}")]
    ConnectionClosed(String),
    /// The server refused the stream (`REFUSED_STREAM`) before it began.
    #[error("stream refused by the server")]
    Refused,
    /// The stream was reset.
    #[error("stream reset: {0}")]
    Reset(h2::Reason),
    /// The server is going away and does not take this stream any more.
    #[error("server is going away: {0}")]
    GoAway(h2::Reason),
    /// The application's request body failed.
    #[error("request body failed: {0}")]
    RequestBody(#[source] BoxError),
    /// As many streams as the peer allows are open: see [`Connection::room`].
    #[error("the connection has as many streams as its peer allows")]
    Full,
    /// The request cannot be expressed in HTTP/2 (a relative URI, a connection header).
    #[error("invalid request: {0}")]
    Invalid(String),
}

impl SendFailure {
    /// The HTTP/2 error code behind it, where there is one (the gRPC status follows from it).
    #[must_use]
    pub fn reason(&self) -> Option<h2::Reason> {
        match self {
            Self::Refused => Some(h2::Reason::REFUSED_STREAM),
            Self::Reset(reason) | Self::GoAway(reason) => Some(*reason),
            _ => None,
        }
    }
}

impl<B> fmt::Display for SendError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cause.fmt(f)
    }
}

impl<B> Exchange<B> {
    pub(super) fn new(
        connection: Connection,
        request: Request<RequestBody<B>>,
        keep: bool,
    ) -> Self {
        Self {
            step: Step::Start(connection, request),
            keep,
        }
    }

    /// Whether [`Self::again`] has a request.
    pub(crate) fn has_kept(&self) -> bool {
        matches!(self.step, Step::Kept(_))
    }

    /// The request as it was, after an answer whose head says how the call ends, or after a failure
    /// that does not hand it back itself. Only where it was to be kept, and once.
    pub(crate) fn again(&mut self) -> Option<Request<RequestBody<B>>> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::Kept(request) => Some(*request),
            _ => None,
        }
    }
}

impl<B> Future for Exchange<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Incoming>, SendError<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_counted(cx, None)
    }
}

impl<B> Exchange<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Polls as a future, and counts what is sent.
    pub(crate) fn poll_counted(
        &mut self,
        cx: &mut Context<'_>,
        count: Option<&mut Outgoing>,
    ) -> Poll<Result<Response<Incoming>, SendError<B>>> {
        if let Step::Start(..) = self.step {
            let Step::Start(connection, request) = std::mem::replace(&mut self.step, Step::Over)
            else {
                unreachable!("looked at above")
            };
            self.step = Step::Sent(begin(&connection, request, self.keep, cx, count)?);
        }
        let Step::Sent(sent) = &mut self.step else {
            panic!("polled after it resolved");
        };
        let result = ready!(Pin::new(&mut sent.response).poll(cx));
        let Step::Sent(mut sent) = std::mem::replace(&mut self.step, Step::Over) else {
            unreachable!("looked at above")
        };
        Poll::Ready(match result {
            Ok(response) => {
                if self.keep && code_of_head(response.status(), response.headers()).is_some() {
                    self.step = sent.keep();
                } else if let Some(replay) = &sent.replay {
                    replay.commit();
                }
                Ok(sent.answered(response))
            }
            Err(error) => {
                let error = sent.failed(&error);
                if self.keep && error.unprocessed.is_none() {
                    self.step = sent.keep();
                }
                Err(error)
            }
        })
    }
}

impl<B> fmt::Debug for Exchange<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// Gives HEADERS, and DATA if there is any yet, to h2.
#[expect(
    clippy::result_large_err,
    reason = "the error is the request itself; a box would only move it"
)]
fn begin<B>(
    connection: &Connection,
    request: Request<RequestBody<B>>,
    keep: bool,
    cx: &mut Context<'_>,
    count: Option<&mut Outgoing>,
) -> Result<Sent<B>, SendError<B>>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let status = connection.status();
    if status.draining() {
        let cause = SendFailure::ConnectionClosed(status.reason().to_owned());
        return Err(SendError::untouched(cause, request));
    }
    let Some(permit) = status.try_begin() else {
        return Err(SendError::untouched(SendFailure::Full, request));
    };
    let (mut head, mut body) = request.into_parts();
    let start = match look_ahead(&mut body, cx) {
        Ok(start) => start,
        Err(error) => return Err(SendError::spent(SendFailure::RequestBody(error), true)),
    };
    let (start, body, replay) = match (start, body) {
        (BodyStart::Goes(frames), RequestBody::Stream(rest)) if keep => {
            let replay = Replay::begun(rest, frames);
            let kept = replay.keeper();
            let start = BodyStart::Goes([None, None]);
            (start, RequestBody::Replay(replay), Some(kept))
        }
        (start, body) => (start, body, None),
    };
    let ends_at_once = matches!(start, BodyStart::Whole(None));
    let kept = Kept::of(&mut head);
    let mut sender = connection.sender();
    // No `poll_ready` first: on a fresh clone it checks what `send_request` checks again.
    let opened = sender.send_request(Request::from_parts(head, ()), ends_at_once);
    let (response, mut stream) = match opened {
        Ok(opened) => opened,
        Err(error) => return Err(not_opened(&mut sender, &error, kept, start, body, cx)),
    };
    let mut sent = Sent {
        response,
        permit,
        head: kept,
        whole: None,
        replay,
        pump: None,
    };
    match start {
        BodyStart::Whole(data) => {
            if let Some(data) = &data {
                if let Some(count) = count {
                    count.whole(data);
                }
                // Fails only on a stream that is closed already; the response says why.
                let _ = stream.send_data(data.clone(), true);
            }
            sent.whole = Some(data);
        }
        BodyStart::Goes(frames) => {
            let count = count.map(Outgoing::goes_on);
            sent.pump = Some(pump::spawn(stream, frames, body, count));
        }
    }
    Ok(sent)
}

/// How a request's body begins.
enum BodyStart {
    /// It is complete: nothing, or one message.
    Whole(Option<Bytes>),
    /// It goes on; these frames were taken already.
    Goes([Option<Frame<Bytes>>; 2]),
}

/// Polls the body until it is known whether it has more than one message.
///
/// The second poll is what tells: most encoders only know the end once they are asked for it.
fn look_ahead<B>(body: &mut RequestBody<B>, cx: &mut Context<'_>) -> Result<BodyStart, BoxError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    if body.is_end() {
        return Ok(BodyStart::Whole(None));
    }
    let first = match body.poll_next(cx) {
        Poll::Ready(None) => return Ok(BodyStart::Whole(None)),
        Poll::Ready(Some(frame)) => frame?,
        Poll::Pending => return Ok(BodyStart::Goes([None, None])),
    };
    let first = match first.into_data() {
        Ok(data) if body.is_end() => return Ok(BodyStart::Whole(Some(data))),
        Ok(data) => data,
        Err(trailers) => return Ok(BodyStart::Goes([Some(trailers), None])),
    };
    match body.poll_next(cx) {
        Poll::Ready(None) => Ok(BodyStart::Whole(Some(first))),
        Poll::Ready(Some(second)) => Ok(BodyStart::Goes([Some(Frame::data(first)), Some(second?)])),
        Poll::Pending => Ok(BodyStart::Goes([Some(Frame::data(first)), None])),
    }
}

/// What a head can be made from again: h2 consumes the one that it is given. A list, because a
/// second header map would cost every call what only a refused one needs.
#[derive(Default)]
struct Kept {
    method: Method,
    uri: Uri,
    version: Version,
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
}

impl Kept {
    /// Takes the extensions, which are nothing of the wire, and copies the rest.
    fn of(head: &mut Parts) -> Self {
        let headers = head.headers.iter();
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: std::mem::replace(&mut head.version, Version::HTTP_2),
            headers: headers.map(|(n, v)| (n.clone(), v.clone())).collect(),
            extensions: std::mem::take(&mut head.extensions),
        }
    }

    fn with<B>(self, body: RequestBody<B>) -> Request<RequestBody<B>> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.extensions_mut() = self.extensions;
        let headers = request.headers_mut();
        headers.reserve(self.headers.len());
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        request
    }
}

/// h2 took no stream: either the connection is at its end or the request is at fault.
fn not_opened<B>(
    sender: &mut SendRequest<Bytes>,
    error: &h2::Error,
    head: Kept,
    start: BodyStart,
    body: RequestBody<B>,
    cx: &mut Context<'_>,
) -> SendError<B> {
    if !matches!(sender.poll_ready(cx), Poll::Ready(Err(_))) {
        return SendError::spent(SendFailure::Invalid(error.to_string()), true);
    }
    let cause = match error.reason() {
        Some(reason) if error.is_go_away() => SendFailure::GoAway(reason),
        _ => SendFailure::ConnectionClosed(error.to_string()),
    };
    let body = match start {
        BodyStart::Whole(data) => RequestBody::Whole(data),
        BodyStart::Goes([None, None]) => body,
        BodyStart::Goes(_) => return SendError::spent(cause, true),
    };
    SendError::untouched(cause, head.with(body))
}

impl<B> Sent<B> {
    /// The response takes over the request's extensions, emptied: whoever adds one to it finds
    /// the map made.
    fn answered(self, response: Response<RecvStream>) -> Response<Incoming> {
        let mut response = response.map(|body| Incoming::new(body, self.permit, self.pump));
        if response.extensions().is_empty() {
            let mut emptied = self.head.extensions;
            emptied.clear();
            *response.extensions_mut() = emptied;
        }
        response
    }

    /// Gives up the request, if its body is whole and not too large to be sent again.
    fn keep(&mut self) -> Step<B> {
        let small = |data: &Option<Bytes>| data.as_ref().is_none_or(|data| data.len() <= LIMIT);
        let body = match (self.whole.take().filter(small), self.replay.take()) {
            (Some(data), _) => RequestBody::Whole(data),
            (None, Some(replay)) if replay.is_whole() => RequestBody::Replay(replay),
            _ => return Step::Over,
        };
        Step::Kept(Box::new(std::mem::take(&mut self.head).with(body)))
    }

    fn failed(&mut self, error: &h2::Error) -> SendError<B> {
        if let Some(error) = self.pump.as_mut().and_then(PumpLink::failure) {
            return SendError::spent(SendFailure::RequestBody(error), false);
        }
        let (cause, unbegun) = self.judge(error);
        match self.whole.take_if(|_| unbegun) {
            Some(data) => {
                let head = std::mem::take(&mut self.head);
                SendError::untouched(cause, head.with(RequestBody::Whole(data)))
            }
            None => SendError::spent(cause, unbegun),
        }
    }

    /// What became of the stream, and whether it is certain that no server began with it.
    fn judge(&self, error: &h2::Error) -> (SendFailure, bool) {
        let never_written = self.response.stream_id().as_u32()
            > self.permit.status().written.load(Ordering::Acquire);
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) if error.is_remote() => (SendFailure::Refused, true),
            // h2 fails a stream with the peer's GOAWAY only if it is above the last id.
            Some(reason) if error.is_go_away() && error.is_remote() => {
                (SendFailure::GoAway(reason), true)
            }
            Some(reason) if error.is_reset() => (SendFailure::Reset(reason), never_written),
            _ => (
                SendFailure::ConnectionClosed(self.closed_because(error)),
                never_written,
            ),
        }
    }

    fn closed_because(&self, error: &h2::Error) -> String {
        let status = self.permit.status();
        if status.draining() {
            status.reason().to_owned()
        } else {
            error.to_string()
        }
    }
}

impl<B> SendError<B> {
    fn untouched(cause: SendFailure, request: Request<RequestBody<B>>) -> Self {
        Self {
            cause,
            unprocessed: Some(request),
            unbegun: true,
        }
    }

    fn spent(cause: SendFailure, unbegun: bool) -> Self {
        Self {
            cause,
            unprocessed: None,
            unbegun,
        }
    }
}
