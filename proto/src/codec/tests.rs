//! What all types share: samples, round trips, wrappers, and bytes that nobody meant.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use prost_types::Struct;

use super::*;
use crate::resource::*;

/// Decodes a wire message: the resource, or the broken rule as `path: reason`.
pub(super) fn read<M: Name>(t: ResourceType, message: &M) -> Result<Resource, String> {
    let known = BTreeSet::from(["roots".to_owned(), "identity".to_owned()]);
    let cx = Context {
        certificate_providers: Some(known),
        custom_policies: Some(Vec::new()),
    };
    read_in(&cx, t, message)
}

/// The resource for a process of which this is known, or `path: reason`.
pub(super) fn read_in<M: Name>(
    cx: &Context,
    t: ResourceType,
    message: &M,
) -> Result<Resource, String> {
    let decoded = decode(t, &Any::pack(message), cx).expect("can be named");
    decoded
        .result
        .map_err(|e| format!("{}: {}", e.path, e.reason))
}

/// The fields of a wire message that are not honoured.
pub(super) fn ignored<M: Name>(t: ResourceType, message: &M) -> Vec<String> {
    let decoded = decode(t, &Any::pack(message), &Context::default()).expect("can be named");
    decoded.result.expect("is valid");
    decoded.ignored.into_iter().map(|i| i.path).collect()
}

/// What to expect of a change, and the change.
pub(super) type Case<'a, M> = (&'a str, &'a dyn Fn(&mut M));

/// Changes a valid message and checks what becomes of it. An expectation is the beginning of
/// `path: reason`; an empty one is acceptance.
pub(super) fn check<M: Name + Clone>(t: ResourceType, base: &M, cases: &[Case<'_, M>]) {
    read(t, base).expect("the base is valid");
    for (i, (expected, change)) in cases.iter().enumerate() {
        let mut message = base.clone();
        change(&mut message);
        match read(t, &message) {
            Ok(_) => assert!(expected.is_empty(), "case {i}: accepted, not {expected:?}"),
            Err(found) => assert!(
                !expected.is_empty() && found.starts_with(expected),
                "case {i}: expected {expected:?}, found {found:?}"
            ),
        }
    }
}

fn instance(name: &str) -> CertificateInstance {
    CertificateInstance {
        instance: name.into(),
        certificate_name: "name".into(),
    }
}

fn matchers() -> Vec<StringMatcher> {
    let text = |ignore_case| Text {
        value: "x.y".into(),
        ignore_case,
    };
    vec![
        StringMatcher::Exact(text(false)),
        StringMatcher::Prefix(text(true)),
        StringMatcher::Suffix(text(false)),
        StringMatcher::Contains(text(true)),
        StringMatcher::Regex(Pattern::new("a+").expect("compiles")),
    ]
}

fn cookie() -> SessionState {
    SessionState::Cookie(SessionCookie {
        name: "session".into(),
        path: "/p.S".into(),
        ttl: Duration::from_secs(90),
    })
}

fn overrides(filter: &str, state: Option<SessionState>) -> FilterOverrides {
    [(filter.to_owned(), FilterConfig::StatefulSession(state))].into()
}

fn routes(name: &str) -> RouteConfiguration {
    let mut conditions: Vec<_> = matchers().into_iter().map(HeaderCondition::Value).collect();
    conditions.push(HeaderCondition::Range(-3..7));
    conditions.push(HeaderCondition::Present(false));
    let headers = conditions.into_iter().map(|condition| HeaderMatcher {
        name: "x-header".into(),
        condition,
        invert: true,
    });
    let forward = Forward {
        clusters: vec![
            WeightedCluster {
                overrides: overrides("a", Some(cookie())),
                subset: labels(&[("stage", "canary")]),
                ..WeightedCluster::new("a", 1)
            },
            WeightedCluster::new("b", 99),
        ],
        max_stream_duration: Some(Duration::from_millis(1500)),
        grpc_timeout_header_max: Some(Duration::ZERO),
        hash_policies: Vec::new(),
        retry: Some(RetryPolicy {
            on: RetryOn::parse("unavailable,internal"),
            max_attempts: 4,
            base_interval: Duration::from_millis(1),
            max_interval: Duration::from_secs(1),
        }),
    };
    let plain = Forward {
        clusters: vec![WeightedCluster {
            overrides: overrides("sessions", None),
            subset: labels(&[("stage", "prod")]),
            ..WeightedCluster::new("a", 1)
        }],
        max_stream_duration: None,
        grpc_timeout_header_max: None,
        retry: None,
        hash_policies: Vec::new(),
    };
    let route = |path, headers, fraction, action| Route {
        name: "route".into(),
        matches: RouteMatch {
            path,
            headers,
            fraction,
        },
        action,
    };
    let any_case = Text {
        value: "/p.S/M".into(),
        ignore_case: true,
    };
    let pattern = Pattern::new("/p\\..*").expect("compiles");
    RouteConfiguration {
        name: name.into(),
        virtual_hosts: vec![
            VirtualHost {
                name: "first".into(),
                domains: vec!["a.b".into(), "*.b".into(), "a.*".into(), "*".into()],
                routes: vec![
                    route(
                        PathMatcher::Exact(any_case),
                        headers.collect(),
                        Some(PerMillion::new(123_456)),
                        RouteAction::Forward(forward),
                    ),
                    route(
                        PathMatcher::Regex(pattern),
                        Vec::new(),
                        None,
                        RouteAction::Forward(plain),
                    ),
                    route(
                        PathMatcher::Prefix(Text::exact("/x")),
                        Vec::new(),
                        None,
                        RouteAction::Unsupported,
                    ),
                    route(
                        PathMatcher::Prefix(Text::exact("")),
                        Vec::new(),
                        Some(PerMillion::ALL),
                        RouteAction::NonForwarding,
                    ),
                ],
            },
            VirtualHost {
                name: "empty".into(),
                domains: vec!["c".into()],
                routes: Vec::new(),
            },
        ],
    }
}

fn http(routes: RouteSource) -> HttpConnectionManager {
    HttpConnectionManager {
        routes,
        max_stream_duration: Some(Duration::from_secs(30)),
        filters: vec![HttpFilter {
            name: "router".into(),
            config: FilterConfig::Router,
        }],
    }
}

/// Istio's clients have a filter before the router; servers have none.
fn client_http(routes: RouteSource) -> HttpConnectionManager {
    let mut http = http(routes);
    http.filters.insert(
        0,
        HttpFilter {
            name: "envoy.filters.http.fault".into(),
            config: FilterConfig::NoFault,
        },
    );
    let states = [
        None,
        Some(cookie()),
        Some(SessionState::Header {
            name: "x-session".into(),
        }),
    ];
    for (i, state) in states.into_iter().enumerate() {
        let name = format!("sessions {i}");
        let config = FilterConfig::StatefulSession(state);
        http.filters.insert(0, HttpFilter { name, config });
    }
    http
}

fn server() -> ServerListener {
    let tls = DownstreamTls {
        identity: instance("identity"),
        roots: Some(instance("roots")),
        require_client_certificate: true,
    };
    let range = |ip: &str, len| CidrRange::new(ip.parse().expect("is an IP address"), len);
    let chain = |name: &str, matches, tls| FilterChain {
        name: name.into(),
        matches,
        tls,
        http: http(RouteSource::Named("inbound".into())),
    };
    let everything = FilterChainMatch {
        destination_port: None,
        prefix_ranges: vec![range("10.0.0.0", 8), range("::", 0)],
        server_names: vec!["a".into()],
        transport_protocol: TransportProtocol::Other("quic".into()),
        application_protocols: vec!["h2".into()],
        source_type: SourceType::External,
        source_prefix_ranges: vec![range("127.0.0.1", 32)],
        source_ports: vec![1, 65535],
    };
    let only = |transport_protocol| FilterChainMatch {
        transport_protocol,
        ..FilterChainMatch::default()
    };
    let plain_identity = DownstreamTls {
        identity: instance("identity"),
        roots: None,
        require_client_certificate: false,
    };
    ServerListener {
        address: SocketAddr::from(([0, 0, 0, 0], 8443)),
        filter_chains: vec![
            chain("all", everything, Some(tls)),
            chain("tls", only(TransportProtocol::Tls), Some(plain_identity)),
            chain("plain", only(TransportProtocol::RawBuffer), None),
        ],
        default_filter_chain: Some(chain("", FilterChainMatch::default(), None)),
    }
}

fn cluster(name: &str, discovery: Discovery, lb_policy: LbPolicy) -> Cluster {
    Cluster {
        lb_policy,
        ..Cluster::new(name, discovery)
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

/// Subsets that say all that can be said, by keys that nothing else has.
fn subsets(policy: LbPolicy) -> Subsets {
    let selector = |fallback, keys: &[&str]| SubsetSelector {
        fallback,
        single_endpoint: keys.len() == 1,
        ..SubsetSelector::by(keys)
    };
    let to = |to| Some(SelectorFallback::To(to));
    let left = ["stage".into()].into();
    let one = LabelValue::Number(Finite::new(1.5).unwrap());
    let list = LabelValue::List([LabelValue::Null, LabelValue::Bool(true)].into());
    Subsets {
        fallback: SubsetFallback::Default,
        default: [
            ("stage", "prod".into()),
            ("shard", one),
            ("zones", list),
            ("of", LabelValue::Object(labels(&[("a", "b")]))),
        ]
        .into_iter()
        .collect(),
        panic_any: true,
        list_as_any: true,
        by_list: true,
        ..Subsets::new(
            policy,
            vec![
                selector(None, &["a"]),
                selector(to(SubsetFallback::Nowhere), &["b"]),
                selector(to(SubsetFallback::Any), &["c"]),
                selector(to(SubsetFallback::Default), &["stage"]),
                selector(Some(SelectorFallback::Keys(left)), &["stage", "shard"]),
            ],
        )
    }
}

fn clusters() -> Vec<Cluster> {
    let eds = |name: &str| Discovery::Eds {
        service_name: name.into(),
    };
    let dns = Discovery::LogicalDns {
        host: "example.com".into(),
        port: 443,
        lookup: DnsLookup::default(),
        labels: labels(&[("stage", "prod")]),
    };
    let named = |host: &str, weight| NamedEndpoint {
        host: host.into(),
        port: 80,
        weight,
        health: Health::Healthy,
        labels: labels(&[("shard", host)]),
    };
    let strict = Discovery::StrictDns {
        localities: vec![NamedLocality {
            locality: Locality {
                zone: "z".into(),
                ..Locality::default()
            },
            priority: 1,
            weight: 3,
            endpoints: vec![named("a.example", 1), named("192.0.2.1", 2)],
        }],
        lookup: DnsLookup {
            refresh: Duration::from_millis(1500),
            families: AddressFamilies::V4Preferred,
        },
    };
    let aggregate = Discovery::Aggregate {
        clusters: vec!["a".into(), "b".into()],
    };
    let tls = |identity| UpstreamTls {
        roots: instance("roots"),
        identity,
        sans: matchers(),
    };
    vec![
        cluster("a", eds("a"), LbPolicy::round_robin()),
        cluster(
            "b",
            eds("other"),
            LbPolicy::LeastRequest { choice_count: 10 }.by_locality(),
        ),
        cluster("c", dns, LbPolicy::PickFirst { shuffle: true }),
        cluster("names", strict, LbPolicy::round_robin()),
        cluster("d", aggregate, LbPolicy::PickFirst { shuffle: false }),
        Cluster {
            tls: Some(tls(Some(instance("identity")))),
            max_requests: 0,
            max_connections_per_endpoint: 5,
            ..cluster("e", eds("e"), LbPolicy::LeastRequest { choice_count: 2 })
        },
        Cluster {
            tls: Some(tls(None)),
            max_requests: 7,
            outlier_detection: Some(OutlierDetection::default()),
            sessions: SessionHosts {
                unknown: false,
                draining: true,
                idle_timeout: Duration::from_secs(60),
                ..SessionHosts::default()
            },
            ..cluster("f", eds("f"), LbPolicy::round_robin())
        },
        cluster(
            "subsets",
            eds("subsets"),
            LbPolicy::Subsets(Box::new(Subsets {
                scale_locality_weight: true,
                ..subsets(LbPolicy::round_robin())
            })),
        ),
        cluster(
            "subsets-listed",
            eds("subsets"),
            LbPolicy::Subsets(Box::new(Subsets {
                redundant_keys: true,
                ..subsets(LbPolicy::RoundRobin)
            })),
        ),
        cluster(
            "s",
            eds("s"),
            LbPolicy::RandomSubset {
                size: 20,
                child: Box::new(LbPolicy::LeastRequest { choice_count: 2 }.by_locality()),
            },
        ),
        Cluster {
            outlier_detection: Some(OutlierDetection {
                interval: Duration::from_millis(1500),
                base_ejection_time: Duration::from_secs(400),
                max_ejection_time: Duration::from_secs(500),
                max_ejection_percent: 50,
                success_rate: Some(SuccessRate {
                    stdev_factor: 1,
                    enforcing: 2,
                    minimum_hosts: 3,
                    request_volume: 4,
                }),
                failure_percentage: Some(FailurePercentage {
                    threshold: 5,
                    enforcing: 6,
                    minimum_hosts: 7,
                    request_volume: 8,
                }),
                consecutive_failures: Some(FailureRun {
                    count: 9,
                    enforcing: 10,
                }),
                consecutive_gateway_failures: Some(FailureRun {
                    count: 11,
                    enforcing: 12,
                }),
            }),
            ..cluster("g", eds("g"), LbPolicy::round_robin())
        },
    ]
}

fn assignment() -> EndpointAssignment {
    let health = [
        Health::Unknown,
        Health::Healthy,
        Health::Unhealthy,
        Health::Draining,
        Health::Timeout,
        Health::Degraded,
    ];
    let tcp = |port| Address::Tcp(SocketAddr::from(([10, 0, 0, 1], port)));
    let endpoint = |(port, health)| Endpoint {
        addresses: vec![tcp(port), tcp(port + 100)],
        hostname: "host".into(),
        weight: u32::from(port),
        health,
        hash_key: Some("key".into()),
        labels: labels(&[("stage", "prod"), ("shard", "a")]),
    };
    let unix = Endpoint {
        addresses: vec![
            Address::Unix("/run/socket".into()),
            Address::Tcp(SocketAddr::from(([0; 16], 1))),
        ],
        hostname: String::new(),
        weight: 1,
        health: Health::Healthy,
        hash_key: None,
        labels: Labels::default(),
    };
    let locality = |zone: &str| Locality {
        region: "r".into(),
        zone: zone.into(),
        sub_zone: "s".into(),
    };
    EndpointAssignment {
        cluster: "a".into(),
        localities: vec![
            LocalityEndpoints {
                locality: locality("z1"),
                priority: 1,
                weight: 3,
                endpoints: (1..).zip(health).map(endpoint).collect(),
            },
            LocalityEndpoints {
                locality: locality("z1"),
                priority: 0,
                weight: u32::MAX,
                endpoints: vec![unix],
            },
            LocalityEndpoints {
                locality: Locality::default(),
                priority: 1,
                weight: 1,
                endpoints: Vec::new(),
            },
        ],
        drops: vec![DropCategory {
            category: "load".into(),
            share: PerMillion::new(5),
        }],
    }
}

/// One of everything that resources can say.
fn samples() -> Vec<Resource> {
    let listener = |name: &str, kind| {
        Resource::Listener(Arc::new(Listener {
            name: name.into(),
            kind,
        }))
    };
    let inline = RouteSource::Inline(Arc::new(routes("")));
    let unlimited = HttpConnectionManager {
        max_stream_duration: None,
        ..client_http(RouteSource::Named("routes".into()))
    };
    let mut all = vec![
        listener("inline", ListenerKind::Api(http(inline))),
        listener("named", ListenerKind::Api(unlimited)),
        listener("server", ListenerKind::Server(server())),
        Resource::RouteConfiguration(Arc::new(routes("routes"))),
        Resource::EndpointAssignment(Arc::new(assignment())),
        Resource::EndpointAssignment(Arc::new(EndpointAssignment {
            cluster: "nothing".into(),
            localities: Vec::new(),
            drops: Vec::new(),
        })),
    ];
    all.extend(
        clusters()
            .into_iter()
            .map(|c| Resource::Cluster(Arc::new(c))),
    );
    all
}

#[test]
fn what_is_encoded_decodes_to_the_same_and_nothing_of_it_is_ignored() {
    for resource in samples() {
        let any = encode(&resource);
        let decoded = decode(resource.resource_type(), &any, &Context::default());
        let decoded = decoded.expect("can be named");
        assert_eq!(decoded.name, resource.name());
        assert_eq!(decoded.result.as_ref(), Ok(&resource));
        assert_eq!(decoded.ignored, []);
    }
}

#[test]
fn equal_resources_have_equal_encodings() {
    for (a, b) in samples().iter().zip(&samples()) {
        assert_eq!(encode(a), encode(b));
    }
}

#[test]
fn a_wrapper_is_taken_off_once() {
    let resource = &samples()[3];
    let wrapper = |inner: Option<Any>| {
        Any::pack(&wire::discovery::Resource {
            name: "label".into(),
            resource: inner,
            ..Default::default()
        })
    };
    let cx = Context::default();
    let read = |any: &Any| decode(ResourceType::RouteConfiguration, any, &cx);
    let wrapped = wrapper(Some(encode(resource)));
    let decoded = read(&wrapped).expect("can be named");
    assert_eq!(decoded.name, "routes");
    assert_eq!(decoded.result.as_ref(), Ok(resource));
    assert!(matches!(read(&wrapper(None)), Err(Reason::Rule(_))));
    assert!(matches!(
        read(&wrapper(Some(wrapped))),
        Err(Reason::Unsupported(_))
    ));
}

#[test]
fn what_cannot_be_named_has_no_owner() {
    let t = ResourceType::Cluster;
    let cx = Context::default();
    let nameless = Any::pack(&wire::cluster::Cluster::default());
    assert!(matches!(decode(t, &nameless, &cx), Err(Reason::Rule(_))));
    let other = encode(&samples()[0]);
    assert!(matches!(
        decode(t, &other, &cx),
        Err(Reason::Unsupported(_))
    ));
    let broken = Any {
        type_url: t.type_url().into(),
        value: vec![0x0a, 0xff].into(),
    };
    assert!(matches!(
        decode(t, &broken, &cx),
        Err(Reason::Undecodable(_))
    ));
}

#[test]
fn an_invalid_resource_says_which_where_and_why() {
    let wire = wire::cluster::Cluster {
        name: "shop".into(),
        ..Default::default()
    };
    let decoded = decode(
        ResourceType::Cluster,
        &Any::pack(&wire),
        &Context::default(),
    );
    let error = decoded
        .expect("can be named")
        .result
        .expect_err("is invalid");
    assert_eq!(
        error.to_string(),
        "Cluster \"shop\": type: is required [SX0301]"
    );
}

/// Bytes that nobody meant are refused or accepted, and never bring the process down. The seed
/// of a failure is in its message; a run with the same one repeats it.
#[test]
fn mutated_encodings_never_panic() {
    let seed = fastrand::u64(..);
    let outcome = std::panic::catch_unwind(|| mutate(seed));
    assert!(outcome.is_ok(), "panicked with seed {seed}");
}

fn mutate(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let samples: Vec<(ResourceType, Vec<u8>)> = samples()
        .iter()
        .map(|r| (r.resource_type(), encode(r).value.to_vec()))
        .collect();
    let mut accepted = 0;
    for _ in 0..6000 {
        let (t, bytes) = &samples[random.usize(..samples.len())];
        let mut bytes = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len().max(1));
            match random.u8(..4) {
                0 if at < bytes.len() => bytes[at] = random.u8(..),
                1 if at < bytes.len() => _ = bytes.remove(at),
                2 => bytes.insert(at.min(bytes.len()), random.u8(..)),
                _ => bytes.truncate(at),
            }
        }
        let any = Any {
            type_url: t.type_url().into(),
            value: bytes.into(),
        };
        let Ok(decoded) = decode(*t, &any, &Context::default()) else {
            continue;
        };
        // What is accepted is a resource like any other.
        if let Ok(resource) = decoded.result {
            let again = decode(*t, &encode(&resource), &Context::default()).expect("has a name");
            assert_eq!(again.result.as_ref(), Ok(&resource));
            accepted += 1;
        }
    }
    assert!(accepted > 0, "no mutation was mild enough to be accepted");
}

#[test]
fn random_bytes_never_panic() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    for t in ResourceType::ALL {
        for _ in 0..500 {
            let len = random.usize(..64);
            let bytes: Vec<u8> = (0..len).map(|_| random.u8(..)).collect();
            let any = Any {
                type_url: t.type_url().into(),
                value: bytes.into(),
            };
            if let Ok(decoded) = decode(t, &any, &Context::default()) {
                assert!(!decoded.name.is_empty(), "seed {seed}");
            }
        }
    }
}

/// A `TypedStruct` around the name of a type, as an `Any`.
pub(super) fn typed_struct(inner: &str, value: Struct) -> Any {
    let message = wire::typed_struct::TypedStruct {
        type_url: format!("type.googleapis.com/{inner}"),
        value: Some(value),
    };
    Any {
        value: message.encode_to_vec().into(),
        ..Any::pack(&message)
    }
}
