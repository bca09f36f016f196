//! The stream to one server, and when it is tried.
//!
//! ```text
//!            first subscription          handle_connected
//!   Idle ───────────────────► Connecting ────────────────► Open
//!    ▲                          ▲     │                     │ closed
//!    │ nothing subscribed       │     │ closed              │
//!    └───────── BackingOff ─────┘◄────┴─────────────────────┘
//!                        pause over, or at once
//! ```

use std::time::{Duration, Instant};

use super::Timers;
use super::type_state::TypeState;
use crate::ads::Variant;
use crate::resource::ResourceType;

/// One server's stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) variant: Variant,
    pub(super) phase: Phase,
    pub(super) backoff: Backoff,
    /// The last working stream ended before it was steady: the next such end is followed by a pause.
    is_hasty: bool,
    /// Why the last try failed, until the server answers.
    pub(super) failure: Option<String>,
    /// In the order of [`ResourceType::ALL`], which is the order of requests.
    pub(super) types: [TypeState; 4],
}

impl Stream {
    pub(super) fn new(server: usize, variant: Variant, timers: &Timers, seed: u64) -> Self {
        Self {
            variant,
            phase: Phase::Idle,
            backoff: Backoff::new(timers, seed.wrapping_add(server as u64)),
            is_hasty: false,
            failure: None,
            types: ResourceType::ALL.map(|t| TypeState::new(t, server)),
        }
    }

    pub(super) fn has_names(&self) -> bool {
        self.types.iter().any(TypeState::has_names)
    }

    /// Whether a working stream that lived so long is replaced at once. A server that answers and
    /// hangs up, again and again, would keep both sides busy for nothing: once it may.
    pub(super) fn may_hurry(&mut self, lived: Duration, timers: &Timers) -> bool {
        let was_hasty = self.is_hasty;
        self.is_hasty = lived < timers.backoff_initial;
        !(was_hasty && self.is_hasty)
    }

    /// When something is due without the server.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Open { .. } => self.types.iter().filter_map(TypeState::deadline).min(),
            Phase::Idle | Phase::Connecting => None,
        }
    }
}

/// Where the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing to ask for.
    Idle,
    /// `Output::Connect` was given.
    Connecting,
    /// Requests may be sent.
    Open {
        /// The node travels in the first request only.
        node_sent: bool,
        /// Decides whether its end counts as a failure.
        had_response: bool,
        /// It was told that the server sends what nobody asked for.
        told_unasked: bool,
        /// When it was opened.
        since: Instant,
    },
    /// The last try failed; the next one starts then.
    BackingOff { until: Instant },
}

/// Pauses between attempts: exponential, with jitter (the gRPC connection backoff).
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    random: u64,
}

impl Backoff {
    pub(super) fn new(timers: &Timers, seed: u64) -> Self {
        Self {
            next: timers.backoff_initial,
            random: seed,
        }
    }

    /// A stream was steady: the next failure is a first one again.
    pub(super) fn reset(&mut self, timers: &Timers) {
        self.next = timers.backoff_initial;
    }

    /// How long to wait now; the following pause is longer.
    pub(super) fn pause(&mut self, timers: &Timers) -> Duration {
        let base = self.next.min(timers.backoff_max);
        self.next = base
            .mul_f64(timers.backoff_multiplier)
            .min(timers.backoff_max);
        let swing = timers.backoff_jitter * (2.0 * self.fraction() - 1.0);
        base.mul_f64((1.0 + swing).max(0.0))
    }

    /// From 0 up to 1: SplitMix64, enough for jitter and free of dependencies.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // 53 bits are what an f64 holds exactly.
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_limit_and_stay_within_their_jitter() {
        let timers = Timers::default();
        let mut backoff = Backoff::new(&timers, 7);
        let mut expected: f64 = 1.0;
        for _ in 0..20 {
            let pause = backoff.pause(&timers).as_secs_f64();
            assert!(
                (expected * 0.799..=expected * 1.201).contains(&pause),
                "{pause} is not near {expected}"
            );
            expected = (expected * 1.6).min(120.0);
        }
        assert_eq!(expected, 120.0);
        backoff.reset(&timers);
        assert!(backoff.pause(&timers) <= Duration::from_millis(1200));
    }

    #[test]
    fn seeds_spread_processes() {
        let timers = Timers::default();
        let pauses: std::collections::BTreeSet<_> = (0..50)
            .map(|seed| Backoff::new(&timers, seed).pause(&timers))
            .collect();
        assert!(pauses.len() > 40);
    }
}
