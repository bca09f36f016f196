//! What a kind of client makes of a mesh file: gRPC ignores what it does not know without a word, so
//! somebody else has to say it.
//!
//! One table, `data/profiles.json`, says for each thing that a file can say since which version each
//! kind of client has it, or what happens in its place. The interop suite's matrix takes its reasons
//! from the same file.
//!
//! A thing is found by a selector. `services.*.timeout` is a path in the mesh file, where `*` stands
//! for any key and `[]` for any item; `Cluster/health_checks` is a field anywhere in a native
//! resource, within a message or resource of that name (`*`: wherever); `=value` demands a value.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;

use crate::model::yaml::{self, Node, Value};
use crate::model::{Place, Report};
use crate::source::{FileSource, SourceError};

static TABLE: &str = include_str!("../data/profiles.json");

/// A kind of client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Profile {
    /// grpc-go.
    GrpcGo,
    /// grpc-java.
    GrpcJava,
    /// grpc-node.
    GrpcNode,
    /// gRPC C-core by Python; the same holds for C++.
    GrpcPython,
    /// An Envoy proxy.
    Envoy,
}

impl Profile {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::GrpcGo,
        Self::GrpcJava,
        Self::GrpcNode,
        Self::GrpcPython,
        Self::Envoy,
    ];

    /// `grpc-go` and its like.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::GrpcGo => "grpc-go",
            Self::GrpcJava => "grpc-java",
            Self::GrpcNode => "grpc-node",
            Self::GrpcPython => "grpc-python",
            Self::Envoy => "envoy",
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|each| each.name() == name)
    }

    /// The version whose behaviour the table describes.
    #[must_use]
    pub fn described_version(self) -> &'static str {
        let version = table()["read_from"][self.name()].as_str();
        version.unwrap_or_default()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How far a kind of client has something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Support {
    /// Since this version; `any`: always.
    Since(String),
    /// Since this version, and off until an environment variable is set to `true`.
    Switch {
        /// The environment variable.
        flag: String,
        /// The first version that reads it.
        since: String,
        /// What happens while it is off.
        instead: String,
    },
    /// Not at all.
    Instead(String),
}

/// Something that the file says and this kind of client does not do by itself, or only since a
/// version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where the file says it.
    pub place: Place,
    /// The same as a path: `services.greeter.balance.policy`.
    pub path: String,
    /// The row of the table: `least-request`.
    pub id: &'static str,
    /// What it is.
    pub about: &'static str,
    /// How far this kind of client has it.
    pub support: Support,
}

impl Finding {
    /// Whether the newest release does not do it by itself.
    #[must_use]
    pub fn is_ignored(&self) -> bool {
        !matches!(self.support, Support::Since(_))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place, path, about, ..
        } = self;
        write!(f, "{place}: {path}: {about}: ")?;
        match &self.support {
            Support::Since(version) => write!(f, "since {version}"),
            Support::Switch {
                flag,
                since,
                instead,
            } => write!(f, "since {since} with {flag}=true; without it, {instead}"),
            Support::Instead(instead) => write!(f, "not there: {instead}"),
        }
    }
}

/// What a mesh file says that this kind of client ignores, refuses or has only since a version, in
/// the order in which it is written.
///
/// # Errors
/// A file cannot be read or is not YAML.
pub fn findings(paths: &[PathBuf], profile: Profile) -> Result<Vec<Finding>, SourceError> {
    let mut report = Report::default();
    let mut found = Vec::new();
    for text in FileSource::read(paths)? {
        let name = Arc::from(text.path.as_str());
        if let Some(root) = yaml::parse(&name, &text.text, &mut report) {
            walk(
                &root,
                &mut Vec::new(),
                &mut Vec::new(),
                &mut |node, path, types| {
                    found.extend(at(node, path, types, profile));
                },
            );
        }
    }
    report.finish().map_err(SourceError::Invalid)?;
    Ok(found)
}

fn table() -> &'static Json {
    static PARSED: OnceLock<Json> = OnceLock::new();
    // It is part of the program and tested.
    PARSED.get_or_init(|| serde_json::from_str(TABLE).unwrap_or_default())
}

fn rows() -> &'static [Json] {
    table()["rows"].as_array().map_or(&[], Vec::as_slice)
}

type Visit<'v> = dyn FnMut(&Node, &[String], &[String]) + 'v;

/// Visits every node that has a key, with its keys and the names of the messages around it.
fn walk(node: &Node, path: &mut Vec<String>, types: &mut Vec<String>, visit: &mut Visit<'_>) {
    match &node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => {
            for item in items {
                path.push("[]".to_owned());
                walk(item, path, types, visit);
                path.pop();
            }
        }
        Value::Map(entries) => {
            let named = entries.iter().find(|(key, _)| key.text == "@type");
            let own = named.and_then(|(_, node)| scalar(node));
            let own = own
                .and_then(|url| url.rsplit(['/', '.']).next())
                .map(str::to_owned);
            let depth = types.len();
            types.extend(own);
            for (key, value) in entries {
                path.push(key.text.clone());
                visit(value, path, types);
                // What fields of messages hold is told by the field's name where that is the same.
                let inner = types.len();
                if key.text == "route" {
                    types.push("RouteAction".to_owned());
                }
                walk(value, path, types, visit);
                types.truncate(inner);
                path.pop();
            }
            types.truncate(depth);
        }
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// What the table says of a node.
fn at(node: &Node, path: &[String], types: &[String], profile: Profile) -> Option<Finding> {
    let is_it = |row: &&Json| {
        let selectors = row["select"].as_array().into_iter().flatten();
        let mut selectors = selectors.filter_map(Json::as_str);
        selectors.any(|selector| selects(selector, node, path, types))
    };
    let row = rows().iter().find(is_it)?;
    let support = support(&row["clients"][profile.name()]);
    if support == Support::Since("any".to_owned()) {
        return None;
    }
    Some(Finding {
        place: node.place.clone(),
        path: node.path.clone(),
        id: row["id"].as_str().unwrap_or_default(),
        about: row["about"].as_str().unwrap_or_default(),
        support,
    })
}

fn support(cell: &Json) -> Support {
    let text = |key: &str| cell[key].as_str().map(str::to_owned);
    match (text("flag"), text("since"), text("instead")) {
        (Some(flag), Some(since), Some(instead)) => Support::Switch {
            flag,
            since,
            instead,
        },
        (_, Some(since), _) => Support::Since(since),
        (_, _, instead) => Support::Instead(instead.unwrap_or_default()),
    }
}

fn selects(selector: &str, node: &Node, path: &[String], types: &[String]) -> bool {
    let (what, value) = match selector.split_once('=') {
        Some((what, value)) => (what, Some(value)),
        None => (selector, None),
    };
    // A type is named with or without what stands before the last slash.
    let same =
        |found: &str, wanted: &str| found == wanted || found.rsplit('/').next() == Some(wanted);
    if value.is_some_and(|wanted| !scalar(node).is_some_and(|found| same(found, wanted))) {
        return false;
    }
    match what.split_once('/') {
        Some((message, field)) => {
            let key = path.last().map(|key| snake(key)).unwrap_or_default();
            let within = message == "*" || types.iter().any(|found| found == message);
            !types.is_empty() && within && key == field
        }
        None => {
            let wanted: Vec<&str> = what.split('.').collect();
            let fits =
                |(wanted, found): (&&str, &String)| *wanted == "*" || *wanted == found.as_str();
            types.is_empty() && wanted.len() == path.len() && wanted.iter().zip(path).all(fits)
        }
    }
}

/// Fields may be written in lowerCamelCase.
fn snake(key: &str) -> String {
    let mut out = String::with_capacity(key.len() + 4);
    for c in key.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests;
