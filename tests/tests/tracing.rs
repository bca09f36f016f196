//! One trace through several processes: carried as it came, or told by spans (gRFC A72).

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::stream::{self, Stream, StreamExt as _};
use opentelemetry::trace::{
    SpanId, SpanKind, Status as SpanStatus, Tracer as _, TracerProvider as _,
};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use sidestep::telemetry::{TelemetryOptions, trace_context};
use sidestep::{Channel, TraceContext};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::{TestService, TestServiceServer};
use sidestep_interop::testing::{
    Empty, SimpleRequest, SimpleResponse, StreamingInputCallRequest, StreamingInputCallResponse,
    StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use sidestep_tests::fixture::{Backend, Fixture};
use tokio::sync::oneshot;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, Streaming};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

type Client = TestServiceClient<Channel>;
type Outputs = Pin<Box<dyn Stream<Item = Result<StreamingOutputCallResponse, Status>> + Send>>;

/// A service in the middle: every call of it makes one of the next.
#[derive(Clone)]
struct Relay(Client);

/// How a relay makes its call, said by the response's size that is asked for.
const PLAINLY: i32 = 0;
const SPAWNED: i32 = 1;
const SPAWNED_IN_SCOPE: i32 = 2;
const WITH_ITS_OWN: i32 = 3;
const BY_EXTENSION: i32 = 4;

const OWN: &str = "00-11111111111111111111111111111111-2222222222222222-00";

#[tonic::async_trait]
impl TestService for Relay {
    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let mut client = self.0.clone();
        let mut next = Request::new(SimpleRequest::default());
        let how = request.get_ref().response_size;
        match how {
            SPAWNED => {
                let call = async move { client.unary_call(next).await };
                return tokio::spawn(call).await.unwrap();
            }
            SPAWNED_IN_SCOPE => {
                let call = async move { client.unary_call(next).await };
                let context = TraceContext::current();
                return tokio::spawn(trace_context::scope(context, call))
                    .await
                    .unwrap();
            }
            WITH_ITS_OWN => {
                _ = next
                    .metadata_mut()
                    .insert("traceparent", OWN.parse().unwrap())
            }
            BY_EXTENSION => {
                _ = next
                    .extensions_mut()
                    .insert(TraceContext::parse(OWN).unwrap())
            }
            _ => {}
        }
        // Not the first poll of the handler.
        tokio::task::yield_now().await;
        client.unary_call(next).await
    }

    type StreamingOutputCallStream = Outputs;

    async fn streaming_output_call(
        &self,
        _: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<Outputs>, Status> {
        let mut client = self.0.clone();
        // Made while the body is read, after the handler has returned.
        let later = stream::once(async move {
            client.unary_call(SimpleRequest::default()).await?;
            Ok(StreamingOutputCallResponse::default())
        });
        Ok(Response::new(Box::pin(later)))
    }

    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn streaming_input_call(
        &self,
        _: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn cacheable_unary_call(
        &self,
        _: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type HalfDuplexCallStream = Outputs;

    async fn half_duplex_call(
        &self,
        _: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Outputs>, Status> {
        Err(Status::unimplemented(""))
    }

    type FullDuplexCallStream = Outputs;

    async fn full_duplex_call(
        &self,
        _: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<Outputs>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// web, which calls greeter, which calls chain.
struct Mesh3 {
    web: Client,
    /// What chain was sent, newest last.
    seen: Arc<Mutex<Vec<MetadataMap>>>,
    _fixture: Fixture,
    _chain: Backend,
    _greeter: oneshot::Sender<()>,
}

impl Mesh3 {
    async fn start(options: Option<TelemetryOptions>, faults: Faults, chain_keys: &str) -> Self {
        let fixture = Fixture::start(&file("", "", "")).await;
        let process = |service: &str| {
            let builder = fixture.builder(service);
            match &options {
                None => builder.build().unwrap(),
                Some(options) => builder.telemetry(options.clone()).build().unwrap(),
            }
        };
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = {
            let seen = Arc::clone(&seen);
            move |request: Request<()>| {
                seen.lock().unwrap().push(request.metadata().clone());
                Ok(request)
            }
        };
        let testing = Testing::new("chain", faults);
        let service = TestServiceServer::with_interceptor(testing.clone(), note);
        let server = process("chain").server("127.0.0.1:0").add_service(service);
        let chain = Backend::serve(server, testing);

        let middle = process("greeter");
        let to_chain = TestServiceClient::new(middle.channel("xds:///chain").unwrap());
        let relay = TestServiceServer::new(Relay(to_chain));
        let bound = middle
            .server("127.0.0.1:0")
            .add_service(relay)
            .bind()
            .unwrap();
        let greeter = bound.address().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(bound.serve_with_shutdown(async { _ = stopped.await }));

        fixture.push(&file(&greeter, &chain.address, chain_keys));
        let channel = process("web").channel("xds:///greeter").unwrap();
        channel.ready().await;
        Self {
            web: TestServiceClient::new(channel),
            seen,
            _fixture: fixture,
            _chain: chain,
            _greeter: stop,
        }
    }

    async fn call(&mut self, how: i32, metadata: &[(&'static str, &str)]) -> Option<MetadataMap> {
        let mut request = Request::new(SimpleRequest {
            response_size: how,
            ..SimpleRequest::default()
        });
        for (name, value) in metadata {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        self.web.unary_call(request).await.unwrap();
        self.seen.lock().unwrap().last().cloned()
    }
}

fn file(greeter: &str, chain: &str, chain_keys: &str) -> String {
    let at = |address: &str| match address {
        "" => String::new(),
        address => format!("{{address: \"{address}\"}}"),
    };
    let (greeter, chain) = (at(greeter), at(chain));
    format!(
        "mesh: v1\nservices:\n  web: {{}}\n  greeter: {{endpoints: {{static: [{greeter}]}}}}\n  \
         chain: {{endpoints: {{static: [{chain}]}}{chain_keys}}}\n"
    )
}

fn text<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn a_trace_goes_on_through_a_service_that_knows_nothing_of_it() {
    let mut mesh = Mesh3::start(None, Faults::default(), "").await;
    // A call without a trace begins none.
    let none = mesh.call(PLAINLY, &[]).await.unwrap();
    assert_eq!(text(&none, "traceparent"), None);
    let traced = [("traceparent", PARENT), ("tracestate", "vendor=1")];
    let seen = mesh.call(PLAINLY, &traced).await.unwrap();
    assert_eq!(text(&seen, "traceparent"), Some(PARENT));
    assert_eq!(text(&seen, "tracestate"), Some("vendor=1"));
    // The next call of the same connection is not of that trace.
    let none = mesh.call(PLAINLY, &[]).await.unwrap();
    assert_eq!(text(&none, "traceparent"), None);
    // What is no traceparent is not carried on.
    let bad = mesh
        .call(PLAINLY, &[("traceparent", "00-zz")])
        .await
        .unwrap();
    assert_eq!(text(&bad, "traceparent"), None);
}

#[tokio::test]
async fn what_a_service_says_itself_is_never_replaced() {
    let mut mesh = Mesh3::start(None, Faults::default(), "").await;
    let traced = [("traceparent", PARENT), ("tracestate", "vendor=1")];
    for how in [WITH_ITS_OWN, BY_EXTENSION] {
        let seen = mesh.call(how, &traced).await.unwrap();
        assert_eq!(text(&seen, "traceparent"), Some(OWN));
        assert_eq!(text(&seen, "tracestate"), None);
    }
}

#[tokio::test]
async fn a_spawned_task_is_outside_unless_it_takes_the_context_along() {
    let mut mesh = Mesh3::start(None, Faults::default(), "").await;
    let seen = mesh
        .call(SPAWNED, &[("traceparent", PARENT)])
        .await
        .unwrap();
    assert_eq!(text(&seen, "traceparent"), None);
    let seen = mesh
        .call(SPAWNED_IN_SCOPE, &[("traceparent", PARENT)])
        .await;
    assert_eq!(text(&seen.unwrap(), "traceparent"), Some(PARENT));
}

#[tokio::test]
async fn the_body_of_an_answer_is_of_the_trace_as_well() {
    let mut mesh = Mesh3::start(None, Faults::default(), "").await;
    let mut request = Request::new(StreamingOutputCallRequest::default());
    request
        .metadata_mut()
        .insert("traceparent", PARENT.parse().unwrap());
    let answer = mesh.web.streaming_output_call(request).await.unwrap();
    assert_eq!(answer.into_inner().count().await, 1);
    let seen = mesh.seen.lock().unwrap().pop().unwrap();
    assert_eq!(text(&seen, "traceparent"), Some(PARENT));
}

fn exported() -> (SdkTracerProvider, InMemorySpanExporter, TelemetryOptions) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder();
    let provider = provider.with_simple_exporter(exporter.clone()).build();
    let options = TelemetryOptions::default().opentelemetry_traces(&provider);
    (provider, exporter, options)
}

fn find<'a>(spans: &'a [SpanData], name: &str, parent: SpanId) -> &'a SpanData {
    let found = spans
        .iter()
        .find(|s| s.name == name && s.parent_span_id == parent);
    found.unwrap_or_else(|| panic!("no {name} below {parent} in {spans:#?}"))
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|a| a.key.as_str() == key);
    found.map_or_else(String::new, |a| a.value.to_string())
}

/// Events as `name {attributes}`, each once.
fn events(span: &SpanData) -> Vec<String> {
    let event = |event: &opentelemetry::trace::Event| {
        let attributes = event.attributes.iter();
        let attributes: Vec<_> = attributes
            .map(|a| format!("{}={}", a.key, a.value))
            .collect();
        format!("{} {}", event.name, attributes.join(" "))
    };
    span.events.iter().map(event).collect()
}

#[tokio::test]
async fn spans_tell_of_every_hop() {
    let (_provider, exporter, options) = exported();
    let mut mesh = Mesh3::start(Some(options), Faults::default(), "").await;
    exporter.reset();
    let seen = mesh.call(PLAINLY, &[]).await.unwrap();

    let spans = exporter.get_finished_spans().unwrap();
    let name = |kind: &str| format!("{kind}.grpc.testing.TestService.UnaryCall");
    let below = |kind: &str, parent: SpanId| find(&spans, &name(kind), parent);
    let sent = below("Sent", SpanId::INVALID);
    let id = |span: &SpanData| span.span_context.span_id();
    let attempt = below("Attempt", id(sent));
    let received = below("Recv", id(attempt));
    let relayed = below("Sent", id(received));
    let relaying = below("Attempt", id(relayed));
    let last = below("Recv", id(relaying));
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let trace = sent.span_context.trace_id();
    assert!(
        spans
            .iter()
            .all(|span| span.span_context.trace_id() == trace)
    );
    assert_eq!(
        text(&seen, "traceparent"),
        Some(format!("00-{trace}-{}-01", id(relaying)).as_str())
    );
    assert_eq!(sent.span_kind, SpanKind::Client);
    assert_eq!(last.span_kind, SpanKind::Server);
    assert!(spans.iter().all(|span| span.status == SpanStatus::Ok));
    assert_eq!(attribute(attempt, "previous-rpc-attempts"), "0");
    assert_eq!(attribute(attempt, "transparent-retry"), "false");
    for span in [relaying, attempt] {
        let events = events(span);
        assert!(
            events
                .iter()
                .any(|e| e == "Outbound message sequence-number=0 message-size=0"),
            "{events:?}"
        );
        assert!(
            events
                .iter()
                .any(|e| e.starts_with("Inbound message sequence-number=0 message-size=")),
            "{events:?}"
        );
    }
    let messages = events(last);
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert_eq!(
        messages[0],
        "Inbound message sequence-number=0 message-size=0"
    );
    assert!(messages[1].starts_with("Outbound message sequence-number=0 message-size="));
}

#[tokio::test]
async fn spans_continue_what_the_application_began() {
    let (provider, exporter, options) = exported();
    let mut mesh = Mesh3::start(Some(options), Faults::default(), "").await;
    exporter.reset();
    // In a header, which stays as it is: then the server is below the application's span.
    let seen = mesh
        .call(WITH_ITS_OWN, &[("traceparent", PARENT)])
        .await
        .unwrap();
    assert_eq!(text(&seen, "traceparent"), Some(OWN));
    let spans = exporter.get_finished_spans().unwrap();
    let of_caller = |span: &&SpanData| span.parent_span_id.to_string() == "b7ad6b7169203331";
    let mut names: Vec<_> = spans
        .iter()
        .filter(of_caller)
        .map(|s| s.name.as_ref())
        .collect();
    names.sort_unstable();
    let (recv, sent) = (
        "Recv.grpc.testing.TestService.UnaryCall",
        "Sent.grpc.testing.TestService.UnaryCall",
    );
    assert_eq!(names, [recv, sent]);
    assert!(
        spans
            .iter()
            .filter(of_caller)
            .all(|s| s.span_context.trace_id().to_string() == TRACE)
    );

    // In a span of its own.
    exporter.reset();
    let own = provider.tracer("application").start("own");
    use opentelemetry::trace::{FutureExt as _, TraceContextExt as _};
    let context = opentelemetry::Context::current_with_span(own);
    let id = context.span_id();
    mesh.call(PLAINLY, &[]).with_context(context).await.unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    find(&spans, sent, id);
}

trait SpanOf {
    fn span_id(&self) -> SpanId;
}

impl SpanOf for opentelemetry::Context {
    fn span_id(&self) -> SpanId {
        use opentelemetry::trace::TraceContextExt as _;
        self.span().span_context().span_id()
    }
}

#[tokio::test]
async fn each_attempt_has_a_span_and_a_failure_says_its_status() {
    let (_provider, exporter, options) = exported();
    let faults = Faults {
        fail_attempts_below: 2,
        ..Faults::default()
    };
    let retry = ", routes: [{match: {method: \"grpc.testing.TestService/*\"}, retry: {max_attempts: 3, on: [unavailable]}}]";
    let mut mesh = Mesh3::start(Some(options), faults, retry).await;
    exporter.reset();
    mesh.call(PLAINLY, &[]).await.unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    let attempts: Vec<_> = spans
        .iter()
        .filter(|span| span.name.starts_with("Attempt."))
        .map(|span| {
            (
                attribute(span, "previous-rpc-attempts"),
                span.status.clone(),
            )
        })
        .collect();
    let failed = SpanStatus::error("UNAVAILABLE");
    let expected = [
        ("0".to_owned(), failed.clone()),
        ("1".to_owned(), failed),
        ("2".to_owned(), SpanStatus::Ok),
        // The caller's own one attempt ends last.
        ("0".to_owned(), SpanStatus::Ok),
    ];
    assert_eq!(attempts, expected);

    exporter.reset();
    let mut request = Request::new(SimpleRequest::default());
    request
        .metadata_mut()
        .insert("grpc-timeout", "0n".parse().unwrap());
    let status = mesh.web.unary_call(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let spans = exporter.get_finished_spans().unwrap();
    let sent = find(
        &spans,
        "Sent.grpc.testing.TestService.UnaryCall",
        SpanId::INVALID,
    );
    let SpanStatus::Error { description } = &sent.status else {
        panic!("{sent:?}");
    };
    assert!(
        description.starts_with("DEADLINE_EXCEEDED, "),
        "{description}"
    );
}

#[tokio::test]
async fn waits_for_configuration_and_connection_are_told() {
    let (_provider, exporter, options) = exported();
    let fixture = Fixture::start(&file("", "", "")).await;
    let chain = Backend::start(&fixture.mesh("chain"), "chain", Faults::default());
    fixture.push(&file("", &chain.address, ""));
    let mesh = fixture.builder("web").telemetry(options).build().unwrap();
    let mut client = TestServiceClient::new(mesh.channel("xds:///chain").unwrap());
    let mut request = Request::new(Empty {});
    request
        .extensions_mut()
        .insert(sidestep::WaitForReady(true));
    client.empty_call(request).await.unwrap();
    let spans = exporter.get_finished_spans().unwrap();
    let sent = find(
        &spans,
        "Sent.grpc.testing.TestService.EmptyCall",
        SpanId::INVALID,
    );
    assert_eq!(events(sent), ["Delayed name resolution complete "]);
    let attempt = find(
        &spans,
        "Attempt.grpc.testing.TestService.EmptyCall",
        sent.span_context.span_id(),
    );
    assert_eq!(events(attempt)[0], "Delayed LB pick complete ");
}
