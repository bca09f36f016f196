use super::*;
use crate::codec::tests::{check, ignored, read};
use crate::resource::{PerMillion, Resource, ResourceType};
use crate::wire::core::{SocketAddress, socket_address::PortSpecifier};
use crate::wire::number::FractionalPercent;

type Wire = ClusterLoadAssignment;

const TYPE: ResourceType = ResourceType::EndpointAssignment;

fn socket(address: &str, port: u32) -> Option<core::Address> {
    Some(core::Address {
        address: Some(core::address::Address::SocketAddress(SocketAddress {
            address: address.into(),
            port_specifier: Some(PortSpecifier::PortValue(port)),
            ..Default::default()
        })),
    })
}

fn lb_endpoint(port: u32) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket("10.0.0.1", port),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn locality(zone: &str, priority: u32, port: u32) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: Some(core::Locality {
            zone: zone.into(),
            ..Default::default()
        }),
        lb_endpoints: vec![lb_endpoint(port), lb_endpoint(port + 1)],
        load_balancing_weight: Some(1),
        priority,
        ..Default::default()
    }
}

fn base() -> Wire {
    Wire {
        cluster_name: "a".into(),
        endpoints: vec![
            locality("x", 0, 10),
            locality("y", 0, 20),
            locality("x", 1, 30),
        ],
        ..Default::default()
    }
}

fn decoded(wire: &Wire) -> EndpointAssignment {
    match read(TYPE, wire).expect("is valid") {
        Resource::EndpointAssignment(assignment) => assignment.as_ref().clone(),
        other => panic!("not an assignment: {other:?}"),
    }
}

#[test]
fn localities() {
    check(
        TYPE,
        &base(),
        &[
            ("", &|w| w.endpoints.clear()),
            ("endpoints[1].locality: is required", &|w| {
                w.endpoints[1].locality = None
            }),
            ("endpoints[1].locality: \"/x/\" appears twice", &|w| {
                w.endpoints[1] = locality("x", 0, 50);
            }),
            ("endpoints: there is priority 2 without priority 1", &|w| {
                w.endpoints[2].priority = 2
            }),
            ("endpoints: there is priority 1 without priority 0", &|w| {
                w.endpoints.drain(..2);
            }),
            ("", &|w| {
                w.endpoints[0].load_balancing_weight = Some(u32::MAX - 1)
            }),
            ("endpoints[1].load_balancing_weight: the weights", &|w| {
                w.endpoints[0].load_balancing_weight = Some(u32::MAX);
            }),
            // Priorities are summed apart.
            ("", &|w| {
                w.endpoints[2].load_balancing_weight = Some(u32::MAX)
            }),
        ],
    );
}

#[test]
fn localities_without_weight_are_left_out() {
    let mut wire = base();
    wire.endpoints[0].load_balancing_weight = None;
    // Nothing in it counts: neither its place nor its addresses.
    wire.endpoints[0].lb_endpoints = vec![lb_endpoint(20)];
    wire.endpoints.push(LocalityLbEndpoints {
        load_balancing_weight: Some(0),
        ..locality("z", 7, 40)
    });
    let zones: Vec<_> = decoded(&wire)
        .localities
        .into_iter()
        .map(|l| (l.locality.zone, l.priority))
        .collect();
    assert_eq!(zones, [("y".to_owned(), 0), ("x".to_owned(), 1)]);
}

#[test]
fn endpoints() {
    fn first(wire: &mut Wire) -> &mut LbEndpoint {
        &mut wire.endpoints[0].lb_endpoints[0]
    }
    fn endpoint(wire: &mut Wire) -> &mut endpoint::Endpoint {
        match &mut first(wire).host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
            other => panic!("base has an endpoint: {other:?}"),
        }
    }
    fn socket_of(wire: &mut Wire) -> &mut SocketAddress {
        let address = endpoint(wire).address.as_mut().expect("base has one");
        match &mut address.address {
            Some(core::address::Address::SocketAddress(socket)) => socket,
            other => panic!("base has a socket address: {other:?}"),
        }
    }
    fn pipe(path: &str) -> Option<core::Address> {
        Some(core::Address {
            address: Some(core::address::Address::Pipe(core::Pipe {
                path: path.into(),
                mode: 0,
            })),
        })
    }
    const AT: &str = "endpoints[0].lb_endpoints[0].";
    let at = |rest: &str| format!("{AT}{rest}");
    check(
        TYPE,
        &base(),
        &[
            (&at("endpoint: is required"), &|w| {
                first(w).host_identifier = None
            }),
            (&at("endpoint: a named endpoint"), &|w| {
                first(w).host_identifier = Some(HostIdentifier::EndpointName("n".into()));
            }),
            (&at("endpoint.address: is required"), &|w| {
                endpoint(w).address = None
            }),
            (&at("endpoint.address: is required"), &|w| {
                endpoint(w).address = Some(core::Address::default());
            }),
            ("", &|w| endpoint(w).address = socket("::1", 65535)),
            (
                &at("endpoint.address.socket_address.address: \"host\" is not an IP"),
                &|w| {
                    endpoint(w).address = socket("host", 1);
                },
            ),
            (
                &at("endpoint.address.socket_address.address: is required"),
                &|w| {
                    endpoint(w).address = socket("", 1);
                },
            ),
            (
                &at("endpoint.address.socket_address.port_value: 65536"),
                &|w| {
                    endpoint(w).address = socket("10.0.0.1", 65536);
                },
            ),
            (
                &at("endpoint.address.socket_address.port_value: is required"),
                &|w| {
                    socket_of(w).port_specifier = None;
                },
            ),
            (&at("endpoint.address.socket_address.named_port"), &|w| {
                socket_of(w).port_specifier = Some(PortSpecifier::NamedPort("http".into()));
            }),
            (&at("endpoint.address.socket_address.protocol"), &|w| {
                socket_of(w).protocol = 1
            }),
            ("", &|w| socket_of(w).resolver_name = "dns".into()),
            ("", &|w| {
                socket_of(w).port_specifier = Some(PortSpecifier::PortValue(0))
            }),
            (
                &at("endpoint.address.envoy_internal_address: an internal address"),
                &|w| {
                    endpoint(w).address = Some(core::Address {
                        address: Some(core::address::Address::EnvoyInternalAddress(
                            Default::default(),
                        )),
                    });
                },
            ),
            (
                &at("endpoint.additional_addresses[0].address: is required"),
                &|w| endpoint(w).additional_addresses.push(Default::default()),
            ),
            ("", &|w| endpoint(w).address = pipe("/run/a")),
            (&at("endpoint.address.pipe.path: is required"), &|w| {
                endpoint(w).address = pipe("")
            }),
            (&at("load_balancing_weight: 0"), &|w| {
                first(w).load_balancing_weight = Some(0)
            }),
            (
                "endpoints[0].lb_endpoints[1].load_balancing_weight: the weights",
                &|w| {
                    first(w).load_balancing_weight = Some(u32::MAX);
                },
            ),
            // Addresses are unique in the cluster, over localities and priorities.
            (
                "endpoints[2].lb_endpoints[0].endpoint.address: \"10.0.0.1:10\" appears twice",
                &|w| {
                    w.endpoints[2].lb_endpoints[0] = lb_endpoint(10);
                },
            ),
            (
                &at("endpoint.additional_addresses[0].address: \"10.0.0.1:10\" appears twice"),
                &|w| {
                    let additional = endpoint::endpoint::AdditionalAddress {
                        address: socket("10.0.0.1", 10),
                    };
                    endpoint(w).additional_addresses.push(additional);
                },
            ),
        ],
    );
}

#[test]
fn unknown_health_is_not_used() {
    let mut wire = base();
    wire.endpoints[0].lb_endpoints[0].health_status = 99;
    let endpoint = &decoded(&wire).localities[0].endpoints[0];
    assert_eq!(endpoint.health, Health::Unhealthy);
    assert_eq!(
        ignored(TYPE, &wire),
        ["endpoints[0].lb_endpoints[0].health_status"]
    );
}

#[test]
fn drops_are_parts_of_a_million() {
    for (numerator, denominator, expected) in [
        (5, 0, 50_000),
        (5, 1, 500),
        (5, 2, 5),
        (101, 0, 1_000_000),
        (u32::MAX, 0, 1_000_000),
    ] {
        let wire = with_drop(numerator, denominator);
        assert_eq!(decoded(&wire).drops[0].share, PerMillion::new(expected));
    }
    let error = read(TYPE, &with_drop(1, 9)).expect_err("is invalid");
    assert!(
        error.starts_with("policy.drop_overloads[0].drop_percentage.denominator: 9"),
        "{error}"
    );
}

fn with_drop(numerator: u32, denominator: i32) -> Wire {
    Wire {
        policy: Some(policy::Policy {
            drop_overloads: vec![policy::policy::DropOverload {
                category: "load".into(),
                drop_percentage: Some(FractionalPercent {
                    numerator,
                    denominator,
                }),
            }],
            ..Default::default()
        }),
        ..base()
    }
}

#[test]
fn fields_that_are_not_honoured_are_reported() {
    let mut wire = base();
    wire.policy = Some(policy::Policy {
        overprovisioning_factor: Some(140),
        ..Default::default()
    });
    wire.endpoints[1].proximity = Some(1);
    assert_eq!(
        ignored(TYPE, &wire),
        ["policy.overprovisioning_factor", "endpoints[1].proximity"]
    );
}
