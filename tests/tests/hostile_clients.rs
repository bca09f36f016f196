//! Clients that do everything wrong: the control plane serves the others as if these were not
//! there, and forgets them.

use bytes::Bytes;
use futures_util::stream;
use prost::Message as _;
use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::core::Node;
use sidestep_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use sidestep_proto::wire::rpc;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh};
use sidestep_tests::hostile::frame;
use sidestep_tests::load::{Load, PATIENCE, until};
use sidestep_tests::raw;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// A mesh at work, and a process in it that must notice nothing.
struct Others {
    fixture: Fixture,
    backends: [Backend; 2],
    client: TestServiceClient<Channel>,
    load: Load,
}

impl Others {
    async fn start() -> Self {
        let fixture = Fixture::start(&mesh_file(&[], "")).await;
        let servers = fixture.mesh("greeter");
        let backends = ["a", "b"].map(|id| Backend::start(&servers, id, Faults::default()));
        fixture.push(&plain_mesh(&[&backends[0].address]));
        let client = fixture.client("xds:///greeter");
        let load = Load::start(&client, 2).await;
        Self {
            fixture,
            backends,
            client,
            load,
        }
    }

    /// Changes of the mesh reach who behaves.
    async fn follow(&mut self, changes: usize) {
        for turn in 0..changes {
            let (backend, id) = [(1, "b"), (0, "a")][turn % 2];
            let mesh = plain_mesh(&[&self.backends[backend].address]);
            self.fixture.push(&mesh);
            let there = until(&mut self.client, |o| {
                o.as_ref().is_ok_and(|a| a.server == id)
            });
            there.await.unwrap();
        }
    }

    async fn stop(self) {
        let tally = self.load.stop().await;
        tally.assert_none_failed();
        assert_eq!(tally.retried, 0);
        // Only who behaves is left: the backends' process and the client's.
        let gone = async {
            while self.fixture.running().tracker().clients().len() > 2 {
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(PATIENCE, gone).await;
        gone.expect("who left is forgotten");
    }
}

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A stream whose requests are these and whatever is sent later.
async fn open<Q, A>(
    address: &str,
    path: &'static str,
    first: Vec<Q>,
) -> (mpsc::UnboundedSender<Q>, Streaming<A>)
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut grpc = Grpc::new(endpoint.connect().await.unwrap()).max_decoding_message_size(64 << 20);
    grpc.ready().await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    for request in first {
        sender.send(request).unwrap();
    }
    let requests = stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.streaming(tonic::Request::new(Box::pin(requests)), path, codec);
    (sender, answer.await.unwrap().into_inner())
}

fn node() -> Option<Node> {
    Some(Node {
        id: "hostile".to_owned(),
        cluster: "web".to_owned(),
        ..Node::default()
    })
}

fn whole(t: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: node(),
        type_url: t.type_url().to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

async fn next<A: prost::Message + Default + 'static>(
    answers: &mut Streaming<A>,
) -> Result<Option<A>, Status> {
    let next = tokio::time::timeout(PATIENCE, answers.message()).await;
    next.expect("an answer in time")
}

#[tokio::test]
async fn nonces_versions_and_types_that_nobody_gave_out() {
    let mut others = Others::start().await;
    let address = others.fixture.address();
    let odd = |type_url: &str, nonce: &str, version: &str| DiscoveryRequest {
        node: node(),
        type_url: type_url.to_owned(),
        response_nonce: nonce.to_owned(),
        version_info: version.to_owned(),
        error_detail: Some(rpc::Status::default()),
        ..DiscoveryRequest::default()
    };
    let cluster = ResourceType::Cluster.type_url();
    let mut requests = vec![whole(ResourceType::Cluster, &["greeter"])];
    for n in 0..50 {
        requests.push(odd(cluster, &format!("nonce-{n}"), "7"));
        requests.push(odd("", "", ""));
        requests.push(odd("type.googleapis.com/unheard.Of", "1", ""));
        requests.push(whole(ResourceType::Listener, &["*", "", "\0", "*"]));
    }
    let (sender, mut answers) = open::<_, DiscoveryResponse>(&address, SOTW, requests).await;
    let first = next(&mut answers).await.unwrap().unwrap();
    assert_eq!(first.resources.len(), 1);
    others.follow(2).await;
    // It is still a stream: the right nonce is listened to.
    let mut right = whole(ResourceType::Cluster, &["greeter", "missing"]);
    right.response_nonce = first.nonce;
    sender.send(right).unwrap();
    loop {
        let answer = next(&mut answers).await.unwrap().unwrap();
        if answer.resource_errors.len() == 1 {
            break;
        }
    }
    drop((sender, answers));
    others.stop().await;
}

#[tokio::test]
async fn who_never_acknowledges_delays_nobody_else() {
    let mut others = Others::start().await;
    let address = others.fixture.address();
    let mut silent = Vec::new();
    for _ in 0..30 {
        let all = ResourceType::ALL.map(|t| whole(t, &["greeter"]));
        let stream = open::<_, DiscoveryResponse>(&address, SOTW, all.into()).await;
        silent.push(stream);
    }
    others.follow(10).await;
    // Each of them has one response of each type at most.
    for (_, answers) in &mut silent {
        next(answers).await.unwrap().unwrap();
    }
    drop(silent);
    others.stop().await;
}

/// Sends one request by a client that grants no window for the answers.
async fn deaf(address: &str) -> (h2::SendStream<Bytes>, h2::client::ResponseFuture) {
    let socket = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0);
    let (requests, connection) = builder.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    let request = http::Request::post(format!("http://{address}{SOTW}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut body) = requests.send_request(request, false).unwrap();
    for t in ResourceType::ALL {
        let message = whole(t, &["greeter"]).encode_to_vec();
        body.send_data(frame(&message), false).unwrap();
    }
    (body, answer)
}

#[tokio::test]
async fn who_reads_nothing_delays_nobody_else() {
    let mut others = Others::start().await;
    let address = others.fixture.address();
    let mut deafs = Vec::new();
    for _ in 0..30 {
        deafs.push(deaf(&address).await);
    }
    others.follow(10).await;
    drop(deafs);
    others.stop().await;
}

#[tokio::test]
async fn storms_of_resets_and_of_connections_pass() {
    let mut others = Others::start().await;
    let address = others.fixture.address();
    for _ in 0..10 {
        let socket = TcpStream::connect(&address).await.unwrap();
        let (requests, connection) = h2::client::handshake(socket).await.unwrap();
        let driver = tokio::spawn(connection);
        for _ in 0..100 {
            // The server may have had enough of this connection.
            let Ok(mut ready) = requests.clone().ready().await else {
                break;
            };
            let request = http::Request::post(format!("http://{address}{DELTA}"))
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let Ok((_, mut body)) = ready.send_request(request, false) else {
                break;
            };
            body.send_reset(h2::Reason::CANCEL);
        }
        drop(requests);
        driver.abort();
    }
    for _ in 0..200 {
        let socket = TcpStream::connect(&address).await.unwrap();
        socket.set_zero_linger().unwrap();
    }
    others.follow(4).await;
    others.stop().await;
}

/// In a mesh of many names, so that looking for what may have been meant costs.
#[tokio::test]
async fn ten_thousand_names_that_are_not_there() {
    let clusters: Vec<_> = (0..3000)
        .map(|n| raw::cluster(&format!("cluster-number-{n:05}")))
        .collect();
    let plane = Fixture::raw(RawResources::unchecked(clusters).unwrap()).await;
    let names: Vec<String> = (0..10_000)
        .map(|n| format!("claster-number-{n:05}"))
        .collect();
    let address = plane.address();
    for t in ResourceType::ALL {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (_sender, mut answers) =
            open::<_, DiscoveryResponse>(&address, SOTW, vec![whole(t, &names)]).await;
        let answer = next(&mut answers).await.unwrap().unwrap();
        assert_eq!(answer.resource_errors.len(), 10_000);
        let text = |n: usize| {
            let error = answer.resource_errors[n].error_detail.as_ref().unwrap();
            error.message.clone()
        };
        assert!(
            text(9_999).contains("claster-number-09999"),
            "{}",
            text(9_999)
        );
        if t == ResourceType::Cluster {
            assert!(text(0).contains("did you mean"), "{}", text(0));
        }
    }
    // One after the other, as delta allows.
    let (sender, mut answers) = open::<_, DeltaDiscoveryResponse>(&address, DELTA, vec![]).await;
    let mut told = 0;
    for name in &names[..500] {
        let request = DeltaDiscoveryRequest {
            node: node(),
            type_url: ResourceType::Listener.type_url().to_owned(),
            resource_names_subscribe: vec![name.clone()],
            ..DeltaDiscoveryRequest::default()
        };
        sender.send(request).unwrap();
    }
    while told < 500 {
        let answer = next(&mut answers).await.unwrap().unwrap();
        told += answer.resource_errors.len();
        let ack = DeltaDiscoveryRequest {
            type_url: answer.type_url,
            response_nonce: answer.nonce,
            ..DeltaDiscoveryRequest::default()
        };
        sender.send(ack).unwrap();
    }
}

#[tokio::test]
async fn who_wants_more_than_there_can_be_is_sent_away() {
    let mut others = Others::start().await;
    let address = others.fixture.address();
    let types = (0..100).map(|n| DiscoveryRequest {
        node: node(),
        type_url: format!("type.googleapis.com/number.{n}"),
        ..DiscoveryRequest::default()
    });
    let (_sender, mut answers) =
        open::<_, DiscoveryResponse>(&address, SOTW, types.collect()).await;
    let status = end(&mut answers).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("types"), "{status}");

    // Each request is below what one may be; together they are not.
    let long = "x".repeat(1 << 20);
    let requests = (0..20).map(|n| DeltaDiscoveryRequest {
        node: node(),
        type_url: ResourceType::EndpointAssignment.type_url().to_owned(),
        resource_names_subscribe: vec![format!("{n}-{long}")],
        ..DeltaDiscoveryRequest::default()
    });
    let (_sender, mut answers) =
        open::<_, DeltaDiscoveryResponse>(&address, DELTA, requests.collect()).await;
    let status = end(&mut answers).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("names"), "{status}");

    // One that is too large by itself.
    let huge = whole(ResourceType::Cluster, &["x".repeat(5 << 20).as_str()]);
    let (_sender, mut answers) = open::<_, DiscoveryResponse>(&address, SOTW, vec![huge]).await;
    let status = end(&mut answers).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    others.follow(2).await;
    others.stop().await;
}

async fn end<A: prost::Message + Default + 'static>(answers: &mut Streaming<A>) -> Status {
    loop {
        match next(answers).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ends with a reason"),
            Err(status) => return status,
        }
    }
}
