//! All clusters that something names, and their timers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidestep_proto::resource::ResourceType;

use super::WeakInbox;
use super::cluster::{Cluster, Context};
use super::dependency::{ClusterNeeds, Needs};
use super::failover::{Choice, Failover, Why};
use super::inspect::Calendar;
use super::names::Host;
use super::resource_cache::Key;
use crate::inspect;
use crate::snapshot::ClusterId;
use crate::telemetry::Telemetry;

/// Clusters by name. Each is shared by all targets that name it.
pub(super) struct Clusters {
    inbox: WeakInbox,
    telemetry: Arc<Telemetry>,
    ids: HashMap<Arc<str>, ClusterId>,
    /// Boxed: the nodes of the map are half empty where there are many.
    members: BTreeMap<ClusterId, Box<Member>>,
    /// Which clusters rest on this resource, beside the cluster itself.
    users: HashMap<Key, BTreeSet<Arc<str>>>,
    /// Which clusters rest on this host name.
    named: HashMap<Host, BTreeSet<Arc<str>>>,
    timers: BTreeSet<(Instant, ClusterId)>,
    touched: BTreeSet<ClusterId>,
    next: u64,
    idle_timeout: Option<Duration>,
}

struct Member {
    name: Arc<str>,
    cluster: Cluster,
    needs: ClusterNeeds,
    timer: Option<Instant>,
    /// Whether calls are sent to it by this name; otherwise only as a leaf of an aggregate.
    is_routed: bool,
    /// The aggregates that want it connected.
    held_by: BTreeSet<ClusterId>,
    /// Of an aggregate.
    choice: Option<Box<Chosen>>,
}

/// Which leaf of an aggregate takes its calls.
#[derive(Default)]
struct Chosen {
    failover: Failover,
    /// As last said to the leaves.
    held: BTreeSet<ClusterId>,
    last: Option<(Arc<str>, Why)>,
}

impl Member {
    fn next_timeout(&self) -> Option<Instant> {
        let choice = self.choice.as_ref();
        let failover = choice.and_then(|choice| choice.failover.next_timeout());
        self.cluster
            .poll_timeout()
            .into_iter()
            .chain(failover)
            .min()
    }
}

impl Clusters {
    /// `first` is the first id given out, which keeps two sets apart.
    pub(super) fn new(
        inbox: WeakInbox,
        telemetry: Arc<Telemetry>,
        idle_timeout: Option<Duration>,
        first: u64,
    ) -> Self {
        Self {
            inbox,
            telemetry,
            ids: HashMap::new(),
            members: BTreeMap::new(),
            users: HashMap::new(),
            named: HashMap::new(),
            timers: BTreeSet::new(),
            touched: BTreeSet::new(),
            next: first,
            idle_timeout,
        }
    }

    /// The cluster of this name, if something names it.
    pub(super) fn find(&self, name: &str) -> Option<&Cluster> {
        let id = self.ids.get(name)?;
        self.members.get(id).map(|member| &member.cluster)
    }

    /// Makes room for a cluster that `target` leads to. Answers whether it is new.
    pub(super) fn ensure(&mut self, name: &Arc<str>, target: &str) -> bool {
        let id = self.ids.get(name).copied();
        if let Some((id, member)) = id.and_then(|id| Some((id, self.members.get_mut(&id)?))) {
            // It may have been a leaf alone.
            if !std::mem::replace(&mut member.is_routed, true) {
                self.touched.insert(id);
            }
            return false;
        }
        let target = self.telemetry.target_label(target);
        self.admit(name, target, true);
        true
    }

    /// Makes room for the leaves of an aggregate. Answers with the new ones.
    pub(super) fn ensure_leaves(&mut self, aggregate: &str) -> Vec<Arc<str>> {
        let Some(cluster) = self.find(aggregate) else {
            return Vec::new();
        };
        let target = cluster.target().clone();
        let leaves = cluster
            .leaves()
            .into_iter()
            .flat_map(|leaves| &*leaves.names);
        let new = leaves.filter(|leaf| !self.ids.contains_key(*leaf));
        let new: Vec<_> = new.cloned().collect();
        for leaf in &new {
            self.admit(leaf, target.clone(), false);
        }
        new
    }

    /// A route whose calls have sessions leads to this cluster, and so to what it comes down to.
    pub(super) fn take_sessions(&mut self, cx: &mut Context<'_>, name: &str) {
        self.change(name, |cluster| cluster.take_sessions(cx));
        let leaves = self.find(name).and_then(Cluster::leaves);
        let leaves = leaves.map(|leaves| leaves.names.clone());
        for leaf in leaves.iter().flat_map(|leaves| leaves.iter()) {
            self.change(leaf, |cluster| cluster.take_sessions(cx));
        }
    }

    /// Whether such a route has led there.
    pub(super) fn has_sessions(&self, name: &str) -> bool {
        self.find(name).is_some_and(Cluster::has_sessions)
    }

    fn admit(&mut self, name: &Arc<str>, target: Arc<str>, is_routed: bool) {
        let id = ClusterId(self.next);
        self.next += 1;
        self.ids.insert(name.clone(), id);
        let backend = self.telemetry.backend(name, None);
        let member = Member {
            name: name.clone(),
            cluster: Cluster::new(
                id,
                backend,
                target,
                is_routed,
                self.inbox.clone(),
                self.idle_timeout,
            ),
            needs: ClusterNeeds::default(),
            timer: None,
            is_routed,
            held_by: BTreeSet::new(),
            choice: None,
        };
        self.members.insert(id, Box::new(member));
    }

    /// Whether this life of a cluster is one of these and goes on.
    pub(super) fn contains(&self, id: ClusterId) -> bool {
        self.members.contains_key(&id)
    }

    /// Notes the names that a cluster rests on. Answers whether they changed.
    pub(super) fn rests_on(&mut self, name: &Arc<str>, needs: ClusterNeeds) -> bool {
        let id = self.ids.get(name);
        let Some(member) = id.and_then(|id| self.members.get_mut(id)) else {
            return false;
        };
        if member.needs == needs {
            return false;
        }
        let (users, named) = (&mut self.users, &mut self.named);
        release(users, others(&member.needs.resources, name), name);
        release(named, &member.needs.hosts, name);
        claim(users, others(&needs.resources, name), name);
        claim(named, &needs.hosts, name);
        member.needs = needs;
        true
    }

    /// The clusters that rest on a host name.
    pub(super) fn named(&self, host: &Host) -> impl Iterator<Item = &Arc<str>> {
        self.named.get(host).into_iter().flatten()
    }

    /// Every host name that a cluster rests on.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.named.keys()
    }

    /// The host names that a cluster has its own endpoints from.
    pub(super) fn hosts_of(&self, id: ClusterId) -> impl Iterator<Item = &Host> {
        let member = self.members.get(&id);
        let own = member.filter(|member| member.cluster.leaves().is_none());
        own.into_iter().flat_map(|member| &member.needs.hosts)
    }

    /// The clusters that rest on a resource: on endpoints, or, as an aggregate, on a cluster. The
    /// cluster itself does not count.
    pub(super) fn users(&self, key: &Key) -> impl Iterator<Item = &Arc<str>> {
        self.users.get(key).into_iter().flatten()
    }

    /// Every name that a cluster rests on.
    pub(super) fn needs(&self) -> impl Iterator<Item = &Key> {
        self.members
            .values()
            .flat_map(|member| &member.needs.resources)
    }

    /// The names that one cluster rests on.
    pub(super) fn needs_of(&self, name: &str) -> impl Iterator<Item = &Key> {
        let id = self.ids.get(name);
        let member = id.and_then(|id| self.members.get(id));
        member
            .into_iter()
            .flat_map(|member| &member.needs.resources)
    }

    /// All of them, in the order of their names.
    pub(super) fn inspect(
        &self,
        from_control_plane: bool,
        calendar: Calendar,
    ) -> Vec<inspect::Cluster> {
        let clusters = self.members.values().map(|member| {
            let cluster = member.cluster.inspect(from_control_plane, calendar);
            let leaves = self.inspect_leaves(member, calendar);
            inspect::Cluster { leaves, ..cluster }
        });
        let mut all: Vec<_> = clusters.collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn inspect_leaves(&self, member: &Member, calendar: Calendar) -> Vec<inspect::Leaf> {
        let Some(leaves) = member.cluster.leaves() else {
            return Vec::new();
        };
        let choice = member.choice.as_deref();
        let known = leaves.names.iter().map(|name| {
            let used = choice.and_then(|choice| choice.last.as_ref());
            let used = used.filter(|(used, _)| used == name);
            let leaf = self.find(name).filter(|leaf| leaf.is_active());
            let expires = choice.and_then(|choice| choice.failover.expires(name));
            inspect::Leaf {
                name: name.to_string(),
                takes_calls: used.is_some(),
                why: match (used, &leaf, expires) {
                    (Some((_, why)), ..) => why.words().to_owned(),
                    (None, None, _) => "not needed so far".to_owned(),
                    (None, Some(_), Some(at)) => {
                        let left = calendar.left(at).as_secs();
                        format!("not needed; stays connected for {left} s")
                    }
                    (None, Some(_), None) => "another takes the calls".to_owned(),
                },
                connectivity: leaf.map(Cluster::prospect),
            }
        });
        let skipped = leaves.skipped.iter().map(|(name, failure)| inspect::Leaf {
            name: name.to_string(),
            takes_calls: false,
            why: format!("passed over: {}", failure.0),
            connectivity: None,
        });
        known.chain(skipped).collect()
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
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            member.timer = None;
            if let Some(choice) = &mut member.choice {
                choice.failover.handle_timeout(cx.now);
            }
            self.change_by_id(id, |cluster| cluster.handle_timeout(cx));
        }
    }

    /// Publishes what is due of the clusters that changed, lets aggregates choose anew by that,
    /// and notes when each wants to be called again.
    pub(super) fn flush(&mut self, cx: &mut Context<'_>) {
        // Ends: an aggregate comes to each leaf once at most before something else happens.
        while !self.touched.is_empty() {
            let touched = std::mem::take(&mut self.touched);
            let mut choosing = BTreeSet::new();
            for id in &touched {
                let Some(member) = self.members.get_mut(id) else {
                    continue;
                };
                let is_wanted = member.is_routed || !member.held_by.is_empty();
                member.cluster.set_active(cx, is_wanted);
                choosing.extend(member.held_by.iter().copied());
                if member.choice.is_some() || member.cluster.leaves().is_some() {
                    choosing.insert(*id);
                }
            }
            // Before a leaf tells calls that it fails, they are led elsewhere; after one has told
            // that it is ready, they are led there.
            self.choose_all(cx.now, &choosing);
            for id in &touched {
                if let Some(member) = self.members.get_mut(id) {
                    member.cluster.flush(cx.now);
                }
                self.schedule(*id);
            }
            self.choose_all(cx.now, &choosing);
        }
    }

    fn choose_all(&mut self, now: Instant, aggregates: &BTreeSet<ClusterId>) {
        for id in aggregates {
            self.choose(now, *id);
            self.schedule(*id);
        }
    }

    /// Notes when a cluster wants to be called again.
    fn schedule(&mut self, id: ClusterId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let next = member.next_timeout();
        if member.timer == next {
            return;
        }
        if let Some(at) = member.timer {
            self.timers.remove(&(at, id));
        }
        if let Some(at) = next {
            self.timers.insert((at, id));
        }
        member.timer = next;
    }

    /// Lets an aggregate choose among its leaves.
    fn choose(&mut self, now: Instant, id: ClusterId) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let leaves = member.cluster.leaves();
        // Nobody calls one that is not active: it was a leaf of another aggregate until now.
        let leaves = leaves.filter(|_| member.cluster.is_active());
        let leaves = leaves.map_or_else(|| Arc::from([]), |leaves| leaves.names.clone());
        let mut choice = member.choice.take().unwrap_or_default();
        choice.failover.set(&leaves);
        let known: Vec<_> = choice.failover.held().cloned().collect();
        for name in known {
            self.tell(now, &mut choice.failover, &name);
        }
        let mut used = None;
        for _ in 0..=leaves.len() {
            match choice.failover.choose(now) {
                None => break,
                Some(Choice::Connect(name)) => self.tell(now, &mut choice.failover, &name),
                Some(Choice::Use(name, why)) => {
                    used = Some((name, why));
                    break;
                }
            }
        }
        self.hold(id, &mut choice);
        self.lead(now, id, &choice, used.clone());
        choice.last = used;
        if let Some(member) = self.members.get_mut(&id)
            && !leaves.is_empty()
        {
            member.choice = Some(choice);
        }
    }

    fn tell(&self, now: Instant, failover: &mut Failover, leaf: &str) {
        if let Some(cluster) = self.find(leaf) {
            failover.heard(now, leaf, &cluster.prospect());
        }
    }

    /// Has the leaves know whether the aggregate wants them connected.
    fn hold(&mut self, aggregate: ClusterId, choice: &mut Chosen) {
        let ids = choice.failover.held().filter_map(|name| self.ids.get(name));
        let held: BTreeSet<_> = ids.copied().collect();
        for id in held.symmetric_difference(&choice.held) {
            if let Some(leaf) = self.members.get_mut(id) {
                match held.contains(id) {
                    true => leaf.held_by.insert(aggregate),
                    false => leaf.held_by.remove(&aggregate),
                };
                self.touched.insert(*id);
            }
        }
        choice.held = held;
    }

    /// Sends an aggregate's calls where the choice says.
    fn lead(
        &mut self,
        now: Instant,
        id: ClusterId,
        before: &Chosen,
        used: Option<(Arc<str>, Why)>,
    ) {
        let Some((name, why)) = used else {
            return;
        };
        let Some(leaf) = self.find(&name) else {
            return;
        };
        let of_leaf = leaf.shared.published().leaf.clone();
        // It may have become an aggregate itself, of which this one has not heard all yet.
        let target = of_leaf.unwrap_or_else(|| leaf.shared.clone());
        let connectivity = leaf.prospect();
        if let Some(member) = self.members.get_mut(&id) {
            if before.last.as_ref().is_none_or(|(last, _)| *last != name) {
                tell_choice(&member.name, before, &name, why);
            }
            if member.cluster.lead_to(now, target, connectivity) {
                // For aggregates of which it has become a leaf.
                self.touched.insert(id);
            }
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

    /// Drops the clusters that are not in `wanted` nor leaves of such: their connections close when
    /// the calls in flight have ended.
    pub(super) fn retain(&mut self, wanted: &BTreeSet<Arc<str>>) {
        let aggregates = wanted.iter().filter_map(|name| self.find(name));
        let leaves = aggregates.filter_map(Cluster::leaves);
        let leaves: BTreeSet<_> = leaves.flat_map(|l| &*l.names).cloned().collect();
        let Self {
            ids,
            members,
            timers,
            users,
            named,
            touched,
            ..
        } = self;
        let mut gone = BTreeSet::new();
        members.retain(|id, member| {
            let is_routed = wanted.contains(&member.name);
            if member.is_routed != is_routed {
                member.is_routed = is_routed;
                touched.insert(*id);
            }
            let stays = is_routed || leaves.contains(&member.name);
            if !stays {
                gone.insert(*id);
                ids.remove(&member.name);
                if let Some(at) = member.timer {
                    timers.remove(&(at, *id));
                }
                let needs = &member.needs;
                release(users, others(&needs.resources, &member.name), &member.name);
                release(named, &needs.hosts, &member.name);
            }
            stays
        });
        if gone.is_empty() {
            return;
        }
        for (id, member) in members {
            let before = member.held_by.len();
            member.held_by.retain(|aggregate| !gone.contains(aggregate));
            if member.held_by.len() != before {
                touched.insert(*id);
            }
        }
    }
}

/// What a cluster rests on beside itself.
fn others<'a>(needs: &'a Needs, cluster: &'a str) -> impl Iterator<Item = &'a Key> {
    needs
        .iter()
        .filter(move |key| key.0 != ResourceType::Cluster || *key.1 != *cluster)
}

/// Notes who uses these.
fn claim<'a, K: Clone + Eq + Hash + 'a>(
    users: &mut HashMap<K, BTreeSet<Arc<str>>>,
    keys: impl IntoIterator<Item = &'a K>,
    user: &Arc<str>,
) {
    for key in keys {
        users.entry(key.clone()).or_default().insert(user.clone());
    }
}

fn release<'a, K: Eq + Hash + 'a>(
    users: &mut HashMap<K, BTreeSet<Arc<str>>>,
    keys: impl IntoIterator<Item = &'a K>,
    user: &Arc<str>,
) {
    for key in keys {
        if let Some(names) = users.get_mut(key) {
            names.remove(user);
            if names.is_empty() {
                users.remove(key);
            }
        }
    }
}

fn tell_choice(aggregate: &str, before: &Chosen, leaf: &str, why: Why) {
    let from = before.last.as_ref().map(|(from, _)| &**from);
    tracing::info!(
        target: "sidestep::config",
        cluster = aggregate,
        from,
        leaf,
        why = why.words(),
        "the aggregate's calls go to this leaf"
    );
}
