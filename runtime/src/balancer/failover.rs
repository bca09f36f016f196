//! Which of several in order of preference takes the calls (gRFC A56, A115): of a cluster's
//! priorities, or of an aggregate's clusters.
//!
//! ```text
//!   a candidate is made when the choice first comes to it, its failover timer (10 s) running
//!
//!   the timer   stops   when the candidate is ready, idle or failing
//!               starts  again when it connects and was ready or idle since it last failed
//!
//!   in use: the first candidate that is ready or idle            (lower ones are deactivated)
//!           else the first whose timer runs                      (it may still make it)
//!           else the first that is connecting, else the last
//! ```
//!
//! A deactivated candidate is kept for 15 minutes, so that a short return to it costs nothing.

use std::time::{Duration, Instant};

use super::Connectivity;

/// How long a candidate may try before the next one is used.
pub(super) const FAILOVER: Duration = Duration::from_secs(10);
/// How long an unused candidate is kept.
pub(super) const RETENTION: Duration = Duration::from_secs(15 * 60);

/// One that calls may go to, and how long it is waited for.
#[derive(Debug)]
pub(crate) struct Candidate {
    state: State,
    failover: Option<Instant>,
    /// Whether it was ready or idle since it last failed.
    was_usable: bool,
    /// When it is given up, while it is deactivated.
    expires: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Usable,
    Connecting,
    Failing,
}

impl Candidate {
    /// It begins to connect now.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            state: State::Connecting,
            failover: Some(now + FAILOVER),
            was_usable: false,
            expires: None,
        }
    }

    /// What it is like now. To hear the same again changes nothing.
    pub(crate) fn heard(&mut self, now: Instant, connectivity: &Connectivity) {
        self.state = match connectivity {
            Connectivity::Ready | Connectivity::Idle => State::Usable,
            Connectivity::Connecting => State::Connecting,
            Connectivity::TransientFailure(_) => State::Failing,
        };
        match self.state {
            State::Usable => {
                self.was_usable = true;
                self.failover = None;
            }
            State::Failing => {
                self.was_usable = false;
                self.failover = None;
            }
            State::Connecting if self.was_usable && self.failover.is_none() => {
                self.failover = Some(now + FAILOVER);
            }
            State::Connecting => {}
        }
    }

    /// When it is to be given up; `None`: it is needed.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// When [`Candidate::handle_timeout`] wants to be called.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.failover.into_iter().chain(self.expires).min()
    }

    /// Whether it is kept: `false` once nobody has needed it for long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.failover.is_some_and(|at| at <= now) {
            self.failover = None;
            self.was_usable = false;
        }
        self.expires.is_none_or(|at| at > now)
    }
}

/// What comes next, by a candidate's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It is to be made; then [`choose`] again.
    Make(usize),
    /// Calls go there.
    Use(usize, Why),
}

/// Why calls go where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is the first that is ready, or would be at the first call.
    Usable,
    /// It is connecting, and still has time for it.
    HasTime,
    /// None is ready and none has time left; it is the first that is still connecting.
    StillConnecting,
    /// All fail; it is the last.
    LastResort,
}

impl Why {
    /// For people.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Usable => "the first that can take calls",
            Self::HasTime => "it is connecting, and has time left for that",
            Self::StillConnecting => "none can take calls, and it is still connecting",
            Self::LastResort => "all fail, and it is the last",
        }
    }
}

/// Who takes calls, of candidates most preferred first (`None`: not made yet); `None` if there is
/// none at all.
pub(crate) fn choose<'a>(
    now: Instant,
    mut candidates: impl Iterator<Item = Option<&'a mut Candidate>>,
) -> Option<Choice> {
    let mut resort = None;
    let mut at = 0;
    while let Some(candidate) = candidates.next() {
        let Some(candidate) = candidate else {
            return Some(Choice::Make(at));
        };
        candidate.expires = None;
        if candidate.state == State::Usable {
            for below in candidates.flatten() {
                below.expires.get_or_insert(now + RETENTION);
            }
            return Some(Choice::Use(at, Why::Usable));
        }
        if candidate.failover.is_some() {
            return Some(Choice::Use(at, Why::HasTime));
        }
        resort = match (resort, candidate.state) {
            (Some((first, Why::StillConnecting)), _) => Some((first, Why::StillConnecting)),
            (_, State::Connecting) => Some((at, Why::StillConnecting)),
            _ => Some((at, Why::LastResort)),
        };
        at += 1;
    }
    resort.map(|(at, why)| Choice::Use(at, why))
}
