//! `cargo xtask pictures`: the pictures of the README, made from real runs.
//!
//! Both are SVG files that refer to nothing outside themselves. What they say is what the programs
//! of this workspace answered while they ran; nothing is drawn from memory.

mod ansi;
mod data_flow;
mod demo;
mod mesh;
mod process;
pub(crate) mod svg;
mod terminal;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::codegen::root;

/// Makes both pictures.
pub(crate) fn run() -> Result<()> {
    build()?;
    data_flow()?;
    demo()
}

/// The way of a call and of its configuration: `docs/data-flow.svg`.
pub(crate) fn data_flow() -> Result<()> {
    write("data-flow.svg", &data_flow::draw(&mesh::run()?)?)
}

/// The terminal view of the demo: `docs/demo.svg`.
pub(crate) fn demo() -> Result<()> {
    let screen = demo::capture()?;
    write(
        "demo.svg",
        &terminal::draw(&ansi::parse(&screen), "sidestep demo"),
    )
}

/// Builds the programs that are run.
pub(crate) fn build() -> Result<()> {
    crate::check::cargo(&["build", "-p", "sidestep-cli", "-p", "sidestep-examples"])
}

fn write(name: &str, svg: &str) -> Result<()> {
    let directory = root().join("docs");
    fs::create_dir_all(&directory)?;
    let path = directory.join(name);
    fs::write(&path, svg).with_context(|| path.display().to_string())?;
    println!("docs/{name}");
    Ok(())
}

/// A program of this workspace: cargo puts all of them beside the running one.
fn program(name: &str) -> Result<PathBuf> {
    let mut path = std::env::current_exe()?;
    path.set_file_name(name);
    Ok(path)
}
