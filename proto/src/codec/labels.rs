//! The `envoy.lb` metadata of endpoints and routes, and gRFC A76's key in it.

use std::collections::BTreeMap;

use prost_types::{ListValue, Struct, Value, value::Kind};

use crate::resource::{Finite, LabelValue, Labels};
use crate::wire::core::Metadata;

/// The metadata that balancing reads.
const NAMESPACE: &str = "envoy.lb";
/// What gRFC A76 reads in an endpoint's.
const HASH_KEY: &str = "hash_key";

/// What a route asks for.
pub(super) fn of_route(metadata: Option<Metadata>) -> Labels {
    decode(notes(metadata).unwrap_or_default())
}

/// Where policies that pick by hash place an endpoint, and its other notes. A key that is not text,
/// or is empty, is as if it was not there.
pub(super) fn of_endpoint(metadata: Option<Metadata>) -> (Option<Box<str>>, Labels) {
    let Some(mut notes) = notes(metadata) else {
        return (None, Labels::default());
    };
    let hash_key = notes.fields.remove(HASH_KEY).and_then(|key| key.kind);
    let hash_key = match hash_key {
        Some(Kind::StringValue(key)) if !key.is_empty() => Some(key.into()),
        _ => None,
    };
    (hash_key, decode(notes))
}

fn notes(metadata: Option<Metadata>) -> Option<Struct> {
    metadata?.filter_metadata.remove(NAMESPACE)
}

/// The fields of an object. What is no value, or no number, is left out: nothing equals it.
pub(super) fn decode(notes: Struct) -> Labels {
    let fields = notes.fields.into_iter();
    fields
        .filter_map(|(key, value)| Some((key, decode_value(value)?)))
        .collect()
}

fn decode_value(value: Value) -> Option<LabelValue> {
    Some(match value.kind? {
        Kind::NullValue(_) => LabelValue::Null,
        Kind::BoolValue(value) => LabelValue::Bool(value),
        Kind::NumberValue(value) => LabelValue::Number(Finite::new(value)?),
        Kind::StringValue(text) => LabelValue::Text(text.into()),
        Kind::ListValue(list) => {
            let values = list.values.into_iter();
            LabelValue::List(values.filter_map(decode_value).collect())
        }
        Kind::StructValue(object) => LabelValue::Object(decode(object)),
    })
}

/// What a route asks for; `None` if that is nothing.
pub(super) fn to_route(labels: &Labels) -> Option<Metadata> {
    (!labels.is_empty()).then(|| metadata(encode(labels)))
}

/// An endpoint's notes; `None` if there are none.
pub(super) fn to_endpoint(hash_key: Option<&str>, labels: &Labels) -> Option<Metadata> {
    let mut notes = encode(labels);
    if let Some(key) = hash_key {
        let kind = Some(Kind::StringValue(key.to_owned()));
        notes.fields.insert(HASH_KEY.to_owned(), Value { kind });
    }
    (!notes.fields.is_empty()).then(|| metadata(notes))
}

fn metadata(notes: Struct) -> Metadata {
    Metadata {
        filter_metadata: BTreeMap::from([(NAMESPACE.to_owned(), notes)]),
        ..Default::default()
    }
}

pub(super) fn encode(labels: &Labels) -> Struct {
    let fields = labels.iter();
    Struct {
        fields: fields
            .map(|(key, value)| (key.to_owned(), encode_value(value)))
            .collect(),
    }
}

fn encode_value(value: &LabelValue) -> Value {
    let kind = match value {
        LabelValue::Null => Kind::NullValue(0),
        LabelValue::Bool(value) => Kind::BoolValue(*value),
        LabelValue::Number(value) => Kind::NumberValue(value.get()),
        LabelValue::Text(text) => Kind::StringValue(text.to_string()),
        LabelValue::List(values) => Kind::ListValue(ListValue {
            values: values.iter().map(encode_value).collect(),
        }),
        LabelValue::Object(labels) => Kind::StructValue(encode(labels)),
    };
    Value { kind: Some(kind) }
}
