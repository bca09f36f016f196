//! The meshed server: what callers notice of its end, of its limits and of changed configuration.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sidestep::{Channel, Mesh, ServerMode};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_interop::testing::{
    Empty, ResponseParameters, SimpleRequest, StreamingOutputCallRequest,
};
use sidestep_tests::fixture::{
    Authority, Backend, Fixture, mesh_file, plain_mesh, secured, spiffe, unused_address,
};
use sidestep_tests::load::{Load, PATIENCE, call, until};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

type Client = TestServiceClient<Channel>;

async fn backends<const N: usize>(ids: [&str; N]) -> (Fixture, Mesh, [Backend; N]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ids.map(|id| Backend::start(&servers, id, Faults::default()));
    let addresses = backends.each_ref().map(|backend| backend.address.as_str());
    fixture.push(&plain_mesh(&addresses));
    (fixture, servers, backends)
}

async fn until_server(client: &mut Client, id: &str) {
    until(client, |o| o.as_ref().is_ok_and(|a| a.server == id))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_drains_without_a_failed_call() {
    let (fixture, _servers, [a, b]) = backends(["a", "b"]).await;
    let mut client = fixture.client("xds:///greeter");
    until_server(&mut client, "a").await;
    until_server(&mut client, "b").await;
    let load = Load::start(&client, 8).await;
    load.further(200).await;
    // Still named by the mesh: nobody tells the clients but the server itself.
    a.shutdown().await;
    load.further(200).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_all_backends_fails_no_call() {
    let (fixture, servers, backends) = backends(["old-0", "old-1", "old-2"]).await;
    let mut client = fixture.client("xds:///greeter");
    for n in 0..3 {
        until_server(&mut client, &format!("old-{n}")).await;
    }
    let load = Load::start(&client, 8).await;
    load.further(200).await;
    let mut restarted = Vec::new();
    for (n, backend) in backends.into_iter().enumerate() {
        let address = backend.address.clone();
        backend.shutdown().await;
        let id = format!("new-{n}");
        restarted.push(Backend::start_at(
            &servers,
            &address,
            &id,
            Faults::default(),
        ));
        until_server(&mut client, &id).await;
        load.further(50).await;
    }
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
    assert_eq!(tally.by_server.len(), 6, "{:?}", tally.by_server);
}

#[tokio::test]
async fn a_stream_that_is_open_at_the_shutdown_is_finished() {
    let (fixture, _servers, [a]) = backends(["a"]).await;
    let mut client = fixture.client("xds:///greeter");
    let (sender, requests) = mpsc::channel(1);
    let open = client.full_duplex_call(ReceiverStream::new(requests)).await;
    let mut answers = open.unwrap().into_inner();
    let shutdown = tokio::spawn(a.shutdown());
    // The server is draining once it takes no further call.
    until(&mut client, Result::is_err).await.unwrap_err();
    let one = StreamingOutputCallRequest {
        response_parameters: vec![ResponseParameters {
            size: 3,
            ..ResponseParameters::default()
        }],
        ..StreamingOutputCallRequest::default()
    };
    sender.send(one).await.unwrap();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.payload.unwrap().body.len(), 3);
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
    tokio::time::timeout(PATIENCE, shutdown)
        .await
        .expect("it ends with its last call")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_listener_drains_its_connections() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "permissive")).await;
    let process = |service: &str| {
        let provider = authority.provider(&spiffe(service));
        let builder = fixture.builder(service);
        builder
            .certificate_provider("default", provider)
            .build()
            .unwrap()
    };
    let servers = process("greeter");
    let testing = Testing::new("a", Faults::default());
    let server = servers
        .server("127.0.0.1:0")
        .add_service(TestServiceServer::new(testing.clone()));
    let stats = server.stats();
    let backend = Backend::serve(server, testing);
    let mesh = plain_mesh(&[&backend.address]);
    fixture.push(&secured(&mesh, "permissive"));
    let web = process("web");
    let client = TestServiceClient::new(web.channel("xds:///greeter").unwrap());
    let load = Load::start(&client, 8).await;
    load.further(100).await;
    fixture.push(&secured(&mesh, "strict"));
    let replaced = async {
        while stats.tls() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, replaced)
        .await
        .expect("the client is sent to a new connection");
    load.further(100).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
}

#[tokio::test]
async fn the_server_ends_calls_at_their_deadline() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let slow = Faults {
        delay: Duration::from_secs(60),
        ..Faults::default()
    };
    let backend = Backend::start(&fixture.mesh("greeter"), "a", slow);
    // It listens once the control plane has given it a Listener.
    fixture.push(&plain_mesh(&[&backend.address]));
    let web = fixture.mesh("web");
    web.channel("xds:///greeter").unwrap().ready().await;
    let answer = raw_call(&backend.address, "100m");
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "4");
    assert_eq!(backend.testing.calls(), 1);
}

/// A call of a client that sends a deadline and does not keep it itself.
async fn raw_call(address: &str, timeout: &str) -> http::Response<h2::RecvStream> {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!(
        "http://{address}/grpc.testing.TestService/EmptyCall"
    ));
    let request = request.header("content-type", "application/grpc");
    let request = request.header("te", "trailers");
    let request = request.header("grpc-timeout", timeout).body(()).unwrap();
    let (response, mut body) = requests.send_request(request, false).unwrap();
    // An empty message.
    body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    response.await.unwrap()
}

#[tokio::test]
async fn what_is_not_there_is_unimplemented() {
    let (fixture, _servers, [_a]) = backends(["a"]).await;
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    let mut known = TestServiceClient::new(channel.clone());
    let status = known.unimplemented_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let mut anything = tonic::client::Grpc::new(channel);
    anything.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/grpc.testing.Nothing/Call");
    let codec = tonic_prost::ProstCodec::<Empty, Empty>::default();
    let unknown = anything.unary(Request::new(Empty {}), path, codec).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn calls_beyond_the_servers_stream_limit_wait_for_room() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let testing = Testing::new("a", Faults::default());
    let server = fixture
        .mesh("greeter")
        .server("127.0.0.1:0")
        .add_service(TestServiceServer::new(testing.clone()))
        .options(|options| options.max_concurrent_streams = 2);
    let backend = Backend::serve(server, testing);
    fixture.push(&plain_mesh(&[&backend.address]));
    let mut client = fixture.client("xds:///greeter");
    // Before the server's settings are here, more streams might be opened than it takes.
    call(&mut client).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..2 {
        let (sender, requests) = mpsc::channel(1);
        let response = client.full_duplex_call(ReceiverStream::new(requests)).await;
        open.push((sender, response.unwrap()));
    }
    let mut request = Request::new(SimpleRequest::default());
    request.set_timeout(Duration::from_millis(100));
    let status = client.unary_call(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("room"), "{status}");
    open.pop();
    call(&mut client).await.unwrap();
}

#[tokio::test]
async fn tower_layers_see_every_call() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let seen = Arc::new(AtomicU32::new(0));
    let counter = seen.clone();
    let testing = Testing::new("a", Faults::default());
    let layer = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
        counter.fetch_add(1, Ordering::SeqCst);
        request
    });
    let bound = fixture
        .mesh("greeter")
        .server("127.0.0.1:0")
        .add_service(TestServiceServer::new(testing))
        .layer(layer)
        .bind()
        .unwrap();
    fixture.push(&plain_mesh(&[&bound.address().to_string()]));
    let serving = tokio::spawn(bound.serve());
    let mut client = fixture.client("xds:///greeter");
    until(&mut client, Result::is_ok).await.unwrap();
    let before = seen.load(Ordering::SeqCst);
    for _ in 0..3 {
        call(&mut client).await.unwrap();
    }
    assert_eq!(seen.load(Ordering::SeqCst), before + 3);
    serving.abort();
}

#[tokio::test]
async fn tonics_own_server_takes_the_connections_of_the_mesh() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let process = |service: &str| {
        let provider = authority.provider(&spiffe(service));
        let builder = fixture.builder(service);
        builder
            .certificate_provider("default", provider)
            .build()
            .unwrap()
    };
    let incoming = process("greeter").incoming("127.0.0.1:0").unwrap();
    let address = incoming.address().to_string();
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let note = move |request: Request<()>| {
        let info = request.extensions().get::<sidestep::server::ConnectInfo>();
        let identity = info.and_then(|info| info.identity().cloned());
        seen.lock().unwrap().push(identity.map(|id| id.uri_sans));
        Ok(request)
    };
    let service =
        TestServiceServer::with_interceptor(Testing::new("tonic", Faults::default()), note);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tonic::transport::Server::builder().add_service(service);
    let serving = tokio::spawn(server.serve_with_incoming_shutdown(incoming, async {
        _ = stopped.await;
    }));
    fixture.push(&secured(&plain_mesh(&[&address]), "strict"));
    let web = process("web");
    let mut client = TestServiceClient::new(web.channel("xds:///greeter").unwrap());
    until_server(&mut client, "tonic").await;
    let expected: Arc<[String]> = Arc::new([spiffe("web")]);
    assert_eq!(*peers.lock().unwrap(), [Some(expected)]);
    drop(stop);
    tokio::time::timeout(PATIENCE, serving)
        .await
        .expect("it drains")
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_process_of_no_known_service_does_not_serve_and_says_why() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = fixture
        .mesh("greter")
        .server("127.0.0.1:0")
        .add_service(TestServiceServer::new(Testing::new("a", Faults::default())))
        .on_mode_change(move |_, mode| _ = tell.send(mode.clone()));
    let serving = tokio::spawn(server.serve());
    let definite = async {
        loop {
            match told.recv().await.unwrap() {
                ServerMode::NotServing { reason } if reason.contains("waiting") => {}
                ServerMode::NotServing { reason } => return reason,
                mode => panic!("{mode:?}"),
            }
        }
    };
    let reason = tokio::time::timeout(PATIENCE, definite).await.unwrap();
    for part in [
        "no such service",
        "did you mean \"greeter\"?",
        "greter-node",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    serving.abort();
}

#[tokio::test]
async fn a_server_serves_on_while_the_control_plane_is_down() {
    let (mut fixture, _servers, [a]) = backends(["a"]).await;
    let mut client = fixture.client("xds:///greeter");
    call(&mut client).await.unwrap();
    fixture.kill().await;
    let fresh = Mesh::builder().build().unwrap();
    let mut direct = TestServiceClient::new(fresh.channel(&a.address).unwrap());
    call(&mut direct).await.unwrap();
    call(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_taken_address_is_an_error_with_its_text() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let address = unused_address();
    let _taken = std::net::TcpListener::bind(&address).unwrap();
    let server = fixture.mesh("greeter").server(&address);
    let text = server.serve().await.unwrap_err().to_string();
    assert!(text.contains(&address), "{text}");
}
