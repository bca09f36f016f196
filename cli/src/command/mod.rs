//! The verbs, one file each.

mod bootstrap;
mod cert;
mod check;
mod completions;
mod demo;
mod doctor;
mod explain;
mod help;
mod man;
mod schema;
mod serve;
mod status;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;
use sidestep_server::model::Mesh;

use crate::output::{Exit, Style};

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// See a whole mesh at work, in one process, while things break
    Demo(demo::Arguments),
    /// Serve a mesh file to every process that asks, and follow its edits
    Serve(serve::Arguments),
    /// Find out whether a mesh file is right, and what exactly is wrong
    #[command(visible_aliases = ["validate", "analyze"])]
    Check(check::Arguments),
    /// Make certificates to begin with: a development authority, services, the control plane
    Cert(cert::Arguments),
    /// Write a bootstrap file: who a process is, where its control plane is
    Bootstrap(bootstrap::Arguments),
    /// Show who is connected, which revision each process runs, and what was refused
    #[command(visible_alias = "proxy-status")]
    Status(status::Arguments),
    /// Find out what is wrong: ports, certificates, clock, control plane, a subscription, a call
    Doctor(doctor::Arguments),
    /// Show where a call would go, and why: with the same code that routes real calls
    Explain(explain::Arguments),
    /// Print the mesh file's JSON Schema, for editors
    Schema(schema::Arguments),
    /// Explain a verb, or the code of an error
    Help(help::Arguments),
    /// Print what a shell needs to complete the verbs and their flags
    Completions(completions::Arguments),
    /// Print the manual page, or write one for each verb
    Man(man::Arguments),
}

impl Command {
    /// Which log lines are shown unless `RUST_LOG` says so.
    pub(crate) fn log_filter(&self) -> &'static str {
        match self {
            // It breaks things by intention, and says what happens by itself.
            Self::Demo(_) => "off",
            // What the runtime logs about its own attempts, the findings say.
            Self::Doctor(_) => "off",
            // What becomes of edits, `serve` says on standard output already.
            _ => "warn,sidestep_server::store=error",
        }
    }

    /// Does it. `json_lines`: what a long-running verb says is one JSON object a line.
    pub(crate) async fn run(self, json_lines: bool) -> anyhow::Result<Exit> {
        match self {
            Self::Demo(arguments) => arguments.run().await,
            Self::Serve(arguments) => arguments.run(json_lines).await,
            Self::Check(arguments) => arguments.run(),
            Self::Status(arguments) => arguments.run().await,
            Self::Explain(arguments) => arguments.run().await,
            Self::Schema(arguments) => arguments.run(),
            Self::Help(arguments) => arguments.run(),
            Self::Doctor(arguments) => arguments.run().await,
            Self::Cert(arguments) => arguments.run(),
            Self::Bootstrap(arguments) => arguments.run(),
            Self::Completions(arguments) => arguments.run(),
            Self::Man(arguments) => arguments.run(),
        }
    }
}

/// The mesh in `paths`; none if there are none. What is wrong with it is printed.
fn mesh_or_findings(paths: &[PathBuf]) -> Result<Option<Mesh>, ()> {
    if paths.is_empty() {
        return Ok(None);
    }
    match sidestep_server::check(paths) {
        Ok(checked) => Ok(Some(checked.mesh)),
        Err(error) => {
            let style = Style::of(&io::stderr());
            for diagnostic in error.diagnostics() {
                eprintln!("{}", crate::error::finding(style, &diagnostic));
            }
            Err(())
        }
    }
}

/// Prints a long text. Whoever reads the beginning alone (`| head`) is no failure of ours.
fn print_whole(out: &mut impl Write, text: &[u8]) -> io::Result<()> {
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
