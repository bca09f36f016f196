//! grpc-java.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::run::{output, run};
use super::{Installed, Peer, cache};
use crate::codegen::root;

pub(super) fn install(installed: &mut Installed) -> Result<()> {
    output(Command::new("java").arg("-version"))?;
    let sources = root().join("tests/interop/java");
    let manifest = sources.join("pom.xml");
    let folder = cache::built("java", std::slice::from_ref(&sources), |folder| {
        let target = format!("-Dpeers.target={}", folder.display());
        run(Command::new("mvn")
            .args(["--batch-mode", "--quiet", "package", &target, "--file"])
            .arg(&manifest))
    })?;
    installed.java = folder.join("peer.jar");
    let text = fs::read_to_string(&manifest)?;
    let version = text
        .split_once("<grpc.version>")
        .and_then(|(_, rest)| rest.split_once('<'))
        .context("pom.xml does not say which grpc-java")?;
    installed.versions = vec![(Peer::GrpcJava, version.0.to_owned())];
    Ok(())
}
