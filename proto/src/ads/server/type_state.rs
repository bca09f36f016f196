//! One type on one peer's stream: subscription, nonce, the response being waited for.

use std::collections::VecDeque;
use std::time::Instant;

use super::event::{ServerEvent, ServerOutput};
use super::response::ServerResponse;
use super::subscription::{Changes, Subscription, Told};
use super::view::{Missing, View};
use crate::ads::Variant;
use crate::ads::message::WILDCARD;
use crate::resource::ResourceType;
use crate::wire::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use crate::wire::rpc::Status;

/// Missing names of one response for which it is worth looking what may have been meant. Others of
/// this process wait meanwhile.
const SUGGESTED: usize = 20;

/// One type.
#[derive(Debug)]
pub(super) struct TypeState {
    type_url: String,
    resource_type: Option<ResourceType>,
    subscription: Subscription,
    is_first: bool,
    /// Of the last response, and of the one before it.
    nonce: String,
    previous_nonce: String,
    /// At most one.
    unanswered: Option<Unanswered>,
    /// There may be something to tell.
    pub(super) is_dirty: bool,
    /// The peer has asked and waits.
    pub(super) is_owed: bool,
    /// Others no longer wait for this type's answer.
    pub(super) is_overdue: bool,
}

/// A response without ACK or NACK yet.
#[derive(Debug)]
struct Unanswered {
    version: String,
    sent_at: Instant,
}

type Outputs = VecDeque<ServerOutput>;

impl TypeState {
    pub(super) fn new(type_url: &str) -> Self {
        Self {
            type_url: type_url.to_owned(),
            resource_type: ResourceType::from_type_url(type_url),
            subscription: Subscription::new(type_url),
            is_first: true,
            nonce: String::new(),
            previous_nonce: String::new(),
            unanswered: None,
            is_dirty: false,
            is_owed: false,
            is_overdue: false,
        }
    }

    /// Sorts by order of additions; types without an order come last.
    pub(super) fn order(&self) -> (bool, Option<ResourceType>, &str) {
        let unordered = self.resource_type.is_none();
        (unordered, self.resource_type, &self.type_url)
    }

    pub(super) fn resource_type(&self) -> Option<ResourceType> {
        self.resource_type
    }

    pub(super) fn is_ordered(&self) -> bool {
        self.resource_type.is_some()
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.unanswered.is_some()
    }

    pub(super) fn sent_at(&self) -> Option<Instant> {
        self.unanswered.as_ref().map(|u| u.sent_at)
    }

    pub(super) fn changes(&self, view: &dyn View) -> Changes {
        self.subscription.changes(view)
    }

    pub(super) fn has_additions(&self, view: &dyn View) -> bool {
        self.is_dirty && self.changes(view).adds()
    }

    pub(super) fn holds(&self, name: &str) -> bool {
        matches!(
            self.subscription.told.get(name),
            Some(Told::Entry(_) | Told::Version(_) | Told::Stale)
        )
    }

    /// Sends this again although the peer holds it.
    pub(super) fn repeat(&mut self, name: &str) {
        if self.holds(name) {
            self.subscription.told.remove(name);
            self.is_dirty = true;
        }
    }

    pub(super) fn handle_whole(
        &mut self,
        request: DiscoveryRequest,
        view: &dyn View,
        outputs: &mut Outputs,
    ) {
        let is_first = std::mem::replace(&mut self.is_first, false);
        let is_current = request.response_nonce == self.nonce;
        // Sent before the peer saw our last response. It is not answered, but its names count:
        // one that it drops here, and names again in its next request, must be sent again.
        let has_crossed = self.is_unanswered() && request.response_nonce == self.previous_nonce;
        if !is_first && !is_current && !has_crossed {
            return;
        }
        if is_current {
            self.conclude(request.error_detail, outputs);
        }
        let mut names = request.resource_names;
        names.extend(request.resource_locators.into_iter().map(|l| l.name));
        let replaced = self.subscription.replace(&names);
        if replaced.changed || is_first {
            self.report_names(outputs);
        }
        // A plain ACK must cost little: what was left to tell is still marked.
        self.is_dirty |= replaced.changed || is_first;
        let is_resumed = is_first
            && view.trusts_versions()
            && self.subscription.holds_already(&request.version_info, view);
        if is_resumed {
            self.report_ack(request.version_info, String::new(), outputs);
        } else if is_first || replaced.grew {
            self.is_owed = self.subscription.is_anything_wanted();
        }
    }

    pub(super) fn handle_delta(&mut self, request: DeltaDiscoveryRequest, outputs: &mut Outputs) {
        let is_first = std::mem::replace(&mut self.is_first, false);
        if !request.response_nonce.is_empty() && request.response_nonce == self.nonce {
            self.conclude(request.error_detail, outputs);
        }
        let mut subscribe = request.resource_names_subscribe;
        subscribe.extend(located(request.resource_locators_subscribe));
        let mut unsubscribe = request.resource_names_unsubscribe;
        unsubscribe.extend(located(request.resource_locators_unsubscribe));
        // Subscriptions count whatever the nonce.
        let replaced = self.subscription.change(
            is_first,
            self.unanswered.is_some(),
            &subscribe,
            &unsubscribe,
        );
        if is_first {
            self.subscription.brought(request.initial_resource_versions);
        }
        if replaced.changed {
            self.report_names(outputs);
        }
        self.is_dirty |= replaced.changed || is_first;
        self.is_owed |= replaced.grew;
    }

    /// The peer's verdict on the response being waited for.
    fn conclude(&mut self, error: Option<Status>, outputs: &mut Outputs) {
        let Some(unanswered) = self.unanswered.take() else {
            return;
        };
        self.subscription.settle();
        self.is_overdue = false;
        let (version, nonce) = (unanswered.version, self.nonce.clone());
        match error {
            None => self.report_ack(version, nonce, outputs),
            Some(status) => outputs.push_back(ServerOutput::Event(ServerEvent::Nack {
                type_url: self.type_url.clone(),
                version,
                nonce,
                message: status.message,
            })),
        }
    }

    /// New and changed resources; in a whole state also everything else the peer holds, what is
    /// about to go included.
    pub(super) fn send_additions(
        &mut self,
        changes: Changes,
        nonce: String,
        variant: Variant,
        now: Instant,
        view: &dyn View,
        outputs: &mut Outputs,
    ) {
        self.subscription.tell(&changes.upserts, &changes.missing);
        let errors = self.explain(&changes.missing, view);
        let is_whole = variant == Variant::StateOfTheWorld && self.subscription.is_full_state();
        let response = ServerResponse {
            type_url: self.type_url.clone(),
            version: self.version(variant, view),
            nonce,
            entries: if is_whole {
                self.subscription.held()
            } else {
                changes.upserts
            },
            removed: match variant {
                Variant::Delta => changes.missing,
                Variant::StateOfTheWorld => Vec::new(),
            },
            errors,
            variant,
        };
        self.is_owed = false;
        // State of the world owes its answer even to a wildcard over nothing, delta any answer.
        if variant == Variant::Delta || is_whole || says_something(&response) {
            self.send(response, now, view, outputs);
        }
    }

    /// What the peer holds and is gone.
    pub(super) fn send_removals(
        &mut self,
        nonce: String,
        variant: Variant,
        now: Instant,
        view: &dyn View,
        outputs: &mut Outputs,
    ) {
        let removed = self.changes(view).removed;
        let named = self.subscription.tell_removed(&removed);
        let is_whole = variant == Variant::StateOfTheWorld && self.subscription.is_full_state();
        let response = ServerResponse {
            type_url: self.type_url.clone(),
            version: self.version(variant, view),
            nonce,
            entries: if is_whole {
                self.subscription.held()
            } else {
                Vec::new()
            },
            removed: match variant {
                Variant::Delta => removed,
                Variant::StateOfTheWorld => Vec::new(),
            },
            errors: self.explain(&named, view),
            variant,
        };
        // Outside of whole states what is gone is only not sent any more.
        if is_whole || says_something(&response) {
            self.send(response, now, view, outputs);
        }
    }

    fn send(
        &mut self,
        response: ServerResponse,
        now: Instant,
        view: &dyn View,
        outputs: &mut Outputs,
    ) {
        self.previous_nonce = std::mem::replace(&mut self.nonce, response.nonce.clone());
        self.unanswered = Some(Unanswered {
            version: response.version.clone(),
            sent_at: now,
        });
        self.is_overdue = false;
        let event = ServerEvent::Sent {
            type_url: response.type_url.clone(),
            version: response.version.clone(),
            nonce: response.nonce.clone(),
            count: response.entries.len(),
            revision: view.revision(),
        };
        outputs.push_back(ServerOutput::Send(response));
        outputs.push_back(ServerOutput::Event(event));
    }

    fn version(&self, variant: Variant, view: &dyn View) -> String {
        match variant {
            Variant::StateOfTheWorld => self.subscription.version(),
            Variant::Delta => view.revision().to_string(),
        }
    }

    fn explain(&self, names: &[String], view: &dyn View) -> Vec<(String, Missing)> {
        let explain = |(index, name): (usize, &String)| {
            let missing = view.missing(&self.type_url, name, index < SUGGESTED)?;
            Some((name.clone(), missing))
        };
        names.iter().enumerate().filter_map(explain).collect()
    }

    fn report_ack(&self, version: String, nonce: String, outputs: &mut Outputs) {
        outputs.push_back(ServerOutput::Event(ServerEvent::Ack {
            type_url: self.type_url.clone(),
            version,
            nonce,
        }));
    }

    fn report_names(&self, outputs: &mut Outputs) {
        let names = &self.subscription.names;
        let star = names.wildcard.then(|| WILDCARD.to_owned());
        outputs.push_back(ServerOutput::Event(ServerEvent::Request {
            type_url: self.type_url.clone(),
            names: star
                .into_iter()
                .chain(names.named.iter().cloned())
                .collect(),
        }));
    }
}

fn says_something(response: &ServerResponse) -> bool {
    !response.entries.is_empty() || !response.errors.is_empty() || !response.removed.is_empty()
}

fn located(locators: Vec<crate::wire::discovery::ResourceLocator>) -> impl Iterator<Item = String> {
    locators.into_iter().map(|l| l.name)
}
