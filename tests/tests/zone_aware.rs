//! Calls that stay in the caller's zone, and what makes them leave it.

use std::collections::BTreeSet;

use sidestep::Channel;
use sidestep::inspect::Connectivity;
use sidestep_proto::resource::Health::{self, Unhealthy, Unknown};
use sidestep_proto::resource::{LbPolicy, ZoneAware};
use sidestep_proto::wire::Any;
use sidestep_tests::fixture::{Fixture, mesh_file};
use sidestep_tests::load::PATIENCE;
use sidestep_tests::places::{Places, tally};
use sidestep_tests::raw;

fn cluster(aware: ZoneAware) -> Any {
    raw::cluster_by("greeter", LbPolicy::ZoneAware(Box::new(aware)))
}

/// Waits until so many endpoints are connected, and the picker that knows it is out.
async fn connected(mesh: &sidestep::Mesh, count: usize) {
    let all = async {
        loop {
            let clusters = mesh.clusters().await.expect("the mesh is there");
            let endpoints = clusters.iter().flat_map(|cluster| &cluster.endpoints);
            let ready = endpoints.filter(|e| e.connectivity == Some(Connectivity::Ready));
            if ready.count() == count {
                return mesh.settled().await;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("they are connected in time");
}

async fn servers(channel: &Channel, calls: u32) -> BTreeSet<String> {
    let tally = tally(channel, calls).await;
    tally.assert_none_failed();
    tally.by_server.into_keys().collect()
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_stay_in_their_zone_until_it_cannot_carry_them() {
    let places = Places::start(&["e1", "e2", "e3", "e4", "w1", "w2"]).await;
    let say = |east: [Health; 4]| {
        let east: Vec<_> = east.into_iter().enumerate().collect();
        let zones = vec![
            places.zone("east", 0, 1, &east),
            places.zone("west", 0, 9, &[(4, Unknown), (5, Unknown)]),
        ];
        places.say(cluster(ZoneAware::new(LbPolicy::RoundRobin)), zones);
    };
    say([Unknown; 4]);
    let east = places.process("east");
    let channel = east.channel("xds:///greeter").unwrap();
    channel.ready().await;
    connected(&east, 6).await;
    // By weight nine of ten calls would go west.
    assert_eq!(servers(&channel, 200).await, set(&["e1", "e2", "e3", "e4"]));
    let call = http::Request::post("/grpc.testing.TestService/UnaryCall")
        .body(())
        .unwrap();
    let text = channel
        .explain(&call)
        .await
        .unwrap()
        .to_text(|_, text| text.to_owned());
    assert!(
        text.contains("round robin in localities, the own zone first"),
        "{text}"
    );
    assert!(
        text.contains("not a candidate: the own zone carries all calls"),
        "{text}"
    );

    // Three of four are enough, two of four are not: 1 - 50/75 of the calls leave.
    say([Unhealthy, Unknown, Unknown, Unknown]);
    connected(&east, 5).await;
    assert_eq!(servers(&channel, 200).await, set(&["e2", "e3", "e4"]));
    say([Unhealthy, Unhealthy, Unknown, Unknown]);
    connected(&east, 4).await;
    let spilt = tally(&channel, 2_000).await;
    spilt.assert_none_failed();
    let west = spilt.by_server["w1"] + spilt.by_server["w2"];
    // A third; 5 sigma of a binomial with 2,000 trials is 105.
    assert!(west.abs_diff(667) < 105, "{spilt:?}");
    // Back above 75 % they stay again.
    say([Unknown, Unhealthy, Unknown, Unknown]);
    connected(&east, 5).await;
    assert_eq!(servers(&channel, 200).await, set(&["e1", "e3", "e4"]));

    // The same list serves callers of the other zone, and those without one by weight.
    let west = places.process("west");
    let channel = west.channel("xds:///greeter").unwrap();
    channel.ready().await;
    connected(&west, 5).await;
    assert_eq!(servers(&channel, 200).await, set(&["w1", "w2"]));
    let nowhere = places.process("");
    let channel = nowhere.channel("xds:///greeter").unwrap();
    channel.ready().await;
    connected(&nowhere, 5).await;
    let all = tally(&channel, 1_000).await;
    let west = all.by_server["w1"] + all.by_server["w2"];
    assert!(west.abs_diff(900) < 48, "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_zone_is_left_at_once() {
    let mut places = Places::start(&["e1", "w1"]).await;
    let zones = vec![
        places.zone("east", 0, 1, &[(0, Unknown)]),
        places.zone("west", 0, 1, &[(1, Unknown)]),
    ];
    places.say(cluster(ZoneAware::new(LbPolicy::RoundRobin)), zones);
    let east = places.process("east");
    let channel = east.channel("xds:///greeter").unwrap();
    channel.ready().await;
    connected(&east, 2).await;
    assert_eq!(servers(&channel, 50).await, set(&["e1"]));
    places.backends.remove(0).kill().await;
    connected(&east, 1).await;
    assert_eq!(servers(&channel, 50).await, set(&["w1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_endpoints_go_by_weight() {
    let places = Places::start(&["e1", "w1"]).await;
    let zones = vec![
        places.zone("east", 0, 1, &[(0, Unknown)]),
        places.zone("west", 0, 1, &[(1, Unknown)]),
    ];
    let aware = ZoneAware {
        min_endpoints: 3,
        ..ZoneAware::new(LbPolicy::RoundRobin)
    };
    places.say(cluster(aware), zones);
    let east = places.process("east");
    let channel = east.channel("xds:///greeter").unwrap();
    channel.ready().await;
    connected(&east, 2).await;
    assert_eq!(servers(&channel, 100).await, set(&["e1", "w1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_file_prefers_the_local_zone() {
    let places = Places::start(&["a", "b"]).await;
    let endpoints = format!(
        "mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    endpoints:\n      static:\n        \
         - {{address: \"{}\", zone: east}}\n        - {{address: \"{}\", zone: west}}\n    \
         balance: {{zones: prefer_local}}\n",
        places.address(0),
        places.address(1)
    );
    let plane = Fixture::start(&mesh_file(&[], "")).await;
    plane.push(&endpoints);
    for (zone, id) in [("east", "a"), ("west", "b")] {
        let mut bootstrap = plane.bootstrap("web");
        bootstrap["node"]["locality"] = serde_json::json!({"zone": zone});
        let web = sidestep_tests::fixture::builder(&bootstrap)
            .build()
            .unwrap();
        let channel = web.channel("xds:///greeter").unwrap();
        channel.ready().await;
        connected(&web, 2).await;
        assert_eq!(servers(&channel, 100).await, set(&[id]));
    }
}
