//! Routes of a service.

use std::time::Duration;

use sidestep_proto::resource::{
    FilterConfig, Forward, HashPolicy, HashSource, PathMatcher, RetryPolicy, Route, RouteAction,
    RouteConfiguration, RouteMatch, Text, VirtualHost, WeightedCluster,
};

use super::cluster::version_cluster;
use super::listener::SESSIONS;
use crate::model::{self, Destination, MethodMatch, Service};

/// gRFC A44's default delay before the first retry.
const BASE_INTERVAL: Duration = Duration::from_millis(25);
/// gRFC A44's default bound of the delay.
const MAX_INTERVAL: Duration = Duration::from_millis(250);

/// The routes of a service under its own name. The one virtual host takes every authority: the
/// configuration belongs to one service, so the name that was dialled has already decided.
pub(super) fn route_configuration(service: &Service) -> RouteConfiguration {
    let mut routes: Vec<Route> = service.routes.iter().map(|r| route(service, r)).collect();
    if routes.is_empty() {
        routes.push(Route {
            name: String::new(),
            matches: everything(),
            action: RouteAction::Forward(Forward {
                clusters: vec![whole(service)],
                max_stream_duration: service.settings.timeout.limit(),
                grpc_timeout_header_max: None,
                retry: None,
                hash_policies: hash_policies(service),
            }),
        });
    }
    RouteConfiguration {
        name: service.name.clone(),
        virtual_hosts: vec![VirtualHost {
            name: service.name.clone(),
            domains: vec!["*".to_owned()],
            routes,
        }],
    }
}

/// A match that takes every call. Its form, an empty prefix, is the one that all gRPC clients know.
pub(super) fn everything() -> RouteMatch {
    RouteMatch {
        path: PathMatcher::Prefix(Text::exact("")),
        headers: Vec::new(),
        fraction: None,
    }
}

fn hash_policies(service: &Service) -> Vec<HashPolicy> {
    let header = service.settings.hash_header.iter();
    let by = header.map(|name| HashPolicy {
        source: HashSource::Header {
            name: name.clone(),
            rewrite: None,
        },
        terminal: false,
    });
    by.collect()
}

fn whole(service: &Service) -> WeightedCluster {
    WeightedCluster::new(service.name.clone(), 1)
}

fn route(service: &Service, route: &model::Route) -> Route {
    let timeout = route.timeout.unwrap_or(service.settings.timeout);
    Route {
        name: route.name.clone(),
        matches: RouteMatch {
            path: path(route.method.as_ref()),
            headers: route.headers.clone(),
            fraction: None,
        },
        action: RouteAction::Forward(Forward {
            clusters: clusters(service, route),
            max_stream_duration: timeout.limit(),
            grpc_timeout_header_max: None,
            retry: route.retry.map(|retry| RetryPolicy {
                on: retry.on,
                max_attempts: retry.max_attempts,
                base_interval: BASE_INTERVAL,
                max_interval: MAX_INTERVAL,
            }),
            hash_policies: hash_policies(service),
        }),
    }
}

fn path(method: Option<&MethodMatch>) -> PathMatcher {
    match method {
        None => everything().path,
        Some(MethodMatch::Exact(method)) => PathMatcher::Exact(Text::exact(format!("/{method}"))),
        Some(MethodMatch::Service(service)) => {
            PathMatcher::Prefix(Text::exact(format!("/{service}/")))
        }
    }
}

fn clusters(service: &Service, route: &model::Route) -> Vec<WeightedCluster> {
    let mut clusters = match &route.to {
        Destination::All => vec![whole(service)],
        Destination::Versions(shares) => shares
            .iter()
            .map(|(name, weight)| WeightedCluster::new(version_cluster(service, name), *weight))
            .collect(),
    };
    for cluster in &mut clusters {
        cluster.subset = route.subset.clone();
    }
    if let Some(own) = route
        .session
        .as_ref()
        .filter(|own| **own != service.session)
    {
        for cluster in &mut clusters {
            let own = FilterConfig::StatefulSession(own.clone());
            cluster.overrides.insert(SESSIONS.to_owned(), own);
        }
    }
    clusters
}
