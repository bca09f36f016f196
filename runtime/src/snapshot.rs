//! What a call reads: routes and clusters that agree with each other.
//!
//! ```text
//!   Target ── state ──> Snapshot { routes, clusters[] }      swapped whole by configuration
//!                                          │
//!                       Cluster ── published ──> { picker, slots[] }    swapped by connections
//!                                                            │
//!                                                 Slot ── connections, load
//! ```
//!
//! An aggregate cluster publishes the one of its leaves that takes calls instead: they go by that
//! one's picker, slots and limits, as if the route had named it.
//!
//! Everything here is written by [`crate::control`] alone and read by calls without a lock. A call
//! that has to wait first reads a version, then the state, and then waits for a later version: no
//! change between the two is lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use http::HeaderMap;
use tokio::sync::watch;

use crate::balancer::{Call, Connectivity, Failure, Load, Pick, Picker, SubchannelId};
use crate::circuit_breaker::CircuitBreaker;
use crate::control::{Asker, Handle, Input, SharedOrigin, WeakInbox};
use crate::routing::{ClusterIndex, RouteTable};
use crate::subchannel::Connections;
use crate::telemetry::Backend;

/// What a channel is connected to: one listener name (or direct address) and its current state.
///
/// `control` stops watching the name when the last `Arc` of it is dropped.
#[derive(Debug)]
pub struct Target {
    name: Box<str>,
    state: ArcSwap<TargetState>,
    version: watch::Sender<u64>,
    /// Told when this is dropped; keeps the control task alive.
    control: Option<Handle>,
    /// Whom to ask about it, if there is a control plane.
    origin: Option<SharedOrigin>,
}

/// What is known of a target.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "held once per target, behind an Arc"
)]
pub enum TargetState {
    /// Nothing yet: calls wait.
    Pending,
    /// There is no usable configuration, and why: calls fail `UNAVAILABLE` with this text, those
    /// that wait for ready wait on.
    Failed(Failure),
    /// Calls can be routed.
    Ready(Snapshot),
    /// The control task has ended, and nothing will change any more: every call fails
    /// `UNAVAILABLE` with this text, whether it waits for ready or not.
    Ended(Failure),
}

/// One complete configuration of a target (gRFC A74).
#[derive(Debug)]
pub struct Snapshot {
    /// From a request to a cluster index.
    pub routes: RouteTable,
    /// Each cluster that the routes name, indexed by [`ClusterIndex`].
    pub clusters: Box<[Arc<Cluster>]>,
}

impl Snapshot {
    /// The cluster that a route of this very snapshot named.
    #[must_use]
    pub fn cluster(&self, index: ClusterIndex) -> &Arc<Cluster> {
        &self.clusters[index.0 as usize]
    }
}

impl Target {
    pub(crate) fn new(name: &str, control: Option<Handle>) -> Self {
        Self {
            name: name.into(),
            state: ArcSwap::from_pointee(TargetState::Pending),
            version: watch::Sender::new(0),
            control,
            origin: None,
        }
    }

    /// With whom to ask about it.
    pub(crate) fn with_origin(mut self, origin: Option<SharedOrigin>) -> Self {
        self.origin = origin;
        self
    }

    /// Ends the texts of failed calls: the control plane's server and this process's node, after
    /// a space. Empty where there is no control plane.
    pub(crate) fn origin(&self) -> String {
        let origin = self.origin.as_ref().map(|origin| origin.load());
        origin.map_or_else(String::new, |origin| format!(" {origin}"))
    }

    /// The listener name, or the direct address as dialled.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The current state.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<TargetState>> {
        self.state.load()
    }

    /// The current state, to keep.
    pub(crate) fn load_full(&self) -> Arc<TargetState> {
        self.state.load_full()
    }

    /// Whom to ask what is behind it; `None` if nothing is.
    pub(crate) fn asker(&self) -> Option<Asker> {
        self.control.as_ref().map(Handle::asker)
    }

    /// Counts the states that there were. Read it before [`Target::load`] when you mean to wait.
    #[must_use]
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Waits for a state later than the one of version `seen`.
    pub async fn changed_since(&self, seen: u64) {
        if let Some(control) = &self.control {
            // The channel may have been made before there was a tokio runtime.
            control.start();
        }
        wait_past(&self.version, seen).await;
    }

    /// Waits for the first definite answer.
    ///
    /// # Errors
    /// There is no usable configuration, and why. It may still come: call again to wait for the
    /// next answer only after [`Target::changed_since`].
    pub async fn loaded(&self) -> Result<(), Failure> {
        loop {
            let seen = self.version();
            match &**self.load() {
                TargetState::Pending => {}
                TargetState::Failed(failure) | TargetState::Ended(failure) => {
                    return Err(failure.clone());
                }
                TargetState::Ready(_) => return Ok(()),
            }
            self.changed_since(seen).await;
        }
    }

    /// Waits, through failures, until the configuration is there and each of its clusters has a
    /// connection. Connects clusters that would otherwise wait for their first call.
    pub async fn ready(&self) {
        loop {
            let seen = self.version();
            let clusters = match &**self.load() {
                TargetState::Ready(snapshot) => Some(snapshot.clusters.clone()),
                // Nothing will come any more: calls fail at once, and say so.
                TargetState::Ended(_) => return,
                TargetState::Pending | TargetState::Failed(_) => None,
            };
            let Some(clusters) = clusters else {
                self.changed_since(seen).await;
                continue;
            };
            let all_ready = async {
                for cluster in &clusters {
                    cluster.ready().await;
                }
            };
            tokio::select! {
                biased;
                () = all_ready => return,
                () = self.changed_since(seen) => {}
            }
        }
    }

    pub(crate) fn publish(&self, state: Arc<TargetState>) {
        self.state.store(state);
        self.version.send_modify(|version| *version += 1);
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(control) = &self.control {
            control.send(Input::TargetDropped);
        }
    }
}

/// Tells one life of a cluster from the next one of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterId(pub(crate) u64);

/// A cluster as calls see it, shared by all snapshots that name it.
#[derive(Debug)]
pub struct Cluster {
    id: ClusterId,
    name: Arc<str>,
    backend: Arc<Backend>,
    published: ArcSwap<Published>,
    version: watch::Sender<u64>,
    breaker: Arc<CircuitBreaker>,
    removed: AtomicBool,
    /// Told when a call wants an endpoint connected. Weak: the control task owns this cluster.
    control: WeakInbox,
}

/// A picker and the table that it speaks about, swapped together.
#[derive(Debug)]
pub struct Published {
    /// The state of the whole cluster.
    pub connectivity: Connectivity,
    /// Where the next call goes.
    pub picker: Arc<dyn Picker>,
    /// Indexed by [`SubchannelId`].
    pub slots: Arc<[Arc<Slot>]>,
    /// Of an aggregate cluster: the leaf that takes its calls, which is no aggregate itself. Ask
    /// that one's picker: the one above only ever says to wait.
    pub leaf: Option<Arc<Cluster>>,
}

impl Published {
    /// Whether the last try to connect to any endpoint has failed: why there may be nobody to pick.
    pub(crate) fn unreachable(&self) -> bool {
        let mut slots = self.slots.iter();
        slots.any(|slot| slot.unreachable.load(Ordering::Relaxed))
    }

    /// The endpoint that the picker of this very value answered with.
    #[must_use]
    pub fn slot(&self, id: SubchannelId) -> Option<&Arc<Slot>> {
        self.slots.get(id.0 as usize)
    }
}

impl Cluster {
    /// `backend` is the cluster without a locality.
    pub(crate) fn new(
        id: ClusterId,
        backend: Arc<Backend>,
        published: Published,
        control: WeakInbox,
    ) -> Self {
        Self {
            id,
            name: backend.service().into(),
            backend,
            published: ArcSwap::from_pointee(published),
            version: watch::Sender::new(0),
            breaker: Arc::new(CircuitBreaker::new(CircuitBreaker::DEFAULT_MAX)),
            removed: AtomicBool::new(false),
            control,
        }
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What an attempt is labelled with before it has an endpoint.
    pub(crate) fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The current picker and its table.
    #[must_use]
    pub fn published(&self) -> Guard<Arc<Published>> {
        self.published.load()
    }

    /// Counts the pickers that there were. Read it before [`Cluster::published`] when you mean to
    /// wait.
    #[must_use]
    pub fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Waits for a picker later than the one of version `seen`.
    pub async fn changed_since(&self, seen: u64) {
        wait_past(&self.version, seen).await;
    }

    /// Whether no configuration names it any more: there will be no further picker. Counts as one
    /// more version, and comes after a state of each target that does not name it.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// Bounds the calls in flight (gRFC A32).
    #[must_use]
    pub fn breaker(&self) -> &Arc<CircuitBreaker> {
        &self.breaker
    }

    /// Whether a call uses it, waits for it, or did since this was last asked.
    pub(crate) fn take_used(&self) -> bool {
        let breaker = &self.breaker;
        breaker.take_used() || breaker.in_flight() > 0 || self.version.receiver_count() > 0
    }

    /// Passes on a [`Pick::Connect`]. However many calls ask, `control` is woken once.
    pub fn request_connect(&self, published: &Published, id: SubchannelId) {
        let Some(slot) = published.slot(id) else {
            return;
        };
        if slot.connect_requested.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(control) = self.control.upgrade() {
            // A control task that has ended connects nothing any more.
            let _ = control.send(Input::ConnectRequested {
                cluster: self.id,
                endpoint: id,
                slot: slot.clone(),
            });
        }
    }

    /// A call waits for room at an endpoint: passes on the wish for one more connection (gRFC
    /// A105). However many calls wait, `control` is woken once.
    pub(crate) fn request_room(&self, id: SubchannelId, slot: &Arc<Slot>) {
        if !slot.connections.ask() {
            return;
        }
        if let Some(control) = self.control.upgrade() {
            // A control task that has ended connects nothing any more.
            let _ = control.send(Input::RoomRequested {
                cluster: self.id,
                endpoint: id,
                slot: slot.clone(),
            });
        }
    }

    /// For an endpoint of this cluster.
    pub(crate) fn bell(&self, endpoint: SubchannelId) -> Bell {
        Bell {
            cluster: self.id,
            endpoint,
            control: self.control.clone(),
        }
    }

    /// Waits until a call could be sent, connecting an idle cluster.
    pub async fn ready(&self) {
        loop {
            let seen = self.version();
            let leaf = self.published().leaf.clone();
            match leaf {
                None => {
                    if self.is_ready() {
                        return;
                    }
                    self.changed_since(seen).await;
                }
                Some(leaf) => {
                    let of_leaf = leaf.version();
                    if leaf.is_ready() {
                        return;
                    }
                    self.changed_with(seen, &leaf, of_leaf).await;
                }
            }
        }
    }

    /// Waits for a picker later than the one of version `seen`, or for one of `leaf` later than
    /// `of_leaf`: where a call waits that was sent on to a leaf.
    pub async fn changed_with(&self, seen: u64, leaf: &Self, of_leaf: u64) {
        tokio::select! {
            () = self.changed_since(seen) => {}
            () = leaf.changed_since(of_leaf) => {}
        }
    }

    /// Whether `leaf` took its calls, and another does now. Never of a cluster that is no
    /// aggregate, whose only leaf it is itself.
    pub(crate) fn has_left(&self, leaf: &Self) -> bool {
        let published = self.published();
        let now = published.leaf.as_deref().unwrap_or(self);
        !std::ptr::eq(now, leaf)
    }

    /// Whether a call could be sent. If nothing is connected because nobody has called, it is now.
    fn is_ready(&self) -> bool {
        let published = self.published();
        if published.connectivity == Connectivity::Idle {
            self.leave_idle(&published);
        }
        published.connectivity == Connectivity::Ready
    }

    /// An idle picker names the endpoint that it wants connected to whoever calls first.
    fn leave_idle(&self, published: &Published) {
        let call = Call {
            authority: "",
            path: "/",
            headers: &HeaderMap::new(),
            random: 0,
            hash: 0,
            session: None,
            subset: None,
        };
        if let Pick::Connect(id) = published.picker.pick(&call) {
            self.request_connect(published, id);
        }
    }

    pub(crate) fn publish(&self, published: Published) {
        self.published.store(Arc::new(published));
        self.version.send_modify(|version| *version += 1);
    }

    /// Sends the calls that wait here elsewhere.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        self.version.send_modify(|version| *version += 1);
    }
}

/// One endpoint as calls see it. It keeps its place and its connection over every update that
/// keeps the endpoint.
pub struct Slot {
    /// None while not connected: the picker was overtaken; wait for the next one.
    pub connections: Connections,
    /// Raised before a call is sent, lowered when its response ended or was dropped.
    pub load: Arc<Load>,
    /// Its first address, for people.
    pub address: Arc<str>,
    /// All of its addresses, comma-separated: what a session remembers of it.
    pub hosts: Arc<str>,
    bell: Option<Bell>,
    /// What attempts that go there are labelled with. An endpoint may move to another locality.
    pub(crate) backend: ArcSwap<Backend>,
    pub(crate) connect_requested: AtomicBool,
    /// The last try to connect failed. For the words of calls that found no endpoint.
    pub(crate) unreachable: AtomicBool,
}

/// Wakes the policy that an endpoint belongs to.
pub(crate) struct Bell {
    cluster: ClusterId,
    endpoint: SubchannelId,
    control: WeakInbox,
}

impl Slot {
    pub(crate) fn new(address: Arc<str>, backend: Arc<Backend>, load: Arc<Load>) -> Self {
        Self {
            connections: Connections::default(),
            load,
            hosts: Arc::clone(&address),
            address,
            bell: None,
            backend: ArcSwap::new(backend),
            unreachable: AtomicBool::new(false),
            connect_requested: AtomicBool::new(false),
        }
    }

    /// With a way to wake its policy.
    pub(crate) fn with_bell(mut self, bell: Bell) -> Self {
        self.bell = Some(bell);
        self
    }

    /// Has the policy look at this endpoint: its [`Load`] says when.
    pub(crate) fn notice(self: &Arc<Self>) {
        if let Some(bell) = &self.bell
            && let Some(control) = bell.control.upgrade()
        {
            // A control task that has ended decides nothing any more.
            let _ = control.send(Input::Noticed {
                cluster: bell.cluster,
                endpoint: bell.endpoint,
                slot: Arc::clone(self),
            });
        }
    }
}

impl Slot {
    /// Of an endpoint with several addresses.
    pub(crate) fn with_hosts(mut self, hosts: Arc<str>) -> Self {
        self.hosts = hosts;
        self
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("address", &self.address)
            .field("connections", &self.connections)
            .field("load", &self.load)
            .finish_non_exhaustive()
    }
}

async fn wait_past(version: &watch::Sender<u64>, seen: u64) {
    // The sender is borrowed for as long as this waits, so the channel cannot close.
    let _ = version.subscribe().wait_for(|now| *now > seen).await;
}
