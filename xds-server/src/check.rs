//! Is this mesh right? The same code that serves it, without serving.

use std::path::PathBuf;

use crate::model::Mesh;
use crate::snapshot::Snapshot;
use crate::source::{Configuration, FileSource, SourceError, mesh};

/// A mesh in which nothing is wrong.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What was written.
    pub mesh: Mesh,
    /// What it compiles to, with the warnings.
    pub configuration: Configuration,
}

/// Reads, compiles and checks mesh files as the server would.
///
/// # Errors
/// Everything for which the server would refuse them.
pub fn check(paths: &[PathBuf]) -> Result<Checked, SourceError> {
    let (mesh, warnings) = mesh::parse(&FileSource::read(paths)?)?;
    let configuration = Configuration::of(&mesh, warnings)?;
    Snapshot::build(
        1,
        configuration.resources.clone(),
        configuration.references,
        &Snapshot::default(),
    )?;
    Ok(Checked {
        mesh,
        configuration,
    })
}
