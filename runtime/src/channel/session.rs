//! What the session of a call changes: its cluster, its pick and its answer (gRFC A55, A60).

use std::sync::Arc;

use http::HeaderMap;

use super::deadline;
use super::in_flight::InFlight;
use crate::routing::{Buffer, ClusterIndex, Forward, Found, SessionRule, Sticky, Told};
use crate::snapshot::Snapshot;

/// A call's session: how its route keeps it, and where it is so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session<'a> {
    rule: &'a Arc<SessionRule>,
    found: Found<'a>,
}

impl<'a> Session<'a> {
    /// The session of a call; `None` if its route has none.
    pub(super) fn of(
        forward: &'a Forward,
        random: u64,
        path: &str,
        headers: &HeaderMap,
        buffer: &'a mut Option<Buffer>,
    ) -> Option<Self> {
        let rule = forward.session(random)?;
        let found = rule.find(path, headers, buffer.get_or_insert_default())?;
        Some(Self { rule, found })
    }

    /// The cluster that it is in, if the route still leads there.
    fn cluster(&self, snapshot: &Snapshot, forward: &Forward) -> Option<ClusterIndex> {
        let name = self.found.cluster?;
        let mut shares = forward.clusters.iter().map(|(_, cluster)| *cluster);
        shares.find(|cluster| &**snapshot.cluster(*cluster).name() == name)
    }

    /// What its pick goes by.
    pub(super) fn sticky(&self) -> Sticky<'a> {
        Sticky {
            hosts: self.found.hosts,
            now: deadline::now(),
        }
    }

    /// What the client is told if the call is answered there: nothing if it knows.
    pub(super) fn told(&self, in_flight: &InFlight, cluster: &str) -> Option<Box<Told>> {
        let told = self.rule.tell(&self.found, in_flight.hosts(), cluster);
        told.map(Box::new)
    }

    /// For a call that outlives what it was read from.
    pub(super) fn keep(&self) -> Kept {
        Kept {
            rule: Arc::clone(self.rule),
            hosts: self.found.hosts.into(),
            cluster: self.found.cluster.map(Into::into),
        }
    }
}

/// The cluster of a call: its session's, or else the one that it draws.
pub(super) fn cluster(
    session: Option<&Session<'_>>,
    snapshot: &Snapshot,
    forward: &Forward,
    random: u64,
) -> ClusterIndex {
    let own = session.and_then(|session| session.cluster(snapshot, forward));
    own.unwrap_or_else(|| forward.pick(random))
}

/// A [`Session`] that borrows nothing.
pub(super) struct Kept {
    rule: Arc<SessionRule>,
    hosts: Box<str>,
    cluster: Option<Box<str>>,
}

impl Kept {
    pub(super) fn session(&self) -> Session<'_> {
        Session {
            rule: &self.rule,
            found: Found {
                hosts: &self.hosts,
                cluster: self.cluster.as_deref(),
            },
        }
    }
}
