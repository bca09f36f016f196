//! The management server over real sockets, asked by a client that sends raw messages.

mod client;
#[path = "../../src/fixture.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the unit tests")]
mod fixture;

use std::sync::Arc;

use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::operations::type_status::State;
use sidestep_proto::wire::{Any, discovery};
use sidestep_server::{
    Configuration, FileSource, ListenAddress, ManagementServer, RawResources, Running, StreamEvent,
    StreamInfo, StreamObserver, source::SourceText,
};
use tokio::sync::mpsc;

use client::{Delta, StateOfTheWorld, Stream, status};
use fixture::{api_listener, assignment, cluster, routes, socket_listener};

const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// Two services, `greeter` and `payments`.
fn mesh() -> Vec<Any> {
    ["greeter", "payments"]
        .into_iter()
        .flat_map(|name| {
            [
                api_listener(name, name),
                routes(name, &[name]),
                cluster(name),
                assignment(name, &["127.0.0.1:1"]),
            ]
        })
        .collect()
}

async fn serve(resources: &RawResources) -> Running {
    let server = ManagementServer::builder().source(resources.clone());
    server.start().await.expect("starts")
}

fn names(resources: &[Any]) -> Vec<String> {
    resources
        .iter()
        .map(|any| {
            let named = sidestep_server::snapshot::RawResource::from_any(any.clone());
            named.expect("has a name").name
        })
        .collect()
}

fn delta_names(response: &discovery::DeltaDiscoveryResponse) -> Vec<String> {
    response.resources.iter().map(|r| r.name.clone()).collect()
}

#[tokio::test]
async fn state_of_the_world_gives_the_named_and_then_only_what_changed() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let mut stream = Stream::<StateOfTheWorld>::open(running.address()).await;
    stream.subscribe(LDS, &["greeter"]);
    let listeners = stream.next().await;
    assert_eq!(listeners.resources, [api_listener("greeter", "greeter")]);
    stream.answer(&listeners, &["greeter"], None);
    stream.subscribe(EDS, &["greeter"]);
    let endpoints = stream.next().await;
    assert_eq!(names(&endpoints.resources), ["greeter"]);
    stream.answer(&endpoints, &["greeter"], None);

    let mut changed = mesh();
    changed[3] = assignment("greeter", &["127.0.0.1:2"]);
    resources.replace(changed).expect("named");
    let update = stream.next().await;
    assert_eq!(update.type_url, EDS, "listeners are as before");
    assert_eq!(update.resources, [assignment("greeter", &["127.0.0.1:2"])]);
    assert_ne!(update.version_info, endpoints.version_info);
}

#[tokio::test]
async fn delta_gives_the_named_then_changes_and_removals() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let mut stream = Stream::<Delta>::open(running.address()).await;
    stream.subscribe(CDS, &["greeter", "payments"]);
    let clusters = stream.next().await;
    assert_eq!(delta_names(&clusters), ["greeter", "payments"]);
    stream.answer(&clusters, None);

    resources.replace(mesh()[..4].to_vec()).expect("named");
    let update = stream.next().await;
    assert_eq!(update.removed_resources, ["payments"]);
    assert!(update.resources.is_empty());
}

#[tokio::test]
async fn a_wildcard_gives_all_clusters_in_both_variants() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let mut whole = Stream::<StateOfTheWorld>::open(running.address()).await;
    whole.subscribe(CDS, &[]);
    assert_eq!(
        names(&whole.next().await.resources),
        ["greeter", "payments"]
    );
    let mut delta = Stream::<Delta>::open(running.address()).await;
    delta.subscribe(CDS, &["*"]);
    assert_eq!(delta_names(&delta.next().await), ["greeter", "payments"]);
}

#[tokio::test]
async fn an_envoy_gets_no_listeners_for_channels() {
    let mut all = mesh();
    all.push(socket_listener("edge", 1, "greeter"));
    let resources = RawResources::new(all).expect("named");
    let running = serve(&resources).await;
    let mut stream = Stream::<StateOfTheWorld>::open(running.address()).await;
    let mut node = client::node();
    node.user_agent_name = "envoy".to_owned();
    stream.send(discovery::DiscoveryRequest {
        node: Some(node),
        type_url: LDS.to_owned(),
        ..Default::default()
    });
    assert_eq!(names(&stream.next().await.resources), ["edge"]);
}

#[tokio::test]
async fn an_unknown_name_is_answered_at_once_with_the_nearest() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let expected = "no such Listener: \"greter\"; did you mean \"greeter\"?";

    let mut whole = Stream::<StateOfTheWorld>::open(running.address()).await;
    whole.subscribe(LDS, &["greter"]);
    let errors = whole.next().await.resource_errors;
    let detail = errors[0].error_detail.as_ref().expect("a reason");
    assert_eq!((detail.code, detail.message.as_str()), (5, expected));

    let mut delta = Stream::<Delta>::open(running.address()).await;
    delta.subscribe(LDS, &["greter"]);
    let response = delta.next().await;
    let detail = response.resource_errors[0].error_detail.as_ref();
    assert_eq!(detail.expect("a reason").message, expected);
}

/// Passes ACKs, NACKs and ends on to the test.
struct Ear(mpsc::UnboundedSender<&'static str>);

impl StreamObserver for Ear {
    fn observe(&self, _: &StreamInfo, event: StreamEvent<'_>) {
        let word = match event {
            StreamEvent::Opened => "opened",
            StreamEvent::Acked { .. } => "acked",
            StreamEvent::Nacked { .. } => "nacked",
            StreamEvent::Closed { .. } => "closed",
            _ => return,
        };
        // The test may have heard enough.
        let _ = self.0.send(word);
    }
}

#[tokio::test]
async fn status_tells_what_was_accepted_and_what_was_refused_and_why() {
    let resources = RawResources::new(mesh()).expect("named");
    let (ear, mut heard) = mpsc::unbounded_channel();
    let running = ManagementServer::builder()
        .source(resources.clone())
        .observer(Arc::new(Ear(ear)))
        .start()
        .await
        .expect("starts");
    let mut stream = Stream::<Delta>::open(running.address()).await;
    assert_eq!(heard.recv().await, Some("opened"));

    stream.subscribe(RDS, &["greeter"]);
    let first = stream.next().await;
    stream.answer(&first, None);
    assert_eq!(heard.recv().await, Some("acked"));
    let all = status(running.address()).await;
    assert_eq!(
        (all.revision.as_str(), all.summary.as_str()),
        ("1", "8 resources")
    );
    let client = &all.clients[0];
    assert_eq!(client.node_id, "test-1");
    assert_eq!(client.node_cluster, "web");
    assert_eq!(client.variant, "delta");
    assert!(client.peer.starts_with("127.0.0.1:"), "{}", client.peer);
    assert_eq!(client.types[0].state(), State::Synced);
    assert_eq!(client.types[0].names, ["greeter"]);

    let mut changed = mesh();
    changed[1] = routes("greeter", &["payments"]);
    resources.replace(changed).expect("named");
    let second = stream.next().await;
    stream.answer(&second, Some("RouteConfiguration \"greeter\": not today"));
    assert_eq!(heard.recv().await, Some("nacked"));
    let all = status(running.address()).await;
    let routes = &all.clients[0].types[0];
    assert_eq!(routes.state(), State::Nacked);
    assert_eq!(routes.acked_revision, "1");
    assert_eq!(routes.nacked_revision, "2");
    assert_eq!(
        routes.nack_error,
        "RouteConfiguration \"greeter\": not today"
    );

    drop(stream);
    assert_eq!(heard.recv().await, Some("closed"));
    assert!(status(running.address()).await.clients.is_empty());
}

#[tokio::test]
async fn a_broken_change_reaches_nobody_and_shows_in_status() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let mut stream = Stream::<StateOfTheWorld>::open(running.address()).await;
    stream.subscribe(RDS, &["greeter"]);
    let first = stream.next().await;
    stream.answer(&first, &["greeter"], None);

    let mut reports = running.store().watch_reports();
    let mut broken = mesh();
    broken[1] = routes("greeter", &["absent"]);
    resources.replace(broken).expect("named");
    let refused = reports.wait_for(|report| report.refusal.is_some()).await;
    drop(refused.expect("the server lives"));
    let errors = status(running.address())
        .await
        .refusal
        .expect("is shown")
        .errors;
    assert_eq!(
        errors,
        [
            "memory: RouteConfiguration \"greeter\" mentions Cluster \"absent\", which does not exist [SX0234]"
        ]
    );

    let mut sound = mesh();
    sound[1] = routes("greeter", &["payments"]);
    resources.replace(sound).expect("named");
    let update = stream.next().await;
    assert_eq!(update.resources, [routes("greeter", &["payments"])]);
}

#[tokio::test]
async fn one_slow_client_delays_nobody() {
    // Larger than all buffers on the way to a client that does not read.
    let large = |port: u16| {
        let addresses: Vec<String> = (0..20_000).map(|_| format!("127.0.0.1:{port}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        vec![
            cluster("big"),
            assignment("big", &addresses),
            cluster("small"),
            assignment("small", &[]),
        ]
    };
    let resources = RawResources::new(large(1)).expect("named");
    let running = serve(&resources).await;
    let slow = Stream::<StateOfTheWorld>::open(running.address()).await;
    slow.subscribe(EDS, &["big"]);
    let mut quick = Stream::<StateOfTheWorld>::open(running.address()).await;
    quick.subscribe(EDS, &["small"]);
    let mut response = quick.next().await;
    for port in 1..4 {
        quick.answer(&response, &["small"], None);
        let mut changed = large(1);
        changed[3] = assignment("small", &[&format!("127.0.0.1:{port}")]);
        resources.replace(changed).expect("named");
        response = quick.next().await;
    }
    // The slow one finds everything once it reads.
    let mut slow = slow;
    assert_eq!(names(&slow.next().await.resources), ["big"]);
}

#[tokio::test]
async fn a_server_can_be_killed_and_started_again_on_its_port() {
    let resources = RawResources::new(mesh()).expect("named");
    let mut running = serve(&resources).await;
    let address = running.address().clone();
    for kill in [true, false] {
        let mut stream = Stream::<StateOfTheWorld>::open(&address).await;
        stream.subscribe(CDS, &["greeter"]);
        stream.next().await;
        if kill {
            running.kill().await;
        } else {
            running.shutdown().await;
        }
        stream.try_next().await.expect_err("the server is gone");
        running = ManagementServer::builder()
            .source(RawResources::new(mesh()).expect("named"))
            .listen(address.clone())
            .start()
            .await
            .expect("the port is free");
    }
    let mut stream = Stream::<StateOfTheWorld>::open(&address).await;
    stream.subscribe(CDS, &["greeter"]);
    assert_eq!(names(&stream.next().await.resources), ["greeter"]);
}

#[tokio::test]
async fn a_unix_socket_serves_as_well() {
    let directory = tempfile::tempdir().expect("a directory");
    let address = ListenAddress::Unix(directory.path().join("ads.sock"));
    let running = ManagementServer::builder()
        .source(RawResources::new(mesh()).expect("named"))
        .listen(address.clone())
        .start()
        .await
        .expect("starts");
    let mut stream = Stream::<Delta>::open(&address).await;
    stream.subscribe(CDS, &["greeter"]);
    assert_eq!(delta_names(&stream.next().await), ["greeter"]);
    assert_eq!(status(&address).await.clients[0].peer, "unix");
    running.shutdown().await;
}

#[tokio::test]
async fn a_request_may_be_large_but_not_boundless() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let name_of_length = |length: usize| "x".repeat(length);

    let mut stream = Stream::<StateOfTheWorld>::open(running.address()).await;
    let large = name_of_length(3 * 1024 * 1024);
    stream.subscribe(EDS, &[&large, "greeter"]);
    assert_eq!(names(&stream.next().await.resources), ["greeter"]);

    let mut stream = Stream::<StateOfTheWorld>::open(running.address()).await;
    let too_large = name_of_length(5 * 1024 * 1024);
    stream.subscribe(EDS, &[&too_large]);
    let status = stream.try_next().await.expect_err("too large");
    assert_eq!(status.code(), tonic::Code::OutOfRange);
}

#[tokio::test]
async fn the_types_go_out_in_make_before_break_order() {
    let resources = RawResources::new(mesh()).expect("named");
    let running = serve(&resources).await;
    let mut stream = Stream::<Delta>::open(running.address()).await;
    for resource_type in ResourceType::ALL {
        stream.subscribe(resource_type.type_url(), &["greeter", "orders"]);
        let response = stream.next().await;
        stream.answer(&response, None);
    }
    let mut grown = mesh();
    grown.extend([
        api_listener("orders", "orders"),
        routes("orders", &["orders"]),
        cluster("orders"),
        assignment("orders", &["127.0.0.1:9"]),
    ]);
    resources.replace(grown).expect("named");
    for resource_type in ResourceType::ALL {
        let response = stream.next().await;
        assert_eq!(response.type_url, resource_type.type_url());
        assert_eq!(delta_names(&response), ["orders"]);
        stream.answer(&response, None);
    }
}

const MESH_FILE: &str = "\
mesh: v1
services:
  greeter:
    endpoints:
      static:
        - {address: \"127.0.0.1:50051\"}
";

fn write(path: &std::path::Path, text: &str) {
    std::fs::write(path, text).expect("writes");
}

#[tokio::test]
async fn an_edit_of_the_mesh_file_reaches_clients_and_a_broken_one_does_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("mesh.yaml");
    write(&path, MESH_FILE);
    let running = ManagementServer::builder()
        .source(FileSource::new([&path]))
        .start()
        .await
        .expect("starts");
    let mut stream = Stream::<Delta>::open(running.address()).await;
    stream.subscribe(EDS, &["greeter"]);
    let mut response = stream.next().await;
    let first_version = response.resources[0].version.clone();
    stream.answer(&response, None);

    write(&path, &MESH_FILE.replace("50051", "50052"));
    response = stream.next().await;
    assert_eq!(delta_names(&response), ["greeter"]);
    assert_ne!(response.resources[0].version, first_version);
    stream.answer(&response, None);

    let mut reports = running.store().watch_reports();
    write(&path, &MESH_FILE.replace("address", "adress"));
    let refused = reports.wait_for(|report| report.refusal.is_some()).await;
    drop(refused.expect("the server lives"));
    write(&path, MESH_FILE);
    response = stream.next().await;
    assert_eq!(response.resources[0].version, first_version);
}

#[tokio::test]
async fn a_server_gets_its_listener_by_service_and_address() {
    let configuration = Configuration::from_mesh(&[SourceText {
        path: "mesh.yaml".to_owned(),
        text: MESH_FILE.to_owned(),
    }]);
    let resources = RawResources::new([]).expect("nothing is named");
    resources.replace_configuration(configuration.expect("sound"));
    let running = serve(&resources).await;
    let name = "grpc/server?xds.resource.listening_address=127.0.0.1:50051";

    let listener_of = async |service: &str| {
        let mut stream = Stream::<StateOfTheWorld>::open(running.address()).await;
        let mut node = client::node();
        node.cluster = service.to_owned();
        stream.send(discovery::DiscoveryRequest {
            node: Some(node),
            type_url: LDS.to_owned(),
            resource_names: vec![name.to_owned()],
            ..Default::default()
        });
        stream.next().await
    };
    let given = listener_of("greeter").await;
    assert_eq!(names(&given.resources), [name]);
    let refused = listener_of("greter").await;
    assert!(refused.resources.is_empty());
    let detail = refused.resource_errors[0].error_detail.as_ref();
    assert_eq!(
        detail.expect("a reason").message,
        "node.cluster \"greter\": no such service; did you mean \"greeter\"? [SX0605]"
    );
}
