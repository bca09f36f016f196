use std::sync::Arc;

use prost_types::{ListValue, Struct, Value, value::Kind};

use super::*;
use crate::codec::tests::{check, ignored, read, read_in, typed_struct};
use crate::codec::{self, Context};
use crate::resource::{
    CustomPolicy, Labels, LbPolicy, PerMillion, RegisteredPolicy, Resource, ResourceType, ZoneAware,
};
use crate::wire::cluster::cluster::common_lb_config::{
    LocalityWeightedLbConfig, ZoneAwareLbConfig,
};
use crate::wire::cluster::{LoadBalancingPolicy, OutlierDetection, load_balancing_policy::Policy};
use crate::wire::core::address::Address;
use crate::wire::core::{HealthStatus, TypedExtensionConfig};
use crate::wire::endpoint::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use crate::wire::load_balancing::{
    LeastRequest, LocalityLbConfig, Maglev, PickFirst, Random, RandomSubsetting, RingHash,
    RoundRobin, WrrLocality, locality_lb_config as own,
};
use crate::wire::tls;

type Wire = cluster::Cluster;

const TYPE: ResourceType = ResourceType::Cluster;

fn base() -> Wire {
    Wire {
        name: "a".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: String::new(),
        }),
        ..Default::default()
    }
}

fn decoded(wire: &Wire) -> Cluster {
    match read(TYPE, wire).expect("is valid") {
        Resource::Cluster(cluster) => cluster.as_ref().clone(),
        other => panic!("not a cluster: {other:?}"),
    }
}

#[test]
fn discovery() {
    fn eds(wire: &mut Wire) -> &mut EdsClusterConfig {
        wire.eds_cluster_config.as_mut().expect("base has it")
    }
    fn dns(change: impl Fn(&mut ClusterLoadAssignment)) -> impl Fn(&mut Wire) {
        move |wire| {
            let mut assignment = dns::encode_host("a", "example.com", 443, &Labels::default());
            change(&mut assignment);
            wire.load_assignment = Some(assignment);
            set_type(wire, DiscoveryType::LogicalDns as i32);
        }
    }
    fn set_type(wire: &mut Wire, kind: i32) {
        wire.cluster_discovery_type = Some(ClusterDiscoveryType::Type(kind));
    }
    fn aggregate(config: Option<Any>) -> impl Fn(&mut Wire) {
        move |wire| {
            wire.cluster_discovery_type =
                Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                    name: AGGREGATE_NAME.into(),
                    typed_config: config.clone(),
                }));
        }
    }
    let of = |clusters: &[&str]| {
        let clusters = clusters.iter().map(ToString::to_string).collect();
        Some(Any::pack(&AggregateCluster { clusters }))
    };
    check(
        TYPE,
        &base(),
        &[
            ("type: is required", &|w| w.cluster_discovery_type = None),
            ("type: STATIC is not supported", &|w| set_type(w, 0)),
            ("load_assignment: is required", &|w| set_type(w, 1)),
            ("type: the number 77", &|w| set_type(w, 77)),
            ("eds_cluster_config: is required", &|w| {
                w.eds_cluster_config = None
            }),
            ("eds_cluster_config.eds_config: is required", &|w| {
                eds(w).eds_config = None
            }),
            (
                "eds_cluster_config.eds_config: a configuration source",
                &|w| {
                    eds(w).eds_config = Some(core::ConfigSource::default());
                },
            ),
            ("", &|w| {
                eds(w).eds_config = Some(core::ConfigSource {
                    config_source_specifier: Some(ConfigSourceSpecifier::Self_(
                        core::SelfConfigSource::default(),
                    )),
                    ..Default::default()
                });
            }),
            ("eds_cluster_config.service_name: is required", &|w| {
                w.name = "xdstp://a/b/c".into()
            }),
            ("", &|w| {
                w.name = "xdstp://a/b/c".into();
                eds(w).service_name = "x".into();
            }),
            ("", &dns(|_| ())),
            (
                "load_assignment.endpoints: must be exactly one",
                &dns(|a| a.endpoints.clear()),
            ),
            (
                "load_assignment.endpoints[0].lb_endpoints: must be exactly one",
                &dns(|a| a.endpoints[0].lb_endpoints.clear()),
            ),
            (
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint: is required",
                &dns(|a| a.endpoints[0].lb_endpoints[0].host_identifier = None),
            ),
            (
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: is req",
                &dns(|a| *a = dns::encode_host("a", "", 443, &Labels::default())),
            ),
            (
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 0",
                &dns(|a| *a = dns::encode_host("a", "h", 0, &Labels::default())),
            ),
            ("load_assignment: is required", &|w| {
                set_type(w, DiscoveryType::LogicalDns as i32)
            }),
            ("", &aggregate(of(&["b"]))),
            (
                "cluster_type.typed_config.clusters: must not be empty",
                &aggregate(of(&[])),
            ),
            ("cluster_type.typed_config: is required", &aggregate(None)),
            (
                "cluster_type.name: the cluster type \"envoy.clusters.redis\"",
                &|w| {
                    w.cluster_discovery_type =
                        Some(ClusterDiscoveryType::ClusterType(CustomClusterType {
                            name: "envoy.clusters.redis".into(),
                            typed_config: of(&["b"]),
                        }));
                },
            ),
            ("type: ORIGINAL_DST", &|w| set_type(w, 4)),
            (
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.resolver_name",
                &dns(|a| {
                    let endpoint = &mut a.endpoints[0].lb_endpoints[0].host_identifier;
                    let Some(HostIdentifier::Endpoint(endpoint)) = endpoint else {
                        panic!("encode_host writes an endpoint");
                    };
                    let address = endpoint.address.as_mut().and_then(|a| a.address.as_mut());
                    let Some(Address::SocketAddress(socket)) = address else {
                        panic!("encode_host writes a socket address");
                    };
                    socket.resolver_name = "mine".into();
                }),
            ),
            (
                "cluster_type.typed_config: \"type.googleapis.com/envoy.ext",
                &aggregate(Some(Any::pack(&RoundRobin::default()))),
            ),
        ],
    );
}

#[test]
fn the_policy_of_the_enum() {
    fn least(choice_count: Option<u32>) -> impl Fn(&mut Wire) {
        move |wire| {
            wire.lb_policy = cluster::cluster::LbPolicy::LeastRequest as i32;
            wire.lb_config = Some(cluster::cluster::LbConfig::LeastRequestLbConfig(
                cluster::cluster::LeastRequestLbConfig {
                    choice_count,
                    ..Default::default()
                },
            ));
        }
    }
    fn ring(min: Option<u64>, max: Option<u64>) -> impl Fn(&mut Wire) {
        move |wire| {
            wire.lb_policy = cluster::cluster::LbPolicy::RingHash as i32;
            wire.lb_config = Some(cluster::cluster::LbConfig::RingHashLbConfig(
                cluster::cluster::RingHashLbConfig {
                    minimum_ring_size: min,
                    maximum_ring_size: max,
                    ..Default::default()
                },
            ));
        }
    }
    fn maglev(table_size: u64) -> impl Fn(&mut Wire) {
        move |wire| {
            wire.lb_policy = cluster::cluster::LbPolicy::Maglev as i32;
            let table_size = Some(table_size);
            wire.lb_config = Some(cluster::cluster::LbConfig::MaglevLbConfig(
                cluster::cluster::MaglevLbConfig { table_size },
            ));
        }
    }
    check(
        TYPE,
        &base(),
        &[
            ("", &|w| w.lb_policy = 1),
            ("", &least(Some(2))),
            ("least_request_lb_config.choice_count: 1", &least(Some(1))),
            ("lb_policy: CLUSTER_PROVIDED is not supported", &|w| {
                w.lb_policy = 6
            }),
            ("", &|w| w.lb_policy = 2),
            ("", &|w| w.lb_policy = 3),
            ("", &|w| w.lb_policy = 5),
            ("", &ring(Some(16), Some(32))),
            (
                "ring_hash_lb_config.minimum_ring_size: 33 is more than",
                &ring(Some(33), Some(32)),
            ),
            (
                "ring_hash_lb_config.minimum_ring_size: 8388609 is out of range",
                &ring(Some(8_388_609), None),
            ),
            (
                "ring_hash_lb_config.maximum_ring_size: 8388609 is out of range",
                &ring(None, Some(8_388_609)),
            ),
            ("", &maglev(251)),
            (
                "maglev_lb_config.table_size: 252 is not a prime",
                &maglev(252),
            ),
            (
                "maglev_lb_config.table_size: 5000013 is out of range",
                &maglev(5_000_013),
            ),
            ("lb_policy: LOAD_BALANCING_POLICY_CONFIG", &|w| {
                w.lb_policy = 7
            }),
            ("lb_policy: the number 99", &|w| w.lb_policy = 99),
        ],
    );
    for (count, expected) in [(None, 2), (Some(5), 5), (Some(1000), 10)] {
        let mut wire = base();
        least(count)(&mut wire);
        let expected = LbPolicy::LeastRequest {
            choice_count: expected,
        }
        .by_locality();
        assert_eq!(decoded(&wire).lb_policy, expected);
    }
}

fn list(configs: &[Any]) -> LoadBalancingPolicy {
    let policy = |any: &Any| Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: "label".into(),
            typed_config: Some(any.clone()),
        }),
    };
    LoadBalancingPolicy {
        policies: configs.iter().map(policy).collect(),
    }
}

fn wrr(inner: &[Any]) -> Any {
    Any::pack(&WrrLocality {
        endpoint_picking_policy: Some(list(inner)),
    })
}

fn subset(size: Option<u32>, inner: Option<&[Any]>) -> Any {
    Any::pack(&RandomSubsetting {
        subset_size: size,
        child_policy: inner.map(list),
    })
}

#[test]
fn a_subset_has_a_size_and_a_policy() {
    fn listed(any: Any) -> impl Fn(&mut Wire) {
        move |wire| wire.load_balancing_policy = Some(list(std::slice::from_ref(&any)))
    }
    let value = |kind| Value { kind: Some(kind) };
    let object = |fields: &[(&str, Kind)]| Struct {
        fields: fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), value(kind.clone())))
            .collect(),
    };
    let policies = |names: &[&str]| {
        let one = |name: &&str| {
            let inner = Kind::StructValue(Struct::default());
            value(Kind::StructValue(object(&[(name, inner)])))
        };
        Kind::ListValue(ListValue {
            values: names.iter().map(one).collect(),
        })
    };
    let json =
        |fields: &[(&str, Kind)]| typed_struct("random_subsetting_experimental", object(fields));
    let inner = [Any::pack(&RoundRobin::default())];
    let size = |n| ("subsetSize", Kind::NumberValue(n));
    let round_robin = ("childPolicy", policies(&["org.custom", "round_robin"]));
    let any_of = "load_balancing_policy.policies[0].typed_extension_config.typed_config";
    let refused = |field: &str, why: &str| format!("{any_of}.{field}: {why}");
    check(
        TYPE,
        &base(),
        &[
            ("", &listed(subset(Some(1), Some(&inner)))),
            (
                &refused("subset_size", "0 is out of range"),
                &listed(subset(Some(0), Some(&inner))),
            ),
            (
                &refused("subset_size", "is required"),
                &listed(subset(None, Some(&inner))),
            ),
            (
                &refused("child_policy", "is required"),
                &listed(subset(Some(1), None)),
            ),
            (
                &refused("child_policy.policies", "names no policy"),
                &listed(subset(Some(1), Some(&[]))),
            ),
            ("", &listed(json(&[size(3.0), round_robin.clone()]))),
            (
                &refused("value.subsetSize", "0 is out of range"),
                &listed(json(&[size(0.0), round_robin.clone()])),
            ),
            (
                &refused("value.subsetSize", "is required"),
                &listed(json(&[round_robin])),
            ),
            (
                &refused("value.childPolicy", "must be a list"),
                &listed(json(&[size(3.0)])),
            ),
            (
                &refused("value.childPolicy", "none of the policies"),
                &listed(json(&[size(3.0), ("childPolicy", policies(&["x"]))])),
            ),
        ],
    );
}

/// `depth` policies around round robin.
fn nested(depth: usize) -> Any {
    let inner = Any::pack(&RoundRobin::default());
    (0..depth).fold(inner, |any, _| wrr(&[any]))
}

#[test]
fn the_first_supported_policy_of_the_list_is_used() {
    let round_robin = Any::pack(&RoundRobin::default());
    let ring = Any::pack(&RingHash::default());
    let other = typed_struct("org.Other", Struct::default());
    let least = |choice_count| {
        Any::pack(&LeastRequest {
            choice_count,
            ..Default::default()
        })
    };
    let pick_first = Any::pack(&PickFirst {
        shuffle_address_list: true,
    });
    let custom = typed_struct("org.Custom", Struct::default());
    let json = |key: &str, kind| {
        let value = Value { kind: Some(kind) };
        Struct {
            fields: [(key.to_owned(), value)].into(),
        }
    };
    let shuffle = json("shuffleAddressList", Kind::BoolValue(true));
    let choices = |n| {
        let config = json("choiceCount", Kind::NumberValue(n));
        typed_struct("least_request_experimental", config)
    };
    let shuffled = Ok(LbPolicy::PickFirst { shuffle: true });
    let rings = |min_ring_size, max_ring_size| {
        Ok(LbPolicy::RingHash {
            min_ring_size,
            max_ring_size,
        })
    };
    let drawn = |choice_count| Ok(LbPolicy::LeastRequest { choice_count });
    let wrapped = |times: usize| {
        let leaf = LbPolicy::RoundRobin;
        (0..times).fold(leaf, |policy, _| policy.by_locality())
    };
    let cases = [
        (vec![round_robin.clone()], Ok(LbPolicy::RoundRobin)),
        (vec![pick_first], shuffled.clone()),
        (vec![least(None)], drawn(2)),
        (
            vec![other.clone(), custom.clone(), least(Some(3))],
            drawn(3),
        ),
        (vec![custom.clone(), ring], rings(1024, 8 << 20)),
        (
            vec![typed_struct(
                "ring_hash_experimental",
                json("minRingSize", Kind::NumberValue(7.0)),
            )],
            rings(7, 8 << 20),
        ),
        (vec![Any::pack(&Random::default())], Ok(LbPolicy::Random)),
        (
            vec![Any::pack(&Maglev::default())],
            Ok(LbPolicy::Maglev { table_size: 65_537 }),
        ),
        (
            vec![wrr(&[other.clone(), round_robin.clone()])],
            Ok(LbPolicy::round_robin()),
        ),
        (vec![typed_struct("pick_first", shuffle)], shuffled),
        (
            vec![typed_struct("round_robin", Struct::default())],
            Ok(LbPolicy::RoundRobin),
        ),
        (vec![choices(4.0)], drawn(4)),
        (vec![choices(2.5)], Err("must be a whole number")),
        (vec![choices(-1.0)], Err("must be a whole number")),
        (
            vec![typed_struct(
                "pick_first",
                json("shuffleAddressList", Kind::NumberValue(1.0)),
            )],
            Err("must be a boolean"),
        ),
        // The first supported one decides even if it is wrong.
        (
            vec![least(Some(1)), round_robin.clone()],
            Err("1 is out of range"),
        ),
        (
            vec![wrr(std::slice::from_ref(&other)), round_robin],
            Err("none of the policies"),
        ),
        (
            vec![other, custom],
            Err("none of the policies is supported: org.Other, org.Custom"),
        ),
        (vec![], Err("names no policy")),
        (vec![nested(15)], Ok(wrapped(15))),
        (vec![nested(16)], Err("policies are nested")),
    ];
    for (i, (configs, expected)) in cases.into_iter().enumerate() {
        let wire = Wire {
            load_balancing_policy: Some(list(&configs)),
            // The list wins over the enum.
            lb_policy: 2,
            ..base()
        };
        match (read(TYPE, &wire), expected) {
            (Ok(Resource::Cluster(found)), Ok(policy)) => {
                assert_eq!(found.lb_policy, policy, "case {i}");
            }
            (Err(found), Err(text)) => assert!(found.contains(text), "case {i}: {found}"),
            (found, expected) => panic!("case {i}: expected {expected:?}, found {found:?}"),
        }
    }
}

/// Takes any configuration but one with the key `wrong`.
#[derive(Debug)]
struct Own;

impl RegisteredPolicy for Own {
    fn name(&self) -> &str {
        "org.Own"
    }

    fn check(&self, config: &str) -> std::result::Result<(), String> {
        match config.contains("wrong") {
            true => Err("there is a key `wrong`".into()),
            false => Ok(()),
        }
    }
}

type Expected = std::result::Result<LbPolicy, &'static str>;

fn object<const N: usize>(fields: [(&str, Kind); N]) -> Struct {
    let fields = fields.map(|(key, kind)| (key.to_owned(), Value { kind: Some(kind) }));
    Struct {
        fields: fields.into(),
    }
}

fn values<const N: usize>(kinds: [Kind; N]) -> Kind {
    let values = kinds.map(|kind| Value { kind: Some(kind) });
    Kind::ListValue(ListValue {
        values: values.into(),
    })
}

#[test]
fn a_policy_of_the_process_is_found_by_name_and_checks_its_configuration() {
    let own = |config: &str| {
        Ok(LbPolicy::Custom(CustomPolicy {
            name: "org.Own".into(),
            config: config.into(),
            registered: None,
        }))
    };
    let number = |n| Kind::NumberValue(n);
    let known = Context {
        custom_policies: Some(vec![Arc::new(Own)]),
        ..Context::default()
    };
    let nobody = Context {
        custom_policies: Some(Vec::new()),
        ..Context::default()
    };
    let unknown = Context::default();
    let round_robin = Any::pack(&RoundRobin::default());
    let empty = typed_struct("org.Own", Struct::default());
    let full = object([
        ("b", number(3.0)),
        (
            "a",
            values([number(0.5), Kind::NullValue(0), Kind::BoolValue(true)]),
        ),
        (
            "c",
            Kind::StructValue(object([("d", Kind::StringValue("e".into()))])),
        ),
    ]);
    let full = typed_struct("org.Own", full);
    let wrong = typed_struct("org.Own", object([("wrong", number(1.0))]));
    let other = typed_struct("org.Other", Struct::default());
    let child = |name: &str| {
        let config = object([(name, Kind::StructValue(Struct::default()))]);
        let list = values([Kind::StructValue(config)]);
        typed_struct("wrr_locality_experimental", object([("childPolicy", list)]))
    };
    let inside = |policy: Expected| policy.map(LbPolicy::by_locality);
    let cases: [(&Context, &[&Any], Expected); 16] = [
        (&known, &[&empty], own("{}")),
        (
            &known,
            &[&full],
            own(r#"{"a":[0.5,null,true],"b":3,"c":{"d":"e"}}"#),
        ),
        (&known, &[&other, &empty], own("{}")),
        (
            &known,
            &[&wrong, &round_robin],
            Err("refuses it: there is a key `wrong`"),
        ),
        (
            &known,
            &[&other],
            Err("none of the policies is supported: org.Other"),
        ),
        (
            &nobody,
            &[&empty],
            Err("none of the policies is supported: org.Own"),
        ),
        (&nobody, &[&empty, &round_robin], Ok(LbPolicy::RoundRobin)),
        // A tool does not know which policies processes have.
        (&unknown, &[&empty], own("{}")),
        (&unknown, &[&wrong], own(r#"{"wrong":1}"#)),
        (&unknown, &[&empty, &round_robin], Ok(LbPolicy::RoundRobin)),
        // In localities, in either spelling.
        (
            &known,
            &[&wrr(std::slice::from_ref(&empty))],
            inside(own("{}")),
        ),
        (&known, &[&child("org.Own")], inside(own("{}"))),
        (
            &nobody,
            &[&child("round_robin")],
            Ok(LbPolicy::round_robin()),
        ),
        (
            &nobody,
            &[&child("org.Own")],
            Err("none of the policies is supported: org.Own"),
        ),
        (
            &nobody,
            &[&typed_struct(
                "wrr_locality_experimental",
                Struct::default(),
            )],
            Err("childPolicy: must be a list of policies"),
        ),
        (
            &nobody,
            &[&typed_struct(
                "wrr_locality_experimental",
                object([("childPolicy", values([number(1.0)]))]),
            )],
            Err("childPolicy[0]: must be an object"),
        ),
    ];
    for (i, (cx, configs, expected)) in cases.into_iter().enumerate() {
        let configs: Vec<_> = configs.iter().map(|any| (*any).clone()).collect();
        let wire = Wire {
            load_balancing_policy: Some(list(&configs)),
            ..base()
        };
        match (read_in(cx, TYPE, &wire), expected) {
            (Ok(Resource::Cluster(found)), Ok(policy)) => {
                assert_eq!(found.lb_policy, policy, "case {i}");
                // What is written down is read again.
                let again = codec::encode(&Resource::Cluster(found.clone()));
                let again = codec::decode(TYPE, &again, cx).expect("it has a name");
                assert_eq!(again.result, Ok(Resource::Cluster(found)), "case {i}");
            }
            (Err(found), Err(text)) => assert!(found.contains(text), "case {i}: {found}"),
            (found, expected) => panic!("case {i}: expected {expected:?}, found {found:?}"),
        }
    }
}

fn balanced(change: impl Fn(&mut CommonLbConfig)) -> Wire {
    let mut config = CommonLbConfig::default();
    change(&mut config);
    Wire {
        common_lb_config: Some(config),
        ..base()
    }
}

#[test]
fn the_own_zone_is_preferred_by_the_cluster_or_by_the_policy() {
    let by_cluster = |percent: Option<f64>, min_cluster_size| {
        balanced(|config| {
            let zone_aware = ZoneAwareLbConfig {
                routing_enabled: percent.map(|value| Percent { value }),
                min_cluster_size,
                fail_traffic_on_panic: false,
            };
            let specifier = LocalityConfigSpecifier::ZoneAwareLbConfig(zone_aware);
            config.locality_config_specifier = Some(specifier);
        })
    };
    let aware = |policy, parts, min_endpoints| {
        LbPolicy::ZoneAware(Box::new(ZoneAware {
            policy,
            share: PerMillion::new(parts),
            min_endpoints,
        }))
    };
    let with = |change: &dyn Fn(&mut Wire)| {
        let mut wire = by_cluster(None, Some(1));
        change(&mut wire);
        wire
    };
    let listed = |any: Any| {
        with(&|wire| wire.load_balancing_policy = Some(list(std::slice::from_ref(&any))))
    };
    let own = own::LocalityConfigSpecifier::ZoneAwareLbConfig(own::ZoneAwareLbConfig {
        min_cluster_size: Some(3),
        ..Default::default()
    });
    let own = Some(LocalityLbConfig {
        locality_config_specifier: Some(own),
    });
    let least = Any::pack(&LeastRequest {
        choice_count: Some(4),
        locality_lb_config: own,
        ..Default::default()
    });
    let random = Any::pack(&Random {
        locality_lb_config: own,
    });
    let round = RoundRobin {
        locality_lb_config: own,
        ..Default::default()
    };
    let four = LbPolicy::LeastRequest { choice_count: 4 };
    let cases = [
        (
            by_cluster(None, None),
            aware(LbPolicy::RoundRobin, 1_000_000, 6),
        ),
        (
            by_cluster(Some(12.5), Some(0)),
            aware(LbPolicy::RoundRobin, 125_000, 0),
        ),
        (
            by_cluster(Some(f64::NAN), None),
            aware(LbPolicy::RoundRobin, 0, 6),
        ),
        (
            by_cluster(Some(1e9), None),
            aware(LbPolicy::RoundRobin, 1_000_000, 6),
        ),
        (
            with(&|wire| wire.lb_policy = 3),
            aware(LbPolicy::Random, 1_000_000, 1),
        ),
        // It is a choice among localities: a list over all of them makes none.
        (
            listed(Any::pack(&RoundRobin::default())),
            LbPolicy::RoundRobin,
        ),
        (listed(wrr(&[Any::pack(&PickFirst::default())])), {
            aware(LbPolicy::PickFirst { shuffle: false }, 1_000_000, 1)
        }),
        (listed(least), aware(four, 1_000_000, 3)),
        (listed(random), aware(LbPolicy::Random, 1_000_000, 3)),
        (listed(wrr(&[Any::pack(&round)])), {
            aware(aware(LbPolicy::RoundRobin, 1_000_000, 3), 1_000_000, 1)
        }),
    ];
    for (wire, expected) in cases {
        let found = decoded(&wire);
        assert_eq!(found.lb_policy, expected);
        let found = Resource::Cluster(Arc::new(found));
        let again = codec::decode(TYPE, &codec::encode(&found), &Context::default());
        assert_eq!(again.expect("it has a name").result, Ok(found));
    }
}

#[test]
fn the_panic_threshold_is_a_percentage_and_off_unless_said() {
    assert_eq!(decoded(&base()).panic_threshold, 0);
    for (value, expected) in [(0.0, 0), (49.9, 49), (100.0, 100), (1e9, 100), (-1.0, 0)] {
        let wire = balanced(|config| config.healthy_panic_threshold = Some(Percent { value }));
        let found = decoded(&wire);
        assert_eq!(found.panic_threshold, expected);
        assert_eq!(ignored(TYPE, &wire), [""; 0]);
        let found = Resource::Cluster(Arc::new(found));
        let again = codec::decode(TYPE, &codec::encode(&found), &Context::default());
        assert_eq!(again.expect("it has a name").result, Ok(found));
    }
}

#[test]
fn what_is_not_honoured_of_the_common_configuration_is_said() {
    let wire = balanced(|config| {
        config.locality_config_specifier = Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
            LocalityWeightedLbConfig {},
        ));
        config.update_merge_window = Some(Default::default());
        config.ignore_new_hosts_until_first_hc = true;
        config.close_connections_on_host_set_change = true;
    });
    let fields = [
        "common_lb_config.locality_weighted_lb_config",
        "common_lb_config.update_merge_window",
        "common_lb_config.ignore_new_hosts_until_first_hc",
        "common_lb_config.close_connections_on_host_set_change",
    ];
    assert_eq!(ignored(TYPE, &wire), fields);
}

#[test]
fn policies_in_json_count_as_levels_too() {
    // Deeper JSON is beyond what protobuf nests.
    let depth = 5;
    let nested = |around: usize| {
        let leaf = ("round_robin", Struct::default());
        let (name, config) = (0..depth).fold(leaf, |(name, config), _| {
            let child = object([(name, Kind::StructValue(config))]);
            let list = values([Kind::StructValue(child)]);
            ("wrr_locality_experimental", object([("childPolicy", list)]))
        });
        let whole = (0..around).fold(typed_struct(name, config), |any, _| wrr(&[any]));
        Wire {
            load_balancing_policy: Some(list(&[whole])),
            ..base()
        }
    };
    assert!(read(TYPE, &nested(10)).is_ok());
    let error = read(TYPE, &nested(11)).expect_err("too deep");
    assert!(error.contains("policies are nested"), "{error}");
}

#[test]
fn a_policy_without_configuration_is_passed_over() {
    let with = |policies: &[Any]| {
        let mut list = list(policies);
        list.policies[0].typed_extension_config = None;
        Wire {
            load_balancing_policy: Some(list),
            ..base()
        }
    };
    let pick_first = Any::pack(&PickFirst::default());
    assert_eq!(
        decoded(&with(&[Any::default(), pick_first])).lb_policy,
        LbPolicy::PickFirst { shuffle: false }
    );
    let error = read(TYPE, &with(&[Any::default()])).expect_err("nothing is left");
    assert_eq!(error, "load_balancing_policy.policies: names no policy");
}

#[test]
fn an_endpoint_has_as_many_connections_as_its_first_default_threshold_says() {
    let per_host = |thresholds: &[(RoutingPriority, Option<u32>)]| {
        let thresholds = thresholds.iter().map(|(priority, most)| Thresholds {
            priority: *priority as i32,
            max_connections: *most,
            ..Default::default()
        });
        Wire {
            circuit_breakers: Some(CircuitBreakers {
                per_host_thresholds: thresholds.collect(),
                ..Default::default()
            }),
            ..base()
        }
    };
    use RoutingPriority::{Default as Normal, High};
    let cases: &[(&[_], u32)] = &[
        (&[], 1),
        (&[(High, Some(7))], 1),
        (&[(High, Some(0)), (Normal, Some(3))], 3),
        (&[(Normal, None), (Normal, Some(3))], 1),
        (&[(Normal, Some(u32::MAX))], u32::MAX),
    ];
    for (thresholds, expected) in cases {
        let cluster = decoded(&per_host(thresholds));
        assert_eq!(cluster.max_connections_per_endpoint, *expected);
    }
    let error = read(TYPE, &per_host(&[(High, None), (Normal, Some(0))]));
    assert_eq!(
        error.expect_err("0 is no number of connections"),
        "circuit_breakers.per_host_thresholds[1].max_connections: 0 is out of range, expected at least 1"
    );
}

#[test]
fn the_first_default_threshold_limits() {
    let threshold = |priority, max_requests| Thresholds {
        priority: priority as i32,
        max_requests,
        ..Default::default()
    };
    use RoutingPriority::{Default as Normal, High};
    let cases = [
        (vec![], 1024),
        (vec![threshold(High, Some(1))], 1024),
        (
            vec![threshold(High, Some(1)), threshold(Normal, Some(2))],
            2,
        ),
        (
            vec![threshold(Normal, None), threshold(Normal, Some(2))],
            1024,
        ),
        (vec![threshold(Normal, Some(0))], 0),
    ];
    for (thresholds, expected) in cases {
        let wire = Wire {
            circuit_breakers: Some(CircuitBreakers {
                thresholds,
                ..Default::default()
            }),
            ..base()
        };
        assert_eq!(decoded(&wire).max_requests, expected);
    }
}

#[test]
fn which_rules_of_outlier_detection_are_on() {
    fn rules(wire: OutlierDetection) -> crate::resource::OutlierDetection {
        let wire = Wire {
            outlier_detection: Some(wire),
            ..base()
        };
        decoded(&wire).outlier_detection.expect("it was there")
    }
    let unsaid = rules(OutlierDetection::default());
    let expected = crate::resource::OutlierDetection {
        success_rate: Some(crate::resource::SuccessRate::default()),
        ..Default::default()
    };
    assert_eq!(unsaid, expected, "gRPC's defaults: no rows of failures");
    let off = rules(OutlierDetection {
        enforcing_success_rate: Some(0),
        // Of no effect without its share.
        failure_percentage_threshold: Some(50),
        consecutive_5xx: Some(0),
        consecutive_gateway_failure: Some(5),
        base_ejection_time: Some(wire_duration(Duration::from_secs(400))),
        ..Default::default()
    });
    assert!(!off.has_rules(), "{off:?}");
    assert_eq!(off.max_ejection_time, Duration::from_secs(400));
    let on = rules(OutlierDetection {
        enforcing_failure_percentage: Some(50),
        consecutive_5xx: Some(3),
        enforcing_consecutive_5xx: Some(200),
        consecutive_gateway_failure: Some(2),
        enforcing_consecutive_gateway_failure: Some(90),
        ..Default::default()
    });
    let run = |count, enforcing| Some(crate::resource::FailureRun { count, enforcing });
    assert_eq!(on.consecutive_failures, run(3, 100));
    assert_eq!(on.consecutive_gateway_failures, run(2, 90));
    assert_eq!(on.failure_percentage.map(|f| f.enforcing), Some(50));
}

#[test]
fn outlier_detection_and_load_reports() {
    fn detection(change: fn(&mut OutlierDetection)) -> impl Fn(&mut Wire) {
        move |wire| change(wire.outlier_detection.insert(OutlierDetection::default()))
    }
    fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }
    check(
        TYPE,
        &base(),
        &[
            ("", &detection(|d| d.interval = seconds(10, 0))),
            (
                "outlier_detection.interval: -1s",
                &detection(|d| d.interval = seconds(-1, 0)),
            ),
            (
                "outlier_detection.base_ejection_time: 0s 1000000000ns",
                &detection(|d| d.base_ejection_time = seconds(0, 1_000_000_000)),
            ),
            (
                "outlier_detection.max_ejection_time",
                &detection(|d| d.max_ejection_time = seconds(0, -1)),
            ),
            ("", &detection(|d| d.max_ejection_percent = Some(100))),
            (
                "outlier_detection.max_ejection_percent: 101",
                &detection(|d| d.max_ejection_percent = Some(101)),
            ),
            (
                "outlier_detection.enforcing_success_rate",
                &detection(|d| d.enforcing_success_rate = Some(101)),
            ),
            (
                "outlier_detection.failure_percentage_threshold",
                &detection(|d| d.failure_percentage_threshold = Some(101)),
            ),
            (
                "outlier_detection.enforcing_failure_percentage",
                &detection(|d| d.enforcing_failure_percentage = Some(101)),
            ),
            ("lrs_server: a load-report server", &|w| {
                w.lrs_server = Some(ads())
            }),
        ],
    );
}

#[test]
fn transport_security() {
    fn secured(change: impl Fn(&mut tls::UpstreamTlsContext)) -> impl Fn(&mut Wire) {
        move |wire| {
            let mut context = tls::UpstreamTlsContext {
                common_tls_context: Some(common()),
                ..Default::default()
            };
            change(&mut context);
            wire.transport_socket = Some(socket(Any::pack(&context)));
        }
    }
    fn socket(any: Any) -> core::TransportSocket {
        core::TransportSocket {
            name: "envoy.transport_sockets.tls".into(),
            config_type: Some(core::transport_socket::ConfigType::TypedConfig(any)),
        }
    }
    check(
        TYPE,
        &base(),
        &[
            ("", &secured(|_| ())),
            ("transport_socket.typed_config: \"type", &|w| {
                w.transport_socket = Some(socket(Any::pack(&RoundRobin::default())));
            }),
            ("transport_socket.typed_config: is required", &|w| {
                w.transport_socket = Some(core::TransportSocket {
                    config_type: None,
                    ..socket(Any::default())
                });
            }),
            ("transport_socket.name: the transport socket \"\"", &|w| {
                w.transport_socket = Some(core::TransportSocket::default());
            }),
            (
                "transport_socket.name: the transport socket \"tls\"",
                &|w| {
                    secured(|_| ())(w);
                    if let Some(socket) = &mut w.transport_socket {
                        socket.name = "tls".into();
                    }
                },
            ),
            ("transport_socket_matcher: the field", &|w| {
                w.transport_socket_matcher = Some(Default::default());
            }),
            // The roots may stand in the older field beside names in the newer one.
            (
                "",
                &secured(|c| c.common_tls_context = Some(combined(Some("roots")))),
            ),
            (
                "transport_socket.typed_config.common_tls_context.combined_validation_context.default_validation_context.ca_certificate_provider_instance: is required",
                &secured(|c| c.common_tls_context = Some(combined(None))),
            ),
            (
                "transport_socket.typed_config.common_tls_context.combined_validation_context.validation_context_certificate_provider_instance.instance_name: the bootstrap has no",
                &secured(|c| c.common_tls_context = Some(combined(Some("other")))),
            ),
            // Which certificate we show is no matter of whom we trust.
            (
                "",
                &secured(|c| {
                    let common = c.common_tls_context.get_or_insert_default();
                    common.custom_tls_certificate_selector = Some(Default::default());
                }),
            ),
            (
                "transport_socket.typed_config.common_tls_context: is required",
                &secured(|c| c.common_tls_context = None),
            ),
            (
                "transport_socket.typed_config.common_tls_context.validation_context: is required",
                &secured(|c| c.common_tls_context = Some(tls::CommonTlsContext::default())),
            ),
            ("", &secured(|c| c.sni = "s".repeat(255))),
            (
                "transport_socket.typed_config.sni: 256",
                &secured(|c| c.sni = "s".repeat(256)),
            ),
            (
                "transport_socket.typed_config.auto_sni_san_validation: the field",
                &secured(|c| c.auto_sni_san_validation = true),
            ),
            ("transport_socket_matches: the field", &|w| {
                w.transport_socket_matches.push(Default::default());
            }),
        ],
    );
}

/// The least that a client needs.
fn common() -> tls::CommonTlsContext {
    let roots = tls::CertificateProviderPluginInstance {
        instance_name: "roots".into(),
        certificate_name: String::new(),
    };
    tls::CommonTlsContext {
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::ValidationContext(
                tls::CertificateValidationContext {
                    ca_certificate_provider_instance: Some(roots),
                    ..Default::default()
                },
            ),
        ),
        ..Default::default()
    }
}

/// Both contexts, one naming whom to accept and one (perhaps) whom to trust.
fn combined(roots: Option<&str>) -> tls::CommonTlsContext {
    use crate::wire::matcher::{StringMatcher, string_matcher::MatchPattern};
    let name = StringMatcher {
        match_pattern: Some(MatchPattern::Exact("a".into())),
        ignore_case: false,
    };
    let instance = |name: &str| tls::common_tls_context::CertificateProviderInstance {
        instance_name: name.into(),
        certificate_name: String::new(),
    };
    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(tls::CertificateValidationContext {
            match_subject_alt_names: vec![name],
            ..Default::default()
        }),
        validation_context_certificate_provider_instance: roots.map(instance),
        ..Default::default()
    };
    tls::CommonTlsContext {
        validation_context_type: Some(
            tls::common_tls_context::ValidationContextType::CombinedValidationContext(combined),
        ),
        ..Default::default()
    }
}

#[test]
fn fields_that_are_not_honoured_are_reported() {
    let wire = Wire {
        connect_timeout: Some(wire_duration(Duration::from_secs(1))),
        outlier_detection: Some(OutlierDetection {
            monitors: vec![TypedExtensionConfig::default()],
            consecutive_5xx: Some(5),
            enforcing_consecutive_5xx: Some(101),
            ..Default::default()
        }),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: Some(1),
                ..Default::default()
            }],
            ..Default::default()
        }),
        typed_extension_protocol_options: [(
            HTTP_OPTIONS.to_owned(),
            Any::pack(&HttpProtocolOptions::default()),
        )]
        .into(),
        ..base()
    };
    let expected = [
        "connect_timeout".to_owned(),
        format!("typed_extension_protocol_options[{HTTP_OPTIONS:?}].upstream_protocol_options"),
        "circuit_breakers.thresholds[0].max_connections".to_owned(),
        "outlier_detection.monitors".to_owned(),
        "outlier_detection.enforcing_consecutive_5xx".to_owned(),
    ];
    assert_eq!(ignored(TYPE, &wire), expected);
}

#[test]
fn envoy_and_older_grpc_find_what_they_need() {
    let instance = crate::resource::CertificateInstance {
        instance: "roots".into(),
        certificate_name: String::new(),
    };
    let wire = encode(&Cluster {
        tls: Some(crate::resource::UpstreamTls {
            roots: instance.clone(),
            identity: Some(instance),
            sans: Vec::new(),
        }),
        ..decoded(&base())
    });
    assert_eq!(
        wire.connect_timeout,
        Some(wire_duration(Duration::from_secs(5)))
    );
    let options = &wire.typed_extension_protocol_options[HTTP_OPTIONS];
    let options: HttpProtocolOptions = options.unpack().expect("HTTP options");
    assert_eq!(options, http2_options());

    let socket = wire.transport_socket.expect("the cluster has TLS");
    assert_eq!(socket.name, "envoy.transport_sockets.tls");
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = socket.config_type else {
        panic!("a socket has a configuration");
    };
    let context: tls::UpstreamTlsContext = any.unpack().expect("TLS context");
    let common = context.common_tls_context.expect("is always written");
    assert!(common.tls_certificate_provider_instance.is_some());
    assert!(
        common
            .tls_certificate_certificate_provider_instance
            .is_some()
    );
    use tls::common_tls_context::ValidationContextType::CombinedValidationContext;
    let Some(CombinedValidationContext(combined)) = common.validation_context_type else {
        panic!("both generations of fields only fit into the combined context");
    };
    let default = combined.default_validation_context.expect("is written");
    assert!(default.ca_certificate_provider_instance.is_some());
    assert!(
        combined
            .validation_context_certificate_provider_instance
            .is_some()
    );
}

#[test]
fn sessions_lead_to_the_states_that_are_named() {
    let with = |statuses: Option<Vec<HealthStatus>>| Wire {
        common_lb_config: statuses.map(|statuses| CommonLbConfig {
            override_host_status: Some(core::HealthStatusSet {
                statuses: statuses.into_iter().map(|s| s as i32).collect(),
            }),
            ..Default::default()
        }),
        ..base()
    };
    let states = |statuses| {
        let found = decoded(&with(statuses)).sessions;
        (found.unknown, found.healthy, found.draining)
    };
    assert_eq!(states(None), (true, true, false));
    assert_eq!(states(Some(vec![])), (false, false, false));
    let all = vec![HealthStatus::Healthy, HealthStatus::Draining];
    assert_eq!(ignored(TYPE, &with(Some(all.clone()))), [""; 0]);
    assert_eq!(states(Some(all)), (false, true, true));
    let more = vec![HealthStatus::Unknown, HealthStatus::Degraded];
    assert_eq!(
        ignored(TYPE, &with(Some(more.clone()))),
        ["common_lb_config.override_host_status.statuses"]
    );
    assert_eq!(states(Some(more)), (true, false, false));
}

#[test]
fn connections_for_sessions_live_as_long_as_the_options_say() {
    let options = |seconds| {
        let options = HttpProtocolOptions {
            common_http_protocol_options: Some(core::HttpProtocolOptions {
                idle_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        Wire {
            upstream_config: Some(TypedExtensionConfig {
                name: "http".into(),
                typed_config: Some(Any::pack(&options)),
            }),
            ..base()
        }
    };
    assert_eq!(
        decoded(&base()).sessions.idle_timeout,
        Duration::from_secs(3600)
    );
    assert_eq!(
        decoded(&options(60)).sessions.idle_timeout,
        Duration::from_secs(60)
    );
    assert_eq!(ignored(TYPE, &options(60)), [""; 0]);
    let found: String = read(TYPE, &options(-1)).expect_err("no time is negative");
    let place = "upstream_config.typed_config.common_http_protocol_options.idle_timeout";
    assert!(found.contains(place), "{found}");
    let other = Wire {
        upstream_config: Some(TypedExtensionConfig {
            name: "tcp".into(),
            typed_config: Some(Any::pack(&AggregateCluster::default())),
        }),
        ..base()
    };
    assert_eq!(ignored(TYPE, &other), ["upstream_config.typed_config"]);
}
