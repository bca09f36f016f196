//! What one peer wants of one type, what it was told, and the difference to a view.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::view::{Entry, View};
use crate::ads::message::WILDCARD;
use crate::resource::ResourceType;

/// The names a peer asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Everything (LDS and CDS only).
    pub(super) wildcard: bool,
    pub(super) named: BTreeSet<String>,
    /// Once a name was sent, an empty list means none and no longer everything.
    ever_named: bool,
}

/// The last word the peer has about a name.
#[derive(Debug, Clone)]
pub(super) enum Told {
    /// It holds this, sent on this stream.
    Entry(Arc<Entry>),
    /// It says that it brought this version along (delta).
    Version(String),
    /// It may hold some version and has asked to be told again.
    Stale,
    /// It knows that there is none.
    Missing,
}

/// What the peer has to learn of one type.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// New or changed.
    pub(super) upserts: Vec<Arc<Entry>>,
    /// Asked for by name, never there.
    pub(super) missing: Vec<String>,
    /// Held, and gone.
    pub(super) removed: Vec<String>,
}

impl Changes {
    pub(super) fn adds(&self) -> bool {
        !self.upserts.is_empty() || !self.missing.is_empty()
    }
}

/// One type's subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    type_url: String,
    is_full_state: bool,
    pub(super) names: Names,
    pub(super) told: BTreeMap<String, Told>,
    /// Some names are told, stale and not wanted.
    has_doubts: bool,
}

impl Told {
    fn is_current(&self, entry: &Entry) -> bool {
        match self {
            Self::Entry(told) => told.version == entry.version,
            Self::Version(version) => *version == entry.version,
            Self::Stale | Self::Missing => false,
        }
    }

    fn is_held(&self) -> bool {
        !matches!(self, Self::Missing)
    }
}

impl Subscription {
    pub(super) fn new(type_url: &str) -> Self {
        Self {
            type_url: type_url.to_owned(),
            is_full_state: ResourceType::from_type_url(type_url)
                .is_some_and(ResourceType::is_full_state),
            names: Names::default(),
            told: BTreeMap::new(),
            has_doubts: false,
        }
    }

    /// Whether a state-of-the-world response carries everything (LDS and CDS).
    pub(super) fn is_full_state(&self) -> bool {
        self.is_full_state
    }

    /// State of the world: this list replaces the last one. Returns whether it grew and whether
    /// it changed.
    pub(super) fn replace(&mut self, list: &[String]) -> Replaced {
        let may_be_wildcard = self.is_full_state;
        let is_star = |name: &&String| may_be_wildcard && *name == WILDCARD;
        let wildcard = list.iter().any(|name| is_star(&name))
            || (may_be_wildcard && list.is_empty() && !self.names.ever_named);
        let named: BTreeSet<String> = list.iter().filter(|n| !is_star(n)).cloned().collect();
        let added: Vec<String> = named.difference(&self.names.named).cloned().collect();
        let replaced = Replaced {
            grew: !added.is_empty() || (wildcard && !self.names.wildcard),
            changed: named != self.names.named || wildcard != self.names.wildcard,
        };
        self.names = Names {
            wildcard,
            named,
            ever_named: self.names.ever_named || !list.is_empty(),
        };
        // A newly named resource must be sent even if it went out before uninvited.
        for name in &added {
            self.told.remove(name);
        }
        self.forget_unwanted();
        replaced
    }

    /// Delta: applies differences. Returns whether something is owed for them. `is_unanswered`: a
    /// response is on its way that the peer may take for one to its newest wishes.
    pub(super) fn change(
        &mut self,
        is_first: bool,
        is_unanswered: bool,
        subscribe: &[String],
        unsubscribe: &[String],
    ) -> Replaced {
        let mut replaced = Replaced::default();
        if is_first && subscribe.is_empty() && self.is_full_state {
            self.names.wildcard = true;
            replaced = Replaced::ALL;
        }
        for name in subscribe {
            replaced = Replaced::ALL;
            if self.is_full_state && name == WILDCARD {
                self.names.wildcard = true;
            } else {
                self.names.named.insert(name.clone());
                // Asked again means: send again, even if it is held.
                self.told.remove(name);
            }
        }
        for name in unsubscribe {
            replaced.changed = true;
            if self.is_full_state && name == WILDCARD {
                self.names.wildcard = false;
            } else if self.names.named.remove(name) {
                // What the wildcard still covers has to be answered for.
                replaced.grew |= self.names.wildcard;
                self.told.insert(name.clone(), Told::Stale);
            }
        }
        if is_unanswered {
            self.doubt_unwanted();
        } else {
            self.forget_unwanted();
        }
        replaced
    }

    /// Delta: what the peer brought along from its last stream.
    pub(super) fn brought(&mut self, versions: BTreeMap<String, String>) {
        for (name, version) in versions {
            if self.wants(&name) {
                self.told.insert(name, Told::Version(version));
            }
        }
    }

    /// State of the world: if the peer's version says that it holds all of the current state,
    /// notes that and returns true.
    pub(super) fn holds_already(&mut self, version: &str, view: &dyn View) -> bool {
        let changes = self.changes(view);
        let is_complete = changes.missing.is_empty() && changes.removed.is_empty();
        if version.is_empty() || !is_complete {
            return false;
        }
        let told = changes.upserts.into_iter().map(|e| (e.name.clone(), e));
        let told: BTreeMap<_, _> = told.map(|(name, e)| (name, Told::Entry(e))).collect();
        if version_of(&told) != version {
            return false;
        }
        self.told = told;
        true
    }

    /// What the peer has to learn.
    pub(super) fn changes(&self, view: &dyn View) -> Changes {
        let mut changes = Changes::default();
        if self.names.wildcard {
            for entry in view.entries(&self.type_url) {
                self.note(entry, &mut changes);
            }
        }
        for name in &self.names.named {
            match view.entry(&self.type_url, name) {
                // The wildcard had it.
                Some(_) if self.names.wildcard => {}
                Some(entry) => self.note(entry, &mut changes),
                None if !self.told.contains_key(name) => changes.missing.push(name.clone()),
                None => {}
            }
        }
        changes.removed = self
            .told
            .iter()
            .filter(|(name, told)| told.is_held() && view.entry(&self.type_url, name).is_none())
            .map(|(name, _)| name.clone())
            .collect();
        changes
    }

    fn note(&self, entry: &Arc<Entry>, changes: &mut Changes) {
        let told = self.told.get(&entry.name);
        if !told.is_some_and(|told| told.is_current(entry)) {
            changes.upserts.push(Arc::clone(entry));
        }
    }

    /// The peer is being told these.
    pub(super) fn tell(&mut self, upserts: &[Arc<Entry>], missing: &[String]) {
        for entry in upserts {
            self.told
                .insert(entry.name.clone(), Told::Entry(Arc::clone(entry)));
        }
        for name in missing {
            self.told.insert(name.clone(), Told::Missing);
        }
    }

    /// The peer is being told that these are gone. Returns those asked for by name.
    pub(super) fn tell_removed(&mut self, removed: &[String]) -> Vec<String> {
        let mut named = Vec::new();
        for name in removed {
            self.told.remove(name);
            if self.names.named.contains(name) {
                self.told.insert(name.clone(), Told::Missing);
                named.push(name.clone());
            }
        }
        named
    }

    /// Everything the peer holds after what it was told: a whole state.
    pub(super) fn held(&self) -> Vec<Arc<Entry>> {
        self.told
            .values()
            .filter_map(|told| match told {
                Told::Entry(entry) => Some(Arc::clone(entry)),
                _ => None,
            })
            .collect()
    }

    /// Names the state that the peer holds, by content.
    pub(super) fn version(&self) -> String {
        version_of(&self.told)
    }

    /// Whether any name, or everything, is asked for.
    pub(super) fn is_anything_wanted(&self) -> bool {
        self.names.wildcard || !self.names.named.is_empty()
    }

    fn wants(&self, name: &str) -> bool {
        self.names.wildcard || self.names.named.contains(name)
    }

    /// The peer has answered everything: what it does not want it does not have.
    pub(super) fn settle(&mut self) {
        if self.has_doubts {
            self.forget_unwanted();
        }
    }

    /// The peer may yet get these from the response on its way, and want them again by then.
    fn doubt_unwanted(&mut self) {
        if self.names.wildcard {
            return;
        }
        for (name, told) in &mut self.told {
            if !self.names.named.contains(name) {
                *told = Told::Stale;
                self.has_doubts = true;
            }
        }
    }

    fn forget_unwanted(&mut self) {
        self.has_doubts = false;
        if !self.names.wildcard {
            let named = &self.names.named;
            self.told.retain(|name, _| named.contains(name));
        }
    }
}

/// What a request did to the names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Replaced {
    /// Something has to be answered.
    pub(super) grew: bool,
    /// They are not what they were.
    pub(super) changed: bool,
}

impl Replaced {
    const ALL: Self = Self {
        grew: true,
        changed: true,
    };
}

/// A hash over names and versions of what is held. FNV-1a, because it has to be the same in every
/// process: a peer may show the version to another replica.
fn version_of(told: &BTreeMap<String, Told>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for (name, told) in told {
        if let Told::Entry(entry) = told {
            add(name.as_bytes());
            add(entry.version.as_bytes());
        }
    }
    format!("{hash:016x}")
}
