//! Which cluster a call goes to.

use anyhow::Result;
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::EVERYBODY;
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::resources::{
    SERVICE, all_to, cluster_at, listener, listener_with_routes, route, route_configuration,
    service, simple, with,
};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;
use crate::interop::statistics::share;
use crate::interop::traffic::answered_by;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "api-listener",
        features: &[Feature::ApiListener],
        about: "a listener changes from one set of routes for its host to another one, which is then moved into it; the unused ones are removed; no call fails",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: api_listener,
    },
    Scenario {
        name: "path-matching",
        features: &[Feature::PathMatching],
        about: "routes by full path, by prefix and by expression send each method to a cluster of its own",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: path_matching,
    },
    Scenario {
        name: "header-matching",
        features: &[Feature::HeaderMatching],
        about: "routes by exact value, prefix, suffix, expression, range and the opposite of a match of a header",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: header_matching,
    },
    Scenario {
        name: "fraction-matching",
        features: &[Feature::FractionMatching],
        about: "a route takes 30 of 100 calls, the next one the others",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: fraction_matching,
    },
    Scenario {
        name: "traffic-split",
        features: &[Feature::TrafficSplit],
        about: "calls are split 20 to 80, then 50 to 50 while they go on; no call fails",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: traffic_split,
    },
    Scenario {
        name: "cluster-change",
        features: &[Feature::ClusterChange],
        about: "a route moves to another cluster while calls go on: all of them move, none fails",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: cluster_change,
    },
];

/// So many calls tell 20 to 80 from 30 to 70 by more than five deviations.
const MANY: usize = 600;

fn api_listener(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let clusters = [
        cluster_at("one", &[&a.address]),
        cluster_at("two", &[&b.address]),
    ]
    .concat();
    let first = route_configuration("first", &[all_to("one")]);
    let second = route_configuration("second", &[all_to("two")]);
    let served = |resources: &[Value]| [resources, &clusters[..]].concat();

    let both = [listener(SERVICE, "first"), first, second.clone()];
    let management = Management::start(stage, &served(&both))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    let mut moved = both.to_vec();
    moved[0] = listener(SERVICE, "second");
    management.replace(&served(&moved))?;
    traffic.until_answered_by(&["b"])?;
    management.replace(&served(&[listener(SERVICE, "second"), second]))?;
    answered_by(&traffic.next(50)?, &["b"])?;
    let inline = listener_with_routes(SERVICE, &[all_to("one")]);
    management.replace(&served(&[inline]))?;
    traffic.until_answered_by(&["a"])?;
    traffic.end_without_failure()
}

fn path_matching(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let c = stage.ours("c", &[])?;
    let expression =
        json!({"safe_regex": {"google_re2": {}, "regex": "/grpc\\.[a-z]+\\.TestService/Str.*"}});
    let routes = [
        route(
            json!({"path": "/grpc.testing.TestService/UnaryCall"}),
            "one",
        ),
        route(json!({"prefix": "/grpc.testing.TestService/E"}), "two"),
        route(expression, "three"),
    ];
    let resources = [
        service(&routes),
        cluster_at("one", &[&a.address]),
        cluster_at("two", &[&b.address]),
        cluster_at("three", &[&c.address]),
    ]
    .concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let clients = [
        ("UnaryCall", "a"),
        ("EmptyCall", "b"),
        ("StreamingOutputCall", "c"),
    ]
    .map(|(method, server)| {
        let flags = ["--target=xds:///greeter", "--wait-for-ready"];
        let method_flags = ["--method", method];
        let client = stage.client(method, &bootstrap, &[flags, method_flags].concat());
        (client, server)
    });
    for (client, server) in clients {
        let events = client?.run_to_end()?;
        let calls: Vec<Value> = events.into_iter().filter(|e| e["event"] == "rpc").collect();
        answered_by(&calls, &[server])?;
    }
    Ok(())
}

/// The header that routes look at, and what it is in call `i`: `kind-0` to `kind-6`.
const HEADER: &str = "--metadata=x-kind:kind-{i%7}";
const NUMBER: &str = "--metadata=x-number:{i%7}";

fn header_matching(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let others = ["b", "c", "d"].map(|id| stage.ours(id, &[]));
    let by = |header: &str, what: Value, cluster: &str| {
        let header = with(json!({"name": header}), what);
        route(json!({"prefix": "", "headers": [header]}), cluster)
    };
    let text = |what: Value| json!({ "string_match": what });
    let expression = json!({"safe_regex": {"google_re2": {}, "regex": "k[a-z]+-3"}});
    let routes = [
        by("x-kind", text(json!({"exact": "kind-0"})), "a"),
        by("x-kind", text(json!({"prefix": "kind-1"})), "b"),
        by("x-kind", text(json!({"suffix": "d-2"})), "c"),
        by("x-kind", text(expression), "a"),
        by(
            "x-number",
            json!({"range_match": {"start": 4, "end": 5}}),
            "b",
        ),
        by(
            "x-kind",
            json!({"string_match": {"exact": "kind-5"}, "invert_match": true}),
            "d",
        ),
        by("x-kind", json!({"present_match": true}), "c"),
    ];
    let mut resources = service(&routes);
    resources.extend(cluster_at("a", &[&a.address]));
    let mut fleet = Vec::new();
    for (id, backend) in ["b", "c", "d"].into_iter().zip(others) {
        let backend = backend?;
        resources.extend(cluster_at(id, &[&backend.address]));
        fleet.push(backend);
    }
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let events = stage.calls(&bootstrap, &["--n=28", HEADER, NUMBER])?;
    for (remainder, server) in (0_u64..).zip(["a", "b", "c", "a", "b", "c", "d"]) {
        let calls: Vec<Value> = events
            .iter()
            .filter(|e| e["i"].as_u64().is_some_and(|i| i % 7 == remainder))
            .cloned()
            .collect();
        answered_by(&calls, &[server])?;
    }
    Ok(())
}

fn fraction_matching(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let fraction = json!({
        "prefix": "",
        "runtime_fraction": {"default_value": {"numerator": 30, "denominator": "HUNDRED"}},
    });
    let resources = [
        service(&[route(fraction, "one"), all_to("two")]),
        cluster_at("one", &[&a.address]),
        cluster_at("two", &[&b.address]),
    ]
    .concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let n = format!("--n={MANY}");
    let events = stage.calls(&bootstrap, &[&n, "--concurrency=8"])?;
    split(&events, ["a", "b"], 0.3)
}

/// Every call succeeded, and the first of two servers answered this share of them.
fn split(events: &[Value], [first, second]: [&str; 2], chance: f64) -> Result<()> {
    let calls: Vec<Value> = events
        .iter()
        .filter(|e| e["event"] == "rpc")
        .cloned()
        .collect();
    answered_by(&calls, &[first, second])?;
    share(&calls, first, chance)
}

fn traffic_split(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let resources = |one: u32, two: u32| {
        let clusters = json!([{"name": "one", "weight": one}, {"name": "two", "weight": two}]);
        let split = json!({
            "match": {"prefix": ""},
            "route": {"weighted_clusters": {"clusters": clusters}},
        });
        [
            service(&[split]),
            cluster_at("one", &[&a.address]),
            cluster_at("two", &[&b.address]),
        ]
        .concat()
    };
    let management = Management::start(stage, &resources(20, 80))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &["--qps=400"])?;
    traffic.until_answered_by(&["a", "b"])?;
    split(&traffic.next(MANY)?, ["a", "b"], 0.2)?;
    // What tells that the new split is in force is the new split.
    management.replace(&resources(50, 50))?;
    traffic.until(MANY, |calls| split(calls, ["a", "b"], 0.5))?;
    traffic.end_without_failure()
}

fn cluster_change(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let management = Management::start(stage, &simple(&[&a.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    let moved = [
        service(&[all_to("two")]),
        cluster_at("one", &[&a.address]),
        cluster_at("two", &[&b.address]),
    ]
    .concat();
    management.replace(&moved)?;
    traffic.until_answered_by(&["b"])?;
    traffic.end_without_failure()
}
