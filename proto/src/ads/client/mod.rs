//! A data plane's side of an ADS stream.
//!
//! What happens to one subscription:
//!
//! ```text
//! subscribe ─► request sent, timer starts ─► resource ─► changed, or ambient error, …
//!                       │                       ▲
//!                       ├─► refused, invalid ───┤
//!                       └─► 15 s of silence ────┘
//! ```
//!
//! **Servers.** The first is the primary. If it cannot be reached, or ends its stream before any
//! response, while something subscribed is not cached (or a lower server was the last to work),
//! the next one is tried at once (gRFC A71). After a round in which all failed there is a pause.
//! Every new round, and every reconnect after a working stream, starts at the primary again; a
//! working lower server is *not* left before its stream ends. A reconnect after a working stream is
//! immediate, unless two in a row lived shorter than the first pause: then there are pauses too.
//!
//! **Errors** follow gRFC A88, which is always on: what is cached stays in use, deleted or not
//! (so `ignore_resource_deletion` of gRFC A53 has nothing left to do), unless the server has
//! `fail_on_data_errors`. Silence and the loss of a server never cost a cached resource. Versions are presented only to the
//! server they came from, and only if what is held is exactly that version.

mod config;
mod connection;
mod event;
#[cfg(test)]
mod hostile;
mod known;
mod subscription;
#[cfg(test)]
mod tests;
mod type_state;
mod update;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use config::{ClientConfig, ServerInfo, Timers};
pub use event::{Event, Output, ResourceError};
pub use known::{Known, Status};
pub use subscription::FailedUpdate;
pub use type_state::Updates;

use self::config::Decode;
use self::connection::{Backoff, Phase};
use self::subscription::Announce;
use self::type_state::{Reader, TypeState};
use super::{Request, Response};
use crate::bootstrap::ServerFeatures;
use crate::resource::ResourceType;

/// One data plane's subscriptions and the streams that serve them, one stream at a time.
///
/// Cached values are kept over lost streams; only `unsubscribe` (or `fail_on_data_errors`) drops
/// them.
#[derive(Debug)]
pub struct ClientStream {
    config: ClientConfig,
    decode: Decode,
    /// In the order of [`ResourceType::ALL`], which is the order of requests.
    types: [TypeState; 4],
    phase: Phase,
    /// The server of the current, or next, attempt.
    server: usize,
    /// The server whose versions are held; the last one that answered.
    answered: Option<usize>,
    backoff: Backoff,
    /// The last working stream ended before it was steady: the next such end is followed by a pause.
    is_hasty: bool,
    /// Who failed in this round, and how.
    failures: Vec<String>,
    /// Set from a round that failed whole to the next response.
    unreachable: Option<String>,
    outputs: VecDeque<Output>,
    /// The last time heard: requests are built lazily, where no time is given.
    now: Instant,
}

impl ClientStream {
    /// Nothing subscribed, nothing connected.
    #[must_use]
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        Self::with_decode(config, now, crate::codec::decode)
    }

    pub(super) fn with_decode(config: ClientConfig, now: Instant, decode: Decode) -> Self {
        let backoff = Backoff::new(&config.timers, config.seed);
        Self {
            config,
            decode,
            types: ResourceType::ALL.map(TypeState::new),
            phase: Phase::Idle,
            server: 0,
            answered: None,
            backoff,
            is_hasty: false,
            failures: Vec::new(),
            unreachable: None,
            outputs: VecDeque::new(),
            now,
        }
    }

    /// Wants this resource. Once per name: a name already subscribed is left as it is.
    pub fn subscribe(&mut self, now: Instant, t: ResourceType, name: &str) {
        self.now = now;
        let (state, mut announce) = self.parts(t);
        if !state.subscribe(name, &mut announce) {
            return;
        }
        match self.phase {
            Phase::Idle => self.connect(0),
            Phase::BackingOff { .. } => self.repeat_unreachable(),
            Phase::Connecting | Phase::Open { .. } => {}
        }
    }

    /// Does not want it any more; what is cached of it is dropped.
    pub fn unsubscribe(&mut self, now: Instant, t: ResourceType, name: &str) {
        self.now = now;
        self.types[t as usize].unsubscribe(name);
    }

    /// The stream of the current attempt is open: requests may be sent.
    pub fn handle_connected(&mut self, now: Instant) {
        self.now = now;
        if self.phase != Phase::Connecting {
            return;
        }
        self.phase = Phase::Open {
            node_sent: false,
            had_response: false,
            told_unasked: false,
            since: now,
        };
        let same_server = self.answered == Some(self.server);
        for state in &mut self.types {
            state.stream_opened(same_server);
        }
        self.event(Event::StreamUp {
            server: self.server,
        });
    }

    /// The open stream has brought this. Responses of a type that was not asked for on this
    /// stream, or of the other variant, are ignored; the first of a stream is told of.
    pub fn handle_response(&mut self, now: Instant, response: Response) {
        self.now = now;
        let Phase::Open {
            had_response,
            told_unasked,
            ..
        } = &mut self.phase
        else {
            return;
        };
        let known = ResourceType::from_type_url(response.type_url());
        let asked = known.filter(|t| self.types[*t as usize].is_requested());
        let Some(t) = asked.filter(|_| response.variant() == self.config.variant) else {
            if !std::mem::replace(told_unasked, true) {
                let type_url = response.type_url().to_owned();
                self.event(Event::Unasked { type_url });
            }
            return;
        };
        *had_response = true;
        self.answered = Some(self.server);
        self.failures.clear();
        self.unreachable = None;
        let fail_on_data_errors = self.features().fail_on_data_errors;
        let mut announce = Announce {
            resource_type: t,
            fail_on_data_errors,
            now,
            version: String::new(),
            out: &mut self.outputs,
        };
        let reader = Reader {
            decode: self.decode,
            context: &self.config.context,
        };
        self.types[t as usize].apply(response.into(), &reader, &mut announce);
    }

    /// The attempt failed, or the stream ended for whatever reason.
    pub fn handle_closed(&mut self, now: Instant, reason: &str) {
        self.now = now;
        let (had_response, lived) = match self.phase {
            Phase::Connecting => (false, Duration::ZERO),
            Phase::Open {
                had_response,
                since,
                ..
            } => (had_response, now.saturating_duration_since(since)),
            Phase::Idle | Phase::BackingOff { .. } => return,
        };
        for state in &mut self.types {
            state.stream_ended();
        }
        self.event(Event::StreamDown {
            server: self.server,
            reason: reason.to_owned(),
            had_response,
        });
        if !had_response {
            self.attempt_failed(reason);
        } else if self.may_hurry(lived) {
            self.backoff.reset(&self.config.timers);
            self.next_round();
        } else {
            self.failed(reason);
            self.back_off();
        }
    }

    /// What to do next; `None` until the next input. Requests are built here, so that everything
    /// subscribed in one turn travels in one request per type.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs
            .pop_front()
            .or_else(|| self.next_request().map(Output::Send))
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::BackingOff { until } => Some(until),
            Phase::Open { .. } => self.types.iter().filter_map(TypeState::deadline).min(),
            Phase::Idle | Phase::Connecting => None,
        }
    }

    /// Time has passed. Too early a call is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        match self.phase {
            Phase::BackingOff { until } if until <= now => self.next_round(),
            Phase::Open { .. } => self.expire(),
            _ => {}
        }
    }

    /// What is known of everything subscribed, by type and name.
    pub fn resources(&self) -> impl Iterator<Item = Known<'_>> {
        self.types.iter().flat_map(TypeState::known)
    }

    /// How many resources of a type have come, from all servers together.
    #[must_use]
    pub fn updates(&self, t: ResourceType) -> Updates {
        self.types[t as usize].updates()
    }

    fn expire(&mut self) {
        let now = self.now;
        let transient = self.features().resource_timer_is_transient_error;
        for t in ResourceType::ALL {
            let (state, mut announce) = self.parts(t);
            state.expire(now, transient, &mut announce);
        }
    }

    fn next_request(&mut self) -> Option<Request> {
        let Phase::Open { node_sent, .. } = &mut self.phase else {
            return None;
        };
        let timers = &self.config.timers;
        let features = self.config.servers[self.server].features;
        let patience = if features.resource_timer_is_transient_error {
            timers.does_not_exist_transient
        } else {
            timers.does_not_exist
        };
        let (variant, now) = (self.config.variant, self.now);
        let mut request = self
            .types
            .iter_mut()
            .find_map(|state| state.request(variant, now, patience))?;
        if !std::mem::replace(node_sent, true) {
            request.set_node(self.config.node.clone());
        }
        Some(request)
    }

    /// Starts at the primary, if there is anything to ask for.
    fn next_round(&mut self) {
        self.failures.clear();
        if self.types.iter().any(TypeState::has_names) {
            self.connect(0);
        } else {
            self.phase = Phase::Idle;
        }
    }

    fn connect(&mut self, server: usize) {
        if server < self.config.servers.len() {
            self.server = server;
            self.phase = Phase::Connecting;
            self.outputs.push_back(Output::Connect { server });
        }
    }

    /// Whether a working stream that lived so long is replaced at once. A server that answers and
    /// hangs up, again and again, would keep both sides busy for nothing: once it may.
    fn may_hurry(&mut self, lived: Duration) -> bool {
        let was_hasty = self.is_hasty;
        self.is_hasty = lived < self.config.timers.backoff_initial;
        !(was_hasty && self.is_hasty)
    }

    fn failed(&mut self, reason: &str) {
        let uri = &self.config.servers[self.server].uri;
        self.failures.push(format!("{uri}: {reason}"));
    }

    fn has_gaps(&self) -> bool {
        self.types.iter().any(TypeState::has_gaps)
    }

    fn attempt_failed(&mut self, reason: &str) {
        self.failed(reason);
        let next = self.server + 1;
        // A lower server that worked may hold news even if nothing is missing.
        let is_worth_it = self.has_gaps() || self.answered > Some(self.server);
        if is_worth_it && next < self.config.servers.len() {
            return self.connect(next);
        }
        self.back_off();
    }

    fn back_off(&mut self) {
        if self.has_gaps() {
            let reason = self.failures.join("; ");
            self.unreachable = Some(reason.clone());
            self.event(Event::Unreachable { reason });
        }
        let pause: Duration = self.backoff.pause(&self.config.timers);
        self.phase = Phase::BackingOff {
            until: self.now + pause,
        };
    }

    /// Whoever comes during the pause must not wait for its end to learn what is known.
    fn repeat_unreachable(&mut self) {
        let reason = self
            .unreachable
            .get_or_insert_with(|| self.failures.join("; "))
            .clone();
        self.event(Event::Unreachable { reason });
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn features(&self) -> ServerFeatures {
        self.config
            .servers
            .get(self.server)
            .map(|server| server.features)
            .unwrap_or_default()
    }

    fn parts(&mut self, t: ResourceType) -> (&mut TypeState, Announce<'_>) {
        let announce = Announce {
            resource_type: t,
            fail_on_data_errors: self.features().fail_on_data_errors,
            now: self.now,
            version: String::new(),
            out: &mut self.outputs,
        };
        (&mut self.types[t as usize], announce)
    }
}
