//! The channels' targets: from resolved routes to published snapshots.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::authorities::Origins;
use super::clusters::Clusters;
use super::dependency::{self, ClientRoutes, Needs, Resolution};
use super::resource_cache::ResourceCache;
use crate::balancer::Failure;
use crate::inspect;
use crate::routing::{ClusterIndex, RouteTable};
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
        let watch = self.watches.entry(key).or_insert_with(Watch::new);
        if let Some(target) = target.upgrade()
            && !matches!(*watch.state, TargetState::Pending)
        {
            target.publish(watch.state.clone());
        }
        watch.targets.push(target);
    }

    /// Forgets targets that no channel uses any more.
    pub(super) fn sweep(&mut self) {
        self.watches.retain(|_, watch| {
            watch.targets.retain(|target| target.strong_count() > 0);
            !watch.targets.is_empty()
        });
    }

    /// Follows the cache. `origins` say who answers for it, and whether anybody can be asked.
    pub(super) fn resolve(
        &mut self,
        now: Instant,
        cache: &ResourceCache,
        origins: &Origins,
        revision: &Arc<str>,
    ) {
        for (key, watch) in &mut self.watches {
            watch.needs.clear();
            let ClientKey {
                listener,
                authority,
            } = key;
            let routes =
                dependency::client_routes(cache, origins, listener, authority, &mut watch.needs);
            watch.follow(now, routes, revision);
            if let Some(failure) = dependency::stuck(cache, origins, &watch.needs) {
                watch.give_up(failure);
            }
        }
    }

    /// There is no control plane to ask.
    pub(super) fn fail_all(&mut self, failure: &Failure) {
        for watch in self.watches.values_mut() {
            watch.fail(failure.clone());
        }
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
        let mut any = false;
        for (key, watch) in &mut self.watches {
            let due = watch.publish_at(wait, clusters);
            if due.is_some_and(|at| at <= now) {
                let revision = watch.next.as_ref().map(|next| next.revision.clone());
                watch.publish_next(clusters);
                any = true;
                tracing::info!(
                    target: "sidestep::config",
                    listener = &*key.listener,
                    authority = &*key.authority,
                    revision = revision.as_deref(),
                    clusters = watch.current.as_ref().map_or(0, |c| c.clusters.len()),
                    "configuration applied"
                );
            }
        }
        any
    }

    /// Whether no snapshot waits to be published.
    pub(super) fn is_settled(&self) -> bool {
        self.watches.values().all(|watch| watch.next.is_none())
    }

    /// When [`Clients::publish`] has something to do without anything else happening.
    pub(super) fn poll_timeout(&self, wait: Duration, clusters: &Clusters) -> Option<Instant> {
        let watches = self.watches.values();
        watches
            .filter_map(|watch| watch.publish_at(wait, clusters))
            .min()
    }

    /// Every name that a target rests on.
    pub(super) fn needs(&self) -> impl Iterator<Item = &super::resource_cache::Key> {
        self.watches.values().flat_map(|watch| &watch.needs)
    }

    /// Every cluster as [`Self::clusters`], and the first target that leads to it.
    pub(super) fn named(&self) -> BTreeMap<Arc<str>, String> {
        let mut named = BTreeMap::new();
        for (key, watch) in &self.watches {
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
        let first = self.watches.values().filter(|w| w.current.is_none());
        first
            .filter_map(|watch| watch.next.as_ref())
            .flat_map(|next| next.routes.clusters.iter().cloned())
            .collect()
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
        let routes = RouteTable::compile(
            &next.configuration,
            |name| ClusterIndex(places[name]),
            next.max_stream_duration,
        );
        self.show(TargetState::Ready(Snapshot {
            routes,
            clusters: shared,
        }));
        self.current = Some(next);
    }
}
