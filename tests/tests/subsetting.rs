//! Each process uses some of many endpoints, through a live control plane.

use std::collections::BTreeSet;

use sidestep::{Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file};
use sidestep_tests::load::{PATIENCE, call};

const BACKENDS: usize = 6;

struct Scene {
    fixture: Fixture,
    backends: Vec<Backend>,
}

impl Scene {
    async fn new() -> Self {
        let fixture = Fixture::start(&mesh_file(&[], "")).await;
        let servers = fixture.mesh("greeter");
        let start = |id: usize| Backend::start(&servers, &id.to_string(), Faults::default());
        let backends: Vec<_> = (0..BACKENDS).map(start).collect();
        Self { fixture, backends }
    }

    fn push(&self, balance: &str) {
        let addresses = self.backends.iter().map(|b| (b.address.as_str(), "v1"));
        let addresses: Vec<_> = addresses.collect();
        let keys = format!("balance: {balance}");
        self.fixture.push(&mesh_file(&addresses, &keys));
    }

    /// The endpoints that a process is connected to.
    async fn connected(&self, mesh: &Mesh) -> BTreeSet<String> {
        let clusters = mesh.clusters().await.expect("the mesh runs");
        let greeter = clusters.into_iter().find(|c| c.name == "greeter");
        let endpoints = greeter.map(|c| c.endpoints).unwrap_or_default();
        let ready = endpoints.into_iter().filter(|e| {
            e.connectivity
                .as_ref()
                .is_some_and(|c| *c == sidestep::balancer::Connectivity::Ready)
        });
        ready.map(|e| e.addresses[0].to_string()).collect()
    }

    /// Waits until a process is connected to so many endpoints; answers which.
    async fn until_connected(&self, mesh: &Mesh, count: usize) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let reached = tokio::time::timeout(PATIENCE, async {
            while found.len() != count {
                found = self.connected(mesh).await;
                tokio::task::yield_now().await;
            }
        });
        if reached.await.is_err() {
            panic!("connected to {found:?}, expected were {count}");
        }
        found
    }
}

fn client(mesh: &Mesh) -> TestServiceClient<Channel> {
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_uses_as_many_endpoints_as_it_is_told() {
    let scene = Scene::new().await;
    scene.push("{subset_size: 2}");
    let mesh = scene.fixture.mesh("web");
    let mut caller = client(&mesh);
    let members = scene.until_connected(&mesh, 2).await;
    let mut used = BTreeSet::new();
    for _ in 0..40 {
        used.insert(call(&mut caller).await.unwrap().endpoint);
    }
    assert_eq!(used, members);

    // More of them: the first two stay. All of them, then fewer again: the rest is left.
    scene.push("{subset_size: 3}");
    let three = scene.until_connected(&mesh, 3).await;
    assert_eq!(three.len(), 3);
    scene.push("{policy: round_robin}");
    scene.until_connected(&mesh, BACKENDS).await;
    scene.push("{policy: random, subset_size: 2}");
    scene.until_connected(&mesh, 2).await;
    for _ in 0..40 {
        call(&mut caller).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_endpoint_less_changes_one_member_at_most() {
    let mut scene = Scene::new().await;
    scene.push("{subset_size: 3}");
    let mesh = scene.fixture.mesh("web");
    let mut caller = client(&mesh);
    let before = scene.until_connected(&mesh, 3).await;
    let member = before.first().unwrap().clone();
    let at = scene.backends.iter().position(|b| b.address == member);
    let gone = scene.backends.remove(at.unwrap());
    scene.push("{subset_size: 3}");
    let mut after = before.clone();
    let moved = tokio::time::timeout(PATIENCE, async {
        while after.contains(&member) || after.len() != 3 {
            call(&mut caller).await.unwrap();
            after = scene.connected(&mesh).await;
        }
    });
    moved.await.expect("another takes its place");
    assert_eq!(before.intersection(&after).count(), 2);
    gone.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_draw_for_themselves() {
    let scene = Scene::new().await;
    scene.push("{subset_size: 1}");
    let mut drawn = BTreeSet::new();
    let mut meshes = Vec::new();
    // That all of twelve draw the same one of six has a chance of 6^-11.
    for _ in 0..12 {
        let mesh = scene.fixture.mesh("web");
        let _caller = client(&mesh);
        drawn.extend(scene.until_connected(&mesh, 1).await);
        meshes.push(mesh);
    }
    assert!(drawn.len() > 1, "{drawn:?}");
}
