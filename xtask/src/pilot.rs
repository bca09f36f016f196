//! `cargo xtask pilot`: the README's "Mesh your own service", run as it is written, and then what
//! a team would do to it.
//!
//! 1. Every command of the section, in its order: certificates, bootstraps, the control plane over
//!    TLS, servers, the client. Only ports and the folder of the files are other ones.
//! 2. Under load, the `targets` file goes from one server to two, to the other one and back: calls
//!    must follow, and none may fail.
//! 3. A real Prometheus reads all processes' metrics, by the alert rules as they are; the
//!    dashboard's queries find what they show.
//! 4. A backend dies: the alert must fire, and what its runbook says must help.
//!
//! Everything runs on loopback, on free ports, and ends with the script, by its process id.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::codegen::root;
use crate::interop::{Process, eventually, within};
use crate::ops::dashboard;

mod prometheus;
mod readme;

use prometheus::Prometheus;
use readme::{Elsewhere, Shown};

/// What the section's commands speak of.
const EXAMPLE: &str = "examples/hello";
const CERTIFICATES: &str = "certs";

/// Opens a process's admin endpoint.
const ADMIN: &str = "SIDESTEP_ADMIN";

/// How long a command that serves may take to do so: cargo may have to build it.
const BUILD: Duration = Duration::from_secs(900);

/// How long an alert may take: its own `for`, a few tries to connect, a slow machine.
const ALERT: Duration = Duration::from_secs(180);

/// How long every panel may take to show something: one of them asks what was true at whole
/// minutes, and the last change must lie before one.
const PANELS: Duration = Duration::from_secs(100);

/// Panels that are empty as long as all is well.
const QUIET: [&str; 16] = [
    "Endpoints ejected",
    "Ejections not enforced",
    "Calls failed",
    "Cut off",
    "Resources refused",
    "Calls failed by the server",
    "Statuses served",
    "Statuses received",
    "Attempts failed by cluster",
    "Calls retried",
    "Retries",
    "Waiting between attempts",
    "Refused resources",
    "Around the mesh",
    "Streams that failed",
    "Updates refused",
];

pub(crate) fn run() -> Result<()> {
    let started = Instant::now();
    let folder = root().join("target/pilot");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let say = |what: &str| println!("[{:>5.1} s] {what}", started.elapsed().as_secs_f64());
    let outcome = play(&folder, say);
    if outcome.is_err() {
        eprintln!("logs and files: {}", folder.display());
    }
    outcome
}

fn play(folder: &Path, say: impl Fn(&str)) -> Result<()> {
    let mut pilot = Pilot::new(folder)?;
    for shown in pilot.commands.clone() {
        say(&format!("$ {}", shown.line()));
        pilot.follow(&shown)?;
    }
    ensure!(pilot.servers.len() == 2, "the README starts two servers");
    let load = pilot.load.take().context("the README starts a load")?;
    only_tls(&pilot.servers[0].address)?;
    say("the README's commands work; the server takes TLS alone");

    let prometheus = pilot.watch(&load)?;
    load.goes_to(&pilot.addresses(&[0, 1]))?;
    pilot.write_targets(&[0])?;
    pilot.follow_targets()?;
    for (about, servers) in [
        ("the first", &[0][..]),
        ("both", &[0, 1]),
        ("the second", &[1]),
        ("both", &[0, 1]),
    ] {
        pilot.write_targets(servers)?;
        let calls = load.goes_to(&pilot.addresses(servers))?;
        say(&format!("targets: {about}; {calls} calls, none failed"));
    }
    let calls = load.whole()?;
    eventually(|| has_read(&prometheus, calls))?;
    say("Prometheus has read what clients and servers count");
    let shown = within(PANELS, || panels_show(&prometheus))?;
    say(&format!("{shown} queries of the dashboard answered"));

    load.whole()?;
    pilot.servers[1].process = None;
    let killed = Instant::now();
    let alert = within(ALERT, || prometheus.firing("SidestepBackendUnreachable"))?;
    say(&format!(
        "a backend was killed; after {:.0} s: {}",
        killed.elapsed().as_secs_f64(),
        alert["annotations"]["summary"]
    ));
    pilot.write_targets(&[0])?;
    load.settles()?;
    say("taken out of the targets, as the runbook says: no call fails");
    Ok(())
}

/// A server of the pilot.
struct Server {
    address: String,
    admin: String,
    /// Ends with its drop, as by `kill -9`.
    process: Option<Process>,
}

struct Pilot {
    folder: PathBuf,
    elsewhere: Elsewhere,
    commands: Vec<Shown>,
    servers: Vec<Server>,
    load: Option<Load>,
    /// What else runs.
    others: Vec<Process>,
}

impl Pilot {
    fn new(folder: &Path) -> Result<Self> {
        let readme = fs::read_to_string(root().join("README.md"))?;
        let mut elsewhere = Elsewhere::default();
        elsewhere.folder(EXAMPLE, &folder.join("hello"));
        elsewhere.folder(CERTIFICATES, &folder.join("certs"));
        let commands = readme::commands(&readme)?;
        for shown in &commands {
            elsewhere.ports_of(&shown.line())?;
        }
        copy_example(folder, &mut elsewhere)?;
        Ok(Self {
            folder: folder.to_owned(),
            elsewhere,
            commands,
            servers: Vec::new(),
            load: None,
            others: Vec::new(),
        })
    }

    /// Runs a command of the README; what serves is left running once it does.
    fn follow(&mut self, shown: &Shown) -> Result<()> {
        let here = self.elsewhere.command(shown);
        if here.has(&["hello-server"]) {
            self.start_server(&here)
        } else if here.has(&["hello-load"]) {
            self.start_load(&here)
        } else if here.has(&["serve"]) {
            let process = self.start("control-plane", &here)?;
            listening(&process, after(&here, "--listen")?)?;
            self.others.push(process);
            Ok(())
        } else {
            finished(&here)
        }
    }

    fn start(&self, name: &str, command: &Shown) -> Result<Process> {
        Process::start(name, &self.folder, &mut as_command(command)?)
    }

    fn start_server(&mut self, command: &Shown) -> Result<()> {
        let mut command = command.clone();
        let admin = readme::free_address()?;
        let variable = (ADMIN.to_owned(), admin.clone());
        command.variables.push(variable);
        let process = self.start(&format!("server-{}", self.servers.len()), &command)?;
        let address = after(&command, "hello-server")?.to_owned();
        listening(&process, &address)?;
        self.servers.push(Server {
            address,
            admin,
            process: Some(process),
        });
        Ok(())
    }

    fn start_load(&mut self, command: &Shown) -> Result<()> {
        let admin = command.variables.iter().find(|(name, _)| name == ADMIN);
        let (_, admin) = admin.with_context(|| format!("{ADMIN} is not set for the load"))?;
        let process = self.start("load", command)?;
        listening(&process, admin)?;
        let load = Load {
            process,
            admin: admin.clone(),
        };
        load.begins()?;
        self.load = Some(load);
        Ok(())
    }

    fn watch(&self, load: &Load) -> Result<Prometheus> {
        let mut jobs = vec![("web", load.admin.as_str())];
        jobs.extend(self.servers.iter().map(|s| ("greeter", s.admin.as_str())));
        Prometheus::start(&self.folder, &jobs)
    }

    fn addresses(&self, servers: &[usize]) -> BTreeSet<String> {
        servers
            .iter()
            .map(|number| self.servers[*number].address.clone())
            .collect()
    }

    /// Has the mesh file name the `targets` file in place of its fixed list.
    fn follow_targets(&self) -> Result<()> {
        let file = self.folder.join("hello/mesh.yaml");
        let text = fs::read_to_string(&file)?;
        fs::write(&file, with_targets(&text).context("no static endpoints")?)?;
        Ok(())
    }

    /// Writes the `targets` file as a deployment would: whole, and renamed into place.
    fn write_targets(&self, servers: &[usize]) -> Result<()> {
        let file = self.folder.join("hello/targets.json");
        let groups = json!([{"targets": self.addresses(servers)}]);
        let new = file.with_extension("new");
        fs::write(&new, groups.to_string())?;
        Ok(fs::rename(new, file)?)
    }
}

/// A mesh file with a `targets` file in place of its one list of endpoints.
fn with_targets(mesh: &str) -> Option<String> {
    let (before, rest) = mesh.split_once("static:\n")?;
    let indented = before.len() - before.trim_end_matches(' ').len();
    let is_item = |line: &&str| line.len() - line.trim_start().len() > indented;
    let items: usize = rest
        .split_inclusive('\n')
        .take_while(is_item)
        .map(str::len)
        .sum();
    Some(format!("{before}targets: targets.json\n{}", &rest[items..]))
}

/// Copies the example's files, with its ports replaced.
fn copy_example(folder: &Path, elsewhere: &mut Elsewhere) -> Result<()> {
    fs::create_dir_all(folder.join("hello"))?;
    for name in ["mesh.yaml", "targets.json"] {
        let text = fs::read_to_string(root().join(EXAMPLE).join(name))?;
        elsewhere.ports_of(&text)?;
        fs::write(folder.join("hello").join(name), elsewhere.text(&text))?;
    }
    Ok(())
}

fn as_command(shown: &Shown) -> Result<Command> {
    let (program, arguments) = shown.words.split_first().context("a program")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(shown.variables.iter().cloned())
        .current_dir(root());
    Ok(command)
}

/// Runs a command that has to end well by itself.
fn finished(shown: &Shown) -> Result<()> {
    let output = as_command(shown)?.output().context(shown.line())?;
    ensure!(
        output.status.success(),
        "{}: {}\n{}{}",
        shown.line(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

/// The word that follows another.
fn after<'a>(shown: &'a Shown, word: &str) -> Result<&'a str> {
    let mut words = shown.words.iter().skip_while(|w| *w != word);
    let next = words.nth(1).map(String::as_str);
    next.with_context(|| format!("nothing follows {word} in {}", shown.line()))
}

/// Waits until somebody listens there, which `process` has to do.
fn listening(process: &Process, address: &str) -> Result<()> {
    let deadline = Instant::now() + BUILD;
    while let Err(error) = TcpStream::connect(address) {
        ensure!(!process.is_over(), "ended before it listened on {address}");
        ensure!(Instant::now() < deadline, "nobody on {address}: {error}");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// A client without TLS gets no HTTP/2: its preface is answered by an alert, or by the end.
fn only_tls(address: &str) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
    stream.write_all(&settings)?;
    let mut answer = Vec::new();
    // A reset is as good as an end.
    _ = stream.read_to_end(&mut answer);
    ensure!(
        answer.get(3) != Some(&4),
        "{address} talks HTTP/2 in plaintext"
    );
    Ok(())
}

/// Clients that call without end, and count.
struct Load {
    process: Process,
    admin: String,
}

impl Load {
    /// Waits for the first answer.
    fn begins(&self) -> Result<()> {
        for _ in 0..30 {
            if self.whole()? > 0 {
                return Ok(());
            }
        }
        bail!("no call is answered")
    }

    /// Waits until all answers of a second come from just these servers; no call may have failed.
    fn goes_to(&self, servers: &BTreeSet<String>) -> Result<u64> {
        let mut last = Value::Null;
        for _ in 0..30 {
            last = self.process.fresh("load")?;
            ensure!(last["failed"] == 0, "calls failed: {last}");
            let answering = last["servers"].as_object().into_iter().flatten();
            if answering
                .map(|(name, _)| name.clone())
                .collect::<BTreeSet<_>>()
                == *servers
            {
                return self.whole();
            }
        }
        bail!("calls do not go to {servers:?}: {last}")
    }

    /// How many calls were answered; none may have failed.
    fn whole(&self) -> Result<u64> {
        let line = self.process.fresh("load")?;
        ensure!(line["failed"] == 0, "calls failed: {line}");
        line["answered"].as_u64().context("a number")
    }

    /// Waits for five seconds in a row without a failed call.
    fn settles(&self) -> Result<()> {
        let mut failed = None;
        let mut calm = 0;
        for _ in 0..60 {
            let line = self.process.fresh("load")?;
            calm = if failed == line["failed"].as_u64() {
                calm + 1
            } else {
                0
            };
            failed = line["failed"].as_u64();
            if calm == 5 {
                return Ok(());
            }
        }
        bail!("calls still fail: {failed:?} so far")
    }
}

/// Both sides' counts, in Prometheus.
fn has_read(prometheus: &Prometheus, calls: u64) -> Result<()> {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let calls = calls as f64;
    for (query, least) in [
        ("min(up)", 1.0),
        ("count(up)", 3.0),
        ("min(grpc_xds_client_connected)", 1.0),
        (
            r#"sum(grpc_client_call_duration_seconds_count{job="web", grpc_status="OK"})"#,
            calls,
        ),
        (
            r#"sum(grpc_server_call_duration_seconds_count{job="greeter", grpc_status="OK"})"#,
            calls,
        ),
        (r#"sum(grpc_subchannel_open_connections{job="web"})"#, 2.0),
    ] {
        let value = prometheus.value(query)?;
        ensure!(value >= least, "{query} is {value}, not {least} or more");
    }
    let failed = r#"grpc_client_call_duration_seconds_count{grpc_status!="OK"} > 0"#;
    let failed = prometheus.query(failed)?;
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// Every query of the dashboard is answered, and every panel shows something unless it is about
/// faults.
fn panels_show(prometheus: &Prometheus) -> Result<usize> {
    let queries = dashboard::read()?.queries();
    let mut empty: BTreeSet<&str> = queries.iter().map(|(panel, _)| panel.as_str()).collect();
    for (panel, query) in &queries {
        if !prometheus.query(query)?.is_empty() {
            empty.remove(panel.as_str());
        }
    }
    for panel in QUIET {
        empty.remove(panel);
    }
    ensure!(empty.is_empty(), "these panels are empty: {empty:?}");
    Ok(queries.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_take_the_place_of_a_list() {
        let mesh = "s:\n  endpoints:\n    static:\n      - a\n      - b\n  balance: x\n";
        let edited = "s:\n  endpoints:\n    targets: targets.json\n  balance: x\n";
        assert_eq!(with_targets(mesh).unwrap(), edited);
        assert_eq!(with_targets("s: {}\n"), None);
    }

    #[test]
    fn the_example_has_a_list_to_replace() {
        let mesh = fs::read_to_string(root().join(EXAMPLE).join("mesh.yaml")).unwrap();
        assert!(with_targets(&mesh).is_some());
    }
}
