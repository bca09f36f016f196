//! Why a resource was refused.

use std::fmt;

use crate::code::{self, Code};
use crate::resource::ResourceType;

/// A resource that breaks a rule: which one, where in it, and why.
///
/// The same value becomes the text of a NACK, a line of `sidestep check` and the cause in a
/// failed call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InvalidResource {
    /// Its type.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: String,
    /// Where: `virtual_hosts[2].routes[0].match.safe_regex`; empty for the whole resource.
    pub path: String,
    /// What is wrong there.
    pub reason: Reason,
}

impl fmt::Display for InvalidResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.text(), self.code())
    }
}

impl InvalidResource {
    /// Its code: that of the rule.
    #[must_use]
    pub fn code(&self) -> Code {
        self.reason.code()
    }

    /// The message without its code, for texts that end in the code themselves.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            resource_type,
            name,
            path,
            reason,
        } = self;
        if path.is_empty() {
            format!("{resource_type} {name:?}: {reason}")
        } else {
            format!("{resource_type} {name:?}: {path}: {reason}")
        }
    }
}

impl std::error::Error for InvalidResource {}

/// The rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// A required field is not set.
    #[error("is required")]
    Missing,
    /// A list that must not be empty is.
    #[error("must not be empty")]
    Empty,
    /// A number outside its range.
    #[error("{value} is out of range, expected {expected}")]
    OutOfRange {
        /// What stands there.
        value: String,
        /// What may stand there.
        expected: &'static str,
    },
    /// The same thing twice.
    #[error("{0:?} appears twice")]
    Duplicate(String),
    /// A value, type or extension that Sidestep (or gRPC) does not have.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// Bytes that are not the message they claim to be.
    #[error("cannot be decoded: {0}")]
    Undecodable(String),
    /// A regular expression that does not compile.
    #[error("bad regular expression: {0}")]
    BadPattern(String),
    /// Any other broken rule, in words.
    #[error("{0}")]
    Rule(String),
}

impl Reason {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing => code::RESOURCE_FIELD_MISSING,
            Self::Empty => code::RESOURCE_FIELD_EMPTY,
            Self::OutOfRange { .. } => code::RESOURCE_OUT_OF_RANGE,
            Self::Duplicate(_) => code::RESOURCE_DUPLICATE,
            Self::Unsupported(_) => code::RESOURCE_UNSUPPORTED,
            Self::Undecodable(_) => code::RESOURCE_UNDECODABLE,
            Self::BadPattern(_) => code::RESOURCE_BAD_REGEX,
            Self::Rule(_) => code::RESOURCE_RULE,
        }
    }
}

/// A resource of a response that cannot even be named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("resources[{index}]: {reason} [{}]", reason.code())]
pub struct Unnamed {
    /// Its place in the response.
    pub index: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// A field that was seen but is not honoured. It can neither admit nor redirect a call, so the
/// resource is accepted and the field reported.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ignored {
    /// Where it is, as in [`InvalidResource::path`].
    pub path: String,
    /// What that means in practice.
    pub note: &'static str,
}
