//! What the suite says while it runs and at its end.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::engine::{Outcome, Run};
use super::install::Installed;
use super::process::last_lines;
use super::scenario;

/// Lists every scenario and its casts.
pub(super) fn list() {
    for scenario in scenario::all() {
        println!("{:<24} {}", scenario.name, scenario.about);
        for cast in scenario.casts {
            let when = if scenario.is_quick(cast) {
                ""
            } else {
                " (--full)"
            };
            println!("    {}/{cast}{when}", scenario.name);
        }
    }
}

/// A run's peers with their versions: `envoy 1.40.0, grpcio 1.85.1`.
pub(super) fn peers(installed: &Installed, run: &Run) -> String {
    let peers: Vec<String> = run
        .peers()
        .into_iter()
        .map(|peer| format!("{} {}", peer.name(), installed.version(peer)))
        .collect();
    if peers.is_empty() {
        return "ours alone".to_owned();
    }
    peers.join(", ")
}

/// Says what became of one run; `progress` is its number and how many there are.
pub(super) fn outcome(
    installed: &Installed,
    outcome: &Outcome,
    progress: (usize, usize),
    json: bool,
) {
    let Outcome { run, result, took } = outcome;
    let error = result.as_ref().err().map(|error| format!("{error:#}"));
    let name = format!("{}/{}", run.scenario.name, run.cast);
    if json {
        let event = json!({
            "event": "scenario",
            "name": run.scenario.name,
            "cast": run.cast.to_string(),
            "peers": peers(installed, run),
            "passed": error.is_none(),
            "error": error,
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        });
        println!("{event}");
        return;
    }
    let verdict = if error.is_none() { "PASS" } else { "FAIL" };
    let (number, all) = progress;
    let peers = peers(installed, run);
    println!(
        "{verdict} {number:>3}/{all} {name:<48} {peers} ({:.1} s)",
        took.as_secs_f64()
    );
    if let Some(error) = error {
        println!("     {error}");
        println!("     logs: {}", run.folder().display());
        for log in logs(&run.folder()) {
            print!("{}", last_lines(&log));
        }
    }
}

/// What the peers of a run wrote, in order of their names.
fn logs(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut logs: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    logs.sort();
    logs
}

/// The last lines: the names of what failed, and the count.
pub(super) fn summary(outcomes: &[Outcome], json: bool) {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|o| o.result.is_err()).collect();
    let passed = outcomes.len() - failed.len();
    let failed_count = failed.len();
    if json {
        let event = json!({"event": "summary", "passed": passed, "failed": failed_count});
        println!("{event}");
        return;
    }
    for Outcome { run, .. } in failed {
        println!("failed: {}/{}", run.scenario.name, run.cast);
    }
    println!("{passed} passed, {failed_count} failed");
}
