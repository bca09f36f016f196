//! What a filter chain's routes may come to.

use sidestep_proto::resource::{
    PathMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, Text, VirtualHost,
};

use crate::balancer::Failure;
use crate::control::RoutesState;
use crate::routing::{ClusterIndex, RouteTable};

/// Every call goes to its handler.
pub(super) fn everything() -> RoutesState {
    ready("*", vec![route("", RouteAction::NonForwarding)])
}

/// No call has a route.
pub(super) fn nothing() -> RoutesState {
    ready("*", Vec::new())
}

/// No virtual host takes the tests' authority.
pub(super) fn another_host() -> RoutesState {
    ready("other.test", vec![route("", RouteAction::NonForwarding)])
}

/// Only one method has a route.
pub(super) fn only(path: &str) -> RoutesState {
    ready("echo.test", vec![route(path, RouteAction::NonForwarding)])
}

/// Routes with an action that is not a server's.
pub(super) fn not_for_servers() -> RoutesState {
    ready("*", vec![route("", RouteAction::Unsupported)])
}

/// The RouteConfiguration is missing or invalid.
pub(super) fn failed() -> RoutesState {
    RoutesState::Failed(Failure::new(
        sidestep_proto::code::RESOURCE_NOT_FOUND,
        "secret detail",
    ))
}

fn route(prefix: &str, action: RouteAction) -> Route {
    Route {
        name: String::new(),
        matches: RouteMatch {
            path: PathMatcher::Prefix(Text::exact(prefix)),
            headers: Vec::new(),
            fraction: None,
        },
        action,
    }
}

fn ready(domain: &str, routes: Vec<Route>) -> RoutesState {
    let config = RouteConfiguration {
        name: "routes".into(),
        virtual_hosts: vec![VirtualHost {
            name: String::new(),
            domains: vec![domain.into()],
            routes,
        }],
    };
    RoutesState::Ready(RouteTable::compile(&config, |_| ClusterIndex(0), None))
}
