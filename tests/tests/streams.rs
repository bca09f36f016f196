//! All four kinds of calls through the channel, with everything that tonic's own channel allows.

use std::time::Duration;

use futures_util::StreamExt as _;
use sidestep::{Authority, CallInfo, Channel};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_interop::testing::{
    EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputCallRequest,
    StreamingOutputCallRequest,
};
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

const BIG: usize = 16 << 20;

async fn one_backend() -> (Fixture, Backend, TestServiceClient<Channel>) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let testing = Testing::new("a", Faults::default());
    let service = TestServiceServer::new(testing.clone()).max_decoding_message_size(BIG * 2);
    let server = fixture.mesh("greeter").server("127.0.0.1:0");
    let backend = Backend::serve(server.add_service(service), testing);
    fixture.push(&plain_mesh(&[&backend.address]));
    let client = fixture.client("xds:///greeter");
    (fixture, backend, client)
}

fn payload(size: usize) -> Option<Payload> {
    Some(Payload {
        body: vec![1; size],
        ..Payload::default()
    })
}

/// Asks for one answer of each of these sizes.
fn asking(sizes: &[i32]) -> StreamingOutputCallRequest {
    let parameters = sizes.iter().map(|size| ResponseParameters {
        size: *size,
        ..ResponseParameters::default()
    });
    StreamingOutputCallRequest {
        response_parameters: parameters.collect(),
        ..StreamingOutputCallRequest::default()
    }
}

#[tokio::test]
async fn all_kinds_of_calls_are_answered() {
    let (_fixture, backend, mut client) = one_backend().await;
    client.empty_call(Empty {}).await.unwrap();

    let request = SimpleRequest {
        response_size: 10,
        ..SimpleRequest::default()
    };
    let answer = client.unary_call(request).await.unwrap();
    assert_eq!(answer.get_ref().payload.as_ref().unwrap().body.len(), 10);
    let info = answer.extensions().get::<CallInfo>().unwrap();
    assert_eq!((&*info.endpoint, info.attempts), (&*backend.address, 1));

    let messages = [100, 0, 28].map(|size| StreamingInputCallRequest {
        payload: payload(size),
        ..StreamingInputCallRequest::default()
    });
    let answer = client
        .streaming_input_call(futures_util::stream::iter(messages))
        .await
        .unwrap();
    assert_eq!(answer.get_ref().aggregated_payload_size, 128);

    let answers = client.streaming_output_call(asking(&[1, 0, 70_000])).await;
    let answers = answers.unwrap().into_inner();
    let sizes = answers.map(|answer| answer.unwrap().payload.unwrap().body.len());
    assert_eq!(sizes.collect::<Vec<_>>().await, [1, 0, 70_000]);
}

#[tokio::test]
async fn both_directions_of_a_call_take_turns() {
    let (_fixture, _backend, mut client) = one_backend().await;
    let (sender, requests) = mpsc::channel(1);
    let answers = client.full_duplex_call(ReceiverStream::new(requests)).await;
    let mut answers = answers.unwrap().into_inner();
    for size in [5, 100_000, 1] {
        sender.send(asking(&[size])).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.payload.unwrap().body.len(), size as usize);
    }
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_status_in_the_middle_of_a_stream_arrives_after_its_messages() {
    let (_fixture, _backend, mut client) = one_backend().await;
    let mut request = asking(&[7]);
    request.response_status = Some(EchoStatus {
        code: Code::DataLoss as i32,
        message: "100 % lost, naïvely".to_owned(),
    });
    let answers = client.streaming_output_call(request).await.unwrap();
    let mut answers = answers.into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    assert_eq!(status.message(), "100 % lost, naïvely");
    assert!(!sidestep::CallError::made_here(&status));
}

#[tokio::test]
async fn dropping_a_call_resets_it_at_the_server() {
    let (_fixture, _backend, mut client) = one_backend().await;
    let (sender, requests) = mpsc::channel(1);
    let answers = client.full_duplex_call(ReceiverStream::new(requests)).await;
    drop(answers.unwrap());
    // The pump of the request body ends, and with it the receiver of our messages.
    let gone = tokio::time::timeout(sidestep_tests::load::PATIENCE, sender.closed());
    gone.await.expect("nobody sends what nobody waits for");
    client.empty_call(Empty {}).await.unwrap();
}

#[tokio::test]
async fn big_messages_pass_both_ways() {
    let (_fixture, _backend, client) = one_backend().await;
    let mut client = client.max_decoding_message_size(BIG * 2);
    let request = SimpleRequest {
        response_size: BIG as i32,
        payload: payload(BIG),
        ..SimpleRequest::default()
    };
    let answer = client.unary_call(request).await.unwrap();
    assert_eq!(answer.get_ref().payload.as_ref().unwrap().body.len(), BIG);
}

#[tokio::test]
async fn interceptors_and_tower_layers_go_around_the_channel() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let testing = Testing::new("a", Faults::default());
    let check = |request: Request<()>| match request.metadata().get("x-token") {
        Some(token) if token == "secret" => Ok(request),
        _ => Err(Status::unauthenticated("no token")),
    };
    let service = TestServiceServer::with_interceptor(testing.clone(), check);
    let server = fixture.mesh("greeter").server("127.0.0.1:0");
    let backend = Backend::serve(server.add_service(service), testing);
    fixture.push(&plain_mesh(&[&backend.address]));
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();

    let mut bare = TestServiceClient::new(channel.clone());
    let status = bare.empty_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let authorize = |mut request: Request<()>| {
        let token = "secret".parse().expect("ASCII");
        request.metadata_mut().insert("x-token", token);
        Ok(request)
    };
    let mut intercepted = TestServiceClient::with_interceptor(channel.clone(), authorize);
    intercepted.empty_call(Empty {}).await.unwrap();

    let layered = tower::ServiceBuilder::new()
        .map_request(|mut request: http::Request<tonic::body::Body>| {
            let token = http::HeaderValue::from_static("secret");
            request.headers_mut().insert("x-token", token);
            request
        })
        .service(channel);
    let mut layered = TestServiceClient::new(layered);
    layered.empty_call(Empty {}).await.unwrap();
}

#[tokio::test]
async fn a_call_may_say_another_authority() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let testing = Testing::new("a", Faults::default());
    let note = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
        let authority = request.uri().authority().map(ToString::to_string);
        _ = tell.send(authority.unwrap_or_default());
        request
    });
    let bound = fixture
        .mesh("greeter")
        .server("127.0.0.1:0")
        .add_service(TestServiceServer::new(testing))
        .layer(note)
        .bind()
        .unwrap();
    fixture.push(&plain_mesh(&[&bound.address().to_string()]));
    let serving = tokio::spawn(bound.serve());
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    channel.ready().await;
    let mut client = TestServiceClient::new(channel.clone());
    client.empty_call(Empty {}).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), "greeter");

    let mut request = Request::new(Empty {});
    let other = http::uri::Authority::from_static("one-call.example");
    request.extensions_mut().insert(Authority(other));
    client.empty_call(request).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), "one-call.example");

    let every = http::uri::Authority::from_static("every-call.example");
    let mut client = TestServiceClient::new(channel.authority(every));
    client.empty_call(Empty {}).await.unwrap();
    assert_eq!(told.recv().await.unwrap(), "every-call.example");
    serving.abort();
}

#[tokio::test]
async fn a_deadline_ends_a_stream_that_is_open() {
    let (_fixture, _backend, mut client) = one_backend().await;
    let (sender, requests) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(requests));
    request.set_timeout(Duration::from_millis(300));
    let mut answers = client.full_duplex_call(request).await.unwrap().into_inner();
    sender.send(asking(&[1])).await.unwrap();
    assert!(answers.message().await.unwrap().is_some());
    let end = tokio::time::timeout(sidestep_tests::load::PATIENCE, answers.message());
    let status = end.await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}
