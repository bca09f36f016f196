//! The race over the addresses of one endpoint (gRFC A61, after RFC 8305). Pure: `now` is an
//! argument.
//!
//! ```text
//!   start: the first ── 250 ms, or the last begun has failed ──> the next ── … ──> none is left
//! ```
//!
//! An address that fails late, when a later one is already tried, does not hurry the others.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sidestep_proto::resource::Address;

/// Between the begins of two tries (gRFC A61; RFC 8305 section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Who is tried when. Addresses are named by their place in the list that it was made of.
#[derive(Debug)]
pub struct Race {
    places: usize,
    /// The next place to try.
    next: usize,
    under_way: usize,
    /// When the next one starts though the one before has not failed.
    at: Option<Instant>,
}

impl Race {
    /// Over `places` addresses, of which none is tried yet.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self {
            places,
            next: 0,
            under_way: 0,
            at: None,
        }
    }

    /// The address to begin with now, if it is time for another one. Ask until it is `None`.
    pub fn poll(&mut self, now: Instant) -> Option<usize> {
        let due = self.at.is_none_or(|at| at <= now);
        if !due || self.next == self.places {
            return None;
        }
        self.next += 1;
        self.under_way += 1;
        self.at = (self.next < self.places).then(|| now + ATTEMPT_DELAY);
        Some(self.next - 1)
    }

    /// The try at this place has failed.
    pub fn failed(&mut self, place: usize) {
        self.under_way -= 1;
        if place + 1 == self.next {
            self.at = None;
        }
    }

    /// When [`Self::poll`] has another address without a failure before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.at
    }

    /// Whether every address was tried and has failed.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.next == self.places && self.under_way == 0
    }
}

/// The order in which addresses are tried: families take turns, beginning with the family of the
/// first; within a family the order stays (RFC 8305 section 4). A Unix socket is a family.
#[must_use]
pub fn interleaved(addresses: &[Address]) -> Vec<Address> {
    let order = interleave(addresses, family);
    order.into_iter().cloned().collect()
}

/// `all` with the families that `family` tells apart taking turns.
pub fn interleave<T, F: PartialEq>(all: &[T], family: impl Fn(&T) -> F) -> Vec<&T> {
    let mut families: Vec<(F, VecDeque<&T>)> = Vec::new();
    for one in all {
        let its = family(one);
        match families.iter_mut().find(|(other, _)| *other == its) {
            Some((_, members)) => members.push_back(one),
            None => families.push((its, VecDeque::from([one]))),
        }
    }
    let mut order = Vec::with_capacity(all.len());
    while order.len() < all.len() {
        let turn = families.iter_mut();
        order.extend(turn.filter_map(|(_, members)| members.pop_front()));
    }
    order
}

/// What takes turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4, also where it is written as IPv6.
    V4,
    /// IPv6.
    V6,
    /// A socket of this machine.
    Unix,
}

/// The family of an address.
#[must_use]
pub fn family(address: &Address) -> Family {
    match address {
        Address::Tcp(address) if address.ip().to_canonical().is_ipv4() => Family::V4,
        Address::Tcp(_) => Family::V6,
        Address::Unix(_) => Family::Unix,
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make an instant"
)]
mod tests {
    use super::*;

    /// What happens, and who is begun because of it.
    enum Event {
        /// This many milliseconds after the start.
        At(u64),
        Fails(usize),
    }
    use Event::{At, Fails};

    #[test]
    fn the_race() {
        type Row = (
            &'static str,
            usize,
            &'static [(Event, &'static [usize])],
            bool,
        );
        let rows: &[Row] = &[
            ("nobody", 0, &[(At(0), &[])], true),
            ("one", 1, &[(At(0), &[0]), (At(9_000), &[])], false),
            ("one fails", 1, &[(At(0), &[0]), (Fails(0), &[])], true),
            (
                "silence",
                3,
                &[
                    (At(0), &[0]),
                    (At(249), &[]),
                    (At(250), &[1]),
                    (At(499), &[]),
                    (At(500), &[2]),
                    (At(9_000), &[]),
                ],
                false,
            ),
            (
                "each fails at once",
                3,
                &[
                    (At(0), &[0]),
                    (Fails(0), &[1]),
                    (Fails(1), &[2]),
                    (Fails(2), &[]),
                ],
                true,
            ),
            (
                "a failure starts the delay anew",
                3,
                &[
                    (At(0), &[0]),
                    (At(200), &[]),
                    (Fails(0), &[1]),
                    (At(300), &[]),
                    (At(450), &[2]),
                ],
                false,
            ),
            (
                "a late failure hurries nobody",
                3,
                &[
                    (At(0), &[0]),
                    (At(250), &[1]),
                    (Fails(0), &[]),
                    (At(499), &[]),
                    (Fails(1), &[2]),
                    (Fails(2), &[]),
                ],
                true,
            ),
            (
                "lost only when the last one under way has failed",
                2,
                &[(At(0), &[0]), (At(250), &[1]), (Fails(1), &[])],
                false,
            ),
        ];
        for (name, places, events, lost) in rows {
            let start = Instant::now();
            let mut now = start;
            let mut race = Race::new(*places);
            for (step, (event, begun)) in events.iter().enumerate() {
                match event {
                    At(millis) => now = start + Duration::from_millis(*millis),
                    Fails(place) => race.failed(*place),
                }
                let polled: Vec<_> = std::iter::from_fn(|| race.poll(now)).collect();
                assert_eq!(polled, *begun, "{name}: step {step}");
            }
            assert_eq!(race.is_lost(), *lost, "{name}");
        }
    }

    #[test]
    fn a_time_out_is_named_while_somebody_waits() {
        let now = Instant::now();
        let mut race = Race::new(2);
        race.poll(now);
        assert_eq!(race.next_timeout(), Some(now + ATTEMPT_DELAY));
        race.poll(now + ATTEMPT_DELAY);
        assert_eq!(race.next_timeout(), None);
    }

    #[test]
    fn families_take_turns() {
        let rows: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&["1.1.1.1", "::1"], &["1.1.1.1", "::1"]),
            (
                &["::1", "::2", "1.1.1.1", "1.1.1.2"],
                &["::1", "1.1.1.1", "::2", "1.1.1.2"],
            ),
            (
                &["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"],
                &["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"],
            ),
            (
                &["::ffff:1.1.1.1", "1.1.1.2", "::1"],
                &["::ffff:1.1.1.1", "::1", "1.1.1.2"],
            ),
        ];
        let at = |ip: &&str| Address::Tcp((ip.parse::<std::net::IpAddr>().unwrap(), 1).into());
        for (given, expected) in rows {
            let given: Vec<_> = given.iter().map(at).collect();
            let expected: Vec<_> = expected.iter().map(at).collect();
            assert_eq!(interleaved(&given), expected);
        }
        let unix = Address::Unix("/s".into());
        let mixed = [at(&"::1"), at(&"::2"), unix.clone()];
        assert_eq!(interleaved(&mixed), [at(&"::1"), unix, at(&"::2")]);
    }
}
