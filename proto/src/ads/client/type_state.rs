//! One resource type on one server's stream: the names said there, version and nonce, the answers
//! it owes.

mod reading;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use self::reading::Read;
pub(super) use self::reading::Reader;
use super::cache::Cache;
use super::subscription::Announce;
use super::update::Update;
use super::{Event, Output, ResourceError};
use crate::ads::{Request, Variant};
use crate::resource::ResourceType;
use crate::resource::name::canonical;
use crate::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::wire::rpc::Status;

/// gRPC's code for a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// NACK texts stop here: a request that the server's message limit refuses would end the stream,
/// again and again.
const DETAIL_LIMIT: usize = 256 * 1024;

/// One resource type on one stream.
#[derive(Debug)]
pub(super) struct TypeState {
    resource_type: ResourceType,
    server: usize,
    names: BTreeMap<String, Named>,
    /// Last accepted (state of the world).
    version: String,
    /// Whether what is held is exactly that version, and not also the good part of a refused one.
    is_exact: bool,
    /// Whether the server must say everything, also what it said before.
    is_fresh: bool,
    /// Of the last response on this stream.
    nonce: String,
    /// Whether this stream has asked for this type.
    is_requested: bool,
    /// The names changed since the last request.
    is_dirty: bool,
    answers: VecDeque<Answer>,
    /// Why the last response was refused, if it was.
    refusal: Option<String>,
    updates: Updates,
}

/// A name as this server knows it.
#[derive(Debug, Default)]
struct Named {
    /// False between the end of the subscription here and the request that says so.
    wanted: bool,
    /// Named to the server on this stream.
    on_wire: bool,
    /// Was in the stream's first request for the type: each response is one to it, too.
    from_start: bool,
    /// When silence means that it does not exist.
    deadline: Option<Instant>,
}

/// Resources that have come, counted by what became of them; changed or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Updates {
    /// Could be used.
    pub valid: u64,
    /// Broke a rule.
    pub invalid: u64,
}

/// Each response gets exactly one.
#[derive(Debug)]
struct Answer {
    nonce: String,
    error: Option<Status>,
}

impl TypeState {
    pub(super) fn new(resource_type: ResourceType, server: usize) -> Self {
        Self {
            resource_type,
            server,
            names: BTreeMap::new(),
            version: String::new(),
            is_exact: true,
            is_fresh: false,
            nonce: String::new(),
            is_requested: false,
            is_dirty: false,
            answers: VecDeque::new(),
            refusal: None,
            updates: Updates::default(),
        }
    }

    /// Asks this server for a name. One that was about to be taken back stays.
    pub(super) fn subscribe(&mut self, name: &str) {
        if let Some(named) = self.names.get_mut(name) {
            named.wanted = true;
            return;
        }
        let named = Named {
            wanted: true,
            ..Named::default()
        };
        self.names.insert(name.to_owned(), named);
        self.is_dirty = true;
    }

    /// Asks this server no more for it.
    pub(super) fn unsubscribe(&mut self, name: &str) {
        let Some(named) = self.names.get_mut(name) else {
            return;
        };
        if named.on_wire {
            named.wanted = false;
            named.deadline = None;
            self.is_dirty = true;
        } else {
            self.names.remove(name);
        }
    }

    pub(super) fn has_names(&self) -> bool {
        self.names.values().any(|named| named.wanted)
    }

    /// Whether the server thinks, or is to be told, that this name is wanted.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    pub(super) fn is_requested(&self) -> bool {
        self.is_requested
    }

    /// A new stream begins and knows nothing. `is_fresh`: the server has to answer even if it has
    /// nothing new to say.
    pub(super) fn stream_opened(&mut self, is_fresh: bool, cache: &Cache) {
        self.is_dirty = !self.names.is_empty();
        self.is_fresh = is_fresh;
        // A version promises that all of it is held. If not, the server must send everything.
        let is_complete = self.wanted().all(|name| {
            cache.get(name).is_some_and(|s| {
                let held = s.held.as_ref();
                s.error.is_none() && held.is_some_and(|held| held.server == self.server)
            })
        });
        if is_fresh || !self.is_exact || !is_complete {
            self.version.clear();
        }
        self.is_exact = true;
    }

    /// Returns the names that are nothing to this server any more.
    pub(super) fn stream_ended(&mut self) -> Vec<String> {
        self.nonce.clear();
        self.is_requested = false;
        self.answers.clear();
        let gone = self.take_unwanted();
        for named in self.names.values_mut() {
            *named = Named {
                wanted: true,
                ..Named::default()
            };
        }
        gone
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(|named| named.deadline).min()
    }

    /// Takes the names whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<String> {
        let mut expired = Vec::new();
        for (name, named) in &mut self.names {
            if named.deadline.is_some_and(|at| at <= now) {
                named.deadline = None;
                expired.push(name.clone());
            }
        }
        expired
    }

    /// Waits anew for what is not there: until now nobody listened to this server.
    pub(super) fn wait_anew(&mut self, until: Instant, cache: &Cache) {
        for (name, named) in &mut self.names {
            let is_missing = cache.get(name).is_some_and(super::Subscription::is_gap);
            if named.wanted && named.on_wire && is_missing {
                named.deadline = Some(until);
            }
        }
    }

    /// The next request, if one is due, and the names that are nothing to this server any more.
    /// Timers of what it names for the first time start now.
    pub(super) fn request(
        &mut self,
        variant: Variant,
        now: Instant,
        patience: Duration,
        cache: &Cache,
    ) -> Option<(Request, Vec<String>)> {
        // An empty first request would be a wildcard.
        let is_due = self.is_dirty && (self.is_requested || self.has_names());
        let answer = self.answers.pop_front();
        if answer.is_none() && !is_due {
            self.is_dirty = false;
            return None;
        }
        let request = match variant {
            Variant::StateOfTheWorld => Request::StateOfTheWorld(self.whole_request(answer)),
            Variant::Delta => Request::Delta(self.delta_request(answer, cache)),
        };
        self.is_dirty = false;
        let is_first = !std::mem::replace(&mut self.is_requested, true);
        let gone = self.mark_sent(is_first, now + patience, cache);
        Some((request, gone))
    }

    fn whole_request(&self, answer: Option<Answer>) -> DiscoveryRequest {
        let (nonce, error) = match answer {
            Some(answer) => (answer.nonce, answer.error),
            None => (self.nonce.clone(), None),
        };
        DiscoveryRequest {
            version_info: self.version.clone(),
            resource_names: self.wanted().cloned().collect(),
            type_url: self.resource_type.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: error,
            ..DiscoveryRequest::default()
        }
    }

    fn delta_request(&self, answer: Option<Answer>, cache: &Cache) -> DeltaDiscoveryRequest {
        let mut request = DeltaDiscoveryRequest {
            type_url: self.resource_type.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        if let Some(answer) = answer {
            request.response_nonce = answer.nonce;
            request.error_detail = answer.error;
        }
        for (name, named) in &self.names {
            match (named.wanted, named.on_wire) {
                (true, false) => request.resource_names_subscribe.push(name.clone()),
                (false, true) => request.resource_names_unsubscribe.push(name.clone()),
                _ => {}
            }
        }
        if !self.is_requested && !self.is_fresh {
            request.initial_resource_versions = self.versions_held(cache);
        }
        request
    }

    /// What need not be sent again. Where something is wrong, hearing it again is the way to learn
    /// that it no longer is.
    fn versions_held(&self, cache: &Cache) -> BTreeMap<String, String> {
        let known = self
            .wanted()
            .filter_map(|name| Some((name, cache.get(name)?)));
        known
            .filter(|(_, s)| s.error.is_none())
            .filter_map(|(name, s)| Some((name, s.held.as_ref()?)))
            .filter(|(_, held)| held.server == self.server && !held.version.is_empty())
            .map(|(name, held)| (name.clone(), held.version.clone()))
            .collect()
    }

    fn mark_sent(&mut self, is_first: bool, deadline: Instant, cache: &Cache) -> Vec<String> {
        let gone = self.take_unwanted();
        for (name, named) in self.names.iter_mut().filter(|(_, named)| !named.on_wire) {
            named.on_wire = true;
            named.from_start = is_first;
            if !cache.is_held(name) {
                named.deadline = Some(deadline);
            }
        }
        gone
    }

    /// Takes what a response brings and notes the answer it gets.
    pub(super) fn apply(
        &mut self,
        update: Update,
        cache: &mut Cache,
        reader: &Reader<'_>,
        announce: &mut Announce<'_>,
    ) {
        let mut problems = Vec::new();
        let version = update.version;
        announce.version.clone_from(&version);
        let (read, nameless) = self.read_all(update.items, cache, reader, &mut problems);
        self.updates.invalid += nameless as u64;
        let mut explained: BTreeSet<String> = read.keys().cloned().collect();
        for (name, read) in read {
            match &read {
                Read::Bad(invalid, _) => {
                    problems.push(invalid.to_string());
                    self.updates.invalid += 1;
                }
                Read::Unchanged { .. } | Read::Good(..) => self.updates.valid += 1,
            }
            self.settle(&name, read, cache, announce);
        }
        // The removal says that it is gone, the error why: the error tells more.
        for (name, status) in update.errors {
            let name = canonical(&name);
            if explained.insert(name.clone().into_owned()) && self.counts(&name, cache) {
                let error = ResourceError::Refused {
                    code: status.code,
                    message: status.message,
                };
                cache.fail(&name, error, None, announce);
            }
        }
        for name in &update.removed {
            let name = canonical(name);
            if !explained.contains(&*name) && self.counts(&name, cache) {
                cache.remove(&name, announce);
            }
        }
        // A resource that could not be named may be the one that seems to be missing.
        if update.is_whole && self.resource_type.is_full_state() && nameless == 0 {
            for name in self.left_out(&explained, cache) {
                cache.remove(&name, announce);
            }
        }
        self.answer(version, update.nonce, &problems, announce);
    }

    /// What a response with the whole state has not, although it would have it if it existed.
    fn left_out(&self, explained: &BTreeSet<String>, cache: &Cache) -> Vec<String> {
        let names = self.names.iter();
        let left_out = names.filter(|(name, named)| {
            let held = cache.get(name).and_then(|s| s.held.as_ref());
            // What another server said may be a name that this one has not read yet.
            held.is_some_and(|held| held.server == self.server || named.from_start)
                && !explained.contains(*name)
        });
        let names: Vec<String> = left_out.map(|(name, _)| name.clone()).collect();
        names
            .into_iter()
            .filter(|name| self.is_served(name, cache))
            .collect()
    }

    /// Whether this server's word on a name counts, and if so, ends the wait for it.
    fn counts(&mut self, name: &str, cache: &Cache) -> bool {
        let counts = self.is_served(name, cache);
        if counts && let Some(named) = self.names.get_mut(name) {
            named.deadline = None;
        }
        counts
    }

    /// False for names that nobody asked this server for, and for those that were taken back here
    /// while another server is asked for them.
    fn is_served(&self, name: &str, cache: &Cache) -> bool {
        let named = self.names.get(name);
        named.is_some_and(|named| named.wanted || !cache.is_wanted(name))
    }

    fn answer(
        &mut self,
        version: String,
        nonce: String,
        problems: &[String],
        announce: &mut Announce<'_>,
    ) {
        self.nonce.clone_from(&nonce);
        let (resource_type, server) = (self.resource_type, self.server);
        let event;
        let mut error = None;
        if problems.is_empty() {
            self.version.clone_from(&version);
            self.is_exact = true;
            self.refusal = None;
            event = Event::Accepted {
                server,
                resource_type,
                version: version.clone(),
            };
        } else {
            self.is_exact = false;
            let detail = detail(problems);
            error = Some(Status {
                code: INVALID_ARGUMENT,
                message: detail.clone(),
                ..Status::default()
            });
            let repeated = self.refusal.as_ref() == Some(&detail);
            self.refusal = Some(detail.clone());
            event = Event::Rejected {
                server,
                resource_type,
                version: version.clone(),
                detail,
                repeated,
            };
        }
        self.answers.push_back(Answer { nonce, error });
        announce.out.push_back(Output::Event(event));
    }

    fn settle(&mut self, name: &str, read: Read, cache: &mut Cache, announce: &mut Announce<'_>) {
        if !self.counts(name, cache) {
            return;
        }
        match read {
            Read::Bad(invalid, raw) => {
                cache.fail(name, ResourceError::Invalid(invalid), raw, announce);
            }
            Read::Unchanged { version } => cache.confirm(name, self.server, version, announce),
            Read::Good(held, ignored) => cache.hold(name, held, ignored, announce),
        }
    }

    pub(super) fn updates(&self) -> Updates {
        self.updates
    }

    fn wanted(&self) -> impl Iterator<Item = &String> {
        let names = self.names.iter();
        names
            .filter(|(_, named)| named.wanted)
            .map(|(name, _)| name)
    }

    fn take_unwanted(&mut self) -> Vec<String> {
        let unwanted = self.names.iter().filter(|(_, named)| !named.wanted);
        let unwanted: Vec<String> = unwanted.map(|(name, _)| name.clone()).collect();
        for name in &unwanted {
            self.names.remove(name);
        }
        unwanted
    }
}

/// One text with every problem, as long as that is a text one can send.
fn detail(problems: &[String]) -> String {
    let mut text = String::new();
    for (index, problem) in problems.iter().enumerate() {
        if text.len() + problem.len() > DETAIL_LIMIT {
            text.push_str(&format!("; and {} more", problems.len() - index));
            break;
        }
        if index > 0 {
            text.push_str("; ");
        }
        text.push_str(problem);
    }
    text
}
