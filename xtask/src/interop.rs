//! `cargo xtask interop`: real peers against what we ship.
//!
//! The suite installs its peers itself, from the package registries; one that cannot be installed
//! is a failure. Every peer is a process on free loopback ports, and ends with its scenario. What a
//! failed scenario leaves in `target/interop/logs/NAME` is every peer's log and configuration.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::codegen::root;

mod envoy;
mod install;
mod matrix;
mod mesh;
mod namespaces;
mod process;
mod scenario;
mod sidecar;

pub(crate) use envoy::{Envoy, Protocol};
pub(crate) use install::envoy as install_envoy;
pub(crate) use mesh::Certificates;
pub(crate) use process::{Process, eventually, last_lines, within};

use install::Installed;
use scenario::{SCENARIOS, Scenario, Stage};

/// How the suite is to run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    only: Option<String>,
    json: bool,
    write: bool,
    list: bool,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match *argument {
                "--list" => options.list = true,
                "--json" => options.json = true,
                "--write" => options.write = true,
                "--only" => {
                    let name = arguments.next().context("--only needs a name")?;
                    let known = SCENARIOS.iter().any(|s| s.name == *name);
                    ensure!(known, "no scenario {name:?}; --list shows all");
                    options.only = Some((*name).to_owned());
                }
                other => bail!("not an option: {other}"),
            }
        }
        ensure!(
            options.only.is_none() || !options.write,
            "--write is about all scenarios, --only about one"
        );
        Ok(options)
    }
}

/// What became of one scenario.
struct Outcome {
    scenario: &'static Scenario,
    result: Result<()>,
    took: Duration,
}

/// Runs the suite; `false`: a scenario failed, which it has said.
pub(crate) fn run(arguments: &[&str]) -> Result<bool> {
    let options = Options::parse(arguments)?;
    let wanted = |s: &&Scenario| options.only.as_deref().is_none_or(|only| only == s.name);
    if options.list {
        for scenario in SCENARIOS {
            println!("{:<20} {}", scenario.name, scenario.about);
        }
        return Ok(true);
    }
    let started = Instant::now();
    if !options.json {
        println!("installing peers and building our programs");
    }
    let needed = SCENARIOS.iter().filter(wanted).flat_map(|s| s.peers);
    let installed = Installed::new(&needed.copied().collect())?;
    if !options.json {
        println!("ready after {:.1?}", started.elapsed());
    }
    let mut outcomes = Vec::new();
    for scenario in SCENARIOS.iter().filter(wanted) {
        let outcome = play(&installed, scenario);
        report(&installed, &outcome, options.json);
        outcomes.push(outcome);
    }
    let failed = outcomes.iter().filter(|o| o.result.is_err()).count();
    let passed = outcomes.len() - failed;
    let matrix = matrix::markdown(&installed, &outcomes);
    if options.json {
        println!(
            "{}",
            json!({"event": "summary", "passed": passed, "failed": failed})
        );
    } else {
        println!("\n{matrix}");
        println!("{passed} passed, {failed} failed");
    }
    if options.write && failed == 0 {
        let page = root().join("docs/interop.md");
        fs::create_dir_all(page.parent().context("it is in a folder")?)?;
        fs::write(page, matrix::page(&matrix))?;
    }
    Ok(failed == 0)
}

fn play(installed: &Installed, scenario: &'static Scenario) -> Outcome {
    let started = Instant::now();
    let folder = root().join("target/interop/logs").join(scenario.name);
    let result = fresh(&folder).and_then(|()| {
        let folder = &folder;
        (scenario.play)(&Stage { installed, folder })
    });
    Outcome {
        scenario,
        result,
        took: started.elapsed(),
    }
}

/// An empty folder.
fn fresh(folder: &std::path::Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::create_dir_all(folder)?)
}

fn report(installed: &Installed, outcome: &Outcome, json: bool) {
    let Outcome {
        scenario,
        result,
        took,
    } = outcome;
    let peers = matrix::peers(installed, scenario);
    let error = result.as_ref().err().map(|error| format!("{error:#}"));
    if json {
        let passed = result.is_ok();
        let event = json!({
            "event": "scenario",
            "name": scenario.name,
            "peers": peers,
            "passed": passed,
            "error": error,
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        println!("{event}");
        return;
    }
    let verdict = if error.is_none() { "PASS" } else { "FAIL" };
    println!(
        "{verdict} {:<20} {peers} ({:.1} s)",
        scenario.name,
        took.as_secs_f64()
    );
    if let Some(error) = error {
        println!("     {error}");
        for log in logs(scenario) {
            print!("{}", last_lines(&log));
        }
    }
}

/// What the peers of a scenario wrote, in order of their names.
fn logs(scenario: &Scenario) -> Vec<std::path::PathBuf> {
    let folder = root().join("target/interop/logs").join(scenario.name);
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut logs: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let parsed = Options::parse(&["--only", "envoy-delta", "--json"]).unwrap();
        assert_eq!(parsed.only.as_deref(), Some("envoy-delta"));
        assert!(parsed.json && !parsed.list);
        for (arguments, expected) in [
            (&["--only"][..], "--only needs a name"),
            (&["--only", "x"], "no scenario \"x\"; --list shows all"),
            (&["--fast"], "not an option: --fast"),
        ] {
            let error = Options::parse(arguments).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn scenarios_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = SCENARIOS.iter().map(|s| s.name).collect();
        assert_eq!(names.len(), SCENARIOS.len());
    }
}
