//! Which of an aggregate's clusters takes its calls (gRFC A37, by the rules of A56 and A115). Pure.
//!
//! ```text
//!   a leaf is connected when the choice first comes to it, its failover timer (10 s) running
//!
//!   the timer   stops   when the leaf is ready, idle or failing
//!               starts  again when it connects and was ready or idle since it last failed
//!
//!   in use: the first leaf that is ready or idle            (lower ones are deactivated)
//!           else the first whose timer runs                 (it may still make it)
//!           else the first that is connecting, else the last
//! ```
//!
//! A deactivated leaf stays connected for 15 minutes, so that a short return to it costs nothing.
//! One that has left the configuration is given up at once (A115).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balancer::Connectivity;

/// How long a leaf may try before the next one is used.
const FAILOVER: Duration = Duration::from_secs(10);
/// How long an unused leaf stays connected.
const RETENTION: Duration = Duration::from_secs(15 * 60);

/// The leaves of one aggregate and the choice among them.
#[derive(Debug, Default)]
pub(super) struct Failover {
    /// Most preferred first; no name twice.
    leaves: Vec<Leaf>,
    /// As last set.
    names: Arc<[Arc<str>]>,
}

#[derive(Debug)]
struct Leaf {
    name: Arc<str>,
    /// `None`: not connected for the aggregate's sake.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
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

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Have this leaf connected, say by [`Failover::heard`] what it is like, and ask again.
    Connect(Arc<str>),
    /// Calls go there.
    Use(Arc<str>, Why),
}

/// Why calls go where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
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
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Usable => "the first that can take calls",
            Self::HasTime => "it is connecting, and has time left for that",
            Self::StillConnecting => "none can take calls, and it is still connecting",
            Self::LastResort => "all fail, and it is the last",
        }
    }
}

impl Held {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Connecting,
            failover: Some(now + FAILOVER),
            was_usable: false,
            expires: None,
        }
    }

    fn heard(&mut self, now: Instant, connectivity: &Connectivity) {
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
}

impl Failover {
    /// The leaves there are now, most preferred first. Those that stay keep what is known of them.
    pub(super) fn set(&mut self, names: &Arc<[Arc<str>]>) {
        if Arc::ptr_eq(&self.names, names) {
            return;
        }
        self.names = names.clone();
        let mut before = std::mem::take(&mut self.leaves);
        let leaves = names.iter().map(|name| {
            let at = before.iter().position(|leaf| leaf.name == *name);
            let held = at.and_then(|at| before.swap_remove(at).held);
            let name = name.clone();
            Leaf { name, held }
        });
        self.leaves = leaves.collect();
    }

    /// What a leaf that is held is like. To hear the same again changes nothing.
    pub(super) fn heard(&mut self, now: Instant, name: &str, connectivity: &Connectivity) {
        let leaf = self.leaves.iter_mut().find(|leaf| *leaf.name == *name);
        if let Some(held) = leaf.and_then(|leaf| leaf.held.as_mut()) {
            held.heard(now, connectivity);
        }
    }

    /// The leaves that are, or are to be, connected.
    pub(super) fn held(&self) -> impl Iterator<Item = &Arc<str>> {
        let held = self.leaves.iter().filter(|leaf| leaf.held.is_some());
        held.map(|leaf| &leaf.name)
    }

    /// Which leaf takes calls; `None` if there is no leaf at all.
    pub(super) fn choose(&mut self, now: Instant) -> Option<Choice> {
        for at in 0..self.leaves.len() {
            let Leaf { name, held } = &mut self.leaves[at];
            let Some(held) = held else {
                *held = Some(Held::new(now));
                return Some(Choice::Connect(name.clone()));
            };
            held.expires = None;
            if held.state == State::Usable {
                let name = name.clone();
                self.deactivate_below(now, at);
                return Some(Choice::Use(name, Why::Usable));
            }
            if held.failover.is_some() {
                return Some(Choice::Use(name.clone(), Why::HasTime));
            }
        }
        let connecting = self.leaves.iter().find(|leaf| {
            let held = leaf.held.as_ref();
            held.is_some_and(|held| held.state == State::Connecting)
        });
        match connecting {
            Some(leaf) => Some(Choice::Use(leaf.name.clone(), Why::StillConnecting)),
            None => {
                let last = self.leaves.last()?;
                Some(Choice::Use(last.name.clone(), Why::LastResort))
            }
        }
    }

    /// When a leaf is given up that is connected and not needed.
    pub(super) fn expires(&self, name: &str) -> Option<Instant> {
        let leaf = self.leaves.iter().find(|leaf| *leaf.name == *name)?;
        leaf.held.as_ref()?.expires
    }

    /// When [`Failover::handle_timeout`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let held = self.leaves.iter().filter_map(|leaf| leaf.held.as_ref());
        held.flat_map(|held| [held.failover, held.expires])
            .flatten()
            .min()
    }

    /// The moment has come: ask [`Failover::choose`] and look at [`Failover::held`] anew.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for leaf in &mut self.leaves {
            let Some(held) = &mut leaf.held else {
                continue;
            };
            if held.failover.is_some_and(|at| at <= now) {
                held.failover = None;
                held.was_usable = false;
            }
            if held.expires.is_some_and(|at| at <= now) {
                leaf.held = None;
            }
        }
    }

    fn deactivate_below(&mut self, now: Instant, at: usize) {
        let below = self.leaves[at + 1..].iter_mut();
        for held in below.filter_map(|leaf| leaf.held.as_mut()) {
            held.expires.get_or_insert(now + RETENTION);
        }
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::code;

    use super::*;
    use crate::balancer::Failure;

    /// What happens to the leaves, one letter each.
    enum Do {
        /// Time passes, in seconds.
        Wait(u64),
        /// A leaf's state: `r`eady, `i`dle, `c`onnecting, `f`ailing.
        Hear(&'static str, char),
        /// The configuration changes.
        Set(&'static [&'static str]),
    }
    use Do::{Hear, Set, Wait};

    struct Rig {
        now: Instant,
        failover: Failover,
    }

    impl Rig {
        fn new(leaves: &[&str]) -> Self {
            #[allow(clippy::disallowed_methods, reason = "any moment will do")]
            let now = Instant::now();
            let mut rig = Self {
                now,
                failover: Failover::default(),
            };
            rig.set(leaves);
            rig
        }

        fn set(&mut self, leaves: &[&str]) {
            let names: Vec<Arc<str>> = leaves.iter().map(|name| Arc::from(*name)).collect();
            self.failover.set(&names.into());
        }

        /// The timers go off when they are due, as the task has it.
        fn wait(&mut self, time: Duration) {
            let end = self.now + time;
            while let Some(at) = self.failover.next_timeout().filter(|at| *at <= end) {
                self.now = at;
                self.failover.handle_timeout(at);
                self.choose();
            }
            self.now = end;
        }

        fn perform(&mut self, step: &Do) {
            match step {
                Wait(seconds) => self.wait(Duration::from_secs(*seconds)),
                Hear(name, state) => {
                    let state = match state {
                        'r' => Connectivity::Ready,
                        'i' => Connectivity::Idle,
                        'c' => Connectivity::Connecting,
                        _ => Connectivity::TransientFailure(Failure::new(
                            code::CANNOT_CONNECT,
                            "refused",
                        )),
                    };
                    self.failover.heard(self.now, name, &state);
                }
                Set(leaves) => self.set(leaves),
            }
        }

        /// New leaves are connecting until something else is heard of them.
        fn choose(&mut self) -> Option<(Arc<str>, Why)> {
            for _ in 0..=self.failover.leaves.len() {
                match self.failover.choose(self.now)? {
                    Choice::Connect(_) => {}
                    Choice::Use(name, why) => return Some((name, why)),
                }
            }
            panic!("it asks for the same leaf again and again");
        }

        fn held(&self) -> String {
            self.failover.held().map(|name| &**name).collect()
        }
    }

    /// Each row: what happens, the leaf in use after that and why, and the leaves that are held.
    #[track_caller]
    fn table(leaves: &[&str], rows: &[(&[Do], &str, Why, &str)]) {
        let mut rig = Rig::new(leaves);
        rig.choose();
        for (row, (steps, name, why, held)) in rows.iter().enumerate() {
            for step in *steps {
                rig.perform(step);
                rig.choose();
            }
            let chosen = rig.choose().expect("there are leaves");
            assert_eq!((&*chosen.0, chosen.1), (*name, *why), "row {row}");
            assert_eq!(rig.held(), *held, "row {row}");
        }
    }

    #[test]
    fn the_next_leaf_is_tried_when_the_time_is_over() {
        table(
            &["a", "b", "c"],
            &[
                (&[], "a", Why::HasTime, "a"),
                (&[Wait(9)], "a", Why::HasTime, "a"),
                (&[Wait(1)], "b", Why::HasTime, "ab"),
                (&[Hear("b", 'r')], "b", Why::Usable, "ab"),
                (&[Hear("a", 'r')], "a", Why::Usable, "ab"),
            ],
        );
    }

    #[test]
    fn a_failure_fails_over_at_once_and_a_recovery_fails_back() {
        table(
            &["a", "b"],
            &[
                (&[Hear("a", 'f')], "b", Why::HasTime, "ab"),
                (&[Hear("b", 'r')], "b", Why::Usable, "ab"),
                // Another try of the failed one is no reason to go back to it.
                (&[Hear("a", 'c')], "b", Why::Usable, "ab"),
                (&[Hear("a", 'i')], "a", Why::Usable, "ab"),
            ],
        );
    }

    #[test]
    fn a_leaf_that_was_usable_has_ten_seconds_to_come_back() {
        table(
            &["a", "b"],
            &[
                (&[Hear("a", 'r')], "a", Why::Usable, "a"),
                (&[Hear("a", 'c')], "a", Why::HasTime, "a"),
                // To hear it again does not wind the timer up.
                (&[Wait(5), Hear("a", 'c')], "a", Why::HasTime, "a"),
                (&[Wait(5)], "b", Why::HasTime, "ab"),
                // Nor after it has run out.
                (&[Hear("a", 'c'), Hear("b", 'r')], "b", Why::Usable, "ab"),
            ],
        );
    }

    #[test]
    fn where_none_is_ready_one_that_connects_is_better_than_the_last() {
        table(
            &["a", "b"],
            &[
                (&[Wait(10), Wait(10)], "a", Why::StillConnecting, "ab"),
                (&[Hear("a", 'f')], "b", Why::StillConnecting, "ab"),
                (&[Hear("b", 'f')], "b", Why::LastResort, "ab"),
            ],
        );
    }

    #[test]
    fn an_unused_leaf_stays_connected_for_fifteen_minutes() {
        table(
            &["a", "b"],
            &[
                (&[Hear("a", 'f'), Hear("b", 'c')], "b", Why::HasTime, "ab"),
                (&[Hear("b", 'r'), Hear("a", 'r')], "a", Why::Usable, "ab"),
                (&[Wait(899)], "a", Why::Usable, "ab"),
                // Needed again, its time begins anew.
                (&[Hear("a", 'f')], "b", Why::Usable, "ab"),
                (&[Hear("a", 'r')], "a", Why::Usable, "ab"),
                (&[Wait(899)], "a", Why::Usable, "ab"),
                (&[Wait(1)], "a", Why::Usable, "a"),
                // Then it has to connect anew.
                (&[Hear("a", 'f')], "b", Why::HasTime, "ab"),
            ],
        );
    }

    #[test]
    fn a_change_keeps_what_stays_and_drops_what_goes() {
        table(
            &["a", "b"],
            &[
                (&[Hear("a", 'f')], "b", Why::HasTime, "ab"),
                (&[Hear("b", 'r')], "b", Why::Usable, "ab"),
                (&[Set(&["b", "a"])], "b", Why::Usable, "ba"),
                (&[Set(&["c", "b"])], "c", Why::HasTime, "cb"),
                (&[Hear("c", 'f')], "b", Why::Usable, "cb"),
                // It comes back as one of which nothing is known.
                (&[Set(&["a", "b"])], "a", Why::HasTime, "ab"),
            ],
        );
    }

    #[test]
    fn without_leaves_there_is_no_choice() {
        let mut rig = Rig::new(&[]);
        assert_eq!(rig.choose(), None);
        assert_eq!(rig.failover.next_timeout(), None);
    }
}
