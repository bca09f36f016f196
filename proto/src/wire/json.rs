//! Messages as JSON, for people: protobuf's JSON mapping with the field names of the `.proto`
//! files, as Envoy's admin pages write it.
//!
//! Works from the descriptors alone, so a message need not be decoded into a type. What they do not
//! know is not lost silently: `@unknown_fields` lists the numbers of such fields, and an `Any` of an
//! unknown type shows its bytes. Private keys and passwords never come out.

use std::collections::HashMap;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

use super::Any;

/// Protobuf's own limit for nested messages.
const DEPTH: usize = 100;

/// What stands in the place of a secret.
const REDACTED: &str = "[redacted]";

/// Fields that hold secrets if the control plane writes them into a resource.
const SECRETS: [(&str, &str); 6] = [
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "private_key",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "password",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        "pkcs12",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.PrivateKeyProvider",
        "typed_config",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys",
        "keys",
    ),
    (
        "envoy.extensions.transport_sockets.tls.v3.GenericSecret",
        "secret",
    ),
];

/// A message as JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// An object with `@type` in front.
    pub json: Value,
    /// Whether a secret was left out of it.
    pub redacted: bool,
}

/// What `any` holds, as JSON.
#[must_use]
pub fn render(any: &Any) -> Rendered {
    let mut renderer = Renderer { redacted: false };
    let json = renderer.any(&any.type_url, &any.value, DEPTH);
    Rendered {
        json,
        redacted: renderer.redacted,
    }
}

/// Messages and enums by full name, with a leading dot as fields refer to them.
struct Index {
    messages: HashMap<String, DescriptorProto>,
    enums: HashMap<String, HashMap<i32, String>>,
}

fn index() -> &'static Index {
    static INDEX: OnceLock<Index> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut index = Index {
            messages: HashMap::new(),
            enums: HashMap::new(),
        };
        // The descriptors are part of the program and tested.
        let set = FileDescriptorSet::decode(super::DESCRIPTORS).unwrap_or_default();
        for file in set.file {
            let scope = format!(".{}", file.package());
            index.add_enums(&scope, &file.enum_type);
            for message in file.message_type {
                index.add(&scope, message);
            }
        }
        index
    })
}

impl Index {
    fn add(&mut self, scope: &str, message: DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        self.add_enums(&name, &message.enum_type);
        for nested in &message.nested_type {
            self.add(&name, nested.clone());
        }
        self.messages.insert(name, message);
    }

    fn add_enums(&mut self, scope: &str, enums: &[prost_types::EnumDescriptorProto]) {
        for each in enums {
            let values = each.value.iter();
            let names = values.map(|v| (v.number(), v.name().to_owned())).collect();
            self.enums.insert(format!("{scope}.{}", each.name()), names);
        }
    }
}

struct Renderer {
    redacted: bool,
}

impl Renderer {
    fn any(&mut self, type_url: &str, bytes: &[u8], depth: usize) -> Value {
        let mut object = Map::new();
        object.insert("@type".into(), type_url.into());
        let name = format!(".{}", type_url.rsplit('/').next().unwrap_or_default());
        match self.message(&name, bytes, depth) {
            Some(Value::Object(fields)) if !is_special(&name) => object.extend(fields),
            Some(value) => {
                object.insert("value".into(), value);
            }
            None => {
                object.insert("@bytes".into(), STANDARD.encode(bytes).into());
            }
        }
        Value::Object(object)
    }

    /// `None`: unknown, malformed, or nested too deeply.
    fn message(&mut self, name: &str, bytes: &[u8], depth: usize) -> Option<Value> {
        let depth = depth.checked_sub(1)?;
        if let Some(special) = self.special(name, bytes, depth) {
            return special;
        }
        let descriptor = index().messages.get(name)?;
        let found = split(bytes)?;
        let mut object = Map::new();
        for field in &descriptor.field {
            let values: Vec<&Raw<'_>> = found
                .iter()
                .filter(|(number, _)| *number == field.number())
                .map(|(_, raw)| raw)
                .collect();
            if values.is_empty() {
                continue;
            }
            let value = if SECRETS.contains(&(&name[1..], field.name())) {
                self.redacted = true;
                REDACTED.into()
            } else {
                self.field(field, &values, depth)?
            };
            object.insert(field.name().to_owned(), value);
        }
        let mut unknown: Vec<i32> = found.iter().map(|(number, _)| *number).collect();
        unknown.retain(|number| descriptor.field.iter().all(|f| f.number() != *number));
        unknown.dedup();
        if !unknown.is_empty() {
            object.insert("@unknown_fields".into(), unknown.into());
        }
        Some(Value::Object(object))
    }

    fn field(
        &mut self,
        field: &FieldDescriptorProto,
        values: &[&Raw<'_>],
        depth: usize,
    ) -> Option<Value> {
        if field.label() != Label::Repeated {
            return self.one(field, values.last()?, depth);
        }
        let entry = index().messages.get(field.type_name());
        if let Some(entry) = entry.filter(|entry| is_map_entry(entry)) {
            return self.map(entry, values, depth);
        }
        let mut items = Vec::new();
        for raw in values {
            match raw {
                Raw::Bytes(bytes) if is_packable(field.r#type()) => {
                    for each in unpack(field.r#type(), bytes)? {
                        items.push(self.one(field, &each, depth)?);
                    }
                }
                raw => items.push(self.one(field, raw, depth)?),
            }
        }
        Some(Value::Array(items))
    }

    fn map(&mut self, entry: &DescriptorProto, values: &[&Raw<'_>], depth: usize) -> Option<Value> {
        let mut object = Map::new();
        let (key_field, value_field) = (entry.field.first()?, entry.field.get(1)?);
        for raw in values {
            let Raw::Bytes(bytes) = raw else { return None };
            let parts = split(bytes)?;
            let part = |number| {
                parts
                    .iter()
                    .rfind(|(n, _)| *n == number)
                    .map(|(_, raw)| raw)
            };
            let key = match part(1) {
                Some(raw) => self.one(key_field, raw, depth)?,
                None => "".into(),
            };
            let value = match part(2) {
                Some(raw) => self.one(value_field, raw, depth)?,
                None => self.absent(value_field, depth)?,
            };
            let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
            object.insert(key, value);
        }
        Some(Value::Object(object))
    }

    /// A map's value at its default is not on the wire.
    fn absent(&mut self, field: &FieldDescriptorProto, depth: usize) -> Option<Value> {
        match field.r#type() {
            Type::String | Type::Bytes | Type::Message => self.one(field, &Raw::Bytes(&[]), depth),
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                self.one(field, &Raw::Fixed64(0), depth)
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                self.one(field, &Raw::Fixed32(0), depth)
            }
            _ => self.one(field, &Raw::Varint(0), depth),
        }
    }

    fn one(&mut self, field: &FieldDescriptorProto, raw: &Raw<'_>, depth: usize) -> Option<Value> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "protobuf's own reading of a varint as a narrower or signed integer"
        )]
        Some(match (field.r#type(), raw) {
            (Type::Message, Raw::Bytes(bytes)) => self.message(field.type_name(), bytes, depth)?,
            (Type::String, Raw::Bytes(bytes)) => String::from_utf8_lossy(bytes).into(),
            (Type::Bytes, Raw::Bytes(bytes)) => STANDARD.encode(bytes).into(),
            (Type::Bool, Raw::Varint(n)) => (*n != 0).into(),
            (Type::Enum, Raw::Varint(n)) => {
                let number = *n as i32;
                let name = index().enums.get(field.type_name())?.get(&number);
                name.map_or_else(|| number.into(), |name| name.as_str().into())
            }
            (Type::Int32, Raw::Varint(n)) => (*n as i32).into(),
            (Type::Uint32, Raw::Varint(n)) => (*n as u32).into(),
            // 64 bits do not fit into every reader's number.
            (Type::Int64, Raw::Varint(n)) => (*n as i64).to_string().into(),
            (Type::Uint64, Raw::Varint(n)) => n.to_string().into(),
            (Type::Sint32, Raw::Varint(n)) => (zigzag(*n) as i32).into(),
            (Type::Sint64, Raw::Varint(n)) => zigzag(*n).to_string().into(),
            (Type::Fixed32, Raw::Fixed32(n)) => (*n).into(),
            (Type::Sfixed32, Raw::Fixed32(n)) => (*n as i32).into(),
            (Type::Float, Raw::Fixed32(n)) => float(f64::from(f32::from_bits(*n))),
            (Type::Fixed64, Raw::Fixed64(n)) => n.to_string().into(),
            (Type::Sfixed64, Raw::Fixed64(n)) => (*n as i64).to_string().into(),
            (Type::Double, Raw::Fixed64(n)) => float(f64::from_bits(*n)),
            _ => return None,
        })
    }

    /// The types that protobuf's JSON writes in a way of their own. The outer `None`: `name` is not
    /// one of them.
    fn special(&mut self, name: &str, bytes: &[u8], depth: usize) -> Option<Option<Value>> {
        let short = name.strip_prefix(".google.protobuf.")?;
        Some(match short {
            "Any" => Any::decode(bytes)
                .ok()
                .map(|any| self.any(&any.type_url, &any.value, depth)),
            "Duration" => text(prost_types::Duration::decode(bytes)),
            "Timestamp" => text(prost_types::Timestamp::decode(bytes)),
            "Struct" => prost_types::Struct::decode(bytes).ok().map(structure),
            "Value" => prost_types::Value::decode(bytes).ok().map(dynamic),
            "ListValue" => {
                let list = prost_types::ListValue::decode(bytes).ok();
                list.map(|list| list.values.into_iter().map(dynamic).collect())
            }
            _ if is_wrapper(short) => {
                let field = index().messages.get(name)?.field.first()?;
                let parts = split(bytes)?;
                match parts.last() {
                    Some((_, raw)) => self.one(field, raw, depth),
                    None => self.absent(field, depth),
                }
            }
            _ => return None,
        })
    }
}

fn is_special(name: &str) -> bool {
    name.strip_prefix(".google.protobuf.").is_some_and(|short| {
        is_wrapper(short)
            || [
                "Any",
                "Duration",
                "Timestamp",
                "Struct",
                "Value",
                "ListValue",
            ]
            .contains(&short)
    })
}

/// `UInt32Value` and the like: written as what they wrap.
fn is_wrapper(short: &str) -> bool {
    short.ends_with("Value") && !["Value", "ListValue", "NullValue"].contains(&short)
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|o| o.map_entry())
}

fn text<T: ToString>(decoded: Result<T, prost::DecodeError>) -> Option<Value> {
    decoded.ok().map(|value| value.to_string().into())
}

fn structure(fields: prost_types::Struct) -> Value {
    let fields = fields.fields.into_iter();
    Value::Object(fields.map(|(key, value)| (key, dynamic(value))).collect())
}

fn dynamic(value: prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => float(number),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StructValue(fields)) => structure(fields),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(dynamic).collect(),
    }
}

/// JSON has no infinities; protobuf writes them as texts.
fn float(number: f64) -> Value {
    if number.is_nan() {
        "NaN".into()
    } else if number.is_infinite() {
        if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into()
    } else {
        json!(number)
    }
}

/// A field's value on the wire.
#[derive(Debug, Clone, Copy)]
enum Raw<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// A message's fields as they come. `None`: malformed, or of protobuf's oldest form (groups).
fn split(mut bytes: &[u8]) -> Option<Vec<(i32, Raw<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let number = i32::try_from(key >> 3).ok()?;
        let raw = match key & 7 {
            0 => Raw::Varint(varint(&mut bytes)?),
            1 => Raw::Fixed64(u64::from_le_bytes(*take(&mut bytes)?)),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (value, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Raw::Bytes(value)
            }
            5 => Raw::Fixed32(u32::from_le_bytes(*take(&mut bytes)?)),
            _ => return None,
        };
        fields.push((number, raw));
    }
    Some(fields)
}

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (value, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(value)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = *take(bytes)?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn zigzag(n: u64) -> i64 {
    (n >> 1).cast_signed() ^ -(n & 1).cast_signed()
}

fn is_packable(field: Type) -> bool {
    !matches!(
        field,
        Type::String | Type::Bytes | Type::Message | Type::Group
    )
}

fn unpack(field: Type, mut bytes: &[u8]) -> Option<Vec<Raw<'static>>> {
    let mut items = Vec::new();
    while !bytes.is_empty() {
        items.push(match field {
            Type::Double | Type::Fixed64 | Type::Sfixed64 => {
                Raw::Fixed64(u64::from_le_bytes(*take(&mut bytes)?))
            }
            Type::Float | Type::Fixed32 | Type::Sfixed32 => {
                Raw::Fixed32(u32::from_le_bytes(*take(&mut bytes)?))
            }
            _ => Raw::Varint(varint(&mut bytes)?),
        });
    }
    Some(items)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::core::{DataSource, Locality, Node, data_source};
    use crate::wire::tls::{CommonTlsContext, TlsCertificate, UpstreamTlsContext};

    #[test]
    fn names_as_in_the_proto_files_and_nothing_that_is_not_there() {
        let node = Node {
            id: "a".into(),
            locality: Some(Locality {
                sub_zone: "s".into(),
                ..Locality::default()
            }),
            ..Node::default()
        };
        assert_eq!(
            render(&Any::pack(&node)).json,
            json!({
                "@type": "type.googleapis.com/envoy.config.core.v3.Node",
                "id": "a",
                "locality": {"sub_zone": "s"},
            })
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let mut bytes = Locality::default().encode_to_vec();
        // Field 200, the varint 1.
        bytes.extend([0xc0, 0x0c, 0x01]);
        let mut any = Any::pack(&Locality::default());
        any.value = bytes.into();
        assert_eq!(render(&any).json["@unknown_fields"], json!([200]));
        any.type_url = "type.googleapis.com/some.Thing".into();
        assert_eq!(
            render(&any).json,
            json!({"@type": "type.googleapis.com/some.Thing", "@bytes": "wAwB"})
        );
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = DataSource {
            specifier: Some(data_source::Specifier::InlineString("hunter2".into())),
            ..DataSource::default()
        };
        let context = UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_certificates: vec![TlsCertificate {
                    private_key: Some(key),
                    ..TlsCertificate::default()
                }],
                ..CommonTlsContext::default()
            }),
            ..UpstreamTlsContext::default()
        };
        let rendered = render(&Any::pack(&context));
        assert!(rendered.redacted);
        assert!(!rendered.json.to_string().contains("hunter2"));
        let certificate = &rendered.json["common_tls_context"]["tls_certificates"][0];
        assert_eq!(certificate["private_key"], REDACTED);
    }

    #[test]
    fn broken_and_bottomless_bytes_end() {
        for bytes in [&[0x0a, 0xff][..], &[0xff; 20], &[0x0b], &[0x09, 1]] {
            let any = Any {
                type_url: "type.googleapis.com/envoy.config.core.v3.Node".into(),
                value: Bytes::copy_from_slice(bytes),
            };
            assert!(render(&any).json["@bytes"].is_string(), "{bytes:?}");
        }
        let mut nested = Any::pack(&Locality::default());
        for _ in 0..2 * DEPTH {
            nested = Any::pack(&nested);
        }
        assert!(render(&nested).json.is_object());
    }
}
