//! Reports beside calls: `xds.service.orca.v3.OpenRcaService`.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http::{Request, Response};
use sidestep_proto::wire::orca::{OrcaLoadReport, OrcaLoadReportRequest};
use tokio::time::{MissedTickBehavior, interval};
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::LoadRecorder;

/// The full name of the service.
pub const SERVICE: &str = "xds.service.orca.v3.OpenRcaService";

const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// A request is a duration and some names.
const REQUEST_LIMIT: usize = 64 * 1024;

/// As other gRPC servers have it (A51).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);

/// A service that streams what the server says of its load to whoever asks: at once, and then once
/// in each interval.
#[derive(Debug, Clone)]
pub struct ServerReports {
    load: LoadRecorder,
    min_interval: Duration,
}

impl ServerReports {
    /// Streams what `load` says.
    #[must_use]
    pub fn new(load: LoadRecorder) -> Self {
        Self {
            load,
            min_interval: DEFAULT_INTERVAL,
        }
    }

    /// The shortest interval granted, whatever a client asks for; also that of clients which ask for
    /// none. Default 30 s; less than 1 ms counts as 1 ms.
    #[must_use]
    pub fn min_interval(mut self, interval: Duration) -> Self {
        self.min_interval = interval.max(Duration::from_millis(1));
        self
    }

    fn granted(&self, request: &OrcaLoadReportRequest) -> Duration {
        let asked = request.report_interval;
        let asked = asked.and_then(|asked| Duration::try_from(asked).ok());
        asked.unwrap_or_default().max(self.min_interval)
    }

    fn report(&self) -> OrcaLoadReport {
        OrcaLoadReport {
            // The cost of which call?
            request_cost: [].into(),
            ..self.load.report()
        }
    }
}

impl NamedService for ServerReports {
    const NAME: &'static str = SERVICE;
}

impl<B> Service<Request<B>> for ServerReports
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let reports = Streams(self.clone());
        Box::pin(async move {
            if request.uri().path() != METHOD {
                let status = Status::unimplemented(format!("{SERVICE} has StreamCoreMetrics only"));
                return Ok(status.into_http());
            }
            let codec = ProstCodec::<OrcaLoadReport, OrcaLoadReportRequest>::default();
            let grpc = Grpc::new(codec);
            let mut grpc = grpc.apply_max_message_size_config(Some(REQUEST_LIMIT), None);
            Ok(grpc.server_streaming(reports, request).await)
        })
    }
}

struct Streams(ServerReports);

impl ServerStreamingService<OrcaLoadReportRequest> for Streams {
    type Response = OrcaLoadReport;
    type ResponseStream = BoxStream<'static, Result<OrcaLoadReport, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<OrcaLoadReportRequest>) -> Self::Future {
        let reports = self.0.clone();
        let granted = reports.granted(request.get_ref());
        Box::pin(async move {
            let mut ticker = interval(granted);
            ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let stream = stream::unfold((ticker, reports), async |(mut ticker, reports)| {
                ticker.tick().await;
                Some((Ok(reports.report()), (ticker, reports)))
            });
            Ok(tonic::Response::new(stream.boxed()))
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn asking(milliseconds: i64) -> OrcaLoadReportRequest {
        let asked = prost_types::Duration {
            seconds: milliseconds / 1000,
            nanos: i32::try_from(milliseconds % 1000 * 1_000_000).unwrap(),
        };
        OrcaLoadReportRequest {
            report_interval: Some(asked),
            ..OrcaLoadReportRequest::default()
        }
    }

    #[test]
    fn no_interval_is_shorter_than_the_shortest() {
        let reports = ServerReports::new(LoadRecorder::new());
        let seconds = |request: &_| reports.granted(request).as_secs();
        assert_eq!(seconds(&OrcaLoadReportRequest::default()), 30);
        assert_eq!(seconds(&asking(-5000)), 30);
        assert_eq!(seconds(&asking(10)), 30);
        assert_eq!(seconds(&asking(31_000)), 31);
    }

    #[tokio::test(start_paused = true)]
    async fn reports_come_at_once_and_then_in_time() {
        let load = LoadRecorder::new();
        load.cpu_utilization(0.5);
        load.request_cost("rows", 1.0);
        let reports = ServerReports::new(load.clone()).min_interval(Duration::from_secs(1));
        let mut streams = Streams(reports);
        let answer = streams.call(tonic::Request::new(asking(100))).await;
        let mut stream = answer.unwrap().into_inner();
        let first = stream.next().await.unwrap().unwrap();
        assert_eq!(first.cpu_utilization, 0.5);
        assert!(first.request_cost.is_empty());
        load.cpu_utilization(0.75);
        assert!(stream.next().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(stream.next().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        let second = stream.next().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(second.cpu_utilization, 0.75);
    }
}
