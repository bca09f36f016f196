//! The JSON Schema of the mesh file, for editors.

use serde_json::{Map, Value, json};

use super::keys::{self, Object, Shape, Status};

/// The JSON Schema (draft 2020-12) of the mesh file. It knows the keys, types and ranges; what
/// one part of a file says about another only the parser checks.
#[must_use]
pub fn schema() -> Value {
    let mut schema = object(&keys::FILE);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Sidestep mesh file, version 1");
    schema
}

fn object(object: &Object) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for rule in object.keys {
        match rule.status {
            Status::NotYet | Status::Elsewhere(_) => continue,
            Status::Required => required.push(rule.name),
            Status::Optional => {}
        }
        let mut property = shape(&rule.shape);
        property["description"] = json!(rule.about);
        properties.insert(rule.name.to_owned(), property);
    }
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn shape(of: &Shape) -> Value {
    match of {
        Shape::Text => json!({"type": "string", "minLength": 1}),
        Shape::Duration => json!({
            "type": "string",
            "pattern": r"^(none|[0-9]+(\.[0-9]{1,3})?(ms|s|m|h))$",
        }),
        Shape::Period => json!({
            "type": "string",
            "pattern": r"^[0-9]+(\.[0-9]{1,3})?(ms|s|m|h)$",
        }),
        Shape::Count { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Shape::Choice(words) => json!({"enum": words}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::List(items) => json!({"type": "array", "items": shape(items)}),
        Shape::Map(values) => json!({"type": "object", "additionalProperties": shape(values)}),
        Shape::Object(keys) => object(keys),
        Shape::Either(shapes) => json!({"anyOf": shapes.iter().map(shape).collect::<Vec<_>>()}),
        Shape::Native => json!({
            "type": "object",
            "properties": {"@type": {"type": "string"}},
            "required": ["@type"],
        }),
    }
}
