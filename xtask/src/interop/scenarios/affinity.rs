//! Calls with the same hash go to the same endpoint.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::interop::cast::Tier;
use crate::interop::casts::EVERYBODY;
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::resources::{cluster, endpoints, service, with};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "affinity",
    features: &[Feature::RingHash],
    about: "ring hash by a header: each user keeps to one endpoint, and our client and the other one agree on which",
    casts: EVERYBODY,
    helpers: &[],
    tier: Tier::Quick,
    play: affinity,
}];

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
