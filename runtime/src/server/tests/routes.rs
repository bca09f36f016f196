//! Route tables for the tests.

use super::super::provisional::{Route, RouteTable, RoutesState};
use crate::balancer::Failure;
use crate::routing::Action;

pub(super) fn everything() -> RoutesState {
    RoutesState::Ready(RouteTable(vec![(
        "/".into(),
        Route {
            action: Action::NonForwarding,
        },
    )]))
}

pub(super) fn nothing() -> RoutesState {
    RoutesState::Ready(RouteTable(vec![]))
}

pub(super) fn forwarding() -> RoutesState {
    RoutesState::Ready(RouteTable(vec![(
        "/".into(),
        Route {
            action: Action::Unsupported,
        },
    )]))
}

pub(super) fn failed() -> RoutesState {
    RoutesState::Failed(Failure("secret detail".into()))
}
