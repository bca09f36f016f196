//! What a client stream asks for and reports.

use std::fmt;

use crate::ads::{Request, Variant};
use crate::code::{self, Code};
use crate::codec::{Ignored, InvalidResource};
use crate::resource::name::InvalidName;
use crate::resource::{Resource, ResourceType};

/// What the driver of a [`super::ClientStream`] has to do next.
#[allow(
    clippy::large_enum_variant,
    reason = "handed out one at a time; only events ever queue"
)]
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Open a stream to this server (an index into [`super::ClientConfig::servers`]), closing any
    /// older one to it; answer with `handle_connected`, `handle_closed` or
    /// `handle_unimplemented`. Comes only while something is subscribed there.
    Connect {
        /// Which.
        server: usize,
        /// What is spoken.
        variant: Variant,
    },
    /// Close the stream to this server, or end the try: nothing is wanted of it any more.
    Disconnect {
        /// Which.
        server: usize,
    },
    /// Write this to the open stream.
    Send {
        /// Of this server.
        server: usize,
        /// What.
        request: Request,
    },
    /// Something others want to know.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// New or changed. Equal content is not repeated.
    Resource(Resource),
    /// A subscribed resource is not there, or not as it should be. An equal error is not repeated.
    Error {
        /// Its type.
        resource_type: ResourceType,
        /// Its name.
        name: String,
        /// What is wrong.
        error: ResourceError,
        /// The last good one stays in use: an ambient error (gRFC A88).
        cached: bool,
    },
    /// An ambient error is over. If the content changed as well, `Resource` follows.
    Cleared {
        /// Its type.
        resource_type: ResourceType,
        /// Its name.
        name: String,
    },
    /// All servers of an authority failed while something subscribed is not cached. Given for each
    /// round of tries, and to those who subscribe before the next one begins.
    Unreachable {
        /// See [`super::ClientStream::authority_of`].
        authority: usize,
        /// Each server and how it failed.
        reason: String,
    },
    /// Another server than before answers for an authority (gRFC A71): a lower one is asked because
    /// one has failed while something is missing, or a higher one works again. What is cached
    /// stays in use.
    Fallback {
        /// The authority's name; `None`: of names that are not `xdstp:` names.
        authority: Option<String>,
        /// The server until now.
        from: usize,
        /// The server from now on.
        to: usize,
        /// Whether `to` is less preferred.
        is_down: bool,
    },
    /// The server has no delta: from now on it is spoken to in state of the world.
    NoDelta {
        /// Which server.
        server: usize,
    },
    /// The stream is open.
    StreamUp {
        /// To which server.
        server: usize,
    },
    /// The stream ended or could not be opened.
    StreamDown {
        /// To which server.
        server: usize,
        /// Why.
        reason: String,
        /// Whether it had answered. If so, this is no failure and the next attempt is immediate,
        /// but for the second such stream in a row that did not live long.
        had_response: bool,
    },
    /// A response was passed over: of an unknown type, or of one that this stream has not asked
    /// for. Given for the first of each stream.
    Unasked {
        /// Whose.
        server: usize,
        /// As the server names it.
        type_url: String,
    },
    /// A response was good.
    Accepted {
        /// Whose.
        server: usize,
        /// Of which type.
        resource_type: ResourceType,
        /// The server's name for it.
        version: String,
    },
    /// A response was refused. What was good in it is used all the same (gRFC A46).
    Rejected {
        /// Whose.
        server: usize,
        /// Of which type.
        resource_type: ResourceType,
        /// The server's name for it.
        version: String,
        /// Every problem, as the server is told.
        detail: String,
        /// The last response of this type was refused for the very same.
        repeated: bool,
    },
    /// An accepted resource has fields that are not honoured. Once per content.
    Ignored {
        /// Its type.
        resource_type: ResourceType,
        /// Its name.
        name: String,
        /// Which fields.
        fields: Vec<Ignored>,
    },
}

/// What is wrong with a subscribed resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceError {
    /// The server's version of it breaks a rule.
    Invalid(InvalidResource),
    /// It was there and the server removed it.
    Deleted,
    /// The server says, or its silence means, that there is none.
    DoesNotExist,
    /// The server says why it does not give it (`resource_errors`, xRFC TP3).
    Refused {
        /// A gRPC status code, 0 to 16.
        code: i32,
        /// For people.
        message: String,
    },
    /// The server did not answer in time, which says nothing about the resource.
    TimedOut,
    /// Nobody can be asked: the bootstrap does not have the name's authority (gRFC A47).
    UnknownAuthority {
        /// As it stands in the name.
        authority: String,
    },
    /// Nobody can be asked: it is no name of a resource of this type.
    BadName(InvalidName),
}

/// gRPC status codes that speak about the data and not about the server (gRFC A88).
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;

impl ResourceError {
    /// Whether it speaks about the data, so that `fail_on_data_errors` applies; anything else
    /// passes and never costs a cached resource.
    #[must_use]
    pub fn is_data_error(&self) -> bool {
        match self {
            Self::Invalid(_)
            | Self::Deleted
            | Self::DoesNotExist
            | Self::UnknownAuthority { .. }
            | Self::BadName(_) => true,
            Self::Refused { code, .. } => matches!(*code, NOT_FOUND | PERMISSION_DENIED),
            Self::TimedOut => false,
        }
    }
}

impl ResourceError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(invalid) => invalid.code(),
            Self::Deleted => code::RESOURCE_DELETED,
            Self::DoesNotExist
            | Self::Refused {
                code: NOT_FOUND, ..
            } => code::RESOURCE_NOT_FOUND,
            Self::Refused { .. } => code::RESOURCE_REFUSED,
            Self::TimedOut => code::RESOURCE_TIMED_OUT,
            Self::UnknownAuthority { .. } => code::RESOURCE_UNKNOWN_AUTHORITY,
            Self::BadName(_) => code::RESOURCE_BAD_NAME,
        }
    }
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => return invalid.fmt(f),
            Self::Deleted => f.write_str("was removed by the control plane")?,
            Self::DoesNotExist => f.write_str("does not exist")?,
            Self::Refused { code, message } => {
                write!(f, "refused by the control plane: {message} (code {code})")?;
            }
            Self::TimedOut => f.write_str("the control plane did not answer in time")?,
            Self::UnknownAuthority { authority } => {
                write!(f, "the bootstrap has no authority {authority:?}")?;
            }
            Self::BadName(invalid) => write!(f, "the name {invalid}")?,
        }
        write!(f, " [{}]", self.code())
    }
}
