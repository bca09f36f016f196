//! A client of a process's admin endpoint, with nothing between it and the bytes.

use std::future::Future;

use serde_json::Value;
use sidestep_proto::wire::status::{ClientStatusRequest, ClientStatusResponse};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::load::PATIENCE;

/// An answer over HTTP/1.1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The status code.
    pub status: u16,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Page {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks for a page.
///
/// # Panics
/// If nobody answers.
pub async fn get(address: &str, path: &str) -> Page {
    request(address, "GET", path, "localhost").await
}

/// Asks by any method, under any name of the server.
///
/// # Panics
/// If nobody answers.
pub async fn request(address: &str, method: &str, path: &str, host: &str) -> Page {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let exchange = async {
        match address.strip_prefix("unix:") {
            Some(path) => exchange(UnixStream::connect(path).await?, &head).await,
            None => exchange(TcpStream::connect(address).await?, &head).await,
        }
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await;
    let answer = answer.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP/1.1");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Page {
        status: status.expect("a status code"),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    head: &str,
) -> std::io::Result<String> {
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Asks until the answer is as wanted, and returns that one.
///
/// # Panics
/// If that takes longer than [`PATIENCE`]; the last answer is shown.
pub async fn eventually<T: std::fmt::Debug, F: Future<Output = T>>(
    mut ask: impl FnMut() -> F,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let mut last = None;
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            let answer = ask().await;
            if wanted(&answer) {
                return answer;
            }
            last = Some(answer);
            tokio::task::yield_now().await;
        }
    });
    let found = found.await;
    found.unwrap_or_else(|_| panic!("it never came; the last answer: {last:#?}"))
}

/// A connection to the endpoint by HTTP/2.
///
/// # Panics
/// If the address is none or nobody listens there.
pub async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    endpoint.connect().await.expect("somebody listens")
}

/// Asks what the process runs, as grpcdebug does.
///
/// # Errors
/// The call's status.
pub async fn client_status(
    channel: &Channel,
    request: ClientStatusRequest,
) -> Result<ClientStatusResponse, Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready()
        .await
        .map_err(|e| Status::from_error(e.into()))?;
    let path = PathAndQuery::from_static(
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    );
    let answer = grpc.unary(tonic::Request::new(request), path, ProstCodec::default());
    Ok(answer.await?.into_inner())
}
