//! Where the configuration comes from.
//!
//! A source is asked for the next state over and over; the first answer is what there is now.
//! A new kind of source is a file here.

mod file;
mod memory;
mod watch;

use std::sync::Arc;

use futures_core::future::BoxFuture;

use crate::snapshot::{InconsistentSnapshot, RawResource, References, ServerListeners};

pub use file::{FileSource, Parser, SourceText};
pub use memory::RawResources;

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
#[derive(Clone, Default)]
pub struct Configuration {
    /// All resources that can be named in advance.
    pub resources: Vec<RawResource>,
    /// Whether every name mentioned must exist.
    pub references: References,
    /// Makes the listeners of servers; `None` where there are none but those in `resources`.
    pub server_listeners: Option<Arc<dyn ServerListeners>>,
    /// What is in it, in a few words, for people: `2 services, 5 endpoints`.
    pub summary: String,
    /// What is allowed but probably not meant, located.
    pub warnings: Vec<String>,
}

/// Why a source has no valid state now. The last good one stays in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A file or directory cannot be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// Which.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// What is written there is not valid.
    #[error("{}", .0.join("\n"))]
    Invalid(
        /// Everything that is wrong, each located: `mesh.yaml:12:5: …`.
        Vec<String>,
    ),
    /// What is written there names things that do not exist.
    #[error(transparent)]
    Inconsistent(#[from] InconsistentSnapshot),
}

impl SourceError {
    /// The error as lines, one for each fault.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Unreadable { .. } => vec![self.to_string()],
            Self::Invalid(lines) => lines.clone(),
            Self::Inconsistent(error) => error.faults.iter().map(ToString::to_string).collect(),
        }
    }
}
