//! What the compiler can be asked about the public surface, and the forms of a control plane's
//! address.

use serde_json::json;
use sidestep::{BuildError, CallError, Channel, Mesh, ServerError};
use sidestep_interop::testing::Empty;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::{ListenAddress, ManagementServer, RawResources};
use sidestep_tests::fixture::{Fixture, configuration, quick};

const NOBODY: &str = "mesh: v1\nservices: {web: {}, greeter: {endpoints: {static: []}}}\n";

#[test]
fn handles_and_errors_go_anywhere() {
    fn anywhere<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>(_: impl FnOnce() -> T) {}
    anywhere::<Mesh>();
    anywhere::<Channel>();
    anywhere::<CallError>();
    anywhere::<BuildError>();
    anywhere::<ServerError>();
    sent(|| {
        let channel = Mesh::builder()
            .build()
            .unwrap()
            .channel("127.0.0.1:1")
            .unwrap();
        async move { TestServiceClient::new(channel).empty_call(Empty {}).await }
    });
    sent(|| {
        Mesh::builder()
            .build()
            .unwrap()
            .server("127.0.0.1:0")
            .serve()
    });
}

/// Asks the control plane at `uri` for a service without endpoints: the answer shows that the
/// configuration came.
async fn answer_of(uri: &str) -> String {
    let bootstrap = json!({
        "xds_servers": [{"server_uri": uri, "channel_creds": [{"type": "insecure"}]}],
        "node": {"id": "web-1", "cluster": "web"},
    });
    let builder = Mesh::builder()
        .timers(quick())
        .bootstrap_json(&bootstrap.to_string())
        .unwrap();
    let channel = builder.build().unwrap().channel("xds:///greeter").unwrap();
    let status = TestServiceClient::new(channel)
        .empty_call(Empty {})
        .await
        .unwrap_err();
    assert_eq!(
        CallError::from_status(&status),
        Some("no-endpoint"),
        "{uri}: {status}"
    );
    status.message().to_owned()
}

#[tokio::test]
async fn a_control_plane_is_dialled_with_or_without_a_scheme() {
    let fixture = Fixture::start(NOBODY).await;
    let address = fixture.address();
    for uri in [
        address.clone(),
        format!("http://{address}"),
        format!("dns:///{address}"),
    ] {
        assert!(answer_of(&uri).await.contains("greeter"));
    }
}

#[tokio::test]
async fn a_control_plane_may_listen_on_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = format!("unix:{}/ads.sock", directory.path().display());
    let resources = RawResources::unchecked([]).unwrap();
    resources.replace_configuration(configuration(NOBODY));
    let listen: ListenAddress = path.parse().unwrap();
    let running = ManagementServer::builder()
        .source(resources)
        .listen(listen)
        .start()
        .await
        .unwrap();
    assert!(answer_of(&path).await.contains("greeter"));
    running.shutdown().await;
}
