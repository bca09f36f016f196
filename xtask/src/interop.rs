//! `cargo xtask interop`: real peers against what we ship.
//!
//! A [scenario](scenario::Scenario) is written once, against the contract that every program of the
//! suite speaks, and cast many times: its client, its server and its control plane are ours or
//! others'. Each cast is a run on free loopback ports, of processes that end with it; some are
//! played at a time. The [matrix] says what was played with whom, and why the rest was not.
//!
//! The suite installs its peers itself, from the package registries; one that cannot be installed
//! is a failure. What a failed run leaves in `target/interop/logs/NAME/CAST` is every peer's log and
//! configuration.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::Result;

use crate::codegen::root;

mod calls;
mod cast;
mod casts;
mod engine;
mod envoy;
mod feature;
mod install;
mod istio;
mod management;
mod matrix;
mod mesh;
mod namespaces;
mod options;
mod parity;
mod peer;
mod process;
mod reasons;
mod report;
mod resources;
mod scenario;
mod scenarios;
mod sidecar;
mod stage;
mod statistics;
mod traffic;

pub(crate) use envoy::{Envoy, Protocol};
pub(crate) use install::{
    envoy as install_envoy, go as install_go, push_servers as install_push_servers,
};
pub(crate) use mesh::Certificates;
pub(crate) use process::{Process, eventually, last_lines, within};

use install::Installed;
use options::Options;

/// Runs the suite; `false`: a scenario failed, which it has said.
pub(crate) fn run(arguments: &[&str]) -> Result<bool> {
    let options = Options::parse(arguments)?;
    if options.list {
        report::list();
        return Ok(true);
    }
    let started = Instant::now();
    let say = |text: String| {
        if !options.json {
            println!("{text}");
        }
    };
    let runs = engine::runs(&options);
    if options.is_whole() && !options.full && !install::is_istio_built() {
        say(
            "istio-* is not played: this machine has not built Istio's discovery server. \
             `--full`, or `--only istio-baseline`, does, in about six minutes on two cores"
                .to_owned(),
        );
    }
    let peers: BTreeSet<_> = runs.iter().flat_map(engine::Run::peers).collect();
    say("installing peers and building our programs".to_owned());
    let installed = Installed::new(&peers)?;
    say(format!("ready after {:.1?}", started.elapsed()));
    let mut ended = 0;
    let outcomes = engine::play(&installed, &runs, options.jobs, |outcome| {
        ended += 1;
        report::outcome(&installed, outcome, (ended, runs.len()), options.json);
    });
    let is_green = outcomes.iter().all(|outcome| outcome.result.is_ok());
    if options.is_whole() {
        let matrix = matrix::Matrix::new(&installed, &outcomes);
        say(format!("\n{}", matrix.markdown()));
        if options.write && is_green {
            matrix::write(root(), &installed, &matrix, &outcomes)?;
        }
    }
    say(format!("took {:.1?} in all", started.elapsed()));
    report::summary(&outcomes, options.json);
    Ok(is_green)
}

/// `cargo xtask polyglot`: the example of that name, and who answered whom in it.
pub(crate) fn polyglot() -> Result<()> {
    let peers = scenarios::polyglot::PEERS.into_iter().collect();
    let installed = Installed::new(&peers)?;
    let folder = tempfile::tempdir()?;
    for (caller, servers) in scenarios::polyglot::answers(&installed, folder.path())? {
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        println!("{caller:<11} is answered by {}", servers.join(", "));
    }
    Ok(())
}
