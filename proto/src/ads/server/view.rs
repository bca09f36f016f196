//! What a peer may see: the snapshot, as a server stream reads it.

use std::sync::Arc;

use bytes::Bytes;

/// One resource, encoded once and shared by every stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Names its content: equal content, equal version, and the other way round.
    pub version: String,
    /// The encoded `google.protobuf.Any`.
    pub resource: Bytes,
}

/// Why a name is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// A gRPC status code: 5 `NOT_FOUND`, 7 `PERMISSION_DENIED`.
    pub code: i32,
    /// For people; best with the nearest names that exist.
    pub message: String,
}

/// Everything one peer may see. Types are named by their URL, so any type of resource fits.
pub trait View {
    /// Rises with every change.
    fn revision(&self) -> u64;
    /// The resource of this type and name.
    fn entry(&self, t: &str, name: &str) -> Option<&Arc<Entry>>;
    /// All resources of this type, for wildcards.
    fn entries(&self, t: &str) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_>;
    /// What to say about a name for which `entry` is `None`, beyond what the protocol says of it by
    /// itself: absence from a whole state, `removed_resources` in delta, and else nothing.
    /// `suggest`: also what may have been meant, which takes time; not asked for where very many
    /// names are missing at once.
    fn missing(&self, t: &str, name: &str, suggest: bool) -> Option<Missing>;
    /// Whether a peer that shows the current version on a new state-of-the-world stream needs
    /// nothing sent. Default: true. The other way costs bytes, and is what clients expect that
    /// return to a server only once it has told them something (gRFC A71).
    fn trusts_versions(&self) -> bool {
        true
    }
}
