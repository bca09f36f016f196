//! The programs, at the versions that their lock files decide.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Map, Value};

use super::sets::{Client, Set, To};
use crate::codegen::root;
use crate::interop::install_envoy;

/// Where everything is, once installed. What no set asked for is an empty path.
pub(super) struct Peers {
    /// The control plane's program.
    pub(super) sidestep: PathBuf,
    pub(super) rust_client: PathBuf,
    pub(super) server: PathBuf,
    pub(super) go_client: PathBuf,
    pub(super) envoy: PathBuf,
}

impl Peers {
    /// Builds and downloads what these sets need.
    pub(super) fn install(sets: &[Set]) -> Result<Self> {
        let cases = || sets.iter().flat_map(|set| &set.cases);
        let with_go = cases().any(|case| matches!(case.client, Client::Go(_)));
        let with_envoy = cases().any(|case| matches!(case.to, To::Sidecar | To::TwoSidecars));
        crate::check::cargo(&["build", "--locked", "-p", "sidestep-cli"])?;
        let built = root().join("target/bench-rpc");
        rust(&built)?;
        let release = built.join("release");
        Ok(Self {
            sidestep: target().join("debug/sidestep"),
            rust_client: release.join("rpc-client"),
            server: release.join("rpc-server"),
            go_client: match with_go {
                true => go(&built)?,
                false => PathBuf::new(),
            },
            envoy: match with_envoy {
                true => install_envoy()?,
                false => PathBuf::new(),
            },
        })
    }

    /// What each of them is a version of.
    pub(super) fn versions(&self) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        let mut add = |name: &str, version: String| all.insert(name.to_owned(), version.into());
        add("sidestep", env!("CARGO_PKG_VERSION").to_owned());
        let lock = root().join("benches/rpc/rust/Cargo.lock");
        let lock = fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
        for name in ["tonic", "h2", "hyper", "tokio", "rustls", "tonic-xds"] {
            add(name, locked(&lock, name)?);
        }
        let first = |command: &mut Command| -> Result<String> {
            let said = output(command)?;
            Ok(said.lines().next().unwrap_or_default().trim().to_owned())
        };
        add(
            "rustc",
            word(&first(Command::new("rustc").arg("--version"))?, 1),
        );
        if self.go_client.is_file() {
            let list = ["list", "-m", "-f", "{{.Version}}", "google.golang.org/grpc"];
            let mut go = Command::new("go");
            go.args(list).current_dir(root().join("benches/rpc/go"));
            add(
                "grpc-go",
                first(&mut go)?.trim_start_matches('v').to_owned(),
            );
            let go = first(Command::new("go").args(["env", "GOVERSION"]))?;
            add("go", go.trim_start_matches("go").to_owned());
        }
        if self.envoy.is_file() {
            let said = output(Command::new(&self.envoy).arg("--version"))?;
            add("envoy", envoy_version(&said));
        }
        Ok(all)
    }
}

/// The programs of the workspace of its own, compiled as ours are released.
fn rust(target: &Path) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--locked", "--quiet", "--bins"]);
    command.arg("--target-dir").arg(target);
    output(command.current_dir(root().join("benches/rpc/rust"))).map(drop)
}

fn go(folder: &Path) -> Result<PathBuf> {
    let program = folder.join("rpc-client-go");
    let mut command = Command::new("go");
    command.args(["build", "-mod=readonly", "-o"]).arg(&program);
    output(command.arg(".").current_dir(root().join("benches/rpc/go")))?;
    Ok(program)
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| program.clone())?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {error}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The version of a package that is in a lock file once.
fn locked(lock: &str, package: &str) -> Result<String> {
    let name = format!("name = \"{package}\"\n");
    let found = lock
        .split("[[package]]")
        .find(|entry| entry.contains(&name));
    let version = found.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    Ok(version.with_context(|| format!("no {package}"))?.to_owned())
}

fn word(text: &str, number: usize) -> String {
    let found = text.split_whitespace().nth(number);
    found.unwrap_or_default().to_owned()
}

/// Of `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
fn envoy_version(said: &str) -> String {
    said.split('/')
        .nth(1)
        .unwrap_or_else(|| said.trim())
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found() {
        let lock = "[[package]]\nname = \"tonic-xds\"\nversion = \"0.1.0-alpha.4\"\n\n\
                    [[package]]\nname = \"tonic\"\nversion = \"0.14.9\"\n";
        assert_eq!(locked(lock, "tonic").unwrap(), "0.14.9");
        assert_eq!(locked(lock, "tonic-xds").unwrap(), "0.1.0-alpha.4");
        assert!(locked(lock, "h2").is_err());
        let said = "\nenvoy  version: abc/1.40.0/Clean/RELEASE/BoringSSL";
        assert_eq!(envoy_version(said), "1.40.0");
        assert_eq!(word("rustc 1.95.0 (abc)", 1), "1.95.0");
    }
}
