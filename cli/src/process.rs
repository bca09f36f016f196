//! Asks a running process at its admin endpoint: pages and client status discovery over one
//! connection.

use std::time::Duration;

use http::{Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use sidestep_proto::wire::status::{ClientStatusRequest, ClientStatusResponse};
use tonic::body::Body;
use tonic::transport::Channel;
use tower_service::Service as _;

use crate::dial::{Security, chain, dial};

/// A process that answers at all answers soon; a large mesh takes a moment to write down.
const PATIENCE: Duration = Duration::from_secs(10);

const CLIENT_STATUS: &str =
    "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";

/// A connection to a process.
pub(crate) struct Process(Channel);

impl Process {
    /// Connects to `HOST:PORT`, `unix:/PATH` or a URL of one of them.
    ///
    /// # Errors
    /// Why there is no connection.
    pub(crate) async fn dial(address: &str) -> Result<Self, String> {
        soon(dial(address, &Security::default())).await.map(Self)
    }

    /// A page, whatever its status.
    ///
    /// # Errors
    /// The process has no such endpoint, or is gone.
    pub(crate) async fn page(&self, path: &str) -> Result<(StatusCode, String), String> {
        let mut channel = self.0.clone();
        soon(async {
            // Only the path counts: the channel knows the way.
            let uri = format!("http://localhost{path}").parse::<Uri>();
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = uri.map_err(|error| error.to_string())?;
            std::future::poll_fn(|cx| channel.poll_ready(cx))
                .await
                .map_err(|error| chain(&error))?;
            let answer = channel.call(request).await;
            let answer = answer.map_err(|error| chain(&error))?;
            let status = answer.status();
            let body = answer.into_body().collect().await;
            let body = body.map_err(|error| chain(&error))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        })
        .await
    }

    /// What the process runs. Answered by every gRPC process with client status discovery.
    ///
    /// # Errors
    /// In words.
    pub(crate) async fn client_status(&self) -> Result<ClientStatusResponse, String> {
        let limit = usize::MAX;
        let mut grpc = tonic::client::Grpc::new(self.0.clone()).max_decoding_message_size(limit);
        soon(async {
            grpc.ready().await.map_err(|error| chain(&error))?;
            let path = http::uri::PathAndQuery::from_static(CLIENT_STATUS);
            let codec = tonic_prost::ProstCodec::default();
            let request = tonic::Request::new(ClientStatusRequest::default());
            let answer = grpc.unary(request, path, codec).await;
            answer
                .map(tonic::Response::into_inner)
                .map_err(|status| chain(&status))
        })
        .await
    }
}

/// Why there is no answer, for people.
pub(crate) fn no_answer(address: &str, reason: &str) {
    eprintln!(
        "error: no answer from {address}: {reason}\n\
         does the process call mesh.admin({address:?})?"
    );
}

/// A query parameter.
pub(crate) fn parameter(name: &str, value: &str) -> String {
    format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

async fn soon<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_late| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}
