//! What really goes wrong when a team sets a mesh up: each error says which resource or file,
//! which field, which server and node, has its code, and says what to do. Listed in
//! docs/misconfigurations.md.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use sidestep::{BuildError, Channel, Mesh, ServerError, ServerMode};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_proto::code::Code;
use sidestep_server::model::Diagnostic;
use sidestep_server::{FileSource, ListenAddress, ManagementServer, RawResources, StartError};
use sidestep_tests::fixture::{
    Authority, Backend, Fixture, bootstrap, builder, mesh_file, plain_mesh, secured,
    silent_backend, spiffe, unused_address,
};
use sidestep_tests::load::{PATIENCE, call};
use sidestep_tests::raw;
use tokio::sync::mpsc;
use tonic::Status;

/// What `sidestep check` finds in a mesh file of this text.
fn check(text: &str) -> Vec<Diagnostic> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    std::fs::write(&path, text).unwrap();
    match sidestep_server::check(&[path]) {
        Ok(checked) => checked.configuration.warnings,
        Err(error) => error.diagnostics(),
    }
}

/// Exactly one finding has the code; it names the file, stands at the line, and says all parts.
#[track_caller]
fn finds(text: &str, code: &str, line: u32, parts: &[&str]) {
    let found = check(text);
    let ours: Vec<_> = found
        .iter()
        .filter(|d| d.code.to_string() == code)
        .collect();
    let [finding] = ours.as_slice() else {
        panic!("{code}: {found:?}");
    };
    assert!(finding.file.ends_with("mesh.yaml"), "{finding}");
    assert_eq!(finding.line, line, "{finding}");
    says(&finding.to_string(), code, parts);
    assert!(!finding.hint().is_empty());
}

/// The text ends its first line with the code, whose registry has a hint, and says all parts.
#[track_caller]
fn says(text: &str, code: &str, parts: &[&str]) {
    let first = text.lines().next().unwrap_or_default();
    assert!(first.ends_with(&format!("[{code}]")), "{code}: {text}");
    let known: Code = code.parse().unwrap();
    assert!(!known.hint().is_empty());
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// How the first call of the service `web` to `greeter` fails.
async fn failure(fixture: &Fixture) -> String {
    failure_of(&fixture.mesh("web")).await
}

async fn failure_of(mesh: &Mesh) -> String {
    let status = first_call(mesh.channel("xds:///greeter").unwrap()).await;
    status.unwrap_err().message().to_owned()
}

async fn first_call(channel: Channel) -> Result<(), Status> {
    call(&mut TestServiceClient::new(channel)).await.map(drop)
}

/// Whom every failed call names.
fn whom(fixture: &Fixture) -> String {
    format!("(xDS server {}, node \"web-node\")", fixture.address())
}

fn service(keys: &str) -> String {
    mesh_file(&[("127.0.0.1:1", "v1")], keys)
}

#[test]
fn a_key_is_misspelt() {
    let text = service("routes: [{timout: 1s}]");
    let parts = ["services.greeter.routes[0]", "did you mean \"timeout\"?"];
    finds(&text, "SX0205", 8, &parts);
}

#[test]
fn a_duration_has_no_unit() {
    let text = service("timeout: 5");
    finds(
        &text,
        "SX0212",
        8,
        &["services.greeter.timeout", "has no unit", "`5s`"],
    );
}

#[test]
fn a_version_that_nobody_has() {
    let text = service("versions: {canary: v3}");
    let parts = [
        "services.greeter.versions.canary",
        "\"v3\"",
        "did you mean \"v1\"?",
    ];
    finds(&text, "SX0221", 8, &parts);
}

#[test]
fn a_route_to_a_version_that_is_not_named() {
    let text = service("versions: {canary: v1}\nroutes: [{to: canery}]");
    let parts = ["services.greeter.routes[0].to", "did you mean \"canary\"?"];
    finds(&text, "SX0220", 9, &parts);
}

#[test]
fn all_weights_are_zero() {
    let text = service("versions: {a: v1}\nroutes: [{to: {a: 0}}]");
    finds(
        &text,
        "SX0218",
        9,
        &["services.greeter.routes[0].to", "add up to 0"],
    );
}

#[test]
fn the_weights_overflow() {
    let text = service("versions: {a: v1, b: v1}\nroutes: [{to: {a: 4294967295, b: 1}}]");
    finds(
        &text,
        "SX0219",
        9,
        &["services.greeter.routes[0].to", "4294967296"],
    );
}

#[test]
fn a_service_is_written_twice() {
    let text = format!("{}  greeter: {{}}\n", service(""));
    finds(
        &text,
        "SX0213",
        8,
        &["greeter", "already at", "mesh.yaml:4:3"],
    );
}

#[test]
fn a_route_that_nothing_reaches() {
    let text = service("routes:\n  - {name: all}\n  - {match: {method: a.B/C}, name: late}");
    let parts = [
        "services.greeter.routes[1]",
        "never reached",
        "mesh.yaml:9:9",
    ];
    finds(&text, "SX0222", 10, &parts);
}

#[test]
fn retries_on_a_route_for_everything() {
    let text = service("routes: [{retry: {max_attempts: 2, on: [unavailable]}}]");
    finds(
        &text,
        "SX0224",
        8,
        &["services.greeter.routes[0]", "run twice"],
    );
}

#[test]
fn an_endpoint_without_a_port() {
    let text = service("").replace("127.0.0.1:1", "127.0.0.1");
    let parts = ["services.greeter.endpoints.static[0].address", "IP:PORT"];
    finds(&text, "SX0216", 7, &parts);
}

#[test]
fn mutual_tls_without_a_trust_domain() {
    let text = service("mtls: strict");
    finds(&text, "SX0229", 4, &["services.greeter", "trust_domain:"]);
}

#[test]
fn a_key_that_is_not_enforced() {
    let text = service("allow: [web]");
    finds(
        &text,
        "SX0206",
        8,
        &["services.greeter", "`allow` is not enforced yet"],
    );
}

#[test]
fn a_mesh_file_that_cannot_be_read() {
    let missing = PathBuf::from("/nowhere/mesh.yaml");
    let error = sidestep_server::check(&[missing]).unwrap_err();
    says(
        &error.to_string(),
        "SX0201",
        &["/nowhere/mesh.yaml", "No such file"],
    );
}

#[test]
fn a_resource_that_mentions_an_absent_one() {
    let cluster = "resources:\n  - {\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: own, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}\n";
    let text = format!("{}{cluster}", service(""));
    let parts = [
        "Cluster \"own\"",
        "ClusterLoadAssignment \"own\"",
        "does not exist",
    ];
    finds(&text, "SX0234", 9, &parts);
}

#[test]
fn a_load_balancing_policy_that_is_not_there() {
    let cluster = "resources:\n  - \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n    name: own\n    type: EDS\n    lb_policy: CLUSTER_PROVIDED\n    eds_cluster_config: {eds_config: {ads: {}}}\n";
    let text = format!("{}{cluster}", service(""));
    finds(
        &text,
        "SX0305",
        12,
        &["Cluster \"own\"", "lb_policy", "CLUSTER_PROVIDED"],
    );
}

#[test]
fn no_bootstrap_at_all() {
    let Err(error) = Mesh::builder().from_lookup(|_| None) else {
        panic!("there is none");
    };
    says(
        &error.to_string(),
        "SX0101",
        &["GRPC_XDS_BOOTSTRAP", "hint: "],
    );
}

#[test]
fn a_bootstrap_file_that_is_not_there() {
    let file = |name: &str| (name == "GRPC_XDS_BOOTSTRAP").then(|| "/nowhere/b.json".into());
    let Err(error) = Mesh::builder().from_lookup(file) else {
        panic!("there is none");
    };
    says(
        &error.to_string(),
        "SX0102",
        &["/nowhere/b.json", "No such file", "hint: "],
    );
}

fn refused(bootstrap: &Value) -> BuildError {
    match Mesh::builder().bootstrap_json(&bootstrap.to_string()) {
        Err(error) => error,
        Ok(_) => panic!("accepted: {bootstrap}"),
    }
}

#[test]
fn a_bootstrap_without_a_server() {
    let error = refused(&json!({"node": {"id": "web-1"}}));
    says(
        &error.to_string(),
        "SX0104",
        &["xds_servers", "is required", "hint: "],
    );
}

#[test]
fn credentials_that_are_not_supported() {
    let mut bootstrap = bootstrap("127.0.0.1:1", "web");
    bootstrap["xds_servers"][0]["channel_creds"] = json!([{"type": "google_default"}]);
    let parts = ["xds_servers[0].channel_creds", "google_default", "hint: "];
    says(&refused(&bootstrap).to_string(), "SX0106", &parts);
}

#[tokio::test]
async fn a_server_without_a_listener_template() {
    let mut bootstrap = bootstrap("127.0.0.1:1", "greeter");
    bootstrap["server_listener_resource_name_template"] = Value::Null;
    let mesh = builder(&bootstrap).build().unwrap();
    let error = mesh.server("127.0.0.1:0").serve().await.unwrap_err();
    let parts = [
        "127.0.0.1:",
        "server_listener_resource_name_template",
        "hint: ",
    ];
    says(&error.to_string(), "SX0111", &parts);
}

/// Why a server of this process does not serve, once that is known.
async fn not_serving(mesh: &Mesh, address: &str) -> String {
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = mesh
        .server(address)
        .add_service(TestServiceServer::new(Testing::new("a", Faults::default())))
        .on_mode_change(move |_, mode| _ = tell.send(mode.clone()));
    let _serving = tokio::spawn(server.serve());
    let definite = async {
        loop {
            match told.recv().await.unwrap() {
                ServerMode::NotServing { reason } if reason.contains("waiting") => {}
                ServerMode::NotServing { reason } => return reason,
                mode => panic!("{mode:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, definite).await.unwrap()
}

#[tokio::test]
async fn a_server_that_does_not_say_which_service_it_is() {
    let fixture = Fixture::start(&service("")).await;
    let mut bootstrap = fixture.bootstrap("greeter");
    bootstrap["node"]["cluster"] = json!("");
    let mesh = builder(&bootstrap).build().unwrap();
    let reason = not_serving(&mesh, "127.0.0.1:0").await;
    let parts = [
        "Listener",
        "node.cluster is empty",
        "[SX0604]",
        "greeter-node",
    ];
    says(&reason, "SX0312", &parts);
}

#[tokio::test]
async fn a_server_of_a_service_that_the_mesh_does_not_have() {
    let fixture = Fixture::start(&service("")).await;
    let reason = not_serving(&fixture.mesh("greter"), "127.0.0.1:0").await;
    let parts = [
        "[SX0605]",
        "did you mean \"greeter\"?",
        "greter-node",
        &fixture.address(),
    ];
    says(&reason, "SX0312", &parts);
}

#[tokio::test]
async fn a_listener_for_another_address() {
    let mut bootstrap = bootstrap("", "greeter");
    let fixture =
        Fixture::raw(RawResources::unchecked([raw::server_listener("127.0.0.1:9", None)]).unwrap())
            .await;
    bootstrap["xds_servers"][0]["server_uri"] = json!(fixture.address());
    bootstrap["server_listener_resource_name_template"] =
        json!("grpc/server?xds.resource.listening_address=127.0.0.1:9");
    let mesh = builder(&bootstrap).build().unwrap();
    let reason = not_serving(&mesh, "127.0.0.1:0").await;
    says(
        &reason,
        "SX0506",
        &["is for 127.0.0.1:9", "listens on 127.0.0.1:"],
    );
}

#[tokio::test]
async fn two_servers_on_one_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mesh = Mesh::builder().build().unwrap();
    let error: ServerError = mesh.server(&address).serve().await.unwrap_err();
    says(
        &error.to_string(),
        "SX0502",
        &[&address, "hint: ", "ss -ltnp"],
    );
}

#[tokio::test]
async fn two_control_planes_on_one_port() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ListenAddress::from(taken.local_addr().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    std::fs::write(&path, service("")).unwrap();
    let builder = ManagementServer::builder().source(FileSource::new([path]));
    let started = builder.listen(address.clone()).start().await;
    let Err(error @ StartError::Bind { .. }) = started else {
        panic!("the port is taken");
    };
    says(&error.to_string(), "SX0602", &[&address.to_string()]);
}

#[tokio::test]
async fn a_service_name_is_misspelt_by_the_caller() {
    let fixture = Fixture::start(&service("")).await;
    let channel = fixture.mesh("web").channel("xds:///greter").unwrap();
    let status = first_call(channel).await.unwrap_err();
    let parts = ["Listener \"greter\"", &whom(&fixture)];
    says(status.message(), "SX0312", &parts);
}

#[tokio::test]
async fn the_control_plane_is_down() {
    let address = unused_address();
    let mesh = builder(&bootstrap(&address, "web")).build().unwrap();
    let parts = [
        "Listener \"greeter\"",
        &address,
        "refused",
        "node \"web-node\"",
    ];
    says(&failure_of(&mesh).await, "SX0601", &parts);
}

#[tokio::test]
async fn the_routes_are_missing() {
    let resources = RawResources::unchecked([raw::listener("greeter", "absent")]).unwrap();
    let fixture = Fixture::raw(resources).await;
    let parts = ["RouteConfiguration \"absent\"", &whom(&fixture)];
    says(&failure(&fixture).await, "SX0312", &parts);
}

#[tokio::test]
async fn the_cluster_is_missing() {
    let resources = [raw::listener("greeter", "r"), raw::routes("r", &["absent"])];
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let parts = ["Cluster \"absent\"", &whom(&fixture)];
    says(&failure(&fixture).await, "SX0312", &parts);
}

#[tokio::test]
async fn the_endpoints_are_missing() {
    let resources = [
        raw::listener("greeter", "r"),
        raw::routes("r", &["c"]),
        raw::cluster("c"),
    ];
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let parts = ["ClusterLoadAssignment \"c\"", &whom(&fixture)];
    says(&failure(&fixture).await, "SX0312", &parts);
}

#[tokio::test]
async fn no_route_takes_the_call() {
    let fixture = Fixture::start(&service("routes: [{match: {method: a.B/C}}]")).await;
    let parts = ["\"greeter\"", "/grpc.testing.TestService/", &whom(&fixture)];
    says(&failure(&fixture).await, "SX0404", &parts);
}

#[tokio::test]
async fn a_service_without_endpoints() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let parts = ["cluster \"greeter\"", "no endpoint", &whom(&fixture)];
    says(&failure(&fixture).await, "SX0407", &parts);
}

#[tokio::test]
async fn all_endpoints_are_down() {
    let address = unused_address();
    let fixture = Fixture::start(&plain_mesh(&[&address])).await;
    let parts = ["cluster \"greeter\"", &address, "refused", &whom(&fixture)];
    says(&failure(&fixture).await, "SX0408", &parts);
}

#[tokio::test]
async fn the_circuit_breaker_is_full() {
    let silent = silent_backend().await;
    let mesh = mesh_file(
        &[(&silent, "v1")],
        "limits: {max_outstanding_per_client: 1}",
    );
    let fixture = Fixture::start(&mesh).await;
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    let mut one = TestServiceClient::new(channel.clone());
    let first = tokio::spawn(async move { one.unary_call(SimpleRequest::default()).await });
    let mut other = TestServiceClient::new(channel);
    let refused = async {
        loop {
            let mut request = tonic::Request::new(SimpleRequest::default());
            request.set_timeout(Duration::from_millis(50));
            let status = other.unary_call(request).await.unwrap_err();
            if status.code() == tonic::Code::Unavailable {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    let parts = [
        "cluster \"greeter\"",
        "1 calls are in flight",
        &whom(&fixture),
    ];
    says(status.message(), "SX0414", &parts);
    first.abort();
}

#[tokio::test]
async fn the_time_out_is_shorter_than_the_answer_takes() {
    let silent = silent_backend().await;
    let mesh = mesh_file(&[(&silent, "v1")], "timeout: 100ms");
    let fixture = Fixture::start(&mesh).await;
    let parts = ["100ms", "waiting for an answer", &silent];
    says(&failure(&fixture).await, "SX0415", &parts);
}

fn process(fixture: &Fixture, authority: &Authority, service: &str, uri: &str) -> Mesh {
    let builder = fixture.builder(service);
    let builder = builder.certificate_provider("default", authority.provider(uri));
    builder.build().unwrap()
}

/// A strict mesh whose one backend shows `uri`.
async fn strict(authority: &Authority, uri: &str) -> (Fixture, Backend) {
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let backend = Backend::start(
        &process(&fixture, authority, "greeter", uri),
        "a",
        Faults::default(),
    );
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    (fixture, backend)
}

#[tokio::test]
async fn the_server_is_of_another_authority() {
    let (fixture, backend) = strict(&Authority::default(), &spiffe("greeter")).await;
    let web = process(&fixture, &Authority::default(), "web", &spiffe("web"));
    let parts = [
        "cluster \"greeter\"",
        &backend.address,
        "invalid peer certificate",
        &whom(&fixture),
    ];
    says(&failure_of(&web).await, "SX0807", &parts);
}

#[tokio::test]
async fn the_certificate_is_somebody_elses() {
    let authority = Authority::default();
    let (fixture, backend) = strict(&authority, &spiffe("payments")).await;
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    let (wanted, shown) = (spiffe("greeter"), spiffe("payments"));
    let parts = [&*backend.address, &wanted, &shown, &whom(&fixture)];
    says(&failure_of(&web).await, "SX0809", &parts);
}

/// A process whose certificate files hold this.
fn with_files(fixture: &Fixture, chain: &str, key: &str, root: &str) -> (Mesh, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for (name, text) in [("tls.crt", chain), ("tls.key", key), ("ca.crt", root)] {
        if !text.is_empty() {
            std::fs::write(path(name), text).unwrap();
        }
    }
    let mut bootstrap = fixture.bootstrap("web");
    bootstrap["certificate_providers"] = json!({"default": {
        "plugin_name": "file_watcher",
        "config": {
            "certificate_file": path("tls.crt"),
            "private_key_file": path("tls.key"),
            "ca_certificate_file": path("ca.crt"),
        },
    }});
    (builder(&bootstrap).build().unwrap(), directory)
}

#[tokio::test]
async fn the_servers_certificate_has_expired() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let (chain, key) = authority.leaf_until(&spiffe("greeter"), 2020);
    let provider = sidestep::security::provider::static_::StaticProvider::from_pem(
        Some((chain.as_bytes(), key.as_bytes())),
        Some(authority.root().as_bytes()),
    );
    let servers = fixture.builder("greeter");
    let servers = servers.certificate_provider("default", std::sync::Arc::new(provider.unwrap()));
    let backend = Backend::start(&servers.build().unwrap(), "a", Faults::default());
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    let web = process(&fixture, &authority, "web", &spiffe("web"));
    let parts = [&*backend.address, "expired", &whom(&fixture)];
    says(&failure_of(&web).await, "SX0808", &parts);
}

#[tokio::test]
async fn the_key_is_not_the_certificates() {
    let authority = Authority::default();
    let (fixture, _backend) = strict(&authority, &spiffe("greeter")).await;
    let (chain, _) = authority.leaf(&spiffe("web"));
    let (_, key) = authority.leaf(&spiffe("web"));
    let (web, directory) = with_files(&fixture, &chain, &key, &authority.root());
    let directory = directory.path().display().to_string();
    let parts = [&*directory, "tls.crt", "tls.key", &whom(&fixture)];
    says(&failure_of(&web).await, "SX0804", &parts);
}

#[tokio::test]
async fn a_certificate_file_is_missing() {
    let authority = Authority::default();
    let (fixture, _backend) = strict(&authority, &spiffe("greeter")).await;
    let (web, directory) = with_files(&fixture, "", "", &authority.root());
    let path = directory.path().join("tls.crt").display().to_string();
    let parts = [&*path, "No such file", &whom(&fixture)];
    says(&failure_of(&web).await, "SX0802", &parts);
}

#[tokio::test]
async fn the_bootstrap_has_no_certificate_provider() {
    let (fixture, _backend) = strict(&Authority::default(), &spiffe("greeter")).await;
    let text = failure(&fixture).await;
    let parts = ["Cluster \"greeter\"", "\"default\"", &whom(&fixture)];
    says(&text, "SX0308", &parts);
}

#[tokio::test]
async fn callers_use_tls_and_the_server_does_not() {
    let authority = Authority::default();
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let backend = Backend::start(&fixture.mesh("greeter"), "a", Faults::default());
    // The server is not told: it is of another mesh by now.
    let other = Fixture::start(&secured(&plain_mesh(&[&backend.address]), "strict")).await;
    let web = process(&other, &authority, "web", &spiffe("web"));
    let parts = [&*backend.address, "does not answer in TLS", &whom(&other)];
    says(&failure_of(&web).await, "SX0810", &parts);
}

#[tokio::test]
async fn the_server_demands_tls_and_callers_do_not_use_it() {
    let (_fixture, backend) = strict(&Authority::default(), &spiffe("greeter")).await;
    let plain = Fixture::start(&plain_mesh(&[&backend.address])).await;
    let parts = [
        "cluster \"greeter\"",
        &backend.address,
        "HTTP/2",
        &whom(&plain),
    ];
    says(&failure(&plain).await, "SX0409", &parts);
}
