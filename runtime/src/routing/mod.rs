//! From a request to a route: compiled once per configuration, asked once per call.
//!
//! Pure: no socket, clock, lock or allocation on the way of [`RouteTable::find`]; the one exception
//! is a header that a call carries more than once and a route looks at.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod explain;
mod hash;
mod header;
mod host;
mod path;
mod random;
mod rule;
mod session;
mod subset;
mod table;
mod trie;
mod weighted;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use sidestep_proto::resource::{RetryPolicy, VirtualHost};

pub use explain::{Explanation, Tried};
pub use hash::HashRule;
pub use random::{Purpose, below, draw};
pub use rule::{Mismatch, Route};
pub use session::{Buffer, Found, SessionRule, Sticky, Told};
pub use subset::{Asked, Criteria, hash as hash_labels};
pub use table::{Around, RouteTable};
pub(crate) use weighted::has_sessions;

/// The virtual host for `authority` (gRFC A27), of a configuration that is not compiled.
#[must_use]
pub(crate) fn virtual_host<'a>(
    hosts: &'a [VirtualHost],
    authority: &str,
) -> Option<&'a VirtualHost> {
    let mut index = host::HostIndex::default();
    for (place, host) in hosts.iter().enumerate() {
        for domain in &host.domains {
            index.insert(domain, place);
        }
    }
    hosts.get(index.find(authority)?)
}

/// All that a route (or a picker) may see of a call. Borrowed: finding a route copies nothing.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `:authority`, as dialled; selects the virtual host.
    pub authority: &'a str,
    /// `/package.Service/Method`.
    pub path: &'a str,
    /// Custom metadata.
    pub headers: &'a HeaderMap,
    /// Drawn once per call; every random decision of the call derives from it.
    pub random: u64,
    /// Calls with the same one meet the same endpoint under policies that pick by hash. `random`
    /// unless the route's hash policies found something.
    pub hash: u64,
    /// The session that it belongs to; `None` where the route has no sessions.
    pub session: Option<Sticky<'a>>,
    /// What it asks of endpoints; `None` where the route asks for nothing.
    pub subset: Option<&'a Criteria>,
}

/// Index of a cluster in its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClusterIndex(pub u32);

/// What the matched route does, resolved: cluster names are indices already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A client's action.
    Forward(Forward),
    /// A server's action: its own handler answers.
    NonForwarding,
    /// The call fails `UNAVAILABLE`.
    Unsupported,
}

/// Where a call goes and what bounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Cumulative weights, ascending, with the cluster of each share. One entry: no draw is made.
    pub clusters: Box<[(u64, ClusterIndex)]>,
    /// gRFC A31, already reduced to one rule.
    pub timeout: RouteTimeout,
    /// The same as `grpc-timeout` says it, so that no call has to write it.
    grpc_timeout: Option<HeaderValue>,
    /// When and how the call is tried again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// What the call is hashed by.
    pub hash: HashRule,
    /// How the calls of each share keep to an endpoint; `None` where none do.
    pub sessions: Option<Box<[Option<Arc<SessionRule>>]>>,
    /// What the calls of each share ask of endpoints; `None` where none do.
    pub subsets: Option<Box<[Option<Arc<Criteria>>]>>,
}

/// The bound that a route puts on a call (gRFC A31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTimeout {
    /// The application's deadline alone.
    Application,
    /// The smaller of this and the application's deadline.
    AtMost(Duration),
}
