//! Dialling: the race over addresses and peers that do not play along.

use super::*;
use std::io;
use tokio::io::AsyncWriteExt;

fn numbered(n: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], n).into())
}

/// An in-memory server that completes the HTTP/2 handshake and then serves nothing.
fn piped() -> Box<dyn Io> {
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let mut server = server::handshake(far).await.unwrap();
        while let Some(Ok(_)) = server.accept().await {}
    });
    Box::new(near)
}

/// Port 1 never answers, port 2 refuses, others connect.
fn connector() -> Connector {
    Arc::new(|address| {
        Box::pin(async move {
            match address {
                Address::Tcp(a) if a.port() == 1 => std::future::pending().await,
                Address::Tcp(a) if a.port() == 2 => Err(io::ErrorKind::ConnectionRefused.into()),
                _ => Ok(piped()),
            }
        })
    })
}

#[tokio::test(start_paused = true)]
async fn a_silent_first_address_costs_a_quarter_of_a_second() {
    let begun = tokio::time::Instant::now();
    let target = target(vec![numbered(1), numbered(3)]);
    let (connection, _driver) = connect(&connector(), &target).await.unwrap();
    assert_eq!(*connection.peer(), numbered(3));
    assert_eq!(begun.elapsed().as_millis(), 250);
}

#[tokio::test(start_paused = true)]
async fn a_refusing_first_address_costs_nothing() {
    let begun = tokio::time::Instant::now();
    let target = target(vec![numbered(2), numbered(3)]);
    let (connection, _driver) = connect(&connector(), &target).await.unwrap();
    assert_eq!(*connection.peer(), numbered(3));
    assert_eq!(begun.elapsed().as_millis(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_names_every_address() {
    let target = target(vec![numbered(2), numbered(1)]);
    let error = connect(&connector(), &target).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:2: connection refused"), "{text}");
    assert!(
        text.contains("127.0.0.1:1: no connection within 20s"),
        "{text}"
    );
}

#[tokio::test]
async fn no_address_is_an_error() {
    let error = connect(&connector(), &target(Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "no address to connect to");
}

#[tokio::test]
async fn a_dead_socket_gives_way_to_a_live_one() {
    let dead = address(&listen().await);
    let listener = listen().await;
    let target = target(vec![dead, address(&listener)]);
    let connector = default_connector();
    let (client, _server) = soon(async {
        tokio::join!(connect(&connector, &target), async {
            let (socket, _) = listener.accept().await.unwrap();
            server::handshake(socket).await.unwrap()
        })
    })
    .await;
    assert_eq!(*client.unwrap().0.peer(), address(&listener));
}

#[cfg(unix)]
#[tokio::test]
async fn connects_to_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let target = target(vec![Address::Unix(path.to_str().unwrap().to_owned())]);
    let connector = default_connector();
    let (client, _server) = soon(async {
        tokio::join!(connect(&connector, &target), async {
            let (socket, _) = listener.accept().await.unwrap();
            server::handshake::<_>(socket).await.unwrap()
        })
    })
    .await;
    let (connection, _driver) = client.unwrap();
    assert_eq!(*connection.peer(), target.addresses[0]);
}

/// What comes of a server that says `bytes` and closes.
async fn against(bytes: &'static [u8]) -> String {
    let listener = listen().await;
    let target = target(vec![address(&listener)]);
    let connector = default_connector();
    let (client, ()) = soon(async {
        tokio::join!(connect(&connector, &target), async {
            let (mut socket, _) = listener.accept().await.unwrap();
            // The client may have hung up already.
            let _ = socket.write_all(bytes).await;
        })
    })
    .await;
    client.unwrap_err().to_string()
}

#[tokio::test]
async fn garbage_is_not_http2() {
    let text = against(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    assert!(text.contains("HTTP/2 handshake"), "{text}");
}

#[tokio::test]
async fn a_server_that_closes_at_once_is_no_connection() {
    let text = against(b"").await;
    assert!(text.contains("HTTP/2 handshake"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_runs_out_of_time() {
    let (near, _far) = tokio::io::duplex(1 << 16);
    let near = std::sync::Mutex::new(Some(near));
    let connector: Connector = Arc::new(move |_| {
        let near: Box<dyn Io> = Box::new(near.lock().unwrap().take().unwrap());
        Box::pin(async move { Ok(near) })
    });
    let error = connect(&connector, &target(vec![numbered(9)]))
        .await
        .unwrap_err();
    assert!(
        matches!(error.attempts[0].error, AttemptError::TimedOut(_)),
        "{error}"
    );
}
