//! Is this mesh right? The same code that serves it, without serving.

use std::path::PathBuf;

use crate::model::Diagnostic;
use crate::snapshot::Snapshot;
use crate::source::{Configuration, FileSource, SourceError, mesh};

/// A mesh in which nothing is wrong.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What is in it, in a few words.
    pub summary: String,
    /// What is allowed but probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// The mesh as one file with every default filled in.
    pub with_defaults: String,
    /// All resources that it compiles to, named in advance.
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
        summary: configuration.summary.clone(),
        warnings: configuration.warnings.clone(),
        with_defaults: mesh.show_defaults(),
        configuration,
    })
}
