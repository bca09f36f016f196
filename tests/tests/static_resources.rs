//! A mesh without a control plane: resources in the process.

use sidestep::{BuildError, CallError, Mesh, StaticResources};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::Bundle;
use sidestep_server::source::SourceText;
use sidestep_tests::fixture::{
    Authority, Backend, plain_mesh, quick, secured, spiffe, unused_address,
};
use sidestep_tests::load::{Load, call, until};
use sidestep_tests::raw;

fn resources(mesh: &str) -> StaticResources {
    let text = SourceText {
        path: "mesh.yaml".to_owned(),
        text: mesh.to_owned(),
    };
    let bundle = Bundle::from_mesh(&[text]).expect("a good mesh");
    StaticResources::decode(&bundle.encode()).expect("what was just encoded")
}

fn mesh(resources: StaticResources) -> Mesh {
    let builder = Mesh::builder().timers(quick()).static_resources(resources);
    builder.build().expect("good resources")
}

#[tokio::test]
async fn channels_and_servers_work_without_any_control_plane() {
    let address = unused_address();
    let mesh = Mesh::from_static(resources(&plain_mesh(&[&address]))).unwrap();
    let backend = Backend::start_at(&mesh, &address, "one", Faults::default());
    let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    let answer = until(&mut client, Result::is_ok).await.unwrap();
    assert_eq!((answer.server.as_str(), answer.endpoint), ("one", address));
    backend.shutdown().await;
}

/// A process without a control plane would wait for these for ever.
#[test]
fn endpoints_that_a_source_tells_need_a_control_plane() {
    for source in ["dns: \"greeter.test:80\"", "targets: greeter.json"] {
        let text = SourceText {
            path: "mesh.yaml".to_owned(),
            text: format!("mesh: v1\nservices:\n  greeter:\n    endpoints: {{{source}}}\n"),
        };
        let error = Bundle::from_mesh(&[text]).unwrap_err();
        let [found] = &error.diagnostics()[..] else {
            panic!("{error}");
        };
        let shown = found.to_string();
        assert!(shown.starts_with("mesh.yaml:4:"), "{shown}");
        assert!(shown.contains("services.greeter.endpoints"), "{shown}");
        assert!(shown.ends_with("[SX0237]"), "{shown}");
    }
}

#[tokio::test]
async fn mutual_tls_works_without_any_control_plane() {
    let address = unused_address();
    let file = secured(&plain_mesh(&[&address]), "strict");
    let authority = Authority::default();
    let as_service = |service: &str| {
        let builder = Mesh::builder()
            .timers(quick())
            .static_resources(resources(&file));
        let provider = authority.provider(&spiffe(service));
        builder
            .certificate_provider("default", provider)
            .build()
            .unwrap()
    };
    let _backend = Backend::start_at(&as_service("greeter"), &address, "one", Faults::default());
    let channel = as_service("web").channel("xds:///greeter").unwrap();
    let mut client = TestServiceClient::new(channel);
    assert_eq!(
        until(&mut client, Result::is_ok).await.unwrap().server,
        "one"
    );
    // Without the certificates nothing is served or called.
    let error = Mesh::from_static(resources(&file)).unwrap_err();
    assert!(matches!(error, BuildError::StaticResources(_)));
    let text = error.to_string();
    for part in ["Cluster \"greeter\"", "transport_socket", "\"default\""] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn a_replacement_under_load_fails_no_call() {
    let addresses = [unused_address(), unused_address()];
    let both = plain_mesh(&[&addresses[0], &addresses[1]]);
    let servers = mesh(resources(&both));
    let _one = Backend::start_at(&servers, &addresses[0], "one", Faults::default());
    let _two = Backend::start_at(&servers, &addresses[1], "two", Faults::default());
    let mesh = mesh(resources(&plain_mesh(&[&addresses[0]])));
    let client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    let load = Load::start(&client, 2).await;
    for address in [&addresses[1], &addresses[0], &addresses[1]] {
        mesh.replace(resources(&plain_mesh(&[address]))).unwrap();
        load.further(50).await;
    }
    let server = |outcome: &Result<_, _>| {
        let outcome: &Result<sidestep_tests::load::Answer, tonic::Status> = outcome;
        outcome.as_ref().is_ok_and(|answer| answer.server == "two")
    };
    until(&mut client.clone(), server).await.unwrap();
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert!(tally.by_server["one"] > 0 && tally.by_server["two"] > 0);
}

#[tokio::test]
async fn a_name_that_is_not_there_is_said_at_once() {
    let mesh = mesh(resources(&plain_mesh(&["127.0.0.1:1"])));
    let mut client = TestServiceClient::new(mesh.channel("xds:///greter").unwrap());
    let status = call(&mut client).await.unwrap_err();
    assert_eq!(CallError::from_status(&status), Some("config"));
    for part in ["Listener \"greter\"", "static resources", "\"greeter\""] {
        assert!(status.message().contains(part), "{status}");
    }
}

#[test]
fn bad_resources_are_refused_before_anything_starts() {
    let endpoints = raw::endpoints("greeter", &["127.0.0.1:1"]);
    let [listener, routes, cluster, _] = raw::service("greeter", endpoints.clone());
    for (set, expected) in [
        (
            vec![listener.clone(), routes, cluster],
            "Cluster \"greeter\" mentions ClusterLoadAssignment \"greeter\", which is not there",
        ),
        (
            vec![endpoints.clone(), endpoints],
            "ClusterLoadAssignment \"greeter\" is there twice",
        ),
        (
            vec![raw::assignment("c", &[(1, 1, "127.0.0.1:1")], &[])],
            "ClusterLoadAssignment \"c\": endpoints: ",
        ),
        (
            vec![sidestep_proto::wire::Any {
                type_url: "type.googleapis.com/x.Y".to_owned(),
                ..listener
            }],
            "resources[0]: \"type.googleapis.com/x.Y\" is not a Listener",
        ),
    ] {
        let text = StaticResources::new(set).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let text = StaticResources::decode(b"\xff").unwrap_err().to_string();
    assert!(
        text.starts_with("not an encoded DiscoveryResponse"),
        "{text}"
    );
}

#[tokio::test]
async fn a_replacement_that_is_refused_changes_nothing() {
    let address = unused_address();
    let mesh = mesh(resources(&plain_mesh(&[&address])));
    let _backend = Backend::start_at(&mesh, &address, "one", Faults::default());
    let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    until(&mut client, Result::is_ok).await.unwrap();
    let secured = resources(&secured(&plain_mesh(&[&address]), "strict"));
    let error = mesh.replace(secured).unwrap_err();
    assert!(matches!(error, BuildError::StaticResources(_)), "{error}");
    call(&mut client).await.unwrap();
    let controlled = Mesh::builder().build().unwrap();
    let error = controlled.replace(StaticResources::default()).unwrap_err();
    assert!(matches!(error, BuildError::NotStatic), "{error}");
}
