//! One ADS stream: the sockets around [`sidestep_proto::ads::ClientStream`].
//!
//! A [`Link`] is one try at one server: it dials, opens the stream and carries messages until one
//! of this fails. When to try, whom, and what the messages mean is the machine's business.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use http::uri::{Authority, PathAndQuery, Scheme};
use prost::Message;
use sidestep_proto::ads::{Request, Response, Variant};
use sidestep_proto::bootstrap::{Credentials, Server};
use sidestep_proto::resource::Address;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tonic::Code;
use tonic::client::Grpc;
use tonic_prost::ProstCodec;

use crate::control::{Input, WeakInbox};
use crate::resolver::{DirectTarget, NameResolver, Place, ResolveError, with_port};
use crate::security::ClientTls;
use crate::subchannel::{self, ConnectTarget, Connection, Connector, Http2Options, Single};

/// Responses that wait for the control task; the stream's flow control holds back the rest.
const UNREAD_RESPONSES: usize = 2;

/// A connection to a control plane that went silent is found dead after this (as grpc-go's).
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5 * 60);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How control planes are dialled.
#[derive(Clone)]
pub(crate) struct Dial {
    pub(crate) connector: Connector,
    pub(crate) resolver: Arc<dyn NameResolver>,
    pub(crate) variant: Variant,
    /// Largest response taken, in bytes.
    pub(crate) max_response_bytes: usize,
    /// Of a try to connect.
    pub(crate) connect_timeout: Duration,
}

/// Names one try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkId(pub(crate) u64);

/// What a link says.
#[derive(Debug)]
pub(crate) enum Said {
    /// Requests may be sent.
    Open,
    /// The server answered. The permit, to be given back by [`Link::answered`], lets a further
    /// response be read.
    Response(Response, OwnedSemaphorePermit),
    /// Over, and why. The last thing said.
    Closed(Closed),
}

/// Why a stream is over.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) reason: String,
    /// The server does not have this form of ADS.
    pub(crate) is_unimplemented: bool,
}

impl From<String> for Closed {
    fn from(reason: String) -> Self {
        Self {
            reason,
            is_unimplemented: false,
        }
    }
}

impl From<tonic::Status> for Closed {
    fn from(status: tonic::Status) -> Self {
        Self {
            reason: describe(&status),
            is_unimplemented: status.code() == Code::Unimplemented,
        }
    }
}

/// One try at one server. Dropped, it ends at once.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    queue: mpsc::UnboundedSender<Queued>,
    task: AbortHandle,
}

/// What waits for its turn on the stream.
#[derive(Debug)]
enum Queued {
    Request(Box<Request>),
    /// A response was answered by the requests before this: another one may be read. A server that
    /// talks and does not listen is thereby held back by its own flow control.
    Answered(OwnedSemaphorePermit),
}

impl Link {
    /// Starts a try.
    pub(crate) fn open(inbox: WeakInbox, id: LinkId, server: Server, dial: Dial) -> Self {
        let (queue, queued) = mpsc::unbounded_channel();
        let report = Report { inbox, id };
        let task = tokio::spawn(async move {
            let closed = match run(&report, &server, &dial, queued).await {
                Ok(()) => "the server ended the stream".to_owned().into(),
                Err(closed) => closed,
            };
            report.send(Said::Closed(closed));
        });
        Self {
            id,
            queue,
            task: task.abort_handle(),
        }
    }

    /// Queues a request. There is one for each response, of which few are unanswered, and one for
    /// each change of subscriptions, which bounds the queue.
    pub(crate) fn send(&self, request: Request) {
        // A link that is over has said so, or is about to.
        let _ = self.queue.send(Queued::Request(Box::new(request)));
    }

    /// The response that came with this permit is answered: what was sent before this call.
    pub(crate) fn answered(&self, read: OwnedSemaphorePermit) {
        // As in `send`.
        let _ = self.queue.send(Queued::Answered(read));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Report {
    inbox: WeakInbox,
    id: LinkId,
}

impl Report {
    fn send(&self, said: Said) {
        if let Some(inbox) = self.inbox.upgrade() {
            // Nobody listens after the control task has ended.
            let _ = inbox.send(Input::Ads {
                link: self.id,
                said,
            });
        }
    }
}

async fn run(
    report: &Report,
    server: &Server,
    dial: &Dial,
    queue: mpsc::UnboundedReceiver<Queued>,
) -> Result<(), Closed> {
    let (connection, authority) = connect(server, dial).await?;
    let scheme = match &server.credentials {
        Credentials::Insecure => Scheme::HTTP,
        Credentials::Tls { .. } => Scheme::HTTPS,
    };
    let grpc = Grpc::new(Single::new(connection, scheme, authority))
        .max_decoding_message_size(dial.max_response_bytes);
    // Some servers send no headers before the first request has come.
    report.send(Said::Open);
    match dial.variant {
        Variant::StateOfTheWorld => {
            let path =
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
            converse(
                report,
                grpc,
                path,
                queue,
                state_of_the_world,
                Response::StateOfTheWorld,
            )
            .await
        }
        Variant::Delta => {
            let path =
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
            converse(report, grpc, path, queue, delta, Response::Delta).await
        }
    }
}

/// Carries messages until the stream ends.
async fn converse<Q, A>(
    report: &Report,
    mut grpc: Grpc<Single>,
    path: &'static str,
    queue: mpsc::UnboundedReceiver<Queued>,
    unwrap: fn(Request) -> Option<Q>,
    wrap: fn(A) -> Response,
) -> Result<(), Closed>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let requests = stream::unfold(queue, move |mut queue| async move {
        loop {
            match queue.recv().await? {
                Queued::Answered(read) => drop(read),
                Queued::Request(request) => {
                    if let Some(request) = unwrap(*request) {
                        return Some((request, queue));
                    }
                }
            }
        }
    });
    let unread = Arc::new(Semaphore::new(UNREAD_RESPONSES));
    let path = PathAndQuery::from_static(path);
    let codec = ProstCodec::<Q, A>::default();
    let answer = grpc.streaming(tonic::Request::new(Box::pin(requests)), path, codec);
    let mut responses = answer.await?.into_inner();
    loop {
        let Ok(permit) = unread.clone().acquire_owned().await else {
            return Ok(());
        };
        match responses.next().await {
            None => return Ok(()),
            Some(Ok(response)) => report.send(Said::Response(wrap(response), permit)),
            Some(Err(status)) => return Err(status.into()),
        }
    }
}

fn state_of_the_world(
    request: Request,
) -> Option<sidestep_proto::wire::discovery::DiscoveryRequest> {
    match request {
        Request::StateOfTheWorld(request) => Some(request),
        Request::Delta(_) => None,
    }
}

fn delta(request: Request) -> Option<sidestep_proto::wire::discovery::DeltaDiscoveryRequest> {
    match request {
        Request::Delta(request) => Some(request),
        Request::StateOfTheWorld(_) => None,
    }
}

/// A status and what caused it, in one line.
fn describe(status: &tonic::Status) -> String {
    let mut text = format!("{:?}: {}", status.code(), status.message());
    let mut cause = status.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Connects, and keeps the connection moving for as long as a stream uses it.
async fn connect(server: &Server, dial: &Dial) -> Result<(Connection, Authority), String> {
    let place = place(&server.uri)?;
    let target = ConnectTarget {
        addresses: addresses(&place, dial).await?,
        tls: tls(&server.credentials),
        server_name: place.host().to_owned(),
        options: Arc::new(Http2Options {
            keepalive_interval: Some(KEEPALIVE_INTERVAL),
            keepalive_timeout: KEEPALIVE_TIMEOUT,
            connect_timeout: dial.connect_timeout,
            ..Http2Options::default()
        }),
    };
    let made = subchannel::connect(&dial.connector, &target).await;
    let (connection, driver) = made.map_err(|error| error.to_string())?;
    tokio::spawn(driver);
    let authority = Authority::try_from(place.authority()).map_err(|error| error.to_string())?;
    Ok((connection, authority))
}

/// Reads a `server_uri`: with or without a scheme, as other gRPC clients take it.
fn place(uri: &str) -> Result<DirectTarget, String> {
    let bare = uri.strip_prefix("https://").unwrap_or(uri);
    DirectTarget::parse(bare).map_err(|error| error.to_string())
}

async fn addresses(target: &DirectTarget, dial: &Dial) -> Result<Vec<Address>, String> {
    match &target.place {
        Place::Addresses(addresses) => Ok(addresses.clone()),
        Place::Name { host, port } => {
            let limit = dial.connect_timeout;
            let found = tokio::time::timeout(limit, dial.resolver.resolve(host)).await;
            let found = found.unwrap_or(Err(ResolveError::TimedOut(limit)));
            let found = found.map_err(|error| format!("{host}: {error}"))?;
            Ok(with_port(&found.addresses, *port).collect())
        }
    }
}

fn tls(credentials: &Credentials) -> Option<Arc<ClientTls>> {
    match credentials {
        Credentials::Insecure => None,
        Credentials::Tls {
            ca_certificate_file,
            certificate_file,
            private_key_file,
            ..
        } => {
            let identity = certificate_file.clone().zip(private_key_file.clone());
            let roots = ca_certificate_file.clone();
            Some(Arc::new(ClientTls::for_control_plane(roots, identity)))
        }
    }
}
