//! A control plane that misbehaves at a chosen moment. Real ones come from the test kit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use sidestep_proto::ads::{
    Entry, Missing, Request, ServerOutput, ServerStream, Variant, View as AdsView,
};
use sidestep_proto::codec;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

/// What is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It dies, port and all, when this name is asked for.
    DiesOn(String),
    /// It takes requests and never answers.
    Mute,
    /// It has no delta: `UNIMPLEMENTED`.
    NoDelta,
}

/// Runs until it is dropped, or dies.
pub struct ScriptedPlane {
    /// `127.0.0.1:port`.
    pub address: String,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

struct Shared {
    fault: Fault,
    store: Mutex<Store>,
    revision: watch::Sender<u64>,
    /// How many streams of each variant were asked for: state of the world, delta.
    streams: watch::Sender<(usize, usize)>,
    dead: watch::Sender<bool>,
}

#[derive(Default, Clone)]
struct Store {
    revision: u64,
    entries: BTreeMap<String, BTreeMap<String, Arc<Entry>>>,
}

impl ScriptedPlane {
    /// Serves these on a free port.
    ///
    /// # Panics
    /// If there is none, or a resource has no name.
    pub async fn start(fault: Fault, resources: impl IntoIterator<Item = Any>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let shared = Arc::new(Shared {
            fault,
            store: Mutex::default(),
            revision: watch::Sender::new(0),
            streams: watch::Sender::new((0, 0)),
            dead: watch::Sender::new(false),
        });
        let address = listener.local_addr().expect("it is bound").to_string();
        let serving = tokio::spawn(serve(listener, shared.clone())).abort_handle();
        let plane = Self {
            address,
            shared,
            serving,
        };
        plane.put(resources);
        plane
    }

    /// Adds or replaces these.
    ///
    /// # Panics
    /// If one has no name.
    pub fn put(&self, resources: impl IntoIterator<Item = Any>) {
        let mut store = self.shared.lock();
        store.revision += 1;
        for any in resources {
            let t = ResourceType::from_type_url(&any.type_url).expect("a type of ours");
            let decoded = codec::decode(t, &any, &codec::Context::default());
            let entry = Entry {
                name: decoded.expect("it has a name").name,
                version: store.revision.to_string(),
                resource: any.encode_to_vec().into(),
            };
            let entries = store.entries.entry(any.type_url.clone()).or_default();
            entries.insert(entry.name.clone(), Arc::new(entry));
        }
        self.shared.revision.send_replace(store.revision);
    }

    /// How many streams were asked for so far: of state of the world, of delta.
    #[must_use]
    pub fn streams(&self) -> (usize, usize) {
        *self.shared.streams.borrow()
    }

    /// Waits for its death.
    pub async fn died(&self) {
        let mut dead = self.shared.dead.subscribe();
        // The sender is ours.
        let _ = dead.wait_for(|dead| *dead).await;
    }
}

impl Drop for ScriptedPlane {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_fatal(&self, request: &Request) -> bool {
        let Fault::DiesOn(name) = &self.fault else {
            return false;
        };
        match request {
            Request::StateOfTheWorld(request) => request.resource_names.contains(name),
            Request::Delta(request) => request.resource_names_subscribe.contains(name),
        }
    }
}

impl AdsView for Store {
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

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // All aborted with this task, or when it returns; the port is closed then.
    let mut connections = JoinSet::new();
    let mut dead = shared.dead.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((socket, _)) = accepted {
                connections.spawn(connection(socket, shared.clone()));
            },
            _ = dead.wait_for(|dead| *dead) => return,
        }
    }
}

async fn connection(socket: TcpStream, shared: Arc<Shared>) -> Result<(), h2::Error> {
    let mut http = h2::server::handshake(socket).await?;
    let mut streams = JoinSet::new();
    while let Some(accepted) = http.accept().await {
        let (request, mut respond) = accepted?;
        let is_delta = request.uri().path().contains("Delta");
        shared.streams.send_modify(|(whole, delta)| match is_delta {
            true => *delta += 1,
            false => *whole += 1,
        });
        let mut response = http::Response::new(());
        let grpc = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        if is_delta && shared.fault == Fault::NoDelta {
            let unimplemented = http::HeaderValue::from_static("12");
            response.headers_mut().insert("grpc-status", unimplemented);
            respond.send_response(response, true)?;
            continue;
        }
        let variant = match is_delta {
            true => Variant::Delta,
            false => Variant::StateOfTheWorld,
        };
        let send = respond.send_response(response, false)?;
        streams.spawn(stream(variant, request.into_body(), send, shared.clone()));
    }
    Ok(())
}

async fn stream(
    variant: Variant,
    body: h2::RecvStream,
    mut send: h2::SendStream<Bytes>,
    shared: Arc<Shared>,
) -> Result<(), h2::Error> {
    let (requests, mut inbox) = mpsc::unbounded_channel();
    let mut reader = JoinSet::new();
    reader.spawn(read(variant, body, requests));
    let mut revision = shared.revision.subscribe();
    let mut machine = ServerStream::new(variant);
    loop {
        tokio::select! {
            request = inbox.recv() => match request {
                None => return Ok(()),
                Some(request) if shared.is_fatal(&request) => {
                    shared.dead.send_replace(true);
                    return Ok(());
                }
                Some(_) if shared.fault == Fault::Mute => {}
                Some(request) => {
                    let store = shared.lock().clone();
                    machine.handle_request(Instant::now(), request, &store);
                }
            },
            changed = revision.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let store = shared.lock().clone();
                machine.handle_view(Instant::now(), &store);
            }
        }
        while let Some(output) = machine.poll_output() {
            if let ServerOutput::Send(response) = output {
                write(&mut send, &response.encode())?;
            }
        }
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
        // It fails on a stream that is over, where nothing is left to release.
        let _ = body.flow_control().release_capacity(data.len());
        buffer.extend_from_slice(&data);
        while let Some(message) = cut(&mut buffer) {
            let request = match variant {
                Variant::StateOfTheWorld => Message::decode(message).map(Request::StateOfTheWorld),
                Variant::Delta => Message::decode(message).map(Request::Delta),
            };
            if requests.send(request.expect("a request")).is_err() {
                return;
            }
        }
    }
}

fn cut(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = buffer.get(1..5)?.try_into().map(u32::from_be_bytes).ok()? as usize;
    if buffer.len() < 5 + length {
        return None;
    }
    buffer.advance(5);
    Some(buffer.split_to(length).freeze())
}

/// The responses of these tests fit into any window.
fn write(send: &mut h2::SendStream<Bytes>, message: &[u8]) -> Result<(), h2::Error> {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a gRPC message"));
    frame.extend_from_slice(message);
    send.send_data(frame.freeze(), false)
}
