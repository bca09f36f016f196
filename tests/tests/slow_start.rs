//! New endpoints grow into their share: a mesh in virtual time.

use std::time::Duration;

use sidestep::Channel;
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_test::{Backend, TestMesh};

type Client = TestServiceClient<Channel>;

async fn mesh(balance: &str) -> (TestMesh, Client) {
    let text =
        format!("mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    balance: {{{balance}}}\n");
    let mesh = TestMesh::in_memory(&text).unwrap();
    let channel = mesh.channel_as("web", "xds:///greeter").unwrap();
    (mesh, TestServiceClient::new(channel))
}

async fn backend(mesh: &TestMesh, id: &str) -> Backend {
    let service = TestServiceServer::new(Testing::new(id, Faults::default()));
    mesh.serve("greeter", service).await.unwrap()
}

async fn call(client: &mut Client) -> String {
    let response = client.unary_call(SimpleRequest::default()).await;
    response.unwrap().into_inner().hostname
}

async fn until(client: &mut Client, id: &str) {
    for _ in 0..1000 {
        if call(client).await == id {
            return;
        }
        // Virtual time stands still while there is work: pickers come out a moment later.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{id} never answered");
}

/// The share of 2,000 calls that `id` answers.
async fn share(client: &mut Client, id: &str) -> f64 {
    let mut calls = 0;
    for _ in 0..2000 {
        calls += usize::from(call(client).await == id);
    }
    calls as f64 / 2000.0
}

/// One that joins two which are grown begins with a tenth of its share and has all of it at the
/// end.
async fn joins_slowly(balance: &str, tolerance: f64) {
    let (mesh, mut client) = mesh(balance).await;
    let _old = (backend(&mesh, "a").await, backend(&mesh, "b").await);
    call(&mut client).await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    let _new = backend(&mesh, "c").await;
    let start = tokio::time::Instant::now();
    until(&mut client, "c").await;
    for (seconds, part) in [(0, 0.1), (10, 0.25), (20, 0.5), (30, 0.75), (41, 1.0)] {
        let at = start + Duration::from_secs(seconds);
        tokio::time::sleep_until(at).await;
        // One more step of it.
        tokio::time::sleep(Duration::from_millis(410)).await;
        let share = share(&mut client, "c").await;
        let expected = part / (2.0 + part);
        assert!(
            (share - expected).abs() < tolerance,
            "after {seconds} s: {share}, not {expected}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn round_robin_gives_new_endpoints_a_growing_share() {
    joins_slowly("slow_start: 40s", 0.02).await;
}

#[tokio::test(start_paused = true)]
async fn least_request_gives_new_endpoints_a_growing_share() {
    // Drawn by chance: 5 sigma of 2,000 calls at 1/3 is 0.053.
    joins_slowly("policy: least_request, slow_start: 40s", 0.06).await;
}

#[tokio::test(start_paused = true)]
async fn without_it_a_new_endpoint_has_its_share_at_once() {
    let (mesh, mut client) = mesh("policy: round_robin").await;
    let _old = (backend(&mesh, "a").await, backend(&mesh, "b").await);
    call(&mut client).await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    let _new = backend(&mesh, "c").await;
    until(&mut client, "c").await;
    let share = share(&mut client, "c").await;
    assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
}
