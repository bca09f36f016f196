//! One ADS stream: the rim around [`ServerStream`].
//!
//! Each stream is a task of its own, so one that is slow to read delays nobody else: what it has
//! not taken waits in its own short queue, and changes meanwhile merge inside the machine, which
//! holds at most one unanswered response per type.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use sidestep_proto::ads::{
    Request, ServerEvent, ServerOutput, ServerResponse, ServerStream, Variant, View as _,
};
use sidestep_proto::code;
use sidestep_proto::resource::ResourceType;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::observer::{StreamEvent, StreamInfo, StreamObserver};
use crate::snapshot::Snapshot;
use crate::view::ClientView;

/// Requests are left unread while this many responses wait to be written: a client that asks
/// without reading is held back by flow control instead of filling our memory.
const QUEUE_LIMIT: usize = 8;

/// A client that reads nothing for this long is let go; it may come back.
const STALL: Duration = Duration::from_secs(60);

/// Resource types that one stream may ask for. There are not so many.
const TYPES: usize = 64;

/// Bytes of names that one stream may be subscribed to, of one type.
const NAMES: usize = 16 << 20;

/// What a stream needs from the server.
pub(crate) struct Context {
    /// Who it is.
    pub info: StreamInfo,
    /// The configuration, now and later.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Turns true when the server shuts down.
    pub stop: watch::Receiver<bool>,
    /// Hear everything.
    pub observers: Arc<[Arc<dyn StreamObserver>]>,
}

/// Serves one stream until either side ends it.
pub(crate) async fn serve(
    context: Context,
    mut requests: impl Stream<Item = Result<Request, Status>> + Unpin,
    responses: mpsc::Sender<Result<Bytes, Status>>,
) {
    let Context {
        info,
        mut snapshots,
        mut stop,
        observers,
    } = context;
    let snapshot = snapshots.borrow_and_update().clone();
    let mut session = Session::new(info, snapshot, observers);
    let end = loop {
        let wait_for_room = !session.queue.is_empty();
        tokio::select! {
            request = requests.next(), if session.queue.len() < QUEUE_LIMIT => match request {
                Some(Ok(request)) => {
                    session.request(request);
                    if let Some(excess) = session.excess() {
                        break End::Failed(Status::resource_exhausted(excess));
                    }
                }
                Some(Err(status)) => break End::Failed(status),
                None => break End::ByClient,
            },
            changed = snapshots.changed() => match changed {
                Ok(()) => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    session.update(snapshot);
                }
                Err(_) => break End::Shutdown,
            },
            room = responses.reserve(), if wait_for_room => match room {
                Ok(permit) => session.write(permit),
                Err(_) => break End::ByClient,
            },
            () = sleep_until(session.deadline()) => session.timeout(),
            () = sleep_until(session.stalls_at()) => break End::Stalled,
            _ = stop.wait_for(|stop| *stop) => break End::Shutdown,
            () = responses.closed() => break End::ByClient,
        }
    };
    session.close(&end);
    if let Some(status) = end.status() {
        // If there is no room, the client will see the end without its reason.
        let _ = responses.try_send(Err(status));
    }
}

/// How a stream ended.
enum End {
    ByClient,
    Failed(Status),
    Stalled,
    Shutdown,
}

impl End {
    fn status(&self) -> Option<Status> {
        match self {
            Self::ByClient => None,
            Self::Failed(status) => Some(status.clone()),
            Self::Stalled => Some(Status::unavailable("responses are not being read")),
            Self::Shutdown => Some(Status::unavailable("the server is shutting down")),
        }
    }

    fn reason(&self) -> &str {
        match self {
            Self::ByClient => "closed by the client",
            Self::Failed(status) => status.message(),
            Self::Stalled => "responses are not being read",
            Self::Shutdown => "the server is shutting down",
        }
    }
}

/// The machine, the client's view, and what waits to be written.
struct Session {
    info: StreamInfo,
    machine: ServerStream,
    view: ClientView,
    is_identified: bool,
    observers: Arc<[Arc<dyn StreamObserver>]>,
    queue: VecDeque<ServerResponse>,
    /// Since when the queue has not moved.
    waiting_since: Option<Instant>,
    /// The last revision to which the client has answered in full.
    settled: Option<u64>,
    /// The client is subscribed to more bytes of names than we keep.
    too_many_names: bool,
}

impl Session {
    fn new(
        info: StreamInfo,
        snapshot: Arc<Snapshot>,
        observers: Arc<[Arc<dyn StreamObserver>]>,
    ) -> Self {
        let session = Self {
            machine: ServerStream::new(info.variant),
            view: ClientView::new(snapshot),
            is_identified: false,
            queue: VecDeque::new(),
            waiting_since: None,
            settled: None,
            too_many_names: false,
            observers,
            info,
        };
        tracing::info!(
            target: "sidestep_server::stream",
            stream = session.info.id,
            peer = %session.info.peer,
            variant = ?session.info.variant,
            "stream opened"
        );
        session.tell(StreamEvent::Opened);
        session
    }

    fn request(&mut self, request: Request) {
        self.tell(StreamEvent::Received(&request));
        // As in the machine, only the first request of a stream says who asks.
        if let Some(node) = request.node().filter(|_| !self.is_identified) {
            self.is_identified = true;
            self.view.identify(node);
        }
        want_listeners(&mut self.view, &request);
        self.machine.handle_request(now(), request, &self.view);
        self.drain();
    }

    /// What the client asks too much of. Its memory is ours, for as long as the stream lives.
    fn excess(&self) -> Option<&'static str> {
        if self.machine.type_count() > TYPES {
            return Some("more resource types than there are");
        }
        self.too_many_names
            .then_some("more names than are kept for one stream")
    }

    fn update(&mut self, snapshot: Arc<Snapshot>) {
        self.view.update(snapshot);
        self.machine.handle_view(now(), &self.view);
        self.drain();
    }

    fn timeout(&mut self) {
        self.machine.handle_timeout(now(), &self.view);
        self.drain();
    }

    fn deadline(&self) -> Option<Instant> {
        self.machine.poll_timeout().map(Instant::from_std)
    }

    fn stalls_at(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + STALL)
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                ServerOutput::Send(response) => self.queue.push_back(response),
                ServerOutput::Event(event) => {
                    self.forget_listeners(&event);
                    self.event(&event);
                }
            }
        }
        if !self.queue.is_empty() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        self.tell_if_settled();
    }

    fn tell_if_settled(&mut self) {
        let revision = self.view.revision();
        if self.machine.is_settled() && self.settled != Some(revision) {
            self.settled = Some(revision);
            self.tell(StreamEvent::Settled { revision });
        }
    }

    /// The machine alone knows which requests count; what it reports is what is still wanted.
    fn forget_listeners(&mut self, event: &ServerEvent) {
        if let ServerEvent::Request { type_url, names } = event
            && type_url == ResourceType::Listener.type_url()
        {
            self.view.retain_listeners(names);
        }
    }

    fn write(&mut self, permit: mpsc::Permit<'_, Result<Bytes, Status>>) {
        if let Some(response) = self.queue.pop_front() {
            permit.send(Ok(response.encode()));
        }
        self.waiting_since = (!self.queue.is_empty()).then(Instant::now);
    }

    fn event(&mut self, event: &ServerEvent) {
        if let ServerEvent::Request { names, .. } = event {
            self.too_many_names |= names.iter().map(String::len).sum::<usize>() > NAMES;
        }
        log(&self.info, event);
        self.tell(match event {
            ServerEvent::Node(node) => StreamEvent::Identified(node),
            ServerEvent::Request { type_url, names } => StreamEvent::Requested { type_url, names },
            ServerEvent::Ack {
                type_url,
                version,
                nonce,
            } if nonce.is_empty() => StreamEvent::Resumed {
                type_url,
                version,
                revision: self.view.revision(),
            },
            ServerEvent::Ack {
                type_url,
                version,
                nonce,
            } => StreamEvent::Acked {
                type_url,
                version,
                nonce,
            },
            ServerEvent::Nack {
                type_url,
                version,
                nonce,
                message,
            } => StreamEvent::Nacked {
                type_url,
                version,
                nonce,
                message,
            },
            ServerEvent::Sent {
                type_url,
                version,
                nonce,
                count,
                revision,
            } => StreamEvent::Responded {
                type_url,
                version,
                nonce,
                count: *count,
                revision: *revision,
            },
        });
    }

    fn tell(&self, event: StreamEvent<'_>) {
        for observer in self.observers.iter() {
            observer.observe(&self.info, event);
        }
    }

    fn close(&self, end: &End) {
        let reason = end.reason();
        tracing::info!(
            target: "sidestep_server::stream",
            stream = self.info.id,
            reason,
            "stream closed"
        );
        self.tell(StreamEvent::Closed { reason });
    }
}

fn log(info: &StreamInfo, event: &ServerEvent) {
    match event {
        ServerEvent::Node(node) => tracing::info!(
            target: "sidestep_server::stream",
            stream = info.id,
            node = node.id,
            cluster = node.cluster,
            "client identified"
        ),
        ServerEvent::Nack {
            type_url,
            version,
            message,
            ..
        } => tracing::warn!(
            target: "sidestep_server::stream",
            code = %code::CLIENT_NACK,
            stream = info.id,
            type_url,
            version,
            detail = message,
            "NACK"
        ),
        ServerEvent::Ack {
            type_url, version, ..
        } => tracing::debug!(
            target: "sidestep_server::stream",
            stream = info.id,
            type_url,
            version,
            "ACK"
        ),
        ServerEvent::Request { type_url, names } => tracing::debug!(
            target: "sidestep_server::stream",
            stream = info.id,
            type_url,
            ?names,
            "subscription"
        ),
        ServerEvent::Sent {
            type_url,
            version,
            count,
            revision,
            ..
        } => tracing::debug!(
            target: "sidestep_server::stream",
            stream = info.id,
            type_url,
            version,
            count,
            revision,
            "response"
        ),
    }
}

/// Listeners of servers exist only once somebody asks for them: makes those that `request` adds.
fn want_listeners(view: &mut ClientView, request: &Request) {
    if request.type_url() != ResourceType::Listener.type_url() {
        return;
    }
    match request {
        Request::StateOfTheWorld(request) => {
            view.want_listeners(&request.resource_names);
            view.want_listeners(
                request
                    .resource_locators
                    .iter()
                    .map(|locator| &locator.name),
            );
        }
        Request::Delta(request) => {
            view.want_listeners(&request.resource_names_subscribe);
            let locators = &request.resource_locators_subscribe;
            view.want_listeners(locators.iter().map(|locator| &locator.name));
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// How people know the variants.
pub(crate) fn variant_name(variant: Variant) -> &'static str {
    match variant {
        Variant::StateOfTheWorld => "sotw",
        Variant::Delta => "delta",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use sidestep_proto::wire::discovery::DeltaDiscoveryRequest;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use crate::fixture::{assignment, cluster};
    use crate::snapshot::RawResource;
    use crate::source::Configuration;
    use crate::store::Store;

    /// Keeps the reason of the end.
    #[derive(Default)]
    struct Ends(Mutex<Vec<String>>);

    impl StreamObserver for Ends {
        fn observe(&self, _: &StreamInfo, event: StreamEvent<'_>) {
            if let StreamEvent::Closed { reason } = event {
                self.0.lock().expect("no panic").push(reason.to_owned());
            }
        }
    }

    fn configuration(port: u16) -> Configuration {
        let address = format!("127.0.0.1:{port}");
        Configuration {
            resources: [cluster("a"), assignment("a", &[&address])]
                .map(|any| RawResource::from_any(any).expect("named"))
                .into(),
            ..Configuration::default()
        }
    }

    fn subscribe(resource_type: ResourceType) -> Result<Request, Status> {
        Ok(Request::Delta(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            resource_names_subscribe: vec!["a".to_owned()],
            ..DeltaDiscoveryRequest::default()
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_reads_is_let_go() {
        let store = Store::new();
        store.apply(Ok(configuration(1))).expect("sound");
        let ends = Arc::new(Ends::default());
        let stop = watch::Sender::new(false);
        let context = Context {
            info: StreamInfo {
                id: 1,
                peer: "test".to_owned(),
                variant: Variant::Delta,
            },
            snapshots: store.watch(),
            stop: stop.subscribe(),
            observers: Arc::new([Arc::clone(&ends) as Arc<dyn StreamObserver>]),
        };
        let (requests, receiver) = mpsc::unbounded_channel();
        // Room for one response; the second one waits in vain.
        let (responses, _unread) = mpsc::channel(1);
        for resource_type in [ResourceType::Cluster, ResourceType::EndpointAssignment] {
            requests.send(subscribe(resource_type)).expect("is open");
        }
        let started = Instant::now();
        serve(context, UnboundedReceiverStream::new(receiver), responses).await;
        assert_eq!(started.elapsed(), STALL);
        let ends = ends.0.lock().expect("no panic");
        assert_eq!(*ends, ["responses are not being read"]);
    }
}
