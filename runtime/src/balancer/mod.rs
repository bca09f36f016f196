//! Which endpoint of a cluster takes a call.
//!
//! A [`LoadBalancer`] lives with the control task: it hears of endpoints and connections and
//! answers with [`Action`]s. What it publishes is a [`Picker`], asked by every call without a
//! lock. Neither knows sockets, clocks or tasks. Policies made of policies own their children as
//! plain fields, hand them an [`Actions`] of their own and rewrite what comes out.
//!
//! ```text
//!   priority            which priority is in use (gRFC A56)
//!     locality          which of its localities, by weight
//!       round_robin     which endpoint
//!       | least_request
//!       | random
//!     | pick_first      (one list over all localities)
//!     | ring_hash
//!     | maglev
//! ```
//!
//! Who closes what: `control` gives up the connections of endpoints that have left the cluster; a
//! policy asks with [`Action::Close`] only for endpoints that are still in it and that it no
//! longer wants.
#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

#[cfg(test)]
mod conformance;
mod consistent_hash;
mod constant;
mod drop_overload;
mod endpoints;
mod least_request;
mod locality;
mod maglev;
mod pick_first;
mod priority;
mod random;
mod ring_hash;
mod round_robin;
mod stride;

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use sidestep_proto::code::Code;
use sidestep_proto::resource::{LbPolicy, Locality};

pub use crate::routing::Call;
pub use constant::{Failing, Queueing};
pub use drop_overload::with_drops;
pub use locality::LocalityBalancer;
pub use priority::Priority;

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
}

/// The load of one endpoint, raised before a call is sent and lowered when its response has
/// ended or was dropped.
#[derive(Debug, Default)]
pub struct Load {
    /// Calls in flight.
    pub in_flight: AtomicU32,
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

/// Decides over a cluster's connections and publishes pickers.
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
    /// When [`LoadBalancer::handle_timeout`] wants to be called.
    fn next_timeout(&self) -> Option<Instant> {
        None
    }
    /// The moment has come.
    fn handle_timeout(&mut self, _now: Instant, _out: &mut Actions) {}
}

/// Asked by each call. An `Arc` of it is swapped in whole; it never waits and never allocates.
pub trait Picker: Send + Sync + Debug {
    /// Where this call goes.
    fn pick<'a>(&'a self, call: &Call<'_>) -> Pick<'a>;
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
    /// The state of the whole, and the picker for it.
    Publish(Connectivity, Arc<dyn Picker>),
}

/// Actions in the order in which they were decided.
pub type Actions = Vec<Action>;

/// Makes the load balancers of one policy.
pub trait LoadBalancerFactory: Send + Sync + Debug {
    /// As `load_balancing_policy` and people call it.
    fn name(&self) -> &'static str;
    /// Whether localities are chosen by weight first, as `wrr_locality` does; otherwise the
    /// policy sees the endpoints of all localities of a priority as one list.
    fn weighs_localities(&self) -> bool {
        true
    }
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
];

/// The whole balancer of a cluster: priorities, localities, and `policy` in each of them.
///
/// The same `seed` and inputs give the same decisions.
#[must_use]
pub fn build(policy: &LbPolicy, seed: u64) -> Box<dyn LoadBalancer> {
    let policy = *policy;
    Box::new(Priority::new(move |priority| {
        let seed = seed ^ u64::from(priority).rotate_left(32);
        endpoint_balancer(policy, seed)
    }))
}

fn endpoint_balancer(policy: LbPolicy, seed: u64) -> Box<dyn LoadBalancer> {
    let mut made = BUILTIN
        .iter()
        .filter_map(|f| Some((f, f.build(&policy, seed)?)));
    // The codec accepts no policy that is not in the list: see the test in `conformance`.
    let (factory, balancer) = made.next().expect("each policy has a factory");
    if !factory.weighs_localities() {
        return balancer;
    }
    let mut seeds = fastrand::Rng::with_seed(seed);
    let leaf = move || {
        factory
            .build(&policy, seeds.u64(..))
            .expect("it has built one before")
    };
    Box::new(LocalityBalancer::new(leaf))
}
