//! Ending connections without failing calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::Refusal;
use super::super::first_bytes::PREFACE;
use super::kit::*;

const HOLD: &str = "test.Echo/Hold";
const UNARY: &str = "test.Echo/Unary";

/// A plan that says the same in other words: a Listener for every address.
fn other_words(server: &Running) -> Plan {
    Plan {
        address: Some(([0, 0, 0, 0], server.address.port()).into()),
        ..Plan::default()
    }
}

fn hold(client: &Client) -> tokio::task::JoinHandle<Result<String, tonic::Status>> {
    let client = client.clone();
    tokio::spawn(async move { client.unary(HOLD, "held").await })
}

#[tokio::test]
async fn shutdown_finishes_calls_in_flight_and_takes_no_new_connection() {
    let mut server = start().await;
    let mut client = server.client().await;
    let call = hold(&client);
    server.echo.until(|echo| echo.held() == 1).await;
    server.stop();
    soon(async {
        while connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!server.served.is_finished(), "a call is in flight");
    server.release(1);
    assert_eq!(soon(call).await.unwrap().unwrap(), "held");
    client.closed().await;
    soon(server.served).await.unwrap().unwrap();
    assert_eq!((server.stats.open(), server.stats.cut()), (0, 0));
}

#[tokio::test]
async fn shutdown_without_connections_ends_at_once() {
    let mut server = start().await;
    server.stop();
    soon(server.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_new_listener_drains_old_connections_and_keeps_the_socket_open() {
    let server = start().await;
    let mut old = server.client().await;
    let call = hold(&old);
    server.echo.until(|echo| echo.held() == 1).await;
    let (state, _) = other_words(&server).state(server.address);
    server.states.send_replace(state);
    // GOAWAY arrives: hyper's client takes no further call, while the held one goes on.
    soon(async { while old.unary(UNARY, "").await.is_ok() {} }).await;
    assert!(!call.is_finished());
    let new = server.client().await;
    assert_eq!(new.unary(UNARY, "new").await.unwrap(), "new");
    server.release(1);
    assert_eq!(soon(call).await.unwrap().unwrap(), "held");
    old.closed().await;
    assert_eq!(new.unary(UNARY, "still").await.unwrap(), "still");
    assert_eq!(server.stats.cut(), 0);
}

#[tokio::test]
async fn an_equal_listener_drains_nothing() {
    let server = start().await;
    let client = server.client().await;
    client.unary(UNARY, "").await.unwrap();
    let same = server.states.borrow().clone();
    for _ in 0..3 {
        server.states.send_replace(same.clone());
        // A new connection shows that the loop went on past the news.
        server.client().await.unary(UNARY, "").await.unwrap();
    }
    client.unary(UNARY, "").await.unwrap();
    assert_eq!(server.stats.refused(Refusal::NotServing), 0);
}

#[tokio::test(start_paused = true)]
async fn when_the_grace_time_is_over_the_connection_is_cut() {
    let server = start_piped(&Plan::default(), no_certificates(), |server| server).await;
    let mut client = Client::over(server.connect(NEAR)).await;
    let mut running = server.running;
    // Without the limit of `soon`: the clock is virtual.
    let held = client.clone();
    let call = tokio::spawn(async move { held.unary_without_limit(HOLD, "held").await });
    running.echo.until(|echo| echo.held() == 1).await;
    let began = Instant::now();
    running.stop();
    running.served.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 600);
    assert!(call.await.unwrap().is_err());
    client.closed().await;
    assert_eq!(running.stats.cut(), 1);
    running.echo.until(|echo| echo.ended() == 1).await;
}

/// One caller: opens connections as it needs them, and calls until it is told to stop.
async fn call_on(server: Arc<Running>, stop: Arc<AtomicBool>, tally: Arc<Tally>) {
    let mut client = server.client().await;
    while !stop.load(Ordering::Relaxed) {
        match client.unary(UNARY, "x").await {
            Ok(_) => _ = tally.good.fetch_add(1, Ordering::Relaxed),
            // Refused before it was sent: the connection is draining, as its peer said.
            Err(status) if client.was_unsent(&status) => {
                tally.moved.fetch_add(1, Ordering::Relaxed);
                client = server.client().await;
            }
            Err(status) => panic!("a call failed: {status:?}"),
        }
    }
}

#[derive(Default)]
struct Tally {
    good: AtomicUsize,
    moved: AtomicUsize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_the_listener_changes_again_and_again() {
    let server = Arc::new(start().await);
    let (stop, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let callers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(call_on(server.clone(), stop.clone(), tally.clone())))
        .collect();
    for change in 0..20 {
        let done = tally.good.load(Ordering::Relaxed);
        soon(async {
            while tally.good.load(Ordering::Relaxed) < done + 20 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let plan = match change % 2 {
            0 => other_words(&server),
            _ => Plan::default(),
        };
        server.states.send_replace(plan.state(server.address).0);
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        soon(caller).await.unwrap();
    }
    let good = tally.good.load(Ordering::Relaxed);
    assert!(good >= 400);
    assert_eq!(
        good,
        server.echo.begun.load(Ordering::SeqCst),
        "what began succeeded"
    );
    assert!(
        tally.moved.load(Ordering::Relaxed) > 0,
        "connections did drain"
    );
    assert_eq!(server.stats.cut(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_in_a_shutdown_under_load() {
    let mut server = start().await;
    let callers: Vec<_> = futures_util::future::join_all((0..4).map(|_| server.client()))
        .await
        .into_iter()
        .map(|client| tokio::spawn(call_until_told_to_go(client)))
        .collect();
    soon(async {
        while server.echo.begun.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.stop();
    let mut good = 0;
    for caller in callers {
        good += soon(caller).await.unwrap();
    }
    soon(server.served).await.unwrap().unwrap();
    assert_eq!(
        good,
        server.echo.begun.load(Ordering::SeqCst),
        "what began succeeded"
    );
}

/// Calls until the connection takes no more calls; how many succeeded.
async fn call_until_told_to_go(client: Client) -> usize {
    let mut good = 0;
    loop {
        match client.unary(UNARY, "x").await {
            Ok(_) => good += 1,
            Err(status) if client.was_unsent(&status) => return good,
            Err(status) => panic!("a call failed: {status:?}"),
        }
    }
}

#[tokio::test]
async fn dropping_the_server_closes_everything_at_once() {
    let server = start().await;
    let mut client = server.client().await;
    let call = hold(&client);
    server.echo.until(|echo| echo.held() == 1).await;
    server.served.abort();
    assert!(soon(call).await.unwrap().is_err());
    client.closed().await;
    server.echo.until(|echo| echo.ended() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_grace_time_is_the_builders() {
    let server = start_piped(&Plan::default(), no_certificates(), |server| {
        server.options(|options| options.drain_grace = Duration::from_secs(3))
    })
    .await;
    let client = Client::over(server.connect(NEAR)).await;
    let call = hold(&client);
    let mut running = server.running;
    running.echo.until(|echo| echo.held() == 1).await;
    let began = Instant::now();
    running.stop();
    running.served.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!(call.await.unwrap().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_peer_without_calls_that_ignores_the_goaway_is_not_waited_for() {
    let server = start_piped(&Plan::default(), no_certificates(), |server| server).await;
    let mut io = server.connect(NEAR);
    begin_silently(&mut io).await;
    while server.running.stats.open() == 0 {
        tokio::task::yield_now().await;
    }
    let mut running = server.running;
    let began = Instant::now();
    running.stop();
    running.served.await.unwrap().unwrap();
    assert_eq!((began.elapsed().as_secs(), running.stats.cut()), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn who_was_in_the_queue_at_shutdown_is_let_in_and_told_to_go() {
    let server = start_piped(&Plan::default(), no_certificates(), |server| server).await;
    let mut io = server.connect(NEAR);
    let mut running = server.running;
    running.stop();
    begin_silently(&mut io).await;
    let mut answer = Vec::new();
    io.read_to_end(&mut answer).await.unwrap();
    running.served.await.unwrap().unwrap();
    assert!(frame_types(&answer).contains(&GOAWAY), "{answer:?}");
    assert_eq!(running.stats.plaintext(), 1);
}

const GOAWAY: u8 = 7;

/// The preface and an empty SETTINGS frame; nothing that comes is ever answered.
async fn begin_silently(io: &mut tokio::io::DuplexStream) {
    io.write_all(PREFACE).await.unwrap();
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
}

fn frame_types(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let [a, b, c, kind, ..] = *bytes {
        types.push(kind);
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        bytes = bytes.get(9 + len..).unwrap_or_default();
    }
    types
}
