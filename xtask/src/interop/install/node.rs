//! grpc-node.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::run::{output, run};
use super::{Installed, Peer, cache};
use crate::codegen::root;

const FILES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

pub(super) fn install(installed: &mut Installed) -> Result<()> {
    output(Command::new("node").arg("--version"))?;
    let sources = root().join("tests/interop/node");
    let folder = cache::built("node", &FILES.map(|file| sources.join(file)), |folder| {
        for file in FILES {
            fs::copy(sources.join(file), folder.join(file)).with_context(|| file)?;
        }
        run(Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(folder))
    })?;
    installed.node = folder.join("node_modules");
    let manifest = installed.node.join("@grpc/grpc-js/package.json");
    let manifest: Value = serde_json::from_slice(&fs::read(&manifest)?)?;
    let version = manifest["version"]
        .as_str()
        .context("grpc-js has no version")?;
    installed.versions = vec![(Peer::GrpcNode, version.to_owned())];
    Ok(())
}
