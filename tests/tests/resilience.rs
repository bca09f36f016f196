//! What survives the loss of the control plane, of endpoints and of whole priorities, and what
//! fails at once with words that say why.

use std::time::Duration;

use sidestep::{CallError, Channel, WaitForReady};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::Variant;
use sidestep_proto::resource::{DropCategory, PerMillion};
use sidestep_server::{FileSource, ManagementServer, RawResources, Running};
use sidestep_tests::fixture::{
    Backend, Fixture, bootstrap, builder, mesh_file, plain_mesh, unused_address,
};
use sidestep_tests::load::{Load, PATIENCE, Tally, call, until};
use sidestep_tests::raw;
use tonic::{Code, Request, Status};

type Client = TestServiceClient<Channel>;

/// A control plane, and running backends that no mesh file names yet.
async fn backends<const N: usize>(ids: [&str; N]) -> (Fixture, [Backend; N]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ids.map(|id| Backend::start(&servers, id, Faults::default()));
    (fixture, backends)
}

fn client_of(fixture: &Fixture, variant: Variant) -> Client {
    let mesh = fixture.builder("web").variant(variant).build().unwrap();
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

async fn calls(client: &mut Client, n: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..n {
        tally.count(call(client).await);
    }
    tally
}

async fn until_server(client: &mut Client, id: &str) {
    let answered_by = |outcome: &Result<_, Status>| matches!(outcome, Ok(sidestep_tests::load::Answer { server, .. }) if server == id);
    until(client, answered_by).await.unwrap();
}

/// Polls `condition` at every turn of the runtime.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{what} never came"));
}

async fn control_plane_comes_back(variant: Variant) {
    let (mut fixture, [a, b]) = backends(["a", "b"]).await;
    fixture.push(&plain_mesh(&[&a.address]));
    let mut client = client_of(&fixture, variant);
    let load = Load::start(&client, 8).await;
    load.further(200).await;
    fixture.kill().await;
    load.further(300).await;
    fixture.revive().await;
    fixture.push(&plain_mesh(&[&b.address]));
    until_server(&mut client, "b").await;
    load.further(100).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_plane_may_die_and_come_back_under_load() {
    control_plane_comes_back(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn the_control_plane_may_die_and_come_back_under_load_in_delta() {
    control_plane_comes_back(Variant::Delta).await;
}

#[tokio::test]
async fn delta_carries_the_same_configuration() {
    let (fixture, [a, b]) = backends(["a", "b"]).await;
    fixture.push(&plain_mesh(&[&a.address, &b.address]));
    let mut client = client_of(&fixture, Variant::Delta);
    let tally = calls(&mut client, 60).await;
    tally.assert_none_failed();
    fixture.push(&plain_mesh(&[&b.address]));
    let all_b = async { while calls(&mut client, 20).await.by_server.get("b") != Some(&20) {} };
    tokio::time::timeout(PATIENCE, all_b).await.unwrap();
    let clients = fixture.running().tracker().clients();
    let web = clients.iter().find(|c| c.node_cluster == "web").unwrap();
    assert_eq!(web.variant, Variant::Delta);
}

#[tokio::test]
async fn a_service_starts_while_the_control_plane_is_down() {
    let (mut fixture, [a]) = backends(["a"]).await;
    fixture.push(&plain_mesh(&[&a.address]));
    // The backend has its listener.
    call(&mut fixture.client("xds:///greeter")).await.unwrap();
    let server = fixture.address();
    fixture.kill().await;

    let mut client = fixture.client("xds:///greeter");
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::from_status(&status), Some("config"));
    for part in ["Listener \"greeter\"", &server, "web-node"] {
        assert!(status.message().contains(part), "{status}");
    }

    let mut waiting = Request::new(SimpleRequest::default());
    waiting.extensions_mut().insert(WaitForReady(true));
    let waiting = tokio::spawn({
        let mut client = client.clone();
        async move { client.unary_call(waiting).await }
    });
    fixture.revive().await;
    let answer = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!(answer.unwrap().unwrap().get_ref().hostname, "a");
    call(&mut client).await.unwrap();
}

#[tokio::test]
async fn a_call_that_waits_still_has_its_deadline() {
    let mut fixture = Fixture::start(&mesh_file(&[], "")).await;
    fixture.kill().await;
    let mut waiting = Request::new(SimpleRequest::default());
    waiting.extensions_mut().insert(WaitForReady(true));
    waiting.set_timeout(Duration::from_millis(100));
    let mut client = fixture.client("xds:///greeter");
    let status = client.unary_call(waiting).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().contains("configuration"), "{status}");
}

async fn following(file: &std::path::Path) -> Running {
    let source = FileSource::new([file]);
    let server = ManagementServer::builder().source(source).start().await;
    server.expect("the first mesh file is good")
}

#[tokio::test]
async fn a_broken_edit_is_refused_whole_and_calls_go_on() {
    let (_servers, [a, b]) = backends(["a", "b"]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("mesh.yaml");
    std::fs::write(&file, plain_mesh(&[&a.address])).unwrap();
    let running = following(&file).await;
    let address = running.address().to_string();
    let mesh = builder(&bootstrap(&address, "web")).build().unwrap();
    let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    let load = Load::start(&client, 4).await;
    load.further(50).await;

    let broken = format!("{}    timeout: 5\n", plain_mesh(&[&b.address]));
    std::fs::write(&file, broken).unwrap();
    let mut reports = running.store().watch_reports();
    let refused = reports.wait_for(|report| report.refusal.is_some());
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let error = refused.unwrap().refusal.clone().unwrap().error.to_string();
    assert!(error.contains("mesh.yaml:"), "{error}");
    assert!(error.contains("timeout"), "{error}");
    load.further(100).await;

    std::fs::write(&file, plain_mesh(&[&b.address])).unwrap();
    until_server(&mut client, "b").await;
    let tally = load.stop().await;
    tally.assert_none_failed();
}

#[tokio::test]
async fn an_unknown_name_fails_at_once_with_the_nearest() {
    let (fixture, [a]) = backends(["a"]).await;
    fixture.push(&plain_mesh(&[&a.address]));
    // Long before the 15 s after which silence means that a resource does not exist.
    let mut client = fixture.client("xds:///greter");
    let status = tokio::time::timeout(Duration::from_secs(10), call(&mut client));
    let status = status.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::from_status(&status), Some("config"));
    for part in ["greter", "did you mean \"greeter\"?", "web-node"] {
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn a_deleted_listener_stays_in_use_and_new_channels_fail() {
    let (fixture, [a]) = backends(["a"]).await;
    fixture.push(&plain_mesh(&[&a.address]));
    let mut old = fixture.client("xds:///greeter");
    call(&mut old).await.unwrap();
    fixture.push("mesh: v1\nservices: {web: {}}\n");
    let status = until(&mut fixture.client("xds:///greeter"), Result::is_err)
        .await
        .unwrap_err();
    assert_eq!(CallError::from_status(&status), Some("config"));
    calls(&mut old, 50).await.assert_none_failed();
}

#[tokio::test]
async fn an_endpoint_that_cannot_connect_is_not_picked() {
    let (fixture, [a]) = backends(["a"]).await;
    let dead = unused_address();
    fixture.push(&plain_mesh(&[&dead, &a.address]));
    let mut client = fixture.client("xds:///greeter");
    let tally = calls(&mut client, 200).await;
    tally.assert_none_failed();
    assert_eq!(tally.by_server["a"], 200);

    let servers = fixture.mesh("greeter");
    let _revived = Backend::start_at(&servers, &dead, "revived", Faults::default());
    until_server(&mut client, "revived").await;
    let tally = calls(&mut client, 40).await;
    assert_eq!(tally.by_server.len(), 2, "{tally:?}");
}

#[tokio::test]
async fn without_an_endpoint_calls_fail_with_the_last_connection_error() {
    let dead = unused_address();
    let fixture = Fixture::start(&plain_mesh(&[&dead])).await;
    let status = call(&mut fixture.client("xds:///greeter"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::from_status(&status), Some("no-endpoint"));
    for part in ["cluster \"greeter\"", &dead, "refused"] {
        assert!(status.message().contains(part), "{status}");
    }
}

#[tokio::test]
async fn calls_above_the_limit_of_outstanding_ones_fail_here() {
    let (fixture, [a]) = backends(["a"]).await;
    let keys = "limits: {max_outstanding_per_client: 1}";
    fixture.push(&mesh_file(&[(&a.address, "v1")], keys));
    let mut client = fixture.client("xds:///greeter");
    // A stream that stays open until its caller is done with it.
    let (_sender, requests) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let open = client.full_duplex_call(requests).await.unwrap();
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::from_status(&status), Some("circuit-open"));
    drop(open);
    call(&mut client).await.unwrap();
}

#[tokio::test]
async fn calls_fail_over_to_the_next_priority_and_back() {
    let (fixture, [first, second]) = backends(["first", "second"]).await;
    let address = first.address.clone();
    let levels = raw::assignment(
        "greeter",
        &[(0, 1, address.as_str()), (1, 1, &second.address)],
        &[],
    );
    let plane = plane_of(raw::service("greeter", levels)).await;
    let mut client = plane.client("xds:///greeter");
    let tally = calls(&mut client, 50).await;
    assert_eq!(tally.by_server.get("first"), Some(&50), "{tally:?}");
    first.kill().await;
    until_server(&mut client, "second").await;
    calls(&mut client, 50).await.assert_none_failed();
    let servers = fixture.mesh("greeter");
    let _back = Backend::start_at(&servers, &address, "back", Faults::default());
    until_server(&mut client, "back").await;
    let tally = calls(&mut client, 50).await;
    assert_eq!(tally.by_server.get("back"), Some(&50), "{tally:?}");
}

async fn plane_of(resources: impl IntoIterator<Item = sidestep_proto::wire::Any>) -> Fixture {
    Fixture::raw(RawResources::new(resources).unwrap()).await
}

#[tokio::test]
async fn localities_share_calls_by_weight() {
    let (_servers, [near, far]) = backends(["near", "far"]).await;
    let shares = raw::assignment(
        "greeter",
        &[(0, 3, &near.address), (0, 1, &far.address)],
        &[],
    );
    let plane = plane_of(raw::service("greeter", shares)).await;
    let mesh = plane.mesh("web");
    let channel = mesh.channel("xds:///greeter").unwrap();
    let mut client = TestServiceClient::new(channel.clone());
    // Until both are connected, the one that is takes everything.
    until_server(&mut client, "near").await;
    until_server(&mut client, "far").await;
    let tally = calls(&mut client, 1000).await;
    tally.assert_none_failed();
    let far = tally.by_server["far"] as f64;
    let sigma = (1000.0_f64 * 0.25 * 0.75).sqrt();
    assert!((far - 250.0).abs() <= 5.0 * sigma, "{far} of 1000");
}

#[tokio::test]
async fn the_control_plane_can_have_a_share_of_calls_dropped() {
    let (_servers, [a]) = backends(["a"]).await;
    let category = |parts| DropCategory {
        category: "shed".to_owned(),
        share: PerMillion::new(parts),
    };
    let dropping = |parts| raw::assignment("greeter", &[(0, 1, &a.address)], &[category(parts)]);
    let plane = plane_of(raw::service("greeter", dropping(300_000))).await;
    let mut client = plane.client("xds:///greeter");
    let tally = calls(&mut client, 1000).await;
    let dropped = tally.failed.len() as f64;
    let sigma = (1000.0_f64 * 0.3 * 0.7).sqrt();
    assert!((dropped - 300.0).abs() <= 5.0 * sigma, "{dropped} of 1000");
    for status in &tally.failed {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(CallError::from_status(status), Some("dropped"), "{status}");
        assert!(status.message().contains("shed"), "{status}");
    }
}

#[tokio::test]
async fn pick_first_stays_with_one_endpoint_until_it_is_gone() {
    let (fixture, [a, b]) = backends(["a", "b"]).await;
    let endpoints = [(a.address.as_str(), "v1"), (b.address.as_str(), "v1")];
    fixture.push(&mesh_file(&endpoints, "balance: {policy: pick_first}"));
    let mut client = fixture.client("xds:///greeter");
    let tally = calls(&mut client, 100).await;
    tally.assert_none_failed();
    assert_eq!(tally.by_server.len(), 1, "{tally:?}");
    let (chosen, other, rest) = match tally.by_server.contains_key("a") {
        true => (a, "b", b),
        false => (b, "a", a),
    };
    chosen.kill().await;
    until_server(&mut client, other).await;
    rest.shutdown().await;
}

#[tokio::test]
async fn least_request_avoids_the_loaded_endpoint() {
    let (fixture, [a, b]) = backends(["a", "b"]).await;
    let endpoints = [(a.address.as_str(), "v1"), (b.address.as_str(), "v1")];
    fixture.push(&mesh_file(&endpoints, "balance: {policy: least_request}"));
    let mut client = fixture.client("xds:///greeter");
    until_server(&mut client, "a").await;
    until_server(&mut client, "b").await;
    // Streams that stay open: twenty of them share out evenly.
    let mut open = Vec::new();
    for _ in 0..20 {
        let (sender, requests) = tokio::sync::mpsc::channel(1);
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let response = client.full_duplex_call(requests).await.unwrap();
        let id = response.metadata().get("hostname").unwrap().clone();
        open.push((id, sender, response));
    }
    let on_a = open.iter().filter(|(id, ..)| id == "a").count();
    assert!((7..=13).contains(&on_a), "{on_a} of 20");
    // Now only `a` is loaded: it is picked where both of a call's two draws fall on it.
    open.retain(|(id, ..)| id == "a");
    let tally = calls(&mut client, 400).await;
    tally.assert_none_failed();
    let on_a = *tally.by_server.get("a").unwrap_or(&0) as f64;
    let sigma = (400.0_f64 * 0.25 * 0.75).sqrt();
    assert!((on_a - 100.0).abs() <= 5.0 * sigma, "{on_a} of 400");
}

#[tokio::test]
async fn channels_share_one_stream_and_unsubscribe_when_dropped() {
    let (fixture, [a]) = backends(["a"]).await;
    fixture.push(&plain_mesh(&[&a.address]));
    let mesh = fixture.mesh("web");
    let names = |type_name: &str| {
        let clients = fixture.running().tracker().clients();
        let ours: Vec<_> = clients
            .into_iter()
            .filter(|client| client.node_cluster == "web")
            .collect();
        assert!(ours.len() <= 1, "one stream a process: {ours:?}");
        let types = ours.into_iter().flat_map(|client| client.types);
        let of_type = types.filter(|(url, _)| url.ends_with(type_name));
        of_type.flat_map(|(_, progress)| progress.names).collect()
    };
    let mut first = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    call(&mut first).await.unwrap();
    let mut second = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    call(&mut second).await.unwrap();
    let other = mesh.channel("xds:///other").unwrap();
    other.loaded().await.unwrap_err();
    let listeners: Vec<String> = names("Listener");
    assert_eq!(listeners, ["greeter", "other"]);

    drop(other);
    eventually("unsubscribing", || names("Listener") == ["greeter"]).await;
    drop(first);
    call(&mut second).await.unwrap();
    drop(second);
    eventually("unsubscribing", || {
        let all: [Vec<String>; 2] = [names("Listener"), names("Cluster")];
        all.iter().all(Vec::is_empty)
    })
    .await;
}
