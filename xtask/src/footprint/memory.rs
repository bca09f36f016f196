//! Resident memory of a meshed client beside a real Envoy, with the same services from the same
//! control plane.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::build::Built;
use crate::codegen::root;
use crate::interop::{Envoy, Process, Protocol, eventually, install_envoy, last_lines};
use crate::resident;

const CLUSTERS: u32 = 300;
/// Of each cluster.
const ENDPOINTS: u32 = 10;

/// A port on which nothing listens: tcpmux, which nobody has run for decades.
const NOBODY: u16 = 1;

/// As its log is named.
const CALLER: &str = "client-of-envoy";
/// How long it may take to call every endpoint through Envoy while the machine is busy.
const MANY_CALLS: Duration = Duration::from_secs(120);

/// Everything in MiB of resident memory.
pub(super) struct Memory {
    /// The service before it joined: one channel, one call made.
    pub(super) plain: f64,
    pub(super) states: Vec<State>,
}

/// Both at rest in one state.
pub(super) struct State {
    pub(super) what: &'static str,
    /// Whether the bar is about it.
    pub(super) gates: bool,
    pub(super) meshed: f64,
    pub(super) envoy: f64,
}

impl State {
    /// What the mesh adds to a plain process, as a share of Envoy.
    pub(super) fn of_envoy(&self, plain: f64) -> f64 {
        (self.meshed - plain) / self.envoy
    }
}

impl Memory {
    pub(super) fn measure(plain: &Built, meshed: &Built) -> Result<Self> {
        let folder = root().join("target/footprint/run");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        let lab = Lab {
            envoy: install_envoy()?,
            sidestep: sidestep()?,
            plain: plain.program.clone(),
            meshed: meshed.program.clone(),
            folder,
        };
        let (servers, port) = lab.servers()?;
        let plain = lab.plain_client(port)?;
        let states = vec![lab.configured()?, lab.connected(port)?];
        drop(servers);
        Ok(Self { plain, states })
    }

    pub(super) fn report(&self) -> Value {
        let states = self.states.iter().map(|state| {
            json!({
                "what": state.what,
                "meshed_mib": state.meshed,
                "envoy_mib": state.envoy,
                "added_of_envoy": state.of_envoy(self.plain),
            })
        });
        json!({
            "clusters": CLUSTERS,
            "endpoints_each": ENDPOINTS,
            "plain_mib": self.plain,
            "states": states.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "resident MiB at {CLUSTERS} clusters of {ENDPOINTS} endpoints; a plain client: {:.1}\n",
            self.plain
        )?;
        writeln!(
            f,
            "{:<30}{:>10}{:>10}{:>10}{:>18}",
            "", "meshed", "added", "Envoy", "added / Envoy"
        )?;
        for state in &self.states {
            writeln!(
                f,
                "{:<30}{:>10.1}{:>10.1}{:>10.1}{:>18.3}",
                state.what,
                state.meshed,
                state.meshed - self.plain,
                state.envoy,
                state.of_envoy(self.plain),
            )?;
        }
        Ok(())
    }
}

/// The control plane's program, built for release as it would be shipped.
fn sidestep() -> Result<PathBuf> {
    crate::check::cargo(&["build", "--locked", "-p", "sidestep-cli"])?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder));
    Ok(target.join("debug/sidestep"))
}

struct Lab {
    envoy: PathBuf,
    sidestep: PathBuf,
    plain: PathBuf,
    meshed: PathBuf,
    folder: PathBuf,
}

impl Lab {
    /// A process that serves as many loopback addresses as there are endpoints.
    fn servers(&self) -> Result<(Process, u16)> {
        let mut command = Command::new(&self.plain);
        command.args(["serve", &(CLUSTERS * ENDPOINTS).to_string()]);
        let process = Process::start("servers", &self.folder, &mut command)?;
        let port = process.event("ready")?["port"].as_u64().context("a port")?;
        Ok((process, port.try_into()?))
    }

    fn plain_client(&self, port: u16) -> Result<f64> {
        let mut command = Command::new(&self.plain);
        command.args(["call", &port.to_string(), "1"]);
        let client = Process::start("plain-client", &self.folder, &mut command)?;
        ensure!(answered(&client)? == 1, "the plain client's call failed");
        resident::at_rest(client.id())
    }

    /// Neither has a connection: all endpoints refuse.
    fn configured(&self) -> Result<State> {
        let plane = self.control_plane(NOBODY)?;
        let (client, answered) = self.meshed_client(&plane.address, 1)?;
        ensure!(answered == 0, "{answered} calls answered by nobody");
        let meshed = resident::at_rest(client.id())?;
        drop(client);
        let envoy = self.envoy(&plane)?;
        Ok(State {
            what: "configured, no connection",
            gates: true,
            meshed,
            envoy: resident::at_rest(envoy.id())?,
        })
    }

    /// Both have a connection to every endpoint.
    fn connected(&self, port: u16) -> Result<State> {
        let plane = self.control_plane(port)?;
        let (client, answered) = self.meshed_client(&plane.address, ENDPOINTS)?;
        ensure!(
            answered == u64::from(CLUSTERS * ENDPOINTS),
            "{answered} calls answered"
        );
        eventually(|| connections(client.id()))?;
        let meshed = resident::at_rest(client.id())?;
        drop(client);
        let envoy = self.envoy(&plane)?;
        // Whether a call was answered in time is not the question here, each connection is.
        let mut calls = 0;
        while connections(envoy.id()).is_err() {
            ensure!(calls < 5, "calls through Envoy: {}", self.fault_of(&envoy));
            self.call_through(&envoy)?;
            calls += 1;
        }
        Ok(State {
            what: "a connection to each endpoint",
            gates: false,
            meshed,
            envoy: resident::at_rest(envoy.id())?,
        })
    }

    fn control_plane(&self, port: u16) -> Result<Plane> {
        let file = self.folder.join("mesh.yaml");
        fs::write(&file, mesh(port))?;
        let mut command = Command::new(&self.sidestep);
        command.args(["serve", "--log-format=json", "--listen=127.0.0.1:0"]);
        let process = Process::start("serve", &self.folder, command.arg(file))?;
        let address = process.event("serving")?["address"]
            .as_str()
            .map(str::to_owned);
        Ok(Plane {
            _process: process,
            address: address.context("an address")?,
        })
    }

    /// A client that has called every service, and how many calls were answered.
    fn meshed_client(&self, control_plane: &str, rounds: u32) -> Result<(Process, u64)> {
        let mut command = Command::new(&self.meshed);
        command
            .args(["call", &CLUSTERS.to_string(), &rounds.to_string()])
            .env_remove("GRPC_XDS_BOOTSTRAP")
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap(control_plane));
        let client = Process::start("meshed-client", &self.folder, &mut command)?;
        let answered = answered(&client)?;
        Ok((client, answered))
    }

    /// An Envoy that has taken the whole configuration.
    fn envoy(&self, plane: &Plane) -> Result<Envoy> {
        let envoy = Envoy::start(
            &self.envoy,
            &self.sidestep,
            &self.folder,
            &plane.address,
            Protocol::Delta,
        )?;
        eventually(|| envoy.listener())?;
        eventually(|| has_all_clusters(&envoy))?;
        Ok(envoy)
    }

    /// Calls each service so often that every endpoint of it has its turn.
    fn call_through(&self, envoy: &Envoy) -> Result<()> {
        let listener = envoy.listener()?;
        let (_, port) = listener.rsplit_once(':').context("host:port")?;
        let [count, rounds] = [CLUSTERS, ENDPOINTS].map(|number| number.to_string());
        let mut command = Command::new(&self.plain);
        command.args(["via", port, &count, &rounds]);
        let client = Process::start(CALLER, &self.folder, &mut command)?;
        client.event_within(MANY_CALLS, "done").map(drop)
    }

    /// Why Envoy does not have all its connections, as far as its callers know.
    fn fault_of(&self, envoy: &Envoy) -> String {
        let open = connections(envoy.id()).err().map(|fault| fault.to_string());
        let log = self.folder.join(format!("{CALLER}.log"));
        format!("{}\n{}", open.unwrap_or_default(), last_lines(&log))
    }
}

struct Plane {
    _process: Process,
    address: String,
}

fn answered(client: &Process) -> Result<u64> {
    let done = client.event("done")?;
    done["answered"].as_u64().context("a number of calls")
}

fn has_all_clusters(envoy: &Envoy) -> Result<()> {
    let stats =
        envoy.admin("/stats?format=json&filter=cluster_manager.(active_clusters|warming)")?;
    let value = |name: &str| {
        let stats = stats["stats"].as_array().into_iter().flatten();
        let mut found = stats.filter(|stat| stat["name"] == name);
        found.next().and_then(|stat| stat["value"].as_u64())
    };
    let active = value("cluster_manager.active_clusters").context("active_clusters")?;
    let warming = value("cluster_manager.warming_clusters").unwrap_or_default();
    // One more is the control plane's own.
    ensure!(
        active > u64::from(CLUSTERS) && warming == 0,
        "{active} clusters, {warming} more warming"
    );
    Ok(())
}

fn connections(id: u32) -> Result<()> {
    let open = resident::open_files(id)?;
    ensure!(
        open >= usize::try_from(CLUSTERS * ENDPOINTS)?,
        "{open} files open"
    );
    Ok(())
}

fn bootstrap(control_plane: &str) -> String {
    json!({
        "xds_servers": [{
            "server_uri": control_plane,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": "footprint", "cluster": "web"},
    })
    .to_string()
}

/// So many services, and for Envoy a listener of its own with a host for each of them.
fn mesh(port: u16) -> String {
    let mut text = "mesh: v1\ndefaults: {mtls: off}\nservices:\n  web: {}\n".to_owned();
    for cluster in 0..CLUSTERS {
        let endpoints: Vec<Value> = (0..ENDPOINTS)
            .map(|endpoint| json!({"address": address(cluster * ENDPOINTS + endpoint, port)}))
            .collect();
        let endpoints = Value::from(endpoints);
        // Writing to a String cannot fail.
        _ = write!(
            text,
            "  s{cluster:03}:\n    balance: {{policy: round_robin}}\n    \
             endpoints: {{static: {endpoints}}}\n"
        );
    }
    _ = writeln!(text, "resources: [{}]", listener());
    text
}

/// The `number`th of the loopback addresses that `footprint-plain serve` takes.
fn address(number: u32, port: u16) -> String {
    let first = std::net::Ipv4Addr::new(127, 1, 0, 1).to_bits();
    format!("{}:{port}", std::net::Ipv4Addr::from_bits(first + number))
}

fn listener() -> Value {
    let hosts: Vec<Value> = (0..CLUSTERS)
        .map(|cluster| {
            let name = format!("s{cluster:03}");
            json!({
                "name": name,
                "domains": [name],
                "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name}}],
            })
        })
        .collect();
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "egress",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "http",
            "typed_config": {
                "@type": manager,
                "stat_prefix": "egress",
                "codec_type": "AUTO",
                "route_config": {"name": "egress", "virtual_hosts": hosts},
                "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
            },
        }]}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_endpoints_share_an_address() {
        let mut all: Vec<_> = (0..CLUSTERS * ENDPOINTS).map(|n| address(n, 1)).collect();
        assert_eq!(all[0], "127.1.0.1:1");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 3_000);
    }
}
