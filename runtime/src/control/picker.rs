//! The pickers of clusters that have no policy (yet).

use crate::balancer::{Call, Failure, Pick, Picker};

/// Nothing is known yet: every call waits.
#[derive(Debug)]
pub(super) struct QueueAll;

impl Picker for QueueAll {
    fn pick<'a>(&'a self, _call: &Call<'_>) -> Pick<'a> {
        Pick::Queue
    }
}

/// The cluster cannot be used, and why.
#[derive(Debug)]
pub(super) struct FailAll(pub(super) Failure);

impl Picker for FailAll {
    fn pick<'a>(&'a self, _call: &Call<'_>) -> Pick<'a> {
        Pick::Fail(&self.0)
    }
}
