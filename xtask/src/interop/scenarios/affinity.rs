//! Calls with the same hash go to the same endpoint.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::interop::calls::answered;
use crate::interop::cast::Tier;
use crate::interop::casts::{EVERYBODY, SESSION_AFFINITY};
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::resources::{cluster, endpoints, kind, service, simple, with};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[AFFINITY, SESSIONS];

const AFFINITY: Scenario = Scenario {
    name: "affinity",
    features: &[Feature::RingHash],
    about: "ring hash by a header: each user keeps to one endpoint, and our client and the other one agree on which",
    casts: EVERYBODY,
    helpers: &[],
    tier: Tier::Quick,
    play: affinity,
};

const SESSIONS: Scenario = Scenario {
    name: "sessions",
    features: &[Feature::SessionAffinity],
    about: "a client that keeps its cookie stays at one of three endpoints, moves when that dies, and stays there",
    casts: SESSION_AFFINITY,
    helpers: &[],
    tier: Tier::Quick,
    play: sessions,
};

const USERS: u64 = 40;

fn affinity(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let c = stage.ours("c", &[])?;
    let cluster = with(cluster("one"), json!({"lb_policy": "RING_HASH"}));
    let addresses = [a.address.as_str(), b.address.as_str(), c.address.as_str()];
    let route = json!({
        "match": {"prefix": ""},
        "route": {"cluster": "one", "hash_policy": [{"header": {"header_name": "x-user"}}]},
    });
    let resources = [
        service(&[route]),
        vec![cluster, endpoints("one", &addresses)],
    ]
    .concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let flags = ["--n=200", "--metadata=x-user:user-{i%40}"];
    let theirs = homes(&stage.calls(&bootstrap, &flags)?)?;
    let used: BTreeSet<_> = theirs.values().collect();
    ensure!(used.len() > 1, "all users go to {used:?}");
    let ours = homes(&stage.our_calls(&bootstrap, &flags)?)?;
    ensure!(
        ours == theirs,
        "our client sends users to {ours:?}, the other one to {theirs:?}"
    );
    Ok(())
}

fn sessions(stage: &Stage<'_>) -> Result<()> {
    let mut servers = vec![
        stage.backend("a", &[])?,
        stage.ours("b", &[])?,
        stage.ours("c", &[])?,
    ];
    let names = ["a", "b", "c"];
    let addresses: Vec<_> = servers
        .iter()
        .map(|server| server.address.as_str())
        .collect();
    let mut resources = simple(&addresses);
    keep_by_cookie(&mut resources[0], "session");
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let flags = ["--cookie-jar", "--concurrency=1", "--qps=100"];
    let traffic = stage.traffic(&bootstrap, &flags)?;
    let home = |calls: &[Value]| {
        let met = answered(calls);
        ensure!(met.len() == 1, "the session went to {met:?}");
        let at = names.iter().position(|name| *name == met[0]);
        at.context("a server of ours answers")
    };
    // By chance, of three endpoints: (1/3)^49.
    traffic.until(50, |calls| home(calls).map(|_| ()))?;
    let first = home(&traffic.next(50)?)?;
    drop(servers.remove(first));
    let others: Vec<_> = names.iter().filter(|name| **name != names[first]).collect();
    traffic.until(50, |calls| {
        let at = home(calls)?;
        ensure!(others.contains(&&names[at]), "still at {}", names[at]);
        Ok(())
    })?;
    let second = home(&traffic.next(50)?)?;
    ensure!(second != first, "back at a server that is gone");
    Ok(())
}

/// Gives an API listener sessions that are kept in a cookie.
fn keep_by_cookie(listener: &mut Value, name: &str) {
    let state = json!({
        "@type": kind("envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState"),
        "cookie": {"name": name, "ttl": "120s"},
    });
    let filter = json!({
        "name": "sessions",
        "typed_config": {
            "@type": kind("envoy.extensions.filters.http.stateful_session.v3.StatefulSession"),
            "session_state": {"name": "cookie", "typed_config": state},
        },
    });
    let filters = &mut listener["api_listener"]["api_listener"]["http_filters"];
    if let Some(filters) = filters.as_array_mut() {
        filters.insert(0, filter);
    }
}

/// The one server that each user's calls went to.
fn homes(events: &[Value]) -> Result<BTreeMap<u64, String>> {
    let mut homes = BTreeMap::new();
    for call in events.iter().filter(|event| event["event"] == "rpc") {
        let user = call["i"].as_u64().context("a call's number")? % USERS;
        let server = call["server"].as_str().unwrap_or_default().to_owned();
        ensure!(call["code"] == "OK", "a call failed: {call}");
        let home = homes.entry(user).or_insert_with(|| server.clone());
        ensure!(
            *home == server,
            "user {user} went to {home} and to {server}"
        );
    }
    ensure!(
        homes.len() as u64 == USERS,
        "calls of {} users",
        homes.len()
    );
    Ok(homes)
}
