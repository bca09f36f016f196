//! `envoy.service.load_stats.v3.LoadReportingService`: the rim round [`LoadSession`].

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::future::BoxFuture;
use futures_util::StreamExt as _;
use prost::Message as _;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::load_stats::LoadStatsRequest;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Response, Status, Streaming};
use tower_service::Service;

use super::codec::ReadyCodec;
use super::{Answer, unimplemented};
use crate::load::{LoadReporting, LoadSession};
use crate::snapshot::Snapshot;
use crate::socket::Peer;
use crate::store::Store;

/// Reports hold numbers of each locality of each cluster: more than requests for names do.
const REPORT_LIMIT: usize = 16 * 1024 * 1024;

/// The load reporting service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LoadReports {
    store: Store,
    reporting: LoadReporting,
    stop: watch::Receiver<bool>,
    next_stream: Arc<AtomicU64>,
}

impl LoadReports {
    /// Takes reports until `stop` turns true.
    pub(crate) fn new(store: Store, reporting: LoadReporting, stop: watch::Receiver<bool>) -> Self {
        Self {
            store,
            reporting,
            stop,
            next_stream: Arc::new(AtomicU64::new(1)),
        }
    }

    fn session(&self, peer: String) -> LoadSession {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        LoadSession::new(id, peer, self.reporting.clone())
    }
}

impl NamedService for LoadReports {
    const NAME: &'static str = "envoy.service.load_stats.v3.LoadReportingService";
}

impl Service<http::Request<Body>> for LoadReports {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answer {
        if request.uri().path().rsplit('/').next() != Some("StreamLoadStats") {
            return unimplemented();
        }
        let method = Method(self.clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(ReadyCodec::<LoadStatsRequest>::default())
                .apply_max_message_size_config(Some(REPORT_LIMIT), None);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

struct Method(LoadReports);

impl StreamingService<LoadStatsRequest> for Method {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<LoadStatsRequest>>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map(ToString::to_string).unwrap_or_default();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(serve(
            self.0.session(peer),
            request.into_inner(),
            sender,
            self.0.store.watch(),
            self.0.stop.clone(),
        ));
        Box::pin(async { Ok(Response::new(ReceiverStream::new(receiver))) })
    }
}

/// Serves one stream until either side ends it.
async fn serve(
    mut session: LoadSession,
    mut requests: Streaming<LoadStatsRequest>,
    responses: mpsc::Sender<Result<Bytes, Status>>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut stop: watch::Receiver<bool>,
) {
    // Only the newest wish counts: it takes the place of one that was not written yet.
    let mut waiting = None;
    loop {
        tokio::select! {
            request = requests.next() => match request {
                Some(Ok(request)) => session.receive(request),
                Some(Err(_)) | None => return,
            },
            changed = snapshots.changed() => if changed.is_err() {
                return;
            },
            permit = responses.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                (Ok(permit), Some(response)) => permit.send(Ok(response)),
                _ => return,
            },
            _ = stop.wait_for(|stop| *stop) => break,
            () = responses.closed() => return,
        }
        let snapshot = snapshots.borrow_and_update().clone();
        let clusters = snapshot.names(ResourceType::Cluster.type_url());
        if let Some(response) = session.ask(clusters) {
            waiting = Some(Bytes::from(response.encode_to_vec()));
        }
    }
    // If there is no room, the client will see the end without its reason.
    let _ = responses.try_send(Err(Status::unavailable("the server is shutting down")));
}
