//! Peers that send the wrong thing, or nothing, or too slowly. Time is virtual.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::first_bytes::PREFACE;
use super::super::{Refusal, Server};
use super::kit::*;

const NO_GAP: Duration = Duration::from_millis(1);
const ONE_SECOND: Duration = Duration::from_secs(1);
/// The start of a TLS record with a ClientHello of 512 bytes.
const HELLO: [u8; 6] = [22, 3, 1, 2, 0, 1];

/// Plays `bytes` to a server and expects it to close, silently, at `after` seconds, for `why`.
async fn closes(plan: &Plan, bytes: &[u8], gap: Duration, after: u64, why: Refusal) {
    let ca = Ca::new();
    let server = start_piped(plan, ca.providers(), |server| server).await;
    let (answer, elapsed) = server.trickle(NEAR, bytes, gap).await;
    assert_eq!(answer, b"", "{why:?}: not a byte of an answer");
    assert_eq!(elapsed.as_secs(), after, "{why:?}: {elapsed:?}");
    let stats = &server.running.stats;
    assert_eq!(stats.refused(why), 1, "{why:?}: {stats:?}");
    assert_eq!((stats.tls(), stats.plaintext(), stats.open()), (0, 0, 0));
}

fn permissive() -> Plan {
    Plan::permissive(downstream_tls(true, true))
}

fn strict() -> Plan {
    Plan::tls(downstream_tls(true, true))
}

#[tokio::test(start_paused = true)]
async fn a_permissive_port_waits_5_seconds_for_the_first_bytes() {
    let late = Refusal::FirstBytesTimeout;
    closes(&permissive(), b"", NO_GAP, 5, late).await;
    closes(&permissive(), &HELLO[..3], NO_GAP, 5, late).await;
    closes(&permissive(), &PREFACE[..20], NO_GAP, 5, late).await;
    closes(&permissive(), &HELLO, ONE_SECOND, 5, late).await;
    closes(&permissive(), PREFACE, ONE_SECOND, 5, late).await;
}

#[tokio::test(start_paused = true)]
async fn a_permissive_port_closes_junk_at_once() {
    for junk in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\0\0\0\0",
        &[22, 3, 1, 0, 4, 2],
    ] {
        closes(&permissive(), junk, NO_GAP, 0, Refusal::FirstBytesJunk).await;
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_hello_is_closed_after_10_seconds() {
    closes(&permissive(), &HELLO, NO_GAP, 10, Refusal::HandshakeTimeout).await;
    closes(&strict(), &HELLO, NO_GAP, 10, Refusal::HandshakeTimeout).await;
    closes(&strict(), b"", NO_GAP, 10, Refusal::HandshakeTimeout).await;
}

#[tokio::test(start_paused = true)]
async fn a_plaintext_port_wants_the_preface_within_10_seconds() {
    let plain = Plan::default();
    closes(&plain, b"", NO_GAP, 10, Refusal::PrefaceTimeout).await;
    closes(&plain, PREFACE, ONE_SECOND, 10, Refusal::PrefaceTimeout).await;
    closes(
        &plain,
        b"GET / HTTP/1.1\r\n\r\n",
        NO_GAP,
        0,
        Refusal::Preface,
    )
    .await;
    closes(&plain, &HELLO, NO_GAP, 0, Refusal::Preface).await;
}

#[tokio::test(start_paused = true)]
async fn after_tls_the_preface_has_its_own_10_seconds() {
    let ca = Ca::new();
    let server = start_piped(&strict(), ca.providers(), |server| server).await;
    let mut tls = tls_connect(server.connect(FAR), &ca, Some(&ca))
        .await
        .unwrap();
    let began = Instant::now();
    let mut answer = Vec::new();
    // Closed without a TLS farewell, which rustls calls an error.
    let _ = tls.read_to_end(&mut answer).await;
    assert_eq!((answer.len(), began.elapsed().as_secs()), (0, 10));
    assert_eq!(server.running.stats.refused(Refusal::PrefaceTimeout), 1);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_is_counted_apart() {
    let ca = Ca::new();
    for plan in [permissive(), strict(), Plan::default()] {
        let server = start_piped(&plan, ca.providers(), |server| server).await;
        drop(server.connect(NEAR));
        while server.running.stats.refused(Refusal::Gone) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_chain_no_byte() {
    let only_tls = Plan {
        chains: permissive().chains[..1].to_vec(),
        ..Plan::default()
    };
    closes(&only_tls, PREFACE, NO_GAP, 0, Refusal::NoFilterChain).await;
}

#[tokio::test(start_paused = true)]
async fn plaintext_from_other_hosts_needs_the_builders_word() {
    let refused = start_piped(&Plan::default(), no_certificates(), |server| server).await;
    let (answer, _) = refused.trickle(FAR, PREFACE, NO_GAP).await;
    assert_eq!(answer, b"");
    assert_eq!(refused.running.stats.refused(Refusal::Plaintext), 1);
    let near = Client::over(refused.connect(NEAR)).await;
    assert!(
        near.unary("test.Echo/Unary", "").await.is_ok(),
        "loopback may"
    );

    let build = Server::plaintext_where_unsecured;
    let allowed = start_piped(&Plan::default(), no_certificates(), build).await;
    let far = Client::over(allowed.connect(FAR)).await;
    assert!(far.unary("test.Echo/Unary", "").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_permissive_port_takes_plaintext_from_everywhere_because_the_control_plane_says_so() {
    let ca = Ca::new();
    let server = start_piped(&permissive(), ca.providers(), |server| server).await;
    let far = Client::over(server.connect(FAR)).await;
    assert!(far.unary("test.Echo/Unary", "").await.is_ok());
    let tls = tls_connect(server.connect(FAR), &ca, Some(&ca))
        .await
        .unwrap();
    let secured = Client::over(tls).await;
    assert!(secured.unary("test.Echo/Unary", "").await.is_ok());
    assert_eq!(server.running.stats.refused(Refusal::Plaintext), 0);
}

/// A chain that says nothing of TLS beside one that asks for it makes no permissive port.
#[tokio::test(start_paused = true)]
async fn plaintext_from_other_hosts_needs_a_chain_that_says_raw_buffer() {
    use sidestep_proto::resource::TransportProtocol;
    let ca = Ca::new();
    let mut plan = permissive();
    plan.chains[1].0 = TransportProtocol::Any;
    let server = start_piped(&plan, ca.providers(), |server| server).await;
    let (answer, _) = server.trickle(FAR, PREFACE, NO_GAP).await;
    assert_eq!(answer, b"");
    assert_eq!(server.running.stats.refused(Refusal::Plaintext), 1);
    let near = Client::over(server.connect(NEAR)).await;
    assert!(near.unary("test.Echo/Unary", "").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_died_silently_is_noticed_by_keepalive() {
    let server = start_piped(&Plan::default(), no_certificates(), |server| {
        server.options(|options| options.keepalive_interval = Some(Duration::from_secs(60)))
    })
    .await;
    let mut io = server.connect(NEAR);
    io.write_all(PREFACE).await.unwrap();
    // An empty SETTINGS frame; then nothing, not even an answer to a ping.
    io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    let began = Instant::now();
    let _ = io.read_to_end(&mut Vec::new()).await;
    let seconds = began.elapsed().as_secs();
    assert!(
        (80..=81).contains(&seconds),
        "60 s of silence and 20 s of grace: {seconds}"
    );
}
