//! What ends, repeats or sheds a call.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::EVERYBODY;
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::peer::Client;
use crate::interop::resources::{
    all_to, assignment, cluster, endpoints, locality, service, simple, with,
};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;
use crate::interop::statistics::is_about;
use crate::interop::traffic::answered_by;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "timeout",
        features: &[Feature::Timeout],
        about: "a route's limit ends calls to a slow server, the application's own one where it is shorter, and neither those to a fast one",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: timeout,
    },
    Scenario {
        name: "retry",
        features: &[Feature::Retry],
        about: "a server answers the fourth attempt: two retries are too few, three are enough",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: retry,
    },
    Scenario {
        name: "circuit-breaking",
        features: &[Feature::CircuitBreaking],
        about: "of many calls at once as many succeed as the limit allows, 5 and then 10",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: circuit_breaking,
    },
    Scenario {
        name: "drop-overloads",
        features: &[Feature::DropOverloads],
        about: "the control plane has 30 of 100 calls dropped, then none",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: drop_overloads,
    },
];

/// The calls among a client's events.
fn calls(events: &[Value]) -> impl Iterator<Item = &Value> {
    events.iter().filter(|event| event["event"] == "rpc")
}

/// The one cluster, and a route to it with these fields.
fn routed(address: &str, fields: Value) -> Vec<Value> {
    let action = with(json!({"cluster": "one"}), fields);
    let route = json!({"match": {"prefix": ""}, "route": action});
    let rest = vec![cluster("one"), endpoints("one", &[address])];
    [service(&[route]), rest].concat()
}

/// Longer than anybody waits.
const SLOW: &str = "--delay-ms=60000";

fn timeout(stage: &Stage<'_>) -> Result<()> {
    let slow = stage.backend("slow", &[SLOW])?;
    let limit = |limit: &str| json!({"max_stream_duration": {"max_stream_duration": limit}});
    // C-core's limits of routes end up to two seconds too early.
    let (first, least) = match stage.cast.client {
        Client::Python => ("3s", 10.0),
        _ => ("0.500s", 495.0),
    };
    let management = Management::start(stage, &routed(&slow.address, limit(first)))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let events = stage.calls(&bootstrap, &["--n=3"])?;
    ended_after(&events, least)?;
    management.replace(&routed(&slow.address, limit("10s")))?;
    let events = stage.calls(&bootstrap, &["--n=3", "--timeout-ms=300"])?;
    ended_after(&events, 295.0)?;
    let fast = stage.ours("fast", &[])?;
    management.replace(&routed(&fast.address, limit("10s")))?;
    let events = stage.calls(&bootstrap, &["--n=3"])?;
    let calls: Vec<Value> = calls(&events).cloned().collect();
    answered_by(&calls, &["fast"])
}

/// Every call ended for want of time, after so many milliseconds at least and not as late as any other
/// limit there is.
fn ended_after(events: &[Value], least: f64) -> Result<()> {
    ensure!(calls(events).count() > 0, "no calls");
    for call in calls(events) {
        // A server of tonic's own ends the call at the same moment, in words of its own.
        let by_tonic = call["code"] == "CANCELLED" && call["message"] == "Timeout expired";
        let is_late = call["code"] == "DEADLINE_EXCEEDED" || by_tonic;
        ensure!(is_late, "not in time: {call}");
        let took = call["latency_ms"].as_f64().unwrap_or_default();
        // Timers of some peers count in whole milliseconds.
        ensure!(took > least && took < 8000.0, "after {took} ms: {call}");
    }
    Ok(())
}

fn retry(stage: &Stage<'_>) -> Result<()> {
    let server = stage.backend("a", &["--fail-attempts-below=3"])?;
    let retries = |n: u32| {
        let policy = json!({"retry_on": "unavailable", "num_retries": n});
        routed(&server.address, json!({ "retry_policy": policy }))
    };
    let management = Management::start(stage, &retries(2))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let events = stage.calls(&bootstrap, &["--n=3"])?;
    ensure!(calls(&events).count() == 3, "calls are missing");
    for call in calls(&events) {
        ensure!(call["code"] == "UNAVAILABLE", "too few retries: {call}");
    }
    management.replace(&retries(3))?;
    let events = stage.calls(&bootstrap, &["--n=3"])?;
    let calls: Vec<Value> = calls(&events).cloned().collect();
    answered_by(&calls, &["a"])
}

fn circuit_breaking(stage: &Stage<'_>) -> Result<()> {
    let slow = stage.backend("a", &["--delay-ms=1000"])?;
    let limited = |limit: u32| {
        let thresholds = json!({"circuit_breakers": {"thresholds": [{"max_requests": limit}]}});
        let rest = vec![
            with(cluster("one"), thresholds),
            endpoints("one", &[&slow.address]),
        ];
        [service(&[all_to("one")]), rest].concat()
    };
    let management = Management::start(stage, &limited(5))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    // A place that is free is taken within 25 ms.
    let traffic = stage.traffic(&bootstrap, &["--qps=40", "--concurrency=32"])?;
    traffic.until(120, |calls| in_flight(calls, 5))?;
    management.replace(&limited(10))?;
    traffic.until(120, |calls| in_flight(calls, 10))
}

/// At most, and at some time, so many of these calls were in flight together, of which each took a
/// second; the others were refused.
fn in_flight(calls: &[Value], limit: usize) -> Result<()> {
    // What is surely within that second.
    const CERTAIN: f64 = 950.0;
    let with_code = |code| calls.iter().filter(move |call| call["code"] == code);
    let begun: Vec<f64> = with_code("OK")
        .filter_map(|call| call["start_ms"].as_f64())
        .collect();
    let beside = |at: f64| {
        begun
            .iter()
            .filter(move |b| (0.0..CERTAIN).contains(&(at - **b)))
    };
    let most = begun.iter().map(|at| beside(*at).count()).max();
    let (ok, refused) = (begun.len(), with_code("UNAVAILABLE").count());
    ensure!(
        most == Some(limit) && refused > 0 && ok + refused == calls.len(),
        "with a limit of {limit}, {most:?} calls were in flight; {ok} succeeded, {refused} were refused"
    );
    Ok(())
}

fn drop_overloads(stage: &Stage<'_>) -> Result<()> {
    const MANY: usize = 600;
    let a = stage.backend("a", &[])?;
    let drop_percentage = json!({"numerator": 30, "denominator": "HUNDRED"});
    let overload = json!({"category": "throttle", "drop_percentage": drop_percentage});
    let policy = json!({"policy": {"drop_overloads": [overload]}});
    let endpoints = assignment("one", &[locality("a", 1, 0, &[&a.address])]);
    let rest = vec![cluster("one"), with(endpoints, policy)];
    let resources = [service(&[all_to("one")]), rest].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let n = format!("--n={MANY}");
    let events = stage.calls(&bootstrap, &[&n, "--concurrency=8"])?;
    let ok = calls(&events).filter(|call| call["code"] == "OK").count();
    let dropped = calls(&events).filter(|call| call["code"] == "UNAVAILABLE");
    let dropped = dropped.count();
    ensure!(ok + dropped == MANY, "other codes: {:?}", events.last());
    is_about("dropped calls", dropped, MANY, 0.3)?;
    management.replace(&simple(&[&a.address]))?;
    let events = stage.calls(&bootstrap, &["--n=100"])?;
    let calls: Vec<Value> = calls(&events).cloned().collect();
    answered_by(&calls, &["a"])
}
