//! Istio's discovery server. It has more than a thousand packages, and takes minutes to build.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::run::{output, run};
use super::{Installed, Peer, cache};
use crate::codegen::root;

const NAME: &str = "istio";

fn sources() -> PathBuf {
    root().join("tests/interop/istio")
}

/// Whether this machine has built it from these sources before.
pub(in crate::interop) fn is_built() -> bool {
    cache::has(NAME, &[sources()])
}

pub(super) fn install(installed: &mut Installed) -> Result<()> {
    let folder = cache::built(NAME, &[sources()], |folder| {
        run(Command::new("go")
            .args(["build", "-mod=readonly", "-ldflags=-s -w", "-o"])
            .arg(folder.join("istio-peer"))
            .arg(".")
            .current_dir(sources()))
    })?;
    installed.istio = folder.join("istio-peer");
    let said: Value =
        serde_json::from_str(&output(Command::new(&installed.istio).arg("version"))?)?;
    let version = said["istio"].as_str().context("no version of Istio")?;
    // v0.0.0-TIME-COMMIT: the commit says enough.
    let commit = version.rsplit('-').next().unwrap_or(version);
    installed.versions = vec![(Peer::Istio, commit.to_owned())];
    Ok(())
}
