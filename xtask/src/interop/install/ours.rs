//! Our own programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::Installed;
use super::run::run;
use crate::codegen::root;

const PACKAGES: &[&str] = &["-p", "sidestep-cli", "-p", "sidestep-interop", "--bins"];

pub(super) fn install(installed: &mut Installed) -> Result<()> {
    cargo(&root().join("Cargo.toml"), PACKAGES)?;
    installed.sidestep = program("sidestep");
    installed.server = program("sidestep-interop-server");
    installed.client = program("sidestep-interop-client");
    installed.mgmt = program("sidestep-interop-mgmt");
    Ok(())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// Where a program is built to.
pub(super) fn program(name: &str) -> PathBuf {
    target().join("debug").join(name)
}

/// Builds into our target directory: what workspaces have in common is compiled once.
pub(super) fn cargo(manifest: &Path, packages: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(manifest)
        .args(packages)
        .env("CARGO_TARGET_DIR", target())
        .current_dir(root());
    run(&mut command)
}
