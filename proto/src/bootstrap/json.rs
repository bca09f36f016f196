//! JSON values that know where they are.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Value};

use super::BootstrapError;

/// A value and its place. Places are only spelled out for errors; a bootstrap is read once.
#[derive(Clone)]
pub(super) struct Json<'a> {
    value: &'a Value,
    path: String,
}

/// An object of which some keys have been read.
pub(super) struct Object<'a> {
    members: &'a Map<String, Value>,
    path: String,
    read: Vec<&'static str>,
}

impl<'a> Json<'a> {
    pub(super) fn root(value: &'a Value) -> Self {
        Self {
            value,
            path: String::new(),
        }
    }

    /// `xds_servers[0].channel_creds`; a single dot for the whole.
    pub(super) fn path(&self) -> String {
        match self.path.is_empty() {
            true => ".".to_owned(),
            false => self.path.clone(),
        }
    }

    pub(super) fn invalid(&self, reason: impl Into<String>) -> BootstrapError {
        BootstrapError::Invalid {
            path: self.path(),
            reason: reason.into(),
        }
    }

    fn expected(&self, what: &str) -> BootstrapError {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
        };
        self.invalid(format!("expected {what}, found {found}"))
    }

    pub(super) fn object(&self) -> Result<Object<'a>, BootstrapError> {
        match self.value {
            Value::Object(members) => Ok(Object {
                members,
                path: self.path.clone(),
                read: Vec::new(),
            }),
            _ => Err(self.expected("an object")),
        }
    }

    pub(super) fn items(&self) -> Result<Vec<Self>, BootstrapError> {
        let Value::Array(items) = self.value else {
            return Err(self.expected("a list"));
        };
        let item = |(i, value)| Self {
            value,
            path: format!("{}[{i}]", self.path),
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn text(&self) -> Result<String, BootstrapError> {
        match self.value {
            Value::String(text) => Ok(text.clone()),
            _ => Err(self.expected("a string")),
        }
    }

    /// A text that is not empty.
    pub(super) fn filled_text(&self) -> Result<String, BootstrapError> {
        let text = self.text()?;
        match text.is_empty() {
            true => Err(self.invalid("must not be empty")),
            false => Ok(text),
        }
    }

    /// protobuf's JSON spelling of a duration: `"600s"`, `"0.5s"`; not negative.
    pub(super) fn duration(&self) -> Result<Duration, BootstrapError> {
        let text = self.text()?;
        // The parser of numbers knows exponents and infinities, protobuf does not.
        let plain = |n: &&str| n.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let seconds = text.strip_suffix('s').filter(plain);
        let seconds = seconds.and_then(|n| n.parse::<f64>().ok());
        let duration = seconds.and_then(|n| Duration::try_from_secs_f64(n).ok());
        duration
            .ok_or_else(|| self.invalid(format!("{text:?} is not a duration, such as \"600s\"")))
    }

    pub(super) fn protobuf_struct(&self) -> Result<Struct, BootstrapError> {
        match self.value {
            Value::Object(members) => Ok(to_struct(members)),
            _ => Err(self.expected("an object")),
        }
    }
}

impl<'a> Object<'a> {
    /// The value of a key; `null` counts as absent.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Json<'a>> {
        self.read.push(key);
        let value = self.members.get(key).filter(|v| !v.is_null())?;
        Some(Json {
            value,
            path: self.child(key),
        })
    }

    pub(super) fn required(&mut self, key: &'static str) -> Result<Json<'a>, BootstrapError> {
        self.optional(key).ok_or_else(|| BootstrapError::Missing {
            path: self.child(key),
        })
    }

    pub(super) fn text_or_empty(&mut self, key: &'static str) -> Result<String, BootstrapError> {
        let text = self.optional(key).map(|json| json.text()).transpose()?;
        Ok(text.unwrap_or_default())
    }

    /// The text of a key and its place; the empty text counts as absent.
    pub(super) fn filled_or_none(
        &mut self,
        key: &'static str,
    ) -> Result<Option<(Json<'a>, String)>, BootstrapError> {
        let Some(json) = self.optional(key) else {
            return Ok(None);
        };
        let text = json.text()?;
        Ok((!text.is_empty()).then_some((json, text)))
    }

    /// The entries of the object at `key`, which is a map; none if it is absent.
    pub(super) fn entries(
        &mut self,
        key: &'static str,
    ) -> Result<BTreeMap<String, Json<'a>>, BootstrapError> {
        let Some(json) = self.optional(key) else {
            return Ok(BTreeMap::new());
        };
        let Value::Object(members) = json.value else {
            return Err(json.expected("an object"));
        };
        let entry = |(name, value)| {
            let path = format!("{}[{name:?}]", json.path);
            (String::clone(name), Json { value, path })
        };
        Ok(members.iter().map(entry).collect())
    }

    /// Adds the paths of the keys that nobody asked for. One that is `null` says nothing: Istio's
    /// agent writes such.
    pub(super) fn unread(self, ignored: &mut Vec<String>) {
        let unread = self
            .members
            .iter()
            .filter(|(key, value)| !value.is_null() && !self.read.contains(&key.as_str()));
        ignored.extend(unread.map(|(key, _)| self.child(key)));
    }

    fn child(&self, key: &str) -> String {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push('.');
        }
        // Writing to a string cannot fail.
        let _ = write!(path, "{key}");
        path
    }
}

fn to_struct(members: &Map<String, Value>) -> Struct {
    let fields = members.iter().map(|(k, v)| (k.clone(), to_value(v)));
    Struct {
        fields: fields.collect(),
    }
}

fn to_value(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        // JSON numbers that are no f64 do not parse.
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(to_value).collect(),
        }),
        Value::Object(members) => Kind::StructValue(to_struct(members)),
    };
    prost_types::Value { kind: Some(kind) }
}
