//! Something to connect to: speaks HTTP/2 and counts its connections.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// One backend. Dropped, it is gone with its connections.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    /// Connections open now, and ever.
    pub(super) connections: watch::Receiver<Connections>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Connections {
    pub(super) open: usize,
    pub(super) ever: usize,
}

impl Backend {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (count, connections) = watch::channel(Connections::default());
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.expect("the listener works");
                open.spawn(hold(socket, count.clone()));
            }
        });
        Self {
            address,
            connections,
            task,
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hold(socket: TcpStream, count: watch::Sender<Connections>) {
    let Ok(mut http) = h2::server::handshake(socket).await else {
        return;
    };
    count.send_modify(|c| {
        c.open += 1;
        c.ever += 1;
    });
    while let Some(Ok((_, mut respond))) = http.accept().await {
        let _: Result<h2::SendStream<Bytes>, _> =
            respond.send_response(http::Response::new(()), true);
    }
    count.send_modify(|c| c.open -= 1);
}
