use prost_types::{Struct, Value, value::Kind};

use super::*;
use crate::codec::tests::{check, ignored, read, typed_struct};
use crate::resource::{LbPolicy, Resource, ResourceType};
use crate::wire::cluster::{LoadBalancingPolicy, load_balancing_policy::Policy};
use crate::wire::core::TypedExtensionConfig;
use crate::wire::load_balancing::{
    ClientSideWeightedRoundRobin, LeastRequest, Maglev, PickFirst, Random, RingHash, RoundRobin,
    WrrLocality,
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
            let mut assignment = encode_host("a", "example.com", 443);
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
            ("type: STRICT_DNS", &|w| set_type(w, 1)),
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
                &dns(|a| *a = encode_host("a", "", 443)),
            ),
            (
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: 0",
                &dns(|a| *a = encode_host("a", "h", 0)),
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
        };
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

/// `depth` policies around round robin.
fn nested(depth: usize) -> Any {
    let inner = Any::pack(&RoundRobin::default());
    (0..depth).fold(inner, |any, _| wrr(&[any]))
}

#[test]
fn the_first_supported_policy_of_the_list_is_used() {
    let round_robin = Any::pack(&RoundRobin::default());
    let ring = Any::pack(&RingHash::default());
    let weighted = Any::pack(&ClientSideWeightedRoundRobin::default());
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
    let cases = [
        (vec![round_robin.clone()], Ok(LbPolicy::RoundRobin)),
        (vec![pick_first], shuffled),
        (vec![least(None)], drawn(2)),
        (
            vec![weighted.clone(), custom.clone(), least(Some(3))],
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
            vec![wrr(&[weighted.clone(), round_robin.clone()])],
            Ok(LbPolicy::RoundRobin),
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
            vec![wrr(std::slice::from_ref(&weighted)), round_robin],
            Err("none of the policies"),
        ),
        (
            vec![weighted, custom],
            Err("none of the policies is supported: \
                 envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.\
                 ClientSideWeightedRoundRobin, org.Custom"),
        ),
        (vec![], Err("names no policy")),
        (vec![nested(15)], Ok(LbPolicy::RoundRobin)),
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
        outlier_detection: Some(OutlierDetection::default()),
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
        "outlier_detection".to_owned(),
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
