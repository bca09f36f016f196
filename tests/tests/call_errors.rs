//! Calls that a broken configuration or a silent peer ends: each says by a code what is wrong.

use std::sync::Arc;
use std::time::Duration;

use sidestep::subchannel::Http2Options;
use sidestep::{Channel, Mesh};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::codec;
use sidestep_proto::resource::Resource;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Fixture, bootstrap, builder, plain_mesh};
use sidestep_tests::load::call;
use sidestep_tests::raw;

async fn failure(channel: Channel) -> String {
    let status = call(&mut TestServiceClient::new(channel)).await;
    status.unwrap_err().message().to_owned()
}

/// The text has all parts, and the code at its end.
#[track_caller]
fn says(text: &str, code: &str, parts: &[&str]) {
    assert!(text.ends_with(&format!("[{code}]")), "{code}: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn the_runtime_of_the_mesh_has_been_shut_down() {
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let mesh = builder(&bootstrap("127.0.0.1:1", "web")).build().unwrap();
    let dial = |mesh: &Mesh| mesh.channel("xds:///greeter").unwrap();
    let first = runtime();
    let before = first.block_on(async { dial(&mesh) });
    drop(first);
    runtime().block_on(async {
        for channel in [before, dial(&mesh)] {
            says(&failure(channel).await, "SX0401", &["tokio runtime"]);
        }
    });
}

#[tokio::test]
async fn the_listener_is_a_servers() {
    let listener = raw::server_listener("127.0.0.1:9", None);
    let fixture = Fixture::raw(RawResources::unchecked([listener]).unwrap()).await;
    let mut bootstrap = fixture.bootstrap("web");
    bootstrap["client_default_listener_resource_name_template"] =
        bootstrap["server_listener_resource_name_template"].clone();
    let dialled = builder(&bootstrap).build().unwrap();
    let channel = dialled.channel("xds:///127.0.0.1:9").unwrap();
    let parts = ["127.0.0.1:9", "is a server's", "web-node"];
    says(&failure(channel).await, "SX0402", &parts);
}

#[tokio::test]
async fn no_virtual_host_is_for_the_name() {
    let mut routes = raw::route_configuration("r", &["c"]);
    routes.virtual_hosts[0].domains = vec!["payments".to_owned()];
    let routes = codec::encode(&Resource::RouteConfiguration(Arc::new(routes)));
    let resources = [raw::listener("greeter", "r"), routes];
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    let parts = ["RouteConfiguration \"r\"", "\"greeter\"", "web-node"];
    says(&failure(channel).await, "SX0403", &parts);
}

#[tokio::test]
async fn an_endpoint_takes_connections_and_stays_silent() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let fixture = Fixture::start(&plain_mesh(&[&address])).await;
    let limit = Duration::from_millis(50);
    let impatient = fixture.builder("web").http2(Http2Options {
        connect_timeout: limit,
        ..Http2Options::default()
    });
    let channel = impatient.build().unwrap().channel("xds:///greeter");
    let parts = [&*address, "no connection within 50ms", "web-node"];
    says(&failure(channel.unwrap()).await, "SX0410", &parts);
}
