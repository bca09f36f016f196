//! What a hostile server can do.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use sidestep_proto::ads::Response;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::discovery::{Resource, ResourceError, ResourceName};
use sidestep_proto::wire::rpc::Status;
use sidestep_proto::wire::{Any, cluster};

use super::{AdsStream, Ask, Left, Shared, frame, wire};
use crate::raw;

/// One thing done wrong. After those that leave the stream standing, the truth follows on it.
#[derive(Debug, Clone, Copy)]
pub enum Deed {
    /// These responses.
    Say(fn(&Ask) -> Vec<Response>),
    /// These bytes, and then silence until the client has had enough.
    Bytes(fn(&Ask) -> Bytes),
    /// The first half of the truth, and then a reset.
    HalfAndReset(h2::Reason),
    /// The first half of the truth, and then the connection breaks.
    HalfAndAbort,
    /// The first half of the truth as the whole message, by its length.
    HalfAsWhole,
    /// The truth, byte by byte.
    Trickle,
    /// RST_STREAM.
    Reset(h2::Reason),
    /// The end of the stream, with a gRPC status in trailers or without any.
    End(Option<u32>),
    /// GOAWAY that covers no stream.
    Goaway,
    /// The connection breaks (TCP RST).
    Abort,
    /// Nothing, until the server is told to behave.
    Silence,
    /// The truth, so many times or until the server is told to behave, without a look at what the
    /// client says.
    Flood(u32),
}

/// Everything wrong that a server can do on a stream, with its name.
pub const TABLE: &[(&str, Deed)] = &[
    (
        "the same nonce twice",
        Deed::Say(|ask| vec![ask.truth(); 2]),
    ),
    ("no nonce and no version", Deed::Say(no_nonce)),
    ("a version from before", Deed::Say(versions_backwards)),
    (
        "an unknown type",
        Deed::Say(|ask| vec![ask.response("type.googleapis.com/unheard.Of", &ask.resources)]),
    ),
    (
        "no type at all",
        Deed::Say(|ask| vec![ask.response("", &ask.resources)]),
    ),
    ("another type that is asked for later", Deed::Say(early)),
    (
        "another type inside",
        Deed::Say(|ask| vec![ask.response(ask.resource_type.type_url(), &[foreign(ask)])]),
    ),
    (
        "every resource twice",
        Deed::Say(|ask| {
            let twice = [&ask.resources[..], &ask.resources[..]].concat();
            vec![ask.response(ask.resource_type.type_url(), &twice)]
        }),
    ),
    ("what nobody asked for", Deed::Say(strangers)),
    (
        "what is there is missing",
        Deed::Say(|ask| vec![ask.response(ask.resource_type.type_url(), &[])]),
    ),
    ("removed, refused and nameless", Deed::Say(removed)),
    (
        "against the rules",
        Deed::Say(|ask| vec![ask.response(ask.resource_type.type_url(), &[bad_cluster()])]),
    ),
    ("resources that are no protobuf", Deed::Say(undecodable)),
    (
        "a message that is no protobuf",
        Deed::Bytes(|_| frame(&[0xff; 40])),
    ),
    ("half a message as a whole one", Deed::HalfAsWhole),
    (
        "compressed, though nothing was agreed",
        Deed::Bytes(|_| Bytes::from_static(&[1, 0, 0, 0, 1, 0])),
    ),
    (
        "a message of 4 GiB",
        Deed::Bytes(|_| Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])),
    ),
    (
        "no gRPC at all",
        Deed::Bytes(|_| Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ),
    (
        "half a message and a reset",
        Deed::HalfAndReset(h2::Reason::NO_ERROR),
    ),
    ("half a message and no connection", Deed::HalfAndAbort),
    ("byte by byte", Deed::Trickle),
    ("a reset", Deed::Reset(h2::Reason::INTERNAL_ERROR)),
    ("a refused stream", Deed::Reset(h2::Reason::REFUSED_STREAM)),
    ("an end with a status", Deed::End(Some(14))),
    ("an end with OK", Deed::End(Some(0))),
    ("an end without a word", Deed::End(None)),
    ("a GOAWAY", Deed::Goaway),
    ("a broken connection", Deed::Abort),
    ("a flood", Deed::Flood(300)),
];

fn no_nonce(ask: &Ask) -> Vec<Response> {
    let mut response = ask.truth();
    match &mut response {
        Response::StateOfTheWorld(r) => {
            r.nonce.clear();
            r.version_info.clear();
        }
        Response::Delta(r) => {
            r.nonce.clear();
            r.system_version_info.clear();
        }
    }
    vec![response]
}

fn versions_backwards(ask: &Ask) -> Vec<Response> {
    let versioned = |n: u32| {
        let mut response = ask.truth();
        match &mut response {
            Response::StateOfTheWorld(r) => r.version_info = n.to_string(),
            Response::Delta(r) => {
                r.system_version_info = n.to_string();
                for resource in &mut r.resources {
                    resource.version = n.to_string();
                }
            }
        }
        response
    };
    (0..5).rev().map(versioned).collect()
}

/// Types that this stream has perhaps not asked for yet.
fn early(ask: &Ask) -> Vec<Response> {
    let others = ResourceType::ALL
        .into_iter()
        .filter(|t| *t != ask.resource_type);
    let stranger = |t: ResourceType| ask.response(t.type_url(), &[any_of(t, "stranger")]);
    // What is known of these two types is not taken away by being left out.
    let partial = others.filter(|t| !t.is_full_state());
    partial.map(stranger).collect()
}

fn strangers(ask: &Ask) -> Vec<Response> {
    let names = (0..200).map(|n| any_of(ask.resource_type, &format!("stranger-{n}")));
    let all: Vec<Any> = names.chain(ask.resources.iter().cloned()).collect();
    vec![ask.response(ask.resource_type.type_url(), &all)]
}

fn removed(ask: &Ask) -> Vec<Response> {
    let names = ask.names.iter().map(String::as_str);
    let errors: Vec<ResourceError> = names
        .chain(["stranger"])
        .map(|name| ResourceError {
            resource_name: Some(ResourceName {
                name: name.to_owned(),
            }),
            error_detail: Some(Status {
                code: 99,
                message: "out of spite".to_owned(),
                ..Status::default()
            }),
        })
        .chain([ResourceError::default()])
        .collect();
    let mut response = ask.response(ask.resource_type.type_url(), &[]);
    match &mut response {
        Response::StateOfTheWorld(r) => r.resource_errors = errors,
        Response::Delta(r) => {
            r.removed_resources = ask.names.iter().cloned().collect();
            r.removed_resources.push(String::new());
            r.resource_errors = errors;
            r.resources = vec![Resource::default()];
        }
    }
    vec![response]
}

fn undecodable(ask: &Ask) -> Vec<Response> {
    let type_url = ask.resource_type.type_url();
    let junk = |value: &'static [u8]| Any {
        type_url: type_url.to_owned(),
        value: value.into(),
    };
    vec![ask.response(type_url, &[junk(&[0xff; 40]), junk(b""), Any::default()])]
}

fn foreign(ask: &Ask) -> Any {
    let other = match ask.resource_type {
        ResourceType::Cluster => ResourceType::Listener,
        _ => ResourceType::Cluster,
    };
    any_of(other, "greeter")
}

/// A type of cluster that gRPC does not have.
fn bad_cluster() -> Any {
    let kind = cluster::cluster::DiscoveryType::OriginalDst as i32;
    Any::pack(&cluster::Cluster {
        name: "greeter".to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(kind)),
        ..cluster::Cluster::default()
    })
}

fn any_of(t: ResourceType, name: &str) -> Any {
    match t {
        ResourceType::Listener => raw::listener(name, name),
        ResourceType::RouteConfiguration => raw::routes(name, &[name]),
        ResourceType::Cluster => raw::cluster(name),
        ResourceType::EndpointAssignment => raw::endpoints(name, &[]),
    }
}

impl AdsStream {
    /// Does it.
    pub(super) async fn perform(&mut self, deed: Deed, ask: &Ask, shared: &Shared) -> Left {
        let truth = wire::encode(&ask.truth());
        let half = &truth[..truth.len() / 2];
        match deed {
            Deed::Say(responses) => {
                for response in responses(ask) {
                    self.say(&response);
                }
                Left::Stream
            }
            Deed::Bytes(bytes) => {
                self.raw(bytes(ask));
                self.until_left().await
            }
            Deed::HalfAsWhole => {
                self.raw(frame(half));
                self.until_left().await
            }
            Deed::HalfAndReset(reason) => {
                self.raw(frame(&truth).slice(..half.len()));
                self.responses.send_reset(reason);
                Left::Connection
            }
            Deed::HalfAndAbort => {
                self.raw(frame(&truth).slice(..half.len()));
                self.flushed().await;
                Left::Nothing
            }
            Deed::Trickle => {
                let whole = frame(&truth);
                for at in 0..whole.len() {
                    self.raw(whole.slice(at..=at));
                    if at % 16 == 0 {
                        self.flushed().await;
                    }
                }
                Left::Stream
            }
            Deed::Reset(reason) => {
                self.responses.send_reset(reason);
                Left::Connection
            }
            Deed::End(status) => {
                let _ = match status {
                    None => self.responses.send_data(Bytes::new(), true),
                    Some(code) => {
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", code.into());
                        self.responses.send_trailers(trailers)
                    }
                };
                Left::Connection
            }
            Deed::Goaway => Left::GoAway,
            Deed::Abort => Left::Nothing,
            Deed::Silence => {
                shared.silence().await;
                Left::Stream
            }
            Deed::Flood(times) => self.flood(times, &truth, shared).await,
        }
    }

    /// Waits for the client to hang up on what it cannot read.
    async fn until_left(&mut self) -> Left {
        while self.request().await.is_some() {}
        Left::Connection
    }

    /// Sends as fast as the client's windows allow, and reads nothing meanwhile.
    async fn flood(&mut self, times: u32, truth: &[u8], shared: &Shared) -> Left {
        let whole = frame(truth);
        let mut behave = shared.behave.subscribe();
        for _ in 0..times {
            self.responses.reserve_capacity(whole.len());
            while self.responses.capacity() < whole.len() {
                let room = poll_fn(|cx| self.responses.poll_capacity(cx));
                let room = tokio::select! {
                    room = room => room,
                    _ = behave.changed() => return Left::Stream,
                };
                if !matches!(room, Some(Ok(_))) {
                    return Left::Connection;
                }
            }
            self.raw(whole.clone());
            shared
                .seen
                .send_modify(|seen| seen.flooded += whole.len() as u64);
        }
        Left::Stream
    }

    /// A moment in which the connection can write.
    async fn flushed(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
