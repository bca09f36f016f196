//! Wire to resource and back. One file per resource, decoding above, encoding below.
//!
//! What grpc-go accepts is accepted, what it refuses is refused. A field that could admit or
//! redirect a call and is not enforced is refused; any other field that is not honoured is
//! reported as [`Ignored`].

mod error;

pub use error::{Ignored, InvalidResource, Reason, Unnamed};

use std::collections::BTreeSet;

use crate::resource::Resource;

/// What decoding needs to know about this process.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Names under `certificate_providers` in the bootstrap. `None` accepts any name: for tools
    /// that check resources on behalf of processes they do not know.
    pub certificate_providers: Option<BTreeSet<String>>,
}

/// A resource whose name could be read.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Its name.
    pub name: String,
    /// The resource, or the rule that it breaks.
    pub result: Result<Resource, InvalidResource>,
    /// Fields seen and not honoured.
    pub ignored: Vec<Ignored>,
}
