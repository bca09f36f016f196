//! The programs of `examples/polyglot`.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::ours::{cargo, program};
use super::run::run;
use super::{Installed, cache};
use crate::codegen::root;

/// A program of the example: its language, and the command that runs it.
type Program = (&'static str, Command);

/// Everything that the example runs.
pub(crate) struct Polyglot {
    /// To be given the address to listen on.
    pub(crate) servers: Vec<Program>,
    pub(crate) clients: Vec<Program>,
}

/// Builds what is not there yet; `installed` has the packages that Python and Node.js need.
pub(crate) fn polyglot(installed: &Installed) -> Result<Polyglot> {
    let example = root().join("examples/polyglot");
    let rust = ["polyglot-client", "polyglot-server"];
    let flags = [
        "-p",
        "sidestep-examples",
        "--bin",
        rust[0],
        "--bin",
        rust[1],
    ];
    cargo(&root().join("Cargo.toml"), &flags)?;
    let go = example.join("go");
    let go = cache::built("polyglot", std::slice::from_ref(&go), |folder| {
        run(Command::new("go")
            .args(["build", "-mod=readonly", "-o"])
            .arg(folder.join(""))
            .args(["./client", "./server"])
            .current_dir(&go))
    })?;
    let mut python = Command::new(&installed.python);
    python
        .arg(example.join("client.py"))
        .env("PYTHONPATH", root().join("examples/protos"));
    let mut node = Command::new("node");
    node.arg(example.join("client.js"))
        .env("NODE_PATH", &installed.node);
    let command = |program: PathBuf| Command::new(program);
    Ok(Polyglot {
        servers: vec![
            ("Rust", command(program(rust[1]))),
            ("Go", command(go.join("server"))),
        ],
        clients: vec![
            ("Rust", command(program(rust[0]))),
            ("Go", command(go.join("client"))),
            ("Python", python),
            ("JavaScript", node),
        ],
    })
}
