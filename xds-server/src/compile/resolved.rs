//! Endpoints as the compiler takes them, whatever told them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidestep_proto::resource::{Address, Labels};

use crate::model;
use crate::source::endpoints::SourceId;

/// One endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResolvedEndpoint {
    /// 0 is used first; the next one when all endpoints before it are down (EDS priority).
    pub priority: u32,
    /// Its zone, if told.
    pub zone: Option<String>,
    /// Where it listens.
    pub address: Address,
    /// What it runs, if told.
    pub version: Option<String>,
    /// What routes may ask for.
    pub labels: Labels,
    /// Relative to the service's other endpoints; at least 1.
    pub weight: u32,
}

impl From<&model::Endpoint> for ResolvedEndpoint {
    fn from(written: &model::Endpoint) -> Self {
        Self {
            priority: 0,
            zone: written.zone.clone(),
            address: written.address.clone(),
            version: written.version.clone(),
            labels: written.labels.clone(),
            weight: written.weight,
        }
    }
}

/// What the living sources of a mesh have told, as of one moment.
#[derive(Debug, Clone, Default)]
pub struct ResolvedEndpoints(BTreeMap<SourceId, Arc<[ResolvedEndpoint]>>);

impl ResolvedEndpoints {
    /// What this source has told; `None` if nothing yet.
    #[must_use]
    pub fn of(&self, source: &SourceId) -> Option<&[ResolvedEndpoint]> {
        self.0.get(source).map(|list| &**list)
    }

    /// Adds what a source has told.
    pub fn insert(&mut self, source: SourceId, endpoints: Arc<[ResolvedEndpoint]>) {
        self.0.insert(source, endpoints);
    }
}

impl PartialEq for ResolvedEndpoints {
    /// Lists that nothing has touched are the same object, however long they are.
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &Arc<[_]>, b: &Arc<[_]>| Arc::ptr_eq(a, b) || a == b;
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|((id, a), (other_id, b))| id == other_id && same(a, b))
    }
}
