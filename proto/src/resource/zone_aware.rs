//! Calls that stay in the caller's zone.

use super::{LbPolicy, PerMillion};

/// The caller's zone first, other zones for what that one cannot carry, and a policy inside of
/// each locality.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ZoneAware {
    /// Inside of each locality.
    pub policy: LbPolicy,
    /// The share of the calls that it holds for; the others go by the localities' weights.
    /// Default: all.
    pub share: PerMillion,
    /// With fewer endpoints in a priority, all calls go by the localities' weights. Default 6.
    pub min_endpoints: u32,
}

impl ZoneAware {
    /// Envoy's default of `min_cluster_size`.
    pub const DEFAULT_MIN_ENDPOINTS: u32 = 6;

    /// For all calls, however few endpoints there are.
    #[must_use]
    pub fn new(policy: LbPolicy) -> Self {
        Self {
            policy,
            share: PerMillion::ALL,
            min_endpoints: 1,
        }
    }
}
