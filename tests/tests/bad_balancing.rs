//! Updates about balancing that cannot be meant: refused with words, while the last good one goes
//! on serving calls, and the next good one is taken.

use std::time::Duration;

use sidestep::{CallError, Channel};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::wire::Any;
use sidestep_proto::wire::cluster::{
    Cluster, LoadBalancingPolicy,
    cluster::{LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig},
    load_balancing_policy::Policy,
};
use sidestep_proto::wire::core::TypedExtensionConfig;
use sidestep_proto::wire::endpoint::ClusterLoadAssignment;
use sidestep_proto::wire::load_balancing::{RoundRobin, WrrLocality};
use sidestep_proto::wire::typed_struct::TypedStruct;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh, unused_address};
use sidestep_tests::load::{PATIENCE, Tally, call, until};
use sidestep_tests::raw;
use tonic::Code;

type Client = TestServiceClient<Channel>;

/// Running backends, and the control plane that only they know.
async fn backends<const N: usize>(ids: [&str; N]) -> (Fixture, [Backend; N]) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let backends = ids.map(|id| Backend::start(&servers, id, Faults::default()));
    for backend in &backends {
        let fixture = Fixture::start(&plain_mesh(&[&backend.address])).await;
        let answered = until(&mut fixture.client("xds:///greeter"), Result::is_ok).await;
        answered.expect("only an answer ends the wait");
    }
    (fixture, backends)
}

async fn plane(resources: impl IntoIterator<Item = Any>) -> Fixture {
    let resources = RawResources::unchecked(resources);
    Fixture::raw(resources.expect("all have names")).await
}

/// Waits until a type is refused with these words.
async fn refused(plane: &Fixture, type_name: &str, words: &str) {
    let text = || {
        let clients = plane.running().tracker().clients();
        let mut types = clients.into_iter().flat_map(|client| client.types);
        let (_, progress) = types.find(|(url, _)| url.ends_with(type_name))?;
        progress.nacked.map(|(_, text)| text)
    };
    let refusal = async {
        loop {
            if let Some(text) = text() {
                return text;
            }
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, refusal).await;
    let text = text.unwrap_or_else(|_| panic!("{words}: not refused"));
    assert!(text.contains(words), "{text}");
    assert!(text.contains("\"greeter\""), "{text}");
}

/// The one resource that is wrong, made from the good one.
enum Spoil {
    Cluster(fn(&mut Cluster)),
    Endpoints(fn(&mut ClusterLoadAssignment)),
}

fn ring(cluster: &mut Cluster, min: Option<u64>, max: Option<u64>) {
    cluster.lb_policy = LbPolicy::RingHash as i32;
    cluster.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
        minimum_ring_size: min,
        maximum_ring_size: max,
        ..RingHashLbConfig::default()
    }));
}

fn maglev(cluster: &mut Cluster, table_size: u64) {
    cluster.lb_policy = LbPolicy::Maglev as i32;
    cluster.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
        table_size: Some(table_size),
    }));
}

fn choices(cluster: &mut Cluster, count: u32) {
    cluster.lb_policy = LbPolicy::LeastRequest as i32;
    cluster.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
        choice_count: Some(count),
        ..LeastRequestLbConfig::default()
    }));
}

fn list(policies: impl IntoIterator<Item = Any>) -> LoadBalancingPolicy {
    let policy = |config| Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: "any".to_owned(),
            typed_config: Some(config),
        }),
    };
    LoadBalancingPolicy {
        policies: policies.into_iter().map(policy).collect(),
    }
}

/// Policies that nobody has.
fn unknown() -> [Any; 2] {
    let custom = TypedStruct {
        type_url: "type.googleapis.com/acme.Fanciest".to_owned(),
        ..TypedStruct::default()
    };
    let native = Any {
        type_url: "type.googleapis.com/acme.Fancy".to_owned(),
        ..Any::default()
    };
    [native, Any::pack(&custom)]
}

/// A round robin inside of so many others.
fn nested(levels: usize) -> LoadBalancingPolicy {
    (0..levels).fold(list([Any::pack(&RoundRobin::default())]), |inner, _| {
        list([Any::pack(&WrrLocality {
            endpoint_picking_policy: Some(inner),
        })])
    })
}

const CASES: &[(&str, Spoil)] = &[
    (
        "minimum_ring_size: 8388609 is out of range, expected at most 8388608",
        Spoil::Cluster(|c| ring(c, Some((8 << 20) + 1), None)),
    ),
    (
        "maximum_ring_size: 8388609 is out of range, expected at most 8388608",
        Spoil::Cluster(|c| ring(c, None, Some((8 << 20) + 1))),
    ),
    (
        "2048 is more than maximum_ring_size, 1024",
        Spoil::Cluster(|c| ring(c, Some(2048), Some(1024))),
    ),
    (
        "table_size: 65536 is not a prime number",
        Spoil::Cluster(|c| maglev(c, 65_536)),
    ),
    (
        "table_size: 5000077 is out of range, expected at most 5000011",
        Spoil::Cluster(|c| maglev(c, 5_000_077)),
    ),
    (
        "choice_count: 1 is out of range, expected at least 2",
        Spoil::Cluster(|c| choices(c, 1)),
    ),
    (
        "choice_count: 0 is out of range, expected at least 2",
        Spoil::Cluster(|c| choices(c, 0)),
    ),
    (
        "none of the policies is supported: acme.Fancy, acme.Fanciest",
        Spoil::Cluster(|c| c.load_balancing_policy = Some(list(unknown()))),
    ),
    (
        "names no policy",
        Spoil::Cluster(|c| c.load_balancing_policy = Some(list([]))),
    ),
    (
        "policies are nested more than 16 levels deep",
        Spoil::Cluster(|c| c.load_balancing_policy = Some(nested(16))),
    ),
    (
        "the weights of the locality add up to more than 4294967295",
        Spoil::Endpoints(|e| {
            for endpoint in &mut e.endpoints[0].lb_endpoints {
                endpoint.load_balancing_weight = Some(u32::MAX);
            }
        }),
    ),
    (
        "the weights of the priority add up to more than 4294967295",
        Spoil::Endpoints(|e| {
            for locality in &mut e.endpoints {
                locality.load_balancing_weight = Some(u32::MAX);
            }
        }),
    ),
    (
        "load_balancing_weight: 0 is out of range, expected at least 1",
        Spoil::Endpoints(|e| {
            e.endpoints[0].lb_endpoints[0].load_balancing_weight = Some(0);
        }),
    ),
    (
        "there is priority 2 without priority 1",
        Spoil::Endpoints(|e| e.endpoints[1].priority = 2),
    ),
    (
        "there is priority 1 without priority 0",
        Spoil::Endpoints(|e| {
            for locality in &mut e.endpoints {
                locality.priority = 1;
            }
        }),
    ),
    (
        "appears twice",
        Spoil::Endpoints(|e| {
            let again = e.endpoints[0].lb_endpoints[0].clone();
            e.endpoints[1].lb_endpoints.push(again);
        }),
    ),
    (
        "\"/zone-0/\" appears twice",
        Spoil::Endpoints(|e| {
            e.endpoints[1].locality = e.endpoints[0].locality.clone();
        }),
    ),
];

/// Two localities, the first with two endpoints.
fn good(serving: &str, idle: &str) -> [Any; 4] {
    let localities = vec![
        raw::locality("zone-0", 0, 1, &[serving, idle]),
        raw::locality("zone-1", 0, 1, &["127.0.0.1:1"]),
    ];
    raw::service("greeter", raw::localities("greeter", localities))
}

fn spoil([l, r, c, e]: [Any; 4], how: &Spoil) -> ([Any; 4], &'static str) {
    match how {
        Spoil::Cluster(spoil) => {
            let mut cluster: Cluster = c.unpack().expect("a cluster");
            spoil(&mut cluster);
            ([l, r, Any::pack(&cluster), e], ".Cluster")
        }
        Spoil::Endpoints(spoil) => {
            let mut endpoints: ClusterLoadAssignment = e.unpack().expect("endpoints");
            spoil(&mut endpoints);
            ([l, r, c, Any::pack(&endpoints)], ".ClusterLoadAssignment")
        }
    }
}

async fn calls(client: &mut Client, n: u32) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..n {
        tally.count(call(client).await);
    }
    tally
}

#[tokio::test]
async fn a_bad_update_is_refused_and_the_last_good_one_serves() {
    let (_servers, [a, b]) = backends(["a", "b"]).await;
    let unused = unused_address();
    for (words, how) in CASES {
        println!("{words}");
        let plane = plane(good(&a.address, &unused)).await;
        let mut client = plane.client("xds:///greeter");
        until(&mut client, Result::is_ok).await.unwrap();
        let (bad, type_name) = spoil(good(&b.address, &unused), how);
        plane.resources().replace(bad).unwrap();
        refused(&plane, type_name, words).await;
        if matches!(how, Spoil::Endpoints(_)) {
            let tally = calls(&mut client, 20).await;
            tally.assert_none_failed();
            assert_eq!(tally.by_server["a"], 20, "{words}");
        } else {
            // The endpoints of this update are good and count, under the policy of the last one.
            calls(&mut client, 20).await.assert_none_failed();
        }
        plane
            .resources()
            .replace(good(&b.address, &unused))
            .unwrap();
        let taken = until(&mut client, |o| o.as_ref().is_ok_and(|o| o.server == "b"));
        taken.await.unwrap();
    }
}

#[tokio::test]
async fn a_policy_that_nobody_has_is_passed_over() {
    let (_servers, [a, b]) = backends(["a", "b"]).await;
    let endpoints = raw::endpoints("greeter", &[&a.address, &b.address]);
    let [l, r, c, e] = raw::service("greeter", endpoints);
    let mut cluster: Cluster = c.unpack().unwrap();
    let [native, custom] = unknown();
    let known = Any::pack(&RoundRobin::default());
    // Of what comes after the first that is known nothing counts, not even what is wrong in it.
    let broken = Any {
        value: vec![0xff; 3].into(),
        ..known.clone()
    };
    cluster.load_balancing_policy = Some(list([native, custom, known, broken]));
    let plane = plane([l, r, Any::pack(&cluster), e]).await;
    let mut client = plane.client("xds:///greeter");
    for id in ["a", "b"] {
        let found = until(&mut client, |o| o.as_ref().is_ok_and(|o| o.server == id));
        found.await.unwrap();
    }
    let tally = calls(&mut client, 20).await;
    assert_eq!(tally.by_server.values().collect::<Vec<_>>(), [&10, &10]);
}

#[tokio::test]
async fn sixteen_levels_are_not_too_many() {
    let (_servers, [a]) = backends(["a"]).await;
    let [l, r, c, e] = raw::service("greeter", raw::endpoints("greeter", &[&a.address]));
    let mut cluster: Cluster = c.unpack().unwrap();
    cluster.load_balancing_policy = Some(nested(15));
    let plane = plane([l, r, Any::pack(&cluster), e]).await;
    call(&mut plane.client("xds:///greeter")).await.unwrap();
}

#[tokio::test]
async fn with_all_endpoints_down_calls_fail_fast_and_say_why_under_every_policy() {
    let dead = [unused_address(), unused_address()];
    let endpoints = raw::endpoints("greeter", &dead.each_ref().map(String::as_str));
    let [l, r, c, e] = raw::service("greeter", endpoints);
    for (policy, set) in [
        ("round robin", (|_| ()) as fn(&mut Cluster)),
        ("random", |c| c.lb_policy = LbPolicy::Random as i32),
        ("least request", |c| choices(c, 2)),
        ("ring hash", |c| ring(c, None, None)),
        ("Maglev", |c| maglev(c, 251)),
        ("pick first", |c| {
            let policy = sidestep_proto::wire::load_balancing::PickFirst::default();
            c.load_balancing_policy = Some(list([Any::pack(&policy)]));
        }),
    ] {
        let mut cluster: Cluster = c.unpack().unwrap();
        set(&mut cluster);
        let plane = plane([l.clone(), r.clone(), Any::pack(&cluster), e.clone()]).await;
        // No deadline of its own.
        let mut client = plane.client("xds:///greeter");
        let status = tokio::time::timeout(Duration::from_secs(5), call(&mut client));
        let status = status
            .await
            .unwrap_or_else(|_| panic!("{policy}: it hangs"));
        let status = status.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{policy}: {status}");
        assert_eq!(CallError::from_status(&status), Some("no-endpoint"));
        for part in ["cluster \"greeter\"", "refused", "127.0.0.1:"] {
            assert!(status.message().contains(part), "{policy}: {status}");
        }
    }
}
