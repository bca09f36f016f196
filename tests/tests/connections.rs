//! How many connections there are, who shares them, and what keeps them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sidestep::subchannel::{Connector, default_connector};
use sidestep::{Channel, Mesh};
use sidestep_interop::testing::SimpleRequest;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::RawResources;
use sidestep_tests::fixture::Fixture;
use sidestep_tests::load::{PATIENCE, call};
use sidestep_tests::peer::Peer;
use sidestep_tests::raw;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};

type Client = TestServiceClient<Channel>;

/// A control plane whose `greeter` is this peer, with so many connections allowed.
async fn plane(peer: &Peer, connections: u32) -> Fixture {
    let [listener, routes, _, endpoints] =
        raw::service("greeter", raw::endpoints("greeter", &[&peer.address]));
    let cluster = raw::cluster_with("greeter", |cluster| {
        cluster.max_connections_per_endpoint = connections;
    });
    let resources = RawResources::unchecked([listener, routes, cluster, endpoints]);
    Fixture::raw(resources.unwrap()).await
}

fn client(mesh: &Mesh) -> Client {
    TestServiceClient::new(mesh.channel("xds:///greeter").unwrap())
}

/// Begins a call that the peer can tell by its name.
fn begin(client: &Client, name: usize) -> JoinHandle<Result<(), Status>> {
    let mut client = client.clone();
    tokio::spawn(async move {
        let mut request = Request::new(SimpleRequest::default());
        let name = name.to_string().parse().unwrap();
        request.metadata_mut().insert("x-call", name);
        client.unary_call(request).await.map(|_| ())
    })
}

async fn all(calls: Vec<JoinHandle<Result<(), Status>>>) -> Vec<Result<(), Code>> {
    let mut outcomes = Vec::new();
    for call in calls {
        let ended = tokio::time::timeout(PATIENCE, call).await.unwrap();
        outcomes.push(ended.unwrap().map_err(|status| status.code()));
    }
    outcomes
}

/// Begins calls one after the other, each once the one before has come to the peer.
async fn begin_one_by_one(
    client: &Client,
    peer: &Peer,
    calls: std::ops::Range<usize>,
) -> Vec<JoinHandle<Result<(), Status>>> {
    let mut begun = Vec::new();
    for name in calls {
        begun.push(begin(client, name));
        peer.until("the call", |seen| seen.calls.len() == name + 1)
            .await;
    }
    begun
}

#[tokio::test]
async fn one_more_connection_is_opened_when_all_are_full_and_none_is_closed() {
    let peer = Peer::holding(2).await;
    let fixture = plane(&peer, 3).await;
    let client = client(&fixture.mesh("web"));
    let mut calls = begin_one_by_one(&client, &peer, 0..6).await;
    // The oldest with room first; a further one for the third call and for the fifth.
    assert_eq!(peer.seen().calls, [0, 0, 1, 1, 2, 2]);
    // There are no more than three: these wait until others have ended.
    calls.extend([begin(&client, 6), begin(&client, 7)]);
    peer.release(1);
    peer.until("the seventh call", |seen| seen.calls.len() == 7)
        .await;
    peer.release_all();
    assert_eq!(all(calls).await, [Ok(()); 8]);
    let seen = peer.until("all calls", |seen| seen.waiting == 0).await;
    assert_eq!((seen.ever, seen.open), (3, 3));
    // Calls are few again: the oldest takes them all, and the others stay.
    for _ in 0..4 {
        call(&mut client.clone()).await.unwrap();
    }
    let seen = peer.seen();
    assert_eq!(seen.calls[8..], [0, 0, 0, 0]);
    assert_eq!((seen.ever, seen.open), (3, 3));
}

#[tokio::test]
async fn calls_that_wait_for_room_go_in_the_order_in_which_they_came() {
    let peer = Peer::holding(1).await;
    let fixture = plane(&peer, 1).await;
    let client = client(&fixture.mesh("web"));
    let mut calls = begin_one_by_one(&client, &peer, 0..1).await;
    for name in 1..20 {
        calls.push(begin(&client, name));
        // The call gets in line before the next one begins: nothing it waits for is ready.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    peer.release_all();
    assert_eq!(all(calls).await, [Ok(()); 20]);
    let seen = peer.seen();
    let names: Vec<usize> = seen
        .names
        .iter()
        .map(|name| name.parse().unwrap())
        .collect();
    assert_eq!(names, (0..20).collect::<Vec<_>>());
    assert_eq!(
        seen.ever, 1,
        "one connection, if the control plane says nothing"
    );
}

#[tokio::test]
async fn the_program_bounds_what_the_control_plane_allows() {
    let peer = Peer::holding(1).await;
    let fixture = plane(&peer, 100).await;
    let mesh = fixture.builder("web").max_connections_per_endpoint(2);
    let client = client(&mesh.build().unwrap());
    let mut calls = begin_one_by_one(&client, &peer, 0..2).await;
    calls.extend([begin(&client, 2), begin(&client, 3)]);
    peer.release_all();
    assert_eq!(all(calls).await, [Ok(()); 4]);
    assert_eq!(peer.seen().ever, 2);
}

#[tokio::test]
async fn when_the_last_connection_is_lost_waiting_calls_go_over_the_next() {
    let peer = Peer::holding(1).await;
    let fixture = plane(&peer, 1).await;
    let client = client(&fixture.mesh("web"));
    let begun = begin_one_by_one(&client, &peer, 0..1).await;
    let waiting: Vec<_> = (1..4).map(|name| begin(&client, name)).collect();
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
    peer.cut();
    assert_eq!(all(begun).await, [Err(Code::Unavailable)]);
    peer.release_all();
    // No server has seen them: they are sent again without anybody noticing.
    assert_eq!(all(waiting).await, [Ok(()); 3]);
    let seen = peer.seen();
    assert_eq!(seen.calls, [0, 1, 1, 1]);
}

#[tokio::test]
async fn a_lost_connection_of_several_is_made_up_for_when_calls_wait() {
    let peer = Peer::holding(1).await;
    let fixture = plane(&peer, 2).await;
    let client = client(&fixture.mesh("web"));
    let begun = begin_one_by_one(&client, &peer, 0..2).await;
    peer.cut_one(0);
    let outcomes = all(begun.into_iter().take(1).collect()).await;
    assert_eq!(outcomes, [Err(Code::Unavailable)]);
    // The second is full, so a third connection is made.
    let calls = begin(&client, 2);
    peer.until("the call", |seen| seen.calls.len() == 3).await;
    assert_eq!(peer.seen().calls, [0, 1, 2]);
    peer.release_all();
    assert_eq!(all(vec![calls]).await, [Ok(())]);
}

#[tokio::test]
async fn a_further_connection_that_fails_harms_nobody_and_is_tried_again() {
    let peer = Peer::holding(1).await;
    let fixture = plane(&peer, 2).await;
    let dials = Arc::new(AtomicU32::new(0));
    let connector: Connector = {
        let (dials, real) = (dials.clone(), default_connector());
        Arc::new(move |address| match dials.fetch_add(1, Ordering::Relaxed) {
            1 => Box::pin(async { Err(std::io::ErrorKind::ConnectionRefused.into()) }),
            _ => real(address),
        })
    };
    let mesh = fixture.builder("web").connector(only_to(&peer, connector));
    let client = client(&mesh.build().unwrap());
    // The second call waits through the backoff, and comes over the third try.
    let calls = begin_one_by_one(&client, &peer, 0..2).await;
    assert_eq!(dials.load(Ordering::Relaxed), 3);
    assert_eq!(peer.seen().calls, [0, 1]);
    peer.release_all();
    assert_eq!(all(calls).await, [Ok(()); 2]);
}

/// `connector` for the peer alone: the control plane is dialled as ever.
fn only_to(peer: &Peer, connector: Connector) -> Connector {
    let (peer, real) = (peer.address.clone(), default_connector());
    Arc::new(move |address| match address.to_string() == peer {
        true => connector(address),
        false => real(address),
    })
}

#[tokio::test]
async fn channels_of_one_mesh_share_their_connections() {
    let peer = Peer::start().await;
    let resources = [
        raw::listener("greeter", "greeter"),
        raw::listener("other", "greeter"),
        raw::routes("greeter", &["greeter"]),
        raw::cluster("greeter"),
        raw::endpoints("greeter", &[&peer.address]),
    ];
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let mesh = fixture.mesh("web");
    let targets = ["xds:///greeter", "xds:///greeter", "xds:///other"];
    let channels = targets.map(|target| mesh.channel(target).unwrap());
    for channel in &channels {
        let mut client = TestServiceClient::new(channel.clone());
        call(&mut client).await.unwrap();
    }
    assert_eq!(peer.seen().calls, [0, 0, 0]);
    assert_eq!(peer.seen().ever, 1);
    // Another mesh is another process.
    call(&mut client(&fixture.mesh("web"))).await.unwrap();
    assert_eq!(peer.seen().ever, 2);
}

#[tokio::test]
async fn an_endpoint_that_moves_keeps_its_connection() {
    let (a, b) = (Peer::start().await, Peer::start().await);
    // (priority, weight of the locality, address): each has a zone of its own, by its place.
    let layouts: [&[(u32, u32, &str)]; 4] = [
        &[(0, 1, &a.address), (0, 1, &b.address)],
        // To another zone.
        &[(0, 1, &b.address), (0, 1, &a.address)],
        // To another priority.
        &[(0, 1, &a.address), (1, 1, &b.address)],
        // Back, with another weight of its locality.
        &[(0, 5, &a.address), (0, 1, &b.address)],
    ];
    let of = |layout| raw::service("greeter", raw::assignment("greeter", layout, &[]));
    let fixture = Fixture::raw(RawResources::unchecked(of(layouts[0])).unwrap()).await;
    let mesh = fixture.mesh("web");
    let mut client = client(&mesh);
    for (at, layout) in layouts.into_iter().enumerate() {
        fixture.resources().replace(of(layout)).unwrap();
        let only_a = at == 2;
        // Until calls go where this layout leads them.
        let there = async {
            loop {
                let mut used = BTreeSet::new();
                for _ in 0..20 {
                    used.insert(call(&mut client).await.unwrap().endpoint);
                }
                if used.contains(&b.address) != only_a {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap();
        mesh.settled().await;
    }
    for peer in [a, b] {
        let seen = peer.seen();
        assert_eq!((seen.ever, seen.open), (1, 1));
        assert!(seen.calls.len() > 5, "it was used: {seen:?}");
    }
}
