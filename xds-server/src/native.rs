//! Envoy-native resources: YAML to protobuf over the official descriptors, checked like everything
//! else that is sent.
//!
//! The descriptors (names, numbers and types of the whole public API) are unpacked at first use,
//! so a mesh without native resources never pays for them.

mod locate;

use std::io::Read as _;
use std::sync::OnceLock;

use prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor};
use serde_json::Value as Json;
use sidestep_proto::code;
use sidestep_proto::codec::{self, Context};
use sidestep_proto::resource::ResourceType;
use sidestep_proto::wire::discovery::Resource;
use sidestep_proto::wire::{self, Any};

use crate::compile::{CompiledResource, Content};
use crate::model::yaml::{Kind, Node, Value};
use crate::model::{NativeResource, Report};
use crate::nearest;
use crate::snapshot::RawResource;

static DESCRIPTORS: &[u8] = include_bytes!("../data/envoy-descriptors.bin.gz");

/// The descriptors of the public API, and of our own types that it lacks.
fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| load().expect("the descriptors are part of the program and tested"))
}

fn load() -> Result<DescriptorPool, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(DESCRIPTORS).read_to_end(&mut bytes)?;
    let mut pool = DescriptorPool::decode(bytes.as_slice())?;
    let ours = prost_types::FileDescriptorSet::decode(wire::DESCRIPTORS)?;
    // Our files hold parts of official ones, so only a file of which nothing is there may be added.
    let files = ours.file.into_iter().filter(|file| {
        let mut names = file
            .message_type
            .iter()
            .map(|m| full_name(file.package(), m.name()));
        names.all(|name| pool.get_message_by_name(&name).is_none())
            && pool.get_file_by_name(file.name()).is_none()
    });
    let files: Vec<_> = files.collect();
    pool.add_file_descriptor_protos(files)?;
    Ok(pool)
}

fn full_name(package: &str, message: &str) -> String {
    if package.is_empty() {
        message.to_owned()
    } else {
        format!("{package}.{message}")
    }
}

/// Compiles one entry of `resources`. `None` after an error, which the report has.
pub(crate) fn compile(native: &NativeResource, report: &mut Report) -> Option<CompiledResource> {
    let (message, any) = encode(native, report)?;
    let name = match ResourceType::from_type_url(&any.type_url) {
        Some(known) => checked(known, &any, native, report)?,
        None => own_name(&message, native, report)?,
    };
    Some(CompiledResource {
        name,
        type_url: any.type_url.clone(),
        content: Content::Native(any),
        provenance: native.place.clone(),
    })
}

/// Encodes one entry of `resources` as it is written, whatever any client thinks of it. One that
/// has no name of its own can be given one by writing it inside an
/// `envoy.service.discovery.v3.Resource`. `None` after an error, which the report has.
pub(crate) fn as_written(native: &NativeResource, report: &mut Report) -> Option<RawResource> {
    let (message, any) = encode(native, report)?;
    let (name, any) = match any.unpack::<Resource>() {
        Ok(Resource {
            name,
            resource: Some(inner),
            ..
        }) if !name.is_empty() => (name, inner),
        _ => (own_name(&message, native, report)?, any),
    };
    Some(RawResource {
        name,
        any,
        origin: Some(native.place.clone()),
    })
}

fn encode(native: &NativeResource, report: &mut Report) -> Option<(DynamicMessage, Any)> {
    let descriptor = descriptor(native, report)?;
    let Ok(message) = read(&descriptor, &native.node) else {
        locate::report(&descriptor, &native.node, report);
        return None;
    };
    let any = Any {
        type_url: format!("type.googleapis.com/{}", descriptor.full_name()),
        value: message.encode_to_vec().into(),
    };
    Some((message, any))
}

fn descriptor(native: &NativeResource, report: &mut Report) -> Option<MessageDescriptor> {
    let (_, name) = native
        .type_url
        .rsplit_once('/')
        .unwrap_or(("", &native.type_url));
    let found = pool().get_message_by_name(name);
    if found.is_none() {
        let known: Vec<String> = pool()
            .all_messages()
            .map(|message| message.full_name().to_owned())
            .collect();
        let near = nearest::nearest(name, known.iter().map(String::as_str));
        let help = near.first().map(|name| format!("did you mean {name:?}?"));
        let place = locate::key_place(&native.node, "@type");
        report
            .error(
                code::UNKNOWN_RESOURCE_TYPE,
                place,
                &native.node.path,
                format!("unknown type {name:?}"),
            )
            .help(help.unwrap_or_default());
    }
    found
}

/// Applies the rules of the runtime: what it would refuse is an error here, and so is every
/// security field that it does not enforce.
fn checked(
    known: ResourceType,
    any: &Any,
    native: &NativeResource,
    report: &mut Report,
) -> Option<String> {
    let node = &native.node;
    let decoded = match codec::decode(known, any, &Context::default()) {
        Ok(decoded) => decoded,
        Err(reason) => {
            report.error(
                reason.code(),
                &node.place,
                &node.path,
                format!("{known}: {reason}"),
            );
            return None;
        }
    };
    for ignored in &decoded.ignored {
        let (place, path) = locate::field(node, &ignored.path);
        report.warning(
            code::RESOURCE_FIELD_IGNORED,
            place,
            &path,
            format!("{}: {}", ignored.path, ignored.note),
        );
    }
    match decoded.result {
        Ok(_) => Some(decoded.name),
        Err(invalid) => {
            let (place, path) = locate::field(node, &invalid.path);
            report.error(invalid.code(), place, &path, invalid.text());
            None
        }
    }
}

/// The name of a resource of a type that the runtime does not know: its field `name`, field 1 of
/// every other xDS resource too.
fn own_name(
    message: &DynamicMessage,
    native: &NativeResource,
    report: &mut Report,
) -> Option<String> {
    let name = message
        .get_field_by_number(1)
        .and_then(|value| value.as_str().map(str::to_owned))
        .filter(|name| !name.is_empty());
    if name.is_none() {
        let node = &native.node;
        report.error(
            code::RESOURCE_UNNAMED,
            &node.place,
            &node.path,
            "the resource has no name",
        );
    }
    name
}

/// Reads a node as a message; `@type` is not one of its fields.
fn read(descriptor: &MessageDescriptor, node: &Node) -> Result<DynamicMessage, String> {
    let mut value = json(node);
    if let Json::Object(fields) = &mut value {
        fields.shift_remove("@type");
    }
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &options)
        .map_err(|error| error.to_string())
}

/// A node as JSON.
pub(crate) fn json(node: &Node) -> Json {
    match &node.value {
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => {
            let fields = entries
                .iter()
                .map(|(key, node)| (key.text.clone(), json(node)));
            Json::Object(fields.collect())
        }
        Value::Scalar { kind, text } => match kind {
            Kind::Null => Json::Null,
            Kind::Bool => Json::Bool(text.eq_ignore_ascii_case("true")),
            Kind::Number => number(text),
            Kind::Text => Json::from(text.as_str()),
        },
    }
}

/// Infinities stay texts, as protobuf's JSON writes them.
fn number(text: &str) -> Json {
    let plain = text.strip_prefix('+').unwrap_or(text);
    let radix = |prefix, radix| {
        let digits = plain.strip_prefix(prefix)?;
        u64::from_str_radix(digits, radix).ok()
    };
    if let Some(value) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return value.into();
    }
    if let Ok(value) = plain.parse::<u64>() {
        return value.into();
    }
    if let Ok(value) = plain.parse::<i64>() {
        return value.into();
    }
    match plain.to_ascii_lowercase().as_str() {
        ".inf" => "Infinity".into(),
        "-.inf" => "-Infinity".into(),
        ".nan" => "NaN".into(),
        _ => plain.parse::<f64>().map_or(Json::Null, Json::from),
    }
}

#[cfg(test)]
mod tests;
