//! The peers, at the versions that the suite is written for: a file for each language. What cannot be
//! installed is a failure of the suite, never a scenario less.
//!
//! What is built or downloaded is kept [outside the tree](cache), so that a fresh checkout finds it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};

use super::peer::Peer;
use crate::codegen::root;

mod cache;
pub(super) mod earlier;
mod go;
mod istio;
mod java;
mod node;
mod ours;
mod polyglot;
mod python;
mod run;
mod tonic;

pub(super) use istio::is_built as is_istio_built;
pub(super) use polyglot::polyglot;

/// Peers and the versions that they turned out to have.
type Versions = Vec<(Peer, String)>;

/// The version of a peer that was not installed.
pub(super) const UNKNOWN: &str = "?";

/// Where everything is, once installed. What no scenario asked for is an empty path.
#[derive(Default)]
pub(super) struct Installed {
    /// `sidestep`.
    pub(super) sidestep: PathBuf,
    /// `sidestep-interop-server`.
    pub(super) server: PathBuf,
    /// `sidestep-interop-client`.
    pub(super) client: PathBuf,
    /// `sidestep-interop-mgmt`.
    pub(super) mgmt: PathBuf,
    /// The interpreter that has grpcio.
    pub(super) python: PathBuf,
    /// Envoy.
    pub(super) envoy: PathBuf,
    /// The peers written in Go: `client`, `server` and `mgmt`.
    pub(super) go: PathBuf,
    /// Istio's discovery server.
    pub(super) istio: PathBuf,
    /// grpc-go's own client and server of the ordinary interop cases.
    pub(super) go_cases: [PathBuf; 2],
    /// The folder `node_modules` with grpc-node.
    pub(super) node: PathBuf,
    /// The archive with the peers written in Java and what they need.
    pub(super) java: PathBuf,
    /// The programs of the tonic workspace.
    pub(super) tonic: [PathBuf; 2],
    /// Peers and the versions that they turned out to have.
    pub(super) versions: Versions,
}

/// A language's peers put themselves where they are found.
type Installation = fn(&mut Installed) -> Result<()>;

/// Each of these is needed by any of its peers.
const INSTALLATIONS: &[(&[Peer], Installation)] = &[
    (&[Peer::Tonic012, Peer::Tonic013], tonic::install),
    (&[Peer::Grpcio, Peer::Envoy], python::install),
    (&[Peer::GrpcGo, Peer::GoControlPlane], go::install),
    (&[Peer::Istio], istio::install),
    (&[Peer::GrpcNode], node::install),
    (&[Peer::GrpcJava], java::install),
];

impl Installed {
    /// Builds and downloads what is not there yet of our programs and of what these peers need; all
    /// at the same time, for most of it is waiting for registries.
    pub(super) fn new(peers: &BTreeSet<Peer>) -> Result<Self> {
        let needed = INSTALLATIONS
            .iter()
            .filter(|(of, _)| of.iter().any(|peer| peers.contains(peer)))
            .map(|(_, install)| *install);
        let mut all = Self::default();
        thread::scope(|scope| {
            let running: Vec<_> = needed
                .map(|install| {
                    scope.spawn(move || {
                        let mut part = Self::default();
                        install(&mut part).map(|()| part)
                    })
                })
                .collect();
            ours::install(&mut all)?;
            for part in running {
                let part = part
                    .join()
                    .map_err(|_| anyhow!("an installation panicked"))?;
                all.take(part?);
            }
            Ok(all)
        })
    }

    /// Takes over what a part has.
    fn take(&mut self, part: Self) {
        let paths = [
            (&mut self.python, part.python),
            (&mut self.envoy, part.envoy),
            (&mut self.go, part.go),
            (&mut self.istio, part.istio),
            (&mut self.node, part.node),
            (&mut self.java, part.java),
        ];
        let pairs = [
            (&mut self.go_cases, part.go_cases),
            (&mut self.tonic, part.tonic),
        ];
        let pairs = pairs
            .into_iter()
            .flat_map(|(to, from)| to.iter_mut().zip(from));
        for (to, from) in paths.into_iter().chain(pairs) {
            if !from.as_os_str().is_empty() {
                *to = from;
            }
        }
        self.versions.extend(part.versions);
    }

    /// The version of a peer.
    pub(super) fn version(&self, peer: Peer) -> &str {
        let found = self.versions.iter().find(|(known, _)| *known == peer);
        found.map_or(UNKNOWN, |(_, version)| version)
    }
}

/// Programs that speak the contract, to be given `client` or `server` and flags.
impl Installed {
    /// The peers written in Go, before `client`, `server` or `mgmt`.
    pub(super) fn go_peer(&self) -> Command {
        Command::new(&self.go)
    }

    /// The peers written in Python, before `client` or `server`.
    pub(super) fn python_peer(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.arg(root().join("tests/interop/python/peer.py"));
        command
    }

    /// The peers written in JavaScript, before `client` or `server`.
    pub(super) fn node_peer(&self) -> Command {
        let mut command = Command::new("node");
        command
            .arg(root().join("tests/interop/node/peer.js"))
            .env("NODE_PATH", &self.node);
        command
    }

    /// The peers written in Java, before `client` or `server`.
    pub(super) fn java_peer(&self) -> Command {
        let mut command = Command::new("java");
        command.arg("-jar").arg(&self.java);
        command
    }
}

/// grpc-go's programs alone, before `client` or `server`.
pub(crate) fn go() -> Result<PathBuf> {
    let mut installed = Installed::default();
    go::install(&mut installed).context("grpc-go")?;
    Ok(installed.go)
}

/// Envoy alone.
pub(crate) fn envoy() -> Result<PathBuf> {
    let mut installed = Installed::default();
    python::install(&mut installed).context("Envoy")?;
    Ok(installed.envoy)
}

/// The control planes of the push bench alone: the program, and the version of go-control-plane.
pub(crate) fn push_servers() -> Result<(PathBuf, String)> {
    go::push_servers().context("go-control-plane")
}
