//! Clusters and their endpoints.

use sidestep_proto::resource::{
    CertificateInstance, Cluster, Discovery, Endpoint, EndpointAssignment, Health, LbPolicy,
    Locality, LocalityEndpoints, StringMatcher, Text, UpstreamTls,
};

use super::CERTIFICATE_INSTANCE;
use crate::model::{Mesh, Mtls, Place, Policy, Service};

/// The sets of endpoints of a service that have a cluster of their own: cluster name, version,
/// and where the set is named.
pub(super) fn sets(service: &Service) -> Vec<(String, Option<&str>, &Place)> {
    let all = (service.name.clone(), None, &service.place);
    let versions = service.versions.iter().map(|(name, version)| {
        let version_name = Some(version.value.as_str());
        (version_cluster(service, name), version_name, &version.place)
    });
    std::iter::once(all).chain(versions).collect()
}

/// The cluster of a name in `versions`. Service names have no slash, so it is never a service's.
pub(super) fn version_cluster(service: &Service, name: &str) -> String {
    format!("{}/{name}", service.name)
}

pub(super) fn cluster(mesh: &Mesh, service: &Service, name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        discovery: Discovery::Eds {
            service_name: name.to_owned(),
        },
        lb_policy: match service.settings.policy {
            Policy::RoundRobin => LbPolicy::RoundRobin,
            Policy::LeastRequest => LbPolicy::LeastRequest { choice_count: 2 },
            // Otherwise every client would use the first endpoint of the list.
            Policy::PickFirst => LbPolicy::PickFirst { shuffle: true },
        },
        tls: upstream_tls(mesh, service),
        max_requests: service.settings.max_outstanding_per_client,
    }
}

/// Meshed callers of a permissive service use mutual TLS too: its plaintext way in is for callers
/// that are not in the mesh yet.
fn upstream_tls(mesh: &Mesh, service: &Service) -> Option<UpstreamTls> {
    if service.settings.mtls == Mtls::Off {
        return None;
    }
    let id = mesh
        .spiffe_id(service)
        .expect("the parser demands a trust domain wherever `mtls` is on");
    Some(UpstreamTls {
        roots: instance(),
        identity: Some(instance()),
        sans: vec![StringMatcher::Exact(Text::exact(id))],
    })
}

pub(super) fn instance() -> CertificateInstance {
    CertificateInstance {
        instance: CERTIFICATE_INSTANCE.to_owned(),
        certificate_name: String::new(),
    }
}

/// The endpoints of a version, or all, by zone in the order in which zones first appear. The
/// weight of a zone is the sum of its endpoints' weights, so that every endpoint gets its share
/// of all calls whatever its zone.
pub(super) fn endpoints(
    service: &Service,
    cluster: String,
    version: Option<&str>,
) -> EndpointAssignment {
    let mut localities: Vec<LocalityEndpoints> = Vec::new();
    let mut index = std::collections::HashMap::new();
    let of_version =
        |e: &&crate::model::Endpoint| version.is_none() || e.version.as_deref() == version;
    for written in service.endpoints().iter().filter(of_version) {
        let zone = written.zone.as_deref().unwrap_or_default();
        let at = *index.entry(zone).or_insert_with(|| {
            localities.push(locality(zone));
            localities.len() - 1
        });
        localities[at].weight += written.weight;
        localities[at].endpoints.push(Endpoint {
            addresses: vec![written.address.clone()],
            hostname: String::new(),
            weight: written.weight,
            health: Health::Unknown,
        });
    }
    EndpointAssignment {
        cluster,
        localities,
        drops: Vec::new(),
    }
}

fn locality(zone: &str) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        },
        priority: 0,
        weight: 0,
        endpoints: Vec::new(),
    }
}
