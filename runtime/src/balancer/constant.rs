//! Pickers with one answer.

use super::{Call, Failure, Pick, Picker, SubchannelId};

/// Every call waits for the next picker.
#[derive(Debug, Clone, Copy)]
pub struct Queueing;

impl Picker for Queueing {
    fn pick<'a>(&'a self, _: &Call<'_>) -> Pick<'a> {
        Pick::Queue
    }
}

/// Every call fails, unless it waits for ready.
#[derive(Debug, Clone)]
pub struct Failing(pub Failure);

impl Picker for Failing {
    fn pick<'a>(&'a self, _: &Call<'_>) -> Pick<'a> {
        Pick::Fail(&self.0)
    }
}

/// Every call goes to one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Always(pub(super) SubchannelId);

impl Picker for Always {
    fn pick<'a>(&'a self, _: &Call<'_>) -> Pick<'a> {
        Pick::Ready(self.0)
    }
}

/// Calls wait, and the first one has an endpoint connected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wakes(pub(crate) SubchannelId);

impl Picker for Wakes {
    fn pick<'a>(&'a self, _: &Call<'_>) -> Pick<'a> {
        Pick::Connect(self.0)
    }
}
