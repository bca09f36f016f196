//! `SIDESTEP_MODE=direct`: around the mesh, and only when the operator says so.

use std::ffi::OsString;
use std::process::Command;
use std::sync::Arc;

use sidestep::security::provider::static_::StaticProvider;
use sidestep::{BuildError, CallError, Channel, Mesh, ServerError, StaticResources};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_tests::fixture::{Authority, Backend, Fixture, plain_mesh, quick, unused_address};
use sidestep_tests::load::{call, until};
use sidestep_tests::raw;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

fn direct() -> Mesh {
    let lookup = |name: &str| (name == "SIDESTEP_MODE").then(|| OsString::from("direct"));
    let builder = Mesh::builder().timers(quick()).from_lookup(lookup);
    builder.expect("no bootstrap is needed").build().unwrap()
}

fn client(channel: Channel) -> TestServiceClient<Channel> {
    TestServiceClient::new(channel)
}

/// A server that knows nothing of meshes.
async fn plain_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let service = TestServiceServer::new(Testing::new("plain", Faults::default()));
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

#[tokio::test]
async fn the_operator_sends_calls_around_the_mesh() {
    let address = plain_server().await;
    let mesh = direct();
    mesh.telemetry().turn_on();
    let channel = mesh.channel("xds:///greeter").unwrap();
    let channel = channel.or_direct(&format!("http://{address}")).unwrap();
    let answer = call(&mut client(channel)).await.unwrap();
    assert_eq!(
        (answer.server.as_str(), answer.endpoint),
        ("plain", address)
    );
    let metrics = mesh.telemetry().prometheus_text();
    let direct = "sidestep_channel_direct{grpc_target=\"xds:///greeter\"} 1";
    assert!(metrics.contains(direct), "{metrics}");
}

#[tokio::test]
async fn a_failing_mesh_is_never_gone_around() {
    let address = plain_server().await;
    let mut fixture = Fixture::start(&plain_mesh(&[])).await;
    let mesh = fixture.mesh("web");
    let channel = mesh.channel("xds:///greeter").unwrap();
    let url = format!("http://{address}");
    let mut greeter = client(channel.or_direct(&url).unwrap());
    let status = call(&mut greeter).await.unwrap_err();
    assert_eq!(CallError::from_status(&status), Some("no-endpoint"));
    fixture.kill().await;
    let other = mesh.channel("xds:///other").unwrap().or_direct(&url);
    let status = call(&mut client(other.unwrap())).await.unwrap_err();
    assert_eq!(CallError::from_status(&status), Some("config"), "{status}");
}

#[tokio::test]
async fn a_channel_without_a_way_around_says_so_and_leaves_the_others_alone() {
    let address = plain_server().await;
    let mesh = direct();
    let lost = mesh.channel("xds:///lost").unwrap();
    let error = lost.loaded().await.unwrap_err().to_string();
    let status = call(&mut client(lost)).await.unwrap_err();
    for part in ["SIDESTEP_MODE=direct", "\"xds:///lost\"", "or_direct"] {
        assert!(status.message().contains(part), "{status}");
        assert!(error.contains(part), "{error}");
    }
    let good = mesh.channel("xds:///greeter").unwrap();
    let good = good.or_direct(&format!("http://{address}/")).unwrap();
    call(&mut client(good)).await.unwrap();
    // Ends, and does not wait for what will not come.
    mesh.ready().await;
}

#[test]
fn what_is_wrong_is_said_in_either_mode() {
    let meshed = Mesh::builder().build().unwrap();
    for mesh in [&meshed, &direct()] {
        for url in [
            "greeter:50051",
            "xds:///greeter",
            "http://",
            "http://a/b",
            "ftp://a",
        ] {
            let target = match mesh.channel("xds:///greeter") {
                Ok(channel) => channel,
                Err(BuildError::NoBootstrap) => mesh.channel("127.0.0.1:1").unwrap(),
                Err(error) => panic!("{error}"),
            };
            let error = target.or_direct(url).expect_err(url).to_string();
            assert!(error.contains(url), "{error}");
        }
    }
    let lookup = |name: &str| (name == "SIDESTEP_MODE").then(|| OsString::from("dirct"));
    let error = Mesh::builder().from_lookup(lookup).unwrap_err();
    let text = error.to_string();
    for part in ["\"dirct\"", "`mesh`", "`direct`"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_server_serves_in_plaintext_only_if_both_have_said_so() {
    let service = || Testing::new("one", Faults::default());
    let server = |mesh: &Mesh| {
        let service = TestServiceServer::new(service());
        mesh.server("127.0.0.1:0").add_service(service)
    };
    let mesh = direct();
    let error = server(&mesh).serve().await.unwrap_err();
    assert!(matches!(error, ServerError::Direct { .. }), "{error}");
    assert!(
        error.to_string().contains("or_direct_plaintext()"),
        "{error}"
    );
    let allowed = server(&mesh).or_direct_plaintext();
    let backend = Backend::serve(allowed, service());
    let channel = mesh.channel("xds:///greeter").unwrap();
    let channel = channel.or_direct(&format!("http://{}", backend.address));
    until(&mut client(channel.unwrap()), Result::is_ok)
        .await
        .unwrap();

    // The word alone changes nothing: this one waits for its Listener.
    let fixture = Fixture::raw(sidestep_server::RawResources::unchecked([]).unwrap()).await;
    let meshed = Backend::serve(
        server(&fixture.mesh("greeter")).or_direct_plaintext(),
        service(),
    );
    let refused = tokio::net::TcpStream::connect(&meshed.address).await;
    assert!(refused.is_err(), "nobody is let in");
}

/// Set in the process that has the test's authority among the roots of its platform.
const INSIDE: &str = "SIDESTEP_TEST_HTTPS";

#[tokio::test]
async fn https_is_verified_by_host_name_and_the_roots_of_the_platform() {
    let Ok(address) = std::env::var(INSIDE) else {
        return outside().await;
    };
    let (_, port) = address.rsplit_once(':').unwrap();
    let channel = |host: &str| {
        let channel = direct().channel("xds:///greeter").unwrap();
        client(
            channel
                .or_direct(&format!("https://{host}:{port}"))
                .unwrap(),
        )
    };
    assert_eq!(call(&mut channel("localhost")).await.unwrap().server, "tls");
    // The certificate is made out to the name alone.
    let status = call(&mut channel("127.0.0.1")).await.unwrap_err();
    assert_eq!(
        CallError::from_status(&status),
        Some("no-endpoint"),
        "{status}"
    );
    assert!(status.message().contains("certificate"), "{status}");
}

async fn outside() {
    let authority = Authority::default();
    let (chain, key) = authority.host_leaf("localhost");
    let identity = StaticProvider::from_pem(Some((chain.as_bytes(), key.as_bytes())), None);
    let address = unused_address();
    let listener = raw::server_listener(&address, Some("own"));
    let mesh = Mesh::builder()
        .static_resources(StaticResources::new([listener]).unwrap())
        .certificate_provider("own", Arc::new(identity.unwrap()))
        .build()
        .unwrap();
    let _backend = Backend::start_at(&mesh, &address, "tls", Faults::default());
    let directory = tempfile::tempdir().unwrap();
    let roots = directory.path().join("roots.pem");
    std::fs::write(&roots, authority.root()).unwrap();
    let run = move || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("https_is_verified_by_host_name_and_the_roots_of_the_platform")
            .env(INSIDE, address)
            .env("SSL_CERT_FILE", roots)
            .status()
    };
    let status = tokio::task::spawn_blocking(run).await.unwrap().unwrap();
    assert!(status.success());
}
