//! A message of any type, by name.

use bytes::Bytes;
use prost::{DecodeError, Message, Name};

/// What every type URL in xDS starts with.
const DOMAIN: &str = "type.googleapis.com";

/// `google.protobuf.Any` whose value shares the buffer it arrived in.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Any {
    /// Names the type of the message inside: `type.googleapis.com/` and its full name.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

impl Any {
    /// Wraps a message.
    pub fn pack<M: Name>(message: &M) -> Self {
        Self {
            type_url: format!("{DOMAIN}/{}", M::full_name()),
            value: message.encode_to_vec().into(),
        }
    }

    /// The message inside, if it is of type `M`.
    pub fn unpack<M: Name + Default>(&self) -> Result<M, UnpackError> {
        if !self.is::<M>() {
            return Err(UnpackError::WrongType {
                expected: M::full_name(),
                found: self.type_url.clone(),
            });
        }
        M::decode(self.value.clone()).map_err(|source| UnpackError::Malformed {
            type_name: M::full_name(),
            source,
        })
    }

    /// Whether the type URL names `M`.
    pub fn is<M: Name>(&self) -> bool {
        self.type_name() == M::full_name()
    }

    /// The full name of the message inside: what follows the last slash of the type URL.
    pub fn type_name(&self) -> &str {
        self.type_url.rsplit('/').next().unwrap_or_default()
    }
}

impl Name for Any {
    const NAME: &'static str = "Any";
    const PACKAGE: &'static str = "google.protobuf";

    fn full_name() -> String {
        "google.protobuf.Any".to_owned()
    }

    fn type_url() -> String {
        format!("{DOMAIN}/google.protobuf.Any")
    }
}

/// Why an [`Any`] could not be unpacked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UnpackError {
    /// It holds another type.
    #[error("expected {expected}, found {found:?}")]
    WrongType {
        /// The full name asked for.
        expected: String,
        /// The type URL found.
        found: String,
    },
    /// It claims the right type, but its bytes are not such a message.
    #[error("malformed {type_name}: {source}")]
    Malformed {
        /// The full name of the message.
        type_name: String,
        /// Where decoding stopped.
        source: DecodeError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::core::Locality;

    fn locality() -> Locality {
        Locality {
            region: "r".into(),
            zone: "z".into(),
            sub_zone: String::new(),
        }
    }

    #[test]
    fn unpack_returns_what_was_packed() {
        let any = Any::pack(&locality());
        assert_eq!(
            any.type_url,
            "type.googleapis.com/envoy.config.core.v3.Locality"
        );
        assert_eq!(any.type_url, Locality::type_url());
        assert_eq!(any.unpack::<Locality>(), Ok(locality()));
    }

    #[test]
    fn an_any_may_hold_an_any() {
        let inner = Any::pack(&locality());
        assert_eq!(Any::pack(&inner).unpack::<Any>(), Ok(inner));
    }

    #[test]
    fn other_types_and_broken_bytes_are_told_apart() {
        let any = Any::pack(&locality());
        assert!(matches!(
            any.unpack::<crate::wire::core::Node>(),
            Err(UnpackError::WrongType { .. })
        ));
        let broken = Any {
            value: Bytes::from_static(&[0x0a, 0xff]),
            ..any
        };
        assert!(matches!(
            broken.unpack::<Locality>(),
            Err(UnpackError::Malformed { .. })
        ));
    }

    #[test]
    fn encodes_like_the_official_any() {
        let ours = Any::pack(&locality());
        let official = prost_types::Any {
            type_url: ours.type_url.clone(),
            value: ours.value.to_vec(),
        };
        assert_eq!(ours.encode_to_vec(), official.encode_to_vec());
    }

    #[test]
    fn the_value_shares_the_buffer_it_arrived_in() {
        let bytes: Bytes = Any::pack(&locality()).encode_to_vec().into();
        let any = Any::decode(bytes.clone()).expect("just encoded");
        assert!(bytes.as_ptr_range().contains(&any.value.as_ptr()));
    }
}
