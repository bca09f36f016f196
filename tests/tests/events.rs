//! The `tracing` events of docs/events.md, as they come out of a live mesh.

use sidestep::Mesh;
use sidestep::telemetry::Reading;
use sidestep::telemetry::instruments::{
    Instrument, SUBCHANNEL_CONNECTION_ATTEMPTS_FAILED, SUBCHANNEL_CONNECTION_ATTEMPTS_SUCCEEDED,
    SUBCHANNEL_DISCONNECTIONS, SUBCHANNEL_OPEN_CONNECTIONS,
};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::wire::{Any, cluster};
use sidestep_server::RawResources;
use sidestep_tests::events::{Events, Told};
use sidestep_tests::fixture::{Backend, Fixture, plain_mesh, unused_address};
use sidestep_tests::load::call;
use sidestep_tests::raw;
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
    let mut events = Events::catch_all();
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

    // So does the control plane, to those who wrote it.
    let told = events.wait("sidestep_server::stream", "NACK", any).await;
    assert_eq!((told.level, told.field("code")), (Level::WARN, "SX0607"));
    assert!(told.field("detail").contains("greeter"), "{told:?}");

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

/// Labels and value of each series of an instrument.
fn counted(mesh: &Mesh, instrument: &'static Instrument) -> Vec<(String, i64)> {
    let mut all = Vec::new();
    mesh.telemetry()
        .read(instrument, |labels, reading| match reading {
            Reading::Number(n) => all.push((labels.join("|"), n)),
            Reading::Histogram(_) => panic!("{} is a number", instrument.name),
        });
    all
}

#[tokio::test]
async fn connections_are_counted_by_reason() {
    let mut events = Events::catch();
    let fixture = Fixture::start(&plain_mesh(&[])).await;
    let servers = fixture.mesh("greeter");
    let [a, b] = ["a", "b"].map(|id| Backend::start(&servers, id, Faults::default()));
    fixture.push(&plain_mesh(&[&a.address, &b.address]));
    let mesh = fixture.mesh("web");
    let channel = mesh.channel("xds:///greeter").unwrap();
    channel.ready().await;
    for backend in [&a, &b] {
        let here = |told: &Told| told.field("endpoint") == backend.address;
        events.wait(CONNECTION, "ready", here).await;
    }
    let labels = |more: &str| format!("xds:///greeter|greeter|{more}");
    let open = |mesh: &Mesh| counted(mesh, &SUBCHANNEL_OPEN_CONNECTIONS);
    let succeeded = counted(&mesh, &SUBCHANNEL_CONNECTION_ATTEMPTS_SUCCEEDED);
    assert_eq!(succeeded, [(labels(""), 2)]);
    assert_eq!(
        open(&mesh),
        [("xds:///greeter|none|greeter|".to_owned(), 2)]
    );
    assert_eq!(counted(&mesh, &SUBCHANNEL_DISCONNECTIONS), []);

    // One goes away, and cannot be reached any more; the other one is taken out.
    let address = a.address.clone();
    a.shutdown().await;
    let gone = |told: &Told| told.field("endpoint") == address;
    events.wait(CONNECTION, "failed", gone).await;
    fixture.push(&plain_mesh(&[&address]));
    events
        .wait(CONNECTION, "closed", |told| {
            told.field("endpoint") == b.address
        })
        .await;
    let mut reasons = counted(&mesh, &SUBCHANNEL_DISCONNECTIONS);
    reasons.sort();
    assert_eq!(
        reasons,
        [
            (labels("|GOAWAY NO_ERROR"), 1),
            (labels("|subchannel shutdown"), 1)
        ]
    );
    assert_eq!(
        open(&mesh),
        [("xds:///greeter|none|greeter|".to_owned(), 0)]
    );
    let failed = counted(&mesh, &SUBCHANNEL_CONNECTION_ATTEMPTS_FAILED);
    assert!(failed[0].1 >= 1, "{failed:?}");
}

/// Every event of the runtime's source is in the table, so that people can rely on it.
#[test]
fn every_event_is_in_the_documentation() {
    let documented = include_str!("../../docs/events.md");
    let call = regex::Regex::new(
        r#"(?s)tracing::(error|warn|info|debug|trace)!\((?:[^;"]|"sidestep::\w+")*?"([^":][^"]*)"\s*\)"#,
    );
    let (call, mut seen) = (call.unwrap(), 0);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/src");
    let mut folders = vec![std::path::PathBuf::from(source)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for event in call.captures_iter(&text) {
                let (level, message) = (&event[1], &event[2]);
                let target = event[0].split('"').nth(1).unwrap();
                assert!(
                    target.starts_with("sidestep::"),
                    "{}: {}",
                    path.display(),
                    &event[0]
                );
                let row = |line: &str| {
                    line.starts_with(&format!("| `{target}` |"))
                        && line.contains(level)
                        && line.contains(&format!("| {message} |"))
                };
                assert!(
                    documented.lines().any(row),
                    "{target} {level} {message:?} of {} is not in docs/events.md",
                    path.display()
                );
                seen += 1;
            }
            let written = text.matches("tracing::warn!(").count()
                + text.matches("tracing::info!(").count()
                + text.matches("tracing::debug!(").count()
                + text.matches("tracing::error!(").count();
            let understood = call.captures_iter(&text).count();
            assert_eq!(understood, written, "{}", path.display());
        }
    }
    assert!(seen > 30, "{seen}");
}
