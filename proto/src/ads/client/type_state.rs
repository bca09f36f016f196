//! One resource type on the stream: its names, its version and nonce, the answers it owes.

mod reading;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use self::reading::Read;
pub(super) use self::reading::Reader;
use super::subscription::{Announce, Held, Subscription};
use super::update::Update;
use super::{Event, Known, Output, ResourceError};
use crate::ads::{Request, Variant};
use crate::codec::Ignored;
use crate::resource::ResourceType;
use crate::wire::Any;
use crate::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::wire::rpc::Status;

/// gRPC's code for a NACK.
const INVALID_ARGUMENT: i32 = 3;
/// NACK texts stop here: a request that the server's message limit refuses would end the stream,
/// again and again.
const DETAIL_LIMIT: usize = 256 * 1024;

/// One resource type.
#[derive(Debug)]
pub(super) struct TypeState {
    resource_type: ResourceType,
    names: BTreeMap<String, Subscription>,
    /// Where state of the world finds the name of bytes it already holds, without decoding. A
    /// collision only costs a decode: the bytes are compared.
    by_content: HashMap<u64, String>,
    hasher: RandomState,
    /// Last accepted (state of the world).
    version: String,
    /// Whether what is held is exactly that version, and not also the good part of a refused one.
    is_exact: bool,
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
    pub(super) fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            names: BTreeMap::new(),
            by_content: HashMap::new(),
            hasher: RandomState::new(),
            version: String::new(),
            is_exact: true,
            nonce: String::new(),
            is_requested: false,
            is_dirty: false,
            answers: VecDeque::new(),
            refusal: None,
            updates: Updates::default(),
        }
    }

    /// Returns whether the name was not subscribed.
    pub(super) fn subscribe(&mut self, name: &str, announce: &mut Announce<'_>) -> bool {
        if let Some(subscription) = self.names.get_mut(name) {
            let revived = !subscription.wanted;
            if revived {
                subscription.revive(name, announce);
            }
            return revived;
        }
        let subscription = Subscription {
            wanted: true,
            ..Subscription::default()
        };
        self.names.insert(name.to_owned(), subscription);
        self.is_dirty = true;
        true
    }

    pub(super) fn unsubscribe(&mut self, name: &str) {
        let Some(subscription) = self.names.get_mut(name) else {
            return;
        };
        if subscription.on_wire {
            subscription.wanted = false;
            subscription.deadline = None;
            self.is_dirty = true;
        } else {
            self.forget(name);
        }
    }

    pub(super) fn has_names(&self) -> bool {
        self.names.values().any(|s| s.wanted)
    }

    /// Whether something subscribed has no content.
    pub(super) fn has_gaps(&self) -> bool {
        self.names.values().any(|s| s.wanted && s.held.is_none())
    }

    pub(super) fn is_requested(&self) -> bool {
        self.is_requested
    }

    /// A new stream begins and knows nothing. `same_server`: versions mean the same as before.
    pub(super) fn stream_opened(&mut self, same_server: bool) {
        self.is_dirty = !self.names.is_empty();
        if !same_server {
            self.version.clear();
            for subscription in self.names.values_mut() {
                if let Some(held) = &mut subscription.held {
                    held.version.clear();
                }
            }
        }
        // A version promises that all of it is held. If not, the server must send everything.
        if !self.is_exact || self.has_gaps() || self.wanted().any(|(_, s)| s.error.is_some()) {
            self.version.clear();
        }
        self.is_exact = true;
    }

    pub(super) fn stream_ended(&mut self) {
        self.nonce.clear();
        self.is_requested = false;
        self.answers.clear();
        let gone: Vec<String> = self.take_unwanted();
        for name in gone {
            self.forget(&name);
        }
        for subscription in self.names.values_mut() {
            subscription.on_wire = false;
            subscription.deadline = None;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.names.values().filter_map(|s| s.deadline).min()
    }

    pub(super) fn expire(&mut self, now: Instant, transient: bool, announce: &mut Announce<'_>) {
        for (name, subscription) in &mut self.names {
            if subscription.deadline.is_some_and(|at| at <= now) {
                let error = if transient {
                    ResourceError::TimedOut
                } else {
                    ResourceError::DoesNotExist
                };
                subscription.bad(name, error, None, announce);
            }
        }
    }

    /// The next request, if one is due. Timers of what it names for the first time start now.
    pub(super) fn request(
        &mut self,
        variant: Variant,
        now: Instant,
        patience: Duration,
    ) -> Option<Request> {
        // An empty first request would be a wildcard.
        let is_due = self.is_dirty && (self.is_requested || self.has_names());
        let answer = self.answers.pop_front();
        if answer.is_none() && !is_due {
            self.is_dirty = false;
            return None;
        }
        let request = match variant {
            Variant::StateOfTheWorld => Request::StateOfTheWorld(self.whole_request(answer)),
            Variant::Delta => Request::Delta(self.delta_request(answer)),
        };
        self.is_dirty = false;
        self.is_requested = true;
        self.mark_sent(now + patience);
        Some(request)
    }

    fn whole_request(&self, answer: Option<Answer>) -> DiscoveryRequest {
        let (nonce, error) = match answer {
            Some(answer) => (answer.nonce, answer.error),
            None => (self.nonce.clone(), None),
        };
        DiscoveryRequest {
            version_info: self.version.clone(),
            resource_names: self.wanted().map(|(name, _)| name.clone()).collect(),
            type_url: self.resource_type.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: error,
            ..DiscoveryRequest::default()
        }
    }

    fn delta_request(&self, answer: Option<Answer>) -> DeltaDiscoveryRequest {
        let mut request = DeltaDiscoveryRequest {
            type_url: self.resource_type.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        if let Some(answer) = answer {
            request.response_nonce = answer.nonce;
            request.error_detail = answer.error;
        }
        for (name, subscription) in &self.names {
            match (subscription.wanted, subscription.on_wire) {
                (true, false) => request.resource_names_subscribe.push(name.clone()),
                (false, true) => request.resource_names_unsubscribe.push(name.clone()),
                _ => {}
            }
        }
        if !self.is_requested {
            request.initial_resource_versions = self.versions_held();
        }
        request
    }

    /// What need not be sent again. Where something is wrong, hearing it again is the way to learn
    /// that it no longer is.
    fn versions_held(&self) -> BTreeMap<String, String> {
        self.wanted()
            .filter(|(_, s)| s.error.is_none())
            .filter_map(|(name, s)| Some((name, s.held.as_ref()?)))
            .filter(|(_, held)| !held.version.is_empty())
            .map(|(name, held)| (name.clone(), held.version.clone()))
            .collect()
    }

    fn mark_sent(&mut self, deadline: Instant) {
        for name in self.take_unwanted() {
            self.forget(&name);
        }
        for subscription in self.names.values_mut().filter(|s| !s.on_wire) {
            subscription.on_wire = true;
            if subscription.held.is_none() {
                subscription.deadline = Some(deadline);
            }
        }
    }

    /// Takes what a response brings and notes the answer it gets.
    pub(super) fn apply(
        &mut self,
        update: Update,
        reader: &Reader<'_>,
        announce: &mut Announce<'_>,
    ) {
        let mut problems = Vec::new();
        let version = update.version;
        announce.version.clone_from(&version);
        let (read, nameless) = self.read_all(update.items, reader, &mut problems);
        self.updates.invalid += nameless as u64;
        let named: BTreeSet<String> = read.keys().cloned().collect();
        for (name, read) in read {
            match &read {
                Read::Bad(invalid, _) => {
                    problems.push(invalid.to_string());
                    self.updates.invalid += 1;
                }
                Read::Unchanged { .. } | Read::Good(..) => self.updates.valid += 1,
            }
            self.settle(&name, read, announce);
        }
        // The removal says that it is gone, the error why: the error tells more.
        for (name, status) in &update.errors {
            if !named.contains(name) {
                let error = ResourceError::Refused {
                    code: status.code,
                    message: status.message.clone(),
                };
                self.fail(name, error, None, announce);
            }
        }
        let explained = |name: &str| {
            named.contains(name) || update.errors.iter().any(|(other, _)| other == name)
        };
        for name in update.removed.iter().filter(|name| !explained(name)) {
            self.remove(name, announce);
        }
        // A resource that could not be named may be the one that seems to be missing.
        if update.is_whole && self.resource_type.is_full_state() && nameless == 0 {
            let gone: Vec<String> = self
                .names
                .iter()
                .filter(|(name, s)| s.held.is_some() && !explained(name))
                .map(|(name, _)| name.clone())
                .collect();
            for name in gone {
                self.remove(&name, announce);
            }
        }
        self.answer(version, update.nonce, &problems, announce);
    }

    fn answer(
        &mut self,
        version: String,
        nonce: String,
        problems: &[String],
        announce: &mut Announce<'_>,
    ) {
        self.nonce.clone_from(&nonce);
        let resource_type = self.resource_type;
        let event;
        let mut error = None;
        if problems.is_empty() {
            self.version.clone_from(&version);
            self.is_exact = true;
            self.refusal = None;
            event = Event::Accepted {
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
                resource_type,
                version: version.clone(),
                detail,
                repeated,
            };
        }
        self.answers.push_back(Answer { nonce, error });
        announce.out.push_back(Output::Event(event));
    }

    fn settle(&mut self, name: &str, read: Read, announce: &mut Announce<'_>) {
        match read {
            Read::Bad(invalid, raw) => {
                self.fail(name, ResourceError::Invalid(invalid), raw, announce);
            }
            Read::Unchanged { version } => self.confirm(name, version, announce),
            Read::Good(held, ignored) => self.hold(name, held, ignored, announce),
        }
    }

    fn confirm(&mut self, name: &str, version: Option<String>, announce: &mut Announce<'_>) {
        let Some(subscription) = self.names.get_mut(name) else {
            return;
        };
        if let (Some(held), Some(version)) = (&mut subscription.held, version) {
            held.version = version;
        }
        subscription.good(name, None, announce);
    }

    fn hold(&mut self, name: &str, held: Held, ignored: Vec<Ignored>, announce: &mut Announce<'_>) {
        let Some(subscription) = self.names.get_mut(name) else {
            return;
        };
        if let Some(old) = &subscription.held {
            self.by_content.remove(&self.hasher.hash_one(&old.raw));
        }
        self.by_content
            .insert(self.hasher.hash_one(&held.raw), name.to_owned());
        let is_new = subscription
            .held
            .as_ref()
            .is_none_or(|old| old.raw != held.raw);
        subscription.good(name, Some(held), announce);
        if is_new && subscription.wanted && !ignored.is_empty() {
            announce.out.push_back(Output::Event(Event::Ignored {
                resource_type: self.resource_type,
                name: name.to_owned(),
                fields: ignored,
            }));
        }
    }

    fn remove(&mut self, name: &str, announce: &mut Announce<'_>) {
        let Some(subscription) = self.names.get(name) else {
            return;
        };
        let error = match (&subscription.held, &subscription.error) {
            // Said before, and dropped then.
            (None, Some(ResourceError::Deleted)) | (Some(_), _) => ResourceError::Deleted,
            (None, _) => ResourceError::DoesNotExist,
        };
        self.fail(name, error, None, announce);
    }

    fn fail(
        &mut self,
        name: &str,
        error: ResourceError,
        raw: Option<Any>,
        announce: &mut Announce<'_>,
    ) {
        let Some(subscription) = self.names.get_mut(name) else {
            return;
        };
        let content = subscription
            .held
            .as_ref()
            .map(|held| self.hasher.hash_one(&held.raw));
        subscription.bad(name, error, raw, announce);
        if subscription.held.is_none()
            && let Some(content) = content
        {
            self.by_content.remove(&content);
        }
    }

    /// What is known of each subscribed name, in the order of names.
    pub(super) fn known(&self) -> impl Iterator<Item = Known<'_>> {
        self.wanted().map(|(name, subscription)| Known {
            resource_type: self.resource_type,
            name,
            content: subscription.held.as_ref().map(|held| &held.raw),
            version: subscription.accepted.as_ref().map_or("", |a| &a.version),
            updated: subscription.accepted.as_ref().map(|a| a.at),
            error: subscription.error.as_ref(),
            failed: subscription.failed.as_ref(),
        })
    }

    pub(super) fn updates(&self) -> Updates {
        self.updates
    }

    fn wanted(&self) -> impl Iterator<Item = (&String, &Subscription)> {
        self.names.iter().filter(|(_, s)| s.wanted)
    }

    fn take_unwanted(&self) -> Vec<String> {
        self.names
            .iter()
            .filter(|(_, s)| !s.wanted)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn forget(&mut self, name: &str) {
        if let Some(Subscription {
            held: Some(held), ..
        }) = self.names.remove(name)
        {
            self.by_content.remove(&self.hasher.hash_one(&held.raw));
        }
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
