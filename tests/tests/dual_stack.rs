//! Endpoints with several addresses (gRFC A61). The machine may have no IPv6: what races here are
//! loopback addresses of one family, and that families take turns is shown in
//! `runtime/src/subchannel/race.rs`.

use sidestep::Channel;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Fixture, unused_address};
use sidestep_tests::load::{PATIENCE, call, until};
use sidestep_tests::peer::Peer;
use sidestep_tests::raw;
use tokio::net::TcpListener;

/// A control plane whose `greeter` has these endpoints, and a client of it.
async fn mesh(endpoints: &[&[&str]]) -> (Fixture, TestServiceClient<Channel>) {
    let resources = raw::service("greeter", raw::endpoints_of("greeter", endpoints));
    let fixture = Fixture::raw(RawResources::unchecked(resources).unwrap()).await;
    let client = fixture.client("xds:///greeter");
    (fixture, client)
}

#[tokio::test]
async fn an_address_that_says_nothing_gives_way_to_the_next_and_is_dropped() {
    let silent = TcpListener::bind("127.0.0.2:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    let peer = Peer::start().await;
    let (_fixture, mut client) = mesh(&[&[&silent_at, &peer.address]]).await;
    let answer = call(&mut client).await.unwrap();
    // Named by its first address, whichever answers.
    assert_eq!(answer.endpoint, silent_at);
    assert_eq!(peer.seen().ever, 1);
    // The loser hangs up.
    let (loser, _) = silent.accept().await.unwrap();
    let hung_up = async {
        let mut bytes = [0; 1024];
        loop {
            loser.readable().await.unwrap();
            match loser.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    tokio::time::timeout(PATIENCE, hung_up).await.unwrap();
}

#[tokio::test]
async fn a_failure_names_every_address_and_each_is_tried_again() {
    let addresses = [unused_address(), unused_address()];
    let [first, second] = addresses.each_ref();
    let (_fixture, mut client) = mesh(&[&[first, second]]).await;
    let status = call(&mut client).await.unwrap_err();
    for address in &addresses {
        assert!(status.message().contains(&**address), "{status}");
    }
    // The second comes up: it is found although the first still refuses.
    let peer = Peer::at(second, None, usize::MAX >> 4).await;
    until(&mut client, Result::is_ok).await.unwrap();
    assert_eq!(peer.seen().open, 1);
}

#[tokio::test]
async fn addresses_in_another_order_are_the_same_endpoint() {
    let (a, b) = (Peer::start().await, Peer::start().await);
    let (fixture, mut client) = mesh(&[&[&a.address, &b.address]]).await;
    call(&mut client).await.unwrap();
    assert_eq!((a.seen().ever, b.seen().ever), (1, 0));
    // A second endpoint shows when the update has come.
    let other = Peer::start().await;
    let turned = [&[&*b.address, &a.address][..], &[&other.address]];
    let turned = raw::endpoints_of("greeter", &turned);
    fixture
        .resources()
        .replace(raw::service("greeter", turned))
        .unwrap();
    let elsewhere = |outcome: &Result<sidestep_tests::load::Answer, _>| matches!(outcome, Ok(answer) if answer.endpoint == other.address);
    until(&mut client, elsewhere).await.unwrap();
    assert_eq!((a.seen().ever, a.seen().open), (1, 1));
    assert_eq!(b.seen().ever, 0);
    // Only another set is another endpoint.
    let fewer = [&[&*b.address][..], &[&other.address]];
    let fewer = raw::endpoints_of("greeter", &fewer);
    fixture
        .resources()
        .replace(raw::service("greeter", fewer))
        .unwrap();
    a.until("its end", |seen| seen.open == 0).await;
    b.until("a connection", |seen| seen.open == 1).await;
    assert_eq!(other.seen().ever, 1);
}
