//! Machines that are not this one: network namespaces, connected by virtual cables.
//!
//! As root, or as anybody in a user namespace of one's own (`unshare -Ur`). Nothing has a name and
//! nothing is left behind: a namespace lives as long as the process that holds it, and that one as
//! long as the suite.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::calls::{all_ok, summary};
use super::process::Process;
use super::stage::Stage;

/// A machine of its own, as far as the network is concerned.
struct Machine {
    name: &'static str,
    /// Sleeps in it until its standard input ends.
    holder: Child,
    /// Whether to enter a user namespace as well.
    user: bool,
}

impl Machine {
    /// A machine in the user namespace of `first`, or in one of its own if we need one.
    fn new(name: &'static str, first: Option<&Self>) -> Result<Self> {
        let user = match first {
            Some(first) => first.user,
            None => !is_root()?,
        };
        let hold = ["sh", "-c", "echo ready; exec cat"];
        let mut command = match first {
            Some(first) if user => {
                let mut command = first.enter(&["--user"]);
                command.args(["unshare", "--net", "--"]);
                command
            }
            _ => {
                let mut command = Command::new("unshare");
                command.args(if user {
                    &["--user", "--map-root-user"][..]
                } else {
                    &[]
                });
                command.args(["--net", "--"]);
                command
            }
        };
        let mut holder = command
            .args(hold)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("unshare (of util-linux) does not start")?;
        let mut line = String::new();
        let out = holder.stdout.take().context("the pipe was asked for")?;
        BufReader::new(out).read_line(&mut line)?;
        let machine = Self { name, holder, user };
        if line.trim() == "ready" {
            return Ok(machine);
        }
        let reason = machine.last_words();
        anyhow::bail!(
            "this machine does not let us make network namespaces: {reason}; run as root, or allow \
             user namespaces (sysctl kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        )
    }

    fn last_words(mut self) -> String {
        let mut words = String::new();
        if let Some(error) = &mut self.holder.stderr {
            _ = error.read_to_string(&mut words);
        }
        words.trim().to_owned()
    }

    /// A command that begins in these namespaces of the machine.
    fn enter(&self, namespaces: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string()]);
        if self.user {
            command.arg("--preserve-credentials");
        }
        command.args(namespaces).arg("--");
        command
    }

    /// A command that runs on the machine.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let namespaces = ["--user", "--net"];
        let mut command = self.enter(&namespaces[usize::from(!self.user)..]);
        command.arg(program);
        command
    }

    fn ip(&self, arguments: &[&str]) -> Result<()> {
        let done = self.command("ip").args(arguments).output()?;
        let error = String::from_utf8_lossy(&done.stderr);
        let line = arguments.join(" ");
        ensure!(
            done.status.success(),
            "on {}: ip {line}: {}",
            self.name,
            error.trim()
        );
        Ok(())
    }

    fn address(&self, device: &str, address: &str) -> Result<()> {
        self.ip(&["address", "add", &format!("{address}/30"), "dev", device])?;
        self.ip(&["link", "set", device, "up"])
    }
}

impl Drop for Machine {
    /// The namespace ends with its last process, and its cables with it.
    fn drop(&mut self) {
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

fn is_root() -> Result<bool> {
    let id = Command::new("id").arg("-u").output()?;
    Ok(id.stdout.trim_ascii() == b"0")
}

/// A cable between two machines, with the address of each end.
fn connect(a: (&Machine, &str), b: (&Machine, &str)) -> Result<()> {
    let (near, far) = (format!("to-{}", b.0.name), format!("to-{}", a.0.name));
    let holder = b.0.holder.id().to_string();
    let ends = ["link", "add", &near, "type", "veth", "peer", "name", &far];
    a.0.ip(&[&ends[..], &["netns", &holder]].concat())?;
    a.0.address(&near, a.1)?;
    b.0.address(&far, b.1)
}

/// The three machines of the scenario.
struct Machines {
    control: Machine,
    server: Machine,
    client: Machine,
}

/// The control plane, as the server's machine and the client's machine see it.
const CONTROL: [&str; 2] = ["10.77.1.1", "10.77.2.1"];
/// The server, as the client's machine sees it.
const SERVER: &str = "10.77.3.1:50051";

impl Machines {
    fn new() -> Result<Self> {
        let control = Machine::new("control", None)?;
        let server = Machine::new("server", Some(&control))?;
        let client = Machine::new("client", Some(&control))?;
        for machine in [&control, &server, &client] {
            machine.ip(&["link", "set", "lo", "up"])?;
        }
        connect((&control, CONTROL[0]), (&server, "10.77.1.2"))?;
        connect((&control, CONTROL[1]), (&client, "10.77.2.2"))?;
        connect((&server, "10.77.3.1"), (&client, "10.77.3.2"))?;
        Ok(Self {
            control,
            server,
            client,
        })
    }
}

/// Calls of the client.
const CALLS: u64 = 20;

/// Everything as the README has it, on three machines: certificates, bootstraps, a control plane
/// with TLS, strict mutual TLS between the services, and nowhere `--insecure`.
pub(super) fn play(stage: &Stage<'_>) -> Result<()> {
    let machines = Machines::new()?;
    let mesh = stage.folder.join("mesh.yaml");
    std::fs::write(
        &mesh,
        "mesh: v1\n\
         trust_domain: interop.example\n\
         defaults: {mtls: strict}\n\
         services:\n  \
           web: {}\n  \
           greeter:\n    \
             endpoints: {targets: greeter.json}\n",
    )?;
    std::fs::write(
        stage.folder.join("greeter.json"),
        format!("[{{\"targets\": [\"{SERVER}\"]}}]"),
    )?;
    refuses_plaintext(stage, &machines, &mesh)?;
    let certificates = stage.folder.join("certificates");
    sidestep(stage, &certificates, |command| {
        command.args(["cert", "dev", "--out"]).arg(&certificates);
        command.arg("--mesh").arg(&mesh);
        for host in CONTROL {
            command.args(["--server-host", host]);
        }
    })?;

    let mut command = machines.control.command(&stage.installed.sidestep);
    command.args(["serve", "--log-format=json"]).arg(&mesh);
    command.args(["--listen", "0.0.0.0:18000"]);
    for (flag, file) in [
        ("--tls-cert", "control-plane.pem"),
        ("--tls-key", "control-plane.key"),
        ("--client-ca", "ca.pem"),
    ] {
        command.arg(flag).arg(certificates.join(file));
    }
    let control_plane = Process::start("sidestep-serve", stage.folder, &mut command)?;
    control_plane.event("serving")?;

    let bootstrap = |service: &str, server: &str| -> Result<std::path::PathBuf> {
        let file = stage.folder.join(format!("{service}-bootstrap.json"));
        sidestep(stage, &file, |command| {
            command.args(["bootstrap", "runtime", "--service", service]);
            command.args(["--server", &format!("{server}:18000"), "--certs"]);
            command.arg(&certificates).arg("--out").arg(&file);
        })?;
        Ok(file)
    };
    let mut command = machines.server.command(&stage.installed.server);
    command.args([
        "--mode=xds",
        "--xds-creds",
        "--id=greeter-1",
        "--listen",
        SERVER,
    ]);
    command.env("GRPC_XDS_BOOTSTRAP", bootstrap("greeter", CONTROL[0])?);
    let server = Process::start("greeter-1", stage.folder, &mut command)?;
    server.find("serving mode SERVING", |event| event["mode"] == "SERVING")?;

    let web = bootstrap("web", CONTROL[1])?;
    let called = call(stage, &machines, "our-client", "xds:///greeter", Some(&web))?;
    all_ok(&called, &["greeter-1"])?;

    let stranger = without_tls(stage.folder, &web)?;
    for (name, target, bootstrap) in [
        ("plaintext-to-server", SERVER, None),
        (
            "plaintext-to-control-plane",
            "xds:///greeter",
            Some(&*stranger),
        ),
    ] {
        let called = call(stage, &machines, name, target, bootstrap)?;
        let summary = summary(&called)?;
        ensure!(
            summary["ok"] == 0,
            "{name}: plaintext went through: {summary}"
        );
    }
    Ok(())
}

/// Off loopback, `serve` without TLS does not start, and says what to do.
fn refuses_plaintext(stage: &Stage<'_>, machines: &Machines, mesh: &Path) -> Result<()> {
    let mut command = machines.control.command(&stage.installed.sidestep);
    command
        .arg("serve")
        .arg(mesh)
        .args(["--listen", "0.0.0.0:18000"]);
    let done = command.output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(
        done.status.code() == Some(2) && said.contains("--tls-cert"),
        "`serve` without TLS: {}: {said}",
        done.status
    );
    Ok(())
}

/// Runs `sidestep` on this machine; `made` names in errors what it should have made.
fn sidestep(stage: &Stage<'_>, made: &Path, with: impl FnOnce(&mut Command)) -> Result<()> {
    let mut command = Command::new(&stage.installed.sidestep);
    with(&mut command);
    let done = command.output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {said}", made.display());
    Ok(())
}

/// Calls from the client's machine.
fn call(
    stage: &Stage<'_>,
    machines: &Machines,
    name: &str,
    target: &str,
    bootstrap: Option<&Path>,
) -> Result<Vec<serde_json::Value>> {
    let mut command = machines.client.command(&stage.installed.client);
    let calls = if name == "our-client" { CALLS } else { 1 };
    command.args(["--target", target, "--n", &calls.to_string()]);
    command.args(["--timeout-ms=5000", "--payload-size=100000"]);
    match bootstrap {
        Some(file) => command.env("GRPC_XDS_BOOTSTRAP", file),
        None => command.env_remove("GRPC_XDS_BOOTSTRAP"),
    };
    Process::start(name, stage.folder, &mut command)?.run_to_end()
}

/// The same bootstrap, without TLS to the control plane.
fn without_tls(folder: &Path, bootstrap: &Path) -> Result<std::path::PathBuf> {
    let mut content: serde_json::Value = serde_json::from_slice(&std::fs::read(bootstrap)?)?;
    content["xds_servers"][0]["channel_creds"] = serde_json::json!([{"type": "insecure"}]);
    let file = folder.join("plaintext-bootstrap.json");
    std::fs::write(&file, content.to_string())?;
    Ok(file)
}
