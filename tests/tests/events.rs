//! The `tracing` events of docs/events.md, as they come out of a live mesh.

use sidestep_proto::wire::{Any, cluster};
use sidestep_server::RawResources;
use sidestep_tests::events::{Events, Told};
use sidestep_tests::fixture::{Backend, Fixture, plain_mesh, unused_address};
use sidestep_tests::load::call;
use sidestep_tests::raw;
use sidestep_tests::service::Faults;
use sidestep_tests::testing::test_service_client::TestServiceClient;
use tracing::Level;

const CONFIG: &str = "sidestep::config";
const CONNECTION: &str = "sidestep::connection";
const XDS: &str = "sidestep::xds";

fn any(_: &Told) -> bool {
    true
}

#[tokio::test]
async fn a_mesh_tells_of_its_stream_its_configuration_and_its_connections() {
    let mut events = Events::catch();
    let mut fixture = Fixture::start(&plain_mesh(&[])).await;
    let backend = Backend::start(&fixture.mesh("greeter"), "a", Faults::default());
    fixture.push(&plain_mesh(&[&backend.address]));
    let mesh = fixture.mesh("web");
    let channel = mesh.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let calls_before = events.all().len();
    let mut client = TestServiceClient::new(channel);
    for _ in 0..10 {
        call(&mut client).await.unwrap();
    }

    let web = |told: &Told| told.field("node") == "web-node";
    let up = events.wait(XDS, "stream up", web).await;
    assert_eq!(up.field("server"), fixture.address());
    assert_eq!(up.level, Level::INFO);
    let ack = events.wait(XDS, "ACK", web).await;
    assert_eq!(
        (ack.level, ack.field("version").is_empty()),
        (Level::DEBUG, false)
    );

    let applied = events.wait(CONFIG, "configuration applied", any).await;
    assert_eq!(applied.field("listener"), "greeter");
    assert_eq!(applied.field("clusters"), "1");
    assert!(!applied.field("revision").is_empty(), "{applied:?}");
    let cluster = events.wait(CONFIG, "cluster applied", any).await;
    assert_eq!(
        (cluster.field("tls"), cluster.level),
        ("false", Level::DEBUG)
    );
    let server = events
        .wait(CONFIG, "server configuration applied", any)
        .await;
    assert!(
        server.field("listener").ends_with(&backend.address),
        "{server:?}"
    );

    let here = |told: &Told| told.field("endpoint") == backend.address;
    let connecting = events.wait(CONNECTION, "connecting", here).await;
    assert_eq!(connecting.level, Level::DEBUG);
    let ready = events.wait(CONNECTION, "ready", here).await;
    assert_eq!(ready.field("cluster"), cluster.field("cluster"));
    assert_eq!(ready.field("peer"), backend.address);

    // Calls tell nothing.
    let about_calls = events.all().split_off(calls_before);
    let quiet =
        |told: &Told| told.target == CONFIG || told.target == XDS || told.target == CONNECTION;
    assert!(about_calls.iter().all(quiet), "{about_calls:#?}");

    let address = backend.address.clone();
    backend.shutdown().await;
    let away = events.wait(CONNECTION, "going away", any).await;
    assert_eq!(away.field("disconnect"), "GOAWAY NO_ERROR");
    assert_eq!(away.field("endpoint"), address);
    let failed = events.wait(CONNECTION, "failed", any).await;
    assert_eq!((failed.level, failed.field("failures")), (Level::WARN, "1"));
    assert!(failed.field("reason").contains("refused"), "{failed:?}");
    let again = events
        .wait(CONNECTION, "failed", |told| told.field("failures") == "2")
        .await;
    assert_eq!(again.level, Level::DEBUG);

    fixture.kill().await;
    let down = events.wait(XDS, "stream down", web).await;
    assert!(!down.field("reason").is_empty());
    let none = events.wait(XDS, "no stream", web).await;
    assert_eq!(none.level, Level::WARN);
}

#[tokio::test]
async fn a_refused_resource_is_told_with_field_server_and_node() {
    let mut events = Events::catch();
    let original_destination = cluster::Cluster {
        name: "greeter".to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::OriginalDst as i32,
        )),
        ..cluster::Cluster::default()
    };
    let resources = [
        raw::listener("greeter", "greeter"),
        raw::routes("greeter", &["greeter"]),
        Any::pack(&original_destination),
    ];
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let mut client = fixture.client("xds:///greeter");
    call(&mut client).await.unwrap_err();

    let nack = events.wait(XDS, "NACK", any).await;
    assert_eq!(nack.level, Level::WARN);
    assert_eq!(nack.field("resource_type"), "Cluster");
    assert_eq!(nack.field("server"), fixture.address());
    assert_eq!(nack.field("node"), "web-node");
    assert!(nack.field("detail").contains("greeter"), "{nack:?}");

    let bad = events.wait(CONFIG, "bad resource", any).await;
    assert_eq!(bad.field("name"), "greeter");
    assert_eq!(bad.field("server"), fixture.address());
    assert_eq!(bad.field("node"), "web-node");
    assert_eq!(bad.field("last_good_stays"), "false");
    assert!(!bad.field("path").is_empty(), "{bad:?}");
    assert!(!bad.field("reason").is_empty(), "{bad:?}");
    let unusable = events.wait(CONFIG, "cluster cannot be used", any).await;
    assert_eq!(unusable.field("cluster"), "greeter");
}

#[tokio::test]
async fn an_endpoint_that_leaves_is_told_as_shut_down() {
    let mut events = Events::catch();
    let fixture = Fixture::start(&plain_mesh(&[])).await;
    let backend = Backend::start(&fixture.mesh("greeter"), "a", Faults::default());
    fixture.push(&plain_mesh(&[&backend.address]));
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    channel.ready().await;
    fixture.push(&plain_mesh(&[&unused_address()]));
    let closed = events
        .wait(CONNECTION, "closed", |told| {
            told.field("endpoint") == backend.address
        })
        .await;
    assert_eq!(closed.field("disconnect"), "subchannel shutdown");
    assert_eq!(closed.level, Level::DEBUG);
}
