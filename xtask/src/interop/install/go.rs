//! grpc-go and go-control-plane.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::run::{output, run};
use super::{Installed, Peer, cache};
use crate::codegen::root;

/// grpc-go's own programs for the ordinary interop cases, the client first.
const CASES: [&str; 2] = [
    "google.golang.org/grpc/interop/client",
    "google.golang.org/grpc/interop/server",
];

/// The control planes of the push bench, and the version of go-control-plane.
pub(super) fn push_servers() -> Result<(PathBuf, String)> {
    let sources = root().join("benches/push/go");
    let go = || {
        let mut command = Command::new("go");
        command.current_dir(&sources);
        command
    };
    let folder = cache::built("push", std::slice::from_ref(&sources), |folder| {
        run(go()
            .args(["build", "-mod=readonly", "-o"])
            .arg(folder.join(""))
            .arg("."))
    })?;
    let module = "github.com/envoyproxy/go-control-plane";
    let version = output(go().args(["list", "-m", "-f", "{{.Version}}", module]))?;
    Ok((
        folder.join("push"),
        version.trim_start_matches('v').to_owned(),
    ))
}

/// The versions are those that `go.mod` decides.
pub(super) fn install(installed: &mut Installed) -> Result<()> {
    let sources = root().join("tests/interop/go");
    let go = || {
        let mut command = Command::new("go");
        command.current_dir(&sources);
        command
    };
    let folder = cache::built("go", std::slice::from_ref(&sources), |folder| {
        run(go()
            .args(["build", "-mod=readonly", "-o"])
            .arg(folder.join(""))
            .args([".", "./judge", "./truth"])
            .args(CASES))
    })?;
    installed.go = folder.join("peers");
    installed.go_cases = ["client", "server"].map(|name| folder.join(name));
    let modules = [
        (Peer::GrpcGo, "google.golang.org/grpc"),
        (
            Peer::GoControlPlane,
            "github.com/envoyproxy/go-control-plane",
        ),
    ];
    let query = ["list", "-m", "-f", "{{.Version}}"];
    let modules_of = modules.map(|(_, module)| module);
    let found = output(go().args(query).args(modules_of))?;
    let mut found = found.lines();
    for (peer, module) in modules {
        let version = found
            .next()
            .with_context(|| format!("no version of {module}"))?;
        let version = version.trim_start_matches('v').to_owned();
        installed.versions.push((peer, version));
    }
    Ok(())
}
