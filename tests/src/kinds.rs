//! Clusters of kinds that the mesh file does not have: made of names, or of other clusters.

use std::sync::Arc;

use sidestep_proto::codec;
use sidestep_proto::resource::{
    Cluster, Discovery, DnsLookup, HashPolicy, HashSource, Health, Labels, LbPolicy, Locality,
    NamedEndpoint, NamedLocality, Resource, RouteAction, RouteConfiguration,
};
use sidestep_proto::wire::Any;

/// A round-robin cluster whose addresses are those of `host`, together one endpoint.
#[must_use]
pub fn logical_dns(name: &str, host: &str, port: u16, lookup: DnsLookup) -> Any {
    let host = host.to_owned();
    encode(Cluster::new(
        name,
        Discovery::LogicalDns {
            host,
            port,
            lookup,
            labels: Labels::default(),
        },
    ))
}

/// A round-robin cluster whose addresses are those of these hosts, each an endpoint.
#[must_use]
pub fn strict_dns(name: &str, hosts: &[&str], port: u16, lookup: DnsLookup) -> Any {
    let endpoints = hosts.iter().map(|host| NamedEndpoint {
        host: (*host).to_owned(),
        port,
        weight: 1,
        health: Health::Unknown,
        labels: Labels::default(),
    });
    let localities = vec![NamedLocality {
        locality: Locality::default(),
        priority: 0,
        weight: 1,
        endpoints: endpoints.collect(),
    }];
    encode(Cluster::new(
        name,
        Discovery::StrictDns { localities, lookup },
    ))
}

/// An aggregate of these clusters, most preferred first.
#[must_use]
pub fn aggregate(name: &str, clusters: &[&str]) -> Any {
    let clusters = clusters.iter().map(|name| (*name).to_owned()).collect();
    encode(Cluster::new(name, Discovery::Aggregate { clusters }))
}

/// An EDS cluster with a policy and a limit of its own.
#[must_use]
pub fn limited(name: &str, lb_policy: LbPolicy, max_requests: u32) -> Any {
    encode(Cluster {
        lb_policy,
        max_requests,
        ..Cluster::eds(name)
    })
}

fn encode(cluster: Cluster) -> Any {
    codec::encode(&Resource::Cluster(Arc::new(cluster)))
}

/// The routes, with every call hashed by a header, in lower case.
#[must_use]
pub fn hashed(mut routes: RouteConfiguration, header: &str) -> Any {
    let hosts = routes.virtual_hosts.iter_mut();
    for route in hosts.flat_map(|host| &mut host.routes) {
        if let RouteAction::Forward(forward) = &mut route.action {
            forward.hash_policies = vec![HashPolicy {
                source: HashSource::Header {
                    name: header.to_owned(),
                    rewrite: None,
                },
                terminal: false,
            }];
        }
    }
    codec::encode(&Resource::RouteConfiguration(Arc::new(routes)))
}
