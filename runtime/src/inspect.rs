//! What a process can say about itself: plain values, copied out of the control task.
//!
//! The task that owns everything answers a question between two of its inputs, so an answer agrees
//! with itself and costs the calls nothing. [`crate::admin`] prints these; code reads them by
//! [`crate::Mesh::clusters`] and its like.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sidestep_proto::resource::{Address, Discovery, Health, LbPolicy, Locality, ResourceType};
use sidestep_proto::wire::Any;
use sidestep_proto::wire::core::Node;

use crate::explain::words;
use crate::snapshot::TargetState;

pub use crate::balancer::Connectivity;
pub use sidestep_proto::ads::Status;

/// The process as a whole.
#[derive(Debug, Clone)]
pub struct Process {
    /// As the control plane knows it; `None` without a bootstrap.
    pub node: Option<Node>,
    /// The one that answers for names that are not `xdstp:` names; `None` without a bootstrap.
    pub control_plane: Option<ControlPlane>,
    /// Every one of which something is wanted: the servers of all authorities in use (gRFC A47),
    /// and those that are asked because, or although, another one serves (gRFC A71).
    pub control_planes: Vec<ControlPlane>,
    /// Every target that a channel has dialled.
    pub targets: Vec<Target>,
    /// Every meshed server that runs.
    pub servers: Vec<Server>,
}

impl Process {
    /// Why the process is not ready; empty if it is. Ready means: each target has a configuration
    /// and each server serves. A control plane that is lost later does not end that.
    #[must_use]
    pub fn unready(&self) -> Vec<String> {
        let targets = self.targets.iter().filter_map(|target| {
            let reason = target.problem()?;
            Some(format!("target {}: {reason}", target.name))
        });
        let servers = self.servers.iter().filter_map(|server| {
            let reason = server.problem.as_ref()?;
            Some(format!("server {}: {reason}", server.listener))
        });
        targets.chain(servers).collect()
    }
}

/// The stream to a control plane's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlPlane {
    /// The server, as the bootstrap names it.
    pub server: String,
    /// Whose resources it serves, or is to serve; `None` stands for names that are not `xdstp:`
    /// names. Empty while another server has taken its place.
    pub authorities: Vec<Option<String>>,
    /// Whether the stream is open.
    pub connected: bool,
    /// Why it is not, as far as that is known.
    pub problem: Option<String>,
}

/// What a channel dialled.
#[derive(Clone)]
pub struct Target {
    /// The listener's name, or a direct target as dialled.
    pub name: Arc<str>,
    /// Selects the virtual host; empty for a direct target.
    pub authority: Arc<str>,
    /// The name of its RouteConfiguration; empty without one.
    pub routes: Arc<str>,
    /// What its calls read.
    pub(crate) state: Arc<TargetState>,
    /// Why calls cannot be sent although they can be routed.
    pub(crate) unresolved: Option<String>,
}

impl Target {
    /// Why its calls have no configuration; `None` if they have one.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match &*self.state {
            TargetState::Pending => Some("waiting for its configuration".to_owned()),
            TargetState::Failed(failure) | TargetState::Ended(failure) => {
                Some(failure.0.to_string())
            }
            TargetState::Ready(_) => self.unresolved.clone(),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .field("authority", &self.authority)
            .field("problem", &self.problem())
            .finish()
    }
}

/// A meshed server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The name of its Listener, which holds its address.
    pub listener: Arc<str>,
    /// Why it does not serve; `None` if it does.
    pub problem: Option<String>,
}

/// A subscribed resource.
#[derive(Debug, Clone)]
pub struct Resource {
    /// Its type.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: String,
    /// How far it has come.
    pub status: Status,
    /// The server that said it last, as the bootstrap names it.
    pub server: Option<String>,
    /// The version in use; empty if none is.
    pub version: String,
    /// What is in use, as it arrived.
    pub content: Option<Any>,
    /// When that was new.
    pub updated: Option<SystemTime>,
    /// What is wrong with its newest version.
    pub failure: Option<ResourceFailure>,
}

/// What is wrong with the newest version of a resource.
#[derive(Debug, Clone)]
pub struct ResourceFailure {
    /// Names the resource, the field, the control plane and this node.
    pub details: String,
    /// Of the response that brought it; empty if there was none.
    pub version: String,
    /// When.
    pub at: SystemTime,
    /// What was refused, as it arrived.
    pub content: Option<Any>,
}

/// A cluster in use: named by a route, or made for a direct target.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Whether the control plane gave it; otherwise it belongs to a direct target.
    pub from_control_plane: bool,
    /// How an endpoint is picked; `None` while its configuration is not there.
    pub policy: Option<LbPolicy>,
    /// Where its endpoints come from; `None` as for `policy`.
    pub discovery: Option<Discovery>,
    /// How connections are secured, in words; empty as for `policy`.
    pub security: String,
    /// The state of all its endpoints together.
    pub connectivity: Connectivity,
    /// Why it cannot be used as configured.
    pub error: Option<String>,
    /// Calls in flight that this process may have there (gRFC A32).
    pub max_requests: u32,
    /// Calls in flight.
    pub in_flight: u32,
    /// Calls that are dropped on purpose: category and share in parts of a million.
    pub drops: Vec<(String, u32)>,
    /// Every endpoint the control plane names, fit for calls or not.
    pub endpoints: Vec<Endpoint>,
    /// Of an aggregate (gRFC A37): the clusters it comes down to, most preferred first, then those
    /// that were passed over. Policy, limit and endpoints are theirs.
    pub leaves: Vec<Leaf>,
}

/// A cluster of an aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its name.
    pub name: String,
    /// Whether the aggregate's calls go there now.
    pub takes_calls: bool,
    /// Why they do or do not, in words.
    pub why: String,
    /// Its state; `None` while it is not connected because nothing needs it.
    pub connectivity: Option<Connectivity>,
}

/// One endpoint of a cluster.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where it listens, in the order to try; at least one.
    pub addresses: Vec<Address>,
    /// Its host name; may be empty.
    pub hostname: String,
    /// Where it is.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Relative to the locality's other endpoints.
    pub weight: u32,
    /// Relative to the other localities of its priority.
    pub locality_weight: u32,
    /// As the control plane sees it; calls go only where this lets them.
    pub health: Health,
    /// `None`: its health keeps it out, so there is no connection. One of bad health has one where
    /// too few others are left ([`sidestep_proto::resource::Cluster::panic_threshold`]).
    pub connectivity: Option<Connectivity>,
    /// Calls of this process in flight there.
    pub in_flight: u32,
    /// A policy keeps it out for what its calls did.
    pub ejected: Option<Ejection>,
    /// What its weight is now: `weight`, or what the policy has found out itself.
    pub current_weight: f64,
    /// The share of the cluster's calls that its locality gets, from 0 to 1, where the policy
    /// chooses among localities.
    pub locality_share: Option<f64>,
    /// Why the policy sends no calls there although nothing may be wrong with it, such as
    /// "priority 0 is in use".
    pub passed_over: Option<Arc<str>>,
    /// The last connection that failed or was lost, even if another has been made since.
    pub last_error: Option<LastError>,
}

impl Endpoint {
    /// The first address, for people.
    #[must_use]
    pub fn address(&self) -> String {
        let first = self.addresses.first();
        first.map_or_else(String::new, ToString::to_string)
    }

    /// Why no call goes there now; `None` if one may.
    #[must_use]
    pub fn excluded(&self) -> Option<String> {
        let Some(connectivity) = &self.connectivity else {
            return Some(match self.health.is_usable() {
                true => "the cluster cannot be used".to_owned(),
                false => format!("its health is {}", words::health(self.health)),
            });
        };
        if let Some(ejection) = &self.ejected {
            return Some(ejection.to_string());
        }
        match connectivity {
            Connectivity::TransientFailure(failure) => {
                Some(format!("TRANSIENT_FAILURE: {}", failure.0))
            }
            _ if self.passed_over.is_some() => self.passed_over.as_deref().map(str::to_owned),
            Connectivity::Connecting => Some("CONNECTING".to_owned()),
            // One that is idle is connected when a call wants it.
            Connectivity::Idle | Connectivity::Ready => None,
        }
    }
}

/// An endpoint kept out for what its calls did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejection {
    /// What they did.
    pub reason: String,
    /// How much longer it is kept out.
    pub remaining: Duration,
    /// When it is let in again.
    pub until: SystemTime,
}

impl fmt::Display for Ejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.remaining.as_secs_f64();
        write!(f, "ejected for another {seconds:.1} s: {}", self.reason)
    }
}

/// A connection that failed or was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastError {
    /// Why.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}
