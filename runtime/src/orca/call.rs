//! Reports with answers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prost::Message as _;
use sidestep_proto::wire::orca::OrcaLoadReport;
use tonic::metadata::{Binary, MetadataValue};
use tonic::server::NamedService;
use tower_layer::Layer;
use tower_service::Service;

use super::TRAILER;
use super::recorder::{LoadRecorder, merged};

/// A layer that ends each gRPC answer with a load report: what the handler wrote into the
/// [`LoadRecorder`] of its call, over what the server's recorder says. Where nothing is said,
/// nothing is sent.
#[derive(Debug, Clone, Default)]
pub struct CallReports {
    server: Option<LoadRecorder>,
}

impl CallReports {
    /// Reports of what handlers say, and of nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also sends what the server as a whole says.
    #[must_use]
    pub fn with_server(mut self, load: LoadRecorder) -> Self {
        self.server = Some(load);
        self
    }
}

impl<S> Layer<S> for CallReports {
    type Service = ReportingCalls<S>;

    fn layer(&self, inner: S) -> ReportingCalls<S> {
        ReportingCalls {
            inner,
            server: self.server.clone(),
        }
    }
}

/// A service below [`CallReports`].
#[derive(Debug, Clone)]
pub struct ReportingCalls<S> {
    inner: S,
    server: Option<LoadRecorder>,
}

/// One service of a server may report, and the others not.
impl<S: NamedService> NamedService for ReportingCalls<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, A, B> Service<Request<A>> for ReportingCalls<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Body<Data = Bytes>,
{
    type Response = Response<ReportedBody<B>>;
    type Error = S::Error;
    type Future = Reported<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let call = LoadRecorder::new();
        request.extensions_mut().insert(call.clone());
        Reported {
            answer: self.inner.call(request),
            sources: Some(Sources {
                call,
                server: self.server.clone(),
            }),
        }
    }
}

/// Who speaks about a call.
#[derive(Debug)]
struct Sources {
    call: LoadRecorder,
    server: Option<LoadRecorder>,
}

impl Sources {
    /// Writes the report beside the status.
    fn add_to(&self, trailers: &mut HeaderMap) {
        let server = self.server.as_ref().map(LoadRecorder::report);
        let report = merged(server.unwrap_or_default(), self.call.report());
        if report == OrcaLoadReport::default() {
            return;
        }
        let value = MetadataValue::<Binary>::from_bytes(&report.encode_to_vec());
        if let Ok(value) = HeaderValue::from_bytes(value.as_encoded_bytes()) {
            trailers.insert(TRAILER, value);
        }
    }
}

pin_project! {
    /// The answer of a service below [`CallReports`].
    #[derive(Debug)]
    pub struct Reported<F> {
        #[pin]
        answer: F,
        sources: Option<Sources>,
    }
}

impl<F, B, E> Future for Reported<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ReportedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.answer.poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error)),
        };
        let mut sources = this.sources.take();
        // A status without anything before it: its trailers are the headers.
        if response.headers().contains_key("grpc-status")
            && let Some(sources) = sources.take()
        {
            sources.add_to(response.headers_mut());
        }
        Poll::Ready(Ok(response.map(|inner| ReportedBody { inner, sources })))
    }
}

pin_project! {
    /// The body of such an answer.
    #[derive(Debug)]
    pub struct ReportedBody<B> {
        #[pin]
        inner: B,
        sources: Option<Sources>,
    }
}

impl<B: Body<Data = Bytes>> Body for ReportedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && trailers.contains_key("grpc-status")
            && let Some(sources) = this.sources.take()
        {
            sources.add_to(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt as _, StreamBody};
    use tower::{ServiceExt as _, service_fn};

    use tonic::metadata::MetadataMap;

    use super::*;

    type Pieces = StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Piece>>>;
    type Piece = Result<Frame<Bytes>, Infallible>;

    fn status() -> HeaderMap {
        HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from(0))])
    }

    /// Handles a call by `handler`; answers with a message and a status, or with a status alone.
    async fn played(
        reports: CallReports,
        alone: bool,
        handler: impl Fn(&LoadRecorder) + Clone,
    ) -> Option<OrcaLoadReport> {
        let answer = service_fn(move |request: Request<()>| {
            handler(request.extensions().get().unwrap());
            let pieces = vec![
                Ok(Frame::data(Bytes::from("message"))),
                Ok(Frame::trailers(status())),
            ];
            let pieces = if alone { Vec::new() } else { pieces };
            let body: Pieces = StreamBody::new(futures_util::stream::iter(pieces));
            let mut response = Response::new(body);
            if alone {
                *response.headers_mut() = status();
            }
            async move { Ok::<_, Infallible>(response) }
        });
        let service = reports.layer(answer);
        let response = service.oneshot(Request::new(())).await.unwrap();
        let headers = response.headers().clone();
        let collected = response.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let trailers = if alone { headers } else { trailers };
        let trailers = MetadataMap::from_headers(trailers);
        let value = trailers.get_bin(TRAILER)?;
        Some(OrcaLoadReport::decode(value.to_bytes().unwrap()).unwrap())
    }

    #[tokio::test]
    async fn an_answer_ends_with_what_its_handler_and_its_server_say() {
        let server = LoadRecorder::new();
        server.queries_per_second(50.0);
        let reports = CallReports::new().with_server(server);
        for alone in [false, true] {
            let found = played(reports.clone(), alone, |call| call.cpu_utilization(0.25)).await;
            let found = found.expect("a report");
            assert_eq!((found.cpu_utilization, found.rps_fractional), (0.25, 50.0));
        }
    }

    #[tokio::test]
    async fn where_nothing_is_said_nothing_is_sent() {
        assert_eq!(played(CallReports::new(), false, |_| {}).await, None);
    }
}
