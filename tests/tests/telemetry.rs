//! What a process counts of its calls, under gRPC's names (gRFC A66, A89, A96): each call once,
//! however it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::stream;
use http::Response;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{InMemoryMetricExporter, PeriodicReader, SdkMeterProvider};
use sidestep::telemetry::instruments::{
    CLIENT_ATTEMPT_DURATION, CLIENT_ATTEMPT_RCVD, CLIENT_ATTEMPT_SENT, CLIENT_ATTEMPT_STARTED,
    CLIENT_CALL_DURATION, CLIENT_CALL_RETRIES, CLIENT_CALL_RETRY_DELAY,
    CLIENT_CALL_TRANSPARENT_RETRIES, Instrument, SERVER_CALL_DURATION, SERVER_CALL_RCVD,
    SERVER_CALL_SENT, SERVER_CALL_STARTED,
};
use sidestep::telemetry::{Reading, TelemetryOptions};
use sidestep::{Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::{
    EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest,
    StreamingOutputCallResponse,
};
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh, silent_backend};
use sidestep_tests::load::{PATIENCE, call, until};
use sidestep_tests::raw;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

const UNARY: &str = "grpc.testing.TestService/UnaryCall";
const TARGET: &str = "xds:///greeter";

/// A control plane, a server in one process, a client in another, both observed.
struct Observed {
    fixture: Fixture,
    servers: Mesh,
    clients: Mesh,
    backend: Backend,
    client: TestServiceClient<Channel>,
}

async fn observed(faults: Faults, keys: &str) -> Observed {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = on(&fixture, "greeter");
    let backend = Backend::start(&servers, "a", faults);
    fixture.push(&mesh_file(&[(&backend.address, "v1")], keys));
    let clients = on(&fixture, "web");
    let client = TestServiceClient::new(clients.channel(TARGET).unwrap());
    Observed {
        fixture,
        servers,
        clients,
        backend,
        client,
    }
}

fn on(fixture: &Fixture, service: &str) -> Mesh {
    let builder = fixture.builder(service);
    let mesh = builder.telemetry(TelemetryOptions::default()).build();
    mesh.unwrap()
}

/// Each series: its labels, and its count and sum (a counter: its value, twice).
fn series(mesh: &Mesh, instrument: &'static Instrument) -> BTreeMap<String, (u64, f64)> {
    let mut all = BTreeMap::new();
    mesh.telemetry().read(instrument, |labels, reading| {
        let reading = match reading {
            Reading::Number(n) => (u64::try_from(n).unwrap(), 0.0),
            Reading::Histogram(histogram) => (histogram.counts().iter().sum(), histogram.sum()),
        };
        assert_eq!(labels.len(), instrument.labels.len());
        all.insert(labels.join(" "), reading);
    });
    all
}

/// The counts alone.
fn counts(mesh: &Mesh, instrument: &'static Instrument) -> Vec<(String, u64)> {
    let all = series(mesh, instrument).into_iter();
    all.map(|(labels, (count, _))| (labels, count)).collect()
}

fn one(labels: &str, count: u64) -> Vec<(String, u64)> {
    vec![(labels.to_owned(), count)]
}

/// The sum of the only series there is.
fn sum(mesh: &Mesh, instrument: &'static Instrument) -> f64 {
    let all = series(mesh, instrument);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_values().next().unwrap().1
}

/// Waits until an instrument's series are as wanted: the other end of a call hears of its end
/// a little later.
async fn comes(mesh: &Mesh, instrument: &'static Instrument, wanted: &[(String, u64)]) {
    let there = async {
        while counts(mesh, instrument) != wanted {
            tokio::task::yield_now().await;
        }
    };
    let there = tokio::time::timeout(PATIENCE, there).await;
    there.unwrap_or_else(|_| panic!("{wanted:?} of {:?}", counts(mesh, instrument)));
}

fn payload(size: usize) -> Option<Payload> {
    Some(Payload {
        body: vec![1; size],
        ..Payload::default()
    })
}

#[allow(clippy::cast_precision_loss, reason = "sizes of test messages")]
fn size(messages: &[&dyn Size]) -> f64 {
    messages.iter().map(|m| m.size()).sum::<usize>() as f64
}

trait Size {
    fn size(&self) -> usize;
}

impl<M: prost::Message> Size for M {
    fn size(&self) -> usize {
        self.encoded_len()
    }
}

#[tokio::test]
async fn a_call_counts_once_on_either_side() {
    let mut o = observed(Faults::default(), "").await;
    o.client = TestServiceClient::new(wait_for_ready(&o.clients));
    call(&mut o.client).await.unwrap();
    let before = series(&o.clients, &CLIENT_CALL_DURATION);
    for _ in 0..3 {
        call(&mut o.client).await.unwrap();
    }
    let attempts = o.backend.testing.calls();
    let method = format!("{UNARY} {TARGET}");
    assert_eq!(
        counts(&o.clients, &CLIENT_ATTEMPT_STARTED),
        one(&method, attempts)
    );
    assert_eq!(
        counts(&o.clients, &CLIENT_ATTEMPT_DURATION),
        one(&format!("{method} OK  greeter"), attempts)
    );
    let ok = format!("{method} OK");
    assert_eq!(
        series(&o.clients, &CLIENT_CALL_DURATION)[&ok].0 - before[&ok].0,
        3
    );
    assert!(series(&o.clients, &CLIENT_CALL_DURATION)[&ok].1 > 0.0);
    for retries in [
        &CLIENT_CALL_RETRIES,
        &CLIENT_CALL_TRANSPARENT_RETRIES,
        &CLIENT_CALL_RETRY_DELAY,
    ] {
        assert_eq!(counts(&o.clients, retries), [], "{}", retries.name);
    }
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_STARTED),
        one(UNARY, attempts)
    );
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_DURATION),
        one(&format!("{UNARY} OK"), attempts)
    );
    assert_eq!(counts(&o.servers, &CLIENT_CALL_DURATION), []);
    assert_eq!(counts(&o.clients, &SERVER_CALL_DURATION), []);
}

#[tokio::test]
async fn sizes_are_those_of_the_messages() {
    let mut o = observed(Faults::default(), "").await;
    o.client = TestServiceClient::new(wait_for_ready(&o.clients));
    let request = SimpleRequest {
        payload: payload(5000),
        response_size: 70_000,
        ..SimpleRequest::default()
    };
    let answer: SimpleResponse = o
        .client
        .unary_call(request.clone())
        .await
        .unwrap()
        .into_inner();
    let (sent, received) = (size(&[&request]), size(&[&answer]));
    assert_eq!(sum(&o.clients, &CLIENT_ATTEMPT_SENT), sent);
    assert_eq!(sum(&o.clients, &CLIENT_ATTEMPT_RCVD), received);
    assert_eq!(sum(&o.servers, &SERVER_CALL_RCVD), sent);
    assert_eq!(sum(&o.servers, &SERVER_CALL_SENT), received);
}

/// A channel whose calls wait for the server instead of failing while it is not there yet.
fn wait_for_ready(mesh: &Mesh) -> Channel {
    mesh.channel(TARGET).unwrap().wait_for_ready(true)
}

#[tokio::test]
async fn sizes_of_streams_are_those_of_all_their_messages() {
    let o = observed(Faults::default(), "").await;
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));

    let requests = [1000, 0, 70_000].map(|size| StreamingInputCallRequest {
        payload: payload(size),
        ..StreamingInputCallRequest::default()
    });
    let sent = stream::iter(requests.clone());
    let answer: StreamingInputCallResponse = client
        .streaming_input_call(sent)
        .await
        .unwrap()
        .into_inner();
    let method = "grpc.testing.TestService/StreamingInputCall";
    let sent = requests.each_ref().map(|m| m as &dyn Size);
    let expected = (1, size(&sent));
    let ok = format!("{method} {TARGET} OK  greeter");
    assert_eq!(series(&o.clients, &CLIENT_ATTEMPT_SENT)[&ok], expected);
    assert_eq!(
        series(&o.clients, &CLIENT_ATTEMPT_RCVD)[&ok],
        (1, size(&[&answer]))
    );
    let ok = format!("{method} OK");
    assert_eq!(series(&o.servers, &SERVER_CALL_RCVD)[&ok], expected);

    let request = StreamingOutputCallRequest {
        response_parameters: [500, 40_000]
            .map(|size| ResponseParameters {
                size,
                ..ResponseParameters::default()
            })
            .to_vec(),
        ..StreamingOutputCallRequest::default()
    };
    let requests = stream::iter([request.clone(), request.clone()]);
    let mut answers = client
        .full_duplex_call(requests)
        .await
        .unwrap()
        .into_inner();
    let mut received = Vec::<StreamingOutputCallResponse>::new();
    while let Some(answer) = answers.message().await.unwrap() {
        received.push(answer);
    }
    assert_eq!(received.len(), 4);
    let received: Vec<&dyn Size> = received.iter().map(|m| m as &dyn Size).collect();
    let ok = format!("grpc.testing.TestService/FullDuplexCall {TARGET} OK  greeter");
    assert_eq!(
        series(&o.clients, &CLIENT_ATTEMPT_SENT)[&ok],
        (1, size(&[&request, &request]))
    );
    assert_eq!(
        series(&o.clients, &CLIENT_ATTEMPT_RCVD)[&ok],
        (1, size(&received))
    );
}

#[tokio::test]
async fn the_servers_status_is_the_label() {
    let o = observed(Faults::default(), "").await;
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));
    let status = |code: Code| SimpleRequest {
        response_status: Some(EchoStatus {
            code: code.into(),
            message: String::new(),
        }),
        ..SimpleRequest::default()
    };
    let failed = client.unary_call(status(Code::DataLoss)).await.unwrap_err();
    assert_eq!(failed.code(), Code::DataLoss);
    let failed = format!("{UNARY} {TARGET} DATA_LOSS");
    assert_eq!(counts(&o.clients, &CLIENT_CALL_DURATION), one(&failed, 1));
    assert_eq!(
        counts(&o.clients, &CLIENT_ATTEMPT_DURATION),
        one(&format!("{failed}  greeter"), 1)
    );
    // No handler of it has begun a reply yet, so it might be made up.
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_DURATION),
        one("other DATA_LOSS", 1)
    );
    client.unary_call(SimpleRequest::default()).await.unwrap();
    client.unary_call(status(Code::DataLoss)).await.unwrap_err();
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_DURATION),
        [
            (format!("{UNARY} DATA_LOSS"), 1),
            (format!("{UNARY} OK"), 1),
            ("other DATA_LOSS".to_owned(), 1)
        ]
    );
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_STARTED),
        [(UNARY.to_owned(), 2), ("other".to_owned(), 1)]
    );
}

#[tokio::test]
async fn a_stream_that_fails_after_messages_counts_its_trailers_status() {
    let o = observed(Faults::default(), "").await;
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));
    let request = StreamingOutputCallRequest {
        response_parameters: vec![ResponseParameters::default()],
        response_status: Some(EchoStatus {
            code: Code::Aborted.into(),
            message: String::new(),
        }),
        ..StreamingOutputCallRequest::default()
    };
    let answers = client.streaming_output_call(request).await.unwrap();
    let mut answers = answers.into_inner();
    answers.message().await.unwrap().unwrap();
    assert_eq!(counts(&o.clients, &CLIENT_CALL_DURATION), []);
    answers.message().await.unwrap_err();
    let method = "grpc.testing.TestService/StreamingOutputCall";
    assert_eq!(
        counts(&o.clients, &CLIENT_CALL_DURATION),
        one(&format!("{method} {TARGET} ABORTED"), 1)
    );
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_DURATION),
        one(&format!("{method} ABORTED"), 1)
    );
}

#[tokio::test]
async fn a_stream_that_the_caller_drops_is_cancelled_on_both_sides() {
    let o = observed(Faults::default(), "").await;
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));
    let (requests, receiver) = tokio::sync::mpsc::channel(4);
    let parameters = vec![ResponseParameters::default()];
    let request = StreamingOutputCallRequest {
        response_parameters: parameters,
        ..StreamingOutputCallRequest::default()
    };
    requests.send(request).await.unwrap();
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client
        .full_duplex_call(receiver)
        .await
        .unwrap()
        .into_inner();
    answers.message().await.unwrap().unwrap();
    drop(answers);
    let method = "grpc.testing.TestService/FullDuplexCall";
    assert_eq!(
        counts(&o.clients, &CLIENT_CALL_DURATION),
        one(&format!("{method} {TARGET} CANCELLED"), 1)
    );
    let server = one(&format!("{method} CANCELLED"), 1);
    comes(&o.servers, &SERVER_CALL_DURATION, &server).await;
    drop(requests);
}

#[tokio::test]
async fn a_call_that_the_caller_drops_or_lets_run_out_counts_so() {
    let address = silent_backend().await;
    let fixture = Fixture::start(&plain_mesh(&[&address])).await;
    let clients = on(&fixture, "web");
    let mut client = TestServiceClient::new(clients.channel(TARGET).unwrap());
    clients.ready().await;

    let mut late = Request::new(SimpleRequest::default());
    late.set_timeout(Duration::from_millis(30));
    let late = client.unary_call(late).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    {
        let dropped = client.unary_call(SimpleRequest::default());
        let first = tokio::time::timeout(Duration::from_millis(30), dropped).await;
        assert!(first.is_err(), "the server is silent");
    }
    let method = format!("{UNARY} {TARGET}");
    let both = |rest: &str| {
        vec![
            (format!("{method} CANCELLED{rest}"), 1),
            (format!("{method} DEADLINE_EXCEEDED{rest}"), 1),
        ]
    };
    assert_eq!(counts(&clients, &CLIENT_CALL_DURATION), both(""));
    let ended = both("  greeter");
    assert_eq!(counts(&clients, &CLIENT_ATTEMPT_DURATION), ended);
    assert_eq!(counts(&clients, &CLIENT_ATTEMPT_STARTED), one(&method, 2));
}

#[tokio::test]
async fn the_wait_for_the_configuration_belongs_to_the_call_alone() {
    let o = observed(Faults::default(), "").await;
    let mut ready = TestServiceClient::new(o.fixture.mesh("web").channel(TARGET).unwrap());
    until(&mut ready, Result::is_ok).await.unwrap();
    // The first call of this process: nothing was heard from the control plane yet.
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));
    call(&mut client).await.unwrap();
    let whole = sum(&o.clients, &CLIENT_CALL_DURATION);
    let attempt = sum(&o.clients, &CLIENT_ATTEMPT_DURATION);
    assert!(attempt < whole, "{attempt} of {whole}");
    // The next waits for nothing: call and attempt begin and end together.
    call(&mut client).await.unwrap();
    let whole = sum(&o.clients, &CLIENT_CALL_DURATION) - whole;
    let attempt = sum(&o.clients, &CLIENT_ATTEMPT_DURATION) - attempt;
    assert!((whole - attempt).abs() < 1e-9, "{attempt} of {whole}");
}

/// Not gRPC: what is counted is what the HTTP status stands for.
#[tokio::test]
async fn plain_http_counts_by_its_http_status() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = on(&fixture, "greeter");
    let page = |request: http::Request<tonic::body::Body>| async move {
        let status = match request.uri().path() {
            "/there" => 200,
            _ => 404,
        };
        let body = http_body_util::Full::new(bytes::Bytes::from_static(b"page"));
        let reply = Response::builder().status(status).body(body);
        Ok::<_, std::convert::Infallible>(reply.unwrap())
    };
    let server = servers.server("127.0.0.1:0");
    let server = server.layer(tower::layer::layer_fn(move |_| tower::service_fn(page)));
    let bound = server.bind().unwrap();
    fixture.push(&plain_mesh(&[&bound.address().to_string()]));
    tokio::spawn(bound.serve());
    let clients = on(&fixture, "web");
    let mut channel = wait_for_ready(&clients);
    for path in ["/there", "/not-there"] {
        let request = http::Request::get(path).body(http_body_util::Empty::new());
        let reply = tower::Service::call(&mut channel, request.unwrap()).await;
        let body = http_body_util::BodyExt::collect(reply.unwrap().into_body()).await;
        assert_eq!(body.unwrap().to_bytes(), "page");
    }
    assert_eq!(
        counts(&clients, &CLIENT_CALL_DURATION),
        [
            (format!("other {TARGET} OK"), 1),
            (format!("other {TARGET} UNIMPLEMENTED"), 1)
        ]
    );
    assert_eq!(
        counts(&servers, &SERVER_CALL_DURATION),
        [
            ("other OK".to_owned(), 1),
            ("other UNIMPLEMENTED".to_owned(), 1)
        ]
    );
}

#[tokio::test]
async fn retries_are_attempts_of_one_call() {
    let faults = Faults {
        fail_attempts_below: 2,
        ..Faults::default()
    };
    let keys = "routes:
  - match: {method: \"grpc.testing.TestService/*\"}
    retry: {max_attempts: 3, on: [unavailable]}";
    let mut o = observed(faults, keys).await;
    o.client = TestServiceClient::new(wait_for_ready(&o.clients));
    assert_eq!(call(&mut o.client).await.unwrap().attempts, 3);
    let method = format!("{UNARY} {TARGET}");
    assert_eq!(counts(&o.clients, &CLIENT_ATTEMPT_STARTED), one(&method, 3));
    assert_eq!(
        counts(&o.clients, &CLIENT_ATTEMPT_DURATION),
        [
            (format!("{method} OK  greeter"), 1),
            (format!("{method} UNAVAILABLE  greeter"), 2)
        ]
    );
    assert_eq!(
        counts(&o.clients, &CLIENT_CALL_DURATION),
        one(&format!("{method} OK"), 1)
    );
    let retries = series(&o.clients, &CLIENT_CALL_RETRIES);
    assert_eq!(retries[&method], (1, 2.0));
    assert_eq!(counts(&o.clients, &CLIENT_CALL_TRANSPARENT_RETRIES), []);
    let (calls, delay) = series(&o.clients, &CLIENT_CALL_RETRY_DELAY)[&method];
    assert_eq!(calls, 1);
    let whole = series(&o.clients, &CLIENT_CALL_DURATION)[&format!("{method} OK")].1;
    assert!(delay > 0.0 && delay < whole, "{delay} of {whole}");
}

#[tokio::test]
async fn a_stream_that_the_server_refused_is_a_transparent_retry() {
    let address = refuses_the_first().await;
    let fixture = Fixture::start(&plain_mesh(&[&address])).await;
    let clients = on(&fixture, "web");
    let mut client = TestServiceClient::new(wait_for_ready(&clients));
    client.empty_call(Empty {}).await.unwrap();
    let method = format!("grpc.testing.TestService/EmptyCall {TARGET}");
    assert_eq!(counts(&clients, &CLIENT_ATTEMPT_STARTED), one(&method, 2));
    assert_eq!(
        counts(&clients, &CLIENT_ATTEMPT_DURATION),
        [
            (format!("{method} OK  greeter"), 1),
            (format!("{method} UNAVAILABLE  greeter"), 1)
        ]
    );
    let transparent = series(&clients, &CLIENT_CALL_TRANSPARENT_RETRIES);
    assert_eq!(transparent[&method], (1, 1.0));
    assert_eq!(counts(&clients, &CLIENT_CALL_RETRIES), []);
    assert_eq!(
        counts(&clients, &CLIENT_CALL_DURATION),
        one(&format!("{method} OK"), 1)
    );
}

/// A server that refuses the first stream and answers the others with an empty message.
async fn refuses_the_first() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let mut refused = false;
        while let Some(Ok((_request, mut reply))) = connection.accept().await {
            if !std::mem::replace(&mut refused, true) {
                reply.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            let head = Response::builder().header("content-type", "application/grpc");
            let mut body = reply.send_response(head.body(()).unwrap(), false).unwrap();
            body.send_data(vec![0; 5].into(), false).unwrap();
            let ok = [(
                http::HeaderName::from_static("grpc-status"),
                http::HeaderValue::from_static("0"),
            )];
            body.send_trailers(http::HeaderMap::from_iter(ok)).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_call_without_an_endpoint_has_an_attempt_and_one_without_a_route_none() {
    let closed = sidestep_tests::fixture::unused_address();
    let fixture = Fixture::start(&plain_mesh(&[&closed])).await;
    let clients = on(&fixture, "web");
    let mut client = TestServiceClient::new(clients.channel(TARGET).unwrap());
    let failed = call(&mut client).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    let method = format!("{UNARY} {TARGET}");
    assert_eq!(
        counts(&clients, &CLIENT_ATTEMPT_DURATION),
        one(&format!("{method} UNAVAILABLE  greeter"), 1)
    );

    let mut nobody = TestServiceClient::new(clients.channel("xds:///nobody").unwrap());
    let failed = call(&mut nobody).await.unwrap_err();
    assert_eq!(failed.code(), Code::Unavailable);
    let calls = counts(&clients, &CLIENT_CALL_DURATION);
    assert_eq!(
        calls,
        [
            (format!("{method} UNAVAILABLE"), 1),
            (format!("{UNARY} xds:///nobody UNAVAILABLE"), 1)
        ]
    );
    assert_eq!(counts(&clients, &CLIENT_ATTEMPT_STARTED), one(&method, 1));
}

#[tokio::test]
async fn an_attempt_is_labelled_with_its_locality() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let backend = Backend::start(&fixture.mesh("greeter"), "a", Faults::default());
    fixture.push(&plain_mesh(&[&backend.address]));
    until(&mut fixture.client(TARGET), Result::is_ok)
        .await
        .unwrap();
    let zoned = raw::assignment("zoned", &[(0, 1, &backend.address)], &[]);
    let resources = RawResources::unchecked(raw::service("zoned", zoned)).unwrap();
    let plane = Fixture::raw(resources).await;
    let clients = on(&plane, "web");
    let channel = clients.channel("xds:///zoned").unwrap();
    let mut client = TestServiceClient::new(channel.wait_for_ready(true));
    call(&mut client).await.unwrap();
    let zone = r#"{region="", zone="zone-0", sub_zone=""}"#;
    assert_eq!(
        counts(&clients, &CLIENT_ATTEMPT_DURATION),
        one(&format!("{UNARY} xds:///zoned OK {zone} zoned"), 1)
    );
    let text = clients.telemetry().prometheus_text();
    let zone = r#"grpc_lb_locality="{region=\"\", zone=\"zone-0\", sub_zone=\"\"}""#;
    assert!(text.contains(zone), "{text}");
}

/// One call of a method by its path alone, as a generic client makes it.
async fn generic(channel: Channel, path: &'static str) -> Code {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Empty, Empty>::default();
    let path = PathAndQuery::from_static(path);
    let outcome = grpc.unary(Request::new(Empty {}), path, codec).await;
    outcome.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn what_nobody_registered_counts_as_other() {
    let o = observed(Faults::default(), "").await;
    let channel = wait_for_ready(&o.clients);
    let paths = [
        "/grpc.testing.TestService/MadeUp",
        "/made.Up/AsWell",
        "/grpc.testing.TestService/EmptyCall",
    ];
    let mut codes = Vec::new();
    for path in paths {
        codes.push(generic(channel.clone(), path).await);
    }
    assert_eq!(codes, [Code::Unimplemented, Code::Unimplemented, Code::Ok]);
    assert_eq!(
        counts(&o.clients, &CLIENT_ATTEMPT_STARTED),
        one(&format!("other {TARGET}"), 3)
    );
    assert_eq!(
        counts(&o.servers, &SERVER_CALL_STARTED),
        [
            ("grpc.testing.TestService/EmptyCall".to_owned(), 1),
            ("other".to_owned(), 2)
        ]
    );
}

#[tokio::test]
async fn names_are_recorded_or_hidden_as_the_options_say() {
    let o = observed(Faults::default(), "").await;
    let options = TelemetryOptions::default()
        .record_method(|method| method.starts_with("grpc.testing."))
        .record_target(|target| target != TARGET);
    let clients = o.fixture.builder("web").telemetry(options).build().unwrap();
    let channel = wait_for_ready(&clients);
    generic(channel.clone(), "/grpc.testing.TestService/EmptyCall").await;
    generic(channel, "/made.Up/AsWell").await;
    assert_eq!(
        counts(&clients, &CLIENT_ATTEMPT_STARTED),
        [
            ("grpc.testing.TestService/EmptyCall other".to_owned(), 1),
            ("other other".to_owned(), 1)
        ]
    );
}

#[tokio::test]
async fn off_means_that_nothing_is_counted_until_it_is_turned_on() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backend = Backend::start(&servers, "a", Faults::default());
    fixture.push(&plain_mesh(&[&backend.address]));
    let clients = fixture.mesh("web");
    let mut client = TestServiceClient::new(wait_for_ready(&clients));
    call(&mut client).await.unwrap();
    for mesh in [&clients, &servers] {
        assert!(!mesh.telemetry().on());
        let text = mesh.telemetry().prometheus_text();
        let calls = text
            .lines()
            .find(|line| line.contains("grpc_client_") || line.contains("grpc_server_"));
        assert_eq!(calls, None);
    }
    clients.telemetry().turn_on();
    call(&mut client).await.unwrap();
    let ok = one(&format!("{UNARY} {TARGET} OK"), 1);
    assert_eq!(counts(&clients, &CLIENT_CALL_DURATION), ok);
    clients.telemetry().turn_off();
    call(&mut client).await.unwrap();
    assert_eq!(counts(&clients, &CLIENT_CALL_DURATION), ok);
}

#[tokio::test]
async fn the_prometheus_text_parses_and_says_what_was_counted() {
    let o = observed(Faults::default(), "").await;
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));
    for _ in 0..2 {
        call(&mut client).await.unwrap();
    }
    let text = o.clients.telemetry().prometheus_text();
    let parsed = Exposition::parse(&text);
    let labels = format!(r#"grpc_method="{UNARY}",grpc_target="{TARGET}""#);
    assert_eq!(
        parsed.samples[&format!("grpc_client_attempt_started_total{{{labels}}}")],
        2.0
    );
    let ok = format!(r#"{labels},grpc_status="OK""#);
    let duration = "grpc_client_call_duration_seconds";
    assert_eq!(parsed.kinds[duration], "histogram");
    assert_eq!(parsed.kinds["grpc_client_attempt_started"], "counter");
    assert_eq!(parsed.samples[&format!("{duration}_count{{{ok}}}")], 2.0);
    let buckets: Vec<f64> = (parsed.samples.iter())
        .filter(|(name, _)| name.starts_with(&format!("{duration}_bucket{{")))
        .map(|(_, n)| *n)
        .collect();
    assert_eq!(buckets.len(), 42, "41 bounds and infinity");
    let all = format!(r#"{duration}_bucket{{le="+Inf",{ok}}}"#);
    assert_eq!(parsed.samples[&all], 2.0);
    let sent =
        r#"grpc_client_attempt_sent_total_compressed_message_size_bytes_bucket{le="1024.0","#;
    let lb = r#"grpc_lb_locality="",grpc_lb_backend_service="greeter""#;
    assert_eq!(parsed.samples[&format!("{sent}{ok},{lb}}}")], 2.0);

    let server = Exposition::parse(&o.servers.telemetry().prometheus_text());
    let ok = format!(r#"grpc_method="{UNARY}",grpc_status="OK""#);
    let count = format!("grpc_server_call_duration_seconds_count{{{ok}}}");
    assert_eq!(server.samples[&count], 2.0);
}

#[tokio::test]
async fn a_registry_of_the_applications_own_takes_the_metrics() {
    let o = observed(Faults::default(), "").await;
    let mut client = TestServiceClient::new(wait_for_ready(&o.clients));
    call(&mut client).await.unwrap();
    let mut registry = prometheus_client::registry::Registry::with_prefix("app");
    registry.register_collector(Box::new(o.clients.telemetry().clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let started = Exposition::parse(&text);
    let labels = format!(r#"grpc_method="{UNARY}",grpc_target="{TARGET}""#);
    let started = started.samples[&format!("app_grpc_client_attempt_started_total{{{labels}}}")];
    assert_eq!(started, 1.0);
}

#[tokio::test]
async fn an_opentelemetry_meter_gets_the_same() {
    let exporter = InMemoryMetricExporter::default();
    let reader = PeriodicReader::builder(exporter.clone()).build();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    let o = observed(Faults::default(), "").await;
    let options = TelemetryOptions::default().opentelemetry(&provider);
    let clients = o.fixture.builder("web").telemetry(options).build().unwrap();
    let mut client = TestServiceClient::new(wait_for_ready(&clients));
    for _ in 0..2 {
        call(&mut client).await.unwrap();
    }
    provider.force_flush().unwrap();
    let finished = exporter.get_finished_metrics().unwrap();
    let metrics = finished.iter().flat_map(|m| m.scope_metrics());
    let metrics = metrics.flat_map(|scope| scope.metrics());
    let mut names = Vec::new();
    for metric in metrics.filter(|metric| metric.name().starts_with("grpc.client.")) {
        names.push(metric.name());
        if let AggregatedMetrics::F64(MetricData::Histogram(durations)) = metric.data() {
            let points: Vec<_> = durations.data_points().collect();
            assert_eq!(
                (points.len(), points[0].count()),
                (1, 2),
                "{}",
                metric.name()
            );
            let mut attributes = points[0].attributes();
            let status = attributes.find(|kv| kv.key.as_str() == "grpc.status");
            assert_eq!(status.unwrap().value.as_str(), "OK");
            assert_eq!(points[0].bounds().count(), 41);
        }
    }
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "grpc.client.attempt.duration",
            "grpc.client.attempt.rcvd_total_compressed_message_size",
            "grpc.client.attempt.sent_total_compressed_message_size",
            "grpc.client.attempt.started",
            "grpc.client.call.duration",
        ]
    );
}

/// OpenMetrics text, read strictly: each family is described once and before its samples, and
/// no sample comes twice.
#[derive(Default)]
struct Exposition {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Exposition {
    fn parse(text: &str) -> Self {
        let mut all = Self::default();
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        let mut family = String::new();
        for line in body.lines() {
            if let Some(described) = line.strip_prefix("# ") {
                let mut words = described.splitn(3, ' ');
                let (what, name) = (words.next().unwrap(), words.next().unwrap());
                let rest = words.next().expect("a value");
                match what {
                    "TYPE" => {
                        let known = all.kinds.insert(name.to_owned(), rest.to_owned());
                        assert_eq!(known, None, "{name} is described twice");
                    }
                    "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                    "HELP" => {}
                    other => panic!("{other}?"),
                }
                family = name.to_owned();
                continue;
            }
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(name.starts_with(&family), "{name} in {family}");
            let value = value.parse().expect("a number");
            let known = all.samples.insert(name.to_owned(), value);
            assert_eq!(known, None, "{name} comes twice");
        }
        all
    }
}
