//! Policies that the process brings itself, and the JSON in which they, and some of gRPC's own, are
//! configured (`TypedStruct`, gRFC A52).

use prost_types::{ListValue, Struct, Value as Wire, value::Kind};
use serde_json::{Map, Number, Value};

use super::{At, Depth, Result, random_subsetting, wrr_locality};
use crate::resource::{CustomPolicy, LbPolicy};
use crate::wire::Any;
use crate::wire::cluster::LoadBalancingPolicy;
use crate::wire::typed_struct::TypedStruct;

type Read = fn(&At<'_>, &Struct, Depth) -> Result<LbPolicy>;

/// Policies made of policies, which have no message that gRPC's service config knows.
const COMPOSITES: &[(&str, Read)] = &[
    ("wrr_locality_experimental", wrr_locality::of_json),
    ("random_subsetting_experimental", random_subsetting::of_json),
];

/// Numbers beyond are not whole to the last digit.
const EXACT: f64 = 9_007_199_254_740_992.0;

const UNSURE: &str = "only processes that have registered this policy take it";

/// The policy of this name: one of gRPC's, or one that the process has registered. `None`: neither.
pub(super) fn named(
    at: &At<'_>,
    name: &str,
    config: &Struct,
    depth: Depth,
) -> Result<Option<LbPolicy>> {
    let mut composites = COMPOSITES.iter();
    if let Some((_, read)) = composites.find(|(known, _)| *known == name) {
        return read(at, config, depth).map(Some);
    }
    let registered = at.context.custom_policies.iter().flatten();
    let mut registered = registered.filter(|policy| policy.name() == name);
    let Some(registered) = registered.next() else {
        return Ok(None);
    };
    let config = to_text(config);
    let checked = registered.check(&config);
    checked.map_err(|reason| at.rule(format!("the policy {name:?} refuses it: {reason}")))?;
    Ok(Some(LbPolicy::Custom(CustomPolicy {
        name: name.to_owned(),
        config,
        registered: Some(registered.clone()),
    })))
}

/// For tools: the first policy that a process may have registered.
pub(super) fn of_unknown_process(at: &At<'_>, list: &LoadBalancingPolicy) -> Option<LbPolicy> {
    if at.context.custom_policies.is_some() {
        return None;
    }
    let found = list.policies.iter().enumerate().find_map(|(i, policy)| {
        let any = policy
            .typed_extension_config
            .as_ref()?
            .typed_config
            .as_ref()?;
        Some((i, super::typed_struct(at, any).ok()??))
    });
    let (i, config) = found?;
    at.item("policies", i).note(UNSURE);
    Some(LbPolicy::Custom(CustomPolicy {
        name: super::name_in(&config.type_url).to_owned(),
        config: to_text(&config.value.unwrap_or_default()),
        registered: None,
    }))
}

pub(super) fn to_message(policy: &CustomPolicy) -> Any {
    // The text was made of such an object.
    let object = serde_json::from_str(&policy.config).unwrap_or_default();
    Any::pack(&TypedStruct {
        type_url: format!("type.googleapis.com/{}", policy.name),
        value: Some(to_struct(object)),
    })
}

fn to_text(config: &Struct) -> String {
    Value::Object(to_object(config)).to_string()
}

fn to_object(config: &Struct) -> Map<String, Value> {
    let fields = config.fields.iter();
    fields
        .map(|(key, value)| (key.clone(), to_value(value)))
        .collect()
}

fn to_value(value: &Wire) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(value)) => to_number(*value),
        Some(Kind::StringValue(value)) => Value::String(value.clone()),
        Some(Kind::StructValue(value)) => Value::Object(to_object(value)),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_value).collect(),
    }
}

/// Whole numbers without a fraction, so that a reader may ask for an integer. JSON has no word for
/// what is no number.
fn to_number(value: f64) -> Value {
    let whole = value as i64;
    if value.abs() < EXACT && whole as f64 == value {
        return Value::Number(whole.into());
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn to_struct(object: Map<String, Value>) -> Struct {
    let fields = object.into_iter();
    Struct {
        fields: fields.map(|(key, value)| (key, to_wire(value))).collect(),
    }
}

fn to_wire(value: Value) -> Wire {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value),
        Value::Object(object) => Kind::StructValue(to_struct(object)),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(to_wire).collect(),
        }),
    };
    Wire { kind: Some(kind) }
}

/// A list of policies as JSON has it, `[{"round_robin": {}}]`: the first one that is supported.
pub(super) fn of_list(
    at: &At<'_>,
    config: &Struct,
    field: &'static str,
    depth: Depth,
) -> Result<LbPolicy> {
    let Some(Kind::ListValue(list)) = super::json_field(config, field) else {
        return Err(at.field(field).rule("must be a list of policies"));
    };
    let depth = depth.inside(at)?;
    let mut unsupported = Vec::new();
    for (i, entry) in list.values.iter().enumerate() {
        let at = at.item(field, i);
        let (name, config) = one(&at, entry)?;
        if let Some(policy) = super::decode_named(&at, name, &config, depth)? {
            return Ok(policy);
        }
        unsupported.push(name);
    }
    Err(at.field(field).rule(super::none_of(&unsupported)))
}

/// An object with one key: a policy's name, and its configuration.
fn one<'a>(at: &At<'_>, entry: &'a Wire) -> Result<(&'a str, Struct)> {
    let Some(Kind::StructValue(object)) = &entry.kind else {
        return Err(at.rule("must be an object"));
    };
    let mut fields = object.fields.iter();
    let (Some((name, config)), None) = (fields.next(), fields.next()) else {
        return Err(at.rule("must have one key, the name of a policy"));
    };
    match &config.kind {
        Some(Kind::StructValue(config)) => Ok((name, config.clone())),
        _ => Err(at.rule("the configuration must be an object")),
    }
}
