//! Which calls go where, for how long, and what a change of that does to calls under way.

use std::time::Duration;

use sidestep::CallError;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::{Empty, SimpleRequest};
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, silent_backend};
use sidestep_tests::load::{Load, Tally, call, until};
use tonic::{Code, Request};

/// Two versions: backend `stable` is v1, backend `canary` is v2.
struct Split {
    fixture: Fixture,
    backends: [Backend; 2],
}

impl Split {
    async fn start(routes: &str) -> Self {
        let fixture = Fixture::start(&mesh_file(&[], "")).await;
        let servers = fixture.mesh("greeter");
        let backends =
            ["stable", "canary"].map(|id| Backend::start(&servers, id, Faults::default()));
        let split = Self { fixture, backends };
        split.push(routes);
        split
    }

    fn push(&self, routes: &str) {
        let [stable, canary] = self.backends.each_ref().map(|b| b.address.as_str());
        let keys = format!("versions: {{stable: v1, canary: v2}}\n{routes}");
        let mesh = mesh_file(&[(stable, "v1"), (canary, "v2")], &keys);
        self.fixture.push(&mesh);
    }

    fn client(&self) -> TestServiceClient<sidestep::Channel> {
        self.fixture.client("xds:///greeter")
    }
}

async fn calls(client: &mut TestServiceClient<sidestep::Channel>, n: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..n {
        tally.count(call(client).await);
    }
    tally
}

/// Asserts that `hits` of `n` draws agree with `share` within five standard deviations.
fn assert_share(hits: u64, n: u32, share: f64) {
    let (n, hits) = (f64::from(n), hits as f64);
    let sigma = (n * share * (1.0 - share)).sqrt();
    assert!(
        (hits - n * share).abs() <= 5.0 * sigma,
        "{hits} of {n}, expected {}",
        n * share
    );
}

#[tokio::test]
async fn calls_are_split_by_weight_and_the_split_moves_live() {
    let split = Split::start("routes: [{to: {stable: 9, canary: 1}}]").await;
    let mut client = split.client();
    let before = calls(&mut client, 2000).await;
    before.assert_none_failed();
    assert_share(before.by_server["canary"], 2000, 0.1);

    split.push("routes: [{to: {stable: 0, canary: 1}}]");
    until(
        &mut client,
        |o| matches!(o, Ok(answer) if answer.server == "canary"),
    )
    .await
    .unwrap();
    // The old split also sends calls to the canary: all of them go there once the change is in.
    let all_canary =
        async { while calls(&mut client, 100).await.by_server.get("canary") != Some(&100) {} };
    tokio::time::timeout(sidestep_tests::load::PATIENCE, all_canary)
        .await
        .expect("the change arrives");
    split.push("routes: [{to: {stable: 1, canary: 1}}]");
    until(
        &mut client,
        |o| matches!(o, Ok(answer) if answer.server == "stable"),
    )
    .await
    .unwrap();
    let after = calls(&mut client, 2000).await;
    after.assert_none_failed();
    assert_share(after.by_server["canary"], 2000, 0.5);
}

const BETA_FIRST: &str = "routes:
  - {name: beta, match: {headers: {x-beta: \"1\"}}, to: canary}
  - {name: empty, match: {method: grpc.testing.TestService/EmptyCall}, to: canary}
  - {name: main, to: stable}
  - {name: never, to: canary}";

#[tokio::test]
async fn the_first_route_that_matches_header_or_method_wins() {
    let split = Split::start(BETA_FIRST).await;
    let mut client = split.client();
    assert_eq!(call(&mut client).await.unwrap().server, "stable");

    let mut beta = Request::new(SimpleRequest::default());
    beta.metadata_mut().insert("x-beta", "1".parse().unwrap());
    let answer = client.unary_call(beta).await.unwrap();
    assert_eq!(answer.get_ref().hostname, "canary");

    let mut other = Request::new(SimpleRequest::default());
    other.metadata_mut().insert("x-beta", "0".parse().unwrap());
    let answer = client.unary_call(other).await.unwrap();
    assert_eq!(answer.get_ref().hostname, "stable");

    let answer = client.empty_call(Empty {}).await.unwrap();
    assert_eq!(answer.metadata().get("hostname").unwrap(), "canary");
}

#[tokio::test]
async fn a_call_that_no_route_takes_fails_with_its_path() {
    let split =
        Split::start("routes: [{match: {method: grpc.testing.TestService/EmptyCall}, to: stable}]")
            .await;
    let mut client = split.client();
    client.empty_call(Empty {}).await.unwrap();
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let expected = format!(
        "no route of \"greeter\" takes /grpc.testing.TestService/UnaryCall (xDS server {}, node \
         \"web-node\") [SX0404]",
        split.fixture.address()
    );
    assert_eq!(status.message(), expected);
    assert_eq!(CallError::from_status(&status), Some("no-route"));
}

/// A mesh whose backend never answers.
async fn silent(routes: &str) -> Fixture {
    Fixture::start(&mesh_file(&[(&silent_backend().await, "v1")], routes)).await
}

fn assert_ended_here(status: &tonic::Status, after: &str) {
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert_eq!(CallError::from_status(status), Some("deadline"));
    let expected = format!("deadline exceeded after {after}, waiting for an answer of 127.0.0.1:");
    assert!(status.message().starts_with(&expected), "{status}");
    assert!(status.message().ends_with(" [SX0415]"), "{status}");
}

#[tokio::test]
async fn a_routes_timeout_ends_the_call_here() {
    let fixture = silent("routes: [{timeout: 200ms}]").await;
    let started = std::time::Instant::now();
    let status = call(&mut fixture.client("xds:///greeter")).await;
    assert_ended_here(&status.unwrap_err(), "200ms");
    assert!(started.elapsed() >= Duration::from_millis(199));
}

#[tokio::test]
async fn the_shorter_of_the_applications_and_the_routes_deadline_counts() {
    for (route, application) in [(50_000, 200), (200, 50_000)] {
        let fixture = silent(&format!("routes: [{{timeout: {route}ms}}]")).await;
        let mut request = Request::new(SimpleRequest::default());
        request.set_timeout(Duration::from_millis(application));
        let mut client = fixture.client("xds:///greeter");
        let status = client.unary_call(request).await;
        assert_ended_here(&status.unwrap_err(), "200ms");
    }
}

#[tokio::test]
async fn a_route_without_timeout_bounds_nothing() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let faults = Faults {
        delay: Duration::from_millis(300),
        ..Faults::default()
    };
    let backend = Backend::start(&fixture.mesh("greeter"), "a", faults);
    let endpoints = [(backend.address.as_str(), "v1")];
    let unbounded = "timeout: 20ms\nroutes: [{timeout: none}]";
    fixture.push(&mesh_file(&endpoints, unbounded));
    let mut client = fixture.client("xds:///greeter");
    call(&mut client).await.unwrap();

    fixture.push(&mesh_file(&endpoints, "timeout: 20ms"));
    let status = until(&mut client, Result::is_err).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_fail_no_call() {
    let split = Split::start("routes: [{to: stable}]").await;
    let client = split.client();
    let load = Load::start(&client, 8).await;
    load.further(100).await;
    let [stable, canary] = split.backends.each_ref().map(|b| b.address.clone());
    for round in 0..12 {
        // Other versions, so other clusters: the old ones are gone in the same change.
        let (name, address, version) = if round % 2 == 0 {
            ("green", &canary, "v2")
        } else {
            ("blue", &stable, "v1")
        };
        let keys =
            format!("versions: {{{name}{round}: {version}}}\nroutes: [{{to: {name}{round}}}]");
        split.fixture.push(&mesh_file(&[(address, version)], &keys));
        load.further(60).await;
    }
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert_eq!(tally.retried, 0);
    assert!(tally.by_server["stable"] > 0 && tally.by_server["canary"] > 0);
}

#[tokio::test]
async fn a_cluster_that_left_and_comes_back_has_its_new_endpoints() {
    let split = Split::start("routes: [{to: stable}]").await;
    let mut client = split.client();
    assert_eq!(call(&mut client).await.unwrap().server, "stable");
    split.push("routes: [{to: canary}]");
    until(&mut client, |o| {
        o.as_ref().is_ok_and(|a| a.server == "canary")
    })
    .await
    .unwrap();

    let servers = split.fixture.mesh("greeter");
    let moved = Backend::start(&servers, "moved", Faults::default());
    let canary = split.backends[1].address.as_str();
    let keys = "versions: {stable: v1, canary: v2}\nroutes: [{to: stable}]";
    let mesh = mesh_file(&[(&moved.address, "v1"), (canary, "v2")], keys);
    split.fixture.push(&mesh);
    let answer = until(&mut client, |o| {
        o.as_ref().map_or(true, |a| a.server != "canary")
    })
    .await
    .unwrap();
    assert_eq!(answer.server, "moved");
    let after = calls(&mut client, 30).await;
    assert_eq!(after.by_server.get("moved"), Some(&30), "{after:?}");
}

#[tokio::test]
async fn other_host_names_of_a_service_reach_it() {
    let split = Split::start("hosts: [\"greeter.prod.example:50051\"]").await;
    let mut client = split.fixture.client("xds:///greeter.prod.example:50051");
    call(&mut client).await.unwrap();
}

/// The time from handing a new mesh to the control plane to the first call on the new route.
#[tokio::test]
async fn a_change_reaches_calls_quickly() {
    let split = Split::start("routes: [{to: stable}]").await;
    let mut client = split.client();
    call(&mut client).await.unwrap();
    let mut took = Vec::new();
    for round in 0..21 {
        let to = if round % 2 == 0 { "canary" } else { "stable" };
        let started = std::time::Instant::now();
        split.push(&format!("routes: [{{to: {to}}}]"));
        until(&mut client, |o| o.as_ref().is_ok_and(|a| a.server == to))
            .await
            .unwrap();
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let median = took[took.len() / 2];
    println!("from push to the first call on the new route: median {median:?}, all {took:?}");
    assert!(median < Duration::from_secs(1), "{took:?}");
}
