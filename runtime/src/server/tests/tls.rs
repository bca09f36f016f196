//! Mutual TLS, and both ways into a permissive port.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;

use super::super::Refusal;
use super::kit::*;
use crate::security::{CertificateProvider, Material, SecurityError};

const WHO: &str = "test.Echo/Who";

async fn strict(ca: &Ca) -> Running {
    let plan = Plan::tls(downstream_tls(true, true));
    started(start_with(&plan, ca.providers(), |server| server)).await
}

async fn socket(server: &Running) -> TcpStream {
    connect(server.address).await.unwrap()
}

#[tokio::test]
async fn a_trusted_client_is_let_in_and_known() {
    let ca = Ca::new();
    let server = strict(&ca).await;
    let tls = tls_connect(socket(&server).await, &ca, Some(&ca))
        .await
        .unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let who = Client::over(tls).await.unary(WHO, "").await.unwrap();
    assert_eq!(who, "tls=true peer=spiffe://test/echo loopback=Some(true)");
    assert_eq!((server.stats.tls(), server.stats.plaintext()), (1, 0));
}

#[tokio::test]
async fn without_a_certificate_or_with_a_strangers_nobody_is_let_in() {
    let (ca, stranger) = (Ca::new(), Ca::new());
    let server = strict(&ca).await;
    for shown in [None, Some(&stranger)] {
        // In TLS 1.3 the client's side may be done before the server has refused it.
        if let Ok(mut tls) = tls_connect(socket(&server).await, &ca, shown).await {
            let read = soon(tokio::io::AsyncReadExt::read(&mut tls, &mut [0])).await;
            assert!(!matches!(read, Ok(1..)), "refused without a byte of HTTP/2");
        }
    }
    assert!(
        tls_connect(socket(&server).await, &stranger, Some(&ca))
            .await
            .is_err()
    );
    refusals(&server, Refusal::Handshake, 3).await;
    assert_eq!(server.stats.tls(), 0);
}

#[tokio::test]
async fn a_client_certificate_that_is_only_asked_for_may_be_missing() {
    let ca = Ca::new();
    let plan = Plan::tls(downstream_tls(true, false));
    let server = started(start_with(&plan, ca.providers(), |server| server)).await;
    for (shown, peer) in [(None, "nobody"), (Some(&ca), "spiffe://test/echo")] {
        let tls = tls_connect(socket(&server).await, &ca, shown)
            .await
            .unwrap();
        let who = Client::over(tls).await.unary(WHO, "").await.unwrap();
        assert_eq!(who, format!("tls=true peer={peer} loopback=Some(true)"));
    }
}

#[tokio::test]
async fn a_permissive_port_takes_both_and_counts_each_way() {
    let ca = Ca::new();
    let plan = Plan::permissive(downstream_tls(true, true));
    let server = started(start_with(&plan, ca.providers(), |server| server)).await;
    let before = server.stats.plaintext();
    let who = server.client().await.unary(WHO, "").await.unwrap();
    assert!(who.starts_with("tls=false"), "{who}");
    let tls = tls_connect(socket(&server).await, &ca, Some(&ca))
        .await
        .unwrap();
    let who = Client::over(tls).await.unary(WHO, "").await.unwrap();
    assert!(who.starts_with("tls=true peer=spiffe://test/echo"), "{who}");
    assert_eq!(
        (server.stats.tls(), server.stats.plaintext() - before),
        (1, 1)
    );
}

#[tokio::test]
async fn plaintext_at_a_strict_port_is_refused() {
    let ca = Ca::new();
    let server = strict(&ca).await;
    let mut client = server.client().await;
    assert!(client.unary(WHO, "").await.is_err());
    client.closed().await;
    refusals(&server, Refusal::Handshake, 1).await;
    assert_eq!(server.stats.plaintext(), 0);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_had_never_means_plaintext() {
    let ca = Ca::new();
    let nothing = Issued {
        identity: None,
        ..ca.issue()
    };
    let providers = no_certificates().with("server", Arc::new(nothing));
    let plan = Plan::tls(downstream_tls(false, false));
    let server = start_with(
        &plan,
        providers,
        super::super::Server::plaintext_where_unsecured,
    );
    let server = started(server).await;
    let mut client = server.client().await;
    assert!(client.unary(WHO, "").await.is_err());
    client.closed().await;
    assert!(server.stats.refused(Refusal::Security) >= 1);
    assert_eq!((server.stats.tls(), server.stats.plaintext()), (0, 0));
}

/// A provider whose certificates change.
#[derive(Debug)]
struct Rotating(ArcSwap<Issued>);

impl CertificateProvider for Rotating {
    fn current(&self) -> Result<Arc<Material>, SecurityError> {
        self.0.load().current()
    }
}

#[tokio::test]
async fn rotation_reaches_new_handshakes_and_leaves_old_connections_alone() {
    let (old, new) = (Ca::new(), Ca::new());
    let rotating = Arc::new(Rotating(ArcSwap::from_pointee(old.issue())));
    let providers = no_certificates().with("server", rotating.clone());
    let plan = Plan::tls(downstream_tls(true, true));
    let server = started(start_with(&plan, providers, |server| server)).await;
    let tls = tls_connect(socket(&server).await, &old, Some(&old))
        .await
        .unwrap();
    let before = Client::over(tls).await;
    before.unary(WHO, "").await.unwrap();
    rotating.0.store(Arc::new(new.issue()));
    assert!(
        tls_connect(socket(&server).await, &old, Some(&old))
            .await
            .is_err()
    );
    let tls = tls_connect(socket(&server).await, &new, Some(&new))
        .await
        .unwrap();
    Client::over(tls).await.unary(WHO, "").await.unwrap();
    before.unary(WHO, "").await.unwrap();
    assert_eq!(server.stats.tls(), 2);
}

/// Waits for the counter; the probes of `started` may have added other refusals, not these.
async fn refusals(server: &Running, why: Refusal, expected: u64) {
    soon(async {
        while server.stats.refused(why) < expected {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
