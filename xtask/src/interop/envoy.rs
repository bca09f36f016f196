//! A real Envoy, with nothing in its own file but where the control plane is.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::calls::{all_ok, answered};
use super::mesh::{ControlPlane, Security, plain_server};
use super::process::{Process, eventually};
use super::stage::Stage;

/// The variant of ADS.
#[derive(Clone, Copy)]
pub(crate) enum Protocol {
    StateOfTheWorld,
    Delta,
}

/// Calls per round: with two backends that each get half, a round in which one of them gets none
/// comes once in 2^39.
const CALLS: u64 = 40;

/// Envoy routes to two versions; then the split moves to one, its endpoint is replaced, and
/// last comes a time-out.
pub(super) fn routes_calls(stage: &Stage<'_>, protocol: Protocol) -> Result<()> {
    let server = |id, flags: &[&str]| plain_server(stage.installed, stage.folder, id, flags);
    let (_a, a) = server("a", &[])?;
    let (_b, b) = server("b", &[])?;
    let (_c, c) = server("c", &[])?;
    let both = json!({"one": 50, "two": 50});
    let one = json!("one");

    let plane = ControlPlane::start(stage.installed, stage.folder, &mesh(&a, &b, &both, "none"))?;
    let envoy = Envoy::start(
        &stage.installed.envoy,
        &stage.installed.sidestep,
        stage.folder,
        &plane.address,
        protocol,
    )?;
    let address = eventually(|| envoy.listener())?;
    eventually(|| answers(stage, &address, &["a", "b"]))?;

    plane.edit(&mesh(&a, &b, &one, "none"))?;
    eventually(|| answers(stage, &address, &["a"]))?;

    plane.edit(&mesh(&c, &b, &one, "none"))?;
    eventually(|| answers(stage, &address, &["c"]))?;

    // Envoy takes endpoints and routes one after the other: a call that met the slow server
    // before its time-out was there would be held to nothing.
    plane.edit(&mesh(&c, &b, &one, "300ms"))?;
    eventually(|| envoy.has_routes_with("\"0.300s\""))?;
    let (_slow, slow) = server("slow", &["--delay-ms=60000"])?;
    plane.edit(&mesh(&slow, &b, &one, "300ms"))?;
    eventually(|| cut_short(stage, &address))?;
    envoy.accepted_everything()
}

/// The route's time-out ends a call that no other limit would end.
fn cut_short(stage: &Stage<'_>, address: &str) -> Result<()> {
    let mut command = Command::new(&stage.installed.client);
    command.args(["--target", address, "--n=1", "--timeout-ms=0"]);
    let client = Process::start("our-client", stage.folder, &mut command)?;
    let call = client.event("rpc")?;
    ensure!(call["code"] == "DEADLINE_EXCEEDED", "{call}");
    Ok(())
}

/// A round of calls through Envoy, all of which must succeed, answered by just these servers. It
/// may come too early, then the next one will do.
fn answers(stage: &Stage<'_>, address: &str, servers: &[&str]) -> Result<()> {
    let target = format!("ipv4:{address}");
    let mut command = stage.python(&target, CALLS, Security::Plaintext);
    let client = Process::start("grpcio-client", stage.folder, &mut command)?;
    let events = client.run_to_end()?;
    all_ok(&events, &answered(&events))?;
    all_ok(&events, servers)
}

/// The routes, clusters and endpoints are a service's; the listener is Envoy's own.
fn mesh(one: &str, two: &str, to: &Value, timeout: &str) -> String {
    let listener = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "ingress",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{
            "name": "http",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "ingress",
                "codec_type": "AUTO",
                "rds": {
                    "route_config_name": "greeter",
                    "config_source": {"ads": {}, "resource_api_version": "V3"},
                },
                "http_filters": [{
                    "name": "router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }],
            },
        }]}],
    });
    let endpoints = json!([
        {"address": one, "version": "v1"},
        {"address": two, "version": "v2"},
    ]);
    format!(
        "mesh: v1\n\
         defaults: {{mtls: off}}\n\
         services:\n  \
           edge: {{}}\n  \
           greeter:\n    \
             endpoints: {{static: {endpoints}}}\n    \
             versions: {{one: v1, two: v2}}\n    \
             routes: [{{name: main, to: {to}, timeout: {timeout}}}]\n\
         resources: [{listener}]\n"
    )
}

/// A running Envoy.
pub(crate) struct Envoy {
    process: Process,
    admin: String,
}

impl Envoy {
    /// Starts it with one worker, by a file that `sidestep bootstrap` writes; its files and its log go to `folder`.
    pub(crate) fn start(
        program: &Path,
        sidestep: &Path,
        folder: &Path,
        control_plane: &str,
        protocol: Protocol,
    ) -> Result<Self> {
        let file = folder.join("envoy.json");
        let done = bootstrap(sidestep, control_plane, protocol)
            .arg("--out")
            .arg(&file)
            .output()?;
        let error = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "sidestep bootstrap envoy: {error}");
        Self::by_file(program, folder, &file)
    }

    /// Starts it with one worker by this file; its log goes to `folder`.
    pub(crate) fn by_file(program: &Path, folder: &Path, file: &Path) -> Result<Self> {
        let admin = folder.join("envoy-admin.address");
        if admin.exists() {
            // An earlier one's.
            fs::remove_file(&admin)?;
        }
        let mut command = Command::new(program);
        command
            .args([
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--log-level",
                "info",
            ])
            .arg("--config-path")
            .arg(file)
            .arg("--admin-address-path")
            .arg(&admin);
        let process = Process::start("envoy", folder, &mut command)?;
        let admin = eventually(|| written(&admin))?;
        Ok(Self { process, admin })
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Where its one listener listens.
    pub(crate) fn listener(&self) -> Result<String> {
        let listeners = self.admin("/listeners?format=json")?;
        let address = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = address["port_value"].as_u64();
        let port = port.with_context(|| format!("no listener yet: {listeners}"))?;
        Ok(format!("127.0.0.1:{port}"))
    }

    /// The routes it goes by hold this.
    fn has_routes_with(&self, text: &str) -> Result<()> {
        let routes = self.admin("/config_dump?resource=dynamic_route_configs")?;
        ensure!(routes.to_string().contains(text), "not yet: {routes}");
        Ok(())
    }

    /// No update of ours was refused.
    pub(super) fn accepted_everything(&self) -> Result<()> {
        let stats = self.admin("/stats?format=json&filter=update_rejected")?;
        let stats = stats["stats"].as_array().context("statistics")?;
        ensure!(!stats.is_empty(), "Envoy counts no updates");
        let refused: Vec<&Value> = stats.iter().filter(|stat| stat["value"] != 0).collect();
        ensure!(
            refused.is_empty(),
            "Envoy refused updates: {}",
            json!(refused)
        );
        Ok(())
    }

    /// One request to the admin port.
    pub(crate) fn admin(&self, path: &str) -> Result<Value> {
        crate::http::json(&self.admin, path)
    }
}

/// A file's content, once it has some.
fn written(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    ensure!(!text.is_empty(), "{} is empty", file.display());
    Ok(text)
}

/// The command that writes the file as a user would have it; the listener comes by LDS.
fn bootstrap(sidestep: &Path, control_plane: &str, protocol: Protocol) -> Command {
    let ads = match protocol {
        Protocol::StateOfTheWorld => "sotw",
        Protocol::Delta => "delta",
    };
    let mut command = Command::new(sidestep);
    command
        .args(["bootstrap", "envoy", "--service", "edge"])
        .args(["--node-id", "edge-node", "--server", control_plane])
        .args(["--lds", "--admin", "127.0.0.1:0", "--ads", ads]);
    command
}
