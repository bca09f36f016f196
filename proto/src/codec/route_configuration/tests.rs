use std::time::Duration;

use super::*;
use crate::codec::tests::{Case, check, ignored, read, typed_struct};
use crate::resource::{
    Forward, HeaderCondition, PerMillion, Resource, ResourceType, RetryPolicy, RouteAction,
    StringMatcher, Text,
};
use crate::wire::Any;
use crate::wire::core::{RuntimeFractionalPercent, TypedExtensionConfig};
use crate::wire::http_filter::{FaultAbort, HttpFault, Router};
use crate::wire::matcher::{self, RegexMatcher, string_matcher::MatchPattern};
use crate::wire::number::{FractionalPercent, fractional_percent::DenominatorType};
use wire::header_matcher::HeaderMatchSpecifier as Header;
use wire::route_action::ClusterSpecifier;
use wire::route_match::PathSpecifier;

type Wire = wire::RouteConfiguration;

const TYPE: ResourceType = ResourceType::RouteConfiguration;

fn base() -> Wire {
    let host = |name: &str, domain: &str| wire::VirtualHost {
        name: name.into(),
        domains: vec![domain.into()],
        routes: vec![wire::Route {
            r#match: Some(wire::RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix(String::new())),
                ..Default::default()
            }),
            action: Some(wire::route::Action::Route(wire::RouteAction {
                cluster_specifier: Some(ClusterSpecifier::Cluster("a".into())),
                ..Default::default()
            })),
            ..Default::default()
        }],
        ..Default::default()
    };
    Wire {
        name: "routes".into(),
        virtual_hosts: vec![host("first", "a"), host("second", "*")],
        ..Default::default()
    }
}

fn decoded(wire: &Wire) -> RouteConfiguration {
    match read(TYPE, wire).expect("is valid") {
        Resource::RouteConfiguration(routes) => routes.as_ref().clone(),
        other => panic!("not routes: {other:?}"),
    }
}

fn first_route(wire: &mut Wire) -> &mut wire::Route {
    &mut wire.virtual_hosts[0].routes[0]
}

fn matches(wire: &mut Wire) -> &mut wire::RouteMatch {
    first_route(wire).r#match.as_mut().expect("base has one")
}

fn action(wire: &mut Wire) -> &mut wire::RouteAction {
    match &mut first_route(wire).action {
        Some(wire::route::Action::Route(action)) => action,
        other => panic!("base forwards: {other:?}"),
    }
}

fn forward(wire: &Wire) -> Forward {
    match &decoded(wire).virtual_hosts[0].routes[0].action {
        RouteAction::Forward(forward) => forward.clone(),
        other => panic!("base forwards: {other:?}"),
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.into(),
        ..Default::default()
    }
}

#[test]
fn virtual_hosts() {
    fn domains(domains: &[&str]) -> impl Fn(&mut Wire) {
        let domains: Vec<_> = domains.iter().map(ToString::to_string).collect();
        move |wire| wire.virtual_hosts[0].domains = domains.clone()
    }
    check(
        TYPE,
        &base(),
        &[
            ("", &|w| w.virtual_hosts.clear()),
            ("", &|w| w.virtual_hosts[0].routes.clear()),
            // Names are for people.
            ("", &|w| w.virtual_hosts[1].name = "first".into()),
            ("virtual_hosts[0].require_tls: the field", &|w| {
                w.virtual_hosts[0].require_tls = 1;
            }),
            ("virtual_hosts[0].route_specifiers: the field", &|w| {
                w.virtual_hosts[0].route_specifiers.push(Default::default());
            }),
            ("", &domains(&["a", "*.b", "b.*"])),
            ("virtual_hosts[0].domains: must not be empty", &domains(&[])),
            (
                "virtual_hosts[0].domains[1]: \"a\" appears twice",
                &domains(&["a", "A"]),
            ),
            (
                "virtual_hosts[1].domains[0]: \"*\" appears twice",
                &domains(&["*"]),
            ),
            (
                "virtual_hosts[0].domains[0]: \"\" is neither",
                &domains(&[""]),
            ),
            (
                "virtual_hosts[0].domains[0]: \"a*b\" is neither",
                &domains(&["a*b"]),
            ),
            (
                "virtual_hosts[0].domains[0]: \"*a*\" is neither",
                &domains(&["*a*"]),
            ),
            (
                "virtual_hosts[0].domains[0]: \"**\" is neither",
                &domains(&["**"]),
            ),
            ("virtual_hosts[0].matcher: the field", &|w| {
                w.virtual_hosts[0].matcher = Some(Default::default());
            }),
        ],
    );
}

#[test]
fn paths() {
    const AT: &str = "virtual_hosts[0].routes[0].match";
    let at = |rest: &str| format!("{AT}{rest}");
    fn path(specifier: PathSpecifier) -> impl Fn(&mut Wire) {
        move |wire| matches(wire).path_specifier = Some(specifier.clone())
    }
    check(
        TYPE,
        &base(),
        &[
            (&at(": is required"), &|w| first_route(w).r#match = None),
            (&at(".path_specifier: is required"), &|w| {
                matches(w).path_specifier = None
            }),
            ("", &path(PathSpecifier::Path("/a/b".into()))),
            ("", &path(PathSpecifier::SafeRegex(regex("/a/.*")))),
            (
                &at(".safe_regex: bad regular"),
                &path(PathSpecifier::SafeRegex(regex("a("))),
            ),
            ("", &path(PathSpecifier::SafeRegex(regex("")))),
            (
                &at(".path_specifier: this path condition"),
                &path(PathSpecifier::PathSeparatedPrefix("/a".into())),
            ),
            (
                &at(".path_specifier: this path condition"),
                &path(PathSpecifier::ConnectMatcher(Default::default())),
            ),
            // Conditions that nobody checks would widen the route.
            (&at(".tls_context: the field"), &|w| {
                matches(w).tls_context = Some(Default::default());
            }),
            (&at(".dynamic_metadata"), &|w| {
                matches(w).dynamic_metadata.push(Default::default())
            }),
            (&at(".filter_state"), &|w| {
                matches(w).filter_state.push(Default::default())
            }),
            (&at(".cookies"), &|w| {
                matches(w).cookies.push(Default::default())
            }),
            // Always true for gRPC.
            ("", &|w| matches(w).grpc = Some(Default::default())),
            (
                &at(".runtime_fraction.default_value.denominator: 8"),
                &|w| {
                    matches(w).runtime_fraction = Some(fraction(1, 8));
                },
            ),
        ],
    );
    let mut wire = base();
    matches(&mut wire).runtime_fraction = Some(fraction(25, 0));
    matches(&mut wire).case_sensitive = Some(false);
    let found = &decoded(&wire).virtual_hosts[0].routes[0].matches;
    assert_eq!(found.fraction, Some(PerMillion::new(250_000)));
    let any_case = Text {
        value: String::new(),
        ignore_case: true,
    };
    assert_eq!(found.path, crate::resource::PathMatcher::Prefix(any_case));
}

fn fraction(numerator: u32, denominator: i32) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator,
            denominator,
        }),
        ..Default::default()
    }
}

#[test]
fn headers() {
    fn header(name: &str, specifier: Option<Header>) -> impl Fn(&mut Wire) {
        let matcher = wire::HeaderMatcher {
            name: name.into(),
            header_match_specifier: specifier,
            ..Default::default()
        };
        move |wire| matches(wire).headers.push(matcher.clone())
    }
    fn string(pattern: Option<MatchPattern>) -> Option<Header> {
        Some(Header::StringMatch(matcher::StringMatcher {
            match_pattern: pattern,
            ignore_case: true,
        }))
    }
    const AT: &str = "virtual_hosts[0].routes[0].match.headers[0]";
    let at = |rest: &str| format!("{AT}{rest}");
    let custom = MatchPattern::Custom(Default::default());
    check(
        TYPE,
        &base(),
        &[
            ("", &header("x", Some(Header::PresentMatch(true)))),
            ("", &header("x", Some(Header::ExactMatch(String::new())))),
            (
                &at(".name: is required"),
                &header("", Some(Header::PresentMatch(true))),
            ),
            (&at(": is required"), &header("x", None)),
            (
                &at(".prefix_match: is req"),
                &header("x", Some(Header::PrefixMatch(String::new()))),
            ),
            (
                &at(".suffix_match: is req"),
                &header("x", Some(Header::SuffixMatch(String::new()))),
            ),
            (
                &at(".contains_match: is required"),
                &header("x", Some(Header::ContainsMatch(String::new()))),
            ),
            (
                &at(".safe_regex_match: bad regular"),
                &header("x", Some(Header::SafeRegexMatch(regex("[")))),
            ),
            (
                &at(".string_match: is required"),
                &header("x", string(None)),
            ),
            (
                "",
                &header("x", string(Some(MatchPattern::Exact(String::new())))),
            ),
            (
                &at(".string_match.prefix: is required"),
                &header("x", string(Some(MatchPattern::Prefix(String::new())))),
            ),
            (
                &at(".string_match.suffix: is required"),
                &header("x", string(Some(MatchPattern::Suffix(String::new())))),
            ),
            (
                &at(".string_match.contains: is required"),
                &header("x", string(Some(MatchPattern::Contains(String::new())))),
            ),
            (
                &at(".string_match.safe_regex: bad regular"),
                &header("x", string(Some(MatchPattern::SafeRegex(regex("["))))),
            ),
            (
                &at(".string_match.custom: a custom"),
                &header("x", string(Some(custom))),
            ),
            (&at(".treat_missing_header_as_empty: the field"), &|w| {
                matches(w).headers.push(wire::HeaderMatcher {
                    name: "x".into(),
                    treat_missing_header_as_empty: true,
                    ..Default::default()
                });
            }),
        ],
    );
    let mut wire = base();
    header("X-Y", Some(Header::PrefixMatch("p".into())))(&mut wire);
    let found = &decoded(&wire).virtual_hosts[0].routes[0].matches.headers[0];
    assert_eq!(found.name, "x-y");
    let expected = HeaderCondition::Value(StringMatcher::Prefix(Text::exact("p")));
    assert_eq!(found.condition, expected);
}

fn weighted(clusters: &[(&str, Option<u32>)]) -> impl Fn(&mut Wire) {
    let clusters = clusters
        .iter()
        .map(|(name, weight)| wire::weighted_cluster::ClusterWeight {
            name: name.to_string(),
            weight: *weight,
            ..Default::default()
        });
    let weighted = wire::WeightedCluster {
        clusters: clusters.collect(),
        ..Default::default()
    };
    move |wire| {
        let specifier = ClusterSpecifier::WeightedClusters(weighted.clone());
        action(wire).cluster_specifier = Some(specifier);
    }
}

#[test]
fn clusters() {
    const AT: &str = "virtual_hosts[0].routes[0].route";
    let at = |rest: &str| format!("{AT}{rest}");
    let specify = |specifier: ClusterSpecifier| {
        move |wire: &mut Wire| action(wire).cluster_specifier = Some(specifier.clone())
    };
    check(
        TYPE,
        &base(),
        &[
            (
                &at(".cluster: is required"),
                &specify(ClusterSpecifier::Cluster(String::new())),
            ),
            ("", &weighted(&[("a", Some(u32::MAX - 1)), ("b", Some(1))])),
            (
                &at(".weighted_clusters.clusters[1].weight: the weights"),
                &weighted(&[("a", Some(u32::MAX)), ("b", Some(1))]),
            ),
            (
                &at(".weighted_clusters.clusters: no cluster has a weight"),
                &weighted(&[("a", None), ("b", Some(0))]),
            ),
            (
                &at(".weighted_clusters.clusters: no cluster"),
                &weighted(&[]),
            ),
            (
                &at(".weighted_clusters.clusters[0].name: is required"),
                &weighted(&[("", Some(1))]),
            ),
            (
                &at(".weighted_clusters.clusters[0].cluster_header: the field"),
                &|w| {
                    let cluster = wire::weighted_cluster::ClusterWeight {
                        cluster_header: "x".into(),
                        weight: Some(1),
                        ..Default::default()
                    };
                    action(w).cluster_specifier =
                        Some(ClusterSpecifier::WeightedClusters(wire::WeightedCluster {
                            clusters: vec![cluster],
                            ..Default::default()
                        }));
                },
            ),
            (
                &at(".cluster_specifier_plugin: \"p\" is not declared"),
                &specify(ClusterSpecifier::ClusterSpecifierPlugin("p".into())),
            ),
            (
                "cluster_specifier_plugins[0].extension: the cluster specifier \"p\"",
                &|w| {
                    w.cluster_specifier_plugins.push(plugin("p", false));
                },
            ),
            (
                "cluster_specifier_plugins[0].extension: the cluster specifier \"\"",
                &|w| {
                    w.cluster_specifier_plugins.push(Default::default());
                },
            ),
            ("", &|w| {
                let unnamed = wire::ClusterSpecifierPlugin {
                    is_optional: true,
                    ..Default::default()
                };
                w.cluster_specifier_plugins = vec![plugin("p", true), plugin("p", true), unnamed];
            }),
            // Nothing of a cluster without weight is looked at.
            ("", &|w| {
                let with_override = |weight| wire::weighted_cluster::ClusterWeight {
                    name: "a".into(),
                    weight: Some(weight),
                    typed_per_filter_config: [("f".into(), Any::pack(&Router::default()))].into(),
                    ..Default::default()
                };
                let kept = wire::weighted_cluster::ClusterWeight {
                    typed_per_filter_config: Default::default(),
                    ..with_override(1)
                };
                action(w).cluster_specifier =
                    Some(ClusterSpecifier::WeightedClusters(wire::WeightedCluster {
                        clusters: vec![with_override(0), kept],
                        ..Default::default()
                    }));
            }),
            // gRPC reads no pattern as the empty one.
            ("", &|w| {
                use wire::route_action::hash_policy::{Header, PolicySpecifier};
                let header = Header {
                    header_name: "x".into(),
                    regex_rewrite: Some(Default::default()),
                };
                action(w).hash_policy.push(wire::route_action::HashPolicy {
                    policy_specifier: Some(PolicySpecifier::Header(header)),
                    terminal: false,
                });
            }),
            (
                &at(".hash_policy[0].header.regex_rewrite.pattern: bad regular"),
                &|w| {
                    use wire::route_action::hash_policy::{Header, PolicySpecifier};
                    let rewrite = matcher::RegexMatchAndSubstitute {
                        pattern: Some(regex("(")),
                        substitution: String::new(),
                    };
                    let header = Header {
                        header_name: "x".into(),
                        regex_rewrite: Some(rewrite),
                    };
                    action(w).hash_policy.push(wire::route_action::HashPolicy {
                        policy_specifier: Some(PolicySpecifier::Header(header)),
                        terminal: false,
                    });
                },
            ),
        ],
    );
    let mut wire = base();
    weighted(&[("a", Some(0)), ("b", Some(3))])(&mut wire);
    let names: Vec<_> = forward(&wire)
        .clusters
        .into_iter()
        .map(|c| (c.name, c.weight))
        .collect();
    assert_eq!(names, [("b".to_owned(), 3)]);
}

fn plugin(name: &str, is_optional: bool) -> wire::ClusterSpecifierPlugin {
    wire::ClusterSpecifierPlugin {
        extension: Some(TypedExtensionConfig {
            name: name.into(),
            typed_config: None,
        }),
        is_optional,
    }
}

#[test]
fn routes_that_grpc_skips_are_skipped_and_reported() {
    let skipping: [Case<'_, Wire>; 4] = [
        ("virtual_hosts[0].routes[0].match.query_parameters", &|w| {
            matches(w).query_parameters.push(Default::default());
            // What is never taken need not be right.
            matches(w).path_specifier = None;
        }),
        ("virtual_hosts[0].routes[0].route.cluster_specifier", &|w| {
            action(w).cluster_specifier = Some(ClusterSpecifier::ClusterHeader("x".into()));
        }),
        ("virtual_hosts[0].routes[0].route.cluster_specifier", &|w| {
            action(w).cluster_specifier = None;
        }),
        ("virtual_hosts[0].routes[0].route.cluster_specifier", &|w| {
            w.cluster_specifier_plugins.push(plugin("p", true));
            let specifier = ClusterSpecifier::ClusterSpecifierPlugin("p".into());
            action(w).cluster_specifier = Some(specifier);
        }),
    ];
    for (path, change) in skipping {
        let mut wire = base();
        change(&mut wire);
        let found = decoded(&wire);
        assert!(found.virtual_hosts[0].routes.is_empty());
        assert_eq!(found.virtual_hosts[1].routes.len(), 1);
        assert_eq!(ignored(TYPE, &wire), [path]);
    }
}

#[test]
fn actions_that_grpc_does_not_have_fail_calls_instead_of_being_skipped() {
    let redirect = wire::route::Action::Redirect(Default::default());
    for (wire_action, expected) in [
        (None, RouteAction::Unsupported),
        (Some(redirect), RouteAction::Unsupported),
        (
            Some(wire::route::Action::NonForwardingAction(Default::default())),
            RouteAction::NonForwarding,
        ),
    ] {
        let mut wire = base();
        first_route(&mut wire).action = wire_action;
        assert_eq!(decoded(&wire).virtual_hosts[0].routes[0].action, expected);
    }
}

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[test]
fn time_limits() {
    let limit = |limits: wire::route_action::MaxStreamDuration| {
        move |wire: &mut Wire| action(wire).max_stream_duration = Some(limits)
    };
    let zero = wire::route_action::MaxStreamDuration {
        max_stream_duration: seconds(0),
        grpc_timeout_header_max: seconds(7),
        ..Default::default()
    };
    let negative = wire::route_action::MaxStreamDuration {
        max_stream_duration: seconds(-1),
        ..Default::default()
    };
    let header = wire::route_action::MaxStreamDuration {
        grpc_timeout_header_max: seconds(i64::MAX),
        ..Default::default()
    };
    const AT: &str = "virtual_hosts[0].routes[0].route.max_stream_duration.";
    check(
        TYPE,
        &base(),
        &[
            ("", &limit(zero)),
            (&format!("{AT}max_stream_duration: -1s"), &limit(negative)),
            (&format!("{AT}grpc_timeout_header_max"), &limit(header)),
        ],
    );
    let mut wire = base();
    limit(zero)(&mut wire);
    let found = forward(&wire);
    // Zero of the route's own says "no limit" against the connection manager's.
    assert_eq!(found.max_stream_duration, Some(Duration::ZERO));
    assert_eq!(found.grpc_timeout_header_max, Some(Duration::from_secs(7)));
}

/// Envoy's default would end calls that gRPC clients let go on.
#[test]
fn envoy_is_told_to_have_no_limit_of_its_own() {
    let mut again = encode(&decoded(&base()));
    assert_eq!(action(&mut again).timeout, seconds(0));
    assert_eq!(ignored(TYPE, &again), [""; 0]);
}

fn retry_policy(on: &str) -> wire::RetryPolicy {
    wire::RetryPolicy {
        retry_on: on.into(),
        ..Default::default()
    }
}

fn backoff(base_ms: Option<i32>, max_ms: Option<i32>) -> Option<wire::retry_policy::RetryBackOff> {
    let duration = |ms: i32| prost_types::Duration {
        seconds: 0,
        nanos: ms * 1000,
    };
    Some(wire::retry_policy::RetryBackOff {
        base_interval: base_ms.map(duration),
        max_interval: max_ms.map(duration),
    })
}

#[test]
fn retries() {
    let policy = |change: fn(&mut wire::RetryPolicy)| {
        move |wire: &mut Wire| {
            let mut policy = retry_policy("unavailable");
            change(&mut policy);
            action(wire).retry_policy = Some(policy);
        }
    };
    const AT: &str = "virtual_hosts[0].routes[0].route.retry_policy.";
    let at = |rest: &str| format!("{AT}{rest}");
    check(
        TYPE,
        &base(),
        &[
            ("", &policy(|_| ())),
            (&at("num_retries: 0"), &policy(|p| p.num_retries = Some(0))),
            (
                "",
                &policy(|p| p.retry_back_off = backoff(Some(1000), None)),
            ),
            (
                &at("retry_back_off.base_interval: is required"),
                &policy(|p| p.retry_back_off = backoff(None, None)),
            ),
            (
                &at("retry_back_off.base_interval: 0s"),
                &policy(|p| p.retry_back_off = backoff(Some(0), None)),
            ),
            (
                &at("retry_back_off.max_interval: 0s"),
                &policy(|p| p.retry_back_off = backoff(Some(1), Some(0))),
            ),
            (
                &at("retry_back_off.max_interval: -1s"),
                &policy(|p| {
                    let backoff = p.retry_back_off.get_or_insert_default();
                    backoff.base_interval = seconds(1);
                    backoff.max_interval = seconds(-1);
                }),
            ),
            ("virtual_hosts[1].retry_policy.num_retries: 0", &|w| {
                w.virtual_hosts[1].retry_policy = Some(wire::RetryPolicy {
                    num_retries: Some(0),
                    ..Default::default()
                });
            }),
        ],
    );
}

#[test]
fn retry_defaults_and_bounds() {
    let read = |policy: wire::RetryPolicy| -> Option<RetryPolicy> {
        let mut wire = base();
        action(&mut wire).retry_policy = Some(policy);
        forward(&wire).retry
    };
    let found = read(retry_policy("5xx, Unavailable")).expect("one word counts");
    assert!(found.on.unavailable);
    assert_eq!(found.max_attempts, 2);
    assert_eq!(found.base_interval, Duration::from_millis(25));
    assert_eq!(found.max_interval, Duration::from_millis(250));

    let found = read(wire::RetryPolicy {
        num_retries: Some(u32::MAX),
        retry_back_off: backoff(Some(10), None),
        ..retry_policy("internal")
    });
    let found = found.expect("is a policy");
    assert_eq!(found.max_attempts, 5);
    // 10 µs and ten times that, both below the shortest delay.
    assert_eq!(found.base_interval, Duration::from_millis(1));
    assert_eq!(found.max_interval, Duration::from_millis(1));
    assert_eq!(read(retry_policy("5xx")), None);

    // The upper bound is one for the first delay as well, as in gRPC.
    let found = read(wire::RetryPolicy {
        retry_back_off: Some(wire::retry_policy::RetryBackOff {
            base_interval: seconds(2),
            max_interval: seconds(1),
        }),
        ..retry_policy("internal")
    });
    let found = found.expect("is a policy");
    assert_eq!(found.base_interval, Duration::from_secs(1));
    assert_eq!(found.max_interval, Duration::from_secs(1));
}

#[test]
fn a_route_replaces_the_retries_of_its_virtual_host() {
    let mut wire = base();
    wire.virtual_hosts[0].retry_policy = Some(retry_policy("internal"));
    assert!(forward(&wire).retry.expect("inherited").on.internal);
    action(&mut wire).retry_policy = Some(retry_policy("unavailable"));
    assert!(!forward(&wire).retry.expect("its own").on.internal);
    // An own policy without any condition turns retries off.
    action(&mut wire).retry_policy = Some(retry_policy(""));
    assert_eq!(forward(&wire).retry, None);
}

/// As Istio writes a VirtualService's `fault`.
fn aborting() -> HttpFault {
    HttpFault {
        abort: Some(FaultAbort {
            percentage: Some(FractionalPercent {
                numerator: 10_000,
                denominator: DenominatorType::Million as i32,
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn filter_overrides_are_refused_unless_optional() {
    let unknown = typed_struct("org.Filter", Default::default());
    let wrapped = |config: Option<&Any>, is_optional| {
        Any::pack(&wire::FilterConfig {
            config: config.cloned(),
            is_optional,
            disabled: false,
        })
    };
    let cases = [
        (unknown.clone(), "the filter override org.Filter"),
        (
            wrapped(Some(&unknown), false),
            "the filter override org.Filter",
        ),
        (wrapped(Some(&unknown), true), ""),
        (wrapped(None, true), ""),
        (wrapped(None, false), "is required"),
        (Any::pack(&Router::default()), "takes no override"),
        (Any::pack(&HttpFault::default()), ""),
        (wrapped(Some(&Any::pack(&HttpFault::default())), false), ""),
        (Any::pack(&aborting()), "abort: fault injection"),
        (
            wrapped(Some(&Any::pack(&aborting())), true),
            "abort: fault injection",
        ),
        (
            wrapped(Some(&Any::pack(&Router::default())), true),
            "takes no override",
        ),
    ];
    for (any, expected) in cases {
        // The same rule holds at every level.
        let overrides = || [("f".to_owned(), any.clone())].into();
        let mut levels = [base(), base(), base(), base()];
        levels[0].typed_per_filter_config = overrides();
        levels[1].virtual_hosts[0].typed_per_filter_config = overrides();
        first_route(&mut levels[2]).typed_per_filter_config = overrides();
        weighted(&[("a", Some(1))])(&mut levels[3]);
        if let Some(ClusterSpecifier::WeightedClusters(w)) =
            &mut action(&mut levels[3]).cluster_specifier
        {
            w.clusters[0].typed_per_filter_config = overrides();
        }
        for wire in &levels {
            match read(TYPE, wire) {
                Ok(_) => assert_eq!(expected, ""),
                Err(found) => assert!(
                    !expected.is_empty()
                        && found.contains(expected)
                        && found.contains("typed_per_filter_config[\"f\"]"),
                    "expected {expected:?}, found {found:?}"
                ),
            }
        }
    }
}

#[test]
fn fields_that_are_not_honoured_are_reported() {
    let mut wire = base();
    wire.ignore_port_in_host_matching = true;
    let action = action(&mut wire);
    action.timeout = seconds(1);
    action.prefix_rewrite = "/x".into();
    action.request_mirror_policies.push(Default::default());
    action.hash_policy.push(Default::default());
    action.retry_policy = Some(wire::RetryPolicy {
        per_try_timeout: seconds(1),
        ..retry_policy("internal")
    });
    let at = |field: &str| format!("virtual_hosts[0].routes[0].route.{field}");
    let expected = [
        "ignore_port_in_host_matching".to_owned(),
        at("timeout"),
        at("prefix_rewrite"),
        at("request_mirror_policies"),
        at("hash_policy[0]"),
        at("retry_policy.per_try_timeout"),
    ];
    assert_eq!(ignored(TYPE, &wire), expected);
}
