//! A data plane's side of its ADS streams.
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
//! **Servers.** A name belongs to an authority (gRFC A47), an authority has servers in order of
//! preference. A server has one stream, whichever authorities need it. Everything is subscribed at
//! the first; if that cannot be reached, or ends its stream before any response, while something
//! subscribed is not cached, it is subscribed at the next one, too (gRFC A71), and so on. Those
//! that failed are tried again and again, each after pauses of its own. The first of the higher
//! ones that answers takes over, and the streams below it are closed unless another authority
//! needs them. What is cached outlives all that: it is only ever replaced. A reconnect after a
//! working stream is immediate, unless two in a row lived shorter than the first pause: then the
//! server counts as failed, too.
//!
//! gRPC decides this for each channel; here it is decided once per authority and process, so that
//! there is one stream per server: a target that misses something takes the others of its
//! authority along, whose last good resources stay in use until the other server has newer ones.
//!
//! **Delta.** A server that has none says so by `UNIMPLEMENTED` and is spoken to in state of the
//! world for as long as the process lives.
//!
//! **Errors** follow gRFC A88, which is always on: what is cached stays in use, deleted or not
//! (so `ignore_resource_deletion` of gRFC A53 has nothing left to do), unless the server has
//! `fail_on_data_errors`. Silence and the loss of a server never cost a cached resource. Versions
//! are presented only to the server they came from, and only if what is held is exactly that
//! version.

mod authority;
mod cache;
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

pub use config::{Authorities, ClientConfig, ServerInfo, Timers};
pub use event::{Event, Output, ResourceError};
pub use known::{Known, Status};
pub use subscription::FailedUpdate;
pub use type_state::Updates;

use self::authority::{Authority, Change};
use self::cache::Cache;
use self::config::Decode;
use self::connection::{Phase, Stream};
use self::subscription::{Announce, Subscription};
use self::type_state::Reader;
use super::{Response, Variant};
use crate::bootstrap::ServerFeatures;
use crate::resource::ResourceType;
use crate::resource::name::{self, canonical};

/// One data plane's subscriptions and the streams that serve them, one for each server in use.
///
/// Cached values are kept over lost streams; only `unsubscribe` (or `fail_on_data_errors`) drops
/// them.
#[derive(Debug)]
pub struct ClientStream {
    config: ClientConfig,
    decode: Decode,
    /// In the order of [`ResourceType::ALL`].
    caches: [Cache; 4],
    /// Index-aligned with the servers.
    streams: Vec<Stream>,
    /// The default first, then the named ones in the order of their names.
    authorities: Vec<Authority>,
    outputs: VecDeque<Output>,
    /// The last time heard: requests are built lazily, where no time is given.
    now: Instant,
}

/// A stream, or a try, that is over.
struct Ended {
    had_response: bool,
    /// How long it was open.
    lived: Duration,
}

impl ClientStream {
    /// Nothing subscribed, nothing connected.
    #[must_use]
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        Self::with_decode(config, now, crate::codec::decode)
    }

    pub(super) fn with_decode(config: ClientConfig, now: Instant, decode: Decode) -> Self {
        let streams = 0..config.servers.len();
        let stream = |server| Stream::new(server, config.variant, &config.timers, config.seed);
        let default = Authority::new(None, &config.authorities.default);
        let named = config.authorities.named.iter();
        let named = named.map(|(name, servers)| Authority::new(Some(name.clone()), servers));
        Self {
            streams: streams.map(stream).collect(),
            authorities: std::iter::once(default).chain(named).collect(),
            config,
            decode,
            caches: ResourceType::ALL.map(Cache::new),
            outputs: VecDeque::new(),
            now,
        }
    }

    /// Wants this resource. Once per name: a name already subscribed is left as it is.
    pub fn subscribe(&mut self, now: Instant, t: ResourceType, name: &str) {
        self.now = now;
        let name = &*canonical(name);
        let authority = self.authority(t, name);
        let (cache, mut announce) = self.parts(t, ServerFeatures::default());
        if !cache.subscribe(name, authority.as_ref().ok().copied(), &mut announce) {
            return;
        }
        match authority {
            Ok(authority) => self.ask(authority, t, name),
            Err(error) => cache.fail(name, error, None, &mut announce),
        }
    }

    /// Does not want it any more; what is cached of it is dropped.
    pub fn unsubscribe(&mut self, now: Instant, t: ResourceType, name: &str) {
        self.now = now;
        let name = canonical(name);
        if !self.caches[t as usize].unsubscribe(&name) {
            return;
        }
        for stream in &mut self.streams {
            stream.types[t as usize].unsubscribe(&name);
        }
        self.forget_unknown(t, vec![name.into_owned()]);
    }

    /// The stream of the current attempt at a server is open: requests may be sent.
    pub fn handle_connected(&mut self, now: Instant, server: usize) {
        self.now = now;
        let authorities = &self.authorities;
        let is_awaited = authorities.iter().any(|a| a.awaits(server));
        let Some(stream) = self.streams.get_mut(server) else {
            return;
        };
        if stream.phase != Phase::Connecting {
            return;
        }
        stream.phase = Phase::Open {
            node_sent: false,
            had_response: false,
            told_unasked: false,
            since: now,
        };
        for (state, cache) in stream.types.iter_mut().zip(&self.caches) {
            state.stream_opened(is_awaited, cache);
        }
        self.event(Event::StreamUp { server });
    }

    /// An open stream has brought this. Responses of a type that was not asked for on this
    /// stream, or of the other variant, are ignored; the first of a stream is told of.
    pub fn handle_response(&mut self, now: Instant, server: usize, response: Response) {
        self.now = now;
        let Some(stream) = self.streams.get_mut(server) else {
            return;
        };
        let Phase::Open {
            had_response,
            told_unasked,
            ..
        } = &mut stream.phase
        else {
            return;
        };
        let known = ResourceType::from_type_url(response.type_url());
        let asked = known.filter(|t| stream.types[*t as usize].is_requested());
        let Some(t) = asked.filter(|_| response.variant() == stream.variant) else {
            if !std::mem::replace(told_unasked, true) {
                let type_url = response.type_url().to_owned();
                self.event(Event::Unasked { server, type_url });
            }
            return;
        };
        *had_response = true;
        stream.failure = None;
        self.take_over(server);
        let mut announce = Announce {
            resource_type: t,
            fail_on_data_errors: self.config.servers[server].features.fail_on_data_errors,
            now,
            version: String::new(),
            out: &mut self.outputs,
        };
        let reader = Reader {
            decode: self.decode,
            context: &self.config.context,
        };
        let cache = &mut self.caches[t as usize];
        let state = &mut self.streams[server].types[t as usize];
        state.apply(response.into(), cache, &reader, &mut announce);
    }

    /// The attempt at a server failed, or its stream ended for whatever reason.
    pub fn handle_closed(&mut self, now: Instant, server: usize, reason: &str) {
        self.now = now;
        let Some(Ended {
            had_response,
            lived,
        }) = self.end_stream(server)
        else {
            return;
        };
        self.event(Event::StreamDown {
            server,
            reason: reason.to_owned(),
            had_response,
        });
        let stream = &mut self.streams[server];
        if had_response && stream.may_hurry(lived, &self.config.timers) {
            stream.backoff.reset(&self.config.timers);
            self.connect(server);
        } else {
            self.attempt_failed(server, reason);
        }
    }

    /// The server has answered `UNIMPLEMENTED`. If it was asked for delta, state of the world is
    /// tried at once; else this is [`Self::handle_closed`].
    pub fn handle_unimplemented(&mut self, now: Instant, server: usize, reason: &str) {
        self.now = now;
        let Some(stream) = self.streams.get_mut(server) else {
            return;
        };
        let is_news = match stream.phase {
            Phase::Connecting => true,
            Phase::Open { had_response, .. } => !had_response,
            Phase::Idle | Phase::BackingOff { .. } => return,
        };
        if stream.variant == Variant::StateOfTheWorld || !is_news {
            return self.handle_closed(now, server, reason);
        }
        stream.variant = Variant::StateOfTheWorld;
        self.end_stream(server);
        self.event(Event::NoDelta { server });
        self.connect(server);
    }

    /// What to do next; `None` until the next input. Requests are built here, so that everything
    /// subscribed in one turn travels in one request per type.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| self.next_request())
    }

    /// When to call [`Self::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.streams.iter().filter_map(Stream::deadline).min()
    }

    /// Time has passed. Too early a call is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        for server in 0..self.streams.len() {
            match self.streams[server].phase {
                Phase::BackingOff { until } if until <= now => self.connect(server),
                Phase::Open { .. } => self.expire(server),
                _ => {}
            }
        }
    }

    /// What is known of everything subscribed, by type and name.
    pub fn resources(&self) -> impl Iterator<Item = Known<'_>> {
        self.caches.iter().flat_map(Cache::known)
    }

    /// How many resources of a type have come from a server.
    #[must_use]
    pub fn updates(&self, server: usize, t: ResourceType) -> Updates {
        let stream = self.streams.get(server);
        stream.map_or_else(Updates::default, |s| s.types[t as usize].updates())
    }

    /// Who answers for a name: 0 for names that are not `xdstp:` names, else 1 and up in the order
    /// of the authorities' names. `None`: nobody.
    #[must_use]
    pub fn authority_of(&self, t: ResourceType, name: &str) -> Option<usize> {
        self.authority(t, name).ok()
    }

    /// The server whose word counts for an authority, as an index into
    /// [`ClientConfig::servers`]; `None` without servers.
    #[must_use]
    pub fn serving(&self, authority: usize) -> Option<usize> {
        self.authorities.get(authority)?.serving()
    }

    /// Whether an authority's resources are asked for at this server.
    #[must_use]
    pub fn asks(&self, authority: usize, server: usize) -> bool {
        let authority = self.authorities.get(authority);
        authority.is_some_and(|a| a.asked().contains(&server))
    }

    fn authority(&self, t: ResourceType, name: &str) -> Result<usize, ResourceError> {
        let wanted = match name::authority(t, name) {
            Ok(Some(wanted)) => wanted,
            Ok(None) => return Ok(0),
            Err(invalid) => return Err(ResourceError::BadName(invalid)),
        };
        let mut named = self.authorities.iter();
        match named.position(|a| a.name.as_deref() == Some(wanted)) {
            Some(index) => Ok(index),
            None if self.config.authorities.others => Ok(0),
            None => Err(ResourceError::UnknownAuthority {
                authority: wanted.to_owned(),
            }),
        }
    }

    /// Subscribes a name at each server that its authority asks.
    fn ask(&mut self, authority: usize, t: ResourceType, name: &str) {
        for server in self.authorities[authority].asked().to_vec() {
            self.streams[server].types[t as usize].subscribe(name);
            self.wake(server);
        }
        self.fall_back(authority);
        self.repeat_unreachable(authority);
    }

    /// Subscribes everything at the next server, as long as the one in use has failed and
    /// something is missing.
    fn fall_back(&mut self, index: usize) {
        loop {
            let has_gaps = self.has_gaps(index);
            let streams = &self.streams;
            let authority = &mut self.authorities[index];
            let change = authority.fall_back(has_gaps, |s| streams[s].failure.is_some());
            let Some(change) = change else {
                return;
            };
            for cache in &self.caches {
                let state = &mut self.streams[change.to].types[cache.resource_type as usize];
                for name in cache.names_of(index) {
                    state.subscribe(&name);
                }
            }
            self.tell(index, change, true);
            self.wake(change.to);
        }
    }

    /// A server has answered: it serves every authority that has none above it.
    fn take_over(&mut self, server: usize) {
        for index in 0..self.authorities.len() {
            let Some((change, released)) = self.authorities[index].answered(server) else {
                continue;
            };
            let until = self.now + self.patience(server);
            for cache in &self.caches {
                let t = cache.resource_type as usize;
                let names = cache.names_of(index);
                for lower in &released {
                    let state = &mut self.streams[*lower].types[t];
                    names.iter().for_each(|name| state.unsubscribe(name));
                }
                self.streams[server].types[t].wait_anew(until, cache);
            }
            self.tell(index, change, false);
            for lower in released {
                if !self.streams[lower].has_names() {
                    self.disconnect(lower);
                }
            }
        }
    }

    fn tell(&mut self, index: usize, change: Change, is_down: bool) {
        let Change { from, to } = change;
        let authority = self.authorities[index].name.clone();
        self.event(Event::Fallback {
            authority,
            from,
            to,
            is_down,
        });
    }

    fn has_gaps(&self, authority: usize) -> bool {
        self.caches.iter().any(|cache| cache.has_gaps(authority))
    }

    fn expire(&mut self, server: usize) {
        let transient = self.features(server).resource_timer_is_transient_error;
        let error = match transient {
            true => ResourceError::TimedOut,
            false => ResourceError::DoesNotExist,
        };
        let features = self.features(server);
        for t in ResourceType::ALL {
            let expired = self.streams[server].types[t as usize].expired(self.now);
            for name in expired {
                let authority = self.caches[t as usize].get(&name).and_then(|s| s.authority);
                // The silence of a server above the one that serves says nothing.
                if authority.and_then(|a| self.authorities[a].serving()) == Some(server) {
                    let (cache, mut announce) = self.parts(t, features);
                    cache.fail(&name, error.clone(), None, &mut announce);
                }
            }
        }
    }

    fn next_request(&mut self) -> Option<Output> {
        for server in 0..self.streams.len() {
            let patience = self.patience(server);
            let stream = &mut self.streams[server];
            let Phase::Open { node_sent, .. } = &mut stream.phase else {
                continue;
            };
            let (variant, now) = (stream.variant, self.now);
            let mut states = stream.types.iter_mut().zip(&self.caches);
            let next = states.find_map(|(state, cache)| {
                let (request, gone) = state.request(variant, now, patience, cache)?;
                Some((cache.resource_type, request, gone))
            });
            if let Some((t, mut request, gone)) = next {
                if !std::mem::replace(node_sent, true) {
                    request.set_node(self.config.node.clone());
                }
                self.forget_unknown(t, gone);
                return Some(Output::Send { server, request });
            }
        }
        None
    }

    /// Drops what is cached of names that are neither wanted nor known to any server.
    fn forget_unknown(&mut self, t: ResourceType, names: Vec<String>) {
        for name in names {
            let mut states = self.streams.iter().map(|stream| &stream.types[t as usize]);
            let cache = &mut self.caches[t as usize];
            if !cache.is_wanted(&name) && !states.any(|state| state.knows(&name)) {
                cache.forget(&name);
            }
        }
    }

    fn wake(&mut self, server: usize) {
        if self.streams[server].phase == Phase::Idle {
            self.connect(server);
        }
    }

    /// Tries a server, if there is anything to ask it for.
    fn connect(&mut self, server: usize) {
        let stream = &mut self.streams[server];
        if !stream.has_names() {
            stream.phase = Phase::Idle;
            stream.failure = None;
            return;
        }
        stream.phase = Phase::Connecting;
        let variant = stream.variant;
        self.outputs.push_back(Output::Connect { server, variant });
    }

    fn disconnect(&mut self, server: usize) {
        let had = self.end_stream(server);
        let stream = &mut self.streams[server];
        stream.phase = Phase::Idle;
        stream.failure = None;
        if had.is_some() {
            self.outputs.push_back(Output::Disconnect { server });
        }
    }

    /// Forgets what belongs to the stream alone; `None` if there was no stream and no try.
    fn end_stream(&mut self, server: usize) -> Option<Ended> {
        let ended = match self.streams.get(server)?.phase {
            Phase::Connecting => Ended {
                had_response: false,
                lived: Duration::ZERO,
            },
            Phase::Open {
                had_response,
                since,
                ..
            } => Ended {
                had_response,
                lived: self.now.saturating_duration_since(since),
            },
            Phase::Idle | Phase::BackingOff { .. } => return None,
        };
        for t in ResourceType::ALL {
            let gone = self.streams[server].types[t as usize].stream_ended();
            self.forget_unknown(t, gone);
        }
        Some(ended)
    }

    fn attempt_failed(&mut self, server: usize, reason: &str) {
        let stream = &mut self.streams[server];
        stream.failure = Some(reason.to_owned());
        let pause: Duration = stream.backoff.pause(&self.config.timers);
        stream.phase = Phase::BackingOff {
            until: self.now + pause,
        };
        for index in 0..self.authorities.len() {
            if !self.authorities[index].asked().contains(&server) {
                continue;
            }
            self.fall_back(index);
            let authority = &self.authorities[index];
            // A round is over with its last server, whenever the others are tried.
            let is_round = authority.servers().last() == Some(&server);
            if is_round || authority.unreachable.is_none() {
                self.give_up(index);
            }
        }
    }

    /// Says that nobody can be asked, if so.
    fn give_up(&mut self, index: usize) {
        let authority = &self.authorities[index];
        let is_exhausted = authority.is_exhausted(|s| self.streams[s].failure.is_some());
        if !is_exhausted || !self.has_gaps(index) {
            return;
        }
        let failures = authority.servers().iter().filter_map(|server| {
            let failure = self.streams[*server].failure.as_ref()?;
            Some(format!("{}: {failure}", self.config.servers[*server].uri))
        });
        let reason = failures.collect::<Vec<_>>().join("; ");
        self.authorities[index].unreachable = Some(reason.clone());
        self.event(Event::Unreachable {
            authority: index,
            reason,
        });
    }

    /// Whoever comes during the pause must not wait for its end to learn what is known.
    fn repeat_unreachable(&mut self, index: usize) {
        let mut servers = self.authorities[index].servers().iter();
        let is_paused = servers.all(|s| matches!(self.streams[*s].phase, Phase::BackingOff { .. }));
        if is_paused {
            self.give_up(index);
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn features(&self, server: usize) -> ServerFeatures {
        let server = self.config.servers.get(server);
        server.map(|server| server.features).unwrap_or_default()
    }

    fn patience(&self, server: usize) -> Duration {
        let timers = &self.config.timers;
        match self.features(server).resource_timer_is_transient_error {
            true => timers.does_not_exist_transient,
            false => timers.does_not_exist,
        }
    }

    fn parts(&mut self, t: ResourceType, features: ServerFeatures) -> (&mut Cache, Announce<'_>) {
        let announce = Announce {
            resource_type: t,
            fail_on_data_errors: features.fail_on_data_errors,
            now: self.now,
            version: String::new(),
            out: &mut self.outputs,
        };
        (&mut self.caches[t as usize], announce)
    }
}
