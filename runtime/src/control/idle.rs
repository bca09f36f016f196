//! When a cluster without calls gives its connections up. Pure.
//!
//! Calls only leave a mark; it is looked at a few times in the time-out. So a call costs nothing
//! that is contended, and a cluster sleeps after its time-out and at most a quarter more.

use std::time::{Duration, Instant};

/// How often the mark is looked at in one time-out.
const LOOKS: u32 = 4;

/// Whether one cluster is in use.
#[derive(Debug)]
pub(super) struct Idleness {
    timeout: Option<Duration>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is nothing to give up yet.
    Unused,
    Awake {
        /// No call was seen since.
        quiet_since: Instant,
        /// When the mark is looked at again.
        look: Instant,
    },
    Asleep,
}

impl Idleness {
    /// `None`: it never sleeps.
    pub(super) fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout: timeout.filter(|timeout| !timeout.is_zero()),
            state: State::Unused,
        }
    }

    /// It has something to give up, from now on if it had not before.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.state == State::Unused {
            self.wake(now);
        }
    }

    /// A call wants it, or what it may hold has changed.
    pub(super) fn wake(&mut self, now: Instant) {
        self.state = match self.timeout {
            None => State::Unused,
            Some(timeout) => State::Awake {
                quiet_since: now,
                look: now + timeout / LOOKS,
            },
        };
    }

    /// It has nothing to give up any more.
    pub(super) fn end(&mut self) {
        self.state = State::Unused;
    }

    pub(super) fn is_asleep(&self) -> bool {
        self.state == State::Asleep
    }

    /// When [`Self::look`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Awake { look, .. } => Some(look),
            State::Unused | State::Asleep => None,
        }
    }

    /// Whether it falls asleep. `used`: whether there was a call since the last look, or is one.
    pub(super) fn look(&mut self, now: Instant, used: impl FnOnce() -> bool) -> bool {
        let (State::Awake { quiet_since, look }, Some(timeout)) = (self.state, self.timeout) else {
            return false;
        };
        if now < look {
            return false;
        }
        let quiet_since = if used() { now } else { quiet_since };
        let sleeps = now >= quiet_since + timeout;
        self.state = match sleeps {
            true => State::Asleep,
            false => State::Awake {
                quiet_since,
                look: now + timeout / LOOKS,
            },
        };
        sleeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// After how many quarters of an hour it sleeps, if calls are seen as given at each look.
    fn sleeps_after(seen: &[bool]) -> Option<usize> {
        let start = Instant::now();
        let mut idleness = Idleness::new(Some(HOUR));
        idleness.begin(start);
        let mut looks = 0;
        loop {
            let now = idleness.next_timeout()?;
            assert_eq!(now, start + HOUR * (looks as u32 + 1) / 4);
            assert!(!idleness.look(now - Duration::from_millis(1), || panic!("too early")));
            let used = *seen.get(looks)?;
            looks += 1;
            if idleness.look(now, || used) {
                assert!(idleness.is_asleep());
                assert_eq!(idleness.next_timeout(), None);
                return Some(looks);
            }
        }
    }

    #[test]
    fn it_sleeps_after_its_time_out_without_a_call() {
        let rows: &[(&[bool], Option<usize>)] = &[
            (&[false; 8], Some(4)),
            (&[true, false, false, false, false, false], Some(5)),
            (
                &[false, false, false, true, false, false, false, false],
                Some(8),
            ),
            (&[true; 20], None),
        ];
        for (seen, expected) in rows {
            assert_eq!(sleeps_after(seen), *expected, "{seen:?}");
        }
    }

    #[test]
    fn it_sleeps_again_after_it_was_woken() {
        let mut now = Instant::now();
        let mut idleness = Idleness::new(Some(HOUR));
        idleness.begin(now);
        for _ in 0..2 {
            while !idleness.is_asleep() {
                now = idleness.next_timeout().unwrap();
                idleness.look(now, || false);
            }
            idleness.begin(now);
            assert!(idleness.is_asleep(), "an update does not wake it");
            idleness.wake(now);
        }
    }

    #[test]
    fn without_a_time_out_it_never_sleeps() {
        for timeout in [None, Some(Duration::ZERO)] {
            let mut idleness = Idleness::new(timeout);
            idleness.begin(Instant::now());
            assert_eq!(idleness.next_timeout(), None);
        }
    }
}
