//! `sidestep doctor`: what is wrong here?

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde_json::{Value, json};
use sidestep_cli::bootstrap::{self, Certificates, Process, RequestError, ServerAddress};
use sidestep_cli::doctor::{self, Finding, Group, Origin, Report, State, Subject, Target};

use super::mesh_or_findings;
use crate::output::{Exit, Style};

const EXAMPLES: &str = "\
Examples:
  GRPC_XDS_BOOTSTRAP=greeter.json sidestep doctor
      as the process sees it that runs with this bootstrap

  GRPC_XDS_BOOTSTRAP=web.json sidestep doctor --mesh mesh.yaml --call greeter
      also: names and identities by the mesh file, its endpoints, and a real call to a service

  sidestep doctor --server mesh.internal:18000 --certs certs --service web
      without a bootstrap file, from the same parts

  sidestep doctor --call greeter/hello.Greeter/SayHello --json | jq '.checks[] | select(.state != \"ok\")'

What it checks:
  bootstrap      there, valid, nothing misspelt; a service that the mesh file has
  certificates   readable, key and certificate a pair, the root vouches, SPIFFE id, age and expiry
  ports          --listen addresses are free; somebody takes connections at the mesh's endpoints
  control plane  connects, by TLS or not; its revision, refused edits, clients that refused
  clock          this machine's against the control plane's
  subscription   a real ADS stream: the process's own listener, and that of --call
  call           a real call of the health service, or of a method with an empty message

Groups in which all is well are one line; --verbose shows each check. Run it as the user and on the
machine of the process: it sees what that process sees, and changes nothing.

Ends with 0 if nothing fails (warnings or not), 1 if something does, 3 if the control plane cannot
be reached, 4 if all works here but a client refused its configuration or the newest edit was
refused.";

/// Find out what is wrong: ports, certificates, clock, control plane, a subscription, a call
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The bootstrap file of the process
    #[arg(
        long,
        value_name = "FILE",
        env = "GRPC_XDS_BOOTSTRAP",
        conflicts_with = "server"
    )]
    bootstrap: Option<PathBuf>,

    /// The control plane, instead of a bootstrap: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDR")]
    server: Option<ServerAddress>,

    /// With --server: certificates, ca.pem, NAME.pem and NAME.key
    #[arg(long, value_name = "DIR", requires = "server", requires = "service")]
    certs: Option<PathBuf>,

    /// With --server: the service to be
    #[arg(long, value_name = "NAME", requires = "server")]
    service: Option<String>,

    /// With --server: allow plaintext to another machine
    #[arg(long, requires = "server")]
    insecure: bool,

    /// Mesh files, or directories of them, to compare with
    #[arg(
        long,
        value_name = "FILE|DIR",
        env = "SIDESTEP_MESH",
        value_delimiter = ':'
    )]
    mesh: Vec<PathBuf>,

    /// An address on which the process is going to listen; may be repeated
    #[arg(long, value_name = "IP:PORT")]
    listen: Vec<SocketAddr>,

    /// Make a call: greeter, xds:///greeter, 10.0.0.1:50051; with /package.Service/Method another
    /// than the health check
    #[arg(long, value_name = "TARGET[/METHOD]")]
    call: Option<Target>,

    /// Show every check, not only what is not in order
    #[arg(long, short)]
    verbose: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let Ok(mesh) = mesh_or_findings(&self.mesh) else {
            return Ok(Exit::Failed);
        };
        let origin = match self.origin() {
            Ok(origin) => origin,
            Err(error) => {
                let (code, text) = (error.code(), error.to_string());
                let style = Style::of(&std::io::stderr());
                eprintln!("{}", crate::error::shown(style, code, &text, code.hint()));
                return Ok(Exit::Usage);
            }
        };
        let report = doctor::examine(&Subject {
            origin,
            mesh,
            listen: self.listen,
            call: self.call,
            now: SystemTime::now(),
        })
        .await;
        if self.json {
            println!("{:#}", to_json(&report));
        } else {
            let style = Style::of(&std::io::stdout());
            print!("{}", to_text(&report, self.verbose, style));
        }
        Ok(match report.worst() {
            State::Good | State::Skipped | State::Warning => Exit::Ok,
            State::Partial => Exit::Partial,
            State::Failed => Exit::Failed,
            State::Unreachable => Exit::Unreachable,
        })
    }

    fn origin(&self) -> Result<Origin, RequestError> {
        if let Some(server) = &self.server {
            let service = self.service.as_deref().unwrap_or_default();
            let of = |directory| Certificates::of(directory, service);
            let certificates = self.certs.as_deref().map(of).transpose()?;
            let process = Process::new("doctor", server.clone(), certificates, self.insecure)?;
            let process = Process {
                service: service.to_owned(),
                ..process
            };
            return Ok(Origin::Made(bootstrap::grpc(&process).to_string()));
        }
        if let Some(path) = &self.bootstrap {
            return Ok(Origin::File(path.clone()));
        }
        let variable = "GRPC_XDS_BOOTSTRAP_CONFIG";
        Ok(match std::env::var(variable) {
            Ok(text) => Origin::Text {
                name: variable.to_owned(),
                text,
            },
            Err(_) => Origin::Nowhere,
        })
    }
}

fn to_text(report: &Report, verbose: bool, style: Style) -> String {
    let mut out = String::new();
    for group in Group::ALL {
        let findings: Vec<&Finding> = report.of(group).collect();
        let odd = |finding: &&Finding| finding.state > State::Skipped;
        let shown: Vec<&Finding> = match verbose {
            true => findings.clone(),
            false => findings.iter().copied().filter(odd).collect(),
        };
        if shown.is_empty() {
            out.push_str(&in_a_line(group, &findings, style));
            continue;
        }
        out.push_str(&format!("{}\n", style.strong(group.name())));
        for finding in shown {
            out.push_str(&finding_to_text(finding, style));
        }
    }
    out.push_str(&summary(report, style));
    out
}

/// A group without anything to look at.
fn in_a_line(group: Group, findings: &[&Finding], style: Style) -> String {
    let good: Vec<&&Finding> = findings.iter().filter(|f| f.state == State::Good).collect();
    let says = match (good.as_slice(), findings) {
        ([], [skipped, ..]) => format!("skip  {}", skipped.says),
        ([], []) => "skip".to_owned(),
        ([only], _) => format!("{}    {}", style.good("ok"), only.says),
        (all, _) => format!("{}    {} checks", style.good("ok"), all.len()),
    };
    format!("{:<14} {says}\n", group.name())
}

fn finding_to_text(finding: &Finding, style: Style) -> String {
    let word = finding.state.word();
    let painted = match finding.state {
        State::Good => style.good(word),
        State::Skipped => word.to_owned(),
        State::Warning | State::Partial => style.odd(word),
        State::Failed | State::Unreachable => style.bad(word),
    };
    let gap = " ".repeat(5 - word.len());
    let mut text = format!(
        "  {painted}{gap} {}\n",
        finding.says.replace('\n', "\n        ")
    );
    if let Some(hint) = &finding.hint {
        text.push_str(&format!("        {} {hint}\n", style.strong("do:")));
    }
    text
}

fn summary(report: &Report, style: Style) -> String {
    let count = |word| {
        report
            .findings
            .iter()
            .filter(|f| f.state.word() == word)
            .count()
    };
    let (fails, warnings) = (count("fail"), count("warn"));
    match (fails, warnings) {
        (0, 0) => format!("\n{}\n", style.good("all is well")),
        (0, n) => format!("\n{}\n", style.odd(&format!("works; {n} to look at"))),
        (n, _) => format!("\n{}\n", style.bad(&format!("{n} failed"))),
    }
}

fn to_json(report: &Report) -> Value {
    let check = |finding: &Finding| {
        json!({
            "group": finding.group.name(),
            "state": finding.state.word(),
            "says": finding.says,
            "hint": finding.hint,
        })
    };
    json!({
        "ok": report.worst() < State::Partial,
        "checks": report.findings.iter().map(check).collect::<Vec<_>>(),
    })
}
