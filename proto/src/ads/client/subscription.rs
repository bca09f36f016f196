//! One subscribed name: what is held of it and what is wrong with it, whoever said so.

use std::collections::VecDeque;
use std::time::Instant;

use super::{Event, Output, ResourceError};
use crate::resource::{Resource, ResourceType};
use crate::wire::Any;

/// The last good content.
#[derive(Debug)]
pub(super) struct Held {
    /// As it arrived, for comparing before decoding.
    pub(super) raw: Any,
    /// Who said it last.
    pub(super) server: usize,
    /// Delta only: that server's name for this content.
    pub(super) version: String,
    /// What it means.
    pub(super) resource: Resource,
}

/// An update that could not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedUpdate {
    /// Of the response that brought it; empty if there was none.
    pub version: String,
    /// When.
    pub at: Instant,
    /// What was refused, as it arrived, if it arrived.
    pub raw: Option<Any>,
}

/// Which update brought the content.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The server's name for the newest response, or resource, that had this content.
    pub(super) version: String,
    /// When the content was new.
    pub(super) at: Instant,
}

/// One name.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// False between `unsubscribe` and the request that says so. Until then the server keeps the
    /// content current, so a new subscription may have it.
    pub(super) wanted: bool,
    /// Who answers for it; `None`: nobody, and `error` says why.
    pub(super) authority: Option<usize>,
    pub(super) held: Option<Held>,
    pub(super) error: Option<ResourceError>,
    /// There as long as something is held.
    pub(super) accepted: Option<Accepted>,
    /// There as long as something is wrong.
    pub(super) failed: Option<FailedUpdate>,
}

/// Where events of one type go.
pub(super) struct Announce<'a> {
    pub(super) resource_type: ResourceType,
    pub(super) fail_on_data_errors: bool,
    pub(super) now: Instant,
    /// Of the response that is taken in; empty outside of one.
    pub(super) version: String,
    pub(super) out: &'a mut VecDeque<Output>,
}

impl Announce<'_> {
    fn push(&mut self, wanted: bool, event: Event) {
        if wanted {
            self.out.push_back(Output::Event(event));
        }
    }
}

impl Subscription {
    /// Whether nothing is known of it, for good or ill: a server that could tell is worth a try.
    pub(super) fn is_gap(&self) -> bool {
        let has_verdict = self
            .error
            .as_ref()
            .is_some_and(ResourceError::is_data_error);
        self.wanted && self.held.is_none() && !has_verdict
    }

    /// A good version of it has come. `new` is `None` where the bytes are those already held.
    pub(super) fn good(&mut self, name: &str, new: Option<Held>, announce: &mut Announce<'_>) {
        self.accept(new.as_ref(), announce);
        // Only an ambient error can be over; any other ends with the resource itself.
        if self.error.take().is_some() && self.held.is_some() {
            let cleared = Event::Cleared {
                resource_type: announce.resource_type,
                name: name.to_owned(),
            };
            announce.push(self.wanted, cleared);
        }
        let Some(new) = new else { return };
        let changed = self
            .held
            .as_ref()
            .is_none_or(|held| held.resource != new.resource);
        if changed {
            announce.push(self.wanted, Event::Resource(new.resource.clone()));
        }
        self.held = Some(new);
    }

    /// Something is wrong with it.
    pub(super) fn bad(
        &mut self,
        name: &str,
        error: ResourceError,
        raw: Option<Any>,
        announce: &mut Announce<'_>,
    ) {
        self.failed = Some(FailedUpdate {
            version: announce.version.clone(),
            at: announce.now,
            raw,
        });
        let was_held = self.held.is_some();
        if error.is_data_error() && announce.fail_on_data_errors {
            self.held = None;
            self.accepted = None;
        }
        if self.error.as_ref() == Some(&error) && self.held.is_some() == was_held {
            return;
        }
        self.error = Some(error.clone());
        let event = Event::Error {
            resource_type: announce.resource_type,
            name: name.to_owned(),
            error,
            cached: self.held.is_some(),
        };
        announce.push(self.wanted, event);
    }

    /// Notes by which update the content is known to be current.
    fn accept(&mut self, new: Option<&Held>, announce: &Announce<'_>) {
        self.failed = None;
        let Some(content) = new.or(self.held.as_ref()) else {
            return;
        };
        let version = match content.version.as_str() {
            "" => announce.version.clone(),
            own => own.to_owned(),
        };
        let kept = self.accepted.take().filter(|_| new.is_none());
        self.accepted = Some(Accepted {
            version,
            at: kept.map_or(announce.now, |kept| kept.at),
        });
    }

    /// Wanted again before the server heard otherwise: say what is known.
    pub(super) fn revive(&mut self, name: &str, announce: &mut Announce<'_>) {
        self.wanted = true;
        if let Some(held) = &self.held {
            announce.push(true, Event::Resource(held.resource.clone()));
        }
        if let Some(error) = &self.error {
            let event = Event::Error {
                resource_type: announce.resource_type,
                name: name.to_owned(),
                error: error.clone(),
                cached: self.held.is_some(),
            };
            announce.push(true, event);
        }
    }
}
