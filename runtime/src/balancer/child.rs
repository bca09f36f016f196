//! A policy inside of another one.

use std::fmt::{self, Debug};
use std::sync::Arc;

use super::{Action, Actions, Connectivity, LoadBalancer, Picker, Standing, SubchannelId};

/// A balancer, with its picker for as long as nothing has changed.
pub(super) struct Child {
    balancer: Box<dyn LoadBalancer>,
    picker: Option<Arc<dyn Picker>>,
}

impl Child {
    pub(super) fn new(balancer: Box<dyn LoadBalancer>) -> Self {
        Self {
            balancer,
            picker: None,
        }
    }

    /// Runs one step: what the child wants of its connections is passed on, and whether the child
    /// has changed is the answer.
    pub(super) fn step(
        &mut self,
        out: &mut Actions,
        step: impl FnOnce(&mut dyn LoadBalancer, &mut Actions),
    ) -> bool {
        let mut actions = Actions::new();
        step(&mut *self.balancer, &mut actions);
        let mut changed = false;
        for action in actions {
            match action {
                Action::Changed => changed = true,
                other => out.push(other),
            }
        }
        if changed {
            self.picker = None;
        }
        changed
    }

    /// The child, to ask it.
    pub(super) fn balancer(&self) -> &dyn LoadBalancer {
        &*self.balancer
    }

    /// Its state.
    pub(super) fn connectivity(&self) -> Connectivity {
        self.balancer.connectivity()
    }

    /// What it knows of an endpoint.
    pub(super) fn standing(&self, id: SubchannelId) -> Standing {
        self.balancer.standing(id)
    }

    /// Its picker is to be made anew: what it goes by has changed outside of it.
    pub(super) fn renew(&mut self) {
        self.picker = None;
    }

    /// Its picker: the same one until the child changes.
    pub(super) fn picker(&mut self) -> Arc<dyn Picker> {
        let picker = self.picker.get_or_insert_with(|| self.balancer.picker());
        Arc::clone(picker)
    }
}

impl Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("connectivity", &self.connectivity())
            .finish_non_exhaustive()
    }
}
