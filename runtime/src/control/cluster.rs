//! One cluster: its load balancer, its endpoints, and what is published of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sidestep_proto::code;
use sidestep_proto::resource::{DropCategory, LbPolicy, UpstreamTls};

use super::WeakInbox;
use super::attempt::{AttemptId, Outcome};
use super::dependency::{ClusterConfig, Resolution};
use super::endpoint::{Dialer, Endpoint, Security, Step};
use super::inspect::Calendar;
use super::reconcile::{EndpointKey, Roster, RosterUpdate};
use crate::balancer::{
    self, Action, Actions, Connectivity, Failing, Failure, LoadBalancer, Picker, Queueing,
    SubchannelId,
};
use crate::explain::words;
use crate::inspect;
use crate::resolver::Transport;
use crate::security::{CertificateProviders, ClientTls};
use crate::snapshot::{self, ClusterId, Published, Slot};
use crate::telemetry::{Backend, Telemetry};

/// While connections change quickly, a cluster publishes at most one picker in this time.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);

/// What a cluster uses of the task.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) dialer: &'a mut Dialer,
    pub(super) providers: &'a CertificateProviders,
    pub(super) telemetry: &'a Telemetry,
}

/// One cluster, from the first route that names it to the last.
pub(super) struct Cluster {
    pub(super) shared: Arc<snapshot::Cluster>,
    /// The target that led here first, as metrics have it.
    target: Arc<str>,
    config: Resolution<ClusterConfig>,
    /// When the control plane's first definite answer was taken over.
    resolved: Option<Instant>,
    /// When calls began to fail because no control plane could be reached to say what it is.
    given_up: Option<Instant>,
    /// READY, IDLE or TRANSIENT_FAILURE was published since: calls get a definite answer.
    settled: bool,
    policy: Option<(LbPolicy, Box<dyn LoadBalancer>)>,
    security: Security,
    roster: Roster,
    endpoints: BTreeMap<SubchannelId, Endpoint>,
    /// Out of the configuration, but perhaps still in the picker that is out.
    retired: Vec<Endpoint>,
    slots: Vec<Arc<Slot>>,
    /// Shares of calls that are shed before the policy is asked.
    drops: Vec<DropCategory>,
    publication: Publication,
}

/// The last word of the policy, and whether it is out.
struct Publication {
    connectivity: Connectivity,
    picker: Arc<dyn Picker>,
    due: Option<Instant>,
    last: Option<Instant>,
}

impl Publication {
    fn want(&mut self, now: Instant) {
        let paced = self.last.map(|last| last + PUBLISH_INTERVAL);
        self.due = Some(paced.map_or(now, |paced| paced.max(now)));
    }
}

impl Cluster {
    /// `backend` is its name as metrics have it.
    pub(super) fn new(
        id: ClusterId,
        backend: Arc<Backend>,
        target: Arc<str>,
        inbox: WeakInbox,
    ) -> Self {
        let published = Published {
            connectivity: Connectivity::Connecting,
            picker: Arc::new(Queueing),
            slots: Arc::new([]),
        };
        Self {
            shared: Arc::new(snapshot::Cluster::new(id, backend, published, inbox)),
            target,
            config: Resolution::Waiting,
            resolved: None,
            given_up: None,
            settled: false,
            policy: None,
            security: Security::Unsaid,
            roster: Roster::default(),
            endpoints: BTreeMap::new(),
            retired: Vec::new(),
            slots: Vec::new(),
            drops: Vec::new(),
            publication: Publication {
                connectivity: Connectivity::Connecting,
                picker: Arc::new(Queueing),
                due: None,
                last: None,
            },
        }
    }

    /// Takes over what the control plane says of it. Equal to the last: nothing happens. Still
    /// waiting after something was known: what was known stays in use.
    pub(super) fn configure(&mut self, cx: &mut Context<'_>, config: Resolution<ClusterConfig>) {
        if config == self.config || config == Resolution::Waiting {
            return;
        }
        if self.resolved.is_none() || self.is_unusable() {
            self.resolved.get_or_insert(cx.now);
            self.settled = false;
        }
        match &config {
            Resolution::Ready(ready) => match self.apply(cx, ready) {
                Ok(()) => self.tell(ready),
                Err(failure) => self.fail(cx.now, failure),
            },
            Resolution::Failed(failure) => self.fail(cx.now, failure.clone()),
            Resolution::Waiting => {}
        }
        self.config = config;
    }

    /// No control plane can be reached. Changes only a cluster of which nothing is known.
    pub(super) fn give_up(&mut self, now: Instant, failure: &Failure) {
        if self.resolved.is_none() && self.given_up.is_none() {
            self.given_up = Some(now);
            self.fail(now, failure.clone());
        }
    }

    /// Whether its endpoints cannot be used: other ones may be known by now.
    pub(super) fn is_failing(&self) -> bool {
        matches!(
            self.publication.connectivity,
            Connectivity::TransientFailure(_)
        )
    }

    /// Whether the control plane has said what it is.
    pub(super) fn is_resolved(&self) -> bool {
        self.resolved.is_some()
    }

    /// Whether it, or its endpoints, are missing or wrong.
    fn is_unusable(&self) -> bool {
        match &self.config {
            Resolution::Waiting => false,
            Resolution::Failed(_) => true,
            Resolution::Ready(ready) => ready.endpoints.is_err(),
        }
    }

    /// Why it cannot be used as configured.
    pub(super) fn error(&self) -> Option<String> {
        match &self.config {
            Resolution::Waiting => None,
            Resolution::Failed(failure) => Some(failure.0.to_string()),
            Resolution::Ready(ready) => {
                let failure = ready.endpoints.as_ref().err()?;
                Some(failure.0.to_string())
            }
        }
    }

    /// Everything about it, for people.
    pub(super) fn inspect(&self, from_control_plane: bool, calendar: Calendar) -> inspect::Cluster {
        let config = match &self.config {
            Resolution::Ready(config) => Some(config),
            Resolution::Waiting | Resolution::Failed(_) => None,
        };
        let cluster = config.map(|config| &config.cluster);
        let drops = self.drops.iter();
        let breaker = self.shared.breaker();
        inspect::Cluster {
            name: self.shared.name().to_string(),
            from_control_plane,
            policy: cluster.map(|cluster| cluster.lb_policy),
            discovery: cluster.map(|cluster| cluster.discovery.clone()),
            security: cluster.map_or_else(String::new, |c| words::security(c.tls.as_ref())),
            connectivity: self.publication.connectivity.clone(),
            error: self.error(),
            max_requests: breaker.max(),
            in_flight: breaker.in_flight(),
            drops: drops
                .map(|d| (d.category.clone(), d.share.parts()))
                .collect(),
            endpoints: config
                .map_or_else(Vec::new, |config| self.inspect_endpoints(config, calendar)),
        }
    }

    fn inspect_endpoints(
        &self,
        config: &ClusterConfig,
        calendar: Calendar,
    ) -> Vec<inspect::Endpoint> {
        let known: HashMap<&EndpointKey, &Endpoint> =
            self.endpoints.values().map(|e| (e.key(), e)).collect();
        let groups = config.endpoints.iter().flat_map(|e| &e.localities);
        let all = groups.flat_map(|group| group.endpoints.iter().map(move |e| (group, e)));
        all.map(|(group, wire)| {
            let ours = known
                .get(&EndpointKey::of(wire))
                .filter(|_| wire.health.is_usable());
            inspect::Endpoint {
                addresses: wire.addresses.clone(),
                hostname: wire.hostname.clone(),
                locality: group.locality.clone(),
                priority: group.priority,
                weight: wire.weight,
                locality_weight: group.weight,
                health: wire.health,
                connectivity: ours.map(|endpoint| endpoint.connectivity()),
                in_flight: ours.map_or(0, |endpoint| endpoint.in_flight()),
                last_error: ours.and_then(|endpoint| endpoint.last_error(calendar)),
            }
        })
        .collect()
    }

    /// When a target's first snapshot may name it: once there is any definite answer.
    pub(super) fn first_nameable_at(&self) -> Option<Instant> {
        self.resolved.or(self.given_up)
    }

    /// When a later snapshot may name it: as soon as it is resolved and settled, and at the
    /// latest `wait` after it was resolved. That long, one that is said not to be there may yet
    /// come: not every control plane tells of a cluster before it routes to it.
    pub(super) fn nameable_at(&self, wait: Duration) -> Option<Instant> {
        let resolved = self.resolved?;
        Some(if self.settled && !self.is_unusable() {
            resolved
        } else {
            resolved + wait
        })
    }

    /// A call wants an idle endpoint.
    pub(super) fn connect_requested(
        &mut self,
        cx: &mut Context<'_>,
        id: SubchannelId,
        slot: &Arc<Slot>,
    ) {
        slot.connect_requested.store(false, Ordering::Release);
        let current = self.slots.get(id.0 as usize);
        if !current.is_some_and(|current| Arc::ptr_eq(current, slot)) {
            return;
        }
        if let Some((_, policy)) = &mut self.policy {
            let mut actions = Actions::new();
            policy.connect_requested(cx.now, id, &mut actions);
            self.act(cx, actions);
        }
    }

    /// A connection of it has news.
    pub(super) fn heard(
        &mut self,
        cx: &mut Context<'_>,
        id: SubchannelId,
        attempt: AttemptId,
        outcome: Outcome,
    ) {
        self.step(cx, id, |endpoint, step| {
            endpoint.heard(step, attempt, outcome);
        });
    }

    /// Publishes the last word of the policy, unless one was published only just.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.publication.due.is_none_or(|at| at > now) {
            return;
        }
        self.publication.due = None;
        self.publication.last = Some(now);
        self.settled |= self.publication.connectivity != Connectivity::Connecting;
        self.shared.publish(Published {
            connectivity: self.publication.connectivity.clone(),
            picker: balancer::with_drops(self.publication.picker.clone(), &self.drops),
            slots: self.slots.as_slice().into(),
        });
        // Only now no new call can meet them.
        self.retired.clear();
    }

    /// When something of it wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let endpoints = self.endpoints.values();
        let policy = self.policy.as_ref();
        endpoints
            .filter_map(Endpoint::poll_timeout)
            .chain(policy.and_then(|(_, policy)| policy.next_timeout()))
            .chain(self.publication.due)
            .min()
    }

    /// Whether the last word of its policy is out.
    pub(super) fn is_published(&self) -> bool {
        self.publication.due.is_none()
    }

    /// The moment has come.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let ids: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| due(endpoint.poll_timeout()))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.step(cx, id, |endpoint, step| endpoint.handle_timeout(step));
        }
        let mut actions = Actions::new();
        if let Some((_, policy)) = &mut self.policy
            && due(policy.next_timeout())
        {
            policy.handle_timeout(now, &mut actions);
        }
        self.act(cx, actions);
    }

    fn apply(&mut self, cx: &mut Context<'_>, config: &ClusterConfig) -> Result<(), Failure> {
        let cluster = &config.cluster;
        self.shared.breaker().set_max(cluster.max_requests);
        self.secure(cx, cluster.tls.as_ref(), config.transport)?;
        let (update, error) = match &config.endpoints {
            Ok(assignment) => (self.roster.update(assignment), None),
            Err(failure) => (self.roster.clear(), Some(failure.clone())),
        };
        let error = error.or_else(|| {
            let none = update.endpoints.is_empty();
            none.then(|| no_endpoints(&cluster.name))
        });
        self.drops = match &config.endpoints {
            Ok(assignment) => assignment.drops.clone(),
            Err(_) => Vec::new(),
        };
        self.admit(cx, &update);
        self.balance(cx, cluster.lb_policy, &update, error.as_ref());
        for id in &update.removed {
            self.retired.extend(self.endpoints.remove(id));
        }
        // The table changed even if the policy has nothing new to say.
        self.publication.want(cx.now);
        Ok(())
    }

    /// New endpoints take their place in the table.
    fn admit(&mut self, cx: &Context<'_>, update: &RosterUpdate) {
        for added in &update.added {
            let index = added.id.0 as usize;
            let backend = self.shared.backend().clone();
            let slot = Slot::new(added.address.clone(), backend, added.load.clone());
            let slot = Arc::new(slot);
            if index < self.slots.len() {
                self.slots[index] = slot.clone();
            } else {
                // Ids are dense: a new one is the next.
                self.slots.push(slot.clone());
            }
            let key = added.key.clone();
            let endpoint =
                Endpoint::new(&self.shared, added.id, key, slot, &self.target, cx.dialer);
            self.endpoints.insert(added.id, endpoint);
        }
        for endpoint in &update.endpoints {
            let backend = cx
                .telemetry
                .backend(self.shared.name(), Some(&endpoint.locality));
            self.slots[endpoint.id.0 as usize].backend.store(backend);
        }
    }

    fn balance(
        &mut self,
        cx: &mut Context<'_>,
        lb_policy: LbPolicy,
        update: &RosterUpdate,
        error: Option<&Failure>,
    ) {
        let fresh = !matches!(&self.policy, Some((current, _)) if *current == lb_policy);
        if fresh {
            self.policy = Some((lb_policy, balancer::build(&lb_policy, fastrand::u64(..))));
        }
        let Some((_, policy)) = &mut self.policy else {
            return;
        };
        let mut actions = Actions::new();
        policy.update(cx.now, &update.endpoints, error, &mut actions);
        if fresh {
            for endpoint in &update.endpoints {
                // Connections made for the policy of before are not made again.
                let state = self.endpoints[&endpoint.id].connectivity();
                policy.subchannel_changed(cx.now, endpoint.id, &state, &mut actions);
            }
        }
        self.act(cx, actions);
    }

    fn secure(
        &mut self,
        cx: &mut Context<'_>,
        tls: Option<&UpstreamTls>,
        transport: Transport,
    ) -> Result<(), Failure> {
        self.security = match (&self.security, tls, transport) {
            (Security::Unsaid, None, Transport::Unsaid) => return Ok(()),
            // A target without a control plane never changes its mind.
            (Security::Plaintext, _, Transport::Plaintext)
            | (Security::Tls(_), _, Transport::Tls) => return Ok(()),
            (Security::Tls(current), Some(tls), Transport::Unsaid) if current.key() == tls => {
                return Ok(());
            }
            (_, Some(tls), Transport::Unsaid) => {
                let made = ClientTls::new(tls, cx.providers);
                Security::Tls(Arc::new(made.map_err(|error| {
                    let text = format!("cluster {:?}: {error}", self.shared.name());
                    Failure::new(error.code(), text)
                })?))
            }
            (_, None, Transport::Unsaid) => Security::Unsaid,
            (_, _, Transport::Plaintext) => Security::Plaintext,
            (_, _, Transport::Tls) => Security::Tls(Arc::new(ClientTls::for_host())),
        };
        let ids: Vec<_> = self.endpoints.keys().copied().collect();
        for id in ids {
            self.step(cx, id, |endpoint, step| endpoint.secure(step));
        }
        Ok(())
    }

    fn tell(&self, config: &ClusterConfig) {
        tracing::debug!(
            target: "sidestep::config",
            cluster = &**self.shared.name(),
            endpoints = self.endpoints.len(),
            policy = ?config.cluster.lb_policy,
            tls = config.cluster.tls.is_some(),
            "cluster applied"
        );
    }

    /// All calls fail, and nothing stays connected.
    fn fail(&mut self, now: Instant, failure: Failure) {
        tracing::warn!(
            target: "sidestep::config",
            cluster = &**self.shared.name(),
            reason = &*failure.0,
            "cluster cannot be used"
        );
        self.policy = None;
        let removed = self.roster.clear().removed;
        for id in removed {
            self.retired.extend(self.endpoints.remove(&id));
        }
        self.security = Security::Unsaid;
        let picker = Arc::new(Failing(failure.clone()));
        self.decide(now, Connectivity::TransientFailure(failure), picker);
    }

    fn step(
        &mut self,
        cx: &mut Context<'_>,
        id: SubchannelId,
        step: impl FnOnce(&mut Endpoint, &mut Step<'_>),
    ) {
        let actions = self.ask(cx, id, step);
        self.act(cx, actions);
    }

    /// Lets an endpoint take a step, and the policy answer to it.
    fn ask(
        &mut self,
        cx: &mut Context<'_>,
        id: SubchannelId,
        step: impl FnOnce(&mut Endpoint, &mut Step<'_>),
    ) -> Actions {
        let mut actions = Actions::new();
        let Some(endpoint) = self.endpoints.get_mut(&id) else {
            return actions;
        };
        let mut states = Vec::new();
        step(
            endpoint,
            &mut Step {
                now: cx.now,
                security: &self.security,
                dialer: cx.dialer,
                states: &mut states,
            },
        );
        if let Some((_, policy)) = &mut self.policy {
            for state in &states {
                policy.subchannel_changed(cx.now, id, state, &mut actions);
            }
        }
        actions
    }

    /// Does what the policy wants, in the order in which it was wanted: an answer to an action
    /// comes after all actions before it, so the last picker is the latest.
    fn act(&mut self, cx: &mut Context<'_>, actions: Actions) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Connect(id) => queue.extend(self.ask(cx, id, Endpoint::connect)),
                Action::Close(id) => queue.extend(self.ask(cx, id, Endpoint::close)),
                Action::Publish(connectivity, picker) => {
                    self.decide(cx.now, connectivity, picker);
                }
            }
        }
    }

    fn decide(&mut self, now: Instant, connectivity: Connectivity, picker: Arc<dyn Picker>) {
        self.publication.connectivity = connectivity;
        self.publication.picker = picker;
        self.publication.want(now);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The targets know by now where calls go instead.
        self.shared.remove();
    }
}

fn no_endpoints(cluster: &str) -> Failure {
    Failure::new(
        code::NO_ENDPOINTS,
        format!("cluster {cluster:?} has no endpoint that may take calls"),
    )
}
