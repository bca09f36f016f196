//! The support matrix: what was played, with which versions, and what became of it.

use std::fmt::Write as _;

use super::Outcome;
use super::install::Installed;
use super::scenario::Scenario;

/// A scenario's peers with their versions: `envoy 1.40.0, grpcio 1.85.1`.
pub(super) fn peers(installed: &Installed, scenario: &Scenario) -> String {
    let peer = |peer: &&str| {
        // Two peers have the beginning of their version in their name.
        let name = peer.split(' ').next().unwrap_or_default();
        format!("{name} {}", installed.version(peer))
    };
    if scenario.peers.is_empty() {
        return "ours alone".to_owned();
    }
    let peers: Vec<String> = scenario.peers.iter().map(peer).collect();
    peers.join(", ")
}

/// The matrix as a table.
pub(super) fn markdown(installed: &Installed, outcomes: &[Outcome]) -> String {
    let mut table = "| scenario | peers | what happens | |\n| --- | --- | --- | --- |\n".to_owned();
    for Outcome {
        scenario, result, ..
    } in outcomes
    {
        let verdict = if result.is_ok() {
            "passes"
        } else {
            "**fails**"
        };
        let peers = peers(installed, scenario);
        let Scenario { name, about, .. } = scenario;
        // Writing to a string cannot fail.
        _ = writeln!(table, "| `{name}` | {peers} | {about} | {verdict} |");
    }
    table
}

/// The page around the matrix.
pub(super) fn page(matrix: &str) -> String {
    format!(
        "# Real peers\n\n\
         Written by `cargo xtask interop --write`, after a run in which every scenario passed. The\n\
         suite installs its peers itself: it needs Rust, Python 3 and Go.\n\n{matrix}\n\
         `cargo xtask interop --only NAME` plays one; every peer's log and configuration is then in\n\
         `target/interop/logs/NAME`.\n"
    )
}
