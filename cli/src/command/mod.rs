//! The verbs, one file each.

mod check;
mod demo;
mod explain;
mod help;
mod schema;
mod serve;
mod status;

use clap::Subcommand;

use crate::output::Exit;

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
    /// Show who is connected, which revision each process runs, and what was refused
    #[command(visible_alias = "proxy-status")]
    Status(status::Arguments),
    /// Show where a call would go, and why: with the same code that routes real calls
    Explain(explain::Arguments),
    /// Print the mesh file's JSON Schema, for editors
    Schema(schema::Arguments),
    /// Explain a verb, or the code of an error
    Help(help::Arguments),
}

impl Command {
    /// Which log lines are shown unless `RUST_LOG` says so.
    pub(crate) fn log_filter(&self) -> &'static str {
        match self {
            // It breaks things by intention, and says what happens by itself.
            Self::Demo(_) => "off",
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
            Self::Explain(arguments) => arguments.run(),
            Self::Schema(arguments) => arguments.run(),
            Self::Help(arguments) => arguments.run(),
        }
    }
}
