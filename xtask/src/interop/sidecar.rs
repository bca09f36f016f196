//! An Envoy beside a service that is not meshed yet, over strict mutual TLS: what a fleet looks like
//! while it leaves its sidecars one service at a time. Every file is written by `sidestep`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;

use super::calls::{all_ok, summary};
use super::envoy::Envoy;
use super::mesh::{Security, plain_server};
use super::peer::Client;
use super::process::{Process, address, eventually};
use super::stage::Stage;

/// Calls per client.
const CALLS: u64 = 20;

/// A caller behind Envoy reaches a meshed server, or a meshed caller reaches a server behind Envoy.
pub(super) fn play(stage: &Stage<'_>) -> Result<()> {
    let fleet = Fleet::start(stage)?;
    match stage.cast.client {
        Client::Envoy => calls_through_envoy(stage, &fleet),
        _ => calls_to_envoy(stage, &fleet),
    }
}

fn calls_through_envoy(stage: &Stage<'_>, fleet: &Fleet<'_>) -> Result<()> {
    let (_server, greeter) = fleet.meshed_server()?;
    fleet.edit(&[&greeter], &[])?;
    let beside_web = fleet.envoy("web", &["--egress", "0=greeter"])?;
    let egress = eventually(|| beside_web.listener())?;
    eventually(|| through_envoy(stage, &egress))?;
    refuses_plaintext(stage, &greeter)?;
    beside_web.accepted_everything()
}

fn calls_to_envoy(stage: &Stage<'_>, fleet: &Fleet<'_>) -> Result<()> {
    let (_old, application) = plain_server(stage.installed, stage.folder, "old-1", &[])?;
    let port = application.rsplit(':').next().unwrap_or_default();
    let ingress = format!("127.0.0.1:0={port}");
    let beside_old = fleet.envoy("old", &["--ingress", &ingress])?;
    let old = eventually(|| beside_old.listener())?;
    fleet.edit(&[], &[&old])?;
    all_ok(&fleet.meshed_caller("old")?, &["old-1"])?;
    refuses_plaintext(stage, &old)?;
    beside_old.accepted_everything()
}

/// The first calls may come before Envoy has the clusters.
fn through_envoy(stage: &Stage<'_>, egress: &str) -> Result<()> {
    let target = format!("ipv4:{egress}");
    let mut command = stage.python(&target, CALLS, Security::Plaintext);
    let client = Process::start("grpcio-client", stage.folder, &mut command)?;
    all_ok(&client.run_to_end()?, &["greeter-1"])
}

fn refuses_plaintext(stage: &Stage<'_>, address: &str) -> Result<()> {
    let mut command = Command::new(&stage.installed.client);
    command.args(["--target", address, "--n=1", "--timeout-ms=3000"]);
    let client = Process::start("plaintext-client", stage.folder, &mut command)?;
    let events = client.run_to_end()?;
    let summary = summary(&events)?;
    ensure!(summary["ok"] == 0, "{address} took plaintext: {summary}");
    Ok(())
}

/// A mesh of `web`, `greeter` and `old`, all strict, its certificates and its control plane.
struct Fleet<'a> {
    stage: &'a Stage<'a>,
    certificates: PathBuf,
    mesh: PathBuf,
    control_plane: Process,
    /// `127.0.0.1:port`.
    address: String,
}

impl<'a> Fleet<'a> {
    fn start(stage: &'a Stage<'a>) -> Result<Self> {
        let certificates = stage.folder.join("certificates");
        let mesh = stage.folder.join("mesh.yaml");
        fs::write(&mesh, file(&[], &[]))?;
        let mut command = Command::new(&stage.installed.sidestep);
        command.args(["cert", "dev", "--out"]).arg(&certificates);
        run(command.arg("--mesh").arg(&mesh))?;
        let mut command = Command::new(&stage.installed.sidestep);
        command.args(["serve", "--log-format=json"]).arg(&mesh);
        command.args(["--listen", "127.0.0.1:0", "--tls-cert"]);
        command.arg(certificates.join("control-plane.pem"));
        command.arg("--tls-key");
        command.arg(certificates.join("control-plane.key"));
        command.arg("--client-ca").arg(certificates.join("ca.pem"));
        let control_plane = Process::start("sidestep-serve", stage.folder, &mut command)?;
        let address = address(&control_plane.event("serving")?, "address")?;
        Ok(Self {
            stage,
            certificates,
            mesh,
            control_plane,
            address,
        })
    }

    /// Tells the control plane where the two services are.
    fn edit(&self, greeter: &[&str], old: &[&str]) -> Result<()> {
        let new = self.mesh.with_extension("new");
        fs::write(&new, file(greeter, old))?;
        fs::rename(&new, &self.mesh)?;
        self.control_plane.event("changed").map(drop)
    }

    /// Writes what a process of `service` starts from.
    fn bootstrap(&self, kind: &str, service: &str, flags: &[&str], file: &Path) -> Result<()> {
        let mut command = Command::new(&self.stage.installed.sidestep);
        command.args(["bootstrap", kind, "--service", service]);
        command.args(["--server", &self.address]).args(flags);
        command.arg("--certs").arg(&self.certificates);
        run(command.arg("--out").arg(file))
    }

    fn meshed_server(&self) -> Result<(Process, String)> {
        let file = self.stage.folder.join("greeter.json");
        self.bootstrap("runtime", "greeter", &[], &file)?;
        let mut command = Command::new(&self.stage.installed.server);
        command.args(["--mode", "xds", "--xds-creds", "--id", "greeter-1"]);
        command.env("GRPC_XDS_BOOTSTRAP", file);
        let server = Process::start("greeter-1", self.stage.folder, &mut command)?;
        let address = server.ready()?;
        server.find("serving mode SERVING", |event| event["mode"] == "SERVING")?;
        Ok((server, address))
    }

    fn envoy(&self, service: &str, flags: &[&str]) -> Result<Envoy> {
        let folder = self.stage.folder.join(format!("envoy-{service}"));
        fs::create_dir_all(&folder)?;
        let file = folder.join("envoy.json");
        let flags = [flags, &["--admin", "127.0.0.1:0"]].concat();
        self.bootstrap("envoy", service, &flags, &file)?;
        Envoy::by_file(&self.stage.installed.envoy, &folder, &file)
    }

    fn meshed_caller(&self, service: &str) -> Result<Vec<serde_json::Value>> {
        let file = self.stage.folder.join("web.json");
        self.bootstrap("runtime", "web", &[], &file)?;
        let mut command = Command::new(&self.stage.installed.client);
        command.args(["--target", &format!("xds:///{service}")]);
        command.args(["--creds=xds", &format!("--n={CALLS}")]);
        command.env("GRPC_XDS_BOOTSTRAP", file);
        Process::start("our-client", self.stage.folder, &mut command)?.run_to_end()
    }
}

fn run(command: &mut Command) -> Result<()> {
    let done = command.output()?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {}", error.trim());
    Ok(())
}

fn file(greeter: &[&str], old: &[&str]) -> String {
    let endpoints = |addresses: &[&str]| {
        let all = addresses.iter().map(|address| json!({"address": address}));
        serde_json::Value::from_iter(all)
    };
    format!(
        "mesh: v1\n\
         trust_domain: interop.example\n\
         defaults: {{mtls: strict}}\n\
         services:\n  \
           web: {{}}\n  \
           greeter:\n    \
             endpoints: {{static: {}}}\n  \
           old:\n    \
             endpoints: {{static: {}}}\n",
        endpoints(greeter),
        endpoints(old)
    )
}
