//! What a process says of itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::codegen::root;
use crate::interop::calls::summary;
use crate::interop::cast::Tier;
use crate::interop::casts::EVERYBODY;
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::peer::{Client, Peer};
use crate::interop::process::Process;
use crate::interop::resources::simple;
use crate::interop::scenario::Scenario;
use crate::interop::stage::{Stage, admin};

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "csds",
    features: &[Feature::Csds],
    about: "C-core's published stubs ask a client what it runs (CSDS), and it names everything that it was served",
    casts: EVERYBODY,
    helpers: &[Peer::Grpcio],
    tier: Tier::Quick,
    play: client_status,
}];

/// A client opens its admin endpoint, and others' stubs read what it says there.
fn client_status(stage: &Stage<'_>) -> Result<()> {
    let server = stage.backend("a", &[])?;
    let management = Management::start(stage, &simple(&[&server.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let flags = ["--target=xds:///greeter", "--admin=127.0.0.1:0"];
    let lasting = ["--n=1", "--linger-ms=60000", "--wait-for-ready"];
    let client = stage.client("client", &bootstrap, &[&flags[..], &lasting].concat())?;
    let admin = admin(&client.event("ready")?)?;
    client.event("summary")?;
    let mut command = Command::new(&stage.installed.python);
    command
        .arg(root().join("tests/interop/python_csds.py"))
        .arg(admin);
    let events = Process::start("csds-client", stage.folder, &mut command)?.run_to_end()?;
    let summary = summary(&events)?;
    ensure!(summary["node"] == "web-node", "{summary}");
    ensure!(summary["streamed"] == 2, "{summary}");
    if stage.cast.client == Client::Ours {
        // Others look past matchers that they do not know.
        ensure!(summary["refused"] == "INVALID_ARGUMENT", "{summary}");
    }
    for kind in [
        "Listener",
        "RouteConfiguration",
        "Cluster",
        "ClusterLoadAssignment",
    ] {
        is_accepted(&events, kind)?;
    }
    Ok(())
}

/// A resource of this kind is there, was accepted, and is what it says that it is.
fn is_accepted(events: &[Value], kind: &str) -> Result<()> {
    let of_kind = |name: &Value| name.as_str().is_some_and(|n| n.ends_with(kind));
    let found = events.iter().find(|event| of_kind(&event["type"]));
    let found = found.with_context(|| format!("no {kind} in {events:?}"))?;
    let is_good = found["status"] == "ACKED"
        && found["content"] == found["name"]
        && found["has_time"] == true
        && found["version"] != "";
    ensure!(is_good, "{found}");
    Ok(())
}
