//! Several servers for one authority (gRFC A71): control planes that are killed, die in the middle
//! of something and come back, and calls that notice nothing.

use std::time::Duration;

use serde_json::{Value, json};
use sidestep::{CallError, Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::Variant;
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::events::{Events, Told};
use sidestep_tests::fixture::{
    Backend, Fixture, bootstrap, builder, mesh_file, quick, unused_address,
};
use sidestep_tests::load::{Load, PATIENCE, call, until};
use sidestep_tests::raw;
use sidestep_tests::scripted::{Fault, ScriptedPlane};
use tonic::Code;

type Client = TestServiceClient<Channel>;

/// Running backends, and the control plane that only they know.
async fn backends<const N: usize>(ids: [&str; N]) -> (Fixture, [Backend; N]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ids.map(|id| Backend::start(&servers, id, Faults::default()));
    (fixture, backends)
}

/// All that leads calls of `greeter` to this backend.
fn leading_to(backend: &Backend) -> [Any; 4] {
    raw::service("greeter", raw::endpoints("greeter", &[&backend.address]))
}

async fn plane(resources: impl IntoIterator<Item = Any>) -> Fixture {
    let resources = RawResources::unchecked(resources);
    Fixture::raw(resources.expect("all have names")).await
}

/// The bootstrap of a client with these servers, most preferred first.
fn servers(addresses: &[&str]) -> Value {
    let server =
        |address: &&str| json!({"server_uri": address, "channel_creds": [{"type": "insecure"}]});
    let mut all = bootstrap(addresses[0], "web");
    all["xds_servers"] = addresses.iter().map(server).collect();
    all
}

fn mesh_of(addresses: &[&str]) -> Mesh {
    builder(&servers(addresses))
        .build()
        .expect("a good bootstrap")
}

fn client_of(mesh: &Mesh, target: &str) -> Client {
    TestServiceClient::new(mesh.channel(target).expect("a good target"))
}

async fn until_server(client: &mut Client, id: &str) {
    let answer = until(
        client,
        |outcome| matches!(outcome, Ok(answer) if answer.server == id),
    );
    answer.await.expect("only an answer ends the wait");
}

/// The first event with this text.
async fn told(events: &mut Events, message: &str) -> Told {
    events.wait("sidestep::xds", message, |_| true).await
}

/// Waits until the control plane has so many clients.
async fn until_clients(fixture: &Fixture, n: usize) {
    let reached = async {
        while fixture.running().tracker().clients().len() != n {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("it never had {n} clients"));
}

/// What the metrics say of the stream to a server; `None`: nothing.
fn connected(mesh: &Mesh, server: &str) -> Option<String> {
    let text = mesh.telemetry().prometheus_text();
    let is_its = |line: &&str| {
        line.starts_with("grpc_xds_client_connected{") && line.contains(&format!("{server:?}"))
    };
    let line = text.lines().find(is_its)?;
    line.rsplit(' ').next().map(str::to_owned)
}

/// What `fallback_test` of the PSM interop suite does, in its order.
async fn both_down_then_one_by_one(variant: Variant) {
    let (_own, [a, b]) = backends(["a", "b"]).await;
    let (mut first, mut second) = (plane(leading_to(&a)).await, plane(leading_to(&b)).await);
    let addresses = [first.address(), second.address()];
    first.kill().await;
    second.kill().await;
    let bootstrap = servers(&[&addresses[0], &addresses[1]]);
    let mesh = builder(&bootstrap).variant(variant).build().unwrap();
    let mut client = client_of(&mesh, "xds:///greeter");

    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::from_status(&status), Some("config"));
    for part in [
        "Listener \"greeter\"",
        &addresses[0],
        &addresses[1],
        "web-node",
    ] {
        assert!(status.message().contains(part), "{part}: {status}");
    }

    second.revive().await;
    until_server(&mut client, "b").await;
    let load = Load::start(&client, 4).await;
    load.further(100).await;

    first.revive().await;
    until_server(&mut client, "a").await;
    // Nothing is wanted of the second one any more.
    until_clients(&second, 0).await;
    load.further(100).await;

    // All is cached: the loss of the first one moves nobody.
    first.kill().await;
    load.further(300).await;
    assert_eq!(call(&mut client).await.unwrap().server, "a");
    until_clients(&second, 0).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
}

#[tokio::test]
async fn falls_to_the_next_server_and_returns_to_the_first() {
    both_down_then_one_by_one(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn falls_to_the_next_server_and_returns_to_the_first_in_delta() {
    both_down_then_one_by_one(Variant::Delta).await;
}

#[tokio::test]
async fn a_first_server_that_dies_on_the_clusters_request_is_replaced() {
    let (_own, [b]) = backends(["b"]).await;
    let dying = Fault::DiesOn("one".to_owned());
    let first = [
        raw::listener("greeter", "routes"),
        raw::routes("routes", &["one"]),
    ];
    let first = ScriptedPlane::start(dying, first).await;
    let second = plane(leading_to(&b)).await;
    let mesh = mesh_of(&[&first.address, &second.address()]);
    let mut client = client_of(&mesh, "xds:///greeter");
    until_server(&mut client, "b").await;
    first.died().await;
}

#[tokio::test]
async fn a_first_server_that_dies_in_the_middle_of_an_update_is_replaced() {
    let (_own, [a, b]) = backends(["a", "b"]).await;
    let dying = Fault::DiesOn("other".to_owned());
    let first = ScriptedPlane::start(dying, leading_to(&a)).await;
    let second = [
        raw::listener("greeter", "greeter"),
        raw::routes("greeter", &["other"]),
        raw::cluster("other"),
        raw::endpoints("other", &[&b.address]),
    ];
    let second = plane(second).await;
    let mesh = mesh_of(&[&first.address, &second.address()]);
    let mut client = client_of(&mesh, "xds:///greeter");
    until_server(&mut client, "a").await;
    let load = Load::start(&client, 4).await;
    until_clients(&second, 0).await;
    first.put([raw::routes("greeter", &["other"])]);
    first.died().await;
    until_server(&mut client, "b").await;
    load.further(100).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn what_a_new_target_misses_comes_from_the_next_server_and_the_old_one_goes_on() {
    let (_own, [a, b]) = backends(["a", "b"]).await;
    let mut first = plane(leading_to(&a)).await;
    let both = leading_to(&a).into_iter().chain(raw::service(
        "second",
        raw::endpoints("second", &[&b.address]),
    ));
    let second = plane(both).await;
    let mesh = mesh_of(&[&first.address(), &second.address()]);
    let mut old = client_of(&mesh, "xds:///greeter");
    until_server(&mut old, "a").await;
    let load = Load::start(&old, 4).await;
    first.kill().await;
    load.further(100).await;
    until_clients(&second, 0).await;
    let mut new = client_of(&mesh, "xds:///second");
    until_server(&mut new, "b").await;
    load.further(100).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.by_server.len(), 1, "{tally:?}");
}

#[tokio::test]
async fn a_fallback_is_told_and_seen_from_outside() {
    let mut events = Events::catch();
    let (_own, [a, b]) = backends(["a", "b"]).await;
    let (mut first, second) = (plane(leading_to(&a)).await, plane(leading_to(&b)).await);
    let (primary, fallback) = (first.address(), second.address());
    first.kill().await;
    let mesh = mesh_of(&[&primary, &fallback]);
    mesh.telemetry().turn_on();
    let mut client = client_of(&mesh, "xds:///greeter");
    until_server(&mut client, "b").await;
    assert_eq!(connected(&mesh, &primary), Some("0".to_owned()));
    assert_eq!(connected(&mesh, &fallback), Some("1".to_owned()));
    let fell = told(&mut events, "fallback").await;
    assert_eq!(
        (fell.field("from"), fell.field("server")),
        (&*primary, &*fallback)
    );

    let process = mesh.inspect().await.unwrap();
    let default = process.control_plane.unwrap();
    assert_eq!((&*default.server, default.connected), (&*fallback, true));
    assert_eq!(default.authorities, [None]);
    let lost = process
        .control_planes
        .iter()
        .find(|plane| plane.server == primary);
    let lost = lost.expect("it is tried on and on");
    assert!(
        lost.problem.is_some() && lost.authorities.is_empty(),
        "{lost:?}"
    );
    let resources = mesh.resources().await.unwrap();
    let from: Vec<_> = resources.iter().map(|r| r.server.as_deref()).collect();
    assert_eq!(from, [Some(&*fallback); 4]);

    first.revive().await;
    until_server(&mut client, "a").await;
    told(&mut events, "end of fallback").await;
    told(&mut events, "stream closed: not needed any more").await;
    let process = mesh.inspect().await.unwrap();
    let planes: Vec<_> = process.control_planes.iter().map(|p| &*p.server).collect();
    assert_eq!(planes, [&*primary]);
    assert_eq!(connected(&mesh, &primary), Some("1".to_owned()));
    assert_eq!(
        connected(&mesh, &fallback),
        None,
        "neither connected nor lost"
    );
}

#[tokio::test]
async fn without_any_fault_nobody_asks_the_second_server() {
    let (_own, [a]) = backends(["a"]).await;
    let first = plane(leading_to(&a)).await;
    let mesh = mesh_of(&[&first.address(), &unused_address()]);
    let mut client = client_of(&mesh, "xds:///greeter");
    until_server(&mut client, "a").await;
    assert_eq!(mesh.inspect().await.unwrap().control_planes.len(), 1);
}

#[tokio::test]
async fn a_server_without_delta_is_asked_for_the_state_of_the_world() {
    let mut events = Events::catch();
    let (_own, [a]) = backends(["a"]).await;
    let plane = ScriptedPlane::start(Fault::NoDelta, leading_to(&a)).await;
    let builder = builder(&servers(&[&plane.address])).variant(Variant::Delta);
    let mesh = builder.build().unwrap();
    let mut client = client_of(&mesh, "xds:///greeter");
    until_server(&mut client, "a").await;
    let went_on = "server has no delta, going on by state of the world";
    assert_eq!(
        told(&mut events, went_on).await.field("server"),
        plane.address
    );
    assert_eq!(plane.streams(), (1, 1), "asked once, remembered");
}

/// A client of one server with these features, whose silence means something soon.
fn with_features(address: &str, features: &[&str]) -> Mesh {
    let mut bootstrap = servers(&[address]);
    bootstrap["xds_servers"][0]["server_features"] = json!(features);
    let mut timers = quick();
    timers.ads.does_not_exist = Duration::from_millis(50);
    timers.ads.does_not_exist_transient = Duration::from_millis(100);
    builder(&bootstrap).timers(timers).build().unwrap()
}

#[tokio::test]
async fn a_deleted_resource_is_dropped_only_where_the_server_is_to_be_believed() {
    let (_own, [a]) = backends(["a"]).await;
    let plane = plane(leading_to(&a)).await;
    let address = plane.address();
    let strict = with_features(&address, &["fail_on_data_errors"]);
    // gRFC A88 has taken the place of gRFC A53: beside it, this says nothing.
    let both = ["fail_on_data_errors", "ignore_resource_deletion"];
    let both = with_features(&address, &both);
    let lenient = [&[][..], &["ignore_resource_deletion"]];
    let lenient = lenient.map(|features| with_features(&address, features));
    let mut failing = [&strict, &both].map(|mesh| client_of(mesh, "xds:///greeter"));
    let mut kept = [&lenient[0], &lenient[1]].map(|mesh| client_of(mesh, "xds:///greeter"));
    for client in failing.iter_mut().chain(&mut kept) {
        until_server(client, "a").await;
    }
    let [_, rest @ ..] = leading_to(&a);
    plane.resources().replace(rest).unwrap();
    for client in &mut failing {
        let status = until(client, Result::is_err).await.unwrap_err();
        for part in ["Listener \"greeter\"", "SX0312", &address] {
            assert!(status.message().contains(part), "{part}: {status}");
        }
    }
    for client in &mut kept {
        assert_eq!(call(client).await.unwrap().server, "a");
    }
}

#[tokio::test]
async fn silence_is_a_verdict_or_a_passing_trouble_as_the_server_is_configured() {
    let plane = ScriptedPlane::start(Fault::Mute, []).await;
    for (features, text) in [
        (&[][..], "does not exist"),
        (
            &["resource_timer_is_transient_error"],
            "was not answered in time",
        ),
    ] {
        let mesh = with_features(&plane.address, features);
        let status = call(&mut client_of(&mesh, "xds:///greeter"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(text), "{status}");
    }
}
