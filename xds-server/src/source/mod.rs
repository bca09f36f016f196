//! Where the configuration comes from.
//!
//! A source is asked for the next state over and over; the first answer is what there is now.
//! A new kind of source is a file here. Sources of endpoints alone are in [`endpoints`].

pub mod endpoints;
mod file;
mod living;
mod memory;
pub(crate) mod mesh;
mod resources;
mod watch;

use std::sync::Arc;

use futures_core::future::BoxFuture;
use sidestep_proto::code::{self, Code};

use crate::model::{Diagnostic, Mesh, Place, Severity};
use crate::snapshot::{
    Delivery, Fault, InconsistentSnapshot, RawResource, References, ServerListeners,
};

pub use file::{FileSource, Parser, SourceText};
pub(crate) use living::Living;
pub use memory::RawResources;
pub(crate) use watch::DirectoryWatch;

/// Where the configuration comes from.
pub trait Source: Send + 'static {
    /// For people: `mesh.yaml`.
    fn describe(&self) -> String;

    /// The next state. The first call answers with what there is now, later ones wait for a
    /// change. `None`: there will be no further change.
    ///
    /// Must be cancel-safe: a change that was not returned is returned by the next call.
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Configuration, SourceError>>>;
}

/// One state of the configuration as a source gives it, not yet checked for consistency.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    /// All resources that can be named in advance.
    pub resources: Vec<RawResource>,
    /// Whether every name mentioned must exist.
    pub references: References,
    /// In which form clients are given it.
    pub delivery: Delivery,
    /// Makes the listeners of servers; `None` where there are none but those in `resources`.
    pub server_listeners: Option<Arc<dyn ServerListeners>>,
    /// What is in it, in a few words, for people: `2 services, 5 endpoints`.
    pub summary: String,
    /// What is allowed but probably not meant, located.
    pub warnings: Vec<Diagnostic>,
    /// The mesh itself, where it has living endpoint sources: they are asked, and it is compiled
    /// again with what they tell.
    pub living: Option<Arc<LivingMesh>>,
    /// The same text as before with other endpoints: tells nothing about a refused edit.
    pub refresh: bool,
}

/// A mesh that is compiled again as endpoints change.
#[derive(Debug, Clone)]
pub struct LivingMesh {
    pub(crate) mesh: Mesh,
    /// Those of reading it.
    pub(crate) warnings: Vec<Diagnostic>,
}

/// Why a source has no valid state now. The last good one stays in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// What is there cannot be read, or is not valid.
    #[error("{}", lines(.0))]
    Invalid(
        /// Everything that is wrong.
        Vec<Diagnostic>,
    ),
    /// What is there names things that do not exist.
    #[error(transparent)]
    Inconsistent(#[from] InconsistentSnapshot),
}

impl SourceError {
    /// Everything that is wrong, one for each fault.
    #[must_use]
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        match self {
            Self::Invalid(diagnostics) => diagnostics.clone(),
            Self::Inconsistent(error) => error.faults.iter().map(diagnostic).collect(),
        }
    }

    /// The code of the first fault.
    #[must_use]
    pub fn code(&self) -> Code {
        let first = match self {
            Self::Invalid(diagnostics) => diagnostics
                .iter()
                .find(|d| d.is_error())
                .map(|diagnostic| diagnostic.code),
            Self::Inconsistent(error) => error.faults.first().map(|fault| fault.kind.code()),
        };
        // Both lists hold at least one.
        first.unwrap_or(code::NO_MESH_FILE)
    }

    /// A fault of a file as a whole.
    pub(crate) fn of_file(code: Code, file: &str, message: String) -> Self {
        Self::Invalid(vec![Diagnostic::whole_file(code, file, message)])
    }
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn diagnostic(fault: &Fault) -> Diagnostic {
    let message = fault.kind.to_string();
    match &fault.origin {
        Some(place) => Diagnostic::new(fault.kind.code(), Severity::Error, place, "", message),
        // Made by a program: there is no text to point at.
        None => Diagnostic::new(fault.kind.code(), Severity::Error, &nowhere(), "", message),
    }
}

fn nowhere() -> Place {
    Place {
        file: "memory".into(),
        line: 0,
        column: 0,
    }
}
