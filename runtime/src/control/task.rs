//! The task: everything that changes is changed here, one input after the other.
//!
//! A turn takes in all that has come, then follows the consequences to their end, and only then
//! publishes: pickers first, snapshots that name them next, removals last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::resource::{Locality, ResourceType};
use tokio::sync::{mpsc, oneshot};

use super::attempt::Outcome;
use super::authorities::SharedOrigins;
use super::clients::{ClientKey, Clients};
use super::cluster::Context;
use super::clusters::Clusters;
use super::config_source::{ConfigSource, Stale};
use super::dependency::{ClusterNeeds, View};
use super::dialer::Dialer;
use super::directs::Directs;
use super::names::{Host, Names};
use super::reconcile::{Difference, difference};
use super::resource_cache::Key;
use super::servers::Servers;
use super::{Config, Input, Timers, WeakInbox, dependency};
use crate::security::CertificateProviders;
use crate::telemetry::Telemetry;

/// The control task, not yet running.
pub(super) struct Task {
    inputs: mpsc::UnboundedReceiver<Input>,
    timers: Timers,
    means: Means,
    pub(super) source: Option<ConfigSource>,
    pub(super) clients: Clients,
    pub(super) servers: Servers,
    pub(super) directs: Directs,
    names: Names,
    pub(super) clusters: Clusters,
    /// What is subscribed.
    subscribed: BTreeSet<Key>,
    work: Work,
    /// Who wants to know when this ends: dropped with it.
    pub(super) ends: Vec<oneshot::Sender<()>>,
    /// Who waits until nothing is on its way into use.
    settling: Vec<oneshot::Sender<()>>,
}

/// What clusters need to act.
struct Means {
    dialer: Dialer,
    providers: CertificateProviders,
    telemetry: Arc<Telemetry>,
    /// Where this process is.
    home: Locality,
}

impl Means {
    fn context(&mut self, now: Instant) -> Context<'_> {
        Context {
            now,
            dialer: &mut self.dialer,
            providers: &self.providers,
            telemetry: &self.telemetry,
            home: &self.home,
        }
    }
}

/// What has to be looked at again before the next wait.
#[derive(Default)]
struct Work {
    /// A user may be gone.
    sweep: bool,
    /// A Listener or RouteConfiguration changed, or who watches them.
    routes: bool,
    /// Which of them, and so who is to be resolved again beside who is new.
    stale: Stale,
    /// These clusters, or their endpoints, changed.
    clusters: BTreeSet<Arc<str>>,
    /// What targets name or rest on may have changed.
    needs: bool,
}

impl Task {
    pub(super) fn new(
        config: Config,
        inbox: WeakInbox,
        inputs: mpsc::UnboundedReceiver<Input>,
    ) -> Self {
        let source = ConfigSource::new(&config, inbox.clone(), now());
        let node = config.bootstrap.as_ref().map(|bootstrap| &bootstrap.node);
        let home = node.map_or_else(Locality::default, |node| node.locality.clone());
        Self {
            inputs,
            source,
            clients: Clients::default(),
            servers: Servers::default(),
            directs: Directs::new(inbox.clone(), config.telemetry.clone(), config.idle_timeout),
            names: Names::new(inbox.clone(), config.resolver, config.timers.lookup),
            clusters: Clusters::new(
                inbox.clone(),
                config.telemetry.clone(),
                config.idle_timeout,
                0,
            ),
            means: Means {
                dialer: Dialer {
                    inbox,
                    connector: config.connector,
                    http2: config.http2,
                    plaintext: config.plaintext,
                    backoff: config.timers.connect_backoff,
                    most_connections: config.most_connections,
                    attempts: 0,
                    telemetry: config.telemetry.clone(),
                },
                providers: config.providers,
                telemetry: config.telemetry,
                home,
            },
            timers: config.timers,
            subscribed: BTreeSet::new(),
            work: Work::default(),
            ends: Vec::new(),
            settling: Vec::new(),
        }
    }

    /// Whom to ask about failures.
    pub(super) fn origins(&self) -> Option<SharedOrigins> {
        let source = self.source.as_ref();
        source.map(|source| source.origins().shared())
    }

    /// Runs until the last handle and the last target are gone.
    pub(super) async fn run(mut self) {
        self.means.providers.spawn_refresh();
        loop {
            let deadline = self.poll_timeout();
            tokio::select! {
                biased;
                input = self.inputs.recv() => match input {
                    None => return,
                    Some(input) => self.handle(input),
                },
                () = sleep_until(deadline) => {}
            }
            // All that is there now, and no more: a flood of inputs must not hold the turn up.
            for _ in 0..self.inputs.len() {
                let Ok(input) = self.inputs.try_recv() else {
                    break;
                };
                self.handle(input);
            }
            self.turn(now());
            if let Some(source) = &mut self.source {
                source.settle();
            }
            if !self.settling.is_empty() && self.is_settled() {
                for waiting in self.settling.drain(..) {
                    // Whoever waited may have given up.
                    let _ = waiting.send(());
                }
            }
        }
    }

    fn handle(&mut self, input: Input) {
        let now = now();
        let mut cx = self.means.context(now);
        match input {
            Input::Watch {
                listener,
                authority,
                target,
            } => {
                let key = ClientKey {
                    listener: listener.into(),
                    authority: authority.into(),
                };
                self.clients.watch(key, target);
                self.work.routes = true;
            }
            Input::WatchDirect { direct, target } => {
                self.directs.watch(&mut cx, &self.names, direct, target);
                self.work.needs = true;
            }
            Input::WatchServer { listener, state } => {
                self.servers.watch(listener.into(), state);
                self.work.routes = true;
            }
            Input::TargetDropped => self.work.sweep = true,
            Input::ConnectRequested {
                cluster,
                endpoint,
                slot,
            } => {
                let clusters = match self.clusters.contains(cluster) {
                    true => &mut self.clusters,
                    false => self.directs.clusters(),
                };
                clusters.change_by_id(cluster, |c| {
                    c.connect_requested(&mut cx, endpoint, &slot);
                });
            }
            Input::RoomRequested {
                cluster,
                endpoint,
                slot,
            } => {
                let clusters = match self.clusters.contains(cluster) {
                    true => &mut self.clusters,
                    false => self.directs.clusters(),
                };
                clusters.change_by_id(cluster, |c| c.room_requested(&mut cx, endpoint, &slot));
            }
            Input::Noticed {
                cluster,
                endpoint,
                slot,
            } => {
                let clusters = match self.clusters.contains(cluster) {
                    true => &mut self.clusters,
                    false => self.directs.clusters(),
                };
                clusters.change_by_id(cluster, |c| c.noticed(&mut cx, endpoint, &slot));
            }
            Input::Connection { owner, outcome } => {
                let is_trouble = !matches!(outcome, Outcome::Connected(_));
                let clusters = match self.clusters.contains(owner.cluster) {
                    true => &mut self.clusters,
                    false => self.directs.clusters(),
                };
                clusters.change_by_id(owner.cluster, |c| {
                    c.heard(&mut cx, owner.endpoint, owner.attempt, outcome);
                });
                if is_trouble {
                    // Perhaps it is somewhere else by now.
                    for host in clusters.hosts_of(owner.cluster) {
                        self.names.doubt(now, host);
                    }
                }
            }
            Input::Ads { link, said } => {
                if let Some(source) = &mut self.source {
                    source.heard(now, link, said);
                }
            }
            Input::Ask(question) => self.answer(now, question),
            Input::Settled(waiting) => self.settling.push(waiting),
            Input::Replaced(resources) => {
                if let Some(source) = &mut self.source {
                    source.replace(now, resources);
                }
            }
            Input::Found { host, found } => {
                if self.names.found(now, &host, found) {
                    let named = self.clusters.named(&host).cloned();
                    self.work.clusters.extend(named);
                    self.directs.follow(&mut cx, &self.names, &host);
                }
            }
        }
    }

    /// Whether all that the control plane has said, and all that was asked of it, is in use.
    fn is_settled(&self) -> bool {
        let source = self.source.as_ref();
        source.is_none_or(|source| source.cache().is_complete())
            && self.clients.is_settled()
            && self.clusters.is_settled()
    }

    /// Follows all consequences of what was taken in.
    fn turn(&mut self, now: Instant) {
        self.handle_timeout(now);
        loop {
            self.sweep();
            self.follow_source();
            self.resolve_routes(now);
            self.configure_clusters(now);
            self.flush(now);
            let wait = self.timers.publish_wait;
            self.work.needs |= self.clients.publish(now, wait, &self.clusters);
            if !std::mem::take(&mut self.work.needs) {
                return;
            }
            self.clusters.retain(&self.clients.clusters());
            self.subscribe(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if let Some(source) = &mut self.source {
            source.handle_timeout(now);
        }
        self.names.handle_timeout(now);
        let mut cx = self.means.context(now);
        self.clusters.handle_timeout(&mut cx);
        self.directs.handle_timeout(&mut cx);
    }

    fn sweep(&mut self) {
        self.servers.sweep();
        if std::mem::take(&mut self.work.sweep) {
            self.clients.sweep();
            self.directs.sweep();
            self.work.needs = true;
        }
    }

    /// Takes over what the control plane changed.
    fn follow_source(&mut self) {
        let Some(source) = &mut self.source else {
            return;
        };
        let changes = source.take_changes();
        self.work.routes |= changes.routes.all || !changes.routes.names.is_empty();
        self.work.stale.extend(changes.routes);
        let clusters = changes.clusters.iter().cloned();
        let clusters = clusters.map(|name| (ResourceType::Cluster, name));
        let assignments = changes.assignments.into_iter();
        let assignments = assignments.map(|name| (ResourceType::EndpointAssignment, name));
        for key in clusters.chain(assignments) {
            let users = self.clusters.users(&key).cloned();
            self.work.clusters.extend(users);
        }
        self.work.clusters.extend(changes.clusters);
    }

    fn resolve_routes(&mut self, now: Instant) {
        if !std::mem::take(&mut self.work.routes) {
            return;
        }
        let Some(source) = &self.source else {
            let failure = dependency::no_bootstrap();
            self.clients.fail_all(&failure);
            return self.servers.fail_all(&failure);
        };
        let (cache, origins, revision) = (source.cache(), source.origins(), source.revision());
        let stale = std::mem::take(&mut self.work.stale);
        let resolved = self.clients.resolve(now, cache, origins, revision, &stale);
        self.servers.resolve(cache, origins, revision, &stale);
        for (name, target) in self.clients.named(&resolved) {
            if self.clusters.ensure(&name, &target) {
                self.work.clusters.insert(name);
            }
        }
        let mut cx = self.means.context(now);
        for name in self.clients.sticky() {
            self.clusters.take_sessions(&mut cx, &name);
        }
        self.work.needs = true;
    }

    fn configure_clusters(&mut self, now: Instant) {
        let Some(source) = &self.source else {
            return;
        };
        let mut cx = self.means.context(now);
        let names = |host: &Host| self.names.find(host);
        let view = View {
            cache: source.cache(),
            origins: source.origins(),
            names: &names,
        };
        // Grows by the leaves of the aggregates in it.
        while let Some(name) = self.work.clusters.pop_first() {
            let mut needs = ClusterNeeds::default();
            let config = dependency::cluster_config(view, &name, &mut needs);
            self.work.needs |= self.clusters.rests_on(&name, needs);
            self.clusters
                .change(&name, |cluster| cluster.configure(&mut cx, config));
            let new = self.clusters.ensure_leaves(&name);
            self.work.clusters.extend(new);
            if self.clusters.has_sessions(&name) {
                self.clusters.take_sessions(&mut cx, &name);
            }
        }
        for name in self.clients.first_clusters() {
            let needs = self.clusters.needs_of(&name);
            let failure = dependency::stuck(source.cache(), source.origins(), needs);
            if let Some(failure) = failure {
                self.clusters
                    .change(&name, |cluster| cluster.give_up(now, &failure));
            }
        }
    }

    /// Publishes what the clusters have to say.
    fn flush(&mut self, now: Instant) {
        let mut cx = self.means.context(now);
        self.clusters.flush(&mut cx);
        self.directs.clusters().flush(&mut cx);
    }

    /// Subscribes what something rests on now, and unsubscribes what nothing does any more.
    fn subscribe(&mut self, now: Instant) {
        let hosts = self.clusters.hosts().chain(self.directs.hosts());
        self.names.want(hosts.cloned().collect());
        let Some(source) = &mut self.source else {
            return;
        };
        let clients = self.clients.needs().chain(self.servers.needs());
        let wanted: BTreeSet<Key> = clients.chain(self.clusters.needs()).cloned().collect();
        let Difference { added, removed } = difference(&self.subscribed, &wanted);
        self.subscribed = wanted;
        source.subscribe(now, added);
        source.unsubscribe(now, removed);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let wait = self.timers.publish_wait;
        [
            self.source.as_ref().and_then(ConfigSource::poll_timeout),
            self.clusters.poll_timeout(),
            self.directs.poll_timeout(),
            self.names.poll_timeout(),
            self.clients.poll_timeout(wait, &self.clusters),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

impl Drop for Task {
    /// Where somebody still relies on the task, its runtime was shut down or it panicked: calls
    /// must not wait for what will not come.
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(target: "sidestep::config", "the control task panicked");
        }
        let failure = super::ended();
        self.clients.end(&failure);
        self.directs.end(&failure);
        self.inputs.close();
        while let Ok(input) = self.inputs.try_recv() {
            super::refuse(input);
        }
    }
}

/// By tokio's clock, so that tests may pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
