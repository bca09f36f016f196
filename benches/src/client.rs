//! The measured side: the same closed loop over our channel, over tonic's, and over bare h2.

use std::cell::Cell;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::{Args, ValueEnum};
use prost::Message as _;
use sidestep::{Mesh, TelemetryOptions};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tonic::transport::Endpoint;

use crate::echo::Message;
use crate::echo::echo_client::EchoClient;
use crate::{lab, unread};

/// What makes the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The mesh's channel, configured by a live control plane.
    Sidestep,
    /// The same with telemetry on.
    Metrics,
    /// The same with telemetry on and an OpenTelemetry meter that is never read.
    Opentelemetry,
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
}

/// Makes the calls and checks every answer's length.
///
/// # Errors
/// A server cannot be reached or a call failed.
pub async fn run(load: &Load, endpoints: &[String], control: &str) -> Result<()> {
    match load.case {
        Case::Sidestep => meshed(load, control, None).await,
        Case::Metrics => meshed(load, control, Some(TelemetryOptions::default())).await,
        Case::Opentelemetry => {
            let provider = unread::provider();
            let options = TelemetryOptions::default().opentelemetry(&provider);
            meshed(load, control, Some(options)).await
        }
        Case::Tonic => {
            let mut clients = Vec::new();
            for endpoint in endpoints {
                let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?;
                clients.push(EchoClient::new(endpoint.connect().await?));
            }
            closed_loop(load, |task| {
                unary(clients[task % clients.len()].clone(), load.payload)
            })
            .await
        }
        Case::H2 => {
            let mut senders = Vec::new();
            for endpoint in endpoints {
                senders.push((connect(endpoint).await?, uri(endpoint)?));
            }
            closed_loop(load, |task| {
                let (sender, uri) = senders[task % senders.len()].clone();
                bare(sender, uri, load.payload)
            })
            .await
        }
    }
}

async fn meshed(load: &Load, control: &str, telemetry: Option<TelemetryOptions>) -> Result<()> {
    let mut mesh = Mesh::builder().bootstrap_json(&lab::bootstrap(control))?;
    if let Some(options) = telemetry {
        mesh = mesh.telemetry(options);
    }
    let channel = mesh.build()?.channel("xds:///echo")?;
    channel.ready().await;
    let client = EchoClient::new(channel);
    closed_loop(load, |_| unary(client.clone(), load.payload)).await
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
