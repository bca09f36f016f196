//! What is known of the host names that clusters and targets rest on, and who looks them up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidestep_proto::resource::{AddressFamilies, DnsLookup};

use super::{Input, WeakInbox};
use crate::resolver::{NameResolver, Pace, Refresh, ResolveError, Resolved};

/// An answer that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of one name that are taken.
const MOST: usize = 4096;

/// A host name and how it is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Host {
    /// Its name, or an IP address.
    pub(crate) name: Arc<str>,
    /// How.
    pub(crate) lookup: DnsLookup,
}

/// What is known of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing yet.
    Waiting,
    /// The last addresses found; at least one.
    Found(Arc<[IpAddr]>),
    /// None was ever found, and why not.
    Failed(ResolveError),
}

/// All names that something rests on.
pub(super) struct Names {
    inbox: WeakInbox,
    resolver: Arc<dyn NameResolver>,
    pace: Pace,
    entries: BTreeMap<Host, Entry>,
    timers: BTreeSet<(Instant, Host)>,
}

struct Entry {
    refresh: Refresh,
    known: Known,
    timer: Option<Instant>,
}

impl Names {
    pub(super) fn new(inbox: WeakInbox, resolver: Arc<dyn NameResolver>, pace: Pace) -> Self {
        Self {
            inbox,
            resolver,
            pace,
            entries: BTreeMap::new(),
            timers: BTreeSet::new(),
        }
    }

    /// What is known of a name.
    pub(super) fn find(&self, host: &Host) -> Known {
        let entry = self.entries.get(host);
        entry.map_or(Known::Waiting, |entry| entry.known.clone())
    }

    /// These are the names that something rests on now: new ones are looked up, others forgotten.
    pub(super) fn want(&mut self, hosts: BTreeSet<Host>) {
        let timers = &mut self.timers;
        self.entries.retain(|host, entry| {
            let stays = hosts.contains(host);
            if let Some(at) = entry.timer.filter(|_| !stays) {
                timers.remove(&(at, host.clone()));
            }
            stays
        });
        for host in hosts {
            if !self.entries.contains_key(&host) {
                self.look_up(host.clone());
                let entry = Entry {
                    refresh: Refresh::new(self.pace, host.lookup.refresh),
                    known: Known::Waiting,
                    timer: None,
                };
                self.entries.insert(host, entry);
            }
        }
    }

    /// A look-up has ended. Answers whether something else is known now.
    pub(super) fn found(
        &mut self,
        now: Instant,
        host: &Host,
        found: Result<Resolved, ResolveError>,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(host) else {
            return false;
        };
        let is_news = match found.and_then(|found| usable(found, host.lookup.families)) {
            Ok(Resolved { addresses, ttl }) => {
                entry.refresh.found(now, ttl);
                entry.known.take_over(addresses)
            }
            Err(error) => {
                tell(host, &error, entry.refresh.failures());
                entry.refresh.failed(now);
                entry.known.fail(error)
            }
        };
        self.schedule(host);
        is_news
    }

    /// A connection to an address of this name failed or was lost.
    pub(super) fn doubt(&mut self, now: Instant, host: &Host) {
        if let Some(entry) = self.entries.get_mut(host) {
            entry.refresh.doubt(now);
            self.schedule(host);
        }
    }

    /// When [`Names::handle_timeout`] wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Looks up what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, host)) = self.timers.pop_first() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&host) else {
                continue;
            };
            entry.timer = None;
            if entry.refresh.handle_timeout(now) {
                self.look_up(host);
            } else {
                self.schedule(&host);
            }
        }
    }

    fn schedule(&mut self, host: &Host) {
        let Some(entry) = self.entries.get_mut(host) else {
            return;
        };
        let next = entry.refresh.next_timeout();
        if entry.timer == next {
            return;
        }
        if let Some(at) = entry.timer {
            self.timers.remove(&(at, host.clone()));
        }
        if let Some(at) = next {
            self.timers.insert((at, host.clone()));
        }
        entry.timer = next;
    }

    fn look_up(&self, host: Host) {
        let (inbox, resolver) = (self.inbox.clone(), self.resolver.clone());
        tokio::spawn(async move {
            let answer = resolver.resolve(&host.name);
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            let found = answer.unwrap_or(Err(ResolveError::TimedOut(PATIENCE)));
            if let Some(inbox) = inbox.upgrade() {
                // Nobody needs the answer after the control task has ended.
                let _ = inbox.send(Input::Found { host, found });
            }
        });
    }
}

impl Known {
    /// Name servers turn their answers round: the same addresses in another order are no news, and
    /// those that stay keep their places.
    fn take_over(&mut self, found: Vec<IpAddr>) -> bool {
        let before = match self {
            Self::Found(before) => &**before,
            Self::Waiting | Self::Failed(_) => &[],
        };
        let now: BTreeSet<IpAddr> = found.iter().copied().collect();
        let known: BTreeSet<IpAddr> = before.iter().copied().collect();
        if now == known {
            return false;
        }
        let stay = before.iter().copied().filter(|ip| now.contains(ip));
        let come = found.into_iter().filter(|ip| !known.contains(ip));
        *self = Self::Found(stay.chain(come).collect());
        true
    }

    /// What was found last stays in use.
    fn fail(&mut self, error: ResolveError) -> bool {
        let is_news = match self {
            Self::Waiting => true,
            Self::Found(_) => false,
            Self::Failed(last) => *last != error,
        };
        if is_news {
            *self = Self::Failed(error);
        }
        is_news
    }
}

/// The addresses that count; an error if there is none or if there are too many.
fn usable(found: Resolved, families: AddressFamilies) -> Result<Resolved, ResolveError> {
    let Resolved { mut addresses, ttl } = found;
    let has_v4 = addresses.iter().any(IpAddr::is_ipv4);
    match families {
        AddressFamilies::All => {}
        AddressFamilies::V4Only => addresses.retain(IpAddr::is_ipv4),
        AddressFamilies::V6Only => addresses.retain(IpAddr::is_ipv6),
        AddressFamilies::V4Preferred if has_v4 => addresses.retain(IpAddr::is_ipv4),
        AddressFamilies::V4Preferred => {}
    }
    match addresses.len() {
        0 => Err(ResolveError::NoAddress),
        found if found > MOST => Err(ResolveError::TooMany { found, most: MOST }),
        _ => Ok(Resolved { addresses, ttl }),
    }
}

fn tell(host: &Host, error: &ResolveError, failures: u32) {
    let (name, code) = (&*host.name, error.code());
    // A warning once, not with every try.
    if failures == 0 {
        tracing::warn!(
            target: "sidestep::config", %code, name, reason = %error, "lookup failed"
        );
    } else {
        tracing::debug!(
            target: "sidestep::config", %code, name, reason = %error, failures, "lookup failed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &[&str]) -> Vec<IpAddr> {
        text.iter()
            .map(|ip| ip.parse().expect("an address"))
            .collect()
    }

    #[test]
    fn an_answer_in_another_order_is_no_news() {
        let mut known = Known::Waiting;
        assert!(known.take_over(ips(&["10.0.0.1", "10.0.0.2"])));
        assert!(!known.take_over(ips(&["10.0.0.2", "10.0.0.1"])));
        assert!(known.take_over(ips(&["10.0.0.3", "10.0.0.2", "10.0.0.1"])));
        let expected = ips(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        assert_eq!(known, Known::Found(expected.into()));
    }

    #[test]
    fn what_was_found_stays_when_a_later_look_up_fails() {
        let mut known = Known::Waiting;
        assert!(known.fail(ResolveError::NoSuchName));
        assert!(!known.fail(ResolveError::NoSuchName));
        assert!(known.fail(ResolveError::NoAddress));
        assert!(known.take_over(ips(&["10.0.0.1"])));
        assert!(!known.fail(ResolveError::NoSuchName));
        assert_eq!(known, Known::Found(ips(&["10.0.0.1"]).into()));
    }

    #[test]
    fn families_are_chosen_and_numbers_are_bounded() {
        let both = ["10.0.0.1", "fd00::1"];
        let of = |all: &[&str], families| {
            let found = Resolved {
                addresses: ips(all),
                ttl: None,
            };
            usable(found, families).map(|found| found.addresses)
        };
        use AddressFamilies::{All, V4Only, V4Preferred, V6Only};
        for (all, families, expected) in [
            (&both[..], All, &both[..]),
            (&both, V4Only, &both[..1]),
            (&both, V6Only, &both[1..]),
            (&both, V4Preferred, &both[..1]),
            (&both[1..], V4Preferred, &both[1..]),
        ] {
            assert_eq!(of(all, families), Ok(ips(expected)), "{families:?}");
        }
        assert_eq!(of(&both[1..], V4Only), Err(ResolveError::NoAddress));
        assert_eq!(of(&[], All), Err(ResolveError::NoAddress));
        let many: Vec<String> = (0..=MOST)
            .map(|n| format!("10.0.{}.{}", n / 256, n % 256))
            .collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(of(&many[..MOST], All).is_ok());
        assert_eq!(
            of(&many, All),
            Err(ResolveError::TooMany {
                found: MOST + 1,
                most: MOST
            })
        );
    }
}
