//! What a process says of itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::interop::calls::summary;
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::mesh::{Meshed, MeshedServer, Security};
use crate::interop::peer::{Client, Peer, Plane, Server};
use crate::interop::process::{Process, address};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "csds",
    features: &[Feature::Csds],
    about: "a C-core client with the published stubs asks our process what it runs (CSDS)",
    casts: &[Cast::new(Client::Ours, Server::Ours, Plane::Serve)],
    helpers: &[Peer::Grpcio],
    tier: Tier::Quick,
    play: client_status,
}];

/// Our client opens its admin endpoint, and others' stubs read what it says there.
fn client_status(stage: &Stage<'_>) -> Result<()> {
    let meshed = Meshed::start(
        stage.installed,
        stage.folder,
        Security::Plaintext,
        MeshedServer::Ours,
    )?;
    let mut command = Command::new(&stage.installed.client);
    command
        .args(["--target", "xds:///greeter", "--admin", "127.0.0.1:0"])
        .args(["--n=1", "--linger-ms=60000", "--wait-for-ready"])
        .env("GRPC_XDS_BOOTSTRAP", meshed.caller(stage.folder)?);
    let ours = Process::start("our-client", stage.folder, &mut command)?;
    let admin = address(&ours.event("ready")?, "admin")?;
    ours.event("summary")?;
    let mut command = Command::new(&stage.installed.python);
    command
        .arg(crate::codegen::root().join("tests/interop/python_csds.py"))
        .arg(admin);
    let events = Process::start("csds-client", stage.folder, &mut command)?.run_to_end()?;
    let summary = summary(&events)?;
    ensure!(summary["node"] == "web-node", "{summary}");
    ensure!(summary["streamed"] == 2, "{summary}");
    ensure!(summary["refused"] == "INVALID_ARGUMENT", "{summary}");
    for kind in [
        "Listener",
        "RouteConfiguration",
        "Cluster",
        "ClusterLoadAssignment",
    ] {
        let found = events.iter().find(|event| event["type"] == kind);
        let found = found.with_context(|| format!("no {kind} in {events:?}"))?;
        let is_good = found["status"] == "ACKED"
            && found["content"] == found["name"]
            && found["has_time"] == true
            && found["version"] != "";
        ensure!(is_good, "{found}");
    }
    Ok(())
}
