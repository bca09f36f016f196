//! A client that does exactly what a test says: raw messages, no machine.

use prost::Message;
use sidestep_proto::wire::core::Node;
use sidestep_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use sidestep_proto::wire::load_stats::{LoadStatsRequest, LoadStatsResponse};
use sidestep_proto::wire::rpc::Status;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::program::{PATIENCE, url};

/// One open stream.
pub(crate) struct Stream<Q, A> {
    requests: mpsc::UnboundedSender<Q>,
    responses: Streaming<A>,
}

pub(crate) type Whole = Stream<DiscoveryRequest, DiscoveryResponse>;
pub(crate) type Delta = Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
pub(crate) type Loads = Stream<LoadStatsRequest, LoadStatsResponse>;

impl<Q: Message + Default + 'static, A: Message + Default + 'static> Stream<Q, A> {
    async fn open(channel: Channel, path: &'static str) -> Self {
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.expect("connected");
        let (requests, receiver) = mpsc::unbounded_channel();
        let outbound = tonic::Request::new(UnboundedReceiverStream::new(receiver));
        let path = PathAndQuery::from_static(path);
        let response = grpc
            .streaming(outbound, path, ProstCodec::<Q, A>::default())
            .await;
        Self {
            requests,
            responses: response.expect("the stream opens").into_inner(),
        }
    }

    pub(crate) fn send(&self, request: Q) {
        self.requests.send(request).expect("the stream is open");
    }

    pub(crate) async fn next(&mut self) -> A {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        let message = message.expect("the server says something");
        message.expect("no error").expect("the stream goes on")
    }

    /// Waits for the end that the server makes.
    pub(crate) async fn ended(&mut self) -> Result<Option<A>, tonic::Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        message.expect("the server says something")
    }
}

impl Whole {
    pub(crate) async fn connect(channel: Channel) -> Self {
        let path =
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
        Self::open(channel, path).await
    }

    pub(crate) fn subscribe(&self, t: &str, names: &[&str]) {
        self.send(DiscoveryRequest {
            node: Some(node()),
            type_url: url(t),
            resource_names: owned(names),
            ..DiscoveryRequest::default()
        });
    }

    /// Without the node, as clients send all requests but the first.
    pub(crate) fn answer(&self, response: &DiscoveryResponse, names: &[&str], nack: Option<&str>) {
        self.send(DiscoveryRequest {
            version_info: match nack {
                None => response.version_info.clone(),
                Some(_) => "older".to_owned(),
            },
            type_url: response.type_url.clone(),
            resource_names: owned(names),
            response_nonce: response.nonce.clone(),
            error_detail: nack.map(refusal),
            ..DiscoveryRequest::default()
        });
    }
}

impl Delta {
    pub(crate) async fn connect(channel: Channel) -> Self {
        let path =
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
        Self::open(channel, path).await
    }

    pub(crate) fn subscribe(&self, t: &str, add: &[&str], remove: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: url(t),
            resource_names_subscribe: owned(add),
            resource_names_unsubscribe: owned(remove),
            ..DeltaDiscoveryRequest::default()
        });
    }

    pub(crate) fn answer(&self, response: &DeltaDiscoveryResponse, nack: Option<&str>) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: nack.map(refusal),
            ..DeltaDiscoveryRequest::default()
        });
    }
}

impl Loads {
    pub(crate) async fn connect(channel: Channel) -> Self {
        let path = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";
        Self::open(channel, path).await
    }
}

/// A client of no special kind.
pub(crate) fn node() -> Node {
    Node {
        id: "test-1".to_owned(),
        ..Node::default()
    }
}

fn refusal(message: &str) -> Status {
    Status {
        code: 3,
        message: message.to_owned(),
        ..Status::default()
    }
}

pub(crate) fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
