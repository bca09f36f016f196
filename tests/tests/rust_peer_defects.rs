//! Fourteen defects that a reading of another Rust implementation of xDS found, each as a test
//! that Sidestep does not have it. FEATURES.md has the list.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use sidestep::server::ServerStats;
use sidestep::{CallError, Channel, Mesh, PeerIdentity};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::test_service_server::TestServiceServer;
use sidestep_proto::ads::{Response, Variant};
use sidestep_proto::codec;
use sidestep_proto::resource::{
    HeaderCondition, HeaderMatcher, Resource, ResourceType, RouteAction, RouteConfiguration,
    StringMatcher, Text,
};
use sidestep_proto::wire::{Any, cluster, core, discovery, endpoint, listener, route};
use sidestep_server::RawResources;
use sidestep_tests::fixture::{
    Authority, Backend, Fixture, builder, mesh_file, plain_mesh, secured, spiffe, unused_address,
};
use sidestep_tests::hostile::{Deed, HostilePlane, Step};
use sidestep_tests::load::{Load, PATIENCE, call, until};
use sidestep_tests::raw;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tonic::{Code, Request, Status};

type Client = TestServiceClient<Channel>;

/// Running backends, and the control plane that only they know.
async fn backends<const N: usize>(ids: [&str; N]) -> (Fixture, [Backend; N]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ids.map(|id| Backend::start(&servers, id, Faults::default()));
    for backend in &backends {
        serving(backend).await;
    }
    (fixture, backends)
}

/// Waits until the backend takes calls.
async fn serving(backend: &Backend) {
    let fixture = Fixture::start(&plain_mesh(&[&backend.address])).await;
    let answered = until(&mut fixture.client("xds:///greeter"), Result::is_ok).await;
    answered.expect("only an answer ends the wait");
}

async fn plane(resources: impl IntoIterator<Item = Any>) -> Fixture {
    let resources = RawResources::unchecked(resources);
    Fixture::raw(resources.expect("all have names")).await
}

fn client_of(mesh: &Mesh, target: &str) -> Client {
    TestServiceClient::new(mesh.channel(target).expect("a good target"))
}

async fn until_server(client: &mut Client, id: &str) {
    let found = until(client, |o| o.as_ref().is_ok_and(|a| a.server == id)).await;
    found.expect("only an answer ends the wait");
}

/// Polls at every turn of the runtime.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    let reached = tokio::time::timeout(PATIENCE, reached).await;
    reached.unwrap_or_else(|_| panic!("{what} never came"));
}

/// Names of a type that clients are subscribed to.
fn subscribed(fixture: &Fixture, type_name: &str) -> Vec<String> {
    let clients = fixture.running().tracker().clients();
    let types = clients.into_iter().flat_map(|client| client.types);
    let of_type = types.filter(|(url, _)| url.ends_with(type_name));
    of_type.flat_map(|(_, progress)| progress.names).collect()
}

/// The words of the last NACK of a type.
fn refused(fixture: &Fixture, type_name: &str) -> Option<String> {
    let clients = fixture.running().tracker().clients();
    let mut types = clients.into_iter().flat_map(|client| client.types);
    let (_, progress) = types.find(|(url, _)| url.ends_with(type_name))?;
    progress.nacked.map(|(_, text)| text)
}

/// 1. The peer kept the client of a cluster that left the routes: after its return calls went to
/// the endpoints of long ago, for ever.
#[tokio::test]
async fn defect_01_a_cluster_that_comes_back_has_todays_endpoints() {
    let (_servers, [old, green, new]) = backends(["old", "green", "new"]).await;
    let both = |to: &str, blue: &str| {
        [
            raw::listener("greeter", "greeter"),
            raw::routes("greeter", &[to]),
            raw::cluster("blue"),
            raw::cluster("green"),
            raw::endpoints("blue", &[blue]),
            raw::endpoints("green", &[&green.address]),
        ]
    };
    let plane = plane(both("blue", &old.address)).await;
    let mut client = plane.client("xds:///greeter");
    until_server(&mut client, "old").await;

    plane
        .resources()
        .replace(both("green", &old.address))
        .unwrap();
    until_server(&mut client, "green").await;
    eventually("the end of blue", || {
        subscribed(&plane, "Cluster") == ["green"]
    })
    .await;
    // Blue moves while nobody looks.
    plane
        .resources()
        .replace(both("green", &new.address))
        .unwrap();
    plane
        .resources()
        .replace(both("blue", &new.address))
        .unwrap();
    until_server(&mut client, "new").await;
    let before = old.testing.calls();
    for _ in 0..50 {
        assert_eq!(call(&mut client).await.unwrap().server, "new");
    }
    assert_eq!(old.testing.calls(), before);
}

/// The certificates of callers as a backend saw them, newest last.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<PeerIdentity>>>);

impl Seen {
    fn server(&self, mesh: &Mesh, address: &str, id: &str) -> (Backend, Arc<ServerStats>) {
        let seen = self.clone();
        let note = move |request: Request<()>| {
            let identity = request.extensions().get::<PeerIdentity>();
            seen.0.lock().unwrap().extend(identity.cloned());
            Ok(request)
        };
        let testing = Testing::new(id, Faults::default());
        let service = TestServiceServer::with_interceptor(testing.clone(), note);
        let server = mesh.server(address).add_service(service);
        let stats = server.stats();
        (Backend::serve(server, testing), stats)
    }

    fn last(&self) -> PeerIdentity {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

fn process(fixture: &Fixture, authority: &Authority, service: &str) -> Mesh {
    let provider = authority.provider(&spiffe(service));
    let builder = fixture.builder(service);
    builder
        .certificate_provider("default", provider)
        .build()
        .unwrap()
}

/// A bootstrap whose certificates are these files.
fn with_files(fixture: &Fixture, service: &str, directory: &std::path::Path) -> Mesh {
    let path = |name: &str| directory.join(name);
    let mut bootstrap = fixture.bootstrap(service);
    bootstrap["certificate_providers"] = json!({"default": {
        "plugin_name": "file_watcher",
        "config": {
            "certificate_file": path("tls.crt"),
            "private_key_file": path("tls.key"),
            "ca_certificate_file": path("ca.crt"),
            "refresh_interval": "0.020s",
        },
    }});
    builder(&bootstrap).build().unwrap()
}

/// 2. The peer read its certificate once for each endpoint: after a rotation every reconnect
/// showed the old one, until that had expired and nothing worked.
#[tokio::test]
async fn defect_02_a_reconnect_shows_todays_certificate() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let servers = process(&fixture, &authority, "greeter");
    let seen = Seen::default();
    let (backend, _) = seen.server(&servers, "127.0.0.1:0", "a");
    let address = backend.address.clone();
    fixture.push(&secured(&plain_mesh(&[&address]), "strict"));

    let files = tempfile::tempdir().unwrap();
    let write = |(chain, key): (String, String)| {
        for (name, text) in [
            ("ca.crt", authority.root()),
            ("tls.crt", chain),
            ("tls.key", key),
        ] {
            std::fs::write(files.path().join(name), text).unwrap();
        }
    };
    write(authority.leaf(&spiffe("web")));
    let mut client = client_of(&with_files(&fixture, "web", files.path()), "xds:///greeter");
    until_server(&mut client, "a").await;
    let first = seen.last().certificates[0].clone();

    write(authority.leaf(&spiffe("web")));
    let reconnect = async {
        let mut backend = backend;
        // The file is read soon; whoever reconnects after that shows what is in it. The endpoint
        // is the same one all the time: only its connection ends.
        while seen.last().certificates[0] == first {
            backend.kill().await;
            backend = seen.server(&servers, &address, "a").0;
            until_server(&mut client, "a").await;
        }
    };
    tokio::time::timeout(PATIENCE, reconnect)
        .await
        .expect("the new certificate is shown");
}

/// 3. The peer went on without a client certificate when its provider failed, and without any
/// verifier when TLS could not be set up.
#[tokio::test]
async fn defect_03_tls_that_cannot_be_had_is_no_connection() {
    let authority = Authority::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fixture = Fixture::start(&secured(&plain_mesh(&[&address]), "strict")).await;
    let heard = Arc::new(Mutex::new(Vec::<u8>::new()));
    let tap = tokio::spawn({
        let heard = Arc::clone(&heard);
        async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut bytes = vec![0; 4096];
                let read = socket.read(&mut bytes).await.unwrap_or(0);
                heard.lock().unwrap().extend_from_slice(&bytes[..read]);
            }
        }
    });
    // No file at all; roots, and no identity.
    for roots in [false, true] {
        let files = tempfile::tempdir().unwrap();
        if roots {
            std::fs::write(files.path().join("ca.crt"), authority.root()).unwrap();
        }
        let mesh = with_files(&fixture, "web", files.path());
        let status = call(&mut client_of(&mesh, "xds:///greeter"))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("tls.crt"), "{status}");
    }
    assert_eq!(heard.lock().unwrap().len(), 0, "not a byte went out");
    tap.abort();
}

/// 4. The peer used a changed transport socket for new endpoints only: live connections stayed in
/// plaintext for ever.
#[tokio::test]
async fn defect_04_a_changed_transport_reaches_live_endpoints() {
    let authority = Authority::default();
    let servers = Fixture::start(&secured(&mesh_file(&[], ""), "permissive")).await;
    let server = process(&servers, &authority, "greeter");
    let (backend, stats) = Seen::default().server(&server, "127.0.0.1:0", "a");
    servers.push(&secured(&plain_mesh(&[&backend.address]), "permissive"));

    let fixture = Fixture::start(&plain_mesh(&[&backend.address])).await;
    let web = process(&fixture, &authority, "web");
    let client = client_of(&web, "xds:///greeter");
    let load = Load::start(&client, 2).await;
    load.further(20).await;
    assert_eq!(stats.tls(), 0);
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "permissive"));
    eventually("TLS, and the end of plaintext", || {
        (stats.tls(), stats.open()) == (1, 1)
    })
    .await;
    load.further(50).await;
    load.stop().await.assert_none_failed();
    assert_eq!((stats.tls(), stats.open()), (1, 1));
}

/// 5. The peer kept what was no longer watched, and gave it, however old, to the next who asked.
#[tokio::test]
async fn defect_05_what_nobody_watched_is_asked_for_anew() {
    let (_servers, [a, b]) = backends(["a", "b"]).await;
    let two = |other: &str| {
        let first = raw::service("greeter", raw::endpoints("greeter", &[&a.address]));
        let other = raw::service("other", raw::endpoints("other", &[other]));
        first.into_iter().chain(other)
    };
    let plane = plane(two(&a.address)).await;
    let mesh = plane.mesh("web");
    // Keeps a subscription of every type alive.
    let mut stays = client_of(&mesh, "xds:///greeter");
    call(&mut stays).await.unwrap();
    let mut other = client_of(&mesh, "xds:///other");
    assert_eq!(call(&mut other).await.unwrap().server, "a");
    let mut absent = client_of(&mesh, "xds:///later");
    call(&mut absent).await.unwrap_err();
    drop((other, absent));
    eventually("the end of both", || {
        subscribed(&plane, "Listener") == ["greeter"]
    })
    .await;
    eventually("the end of their clusters", || {
        subscribed(&plane, "Cluster") == ["greeter"]
    })
    .await;

    let later = raw::service("later", raw::endpoints("later", &[&b.address]));
    plane
        .resources()
        .replace(two(&b.address).chain(later))
        .unwrap();
    for target in ["xds:///other", "xds:///later"] {
        // The very first call.
        let answer = call(&mut client_of(&mesh, target)).await.unwrap();
        assert_eq!(answer.server, "b", "{target}");
    }
}

/// 6. The peer told nobody that the last name of a type was dropped, nor of names beyond the 64
/// that its queue held.
#[tokio::test]
async fn defect_06_every_name_is_unsubscribed() {
    const CHANNELS: usize = 150;
    let (_servers, [a]) = backends(["a"]).await;
    let service = |n| {
        let name = format!("s{n}");
        raw::service(&name, raw::endpoints(&name, &[&a.address]))
    };
    let plane = plane((0..CHANNELS).flat_map(service)).await;
    let mesh = plane.mesh("web");
    let target = |n| format!("xds:///s{n}");
    let mut clients: Vec<_> = (0..CHANNELS)
        .map(|n| client_of(&mesh, &target(n)))
        .collect();
    for client in &mut clients {
        call(client).await.unwrap();
    }
    let types = [
        "Listener",
        "RouteConfiguration",
        "Cluster",
        "ClusterLoadAssignment",
    ];
    for t in types {
        assert_eq!(subscribed(&plane, t).len(), CHANNELS, "{t}");
    }
    // All at once, the last of each type among them.
    drop(clients);
    eventually("the end of every subscription", || {
        types.iter().all(|t| subscribed(&plane, t).is_empty())
    })
    .await;
}

/// 7. The peer hung when one route named more clusters than a queue of its had places, or when a
/// resource was waited for in vain meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_07_hundreds_of_clusters_on_one_route_do_not_lock_up() {
    const CLUSTERS: usize = 300;
    let (_servers, [a]) = backends(["a"]).await;
    let names: Vec<String> = (0..CLUSTERS).map(|n| format!("c{n}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("absent");
    let mut resources = vec![
        raw::listener("greeter", "greeter"),
        raw::routes("greeter", &all),
    ];
    for name in &names {
        resources.push(raw::cluster(name));
        resources.push(raw::endpoints(name, &[&a.address]));
    }
    let plane = plane(resources).await;
    let mut client = plane.client("xds:///greeter");
    until_server(&mut client, "a").await;
    let mut answered = 0;
    for _ in 0..2_000 {
        match call(&mut client).await {
            Ok(_) => answered += 1,
            Err(status) => assert!(status.message().contains("absent"), "{status}"),
        }
    }
    // One of 301 fails; fifty would be a draw of one in 10^27.
    assert!(answered > 1_950, "{answered}");
}

/// 8. The peer heard no command while it connected: to open a channel could take 30 s.
#[tokio::test]
async fn defect_08_channels_open_at_once_while_the_control_plane_is_away() {
    const CHANNELS: usize = 200;
    let (_servers, [a]) = backends(["a"]).await;
    let service = |n: usize| {
        let listener = raw::listener(&format!("s{n}"), "greeter");
        let rest = raw::service("greeter", raw::endpoints("greeter", &[&a.address]));
        std::iter::once(listener).chain(rest.into_iter().skip((n > 0).into()))
    };
    let listeners = (1..CHANNELS).map(|n| raw::listener(&format!("s{n}"), "greeter"));
    let mut plane = plane(service(0).chain(listeners)).await;
    plane.kill().await;
    let mesh = plane.mesh("web");
    let open = async {
        let open = |n| client_of(&mesh, &format!("xds:///s{n}"));
        let mut clients: Vec<_> = (0..CHANNELS).map(open).collect();
        for client in &mut clients {
            let status = call(client).await.unwrap_err();
            assert_eq!(CallError::from_status(&status), Some("config"), "{status}");
        }
        clients
    };
    let mut clients = tokio::time::timeout(Duration::from_secs(10), open)
        .await
        .unwrap();
    plane.revive().await;
    for client in &mut clients {
        until_server(client, "a").await;
    }
}

/// 9. The peer decoded and announced everything anew with each response, and sent its node with
/// each request.
#[tokio::test]
async fn defect_09_a_response_that_says_the_same_changes_nothing() {
    let servers = Fixture::start(&mesh_file(&[], "")).await;
    let (a, stats) = Seen::default().server(&servers.mesh("greeter"), "127.0.0.1:0", "a");
    let (b, _) = Seen::default().server(&servers.mesh("greeter"), "127.0.0.1:0", "b");
    serving(&a).await;
    serving(&b).await;
    let before = stats.plaintext();
    let with = |other: &str| {
        [
            raw::listener("greeter", "greeter"),
            raw::routes("greeter", &["same", "other"]),
            raw::cluster("same"),
            raw::cluster("other"),
            raw::endpoints("same", &[&a.address]),
            raw::endpoints("other", &[other]),
        ]
    };
    let gone = unused_address();
    let plane = HostilePlane::start(with(&gone)).await;
    let mut client = plane.client(Variant::StateOfTheWorld);
    until_server(&mut client, "a").await;
    // Each of these tells all four types anew, under new versions; one resource is another one.
    for round in 1..=5u64 {
        let answers = plane.seen().answers;
        plane.replace(with(if round % 2 == 0 { &gone } else { &b.address }));
        plane
            .until("four answers", |seen| seen.answers >= answers + 4)
            .await;
    }
    until_server(&mut client, "b").await;
    until_server(&mut client, "a").await;
    assert_eq!(
        stats.plaintext() - before,
        1,
        "one connection for all of it"
    );
    let seen = plane.seen();
    assert_eq!((seen.streams, seen.introductions), (1, 1), "{seen:?}");
    assert_eq!(seen.nacks, [""; 0]);
}

fn matching(name: &str, value: &str, invert: bool) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        condition: HeaderCondition::Value(StringMatcher::Exact(Text::exact(value))),
        invert,
    }
}

/// Calls that match go to `yes`, all others to `no`.
fn split(matcher: HeaderMatcher) -> RouteConfiguration {
    let mut routes = raw::route_configuration("greeter", &["no"]);
    let host = &mut routes.virtual_hosts[0];
    let mut first = host.routes[0].clone();
    first.matches.headers = vec![matcher];
    if let RouteAction::Forward(forward) = &mut first.action {
        forward.clusters[0].name = "yes".to_owned();
    }
    host.routes.insert(0, first);
    routes
}

/// 10. The peer passed over matchers of `-bin` headers, read the first of several values only,
/// and took a header that is absent for one that differs.
#[tokio::test]
async fn defect_10_header_matchers_go_by_grpcs_rules() {
    let (_servers, [yes, no]) = backends(["yes", "no"]).await;
    for (matcher, expected) in [
        // As if it were absent (gRFC A28).
        (matching("x-trace-bin", "AQ", false), "no"),
        (matching("x-trace-bin", "other", true), "no"),
        // Several values are one, with commas.
        (matching("x-two", "1,2", false), "yes"),
        (matching("x-two", "1", false), "no"),
        // What is absent matches no value, inverted or not.
        (matching("x-absent", "v", true), "no"),
        (matching("x-two", "v", true), "yes"),
    ] {
        let words = format!("{matcher:?}");
        let routes = codec::encode(&Resource::RouteConfiguration(Arc::new(split(matcher))));
        let plane = plane([
            raw::listener("greeter", "greeter"),
            routes,
            raw::cluster("yes"),
            raw::cluster("no"),
            raw::endpoints("yes", &[&yes.address]),
            raw::endpoints("no", &[&no.address]),
        ])
        .await;
        let mut request = Request::new(SimpleRequest::default());
        let metadata = request.metadata_mut();
        metadata.insert_bin(
            "x-trace-bin",
            tonic::metadata::MetadataValue::from_bytes(&[1]),
        );
        metadata.append("x-two", "1".parse().unwrap());
        metadata.append("x-two", "2".parse().unwrap());
        let answer = plane
            .client("xds:///greeter")
            .unary_call(request)
            .await
            .unwrap();
        assert_eq!(answer.get_ref().hostname, expected, "{words}");
    }
}

/// One resource of `greeter`, spoilt.
fn spoilt<M: prost::Name + Default>(any: &Any, spoil: impl FnOnce(&mut M)) -> Any {
    let mut wire: M = any.unpack().expect("it is of this type");
    spoil(&mut wire);
    Any::pack(&wire)
}

fn port_of(endpoint: &mut endpoint::ClusterLoadAssignment, at: usize) -> &mut core::SocketAddress {
    use endpoint::lb_endpoint::HostIdentifier::Endpoint;
    let host = &mut endpoint.endpoints[0].lb_endpoints[at].host_identifier;
    let Some(Endpoint(host)) = host else {
        panic!("{host:?}");
    };
    match host
        .address
        .as_mut()
        .and_then(|address| address.address.as_mut())
    {
        Some(core::address::Address::SocketAddress(address)) => address,
        other => panic!("{other:?}"),
    }
}

fn weighted(routes: &mut route::RouteConfiguration) -> &mut route::WeightedCluster {
    use route::route_action::ClusterSpecifier::WeightedClusters;
    match &mut routes.virtual_hosts[0].routes[0].action {
        Some(route::route::Action::Route(action)) => match &mut action.cluster_specifier {
            Some(WeightedClusters(weighted)) => weighted,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// 11. The peer cut ports to 16 bits, took any message for a connection manager, did not look into
/// wrapped resources, and took duplicate endpoints, gaps in priorities and weights of 0 or beyond
/// 32 bits.
#[tokio::test]
async fn defect_11_what_cannot_be_meant_is_refused() {
    type Spoil = fn([Any; 4]) -> [Any; 4];
    let cases: [(&str, &str, Spoil); 6] = [
        ("ClusterLoadAssignment", "65616", |[l, r, c, e]| {
            let e = spoilt::<endpoint::ClusterLoadAssignment>(&e, |e| {
                port_of(e, 0).port_specifier =
                    Some(core::socket_address::PortSpecifier::PortValue(65_536 + 80));
            });
            [l, r, c, e]
        }),
        ("Listener", "Router", |[l, r, c, e]| {
            let l = spoilt::<listener::Listener>(&l, |l| {
                let other = Any::pack(&sidestep_proto::wire::http_filter::Router::default());
                l.api_listener.as_mut().unwrap().api_listener = Some(other);
            });
            [l, r, c, e]
        }),
        ("ClusterLoadAssignment", "appears twice", |[l, r, c, e]| {
            let e = spoilt::<endpoint::ClusterLoadAssignment>(&e, |e| {
                let again = e.endpoints[0].lb_endpoints[0].clone();
                e.endpoints[0].lb_endpoints.push(again);
            });
            [l, r, c, e]
        }),
        (
            "ClusterLoadAssignment",
            "without priority 0",
            |[l, r, c, e]| {
                let e = spoilt::<endpoint::ClusterLoadAssignment>(&e, |e| {
                    e.endpoints[0].priority = 1;
                });
                [l, r, c, e]
            },
        ),
        (
            "RouteConfiguration",
            "no cluster has a weight",
            |[l, _, c, e]| {
                let r = raw::routes("greeter", &["greeter", "other"]);
                let r = spoilt::<route::RouteConfiguration>(&r, |r| {
                    for cluster in &mut weighted(r).clusters {
                        cluster.weight = Some(0);
                    }
                });
                [l, r, c, e]
            },
        ),
        (
            "RouteConfiguration",
            "more than 4294967295",
            |[l, _, c, e]| {
                let r = raw::routes("greeter", &["greeter", "other"]);
                let r = spoilt::<route::RouteConfiguration>(&r, |r| {
                    for cluster in &mut weighted(r).clusters {
                        cluster.weight = Some(u32::MAX);
                    }
                });
                [l, r, c, e]
            },
        ),
    ];
    let (_servers, [a]) = backends(["a"]).await;
    let good = || raw::service("greeter", raw::endpoints("greeter", &[&a.address]));
    for (type_name, words, spoil) in cases {
        let plane = plane(good()).await;
        let mut client = plane.client("xds:///greeter");
        until_server(&mut client, "a").await;
        plane.resources().replace(spoil(good())).unwrap();
        eventually(words, || refused(&plane, type_name).is_some()).await;
        let text = refused(&plane, type_name).unwrap();
        assert!(text.contains(words), "{text}");
        assert_eq!(call(&mut client).await.unwrap().server, "a", "{words}");
    }

    // A wrapped resource counts as what is in it.
    let plane = HostilePlane::start(good()).await;
    let all = [
        ResourceType::Listener,
        ResourceType::RouteConfiguration,
        ResourceType::Cluster,
        ResourceType::EndpointAssignment,
    ];
    for t in all {
        plane.plan(Step::Ask(t), Deed::Say(wrapped), 1);
    }
    let mut client = plane.client(Variant::StateOfTheWorld);
    until_server(&mut client, "a").await;
    assert_eq!(plane.seen().nacks, [""; 0]);
}

fn wrapped(ask: &sidestep_tests::hostile::Ask) -> Vec<Response> {
    let wrap = |any: &Any| {
        Any::pack(&discovery::Resource {
            resource: Some(any.clone()),
            ..discovery::Resource::default()
        })
    };
    let resources: Vec<Any> = ask.resources.iter().map(wrap).collect();
    vec![ask.response(ask.resource_type.type_url(), &resources)]
}

/// 12. The peer dropped every error of a cluster and its endpoints: calls hung until their
/// deadlines.
#[tokio::test]
async fn defect_12_what_is_refused_missing_or_empty_fails_calls_at_once() {
    let [l, r, c, _] = raw::service("greeter", raw::endpoints("greeter", &[]));
    let bad = spoilt::<cluster::Cluster>(&c, |cluster| {
        let original = cluster::cluster::DiscoveryType::OriginalDst;
        cluster.cluster_discovery_type = Some(cluster::cluster::ClusterDiscoveryType::Type(
            original as i32,
        ));
    });
    let empty = raw::endpoints("greeter", &[]);
    for (what, words, resources) in [
        ("refused", "ORIGINAL_DST", vec![l.clone(), r.clone(), bad]),
        (
            "no cluster",
            "Cluster \"greeter\"",
            vec![l.clone(), r.clone()],
        ),
        (
            "no endpoints",
            "greeter",
            vec![l.clone(), r.clone(), c.clone()],
        ),
        (
            "empty",
            "no endpoint that may take calls",
            vec![l, r, c, empty],
        ),
    ] {
        let plane = plane(resources).await;
        let mut client = plane.client("xds:///greeter");
        // No deadline of its own: long before the 15 s after which silence means absence.
        let status = tokio::time::timeout(Duration::from_secs(10), call(&mut client));
        let status: Status = status
            .await
            .unwrap_or_else(|_| panic!("{what}: it hangs"))
            .unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
        assert!(status.message().contains(words), "{what}: {status}");
    }
}

/// 13. Every channel of the peer had its own stream and its own connections, and a cluster that
/// nobody called heard of no change: the next call paid for it.
#[tokio::test]
async fn defect_13_channels_share_and_idle_clusters_follow() {
    let servers = Fixture::start(&mesh_file(&[], "")).await;
    let (a, on_a) = Seen::default().server(&servers.mesh("greeter"), "127.0.0.1:0", "a");
    let (b, on_b) = Seen::default().server(&servers.mesh("greeter"), "127.0.0.1:0", "b");
    serving(&a).await;
    serving(&b).await;
    eventually("the end of the probes", || on_a.open() + on_b.open() == 0).await;
    let fixture = Fixture::start(&plain_mesh(&[&a.address])).await;
    let mesh = fixture.mesh("web");
    let mut clients: Vec<_> = (0..10)
        .map(|_| client_of(&mesh, "xds:///greeter"))
        .collect();
    for client in &mut clients {
        assert_eq!(call(client).await.unwrap().server, "a");
    }
    assert_eq!(on_a.open(), 1, "ten channels, one connection");
    assert_eq!(
        fixture.running().tracker().clients().len(),
        1,
        "and one stream"
    );
    // No call from here on until the change is in.
    let before = b.testing.calls();
    fixture.push(&plain_mesh(&[&b.address]));
    eventually("the change, without a call", || {
        (on_a.open(), on_b.open()) == (0, 1)
    })
    .await;
    assert_eq!(b.testing.calls(), before);
    assert_eq!(call(&mut clients[3]).await.unwrap().server, "b");
}

/// 14. A dead endpoint always looked ready to the peer, and because its calls failed so fast it
/// looked idle too: it attracted the calls.
#[tokio::test]
async fn defect_14_an_endpoint_that_fails_fast_attracts_nothing() {
    let (_servers, [a, b]) = backends(["a", "b"]).await;
    let [l, r, c, _] = raw::service("greeter", raw::endpoints("greeter", &[]));
    let least = |choices| {
        spoilt::<cluster::Cluster>(&c, |cluster| {
            cluster.lb_policy = cluster::cluster::LbPolicy::LeastRequest as i32;
            let config = cluster::cluster::LeastRequestLbConfig {
                choice_count: Some(choices),
                ..Default::default()
            };
            cluster.lb_config = Some(cluster::cluster::LbConfig::LeastRequestLbConfig(config));
        })
    };
    for choices in [2, 10] {
        let (dead, dying) = (unused_address(), unused_address());
        let all = raw::endpoints("greeter", &[&dead, &a.address, &dying, &b.address]);
        let plane = plane([l.clone(), r.clone(), least(choices), all]).await;
        let client = plane.client("xds:///greeter");
        let load = Load::start(&client, 4).await;
        load.further(400).await;
        let tally = load.stop().await;
        tally.assert_none_failed();
        assert_eq!(tally.retried, 0, "{tally:?}");
        assert_eq!(tally.by_server.len(), 2, "{tally:?}");
    }
}
