//! `envoy.config.endpoint.v3.ClusterLoadAssignment` (gRFC A27, A61).

use std::collections::{BTreeMap, BTreeSet};

use super::at::{At, Result};
use super::matching::{decode_fraction, encode_fraction};
use super::server_listener::{decode_socket_address, encode_socket_address};
use super::{Reason, labels};
use crate::resource::{
    Address, DropCategory, Endpoint, EndpointAssignment, Health, Locality, LocalityEndpoints,
};
use crate::wire::core::{self, HealthStatus};
use crate::wire::endpoint::{
    self, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints,
    cluster_load_assignment as policy, lb_endpoint::HostIdentifier,
    locality_lb_endpoints::LbConfig,
};

pub(super) fn decode(at: &At<'_>, wire: ClusterLoadAssignment) -> Result<EndpointAssignment> {
    Ok(EndpointAssignment {
        drops: decode_policy(&at.field("policy"), wire.policy.unwrap_or_default())?,
        localities: decode_localities(at, wire.endpoints)?,
        cluster: wire.cluster_name,
    })
}

fn decode_policy(at: &At<'_>, wire: policy::Policy) -> Result<Vec<DropCategory>> {
    at.ignore(
        "overprovisioning_factor",
        wire.overprovisioning_factor.is_some(),
        "a priority is used as long as one endpoint works",
    );
    at.ignore(
        "weighted_priority_health",
        wire.weighted_priority_health,
        "a priority is used as long as one endpoint works",
    );
    at.ignore(
        "endpoint_stale_after",
        wire.endpoint_stale_after.is_some(),
        "endpoints are kept until they change",
    );
    let drops = wire.drop_overloads.into_iter().enumerate();
    let drops = drops.map(|(i, drop)| {
        let at = at.item("drop_overloads", i);
        let share = drop.drop_percentage.unwrap_or_default();
        Ok(DropCategory {
            category: drop.category,
            share: decode_fraction(&at.field("drop_percentage"), share)?,
        })
    });
    drops.collect()
}

/// What must hold for the localities together.
#[derive(Default)]
struct Totals {
    /// Localities and the sum of their weights, by priority.
    priorities: BTreeMap<u32, (BTreeSet<Locality>, u32)>,
    addresses: BTreeSet<Address>,
}

fn decode_localities(
    at: &At<'_>,
    wire: Vec<LocalityLbEndpoints>,
) -> Result<Vec<LocalityEndpoints>> {
    let mut totals = Totals::default();
    let mut localities = Vec::with_capacity(wire.len());
    for (i, locality) in wire.into_iter().enumerate() {
        let at = at.item("endpoints", i);
        localities.extend(decode_locality(&at, &mut totals, locality)?);
    }
    let gap = (0..).zip(totals.priorities.keys()).find(|(i, p)| i != *p);
    if let Some((missing, present)) = gap {
        let place = at.field("endpoints");
        return Err(place.rule(format!(
            "there is priority {present} without priority {missing}"
        )));
    }
    Ok(localities)
}

/// A locality, or `None` for one without weight: nothing goes there.
fn decode_locality(
    at: &At<'_>,
    totals: &mut Totals,
    wire: LocalityLbEndpoints,
) -> Result<Option<LocalityEndpoints>> {
    let name = at.field("locality").required(wire.locality)?;
    let weight = wire.load_balancing_weight.unwrap_or(0);
    if weight == 0 {
        return Ok(None);
    }
    at.ignore(
        "proximity",
        wire.proximity.is_some(),
        "localities are chosen by weight",
    );
    let locality = Locality {
        region: name.region,
        zone: name.zone,
        sub_zone: name.sub_zone,
    };
    let (seen, sum) = totals.priorities.entry(wire.priority).or_default();
    *sum = sum.checked_add(weight).ok_or_else(|| {
        let place = at.field("load_balancing_weight");
        place.rule("the weights of the priority add up to more than 4294967295")
    })?;
    if !seen.insert(locality.clone()) {
        let Locality {
            region,
            zone,
            sub_zone,
        } = locality;
        let place = at.field("locality");
        return Err(place.fault(Reason::Duplicate(format!("{region}/{zone}/{sub_zone}"))));
    }
    let listed = match wire.lb_config {
        Some(LbConfig::LoadBalancerEndpoints(list)) => list.lb_endpoints,
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            at.field("leds_cluster_locality_config")
                .note("endpoints are not discovered one by one");
            Vec::new()
        }
        None => Vec::new(),
    };
    let listed = match wire.lb_endpoints.is_empty() {
        true => listed,
        false => wire.lb_endpoints,
    };
    Ok(Some(LocalityEndpoints {
        locality,
        priority: wire.priority,
        weight,
        endpoints: decode_endpoints(at, &mut totals.addresses, listed)?,
    }))
}

fn decode_endpoints(
    at: &At<'_>,
    addresses: &mut BTreeSet<Address>,
    wire: Vec<LbEndpoint>,
) -> Result<Vec<Endpoint>> {
    let mut sum: u32 = 0;
    let mut endpoints = Vec::with_capacity(wire.len());
    for (i, endpoint) in wire.into_iter().enumerate() {
        let at = at.item("lb_endpoints", i);
        let endpoint = decode_endpoint(&at, addresses, endpoint)?;
        sum = sum.checked_add(endpoint.weight).ok_or_else(|| {
            let place = at.field("load_balancing_weight");
            place.rule("the weights of the locality add up to more than 4294967295")
        })?;
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn decode_endpoint(
    at: &At<'_>,
    seen: &mut BTreeSet<Address>,
    wire: LbEndpoint,
) -> Result<Endpoint> {
    let weight = wire.load_balancing_weight.unwrap_or(1);
    if weight == 0 {
        return Err(at
            .field("load_balancing_weight")
            .out_of_range(0, "at least 1"));
    }
    let health = decode_health(&at.field("health_status"), wire.health_status);
    let (hash_key, labels) = labels::of_endpoint(wire.metadata);
    let at = at.field("endpoint");
    let endpoint = match wire.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
        Some(HostIdentifier::EndpointName(_)) => return Err(at.unsupported("a named endpoint")),
        None => return Err(at.fault(Reason::Missing)),
    };
    at.ignore(
        "health_check_config",
        endpoint.health_check_config.is_some(),
        "endpoints are not probed",
    );
    let mut addresses = Vec::with_capacity(1 + endpoint.additional_addresses.len());
    let place = at.field("address");
    addresses.push(decode_address(&place, seen, endpoint.address)?);
    for (i, additional) in endpoint.additional_addresses.into_iter().enumerate() {
        let at = at.item("additional_addresses", i);
        addresses.push(decode_address(
            &at.field("address"),
            seen,
            additional.address,
        )?);
    }
    Ok(Endpoint {
        addresses,
        hostname: endpoint.hostname,
        weight,
        health,
        hash_key,
        labels,
    })
}

/// An address that no other endpoint of the cluster has.
fn decode_address(
    at: &At<'_>,
    seen: &mut BTreeSet<Address>,
    wire: Option<core::Address>,
) -> Result<Address> {
    use core::address::Address as Wire;
    let address = match at.required(wire)?.address {
        Some(Wire::SocketAddress(socket)) => {
            Address::Tcp(decode_socket_address(&at.field("socket_address"), &socket)?)
        }
        Some(Wire::Pipe(pipe)) => {
            let at = at.field("pipe");
            let path = at.field("path").text(pipe.path)?;
            Address::Unix(path)
        }
        Some(Wire::EnvoyInternalAddress(_)) => {
            let place = at.field("envoy_internal_address");
            return Err(place.unsupported("an internal address"));
        }
        None => return Err(at.fault(Reason::Missing)),
    };
    if !seen.insert(address.clone()) {
        return Err(at.fault(Reason::Duplicate(address.to_string())));
    }
    Ok(address)
}

pub(super) fn decode_health(at: &At<'_>, wire: i32) -> Health {
    match HealthStatus::try_from(wire) {
        Ok(HealthStatus::Unknown) => Health::Unknown,
        Ok(HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Unhealthy) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Ok(HealthStatus::Timeout) => Health::Timeout,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        // Only what is known to be fit is used.
        Err(_) => {
            at.note("an unknown state counts as unhealthy");
            Health::Unhealthy
        }
    }
}

pub(super) fn encode(assignment: &EndpointAssignment) -> ClusterLoadAssignment {
    let drops = assignment
        .drops
        .iter()
        .map(|drop| policy::policy::DropOverload {
            category: drop.category.clone(),
            drop_percentage: Some(encode_fraction(drop.share)),
        });
    ClusterLoadAssignment {
        cluster_name: assignment.cluster.clone(),
        endpoints: assignment.localities.iter().map(encode_locality).collect(),
        policy: (!assignment.drops.is_empty()).then(|| policy::Policy {
            drop_overloads: drops.collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn encode_locality(locality: &LocalityEndpoints) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: Some(core::Locality {
            region: locality.locality.region.clone(),
            zone: locality.locality.zone.clone(),
            sub_zone: locality.locality.sub_zone.clone(),
        }),
        lb_endpoints: locality.endpoints.iter().map(encode_endpoint).collect(),
        load_balancing_weight: Some(locality.weight),
        priority: locality.priority,
        ..Default::default()
    }
}

fn encode_endpoint(endpoint: &Endpoint) -> LbEndpoint {
    let mut addresses = endpoint.addresses.iter().map(encode_address);
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: addresses.next(),
            additional_addresses: addresses
                .map(|address| endpoint::endpoint::AdditionalAddress {
                    address: Some(address),
                })
                .collect(),
            hostname: endpoint.hostname.clone(),
            ..Default::default()
        })),
        health_status: encode_health(endpoint.health) as i32,
        metadata: labels::to_endpoint(endpoint.hash_key.as_deref(), &endpoint.labels),
        // Unset is 1; Envoy and gRPC agree on that.
        load_balancing_weight: (endpoint.weight != 1).then_some(endpoint.weight),
    }
}

pub(super) fn encode_health(health: Health) -> HealthStatus {
    match health {
        Health::Unknown => HealthStatus::Unknown,
        Health::Healthy => HealthStatus::Healthy,
        Health::Unhealthy => HealthStatus::Unhealthy,
        Health::Draining => HealthStatus::Draining,
        Health::Timeout => HealthStatus::Timeout,
        Health::Degraded => HealthStatus::Degraded,
    }
}

fn encode_address(address: &Address) -> core::Address {
    match address {
        Address::Tcp(address) => encode_socket_address(*address),
        Address::Unix(path) => core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.clone(),
                mode: 0,
            })),
        },
    }
}

#[cfg(test)]
mod tests;
