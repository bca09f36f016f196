//! Endpoints that a living source tells: what callers see of its changes and of its failures.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::json;
use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::source::endpoints::LookOptions;
use sidestep_server::{FileSource, ManagementServer, Running};
use sidestep_tests::events::{Events, Told};
use sidestep_tests::fixture::{Backend, bootstrap, builder, unused_address};
use sidestep_tests::load::{Answer, Load, PATIENCE, call, until};
use tonic::Status;

/// Of the event of a source that fails: its target and its message.
const SOURCE: &str = "sidestep_server::source";
const FAILS: &str = "an endpoint source fails";

type Client = TestServiceClient<Channel>;

/// A directory with a mesh file and what it refers to, served.
struct World {
    directory: tempfile::TempDir,
    running: Running,
}

impl World {
    /// Serves a mesh in which `greeter` has these `endpoints`, and further keys.
    async fn start(endpoints: &str, keys: &str, files: &[(&str, &str)]) -> Self {
        // Nobody answers there: names in the system's hosts file need nobody.
        let nobody = unused_address().parse().unwrap();
        Self::start_with(nobody, endpoints, keys, files).await
    }

    /// [`World::start`] with a name server.
    async fn start_with(
        name_server: SocketAddr,
        endpoints: &str,
        keys: &str,
        files: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let mesh = directory.path().join("mesh.yaml");
        let text = format!(
            "mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    endpoints: {{{endpoints}}}\n{keys}"
        );
        fs::write(&mesh, text).unwrap();
        let server = ManagementServer::builder()
            .source(FileSource::new([mesh]))
            .look_options(LookOptions {
                name_server: Some(name_server),
                ..LookOptions::default()
            });
        Self {
            running: server.start().await.unwrap(),
            directory,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file at once.
    fn replace(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn mesh(&self, service: &str) -> sidestep::Mesh {
        let bootstrap = bootstrap(&self.running.address().to_string(), service);
        builder(&bootstrap).build().unwrap()
    }

    fn backend(&self, id: &str) -> Backend {
        Backend::start(&self.mesh("greeter"), id, Faults::default())
    }

    fn client(&self) -> Client {
        TestServiceClient::new(self.mesh("web").channel("xds:///greeter").unwrap())
    }

    /// Waits until the one source is as wanted.
    async fn until_source(
        &self,
        wanted: impl Fn(&sidestep_server::source::endpoints::state::SourceState) -> bool,
    ) {
        let mut watch = self.running.endpoint_sources().watch();
        let reached = watch.wait_for(|sources| sources.values().all(&wanted));
        drop(
            tokio::time::timeout(PATIENCE, reached)
                .await
                .expect("in time")
                .unwrap(),
        );
    }
}

fn targets(addresses: &[&Backend]) -> String {
    let addresses: Vec<&str> = addresses.iter().map(|b| b.address.as_str()).collect();
    json!([{ "targets": addresses }]).to_string()
}

async fn until_server(client: &mut Client, id: &str) {
    let by = |outcome: &Result<Answer, Status>| outcome.as_ref().is_ok_and(|a| a.server == id);
    until(client, by).await.unwrap();
}

/// No call fails while a list is edited in every way there is, broken ones included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_targets_file_is_edited_under_load() {
    let world = World::start("targets: greeter.json", "", &[("greeter.json", "[]")]).await;
    let [a, b] = ["a", "b"].map(|id| world.backend(id));
    world.replace("greeter.json", &targets(&[&a]));
    let mut client = world.client();
    until_server(&mut client, "a").await;
    let load = Load::start(&client, 8).await;
    load.further(100).await;

    world.replace("greeter.json", &targets(&[&a, &b]));
    until_server(&mut client, "b").await;
    world.replace("greeter.json", &targets(&[&b]));
    load.further(200).await;

    // None of these takes an endpoint away.
    for broken in ["[", "[]", "{}", "[{\"targets\": [\"nowhere\"]}]"] {
        fs::write(world.path("greeter.json"), broken).unwrap();
        world.until_source(|source| source.error.is_some()).await;
        load.further(50).await;
        world.replace("greeter.json", &targets(&[&b]));
        world.until_source(|source| source.error.is_none()).await;
    }
    fs::remove_file(world.path("greeter.json")).unwrap();
    world.until_source(|source| source.error.is_some()).await;
    load.further(50).await;

    fs::write(world.path("greeter.json"), targets(&[&a])).unwrap();
    until_server(&mut client, "a").await;
    load.further(100).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert!(tally.by_server.len() == 2, "{:?}", tally.by_server);
}

#[tokio::test]
async fn labels_make_versions_that_routes_can_name() {
    let keys = "    versions: {canary: v2}\n    routes: [{name: all, to: canary}]\n";
    let world = World::start("targets: greeter.json", keys, &[("greeter.json", "[]")]).await;
    let [a, b] = ["a", "b"].map(|id| world.backend(id));
    let list = json!([
        {"targets": [a.address], "labels": {"version": "v1"}},
        {"targets": [b.address], "labels": {"version": "v2", "zone": "z"}},
    ]);
    world.replace("greeter.json", &list.to_string());
    let mut client = world.client();
    until_server(&mut client, "b").await;
    for _ in 0..10 {
        assert_eq!(call(&mut client).await.unwrap().server, "b");
    }
    assert_eq!(a.testing.calls(), 0);
}

#[tokio::test]
async fn a_name_is_resolved_by_the_server() {
    let world = World::start("targets: none.json", "", &[]).await;
    let backend = world.backend("a");
    let port = backend.address.rsplit(':').next().unwrap();
    let named = World::start(&format!("dns: \"localhost:{port}\""), "", &[]).await;
    let mut client = named.client();
    until_server(&mut client, "a").await;
}

/// A server starts without its sources, says so, and takes up what they tell later.
#[tokio::test]
async fn a_source_that_fails_at_first_is_no_reason_not_to_start() {
    let world = World::start("targets: greeter.json", "", &[]).await;
    let report = world.running.store().report();
    let warning = report.warnings[0].to_string();
    assert!(
        warning.contains("no endpoints from `greeter.json`"),
        "{warning}"
    );
    assert!(warning.ends_with("[SX0609]"), "{warning}");
    let backend = world.backend("a");
    let mut client = world.client();
    call(&mut client).await.unwrap_err();
    world.replace("greeter.json", &targets(&[&backend]));
    until_server(&mut client, "a").await;
    assert!(world.running.store().report().warnings.is_empty());
}

/// A name server for which there is no name at all. Returns its address; it runs as long as the
/// test's runtime.
async fn empty_name_server() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query).await {
            // The header has 12 bytes, the question ends 4 bytes after the name's zero.
            let name = query[12..length].iter().position(|byte| *byte == 0);
            let end = 12 + name.expect("a question") + 5;
            let mut answer = query[..end].to_vec();
            // A response, recursion available, NXDOMAIN; nothing but the question in it.
            (answer[2], answer[3]) = (0x81, 0x83);
            answer[6..12].fill(0);
            socket.send_to(&answer, peer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_name_that_is_not_there_is_told_at_the_start_and_in_the_log() {
    let mut events = Events::catch_all();
    let server = empty_name_server().await;
    let endpoints = "dns: \"nobody.test.:80\"";
    let world = World::start_with(server, endpoints, "", &[]).await;
    let warning = world.running.store().report().warnings[0].to_string();
    assert!(warning.contains("nobody.test."), "{warning}");
    assert!(warning.ends_with("[SX0608]"), "{warning}");
    let fails = |told: &Told| told.field("code") == "SX0608";
    let told = events.wait(SOURCE, FAILS, fails).await;
    assert!(told.field("error").contains("nobody.test."), "{told:?}");
}

#[tokio::test]
async fn a_list_of_targets_that_is_none_is_told_at_the_start_and_in_the_log() {
    for content in ["{}", "[{\"targets\": [\"nowhere\"]}]"] {
        let mut events = Events::catch_all();
        let files = [("greeter.json", content)];
        let world = World::start("targets: greeter.json", "", &files).await;
        let warning = world.running.store().report().warnings[0].to_string();
        assert!(warning.contains("greeter.json"), "{warning}");
        assert!(warning.ends_with("[SX0610]"), "{warning}");
        let fails = |told: &Told| told.field("code") == "SX0610";
        events.wait(SOURCE, FAILS, fails).await;
        // And by who looks before.
        let checked = sidestep_server::check(&[world.path("mesh.yaml")]).unwrap();
        let warning = checked.configuration.warnings[0].to_string();
        assert!(warning.ends_with("[SX0610]"), "{warning}");
    }
}
