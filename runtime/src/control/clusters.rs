//! All clusters that something names, and their timers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::ResourceType;

use super::WeakInbox;
use super::cluster::{Cluster, Context};
use super::dependency::Needs;
use super::inspect::Calendar;
use super::resource_cache::Key;
use crate::inspect;
use crate::snapshot::ClusterId;
use crate::telemetry::Telemetry;

/// Clusters by name. Each is shared by all targets that name it.
pub(super) struct Clusters {
    inbox: WeakInbox,
    telemetry: Arc<Telemetry>,
    ids: HashMap<Arc<str>, ClusterId>,
    members: BTreeMap<ClusterId, Member>,
    /// Which clusters have their endpoints from this assignment.
    assigned: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    timers: BTreeSet<(Instant, ClusterId)>,
    touched: BTreeSet<ClusterId>,
    next: u64,
}

struct Member {
    name: Arc<str>,
    cluster: Cluster,
    needs: Needs,
    timer: Option<Instant>,
}

impl Clusters {
    /// `first` is the first id given out, which keeps two sets apart.
    pub(super) fn new(inbox: WeakInbox, telemetry: Arc<Telemetry>, first: u64) -> Self {
        Self {
            inbox,
            telemetry,
            ids: HashMap::new(),
            members: BTreeMap::new(),
            assigned: HashMap::new(),
            timers: BTreeSet::new(),
            touched: BTreeSet::new(),
            next: first,
        }
    }

    /// The cluster of this name, if something names it.
    pub(super) fn find(&self, name: &str) -> Option<&Cluster> {
        let id = self.ids.get(name)?;
        self.members.get(id).map(|member| &member.cluster)
    }

    /// Makes room for a cluster that `target` leads to. Answers whether it is new.
    pub(super) fn ensure(&mut self, name: &Arc<str>, target: &str) -> bool {
        if self.ids.contains_key(name) {
            return false;
        }
        let id = ClusterId(self.next);
        self.next += 1;
        self.ids.insert(name.clone(), id);
        let target = self.telemetry.target_label(target);
        let backend = self.telemetry.backend(name, None);
        let member = Member {
            name: name.clone(),
            cluster: Cluster::new(id, backend, target, self.inbox.clone()),
            needs: Needs::new(),
            timer: None,
        };
        self.members.insert(id, member);
        true
    }

    /// Whether this life of a cluster is one of these and goes on.
    pub(super) fn contains(&self, id: ClusterId) -> bool {
        self.members.contains_key(&id)
    }

    /// Notes the names that a cluster rests on. Answers whether they changed.
    pub(super) fn rests_on(&mut self, name: &Arc<str>, needs: Needs) -> bool {
        let id = self.ids.get(name);
        let Some(member) = id.and_then(|id| self.members.get_mut(id)) else {
            return false;
        };
        if member.needs == needs {
            return false;
        }
        unassign(&mut self.assigned, &member.needs, name);
        for assignment in assignments(&needs) {
            let users = self.assigned.entry(assignment.clone()).or_default();
            users.insert(name.clone());
        }
        member.needs = needs;
        true
    }

    /// The clusters that have their endpoints from this assignment.
    pub(super) fn assigned(&self, assignment: &str) -> impl Iterator<Item = &Arc<str>> {
        self.assigned.get(assignment).into_iter().flatten()
    }

    /// Every name that a cluster rests on.
    pub(super) fn needs(&self) -> impl Iterator<Item = &Key> {
        self.members.values().flat_map(|member| &member.needs)
    }

    /// The names that one cluster rests on.
    pub(super) fn needs_of(&self, name: &str) -> impl Iterator<Item = &Key> {
        let id = self.ids.get(name);
        let member = id.and_then(|id| self.members.get(id));
        member.into_iter().flat_map(|member| &member.needs)
    }

    /// All of them, in the order of their names.
    pub(super) fn inspect(
        &self,
        from_control_plane: bool,
        calendar: Calendar,
    ) -> Vec<inspect::Cluster> {
        let clusters = self.members.values().map(|member| &member.cluster);
        let mut all: Vec<_> = clusters
            .map(|cluster| cluster.inspect(from_control_plane, calendar))
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Changes the cluster of this name.
    pub(super) fn change(&mut self, name: &str, change: impl FnOnce(&mut Cluster)) {
        if let Some(id) = self.ids.get(name).copied() {
            self.change_by_id(id, change);
        }
    }

    /// Changes a cluster, unless that life of it is over.
    pub(super) fn change_by_id(&mut self, id: ClusterId, change: impl FnOnce(&mut Cluster)) {
        if let Some(member) = self.members.get_mut(&id) {
            change(&mut member.cluster);
            self.touched.insert(id);
        }
    }

    /// Lets every cluster whose time has come act.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let mut due = Vec::new();
        while let Some((at, id)) = self.timers.first().copied()
            && at <= cx.now
        {
            self.timers.pop_first();
            due.push(id);
        }
        for id in due {
            if let Some(member) = self.members.get_mut(&id) {
                member.timer = None;
            }
            self.change_by_id(id, |cluster| cluster.handle_timeout(cx));
        }
    }

    /// Publishes what is due of the clusters that changed, and notes when each wants to be
    /// called again.
    pub(super) fn flush(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.touched) {
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.cluster.flush(now);
            let next = member.cluster.poll_timeout();
            if member.timer == next {
                continue;
            }
            if let Some(at) = member.timer {
                self.timers.remove(&(at, id));
            }
            if let Some(at) = next {
                self.timers.insert((at, id));
            }
            member.timer = next;
        }
    }

    /// When the first cluster wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Whether the last word of each cluster's policy is out.
    pub(super) fn is_settled(&self) -> bool {
        let mut members = self.members.values();
        members.all(|member| member.cluster.is_published())
    }

    /// Drops the clusters that are not in `wanted`: their connections close when the calls in
    /// flight have ended.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<Arc<str>>) {
        let Self {
            ids,
            members,
            timers,
            assigned,
            ..
        } = self;
        members.retain(|id, member| {
            let stays = wanted.contains(&member.name);
            if !stays {
                ids.remove(&member.name);
                if let Some(at) = member.timer {
                    timers.remove(&(at, *id));
                }
                unassign(assigned, &member.needs, &member.name);
            }
            stays
        });
    }
}

fn assignments(needs: &Needs) -> impl Iterator<Item = &Arc<str>> {
    let assignments = needs
        .iter()
        .filter(|key| key.0 == ResourceType::EndpointAssignment);
    assignments.map(|key| &key.1)
}

fn unassign(
    assigned: &mut HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    needs: &Needs,
    cluster: &Arc<str>,
) {
    for assignment in assignments(needs) {
        if let Some(users) = assigned.get_mut(assignment) {
            users.remove(cluster);
            if users.is_empty() {
                assigned.remove(assignment);
            }
        }
    }
}
