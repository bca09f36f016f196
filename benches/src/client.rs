//! The measured side: the same closed loop over our channel, over tonic's, and over bare h2.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::{Args, ValueEnum};
use futures_util::stream;
use prost::Message as _;
use sidestep::security::provider::static_::StaticProvider;
use sidestep::{Mesh, TelemetryOptions};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tonic::Streaming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::certificates::{Credentials, HOST};
use crate::echo::Message;
use crate::echo::echo_client::EchoClient;
use crate::lab::{self, Place};
use crate::unread;

/// What makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The mesh's channel, configured by a live control plane.
    Sidestep,
    /// The same with telemetry on.
    Metrics,
    /// The same with telemetry on and an OpenTelemetry meter that is never read.
    Opentelemetry,
    /// The mesh's channel on a route with retries.
    Retry,
    /// The same with outlier detection, circuit breaking and telemetry on.
    Full,
    /// tonic's `Channel`, one to each endpoint, dealt out by hand.
    Tonic,
    /// The h2 crate with hand-made frames: the floor.
    H2,
}

/// How the load looks.
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// What makes the calls.
    #[arg(long, value_enum, default_value = "sidestep")]
    pub case: Case,
    /// How many calls.
    #[arg(long, default_value_t = 3_500)]
    pub calls: u32,
    /// How many of them at a time.
    #[arg(long, default_value_t = 16)]
    pub in_flight: usize,
    /// Bytes in each message.
    #[arg(long, default_value_t = 128)]
    pub payload: usize,
    /// To servers that demand mutual TLS.
    #[arg(long)]
    pub mtls: bool,
    /// A call is a message and its answer on a stream that goes on; each of those in flight has
    /// its own.
    #[arg(long)]
    pub stream: bool,
}

/// Makes the calls and checks every answer's length.
///
/// # Errors
/// A server cannot be reached or a call failed, or there is no such case.
pub async fn run(load: &Load, place: &Place) -> Result<()> {
    let telemetry = match load.case {
        Case::Tonic => return plain(load, place).await,
        Case::H2 => return by_hand(load, place).await,
        Case::Sidestep | Case::Retry => None,
        Case::Metrics | Case::Full => Some(TelemetryOptions::default()),
        Case::Opentelemetry => {
            let provider = unread::provider();
            Some(TelemetryOptions::default().opentelemetry(&provider))
        }
    };
    meshed(load, place, telemetry).await
}

/// By the mesh's channel.
async fn meshed(load: &Load, place: &Place, telemetry: Option<TelemetryOptions>) -> Result<()> {
    let service = match load.case {
        Case::Retry => "retry",
        Case::Full => "full",
        _ if load.mtls => "secure",
        _ => "echo",
    };
    let mut mesh = Mesh::builder().bootstrap_json(&lab::bootstrap(&place.control, "web"))?;
    if load.mtls {
        let Credentials { chain, key, root } = &place.credentials;
        let identity = Some((chain.as_bytes(), key.as_bytes()));
        let provider = StaticProvider::from_pem(identity, Some(root.as_bytes()))?;
        mesh = mesh.certificate_provider("default", Arc::new(provider));
    }
    if let Some(options) = telemetry {
        mesh = mesh.telemetry(options);
    }
    let channel = mesh.build()?.channel(&format!("xds:///{service}"))?;
    channel.ready().await;
    let client = EchoClient::new(channel);
    calls(load, |_| client.clone()).await
}

/// By tonic's channels.
async fn plain(load: &Load, place: &Place) -> Result<()> {
    let mut clients = Vec::new();
    for address in if load.mtls {
        &place.secure
    } else {
        &place.endpoints
    } {
        let endpoint = if load.mtls {
            let tls = ClientTlsConfig::new()
                .identity(place.credentials.identity())
                .ca_certificate(Certificate::from_pem(&place.credentials.root))
                .domain_name(HOST);
            Endpoint::from_shared(format!("https://{address}"))?.tls_config(tls)?
        } else {
            Endpoint::from_shared(format!("http://{address}"))?
        };
        clients.push(EchoClient::new(endpoint.connect().await?));
    }
    calls(load, |task| clients[task % clients.len()].clone()).await
}

/// By the generated client; each task has its own.
async fn calls<T>(load: &Load, client: impl Fn(usize) -> EchoClient<T>) -> Result<()>
where
    T: tonic::client::GrpcService<tonic::body::Body> + Clone + 'static,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    match load.stream {
        true => closed_loop(load, |task| streamed(client(task), load.payload)).await,
        false => closed_loop(load, |task| unary(client(task), load.payload)).await,
    }
}

/// By the h2 crate alone.
async fn by_hand(load: &Load, place: &Place) -> Result<()> {
    if load.mtls || load.stream {
        bail!("what h2 does alone is plaintext and unary");
    }
    let mut senders = Vec::new();
    for endpoint in &place.endpoints {
        senders.push((connect(endpoint).await?, uri(endpoint)?));
    }
    closed_loop(load, |task| {
        let (sender, uri) = senders[task % senders.len()].clone();
        bare(sender, uri, load.payload)
    })
    .await
}

/// One task for each call that may be in flight; together they make `load.calls` of them.
async fn closed_loop<C>(load: &Load, caller: impl Fn(usize) -> C) -> Result<()>
where
    C: AsyncFnMut() -> Result<usize> + 'static,
{
    let left = Rc::new(Cell::new(load.calls));
    let payload = load.payload;
    let tasks = LocalSet::new();
    let running: Vec<_> = (0..load.in_flight)
        .map(|task| {
            let left = Rc::clone(&left);
            let mut call = caller(task);
            tasks.spawn_local(async move {
                while let Some(after) = left.get().checked_sub(1) {
                    left.set(after);
                    let length = call().await?;
                    ensure!(length == payload, "an answer of {length} bytes");
                }
                Ok(())
            })
        })
        .collect();
    tasks.await;
    for task in running {
        task.await??;
    }
    Ok(())
}

/// A call by the generated client.
fn unary<T>(client: EchoClient<T>, payload: usize) -> impl AsyncFnMut() -> Result<usize>
where
    T: tonic::client::GrpcService<tonic::body::Body> + Clone,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let mut client = client;
    let payload = Bytes::from(vec![7; payload]);
    async move || {
        let message = Message {
            payload: payload.clone(),
        };
        Ok(client.unary(message).await?.into_inner().payload.len())
    }
}

/// A message and its answer on a stream that the first of them opens.
fn streamed<T>(client: EchoClient<T>, payload: usize) -> impl AsyncFnMut() -> Result<usize>
where
    T: tonic::client::GrpcService<tonic::body::Body>,
    T::Error: Into<tonic::codegen::StdError>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let mut client = client;
    let payload = Bytes::from(vec![7; payload]);
    let mut open: Option<(mpsc::Sender<Message>, Streaming<Message>)> = None;
    async move || {
        if open.is_none() {
            let (sender, messages) = mpsc::channel(1);
            let messages = stream::unfold(messages, async |mut messages| {
                let message = messages.recv().await?;
                Some((message, messages))
            });
            open = Some((sender, client.stream(messages).await?.into_inner()));
        }
        let (sender, answers) = open.as_mut().context("opened above")?;
        let message = Message {
            payload: payload.clone(),
        };
        sender.send(message).await?;
        let answer = answers.message().await?.context("the stream has ended")?;
        Ok(answer.payload.len())
    }
}

type Sender = h2::client::SendRequest<Bytes>;

async fn connect(endpoint: &str) -> Result<Sender> {
    let socket = TcpStream::connect(endpoint).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = h2::client::handshake(socket).await?;
    tokio::spawn(async move {
        // Ends with the process.
        let _ = connection.await;
    });
    Ok(sender)
}

fn uri(endpoint: &str) -> Result<http::Uri> {
    Ok(format!("http://{endpoint}/bench.Echo/Unary").parse()?)
}

/// A call by hand: one HEADERS, one DATA, and whatever comes back.
fn bare(sender: Sender, uri: http::Uri, payload: usize) -> impl AsyncFnMut() -> Result<usize> {
    let mut sender = sender;
    let payload = Bytes::from(vec![7; payload]);
    async move || {
        let request = http::Request::post(uri.clone())
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        room(&mut sender).await?;
        let (response, mut stream) = sender.send_request(request, false)?;
        stream.send_data(frame(&payload)?, true)?;
        let mut body = response.await?.into_body();
        let mut answer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            answer.extend_from_slice(&data);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        ensure!(trailers["grpc-status"] == "0", "{trailers:?}");
        answer.advance(5);
        Ok(Message::decode(answer)?.payload.len())
    }
}

async fn room(sender: &mut Sender) -> Result<(), h2::Error> {
    std::future::poll_fn(|cx| sender.poll_ready(cx)).await
}

/// gRPC's frame: not compressed, the length, the message.
fn frame(payload: &Bytes) -> Result<Bytes> {
    let message = Message {
        payload: payload.clone(),
    };
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length)?);
    message.encode(&mut frame)?;
    Ok(frame.freeze())
}
