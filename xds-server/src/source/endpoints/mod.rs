//! Living endpoint sources: who is asked, again and again, where a service runs.
//!
//! A kind of source is a file here and a line in `KINDS`; the mesh file's parser, its schema and
//! `sidestep check` read that list. What a source tells goes through [`state`], which keeps the
//! last list of a source that fails or is suddenly empty, and from there to the compiler.

mod dns;
#[cfg(test)]
mod fake_dns;
mod http;
pub mod state;
mod targets;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_core::future::BoxFuture;

use crate::compile::ResolvedEndpoint;
use sidestep_proto::code::{self, Code};

/// What a look at a source gives.
pub type Look = Result<Vec<ResolvedEndpoint>, LookError>;

/// Tells where a service runs.
pub trait EndpointSource: Send + 'static {
    /// The list as it is now. The first call answers as soon as it can, later ones when it is time
    /// to look again: the source knows best when that is, after a failure too. The order of the
    /// list means nothing.
    fn next(&mut self) -> BoxFuture<'_, Look>;
}

/// All kinds of living sources.
pub(crate) const KINDS: &[Kind] = &[dns::KIND, targets::KIND];

/// A kind of living source, as the mesh file knows it.
pub(crate) struct Kind {
    /// Its key under `endpoints`.
    pub(crate) key: &'static str,
    /// One line for editors.
    pub(crate) about: &'static str,
    /// Whether its endpoints can have versions.
    pub(crate) tells_versions: bool,
    /// Reads what is written after the key in a mesh file; the answer is [`SourceId::locator`].
    pub(crate) read: fn(&str, &Path) -> Result<String, Misspelt>,
    /// Makes the source of a locator. Asks nothing yet.
    pub(crate) open: fn(&str, &LookOptions) -> Box<dyn EndpointSource>,
    /// What can be said about a locator without the network, for `sidestep check`; `None`:
    /// nothing.
    pub(crate) peek: fn(&str) -> Option<Look>,
}

/// Why a source cannot be what is written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misspelt {
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// Names a living source: its kind and where it is. Services that name the same one share it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId {
    /// The key under `endpoints`: `dns` or `targets`.
    pub kind: &'static str,
    /// `NAME:PORT`, `_service._tcp.NAME`, an URL, or the path of a file (relative ones are
    /// relative to the mesh file).
    pub locator: String,
}

impl SourceId {
    pub(crate) fn kind(&self) -> &'static Kind {
        let mut kinds = KINDS.iter();
        kinds
            .find(|kind| kind.key == self.kind)
            .expect("only the parser makes ids, from that list")
    }
}

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.locator)
    }
}

/// How sources look. The defaults are for all but tests.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct LookOptions {
    /// The name server to ask; `None`: those of the system's configuration.
    pub name_server: Option<SocketAddr>,
    /// Bounds of the time for which a DNS answer counts, whatever its TTL.
    pub ttl: (Duration, Duration),
    /// Between two readings of targets that nothing reports as changed.
    pub poll: Duration,
    /// Pause after a failure, doubled from the first to the second with each further one.
    pub retry: (Duration, Duration),
    /// Longest time of one look.
    pub patience: Duration,
    /// How long an edit waits for the first answers of the sources that are new in it.
    pub first_answer: Duration,
}

impl Default for LookOptions {
    fn default() -> Self {
        Self {
            name_server: None,
            ttl: (Duration::from_secs(1), Duration::from_secs(300)),
            poll: Duration::from_secs(10),
            retry: (Duration::from_secs(1), Duration::from_secs(30)),
            patience: Duration::from_secs(10),
            first_answer: Duration::from_secs(3),
        }
    }
}

impl LookOptions {
    /// The pause after the `failures`th failure in a row.
    fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = self.retry;
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1));
        first.saturating_mul(doubled).min(longest)
    }
}

impl LookError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoSuchName { .. } => code::SOURCE_NO_SUCH_NAME,
            Self::NoNameServer { .. }
            | Self::Lookup { .. }
            | Self::Unreadable { .. }
            | Self::Unreachable { .. }
            | Self::BadStatus { .. }
            | Self::TooSlow { .. } => code::SOURCE_UNREACHABLE,
            Self::NotTargets { .. }
            | Self::BadTarget { .. }
            | Self::TooMany { .. }
            | Self::TooHeavy { .. } => code::SOURCE_CONTENT,
        }
    }
}

/// Why a source has told nothing this time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// The system does not say which name servers there are.
    #[error("no name server to ask: {reason}")]
    NoNameServer {
        /// What is wrong.
        reason: String,
    },
    /// The name does not exist (NXDOMAIN).
    #[error("the name {name} does not exist")]
    NoSuchName {
        /// Which.
        name: String,
    },
    /// The name servers did not answer, or with an error.
    #[error("asking for {name}: {reason}")]
    Lookup {
        /// For which name.
        name: String,
        /// What happened.
        reason: String,
    },
    /// A file cannot be read.
    #[error("{}: {reason}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// An HTTP server cannot be asked.
    #[error("{url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        reason: String,
    },
    /// An HTTP server answered with something else than 200.
    #[error("{url}: the answer has status {status}, expected 200")]
    BadStatus {
        /// Where.
        url: String,
        /// The status.
        status: u16,
    },
    /// What there is has not the form of targets: `[{"targets": ["h:p"], "labels": {}}]`.
    #[error("{origin}: not a list of targets: {reason}")]
    NotTargets {
        /// The file or URL.
        origin: String,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// One of the targets is wrong; the list is taken whole or not at all.
    #[error("{origin}: [{group}].{field}: {reason}")]
    BadTarget {
        /// The file or URL.
        origin: String,
        /// The group in the list, from 0.
        group: usize,
        /// `targets[0]`, `labels.weight`.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// More endpoints than a service can have.
    #[error("{found} endpoints are more than the {limit} that a source may tell")]
    TooMany {
        /// How many were told.
        found: usize,
        /// How many may be.
        limit: usize,
    },
    /// The weights of all endpoints do not fit the protocol's 32 bits.
    #[error("the weights add up to {sum}, more than {}", u32::MAX)]
    TooHeavy {
        /// Their sum.
        sum: u64,
    },
    /// No answer in time.
    #[error("no answer within {} s", after.as_secs_f32())]
    TooSlow {
        /// How long it was waited for.
        after: Duration,
    },
}

/// Endpoints that a source may tell.
const MOST: usize = 100_000;

/// Puts a list into the order in which lists are compared, without doublets.
fn normal(mut endpoints: Vec<ResolvedEndpoint>) -> Result<Vec<ResolvedEndpoint>, LookError> {
    endpoints.sort_unstable();
    endpoints.dedup();
    if endpoints.len() > MOST {
        return Err(LookError::TooMany {
            found: endpoints.len(),
            limit: MOST,
        });
    }
    let sum = endpoints.iter().map(|e| u64::from(e.weight)).sum();
    if sum > u64::from(u32::MAX) {
        return Err(LookError::TooHeavy { sum });
    }
    Ok(endpoints)
}
