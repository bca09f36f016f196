//! Agreement with grpc-go and its libraries, byte by byte and resource by resource: the same corpus
//! judged by both, and messages that others' types wrote read by ours.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cast::{Cast, Tier};
use super::feature::Feature;
use super::install::Installed;
use super::management::Management;
use super::peer::{Client, Peer, Plane, Server};
use super::scenario::Scenario;
use super::stage::Stage;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "parity",
        features: &[Feature::Refusal],
        about: "a corpus of some 570 resources, served live to grpc-go and to us: each is accepted by both, refused by both, or in the table of differences",
        casts: &[
            Cast::new(Client::Go, Server::Ours, Plane::Mgmt),
            Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane),
        ],
        helpers: &[],
        tier: Tier::Quick,
        play: parity,
    },
    Scenario {
        name: "wire-truth",
        features: &[Feature::WireTruth],
        about: "messages made with the official Go types, every field set that we model, pass through our types without a loss",
        casts: &[Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane)],
        helpers: &[Peer::GrpcGo],
        tier: Tier::Quick,
        play: wire_truth,
    },
];

/// Our judge, built beside our other programs.
fn judge(installed: &Installed) -> Command {
    Command::new(installed.client.with_file_name("sidestep-interop-judge"))
}

/// A program in Go, built beside the peers.
fn go(installed: &Installed, name: &str) -> Command {
    Command::new(installed.go.with_file_name(name))
}

/// Runs a command that must succeed; its output goes to `NAME.jsonl`, which is returned.
fn run(stage: &Stage<'_>, name: &str, command: &mut Command) -> Result<PathBuf> {
    let file = stage.file(&format!("{name}.jsonl"));
    let status = command
        .stdout(File::create(&file)?)
        .stderr(File::create(stage.file(&format!("{name}.log")))?)
        .status()
        .with_context(|| name.to_owned())?;
    ensure!(status.success(), "{name}: {status}: {}", error(&file));
    Ok(file)
}

/// What a program said at its end.
fn error(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let last = text.lines().last().unwrap_or_default();
    let event: Value = serde_json::from_str(last).unwrap_or_default();
    event["message"].as_str().unwrap_or(last).to_owned()
}

fn parity(stage: &Stage<'_>) -> Result<()> {
    let installed = stage.installed;
    let folder = stage.file("corpus");
    run(
        stage,
        "expand",
        judge(installed).args(["expand", "--out"]).arg(&folder),
    )?;
    let text = fs::read_to_string(folder.join("resources/corpus.json"))?;
    let corpus: Value = serde_json::from_str(&text)?;
    let resources = corpus["resources"]
        .as_array()
        .context("a list of resources")?;
    let management = Management::start(stage, resources)?;
    let template = fs::read_to_string(folder.join("bootstrap.json"))?;
    let bootstrap = stage.file("judge-bootstrap.json");
    fs::write(&bootstrap, template.replace("ADDRESS", &management.address))?;

    let mut theirs = go(installed, "judge");
    theirs
        .arg("--plan")
        .arg(folder.join("plan.json"))
        .env("GRPC_XDS_BOOTSTRAP", &bootstrap);
    let theirs = run(stage, "judge-go", &mut theirs)?;
    let mut ours = judge(installed);
    ours.arg("judge").env("GRPC_XDS_BOOTSTRAP", &bootstrap);
    let ours = run(stage, "judge-ours", &mut ours)?;
    let mut compare = judge(installed);
    compare.args(["compare", "--theirs"]).arg(theirs);
    compare.arg("--ours").arg(ours);
    run(stage, "compare", &mut compare).map(drop)
}

fn wire_truth(stage: &Stage<'_>) -> Result<()> {
    let installed = stage.installed;
    let order = stage.file("order.json");
    run(stage, "order", judge(installed).arg("order").arg(&order))?;
    let messages = run(
        stage,
        "truth-go",
        go(installed, "truth").arg("--order").arg(&order),
    )?;
    run(
        stage,
        "truth-ours",
        judge(installed).arg("truth").arg(messages),
    )
    .map(drop)
}
