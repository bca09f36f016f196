//! A gRPC server that is told what to do: how many streams a connection may have, and when calls
//! are answered. It counts its connections.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::load::PATIENCE;

/// Answers every unary call with an empty message. Dropped, it is gone with its connections.
pub struct Peer {
    /// `IP:port`.
    pub address: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    /// Most streams of a connection.
    streams: Option<u32>,
    /// How many more calls may be answered.
    gate: Semaphore,
    seen: watch::Sender<Seen>,
    /// Which connection ends, or all, when it changes.
    cut: watch::Sender<Option<usize>>,
}

/// What a [`Peer`] has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Connections open now.
    pub open: usize,
    /// Connections that were ever made.
    pub ever: usize,
    /// Calls that have come and are not answered.
    pub waiting: usize,
    /// On which connection each call came, counted from 0, in the order of the calls.
    pub calls: Vec<usize>,
    /// What each call has in its header `x-call`.
    pub names: Vec<String>,
}

/// More calls than any test makes.
const ALL: usize = 1 << 20;

impl Peer {
    /// Answers at once, and has no limit of streams.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0", None, ALL).await
    }

    /// Answers no call before [`Self::release`], and takes `streams` at a time on a connection.
    pub async fn holding(streams: u32) -> Self {
        Self::at("127.0.0.1:0", Some(streams), 0).await
    }

    /// Listens at `address`, answers `answers` calls and takes `streams` at a time on a connection.
    ///
    /// # Panics
    /// If the address is taken.
    pub async fn at(address: &str, streams: Option<u32>, answers: usize) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            streams,
            gate: Semaphore::new(answers),
            seen: watch::Sender::default(),
            cut: watch::Sender::default(),
        });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Self {
            address,
            shared,
            task,
        }
    }

    /// Where it listens.
    ///
    /// # Panics
    /// Never: it is bound.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        self.address.parse().expect("it is bound")
    }

    /// Lets so many more calls be answered, in the order of their arrival.
    pub fn release(&self, calls: usize) {
        self.shared.gate.add_permits(calls);
    }

    /// Lets all calls be answered from now on.
    pub fn release_all(&self) {
        self.release(ALL);
    }

    /// Cuts all its connections, and goes on to listen.
    pub fn cut(&self) {
        self.shared.cut.send_replace(None);
    }

    /// Cuts one connection, counted from 0.
    pub fn cut_one(&self, connection: usize) {
        self.shared.cut.send_replace(Some(connection));
    }

    /// What it has seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until it has seen this.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn until(&self, what: &str, seen: impl FnMut(&Seen) -> bool) -> Seen {
        let mut watch = self.shared.seen.subscribe();
        let found = tokio::time::timeout(PATIENCE, watch.wait_for(seen)).await;
        match found {
            Ok(seen) => seen.expect("it is alive").clone(),
            Err(_) => panic!("{what} never came: {:?}", self.seen()),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket, shared.clone()));
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let mut cut = shared.cut.subscribe();
    let mut builder = h2::server::Builder::new();
    if let Some(streams) = shared.streams {
        builder.max_concurrent_streams(streams);
    }
    let Ok(mut http) = builder.handshake::<_, Bytes>(socket).await else {
        return;
    };
    let mut number = 0;
    shared.seen.send_modify(|seen| {
        number = seen.ever;
        seen.open += 1;
        seen.ever += 1;
    });
    let mut calls = JoinSet::new();
    loop {
        let its = |cut: &Option<usize>| cut.is_none_or(|cut| cut == number);
        let accepted = tokio::select! {
            _ = cut.changed() => match its(&cut.borrow_and_update()) {
                true => break,
                false => continue,
            },
            accepted = http.accept() => accepted,
        };
        let Some(Ok((request, respond))) = accepted else {
            break;
        };
        let name = request.headers().get("x-call");
        let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        shared.seen.send_modify(|seen| {
            seen.waiting += 1;
            seen.calls.push(number);
            seen.names.push(name.to_owned());
        });
        calls.spawn(answer(respond, shared.clone()));
    }
    shared.seen.send_modify(|seen| seen.open -= 1);
}

async fn answer(
    mut respond: h2::server::SendResponse<Bytes>,
    shared: Arc<Shared>,
) -> Result<(), h2::Error> {
    if let Ok(permit) = shared.gate.acquire().await {
        permit.forget();
    }
    shared.seen.send_modify(|seen| seen.waiting -= 1);
    let head = Response::builder().header("content-type", "application/grpc");
    let head = head.body(()).expect("a plain head");
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a header value"));
    stream.send_trailers(trailers)
}
