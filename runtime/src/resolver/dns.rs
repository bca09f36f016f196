//! Host names, by DNS of our own, which knows the TTL.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::future::BoxFuture;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};

use super::{NameResolver, ResolveError, Resolved, System};

/// Asks the system's name servers, as `/etc/resolv.conf` and `/etc/hosts` say, or one of its own.
///
/// Where the system's configuration cannot be read, the C library is asked, which does not tell
/// for how long an answer counts. Needs the cargo feature `hickory-dns`.
#[derive(Clone, Default)]
pub struct Dns {
    server: Option<SocketAddr>,
    /// Asked where the configuration cannot be read.
    by_the_system: System,
    /// Made when first needed, and again after a failure: the system's configuration may have
    /// changed.
    resolver: Arc<Mutex<Option<TokioResolver>>>,
}

impl Dns {
    /// As the system is configured.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// Asks this name server, by UDP, and by TCP what UDP cannot carry.
    #[must_use]
    pub fn at(server: SocketAddr) -> Self {
        Self {
            server: Some(server),
            ..Self::default()
        }
    }

    /// `None`: the system's configuration cannot be read.
    fn resolver(&self) -> Option<TokioResolver> {
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if resolver.is_none() {
            *resolver = self.make().ok();
        }
        resolver.clone()
    }

    fn forget(&self) {
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        *resolver = None;
    }

    fn make(&self) -> Result<TokioResolver, NetError> {
        let provider = TokioRuntimeProvider::default();
        let mut builder = match self.server {
            None => Resolver::builder(provider)?,
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                let server = NameServerConfig::new(server.ip(), true, connections.into());
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
                Resolver::builder_with_config(config, provider)
            }
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Answers count for their TTL by our own clock.
        options.cache_size = 0;
        builder.build()
    }

    async fn ask(self, host: String) -> Result<Resolved, ResolveError> {
        if let Ok(ip) = host.parse() {
            let addresses = vec![ip];
            return Ok(Resolved {
                addresses,
                ttl: None,
            });
        }
        let found = match self.resolver() {
            Some(resolver) => {
                let found = look_up(&resolver, &host).await;
                if found.is_err() {
                    self.forget();
                }
                found?
            }
            None => self.by_the_system.resolve(&host).await?,
        };
        Ok(Resolved {
            addresses: by_preference(found.addresses),
            ..found
        })
    }
}

impl NameResolver for Dns {
    fn resolve(&self, host: &str) -> BoxFuture<'static, Result<Resolved, ResolveError>> {
        Box::pin(self.clone().ask(host.to_owned()))
    }
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

async fn look_up(resolver: &TokioResolver, host: &str) -> Result<Resolved, ResolveError> {
    match resolver.lookup_ip(host).await {
        Ok(found) => {
            let records = found.as_lookup().answers().iter();
            let ttl = records.map(|record| record.ttl).min().unwrap_or(0);
            Ok(Resolved {
                addresses: found.iter().collect(),
                ttl: Some(Duration::from_secs(ttl.into())),
            })
        }
        Err(error) if error.is_nx_domain() => Err(ResolveError::NoSuchName),
        Err(error) if error.is_no_records_found() => Err(ResolveError::NoAddress),
        Err(error) => Err(ResolveError::Failed(error.to_string())),
    }
}

/// IPv6 before IPv4 (RFC 6724), but the family that this machine has no way to comes last. Within
/// a family in the order of the answer, each address once.
fn by_preference(found: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second): (Vec<_>, Vec<_>) = found.into_iter().partition(IpAddr::is_ipv6);
    if first.first().is_some_and(|ip| !has_route(*ip)) {
        std::mem::swap(&mut first, &mut second);
    }
    let mut ordered: Vec<IpAddr> = Vec::with_capacity(first.len() + second.len());
    let mut seen = std::collections::HashSet::new();
    ordered.extend(
        first
            .into_iter()
            .chain(second)
            .filter(|ip| seen.insert(*ip)),
    );
    ordered
}

/// Sends nothing: a datagram socket only looks up its way when it is connected.
fn has_route(to: IpAddr) -> bool {
    let local: SocketAddr = match to {
        IpAddr::V4(_) => ([0; 4], 0).into(),
        IpAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    UdpSocket::bind(local).is_ok_and(|socket| socket.connect((to, 9)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_of_every_machine_is_found() {
        let found = Dns::system().resolve("localhost").await;
        let found = found.expect("localhost resolves").addresses;
        assert!(
            !found.is_empty() && found.iter().all(IpAddr::is_loopback),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error() {
        let found = Dns::system().resolve("no-such-host.invalid").await;
        assert!(found.is_err(), "{found:?}");
    }

    #[tokio::test]
    async fn an_address_stands_for_itself() {
        // Nobody listens there, and nobody is asked.
        let dns = Dns::at(([127, 0, 0, 1], 1).into());
        for ip in ["192.0.2.7", "2001:db8::7"] {
            let found = dns.resolve(ip).await.expect("no question");
            assert_eq!(found.addresses, [ip.parse::<IpAddr>().expect("an address")]);
        }
    }

    #[test]
    fn families_come_one_after_the_other_and_no_address_twice() {
        let all = ["127.0.0.1", "::1", "127.0.0.2", "127.0.0.1", "::1"];
        let all = all.map(|ip| ip.parse().expect("an address")).to_vec();
        let ordered: Vec<String> = by_preference(all).iter().map(ToString::to_string).collect();
        let expected = match has_route(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])) {
            true => ["::1", "127.0.0.1", "127.0.0.2"],
            false => ["127.0.0.1", "127.0.0.2", "::1"],
        };
        assert_eq!(ordered, expected);
    }
}
