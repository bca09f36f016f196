//! Which other resources a resource mentions.
//!
//! Pure. Reads the wire form, not the validated one: native resources meant for proxies say more
//! than a gRPC client accepts, and their references must hold all the same.

use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::{Any, cluster, cluster_type::AggregateCluster, hcm, listener, route};

/// A name that another resource must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Of which type.
    pub resource_type: ResourceType,
    /// Its name.
    pub name: String,
}

/// What `any` mentions. Nothing for other types and for bytes that cannot be read: whoever
/// receives those will say so.
pub(crate) fn of(any: &Any) -> Vec<Reference> {
    match ResourceType::from_type_url(&any.type_url) {
        Some(ResourceType::Listener) => any.unpack().map(of_listener).unwrap_or_default(),
        Some(ResourceType::RouteConfiguration) => any
            .unpack()
            .map(|routes| of_routes(&routes))
            .unwrap_or_default(),
        Some(ResourceType::Cluster) => any.unpack().map(of_cluster).unwrap_or_default(),
        Some(ResourceType::EndpointAssignment) | None => Vec::new(),
    }
}

/// Whether `any` is a listener for channels.
pub(crate) fn is_api_listener(any: &Any) -> bool {
    any.unpack::<listener::Listener>()
        .is_ok_and(|listener| listener.api_listener.is_some())
}

fn of_listener(listener: listener::Listener) -> Vec<Reference> {
    let api = listener.api_listener.and_then(|api| api.api_listener);
    let chains = listener
        .filter_chains
        .into_iter()
        .chain(listener.default_filter_chain);
    let filters =
        chains
            .flat_map(|chain| chain.filters)
            .filter_map(|filter| match filter.config_type {
                Some(listener::filter::ConfigType::TypedConfig(any)) => Some(any),
                _ => None,
            });
    api.into_iter()
        .chain(filters)
        .filter_map(|any| any.unpack().ok())
        .flat_map(of_connection_manager)
        .collect()
}

fn of_connection_manager(manager: hcm::HttpConnectionManager) -> Vec<Reference> {
    use hcm::http_connection_manager::RouteSpecifier;
    match manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) => vec![Reference {
            resource_type: ResourceType::RouteConfiguration,
            name: rds.route_config_name,
        }],
        Some(RouteSpecifier::RouteConfig(routes)) => of_routes(&routes),
        Some(RouteSpecifier::ScopedRoutes(_)) | None => Vec::new(),
    }
}

fn of_routes(routes: &route::RouteConfiguration) -> Vec<Reference> {
    let mut names: Vec<&str> = routes
        .virtual_hosts
        .iter()
        .flat_map(|host| &host.routes)
        .flat_map(of_route)
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(to_cluster).collect()
}

fn of_route(route: &route::Route) -> Vec<&str> {
    use route::route_action::ClusterSpecifier;
    let Some(route::route::Action::Route(action)) = &route.action else {
        return Vec::new();
    };
    let mut names: Vec<&str> = match &action.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![name],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted.clusters.iter().map(|c| c.name.as_str()).collect()
        }
        _ => Vec::new(),
    };
    names.extend(
        action
            .request_mirror_policies
            .iter()
            .map(|mirror| mirror.cluster.as_str()),
    );
    // A cluster named by a header has no name here.
    names.retain(|name| !name.is_empty());
    names
}

fn of_cluster(cluster: cluster::Cluster) -> Vec<Reference> {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) if kind == DiscoveryType::Eds as i32 => {
            let service = cluster
                .eds_cluster_config
                .map(|eds| eds.service_name)
                .filter(|name| !name.is_empty());
            vec![Reference {
                resource_type: ResourceType::EndpointAssignment,
                name: service.unwrap_or(cluster.name),
            }]
        }
        Some(ClusterDiscoveryType::ClusterType(custom)) => custom
            .typed_config
            .and_then(|any| any.unpack::<AggregateCluster>().ok())
            .into_iter()
            .flat_map(|aggregate| aggregate.clusters)
            .map(|name| to_cluster(&name))
            .collect(),
        _ => Vec::new(),
    }
}

fn to_cluster(name: &str) -> Reference {
    Reference {
        resource_type: ResourceType::Cluster,
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{api_listener, assignment, cluster, routes, socket_listener};

    fn names(any: &Any) -> Vec<(ResourceType, String)> {
        of(any)
            .into_iter()
            .map(|r| (r.resource_type, r.name))
            .collect()
    }

    #[test]
    fn each_type_names_its_successor() {
        use ResourceType::{Cluster, EndpointAssignment, RouteConfiguration};
        let cases = [
            (api_listener("l", "r"), vec![(RouteConfiguration, "r")]),
            (
                socket_listener("l", 1, "r"),
                vec![(RouteConfiguration, "r")],
            ),
            (
                routes("r", &["b", "a", "b"]),
                vec![(Cluster, "a"), (Cluster, "b")],
            ),
            (cluster("c"), vec![(EndpointAssignment, "c")]),
            (assignment("c", &[]), vec![]),
        ];
        for (any, expected) in cases {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(t, n)| (t, n.to_owned()))
                .collect();
            assert_eq!(names(&any), expected, "{}", any.type_url);
        }
    }

    #[test]
    fn an_aggregate_names_its_members() {
        use cluster::cluster::{ClusterDiscoveryType, CustomClusterType};
        let any = Any::pack(&cluster::Cluster {
            name: "all".into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                name: String::new(),
                typed_config: Some(Any::pack(&AggregateCluster {
                    clusters: vec!["near".into(), "far".into()],
                })),
            })),
            ..Default::default()
        });
        assert_eq!(
            names(&any),
            [
                (ResourceType::Cluster, "near".to_owned()),
                (ResourceType::Cluster, "far".to_owned())
            ]
        );
    }

    #[test]
    fn only_channel_listeners_are_api_listeners() {
        assert!(is_api_listener(&api_listener("l", "r")));
        assert!(!is_api_listener(&socket_listener("l", 1, "r")));
        assert!(!is_api_listener(&cluster("c")));
    }
}
