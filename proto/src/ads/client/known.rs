//! What is known of a subscribed name, for whoever asks from outside.

use std::fmt;
use std::time::Instant;

use super::{FailedUpdate, ResourceError};
use crate::resource::ResourceType;
use crate::wire::Any;

/// One subscribed name.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its type.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: &'a str,
    /// Who said the content last, as an index into [`super::ClientConfig::servers`].
    pub server: Option<usize>,
    /// The last good content, as it arrived.
    pub content: Option<&'a Any>,
    /// The newest version known to have that content; empty without content.
    pub version: &'a str,
    /// When the content was new.
    pub updated: Option<Instant>,
    /// What is wrong. Beside content it is an ambient error (gRFC A88).
    pub error: Option<&'a ResourceError>,
    /// The update that told of the error.
    pub failed: Option<&'a FailedUpdate>,
}

impl Known<'_> {
    /// How far it has come.
    #[must_use]
    pub fn status(&self) -> Status {
        match (self.error, self.content) {
            (None, None) => Status::Requested,
            (None, Some(_)) => Status::Acked,
            (Some(error), _) => Status::of(error),
        }
    }
}

/// How far a data plane has come with a resource: the words of client status discovery (gRFC A40,
/// with A88's further ones).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Asked for, not answered.
    Requested,
    /// The control plane removed it, says that there is none, or its silence means that.
    DoesNotExist,
    /// In use.
    Acked,
    /// The newest version was refused.
    Nacked,
    /// The control plane said why it does not give it (xRFC TP3).
    ReceivedError,
    /// Not answered in time, which says nothing about the resource.
    Timeout,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 6] = [
        Self::Requested,
        Self::DoesNotExist,
        Self::Acked,
        Self::Nacked,
        Self::ReceivedError,
        Self::Timeout,
    ];

    fn of(error: &ResourceError) -> Self {
        match error {
            ResourceError::Invalid(_) => Self::Nacked,
            ResourceError::Deleted
            | ResourceError::DoesNotExist
            | ResourceError::UnknownAuthority { .. }
            | ResourceError::BadName(_) => Self::DoesNotExist,
            ResourceError::Refused { .. } => Self::ReceivedError,
            ResourceError::TimedOut => Self::Timeout,
        }
    }

    /// The word on the wire: `ACKED`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "REQUESTED",
            Self::DoesNotExist => "DOES_NOT_EXIST",
            Self::Acked => "ACKED",
            Self::Nacked => "NACKED",
            Self::ReceivedError => "RECEIVED_ERROR",
            Self::Timeout => "TIMEOUT",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
