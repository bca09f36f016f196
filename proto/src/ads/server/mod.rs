//! One peer of an ADS stream, as the management server sees it.
//!
//! A peer holds something per type; the view says what it should hold. The difference goes out
//! in two passes, make before break:
//!
//! ```text
//!   additions:  CDS ──ack──► EDS ──ack──► LDS ──ack──► RDS
//!   removals:   CDS ◄──ack── EDS ◄──ack── LDS ◄──ack── RDS     once no addition is left to send
//! ```
//!
//! A step waits for the answers to the steps before it, at most two seconds each. What a peer has
//! just asked for waits for nothing but its own previous answer. Per type at most one response is unanswered; what
//! changes meanwhile merges into the next one. What went out is not sent again until it changes,
//! refused or not, so a NACK cannot start a loop.
//!
//! Other types than these four go out at once and in no order.

mod event;
mod response;
mod subscription;
#[cfg(test)]
mod tests;
mod type_state;
mod view;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use prost::Message;

pub use event::{ServerEvent, ServerOutput};
pub use response::ServerResponse;
pub use view::{Entry, Missing, View};

use self::subscription::Changes;
use self::type_state::TypeState;
use super::{Request, Variant};
use crate::resource::ResourceType;
use crate::wire::Any;
use crate::wire::cluster::Cluster;

/// How long a step waits for the answers to earlier ones.
const PATIENCE: Duration = Duration::from_secs(2);
/// `Node.user_agent_name` of Envoy, which waits for its endpoints again whenever a cluster changes.
const ENVOY: &str = "envoy";

/// One peer's stream.
#[derive(Debug)]
pub struct ServerStream {
    variant: Variant,
    is_envoy: bool,
    node_seen: bool,
    /// In the order of additions.
    types: Vec<TypeState>,
    last_nonce: u64,
    /// A step is waiting for the clock or an answer.
    is_waiting: bool,
    outputs: VecDeque<ServerOutput>,
}

impl ServerStream {
    /// A stream on which nothing was asked yet.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self {
            variant,
            is_envoy: false,
            node_seen: false,
            types: Vec::new(),
            last_nonce: 0,
            is_waiting: false,
            outputs: VecDeque::new(),
        }
    }

    /// The peer asks, acknowledges or refuses. A request of the other variant is ignored.
    pub fn handle_request(&mut self, now: Instant, request: Request, view: &dyn View) {
        if request.variant() != self.variant || request.type_url().is_empty() {
            return;
        }
        self.meet(&request);
        let index = self.index_of(request.type_url());
        let state = &mut self.types[index];
        match request {
            Request::StateOfTheWorld(request) => {
                state.handle_whole(request, view, &mut self.outputs);
            }
            Request::Delta(request) => state.handle_delta(request, &mut self.outputs),
        }
        self.advance(now, view);
    }

    /// The view changed.
    pub fn handle_view(&mut self, now: Instant, view: &dyn View) {
        for state in &mut self.types {
            state.is_dirty = true;
        }
        self.advance(now, view);
    }

    /// How many resource types the peer has asked for, known or not.
    #[must_use]
    pub fn type_count(&self) -> usize {
        self.types.len()
    }

    /// Whether the peer has answered everything that the view has for it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let mut types = self.types.iter();
        types.all(|state| !state.is_dirty && !state.is_unanswered())
    }

    /// What to do next; `None` until the next input.
    pub fn poll_output(&mut self) -> Option<ServerOutput> {
        self.outputs.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_waiting {
            return None;
        }
        self.types
            .iter()
            .filter(|state| !state.is_overdue)
            .filter_map(|state| Some(state.sent_at()? + PATIENCE))
            .min()
    }

    /// Time has passed. Too early a call is harmless.
    pub fn handle_timeout(&mut self, now: Instant, view: &dyn View) {
        self.advance(now, view);
    }

    fn meet(&mut self, request: &Request) {
        let Some(node) = request.node() else { return };
        // Only the first request of a stream is looked at for it.
        if !std::mem::replace(&mut self.node_seen, true) {
            self.is_envoy = node.user_agent_name == ENVOY;
            let event = ServerEvent::Node(Box::new(node.clone()));
            self.outputs.push_back(ServerOutput::Event(event));
        }
    }

    fn index_of(&mut self, type_url: &str) -> usize {
        let state = TypeState::new(type_url);
        match self
            .types
            .binary_search_by(|s| s.order().cmp(&state.order()))
        {
            Ok(index) => index,
            Err(index) => {
                self.types.insert(index, state);
                index
            }
        }
    }

    /// Sends what may be sent now.
    fn advance(&mut self, now: Instant, view: &dyn View) {
        self.is_waiting = false;
        for state in &mut self.types {
            state.is_overdue = state.sent_at().is_some_and(|at| at + PATIENCE <= now);
        }
        let mut removals = Vec::new();
        for index in 0..self.types.len() {
            if !self.types[index].is_dirty {
                continue;
            }
            let changes = self.types[index].changes(view);
            if !changes.removed.is_empty() {
                removals.push(index);
            }
            self.add(index, changes, now, view);
        }
        for index in removals.into_iter().rev() {
            self.remove(index, now, view);
        }
    }

    /// The additions of one type.
    fn add(&mut self, index: usize, changes: Changes, now: Instant, view: &dyn View) {
        let state = &self.types[index];
        let is_answer = state.is_owed;
        let removes = !changes.removed.is_empty();
        // Where only removals are left to be said, they are the answer.
        if !changes.adds() && (removes || !is_answer) {
            let state = &mut self.types[index];
            state.is_dirty = removes;
            state.is_owed = false;
            return;
        }
        let must_wait = state.is_unanswered() || (!is_answer && self.is_gated(index));
        if must_wait {
            self.is_waiting = true;
            return;
        }
        let reconfigured = self.reconfigured(index, &changes);
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let variant = self.variant;
        let state = &mut self.types[index];
        state.send_additions(changes, nonce, variant, now, view, &mut self.outputs);
        state.is_dirty = removes;
        self.repeat_endpoints(&reconfigured);
    }

    /// The removals of one type, once nothing is left to be added anywhere.
    fn remove(&mut self, index: usize, now: Instant, view: &dyn View) {
        let is_ordered = self.types[index].is_ordered();
        let others_pending = is_ordered
            && self.types.iter().any(|s| {
                s.is_ordered() && (s.is_unanswered() && !s.is_overdue || s.has_additions(view))
            });
        if others_pending || self.types[index].is_unanswered() {
            self.is_waiting = true;
            return;
        }
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let variant = self.variant;
        let state = &mut self.types[index];
        state.send_removals(nonce, variant, now, view, &mut self.outputs);
        state.is_dirty = false;
    }

    /// Whether an earlier type's answer is still being waited for.
    fn is_gated(&self, index: usize) -> bool {
        self.types[index].is_ordered()
            && self.types[..index]
                .iter()
                .any(|s| s.is_ordered() && s.is_unanswered() && !s.is_overdue)
    }

    /// The EDS names of clusters that an Envoy holds and is about to get changed.
    fn reconfigured(&self, index: usize, changes: &Changes) -> Vec<String> {
        let state = &self.types[index];
        if !self.is_envoy || state.resource_type() != Some(ResourceType::Cluster) {
            return Vec::new();
        }
        changes
            .upserts
            .iter()
            .filter(|entry| state.holds(&entry.name))
            .map(|entry| endpoints_of(entry))
            .collect()
    }

    /// Envoy's changed cluster waits for its endpoints, even if they are as before.
    fn repeat_endpoints(&mut self, names: &[String]) {
        let is_endpoints =
            |s: &&mut TypeState| s.resource_type() == Some(ResourceType::EndpointAssignment);
        if let Some(state) = self.types.iter_mut().find(is_endpoints) {
            for name in names {
                state.repeat(name);
            }
        }
    }
}

/// The name under which a cluster's endpoints are subscribed.
fn endpoints_of(entry: &Entry) -> String {
    Any::decode(entry.resource.clone())
        .ok()
        .and_then(|any| any.unpack::<Cluster>().ok())
        .and_then(|cluster| cluster.eds_cluster_config)
        .map(|eds| eds.service_name)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| entry.name.clone())
}
