//! Serving or not, and where.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use sidestep_proto::resource::Address;
use tokio::net::UnixStream;

use super::super::serving::Gate;
use super::super::{Refusal, Server, ServerError, ServerMode};
use super::kit::*;
use crate::balancer::Failure;
use crate::control::ServerState;

const UNARY: &str = "test.Echo/Unary";

fn failed() -> ServerState {
    ServerState::Failed(Failure::new(
        sidestep_proto::code::RESOURCE_NOT_FOUND,
        "the Listener does not exist",
    ))
}

/// The mode of a server at `address` under `plan`, without a socket.
fn mode_at(address: &str, plan: &Plan, build: impl FnOnce(Server) -> Server) -> ServerMode {
    let real: SocketAddr = address.parse().unwrap();
    let states = pending_states();
    states.send_replace(plan.state(real).0);
    let server = build(Server::new(address, source(&states, no_certificates())));
    let told = Arc::new(Mutex::new(None));
    let tell = told.clone();
    let server = server.on_mode_change(move |_, mode| *tell.lock().unwrap() = Some(mode.clone()));
    let mut gate = Gate::open(Address::Tcp(real), server.source, server.on_mode).unwrap();
    gate.announce();
    told.lock().unwrap().clone().expect("told")
}

fn reason(mode: ServerMode) -> String {
    match mode {
        ServerMode::NotServing { reason } => reason,
        ServerMode::Serving => panic!("it serves"),
    }
}

#[test]
fn the_listener_must_be_for_the_real_address() {
    let at = |named: &str| Plan {
        address: Some(named.parse().unwrap()),
        ..Plan::default()
    };
    let mode = |named: &str| mode_at("127.0.0.1:50051", &at(named), |server| server);
    for good in ["127.0.0.1:50051", "0.0.0.0:50051", "[::]:50051"] {
        assert_eq!(mode(good), ServerMode::Serving, "{good}");
    }
    for bad in ["127.0.0.1:50052", "0.0.0.0:50052", "127.0.0.2:50051"] {
        let reason = reason(mode(bad));
        assert!(
            reason.contains(bad) && reason.contains("127.0.0.1:50051"),
            "{reason}"
        );
    }
}

#[test]
fn plaintext_that_could_only_reach_other_hosts_is_not_served() {
    let plan = Plan::default();
    let refused = reason(mode_at("10.0.0.1:50051", &plan, |server| server));
    assert!(
        refused.contains(".plaintext_where_unsecured()"),
        "{refused}"
    );
    let allowed = mode_at("10.0.0.1:50051", &plan, Server::plaintext_where_unsecured);
    assert_eq!(allowed, ServerMode::Serving);
    let any = mode_at("0.0.0.0:50051", &plan, |server| server);
    assert_eq!(any, ServerMode::Serving, "loopback peers may come");
}

#[test]
fn an_unknown_certificate_provider_is_not_served() {
    let plan = Plan::tls(downstream_tls(true, true));
    let reason = reason(mode_at(
        "127.0.0.1:50051",
        &plan,
        Server::plaintext_where_unsecured,
    ));
    assert!(reason.contains("\"server\""), "{reason}");
}

#[tokio::test]
async fn nobody_can_connect_before_there_is_a_listener() {
    let states = pending_states();
    let server = Server::new("127.0.0.1:0", source(&states, no_certificates()));
    let (tell, mut modes) = tokio::sync::mpsc::unbounded_channel();
    let server = server
        .add_service(Echo::default())
        .on_mode_change(move |_, mode| tell.send(mode.clone()).unwrap())
        .bind()
        .unwrap();
    let address = tcp(&server);
    let serving = tokio::spawn(server.serve());
    let waiting = soon(modes.recv()).await.unwrap();
    assert_eq!(reason(waiting), "waiting for the Listener");
    assert!(connect(address).await.is_err());
    states.send_replace(failed());
    assert_eq!(
        reason(soon(modes.recv()).await.unwrap()),
        "the Listener does not exist [SX0312]"
    );
    assert!(connect(address).await.is_err());
    states.send_replace(Plan::default().state(address).0);
    assert_eq!(soon(modes.recv()).await.unwrap(), ServerMode::Serving);
    let client = Client::over(connect(address).await.unwrap()).await;
    assert!(client.unary(UNARY, "").await.is_ok());
    serving.abort();
}

#[tokio::test]
async fn a_deleted_listener_lets_nobody_in_until_it_is_back() {
    let mut server = start().await;
    let mut old = server.client().await;
    old.unary(UNARY, "").await.unwrap();
    server.states.send_replace(failed());
    assert_eq!(
        server.not_serving().await,
        "the Listener does not exist [SX0312]"
    );
    old.closed().await;
    // The handshake of this client needs no answer; its first call shows that it was closed.
    let shut_out = server.client().await;
    assert!(shut_out.unary(UNARY, "").await.is_err());
    assert_eq!(server.stats.refused(Refusal::NotServing), 1);
    let (state, _) = Plan::default().state(server.address);
    server.states.send_replace(state);
    server.mode_is(&ServerMode::Serving).await;
    assert!(server.client().await.unary(UNARY, "").await.is_ok());
}

#[tokio::test]
async fn without_a_control_plane_the_last_listener_stays() {
    let (sender, receiver) = tokio::sync::watch::channel(ServerState::Pending);
    let mut source = source(&pending_states(), no_certificates());
    source.subscribe = Arc::new(move |_| Ok(receiver.clone()));
    let server = Server::new("127.0.0.1:0", source).add_service(Echo::default());
    let (tell, mut modes) = tokio::sync::mpsc::unbounded_channel();
    let server = server.on_mode_change(move |_, mode| tell.send(mode.clone()).unwrap());
    let bound = server.bind().unwrap();
    let address = tcp(&bound);
    sender.send_replace(Plan::default().state(address).0);
    let serving = tokio::spawn(bound.serve());
    assert_eq!(soon(modes.recv()).await.unwrap(), ServerMode::Serving);
    drop(sender);
    for _ in 0..3 {
        let client = Client::over(connect(address).await.unwrap()).await;
        assert!(client.unary(UNARY, "").await.is_ok());
    }
    assert!(modes.try_recv().is_err(), "the mode did not change");
    serving.abort();
}

#[tokio::test]
async fn a_unix_socket_is_served_in_plaintext() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("echo.sock");
    let states = pending_states();
    states.send_replace(Plan::default().state(([0, 0, 0, 0], 1).into()).0);
    let address = format!("unix:{}", path.display());
    let (tell, mut modes) = tokio::sync::mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::new(address, source(&states, no_certificates()))
        .add_service(Echo::default())
        .on_mode_change(move |_, mode| tell.send(mode.clone()).unwrap())
        .serve_with_shutdown(stopped);
    let serving = tokio::spawn(serving);
    assert_eq!(soon(modes.recv()).await.unwrap(), ServerMode::Serving);
    let client = Client::over(UnixStream::connect(&path).await.unwrap()).await;
    let who = client.unary("test.Echo/Who", "").await.unwrap();
    assert_eq!(who, "tls=false peer=nobody loopback=None");
    stop.send(()).unwrap();
    soon(serving).await.unwrap().unwrap();
    assert!(!path.exists());
}

#[test]
fn an_address_is_ip_and_port_or_a_socket_path() {
    let bind = |address: &str| {
        let source = source(&pending_states(), no_certificates());
        Server::new(address, source).bind().map(|_| ())
    };
    for bad in [
        "",
        "50051",
        "0.0.0.0",
        "localhost:50051",
        "unix:",
        "0.0.0.0:99999",
    ] {
        let error = bind(bad).unwrap_err();
        assert!(matches!(error, ServerError::Address(_)), "{bad}: {error}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = bind(&address).unwrap_err();
    assert!(matches!(error, ServerError::Bind { .. }), "{error}");
    assert!(error.to_string().contains(&address));
    assert!(bind("[::1]:0").is_ok() && bind("127.0.0.1:0").is_ok());
}

#[tokio::test]
async fn no_name_for_the_listener_is_an_error() {
    let mut source = source(&pending_states(), no_certificates());
    source.subscribe = Arc::new(|_| Err("no server_listener_resource_name_template".into()));
    let error = soon(Server::new("127.0.0.1:0", source).serve())
        .await
        .unwrap_err();
    assert!(matches!(error, ServerError::Listener { .. }), "{error}");
}

#[tokio::test]
async fn tonics_own_server_takes_authenticated_connections() {
    let ca = Ca::new();
    let states = pending_states();
    let server = Server::new("127.0.0.1:0", source(&states, ca.providers()));
    let stats = server.stats();
    let bound = server.bind().unwrap();
    let address = tcp(&bound);
    states.send_replace(Plan::tls(downstream_tls(true, true)).state(address).0);
    let incoming = bound.incoming().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tonic::transport::Server::builder()
        .add_service(Echo::default())
        .serve_with_incoming_shutdown(incoming, async { drop(stopped.await) });
    let serving = tokio::spawn(serving);
    let tls = tls_connect(connect_until_listening(address).await, &ca, Some(&ca))
        .await
        .unwrap();
    let client = Client::over(tls).await;
    assert_eq!(client.unary(UNARY, "by tonic").await.unwrap(), "by tonic");
    assert_eq!(stats.tls(), 1);
    stop.send(()).unwrap();
    drop(client);
    soon(serving).await.unwrap().unwrap();
    soon(async {
        while connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_given_to_tonic_ends_when_its_listener_is_gone_and_the_grace_is_over() {
    let (mut incoming, io, states, stats) = piped_incoming(&Plan::default());
    let mut accepted = soon(incoming.next()).await.unwrap().unwrap();
    states.send_replace(failed());
    let began = tokio::time::Instant::now();
    let end = tokio::io::AsyncReadExt::read_to_end(&mut accepted, &mut Vec::new()).await;
    assert_eq!(
        end.unwrap_err().kind(),
        std::io::ErrorKind::ConnectionAborted
    );
    assert_eq!((began.elapsed().as_secs(), stats.cut()), (600, 1));
    drop(io);
}
