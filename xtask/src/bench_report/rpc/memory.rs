//! What a connection costs in a client's resident memory: the difference of a process with a
//! thousand connections and one with three.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use super::output::CaseRounds;
use super::peers::Peers;
use super::run::{self, Round, Size};
use super::sets::{self, Client, FEW, MANY};
use super::stage::{self, Route, Servers};

/// Those whose every connection can be counted.
const CASES: [&str; 4] = ["tonic-x3", "tonic-xds", "sidestep-x3", "grpc-go-xds"];
const ENDPOINTS: usize = 1_000;
/// Enough for a balancer that picks by chance to use nearly all connections.
const CALLS: u32 = 8_000;

/// Measures it for those of these cases for which it can be.
pub(super) fn attach(peers: &Peers, cases: &mut [CaseRounds], logs: &Path) -> Result<()> {
    let logs = logs.join("memory");
    fs::create_dir_all(&logs)?;
    let servers = Servers::many(peers, ENDPOINTS, &logs)?;
    let mesh = logs.join("mesh.yaml");
    fs::write(&mesh, stage::wide_mesh_file(&servers.addresses))?;
    let (_plane, control) = stage::control_plane(peers, &mesh, &logs)?;
    for case in cases.iter_mut().filter(|case| CASES.contains(&case.name)) {
        let client = sets::case(case.name)?.client;
        let few = route(&servers.addresses[..3], FEW, &control);
        let many = route(&servers.addresses, MANY, &control);
        let few = call(peers, client, &logs, &few)?;
        let many = call(peers, client, &logs, &many)?;
        case.memory_per_connection = Some(per_connection(&few, &many)?);
    }
    Ok(())
}

fn route(servers: &[String], service: &str, control: &str) -> Route {
    Route {
        lab: json!({"servers": servers, "control": control, "service": service, "node": "web"}),
        tls: None,
        servers: Vec::new(),
        proxies: Vec::new(),
    }
}

fn call(peers: &Peers, client: Client, logs: &Path, route: &Route) -> Result<Round> {
    let mut command = stage::client_command(peers, client, 1)?;
    run::count(&mut command, &Size::calls(CALLS));
    run::play("memory", logs, &mut command, route)
}

/// Bytes.
fn per_connection(few: &Round, many: &Round) -> Result<f64> {
    let connections = many.sockets - few.sockets;
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    let half = ENDPOINTS as f64 / 2.0;
    ensure!(connections > half, "only {connections} connections more");
    Ok((many.resident_bytes - few.resident_bytes) / connections)
}
