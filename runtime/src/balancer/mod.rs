//! Which endpoint of a cluster takes a call.
//!
//! A [`LoadBalancer`] lives with the control task: it hears of endpoints and connections and
//! answers with [`Action`]s. What is published of it is a [`Picker`], asked by every call without
//! a lock. Neither knows sockets, clocks or tasks. Policies made of policies own their children as
//! plain fields and step them through `child::Child`.
//!
//! ```text
//!   outlier_detection         who is left out for what its calls came to (gRFC A50)
//!     override_host           the endpoint of the call's session (gRFC A55, A75)
//!       [subset]              the endpoints that the call's route asks for
//!       priority              which priority is in use (gRFC A56)
//!         [random_subset]     some of its endpoints (gRFC A68)
//!         locality            which of its localities, by weight or the own zone first
//!           [slow_start]      how new endpoints come in
//!             round_robin     which endpoint
//!             | least_request
//!             | weighted_round_robin
//!             | peak_ewma
//!             | random
//!         | pick_first        (one list over all localities)
//!         | ring_hash
//!         | maglev
//! ```
//!
//! Events are cheap, pickers may cost what their endpoints cost: a policy only says that it has
//! [`Action::Changed`], and its picker is built when one is published, however many events came
//! before.
//!
//! Who closes what: `control` gives up the connections of endpoints that have left the cluster; a
//! policy asks with [`Action::Close`] only for endpoints that are still in it and that it no
//! longer wants.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod child;
#[cfg(test)]
mod conformance;
mod consistent_hash;
mod constant;
mod custom;
mod drop_overload;
mod endpoints;
pub(crate) mod failover;
mod least_request;
mod load;
mod locality;
mod maglev;
mod outlier_detection;
mod over_ready;
mod override_host;
mod peak_ewma;
mod pick_first;
mod priority;
mod random;
mod random_subset;
mod ring_hash;
mod round_robin;
mod slow_start;
mod standing;
mod stride;
mod subset;
mod weighted_round_robin;
mod weights;
mod zone_aware;

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use sidestep_proto::code::Code;
use sidestep_proto::resource::{Labels, LbPolicy, Locality};

pub use crate::routing::Call;
pub use crate::subchannel::race::Family;
pub(crate) use constant::Wakes;
pub use constant::{Failing, Queueing};
pub use custom::CustomPolicy;
pub(crate) use custom::register;
pub use drop_overload::with_drops;
pub use load::{Blame, Interest, LatencyTerms, Load, Metrics, Recipe};
pub use outlier_detection::{Cause, Event, News, OutlierDetection, Spared};
pub use over_ready::over_ready;
pub use override_host::{OverrideHost, SessionHost};
pub use priority::Priority;
pub use standing::{Ejected, Standing};

/// Names one endpoint of a cluster: an index into the table that is published with the picker.
/// Given out by `control`; an endpoint keeps its id as long as it stays in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubchannelId(pub u32);

/// What a policy sees of an endpoint.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its id.
    pub id: SubchannelId,
    /// Relative to the locality's other endpoints, at least 1.
    pub weight: u32,
    /// Where it is.
    pub locality: Arc<Locality>,
    /// Relative to the other localities of the priority, at least 1.
    pub locality_weight: u32,
    /// 0 is used first.
    pub priority: u32,
    /// Shared with the calls that run there.
    pub load: Arc<Load>,
    /// Where policies that pick by hash place it: its first address, or what the control plane
    /// says instead (gRFC A76).
    pub hash_key: Arc<str>,
    /// What sessions may do with it (gRFC A55); `None`: they do not lead there.
    pub session: Option<Arc<SessionHost>>,
    /// Of its first address.
    pub family: Family,
    /// Whether it is in the process's own zone.
    pub own_zone: bool,
    /// The part of its locality's endpoints that the control plane holds fit for calls, by weight,
    /// in parts of a million.
    pub locality_fitness: u32,
    /// What is noted of it: by that it is in subsets.
    pub labels: Labels,
}

impl Endpoint {
    /// An IPv4 endpoint of the first priority, of weight 1, in a locality without a name, with no
    /// calls.
    #[must_use]
    pub fn new(id: SubchannelId, hash_key: impl Into<Arc<str>>) -> Self {
        Self {
            id,
            weight: 1,
            locality: Arc::default(),
            locality_weight: 1,
            priority: 0,
            load: Arc::default(),
            hash_key: hash_key.into(),
            session: None,
            family: Family::V4,
            own_zone: false,
            locality_fitness: 1_000_000,
            labels: Labels::default(),
        }
    }
}

/// State of a connection or of a whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connectivity {
    /// Not connected and not trying.
    Idle,
    /// Trying.
    Connecting,
    /// Calls can be sent.
    Ready,
    /// The last try failed; the next one waits for its backoff.
    TransientFailure(Failure),
}

/// Why no call can be sent: becomes the text of an `UNAVAILABLE` status, and its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub Arc<str>, pub Code);

impl Failure {
    /// A failure of this kind.
    #[must_use]
    pub fn new(code: Code, text: impl Into<Arc<str>>) -> Self {
        Self(text.into(), code)
    }
}

/// The text, which ends with the code.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.0, self.1)
    }
}

/// Decides over a cluster's connections, and which picker calls ask.
pub trait LoadBalancer: Send {
    /// The endpoints changed: all of them, in the order of the control plane; only usable ones.
    /// An empty slice with `error` says why there are none.
    fn update(
        &mut self,
        now: Instant,
        endpoints: &[Endpoint],
        error: Option<&Failure>,
        out: &mut Actions,
    );
    /// A connection changed its state.
    fn subchannel_changed(
        &mut self,
        now: Instant,
        id: SubchannelId,
        state: &Connectivity,
        out: &mut Actions,
    );
    /// A call met [`Pick::Connect`].
    fn connect_requested(&mut self, now: Instant, id: SubchannelId, out: &mut Actions);
    /// What is known of the endpoint's calls reached a bound that a policy has set: see
    /// [`Load::set_failure_limits`] and [`Load::await_probe`].
    fn noticed(&mut self, _now: Instant, _id: SubchannelId, _out: &mut Actions) {}
    /// When [`LoadBalancer::handle_timeout`] wants to be called.
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    /// The moment has come.
    fn handle_timeout(&mut self, _now: Instant, _out: &mut Actions) {}
    /// The state of the whole. Asked after every [`Action::Changed`]: costs nothing that grows
    /// with the endpoints.
    fn connectivity(&self) -> Connectivity;
    /// What it knows of an endpoint. Asked by people, not by calls.
    fn standing(&self, _id: SubchannelId) -> Standing {
        Standing::default()
    }
    /// The picker that goes with this state. Asked at publication only: may cost what the
    /// endpoints that it speaks of cost.
    fn picker(&mut self) -> Arc<dyn Picker>;
}

/// Asked by each call. An `Arc` of it is swapped in whole; it never waits and never allocates.
pub trait Picker: Send + Sync + Debug {
    /// Where this call goes.
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a>;
    /// Whether this call may go to that endpoint at all, if not by this very pick. One around
    /// another answers as the inner one does.
    fn admits(&self, _call: &Call<'_>, _id: SubchannelId) -> bool {
        true
    }
    /// For people: the subset that this call meets, and why; `None` where there are no subsets.
    fn explain(&self, _call: &Call<'_>) -> Option<String> {
        None
    }
}

/// A picker's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick<'a> {
    /// Send it there.
    Ready(SubchannelId),
    /// Wait for the next picker, and have this endpoint connected.
    Connect(SubchannelId),
    /// Wait for the next picker.
    Queue,
    /// Fail `UNAVAILABLE`; a call that waits for ready takes it as [`Pick::Queue`].
    Fail(&'a Failure),
    /// Fail `UNAVAILABLE` at once, whatever the call says, and never retry.
    Drop {
        /// Which category dropped it.
        category: &'a str,
    },
}

/// What a policy wants done.
#[derive(Debug, Clone)]
pub enum Action {
    /// Have this endpoint connected (and reconnected after its backoff if the try fails only when
    /// asked again). Asking for what is under way or done changes nothing.
    Connect(SubchannelId),
    /// Give the connection up.
    Close(SubchannelId),
    /// The state of the whole or its picker is another one now.
    Changed,
}

/// Actions in the order in which they were decided.
pub type Actions = Vec<Action>;

/// Makes the load balancers of one policy.
pub trait LoadBalancerFactory: Send + Sync + Debug {
    /// As `load_balancing_policy` and people call it.
    fn name(&self) -> &'static str;
    /// A balancer for `policy`, or `None` if that is another factory's. `seed` is the source of
    /// its random decisions.
    fn build(&self, policy: &LbPolicy, seed: u64) -> Option<Box<dyn LoadBalancer>>;
}

/// The policies there are. A new one is a file here and a line in this list.
pub const BUILTIN: &[&dyn LoadBalancerFactory] = &[
    &round_robin::Factory,
    &least_request::Factory,
    &pick_first::Factory,
    &random::Factory,
    &ring_hash::Factory,
    &maglev::Factory,
    &weighted_round_robin::Factory,
    &peak_ewma::Factory,
    &slow_start::Factory,
    &locality::Factory,
    &random_subset::Factory,
    &subset::Factory,
    &zone_aware::Factory,
    &custom::Factory,
];

/// The whole balancer of a cluster: sessions, priorities, and `policy` in each of them; with
/// subsets, all of that but sessions in each subset.
///
/// The same `seed` and inputs give the same decisions.
#[must_use]
pub fn build(policy: &LbPolicy, seed: u64) -> Box<dyn LoadBalancer> {
    if let LbPolicy::Subsets(_) = policy {
        // Each subset has priorities of its own.
        return Box::new(OverrideHost::new(endpoint_balancer(policy, seed)));
    }
    let policy = policy.clone();
    let priorities = Priority::new(move |priority| {
        let seed = seed ^ u64::from(priority).rotate_left(32);
        endpoint_balancer(&policy, seed)
    });
    Box::new(OverrideHost::new(Box::new(priorities)))
}

/// The balancer of `policy` alone.
fn endpoint_balancer(policy: &LbPolicy, seed: u64) -> Box<dyn LoadBalancer> {
    let mut made = BUILTIN.iter().filter_map(|f| f.build(policy, seed));
    // The codec accepts no policy that is not in the list: see the test in `conformance`.
    made.next().expect("each policy has a factory")
}
