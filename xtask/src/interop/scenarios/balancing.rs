//! Which endpoint of a cluster a call goes to.

use anyhow::Result;
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::{EVERYBODY, LEAST_REQUEST};
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::peer::Client;
use crate::interop::resources::{
    all_to, assignment, cluster, endpoint, kind, locality, service, simple, socket_address, with,
};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;
use crate::interop::statistics::share;
use crate::interop::traffic::answered_by;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "round-robin",
        features: &[Feature::RoundRobin],
        about: "three equal endpoints get a third each",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: round_robin,
    },
    Scenario {
        name: "least-request",
        features: &[Feature::LeastRequest],
        about: "a slow endpoint gets fewer calls than a fast one",
        casts: LEAST_REQUEST,
        helpers: &[],
        tier: Tier::Quick,
        play: least_request,
    },
    Scenario {
        name: "custom-lb",
        features: &[Feature::CustomLb],
        about: "of a list of policies the first one is unknown, so the second one is used",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: custom_lb,
    },
    Scenario {
        name: "localities",
        features: &[Feature::WeightedLocalities],
        about: "localities get calls by weight, 3 to 1 and then 1 to 3; no call fails",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: localities,
    },
    Scenario {
        name: "failover",
        features: &[Feature::Failover],
        about: "one of two endpoints of the first priority dies: the other one goes on alone; both die: the second priority takes over; one comes back: so do the calls",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: failover,
    },
    Scenario {
        name: "endpoint-change",
        features: &[Feature::EndpointChange],
        about: "an endpoint is replaced and another one removed while calls go on; no call fails",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: endpoint_change,
    },
    Scenario {
        name: "dual-stack",
        features: &[Feature::DualStack],
        about: "endpoints on IPv4, on IPv6, and one whose IPv6 address is dead and whose IPv4 address works",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: dual_stack,
    },
];

/// Calls for a distribution.
const MANY: usize = 600;

fn round_robin(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let c = stage.ours("c", &[])?;
    let management = Management::start(stage, &simple(&[&a.address, &b.address, &c.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &["--qps=400"])?;
    // From then on all of them are connected.
    traffic.until_answered_by(&["a", "b", "c"])?;
    let calls = traffic.next(MANY)?;
    for server in ["a", "b", "c"] {
        share(&calls, server, 1.0 / 3.0)?;
    }
    traffic.end_without_failure()
}

fn least_request(stage: &Stage<'_>) -> Result<()> {
    let slow = stage.backend("a-slow", &["--delay-ms=300"])?;
    let fast = stage.ours("b-fast", &[])?;
    let cluster = with(cluster("one"), json!({"lb_policy": "LEAST_REQUEST"}));
    let addresses = [slow.address.as_str(), fast.address.as_str()];
    let endpoints = assignment("one", &[locality("a", 1, 0, &addresses)]);
    let resources = [service(&[all_to("one")]), vec![cluster, endpoints]].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &["--qps=100", "--concurrency=50"])?;
    traffic.until_answered_by(&["a-slow", "b-fast"])?;
    // Of two choices, equal ones half the time, the busy endpoint gets a quarter; by chance alone it
    // would get half, which is ten deviations away.
    let calls = traffic.next(MANY)?;
    let slow = calls.iter().filter(|call| call["server"] == "a-slow");
    let count = slow.count();
    anyhow::ensure!(
        count * 3 < MANY,
        "the busy endpoint got {count} of {MANY} calls"
    );
    traffic.end_without_failure()
}

fn custom_lb(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let policy = |name: &str, config: Value| json!({"typed_extension_config": {"name": name, "typed_config": config}});
    let unknown = json!({
        "@type": kind("xds.type.v3.TypedStruct"),
        "type_url": kind("example.interop.NobodyKnowsThis"),
        "value": {"answer": 42},
    });
    // Round robin, which the older field says, would call both endpoints; grpc-node has nothing else.
    let (known, expected): (_, &[&str]) = match stage.cast.client {
        Client::Node => ("round_robin.v3.RoundRobin", &["a", "b"]),
        _ => ("pick_first.v3.PickFirst", &["a"]),
    };
    let name = format!("envoy.extensions.load_balancing_policies.{known}");
    let known = json!({"@type": kind(&name)});
    let cluster = with(
        cluster("one"),
        json!({"load_balancing_policy": {
            "policies": [policy("unknown", unknown), policy("known", known)],
        }}),
    );
    let addresses = [a.address.as_str(), b.address.as_str()];
    let endpoints = assignment("one", &[locality("a", 1, 0, &addresses)]);
    let resources = [service(&[all_to("one")]), vec![cluster, endpoints]].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(expected)?;
    answered_by(&traffic.next(100)?, expected)?;
    traffic.end_without_failure()
}

fn localities(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let resources = |one: u32, two: u32| {
        let zones = [
            locality("a", one, 0, &[&a.address]),
            locality("b", two, 0, &[&b.address]),
        ];
        let rest = vec![cluster("one"), assignment("one", &zones)];
        [service(&[all_to("one")]), rest].concat()
    };
    let management = Management::start(stage, &resources(3, 1))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &["--qps=400"])?;
    traffic.until_answered_by(&["a", "b"])?;
    share(&traffic.next(MANY)?, "a", 0.75)?;
    management.replace(&resources(1, 3))?;
    traffic.until(MANY, |calls| share(calls, "a", 0.25))?;
    traffic.end_without_failure()
}

fn failover(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let c = stage.ours("c", &[])?;
    let priorities = [
        locality("first", 1, 0, &[&a.address, &b.address]),
        locality("second", 1, 1, &[&c.address]),
    ];
    let rest = vec![cluster("one"), assignment("one", &priorities)];
    let resources = [service(&[all_to("one")]), rest].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a", "b"])?;
    drop(b);
    traffic.until_answered_by(&["a"])?;
    let listen = format!("--listen={}", a.address);
    drop(a);
    traffic.until_answered_by(&["c"])?;
    let _a = stage.backend("a", &[&listen])?;
    traffic.until_answered_by(&["a"])
}

fn endpoint_change(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let c = stage.ours("c", &[])?;
    let management = Management::start(stage, &simple(&[&a.address, &b.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a", "b"])?;
    management.replace(&simple(&[&a.address, &c.address]))?;
    traffic.until_answered_by(&["a", "c"])?;
    management.replace(&simple(&[&a.address]))?;
    traffic.until_answered_by(&["a"])?;
    traffic.end_without_failure()
}

fn dual_stack(stage: &Stage<'_>) -> Result<()> {
    let six = stage.backend("a-six", &["--listen=[::1]:0"])?;
    let four = stage.ours("b-four", &[])?;
    let both = stage.ours("c-both", &[])?;
    // Nobody listens there: the port is another address family's.
    let dead = format!("[::1]:{}", both.address.rsplit(':').next().unwrap_or("1"));
    let mut with_two = endpoint(&dead);
    with_two["endpoint"]["additional_addresses"] =
        json!([{ "address": socket_address(&both.address) }]);
    let mut all = locality("a", 1, 0, &[&six.address, &four.address]);
    if let Some(endpoints) = all["lb_endpoints"].as_array_mut() {
        endpoints.push(with_two);
    }
    let rest = vec![cluster("one"), assignment("one", &[all])];
    let resources = [service(&[all_to("one")]), rest].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a-six", "b-four", "c-both"])?;
    traffic.end_without_failure()
}
