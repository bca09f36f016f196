//! Whether a call is tried again (gRFC A6, A44). Pure.

use std::time::Duration;

use http::HeaderMap;
use sidestep_proto::resource::RetryPolicy;

use super::backoff;

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    code: u32,
    kind: Kind,
    pushback: Option<Pushback>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No server has begun with it: repeated without counting.
    Unbegun,
    /// It ended with a status and nothing else.
    Ended,
    /// The caller has seen a part of the answer.
    Committed,
}

/// `grpc-retry-pushback-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pushback {
    After(Duration),
    Never,
}

impl Outcome {
    /// Its gRPC status code.
    pub(crate) fn code(&self) -> u32 {
        self.code
    }

    /// Failed in this process or on the way.
    pub(crate) fn failed(code: u32) -> Self {
        Self {
            code,
            kind: Kind::Ended,
            pushback: None,
        }
    }

    /// Failed before any server began with it.
    pub(crate) fn unbegun(code: u32) -> Self {
        Self {
            code,
            kind: Kind::Unbegun,
            pushback: None,
        }
    }

    /// The server answered with a status and nothing else.
    pub(crate) fn answered(code: u32, headers: &HeaderMap) -> Self {
        Self {
            code,
            kind: Kind::Ended,
            pushback: pushback(headers),
        }
    }

    /// The server has begun an answer.
    pub(crate) fn committed() -> Self {
        Self {
            code: 0,
            kind: Kind::Committed,
            pushback: None,
        }
    }
}

/// Anything but a number of milliseconds means: do not try again.
fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let value = headers.get("grpc-retry-pushback-ms")?;
    let millis = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<u32>().ok());
    Some(millis.map_or(Pushback::Never, |millis| {
        Pushback::After(Duration::from_millis(u64::from(millis)))
    }))
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try again after so long.
    Retry {
        /// Zero: at once.
        after: Duration,
    },
    /// What came is the end.
    GiveUp,
}

/// Unbegun sends are repeated so often at the most: a peer that refuses everything must not keep
/// a call without a deadline going for ever.
const MOST_UNBEGUN: u32 = 32;

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Retries<'a> {
    policy: &'a RetryPolicy,
    counted: u32,
    unbegun: u32,
    /// Retries since the last pushback, which starts the backoff over.
    backoffs: u32,
    random: u64,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(policy: &'a RetryPolicy, random: u64) -> Self {
        Self {
            policy,
            counted: 0,
            unbegun: 0,
            backoffs: 0,
            random,
        }
    }

    /// `grpc-previous-rpc-attempts` of the next attempt.
    pub(crate) fn previous_attempts(&self) -> u32 {
        self.counted
    }

    /// An attempt ended so; `left` is what the deadline leaves.
    pub(crate) fn decide(&mut self, outcome: &Outcome, left: Option<Duration>) -> Decision {
        match outcome.kind {
            Kind::Committed => return Decision::GiveUp,
            Kind::Unbegun if self.unbegun < MOST_UNBEGUN => {
                self.unbegun += 1;
                return Decision::Retry {
                    after: Duration::ZERO,
                };
            }
            Kind::Unbegun | Kind::Ended => {}
        }
        self.counted += 1;
        if !self.policy.on.contains(outcome.code) || self.counted >= self.policy.max_attempts {
            return Decision::GiveUp;
        }
        let after = match outcome.pushback {
            Some(Pushback::Never) => return Decision::GiveUp,
            Some(Pushback::After(after)) => {
                self.backoffs = 0;
                after
            }
            None => self.backoff(),
        };
        // The deadline would pass first: the status at hand says more than DEADLINE_EXCEEDED.
        if left.is_some_and(|left| after >= left) {
            return Decision::GiveUp;
        }
        Decision::Retry { after }
    }

    /// Whether an attempt that ended so would be repeated if there were one more to make.
    pub(crate) fn exhausted(&self, outcome: &Outcome) -> bool {
        outcome.kind != Kind::Committed
            && self.policy.on.contains(outcome.code)
            && self.counted >= self.policy.max_attempts
    }

    fn backoff(&mut self) -> Duration {
        self.backoffs += 1;
        let random = self.random.rotate_left(self.counted * 13) ^ u64::from(self.counted);
        backoff::delay(
            self.policy.base_interval,
            self.policy.max_interval,
            self.backoffs,
            random,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use sidestep_proto::resource::RetryOn;

    fn policy(max_attempts: u32) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse("unavailable"),
            max_attempts,
            base_interval: Duration::from_millis(25),
            max_interval: Duration::from_millis(250),
        }
    }

    fn retries(decision: Decision) -> bool {
        matches!(decision, Decision::Retry { .. })
    }

    #[test]
    fn the_first_try_counts() {
        let policy = policy(3);
        let mut attempts = Retries::new(&policy, 7);
        let failed = Outcome::failed(14);
        assert!(retries(attempts.decide(&failed, None)));
        assert_eq!(attempts.previous_attempts(), 1);
        assert!(retries(attempts.decide(&failed, None)));
        assert!(
            !retries(attempts.decide(&failed, None)),
            "three attempts were made"
        );
    }

    #[test]
    fn only_what_the_policy_names_is_tried_again() {
        let policy = policy(5);
        for (outcome, expected) in [
            (Outcome::failed(14), true),
            (Outcome::failed(13), false),
            (Outcome::answered(0, &HeaderMap::new()), false),
            (Outcome::answered(14, &HeaderMap::new()), true),
            (Outcome::committed(), false),
            (Outcome::unbegun(13), true),
        ] {
            assert_eq!(
                retries(Retries::new(&policy, 1).decide(&outcome, None)),
                expected,
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn what_no_server_began_is_repeated_at_once_and_does_not_count() {
        let policy = policy(2);
        let mut attempts = Retries::new(&policy, 1);
        for _ in 0..MOST_UNBEGUN {
            let decision = attempts.decide(&Outcome::unbegun(14), None);
            assert_eq!(
                decision,
                Decision::Retry {
                    after: Duration::ZERO
                }
            );
            assert_eq!(attempts.previous_attempts(), 0);
        }
        assert!(
            retries(attempts.decide(&Outcome::unbegun(14), None)),
            "now it counts"
        );
        assert!(!retries(attempts.decide(&Outcome::unbegun(14), None)));
    }

    #[test]
    fn pushback_decides_and_starts_the_backoff_over() {
        let policy = policy(5);
        let answered = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-retry-pushback-ms", HeaderValue::from_static(value));
            Outcome::answered(14, &headers)
        };
        for (value, expected) in [
            (
                "0",
                Decision::Retry {
                    after: Duration::ZERO,
                },
            ),
            (
                "1500",
                Decision::Retry {
                    after: Duration::from_millis(1500),
                },
            ),
            ("-1", Decision::GiveUp),
            ("soon", Decision::GiveUp),
        ] {
            assert_eq!(
                Retries::new(&policy, 1).decide(&answered(value), None),
                expected,
                "{value}"
            );
        }
        let mut attempts = Retries::new(&policy, u64::MAX / 2);
        attempts.decide(&Outcome::failed(14), None);
        attempts.decide(&answered("10"), None);
        let Decision::Retry { after } = attempts.decide(&Outcome::failed(14), None) else {
            panic!("a fourth attempt is allowed");
        };
        assert!(
            after <= Duration::from_millis(30),
            "the first backoff again, not the third: {after:?}"
        );
    }

    #[test]
    fn a_retry_that_the_deadline_forestalls_is_not_waited_for() {
        let policy = policy(5);
        let left = Some(Duration::from_millis(10));
        assert!(!retries(
            Retries::new(&policy, 1).decide(&Outcome::failed(14), left)
        ));
    }
}
