//! Clusters made of clusters (gRFC A37, A74, A75) through a live control plane.

use std::collections::BTreeMap;
use std::future::Future;

use sidestep::{Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::Variant;
use sidestep_proto::resource::LbPolicy;
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::admin::{eventually, get};
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, silent_backend, unused_address};
use sidestep_tests::kinds;
use sidestep_tests::load::{Load, PATIENCE, call, until};
use sidestep_tests::raw;
use tokio::task::JoinSet;
use tonic::Request;

type Client = TestServiceClient<Channel>;

/// Running servers, and a control plane that has nothing for their clients yet.
struct Scene {
    plane: Fixture,
    servers: Mesh,
    /// Keeps the servers' own control plane.
    _inner: Fixture,
}

impl Scene {
    async fn new() -> Self {
        let inner = Fixture::start(&mesh_file(&[], "")).await;
        Self {
            plane: Fixture::raw(RawResources::unchecked([]).unwrap()).await,
            servers: inner.mesh("greeter"),
            _inner: inner,
        }
    }

    fn server(&self, id: &str) -> Backend {
        Backend::start(&self.servers, id, Faults::default())
    }

    /// `greeter` goes to the cluster `all`.
    fn push(&self, resources: impl IntoIterator<Item = Any>) {
        let path = [raw::listener("greeter", "r"), raw::routes("r", &["all"])];
        let all = path.into_iter().chain(resources);
        self.plane.resources().replace(all).unwrap();
    }

    fn mesh(&self) -> Mesh {
        self.plane.mesh("web")
    }

    fn client(&self) -> Client {
        client_of(&self.mesh())
    }
}

fn client_of(mesh: &Mesh) -> Client {
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

/// A round-robin cluster of one endpoint.
fn leaf(name: &str, address: &str) -> [Any; 2] {
    [raw::cluster(name), raw::endpoints(name, &[address])]
}

/// An aggregate, and leaves with one endpoint each.
fn tree(aggregate: &[&str], leaves: &[(&str, &str)]) -> Vec<Any> {
    let mut all = vec![kinds::aggregate("all", aggregate)];
    all.extend(
        leaves
            .iter()
            .flat_map(|(name, address)| leaf(name, address)),
    );
    all
}

async fn until_server(client: &mut Client, id: &str) {
    until(client, |o| o.as_ref().is_ok_and(|a| a.server == id))
        .await
        .unwrap();
}

async fn failure(scene: &Scene) -> String {
    let status = call(&mut scene.client()).await.unwrap_err();
    status.message().to_owned()
}

#[track_caller]
fn says(text: &str, code: &str, parts: &[&str]) {
    assert!(text.ends_with(&format!("[{code}]")), "{code}: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// What the process says of each cluster: its state, and how many endpoints it has a state of.
async fn connected(mesh: &Mesh, cluster: &str) -> usize {
    let clusters = mesh.clusters().await.unwrap();
    let found = clusters.iter().find(|c| c.name == cluster);
    found.map_or(0, |cluster| {
        let endpoints = cluster.endpoints.iter();
        endpoints.filter(|e| e.connectivity.is_some()).count()
    })
}

async fn within<T>(wait: impl Future<Output = T>) -> T {
    let wait = tokio::time::timeout(PATIENCE, wait).await;
    wait.expect("it takes too long")
}

async fn fails_over_and_back(variant: Variant) {
    let scene = Scene::new().await;
    let (a, b) = (scene.server("a"), scene.server("b"));
    scene.push(tree(
        &["near", "far"],
        &[("near", &a.address), ("far", &b.address)],
    ));
    let mesh = scene.plane.builder("web").variant(variant).build().unwrap();
    let mut client = client_of(&mesh);
    let load = Load::start(&client, 4).await;
    load.further(100).await;
    assert_eq!(call(&mut client).await.unwrap().server, "a");
    // Nobody has needed the second.
    assert_eq!(connected(&mesh, "far").await, 0);
    let address = a.address.clone();
    a.shutdown().await;
    until_server(&mut client, "b").await;
    load.further(100).await;
    let _a = Backend::start_at(&scene.servers, &address, "a", Faults::default());
    until_server(&mut client, "a").await;
    load.further(100).await;
    // It stays connected for a while.
    assert_eq!(connected(&mesh, "far").await, 1);
    let tally = load.stop().await;
    tally.assert_none_failed();
    let servers: Vec<_> = tally.by_server.keys().map(String::as_str).collect();
    assert_eq!(servers, ["a", "b"]);
}

#[tokio::test]
async fn calls_fail_over_to_the_second_leaf_and_come_back() {
    fails_over_and_back(Variant::StateOfTheWorld).await;
}

#[tokio::test]
async fn calls_fail_over_to_the_second_leaf_and_come_back_in_delta() {
    fails_over_and_back(Variant::Delta).await;
}

#[tokio::test]
async fn a_leaf_that_does_not_exist_is_passed_over_until_it_comes() {
    let scene = Scene::new().await;
    let (a, b) = (scene.server("a"), scene.server("b"));
    scene.push(tree(&["near", "far"], &[("far", &b.address)]));
    let mut client = scene.client();
    until_server(&mut client, "b").await;
    let load = Load::start(&client, 2).await;
    scene.push(tree(
        &["near", "far"],
        &[("near", &a.address), ("far", &b.address)],
    ));
    until_server(&mut client, "a").await;
    scene.push(tree(&["near", "far"], &[("far", &b.address)]));
    // A resource that is deleted is kept in use as long as there is one (gRFC A88).
    load.further(50).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn a_leaf_without_endpoints_fails_over_at_once() {
    let scene = Scene::new().await;
    let b = scene.server("b");
    let mut all = tree(&["empty", "lost", "far"], &[("far", &b.address)]);
    all.extend([raw::cluster("empty"), raw::endpoints("empty", &[])]);
    // This one has no endpoints at all.
    all.push(raw::cluster("lost"));
    scene.push(all);
    assert_eq!(call(&mut scene.client()).await.unwrap().server, "b");
}

#[tokio::test]
async fn when_all_leaves_fail_calls_say_why() {
    let scene = Scene::new().await;
    let dead = [unused_address(), unused_address()];
    scene.push(tree(
        &["near", "far"],
        &[("near", &dead[0]), ("far", &dead[1])],
    ));
    let text = failure(&scene).await;
    says(&text, "SX0408", &["\"far\"", &dead[1], "web-node"]);
}

#[tokio::test]
async fn a_loop_of_aggregates_fails_with_its_path() {
    let scene = Scene::new().await;
    scene.push([
        kinds::aggregate("all", &["x"]),
        kinds::aggregate("x", &["y"]),
        kinds::aggregate("y", &["x"]),
    ]);
    let parts = [
        "aggregate Cluster \"all\"",
        "\"all\" -> \"x\" -> \"y\" -> \"x\"",
        "web-node",
    ];
    says(&failure(&scene).await, "SX0430", &parts);
}

/// `all -> n1 -> n2 -> …`: so many clusters, the last of which is a leaf.
fn chain(clusters: usize, address: &str) -> Vec<Any> {
    let name = |at: usize| match at {
        0 => "all".to_owned(),
        at => format!("n{at}"),
    };
    let mut chain: Vec<_> = (0..clusters - 1)
        .map(|at| kinds::aggregate(&name(at), &[&name(at + 1)]))
        .collect();
    chain.extend(leaf(&name(clusters - 1), address));
    chain
}

#[tokio::test]
async fn aggregates_go_sixteen_levels_deep_and_no_more() {
    let scene = Scene::new().await;
    let a = scene.server("a");
    scene.push(chain(16, &a.address));
    let mut client = scene.client();
    assert_eq!(call(&mut client).await.unwrap().server, "a");
    scene.push(chain(17, &a.address));
    let status = until(&mut client, Result::is_err).await.unwrap_err();
    let parts = [
        "aggregate Cluster \"all\"",
        "\"n15\" -> \"n16\"",
        "web-node",
    ];
    says(status.message(), "SX0431", &parts);
    // Mended, it works again.
    scene.push(chain(3, &a.address));
    until_server(&mut client, "a").await;
}

#[tokio::test]
async fn an_aggregate_of_nothing_that_exists_fails_with_each_name() {
    let scene = Scene::new().await;
    scene.push([kinds::aggregate("all", &["x", "y"])]);
    let parts = [
        "aggregate Cluster \"all\"",
        "no such Cluster: \"x\"",
        "no such Cluster: \"y\"",
        "web-node",
    ];
    says(&failure(&scene).await, "SX0432", &parts);
}

#[tokio::test]
async fn nested_aggregates_keep_each_leaf_where_it_is_met_first() {
    let scene = Scene::new().await;
    let servers = ["a", "b", "c"].map(|id| scene.server(id));
    let mut all = vec![
        kinds::aggregate("all", &["far", "near"]),
        kinds::aggregate("near", &["x", "y", "z"]),
        kinds::aggregate("far", &["y", "x"]),
    ];
    for (name, server) in ["x", "y", "z"].iter().zip(&servers) {
        all.extend(leaf(name, &server.address));
    }
    scene.push(all);
    let mesh = scene.mesh();
    let mut client = client_of(&mesh);
    let mut servers: BTreeMap<_, _> = ["a", "b", "c"].into_iter().zip(servers).collect();
    for id in ["b", "a", "c"] {
        until_server(&mut client, id).await;
        servers.remove(id).unwrap().kill().await;
    }
    let clusters = mesh.clusters().await.unwrap();
    let leaves = &clusters.iter().find(|c| c.name == "all").unwrap().leaves;
    let names: Vec<_> = leaves.iter().map(|leaf| &*leaf.name).collect();
    assert_eq!(names, ["y", "x", "z"]);
}

/// The policy is the leaf's, whatever the aggregate says (gRFC A75): calls with one hash meet one
/// endpoint.
#[tokio::test]
async fn a_leaf_keeps_its_own_policy() {
    let scene = Scene::new().await;
    let servers = ["a", "b", "c"].map(|id| scene.server(id));
    let addresses = servers.each_ref().map(|server| &*server.address);
    let ring = LbPolicy::RingHash {
        min_ring_size: 1024,
        max_ring_size: 4096,
    };
    let routes = raw::route_configuration("r", &["all"]);
    let all = [
        raw::listener("greeter", "r"),
        kinds::hashed(routes, "x-user"),
        kinds::aggregate("all", &["ring"]),
        kinds::limited("ring", ring, 1024),
        raw::endpoints("ring", &addresses),
    ];
    scene.plane.resources().replace(all).unwrap();
    let mut client = scene.client();
    until(&mut client, Result::is_ok).await.unwrap();
    let mut homes = BTreeMap::new();
    for round in 0..3 {
        for user in 0..30 {
            let mut request = Request::new(SimpleRequest {
                fill_server_id: true,
                ..SimpleRequest::default()
            });
            let name = format!("user-{user}").parse().unwrap();
            request.metadata_mut().insert("x-user", name);
            let server = client
                .unary_call(request)
                .await
                .unwrap()
                .into_inner()
                .server_id;
            let home = homes.entry(user).or_insert_with(|| server.clone());
            assert_eq!(*home, server, "user {user} in round {round}");
        }
    }
    let used: std::collections::BTreeSet<_> = homes.values().collect();
    assert!(used.len() > 1, "{homes:?}");
}

/// A leaf's limit counts the calls of all who use the leaf, by its own name and through an
/// aggregate (gRFC A37, A32).
#[tokio::test]
async fn a_leafs_circuit_breaker_is_shared_with_its_direct_users() {
    let scene = Scene::new().await;
    let silent = silent_backend().await;
    let limited = [
        raw::listener("other", "o"),
        raw::routes("o", &["leaf"]),
        kinds::aggregate("all", &["leaf"]),
        kinds::limited("leaf", LbPolicy::RoundRobin, 2),
        raw::endpoints("leaf", &[&silent]),
    ];
    scene.push(limited);
    let mesh = scene.mesh();
    let channels = ["xds:///other", "xds:///greeter"].map(|name| mesh.channel(name).unwrap());
    let mut under_way = JoinSet::new();
    for channel in &channels {
        let mut client = TestServiceClient::new(channel.clone());
        under_way.spawn(async move { call(&mut client).await });
    }
    let in_flight = || async {
        let clusters = mesh.clusters().await.unwrap();
        let found = clusters.iter().find(|c| c.name == "leaf");
        found.map_or(0, |cluster| cluster.in_flight)
    };
    eventually(in_flight, |count| *count == 2).await;
    for channel in channels {
        let status = call(&mut TestServiceClient::new(channel)).await;
        let parts = ["\"leaf\"", "2 calls are in flight"];
        says(status.unwrap_err().message(), "SX0414", &parts);
    }
    under_way.abort_all();
}

/// A leaf that a route names as well is connected at once, and stays so when the route goes.
#[tokio::test]
async fn a_leaf_may_be_routed_to_directly_as_well() {
    let scene = Scene::new().await;
    let (a, b) = (scene.server("a"), scene.server("b"));
    let leaves = tree(
        &["near", "far"],
        &[("near", &a.address), ("far", &b.address)],
    );
    let path = |clusters: &[&str]| {
        let path = [raw::listener("greeter", "r"), raw::routes("r", clusters)];
        scene
            .plane
            .resources()
            .replace(path.into_iter().chain(leaves.clone()))
    };
    path(&["all", "far"]).unwrap();
    let mesh = scene.mesh();
    let mut client = client_of(&mesh);
    until_server(&mut client, "a").await;
    until_server(&mut client, "b").await;
    let load = Load::start(&client, 2).await;
    path(&["all"]).unwrap();
    // Only the aggregate's choice counts now, and that does not need the second.
    eventually(|| connected(&mesh, "far"), |count| *count == 0).await;
    path(&["far"]).unwrap();
    until_server(&mut client, "b").await;
    eventually(|| connected(&mesh, "near"), |count| *count == 0).await;
    path(&["all"]).unwrap();
    until_server(&mut client, "a").await;
    load.stop().await.assert_none_failed();
}

/// A cluster keeps its name and changes its kind.
#[tokio::test]
async fn a_cluster_may_become_an_aggregate_and_back() {
    let scene = Scene::new().await;
    let (a, b) = (scene.server("a"), scene.server("b"));
    scene.push(leaf("all", &a.address));
    let mut client = scene.client();
    until_server(&mut client, "a").await;
    let load = Load::start(&client, 2).await;
    for _ in 0..3 {
        scene.push(tree(&["far"], &[("far", &b.address)]));
        until_server(&mut client, "b").await;
        scene.push(leaf("all", &a.address));
        until_server(&mut client, "a").await;
    }
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn waiting_for_ready_connects_the_leaf_in_use() {
    let scene = Scene::new().await;
    let a = scene.server("a");
    let mut all = vec![kinds::aggregate("all", &["lazy"])];
    let ring = LbPolicy::RingHash {
        min_ring_size: 1024,
        max_ring_size: 4096,
    };
    all.push(kinds::limited("lazy", ring, 1024));
    all.push(raw::endpoints("lazy", &[&a.address]));
    scene.push(all);
    let channel = scene.mesh().channel("xds:///greeter").unwrap();
    within(channel.ready()).await;
    assert_eq!(
        call(&mut TestServiceClient::new(channel))
            .await
            .unwrap()
            .server,
        "a"
    );
}

#[tokio::test]
async fn the_process_tells_which_leaf_is_in_use_and_why() {
    let scene = Scene::new().await;
    let (dead, b) = (unused_address(), scene.server("b"));
    scene.push(tree(
        &["gone", "near", "far", "spare"],
        &[("near", &dead), ("far", &b.address), ("spare", &dead)],
    ));
    let mesh = scene.mesh();
    let admin = mesh.admin("127.0.0.1:0").unwrap();
    let address = admin.to_string();
    let mut client = client_of(&mesh);
    until_server(&mut client, "b").await;
    let page = get(&address, "/explain?target=greeter&path=/a.B/C")
        .await
        .body;
    for part in [
        "all: aggregate of 4 clusters, READY",
        "near: not a candidate: another takes the calls; TRANSIENT_FAILURE",
        "far: the first that can take calls; round robin in localities by weight, plaintext, READY",
        &format!("{}, of far: READY", b.address),
        "spare: not a candidate: not needed so far",
        "gone: not a candidate: passed over: Cluster \"gone\" was refused",
    ] {
        assert!(page.contains(part), "{part:?} is not in:\n{page}");
    }
    let clusters = get(&address, "/clusters").await.body;
    for line in [
        "all::leaf::far::takes_calls::true",
        "all::leaf::near::takes_calls::false",
        "far::connectivity::READY",
    ] {
        assert!(clusters.lines().any(|l| l == line), "{line} in\n{clusters}");
    }
}
