//! A response, and its bytes from resources that are encoded already.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::view::{Entry, Missing};
use crate::ads::{Response, Variant};
use crate::wire::Any;
use crate::wire::discovery::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource, ResourceError, ResourceName,
};
use crate::wire::rpc::Status;

/// What a [`super::ServerStream`] has to say: references to entries, not copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerResponse {
    /// The type it is about.
    pub type_url: String,
    /// `version_info`, or `system_version_info` in delta.
    pub version: String,
    /// Unique on its stream.
    pub nonce: String,
    /// The resources.
    pub entries: Vec<Arc<Entry>>,
    /// Names that are gone, or were never there (delta only).
    pub removed: Vec<String>,
    /// Names that cannot be given, and why.
    pub errors: Vec<(String, Missing)>,
    /// Which of the two messages it becomes.
    pub variant: Variant,
}

/// Field numbers of the three messages involved; a test holds them against the generated types.
mod tag {
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const RESOURCE_VERSION: u32 = 1;
    pub(super) const RESOURCE_BODY: u32 = 2;
    pub(super) const RESOURCE_NAME: u32 = 3;
}

impl ServerResponse {
    /// The encoded `DiscoveryResponse` or `DeltaDiscoveryResponse`. Resources are copied as they
    /// are, never encoded again.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // What follows the resources is small, has higher field numbers and comes from prost.
        let rest = self.without_entries();
        let bodies: usize = self.entries.iter().map(|e| self.entry_len(e)).sum();
        let mut out =
            BytesMut::with_capacity(string_len(tag::VERSION, &self.version) + bodies + rest.len());
        put_string(tag::VERSION, &self.version, &mut out);
        for entry in &self.entries {
            self.put_entry(entry, &mut out);
        }
        out.put(rest);
        out.freeze()
    }

    /// The message itself, for those who want to look into it. Decodes every entry; an entry that
    /// is no `Any` becomes an empty one.
    #[must_use]
    pub fn into_wire(self) -> Response {
        let errors = self.wire_errors();
        match self.variant {
            Variant::StateOfTheWorld => Response::StateOfTheWorld(DiscoveryResponse {
                version_info: self.version,
                resources: self.entries.iter().map(|e| any(e)).collect(),
                type_url: self.type_url,
                nonce: self.nonce,
                resource_errors: errors,
                ..DiscoveryResponse::default()
            }),
            Variant::Delta => Response::Delta(DeltaDiscoveryResponse {
                system_version_info: self.version,
                resources: self.entries.iter().map(|e| delta_resource(e)).collect(),
                type_url: self.type_url,
                removed_resources: self.removed,
                nonce: self.nonce,
                resource_errors: errors,
                ..DeltaDiscoveryResponse::default()
            }),
        }
    }

    fn without_entries(&self) -> Bytes {
        let bare = Self {
            version: String::new(),
            entries: Vec::new(),
            ..self.clone()
        };
        match bare.into_wire() {
            Response::StateOfTheWorld(message) => message.encode_to_vec().into(),
            Response::Delta(message) => message.encode_to_vec().into(),
        }
    }

    fn wire_errors(&self) -> Vec<ResourceError> {
        self.errors
            .iter()
            .map(|(name, missing)| ResourceError {
                resource_name: Some(ResourceName { name: name.clone() }),
                error_detail: Some(Status {
                    code: missing.code,
                    message: missing.message.clone(),
                    ..Status::default()
                }),
            })
            .collect()
    }

    fn entry_len(&self, entry: &Entry) -> usize {
        match self.variant {
            Variant::StateOfTheWorld => bytes_len(tag::RESOURCES, entry.resource.len()),
            Variant::Delta => bytes_len(tag::RESOURCES, wrapped_len(entry)),
        }
    }

    fn put_entry(&self, entry: &Entry, out: &mut BytesMut) {
        if self.variant == Variant::Delta {
            put_prefix(tag::RESOURCES, wrapped_len(entry), out);
            put_string(tag::RESOURCE_VERSION, &entry.version, out);
            put_prefix(tag::RESOURCE_BODY, entry.resource.len(), out);
            out.put_slice(&entry.resource);
            put_string(tag::RESOURCE_NAME, &entry.name, out);
        } else {
            put_prefix(tag::RESOURCES, entry.resource.len(), out);
            out.put_slice(&entry.resource);
        }
    }
}

/// The length of the `discovery.v3.Resource` around an entry.
fn wrapped_len(entry: &Entry) -> usize {
    string_len(tag::RESOURCE_VERSION, &entry.version)
        + bytes_len(tag::RESOURCE_BODY, entry.resource.len())
        + string_len(tag::RESOURCE_NAME, &entry.name)
}

fn bytes_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// Empty strings are not written, as proto3 has it.
fn string_len(tag: u32, text: &str) -> usize {
    if text.is_empty() {
        0
    } else {
        bytes_len(tag, text.len())
    }
}

fn put_prefix(tag: u32, len: usize, out: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn put_string(tag: u32, text: &str, out: &mut BytesMut) {
    if !text.is_empty() {
        put_prefix(tag, text.len(), out);
        out.put_slice(text.as_bytes());
    }
}

fn any(entry: &Entry) -> Any {
    Any::decode(entry.resource.clone()).unwrap_or_default()
}

fn delta_resource(entry: &Entry) -> Resource {
    Resource {
        name: entry.name.clone(),
        version: entry.version.clone(),
        resource: Some(any(entry)),
        ..Resource::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(variant: Variant, entries: usize) -> ServerResponse {
        let entry = |i: usize| {
            let any = Any {
                type_url: "type.googleapis.com/x".into(),
                value: vec![7; i * 100].into(),
            };
            Arc::new(Entry {
                name: format!("name-{i}"),
                version: if i == 0 {
                    String::new()
                } else {
                    format!("v{i}")
                },
                resource: any.encode_to_vec().into(),
            })
        };
        let missing = Missing {
            code: 5,
            message: "nearest: b".into(),
        };
        ServerResponse {
            type_url: "type.googleapis.com/x".into(),
            version: "7".into(),
            nonce: "3".into(),
            entries: (0..entries).map(entry).collect(),
            removed: match variant {
                Variant::Delta => vec!["gone".into()],
                Variant::StateOfTheWorld => Vec::new(),
            },
            errors: vec![("a".into(), missing)],
            variant,
        }
    }

    #[test]
    fn bytes_are_those_of_the_generated_messages() {
        for variant in [Variant::StateOfTheWorld, Variant::Delta] {
            for entries in [0, 1, 2, 300] {
                let response = response(variant, entries);
                let official = match response.clone().into_wire() {
                    Response::StateOfTheWorld(message) => message.encode_to_vec(),
                    Response::Delta(message) => message.encode_to_vec(),
                };
                assert!(
                    response.encode() == official,
                    "{variant:?} with {entries} entries"
                );
            }
        }
    }

    #[test]
    fn nothing_to_say_is_still_a_message() {
        let mut response = response(Variant::StateOfTheWorld, 0);
        response.errors.clear();
        let decoded = DiscoveryResponse::decode(response.encode()).expect("just encoded");
        assert_eq!(decoded.nonce, "3");
        assert_eq!(decoded.version_info, "7");
        assert!(decoded.resources.is_empty());
    }
}
