//! A management server by hand that misbehaves as it is told, at the step it is told, and behaves
//! otherwise.
//!
//! ```text
//!   connection ─► stream ─► asked for LDS ─► RDS ─► CDS ─► EDS ─► all acknowledged
//!   Connect       Open      Ask(Listener)    …                    Told
//! ```
//!
//! At each step it looks whether a [`Deed`] is due there, does it, and goes on as a good server
//! would: on the same stream if that still stands, or else on the next one.

mod deed;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use sidestep::Channel;
use sidestep_proto::ads::{Request, Response, Variant};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};

pub use self::deed::{Deed, TABLE};
pub use self::wire::{Ask, frame};

use crate::fixture::{bootstrap, builder};
use crate::load::PATIENCE;
use sidestep_interop::testing::test_service_client::TestServiceClient;

/// Where in the life of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The socket was accepted.
    Connect,
    /// A stream was opened; no headers were sent.
    Open,
    /// A type is asked for, first or anew.
    Ask(ResourceType),
    /// All four types were told, and the last one was answered.
    Told,
}

impl Step {
    /// Each step of a stream, in the order in which a client of a channel comes to it.
    pub const STREAM: [Self; 6] = [
        Self::Open,
        Self::Ask(ResourceType::Listener),
        Self::Ask(ResourceType::RouteConfiguration),
        Self::Ask(ResourceType::Cluster),
        Self::Ask(ResourceType::EndpointAssignment),
        Self::Told,
    ];
}

/// What has happened so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Sockets accepted.
    pub connections: u64,
    /// Streams opened.
    pub streams: u64,
    /// Deeds done.
    pub deeds: u64,
    /// ACKs and NACKs.
    pub answers: u64,
    /// Requests that say who asks.
    pub introductions: u64,
    /// NACKs, by their words; the newest hundred.
    pub nacks: Vec<String>,
    /// Bytes that a flood has got rid of.
    pub flooded: u64,
}

/// The server.
pub struct HostilePlane {
    /// `127.0.0.1:port`.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    resources: watch::Sender<Vec<Any>>,
    plan: Mutex<Option<Plan>>,
    seen: watch::Sender<Seen>,
    /// For the streams that are open.
    orders: broadcast::Sender<Deed>,
    /// Ends what waits in silence.
    behave: watch::Sender<u64>,
}

struct Plan {
    step: Step,
    deed: Deed,
    left: u32,
}

impl HostilePlane {
    /// Starts, and behaves.
    ///
    /// # Panics
    /// If there is no free loopback port.
    pub async fn start(resources: impl IntoIterator<Item = Any>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let shared = Arc::new(Shared {
            resources: watch::Sender::new(resources.into_iter().collect()),
            plan: Mutex::default(),
            seen: watch::Sender::default(),
            orders: broadcast::Sender::new(16),
            behave: watch::Sender::default(),
        });
        let every = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(connection(socket, Arc::clone(&every)));
            }
        });
        Self { address, shared }
    }

    /// A client of `greeter` in a process of its own.
    ///
    /// # Panics
    /// Never: the bootstrap is good.
    #[must_use]
    pub fn client(&self, variant: Variant) -> TestServiceClient<Channel> {
        let mesh = builder(&bootstrap(&self.address, "web")).variant(variant);
        let channel = mesh
            .build()
            .expect("it can be built")
            .channel("xds:///greeter");
        TestServiceClient::new(channel.expect("a target"))
    }

    /// Tells the truth anew, on every stream.
    pub fn replace(&self, resources: impl IntoIterator<Item = Any>) {
        let resources = resources.into_iter().collect();
        self.shared.resources.send_replace(resources);
    }

    /// Misbehaves `times` times, whenever it comes to `step`.
    pub fn plan(&self, step: Step, deed: Deed, times: u32) {
        let left = times;
        *self.shared.plan() = Some(Plan { step, deed, left });
    }

    /// Does this now, on each open stream.
    pub fn order(&self, deed: Deed) {
        // Without a stream there is nobody to be hostile to.
        let _ = self.shared.orders.send(deed);
    }

    /// From now on it behaves: the plan is dropped, and silence ends.
    pub fn behave(&self) {
        *self.shared.plan() = None;
        self.shared.behave.send_modify(|n| *n += 1);
    }

    /// What has happened so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.shared.seen.borrow().clone()
    }

    /// Waits until something has happened.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn until(&self, what: &str, wanted: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.shared.seen.subscribe();
        let found = tokio::time::timeout(PATIENCE, seen.wait_for(wanted)).await;
        match found {
            Ok(found) => found.expect("the server runs").clone(),
            Err(_) => panic!("{what} never came: {:?}", self.seen()),
        }
    }
}

impl Shared {
    fn plan(&self) -> MutexGuard<'_, Option<Plan>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deed that is due at this step.
    fn due(&self, step: Step) -> Option<Deed> {
        let mut plan = self.plan();
        let due = plan.as_mut().filter(|plan| plan.step == step)?;
        let deed = due.deed;
        due.left -= 1;
        if due.left == 0 {
            *plan = None;
        }
        self.seen.send_modify(|seen| seen.deeds += 1);
        Some(deed)
    }

    async fn silence(&self) {
        let mut behave = self.behave.subscribe();
        // The server that is gone is silent as well.
        let _ = behave.changed().await;
    }
}

/// What is left of a connection after a deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// The stream stands.
    Stream,
    /// This stream is over.
    Connection,
    /// The connection is to be told that it should go.
    GoAway,
    /// The connection is to be broken off.
    Nothing,
}

async fn connection(mut socket: TcpStream, shared: Arc<Shared>) {
    shared.seen.send_modify(|seen| seen.connections += 1);
    // Whatever drops the socket resets the connection.
    let _ = socket.set_zero_linger();
    match shared.due(Step::Connect) {
        None => {}
        Some(Deed::Bytes(bytes)) => {
            let ask = Ask::nothing();
            let _ = socket.write_all(&bytes(&ask)).await;
            return shared.silence().await;
        }
        Some(Deed::Silence) => return shared.silence().await,
        Some(_) => return,
    }
    let Ok(mut connection) = h2::server::handshake(socket).await else {
        return;
    };
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    loop {
        tokio::select! {
            stream = connection.accept() => {
                let Some(Ok((request, respond))) = stream else { return };
                let (shared, ends) = (Arc::clone(&shared), ends.clone());
                tokio::spawn(async move {
                    shared.seen.send_modify(|seen| seen.streams += 1);
                    let left = stream_of(request, respond, &shared).await;
                    let _ = ends.send(left);
                });
            }
            Some(left) = ended.recv() => match left {
                Left::GoAway => connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
                Left::Nothing => return,
                Left::Stream | Left::Connection => {}
            },
        }
    }
}

async fn stream_of(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    shared: &Shared,
) -> Left {
    let variant = match request.uri().path().ends_with("/DeltaAggregatedResources") {
        true => Variant::Delta,
        false => Variant::StateOfTheWorld,
    };
    if let Some(deed) = shared.due(Step::Open) {
        match deed {
            Deed::Reset(reason) => {
                respond.send_reset(reason);
                return Left::Connection;
            }
            Deed::Goaway => return Left::GoAway,
            Deed::Silence => shared.silence().await,
            Deed::End(_) => {
                let head = http::Response::builder().status(503).body(());
                let _ = respond.send_response(head.expect("a status"), true);
                return Left::Connection;
            }
            _ => return Left::Nothing,
        }
    }
    let head = http::Response::builder().header("content-type", "application/grpc");
    let Ok(responses) = respond.send_response(head.body(()).expect("a head"), false) else {
        return Left::Connection;
    };
    let stream = AdsStream {
        variant,
        requests: request.into_body(),
        read: BytesMut::new(),
        responses,
        asked: BTreeMap::new(),
        told: BTreeSet::new(),
    };
    stream.serve(shared).await
}

fn introduces(request: &Request) -> bool {
    match request {
        Request::StateOfTheWorld(request) => request.node.is_some(),
        Request::Delta(request) => request.node.is_some(),
    }
}

/// One stream, and what is asked for on it.
struct AdsStream {
    variant: Variant,
    requests: h2::RecvStream,
    read: BytesMut,
    responses: h2::SendStream<Bytes>,
    asked: BTreeMap<ResourceType, BTreeSet<String>>,
    told: BTreeSet<ResourceType>,
}

impl AdsStream {
    async fn serve(mut self, shared: &Shared) -> Left {
        let mut resources = shared.resources.subscribe();
        let mut orders = shared.orders.subscribe();
        loop {
            let left = tokio::select! {
                request = self.request() => match request {
                    Some(request) => self.hear(&request, shared).await,
                    None => Left::Connection,
                },
                Ok(()) = resources.changed() => {
                    self.tell_all(shared);
                    Left::Stream
                }
                Ok(deed) = orders.recv() => {
                    shared.seen.send_modify(|seen| seen.deeds += 1);
                    let t = self.told.last().copied().unwrap_or(ResourceType::Listener);
                    let ask = self.ask(t, shared);
                    self.perform(deed, &ask, shared).await
                }
            };
            if left != Left::Stream {
                return left;
            }
        }
    }

    async fn hear(&mut self, request: &Request, shared: &Shared) -> Left {
        if introduces(request) {
            shared.seen.send_modify(|seen| seen.introductions += 1);
        }
        if !request.nonce().is_empty() {
            shared.seen.send_modify(|seen| {
                seen.answers += 1;
                if let Some(error) = request.error_detail() {
                    seen.nacks.push(error.message.clone());
                    let excess = seen.nacks.len().saturating_sub(100);
                    seen.nacks.drain(..excess);
                }
            });
        }
        let Some(t) = ResourceType::from_type_url(request.type_url()) else {
            return Left::Stream;
        };
        let step = match self.subscribe(t, request) {
            true => Step::Ask(t),
            false if self.told.len() == ResourceType::ALL.len() => Step::Told,
            false => return Left::Stream,
        };
        let ask = self.ask(t, shared);
        if let Some(deed) = shared.due(step) {
            let left = self.perform(deed, &ask, shared).await;
            if left != Left::Stream {
                return left;
            }
        }
        if step != Step::Told {
            self.tell(&self.ask(t, shared));
            self.told.insert(t);
        }
        Left::Stream
    }

    /// Whether names were added.
    fn subscribe(&mut self, t: ResourceType, request: &Request) -> bool {
        let asked = self.asked.entry(t).or_default();
        let before = asked.clone();
        match request {
            Request::StateOfTheWorld(request) => {
                *asked = request.resource_names.iter().cloned().collect();
            }
            Request::Delta(request) => {
                asked.extend(request.resource_names_subscribe.iter().cloned());
                for name in &request.resource_names_unsubscribe {
                    asked.remove(name);
                }
            }
        }
        !asked.is_subset(&before)
    }

    fn ask(&self, t: ResourceType, shared: &Shared) -> Ask {
        let names = self.asked.get(&t).cloned().unwrap_or_default();
        Ask::new(self.variant, t, names, &shared.resources.borrow())
    }

    fn tell_all(&mut self, shared: &Shared) {
        for t in ResourceType::ALL {
            if self.told.contains(&t) {
                self.tell(&self.ask(t, shared));
            }
        }
    }

    fn tell(&mut self, ask: &Ask) {
        self.say(&ask.truth());
    }

    fn say(&mut self, response: &Response) {
        self.raw(frame(&wire::encode(response)));
    }

    fn raw(&mut self, bytes: Bytes) {
        // A client that hung up hears nothing any more.
        let _ = self.responses.send_data(bytes, false);
    }

    /// The next request; `None` once the client is gone. Loses nothing when dropped half-way.
    async fn request(&mut self) -> Option<Request> {
        loop {
            if let Some(message) = wire::take_message(&mut self.read) {
                return wire::decode(self.variant, message);
            }
            let data = self.requests.data().await?.ok()?;
            let freed = self.requests.flow_control().release_capacity(data.len());
            freed.ok()?;
            self.read.extend_from_slice(&data);
        }
    }
}
