//! Messages of both variants, as a server writes and reads them.

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use sidestep_proto::ads::{Request, Response, Variant};
use sidestep_proto::codec;
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::Any;
use sidestep_proto::wire::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};

/// What a stream asks for of one type, and the true answer.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Of the stream.
    pub variant: Variant,
    /// Which type.
    pub resource_type: ResourceType,
    /// Everything that is subscribed of it.
    pub names: BTreeSet<String>,
    /// What there is of these.
    pub resources: Vec<Any>,
}

impl Ask {
    pub(super) fn new(
        variant: Variant,
        resource_type: ResourceType,
        names: BTreeSet<String>,
        all: &[Any],
    ) -> Self {
        let wanted =
            |any: &&Any| any.type_url == resource_type.type_url() && names.contains(&name_of(any));
        Self {
            variant,
            resource_type,
            resources: all.iter().filter(wanted).cloned().collect(),
            names,
        }
    }

    pub(super) fn nothing() -> Self {
        let (variant, t) = (Variant::StateOfTheWorld, ResourceType::Listener);
        Self::new(variant, t, BTreeSet::new(), &[])
    }

    /// The answer of a good server.
    #[must_use]
    pub fn truth(&self) -> Response {
        let mut response = self.response(self.resource_type.type_url(), &self.resources);
        if let Response::Delta(response) = &mut response {
            let there: BTreeSet<String> = self.resources.iter().map(name_of).collect();
            response.removed_resources = self.names.difference(&there).cloned().collect();
        }
        response
    }

    /// A response under a new version and nonce.
    #[must_use]
    pub fn response(&self, type_url: &str, resources: &[Any]) -> Response {
        let version = fastrand::u64(..).to_string();
        let nonce = fastrand::u64(..).to_string();
        match self.variant {
            Variant::StateOfTheWorld => Response::StateOfTheWorld(DiscoveryResponse {
                version_info: version,
                nonce,
                type_url: type_url.to_owned(),
                resources: resources.to_vec(),
                ..DiscoveryResponse::default()
            }),
            Variant::Delta => Response::Delta(DeltaDiscoveryResponse {
                system_version_info: version.clone(),
                nonce,
                type_url: type_url.to_owned(),
                resources: resources.iter().map(|any| wrap(any, &version)).collect(),
                ..DeltaDiscoveryResponse::default()
            }),
        }
    }
}

fn wrap(any: &Any, version: &str) -> Resource {
    Resource {
        name: name_of(any),
        version: version.to_owned(),
        resource: Some(any.clone()),
        ..Resource::default()
    }
}

/// Empty for what cannot be read.
fn name_of(any: &Any) -> String {
    let known = ResourceType::from_type_url(&any.type_url);
    let read = known.and_then(|t| codec::decode(t, any, &codec::Context::default()).ok());
    read.map(|read| read.name).unwrap_or_default()
}

/// A gRPC message.
///
/// # Panics
/// If it is longer than 4 GiB.
#[must_use]
pub fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("below 4 GiB"));
    frame.put_slice(message);
    frame.freeze()
}

pub(super) fn encode(response: &Response) -> Vec<u8> {
    match response {
        Response::StateOfTheWorld(response) => response.encode_to_vec(),
        Response::Delta(response) => response.encode_to_vec(),
    }
}

/// The next whole gRPC message of what was read.
pub(super) fn take_message(read: &mut BytesMut) -> Option<BytesMut> {
    let length = u32::from_be_bytes(read.get(1..5)?.try_into().ok()?) as usize;
    if read.len() < 5 + length {
        return None;
    }
    read.advance(5);
    Some(read.split_to(length))
}

pub(super) fn decode(variant: Variant, message: BytesMut) -> Option<Request> {
    Some(match variant {
        Variant::StateOfTheWorld => {
            Request::StateOfTheWorld(DiscoveryRequest::decode(message).ok()?)
        }
        Variant::Delta => Request::Delta(DeltaDiscoveryRequest::decode(message).ok()?),
    })
}
