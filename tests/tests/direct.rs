//! Without a control plane: targets that need none, and errors that show the ways out.

use std::ffi::OsString;
use std::net::SocketAddr;

use sidestep::{BuildError, CallError, Mesh};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_tests::fixture::unused_address;
use sidestep_tests::load::call;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::Code;

fn tonic_server() -> tonic::transport::server::Router {
    let service = TestServiceServer::new(Testing::new("tonic", Faults::default()));
    tonic::transport::Server::builder().add_service(service)
}

async fn plain_backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(tonic_server().serve_with_incoming(incoming));
    address
}

async fn assert_answered(mesh: &Mesh, target: &str, endpoint: &str) {
    let channel = mesh.channel(target).unwrap();
    let answer = call(&mut TestServiceClient::new(channel)).await;
    let answer = answer.unwrap_or_else(|status| panic!("{target}: {status}"));
    assert_eq!(
        (&*answer.server, &*answer.endpoint),
        ("tonic", endpoint),
        "{target}"
    );
}

#[tokio::test]
async fn addresses_and_names_are_dialled_without_a_bootstrap() {
    let address = plain_backend().await;
    let port = address.port();
    let mesh = Mesh::builder().build().unwrap();
    for target in [
        address.to_string(),
        format!("ipv4:{address}"),
        format!("dns:///localhost:{port}"),
        format!("dns:localhost:{port}"),
        format!("localhost:{port}"),
    ] {
        assert_answered(&mesh, &target, &address.to_string()).await;
    }
}

#[tokio::test]
async fn unix_sockets_are_dialled_by_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let incoming = UnixListenerStream::new(listener);
    tokio::spawn(tonic_server().serve_with_incoming(incoming));
    let mesh = Mesh::builder().build().unwrap();
    let path = path.display();
    let endpoint = format!("unix:{path}");
    assert_answered(&mesh, &format!("unix:{path}"), &endpoint).await;
    assert_answered(&mesh, &format!("unix://{path}"), &endpoint).await;
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_is_dead() {
    let (dead, alive) = (unused_address(), plain_backend().await);
    let mesh = Mesh::builder().build().unwrap();
    let target = format!("ipv4:{dead},{alive}");
    assert_answered(&mesh, &target, &alive.to_string()).await;
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_with_the_name() {
    let mesh = Mesh::builder().build().unwrap();
    let channel = mesh.channel("dns:///nobody.invalid:1").unwrap();
    let status = call(&mut TestServiceClient::new(channel))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(CallError::made_here(&status));
    assert!(
        status.message().contains("dns:///nobody.invalid:1"),
        "{status}"
    );
    assert!(status.message().ends_with("[SX0417]"), "{status}");
}

#[tokio::test]
async fn a_target_of_the_mesh_needs_a_bootstrap() {
    let mesh = Mesh::builder().build().unwrap();
    let error = mesh.channel("xds:///greeter").unwrap_err();
    assert!(matches!(error, BuildError::NoBootstrap), "{error}");
    let error = mesh.channel("no target").unwrap_err().to_string();
    assert!(error.contains("\"no target\""), "{error}");
}

/// The error of a process whose environment is `variables`.
fn start_with(variables: &[(&str, OsString)]) -> String {
    let lookup = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.clone())
    };
    let built = Mesh::builder()
        .from_lookup(lookup)
        .and_then(|builder| builder.build());
    built.expect_err("it must not start").to_string()
}

const FILE: &str = "GRPC_XDS_BOOTSTRAP";
const TEXT: &str = "GRPC_XDS_BOOTSTRAP_CONFIG";

#[test]
fn an_environment_without_bootstrap_shows_the_ways_out() {
    let error = start_with(&[]);
    for part in [FILE, TEXT, "Mesh::builder()", "dns:///"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_bootstrap_file_that_is_not_there_is_named() {
    let error = start_with(&[(FILE, "/nowhere/bootstrap.json".into())]);
    assert!(error.contains("/nowhere/bootstrap.json"), "{error}");
}

#[test]
fn a_bad_bootstrap_is_refused_with_its_place() {
    for (text, parts) in [
        ("xds_servers: []", &[TEXT, "line 1, column 1"][..]),
        ("{}", &["xds_servers"]),
        (r#"{"xds_servers": []}"#, &["xds_servers"]),
        (
            r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "magic"}]}]}"#,
            &["xds_servers[0]", "channel_creds", "magic"],
        ),
    ] {
        let error = start_with(&[(TEXT, text.into())]);
        for part in parts {
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn the_file_wins_over_the_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bootstrap.json");
    std::fs::write(&path, "not JSON").unwrap();
    let text =
        r#"{"xds_servers": [{"server_uri": "a:1", "channel_creds": [{"type": "insecure"}]}]}"#;
    let error = start_with(&[(TEXT, text.into()), (FILE, path.clone().into())]);
    assert!(error.contains(&path.display().to_string()), "{error}");
}
