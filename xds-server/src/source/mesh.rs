//! From the text of mesh files to a configuration.
//!
//! Pure.

use std::fmt;
use std::sync::Arc;

use sidestep_proto::wire::Any;

use super::{Configuration, LivingMesh, SourceError, SourceText};
use crate::compile::{CompiledMesh, ResolvedEndpoints, compile};
use crate::model::{Diagnostic, Mesh};
use crate::snapshot::{RawResource, References, ServerListeners};

impl Configuration {
    /// Reads mesh files, all of them as one mesh.
    ///
    /// # Errors
    /// Everything that is wrong, located.
    pub fn from_mesh(texts: &[SourceText]) -> Result<Self, SourceError> {
        let (mesh, warnings) = parse(texts)?;
        let configuration = Self::of(&mesh, warnings.clone(), &ResolvedEndpoints::default())?;
        let living = !mesh.sources().is_empty();
        let living = living.then(|| Arc::new(LivingMesh { mesh, warnings }));
        Ok(Self {
            living,
            ..configuration
        })
    }

    /// The configuration that a mesh compiles to with these endpoints of its living sources.
    /// `warnings` are those of reading it.
    ///
    /// # Errors
    /// Everything that is wrong with native resources, located.
    pub(crate) fn of(
        mesh: &Mesh,
        mut warnings: Vec<Diagnostic>,
        resolved: &ResolvedEndpoints,
    ) -> Result<Self, SourceError> {
        let (compiled, more) = compile(mesh, resolved).map_err(SourceError::Invalid)?;
        warnings.extend(more);
        let resources = compiled
            .resources
            .iter()
            .map(|resource| RawResource {
                name: resource.name.clone(),
                any: resource.to_any(),
                origin: Some(resource.provenance.clone()),
            })
            .collect();
        Ok(Self {
            resources,
            references: References::Closed,
            server_listeners: Some(Arc::new(MeshListeners(compiled))),
            summary: mesh.summary(resolved),
            warnings,
            ..Self::default()
        })
    }
}

/// Reads mesh files, all of them as one mesh; the second part of the answer are warnings.
pub(crate) fn parse(texts: &[SourceText]) -> Result<(Mesh, Vec<Diagnostic>), SourceError> {
    let files: Vec<(&str, &str)> = texts
        .iter()
        .map(|text| (text.path.as_str(), text.text.as_str()))
        .collect();
    Mesh::parse(&files).map_err(SourceError::Invalid)
}

/// The services of a mesh, as servers ask for them.
struct MeshListeners(CompiledMesh);

impl fmt::Debug for MeshListeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MeshListeners")
    }
}

impl ServerListeners for MeshListeners {
    fn server_listener(&self, service: &str, name: &str) -> Option<Result<Any, String>> {
        self.0.server_listener_by_name(service, name)
    }
}
