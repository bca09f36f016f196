//! YAML text to a tree in which every node knows its line, column and path.
//!
//! Only the plain part of YAML that a mesh file needs: one document, no anchors, aliases, merge
//! keys or tags. Scalars keep their kind, so that `1` is never taken for `"1"`.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value as Json;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span};

use sidestep_proto::code;

use super::diagnostic::{Place, Report};

/// Deeper files are refused, so that no file can exhaust the stack.
const MAX_DEPTH: usize = 100;

/// A node and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Scalar { kind: Kind, text: String },
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// What a scalar is by YAML's core schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Number,
    Text,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) text: String,
    pub(crate) place: Place,
}

impl Node {
    /// What the node is, in words for an error.
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Scalar { kind, text } => match kind {
                Kind::Null => "nothing".to_owned(),
                Kind::Bool => format!("the truth value {text}"),
                Kind::Number => format!("the number {text}"),
                Kind::Text => format!("the text {text:?}"),
            },
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// Reads one file. `None` if it is empty or not readable as YAML; the report says so.
pub(crate) fn parse(file: &Arc<str>, text: &str, report: &mut Report) -> Option<Node> {
    let mut builder = Builder {
        file,
        events: Parser::new_from_str(text),
        report,
        failed: false,
    };
    let root = builder.document();
    if builder.failed {
        return None;
    }
    if root.is_none() {
        report
            .error(code::NO_MESH_FILE, &start_of(file), "", "the file is empty")
            .help("a mesh file begins with `mesh: v1`");
    }
    root
}

/// The same tree of a text that is JSON. Its nodes know their paths, but only the file for a place.
pub(crate) fn of_json(file: &Arc<str>, json: &Json) -> Node {
    json_node(file, json, String::new())
}

fn json_node(file: &Arc<str>, json: &Json, path: String) -> Node {
    let scalar = |kind, text| Value::Scalar { kind, text };
    let value = match json {
        Json::Null => scalar(Kind::Null, "null".to_owned()),
        Json::Bool(truth) => scalar(Kind::Bool, truth.to_string()),
        Json::Number(number) => scalar(Kind::Number, number.to_string()),
        Json::String(text) => scalar(Kind::Text, text.clone()),
        Json::Array(items) => {
            let items = items.iter().enumerate();
            let item = |(i, item)| json_node(file, item, format!("{path}[{i}]"));
            Value::List(items.map(item).collect())
        }
        Json::Object(fields) => {
            let field = |(name, inner): (&String, &Json)| {
                let key = Key {
                    text: name.clone(),
                    place: start_of(file),
                };
                (key, json_node(file, inner, join(&path, name)))
            };
            Value::Map(fields.iter().map(field).collect())
        }
    };
    Node {
        place: start_of(file),
        path,
        value,
    }
}

fn start_of(file: &Arc<str>) -> Place {
    Place {
        file: Arc::clone(file),
        line: 1,
        column: 1,
    }
}

struct Builder<'a, I> {
    file: &'a Arc<str>,
    events: I,
    report: &'a mut Report,
    /// The text is not YAML, or uses what we refuse in a way that leaves no tree.
    failed: bool,
}

impl<'t, I> Builder<'_, I>
where
    I: Iterator<Item = Result<(Event<'t>, Span), serde_saphyr::granit_parser::ScanError>>,
{
    fn place(&self, span: Span) -> Place {
        Place {
            file: Arc::clone(self.file),
            line: u32::try_from(span.start.line()).unwrap_or(u32::MAX),
            column: u32::try_from(span.start.col() + 1).unwrap_or(u32::MAX),
        }
    }

    fn fail(&mut self, place: &Place, path: &str, message: impl Into<String>) {
        if !self.failed {
            self.report.error(code::NOT_YAML, place, path, message);
        }
        self.failed = true;
    }

    /// The next event that carries data.
    fn next(&mut self) -> Option<(Event<'t>, Place)> {
        loop {
            match self.events.next()? {
                Ok((Event::Comment(..), _)) => {}
                Ok((event, span)) => {
                    let place = self.place(span);
                    return Some((event, place));
                }
                Err(error) => {
                    let place = self.place(Span::empty(*error.marker()));
                    self.fail(&place, "", format!("not valid YAML: {}", error.info()));
                    return None;
                }
            }
        }
    }

    fn document(&mut self) -> Option<Node> {
        let mut root = None;
        while let Some((event, place)) = self.next() {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => break,
                _ if root.is_some() => {
                    self.fail(&place, "", "a second YAML document in one file");
                    return None;
                }
                event => root = Some(self.node(event, place, String::new(), 0)?),
            }
        }
        // An explicitly empty document reads as null.
        root.filter(|node| {
            !matches!(
                node.value,
                Value::Scalar {
                    kind: Kind::Null,
                    ..
                }
            )
        })
    }

    fn node(&mut self, event: Event<'t>, place: Place, path: String, depth: usize) -> Option<Node> {
        if depth > MAX_DEPTH {
            self.fail(&place, &path, "nested too deeply");
            return None;
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), &place, &path);
                let kind = match style {
                    ScalarStyle::Plain => kind(&text),
                    _ => Kind::Text,
                };
                let text = text.into_owned();
                Value::Scalar { kind, text }
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), &place, &path);
                Value::List(self.list(&path, depth)?)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), &place, &path);
                Value::Map(self.map(&path, depth)?)
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.fail(&place, &path, "aliases (`*name`) are not allowed here");
                return None;
            }
            _ => {
                self.fail(&place, &path, "a value is expected here");
                return None;
            }
        };
        Some(Node { place, path, value })
    }

    /// Anchors and tags do no harm to the tree, so reading goes on.
    fn refuse(&mut self, anchor: usize, tag: bool, place: &Place, path: &str) {
        if anchor != 0 {
            self.report.error(
                code::NOT_YAML,
                place,
                path,
                "anchors (`&name`) are not allowed here",
            );
        }
        if tag {
            self.report.error(
                code::NOT_YAML,
                place,
                path,
                "tags (`!name`) are not allowed here",
            );
        }
    }

    fn list(&mut self, path: &str, depth: usize) -> Option<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            let (event, place) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Some(items);
            }
            let path = format!("{path}[{}]", items.len());
            items.push(self.node(event, place, path, depth + 1)?);
        }
    }

    fn map(&mut self, path: &str, depth: usize) -> Option<Vec<(Key, Node)>> {
        let mut entries = Vec::new();
        let mut seen: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, place) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Some(entries);
            }
            let text = self.key(event, &place, path)?;
            let inner = join(path, &text);
            let (event, at) = self.next()?;
            let node = self.node(event, at, inner, depth + 1)?;
            if let Some(first) = seen.get(&text) {
                let message = format!("the key {text:?} is already at {first}");
                self.report
                    .error(code::DEFINED_TWICE, &place, path, message);
            } else {
                seen.insert(text.clone(), place.clone());
                entries.push((Key { text, place }, node));
            }
        }
    }

    fn key(&mut self, event: Event<'t>, place: &Place, path: &str) -> Option<String> {
        match event {
            Event::Scalar(text, _, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), place, path);
                Some(text.into_owned())
            }
            _ => {
                self.fail(place, path, "a key must be a plain text");
                None
            }
        }
    }
}

/// `a.b`, with quotes round a key that would not read well in a path.
pub(crate) fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '@');
    let quoted = if !key.is_empty() && key.chars().all(plain) {
        key.to_owned()
    } else {
        format!("{key:?}")
    };
    if path.is_empty() {
        quoted
    } else {
        format!("{path}.{quoted}")
    }
}

/// The kind of an unquoted scalar by the core schema of YAML 1.2: `off` and `yes` are texts.
fn kind(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Kind::Bool,
        _ if is_number(text) => Kind::Number,
        _ => Kind::Text,
    }
}

fn is_number(text: &str) -> bool {
    let all =
        |digits: &str, valid: fn(char) -> bool| !digits.is_empty() && digits.chars().all(valid);
    if let Some(hex) = text.strip_prefix("0x") {
        return all(hex, |c| c.is_ascii_hexdigit());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return all(octal, |c| c.is_digit(8));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) || (unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && unsigned.contains(|c: char| c.is_ascii_digit())
        && unsigned.parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut report = Report::default();
        let node = parse(&Arc::from("m.yaml"), text, &mut report);
        let lines = report
            .diagnostics
            .iter()
            .map(crate::model::Diagnostic::uncoded);
        (node, lines.collect())
    }

    #[test]
    fn every_node_knows_its_place_and_path() {
        let (node, errors) = read("a:\n  - b: [1, two]\n    \"x.y\": {}\n");
        assert_eq!(errors, [""; 0]);
        let mut seen = Vec::new();
        walk(&node.expect("parses"), &mut seen);
        let expected = [
            "m.yaml:1:1 ",
            "m.yaml:2:3 a",
            "m.yaml:2:5 a[0]",
            "m.yaml:2:8 a[0].b",
            "m.yaml:2:9 a[0].b[0]",
            "m.yaml:2:12 a[0].b[1]",
            "m.yaml:3:12 a[0].\"x.y\"",
        ];
        assert_eq!(seen, expected);
    }

    fn walk(node: &Node, seen: &mut Vec<String>) {
        seen.push(format!("{} {}", node.place, node.path));
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| walk(item, seen)),
            Value::Map(entries) => entries.iter().for_each(|(_, node)| walk(node, seen)),
            Value::Scalar { .. } => {}
        }
    }

    #[test]
    fn scalars_keep_their_kind() {
        let cases = [
            ("off", Kind::Text),
            ("yes", Kind::Text),
            ("800ms", Kind::Text),
            ("10.0.0.1", Kind::Text),
            ("1e", Kind::Text),
            ("inf", Kind::Text),
            ("1", Kind::Number),
            ("-1.5", Kind::Number),
            ("0x1F", Kind::Number),
            (".inf", Kind::Number),
            ("true", Kind::Bool),
            ("~", Kind::Null),
        ];
        for (text, expected) in cases {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_refused() {
        let cases = [
            (
                "",
                "m.yaml:1:1: the file is empty; a mesh file begins with `mesh: v1`",
            ),
            (
                "# only a comment\n",
                "m.yaml:1:1: the file is empty; a mesh file begins with `mesh: v1`",
            ),
            (
                "a: 1\nb: 2\na: 3\n",
                "m.yaml:3:1: the key \"a\" is already at m.yaml:1:1",
            ),
            (
                "a: &x 1\n",
                "m.yaml:1:7: a: anchors (`&name`) are not allowed here",
            ),
            (
                "a: !!str 1\n",
                "m.yaml:1:10: a: tags (`!name`) are not allowed here",
            ),
            (
                "a: 1\n---\nb: 2\n",
                "m.yaml:3:1: a second YAML document in one file",
            ),
            ("[a]: 1\n", "m.yaml:1:1: a key must be a plain text"),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text).1, [expected], "{text:?}");
        }
        let (node, errors) = read("a: &x 1\nb: *x\n");
        assert!(node.is_none());
        assert_eq!(
            errors[1],
            "m.yaml:2:4: b: aliases (`*name`) are not allowed here"
        );
        let (node, errors) = read("a: [1\nb: 2\n");
        assert!(node.is_none());
        assert!(errors[0].contains("not valid YAML"), "{errors:?}");
        let (node, errors) = read(&"[".repeat(5000));
        assert!(node.is_none());
        assert_eq!(errors.len(), 1);
    }
}
