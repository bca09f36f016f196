//! One service under `sidestep serve`: the least that must work with everybody, in plaintext and
//! over strict mutual TLS.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::interop::calls::{all_ok, summary};
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::mesh::{Meshed, Security};
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::process::Process;
use crate::interop::resources::simple;
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

const CASTS: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Serve),
    Cast::new(Client::Ours, Server::Go, Plane::Serve),
    Cast::new(Client::Ours, Server::Python, Plane::Serve),
    Cast::new(Client::Go, Server::Ours, Plane::Serve),
    Cast::new(Client::Ours, Server::Node, Plane::Serve),
    Cast::new(Client::Python, Server::Ours, Plane::Serve),
    Cast::new(Client::Node, Server::Ours, Plane::Serve),
    Cast::new(Client::Ours, Server::Java, Plane::Serve).in_full_runs(),
    Cast::new(Client::Java, Server::Ours, Plane::Serve).in_full_runs(),
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
        about: "unary, empty and streaming calls, configured by go-control-plane",
        casts: &[
            Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
            Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane),
            Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane),
        ],
        helpers: &[],
        tier: Tier::Quick,
        play: methods,
    },
];

/// Calls go through, and without TLS only where none is asked for.
pub(super) fn calls(stage: &Stage<'_>, security: Security) -> Result<()> {
    let meshed = Meshed::start(stage, security)?;
    let caller = meshed.caller(stage.folder)?;
    let creds = format!("--creds={}", security.credentials());
    all_ok(&stage.calls(&caller, &[&creds])?, &["greeter-1"])?;
    only_as_secured(stage, &meshed, security)
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

fn methods(stage: &Stage<'_>) -> Result<()> {
    let server = stage.backend("a", &[])?;
    let management = Management::start(stage, &simple(&[&server.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    for method in ["UnaryCall", "EmptyCall", "StreamingOutputCall"] {
        // Payloads of several frames.
        let flags = [
            "--payload-size=100000",
            "--concurrency=4",
            "--method",
            method,
        ];
        all_ok(&stage.calls(&bootstrap, &flags)?, &["a"])?;
    }
    Ok(())
}
