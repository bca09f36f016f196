//! What a policy knows of one endpoint: for people who ask why calls go where they go.

use std::sync::Arc;
use std::time::Instant;

/// How an endpoint stands with a policy at this moment.
///
/// The default says: nothing but what everybody knows. A policy sets what it decides itself
/// (`..Standing::default()` for the rest); one around others adds to what the one inside says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    /// It is kept out for what its calls did.
    pub ejected: Option<Ejected>,
    /// Relative to the other endpoints that it is weighed against, where the policy has found out
    /// itself; `None`: as configured.
    pub weight: Option<f64>,
    /// The share of the calls that its locality gets, from 0 to 1, where a choice among localities
    /// is made.
    pub locality_share: Option<f64>,
    /// Why it gets no calls although nothing may be wrong with it, such as "priority 0 is in use".
    pub passed_over: Option<Arc<str>>,
}

/// An endpoint that is kept out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ejected {
    /// What it did, such as "5 calls in a row failed".
    pub reason: Arc<str>,
    /// When it is let in again.
    pub until: Instant,
}
