//! Is this mesh right? The same code that serves it, without serving.

use std::path::PathBuf;

use crate::compile::ResolvedEndpoints;
use crate::model::{Diagnostic, Mesh, Severity};
use crate::snapshot::Snapshot;
use crate::source::{Configuration, FileSource, SourceError, mesh};

/// A mesh in which nothing is wrong.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What was written.
    pub mesh: Mesh,
    /// What it compiles to, with the warnings.
    pub configuration: Configuration,
    /// Sources of endpoints that were not asked, because that needs the network: located, for
    /// people.
    pub not_asked: Vec<String>,
}

/// Reads, compiles and checks mesh files as the server would, without the network: of living
/// sources of endpoints, only files are looked at.
///
/// # Errors
/// Everything for which the server would refuse them.
pub fn check(paths: &[PathBuf]) -> Result<Checked, SourceError> {
    let (mesh, mut warnings) = mesh::parse(&FileSource::read(paths)?)?;
    let mut resolved = ResolvedEndpoints::default();
    let mut not_asked = Vec::new();
    for (id, services) in mesh.sources() {
        let told = (id.kind().peek)(&id.locator);
        for source in services.iter().filter_map(|service| service.source()) {
            let place = &source.written.place;
            match &told {
                None => not_asked.push(format!("{place}: {id} was not asked")),
                Some(Err(error)) => warnings.push(Diagnostic::new(
                    error.code(),
                    Severity::Warning,
                    place,
                    "",
                    format!("{error}; a server that starts now has no endpoints from it"),
                )),
                Some(Ok(_)) => {}
            }
        }
        if let Some(Ok(endpoints)) = told {
            resolved.insert(id.clone(), endpoints.into());
        }
    }
    let configuration = Configuration::of(&mesh, warnings, &resolved)?;
    Snapshot::check(&configuration.resources, configuration.references)?;
    Ok(Checked {
        mesh,
        configuration,
        not_asked,
    })
}
