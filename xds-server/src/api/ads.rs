//! `envoy.service.discovery.v3.AggregatedDiscoveryService`, both methods.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use prost::Message;
use sidestep_proto::ads::{Request, Variant};
use sidestep_proto::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status, Streaming};
use tower_service::Service;

use super::codec::ReadyCodec;
use super::{Answer, unimplemented};
use crate::observer::{StreamInfo, StreamObserver};
use crate::socket::Peer;
use crate::store::Store;
use crate::stream;

/// No client has reason to ask with more.
const REQUEST_LIMIT: usize = 4 * 1024 * 1024;

/// The discovery service over one store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AggregatedDiscovery {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    observers: Arc<[Arc<dyn StreamObserver>]>,
    stop: watch::Receiver<bool>,
    next_stream: AtomicU64,
}

impl AggregatedDiscovery {
    /// Serves what `store` holds until `stop` turns true.
    pub(crate) fn new(
        store: Store,
        observers: Arc<[Arc<dyn StreamObserver>]>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                store,
                observers,
                stop,
                next_stream: AtomicU64::new(1),
            }),
        }
    }

    fn context(&self, peer: String, variant: Variant) -> stream::Context {
        let shared = &self.shared;
        stream::Context {
            info: StreamInfo {
                id: shared.next_stream.fetch_add(1, Ordering::Relaxed),
                peer,
                variant,
            },
            snapshots: shared.store.watch(),
            stop: shared.stop.clone(),
            observers: Arc::clone(&shared.observers),
        }
    }

    fn open<M: DiscoveryMessage>(&self, request: http::Request<Body>) -> Answer {
        let method = Method::<M> {
            service: self.clone(),
            wrap: M::into_request,
        };
        Box::pin(async move {
            let mut grpc = Grpc::new(ReadyCodec::<M>::default())
                .apply_max_message_size_config(Some(REQUEST_LIMIT), Some(usize::MAX));
            Ok(grpc.streaming(method, request).await)
        })
    }
}

impl NamedService for AggregatedDiscovery {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl Service<http::Request<Body>> for AggregatedDiscovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        match request.uri().path().rsplit('/').next() {
            Some("StreamAggregatedResources") => self.open::<DiscoveryRequest>(request),
            Some("DeltaAggregatedResources") => self.open::<DeltaDiscoveryRequest>(request),
            _ => unimplemented(),
        }
    }
}

/// A request message of one of the variants.
trait DiscoveryMessage: Message + Default + 'static {
    const VARIANT: Variant;
    fn into_request(self) -> Request;
}

impl DiscoveryMessage for DiscoveryRequest {
    const VARIANT: Variant = Variant::StateOfTheWorld;
    fn into_request(self) -> Request {
        Request::StateOfTheWorld(self)
    }
}

impl DiscoveryMessage for DeltaDiscoveryRequest {
    const VARIANT: Variant = Variant::Delta;
    fn into_request(self) -> Request {
        Request::Delta(self)
    }
}

/// One of the two methods.
struct Method<M> {
    service: AggregatedDiscovery,
    wrap: fn(M) -> Request,
}

impl<M: DiscoveryMessage> StreamingService<M> for Method<M> {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<M>>) -> Self::Future {
        let peer = request
            .extensions()
            .get::<Peer>()
            .map(ToString::to_string)
            .unwrap_or_default();
        let context = self.service.context(peer, M::VARIANT);
        let wrap = self.wrap;
        let requests = request.into_inner().map(move |item| item.map(wrap));
        // One response on its way to the transport; the rest waits where it can still merge.
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(stream::serve(context, requests, sender));
        Box::pin(async { Ok(Response::new(ReceiverStream::new(receiver))) })
    }
}
