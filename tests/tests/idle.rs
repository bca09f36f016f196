//! A cluster without calls gives its connections up, and the next call has them made again.

use std::time::Duration;

use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::RawResources;
use sidestep_tests::fixture::Fixture;
use sidestep_tests::load::{PATIENCE, call};
use sidestep_tests::peer::{Peer, Seen};
use sidestep_tests::raw;

const TIMEOUT: Duration = Duration::from_millis(200);

async fn plane(peers: &[&Peer]) -> Fixture {
    let addresses: Vec<_> = peers.iter().map(|peer| &*peer.address).collect();
    let resources = raw::service("greeter", raw::endpoints("greeter", &addresses));
    Fixture::raw(RawResources::unchecked(resources).unwrap()).await
}

fn open(n: usize) -> impl FnMut(&Seen) -> bool {
    move |seen| seen.open == n
}

#[tokio::test]
async fn a_cluster_without_calls_closes_all_connections_and_wakes_with_the_next_call() {
    let (a, b) = (Peer::start().await, Peer::start().await);
    let fixture = plane(&[&a, &b]).await;
    let mesh = fixture.builder("web").idle_timeout(Some(TIMEOUT));
    let mesh = mesh.build().unwrap();
    let channel = mesh.channel("xds:///greeter").unwrap();
    let mut client = TestServiceClient::new(channel.clone());
    for round in 1..=3 {
        // No call fails, however the cluster is found: asleep, or about to be.
        call(&mut client).await.unwrap();
        // The policy connects to all of them again.
        a.until("a connection", open(1)).await;
        b.until("a connection", open(1)).await;
        a.until("its end", open(0)).await;
        b.until("its end", open(0)).await;
        assert_eq!((a.seen().ever, b.seen().ever), (round, round));
    }
    // Whoever waits for the channel to be ready wakes it too.
    tokio::time::timeout(PATIENCE, channel.ready())
        .await
        .unwrap();
    a.until("a connection", |seen| seen.ever == 4).await;
}

#[tokio::test]
async fn a_call_in_flight_keeps_the_connections() {
    let (busy, quiet) = (Peer::holding(100).await, Peer::start().await);
    let resources = [("busy", &busy), ("quiet", &quiet)];
    let resources = resources
        .map(|(name, peer)| raw::service(name, raw::endpoints(name, &[&peer.address])))
        .into_iter()
        .flatten();
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let mesh = fixture.builder("web").idle_timeout(Some(TIMEOUT));
    let mesh = mesh.build().unwrap();
    let client =
        |name: &str| TestServiceClient::new(mesh.channel(&format!("xds:///{name}")).unwrap());
    let (mut caller, mut clock) = (client("busy"), client("quiet"));
    let long = tokio::spawn(async move { call(&mut caller).await });
    busy.until("the call", |seen| seen.waiting == 1).await;
    // The quiet cluster tells the time: it sleeps three times.
    for _ in 0..3 {
        call(&mut clock).await.unwrap();
        quiet.until("its end", open(0)).await;
    }
    assert_eq!((busy.seen().ever, busy.seen().open), (1, 1));
    busy.release_all();
    long.await.unwrap().unwrap();
    busy.until("its end", open(0)).await;
}

#[tokio::test]
async fn a_sleeping_cluster_follows_its_endpoints_and_connects_to_none() {
    let (a, b) = (Peer::start().await, Peer::start().await);
    let fixture = plane(&[&a]).await;
    let mesh = fixture.builder("web").idle_timeout(Some(TIMEOUT));
    let mesh = mesh.build().unwrap();
    let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    call(&mut client).await.unwrap();
    a.until("its end", open(0)).await;
    let moved = raw::service("greeter", raw::endpoints("greeter", &[&b.address]));
    fixture.resources().replace(moved).unwrap();
    // Until the update is there.
    sidestep_tests::admin::eventually(
        || async { mesh.clusters().await.unwrap() },
        |clusters| {
            let endpoints = clusters.iter().flat_map(|cluster| &cluster.endpoints);
            let addresses: Vec<_> = endpoints.map(|e| e.addresses[0].to_string()).collect();
            addresses == [b.address.clone()]
        },
    )
    .await;
    assert_eq!(b.seen().ever, 0);
    call(&mut client).await.unwrap();
    assert_eq!((a.seen().ever, b.seen().ever), (1, 1));
}

#[tokio::test]
async fn calls_in_the_very_moment_of_each_sleep_fail_nothing() {
    let peer = Peer::start().await;
    let fixture = plane(&[&peer]).await;
    let timeout = Duration::from_millis(2);
    let mesh = fixture.builder("web").idle_timeout(Some(timeout));
    let mesh = mesh.build().unwrap();
    let client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    for _ in 0..100 {
        let calls = (0..4).map(|_| {
            let mut client = client.clone();
            async move { call(&mut client).await.unwrap() }
        });
        futures_util::future::join_all(calls).await;
        peer.until("its end", open(0)).await;
    }
    assert!(peer.seen().ever >= 100);
}
