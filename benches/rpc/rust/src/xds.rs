//! tonic-xds's channel with an error that has a name. Its own is a boxed one, with which futures
//! over it are not `Send` as far as the compiler can see. Nothing is allocated or copied for it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic_xds::XdsChannelGrpc;

type Request = http::Request<Body>;

/// The channel.
#[derive(Clone)]
pub struct XdsChannel(XdsChannelGrpc);

/// Why a call failed before there was a status.
#[derive(Debug)]
pub struct XdsError(String);

/// The answer to come.
pub struct Answer(<XdsChannelGrpc as Service<Request>>::Future);

impl XdsChannel {
    /// This channel.
    #[must_use]
    pub const fn new(channel: XdsChannelGrpc) -> Self {
        Self(channel)
    }
}

impl std::fmt::Display for XdsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for XdsError {}

fn named(error: impl std::fmt::Display) -> XdsError {
    XdsError(error.to_string())
}

impl Service<Request> for XdsChannel {
    type Response = http::Response<Body>;
    type Error = XdsError;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), XdsError>> {
        self.0.poll_ready(cx).map_err(named)
    }

    fn call(&mut self, request: Request) -> Answer {
        Answer(self.0.call(request))
    }
}

impl Future for Answer {
    type Output = Result<http::Response<Body>, XdsError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map_err(named)
    }
}
