//! One connection as a tower service, for clients that want no balancing.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use http_body::Body;
use tower_service::Service;

use super::connection::Connection;
use super::exchange::{Exchange, SendFailure};
use super::incoming::Incoming;
use super::request_body::{BoxError, RequestBody};

/// Sends every request over one [`Connection`], completing its URI with a scheme and authority.
///
/// Fits tonic's `Grpc` client. Never waits and never retries: at the stream limit a call fails.
#[derive(Debug, Clone)]
pub struct Single {
    connection: Connection,
    scheme: Scheme,
    authority: Authority,
}

impl Single {
    /// Requests will carry this `:scheme` and `:authority`.
    #[must_use]
    pub fn new(connection: Connection, scheme: Scheme, authority: Authority) -> Self {
        Self {
            connection,
            scheme,
            authority,
        }
    }

    fn complete(&self, uri: &Uri) -> Uri {
        let path = uri.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        // All three parts are there and each is valid, which is all that is asked.
        Uri::from_parts(parts).unwrap_or_default()
    }
}

impl<B> Service<Request<B>> for Single
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Incoming>;
    type Error = SendFailure;
    type Future = SingleExchange<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendFailure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> SingleExchange<B> {
        *request.uri_mut() = self.complete(request.uri());
        SingleExchange(self.connection.send(request.map(RequestBody::Stream)))
    }
}

/// An [`Exchange`] whose request is not handed back.
#[derive(Debug)]
#[must_use = "nothing is sent before the exchange is polled"]
pub struct SingleExchange<B>(Exchange<B>);

impl<B> Future for SingleExchange<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Incoming>, SendFailure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|result| result.map_err(|error| error.cause))
    }
}
