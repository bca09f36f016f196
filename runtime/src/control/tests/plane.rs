//! A control plane on a loopback port, made of the protocol's own server machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use sidestep_proto::ads::{
    Entry, Missing, Request, ServerEvent, ServerOutput, ServerStream, Variant, View,
};
use sidestep_proto::codec;
use sidestep_proto::resource::{Resource, ResourceType};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// What it serves, and what it heard.
pub(super) struct Plane {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    serving: Option<tokio::task::JoinHandle<()>>,
}

struct Shared {
    store: Mutex<Store>,
    revision: watch::Sender<u64>,
    /// Names that each request asked for, and refusals.
    events: Mutex<Vec<ServerEvent>>,
    streams: watch::Sender<usize>,
    /// Answers nothing.
    mute: bool,
}

#[derive(Default, Clone)]
struct Store {
    revision: u64,
    entries: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
}

impl View for Store {
    fn revision(&self) -> u64 {
        self.revision
    }

    fn entry(&self, t: &str, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(t)?.get(name)
    }

    fn entries(&self, t: &str) -> Box<dyn Iterator<Item = &Arc<Entry>> + '_> {
        Box::new(self.entries.get(t).into_iter().flat_map(BTreeMap::values))
    }

    fn missing(&self, _: &str, name: &str, _: bool) -> Option<Missing> {
        Some(Missing {
            code: 5,
            message: format!("no such resource {name}"),
        })
    }
}

impl Plane {
    pub(super) async fn start() -> Self {
        Self::listen("127.0.0.1:0".parse().expect("an address"), false).await
    }

    /// One that takes requests and never answers.
    pub(super) async fn mute() -> Self {
        Self::listen("127.0.0.1:0".parse().expect("an address"), true).await
    }

    async fn listen(address: SocketAddr, mute: bool) -> Self {
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            revision: watch::Sender::new(0),
            events: Mutex::default(),
            streams: watch::Sender::new(0),
            mute,
        });
        let mut plane = Self {
            address,
            shared,
            serving: None,
        };
        plane.restart().await;
        plane
    }

    /// Cuts every connection and refuses new ones.
    pub(super) async fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
        self.shared.streams.send_replace(0);
    }

    /// Serves again, at the same address.
    pub(super) async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address)
            .await
            .expect("the port is free");
        self.address = listener.local_addr().expect("it is bound");
        self.serving = Some(tokio::spawn(serve(listener, self.shared.clone())));
    }

    /// Changes many resources at once.
    pub(super) fn put(&self, resources: impl IntoIterator<Item = Resource>) {
        self.change(|store| {
            for resource in resources {
                let any = codec::encode(&resource);
                let bytes = Bytes::from(any.encode_to_vec());
                store.insert(resource.resource_type(), resource.name(), bytes);
            }
        });
    }

    /// Takes one away.
    pub(super) fn remove(&self, resource_type: ResourceType, name: &str) {
        self.change(|store| {
            if let Some(entries) = store.entries.get_mut(resource_type.type_url()) {
                entries.remove(name);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut Store)) {
        let mut store = self.shared.store.lock().expect("no panic held it");
        store.revision += 1;
        change(&mut store);
        self.shared.revision.send_replace(store.revision);
    }

    /// Waits until `done` holds for what was heard so far.
    pub(super) async fn heard(&self, done: impl Fn(&[ServerEvent]) -> bool) {
        let mut changes = self.shared.streams.subscribe();
        loop {
            changes.mark_unchanged();
            if done(&self.shared.events.lock().expect("no panic held it")) {
                return;
            }
            changes.changed().await.expect("the sender lives");
        }
    }

    /// The names that the last request of this type asked for.
    pub(super) async fn subscribed(&self, resource_type: ResourceType, names: &[&str]) {
        self.heard(|events| {
            let asked = events.iter().rev().find_map(|event| match event {
                ServerEvent::Request { type_url, names }
                    if type_url == resource_type.type_url() =>
                {
                    Some(names.iter().map(String::as_str).collect::<Vec<_>>())
                }
                _ => None,
            });
            let mut asked = asked.unwrap_or_default();
            asked.sort_unstable();
            asked == names
        })
        .await;
    }

    /// How many streams were opened in all.
    pub(super) fn streams_opened(&self) -> usize {
        let events = self.shared.events.lock().expect("no panic held it");
        let nodes = events.iter().filter(|e| matches!(e, ServerEvent::Node(_)));
        nodes.count()
    }
}

impl Store {
    fn insert(&mut self, resource_type: ResourceType, name: &str, resource: Bytes) {
        let entry = Entry {
            name: name.to_owned(),
            version: format!("{}", self.revision),
            resource,
        };
        let type_url = resource_type.type_url().to_owned();
        let entries = self.entries.entry(type_url).or_default();
        entries.insert(name.to_owned(), Arc::new(entry));
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Aborted with this task.
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("the listener works");
        connections.spawn(connection(socket, shared.clone()));
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(1 << 20);
    let Ok(mut http) = builder.handshake::<_, Bytes>(socket).await else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = http.accept().await {
        let variant = if request.uri().path().contains("Delta") {
            Variant::Delta
        } else {
            Variant::StateOfTheWorld
        };
        let response = http::Response::builder()
            .header("content-type", "application/grpc")
            .body(())
            .expect("a valid response");
        let Ok(send) = respond.send_response(response, false) else {
            continue;
        };
        streams.spawn(stream(variant, request.into_body(), send, shared.clone()));
    }
}

async fn stream(
    variant: Variant,
    body: h2::RecvStream,
    mut send: h2::SendStream<Bytes>,
    shared: Arc<Shared>,
) {
    let (requests, mut inbox) = mpsc::unbounded_channel();
    let mut reader = JoinSet::new();
    reader.spawn(read(variant, body, requests));
    let mut revision = shared.revision.subscribe();
    let mut machine = ServerStream::new(variant);
    loop {
        let timeout = machine.poll_timeout();
        let now = Instant::now;
        tokio::select! {
            request = inbox.recv() => match request {
                None => return,
                Some(_) if shared.mute => {}
                Some(request) => {
                    let store = shared.store.lock().expect("no panic held it").clone();
                    machine.handle_request(now(), request, &store);
                }
            },
            changed = revision.changed() => {
                changed.expect("the sender lives");
                let store = shared.store.lock().expect("no panic held it").clone();
                machine.handle_view(now(), &store);
            }
            () = at(timeout) => {
                let store = shared.store.lock().expect("no panic held it").clone();
                machine.handle_timeout(now(), &store);
            }
        }
        while let Some(output) = machine.poll_output() {
            match output {
                ServerOutput::Send(response) => {
                    if write(&mut send, response.encode()).await.is_err() {
                        return;
                    }
                }
                ServerOutput::Event(event) => {
                    shared.events.lock().expect("no panic held it").push(event);
                    shared.streams.send_modify(|count| *count += 1);
                }
            }
        }
    }
}

async fn at(timeout: Option<Instant>) {
    match timeout {
        Some(timeout) => tokio::time::sleep_until(timeout.into()).await,
        None => std::future::pending().await,
    }
}

/// Cuts gRPC messages out of the body.
async fn read(
    variant: Variant,
    mut body: h2::RecvStream,
    requests: mpsc::UnboundedSender<Request>,
) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while buffer.len() >= 5 {
            let length = u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]);
            if buffer.len() < 5 + length as usize {
                break;
            }
            buffer.advance(5);
            let message = buffer.split_to(length as usize).freeze();
            let request = match variant {
                Variant::StateOfTheWorld => {
                    Request::StateOfTheWorld(Message::decode(message).expect("a request"))
                }
                Variant::Delta => Request::Delta(Message::decode(message).expect("a request")),
            };
            if requests.send(request).is_err() {
                return;
            }
        }
    }
}

async fn write(send: &mut h2::SendStream<Bytes>, message: Bytes) -> Result<(), h2::Error> {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a gRPC message"));
    frame.extend_from_slice(&message);
    let mut rest = frame.freeze();
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let Some(room) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
            return Ok(());
        };
        let chunk = rest.split_to(room?.min(rest.len()));
        send.send_data(chunk, false)?;
    }
    Ok(())
}
