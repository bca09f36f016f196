//! What is held of one resource type, whichever servers it came from.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};

use super::subscription::{Announce, Held, Subscription};
use super::{Event, Known, Output, ResourceError};
use crate::codec::Ignored;
use crate::resource::ResourceType;
use crate::wire::Any;

/// One resource type.
#[derive(Debug)]
pub(super) struct Cache {
    pub(super) resource_type: ResourceType,
    /// Boxed: the nodes of the map are half empty where there are many.
    names: BTreeMap<String, Box<Subscription>>,
    /// Where state of the world finds the name of bytes it already holds, without decoding. A
    /// collision only costs a decode: the bytes are compared.
    by_content: HashMap<u64, String>,
    hasher: RandomState,
}

impl Cache {
    pub(super) fn new(resource_type: ResourceType) -> Self {
        Self {
            resource_type,
            names: BTreeMap::new(),
            by_content: HashMap::new(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Subscription> {
        self.names.get(name).map(Box::as_ref)
    }

    /// Returns whether the name was not subscribed.
    pub(super) fn subscribe(
        &mut self,
        name: &str,
        authority: Option<usize>,
        announce: &mut Announce<'_>,
    ) -> bool {
        if let Some(subscription) = self.names.get_mut(name) {
            let revived = !subscription.wanted;
            if revived {
                subscription.revive(name, announce);
            }
            return revived;
        }
        let subscription = Subscription {
            wanted: true,
            authority,
            ..Subscription::default()
        };
        self.names.insert(name.to_owned(), Box::new(subscription));
        true
    }

    /// Returns whether it was subscribed.
    pub(super) fn unsubscribe(&mut self, name: &str) -> bool {
        let subscription = self.names.get_mut(name);
        subscription.is_some_and(|s| std::mem::replace(&mut s.wanted, false))
    }

    /// Whether somebody wants it.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.get(name).is_some_and(|s| s.wanted)
    }

    /// Whether there is content of it.
    pub(super) fn is_held(&self, name: &str) -> bool {
        self.get(name).is_some_and(|s| s.held.is_some())
    }

    /// Whether something that this authority answers for is not known.
    pub(super) fn has_gaps(&self, authority: usize) -> bool {
        let mut names = self.names.values();
        names.any(|s| s.authority == Some(authority) && s.is_gap())
    }

    /// Every wanted name of this authority.
    pub(super) fn names_of(&self, authority: usize) -> Vec<String> {
        let names = self.names.iter();
        let of = names.filter(|(_, s)| s.wanted && s.authority == Some(authority));
        of.map(|(name, _)| name.clone()).collect()
    }

    /// The name whose content these bytes are.
    pub(super) fn name_of(&self, any: &Any) -> Option<(&String, &Subscription)> {
        let name = self.by_content.get(&self.hasher.hash_one(any))?;
        let (name, subscription) = self.names.get_key_value(name)?;
        Some((name, subscription))
    }

    /// Known to be as it is held.
    pub(super) fn confirm(
        &mut self,
        name: &str,
        server: usize,
        version: Option<String>,
        announce: &mut Announce<'_>,
    ) {
        let Some(subscription) = self.names.get_mut(name) else {
            return;
        };
        if let Some(held) = &mut subscription.held {
            let same = std::mem::replace(&mut held.server, server) == server;
            match version {
                Some(version) => held.version = version,
                // A heartbeat of another server says nothing of its version.
                None if !same => held.version.clear(),
                None => {}
            }
        }
        subscription.good(name, None, announce);
    }

    /// There is new content.
    pub(super) fn hold(
        &mut self,
        name: &str,
        held: Held,
        ignored: Vec<Ignored>,
        announce: &mut Announce<'_>,
    ) {
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

    /// The server says that there is none.
    pub(super) fn remove(&mut self, name: &str, announce: &mut Announce<'_>) {
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

    /// Something is wrong with it.
    pub(super) fn fail(
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
        let wanted = self.names.iter().filter(|(_, s)| s.wanted);
        wanted.map(|(name, subscription)| Known {
            resource_type: self.resource_type,
            name,
            server: subscription.held.as_ref().map(|held| held.server),
            content: subscription.held.as_ref().map(|held| &held.raw),
            version: subscription.accepted.as_ref().map_or("", |a| &a.version),
            updated: subscription.accepted.as_ref().map(|a| a.at),
            error: subscription.error.as_ref(),
            failed: subscription.failed.as_ref(),
        })
    }

    /// Nobody wants it and no server thinks so.
    pub(super) fn forget(&mut self, name: &str) {
        let subscription = self.names.remove(name);
        if let Some(held) = subscription.and_then(|subscription| subscription.held) {
            self.by_content.remove(&self.hasher.hash_one(&held.raw));
        }
    }
}
