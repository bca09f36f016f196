//! `sidestep serve`: the management server.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sidestep_proto::code;
use sidestep_server::model::Diagnostic;
use sidestep_server::store::Report;
use sidestep_server::{
    FileSource, ListenAddress, ManagementServer, Running, ServerTls, StartError,
};
use tokio::sync::watch;

use crate::error;
use crate::output::{Exit, Style};

const EXAMPLES: &str = "\
Examples:
  sidestep serve mesh.yaml
      serve one file on 127.0.0.1:18000; edit it, and every process follows

  sidestep serve /etc/mesh --listen unix:/run/sidestep.sock
      serve all .yaml files of a directory, to processes of this machine

  sidestep serve mesh.yaml --listen 0.0.0.0:18000 \\
      --tls-cert control-plane.pem --tls-key control-plane.key --client-ca ca.pem
      serve other machines; only processes with a certificate from ca.pem get an answer

  sidestep serve mesh.yaml --listen 0.0.0.0:18000 --insecure
      serve other machines, without encryption

The TLS files are followed: replace them, and new connections use the new ones.

A process finds the server through its bootstrap file (GRPC_XDS_BOOTSTRAP):
  {\"xds_servers\": [{\"server_uri\": \"127.0.0.1:18000\", \"channel_creds\": [{\"type\": \"insecure\"}]}],
   \"node\": {\"id\": \"web-1\", \"cluster\": \"web\"}}

An edit is in force within 100 ms. A broken edit is refused as a whole: the last good
configuration stays, and what is wrong is printed here and by `sidestep status`.";

/// Serve a mesh file to every process that asks, and follow its edits.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Mesh files, or directories of them; together they are one mesh
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,

    /// Where to listen: IP:PORT or unix:/PATH; port 0 takes any free one
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:18000",
        env = "SIDESTEP_LISTEN"
    )]
    listen: ListenAddress,

    /// Secure the connections: this server's certificate chain, leaf first
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// Turn away clients without a certificate for which one of these roots vouches
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    client_ca: Option<PathBuf>,

    /// Allow plaintext on an address that other machines can reach
    #[arg(long, conflicts_with = "tls_cert")]
    insecure: bool,
}

impl Arguments {
    pub(crate) async fn run(self, json_lines: bool) -> anyhow::Result<Exit> {
        let voice = Voice {
            json: json_lines,
            style: Style::of(&std::io::stdout()),
        };
        let tls = self.tls();
        if !self.listen.is_local() && !self.insecure && tls.is_none() {
            let style = Style::of(&std::io::stderr());
            let address = &self.listen;
            let text = format!("other machines can reach {address}, and nothing is encrypted");
            let code = code::CONTROL_PLANE_PLAINTEXT;
            eprintln!("{}", error::shown(style, code, &text, code.hint()));
            return Ok(Exit::Usage);
        }
        let source = FileSource::new(self.paths.clone());
        let mut builder = ManagementServer::builder()
            .source(source)
            .listen(self.listen.clone());
        let security = security(tls.as_ref());
        if let Some(tls) = tls {
            builder = builder.tls(tls);
        }
        let running = match builder.start().await {
            Ok(running) => running,
            Err(StartError::Source(error)) => {
                voice.broken(&error.diagnostics());
                return Ok(Exit::Failed);
            }
            Err(error) => return Err(error.into()),
        };
        // Heard from before the banner on: who reads it may ask for the end at once.
        let stopped = stopped()?;
        voice.banner(&running, &self.paths, security);
        let reports = running.store().watch_reports();
        tokio::select! {
            () = narrate(voice, reports) => {}
            () = stopped => {}
        }
        running.shutdown().await;
        Ok(Exit::Ok)
    }
}

impl Arguments {
    fn tls(&self) -> Option<ServerTls> {
        let (certificate, key) = self.tls_cert.as_ref().zip(self.tls_key.as_ref())?;
        let tls = ServerTls::from_files(certificate, key);
        Some(match &self.client_ca {
            Some(roots) => tls.client_ca(roots),
            None => tls,
        })
    }
}

/// How connections are secured, in a few words.
fn security(tls: Option<&ServerTls>) -> &'static str {
    match tls {
        None => "plaintext",
        Some(tls) if tls.demands_client_certificate() => "mutual TLS",
        Some(_) => "TLS, any client may connect",
    }
}

/// Says what becomes of each edit.
async fn narrate(voice: Voice, mut reports: watch::Receiver<Report>) {
    let mut refused_at = None;
    reports.mark_unchanged();
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        let refusal = report.refusal.as_ref().map(|refusal| refusal.at);
        // Endpoints may change while the newest edit is a refused one.
        let again = refusal.is_some() && refusal == refused_at;
        refused_at = refusal;
        voice.change(&if again {
            Report {
                refusal: None,
                ..report
            }
        } else {
            report
        });
    }
}

/// Ctrl-C, or the signal with which service managers stop a process.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Prints what the server has to say.
#[derive(Clone, Copy)]
struct Voice {
    json: bool,
    style: Style,
}

impl Voice {
    fn banner(self, running: &Running, paths: &[PathBuf], security: &str) {
        let report = running.store().report();
        let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        if self.json {
            println!(
                "{}",
                json!({
                    "event": "serving",
                    "address": running.address().to_string(),
                    "paths": paths,
                    "security": security,
                    "revision": report.revision,
                    "summary": report.summary,
                    "warnings": error::findings(&report.warnings),
                })
            );
            return;
        }
        let address = running.address().to_string();
        println!("{} {address}", self.style.strong("serving on"));
        println!("  mesh      {} ({})", report.summary, paths.join(", "));
        println!("  protocol  ADS, state of the world and delta, {security}");
        println!("  edits     followed; Ctrl-C ends");
        self.warnings(&report);
    }

    fn change(self, report: &Report) {
        if self.json {
            println!("{}", change_as_json(report));
            return;
        }
        let time = time_of_day();
        match &report.refusal {
            None => {
                let took = report.took.as_millis();
                println!(
                    "{time} {} {}: {}, taken up in {took} ms",
                    self.style.good("revision"),
                    report.revision,
                    report.summary
                );
                self.warnings(report);
            }
            Some(refusal) => {
                println!(
                    "{time} {}, revision {} stays in use:",
                    self.style.bad("edit refused"),
                    report.revision
                );
                for diagnostic in refusal.error.diagnostics() {
                    println!("{}", error::finding(self.style, &diagnostic));
                }
            }
        }
    }

    fn warnings(self, report: &Report) {
        for warning in &report.warnings {
            println!("{}", error::finding(self.style, warning));
        }
    }

    /// There is nothing to begin with.
    fn broken(self, errors: &[Diagnostic]) {
        if self.json {
            println!(
                "{}",
                json!({"event": "refused", "errors": error::findings(errors)})
            );
            return;
        }
        for error in errors {
            eprintln!("{}", error::finding(self.style, error));
        }
    }
}

fn change_as_json(report: &Report) -> serde_json::Value {
    match &report.refusal {
        None => json!({
            "event": "changed",
            "revision": report.revision,
            "summary": report.summary,
            "warnings": error::findings(&report.warnings),
            "took_ms": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        }),
        Some(refusal) => json!({
            "event": "refused",
            "revision": report.revision,
            "errors": error::findings(&refusal.error.diagnostics()),
        }),
    }
}

/// `14:03:22Z`.
fn time_of_day() -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs() % 86_400;
    format!(
        "{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}
