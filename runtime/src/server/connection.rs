//! One connection: HTTP/2 over an admitted socket, until its peer or a drain ends it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::sleep;
use tonic::body::Body;
use tower_service::Service;

use super::accept::Raw;
use super::admission::{Admitted, Refused, admit};
use super::drain::Draining;
use super::service::Calls;
use super::serving::Generation;
use super::{BoxError, Refusal, ServerOptions, ServerStats};
use crate::telemetry::server::{ServerCells, Services};

/// What every connection of a server shares.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: ServerOptions,
    pub(super) stats: Arc<ServerStats>,
    pub(super) telemetry: Arc<ServerCells>,
    pub(super) services: Arc<Services>,
}

impl Shared {
    /// Counts and logs a connection that was not admitted.
    pub(super) fn refuse(&self, refused: &Refused, peer: Option<SocketAddr>) {
        self.stats.count_refused(refused.why);
        let peer = peer.map(tracing::field::display);
        let (why, detail) = (refused.why, refused.detail.as_str());
        let code = why.code();
        // Port scans and health checks connect and go; what the operator can mend is a warning.
        match why {
            Refusal::Gone | Refusal::NotServing => {
                tracing::debug!(target: "sidestep::server", %code, peer, %why, detail, "closed");
            }
            _ => tracing::warn!(target: "sidestep::server", %code, peer, %why, detail, "closed"),
        }
    }

    pub(super) fn count_way_in(&self, admitted: &Admitted) {
        match admitted.info.is_tls() {
            true => self.stats.count_tls(),
            false => self.stats.count_plaintext(),
        }
    }
}

/// Serves a socket from its first byte to its last.
pub(super) async fn serve<S, B>(
    raw: Raw,
    generation: Arc<Generation>,
    draining: Draining,
    handler: S,
    shared: Arc<Shared>,
) where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let peer = raw.addresses.map(|(_, peer)| peer);
    let limits = &shared.options.limits;
    let admitted = match admit(raw, &generation, limits).await {
        Ok(admitted) => admitted.expect_preface(limits).await,
        Err(refused) => Err(refused),
    };
    drop(generation);
    match admitted {
        Ok(admitted) => {
            shared.count_way_in(&admitted);
            carry_calls(admitted, draining, handler, &shared).await;
        }
        Err(refused) => shared.refuse(&refused, peer),
    }
}

async fn carry_calls<S, B>(
    admitted: Admitted,
    mut draining: Draining,
    handler: S,
    shared: &Arc<Shared>,
) where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let _open = shared.stats.opened();
    let Admitted {
        io, info, routes, ..
    } = admitted;
    let calls = Calls::new(handler, routes, info, shared);
    let in_flight = calls.in_flight();
    let connection = http2(&shared.options).serve_connection(TokioIo::new(io), calls);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = draining.started() => {}
    }
    // GOAWAY: the peer sends no more calls here, those it has sent are answered.
    connection.as_mut().graceful_shutdown();
    let options = &shared.options;
    tokio::select! {
        ended = connection => log_end(ended),
        () = in_flight.abandoned(options.keepalive_timeout) => {
            tracing::debug!(target: "sidestep::server", "closed: the peer does not answer a GOAWAY");
        }
        () = sleep(options.drain_grace) => {
            shared.stats.count_cut();
            tracing::warn!(target: "sidestep::server", "closed with calls in flight: the grace time is over");
        }
    }
}

/// Bytes of one call's request that may wait unread.
const STREAM_WINDOW: u32 = 512 * 1024;

/// The same of all calls of a connection together. h2 ends a connection on which too many small
/// frames wait unread: what each has less than 256 bytes counts, up to half this window (hyper
/// has no option of its own for that). With this factor one handler that does not read leaves
/// the other calls alone even where its messages are as small as 16 bytes.
const CONNECTION_WINDOW: u32 = 32 * STREAM_WINDOW;

fn http2(options: &ServerOptions) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(options.max_concurrent_streams)
        .max_header_list_size(options.max_header_list_bytes)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(target: "sidestep::server", %error, "connection broke");
    }
}
