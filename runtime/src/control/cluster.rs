//! One cluster: its load balancer, its endpoints, and what is published of them.

mod apply;
mod inspect;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sidestep_proto::resource::{DropCategory, LbPolicy, Locality};

use super::aggregate::Leaves;
use super::attempt::{AttemptId, Outcome};
use super::dependency::{ClusterConfig, Resolution};
use super::dialer::{Dialer, Security};
use super::endpoint::{Endpoint, Step};
use super::idle::Idleness;
use super::publication::Publication;
use super::reconcile::Roster;
use super::{WeakInbox, outliers};
use crate::balancer::{
    self, Action, Actions, Connectivity, Failing, Failure, LoadBalancer, OutlierDetection, Picker,
    Queueing, SubchannelId, Wakes,
};
use crate::security::CertificateProviders;
use crate::snapshot::{self, ClusterId, Published, Slot};
use crate::telemetry::{Backend, Telemetry};

/// What a cluster uses of the task.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) dialer: &'a mut Dialer,
    pub(super) providers: &'a CertificateProviders,
    pub(super) telemetry: &'a Telemetry,
    /// Where this process is.
    pub(super) home: &'a Locality,
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
    /// Whether it may connect. A leaf of an aggregate that nobody else names waits until it is
    /// needed.
    active: bool,
    policy: Option<(LbPolicy, OutlierDetection)>,
    security: Security,
    /// Most connections to one endpoint, as the control plane says.
    most_connections: u32,
    roster: Roster,
    /// A route leads here whose calls have sessions, or has done so.
    sticky: bool,
    /// Boxed: the nodes of the map are half empty where there are many.
    endpoints: BTreeMap<SubchannelId, Box<Endpoint>>,
    /// When endpoints want to be called.
    timers: BTreeSet<(Instant, SubchannelId)>,
    /// Out of the configuration, but perhaps still in the picker that is out.
    retired: Vec<Endpoint>,
    slots: Vec<Arc<Slot>>,
    /// `slots` as they were last published; `None` since they changed.
    table: Option<Arc<[Arc<Slot>]>>,
    /// Shares of calls that are shed before the policy is asked.
    drops: Vec<DropCategory>,
    /// Of an aggregate: where its calls go.
    leaf: Option<Arc<snapshot::Cluster>>,
    publication: Publication,
    idleness: Idleness,
}

impl Cluster {
    /// `backend` is its name as metrics have it; `active` says whether it may connect.
    pub(super) fn new(
        id: ClusterId,
        backend: Arc<Backend>,
        target: Arc<str>,
        active: bool,
        inbox: WeakInbox,
        idle_timeout: Option<Duration>,
    ) -> Self {
        let published = Published {
            connectivity: Connectivity::Connecting,
            picker: Arc::new(Queueing),
            slots: Arc::new([]),
            leaf: None,
        };
        Self {
            shared: Arc::new(snapshot::Cluster::new(id, backend, published, inbox)),
            target,
            config: Resolution::Waiting,
            resolved: None,
            given_up: None,
            settled: false,
            active,
            policy: None,
            security: Security::Unsaid,
            most_connections: 1,
            roster: Roster::default(),
            sticky: false,
            endpoints: BTreeMap::new(),
            timers: BTreeSet::new(),
            retired: Vec::new(),
            slots: Vec::new(),
            table: None,
            drops: Vec::new(),
            leaf: None,
            publication: Publication::new(),
            idleness: Idleness::new(idle_timeout),
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
        self.config = config;
        if self.active {
            self.follow(cx);
        }
    }

    /// Does as the configuration says.
    fn follow(&mut self, cx: &mut Context<'_>) {
        // Taken out for a moment, so that it need not be copied.
        let config = std::mem::replace(&mut self.config, Resolution::Waiting);
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

    /// A route leads here whose calls have sessions: from now on its endpoints are known by their
    /// addresses, too.
    pub(super) fn take_sessions(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.sticky, true) && self.active {
            self.follow(cx);
        }
    }

    /// Whether a route whose calls have sessions leads here, or has done so.
    pub(super) fn has_sessions(&self) -> bool {
        self.sticky
    }

    /// Lets it connect, or gives its connections up: calls in flight go on.
    pub(super) fn set_active(&mut self, cx: &mut Context<'_>, active: bool) {
        if self.active == active {
            return;
        }
        self.active = active;
        if active {
            return self.follow(cx);
        }
        self.disband();
        self.decide(cx.now, Connectivity::Connecting);
    }

    /// Whether it may connect.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// What it comes down to, if it is an aggregate.
    pub(super) fn leaves(&self) -> Option<&Leaves> {
        match &self.config {
            Resolution::Ready(config) => config.leaves.as_ref(),
            Resolution::Waiting | Resolution::Failed(_) => None,
        }
    }

    /// The target that led here first, as metrics have it.
    pub(super) fn target(&self) -> &Arc<str> {
        &self.target
    }

    /// An aggregate's calls go to this leaf, whose state is its own. Answers whether that is news.
    pub(super) fn lead_to(
        &mut self,
        now: Instant,
        leaf: Arc<snapshot::Cluster>,
        connectivity: Connectivity,
    ) -> bool {
        let same = self.leaf.as_ref();
        if same.is_some_and(|same| Arc::ptr_eq(same, &leaf))
            && *self.publication.connectivity() == connectivity
        {
            return false;
        }
        self.decide(now, connectivity);
        self.leaf = Some(leaf);
        // Not paced: calls must not meet a leaf that fails where another does not.
        self.publication.hurry(now);
        self.flush(now);
        true
    }

    /// Its state as an aggregate must see it: a failure before calls are told of it, and that it
    /// is ready once its picker is out.
    pub(super) fn prospect(&self) -> Connectivity {
        match self.publication.connectivity() {
            Connectivity::Ready | Connectivity::Idle => {
                self.shared.published().connectivity.clone()
            }
            decided => decided.clone(),
        }
    }

    /// No control plane can be reached. Changes only a cluster of which nothing is known.
    pub(super) fn give_up(&mut self, now: Instant, failure: &Failure) {
        if self.resolved.is_none() && self.given_up.is_none() {
            self.given_up = Some(now);
            self.fail(now, failure.clone());
        }
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
        if self.idleness.is_asleep() {
            return self.wake(cx);
        }
        if let Some((_, policy)) = &mut self.policy {
            let mut actions = Actions::new();
            policy.connect_requested(cx.now, id, &mut actions);
            self.act(cx, actions);
        }
    }

    /// A call waits for room at an endpoint.
    pub(super) fn room_requested(
        &mut self,
        cx: &mut Context<'_>,
        id: SubchannelId,
        slot: &Arc<Slot>,
    ) {
        let current = self.slots.get(id.0 as usize);
        if current.is_some_and(|current| Arc::ptr_eq(current, slot)) {
            self.step(cx, id, Endpoint::grow);
        }
    }

    /// The policy wants to look at an endpoint.
    pub(super) fn noticed(&mut self, cx: &mut Context<'_>, id: SubchannelId, slot: &Arc<Slot>) {
        // First: what happens from here on is news again.
        slot.load.told();
        let current = self.slots.get(id.0 as usize);
        if !current.is_some_and(|current| Arc::ptr_eq(current, slot)) {
            return;
        }
        if let Some((_, policy)) = &mut self.policy {
            let mut actions = Actions::new();
            policy.noticed(cx.now, id, &mut actions);
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
        if !self.publication.take(now) {
            return;
        }
        self.settled |= *self.publication.connectivity() != Connectivity::Connecting;
        let picker = self.picker();
        let slots = self
            .table
            .get_or_insert_with(|| self.slots.as_slice().into());
        self.shared.publish(Published {
            connectivity: self.publication.connectivity().clone(),
            picker: balancer::with_drops(picker, &self.drops),
            slots: slots.clone(),
            leaf: self.leaf.clone(),
        });
        // Only now no new call can meet them.
        self.retired.clear();
    }

    fn picker(&mut self) -> Arc<dyn Picker> {
        match (&mut self.policy, self.publication.connectivity()) {
            (Some((_, policy)), _) => policy.picker(),
            (None, Connectivity::TransientFailure(failure)) => Arc::new(Failing(failure.clone())),
            (None, _) => match self.endpoints.keys().next() {
                // Whichever a call asks for, all of it wakes.
                Some(first) if self.idleness.is_asleep() => Arc::new(Wakes(*first)),
                _ => Arc::new(Queueing),
            },
        }
    }

    /// When something of it wants to be called.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let endpoints = self.timers.first().map(|(at, _)| *at);
        let policy = self.policy.as_ref();
        endpoints
            .into_iter()
            .chain(policy.and_then(|(_, policy)| policy.next_timeout()))
            .chain(self.publication.due())
            .chain(self.idleness.next_timeout())
            .min()
    }

    /// Whether the last word of its policy is out.
    pub(super) fn is_published(&self) -> bool {
        self.publication.due().is_none()
    }

    /// The moment has come.
    pub(super) fn handle_timeout(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        // Only those of before: one that asks again for this very moment waits for the next turn.
        let over = self.timers.iter().take_while(|(at, _)| *at <= now);
        let over: Vec<_> = over.copied().collect();
        for (at, id) in over {
            self.timers.remove(&(at, id));
            if let Some(endpoint) = self.endpoints.get_mut(&id) {
                endpoint.timer = None;
            }
            self.step(cx, id, |endpoint, step| endpoint.handle_timeout(step));
        }
        let mut actions = Actions::new();
        if let Some((_, policy)) = &mut self.policy
            && due(policy.next_timeout())
        {
            policy.handle_timeout(now, &mut actions);
        }
        self.act(cx, actions);
        if self.idleness.look(now, || self.shared.take_used()) {
            self.sleep(cx);
        }
    }

    /// Gives up all connections until a call comes.
    fn sleep(&mut self, cx: &mut Context<'_>) {
        tracing::info!(
            target: "sidestep::config",
            cluster = &**self.shared.name(),
            "no calls: connections are closed until the next one"
        );
        self.policy = None;
        let ids: Vec<_> = self.endpoints.keys().copied().collect();
        for id in ids {
            self.step(cx, id, Endpoint::sleep);
        }
        self.decide(cx.now, Connectivity::Idle);
    }

    /// A call wants it: its endpoints are balanced as if they had only just come.
    fn wake(&mut self, cx: &mut Context<'_>) {
        self.idleness.wake(cx.now);
        if let Resolution::Ready(config) = self.config.clone()
            && let Err(failure) = self.apply(cx, &config)
        {
            self.fail(cx.now, failure);
        }
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
                most_connections: self.most_connections.min(cx.dialer.most_connections),
                dialer: cx.dialer,
                states: &mut states,
            },
        );
        endpoint.follow_reports();
        let timer = endpoint.poll_timeout();
        if timer != endpoint.timer {
            let old = std::mem::replace(&mut endpoint.timer, timer);
            old.map(|at| self.timers.remove(&(at, id)));
            self.timers.extend(timer.map(|at| (at, id)));
        }
        if let Some((_, policy)) = &mut self.policy {
            for state in &states {
                policy.subchannel_changed(cx.now, id, state, &mut actions);
            }
        }
        actions
    }

    /// Does what the policy wants, in the order in which it was wanted: an answer to an action
    /// comes after all actions before it.
    fn act(&mut self, cx: &mut Context<'_>, actions: Actions) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            match action {
                Action::Connect(id) => queue.extend(self.ask(cx, id, Endpoint::connect)),
                Action::Close(id) => queue.extend(self.ask(cx, id, Endpoint::close)),
                Action::Changed => {
                    if let Some((_, policy)) = &self.policy {
                        self.decide(cx.now, policy.connectivity());
                    }
                }
            }
        }
        self.tell_of_outliers(cx);
    }

    fn tell_of_outliers(&mut self, cx: &Context<'_>) {
        let Some((_, policy)) = &mut self.policy else {
            return;
        };
        let (target, cluster) = (&self.target, self.shared.name());
        for news in policy.take_news() {
            if let Some(slot) = self.slots.get(news.endpoint.0 as usize) {
                outliers::tell(cx.telemetry, target, cluster, slot, &news);
            }
        }
    }

    fn decide(&mut self, now: Instant, connectivity: Connectivity) {
        self.leaf = None;
        let endpoints = self.endpoints.len();
        self.publication.decide(now, connectivity, endpoints);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The targets know by now where calls go instead.
        self.shared.remove();
    }
}
