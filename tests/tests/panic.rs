//! Endpoints of bad health are used where too few others are left, if the control plane says so.

use std::collections::BTreeSet;
use std::sync::Arc;

use sidestep::inspect::Connectivity;
use sidestep_proto::codec;
use sidestep_proto::resource::Health::{Draining, Timeout, Unhealthy, Unknown};
use sidestep_proto::resource::{Cluster, LocalityEndpoints, Resource};
use sidestep_proto::wire::Any;
use sidestep_tests::load::PATIENCE;
use sidestep_tests::places::{Places, tally};

fn cluster(panic_threshold: u8) -> Any {
    codec::encode(&Resource::Cluster(Arc::new(Cluster {
        panic_threshold,
        ..Cluster::eds("greeter")
    })))
}

/// Who answers once as many endpoints are connected as expected.
async fn servers(places: &Places, threshold: u8, zones: Vec<LocalityEndpoints>, expected: &[&str]) {
    places.say(cluster(threshold), zones);
    let web = places.process("");
    let channel = web.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let connected = async {
        loop {
            let clusters = web.clusters().await.expect("the mesh is there");
            let endpoints = clusters.iter().flat_map(|cluster| &cluster.endpoints);
            let ready = endpoints.filter(|e| e.connectivity == Some(Connectivity::Ready));
            if ready.count() == expected.len() {
                return web.settled().await;
            }
            tokio::task::yield_now().await;
        }
    };
    let connected = tokio::time::timeout(PATIENCE, connected).await;
    connected.unwrap_or_else(|_| panic!("{expected:?} are never connected"));
    let tally = tally(&channel, 60).await;
    tally.assert_none_failed();
    let found: BTreeSet<_> = tally.by_server.keys().map(String::as_str).collect();
    assert_eq!(
        found,
        expected.iter().copied().collect(),
        "below {threshold} %"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_threshold_health_keeps_nobody_out() {
    let places = Places::start(&["a", "b", "c", "d"]).await;
    // One of three is fit: the one that drains does not count.
    let zone = || {
        let endpoints = [(0, Unknown), (1, Unhealthy), (2, Timeout), (3, Draining)];
        vec![places.zone("z", 0, 1, &endpoints)]
    };
    servers(&places, 0, zone(), &["a"]).await;
    servers(&places, 33, zone(), &["a"]).await;
    servers(&places, 34, zone(), &["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_without_a_fit_endpoint_leaves_calls_to_the_next() {
    let places = Places::start(&["a", "b"]).await;
    let zones = |second| {
        vec![
            places.zone("z", 0, 1, &[(0, Unhealthy)]),
            places.zone("z", 1, 1, &[(1, second)]),
        ]
    };
    servers(&places, 50, zones(Unknown), &["b"]).await;
    // With none anywhere, the first one is as good as any.
    servers(&places, 50, zones(Unhealthy), &["a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_used_in_a_panic_is_shown() {
    let places = Places::start(&["a", "b", "c"]).await;
    let endpoints = [(0, Unknown), (1, Unhealthy), (2, Draining)];
    places.say(cluster(100), vec![places.zone("z", 0, 1, &endpoints)]);
    let web = places.process("");
    let channel = web.channel("xds:///greeter").unwrap();
    channel.ready().await;
    let call = http::Request::post("/a.A/B").body(()).unwrap();
    let shown = async {
        let used = format!(
            "{}, zone z, UNHEALTHY, but too few others are left: READY",
            places.address(1)
        );
        let unused = format!(
            "{}, zone z: not a candidate: its health is DRAINING",
            places.address(2)
        );
        loop {
            let answer = channel.explain(&call).await.unwrap();
            let text = answer.to_text(|_, text| text.to_owned());
            if text.contains(&used) && text.contains(&unused) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, shown)
        .await
        .expect("it is shown in time");
}
