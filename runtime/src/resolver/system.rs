//! Host names, by the system's own resolver: `getaddrinfo`, so `/etc/hosts`, name services and
//! caches as for any other program of the machine.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;

use futures_core::future::BoxFuture;
use tokio::sync::Semaphore;

use super::{NameResolver, ResolveError, Resolved};

/// Each look-up holds a thread until the system has answered, even if nobody waits any more.
const MOST_AT_ONCE: usize = 16;

/// Asks the system's resolver on tokio's threads for blocking work, at most 16 names at a time.
///
/// The system does not tell for how long an answer counts, so that is 30 s, or `dns_refresh_rate`
/// where that is longer; a failed connection brings the next look-up forward. Addresses keep the
/// system's order (RFC 6724). What knows the TTL is `Dns`, behind the cargo feature `hickory-dns`.
#[derive(Debug, Clone)]
pub struct System {
    room: Arc<Semaphore>,
}

impl System {
    /// Asks nobody yet.
    #[must_use]
    pub fn new() -> Self {
        let room = Arc::new(Semaphore::new(MOST_AT_ONCE));
        Self { room }
    }

    async fn ask(self, host: String) -> Result<Resolved, ResolveError> {
        let failed = |error: &dyn ToString| ResolveError::Failed(error.to_string());
        let place = self.room.acquire_owned().await;
        let place = place.map_err(|closed| failed(&closed))?;
        let looking = tokio::task::spawn_blocking(move || {
            let found = look_up(&host);
            drop(place);
            found
        });
        let found = looking.await.map_err(|lost| failed(&lost))?;
        Ok(Resolved {
            addresses: found.map_err(|error| failed(&error))?,
            ttl: None,
        })
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new()
    }
}

impl NameResolver for System {
    fn resolve(&self, host: &str) -> BoxFuture<'static, Result<Resolved, ResolveError>> {
        Box::pin(self.clone().ask(host.to_owned()))
    }
}

/// Blocks. Each address once.
fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut seen = HashSet::new();
    let found = (host, 0).to_socket_addrs()?.map(|address| address.ip());
    Ok(found.filter(|ip| seen.insert(*ip)).collect())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_name_of_every_machine_is_found() {
        let found = System::new().resolve("localhost").await;
        let Resolved { addresses, ttl } = found.expect("localhost resolves");
        assert!(
            !addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback),
            "{addresses:?}"
        );
        assert_eq!(ttl, None);
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_is_an_error() {
        let found = System::new().resolve("no-such-host.invalid").await;
        assert!(found.is_err(), "{found:?}");
    }

    #[tokio::test]
    async fn an_address_stands_for_itself() {
        for ip in ["192.0.2.7", "2001:db8::7"] {
            let found = System::new().resolve(ip).await.expect("no question");
            assert_eq!(found.addresses, [ip.parse::<IpAddr>().expect("an address")]);
        }
    }

    #[tokio::test]
    async fn names_beyond_the_threads_wait_their_turn() {
        let system = System::new();
        let held = system
            .room
            .clone()
            .acquire_many_owned(MOST_AT_ONCE as u32)
            .await;
        let held = held.expect("it is never closed");
        let mut waiting = system.resolve("127.0.0.1");
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(held);
        assert!(waiting.await.is_ok());
    }
}
