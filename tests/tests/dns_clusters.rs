//! Clusters whose endpoints are host names (gRFC A37, A61; Envoy's STRICT_DNS), and `dns:` targets,
//! by a name server on loopback.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sidestep::inspect::Cluster;
use sidestep::resolver::{NameResolver, ResolveError, Resolved, System};
use sidestep::{Channel, Mesh, MeshBuilder};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::resource::DnsLookup;
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::admin::{eventually, get};
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, quick, unused_address};
use sidestep_tests::kinds;
use sidestep_tests::load::{Load, call, until};
use sidestep_tests::name_server::NameServer;
use sidestep_tests::raw;

type Client = TestServiceClient<Channel>;

const HOST: &str = "greeter.test";
const HOUR: u32 = 3600;

/// A name server, and servers on one port of several loopback addresses.
struct Scene {
    names: NameServer,
    plane: Fixture,
    servers: Mesh,
    /// Of all servers.
    port: u16,
    /// Keeps the servers' own control plane.
    _inner: Fixture,
}

impl Scene {
    async fn new() -> Self {
        let inner = Fixture::start(&mesh_file(&[], "")).await;
        let port = unused_address().rsplit_once(':').unwrap().1.parse();
        Self {
            names: NameServer::start().await,
            plane: Fixture::raw(RawResources::unchecked([]).unwrap()).await,
            servers: inner.mesh("greeter"),
            port: port.unwrap(),
            _inner: inner,
        }
    }

    /// A server whose id is its address.
    fn server(&self, ip: &str) -> Backend {
        let address = format!("{ip}:{}", self.port);
        Backend::start_at(&self.servers, &address, ip, Faults::default())
    }

    /// `greeter` goes to the cluster `named`.
    fn push(&self, resources: impl IntoIterator<Item = Any>) {
        let path = [raw::listener("greeter", "r"), raw::routes("r", &["named"])];
        let all = path.into_iter().chain(resources);
        self.plane.resources().replace(all).unwrap();
    }

    fn logical(&self) -> Any {
        kinds::logical_dns("named", HOST, self.port, soon())
    }

    fn strict(&self, hosts: &[&str]) -> Any {
        kinds::strict_dns("named", hosts, self.port, soon())
    }

    fn builder(&self) -> MeshBuilder {
        self.plane
            .builder("web")
            .name_resolver(self.names.resolver())
    }

    fn mesh(&self) -> Mesh {
        self.builder().build().unwrap()
    }

    fn client(&self) -> Client {
        client_of(&self.mesh())
    }

    /// The message of a call that fails.
    async fn failure(&self) -> String {
        let status = call(&mut self.client()).await.unwrap_err();
        status.message().to_owned()
    }
}

fn client_of(mesh: &Mesh) -> Client {
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

/// Names are asked for as often as their records allow.
fn soon() -> DnsLookup {
    DnsLookup {
        refresh: Duration::from_millis(1),
        ..DnsLookup::default()
    }
}

async fn until_server(client: &mut Client, id: &str) {
    until(client, |o| o.as_ref().is_ok_and(|a| a.server == id))
        .await
        .unwrap();
}

/// The servers that answer so many calls.
async fn servers(client: &mut Client, calls: usize) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..calls {
        seen.insert(call(client).await.unwrap().server);
    }
    seen
}

async fn cluster(mesh: &Mesh, name: &str) -> Option<Cluster> {
    let clusters = mesh.clusters().await.unwrap();
    clusters.into_iter().find(|cluster| cluster.name == name)
}

#[track_caller]
fn says(text: &str, code: &str, parts: &[&str]) {
    assert!(text.ends_with(&format!("[{code}]")), "{code}: {text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[tokio::test]
async fn a_changed_record_moves_the_calls_and_fails_none() {
    let scene = Scene::new().await;
    let _servers = ["127.0.0.1", "127.0.0.2"].map(|ip| scene.server(ip));
    for cluster in [scene.logical(), scene.strict(&[HOST])] {
        scene.names.set(HOST, 0, &["127.0.0.1"]);
        scene.push([cluster]);
        let mut client = scene.client();
        until_server(&mut client, "127.0.0.1").await;
        let load = Load::start(&client, 4).await;
        for ip in ["127.0.0.2", "127.0.0.1", "127.0.0.2"] {
            load.further(50).await;
            scene.names.set(HOST, 0, &[ip]);
            until_server(&mut client, ip).await;
        }
        load.stop().await.assert_none_failed();
    }
}

/// What a service without the feature `hickory-dns` has.
#[tokio::test]
async fn the_systems_resolver_does_for_both_kinds() {
    let scene = Scene::new().await;
    let _server = scene.server("127.0.0.1");
    let logical = kinds::logical_dns("named", "localhost", scene.port, soon());
    for cluster in [logical, scene.strict(&["localhost"])] {
        scene.push([cluster]);
        let builder = scene.plane.builder("web");
        let builder = builder.name_resolver(Arc::new(System::new()));
        let mut client = client_of(&builder.build().unwrap());
        until_server(&mut client, "127.0.0.1").await;
    }
    let nowhere = scene.strict(&["no-such-host.invalid"]);
    scene.push([nowhere]);
    let builder = scene.plane.builder("web");
    let builder = builder.name_resolver(Arc::new(System::new()));
    let mut client = client_of(&builder.build().unwrap());
    let status = call(&mut client).await.unwrap_err();
    says(status.message(), "SX0417", &["no-such-host.invalid"]);
}

#[tokio::test]
async fn an_answer_counts_for_its_ttl() {
    let scene = Scene::new().await;
    let _servers = ["127.0.0.1", "127.0.0.2"].map(|ip| scene.server(ip));
    scene.names.set(HOST, HOUR, &["127.0.0.1"]);
    scene.push([scene.logical()]);
    let mut client = scene.client();
    until_server(&mut client, "127.0.0.1").await;
    let asked = scene.names.asked();
    scene.names.set(HOST, HOUR, &["127.0.0.2"]);
    let seen = servers(&mut client, 200).await;
    assert_eq!(seen, BTreeSet::from(["127.0.0.1".to_owned()]));
    assert_eq!(scene.names.asked(), asked);
}

#[tokio::test]
async fn a_lost_connection_is_a_reason_to_ask_before_the_ttl_is_over() {
    let scene = Scene::new().await;
    let (a, _b) = (scene.server("127.0.0.1"), scene.server("127.0.0.2"));
    scene.names.set(HOST, HOUR, &["127.0.0.1"]);
    scene.push([scene.logical()]);
    let mut client = scene.client();
    until_server(&mut client, "127.0.0.1").await;
    scene.names.set(HOST, HOUR, &["127.0.0.2"]);
    a.shutdown().await;
    until_server(&mut client, "127.0.0.2").await;
}

#[tokio::test]
async fn all_addresses_of_a_logical_name_are_one_endpoint() {
    let scene = Scene::new().await;
    let _b = scene.server("127.0.0.2");
    // Nobody listens at the first.
    scene.names.set(HOST, HOUR, &["127.0.0.1", "127.0.0.2"]);
    scene.push([scene.logical()]);
    let mesh = scene.mesh();
    assert_eq!(
        call(&mut client_of(&mesh)).await.unwrap().server,
        "127.0.0.2"
    );
    let endpoints = cluster(&mesh, "named").await.unwrap().endpoints;
    assert_eq!(endpoints.len(), 1);
    assert_eq!(endpoints[0].addresses.len(), 2);
    assert_eq!(endpoints[0].hostname, HOST);
}

#[tokio::test]
async fn each_address_of_strict_names_is_an_endpoint() {
    let scene = Scene::new().await;
    let ips = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let _servers = ips.map(|ip| scene.server(ip));
    scene.names.set(HOST, 0, &ips[..2]);
    // The last is an address, which stands for itself.
    scene.push([scene.strict(&[HOST, "127.0.0.3", "nobody.test"])]);
    let mut client = scene.client();
    until(&mut client, Result::is_ok).await.unwrap();
    let all = |n: usize| ips[3 - n..].iter().map(ToString::to_string).collect();
    let seen = eventually(
        || {
            let mut client = client.clone();
            async move { servers(&mut client, 9).await }
        },
        |seen| seen.len() == 3,
    )
    .await;
    assert_eq!(seen, all(3));
    let load = Load::start(&client, 2).await;
    scene.names.set(HOST, 0, &ips[1..2]);
    let seen = eventually(
        || {
            let mut client = client.clone();
            async move { servers(&mut client, 9).await }
        },
        |seen| seen.len() == 2,
    )
    .await;
    assert_eq!(seen, all(2));
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn a_name_that_does_not_exist_says_so_until_it_does() {
    let scene = Scene::new().await;
    let _a = scene.server("127.0.0.1");
    for cluster in [scene.logical(), scene.strict(&[HOST])] {
        scene.push([cluster]);
        let mut client = scene.client();
        let status = until(&mut client, Result::is_err).await.unwrap_err();
        let parts = [
            "Cluster \"named\"",
            "host name \"greeter.test\"",
            "there is no such name",
            "xDS server 127.0.0.1:",
            "web-node",
        ];
        says(status.message(), "SX0417", &parts);
        scene.names.set(HOST, 0, &["127.0.0.1"]);
        until_server(&mut client, "127.0.0.1").await;
        scene.names.remove(HOST);
    }
}

#[tokio::test]
async fn a_name_without_an_address_says_so() {
    let scene = Scene::new().await;
    scene.names.set(HOST, 0, &[]);
    scene.push([scene.logical()]);
    let parts = ["\"named\"", HOST, "it has no address", "web-node"];
    says(&scene.failure().await, "SX0433", &parts);
}

/// More than any answer of DNS can hold.
#[derive(Debug)]
struct TenThousand;

impl NameResolver for TenThousand {
    fn resolve(&self, _host: &str) -> BoxFuture<'static, Result<Resolved, ResolveError>> {
        let ips = (0..10_000_u32).map(|n| std::net::Ipv4Addr::from(0x7f00_0000 + n).into());
        let found = Resolved {
            addresses: ips.collect(),
            ttl: None,
        };
        Box::pin(std::future::ready(Ok(found)))
    }
}

#[tokio::test]
async fn a_name_with_ten_thousand_addresses_says_so() {
    let scene = Scene::new().await;
    scene.push([scene.strict(&[HOST])]);
    let many = scene.builder().name_resolver(Arc::new(TenThousand));
    let mut client = client_of(&many.build().unwrap());
    let status = call(&mut client).await.unwrap_err();
    let parts = ["\"named\"", HOST, "10000 addresses", "4096", "web-node"];
    says(status.message(), "SX0434", &parts);
}

/// As many as an answer over TCP can hold of one family.
#[tokio::test]
async fn a_name_with_a_thousand_addresses_is_used() {
    let scene = Scene::new().await;
    let _server = scene.server("127.0.0.1");
    let ips: Vec<String> = (1..=1000_u32)
        .map(|n| format!("127.0.{}.{}", n / 250, n % 250 + 1))
        .collect();
    let mut ips: Vec<&str> = ips.iter().map(String::as_str).collect();
    ips.push("127.0.0.1");
    scene.names.set(HOST, HOUR, &ips);
    scene.push([scene.strict(&[HOST])]);
    let mesh = scene.mesh();
    let mut client = client_of(&mesh);
    until_server(&mut client, "127.0.0.1").await;
    let endpoints = cluster(&mesh, "named").await.unwrap().endpoints.len();
    assert_eq!(endpoints, ips.iter().collect::<BTreeSet<_>>().len());
}

#[tokio::test]
async fn what_was_found_last_stays_when_the_name_server_fails() {
    let scene = Scene::new().await;
    let _a = scene.server("127.0.0.1");
    scene.names.set(HOST, 0, &["127.0.0.1"]);
    scene.push([scene.logical()]);
    let client = scene.client();
    let load = Load::start(&client, 2).await;
    // It does not exist any more; it has no address any more; nobody answers any more.
    scene.names.remove(HOST);
    scene.names.further(4).await;
    scene.names.set(HOST, 0, &[]);
    scene.names.further(4).await;
    scene.names.mute();
    scene.names.further(1).await;
    load.further(50).await;
    load.stop().await.assert_none_failed();
}

/// An aggregate whose first leaf is `named`, and its second an EDS cluster.
fn aggregate(scene: &Scene, order: &[&str]) -> Vec<Any> {
    let route = raw::routes("r", &["all"]);
    let eds = format!("127.0.0.2:{}", scene.port);
    vec![
        route,
        raw::listener("greeter", "r"),
        kinds::aggregate("all", order),
        scene.logical(),
        raw::cluster("eds"),
        raw::endpoints("eds", &[&eds]),
    ]
}

#[tokio::test]
async fn a_name_that_does_not_exist_fails_over_at_once_and_back_when_it_does() {
    let scene = Scene::new().await;
    let _servers = ["127.0.0.1", "127.0.0.2"].map(|ip| scene.server(ip));
    let all = aggregate(&scene, &["named", "eds"]);
    scene.plane.resources().replace(all).unwrap();
    let mut client = scene.client();
    until_server(&mut client, "127.0.0.2").await;
    let load = Load::start(&client, 2).await;
    scene.names.set(HOST, 0, &["127.0.0.1"]);
    until_server(&mut client, "127.0.0.1").await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn a_name_that_is_needed_last_holds_nobody_up() {
    let scene = Scene::new().await;
    let _b = scene.server("127.0.0.2");
    scene.names.mute();
    let all = aggregate(&scene, &["eds", "named"]);
    scene.plane.resources().replace(all).unwrap();
    let begun = Instant::now();
    let answer = call(&mut scene.client()).await.unwrap();
    assert_eq!(answer.server, "127.0.0.2");
    // A look-up is given 10 s.
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_eds_cluster_fails_over_to_a_name_and_back() {
    let scene = Scene::new().await;
    let (_a, b) = (scene.server("127.0.0.1"), scene.server("127.0.0.2"));
    scene.names.set(HOST, HOUR, &["127.0.0.1"]);
    let all = aggregate(&scene, &["eds", "named"]);
    scene.plane.resources().replace(all).unwrap();
    let mut client = scene.client();
    until_server(&mut client, "127.0.0.2").await;
    let load = Load::start(&client, 2).await;
    let asked = scene.names.asked();
    b.shutdown().await;
    until_server(&mut client, "127.0.0.1").await;
    let _b = scene.server("127.0.0.2");
    until_server(&mut client, "127.0.0.2").await;
    load.stop().await.assert_none_failed();
    // The trouble of an EDS cluster is no reason to ask for names.
    assert_eq!(scene.names.asked(), asked);
}

#[tokio::test]
async fn direct_targets_follow_their_name() {
    let scene = Scene::new().await;
    let _servers = ["127.0.0.1", "127.0.0.2"].map(|ip| scene.server(ip));
    let mesh = Mesh::builder().timers(quick());
    let mesh = mesh.name_resolver(scene.names.resolver()).build().unwrap();
    let target = format!("dns:///{HOST}:{}", scene.port);
    let mut client = TestServiceClient::new(mesh.channel(&target).unwrap());
    let status = call(&mut client).await.unwrap_err();
    says(
        status.message(),
        "SX0417",
        &[&target, "there is no such name"],
    );
    scene.names.set(HOST, 5, &["127.0.0.1"]);
    until_server(&mut client, "127.0.0.1").await;
    // Another channel of the same name has what is known of it at once.
    let asked = scene.names.asked();
    let again = mesh.channel(&format!("{HOST}:{}", scene.port)).unwrap();
    assert!(call(&mut TestServiceClient::new(again)).await.is_ok());
    assert_eq!(scene.names.asked(), asked);
}

#[tokio::test]
async fn a_control_plane_may_be_a_name() {
    let scene = Scene::new().await;
    let _a = scene.server("127.0.0.1");
    scene.names.set(HOST, HOUR, &["127.0.0.1"]);
    scene.push([scene.logical()]);
    let port = scene.plane.address().rsplit_once(':').unwrap().1.to_owned();
    let bootstrap = sidestep_tests::fixture::bootstrap(&format!("{HOST}:{port}"), "web");
    let mesh = sidestep_tests::fixture::builder(&bootstrap);
    let mesh = mesh.name_resolver(scene.names.resolver()).build().unwrap();
    assert_eq!(
        call(&mut client_of(&mesh)).await.unwrap().server,
        "127.0.0.1"
    );
}

/// What a raw source serves arrives byte for byte, with what we know nothing of.
#[tokio::test]
async fn clusters_of_names_arrive_as_they_were_given() {
    let scene = Scene::new().await;
    scene.names.set(HOST, HOUR, &["127.0.0.1"]);
    let mut given = vec![
        scene.logical(),
        kinds::strict_dns("strict", &[HOST], scene.port, soon()),
        kinds::aggregate("all", &["named", "strict"]),
    ];
    for any in &mut given {
        // Field 999, a number: nobody has it.
        any.value = [&any.value[..], &[0xb8, 0x3e, 7]].concat().into();
    }
    let path = [raw::listener("greeter", "r"), raw::routes("r", &["all"])];
    let all = path.into_iter().chain(given.clone());
    scene.plane.resources().replace(all).unwrap();
    let mesh = scene.mesh();
    let _client = client_of(&mesh);
    let arrived = eventually(
        || async {
            let resources = mesh.resources().await.unwrap();
            let contents = resources
                .into_iter()
                .filter_map(|resource| resource.content);
            contents.collect::<Vec<_>>()
        },
        |contents| given.iter().all(|any| contents.contains(any)),
    )
    .await;
    assert!(arrived.len() >= given.len());
}

#[tokio::test]
async fn the_process_tells_where_endpoints_come_from() {
    let scene = Scene::new().await;
    let _a = scene.server("127.0.0.1");
    scene.names.set(HOST, HOUR, &["127.0.0.1"]);
    scene.push([scene.logical()]);
    let mesh = scene.mesh();
    let mut client = client_of(&mesh);
    until_server(&mut client, "127.0.0.1").await;
    let address = mesh.admin("127.0.0.1:0").unwrap().to_string();
    let page = get(&address, "/clusters").await.body;
    let line = format!("named::discovery::LOGICAL_DNS {HOST}:{}", scene.port);
    assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    let page = get(&address, "/explain?target=greeter&path=/a.B/C")
        .await
        .body;
    let line = format!("127.0.0.1:{}: READY", scene.port);
    assert!(page.contains(&line), "{line} in\n{page}");
}
