//! The channels' targets: from resolved routes to published snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::authorities::Origins;
use super::clusters::Clusters;
use super::config_source::Stale;
use super::dependency::{self, ClientRoutes, Needs, Resolution};
use super::resource_cache::{Key, ResourceCache};
use crate::balancer::Failure;
use crate::inspect;
use crate::routing::{Around, ClusterIndex, RouteTable};
use crate::snapshot::{Snapshot, Target, TargetState};

/// What a channel dialled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClientKey {
    /// The listener's name.
    pub(super) listener: Arc<str>,
    /// Selects the virtual host.
    pub(super) authority: Arc<str>,
}

/// All targets that channels watch.
#[derive(Default)]
pub(super) struct Clients {
    watches: BTreeMap<ClientKey, Watch>,
    /// Which of them rest on a name.
    users: HashMap<Key, BTreeSet<ClientKey>>,
    /// Not resolved yet.
    fresh: BTreeSet<ClientKey>,
    /// Those with a next snapshot.
    pending: BTreeSet<ClientKey>,
}

/// One target, whatever the number of channels that dialled it.
struct Watch {
    targets: Vec<Weak<Target>>,
    /// What the channels see.
    state: Arc<TargetState>,
    /// What that was made of, if it can route calls.
    current: Option<ClientRoutes>,
    /// Complete, but not to be seen before its new clusters are there.
    next: Option<Next>,
    needs: Needs,
}

struct Next {
    routes: ClientRoutes,
    since: Instant,
    /// The control plane's version of it, for people.
    revision: Arc<str>,
}

impl Clients {
    /// A channel dialled.
    pub(super) fn watch(&mut self, key: ClientKey, target: Weak<Target>) {
        let watch = self.watches.entry(key).or_insert_with_key(|key| {
            self.fresh.insert(key.clone());
            Watch::new()
        });
        if let Some(target) = target.upgrade()
            && !matches!(*watch.state, TargetState::Pending)
        {
            target.publish(watch.state.clone());
        }
        watch.targets.push(target);
    }

    /// Forgets targets that no channel uses any more.
    pub(super) fn sweep(&mut self) {
        let Self {
            watches,
            users,
            fresh,
            pending,
        } = self;
        watches.retain(|key, watch| {
            watch.targets.retain(|target| target.strong_count() > 0);
            let stays = !watch.targets.is_empty();
            if !stays {
                release(users, &watch.needs, key);
                fresh.remove(key);
                pending.remove(key);
            }
            stays
        });
    }

    /// Follows the cache, for targets that rest on what is `stale` and for new ones, and says
    /// which those are. `origins` say who answers for it, and whether anybody can be asked.
    pub(super) fn resolve(
        &mut self,
        now: Instant,
        cache: &ResourceCache,
        origins: &Origins,
        revision: &Arc<str>,
        stale: &Stale,
    ) -> BTreeSet<ClientKey> {
        let mut due = std::mem::take(&mut self.fresh);
        if stale.all {
            due.extend(self.watches.keys().cloned());
        }
        let users = stale.names.iter().filter_map(|name| self.users.get(name));
        due.extend(users.flatten().cloned());
        for key in &due {
            let Some(watch) = self.watches.get_mut(key) else {
                continue;
            };
            let mut needs = Needs::new();
            let (listener, authority) = (&key.listener, &key.authority);
            let routes = dependency::client_routes(cache, origins, listener, authority, &mut needs);
            watch.follow(now, routes, revision);
            if let Some(failure) = dependency::stuck(cache, origins, &needs) {
                watch.give_up(failure);
            }
            match watch.next {
                Some(_) => self.pending.insert(key.clone()),
                None => self.pending.remove(key),
            };
            if needs != watch.needs {
                release(&mut self.users, &watch.needs, key);
                for name in &needs {
                    let users = self.users.entry(name.clone()).or_default();
                    users.insert(key.clone());
                }
                watch.needs = needs;
            }
        }
        due
    }

    /// There is no control plane to ask.
    pub(super) fn fail_all(&mut self, failure: &Failure) {
        for watch in self.watches.values_mut() {
            watch.fail(failure.clone());
        }
        self.fresh.clear();
        self.pending.clear();
    }

    /// Nothing will change any more.
    pub(super) fn end(&mut self, failure: &Failure) {
        for watch in self.watches.values_mut() {
            watch.show(TargetState::Ended(failure.clone()));
        }
    }

    /// Publishes each complete snapshot whose clusters may be named by now. Answers whether there
    /// was one.
    pub(super) fn publish(&mut self, now: Instant, wait: Duration, clusters: &Clusters) -> bool {
        let before = self.pending.len();
        let watches = &mut self.watches;
        self.pending.retain(|key| {
            let Some(watch) = watches.get_mut(key) else {
                return false;
            };
            if watch.publish_at(wait, clusters).is_none_or(|at| at > now) {
                return true;
            }
            let revision = watch.next.as_ref().map(|next| next.revision.clone());
            watch.publish_next(clusters);
            tracing::info!(
                target: "sidestep::config",
                listener = &*key.listener,
                authority = &*key.authority,
                revision = revision.as_deref(),
                clusters = watch.current.as_ref().map_or(0, |c| c.clusters.len()),
                "configuration applied"
            );
            false
        });
        self.pending.len() < before
    }

    /// Whether no snapshot waits to be published.
    pub(super) fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// When [`Clients::publish`] has something to do without anything else happening.
    pub(super) fn poll_timeout(&self, wait: Duration, clusters: &Clusters) -> Option<Instant> {
        self.pending()
            .filter_map(|watch| watch.publish_at(wait, clusters))
            .min()
    }

    fn pending(&self) -> impl Iterator<Item = &Watch> {
        self.pending.iter().filter_map(|key| self.watches.get(key))
    }

    /// Every name that a target rests on.
    pub(super) fn needs(&self) -> impl Iterator<Item = &Key> {
        self.watches.values().flat_map(|watch| &watch.needs)
    }

    /// Every cluster that these targets lead to, and the first target that does.
    pub(super) fn named(&self, targets: &BTreeSet<ClientKey>) -> BTreeMap<Arc<str>, String> {
        let mut named = BTreeMap::new();
        let watches = targets.iter().filter_map(|k| self.watches.get_key_value(k));
        for (key, watch) in watches {
            let next = watch.next.iter().map(|next| &next.routes);
            for cluster in next
                .chain(&watch.current)
                .flat_map(|routes| &routes.clusters)
            {
                let target = || format!("xds:///{}", key.authority);
                named.entry(cluster.clone()).or_insert_with(target);
            }
        }
        named
    }

    /// Every cluster that calls with sessions may go to.
    pub(super) fn sticky(&self) -> BTreeSet<Arc<str>> {
        let watches = self.watches.values();
        let next = |watch: &'_ Watch| watch.next.as_ref().map(|next| next.routes.sticky.clone());
        let current = |watch: &'_ Watch| watch.current.as_ref().map(|c| c.sticky.clone());
        watches
            .flat_map(|watch| [current(watch), next(watch)])
            .flatten()
            .flatten()
            .collect()
    }

    /// Every target that a channel still uses.
    pub(super) fn inspect(&self) -> Vec<inspect::Target> {
        let used = self.watches.iter().filter(|(_, watch)| watch.is_used());
        let targets = used.map(|(key, watch)| inspect::Target {
            name: key.listener.clone(),
            authority: key.authority.clone(),
            routes: watch.routes_name(),
            state: watch.state.clone(),
            unresolved: None,
        });
        targets.collect()
    }

    /// Every cluster named by what is published or about to be.
    pub(super) fn clusters(&self) -> BTreeSet<Arc<str>> {
        let next = |watch: &'_ Watch| watch.next.as_ref().map(|next| next.routes.clusters.clone());
        let current = |watch: &'_ Watch| watch.current.as_ref().map(|c| c.clusters.clone());
        let watches = self.watches.values();
        watches
            .flat_map(|watch| [current(watch), next(watch)])
            .flatten()
            .flatten()
            .collect()
    }

    /// The clusters of targets that have nothing in use: only these may be failed because no
    /// control plane answers.
    pub(super) fn first_clusters(&self) -> BTreeSet<Arc<str>> {
        let first = self.pending().filter(|w| w.current.is_none());
        first
            .filter_map(|watch| watch.next.as_ref())
            .flat_map(|next| next.routes.clusters.iter().cloned())
            .collect()
    }
}

fn release(users: &mut HashMap<Key, BTreeSet<ClientKey>>, needs: &Needs, user: &ClientKey) {
    for name in needs {
        if let Some(its) = users.get_mut(name) {
            its.remove(user);
            if its.is_empty() {
                users.remove(name);
            }
        }
    }
}

impl Watch {
    fn new() -> Self {
        Self {
            targets: Vec::new(),
            state: Arc::new(TargetState::Pending),
            current: None,
            next: None,
            needs: Needs::new(),
        }
    }

    fn routes_name(&self) -> Arc<str> {
        let current = self.current.as_ref();
        current.map_or_else(|| "".into(), |c| c.configuration.name.as_str().into())
    }

    fn is_used(&self) -> bool {
        self.targets.iter().any(|target| target.strong_count() > 0)
    }

    fn follow(&mut self, now: Instant, routes: Resolution<ClientRoutes>, revision: &Arc<str>) {
        match routes {
            // What is in use stays in use; what was about to be is overtaken.
            Resolution::Waiting => self.next = None,
            Resolution::Ready(routes) => {
                let changed = self.current.as_ref() != Some(&routes);
                self.next = changed.then(|| Next {
                    routes,
                    since: now,
                    revision: revision.clone(),
                });
            }
            Resolution::Failed(failure) => self.fail(failure),
        }
    }

    /// Nothing is in use and nothing about to be: calls need not wait for a control plane that
    /// cannot be reached.
    fn give_up(&mut self, failure: Failure) {
        if matches!(*self.state, TargetState::Pending) && self.next.is_none() {
            self.fail(failure);
        }
    }

    fn fail(&mut self, failure: Failure) {
        self.current = None;
        self.next = None;
        if matches!(&*self.state, TargetState::Failed(last) if *last == failure) {
            return;
        }
        tracing::warn!(
            target: "sidestep::config",
            code = %failure.1,
            reason = &*failure.0,
            "no usable configuration"
        );
        self.show(TargetState::Failed(failure));
    }

    fn show(&mut self, state: TargetState) {
        self.state = Arc::new(state);
        for target in self.targets.iter().filter_map(Weak::upgrade) {
            target.publish(self.state.clone());
        }
    }

    /// The moment from which the next snapshot may be seen; `None`: not yet known, or there is no
    /// next one. A first snapshot has nothing to protect and waits only for its clusters to be
    /// resolved: its calls would wait in any case, and some of its clusters may be ready.
    fn publish_at(&self, wait: Duration, clusters: &Clusters) -> Option<Instant> {
        let next = self.next.as_ref()?;
        let current = self.current.as_ref();
        let known: HashSet<_> = current.iter().flat_map(|c| &c.clusters).collect();
        let mut latest = next.since;
        for name in next
            .routes
            .clusters
            .iter()
            .filter(|name| !known.contains(name))
        {
            let cluster = clusters.find(name)?;
            latest = latest.max(match current {
                None => cluster.first_nameable_at()?,
                Some(_) => cluster.nameable_at(wait)?,
            });
        }
        Some(latest)
    }

    fn publish_next(&mut self, clusters: &Clusters) {
        let Some(Next { routes: next, .. }) = self.next.take() else {
            return;
        };
        let named = next.clusters.iter().map(|name| clusters.find(name));
        let Some(shared) = named
            .map(|cluster| cluster.map(|c| c.shared.clone()))
            .collect::<Option<Box<[_]>>>()
        else {
            return;
        };
        let places: HashMap<&str, u32> =
            next.clusters.iter().map(|name| &**name).zip(0..).collect();
        let routes = RouteTable::compile_in(
            &next.configuration,
            |name| ClusterIndex(places[name]),
            &Around {
                max_stream_duration: next.max_stream_duration,
                filters: &next.filters,
            },
        );
        self.show(TargetState::Ready(Snapshot {
            routes,
            clusters: shared,
        }));
        self.current = Some(next);
    }
}
