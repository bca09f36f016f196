//! Resident memory of our client beside grpc-go's, with the same configuration from the same
//! control plane (ours) and the same few calls, into `target/bench-report/memory.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::codegen::root;
use crate::interop::{Process, install_go, last_lines, within};
use crate::resident;

/// Configured, but hardly connected.
const MANY: Size = Size {
    clusters: 10_000,
    endpoints: 10,
    on_demand: true,
};
/// Of the clusters, those that are called.
const CALLS: u32 = 10;
/// The most that our client may hold of what grpc-go's holds.
const OF_GRPC_GO: f64 = 1.0 / 3.0;

/// Connected endpoints of one cluster. What this few need is taken off the rest.
const FEW: u32 = 3;
const CONNECTED: [u32; 2] = [1_000, 5_000];
/// KiB of each.
const CONNECTED_KIB: f64 = 30.0;
/// Files that a process needs beside its connections.
const SPARE_FILES: u32 = 200;

/// To read, and to take, a configuration of this size on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy)]
struct Size {
    clusters: u32,
    endpoints: u32,
    on_demand: bool,
}

/// Whose client.
#[derive(Clone, Copy)]
enum Client {
    Sidestep,
    GrpcGo,
}

/// Measures both and writes the file. `short` leaves the 5,000 connections out.
///
/// # Errors
/// A program cannot be built, or one of them does not do its part.
pub(crate) fn measure(short: bool) -> Result<()> {
    let lab = Lab::new()?;
    let clusters = lab.beside(MANY, CALLS, |_| Ok(()))?;
    let few = lab.connected(FEW)?;
    let limit = file_limit()?;
    let mut connected = Vec::new();
    for endpoints in CONNECTED {
        if endpoints + SPARE_FILES > limit || (short && endpoints > CONNECTED[0]) {
            println!("{endpoints} connections are left out; {limit} files may be open");
            continue;
        }
        let kib = each(lab.connected(endpoints)?, few, endpoints);
        connected.push(json!({
            "endpoints": endpoints, "sidestep_kib": round(kib[0]), "grpc_go_kib": round(kib[1]),
            "bar_kib": CONNECTED_KIB,
        }));
    }
    let [sidestep, grpc_go] = clusters;
    let report = json!({
        "clusters_10000": {
            "sidestep_mib": round(sidestep), "grpc_go_mib": round(grpc_go),
            "ratio": round(sidestep / grpc_go * 100.0) / 100.0, "bar": round(OF_GRPC_GO * 100.0) / 100.0,
        },
        "per_connected_endpoint": connected,
    });
    println!("{report:#}");
    let folder = root().join("target/bench-report");
    fs::create_dir_all(&folder)?;
    Ok(fs::write(
        folder.join("memory.json"),
        format!("{report:#}\n"),
    )?)
}

/// KiB of one connected endpoint, from MiB of all and of a few.
fn each(all: [f64; 2], few: [f64; 2], endpoints: u32) -> [f64; 2] {
    let more = f64::from(endpoints - FEW);
    [0, 1].map(|client| (all[client] - few[client]) * 1024.0 / more)
}

/// One decimal.
fn round(figure: f64) -> f64 {
    (figure * 10.0).round() / 10.0
}

struct Lab {
    folder: PathBuf,
    memory: PathBuf,
    go: PathBuf,
}

impl Lab {
    fn new() -> Result<Self> {
        let build = ["build", "--release", "-p", "sidestep-benches", "--locked"];
        crate::check::cargo(&[&build[..], &["--bin", "memory"]].concat())?;
        let folder = root().join("target/bench-report/memory");
        fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            memory: crate::bench::program("memory"),
            go: install_go()?,
        })
    }

    /// MiB of both clients with a connection to each of so many endpoints.
    fn connected(&self, endpoints: u32) -> Result<[f64; 2]> {
        let size = Size {
            clusters: 1,
            endpoints,
            on_demand: false,
        };
        self.beside(size, 1, |id| {
            let open = resident::open_files(id)?;
            ensure!(open > endpoints as usize, "{open} files open");
            Ok(())
        })
    }

    /// MiB of both clients at rest, ours first, once so many calls were answered and `is_done`.
    fn beside(
        &self,
        size: Size,
        calls: u32,
        is_done: impl Fn(u32) -> Result<()>,
    ) -> Result<[f64; 2]> {
        let (plane, address) = self.control_plane(size)?;
        let mut all = [0.0; 2];
        for (mib, client) in all.iter_mut().zip([Client::Sidestep, Client::GrpcGo]) {
            let process = self.client(client, &address, calls)?;
            within(PATIENCE, || is_done(process.id()))?;
            *mib = resident::at_rest(process.id())?;
        }
        drop(plane);
        Ok(all)
    }

    fn control_plane(&self, size: Size) -> Result<(Process, String)> {
        let mut command = Command::new(&self.memory);
        let [clusters, endpoints] = [size.clusters, size.endpoints].map(|n| n.to_string());
        command.args(["serve", "--clusters", &clusters, "--endpoints", &endpoints]);
        if size.on_demand {
            command.arg("--on-demand");
        }
        let process = Process::start("plane", &self.folder, &mut command)?;
        let serving = process.event_within(PATIENCE, "serving")?;
        let address = serving["address"].as_str().context("an address")?;
        Ok((process, address.to_owned()))
    }

    /// A client that has made its calls, each to another cluster, and stays.
    fn client(&self, client: Client, plane: &str, calls: u32) -> Result<Process> {
        let calls_text = calls.to_string();
        let (name, mut command) = match client {
            Client::Sidestep => {
                let mut command = Command::new(&self.memory);
                command.args(["client", "--calls", &calls_text]);
                ("sidestep", command)
            }
            Client::GrpcGo => {
                let mut command = Command::new(&self.go);
                command.args(["client", "--target", "xds:///all", "--n", &calls_text]);
                command.args(["--method", "EmptyCall", "--metadata", "x-cluster:{i}"]);
                command.args(["--wait-for-ready", "--timeout-ms", "300000"]);
                command.args(["--linger-ms", "3600000"]);
                ("grpc-go", command)
            }
        };
        command
            .env_remove("GRPC_XDS_BOOTSTRAP")
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap(plane));
        let process = Process::start(name, &self.folder, &mut command)?;
        let summary = process.event_within(PATIENCE, "summary")?;
        ensure!(
            summary["ok"] == u64::from(calls),
            "{name}: {summary}\n{}",
            self.log(name)
        );
        Ok(process)
    }

    fn log(&self, name: &str) -> String {
        last_lines(Path::new(&self.folder.join(format!("{name}.log"))))
    }
}

fn bootstrap(control_plane: &str) -> String {
    json!({
        "xds_servers": [{
            "server_uri": control_plane,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "memory", "cluster": "web"},
    })
    .to_string()
}

/// Files that a child of this process may have open.
fn file_limit() -> Result<u32> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    match soft.context("no limit of open files")? {
        "unlimited" => Ok(u32::MAX),
        number => Ok(number.parse()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_what_more_of_them_add() {
        let [ours, theirs] = each([40.0, 80.0], [10.0, 20.0], 1_003);
        assert!((ours - 30.72).abs() < 1e-9 && (theirs - 61.44).abs() < 1e-9);
        assert_eq!(round(ours), 30.7);
    }

    #[test]
    fn there_is_a_limit_of_files() {
        assert!(file_limit().unwrap() > SPARE_FILES);
    }
}
