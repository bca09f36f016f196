//! What is known of each source, and what of it is used.
//!
//! `SourceState::record` is the rule: a list is replaced only by a list that is not empty.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use sidestep_proto::code::{self, Code};
use tokio::sync::watch;

use super::{Look, SourceId};
use crate::compile::{ResolvedEndpoint, ResolvedEndpoints};

/// What is known of a source.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// The list in use.
    pub endpoints: Arc<[ResolvedEndpoint]>,
    /// When the source told this list last: its age.
    pub told_at: Option<SystemTime>,
    /// What was wrong with the newest look, if anything was. The list is then an older one.
    pub error: Option<String>,
    /// The code of `error`.
    pub code: Option<Code>,
    /// The services that use it.
    pub services: Vec<String>,
    /// Whether it has been looked at.
    pub looked: bool,
}

impl SourceState {
    /// Takes what a look at `now` gave. An empty list is a list at first; later it is taken for a
    /// fault, for endpoints do not all go at once unless something is wrong.
    fn record(&mut self, now: SystemTime, look: Look) {
        self.looked = true;
        match look {
            Ok(list) if list.is_empty() && !self.endpoints.is_empty() => {
                let kept = self.endpoints.len();
                self.error = Some(format!(
                    "the list is suddenly empty; the last one, of {kept}, stays in use"
                ));
                self.code = Some(code::SOURCE_CONTENT);
            }
            Ok(list) => {
                if *self.endpoints != *list {
                    self.endpoints = list.into();
                }
                self.told_at = Some(now);
                self.error = None;
                self.code = None;
            }
            Err(error) => {
                self.error = Some(error.to_string());
                self.code = Some(error.code());
            }
        }
    }
}

/// Everything that is known of all sources. Clones are the same board.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<watch::Sender<BTreeMap<SourceId, SourceState>>>);

impl Board {
    /// The sources in use, and what is known of each.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<SourceId, SourceState> {
        self.0.borrow().clone()
    }

    /// Follows them.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<BTreeMap<SourceId, SourceState>> {
        self.0.subscribe()
    }

    /// Adds a source of which nothing is known yet.
    pub(crate) fn open(&self, id: &SourceId) {
        self.0.send_modify(|sources| {
            sources.entry(id.clone()).or_default();
        });
    }

    /// Takes what a look at a source gave. What is new about its failing, or not failing any more,
    /// is logged.
    pub(crate) fn record(&self, id: &SourceId, now: SystemTime, look: Look) {
        self.0.send_modify(|sources| {
            let Some(state) = sources.get_mut(id) else {
                return;
            };
            let before = state.error.clone();
            state.record(now, look);
            let code = state.code.unwrap_or(code::SOURCE_UNREACHABLE);
            match (&before, &state.error) {
                (before, Some(error)) if before.as_ref() != Some(error) => tracing::warn!(
                    target: "sidestep_server::source",
                    %code, source = %id, %error, endpoints_kept = state.endpoints.len(),
                    "an endpoint source fails"
                ),
                (Some(_), None) => tracing::info!(
                    target: "sidestep_server::source",
                    source = %id, endpoints = state.endpoints.len(),
                    "an endpoint source is well again"
                ),
                _ => {}
            }
        });
    }

    /// Notes who uses which source, and forgets those that nobody uses.
    pub(crate) fn keep(&self, used: &BTreeMap<SourceId, Vec<String>>) {
        self.0.send_modify(|sources| {
            sources.retain(|id, _| used.contains_key(id));
            for (id, services) in used {
                sources.entry(id.clone()).or_default().services = services.clone();
            }
        });
    }

    /// The lists of these sources, as they are now.
    pub(crate) fn resolved<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a SourceId>,
    ) -> ResolvedEndpoints {
        let sources = self.0.borrow();
        let mut resolved = ResolvedEndpoints::default();
        for id in ids {
            if let Some(state) = sources.get(id) {
                resolved.insert(id.clone(), Arc::clone(&state.endpoints));
            }
        }
        resolved
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use sidestep_proto::resource::{Address, Labels};

    use super::super::LookError;
    use super::*;

    fn list(ports: &[u16]) -> Vec<ResolvedEndpoint> {
        let endpoint = |port: &u16| ResolvedEndpoint {
            priority: 0,
            zone: None,
            address: Address::Tcp(([127, 0, 0, 1], *port).into()),
            version: None,
            labels: Labels::default(),
            weight: 1,
        };
        ports.iter().map(endpoint).collect()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn failed() -> Result<Vec<ResolvedEndpoint>, LookError> {
        Err(LookError::NoSuchName {
            name: "x".to_owned(),
        })
    }

    #[test]
    fn a_list_is_kept_when_the_source_fails_or_is_suddenly_empty() {
        let mut state = SourceState::default();
        state.record(at(1), Ok(list(&[1, 2])));
        assert_eq!((state.endpoints.len(), state.told_at), (2, Some(at(1))));

        state.record(at(2), failed());
        assert_eq!((state.endpoints.len(), state.told_at), (2, Some(at(1))));
        assert_eq!(state.error.as_deref(), Some("the name x does not exist"));

        state.record(at(3), Ok(Vec::new()));
        assert_eq!((state.endpoints.len(), state.told_at), (2, Some(at(1))));
        assert!(state.error.as_ref().is_some_and(|e| e.contains("empty")));

        state.record(at(4), Ok(list(&[3])));
        assert_eq!((state.endpoints.len(), state.told_at), (1, Some(at(4))));
        assert_eq!(state.error, None);
    }

    #[test]
    fn an_unchanged_list_is_the_same_object_but_younger() {
        let mut state = SourceState::default();
        state.record(at(1), Ok(list(&[1])));
        let first = Arc::clone(&state.endpoints);
        state.record(at(9), Ok(list(&[1])));
        assert!(Arc::ptr_eq(&first, &state.endpoints));
        assert_eq!(state.told_at, Some(at(9)));
    }

    #[test]
    fn a_first_list_may_be_empty() {
        let mut state = SourceState::default();
        state.record(at(1), Ok(Vec::new()));
        assert_eq!((state.told_at, state.error), (Some(at(1)), None));
    }

    #[test]
    fn who_is_not_used_is_forgotten() {
        let board = Board::default();
        let id = |locator: &str| SourceId {
            kind: "dns",
            locator: locator.to_owned(),
        };
        board.open(&id("a"));
        board.open(&id("b"));
        board.record(&id("a"), at(1), Ok(list(&[1])));
        board.keep(&BTreeMap::from([(id("a"), vec!["s".to_owned()])]));
        board.record(&id("b"), at(2), Ok(list(&[1])));
        let sources = board.sources();
        assert_eq!(sources.keys().collect::<Vec<_>>(), [&id("a")]);
        assert_eq!(sources[&id("a")].services, ["s"]);
        assert_eq!(sources[&id("a")].endpoints.len(), 1);
    }
}
