//! Which of an aggregate's clusters takes its calls (gRFC A37, by the rules of A56 and A115). Pure.
//!
//! The rules are [`failover`](crate::balancer::failover)'s, which priorities go by as well: a leaf
//! is connected when the choice first comes to it, and a deactivated one stays connected for a
//! while. One that has left the configuration is given up at once (A115).

use std::sync::Arc;
use std::time::Instant;

use crate::balancer::Connectivity;
pub(super) use crate::balancer::failover::Why;
use crate::balancer::failover::{self, Candidate};

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
    held: Option<Candidate>,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// Have this leaf connected, say by [`Failover::heard`] what it is like, and ask again.
    Connect(Arc<str>),
    /// Calls go there.
    Use(Arc<str>, Why),
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
        let candidates = self.leaves.iter_mut().map(|leaf| leaf.held.as_mut());
        Some(match failover::choose(now, candidates)? {
            failover::Choice::Make(at) => {
                let leaf = &mut self.leaves[at];
                leaf.held = Some(Candidate::new(now));
                Choice::Connect(leaf.name.clone())
            }
            failover::Choice::Use(at, why) => Choice::Use(self.leaves[at].name.clone(), why),
        })
    }

    /// When a leaf is given up that is connected and not needed.
    pub(super) fn expires(&self, name: &str) -> Option<Instant> {
        let leaf = self.leaves.iter().find(|leaf| *leaf.name == *name)?;
        leaf.held.as_ref()?.expires()
    }

    /// When [`Failover::handle_timeout`] wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let held = self.leaves.iter().filter_map(|leaf| leaf.held.as_ref());
        held.filter_map(Candidate::next_timeout).min()
    }

    /// The moment has come: ask [`Failover::choose`] and look at [`Failover::held`] anew.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        for leaf in &mut self.leaves {
            let held = leaf.held.as_mut();
            if held.is_some_and(|held| !held.handle_timeout(now)) {
                leaf.held = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
