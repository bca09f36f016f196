//! `sidestep.operations.v1.Operations`: what operators ask.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::{Ready, ready};
use prost::Message as _;
use prost_types::Timestamp;
use sidestep_proto::wire::operations::{
    ClientStatus, EndpointSourceStatus, Refusal, StatusRequest, StatusResponse, TypeStatus,
    type_status,
};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Response, Status};
use tower_service::Service;

use super::codec::ReadyCodec;
use super::{Answer, unimplemented};
use crate::source::endpoints::SourceId;
use crate::source::endpoints::state::{Board, SourceState};
use crate::store::Store;
use crate::stream::variant_name;
use crate::tracker::{Client, Progress, State, Tracker};

/// The full name of the operations service.
pub const OPERATIONS_SERVICE: &str = "sidestep.operations.v1.Operations";

/// The path of its unary method `Status(StatusRequest) returns (StatusResponse)`.
pub const OPERATIONS_STATUS: &str = "/sidestep.operations.v1.Operations/Status";

/// The operations service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Operations {
    store: Store,
    tracker: Arc<Tracker>,
    board: Board,
}

impl Operations {
    /// Answers from these.
    pub(crate) fn new(store: Store, tracker: Arc<Tracker>, board: Board) -> Self {
        Self {
            store,
            tracker,
            board,
        }
    }

    fn status(&self) -> StatusResponse {
        let report = self.store.report();
        StatusResponse {
            revision: report.revision.to_string(),
            clients: self.tracker.clients().into_iter().map(client).collect(),
            summary: report.summary,
            refusal: report.refusal.map(|refusal| Refusal {
                at: Some(timestamp(refusal.at)),
                errors: refusal
                    .error
                    .diagnostics()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            }),
            sources: self.board.sources().into_iter().map(source).collect(),
        }
    }
}

impl NamedService for Operations {
    const NAME: &'static str = OPERATIONS_SERVICE;
}

impl Service<http::Request<Body>> for Operations {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        if request.uri().path() != OPERATIONS_STATUS {
            return unimplemented();
        }
        let method = StatusMethod(self.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(ReadyCodec::<StatusRequest>::default());
            Ok(grpc.unary(method, request).await)
        })
    }
}

struct StatusMethod(Operations);

impl UnaryService<StatusRequest> for StatusMethod {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, _: tonic::Request<StatusRequest>) -> Self::Future {
        ready(Ok(Response::new(self.0.status().encode_to_vec().into())))
    }
}

fn source((id, state): (SourceId, SourceState)) -> EndpointSourceStatus {
    EndpointSourceStatus {
        kind: id.kind.to_owned(),
        locator: id.locator,
        services: state.services,
        endpoints: u32::try_from(state.endpoints.len()).unwrap_or(u32::MAX),
        told_at: state.told_at.map(timestamp),
        error: state.error.unwrap_or_default(),
    }
}

fn client(client: Client) -> ClientStatus {
    ClientStatus {
        node_id: client.node_id,
        node_cluster: client.node_cluster,
        user_agent: client.user_agent,
        peer: client.peer,
        variant: variant_name(client.variant).to_owned(),
        connected_at: Some(timestamp(client.connected_at)),
        types: client
            .types
            .into_iter()
            .map(|(type_url, progress)| type_status(type_url, progress))
            .collect(),
    }
}

fn type_status(type_url: String, progress: Progress) -> TypeStatus {
    let state = match progress.state() {
        State::NeverSent => type_status::State::NeverSent,
        State::Pending => type_status::State::Pending,
        State::Synced => type_status::State::Synced,
        State::Nacked => type_status::State::Nacked,
    };
    let (nacked, error) = progress.nacked.unzip();
    TypeStatus {
        type_url,
        state: state.into(),
        sent_revision: number(progress.sent.map(|sent| sent.revision)),
        acked_revision: number(progress.acked),
        nacked_revision: number(nacked),
        nack_error: error.unwrap_or_default(),
        names: progress.names,
        updated_at: Some(timestamp(progress.updated_at)),
    }
}

fn number(revision: Option<u64>) -> String {
    revision.map(|r| r.to_string()).unwrap_or_default()
}

fn timestamp(time: SystemTime) -> Timestamp {
    time.into()
}
