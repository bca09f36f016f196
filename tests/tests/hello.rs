//! The first thing that must work: a mesh file, a control plane, meshed servers, a channel.

use sidestep_interop::service::Faults;
use sidestep_interop::testing::{Empty, SimpleRequest};
use sidestep_tests::fixture::{Backend, Fixture};

fn mesh_of(addresses: &[&str]) -> String {
    let endpoints: String = addresses
        .iter()
        .map(|a| format!("        - {{address: \"{a}\"}}\n"))
        .collect();
    format!(
        "mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    endpoints:\n      static:\n{endpoints}    balance: {{policy: round_robin}}\n"
    )
}

#[tokio::test]
async fn a_call_goes_from_the_mesh_file_to_every_server() {
    let fixture =
        Fixture::start("mesh: v1\nservices: {web: {}, greeter: {endpoints: {static: []}}}\n").await;
    let servers = fixture.mesh("greeter");
    let backends = ["a", "b", "c"].map(|id| Backend::start(&servers, id, Faults::default()));
    let addresses = backends.each_ref().map(|backend| backend.address.as_str());
    fixture.push(&mesh_of(&addresses));

    let mesh = fixture.mesh("web");
    let channel = mesh.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let mut client =
        sidestep_interop::testing::test_service_client::TestServiceClient::new(channel);
    for _ in 0..30 {
        let request = SimpleRequest {
            fill_server_id: true,
            ..SimpleRequest::default()
        };
        let answer = client.unary_call(request).await.unwrap();
        assert!(["a", "b", "c"].contains(&answer.get_ref().server_id.as_str()));
    }
    for backend in &backends {
        assert!(
            backend.testing.calls() >= 9,
            "{}: {}",
            backend.address,
            backend.testing.calls()
        );
    }
    client.empty_call(Empty {}).await.unwrap();
    for backend in backends {
        backend.shutdown().await;
    }
}
