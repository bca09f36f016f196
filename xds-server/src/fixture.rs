//! Resources for tests, as small as clients accept them.

use sidestep_proto::wire::{Any, cluster, core, endpoint, hcm, http_filter, listener, route};

fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

fn socket_address(ip: &str, port: u16) -> core::Address {
    core::Address {
        address: Some(core::address::Address::SocketAddress(core::SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
                port,
            ))),
            ..Default::default()
        })),
    }
}

fn connection_manager(routes: &str) -> Any {
    use hcm::http_connection_manager::RouteSpecifier;
    Any::pack(&hcm::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        http_filters: vec![hcm::HttpFilter {
            name: "router".to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(Any::pack(
                &http_filter::Router::default(),
            ))),
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// A channel's listener with routes by name.
pub(crate) fn api_listener(name: &str, routes: &str) -> Any {
    Any::pack(&listener::Listener {
        name: name.to_owned(),
        api_listener: Some(listener::ApiListener {
            api_listener: Some(connection_manager(routes)),
        }),
        ..Default::default()
    })
}

/// A socket's listener with routes by name.
pub(crate) fn socket_listener(name: &str, port: u16, routes: &str) -> Any {
    Any::pack(&listener::Listener {
        name: name.to_owned(),
        address: Some(socket_address("127.0.0.1", port)),
        filter_chains: vec![listener::FilterChain {
            filters: vec![listener::Filter {
                name: "http".to_owned(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(
                    connection_manager(routes),
                )),
            }],
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// One host for all authorities, one route for each cluster.
pub(crate) fn routes(name: &str, clusters: &[&str]) -> Any {
    let routes = clusters
        .iter()
        .map(|cluster| route::Route {
            r#match: Some(route::RouteMatch {
                path_specifier: Some(route::route_match::PathSpecifier::Prefix(String::new())),
                ..Default::default()
            }),
            action: Some(route::route::Action::Route(route::RouteAction {
                cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                    (*cluster).to_owned(),
                )),
                ..Default::default()
            })),
            ..Default::default()
        })
        .collect();
    Any::pack(&route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..Default::default()
        }],
        ..Default::default()
    })
}

/// An EDS cluster whose endpoints have its own name.
pub(crate) fn cluster(name: &str) -> Any {
    use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
    Any::pack(&cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        ..Default::default()
    })
}

/// Endpoints in one locality.
pub(crate) fn assignment(cluster: &str, addresses: &[&str]) -> Any {
    let lb_endpoints = addresses
        .iter()
        .map(|address| {
            let (ip, port) = address.rsplit_once(':').expect("ip:port");
            let port = port.parse().expect("a port");
            endpoint::LbEndpoint {
                host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
                    endpoint::Endpoint {
                        address: Some(socket_address(ip, port)),
                        ..Default::default()
                    },
                )),
                ..Default::default()
            }
        })
        .collect();
    Any::pack(&endpoint::ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![endpoint::LocalityLbEndpoints {
            locality: Some(core::Locality::default()),
            load_balancing_weight: Some(1),
            lb_endpoints,
            ..Default::default()
        }],
        ..Default::default()
    })
}
