//! Finding a call's route, cluster and endpoint allocates nothing (but for the values of a header
//! that a call carries twice and a route looks at: gRFC A28 has them joined).
//!
//! Alone in its program: the counter is the allocator of the whole process.

use std::alloc::System;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use sidestep::balancer::{self, Connectivity, Endpoint, Pick, Picker, SessionHost, SubchannelId};
use sidestep::routing::{self, Around, Buffer, Call, ClusterIndex, RouteTable, Sticky};
use sidestep_proto::resource::{
    FilterConfig, Forward, HashPolicy, HashSource, HeaderCondition, HeaderMatcher, HttpFilter,
    LbPolicy, Locality, PathMatcher, Pattern, PeakEwma, PerMillion, Route, RouteAction,
    RouteConfiguration, RouteMatch, SessionCookie, SessionState, SlowStart, StringMatcher, Text,
    VirtualHost, WeightedCluster, WeightedRoundRobin,
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
    let clusters = clusters
        .iter()
        .map(|name| WeightedCluster::new((*name).to_owned(), 3));
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
    let cookie = SessionCookie {
        name: "s".to_owned(),
        path: String::new(),
        ttl: Duration::ZERO,
    };
    let filter = HttpFilter {
        name: "sessions".to_owned(),
        config: FilterConfig::StatefulSession(Some(SessionState::Cookie(cookie))),
    };
    let around = Around {
        max_stream_duration: None,
        filters: &[filter],
    };
    RouteTable::compile_in(&configuration, next, &around)
}

/// The picker of a policy whose endpoints, in two localities, are all connected.
fn picker(policy: LbPolicy) -> Arc<dyn Picker> {
    picker_of(policy, &(0..6).map(endpoint).collect::<Vec<_>>())
}

fn picker_of(policy: LbPolicy, endpoints: &[Endpoint]) -> Arc<dyn Picker> {
    let now = Instant::now();
    let mut balancer = balancer::build(&policy, 1);
    let mut out = Vec::new();
    balancer.update(now, endpoints, None, &mut out);
    for endpoint in endpoints {
        let ready = Connectivity::Ready;
        balancer.subchannel_changed(now, endpoint.id, &ready, &mut out);
    }
    assert_eq!(balancer.connectivity(), Connectivity::Ready);
    balancer.picker()
}

fn endpoint(id: u32) -> Endpoint {
    Endpoint {
        locality: Arc::new(Locality {
            zone: format!("zone-{}", id % 2),
            ..Locality::default()
        }),
        locality_weight: 1 + id % 2,
        ..Endpoint::new(SubchannelId(id), format!("10.0.0.{id}:443"))
    }
}

const WINDOW: Duration = Duration::from_secs(30);
/// With sessions.
fn sticky(id: u32) -> Endpoint {
    let host = SessionHost {
        hosts: format!("10.0.0.{id}:443").into(),
        draining: false,
        idle_timeout: Duration::from_secs(3600),
    };
    Endpoint {
        session: Some(Arc::new(host)),
        ..endpoint(id)
    }
}

#[test]
fn route_match_and_pick_allocate_nothing() {
    let table = table();
    let pickers = [
        picker(LbPolicy::RoundRobin.by_locality()),
        picker(LbPolicy::LeastRequest { choice_count: 2 }.by_locality()),
        picker(LbPolicy::PickFirst { shuffle: false }),
        picker(LbPolicy::Random.by_locality()),
        picker(LbPolicy::RingHash {
            min_ring_size: 1024,
            max_ring_size: 4096,
        }),
        picker(LbPolicy::Maglev { table_size: 65_537 }),
        picker(LbPolicy::WeightedRoundRobin(WeightedRoundRobin::default()).by_locality()),
        picker(LbPolicy::PeakEwma(PeakEwma::default()).by_locality()),
        picker(LbPolicy::RoundRobin.with_slow_start(Some(SlowStart::over(WINDOW)))),
    ];
    let mut headers = HeaderMap::new();
    headers.insert("x-version", "v1-alpha".parse().unwrap());
    headers.insert("x-two", "2".parse().unwrap());
    // 10.0.0.4:443;c
    headers.insert("cookie", "a=b; s=MTAuMC4wLjQ6NDQzO2M=".parse().unwrap());
    let endpoints: Vec<_> = (0..6).map(sticky).collect();
    let sessions = picker_of(LbPolicy::RoundRobin.by_locality(), &endpoints);
    let now = Instant::now();
    let one = |random| {
        let call = Call {
            authority: "greeter.example",
            path: "/a.B/Method",
            headers: &headers,
            random,
            hash: random,
            session: None,
            subset: None,
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
        let rule = forward.session(random).unwrap();
        let mut buffer = Buffer::default();
        let found = rule.find(call.path, &headers, &mut buffer).unwrap();
        assert!(found.is_at("10.0.0.4:443"));
        let hosts = found.hosts;
        let session = Some(Sticky { hosts, now });
        let pick = sessions.pick(&Call { session, ..call });
        assert_eq!(pick, Pick::Ready(SubchannelId(4)));
        // What the client knows is not told again.
        assert_eq!(rule.tell(&found, hosts, "c"), None);
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
