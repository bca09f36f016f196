//! Finds the line that an error about a native resource belongs to.

use prost_reflect::{Kind as FieldKind, MessageDescriptor};

use super::{pool, read};
use sidestep_proto::code;

use crate::model::yaml::{Key, Node, Value};
use crate::model::{Place, Report};
use crate::nearest;

/// Reports why `node` cannot be read as this message, at the innermost node that is at fault.
/// Each field is tried alone, so every faulty field is found, not only the first.
pub(super) fn report(descriptor: &MessageDescriptor, node: &Node, out: &mut Report) {
    let before = out.diagnostics.len();
    let Value::Map(entries) = &node.value else {
        let message = format!(
            "expected a map with the fields of {}",
            descriptor.full_name()
        );
        out.error(code::BAD_RESOURCE_FIELD, &node.place, &node.path, message);
        return;
    };
    for (key, child) in entries.iter().filter(|(key, _)| key.text != "@type") {
        let alone = Node {
            value: Value::Map(vec![(key.clone(), child.clone())]),
            ..node.clone()
        };
        if let Err(error) = read(descriptor, &alone) {
            report_field(descriptor, node, (key, child), &error, out);
        }
    }
    if out.diagnostics.len() == before {
        // Only together are they wrong: two members of one oneof.
        let error = read(descriptor, node).err().unwrap_or_default();
        out.error(code::BAD_RESOURCE_FIELD, &node.place, &node.path, error);
    }
}

fn report_field(
    descriptor: &MessageDescriptor,
    parent: &Node,
    (key, child): (&Key, &Node),
    error: &str,
    out: &mut Report,
) {
    let by_name = descriptor.get_field_by_name(&key.text);
    let Some(field) = by_name.or_else(|| descriptor.get_field_by_json_name(&key.text)) else {
        let names: Vec<String> = descriptor.fields().map(|f| f.name().to_owned()).collect();
        let near = nearest::nearest(&key.text, names.iter().map(String::as_str));
        let help = near.first().map(|name| format!("did you mean {name:?}?"));
        let message = format!("{} has no field {:?}", descriptor.full_name(), key.text);
        out.error(code::BAD_RESOURCE_FIELD, &key.place, &parent.path, message)
            .help(help.unwrap_or_default());
        return;
    };
    let inner = match field.kind() {
        FieldKind::Message(inner) if !field.is_map() => inner,
        _ => return leaf(child, error, out),
    };
    match &child.value {
        Value::List(items) if field.is_list() => {
            for item in items {
                descend(&inner, item, out);
            }
        }
        Value::Map(_) if !field.is_list() => descend(&inner, child, out),
        _ => leaf(child, error, out),
    }
}

/// Goes into a message if it is at fault. Google's own types have a JSON form that is not made of
/// their fields, so there is nothing to go into, except for `Any`.
fn descend(descriptor: &MessageDescriptor, node: &Node, out: &mut Report) {
    if descriptor.full_name() == "google.protobuf.Any" {
        return any(node, out);
    }
    let Err(error) = read(descriptor, node) else {
        return;
    };
    if descriptor.full_name().starts_with("google.protobuf.") {
        leaf(node, &error, out);
    } else {
        report(descriptor, node, out);
    }
}

fn any(node: &Node, out: &mut Report) {
    let entries = match &node.value {
        Value::Map(entries) => entries.as_slice(),
        _ => &[],
    };
    let type_node = entries.iter().find(|(key, _)| key.text == "@type");
    let Some((
        _,
        Node {
            value: Value::Scalar { text, .. },
            ..
        },
    )) = type_node
    else {
        out.error(
            code::MISSING_KEY,
            &node.place,
            &node.path,
            "the key `@type` is missing",
        );
        return;
    };
    let name = text.rsplit('/').next().unwrap_or_default();
    match pool().get_message_by_name(name) {
        // Its JSON form is a `value` beside `@type`.
        Some(descriptor) if descriptor.full_name().starts_with("google.protobuf.") => {}
        Some(descriptor) => descend(&descriptor, node, out),
        None => {
            let message = format!("unknown type {name:?}");
            out.error(
                code::UNKNOWN_RESOURCE_TYPE,
                key_place(node, "@type"),
                &node.path,
                message,
            );
        }
    }
}

fn leaf(node: &Node, error: &str, out: &mut Report) {
    out.error(code::BAD_RESOURCE_FIELD, &node.place, &node.path, error);
}

/// Where a key of a map stands, else the map.
pub(super) fn key_place<'a>(node: &'a Node, name: &str) -> &'a Place {
    let Value::Map(entries) = &node.value else {
        return &node.place;
    };
    let found = entries.iter().find(|(key, _)| key.text == name);
    found.map_or(&node.place, |(key, _)| &key.place)
}

/// The node that a field path of the codec (`virtual_hosts[2].routes[0].match`) leads to, or the
/// last one on the way that is written.
pub(super) fn field<'a>(node: &'a Node, path: &str) -> (&'a Place, String) {
    let mut at = node;
    let mut place = &node.place;
    for step in path.split(['.', '[']) {
        let next = match (&at.value, step.strip_suffix(']')) {
            (Value::List(items), Some(index)) => {
                let item = index.parse::<usize>().ok().and_then(|i| items.get(i));
                item.map(|item| (item, &item.place))
            }
            (Value::Map(entries), None) => entries
                .iter()
                .find(|(key, _)| same_field(&key.text, step))
                .map(|(key, node)| (node, &key.place)),
            _ => None,
        };
        let Some((next, next_place)) = next else {
            break;
        };
        (at, place) = (next, next_place);
    }
    (place, at.path.clone())
}

/// Whether two names are one field's: as in the `.proto` file or as in JSON.
fn same_field(written: &str, wanted: &str) -> bool {
    let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
    plain(written) == plain(wanted)
}
