//! From host names to endpoints: `LOGICAL_DNS` and `STRICT_DNS` clusters (gRFC A37, A61). Pure.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use sidestep_proto::resource::{
    Address, Cluster, Discovery, DnsLookup, Endpoint, EndpointAssignment, Health, Locality,
    LocalityEndpoints, NamedEndpoint, NamedLocality,
};

use super::names::{Host, Known};
use crate::balancer::Failure;
use crate::resolver::{ResolveError, with_port};

/// What a cluster's names come to; `None` while an answer is awaited, or if it has no names.
///
/// Each name looked at is noted in `hosts`. `origin` ends the texts of failures.
pub(super) fn endpoints(
    cluster: &Cluster,
    known: impl Fn(&Host) -> Known,
    origin: &dyn std::fmt::Display,
    hosts: &mut BTreeSet<Host>,
) -> Option<Result<Arc<EndpointAssignment>, Failure>> {
    let localities = match &cluster.discovery {
        Discovery::LogicalDns {
            host,
            port,
            lookup,
            labels,
        } => {
            let host = host_of(host, *lookup);
            hosts.insert(host.clone());
            match known(&host) {
                Known::Waiting => return None,
                Known::Failed(error) => return Some(Err(failure(cluster, &host, &error, origin))),
                Known::Found(addresses) => vec![alone(Endpoint {
                    addresses: with_port(&addresses, *port).collect(),
                    hostname: host.name.to_string(),
                    weight: 1,
                    health: Health::Unknown,
                    hash_key: None,
                    labels: labels.clone(),
                })],
            }
        }
        Discovery::StrictDns { localities, lookup } => {
            let mut strict = Strict {
                known: &known,
                lookup: *lookup,
                hosts,
                seen: HashSet::new(),
                failed: None,
                is_waiting: false,
            };
            let found: Vec<_> = localities.iter().map(|l| strict.locality(l)).collect();
            if strict.is_waiting {
                return None;
            }
            // Names that lead nowhere are missed only where no other leads anywhere.
            match strict.failed {
                Some((host, error)) if strict.seen.is_empty() => {
                    return Some(Err(failure(cluster, &host, &error, origin)));
                }
                _ => found,
            }
        }
        Discovery::Eds { .. } | Discovery::Aggregate { .. } => return None,
    };
    Some(Ok(Arc::new(EndpointAssignment {
        cluster: cluster.name.clone(),
        localities,
        drops: Vec::new(),
    })))
}

/// Every address is an endpoint of its own, but none twice.
struct Strict<'a, F> {
    known: &'a F,
    lookup: DnsLookup,
    hosts: &'a mut BTreeSet<Host>,
    seen: HashSet<Address>,
    failed: Option<(Host, ResolveError)>,
    is_waiting: bool,
}

impl<F: Fn(&Host) -> Known> Strict<'_, F> {
    fn locality(&mut self, named: &NamedLocality) -> LocalityEndpoints {
        let endpoints = named.endpoints.iter().flat_map(|named| self.expand(named));
        LocalityEndpoints {
            locality: named.locality.clone(),
            priority: named.priority,
            weight: named.weight,
            endpoints: endpoints.collect(),
        }
    }

    fn expand(&mut self, named: &NamedEndpoint) -> Vec<Endpoint> {
        let host = host_of(&named.host, self.lookup);
        self.hosts.insert(host.clone());
        let addresses = match (self.known)(&host) {
            Known::Found(addresses) => addresses,
            Known::Waiting => {
                self.is_waiting = true;
                return Vec::new();
            }
            Known::Failed(error) => {
                self.failed.get_or_insert((host, error));
                return Vec::new();
            }
        };
        let new = with_port(&addresses, named.port).filter(|a| self.seen.insert(a.clone()));
        let endpoints = new.map(|address| Endpoint {
            addresses: vec![address],
            hostname: named.host.clone(),
            weight: named.weight,
            health: named.health,
            hash_key: None,
            labels: named.labels.clone(),
        });
        endpoints.collect()
    }
}

fn host_of(name: &str, lookup: DnsLookup) -> Host {
    Host {
        name: name.into(),
        lookup,
    }
}

fn alone(endpoint: Endpoint) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Locality::default(),
        priority: 0,
        weight: 1,
        endpoints: vec![endpoint],
    }
}

fn failure(
    cluster: &Cluster,
    host: &Host,
    error: &ResolveError,
    origin: &dyn std::fmt::Display,
) -> Failure {
    let (cluster, host) = (&cluster.name, &host.name);
    let text = format!("Cluster {cluster:?}: host name {host:?} cannot be used: {error} {origin}");
    Failure::new(error.code(), text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use sidestep_proto::code;
    use sidestep_proto::resource::Labels;

    use super::super::tests::fixtures;
    use super::*;

    type Table<'a> = BTreeMap<&'a str, Result<&'a [&'a str], ResolveError>>;

    fn resolve(
        discovery: Discovery,
        table: &Table<'_>,
    ) -> (Option<Result<Vec<String>, Failure>>, usize) {
        let mut cluster = fixtures::plain_cluster("c");
        cluster.discovery = discovery;
        let mut hosts = BTreeSet::new();
        let known = |host: &Host| match table.get(&*host.name) {
            None => Known::Waiting,
            Some(Err(error)) => Known::Failed(error.clone()),
            Some(Ok(ips)) => {
                let ips = ips.iter().map(|ip| ip.parse::<IpAddr>().expect("an IP"));
                Known::Found(ips.collect())
            }
        };
        let found = endpoints(&cluster, known, &"(xDS server s, node n)", &mut hosts);
        let found = found.map(|found| {
            found.map(|assignment| {
                let all = assignment.localities.iter().flat_map(|l| &l.endpoints);
                let all = all.map(|endpoint| {
                    let addresses = endpoint.addresses.iter().map(ToString::to_string);
                    let addresses: Vec<_> = addresses.collect();
                    format!("{} {}", endpoint.hostname, addresses.join(" "))
                });
                all.collect()
            })
        });
        (found, hosts.len())
    }

    fn logical() -> Discovery {
        Discovery::LogicalDns {
            host: "a".into(),
            port: 80,
            lookup: DnsLookup::default(),
            labels: Labels::default(),
        }
    }

    fn strict(hosts: &[&str]) -> Discovery {
        let endpoints = hosts.iter().map(|host| NamedEndpoint {
            host: (*host).into(),
            port: 80,
            weight: 2,
            health: Health::Unknown,
            labels: Labels::default(),
        });
        Discovery::StrictDns {
            localities: vec![NamedLocality {
                locality: Locality::default(),
                priority: 0,
                weight: 1,
                endpoints: endpoints.collect(),
            }],
            lookup: DnsLookup::default(),
        }
    }

    #[test]
    fn all_addresses_of_a_logical_name_are_one_endpoint() {
        assert_eq!(resolve(logical(), &Table::new()), (None, 1));
        let table = Table::from([("a", Ok(&["10.0.0.1", "fd00::1"][..]))]);
        let expected = vec!["a 10.0.0.1:80 [fd00::1]:80".to_owned()];
        assert_eq!(resolve(logical(), &table), (Some(Ok(expected)), 1));
    }

    #[test]
    fn each_address_of_a_strict_name_is_one_and_none_twice() {
        let table = Table::from([
            ("a", Ok(&["10.0.0.1", "10.0.0.2"][..])),
            ("b", Ok(&["10.0.0.2", "10.0.0.3"][..])),
        ]);
        let expected = ["a 10.0.0.1:80", "a 10.0.0.2:80", "b 10.0.0.3:80"];
        let expected = expected.map(ToOwned::to_owned).to_vec();
        let found = resolve(strict(&["a", "b"]), &table);
        assert_eq!(found, (Some(Ok(expected)), 2));
        // All are asked for, and waited for.
        assert_eq!(resolve(strict(&["a", "c", "d"]), &table), (None, 3));
    }

    #[test]
    fn a_name_that_leads_nowhere_fails_only_where_no_other_leads_anywhere() {
        let table = Table::from([
            ("a", Err(ResolveError::NoSuchName)),
            ("b", Ok(&["10.0.0.1"][..])),
        ]);
        let expected = vec!["b 10.0.0.1:80".to_owned()];
        let (found, _) = resolve(strict(&["a", "b"]), &table);
        assert_eq!(found, Some(Ok(expected)));
        for discovery in [logical(), strict(&["a"])] {
            let Some(Err(failure)) = resolve(discovery, &table).0 else {
                panic!("it leads nowhere");
            };
            assert_eq!(failure.1, code::NAME_NOT_RESOLVED);
            let text = "Cluster \"c\": host name \"a\" cannot be used: there is no such name \
                        (xDS server s, node n)";
            assert_eq!(&*failure.0, text);
        }
    }

    #[test]
    fn a_cluster_without_any_name_has_no_endpoint() {
        assert_eq!(resolve(strict(&[]), &Table::new()).0, Some(Ok(Vec::new())));
    }
}
