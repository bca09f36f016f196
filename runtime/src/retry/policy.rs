//! Decides over retries: values in, a decision out (gRFC A6, A44).
//!
//! | attempt ended              | what happens                                                   |
//! |----------------------------|----------------------------------------------------------------|
//! | never sent                 | at once, then with growing pauses, up to 64 times; not counted |
//! | refused by a server unread | at once, the first time; not counted                           |
//! | with a status              | by the route's policy, if there is one                         |
//! | dropped by load shedding   | final                                                          |
//!
//! So without a policy only calls that no server has begun are repeated. Refused or never sent
//! beyond these bounds counts as `UNAVAILABLE`. Once the response has begun, or the request can no
//! longer be replayed, the attempt is committed and everything is final.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::time::{Duration, Instant};

use sidestep_proto::resource::RetryPolicy;

use super::backoff;
use crate::routing::{Purpose, draw};

/// How often a call that was never sent is tried again. gRPC sets no bound but the deadline; this
/// one only ends a call without deadline whose connections all break under it.
const NEVER_SENT_LIMIT: u32 = 64;
/// So many of those without a pause.
const NEVER_SENT_AT_ONCE: u32 = 3;
/// gRPC's `UNAVAILABLE`.
const UNAVAILABLE: u32 = 14;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Nothing of it was written to a connection.
    NeverSent,
    /// The server says that it has not begun it: `REFUSED_STREAM`, or above the last stream id of
    /// a `GOAWAY`.
    Refused,
    /// With a status, the server's or our own.
    Ended {
        /// gRPC status code.
        code: u32,
        /// Value of `grpc-retry-pushback-ms`.
        pushback: Option<&'a [u8]>,
    },
    /// Dropped by a drop category or refused by the circuit breaker.
    Dropped,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this long.
    Retry {
        /// Zero is at once.
        after: Duration,
    },
    /// The outcome is final.
    GiveUp,
}

/// The retries of one call.
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    /// Attempts that count, the first one included.
    attempts: u32,
    /// Retries since the last pushback: the position in the backoff.
    since_pushback: u32,
    never_sent: u32,
    refused: bool,
    random: u64,
}

impl Retries {
    /// Before the first attempt has ended; `random` is the call's.
    #[must_use]
    pub fn new(random: u64) -> Self {
        Self {
            attempts: 1,
            since_pushback: 0,
            never_sent: 0,
            refused: false,
            random,
        }
    }

    /// Value of `grpc-previous-rpc-attempts` for the next attempt; 0 is not sent.
    #[must_use]
    pub fn previous_attempts(&self) -> u32 {
        self.attempts - 1
    }

    /// What follows an attempt that ended with `outcome`.
    ///
    /// `committed`: the response has begun, or the request cannot be sent again. No retry is made
    /// that could only start at the call's `deadline` or later.
    pub fn decide(
        &mut self,
        policy: Option<&RetryPolicy>,
        outcome: Outcome<'_>,
        committed: bool,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Decision {
        let before = *self;
        let after = match outcome {
            _ if committed => None,
            Outcome::Dropped => None,
            Outcome::NeverSent if self.never_sent < NEVER_SENT_LIMIT => Some(self.send_again()),
            Outcome::Refused if !self.refused => {
                self.refused = true;
                Some(Duration::ZERO)
            }
            Outcome::NeverSent | Outcome::Refused => self.by_policy(policy, UNAVAILABLE, None),
            Outcome::Ended { code, pushback } => self.by_policy(policy, code, pushback),
        };
        let in_time = |after: &Duration| deadline.is_none_or(|at| now + *after < at);
        match after.filter(in_time) {
            Some(after) => Decision::Retry { after },
            None => {
                *self = before;
                Decision::GiveUp
            }
        }
    }

    /// The pause before a call that was never sent is tried again: none at first, then 1 ms
    /// doubling up to 64 ms.
    fn send_again(&mut self) -> Duration {
        self.never_sent += 1;
        match self.never_sent.checked_sub(NEVER_SENT_AT_ONCE + 1) {
            None => Duration::ZERO,
            Some(slow) => Duration::from_millis(1 << slow.min(6)),
        }
    }

    fn by_policy(
        &mut self,
        policy: Option<&RetryPolicy>,
        code: u32,
        pushback: Option<&[u8]>,
    ) -> Option<Duration> {
        let policy = policy.filter(|p| p.on.contains(code) && self.attempts < p.max_attempts)?;
        let after = match pushback {
            Some(value) => {
                let exactly = milliseconds(value)?;
                self.since_pushback = 0;
                exactly
            }
            None => {
                self.since_pushback += 1;
                let random = draw(self.random, Purpose::Backoff(self.attempts));
                backoff::delay(policy, self.since_pushback, random)
            }
        };
        self.attempts += 1;
        Some(after)
    }
}

/// Reads a pushback; negative or not a number forbids a retry.
fn milliseconds(value: &[u8]) -> Option<Duration> {
    // The header is a signed 32-bit number.
    let number: i32 = std::str::from_utf8(value).ok()?.parse().ok()?;
    u64::try_from(number).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::RetryOn;

    use super::*;

    fn policy(max_attempts: u32) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse("unavailable"),
            max_attempts,
            base_interval: Duration::from_millis(100),
            max_interval: Duration::from_secs(1),
        }
    }

    fn ended(code: u32, pushback: Option<&str>) -> Outcome<'_> {
        let pushback = pushback.map(str::as_bytes);
        Outcome::Ended { code, pushback }
    }

    fn now() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "there is no other way to make one"
        )]
        Instant::now()
    }

    /// Milliseconds until the retry, if there is one.
    fn decide(
        retries: &mut Retries,
        policy: Option<&RetryPolicy>,
        outcome: Outcome<'_>,
    ) -> Option<u128> {
        match retries.decide(policy, outcome, false, now(), None) {
            Decision::Retry { after } => Some(after.as_millis()),
            Decision::GiveUp => None,
        }
    }

    #[test]
    fn first_decision_table() {
        let policy = policy(3);
        let pushed = |text| ended(14, Some(text));
        // outcome, retried without a policy, retried with one
        let table = [
            (Outcome::NeverSent, true, true),
            (Outcome::Refused, true, true),
            (Outcome::Dropped, false, false),
            (ended(14, None), false, true),
            (ended(13, None), false, false),
            (ended(0, None), false, false),
            (pushed("0"), false, true),
            (pushed("-1"), false, false),
            (pushed("soon"), false, false),
            (pushed(""), false, false),
            (pushed("99999999999"), false, false),
            (ended(13, Some("0")), false, false),
        ];
        for (outcome, without, with) in table {
            let retried = |policy| decide(&mut Retries::new(1), policy, outcome).is_some();
            assert_eq!(retried(None), without, "{outcome:?} without a policy");
            assert_eq!(retried(Some(&policy)), with, "{outcome:?} with a policy");
            let committed = Retries::new(1).decide(Some(&policy), outcome, true, now(), None);
            assert_eq!(committed, Decision::GiveUp, "{outcome:?} committed");
        }
    }

    #[test]
    fn attempts_are_bounded_and_backoff_grows() {
        let policy = policy(3);
        let mut retries = Retries::new(1);
        let mut next = || decide(&mut retries, Some(&policy), ended(14, None));
        assert!(next().is_some_and(|ms| (80..=120).contains(&ms)));
        assert!(next().is_some_and(|ms| (160..=240).contains(&ms)));
        assert_eq!(next(), None);
        assert_eq!(retries.previous_attempts(), 2);
    }

    #[test]
    fn pushback_is_exact_and_resets_the_backoff() {
        let policy = policy(5);
        let mut retries = Retries::new(1);
        let mut next = |pushback| decide(&mut retries, Some(&policy), ended(14, pushback));
        assert!(next(None).is_some());
        assert_eq!(next(Some("1234")), Some(1234));
        assert!(next(None).is_some_and(|ms| (80..=120).contains(&ms)));
    }

    #[test]
    fn transparent_retries_are_bounded_and_do_not_count() {
        let mut retries = Retries::new(1);
        let sent_again = (0..1_000)
            .take_while(|_| decide(&mut retries, None, Outcome::NeverSent).is_some())
            .count();
        assert_eq!(sent_again, 64);
        assert_eq!(decide(&mut retries, None, Outcome::Refused), Some(0));
        assert_eq!(decide(&mut retries, None, Outcome::Refused), None);
        assert_eq!(retries.previous_attempts(), 0);
        let policy = policy(2);
        assert!(decide(&mut retries, Some(&policy), Outcome::Refused).is_some());
        assert_eq!(retries.previous_attempts(), 1);
        assert_eq!(decide(&mut retries, Some(&policy), Outcome::Refused), None);
    }

    #[test]
    fn no_retry_starts_after_the_deadline() {
        let policy = policy(3);
        let now = now();
        let decide = |ms| {
            let deadline = Some(now + Duration::from_millis(ms));
            let outcome = ended(14, Some("50"));
            Retries::new(1).decide(Some(&policy), outcome, false, now, deadline)
        };
        assert_eq!(decide(50), Decision::GiveUp);
        let after = Duration::from_millis(50);
        assert_eq!(decide(51), Decision::Retry { after });
    }
}
