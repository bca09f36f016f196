//! What a process says it runs (CSDS).

use sidestep_proto::wire::status::{
    ClientResourceStatus, ClientStatusRequest, ClientStatusResponse,
};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

/// The names of the resources that it has accepted.
pub(crate) async fn acked(address: &str) -> Vec<String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let mut grpc = Grpc::new(endpoint.connect().await.expect("somebody listens"));
    grpc.ready().await.expect("ready");
    let path = PathAndQuery::from_static(
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    );
    let codec = ProstCodec::<ClientStatusRequest, ClientStatusResponse>::default();
    let request = tonic::Request::new(ClientStatusRequest::default());
    let answer = grpc.unary(request, path, codec).await.expect("an answer");
    let configs = answer.into_inner().config;
    let resources = configs
        .into_iter()
        .flat_map(|config| config.generic_xds_configs);
    resources
        .filter(|resource| resource.client_status() == ClientResourceStatus::Acked)
        .map(|resource| resource.name)
        .collect()
}
