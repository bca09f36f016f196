//! Clusters and their endpoints.

use std::collections::BTreeSet;

use sidestep_proto::resource::{
    CertificateInstance, Cluster, Endpoint, EndpointAssignment, Health, LbPolicy, Locality,
    LocalityEndpoints, PeakEwma, SelectorFallback, SessionHosts, SlowStart, StringMatcher,
    SubsetFallback, SubsetSelector, Subsets, Text, UpstreamTls, WeightedRoundRobin, ZoneAware,
};

use super::listener::has_sessions;
use super::{CERTIFICATE_INSTANCE, ResolvedEndpoint};
use crate::model::{Mesh, Mtls, Place, Policy, Service, Settings};

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
        lb_policy: subsets(
            service,
            match lb_policy(&service.settings) {
                LbPolicy::WrrLocality(inside) if service.settings.prefer_local => {
                    LbPolicy::ZoneAware(Box::new(ZoneAware::new(*inside)))
                }
                policy => policy,
            },
        ),
        tls: upstream_tls(mesh, service),
        max_requests: service.settings.max_outstanding_per_client,
        outlier_detection: service.settings.outlier_detection.clone(),
        sessions: SessionHosts {
            // A draining endpoint is there for its sessions.
            draining: has_sessions(service),
            ..SessionHosts::default()
        },
        ..Cluster::eds(name)
    }
}

/// The subsets that the service's routes ask for, and the policy inside of each. Calls of routes
/// that ask for nothing go to any endpoint.
fn subsets(service: &Service, policy: LbPolicy) -> LbPolicy {
    let asked = service.routes.iter().map(|route| &route.subset);
    let keys = asked.map(|labels| labels.iter().map(|(key, _)| key.into()).collect());
    let mut keys: Vec<BTreeSet<Box<str>>> =
        keys.filter(|keys: &BTreeSet<_>| !keys.is_empty()).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return policy;
    }
    let fallback = match service.subset_falls_back {
        true => SubsetFallback::Any,
        false => SubsetFallback::Nowhere,
    };
    let selectors = keys.into_iter().map(|keys| SubsetSelector {
        keys,
        fallback: Some(SelectorFallback::To(fallback)),
        single_endpoint: false,
    });
    // The weight of a zone is that of all its endpoints, so it is cut where only some are in.
    let weighted = matches!(policy, LbPolicy::WrrLocality(_));
    LbPolicy::Subsets(Box::new(Subsets {
        fallback: SubsetFallback::Any,
        scale_locality_weight: weighted,
        ..Subsets::new(policy, selectors.collect())
    }))
}

fn lb_policy(settings: &Settings) -> LbPolicy {
    let growth = settings.slow_start.map(SlowStart::over);
    let policy = match settings.policy {
        Policy::RoundRobin => LbPolicy::RoundRobin.with_slow_start(growth).by_locality(),
        Policy::LeastRequest => LbPolicy::LeastRequest { choice_count: 2 }
            .with_slow_start(growth)
            .by_locality(),
        // Otherwise every client would use the first endpoint of the list.
        Policy::PickFirst => LbPolicy::PickFirst { shuffle: true },
        Policy::Random => LbPolicy::Random.by_locality(),
        Policy::RingHash => LbPolicy::RingHash {
            min_ring_size: 1024,
            max_ring_size: 8 << 20,
        },
        Policy::Maglev => LbPolicy::Maglev { table_size: 65_537 },
        Policy::WeightedRoundRobin => LbPolicy::WeightedRoundRobin(WeightedRoundRobin::default())
            .with_slow_start(growth)
            .by_locality(),
        Policy::PeakEwma => LbPolicy::PeakEwma(PeakEwma::default()).by_locality(),
    };
    match settings.subset_size {
        None => policy,
        Some(size) => LbPolicy::RandomSubset {
            size,
            child: Box::new(policy),
        },
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

/// The endpoints of a version, or all, by priority and by zone in the order in which zones first
/// appear. The weight of a zone is the sum of its endpoints' weights, so that every endpoint gets
/// its share of all calls whatever its zone.
pub(super) fn endpoints(
    all: &[ResolvedEndpoint],
    cluster: String,
    version: Option<&str>,
) -> EndpointAssignment {
    let mut localities: Vec<LocalityEndpoints> = Vec::new();
    let mut index = std::collections::HashMap::new();
    let of_version = |e: &&ResolvedEndpoint| version.is_none() || e.version.as_deref() == version;
    for found in all.iter().filter(of_version) {
        let zone = found.zone.as_deref().unwrap_or_default();
        let at = *index.entry((found.priority, zone)).or_insert_with(|| {
            localities.push(locality(zone, found.priority));
            localities.len() - 1
        });
        localities[at].weight += found.weight;
        localities[at].endpoints.push(Endpoint {
            addresses: vec![found.address.clone()],
            hostname: String::new(),
            weight: found.weight,
            health: Health::Unknown,
            hash_key: None,
            labels: found.labels.clone(),
        });
    }
    without_gaps(&mut localities);
    EndpointAssignment {
        cluster,
        localities,
        drops: Vec::new(),
    }
}

/// Priorities that no endpoint of this version has must not be missing (gRFC A27 refuses gaps).
fn without_gaps(localities: &mut [LocalityEndpoints]) {
    let mut used: Vec<u32> = localities.iter().map(|l| l.priority).collect();
    used.sort_unstable();
    used.dedup();
    for locality in localities {
        let rank = used.partition_point(|priority| *priority < locality.priority);
        locality.priority = u32::try_from(rank).unwrap_or(u32::MAX);
    }
}

fn locality(zone: &str, priority: u32) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        },
        priority,
        weight: 0,
        endpoints: Vec::new(),
    }
}
