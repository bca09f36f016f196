//! Which of an authority's servers are asked (gRFC A71). Pure.
//!
//! ```text
//!   servers   0   1   2          asked: 0..=active; the last of them serves
//!             ▲───────┘ answers: what is below it is let go
//!             └───► active server fails while something is missing: the next is asked, too
//! ```
//!
//! Those above the one that serves are tried on and on; the first that answers takes over.

/// One authority's servers.
#[derive(Debug)]
pub(super) struct Authority {
    /// `None`: of names that are not `xdstp:` names.
    pub(super) name: Option<String>,
    /// Most preferred first, each once.
    servers: Vec<usize>,
    /// Where in `servers` the one is that serves, or is tried last.
    active: usize,
    /// Set while all have failed and something is missing.
    pub(super) unreachable: Option<String>,
}

/// The server in use changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) from: usize,
    pub(super) to: usize,
}

impl Authority {
    pub(super) fn new(name: Option<String>, servers: &[usize]) -> Self {
        let mut once: Vec<usize> = Vec::new();
        for server in servers {
            if !once.contains(server) {
                once.push(*server);
            }
        }
        Self {
            name,
            servers: once,
            active: 0,
            unreachable: None,
        }
    }

    /// Every server, most preferred first.
    pub(super) fn servers(&self) -> &[usize] {
        &self.servers
    }

    /// The servers that everything is subscribed at.
    pub(super) fn asked(&self) -> &[usize] {
        let end = self.servers.len().min(self.active + 1);
        &self.servers[..end]
    }

    /// The server whose word counts; `None` if there is none at all.
    pub(super) fn serving(&self) -> Option<usize> {
        self.servers.get(self.active).copied()
    }

    /// Whether this one is asked although a lower one serves: its first word ends that.
    pub(super) fn awaits(&self, server: usize) -> bool {
        let above = self.servers.iter().take(self.active);
        above.copied().any(|s| s == server)
    }

    /// A server has answered. If that makes it the serving one, all below it are let go: they are
    /// the second value.
    pub(super) fn answered(&mut self, server: usize) -> Option<(Change, Vec<usize>)> {
        let asked = self.asked();
        let position = asked.iter().position(|s| *s == server)?;
        self.unreachable = None;
        if position == self.active {
            return None;
        }
        let change = Change {
            from: self.servers[self.active],
            to: server,
        };
        let released = self.servers[position + 1..=self.active].to_vec();
        self.active = position;
        Some((change, released))
    }

    /// Goes one server down if the serving one has failed while something is missing.
    pub(super) fn fall_back(
        &mut self,
        has_gaps: bool,
        has_failed: impl Fn(usize) -> bool,
    ) -> Option<Change> {
        let from = self.serving()?;
        let to = *self.servers.get(self.active + 1)?;
        if !has_gaps || !has_failed(from) {
            return None;
        }
        self.active += 1;
        Some(Change { from, to })
    }

    /// Whether every server was tried and failed.
    pub(super) fn is_exhausted(&self, has_failed: impl Fn(usize) -> bool) -> bool {
        self.active + 1 >= self.servers.len()
            && !self.servers.is_empty()
            && self.servers.iter().all(|server| has_failed(*server))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fastrand::Rng;

    use super::*;

    fn change(from: usize, to: usize) -> Option<Change> {
        Some(Change { from, to })
    }

    #[test]
    fn falls_only_where_something_is_missing_and_the_server_failed() {
        // Gaps, whether the first failed, whether the next is asked.
        for (gaps, failed, falls) in [
            (false, false, false),
            (false, true, false),
            (true, false, false),
            (true, true, true),
        ] {
            let mut authority = Authority::new(None, &[4, 7]);
            let change = authority.fall_back(gaps, |_| failed);
            assert_eq!(change.is_some(), falls, "{gaps} {failed}");
            assert_eq!(authority.serving(), Some(if falls { 7 } else { 4 }));
        }
    }

    #[test]
    fn the_first_that_answers_takes_over_and_all_below_are_let_go() {
        let mut authority = Authority::new(None, &[5, 3, 9]);
        assert_eq!(authority.fall_back(true, |_| true), change(5, 3));
        assert_eq!(authority.fall_back(true, |_| true), change(3, 9));
        assert_eq!(authority.fall_back(true, |_| true), None, "none is left");
        assert_eq!(authority.asked(), [5, 3, 9]);
        assert!(authority.awaits(5) && authority.awaits(3) && !authority.awaits(9));
        assert_eq!(authority.answered(9), None, "it serves already");
        let (to_primary, released) = authority.answered(5).expect("takes over");
        assert_eq!(Some(to_primary), change(9, 5));
        assert_eq!(released, [3, 9]);
        assert_eq!(authority.asked(), [5]);
        assert_eq!(authority.answered(9), None, "nobody asks it any more");
    }

    #[test]
    fn a_server_named_twice_is_one_and_none_at_all_is_harmless() {
        let mut authority = Authority::new(None, &[1, 1]);
        assert_eq!(authority.fall_back(true, |_| true), None);
        assert!(authority.is_exhausted(|_| true));
        let mut nobody = Authority::new(None, &[]);
        assert_eq!(nobody.serving(), None);
        assert!(nobody.asked().is_empty());
        assert_eq!(nobody.fall_back(true, |_| true), None);
        assert!(!nobody.is_exhausted(|_| true));
    }

    /// Servers go up and down at random, each telling of it when it is asked; whatever happened,
    /// once all have spoken the highest working one serves.
    #[test]
    fn the_highest_working_server_serves_in_the_end() {
        for seed in 0..2000 {
            let mut rng = Rng::with_seed(seed);
            let all: Vec<usize> = (0..rng.usize(1..5)).collect();
            let mut authority = Authority::new(None, &all);
            let mut failed = BTreeSet::new();
            for _ in 0..rng.usize(0..60) {
                let server = *rng.choice(&all).expect("not empty");
                let gaps = rng.bool();
                speak(&mut authority, &mut failed, server, rng.bool(), gaps);
                let serving = authority.serving().expect("there are servers");
                assert!(authority.asked().contains(&serving), "seed {seed}");
            }
            let up: BTreeSet<usize> = all.iter().copied().filter(|_| rng.bool()).collect();
            // Everybody that is asked speaks, until nobody has news.
            for _ in 0..=all.len() {
                for server in authority.asked().to_vec() {
                    speak(
                        &mut authority,
                        &mut failed,
                        server,
                        up.contains(&server),
                        true,
                    );
                }
            }
            match up.first() {
                Some(highest) => assert_eq!(authority.serving(), Some(*highest), "seed {seed}"),
                None => assert!(
                    authority.is_exhausted(|server| failed.contains(&server)),
                    "seed {seed}"
                ),
            }
        }
    }

    fn speak(
        authority: &mut Authority,
        failed: &mut BTreeSet<usize>,
        server: usize,
        is_up: bool,
        gaps: bool,
    ) {
        if !authority.asked().contains(&server) {
            return;
        }
        if is_up {
            failed.remove(&server);
            if let Some((change, released)) = authority.answered(server) {
                assert_eq!(change.to, server);
                for gone in released {
                    failed.remove(&gone);
                }
            }
        } else {
            failed.insert(server);
        }
        while authority.fall_back(gaps, |s| failed.contains(&s)).is_some() {}
    }
}
