//! One service under `sidestep serve`: the least that must work with everybody, in plaintext and
//! over strict mutual TLS.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::interop::calls::{all_ok, summary};
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::mesh::{Meshed, MeshedServer, Security};
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::process::Process;
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

const CASTS: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Serve),
    Cast::new(Client::Ours, Server::Go, Plane::Serve),
    Cast::new(Client::Go, Server::Ours, Plane::Serve),
    Cast::new(Client::Python, Server::Ours, Plane::Serve),
];

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "baseline",
        features: &[Feature::Baseline],
        about: "a meshed client calls a meshed server in plaintext; `sidestep serve` configures both",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: |stage| calls(stage, Security::Plaintext),
    },
    Scenario {
        name: "mtls",
        features: &[Feature::Mtls],
        about: "a meshed client calls a meshed server over strict mutual TLS, and plaintext is refused",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: |stage| calls(stage, Security::MutualTls),
    },
    Scenario {
        name: "go-control-plane",
        features: &[Feature::Baseline],
        about: "our channel, configured by go-control-plane, calls a grpc-go server",
        casts: &[Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane)],
        helpers: &[],
        tier: Tier::Quick,
        play: go_control_plane,
    },
];

/// Calls per client.
const CALLS: u64 = 20;

fn calls(stage: &Stage<'_>, security: Security) -> Result<()> {
    let server = match stage.cast.server {
        Server::Ours => MeshedServer::Ours,
        Server::Go => MeshedServer::GrpcGo,
        other => bail!("no meshed server of {other}"),
    };
    let meshed = Meshed::start(stage.installed, stage.folder, security, server)?;
    let mut command = match stage.cast.client {
        Client::Ours => ours(stage, "UnaryCall"),
        Client::Go => grpc_go(stage, security),
        Client::Python => {
            let mut command = stage.python("xds:///greeter", CALLS, security);
            command.env("GRPC_TRACE", "xds_client");
            command
        }
        other => bail!("no client of {other}"),
    };
    command.env("GRPC_XDS_BOOTSTRAP", meshed.caller(stage.folder)?);
    let client = Process::start("client", stage.folder, &mut command)?;
    all_ok(&client.run_to_end()?, &["greeter-1"])?;
    only_as_secured(stage, &meshed, security)
}

fn grpc_go(stage: &Stage<'_>, security: Security) -> Command {
    let mut command = Command::new(&stage.installed.go);
    command
        .args(["client", "-target", "xds:///greeter"])
        .args(["-n", &CALLS.to_string(), "-creds", security.credentials()])
        .env("GRPC_GO_LOG_SEVERITY_LEVEL", "info");
    command
}

/// Our own client, with payloads of several frames.
fn ours(stage: &Stage<'_>, method: &str) -> Command {
    let mut command = Command::new(&stage.installed.client);
    command
        .args(["--target", "xds:///greeter", "--method", method])
        .args(["--n", &CALLS.to_string(), "--concurrency=4"])
        .args(["--payload-size=100000", "--wait-for-ready"]);
    command
}

/// Calls that went through could have gone in plaintext: a server under strict mutual TLS must
/// turn away who comes without.
fn only_as_secured(stage: &Stage<'_>, meshed: &Meshed, security: Security) -> Result<()> {
    let mut command = Command::new(&stage.installed.client);
    command.args(["--target", &meshed.address, "--n=1", "--timeout-ms=3000"]);
    let client = Process::start("plaintext-client", stage.folder, &mut command)?;
    let events = client.run_to_end()?;
    let summary = summary(&events)?;
    let expected = u64::from(security == Security::Plaintext);
    ensure!(summary["ok"] == expected, "a call in plaintext: {summary}");
    Ok(())
}

fn go_control_plane(stage: &Stage<'_>) -> Result<()> {
    let go = || Command::new(&stage.installed.go);
    let mut command = go();
    command.args(["server", "-id", "grpc-go"]);
    let server = Process::start("grpc-go-server", stage.folder, &mut command)?;
    let backend = server.ready()?;
    let mut command = go();
    command.args(["control-plane", "-name", "greeter", "-node", "web-node"]);
    command.args(["-backend", &backend]);
    let control_plane = Process::start("go-control-plane", stage.folder, &mut command)?;
    let address = control_plane.ready()?;
    let bootstrap = crate::interop::mesh::bootstrap(stage.folder, &address, "web", None)?;
    for method in ["UnaryCall", "EmptyCall", "StreamingOutputCall"] {
        let mut command = ours(stage, method);
        command.env("GRPC_XDS_BOOTSTRAP", &bootstrap);
        let client = Process::start("our-client", stage.folder, &mut command)?;
        let events: Vec<Value> = client.run_to_end()?;
        all_ok(&events, &["grpc-go"])?;
    }
    Ok(())
}
