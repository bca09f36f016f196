//! `sidestep check`: is the mesh file right?

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use sidestep_server::profile::{self, Finding, Support};
use sidestep_server::{Bundle, Checked, Profile, SourceError};

use crate::error;
use crate::output::{Exit, Style};

const EXAMPLES: &str = "\
Examples:
  sidestep check mesh.yaml
  sidestep check services/                       a directory is one mesh
  sidestep check mesh.yaml --show-defaults       the same mesh with every default written out
  sidestep check mesh.yaml --emit mesh.pb        for Mesh::from_static(StaticResources::decode(..)?)
  sidestep check mesh.yaml --profile grpc-node   what callers of that kind ignore in it
  sidestep check mesh.yaml --json | jq '.errors[].message'

Runs the code with which the server reads, compiles and checks: what passes here is served. Each
finding names file, line and column, a code that `sidestep help CODE` explains, and what to do.
Files of targets are read; what would need the network (`dns`, `targets` at a URL) is not asked, and
said not to have been.

With --profile it also lists what of the file a kind of client ignores, refuses or has only since a
version: place, field, what happens instead. gRPC clients ignore what they do not know in silence.

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

    /// List what this kind of client ignores
    #[arg(long, value_name = "KIND", value_parser = kinds())]
    profile: Option<String>,
}

/// The kinds of clients, by name.
fn kinds() -> clap::builder::PossibleValuesParser {
    Profile::ALL.map(Profile::name).into()
}

impl Arguments {
    /// What the wanted kind of client makes of the file.
    fn profiled(&self) -> Result<Option<(Profile, Vec<Finding>)>, SourceError> {
        let profile = self.profile.as_deref().and_then(Profile::parse);
        let found = profile.map(|p| profile::findings(&self.paths, p).map(|found| (p, found)));
        found.transpose()
    }

    pub(crate) fn run(self) -> anyhow::Result<Exit> {
        let result = sidestep_server::check(&self.paths);
        // A file that cannot be read has said so already.
        let profiled = result
            .is_ok()
            .then(|| self.profiled())
            .transpose()?
            .flatten();
        if let (Some(file), Ok(checked)) = (&self.emit, &result) {
            let bundle = Bundle::of(&checked.mesh)?;
            std::fs::write(file, bundle.encode())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        if self.json {
            let mut json = self.to_json(&result);
            if let Some((profile, found)) = &profiled {
                json["profile"] = profile_json(*profile, found);
            }
            println!("{json:#}");
        } else {
            self.print(&result);
            if let Some((profile, found)) = &profiled {
                print_profile(*profile, found);
            }
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

fn print_profile(profile: Profile, found: &[Finding]) {
    let version = profile.described_version();
    let (ignored, later): (Vec<_>, Vec<_>) = found.iter().partition(|f| f.is_ignored());
    match ignored.len() {
        0 => println!("{profile} {version} does all of it"),
        n => println!("{profile} {version} does not do {n} of the things in it:"),
    }
    for finding in ignored {
        println!("  {finding}");
    }
    if !later.is_empty() {
        println!("older releases of {profile} do not do:");
    }
    for finding in later {
        println!("  {finding}");
    }
}

fn profile_json(profile: Profile, found: &[Finding]) -> serde_json::Value {
    let findings = found.iter().map(|finding| {
        let mut json = json!({
            "id": finding.id,
            "file": finding.place.file.as_ref(),
            "line": finding.place.line,
            "column": finding.place.column,
            "path": finding.path,
            "about": finding.about,
            "ignored": finding.is_ignored(),
        });
        match &finding.support {
            Support::Since(since) => json["since"] = json!(since),
            Support::Switch {
                flag,
                since,
                instead,
            } => {
                json["flag"] = json!(flag);
                json["since"] = json!(since);
                json["instead"] = json!(instead);
            }
            Support::Instead(instead) => json["instead"] = json!(instead),
        }
        json
    });
    json!({
        "client": profile.name(),
        "version": profile.described_version(),
        "findings": findings.collect::<Vec<_>>(),
    })
}
