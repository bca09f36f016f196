//! Resources that the mesh file cannot say, as a control plane sends them.

use std::sync::Arc;

use sidestep_proto::codec;
use sidestep_proto::resource::{
    Address, CertificateInstance, Cluster, DownstreamTls, DropCategory, Endpoint,
    EndpointAssignment, FilterChain, FilterChainMatch, FilterConfig, Forward, Health,
    HttpConnectionManager, HttpFilter, Labels, LbPolicy, Listener, ListenerKind, Locality,
    LocalityEndpoints, PathMatcher, Resource, Route, RouteAction, RouteConfiguration, RouteMatch,
    RouteSource, ServerListener, Text, VirtualHost, WeightedCluster,
};
use sidestep_proto::wire::{self, Any};

/// A channel's listener whose routes have the name `routes`.
#[must_use]
pub fn listener(name: &str, routes: &str) -> Any {
    codec::encode(&Resource::Listener(Arc::new(Listener {
        name: name.to_owned(),
        kind: ListenerKind::Api(HttpConnectionManager {
            routes: RouteSource::Named(routes.to_owned()),
            max_stream_duration: None,
            filters: vec![HttpFilter {
                name: "router".to_owned(),
                config: FilterConfig::Router,
            }],
        }),
    })))
}

/// The Listener of a server at `address`, with the certificate provider `identity` and clients
/// that need no certificate, or in plaintext.
///
/// # Panics
/// If `address` is not `IP:port`.
#[must_use]
pub fn server_listener(address: &str, identity: Option<&str>) -> Any {
    let mut routes = route_configuration("inbound", &["unused"]);
    routes.virtual_hosts[0].routes[0].action = RouteAction::NonForwarding;
    listener_of(address, identity, routes)
}

/// The Listener of a server at `address`, in plaintext, with these routes.
///
/// # Panics
/// If `address` is not `IP:port`.
#[must_use]
pub fn server_listener_with(address: &str, routes: RouteConfiguration) -> Any {
    listener_of(address, None, routes)
}

fn listener_of(address: &str, identity: Option<&str>, routes: RouteConfiguration) -> Any {
    let tls = identity.map(|instance| DownstreamTls {
        identity: CertificateInstance {
            instance: instance.to_owned(),
            certificate_name: String::new(),
        },
        roots: None,
        require_client_certificate: false,
    });
    codec::encode(&Resource::Listener(Arc::new(Listener {
        name: format!("grpc/server?xds.resource.listening_address={address}"),
        kind: ListenerKind::Server(ServerListener {
            address: address.parse().expect("IP:port"),
            filter_chains: vec![FilterChain {
                name: "all".to_owned(),
                matches: FilterChainMatch::default(),
                tls,
                http: HttpConnectionManager {
                    routes: RouteSource::Inline(Arc::new(routes)),
                    max_stream_duration: None,
                    filters: vec![HttpFilter {
                        name: "router".to_owned(),
                        config: FilterConfig::Router,
                    }],
                },
            }],
            default_filter_chain: None,
        }),
    })))
}

/// Sends every call to `clusters`, by equal weights.
#[must_use]
pub fn routes(name: &str, clusters: &[&str]) -> Any {
    codec::encode(&Resource::RouteConfiguration(Arc::new(
        route_configuration(name, clusters),
    )))
}

/// [`routes`], not yet encoded.
#[must_use]
pub fn route_configuration(name: &str, clusters: &[&str]) -> RouteConfiguration {
    let clusters = clusters
        .iter()
        .map(|name| WeightedCluster::new((*name).to_owned(), 1));
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: String::new(),
                matches: RouteMatch {
                    path: PathMatcher::Prefix(Text::exact("")),
                    headers: Vec::new(),
                    fraction: None,
                },
                action: RouteAction::Forward(Forward {
                    clusters: clusters.collect(),
                    max_stream_duration: None,
                    grpc_timeout_header_max: None,
                    retry: None,
                    hash_policies: Vec::new(),
                }),
            }],
        }],
    }
}

/// A round-robin cluster whose endpoints have its own name.
#[must_use]
pub fn cluster(name: &str) -> Any {
    cluster_with(name, |_| {})
}

/// A cluster of this policy whose endpoints have its own name.
#[must_use]
pub fn cluster_by(name: &str, lb_policy: LbPolicy) -> Any {
    cluster_with(name, |cluster| cluster.lb_policy = lb_policy)
}

/// [`cluster`], changed.
#[must_use]
pub fn cluster_with(name: &str, change: impl FnOnce(&mut Cluster)) -> Any {
    let mut cluster = Cluster::eds(name);
    change(&mut cluster);
    codec::encode(&Resource::Cluster(Arc::new(cluster)))
}

/// The cluster with a further policy, for those who do not have the first.
///
/// # Panics
/// If `cluster` is none.
#[must_use]
pub fn with_next_policy(cluster: &Any, next: &LbPolicy) -> Any {
    let policies = |any: &Any| {
        let mut wire: wire::cluster::Cluster = any.unpack().expect("a cluster");
        let list = wire.load_balancing_policy.take();
        (wire, list.unwrap_or_default())
    };
    let (mut wire, mut list) = policies(cluster);
    let (_, next) = policies(&cluster_by("next", next.clone()));
    list.policies.extend(next.policies);
    wire.load_balancing_policy = Some(list);
    Any::pack(&wire)
}

/// Endpoints in one locality.
#[must_use]
pub fn endpoints(cluster: &str, addresses: &[&str]) -> Any {
    encode(cluster, vec![locality("", 0, 1, addresses)], &[])
}

/// Endpoints of several addresses each, in one locality.
///
/// # Panics
/// If an address is not `IP:port`.
#[must_use]
pub fn endpoints_of(cluster: &str, endpoints: &[&[&str]]) -> Any {
    let mut group = locality("", 0, 1, &[]);
    let several = |addresses: &&[&str]| {
        let addresses = addresses.iter();
        let addresses = addresses.map(|a| Address::Tcp(a.parse().expect("IP:port")));
        Endpoint {
            addresses: addresses.collect(),
            ..endpoint("127.0.0.1:1")
        }
    };
    group.endpoints = endpoints.iter().map(several).collect();
    encode(cluster, vec![group], &[])
}

/// One endpoint in each locality, as `(priority, weight of the locality, address)`, and shares of
/// calls to drop.
#[must_use]
pub fn assignment(cluster: &str, localities: &[(u32, u32, &str)], drops: &[DropCategory]) -> Any {
    let localities = localities.iter().enumerate();
    let localities = localities.map(|(at, (priority, weight, address))| {
        locality(&format!("zone-{at}"), *priority, *weight, &[address])
    });
    encode(cluster, localities.collect(), drops)
}

/// Endpoints in these localities.
#[must_use]
pub fn localities(cluster: &str, localities: Vec<LocalityEndpoints>) -> Any {
    encode(cluster, localities, &[])
}

fn encode(cluster: &str, localities: Vec<LocalityEndpoints>, drops: &[DropCategory]) -> Any {
    codec::encode(&Resource::EndpointAssignment(Arc::new(
        EndpointAssignment {
            cluster: cluster.to_owned(),
            localities,
            drops: drops.to_vec(),
        },
    )))
}

/// The endpoints of a zone, of unknown health.
#[must_use]
pub fn locality(zone: &str, priority: u32, weight: u32, addresses: &[&str]) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        },
        priority,
        weight,
        endpoints: addresses.iter().map(|address| endpoint(address)).collect(),
    }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![Address::Tcp(address.parse().expect("IP:port"))],
        hostname: String::new(),
        weight: 1,
        health: Health::Unknown,
        hash_key: None,
        labels: Labels::default(),
    }
}

/// Everything for a client of `name`: one cluster of that name with these endpoints.
#[must_use]
pub fn service(name: &str, endpoints: Any) -> [Any; 4] {
    [
        listener(name, name),
        routes(name, &[name]),
        cluster(name),
        endpoints,
    ]
}
