//! A client of the ADS service that does exactly what a test says: no machine, raw messages.

use std::time::Duration;

use sidestep_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use sidestep_proto::wire::operations::{StatusRequest, StatusResponse};
use sidestep_proto::wire::{core, rpc};
use sidestep_server::{ListenAddress, OPERATIONS_STATUS};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

/// Far more than anything takes; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the two variants have in common, for this client.
pub(crate) trait Variant {
    type Request: prost::Message + Default + 'static;
    type Response: prost::Message + Default + 'static;
    const PATH: &'static str;
}

pub(crate) struct StateOfTheWorld;
pub(crate) struct Delta;

impl Variant for StateOfTheWorld {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;
    const PATH: &'static str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
}

impl Variant for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;
    const PATH: &'static str =
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
}

/// One open stream.
pub(crate) struct Stream<V: Variant> {
    requests: mpsc::UnboundedSender<V::Request>,
    responses: Streaming<V::Response>,
}

pub(crate) async fn channel(address: &ListenAddress) -> Channel {
    let uri = match address {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        unix @ ListenAddress::Unix(_) => unix.to_string(),
    };
    let endpoint = Endpoint::from_shared(uri).expect("an address");
    // A slow reader must be slowed by its own window, which should be no larger than any other's.
    let endpoint = endpoint.initial_stream_window_size(65_535);
    endpoint.connect().await.expect("somebody listens")
}

impl<V: Variant> Stream<V> {
    pub(crate) async fn open(address: &ListenAddress) -> Self {
        let mut grpc = Grpc::new(channel(address).await).max_decoding_message_size(usize::MAX);
        grpc.ready().await.expect("connected");
        let (requests, receiver) = mpsc::unbounded_channel();
        let outbound = tonic::Request::new(UnboundedReceiverStream::new(receiver));
        let path = http::uri::PathAndQuery::from_static(V::PATH);
        let codec = ProstCodec::<V::Request, V::Response>::default();
        let response = grpc.streaming(outbound, path, codec).await;
        Self {
            requests,
            responses: response.expect("the stream opens").into_inner(),
        }
    }

    pub(crate) fn send(&self, request: V::Request) {
        self.requests.send(request).expect("the stream is open");
    }

    pub(crate) async fn next(&mut self) -> V::Response {
        self.try_next().await.expect("a response")
    }

    pub(crate) async fn try_next(&mut self) -> Result<V::Response, Status> {
        tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("the server says something")
            .map(|message| message.expect("the stream goes on"))
    }
}

impl Stream<StateOfTheWorld> {
    pub(crate) fn subscribe(&self, type_url: &str, names: &[&str]) {
        self.send(DiscoveryRequest {
            node: Some(node()),
            type_url: type_url.to_owned(),
            resource_names: owned(names),
            ..DiscoveryRequest::default()
        });
    }

    pub(crate) fn answer(&self, response: &DiscoveryResponse, names: &[&str], nack: Option<&str>) {
        self.send(DiscoveryRequest {
            version_info: match nack {
                None => response.version_info.clone(),
                Some(_) => String::new(),
            },
            type_url: response.type_url.clone(),
            resource_names: owned(names),
            response_nonce: response.nonce.clone(),
            error_detail: nack.map(refusal),
            ..DiscoveryRequest::default()
        });
    }
}

impl Stream<Delta> {
    pub(crate) fn subscribe(&self, type_url: &str, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            node: Some(node()),
            type_url: type_url.to_owned(),
            resource_names_subscribe: owned(names),
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

/// Asks the operations API.
pub(crate) async fn status(address: &ListenAddress) -> StatusResponse {
    let mut grpc = Grpc::new(channel(address).await);
    grpc.ready().await.expect("connected");
    let path = http::uri::PathAndQuery::from_static(OPERATIONS_STATUS);
    let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
    let response = grpc.unary(tonic::Request::new(StatusRequest {}), path, codec);
    response.await.expect("an answer").into_inner()
}

pub(crate) fn node() -> core::Node {
    core::Node {
        id: "test-1".to_owned(),
        cluster: "web".to_owned(),
        user_agent_name: "test".to_owned(),
        ..core::Node::default()
    }
}

fn refusal(message: &str) -> rpc::Status {
    rpc::Status {
        code: 3,
        message: message.to_owned(),
        ..rpc::Status::default()
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
