//! `cargo xtask deny`: licences, banned crates and the dependency rule, over `cargo metadata`.
//!
//! What `cargo deny` would say by `deny.toml`, for machines where it is not installed, and the
//! layers of the house: `proto` needs no executor, and the two products never see each other.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::codegen::root;

/// Dependencies that a crate must not reach, whatever the way.
const LAYERS: [(&str, &[&str]); 5] = [
    (
        "sidestep-proto",
        &["tokio", "hyper", "tower", "tonic", "h2"],
    ),
    (
        "sidestep",
        &[
            "sidestep-server",
            "sidestep-cli",
            "sidestep-test",
            "prost-reflect",
            "ring",
        ],
    ),
    ("sidestep-server", &["sidestep", "sidestep-test", "ring"]),
    // Only tests and examples stand on the test kit.
    ("sidestep-cli", &["sidestep-test"]),
    ("sidestep-benches", &["sidestep-test"]),
];

pub(crate) fn check() -> Result<()> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--locked"])?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = list(&metadata["packages"])?;
    let mut faults = licences(packages)?;
    faults.extend(sources(packages));
    faults.extend(layers()?);
    for fault in &faults {
        eprintln!("denied: {fault}");
    }
    ensure!(faults.is_empty(), "{} faults", faults.len());
    println!(
        "{} packages: licences, sources and layers are as agreed",
        packages.len()
    );
    Ok(())
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value
        .as_array()
        .context("cargo metadata has another shape than expected")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A package passes if one side of an `OR` is wholly allowed.
fn licences(packages: &[Value]) -> Result<Vec<String>> {
    let allowed = allowed_licences()?;
    let passes = |licence: &str| {
        licence.replace('/', " OR ").split(" OR ").any(|side| {
            let terms = side.replace(['(', ')'], " ");
            let terms = terms.split(" AND ").map(str::trim).collect::<Vec<_>>();
            terms.iter().all(|term| allowed.contains(*term))
        })
    };
    Ok(packages
        .iter()
        .filter(|package| !passes(text(&package["license"])))
        .map(|package| {
            format!(
                "{} has licence {}",
                text(&package["name"]),
                package["license"]
            )
        })
        .collect())
}

fn allowed_licences() -> Result<BTreeSet<String>> {
    let file = std::fs::read_to_string(root().join("deny.toml"))?;
    let list = file
        .split("allow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    let list = list.context("deny.toml has no licence list")?;
    Ok(list
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect())
}

fn sources(packages: &[Value]) -> Vec<String> {
    packages
        .iter()
        .filter(|p| text(&p["source"]).starts_with("git+"))
        .map(|p| format!("{} comes from git", text(&p["name"])))
        .collect()
}

fn layers() -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for (package, banned) in LAYERS {
        let reached = tree(package)?;
        let names = banned.iter().filter(|name| reached.contains(**name));
        faults.extend(names.map(|name| format!("{package} reaches {name}")));
    }
    Ok(faults)
}

/// Names of all packages that `package` is built with. `cargo metadata` would also list what only
/// features that are off bring in.
fn tree(package: &str) -> Result<BTreeSet<String>> {
    let arguments = [
        "tree", "-p", package, "-e", "normal", "--prefix", "none", "--locked",
    ];
    let output = cargo(&arguments)?;
    let names = output
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

fn cargo(arguments: &[&str]) -> Result<String> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(root())
        .output()?;
    if !output.status.success() {
        bail!(
            "cargo {}: {}",
            arguments[0],
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8(output.stdout)?)
}
