//! A tonic client over one HTTP/2 connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::echo::Codec;
use super::kit::soon;
use crate::subchannel::Io;

/// One HTTP/2 connection as a tonic client's transport.
#[derive(Clone)]
pub(super) struct Client {
    sender: http2::SendRequest<Body>,
    /// Becomes true when the connection is over.
    closed: watch::Receiver<bool>,
}

impl Client {
    pub(super) async fn over(io: impl Io + 'static) -> Self {
        let io = TokioIo::new(Box::new(io) as Box<dyn Io>);
        let (sender, connection) = soon(http2::handshake(TokioExecutor::new(), io))
            .await
            .unwrap();
        let (over, closed) = watch::channel(false);
        tokio::spawn(async move {
            // How it ended shows in the calls.
            let _ = connection.await;
            over.send_replace(true);
        });
        Self { sender, closed }
    }

    pub(super) async fn closed(&mut self) {
        soon(self.closed.wait_for(|closed| *closed)).await.unwrap();
    }

    fn grpc(&self) -> tonic::client::Grpc<Self> {
        let origin = "http://echo.test".parse().unwrap();
        tonic::client::Grpc::with_origin(self.clone(), origin)
    }

    pub(super) async fn unary(&self, method: &str, text: &str) -> Result<String, Status> {
        self.unary_request(method, tonic::Request::new(text.to_owned()))
            .await
    }

    pub(super) async fn unary_request(
        &self,
        method: &str,
        request: tonic::Request<String>,
    ) -> Result<String, Status> {
        let path = method_path(method);
        let reply = soon(self.grpc().unary(request, path, Codec::default())).await;
        reply.map(tonic::Response::into_inner)
    }

    pub(super) async fn unary_without_limit(
        &self,
        method: &str,
        text: &str,
    ) -> Result<String, Status> {
        let (path, request) = (method_path(method), tonic::Request::new(text.to_owned()));
        let reply = self.grpc().unary(request, path, Codec::default()).await;
        reply.map(tonic::Response::into_inner)
    }

    /// Whether a call failed because its connection took no calls any more: no server saw it.
    pub(super) fn was_unsent(&self, status: &Status) -> bool {
        let source = std::error::Error::source(status);
        let error = source.and_then(|source| source.downcast_ref::<hyper::Error>());
        error.is_some_and(hyper::Error::is_canceled) || self.sender.is_closed()
    }

    pub(super) async fn server_streaming(
        &self,
        method: &str,
        request: tonic::Request<String>,
    ) -> Result<tonic::Streaming<String>, Status> {
        let path = method_path(method);
        let reply = soon(
            self.grpc()
                .server_streaming(request, path, Codec::default()),
        )
        .await;
        reply.map(tonic::Response::into_inner)
    }

    pub(super) async fn chat(
        &self,
        words: impl futures_core::Stream<Item = String> + Send + 'static,
    ) -> Result<tonic::Streaming<String>, Status> {
        let path = method_path("test.Echo/Chat");
        let request = tonic::Request::new(words);
        let reply = soon(self.grpc().streaming(request, path, Codec::default())).await;
        reply.map(tonic::Response::into_inner)
    }
}

fn method_path(method: &str) -> http::uri::PathAndQuery {
    format!("/{method}").parse().unwrap()
}

impl Service<Request<Body>> for Client {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.sender.send_request(request).boxed()
    }
}
