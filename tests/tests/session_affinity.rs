//! Sessions keep to their endpoints (gRFC A55, A60, A75), through a live control plane.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sidestep::Channel;
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::{Empty, SimpleRequest};
use sidestep_proto::codec;
use sidestep_proto::resource::{
    Address, Cluster, Endpoint, EndpointAssignment, FilterConfig, FilterOverrides, Health,
    HttpConnectionManager, HttpFilter, Labels, Listener, ListenerKind, Locality, LocalityEndpoints,
    PathMatcher, Resource, RetryOn, RetryPolicy, RouteAction, RouteConfiguration, RouteSource,
    SessionCookie, SessionHosts, SessionState, Text,
};
use sidestep_proto::wire::Any;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file};
use sidestep_tests::load::{Answer, PATIENCE, answer};
use sidestep_tests::{kinds, raw};
use tonic::metadata::MetadataMap;
use tonic::{Request, Status};

const FILTER: &str = "sessions";

fn cookie(path: &str) -> SessionState {
    SessionState::Cookie(SessionCookie {
        name: "session".into(),
        path: path.into(),
        ttl: Duration::from_secs(90),
    })
}

fn listener(state: Option<SessionState>) -> Any {
    let filter = |name: &str, config| HttpFilter {
        name: name.to_owned(),
        config,
    };
    codec::encode(&Resource::Listener(Arc::new(Listener {
        name: "greeter".into(),
        kind: ListenerKind::Api(HttpConnectionManager {
            routes: RouteSource::Named("routes".into()),
            max_stream_duration: None,
            filters: vec![
                filter(FILTER, FilterConfig::StatefulSession(state)),
                filter("router", FilterConfig::Router),
            ],
        }),
    })))
}

fn routes(clusters: &[&str], change: impl FnOnce(&mut RouteConfiguration)) -> Any {
    let mut routes = raw::route_configuration("routes", clusters);
    change(&mut routes);
    codec::encode(&Resource::RouteConfiguration(Arc::new(routes)))
}

fn cluster(name: &str, sessions: SessionHosts) -> Any {
    codec::encode(&Resource::Cluster(Arc::new(Cluster {
        sessions,
        ..Cluster::eds(name)
    })))
}

/// Draining endpoints keep their sessions, as the gRFC's examples have it.
fn with_draining() -> SessionHosts {
    SessionHosts {
        draining: true,
        ..SessionHosts::default()
    }
}

fn endpoints(cluster: &str, of: &[(&str, Health)]) -> Any {
    let endpoint = |(address, health): &(&str, Health)| Endpoint {
        addresses: vec![Address::Tcp(address.parse().expect("IP:port"))],
        hostname: String::new(),
        weight: 1,
        health: *health,
        hash_key: None,
        labels: Labels::default(),
    };
    let group = LocalityEndpoints {
        locality: Locality::default(),
        priority: 0,
        weight: 1,
        endpoints: of.iter().map(endpoint).collect(),
    };
    codec::encode(&Resource::EndpointAssignment(Arc::new(
        EndpointAssignment {
            cluster: cluster.to_owned(),
            localities: vec![group],
            drops: Vec::new(),
        },
    )))
}

/// Servers that have a mesh of their own, and a client whose control plane the test plays.
struct Scene {
    plane: Fixture,
    _servers: Fixture,
    backends: Vec<Backend>,
    client: TestServiceClient<Channel>,
}

impl Scene {
    async fn new(ids: &[&str]) -> Self {
        Self::with_faults(ids, &Faults::default()).await
    }

    async fn with_faults(ids: &[&str], faults: &Faults) -> Self {
        let servers = Fixture::start(&mesh_file(&[], "")).await;
        let mesh = servers.mesh("greeter");
        let start = |id: &&str| Backend::start(&mesh, id, faults.clone());
        let backends: Vec<_> = ids.iter().map(start).collect();
        let nothing = RawResources::unchecked([]).expect("nothing has no name to lack");
        let plane = Fixture::raw(nothing).await;
        let client = plane.client("xds:///greeter");
        Self {
            plane,
            _servers: servers,
            backends,
            client,
        }
    }

    fn address(&self, at: usize) -> &str {
        &self.backends[at].address
    }

    fn push(&self, resources: impl IntoIterator<Item = Any>) {
        let pushed = self.plane.resources().replace(resources);
        pushed.expect("each has a name");
    }

    /// One cluster with these endpoints, and a cookie for all calls.
    fn push_endpoints(&self, of: &[(usize, Health)]) {
        let of: Vec<_> = of.iter().map(|(i, h)| (self.address(*i), *h)).collect();
        self.push([
            listener(Some(cookie(""))),
            routes(&["c"], |_| {}),
            cluster("c", with_draining()),
            endpoints("c", &of),
        ]);
    }

    /// Waits until calls without a session meet exactly these servers.
    async fn settled(&mut self, servers: &[&str]) {
        let wanted: BTreeSet<_> = servers.iter().map(|id| (*id).to_owned()).collect();
        let settled = async {
            loop {
                let mut met = BTreeSet::new();
                for _ in 0..8 {
                    match Session::default().call(&mut self.client).await {
                        Ok(answer) => met.insert(answer.server),
                        Err(_) => met.insert(String::new()),
                    };
                }
                if met == wanted {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        settled.unwrap_or_else(|_| panic!("never exactly {servers:?}"));
    }

    /// A session that is at this server.
    async fn session_at(&mut self, server: &str) -> Session {
        for _ in 0..64 {
            let mut session = Session::default();
            let answer = session.call(&mut self.client).await.expect("is answered");
            if answer.server == server {
                return session;
            }
        }
        panic!("no call met {server}");
    }
}

/// What a client remembers of its session: the name and value of the cookie, or the header.
#[derive(Debug, Clone, Default)]
struct Session {
    kept: Option<(&'static str, String)>,
    /// How often it was told where it is.
    told: usize,
    /// The last `set-cookie`, whole.
    line: String,
}

impl Session {
    fn keep(cookie: &str) -> Self {
        Self {
            kept: Some(("cookie", cookie.to_owned())),
            ..Self::default()
        }
    }

    fn send<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some((name, value)) = &self.kept {
            let value = value.parse().expect("ASCII");
            request.metadata_mut().insert(*name, value);
        }
        request
    }

    fn hear(&mut self, metadata: &MetadataMap) {
        if let Some(line) = metadata.get("set-cookie") {
            self.line = line.to_str().expect("ASCII").to_owned();
            let pair = self.line.split(';').next().expect("there is a first");
            self.kept = Some(("cookie", pair.to_owned()));
            self.told += 1;
        }
        if let Some(value) = metadata.get("x-session") {
            let value = value.to_str().expect("ASCII").to_owned();
            self.kept = Some(("x-session", value));
            self.told += 1;
        }
    }

    async fn call(&mut self, client: &mut TestServiceClient<Channel>) -> Result<Answer, Status> {
        let request = self.send(SimpleRequest::default());
        let response = client.unary_call(request).await?;
        self.hear(response.metadata());
        Ok(answer(&response))
    }

    /// The server that takes the next `n` calls of it, all of them.
    async fn server_of(&mut self, client: &mut TestServiceClient<Channel>, n: usize) -> String {
        let mut met = BTreeSet::new();
        for _ in 0..n {
            met.insert(self.call(client).await.expect("is answered").server);
        }
        assert_eq!(met.len(), 1, "{met:?}");
        met.pop_first().expect("one")
    }
}

#[tokio::test]
async fn sessions_hold_in_the_leaf_of_an_aggregate() {
    let mut scene = Scene::new(&["one", "two", "three"]).await;
    let healthy = |at: usize| (scene.address(at), Health::Healthy);
    scene.push([
        listener(Some(cookie(""))),
        routes(&["all"], |_| {}),
        kinds::aggregate("all", &["c"]),
        cluster("c", SessionHosts::default()),
        endpoints("c", &[healthy(0), healthy(1), healthy(2)]),
    ]);
    scene.settled(&["one", "two", "three"]).await;
    let mut session = scene.session_at("two").await;
    assert_eq!(session.server_of(&mut scene.client, 20).await, "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_when_others_come_and_moves_when_its_endpoint_goes() {
    use Health::Unknown as Fit;
    let mut scene = Scene::new(&["a", "b", "c"]).await;
    scene.push_endpoints(&[(0, Fit), (1, Fit)]);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    assert_eq!(session.told, 1);
    assert!(
        session.line.ends_with("; HttpOnly; Max-Age=90"),
        "{session:?}"
    );
    assert_eq!(session.server_of(&mut scene.client, 20).await, "b");
    assert_eq!(session.told, 1, "it is told once");
    // A second and a third process take the cookie too.
    for _ in 0..2 {
        let mut other = scene.plane.client("xds:///greeter");
        assert_eq!(session.clone().server_of(&mut other, 3).await, "b");
    }
    scene.push_endpoints(&[(2, Fit), (0, Fit), (1, Fit)]);
    scene.settled(&["a", "b", "c"]).await;
    assert_eq!(session.server_of(&mut scene.client, 20).await, "b");
    assert_eq!(session.told, 1);
    scene.push_endpoints(&[(2, Fit), (0, Fit)]);
    scene.settled(&["a", "c"]).await;
    let next = session.server_of(&mut scene.client, 20).await;
    assert_ne!(next, "b");
    assert_eq!(session.told, 2, "the first call said where it is now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_endpoint_keeps_its_sessions_and_gets_no_others() {
    use Health::{Draining, Healthy, Unhealthy};
    let mut scene = Scene::new(&["a", "b"]).await;
    scene.push_endpoints(&[(0, Healthy), (1, Healthy)]);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    scene.push_endpoints(&[(0, Healthy), (1, Draining)]);
    scene.settled(&["a"]).await;
    assert_eq!(session.server_of(&mut scene.client, 20).await, "b");
    // A process that has no connection there makes one for the session.
    let mut other = scene.plane.client("xds:///greeter");
    assert_eq!(session.clone().server_of(&mut other, 3).await, "b");
    assert_eq!(session.told, 1);
    // Unhealthy ones are never used, whatever a session says.
    scene.push_endpoints(&[(0, Healthy), (1, Unhealthy)]);
    let moved = async {
        while session
            .call(&mut scene.client)
            .await
            .expect("is answered")
            .server
            != "a"
        {}
    };
    let moved = tokio::time::timeout(PATIENCE, moved).await;
    moved.expect("the session moves");
    assert_eq!(session.server_of(&mut scene.client, 10).await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_endpoint_is_none_where_the_cluster_does_not_admit_it() {
    use Health::{Draining, Healthy};
    let mut scene = Scene::new(&["a", "b"]).await;
    scene.push_endpoints(&[(0, Healthy), (1, Healthy)]);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    let drained = [
        (scene.address(0).to_owned(), Healthy),
        (scene.address(1).to_owned(), Draining),
    ];
    let drained: Vec<_> = drained.iter().map(|(a, h)| (a.as_str(), *h)).collect();
    scene.push([
        listener(Some(cookie(""))),
        routes(&["c"], |_| {}),
        cluster("c", SessionHosts::default()),
        endpoints("c", &drained),
    ]);
    scene.settled(&["a"]).await;
    assert_eq!(session.server_of(&mut scene.client, 10).await, "a");
    assert_eq!(session.told, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_keeps_its_cluster_among_weighted_ones() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let resources = |clusters: &[&str]| {
        [
            listener(Some(cookie(""))),
            routes(clusters, |_| {}),
            cluster("one", with_draining()),
            endpoints("one", &[(scene.address(0), Health::Unknown)]),
            cluster("two", with_draining()),
            endpoints("two", &[(scene.address(1), Health::Unknown)]),
        ]
    };
    let (both, one) = (resources(&["one", "two"]), resources(&["one"]));
    scene.push(both);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    assert_eq!(session.server_of(&mut scene.client, 30).await, "b");
    assert_eq!(session.told, 1);
    // Its cluster leaves the route: the session goes where the route leads.
    scene.push(one);
    scene.settled(&["a"]).await;
    assert_eq!(session.server_of(&mut scene.client, 10).await, "a");
    assert_eq!(session.told, 2);
}

/// A route for `EmptyCall` before the one for everything, whose filter says `state`.
fn with_override(state: Option<SessionState>) -> impl FnOnce(&mut RouteConfiguration) {
    move |routes| {
        let routes = &mut routes.virtual_hosts[0].routes;
        let mut own = routes[0].clone();
        let path = "/grpc.testing.TestService/EmptyCall";
        own.matches.path = PathMatcher::Exact(Text::exact(path));
        if let RouteAction::Forward(forward) = &mut own.action {
            forward.clusters[0].overrides =
                FilterOverrides::from([(FILTER.to_owned(), FilterConfig::StatefulSession(state))]);
        }
        routes.insert(0, own);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_can_have_no_sessions_or_its_own() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let push = |scene: &Scene, filter: Option<SessionState>, route: Option<SessionState>| {
        let of = [
            (scene.address(0), Health::Unknown),
            (scene.address(1), Health::Unknown),
        ];
        scene.push([
            listener(filter),
            routes(&["c"], with_override(route)),
            cluster("c", with_draining()),
            endpoints("c", &of),
        ]);
    };
    push(&scene, Some(cookie("")), None);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    for _ in 0..8 {
        let request = session.send(Empty {});
        let response = scene.client.empty_call(request).await.expect("is answered");
        session.hear(response.metadata());
    }
    assert_eq!(session.told, 1, "the route has none");
    assert_eq!(session.server_of(&mut scene.client, 8).await, "b");
    // And the other way round: only the route has sessions.
    push(&scene, None, Some(cookie("")));
    let mut session = Session::default();
    let told = async {
        while session.told == 0 {
            let request = Request::new(Empty {});
            let response = scene.client.empty_call(request).await.expect("is answered");
            session.hear(response.metadata());
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await;
    told.expect("the route has sessions");
    let mut none = Session::default();
    none.call(&mut scene.client).await.expect("is answered");
    assert_eq!(none.told, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_is_for_its_path_only() {
    let mut scene = Scene::new(&["a"]).await;
    scene.push([
        listener(Some(cookie("/grpc.testing.TestService/UnaryCall"))),
        routes(&["c"], |_| {}),
        cluster("c", with_draining()),
        endpoints("c", &[(scene.address(0), Health::Unknown)]),
    ]);
    scene.settled(&["a"]).await;
    let mut session = Session::default();
    let response = scene.client.empty_call(Request::new(Empty {})).await;
    session.hear(response.expect("is answered").metadata());
    assert_eq!(session.told, 0);
    session.call(&mut scene.client).await.expect("is answered");
    assert_eq!(session.told, 1);
    let path = "; HttpOnly; Path=/grpc.testing.TestService/UnaryCall; Max-Age=90";
    assert!(session.line.ends_with(path), "{}", session.line);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_can_carry_the_session() {
    let mut scene = Scene::new(&["a", "b"]).await;
    let of = [
        (scene.address(0), Health::Unknown),
        (scene.address(1), Health::Unknown),
    ];
    let state = SessionState::Header {
        name: "x-session".into(),
    };
    scene.push([
        listener(Some(state)),
        routes(&["c"], |_| {}),
        cluster("c", with_draining()),
        endpoints("c", &of),
    ]);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    assert_eq!(session.server_of(&mut scene.client, 20).await, "b");
    assert_eq!(session.told, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cookie_that_says_nothing_is_no_session_yet() {
    use Health::Unknown as Fit;
    let mut scene = Scene::new(&["a", "b"]).await;
    scene.push_endpoints(&[(0, Fit), (1, Fit)]);
    scene.settled(&["a", "b"]).await;
    for bad in [
        "session=",
        "session=%%%",
        "session=AAAA",
        // 1.2.3.4:5;elsewhere
        "session=MS4yLjMuNDo1O2Vsc2V3aGVyZQ==",
        "other=1",
    ] {
        let mut session = Session::keep(bad);
        let first = session.call(&mut scene.client).await.expect("is answered");
        assert_eq!(session.told, 1, "{bad}");
        let server = session.server_of(&mut scene.client, 6).await;
        assert_eq!(server, first.server, "{bad}");
        assert_eq!(session.told, 1, "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_attempts_of_a_call_go_to_its_session() {
    let faults = Faults {
        fail_attempts_below: 2,
        ..Faults::default()
    };
    let mut scene = Scene::with_faults(&["a", "b"], &faults).await;
    let of = [
        (scene.address(0), Health::Unknown),
        (scene.address(1), Health::Unknown),
    ];
    scene.push([
        listener(Some(cookie(""))),
        routes(&["c"], |routes| {
            let route = &mut routes.virtual_hosts[0].routes[0];
            if let RouteAction::Forward(forward) = &mut route.action {
                forward.retry = Some(RetryPolicy {
                    on: RetryOn::parse("unavailable"),
                    max_attempts: 3,
                    base_interval: Duration::from_millis(1),
                    max_interval: Duration::from_millis(1),
                });
            }
        }),
        cluster("c", with_draining()),
        endpoints("c", &of),
    ]);
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    let other = scene.backends[0].testing.clone();
    let before = other.calls();
    for _ in 0..10 {
        let answer = session.call(&mut scene.client).await.expect("is answered");
        assert_eq!((&*answer.server, answer.attempts), ("b", 3));
    }
    assert_eq!(other.calls(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_of_the_mesh_file_is_enough() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let mesh = fixture.mesh("greeter");
    let backends = ["a", "b"].map(|id| Backend::start(&mesh, id, Faults::default()));
    let endpoints: Vec<_> = backends.iter().map(|b| (&*b.address, "v1")).collect();
    let keys = "session_affinity: {cookie: session, ttl: 90s}\n\
                routes:\n  - {match: {method: grpc.testing.TestService/EmptyCall}, session_affinity: none}\n  - {}";
    fixture.push(&mesh_file(&endpoints, keys));
    let client = fixture.client("xds:///greeter");
    let mut scene = Scene {
        plane: fixture,
        _servers: Fixture::start(&mesh_file(&[], "")).await,
        backends: Vec::new(),
        client,
    };
    scene.settled(&["a", "b"]).await;
    let mut session = scene.session_at("b").await;
    assert!(
        session.line.ends_with("; HttpOnly; Max-Age=90"),
        "{session:?}"
    );
    assert_eq!(session.server_of(&mut scene.client, 20).await, "b");
    let response = scene.client.empty_call(Request::new(Empty {})).await;
    let mut none = Session::default();
    none.hear(response.expect("is answered").metadata());
    assert_eq!(none.told, 0);
}
