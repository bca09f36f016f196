//! Finding a call's route, cluster and endpoint allocates nothing (but for the values of a header
//! that a call carries twice and a route looks at: gRFC A28 has them joined).
//!
//! Alone in its program: the counter is the allocator of the whole process.

use std::alloc::System;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use sidestep::balancer::{self, Action, Connectivity, Endpoint, Load, Pick, Picker, SubchannelId};
use sidestep::routing::{self, Call, ClusterIndex, RouteTable};
use sidestep_proto::resource::{
    Forward, HashPolicy, HashSource, HeaderCondition, HeaderMatcher, LbPolicy, Locality,
    PathMatcher, Pattern, PerMillion, Route, RouteAction, RouteConfiguration, RouteMatch,
    StringMatcher, Text, VirtualHost, WeightedCluster,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn header(name: &str, matcher: StringMatcher) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        condition: HeaderCondition::Value(matcher),
        invert: false,
    }
}

fn route(path: PathMatcher, headers: Vec<HeaderMatcher>, clusters: &[&str]) -> Route {
    let clusters = clusters.iter().map(|name| WeightedCluster {
        name: (*name).to_owned(),
        weight: 3,
    });
    Route {
        name: String::new(),
        matches: RouteMatch {
            path,
            headers,
            fraction: Some(PerMillion::ALL),
        },
        action: RouteAction::Forward(Forward {
            clusters: clusters.collect(),
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            retry: None,
            hash_policies: vec![HashPolicy {
                source: HashSource::Header {
                    name: "x-two".to_owned(),
                    rewrite: None,
                },
                terminal: false,
            }],
        }),
    }
}

/// Every kind of condition is met on the way to the last route.
fn table() -> RouteTable {
    let pattern = |text| Pattern::new(text).unwrap();
    let exact = |text: &str| StringMatcher::Exact(Text::exact(text));
    let regex = StringMatcher::Regex(pattern("v[0-9]+-(beta|gamma)"));
    let routes = vec![
        route(
            PathMatcher::Exact(Text::exact("/a.B/Other")),
            vec![],
            &["a"],
        ),
        route(PathMatcher::Regex(pattern("/z\\.[A-Z]/.*")), vec![], &["a"]),
        route(
            PathMatcher::Prefix(Text::exact("/a.B/")),
            vec![header("x-version", regex)],
            &["a"],
        ),
        route(
            PathMatcher::Prefix(Text::exact("/a.B/")),
            vec![
                header("x-version", exact("v1-alpha")),
                header("x-two", exact("2")),
            ],
            &["a", "b", "c"],
        ),
    ];
    let host = VirtualHost {
        name: "host".to_owned(),
        domains: vec!["*.example".to_owned()],
        routes,
    };
    let configuration = RouteConfiguration {
        name: "routes".to_owned(),
        virtual_hosts: vec![host],
    };
    let mut index = 0;
    let next = |_: &str| {
        index += 1;
        ClusterIndex(index - 1)
    };
    RouteTable::compile(&configuration, next, None)
}

/// The picker of a policy whose endpoints, in two localities, are all connected.
fn picker(policy: LbPolicy) -> Arc<dyn Picker> {
    let now = Instant::now();
    let mut balancer = balancer::build(&policy, 1);
    let endpoints: Vec<_> = (0..6).map(endpoint).collect();
    let mut out = Vec::new();
    balancer.update(now, &endpoints, None, &mut out);
    for endpoint in &endpoints {
        let ready = Connectivity::Ready;
        balancer.subchannel_changed(now, endpoint.id, &ready, &mut out);
    }
    let published = out.into_iter().rev().find_map(|action| match action {
        Action::Publish(Connectivity::Ready, picker) => Some(picker),
        _ => None,
    });
    published.expect("all endpoints are connected")
}

fn endpoint(id: u32) -> Endpoint {
    Endpoint {
        id: SubchannelId(id),
        weight: 1,
        locality: Arc::new(Locality {
            zone: format!("zone-{}", id % 2),
            ..Locality::default()
        }),
        locality_weight: 1 + id % 2,
        priority: 0,
        load: Arc::new(Load::default()),
        hash_key: format!("10.0.0.{id}:443").into(),
    }
}

#[test]
fn route_match_and_pick_allocate_nothing() {
    let table = table();
    let pickers = [
        picker(LbPolicy::RoundRobin),
        picker(LbPolicy::LeastRequest { choice_count: 2 }),
        picker(LbPolicy::PickFirst { shuffle: false }),
        picker(LbPolicy::Random),
        picker(LbPolicy::RingHash {
            min_ring_size: 1024,
            max_ring_size: 4096,
        }),
        picker(LbPolicy::Maglev { table_size: 65_537 }),
    ];
    let mut headers = HeaderMap::new();
    headers.insert("x-version", "v1-alpha".parse().unwrap());
    headers.insert("x-two", "2".parse().unwrap());
    let one = |random| {
        let call = Call {
            authority: "greeter.example",
            path: "/a.B/Method",
            headers: &headers,
            random,
            hash: random,
        };
        let route = table.find(&call).unwrap();
        let routing::Action::Forward(forward) = &route.action else {
            panic!("{route:?}");
        };
        assert!(forward.clusters.len() == 3 && forward.pick(random).0 >= 3);
        assert!(forward.hash.hash(&headers, 1).is_some());
        for picker in &pickers {
            assert!(matches!(picker.pick(&call), Pick::Ready(_)));
        }
    };
    // Regular expressions make their caches at their first use.
    one(0);
    let region = Region::new(ALLOCATOR);
    for random in 1..=1000u64 {
        one(random.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    }
    let change = region.change();
    assert_eq!(
        (change.allocations, change.reallocations),
        (0, 0),
        "{change:?}"
    );
}
