//! Subsets of a cluster's endpoints: routes ask for labels, calls meet the endpoints that have
//! them, through a live control plane.

use std::collections::BTreeSet;
use std::sync::Arc;

use sidestep::{Channel, Mesh};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::codec;
use sidestep_proto::resource::{
    Forward, HeaderCondition, HeaderMatcher, Health, Labels, LbPolicy, PathMatcher, Resource,
    Route, RouteAction, RouteConfiguration, RouteMatch, SelectorFallback, StringMatcher,
    SubsetFallback, SubsetSelector, Subsets, Text, VirtualHost, WeightedCluster,
};
use sidestep_proto::wire::Any;
use sidestep_proto::wire::cluster::Cluster;
use sidestep_tests::events::Events;
use sidestep_tests::fixture::{Fixture, mesh_file};
use sidestep_tests::load::{Answer, PATIENCE, answer};
use sidestep_tests::places::Places;
use sidestep_tests::raw;
use tonic::{Code, Request, Status};

type Pairs<'a> = &'a [(&'a str, &'a str)];

fn labels(pairs: Pairs<'_>) -> Labels {
    pairs.iter().copied().collect()
}

fn share(weight: u32, subset: Pairs<'_>) -> WeightedCluster {
    WeightedCluster {
        subset: labels(subset),
        ..WeightedCluster::new("greeter", weight)
    }
}

/// Calls with the header `ask` of this value go to these shares; with none, to any endpoint.
fn routes(asked: &[(&str, Vec<WeightedCluster>)]) -> Any {
    let route = |headers, clusters| Route {
        name: String::new(),
        matches: RouteMatch {
            path: PathMatcher::Prefix(Text::exact("")),
            headers,
            fraction: None,
        },
        action: RouteAction::Forward(Forward {
            clusters,
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            retry: None,
            hash_policies: Vec::new(),
        }),
    };
    let header = |value: &str| HeaderMatcher {
        name: "ask".into(),
        condition: HeaderCondition::Value(StringMatcher::Exact(Text::exact(value))),
        invert: false,
    };
    let asking = asked.iter();
    let asking = asking.map(|(value, shares)| route(vec![header(value)], shares.clone()));
    let rest = route(Vec::new(), vec![share(1, &[])]);
    codec::encode(&Resource::RouteConfiguration(Arc::new(
        RouteConfiguration {
            name: "greeter".into(),
            virtual_hosts: vec![VirtualHost {
                name: "all".into(),
                domains: vec!["*".into()],
                routes: asking.chain([rest]).collect(),
            }],
        },
    )))
}

fn by(keys: &[&[&str]]) -> Subsets {
    let selectors = keys.iter().map(|keys| SubsetSelector::by(keys));
    Subsets::new(LbPolicy::round_robin(), selectors.collect())
}

fn cluster(subsets: Subsets) -> Any {
    raw::cluster_by("greeter", LbPolicy::Subsets(Box::new(subsets)))
}

/// Backends with labels, and a client of them.
struct Scene {
    places: Places,
    _web: Mesh,
    channel: Channel,
}

impl Scene {
    async fn start(ids: &[&str]) -> Self {
        let places = Places::start(ids).await;
        let web = places.process("");
        let channel = web.channel("xds:///greeter").expect("a good target");
        Self {
            places,
            _web: web,
            channel,
        }
    }

    fn say(&self, cluster: Any, routes: Any, endpoints: &[Pairs<'_>]) {
        let unknown = endpoints.iter().enumerate();
        let unknown: Vec<_> = unknown.map(|(at, _)| (at, Health::Unknown)).collect();
        let mut zone = self.places.zone("", 0, 1, &unknown);
        for (endpoint, pairs) in zone.endpoints.iter_mut().zip(endpoints) {
            endpoint.labels = labels(pairs);
        }
        let said = [
            raw::listener("greeter", "greeter"),
            routes,
            cluster,
            raw::localities("greeter", vec![zone]),
        ];
        let said = self.places.plane.resources().replace(said);
        said.expect("each resource has a name");
    }

    async fn call(&self, ask: &str) -> Result<Answer, Status> {
        let mut request = Request::new(SimpleRequest::default());
        let value = ask.parse().expect("ASCII");
        request.metadata_mut().insert("ask", value);
        let mut client = TestServiceClient::new(self.channel.clone());
        client
            .unary_call(request)
            .await
            .map(|answered| answer(&answered))
    }

    /// Waits until calls that ask for this meet exactly these servers; none: until they fail.
    async fn meets(&self, ask: &str, servers: &[&str]) {
        let wanted: BTreeSet<_> = servers.iter().map(|id| (*id).to_owned()).collect();
        let meets = async {
            loop {
                let mut met = BTreeSet::new();
                let mut failed = 0;
                for _ in 0..8 {
                    match self.call(ask).await {
                        Ok(answer) => _ = met.insert(answer.server),
                        Err(_) => failed += 1,
                    }
                }
                if met == wanted && (failed == 0 || wanted.is_empty()) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let met = tokio::time::timeout(PATIENCE, meets).await;
        met.unwrap_or_else(|_| panic!("{ask:?}: never exactly {servers:?}"));
    }

    async fn explained(&self, ask: &str) -> String {
        let call = http::Request::post("/grpc.testing.TestService/UnaryCall");
        let call = call.header("ask", ask).body(()).unwrap();
        let answer = self.channel.explain(&call).await.expect("there is a mesh");
        answer.to_text(|_, text| text.to_owned())
    }
}

const PROD: (&str, &str) = ("stage", "prod");
const CANARY: (&str, &str) = ("stage", "canary");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_meet_the_endpoints_that_their_route_asks_for() {
    let scene = Scene::start(&["a", "b", "c", "d"]).await;
    // The second share says itself what the first has from its route: the more special one wins.
    let asked = [
        ("canary", vec![share(1, &[CANARY])]),
        ("prod", vec![share(1, &[PROD])]),
        ("shard", vec![share(1, &[PROD, ("shard", "2")])]),
        (
            "split",
            vec![share(1, &[CANARY]), share(1, &[PROD, ("shard", "1")])],
        ),
    ];
    let subsets = Subsets {
        fallback: SubsetFallback::Any,
        ..by(&[&["stage"], &["stage", "shard"]])
    };
    scene.say(
        cluster(subsets),
        routes(&asked),
        &[
            &[PROD, ("shard", "1")],
            &[PROD, ("shard", "2")],
            &[CANARY],
            &[],
        ],
    );
    scene.meets("canary", &["c"]).await;
    scene.meets("prod", &["a", "b"]).await;
    scene.meets("shard", &["b"]).await;
    scene.meets("split", &["a", "c"]).await;
    scene.meets("", &["a", "b", "c", "d"]).await;
    let text = scene.explained("shard").await;
    assert!(text.contains("subset {shard=2, stage=prod}\n"), "{text}");
    assert!(
        text.contains(
            "round robin in localities by weight in subsets by stage, by shard and stage"
        ),
        "{text}"
    );
    let text = scene.explained("").await;
    assert!(
        text.contains("no subset is asked for: any endpoint\n"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_ask_for_what_no_endpoint_has_fail_or_fall_back() {
    let scene = Scene::start(&["a", "b", "c"]).await;
    let asked = || {
        routes(&[
            ("test", vec![share(1, &[("stage", "test")])]),
            ("zone", vec![share(1, &[("stage", "test"), ("zone", "z")])]),
            ("canary", vec![share(1, &[CANARY])]),
        ])
    };
    let endpoints: &[Pairs<'_>] = &[&[PROD], &[CANARY], &[("zone", "z")]];
    let keys: &[&[&str]] = &[&["stage"], &["stage", "zone"], &["zone"]];

    scene.say(cluster(by(keys)), asked(), endpoints);
    scene.meets("canary", &["b"]).await;
    for ask in ["test", "zone", ""] {
        let failed = scene
            .call(ask)
            .await
            .expect_err("there is no such endpoint");
        assert_eq!(failed.code(), Code::Unavailable);
        assert!(failed.message().contains("[SX0435]"), "{failed}");
    }
    let text = scene.explained("test").await;
    let nowhere = "subset {stage=test}: no endpoint has it, and there is nothing to fall back to";
    assert!(text.contains(nowhere), "{text}");

    let any = Subsets {
        fallback: SubsetFallback::Any,
        ..by(keys)
    };
    scene.say(cluster(any), asked(), endpoints);
    scene.meets("test", &["a", "b", "c"]).await;
    scene.meets("canary", &["b"]).await;

    let default = |panic_any, stage| Subsets {
        fallback: SubsetFallback::Default,
        default: labels(&[("stage", stage)]),
        panic_any,
        ..by(keys)
    };
    scene.say(cluster(default(false, "prod")), asked(), endpoints);
    scene.meets("test", &["a"]).await;
    scene.say(cluster(default(false, "gone")), asked(), endpoints);
    scene.meets("test", &[]).await;
    scene.say(cluster(default(true, "gone")), asked(), endpoints);
    scene.meets("test", &["a", "b", "c"]).await;

    // A selector's own word, and fewer keys.
    let mut own = default(false, "prod");
    own.selectors[0].fallback = Some(SelectorFallback::To(SubsetFallback::Nowhere));
    own.selectors[1].fallback = Some(SelectorFallback::Keys(["zone".into()].into()));
    scene.say(cluster(own), asked(), endpoints);
    scene.meets("zone", &["c"]).await;
    scene.meets("test", &[]).await;
    scene.meets("", &["a"]).await;
    let text = scene.explained("zone").await;
    assert!(text.contains("by its keys subset {zone=z}"), "{text}");
}

#[tokio::test]
async fn an_endpoint_whose_labels_change_moves_and_keeps_its_connection() {
    let mut events = Events::catch();
    let scene = Scene::start(&["a", "b"]).await;
    let asked = || {
        routes(&[
            ("canary", vec![share(1, &[CANARY])]),
            ("prod", vec![share(1, &[PROD])]),
        ])
    };
    scene.say(cluster(by(&[&["stage"]])), asked(), &[&[PROD], &[CANARY]]);
    scene.meets("prod", &["a"]).await;
    scene.meets("canary", &["b"]).await;
    scene.say(cluster(by(&[&["stage"]])), asked(), &[&[PROD], &[PROD]]);
    scene.meets("prod", &["a", "b"]).await;
    scene.meets("canary", &[]).await;
    scene.say(cluster(by(&[&["stage"]])), asked(), &[&[CANARY], &[PROD]]);
    scene.meets("canary", &["a"]).await;
    scene.meets("prod", &["b"]).await;
    for at in [0, 1] {
        let address = scene.places.address(at).to_owned();
        let here = |told: &sidestep_tests::events::Told| told.field("endpoint") == address;
        events.wait("sidestep::connection", "ready", here).await;
        let ready = events.all().into_iter();
        let ready = ready.filter(|told| here(told) && told.message == "ready");
        assert_eq!(ready.count(), 1, "{address}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_cannot_be_meant_is_refused_and_the_last_one_stays() {
    let scene = Scene::start(&["a", "b"]).await;
    let asked = || routes(&[("canary", vec![share(1, &[CANARY])])]);
    let endpoints: &[Pairs<'_>] = &[&[PROD], &[CANARY]];
    scene.say(cluster(by(&[&["stage"]])), asked(), endpoints);
    scene.meets("canary", &["b"]).await;
    let mut wire: Cluster = cluster(by(&[&["stage"]])).unpack().expect("a cluster");
    let config = wire.lb_subset_config.as_mut().expect("is said so");
    config.subset_selectors[0].fallback_keys_subset = vec!["stage".into()];
    scene.say(Any::pack(&wire), asked(), endpoints);
    let refused = async {
        loop {
            let clients = scene.places.plane.running().tracker().clients();
            let mut types = clients.into_iter().flat_map(|client| client.types);
            let found = types.find_map(|(_, progress)| progress.nacked);
            if let Some((_, text)) = found {
                return text;
            }
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, refused).await;
    let text = text.expect("it is refused in time");
    let place = "lb_subset_config.subset_selectors[0].fallback_keys_subset";
    assert!(text.contains(place), "{text}");
    scene.meets("canary", &["b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_file_routes_by_label() {
    let places = Places::start(&["a", "b"]).await;
    let file = |fallback: &str, stage: &str| {
        format!(
            "mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    endpoints:\n      static:\n        \
             - {{address: \"{}\", labels: {{stage: prod}}}}\n        \
             - {{address: \"{}\", labels: {{stage: canary}}}}\n    {fallback}routes:\n      \
             - {{match: {{headers: {{ask: x}}}}, subset: {{stage: {stage}}}}}\n      - {{}}\n",
            places.address(0),
            places.address(1)
        )
    };
    let plane = Fixture::start(&mesh_file(&[], "")).await;
    plane.push(&file("", "canary"));
    let web = plane.mesh("web");
    let scene = Scene {
        channel: web.channel("xds:///greeter").expect("a good target"),
        _web: web,
        places: Places::start(&[]).await,
    };
    scene.meets("x", &["b"]).await;
    scene.meets("", &["a", "b"]).await;
    plane.push(&file("", "test"));
    scene.meets("x", &[]).await;
    plane.push(&file("subset_fallback: any\n    ", "test"));
    scene.meets("x", &["a", "b"]).await;
}
