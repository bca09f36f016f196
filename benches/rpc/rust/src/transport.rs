//! What makes the calls: the same generated client over each transport, and bare h2.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use sidestep::Mesh;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};
use tonic_xds::{BootstrapConfig, XdsChannelBuilder, XdsChannelConfig, XdsUri};

use crate::bare;
use crate::echo::Message;
use crate::echo::echo_client::EchoClient;
use crate::lab::{Certificates, Lab};
use crate::xds::XdsChannel;

/// The transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// The h2 crate with hand-made frames to the first server: the floor.
    H2,
    /// tonic's `Channel` to the first server.
    #[value(name = "tonic-1")]
    Tonic1,
    /// tonic's `Channel`s, one to each server, calls dealt out by hand: the base of comparisons.
    #[value(name = "tonic-x3")]
    TonicX3,
    /// tonic's `Channel::balance_list`.
    TonicBalance,
    /// tonic-xds.
    TonicXds,
    /// The mesh's channel; how many servers there are is the service's configuration.
    Sidestep,
}

/// Something that calls the echo service; cheap to clone.
pub trait Transport: Clone + Send + 'static {
    /// Makes a unary call and gives the length of the answer's payload.
    fn unary(&mut self, payload: Bytes) -> impl Future<Output = Result<usize>> + Send;

    /// Opens a stream.
    fn open(&mut self) -> impl Future<Output = Result<Conversation>> + Send;
}

/// A stream that answers each message with itself.
pub struct Conversation {
    requests: mpsc::Sender<Message>,
    answers: Streaming<Message>,
}

impl Conversation {
    /// Sends a message and gives the length of the answer's payload.
    ///
    /// # Errors
    /// The stream has ended.
    pub async fn exchange(&mut self, payload: Bytes) -> Result<usize> {
        self.requests.send(Message { payload }).await?;
        let answer = self.answers.message().await?;
        Ok(answer.context("the stream ended")?.payload.len())
    }
}

/// One implementation for each type: the generated client is `Send` with each of them, which a
/// generic one cannot say of its futures.
macro_rules! over {
    ($($channel:ty),*) => {$(
        impl Transport for EchoClient<$channel> {
            async fn unary(&mut self, payload: Bytes) -> Result<usize> {
                let answer = EchoClient::unary(self, Message { payload }).await?;
                Ok(answer.into_inner().payload.len())
            }

            async fn open(&mut self) -> Result<Conversation> {
                let (requests, outgoing) = mpsc::channel(1);
                let answers = EchoClient::stream(self, ReceiverStream::new(outgoing)).await?;
                Ok(Conversation { requests, answers: answers.into_inner() })
            }
        }
    )*};
}

over!(Channel, XdsChannel, sidestep::Channel);

impl Transport for bare::Sender {
    async fn unary(&mut self, payload: Bytes) -> Result<usize> {
        self.call(payload).await
    }

    async fn open(&mut self) -> Result<Conversation> {
        anyhow::bail!("there are no streams over bare h2")
    }
}

/// tonic's `Channel`s, connected: one to each of these servers.
///
/// # Errors
/// A server cannot be reached.
pub async fn tonic(
    servers: &[String],
    certificates: Option<&Certificates>,
) -> Result<Vec<EchoClient<Channel>>> {
    ensure!(!servers.is_empty(), "no servers");
    let mut clients = Vec::new();
    for server in servers {
        let channel = endpoint(server, certificates)?.connect().await?;
        clients.push(EchoClient::new(channel));
    }
    Ok(clients)
}

/// tonic's own balancer over these servers.
///
/// # Errors
/// A certificate cannot be read.
pub fn tonic_balance(
    servers: &[String],
    certificates: Option<&Certificates>,
) -> Result<EchoClient<Channel>> {
    let endpoints: Result<Vec<_>> = servers
        .iter()
        .map(|server| endpoint(server, certificates))
        .collect();
    Ok(EchoClient::new(Channel::balance_list(
        endpoints?.into_iter(),
    )))
}

fn endpoint(server: &str, certificates: Option<&Certificates>) -> Result<Endpoint> {
    let scheme = if certificates.is_some() {
        "https"
    } else {
        "http"
    };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{server}"))?;
    Ok(match certificates {
        Some(certificates) => endpoint.tls_config(certificates.of_client()?)?,
        None => endpoint,
    })
}

/// tonic-xds's channel.
///
/// # Errors
/// It refuses the bootstrap.
pub fn tonic_xds(lab: &Lab, certificates: Option<&Certificates>) -> Result<EchoClient<XdsChannel>> {
    // Without a scheme it never connects.
    let bootstrap = BootstrapConfig::from_json(&lab.bootstrap("http://", certificates))?;
    let target = XdsUri::parse(&format!("xds:///{}", lab.service))?;
    let config = XdsChannelConfig::new(target).with_bootstrap(bootstrap);
    let channel = XdsChannelBuilder::new(config).build_grpc_channel()?;
    Ok(EchoClient::new(XdsChannel::new(channel)))
}

/// The mesh's channel, once it is ready.
///
/// # Errors
/// The mesh refuses the bootstrap.
pub async fn sidestep(
    lab: &Lab,
    certificates: Option<&Certificates>,
) -> Result<EchoClient<sidestep::Channel>> {
    let bootstrap = lab.bootstrap("", certificates);
    let mesh = Mesh::builder().bootstrap_json(&bootstrap)?.build()?;
    let channel = mesh.channel(&format!("xds:///{}", lab.service))?;
    channel.ready().await;
    Ok(EchoClient::new(channel))
}
