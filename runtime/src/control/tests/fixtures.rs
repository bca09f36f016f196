//! Resources, and a handle with shortened timers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidestep_proto::bootstrap::Bootstrap;
use sidestep_proto::resource::{
    Address, Cluster, Endpoint, EndpointAssignment, FilterConfig, Forward, Health,
    HttpConnectionManager, HttpFilter, Labels, Listener, ListenerKind, Locality, LocalityEndpoints,
    PathMatcher, Resource, Route, RouteAction, RouteConfiguration, RouteMatch, RouteSource, Text,
    VirtualHost, WeightedCluster,
};

use super::super::{Config, Handle, Timers};
use super::plane::Plane;
use crate::security::CertificateProviders;
use crate::snapshot::{Snapshot, Target, TargetState};
use crate::subchannel::state::Backoff;

pub(super) fn bootstrap(servers: &[SocketAddr]) -> Bootstrap {
    let servers: Vec<_> = servers
        .iter()
        .map(|address| {
            serde_json::json!({
                "server_uri": address.to_string(),
                "channel_creds": [{"type": "insecure"}],
            })
        })
        .collect();
    let text = serde_json::json!({"xds_servers": servers, "node": {"id": "tester"}});
    Bootstrap::parse(&text.to_string()).expect("a valid bootstrap")
}

/// As in production, but impatient.
pub(super) fn config(plane: &Plane) -> Config {
    let providers = CertificateProviders::default();
    let mut config = Config::new(Some(bootstrap(&[plane.address])), providers);
    config.timers = Timers {
        connect_backoff: Backoff {
            first: Duration::from_millis(20),
            longest: Duration::from_millis(100),
        },
        publish_wait: Duration::from_millis(500),
        ..Timers::default()
    };
    config.timers.ads.does_not_exist = Duration::from_millis(300);
    config.timers.ads.backoff_initial = Duration::from_millis(20);
    config.timers.ads.backoff_max = Duration::from_millis(100);
    config
}

pub(super) fn handle(plane: &Plane) -> Handle {
    Handle::new(config(plane))
}

pub(super) fn http(routes: RouteSource) -> HttpConnectionManager {
    HttpConnectionManager {
        routes,
        max_stream_duration: None,
        filters: vec![HttpFilter {
            name: "router".into(),
            config: FilterConfig::Router,
        }],
    }
}

pub(in crate::control) fn listener(name: &str, routes: &str) -> Resource {
    Resource::Listener(Arc::new(Listener {
        name: name.into(),
        kind: ListenerKind::Api(http(RouteSource::Named(routes.into()))),
    }))
}

/// A route for each cluster, by path prefix `/CLUSTER`.
pub(in crate::control) fn routes(name: &str, clusters: &[&str]) -> Resource {
    let forward = |cluster: &str| Route {
        name: cluster.into(),
        matches: RouteMatch {
            path: PathMatcher::Prefix(Text::exact(format!("/{cluster}"))),
            headers: Vec::new(),
            fraction: None,
        },
        action: RouteAction::Forward(Forward {
            clusters: vec![WeightedCluster::new(cluster, 1)],
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            retry: None,
            hash_policies: Vec::new(),
        }),
    };
    Resource::RouteConfiguration(Arc::new(RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![VirtualHost {
            name: "all".into(),
            domains: vec!["*".into()],
            routes: clusters.iter().map(|c| forward(c)).collect(),
        }],
    }))
}

pub(in crate::control) fn cluster(name: &str) -> Resource {
    Resource::Cluster(Arc::new(plain_cluster(name)))
}

pub(in crate::control) fn plain_cluster(name: &str) -> Cluster {
    Cluster::eds(name)
}

pub(in crate::control) fn endpoints(cluster: &str, addresses: &[SocketAddr]) -> Resource {
    let endpoint = |address: &SocketAddr| Endpoint {
        addresses: vec![Address::Tcp(*address)],
        hostname: String::new(),
        weight: 1,
        health: Health::Healthy,
        hash_key: None,
        labels: Labels::default(),
    };
    Resource::EndpointAssignment(Arc::new(EndpointAssignment {
        cluster: cluster.into(),
        localities: vec![LocalityEndpoints {
            locality: Locality {
                region: "here".into(),
                ..Locality::default()
            },
            priority: 0,
            weight: 1,
            endpoints: addresses.iter().map(endpoint).collect(),
        }],
        drops: Vec::new(),
    }))
}

/// Waits for a state of the target that `pick` finds something in.
pub(super) async fn until<T>(
    what: &str,
    target: &Target,
    pick: impl Fn(&TargetState) -> Option<T>,
) -> T {
    super::in_time(what, async {
        loop {
            let seen = target.version();
            if let Some(found) = pick(&target.load()) {
                return found;
            }
            target.changed_since(seen).await;
        }
    })
    .await
}

/// Waits for a snapshot that names exactly these clusters.
pub(super) async fn until_names(target: &Target, names: &[&str]) {
    until("snapshot", target, |state| match state {
        TargetState::Ready(snapshot) => (cluster_names(snapshot) == names).then_some(()),
        _ => None,
    })
    .await;
}

pub(super) fn cluster_names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.clusters.iter().map(|c| &**c.name()).collect()
}

/// Waits for a failure and gives its text.
pub(super) async fn until_failed(target: &Target) -> String {
    until("failure", target, |state| match state {
        TargetState::Failed(failure) => Some(failure.0.to_string()),
        _ => None,
    })
    .await
}
