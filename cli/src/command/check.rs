//! `sidestep check`: is the mesh file right?

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use sidestep_server::{Bundle, Checked, SourceError};

use crate::error;
use crate::output::{Exit, Style};

const EXAMPLES: &str = "\
Examples:
  sidestep check mesh.yaml
  sidestep check services/                       a directory is one mesh
  sidestep check mesh.yaml --show-defaults       the same mesh with every default written out
  sidestep check mesh.yaml --emit mesh.pb        for Mesh::from_static(StaticResources::decode(..)?)
  sidestep check mesh.yaml --json | jq '.errors[].message'

Runs the code with which the server reads, compiles and checks: what passes here is served. Each
finding names file, line and column, a code that `sidestep help CODE` explains, and what to do.
Files of targets are read; what would need the network (`dns`, `targets` at a URL) is not asked, and
said not to have been.

Ends with 0 if the mesh can be served (warnings or not), 1 if not.";

/// Find out whether a mesh file is right, and what exactly is wrong.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Mesh files, or directories of them; together they are one mesh
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print the mesh with every default filled in
    #[arg(long)]
    show_defaults: bool,

    /// Write the resources that the mesh compiles to, for processes without a control plane: what
    /// the runtime's `StaticResources::decode` reads
    #[arg(long, value_name = "FILE")]
    emit: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let result = sidestep_server::check(&self.paths);
        if let (Some(file), Ok(checked)) = (&self.emit, &result) {
            let bundle = Bundle::of(&checked.mesh)?;
            std::fs::write(file, bundle.encode())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.json {
            println!("{:#}", self.to_json(&result));
        } else {
            self.print(&result);
        }
        Ok(match result {
            Ok(_) => Exit::Ok,
            Err(_) => Exit::Failed,
        })
    }

    fn print(&self, result: &Result<Checked, SourceError>) {
        let style = Style::of(&std::io::stderr());
        match result {
            Ok(checked) => {
                for warning in &checked.configuration.warnings {
                    eprintln!("{}", error::finding(style, warning));
                }
                if self.show_defaults {
                    print!("{}", checked.mesh.show_defaults());
                } else {
                    let style = Style::of(&std::io::stdout());
                    println!("{}: {}", style.good("ok"), checked.configuration.summary);
                    for source in &checked.not_asked {
                        println!("  {source}");
                    }
                }
            }
            Err(error) => {
                let found = error.diagnostics();
                for diagnostic in &found {
                    eprintln!("{}", error::finding(style, diagnostic));
                }
                let errors = found.iter().filter(|finding| finding.is_error()).count();
                eprintln!("{}", counted(errors));
            }
        }
    }

    fn to_json(&self, result: &Result<Checked, SourceError>) -> serde_json::Value {
        match result {
            Ok(checked) => json!({
                "ok": true,
                "summary": checked.configuration.summary,
                "errors": [],
                "warnings": error::findings(&checked.configuration.warnings),
                "not_asked": checked.not_asked,
                "with_defaults": self.show_defaults.then(|| checked.mesh.show_defaults()),
            }),
            Err(error) => {
                let found = error.diagnostics();
                let (errors, warnings): (Vec<_>, Vec<_>) =
                    found.iter().partition(|finding| finding.is_error());
                json!({
                    "ok": false,
                    "errors": error::findings(errors),
                    "warnings": error::findings(warnings),
                })
            }
        }
    }
}

fn counted(errors: usize) -> String {
    match errors {
        1 => "1 error".to_owned(),
        n => format!("{n} errors"),
    }
}
