//! Connections against real HTTP/2 servers that the test plays itself, frame by frame.

mod calls;
mod connecting;
mod ending;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use sidestep_proto::resource::Address;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::*;

type Server = server::Connection<TcpStream, Bytes>;
type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A body that is told what to say.
#[derive(Debug)]
struct Told {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>,
}

type Teller = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

fn told() -> (Teller, Told) {
    let (teller, frames) = mpsc::unbounded_channel();
    (teller, Told { frames })
}

impl Body for Told {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.frames.poll_recv(cx)
    }
}

/// A body whose frames are all there.
#[derive(Debug, Default)]
struct Ready(VecDeque<Frame<Bytes>>);

impl Body for Ready {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

fn request<B>(body: B) -> Request<RequestBody<B>> {
    Request::post("http://mesh.test/pkg.Service/Method")
        .header("te", "trailers")
        .body(RequestBody::Stream(body))
        .unwrap()
}

fn unary(message: &'static str) -> Request<RequestBody<Ready>> {
    request(Ready([data(message)].into()))
}

fn target(addresses: Vec<Address>) -> ConnectTarget {
    ConnectTarget {
        addresses,
        tls: None,
        server_name: String::new(),
        options: Arc::default(),
    }
}

fn address(listener: &TcpListener) -> Address {
    Address::Tcp(listener.local_addr().unwrap())
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Both ends of a connection; the client's driver runs in a task that yields its end.
async fn pair_with(
    builder: server::Builder,
) -> (Connection, Server, tokio::task::JoinHandle<Closed>) {
    let listener = listen().await;
    let target = target(vec![address(&listener)]);
    let connector = default_connector();
    let (client, server) = tokio::join!(connect(&connector, &target), async {
        let (socket, _) = listener.accept().await.unwrap();
        builder.handshake(socket).await.unwrap()
    });
    let (connection, driver) = client.unwrap();
    (connection, server, tokio::spawn(driver))
}

async fn pair() -> (Connection, Server, tokio::task::JoinHandle<Closed>) {
    pair_with(server::Builder::new()).await
}

/// Keeps the server's side moving in a task of its own; the calls come out here.
fn serve(mut server: Server) -> mpsc::UnboundedReceiver<Call> {
    let (calls, taken) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(call)) = server.accept().await {
            // The test may be over.
            let _ = calls.send(call);
        }
    });
    taken
}

fn trailers(status: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        http::HeaderValue::from_static(status),
    )])
}

/// Answers with one message and trailers.
fn answer(reply: &mut SendResponse<Bytes>, message: impl Into<Bytes>) {
    let mut stream = reply.send_response(Response::new(()), false).unwrap();
    stream.send_data(message.into(), false).unwrap();
    stream.send_trailers(trailers("0")).unwrap();
}

/// Reads a request's body to its end.
async fn read(body: &mut RecvStream) -> Vec<Bytes> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.push(data);
    }
    all
}

/// A limit for what must happen without any time passing.
async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("did not happen")
}
