//! Targets and clusters that are names or addresses, not xDS resources.

#[cfg(feature = "hickory-dns")]
mod dns;
mod refresh;
mod static_;
mod system;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_core::future::BoxFuture;
use sidestep_proto::code::{self, Code};
use sidestep_proto::resource::{Address, LbPolicy};

#[cfg(feature = "hickory-dns")]
pub use dns::Dns;
pub use refresh::{Pace, Refresh};
pub use static_::TargetError;
pub use system::System;

/// Looks host names up: [`System`], with the cargo feature `hickory-dns` `Dns`, or what
/// [`MeshBuilder::name_resolver`](crate::MeshBuilder::name_resolver) is given.
pub trait NameResolver: Send + Sync + fmt::Debug {
    /// All addresses of `host`, most preferred first. `host` may be an IP address in text, which
    /// stands for itself. An answer that takes longer than 10 s is not waited for.
    ///
    /// # Errors
    /// There is none, or nobody knows.
    fn resolve(&self, host: &str) -> BoxFuture<'static, Result<Resolved, ResolveError>>;
}

/// What was found under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Most preferred first. None is the same as [`ResolveError::NoAddress`].
    pub addresses: Vec<IpAddr>,
    /// How long that counts; `None` if nothing says so, and then it is 30 s.
    pub ttl: Option<Duration>,
}

/// Why nothing was found under a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// There is no such name.
    #[error("there is no such name")]
    NoSuchName,
    /// The name is there, but has no address of the family asked for.
    #[error("it has no address")]
    NoAddress,
    /// There are more addresses than are taken.
    #[error("it has {found} addresses, and more than {most} are not taken")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many may be.
        most: usize,
    },
    /// Nobody answered in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Nobody could be asked, or the answer was none.
    #[error("{0}")]
    Failed(String),
}

impl ResolveError {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoSuchName | Self::TimedOut(_) | Self::Failed(_) => code::NAME_NOT_RESOLVED,
            Self::NoAddress => code::NAME_WITHOUT_ADDRESS,
            Self::TooMany { .. } => code::NAME_WITH_TOO_MANY_ADDRESSES,
        }
    }
}

/// Who is asked where nobody else is named: the system's name servers by DNS if the cargo feature
/// `hickory-dns` is on, otherwise the system's resolver.
pub(crate) fn default() -> Arc<dyn NameResolver> {
    #[cfg(feature = "hickory-dns")]
    return Arc::new(Dns::system());
    #[cfg(not(feature = "hickory-dns"))]
    return Arc::new(System::new());
}

/// All addresses of `host` with this port, as a mesh finds them by default.
///
/// # Errors
/// As [`NameResolver::resolve`].
pub async fn lookup(host: &str, port: u16) -> Result<Vec<Address>, ResolveError> {
    let found = default().resolve(host).await?.addresses;
    Ok(with_port(&found, port).collect())
}

/// Addresses to connect to.
pub(crate) fn with_port(addresses: &[IpAddr], port: u16) -> impl Iterator<Item = Address> {
    let sockets = addresses.iter().map(move |ip| SocketAddr::new(*ip, port));
    sockets.map(Address::Tcp)
}

/// A target that needs no control plane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DirectTarget {
    /// Where to connect.
    pub place: Place,
    /// How calls are spread over the addresses. gRPC's default is pick-first.
    pub lb_policy: LbPolicy,
    /// How the connection is secured.
    pub transport: Transport,
    authority: String,
}

/// How connections to a target without a control plane are secured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Nothing is said: plaintext, and only where the builder's policy allows it.
    #[default]
    Unsaid,
    /// Plaintext in so many words (`http://` of an `or_direct`), to any peer.
    Plaintext,
    /// TLS to the host that is named, by the platform's roots (`https://` of an `or_direct`).
    Tls,
}

/// Where a direct target leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Place {
    /// These very addresses: `ipv4:`, `ipv6:`, `unix:`, or an IP address with a port. Not empty.
    Addresses(Vec<Address>),
    /// All addresses of a name, looked up again when connections fail: `dns:` or `host:port`.
    Name {
        /// To be looked up.
        host: String,
        /// Of every address found.
        port: u16,
    },
}

impl DirectTarget {
    /// Spreads calls by another policy.
    #[must_use]
    pub fn with_policy(mut self, lb_policy: LbPolicy) -> Self {
        self.lb_policy = lb_policy;
        self
    }

    /// Secures the connection in another way.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// What `:authority` is when the caller does not say: the name as dialled, `localhost` for
    /// Unix sockets, as other gRPC clients send it.
    #[must_use]
    pub fn authority(&self) -> String {
        self.authority.clone()
    }

    /// The name that a certificate would have to carry; empty for addresses.
    pub fn host(&self) -> &str {
        match &self.place {
            Place::Name { host, .. } => host,
            Place::Addresses(_) => "",
        }
    }
}

impl fmt::Display for DirectTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Name { host, port } => write!(f, "dns:///{host}:{port}"),
            Place::Addresses(addresses) => {
                for (index, address) in addresses.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{address}")?;
                }
                Ok(())
            }
        }
    }
}
