use std::time::Duration;

use sidestep_proto::codec::{Context, decode};
use sidestep_proto::resource::{
    Discovery, FilterConfig, Labels, LbPolicy, ListenerKind, PathMatcher, RouteAction, RouteSource,
    SelectorFallback, SessionState, StringMatcher, SubsetFallback, SubsetSelector, Subsets,
    TransportProtocol, ZoneAware,
};
use sidestep_proto::wire;

use super::*;

const EXAMPLE: &str = include_str!("../model/testdata/example.yaml");

fn compiled(text: &str) -> CompiledMesh {
    let (mesh, _) = Mesh::parse(&[("mesh.yaml", text)]).expect("valid");
    compile(&mesh, &ResolvedEndpoints::default())
        .expect("compiles")
        .0
}

fn find<'a>(mesh: &'a CompiledMesh, kind: ResourceType, name: &str) -> &'a Resource {
    let found = mesh
        .resources
        .iter()
        .find(|r| r.type_url == kind.type_url() && r.name == name);
    match &found.expect(name).content {
        Content::Known(resource) => resource,
        Content::Native(any) => panic!("native: {any:?}"),
    }
}

#[test]
fn the_example_makes_these_resources_from_these_lines() {
    let mesh = compiled(EXAMPLE);
    let made: Vec<String> = mesh
        .resources
        .iter()
        .map(|r| {
            let kind = r.type_url.rsplit('.').next().expect("dots");
            format!("{kind} {} {}", r.name, r.provenance.line)
        })
        .collect();
    assert_eq!(
        made,
        [
            "Cluster greeter 11",
            "ClusterLoadAssignment greeter 11",
            "Cluster greeter/canary 19",
            "ClusterLoadAssignment greeter/canary 19",
            "Cluster greeter/stable 19",
            "ClusterLoadAssignment greeter/stable 19",
            "RouteConfiguration greeter 11",
            "Listener greeter 11",
            "Listener greeter.prod.svc.cluster.local:50051 14",
        ]
    );
}

#[test]
fn every_compiled_resource_is_accepted_by_the_runtime_unchanged() {
    let mesh = compiled(EXAMPLE);
    for resource in &mesh.resources {
        let Content::Known(known) = &resource.content else {
            panic!("no native resource here");
        };
        let decoded = decode(
            known.resource_type(),
            &resource.to_any(),
            &Context::default(),
        )
        .expect("has a name");
        assert_eq!(decoded.result.as_ref(), Ok(known));
        assert_eq!(decoded.ignored, []);
    }
}

#[test]
fn clusters_of_the_example() {
    let mesh = compiled(EXAMPLE);
    let Resource::Cluster(cluster) = find(&mesh, ResourceType::Cluster, "greeter/canary") else {
        panic!("a cluster");
    };
    assert_eq!(
        cluster.lb_policy,
        LbPolicy::LeastRequest { choice_count: 2 }.by_locality()
    );
    assert_eq!(cluster.max_requests, 1000);
    let eds = Discovery::Eds {
        service_name: "greeter/canary".to_owned(),
    };
    assert_eq!(cluster.discovery, eds);
    let tls = cluster.tls.as_ref().expect("strict");
    assert_eq!(tls.roots.instance, "default");
    assert_eq!(tls.identity.as_ref(), Some(&tls.roots));
    let [StringMatcher::Exact(id)] = tls.sans.as_slice() else {
        panic!("one exact name");
    };
    assert_eq!(id.value, "spiffe://prod.example/ns/prod/sa/greeter");
}

#[test]
fn policies_by_their_words() {
    use std::time::Duration;

    use sidestep_proto::resource::SlowStart;

    let growth = Some(SlowStart::over(Duration::from_secs(30)));
    let least = LbPolicy::LeastRequest { choice_count: 2 };
    let weighted = LbPolicy::WeightedRoundRobin(Default::default());
    for (balance, expected) in [
        ("policy: weighted_round_robin", weighted.clone()),
        ("policy: peak_ewma", LbPolicy::PeakEwma(Default::default())),
        (
            "slow_start: 30s",
            LbPolicy::RoundRobin.with_slow_start(growth.clone()),
        ),
        ("slow_start: none", LbPolicy::RoundRobin),
        (
            "policy: least_request, slow_start: 30s",
            least.with_slow_start(growth.clone()),
        ),
        (
            "policy: weighted_round_robin, slow_start: 30s",
            weighted.with_slow_start(growth),
        ),
    ] {
        let mesh = compiled(&format!(
            "mesh: v1\nservices:\n  s:\n    endpoints: {{static: [{{address: \"1.1.1.1:1\"}}]}}\n    balance: {{{balance}}}\n"
        ));
        let Resource::Cluster(cluster) = find(&mesh, ResourceType::Cluster, "s") else {
            panic!("a cluster");
        };
        assert_eq!(cluster.lb_policy, expected.by_locality(), "{balance}");
    }
}

#[test]
fn the_callers_zone_is_preferred_where_it_is_said() {
    let least = LbPolicy::LeastRequest { choice_count: 2 };
    let aware = |policy| LbPolicy::ZoneAware(Box::new(ZoneAware::new(policy)));
    for (balance, expected) in [
        ("zones: prefer_local", aware(LbPolicy::RoundRobin)),
        ("zones: by_weight", LbPolicy::round_robin()),
        ("policy: least_request, zones: prefer_local", aware(least)),
        (
            "policy: peak_ewma, zones: prefer_local",
            aware(LbPolicy::PeakEwma(Default::default())),
        ),
    ] {
        let mesh = compiled(&format!(
            "mesh: v1\nservices:\n  s:\n    endpoints: {{static: [{{address: \"1.1.1.1:1\"}}]}}\n    balance: {{{balance}}}\n"
        ));
        let Resource::Cluster(cluster) = find(&mesh, ResourceType::Cluster, "s") else {
            panic!("a cluster");
        };
        assert_eq!(cluster.lb_policy, expected, "{balance}");
    }
}

#[test]
fn endpoints_by_zone_weigh_what_their_endpoints_weigh() {
    let text = "mesh: v1\nservices:\n  s:\n    endpoints:\n      static:\n        - {address: \"1.1.1.1:1\", zone: a, weight: 2}\n        - {address: \"unix:/s\", zone: b, version: x}\n        - {address: \"[::1]:1\", zone: a, weight: 3}\n    versions: {only: x}\n";
    let mesh = compiled(text);
    let zones = |name| {
        let Resource::EndpointAssignment(all) = find(&mesh, ResourceType::EndpointAssignment, name)
        else {
            panic!("endpoints");
        };
        let zones = all.localities.iter();
        let shown: Vec<_> = zones
            .map(|z| {
                let addresses = z.endpoints.iter().map(|e| e.addresses[0].to_string());
                let addresses: Vec<_> = addresses.collect();
                (z.locality.zone.clone(), z.weight, addresses.join(" "))
            })
            .collect();
        shown
    };
    let a = ("a".to_owned(), 5, "1.1.1.1:1 [::1]:1".to_owned());
    let b = ("b".to_owned(), 1, "unix:/s".to_owned());
    assert_eq!(zones("s"), [a, b.clone()]);
    assert_eq!(zones("s/only"), [b]);
    let Resource::Cluster(cluster) = find(&mesh, ResourceType::Cluster, "s") else {
        panic!("a cluster");
    };
    assert_eq!((cluster.tls.as_ref(), cluster.max_requests), (None, 1024));
}

#[test]
fn routes_of_the_example() {
    let mesh = compiled(EXAMPLE);
    let Resource::RouteConfiguration(all) =
        find(&mesh, ResourceType::RouteConfiguration, "greeter")
    else {
        panic!("routes");
    };
    let [host] = all.virtual_hosts.as_slice() else {
        panic!("one virtual host");
    };
    assert_eq!(host.domains, ["*"]);
    let shown: Vec<_> = host
        .routes
        .iter()
        .map(|route| {
            let RouteAction::Forward(forward) = &route.action else {
                panic!("forwards");
            };
            let path = match &route.matches.path {
                PathMatcher::Exact(text) => format!("={}", text.value),
                PathMatcher::Prefix(text) => format!("^{}", text.value),
                PathMatcher::Regex(pattern) => format!("~{}", pattern.as_str()),
            };
            let clusters = forward.clusters.iter();
            let clusters: Vec<_> = clusters
                .map(|c| format!("{} {}", c.name, c.weight))
                .collect();
            let attempts = forward
                .retry
                .as_ref()
                .map(|r| (r.max_attempts, r.on.to_wire()));
            (
                path,
                route.matches.headers.len(),
                clusters.join(", "),
                forward.max_stream_duration,
                attempts,
            )
        })
        .collect();
    let ms = |n| Some(Duration::from_millis(n));
    let on = "resource-exhausted,unavailable".to_owned();
    assert_eq!(
        shown,
        [
            (
                "=/hello.Greeter/SayHello".to_owned(),
                1,
                "greeter/canary 1".to_owned(),
                ms(5000),
                None
            ),
            (
                "^/hello.Reader/".to_owned(),
                2,
                "greeter 1".to_owned(),
                None,
                Some((3, on))
            ),
            (
                "^".to_owned(),
                0,
                "greeter/stable 95, greeter/canary 5".to_owned(),
                ms(800),
                None
            ),
        ]
    );
}

#[test]
fn sessions_are_a_filter_that_routes_override() {
    let service = |keys: &str| {
        let endpoints = "endpoints: {static: [{address: \"1.1.1.1:1\"}]}";
        compiled(&format!(
            "mesh: v1\nservices:\n  s: {{{endpoints}{keys}}}\n"
        ))
    };
    let filters = |mesh: &CompiledMesh| {
        let Resource::Listener(listener) = find(mesh, ResourceType::Listener, "s") else {
            panic!("a listener");
        };
        let ListenerKind::Api(http) = &listener.kind else {
            panic!("a client's");
        };
        let filters = http.filters.iter().map(|f| f.config.clone());
        filters.collect::<Vec<_>>()
    };
    let draining = |mesh: &CompiledMesh| {
        let Resource::Cluster(cluster) = find(mesh, ResourceType::Cluster, "s") else {
            panic!("a cluster");
        };
        cluster.sessions.draining
    };
    let overrides = |mesh: &CompiledMesh| {
        let routes = find(mesh, ResourceType::RouteConfiguration, "s");
        let Resource::RouteConfiguration(routes) = routes else {
            panic!("routes");
        };
        let routes = routes.virtual_hosts[0].routes.iter();
        let overrides = routes.map(|route| {
            let RouteAction::Forward(forward) = &route.action else {
                panic!("forwards");
            };
            let mut own = forward.clusters[0].overrides.values().cloned();
            own.next()
        });
        overrides.collect::<Vec<_>>()
    };
    let header = |name: &str| Some(SessionState::Header { name: name.into() });
    let session = FilterConfig::StatefulSession;

    let plain = service("");
    assert_eq!(filters(&plain), [FilterConfig::Router]);
    assert!(!draining(&plain));

    let all = service(
        ", session_affinity: {header: x-a}, routes: [{match: {method: a.B/C}, session_affinity: none}, \
         {match: {method: a.B/D}, session_affinity: {header: x-b}}, {session_affinity: {header: x-a}}]",
    );
    assert_eq!(
        filters(&all),
        [session(header("x-a")), FilterConfig::Router]
    );
    assert!(draining(&all));
    let own = [Some(session(None)), Some(session(header("x-b"))), None];
    assert_eq!(overrides(&all), own);

    let one = service(", routes: [{session_affinity: {header: x-a}}]");
    assert_eq!(filters(&one), [session(None), FilterConfig::Router]);
    assert_eq!(overrides(&one), [Some(session(header("x-a")))]);
    let cannot = service(", routes: [{session_affinity: none}]");
    assert_eq!(filters(&cannot), [FilterConfig::Router]);
}

#[test]
fn a_client_without_sessions_may_leave_the_filter_out() {
    let text =
        "mesh: v1\nservices:\n  s: {endpoints: {static: []}, session_affinity: {cookie: c}}\n";
    let mesh = compiled(text);
    let any = codec::encode(find(&mesh, ResourceType::Listener, "s"));
    let listener: wire::listener::Listener = any.unpack().expect("a listener");
    let api = listener.api_listener.and_then(|api| api.api_listener);
    let http: wire::hcm::HttpConnectionManager = api
        .expect("a client's")
        .unpack()
        .expect("a connection manager");
    let optional: Vec<_> = http.http_filters.iter().map(|f| f.is_optional).collect();
    assert_eq!(optional, [true, false]);
}

#[test]
fn the_server_listener_follows_the_mode() {
    let text = "mesh: v1\ntrust_domain: t\nservices:\n  none: {mtls: off}\n  both: {mtls: permissive}\n  tls: {mtls: strict}\n";
    let mesh = compiled(text);
    let address = "0.0.0.0:50051".parse().expect("an address");
    let chains = |service| {
        let made = mesh
            .server_listener(service, "x", address)
            .expect("a listener");
        let any = codec::encode(&made);
        let decoded = decode(ResourceType::Listener, &any, &Context::default()).expect("named");
        assert_eq!(decoded.result.as_ref(), Ok(&made));
        let Resource::Listener(listener) = made else {
            panic!("a listener");
        };
        let ListenerKind::Server(server) = &listener.kind else {
            panic!("a server's");
        };
        assert_eq!(server.address, address);
        let chains = server.filter_chains.iter();
        let shown: Vec<_> = chains
            .map(|chain| {
                let RouteSource::Inline(routes) = &chain.http.routes else {
                    panic!("inline routes");
                };
                let action = &routes.virtual_hosts[0].routes[0].action;
                assert_eq!(action, &RouteAction::NonForwarding);
                let required = chain.tls.as_ref().map(|tls| tls.require_client_certificate);
                (chain.matches.transport_protocol.clone(), required)
            })
            .collect();
        shown
    };
    assert_eq!(chains("none"), [(TransportProtocol::Any, None)]);
    assert_eq!(chains("tls"), [(TransportProtocol::Any, Some(true))]);
    assert_eq!(
        chains("both"),
        [
            (TransportProtocol::Tls, Some(true)),
            (TransportProtocol::RawBuffer, None)
        ]
    );
}

#[test]
fn server_listeners_are_found_by_the_address_in_their_name() {
    let mesh = compiled("mesh: v1\nservices:\n  greeter: {}\n");
    let cases = [
        (
            "grpc/server?xds.resource.listening_address=0.0.0.0:50051",
            Some("0.0.0.0:50051"),
        ),
        ("server/[::]:50051", Some("[::]:50051")),
        ("127.0.0.1:1", Some("127.0.0.1:1")),
        (
            "xdstp://a/envoy.config.listener.v3.Listener/server/%5B::1%5D:80",
            Some("[::1]:80"),
        ),
        ("greeter", None),
        ("greeter.example:50051", None),
    ];
    for (name, expected) in cases {
        assert_eq!(
            listening_address(name).map(|a| a.to_string()).as_deref(),
            expected,
            "{name}"
        );
        let made = mesh.server_listener_by_name("greeter", name);
        assert_eq!(made.is_some(), expected.is_some(), "{name}");
    }
    let refused = |service| {
        let made = mesh.server_listener_by_name(service, "a/1.1.1.1:1");
        made.expect("a server's name").expect_err("no service")
    };
    assert_eq!(
        refused("greter"),
        "node.cluster \"greter\": no such service; did you mean \"greeter\"? [SX0605]"
    );
    assert_eq!(
        refused(""),
        "node.cluster is empty: a server's bootstrap names its service there [SX0604]"
    );
}

#[test]
fn routes_that_ask_for_labels_make_subsets_by_their_keys() {
    let greeter = |keys: &str| {
        let text = format!(
            "mesh: v1\nservices:\n  greeter:\n    endpoints: {{static: [{{address: \"10.0.0.1:1\", \
             labels: {{stage: canary, shard: a}}}}]}}\n{keys}"
        );
        compiled(&text)
    };
    let policy = |mesh: &CompiledMesh| match find(mesh, ResourceType::Cluster, "greeter") {
        Resource::Cluster(cluster) => cluster.lb_policy.clone(),
        other => panic!("{other:?}"),
    };
    let plain = greeter("");
    assert_eq!(policy(&plain), LbPolicy::round_robin());
    let routes = "    routes:\n      - {match: {method: a.B/C}, subset: {stage: canary}}\n      \
                  - {match: {method: a.B/D}, subset: {stage: prod, shard: a}}\n      \
                  - {match: {method: a.B/E}, subset: {stage: prod}}\n      - {}\n";
    let expected = |to| {
        let selector = |keys: &[&str]| SubsetSelector {
            fallback: Some(SelectorFallback::To(to)),
            ..SubsetSelector::by(keys)
        };
        let selectors = vec![selector(&["shard", "stage"]), selector(&["stage"])];
        LbPolicy::Subsets(Box::new(Subsets {
            fallback: SubsetFallback::Any,
            scale_locality_weight: true,
            ..Subsets::new(LbPolicy::round_robin(), selectors)
        }))
    };
    let mesh = greeter(routes);
    assert_eq!(policy(&mesh), expected(SubsetFallback::Nowhere));
    let falling_back = greeter(&format!("    subset_fallback: any\n{routes}"));
    assert_eq!(policy(&falling_back), expected(SubsetFallback::Any));
    let labels: Labels = [("stage", "canary"), ("shard", "a")].into_iter().collect();
    let Resource::EndpointAssignment(found) =
        find(&mesh, ResourceType::EndpointAssignment, "greeter")
    else {
        panic!("not endpoints");
    };
    assert_eq!(found.localities[0].endpoints[0].labels, labels);
    let Resource::RouteConfiguration(found) =
        find(&mesh, ResourceType::RouteConfiguration, "greeter")
    else {
        panic!("not routes");
    };
    let asked = found.virtual_hosts[0].routes.iter();
    let asked = asked.map(|route| match &route.action {
        RouteAction::Forward(forward) => forward.clusters[0].subset.to_string(),
        other => panic!("{other:?}"),
    });
    assert_eq!(
        asked.collect::<Vec<_>>(),
        [
            "{stage=canary}",
            "{shard=a, stage=prod}",
            "{stage=prod}",
            "{}"
        ]
    );
}

#[test]
fn a_name_made_twice_is_an_error_with_both_places() {
    let text = "mesh: v1\nservices:\n  s: {endpoints: {static: []}}\nresources:\n  - {\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: s, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}\n";
    let (mesh, _) = Mesh::parse(&[("m.yaml", text)]).expect("valid");
    let found = compile(&mesh, &ResolvedEndpoints::default()).expect_err("twice");
    let errors = found.iter().filter(|d| d.is_error());
    let shown: Vec<_> = errors.map(Diagnostic::uncoded).collect();
    assert_eq!(
        shown,
        ["m.yaml:5:5: resources: the Cluster \"s\" is already made at m.yaml:3:3"]
    );
}
