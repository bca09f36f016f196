//! What can go wrong with a mesh in a test.

use std::fmt;
use std::time::Duration;

use sidestep::{BuildError, ServerError};
use sidestep_server::{SourceError, StartError};

/// Why a mesh in a test did not do what was asked of it.
///
/// Its `Debug` is its text, so that `.unwrap()` and a test that returns `Result` show it readably.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The mesh file has faults.
    #[error("the mesh file is not good:\n{0}")]
    MeshFile(SourceError),
    /// The mesh file has no such service.
    #[error("the mesh file has no service {name:?}; it has {}", names(known))]
    NoService {
        /// As asked for.
        name: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// The mesh file says itself where a service runs, and a backend of it was started.
    #[error(
        "the mesh file says itself where {service:?} runs; leave `endpoints` out of it, and the \
         started backends become its endpoints"
    )]
    OwnEndpoints {
        /// Which service.
        service: String,
    },
    /// A process of the mesh, or a channel, could not be made.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A backend's server could not start.
    #[error("a server of {service:?}: {source}")]
    Server {
        /// Which service.
        service: String,
        /// Why.
        source: ServerError,
    },
    /// A backend does not begin to serve.
    #[error("the server of {service:?} at {address} does not serve after {after:?}: {reason}")]
    NotServing {
        /// Which service.
        service: String,
        /// Where.
        address: String,
        /// How long was waited.
        after: Duration,
        /// What it says itself.
        reason: String,
    },
    /// The control plane could not start.
    #[error(transparent)]
    ControlPlane(#[from] StartError),
    /// Something can only come from the control plane, which is cut off.
    #[error("the control plane is cut off; restore_control_plane() brings it back")]
    Cut,
    /// A change is not in use in time.
    #[error("the change is not in use after {after:?}: {waiting}")]
    NotApplied {
        /// How long was waited.
        after: Duration,
        /// Who is late.
        waiting: String,
    },
    /// What was waited for did not come.
    #[error("it did not come within {after:?}; the last word: {last}")]
    Never {
        /// How long was waited.
        after: Duration,
        /// The last failure.
        last: String,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn names(known: &[String]) -> String {
    let quoted: Vec<_> = known.iter().map(|name| format!("{name:?}")).collect();
    match quoted.is_empty() {
        true => "none".to_owned(),
        false => quoted.join(", "),
    }
}
