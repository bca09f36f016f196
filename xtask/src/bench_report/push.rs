//! Changes that go to many clients: our control plane beside go-control-plane.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::leave;
use crate::interop::install_push_servers;

/// Streams, clusters, endpoints of each.
const SETS: [(u32, u32, u32); 3] = [(1_000, 100, 10), (5_000, 100, 10), (1_000, 1, 10_000)];
const SHORT: [(u32, u32, u32); 1] = [(200, 100, 10)];

/// Runs of each server, and changes in each run.
const WHOLE_RUN: Amount = Amount {
    rounds: 5,
    changes: 5,
};
const SHORT_RUN: Amount = Amount {
    rounds: 2,
    changes: 2,
};

#[derive(Clone, Copy)]
struct Amount {
    rounds: u32,
    changes: u32,
}

/// A control plane, and how it is started.
struct Server {
    name: &'static str,
    command: Vec<PathBuf>,
}

/// Measures all servers in turn, round after round, and leaves `push.json`.
pub(super) fn measure(short: bool) -> Result<()> {
    let build = [
        "build",
        "--release",
        "--locked",
        "-p",
        "sidestep-benches",
        "--bin",
        "push",
    ];
    crate::check::cargo(&build)?;
    let ours = crate::bench::program("push");
    let (theirs, version) = install_push_servers()?;
    let servers = servers(&ours, &theirs);
    let (sets, amount) = if short {
        (&SHORT[..], SHORT_RUN)
    } else {
        (&SETS[..], WHOLE_RUN)
    };
    let sets = sets
        .iter()
        .flat_map(|set| ["sotw", "delta"].map(|protocol| (protocol, *set)));
    let sets = sets.map(|(protocol, set)| measured(&ours, &servers, protocol, set, amount));
    let sets: Vec<Value> = sets.collect::<Result<_>>()?;
    leave(
        "push",
        &json!({ "versions": { "go-control-plane": version }, "sets": sets }),
    )
}

fn servers(ours: &Path, theirs: &Path) -> [Server; 3] {
    let go = |cache: &str| vec![theirs.to_owned(), "--cache".into(), cache.into()];
    [
        Server {
            name: "sidestep",
            command: vec![ours.to_owned(), "serve".into()],
        },
        Server {
            name: "linear",
            command: go("linear"),
        },
        Server {
            name: "snapshot",
            command: go("snapshot"),
        },
    ]
}

fn measured(
    swarm: &Path,
    servers: &[Server],
    protocol: &str,
    (streams, clusters, endpoints): (u32, u32, u32),
    amount: Amount,
) -> Result<Value> {
    println!("  {protocol}, {streams} streams, {clusters} x {endpoints}");
    let mut rounds = vec![Vec::new(); servers.len()];
    for _ in 0..amount.rounds {
        for (server, rounds) in servers.iter().zip(&mut rounds) {
            let mut command = pinned(0, swarm);
            command
                .args(["swarm", "--protocol", protocol])
                .args(["--streams", &streams.to_string()])
                .args(["--clusters", &clusters.to_string()])
                .args(["--endpoints", &endpoints.to_string()])
                .args(["--changes", &amount.changes.to_string()])
                .arg("--");
            add_pinned(&mut command, 1, &server.command);
            rounds.push(said(&mut command).with_context(|| server.name)?);
        }
    }
    let servers = servers.iter().zip(rounds);
    let servers = servers.map(|(server, rounds)| json!({ "name": server.name, "rounds": rounds }));
    Ok(json!({
        "protocol": protocol,
        "streams": streams,
        "clusters": clusters,
        "endpoints": endpoints,
        "servers": servers.collect::<Vec<_>>(),
    }))
}

/// Clients and server have a core each, where there are two and the tool for it.
fn pinned(core: usize, program: &Path) -> Command {
    if !can_pin() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn add_pinned(command: &mut Command, core: usize, arguments: &[PathBuf]) {
    if can_pin() {
        command.args(["taskset", "-c", &core.to_string()]);
    }
    command.args(arguments);
}

fn can_pin() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores > 1 && Command::new("taskset").arg("--version").output().is_ok()
}

/// The line of JSON that a run ends with.
fn said(command: &mut Command) -> Result<Value> {
    let output = command.output().context("push")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{errors}");
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.trim())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_a_line_of_json_or_an_error() {
        let seen = said(Command::new("echo").arg(r#"{"p99_ms": 1.5}"#)).unwrap();
        assert_eq!(seen["p99_ms"], 1.5);
        assert!(said(&mut Command::new("false")).is_err());
    }
}
