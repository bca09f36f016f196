//! Targets and clusters that are names or addresses, not xDS resources.

mod dns;
mod static_;

use std::fmt;

use sidestep_proto::resource::{Address, LbPolicy};

pub use static_::TargetError;

pub use dns::lookup;

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
