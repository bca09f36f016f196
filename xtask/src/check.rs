//! `cargo xtask check`: everything about the code that needs no peer and no measurement.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::codegen::root;

/// A workspace of its own.
const RPC: &str = "benches/rpc/rust/Cargo.toml";

/// Steps in the order in which they fail fastest.
const STEPS: [&[&str]; 7] = [
    &["fmt", "--all", "--check"],
    &[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ],
    &[
        "clippy",
        "-p",
        "sidestep",
        "--no-default-features",
        "--features",
        "ring",
        "--locked",
        "--",
        "-D",
        "warnings",
    ],
    // As a service depends on it: none of the features that other crates here ask for.
    &[
        "clippy",
        "-p",
        "sidestep",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ],
    &["doc", "--workspace", "--no-deps", "--locked"],
    // The peers of whole calls, last: their workspace is large to build.
    &["fmt", "--manifest-path", RPC, "--check"],
    &[
        "clippy",
        "--manifest-path",
        RPC,
        "--target-dir",
        "target/bench-rpc",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ],
];

pub(crate) fn run() -> Result<()> {
    for step in STEPS {
        cargo(step)?;
    }
    crate::codegen::check()?;
    crate::deny::check()
}

/// Runs one cargo command, shown as a person would type it.
pub(crate) fn cargo(arguments: &[&str]) -> Result<()> {
    println!("+ cargo {}", arguments.join(" "));
    let status = Command::new(env!("CARGO"))
        .args(arguments)
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(root())
        .status()
        .context("cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}
