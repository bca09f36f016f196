//! Balancing by latency: a mesh in virtual time.

use std::time::Duration;

use sidestep::Channel;
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_test::{Backend, TestMesh};

type Client = TestServiceClient<Channel>;

const MESH: &str = "mesh: v1\nservices:\n  web: {}\n  greeter:\n    balance: {policy: peak_ewma}\n";

/// Three backends that answer after 10 ms, and a client that has met them all.
async fn three() -> (TestMesh, [Backend; 3], Client) {
    let mesh = TestMesh::in_memory(MESH).unwrap();
    let mut backends = Vec::new();
    for id in ["a", "b", "c"] {
        let service = TestServiceServer::new(Testing::new(id, Faults::default()));
        let backend = mesh.serve("greeter", service).await.unwrap();
        backend.slow(Duration::from_millis(10));
        backends.push(backend);
    }
    let channel = mesh.channel_as("web", "xds:///greeter").unwrap();
    channel.ready().await;
    let mut client = TestServiceClient::new(channel);
    let backends: [Backend; 3] = backends.try_into().ok().unwrap();
    while backends.iter().any(|backend| backend.calls() == 0) {
        call(&mut client).await.unwrap();
    }
    (mesh, backends, client)
}

async fn call(client: &mut Client) -> Result<(), tonic::Status> {
    let response = client.unary_call(SimpleRequest::default()).await;
    response.map(drop)
}

/// How many of `calls` calls, five at a time, each backend takes.
async fn taken(client: &Client, backends: &[Backend; 3], calls: u64) -> [u64; 3] {
    let before = backends.each_ref().map(Backend::calls);
    for _ in 0..calls / 5 {
        let five = (0..5).map(|_| {
            let mut client = client.clone();
            async move { call(&mut client).await }
        });
        futures_util::future::join_all(five).await;
    }
    let after = backends.each_ref().map(Backend::calls);
    [0, 1, 2].map(|i| after[i] - before[i])
}

#[tokio::test(start_paused = true)]
async fn a_slow_backend_is_avoided_and_forgiven() {
    let (_mesh, backends, client) = three().await;
    let even = taken(&client, &backends, 600).await;
    assert!(even.iter().all(|n| *n > 120), "{even:?}");
    backends[2].slow(Duration::from_millis(300));
    let [a, b, c] = taken(&client, &backends, 600).await;
    // A few until it is noticed, and one now and then.
    assert!(c < 20 && a > 200 && b > 200, "{a} {b} {c}");
    backends[2].slow(Duration::from_millis(10));
    tokio::time::sleep(Duration::from_secs(120)).await;
    let again = taken(&client, &backends, 600).await;
    assert!(again[2] > 120, "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_fails_fast_draws_no_calls() {
    let (_mesh, backends, client) = three().await;
    backends[1].heal();
    backends[1].fail(1.0);
    let [a, b, c] = taken(&client, &backends, 600).await;
    assert!(b < 30 && a > 200 && c > 200, "{a} {b} {c}");
}
