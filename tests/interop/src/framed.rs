//! A channel that can send messages compressed, and tells which came so.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use sidestep::channel::CallError;
use sidestep::{CallInfo, Channel};
use tonic::body::Body;
use tower::Service;

use crate::frames::{Frames, Plan, names_gzip};

/// Request extension: which of the messages are sent compressed, in order; the rest is not.
#[derive(Debug, Clone)]
pub struct Compressed(pub Vec<bool>);

/// Response extension: which of the messages came compressed, in order, so far.
#[derive(Debug, Clone, Default)]
pub struct Came(Arc<Mutex<Vec<bool>>>);

impl Came {
    /// Those so far.
    #[must_use]
    pub fn compressed(&self) -> Vec<bool> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, compressed: bool) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(compressed);
    }
}

/// The channel.
#[derive(Debug, Clone)]
pub struct Framed {
    channel: Channel,
    /// Metadata of every call.
    always: HeaderMap,
}

impl Framed {
    /// Over this channel; `always` goes with every call.
    #[must_use]
    pub fn new(channel: Channel, always: HeaderMap) -> Self {
        Self { channel, always }
    }
}

impl Service<Request<Body>> for Framed {
    type Response = Response<Body>;
    type Error = CallError;
    type Future = BoxFuture<'static, Result<Response<Body>, CallError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        <Channel as Service<Request<Body>>>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut plan = Plan::default();
        if let Some(Compressed(all)) = request.extensions_mut().remove() {
            all.into_iter().for_each(|compressed| plan.add(compressed));
        }
        let headers = request.headers_mut();
        headers.extend(self.always.clone());
        headers.insert("grpc-accept-encoding", HeaderValue::from_static("gzip"));
        if plan.any() {
            headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        let request = request
            .map(|body| Body::new(Frames::new(body, move |message| Ok(plan.apply(message)))));
        let answer = self.channel.call(request);
        Box::pin(async move { answer.await.map(received) })
    }
}

fn received<B>(mut response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let came = Came::default();
    response.extensions_mut().insert(came.clone());
    if names_gzip(response.headers(), "grpc-encoding") {
        response.headers_mut().remove("grpc-encoding");
    }
    response.map(|body| {
        Body::new(Frames::new(Body::new(body), move |message| {
            came.note(message.compressed);
            message.plain()
        }))
    })
}

/// The endpoint that answered.
#[must_use]
pub fn endpoint<T>(response: &tonic::Response<T>) -> Option<String> {
    let info = response.extensions().get::<CallInfo>()?;
    Some(info.endpoint.to_string())
}
