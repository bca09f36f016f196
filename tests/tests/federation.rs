//! Resources of several authorities (gRFC A47), each with control planes of its own.

use std::sync::Arc;

use serde_json::{Value, json};
use sidestep::{BuildError, CallError, Channel, Mesh};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::{Cluster, Discovery, Resource, ResourceType};
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, bootstrap, builder, unused_address};
use sidestep_tests::load::{Load, call, until};
use sidestep_tests::raw;
use tonic::Code;

type Client = TestServiceClient<Channel>;

const LISTENER: &str = "envoy.config.listener.v3.Listener";
const ROUTES: &str = "envoy.config.route.v3.RouteConfiguration";
const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

async fn plane(resources: impl IntoIterator<Item = Any>) -> Fixture {
    let resources = RawResources::unchecked(resources);
    Fixture::raw(resources.expect("all have names")).await
}

fn server(address: &str) -> Value {
    json!([{"server_uri": address, "channel_creds": [{"type": "insecure"}]}])
}

/// Two authorities, and a default server on which nobody listens.
fn two_authorities(one: &str, two: &str) -> Value {
    let mut all = bootstrap(&unused_address(), "web");
    all["authorities"] =
        json!({"one": {"xds_servers": server(one)}, "two": {"xds_servers": server(two)}});
    all["client_default_listener_resource_name_template"] =
        format!("xdstp://one/{LISTENER}/%s").into();
    all["server_listener_resource_name_template"] =
        format!("xdstp://two/{LISTENER}/server/%s").into();
    all
}

fn client(mesh: &Mesh, target: &str) -> Client {
    TestServiceClient::new(mesh.channel(target).expect("a good target"))
}

fn cluster(name: &str, endpoints: &str) -> Any {
    codec::encode(&Resource::Cluster(Arc::new(Cluster::new(
        name,
        Discovery::Eds {
            service_name: endpoints.to_owned(),
        },
    ))))
}

/// A plain server's listener under another name.
fn server_listener(name: &str, address: &str) -> Any {
    let plain = raw::server_listener(address, None);
    let decoded = codec::decode(ResourceType::Listener, &plain, &Context::default());
    let Ok(Resource::Listener(listener)) = decoded.expect("it has a name").result else {
        panic!("it is a good listener");
    };
    let mut listener = (*listener).clone();
    listener.name = name.to_owned();
    codec::encode(&Resource::Listener(Arc::new(listener)))
}

async fn until_server(client: &mut Client, id: &str) {
    let answer = until(
        client,
        |outcome| matches!(outcome, Ok(answer) if answer.server == id),
    );
    answer.await.expect("only an answer ends the wait");
}

/// Listener and routes of the client in one authority, the cluster, its endpoints and the
/// server's listener in the other: what `federation_test` of the PSM interop suite does.
struct World {
    one: Fixture,
    two: Fixture,
    bootstrap: Value,
    backend: Backend,
    /// Serves as long as it lives.
    _mesh: Mesh,
}

impl World {
    async fn start() -> Self {
        let address = unused_address();
        let (c, e) = (
            format!("xdstp://two/{CLUSTER}/c?a=1&b=2"),
            format!("xdstp://two/{ENDPOINTS}/e"),
        );
        let one = plane([
            raw::listener(
                &format!("xdstp://one/{LISTENER}/greeter"),
                &format!("xdstp://one/{ROUTES}/r"),
            ),
            // Parameters in another order are the same name.
            raw::routes(
                &format!("xdstp://one/{ROUTES}/r"),
                &[&format!("xdstp://two/{CLUSTER}/c?b=2&a=1")],
            ),
        ]);
        let one = one.await;
        let two = plane([
            cluster(&c, &e),
            raw::endpoints(&e, &[&address]),
            server_listener(
                &format!("xdstp://two/{LISTENER}/server/{address}"),
                &address,
            ),
        ]);
        let two = two.await;
        let bootstrap = two_authorities(&one.address(), &two.address());
        let mesh = builder(&bootstrap).build().unwrap();
        let backend = Backend::start_at(&mesh, &address, "a", Faults::default());
        Self {
            one,
            two,
            bootstrap,
            backend,
            _mesh: mesh,
        }
    }

    fn mesh(&self) -> Mesh {
        builder(&self.bootstrap).build().unwrap()
    }
}

#[tokio::test]
async fn resources_of_two_authorities_make_one_configuration() {
    let mut world = World::start().await;
    let mesh = world.mesh();
    let mut client = client(&mesh, "xds:///greeter");
    until_server(&mut client, "a").await;
    // The dead default server is nobody's business, and each authority has a stream of its own.
    let process = mesh.inspect().await.unwrap();
    let planes: Vec<_> = process.control_planes.iter().collect();
    let served: Vec<_> = planes.iter().map(|plane| &*plane.authorities).collect();
    assert_eq!(served, [[Some("one".to_owned())], [Some("two".to_owned())]]);
    assert!(planes.iter().all(|plane| plane.connected), "{planes:?}");
    let resources = mesh.resources().await.unwrap();
    for resource in &resources {
        let expected = match resource.name.starts_with("xdstp://one/") {
            true => world.one.address(),
            false => world.two.address(),
        };
        assert_eq!(resource.server.as_ref(), Some(&expected), "{resource:?}");
    }
    // One of them may go and come back without a call that fails.
    let load = Load::start(&client, 4).await;
    world.one.kill().await;
    load.further(200).await;
    world.one.revive().await;
    world.two.kill().await;
    load.further(200).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn an_authority_that_cannot_be_reached_is_named_and_disturbs_no_other() {
    let world = World::start().await;
    let (mesh, default) = (
        world.mesh(),
        world.bootstrap["xds_servers"][0]["server_uri"].clone(),
    );
    let mut good = client(&mesh, "xds:///greeter");
    until_server(&mut good, "a").await;
    let load = Load::start(&good, 2).await;

    let mut bootstrap = world.bootstrap.clone();
    bootstrap["client_default_listener_resource_name_template"] = "%s".into();
    let other = builder(&bootstrap).build().unwrap();
    let status = call(&mut client(&other, "xds:///greeter"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains(default.as_str().unwrap()),
        "{status}"
    );
    until_server(&mut client(&other, "xds://one/greeter"), "a").await;

    load.further(100).await;
    load.stop().await.assert_none_failed();
}

#[tokio::test]
async fn names_of_nobody_fail_their_target_alone() {
    let world = World::start().await;
    let mesh = world.mesh();
    let mut good = client(&mesh, "xds:///greeter");
    until_server(&mut good, "a").await;

    let error = mesh.channel("xds://nobody/greeter").unwrap_err();
    assert!(matches!(error, BuildError::Authority { .. }), "{error:?}");
    assert!(error.to_string().contains("SX0110"), "{error}");

    let listener = |target: &str, routes: String| {
        raw::listener(&format!("xdstp://one/{LISTENER}/{target}"), &routes)
    };
    let bad = [
        listener("lost", format!("xdstp://nobody/{ROUTES}/r")),
        listener("wrong", format!("xdstp://one/{CLUSTER}/r")),
        listener("greeter", format!("xdstp://one/{ROUTES}/r")),
        raw::routes(
            &format!("xdstp://one/{ROUTES}/r"),
            &[&format!("xdstp://two/{CLUSTER}/c?b=2&a=1")],
        ),
    ];
    world.one.resources().replace(bad).unwrap();
    for (target, texts, code) in [
        (
            "lost",
            ["no authority \"nobody\"", "xdstp://nobody/"],
            "SX0315",
        ),
        ("wrong", ["names the type", "is asked for"], "SX0316"),
    ] {
        let about =
            |status: &tonic::Status| texts.iter().all(|text| status.message().contains(text));
        let mut client = client(&mesh, &format!("xds:///{target}"));
        let failed = until(
            &mut client,
            |outcome| matches!(outcome, Err(status) if about(status)),
        );
        let status = failed.await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(CallError::from_status(&status), Some("config"));
        assert!(status.message().contains(code), "{status}");
    }
    call(&mut good).await.unwrap();
}

#[tokio::test]
async fn authorities_with_the_same_server_share_its_stream() {
    let world = World::start().await;
    let mut bootstrap = world.bootstrap.clone();
    let everything = [
        raw::listener(
            &format!("xdstp://one/{LISTENER}/greeter"),
            &format!("xdstp://two/{ROUTES}/r"),
        ),
        raw::routes(&format!("xdstp://two/{ROUTES}/r"), &["plain"]),
        raw::cluster("plain"),
        raw::endpoints("plain", &[&world.backend.address]),
    ];
    let shared = plane(everything).await;
    for list in [
        "/xds_servers",
        "/authorities/one/xds_servers",
        "/authorities/two/xds_servers",
    ] {
        *bootstrap.pointer_mut(list).unwrap() = server(&shared.address());
    }
    let mesh = builder(&bootstrap).build().unwrap();
    until_server(&mut client(&mesh, "xds:///greeter"), "a").await;
    assert_eq!(shared.running().tracker().clients().len(), 1);
    let planes = mesh.inspect().await.unwrap().control_planes;
    let expected = [None, Some("one".to_owned()), Some("two".to_owned())];
    assert_eq!(planes[0].authorities, expected);
}
