//! The service under test: `test.Echo`, written by hand over strings.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::super::ConnectInfo;
use super::kit::soon;
use crate::security::PeerIdentity;

/// A hand-written tonic service `test.Echo` over strings.
#[derive(Clone, Default)]
pub(super) struct Echo(pub(super) Arc<EchoState>);

#[derive(Default)]
pub(super) struct EchoState {
    /// `Unary` calls that have begun.
    pub(super) begun: AtomicUsize,
    /// `Hold` calls that have begun.
    pub(super) held: AtomicUsize,
    /// `Hold` and `Never` calls whose handler has ended or was dropped.
    pub(super) ended: AtomicUsize,
    /// Told of each change of the two.
    pub(super) moved: tokio::sync::Notify,
    /// A permit lets one `Hold` go.
    pub(super) release: Option<Arc<Semaphore>>,
}

impl EchoState {
    /// Waits until `what` is true.
    pub(super) async fn until(&self, what: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let moved = self.moved.notified();
                if what(self) {
                    return;
                }
                moved.await;
            }
        };
        soon(wait).await;
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(super) fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

struct EndGuard(Arc<EchoState>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.moved.notify_waiters();
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

/// Strings, as `google.protobuf.StringValue` would carry them.
pub(super) type Codec = ProstCodec<String, String>;

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = Method(self.0.clone(), request.uri().path().to_owned());
        async move {
            let mut grpc = tonic::server::Grpc::new(Codec::default());
            Ok(match method.1.as_str() {
                "/test.Echo/Count" | "/test.Echo/Trickle" => {
                    grpc.server_streaming(method, request).await
                }
                "/test.Echo/Chat" => grpc.streaming(method, request).await,
                _ => grpc.unary(method, request).await,
            })
        }
        .boxed()
    }
}

struct Method(Arc<EchoState>, String);

impl tonic::server::UnaryService<String> for Method {
    type Response = String;
    type Future = BoxFuture<'static, Result<tonic::Response<String>, Status>>;

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        let (state, path) = (self.0.clone(), self.1.clone());
        async move {
            match path.as_str() {
                "/test.Echo/Unary" => {
                    state.begun.fetch_add(1, Ordering::SeqCst);
                    Ok(request.into_inner())
                }
                "/test.Echo/Who" => Ok(who(&request)),
                "/test.Echo/Fail" => Err(Status::failed_precondition("as asked")),
                "/test.Echo/Hold" => hold(state, request.into_inner()).await,
                other => Err(Status::unimplemented(other)),
            }
        }
        .map(|result| result.map(tonic::Response::new))
        .boxed()
    }
}

async fn hold(state: Arc<EchoState>, text: String) -> Result<String, Status> {
    let _end = EndGuard(state.clone());
    state.held.fetch_add(1, Ordering::SeqCst);
    state.moved.notify_waiters();
    match &state.release {
        Some(release) => release.acquire().await.expect("never closed").forget(),
        None => std::future::pending().await,
    }
    Ok(text)
}

fn who(request: &tonic::Request<String>) -> String {
    let extensions = request.extensions();
    let info = extensions.get::<ConnectInfo>().expect("always there");
    let identity = extensions.get::<PeerIdentity>();
    let id = identity.map_or("nobody", |identity| &identity.uri_sans[0]);
    assert_eq!(info.remote_addr(), request.remote_addr());
    assert_eq!(info.local_addr(), request.local_addr());
    format!(
        "tls={} peer={id} loopback={:?}",
        info.is_tls(),
        request.remote_addr().map(|addr| addr.ip().is_loopback()),
    )
}

impl tonic::server::ServerStreamingService<String> for Method {
    type Response = String;
    type ResponseStream = BoxStream<'static, Result<String, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<String>) -> Self::Future {
        let end = EndGuard(self.0.clone());
        let three = stream::iter(["1", "2", "3"].map(|n| Ok(n.to_owned())));
        let replies = match self.1.as_str() {
            "/test.Echo/Trickle" => three.chain(stream::pending()).boxed(),
            _ => three.boxed(),
        };
        let replies = replies.map(move |reply| {
            let _until_dropped = &end;
            reply
        });
        std::future::ready(Ok(tonic::Response::new(replies.boxed()))).boxed()
    }
}

impl tonic::server::StreamingService<String> for Method {
    type Response = String;
    type ResponseStream = BoxStream<'static, Result<String, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<String>>) -> Self::Future {
        let replies = request.into_inner().boxed();
        std::future::ready(Ok(tonic::Response::new(replies))).boxed()
    }
}
