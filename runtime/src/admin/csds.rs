//! Client status discovery (gRFC A40): `/config_dump` for programs such as grpcdebug.
//!
//! Resources are given as they were received, fields that nobody here knows included. One ADS
//! client serves the whole process, so there is one `ClientConfig`, with an empty scope.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{Request, Response};
use sidestep_proto::wire::Any;
use sidestep_proto::wire::json as messages;
use sidestep_proto::wire::status::{
    ClientConfig, ClientResourceStatus, ClientStatusRequest, ClientStatusResponse,
    UpdateFailureState, client_config::GenericXdsConfig,
};
use tonic::Status as GrpcStatus;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService, UnaryService};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::page::{Context, ENDED, off_thread};
use super::timestamp::timestamp;
use crate::control::{Asker, Question};
use crate::inspect::{Resource, ResourceFailure, Status};
use crate::telemetry::Telemetry;

/// The full name of the service.
pub const SERVICE: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";

/// A question needs no more.
const REQUEST_LIMIT: usize = 64 * 1024;

/// Whether a request is gRPC's business.
pub(super) fn is_for<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a gRPC request.
pub(super) async fn answer(context: Arc<Context>, request: Request<Body>) -> Response<Body> {
    let method = request.uri().path().strip_prefix('/');
    let method = method.and_then(|path| path.strip_prefix(SERVICE)?.strip_prefix('/'));
    let codec = ProstCodec::<ClientStatusResponse, ClientStatusRequest>::default();
    let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(REQUEST_LIMIT), None);
    match method {
        Some("FetchClientStatus") => grpc.unary(Discovery(context), request).await,
        Some("StreamClientStatus") => grpc.streaming(Discovery(context), request).await,
        _ => {
            let text = format!("only {SERVICE} is served here");
            GrpcStatus::unimplemented(text).into_http()
        }
    }
}

/// Client status discovery as a service, for a server of the application's own: see
/// [`Mesh::client_status`](crate::Mesh::client_status).
#[derive(Clone)]
pub struct ClientStatus(Arc<Context>);

impl ClientStatus {
    pub(crate) fn new(asker: Asker, telemetry: Arc<Telemetry>) -> Self {
        Self(Context::new(asker, telemetry))
    }
}

impl std::fmt::Debug for ClientStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientStatus").finish_non_exhaustive()
    }
}

impl NamedService for ClientStatus {
    const NAME: &'static str = SERVICE;
}

impl Service<Request<Body>> for ClientStatus {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let context = self.0.clone();
        Box::pin(async move { Ok(answer(context, request).await) })
    }
}

struct Discovery(Arc<Context>);

impl UnaryService<ClientStatusRequest> for Discovery {
    type Response = ClientStatusResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<ClientStatusResponse>, GrpcStatus>>;

    fn call(&mut self, request: tonic::Request<ClientStatusRequest>) -> Self::Future {
        let context = self.0.clone();
        Box::pin(async move {
            let found = discover(context, request.into_inner()).await?;
            Ok(tonic::Response::new(found))
        })
    }
}

impl StreamingService<ClientStatusRequest> for Discovery {
    type Response = ClientStatusResponse;
    type ResponseStream = BoxStream<'static, Result<ClientStatusResponse, GrpcStatus>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, GrpcStatus>>;

    /// Each request is answered once.
    fn call(
        &mut self,
        requests: tonic::Request<tonic::Streaming<ClientStatusRequest>>,
    ) -> Self::Future {
        let context = self.0.clone();
        let answers = requests
            .into_inner()
            .and_then(move |request| discover(context.clone(), request));
        Box::pin(async move { Ok(tonic::Response::new(answers.boxed())) })
    }
}

async fn discover(
    context: Arc<Context>,
    request: ClientStatusRequest,
) -> Result<ClientStatusResponse, GrpcStatus> {
    if !request.node_matchers.is_empty() {
        let text = "node_matchers: this is a client, it answers for itself alone";
        return Err(GrpcStatus::invalid_argument(text));
    }
    let ended = |_| GrpcStatus::unavailable(ENDED);
    let process = context.ask(Question::Process).await.map_err(ended)?;
    // Without a bootstrap there is no client to tell of.
    let Some(node) = process.node else {
        return Ok(ClientStatusResponse::default());
    };
    let resources = context.ask(Question::Resources).await.map_err(ended)?;
    let with_contents = !request.exclude_resource_contents;
    let all = off_thread(move || {
        let all = resources.into_iter().map(|r| generic(r, with_contents));
        all.collect()
    });
    let all = all
        .await
        .map_err(|failed| GrpcStatus::internal(failed.to_string()))?;
    Ok(ClientStatusResponse {
        config: vec![ClientConfig {
            node: Some(node),
            generic_xds_configs: all,
            client_scope: String::new(),
        }],
    })
}

fn generic(resource: Resource, with_contents: bool) -> GenericXdsConfig {
    let content = resource.content.filter(|_| with_contents);
    let failure = resource.failure;
    GenericXdsConfig {
        type_url: resource.resource_type.type_url().to_owned(),
        name: resource.name,
        version_info: resource.version,
        xds_config: content.filter(has_no_secret),
        last_updated: resource.updated.map(timestamp),
        client_status: client_status(resource.status).into(),
        error_state: failure.map(|failure| error_state(failure, with_contents)),
        ..GenericXdsConfig::default()
    }
}

fn error_state(failure: ResourceFailure, with_contents: bool) -> UpdateFailureState {
    let content = failure.content.filter(|_| with_contents);
    UpdateFailureState {
        failed_configuration: content.filter(has_no_secret),
        last_update_attempt: Some(timestamp(failure.at)),
        details: failure.details,
        version_info: failure.version,
    }
}

/// Bytes cannot be redacted, so a resource with a private key in it is named without its content.
fn has_no_secret(any: &Any) -> bool {
    !messages::render(any).redacted
}

fn client_status(status: Status) -> ClientResourceStatus {
    match status {
        Status::Requested => ClientResourceStatus::Requested,
        Status::DoesNotExist => ClientResourceStatus::DoesNotExist,
        Status::Acked => ClientResourceStatus::Acked,
        Status::Nacked => ClientResourceStatus::Nacked,
        Status::ReceivedError => ClientResourceStatus::ReceivedError,
        Status::Timeout => ClientResourceStatus::Timeout,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_wires() {
        for status in Status::ALL {
            assert_eq!(client_status(status).as_str_name(), status.word());
        }
    }
}
