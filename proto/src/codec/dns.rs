//! Clusters whose endpoints are host names: `LOGICAL_DNS` (gRFC A37) and Envoy's `STRICT_DNS`.

use std::time::Duration;

use super::at::{At, Result, wire_duration};
use super::endpoint_assignment::{decode_health, encode_health};
use super::{Reason, labels};
use crate::resource::{
    AddressFamilies, Discovery, DnsLookup, Health, Labels, Locality, NamedEndpoint, NamedLocality,
};
use crate::wire::cluster::{Cluster, cluster::DnsLookupFamily};
use crate::wire::core::{self, SocketAddress, address::Address, socket_address::PortSpecifier};
use crate::wire::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

/// One name: exactly one endpoint in exactly one locality.
pub(super) fn decode_logical(at: &At<'_>, wire: &Cluster) -> Result<Discovery> {
    let lookup = decode_lookup(at, wire);
    let at = at.field("load_assignment");
    let assignment = at.required(wire.load_assignment.as_ref())?;
    let [locality] = assignment.endpoints.as_slice() else {
        return Err(at.field("endpoints").rule("must be exactly one locality"));
    };
    let at = at.item("endpoints", 0);
    let [endpoint] = locality.lb_endpoints.as_slice() else {
        return Err(at
            .field("lb_endpoints")
            .rule("must be exactly one endpoint"));
    };
    let (host, port) = decode_host(&at.item("lb_endpoints", 0), endpoint)?;
    Ok(Discovery::LogicalDns {
        host,
        port,
        lookup,
        labels: labels::of_endpoint(endpoint.metadata.clone()).1,
    })
}

/// Any number of names in any number of localities.
pub(super) fn decode_strict(at: &At<'_>, wire: &Cluster) -> Result<Discovery> {
    let lookup = decode_lookup(at, wire);
    let at = at.field("load_assignment");
    let assignment = at.required(wire.load_assignment.as_ref())?;
    at.ignore(
        "policy",
        assignment.policy.is_some(),
        "names have no drops and no panic rules",
    );
    let localities = assignment.endpoints.iter().enumerate();
    let localities = localities.map(|(i, locality)| {
        let at = at.item("endpoints", i);
        let endpoints = locality.lb_endpoints.iter().enumerate();
        let endpoints = endpoints.map(|(i, wire)| decode_named(&at.item("lb_endpoints", i), wire));
        let name = locality.locality.clone().unwrap_or_default();
        Ok(NamedLocality {
            locality: Locality {
                region: name.region,
                zone: name.zone,
                sub_zone: name.sub_zone,
            },
            priority: locality.priority,
            weight: locality.load_balancing_weight.unwrap_or(1).max(1),
            endpoints: endpoints.collect::<Result<_>>()?,
        })
    });
    Ok(Discovery::StrictDns {
        localities: localities.collect::<Result<_>>()?,
        lookup,
    })
}

fn decode_named(at: &At<'_>, wire: &LbEndpoint) -> Result<NamedEndpoint> {
    let weight = wire.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return Err(at
            .field("load_balancing_weight")
            .out_of_range(0, "at least 1"));
    }
    let (host, port) = decode_host(at, wire)?;
    Ok(NamedEndpoint {
        host,
        port,
        weight,
        health: decode_health(&at.field("health_status"), wire.health_status),
        labels: labels::of_endpoint(wire.metadata.clone()).1,
    })
}

fn decode_host(at: &At<'_>, wire: &LbEndpoint) -> Result<(String, u16)> {
    let at = at.field("endpoint");
    let Some(HostIdentifier::Endpoint(endpoint)) = &wire.host_identifier else {
        return Err(at.fault(Reason::Missing));
    };
    at.ignore(
        "additional_addresses",
        !endpoint.additional_addresses.is_empty(),
        "all addresses come from the one name",
    );
    let at = at.field("address");
    let address = endpoint.address.as_ref().and_then(|a| a.address.as_ref());
    let Some(Address::SocketAddress(socket)) = address else {
        return Err(at.field("socket_address").fault(Reason::Missing));
    };
    decode_socket(&at.field("socket_address"), socket)
}

fn decode_socket(at: &At<'_>, wire: &SocketAddress) -> Result<(String, u16)> {
    at.refuse("resolver_name", !wire.resolver_name.is_empty())?;
    let host = at.field("address").text(wire.address.clone())?;
    let at = at.field("port_value");
    let port = match &wire.port_specifier {
        Some(PortSpecifier::PortValue(port)) => at.port(*port)?,
        _ => 0,
    };
    if port == 0 {
        return Err(at.out_of_range(port, "a port from 1 to 65535"));
    }
    Ok((host, port))
}

/// gRPC looks at none of these fields, so nothing in them is a reason to refuse the cluster.
fn decode_lookup(at: &At<'_>, wire: &Cluster) -> DnsLookup {
    at.ignore(
        "dns_jitter",
        wire.dns_jitter.is_some(),
        "names are looked up when their records have run out",
    );
    at.ignore(
        "dns_failure_refresh_rate",
        wire.dns_failure_refresh_rate.is_some(),
        "failed look-ups have the process's own backoff",
    );
    let own_resolver = !wire.dns_resolvers.is_empty() || wire.use_tcp_for_dns_lookups;
    at.ignore(
        "dns_resolvers",
        own_resolver,
        "names are looked up by the process's own resolver",
    );
    at.ignore(
        "typed_dns_resolver_config",
        wire.typed_dns_resolver_config.is_some(),
        "names are looked up by the process's own resolver",
    );
    let default = DnsLookup::default();
    DnsLookup {
        refresh: decode_refresh(&at.field("dns_refresh_rate"), wire).unwrap_or(default.refresh),
        families: match DnsLookupFamily::try_from(wire.dns_lookup_family) {
            Ok(DnsLookupFamily::V4Only) => AddressFamilies::V4Only,
            Ok(DnsLookupFamily::V6Only) => AddressFamilies::V6Only,
            Ok(DnsLookupFamily::V4Preferred) => AddressFamilies::V4Preferred,
            // Envoy's AUTO would leave the IPv4 addresses out where there are others; gRPC races
            // them.
            _ => AddressFamilies::All,
        },
    }
}

fn decode_refresh(at: &At<'_>, wire: &Cluster) -> Option<Duration> {
    let wire = wire.dns_refresh_rate?;
    let refresh = at.duration(wire).ok().filter(|rate| !rate.is_zero());
    if refresh.is_none() {
        at.note("not a time; names have the default of 5 s");
    }
    refresh
}

pub(super) fn encode_lookup(lookup: DnsLookup, wire: &mut Cluster) {
    let default = DnsLookup::default();
    wire.dns_refresh_rate =
        (lookup.refresh != default.refresh).then(|| wire_duration(lookup.refresh));
    wire.dns_lookup_family = match lookup.families {
        AddressFamilies::All => DnsLookupFamily::All,
        AddressFamilies::V4Only => DnsLookupFamily::V4Only,
        AddressFamilies::V6Only => DnsLookupFamily::V6Only,
        AddressFamilies::V4Preferred => DnsLookupFamily::V4Preferred,
    } as i32;
    // What is done in any case; Envoy has to be told.
    wire.respect_dns_ttl = true;
}

/// The assignment of a cluster with one name.
pub(super) fn encode_host(
    cluster: &str,
    host: &str,
    port: u16,
    labels: &Labels,
) -> ClusterLoadAssignment {
    let endpoint = NamedEndpoint {
        host: host.to_owned(),
        port,
        weight: 1,
        health: Health::Unknown,
        labels: labels.clone(),
    };
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![encode_named(&endpoint)],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The assignment of a cluster with several.
pub(super) fn encode_localities(
    cluster: &str,
    localities: &[NamedLocality],
) -> ClusterLoadAssignment {
    let localities = localities.iter().map(|named| LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: named.locality.region.clone(),
            zone: named.locality.zone.clone(),
            sub_zone: named.locality.sub_zone.clone(),
        }),
        lb_endpoints: named.endpoints.iter().map(encode_named).collect(),
        load_balancing_weight: Some(named.weight),
        priority: named.priority,
        ..Default::default()
    });
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: localities.collect(),
        ..Default::default()
    }
}

fn encode_named(named: &NamedEndpoint) -> LbEndpoint {
    let socket = SocketAddress {
        address: named.host.clone(),
        port_specifier: Some(PortSpecifier::PortValue(named.port.into())),
        ..Default::default()
    };
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(core::Address {
                address: Some(Address::SocketAddress(socket)),
            }),
            ..Default::default()
        })),
        health_status: encode_health(named.health) as i32,
        load_balancing_weight: (named.weight != 1).then_some(named.weight),
        metadata: labels::to_endpoint(None, &named.labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::tests::{check, ignored, read};
    use crate::resource::{Resource, ResourceType};
    use crate::wire::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};

    const TYPE: ResourceType = ResourceType::Cluster;

    fn base(kind: DiscoveryType) -> Cluster {
        Cluster {
            name: "a".into(),
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
            load_assignment: Some(encode_host("a", "example.com", 443, &Labels::default())),
            ..Default::default()
        }
    }

    fn decoded(wire: &Cluster) -> Discovery {
        match read(TYPE, wire).expect("is valid") {
            Resource::Cluster(cluster) => cluster.discovery.clone(),
            other => panic!("not a cluster: {other:?}"),
        }
    }

    fn lookup(wire: &Cluster) -> DnsLookup {
        match decoded(wire) {
            Discovery::LogicalDns { lookup, .. } | Discovery::StrictDns { lookup, .. } => lookup,
            other => panic!("not by name: {other:?}"),
        }
    }

    fn endpoints(wire: &mut Cluster) -> &mut Vec<LbEndpoint> {
        let assignment = wire.load_assignment.as_mut().expect("base has it");
        &mut assignment.endpoints[0].lb_endpoints
    }

    #[test]
    fn strict_dns_takes_any_number_of_names_and_addresses() {
        let more = |wire: &mut Cluster| {
            let again = endpoints(wire)[0].clone();
            endpoints(wire).push(again);
        };
        check(
            TYPE,
            &base(DiscoveryType::StrictDns),
            &[
                ("", &more),
                ("", &|w| endpoints(w).clear()),
                ("", &|w| {
                    w.load_assignment = Some(encode_host("a", "10.0.0.1", 80, &Labels::default()))
                }),
                (
                    "load_assignment.endpoints[0].lb_endpoints[0].endpoint: is required",
                    &|w| endpoints(w)[0].host_identifier = None,
                ),
                (
                    "load_assignment.endpoints[0].lb_endpoints[0].load_balancing_weight: 0",
                    &|w| endpoints(w)[0].load_balancing_weight = Some(0),
                ),
                (
                    "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 0",
                    &|w| w.load_assignment = Some(encode_host("a", "h", 0, &Labels::default())),
                ),
            ],
        );
        let mut wire = base(DiscoveryType::StrictDns);
        // As most Envoys' clusters have it: no locality, no weight.
        more(&mut wire);
        let Discovery::StrictDns { localities, .. } = decoded(&wire) else {
            panic!("not STRICT_DNS");
        };
        assert_eq!(
            (localities[0].weight, localities[0].endpoints.len()),
            (1, 2)
        );
        assert_eq!(localities[0].endpoints[0].host, "example.com");
    }

    #[test]
    fn how_names_are_looked_up() {
        let mut wire = base(DiscoveryType::LogicalDns);
        assert_eq!(lookup(&wire), DnsLookup::default());
        assert_eq!(ignored(TYPE, &wire), [""; 0]);
        wire.dns_refresh_rate = Some(wire_duration(Duration::from_millis(250)));
        wire.dns_lookup_family = DnsLookupFamily::V6Only as i32;
        let expected = DnsLookup {
            refresh: Duration::from_millis(250),
            families: AddressFamilies::V6Only,
        };
        assert_eq!(lookup(&wire), expected);
        // What no client of gRPC looks at is no reason to refuse.
        wire.dns_refresh_rate = Some(prost_types::Duration {
            seconds: -1,
            nanos: 0,
        });
        wire.dns_lookup_family = 77;
        assert_eq!(lookup(&wire), DnsLookup::default());
        assert_eq!(ignored(TYPE, &wire), ["dns_refresh_rate"]);
        wire.dns_refresh_rate = None;
        wire.dns_resolvers = vec![core::Address::default()];
        wire.dns_jitter = Some(wire_duration(Duration::from_secs(1)));
        assert_eq!(ignored(TYPE, &wire), ["dns_jitter", "dns_resolvers"]);
    }
}
