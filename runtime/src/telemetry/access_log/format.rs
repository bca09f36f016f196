//! From a format's text to what is written of each call. Pure.

use std::borrow::Cow;
use std::fmt;

use http::header::HeaderName;
use sidestep_proto::nearest;

use super::clock::TimeFormat;
use super::operator::{NOT_HERE, PLAIN, Read, StatusStyle, Value};
use super::record::{Captured, Record};

/// Envoy's default line.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \
    \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Text with operators in it.
#[derive(Debug, Clone)]
pub(super) struct Template(Vec<Piece>);

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Field {
        field: Field,
        /// Most characters of the value.
        most: Option<usize>,
    },
}

#[derive(Debug, Clone)]
enum Field {
    Plain(Read),
    StartTime(TimeFormat),
    Request(Header),
    Response(Header),
    Trailer(Header),
    Status(StatusStyle),
    /// Known at load: of the environment, or the host's name.
    Constant(Option<String>),
}

/// A header, and the one that stands in for it.
#[derive(Debug, Clone)]
struct Header {
    main: Source,
    other: Option<Source>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Method,
    Path,
    Authority,
    Scheme,
    /// An index of [`Headers`].
    Captured(usize),
}

/// The headers that a format names: what has to be kept of each call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    pub(crate) request: Vec<HeaderName>,
    pub(crate) response: Vec<HeaderName>,
    pub(crate) trailers: Vec<HeaderName>,
}

/// Something that is asked for while a format is read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fact<'a> {
    /// An environment variable.
    Variable(&'a str),
    HostName,
}

/// Answers for a [`Fact`].
pub(super) type Facts<'a> = &'a dyn Fn(Fact<'_>) -> Option<String>;

/// What is wrong with a format, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("access log format, {place}: {fault}")]
pub struct FormatError {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: FormatFault,
}

/// A place in a format.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The key of a JSON format, its parents before it with dots; empty for text.
    pub key: String,
    /// Which character, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "key {:?}, ", self.key)?;
        }
        write!(f, "column {}", self.column)
    }
}

/// What can be wrong with a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatFault {
    /// There is no such operator.
    #[error("no operator %{name}%{}", did_you_mean(*.nearest))]
    UnknownOperator {
        /// As written.
        name: String,
        /// The one that it may have been meant to be.
        nearest: Option<&'static str>,
    },
    /// Envoy has it; nothing in a process without a sidecar fills it.
    #[error("operator %{name}% of Envoy has no meaning here; leave it out or write a fixed text")]
    UnsupportedOperator {
        /// As written.
        name: String,
    },
    /// A `%` that no other one closes.
    #[error("no % closes the operator; a percent sign itself is written %%")]
    Unclosed,
    /// A `(` that no `)` closes.
    #[error("no ) closes the argument of %{operator}%")]
    UnclosedArgument {
        /// Of which operator.
        operator: String,
    },
    /// Something that is no operator between two percent signs.
    #[error(
        "expected an operator's name, an argument in (), a length after :, then %, found {found:?}"
    )]
    Malformed {
        /// What stands there.
        found: String,
    },
    /// The operator needs an argument.
    #[error("%{operator}% needs an argument: {example}")]
    NoArgument {
        /// Which.
        operator: String,
        /// How it is used.
        example: &'static str,
    },
    /// The operator takes no argument.
    #[error("%{operator}% takes no argument, found ({argument})")]
    Argument {
        /// Which.
        operator: String,
        /// What stands there.
        argument: String,
    },
    /// No name of a header.
    #[error("{name:?} is no header's name")]
    HeaderName {
        /// As written.
        name: String,
    },
    /// A pseudo header that there is not.
    #[error(
        "no pseudo header {name:?} here; there are :METHOD, :PATH, :AUTHORITY and :SCHEME of requests"
    )]
    PseudoHeader {
        /// As written.
        name: String,
    },
    /// An unknown specifier in the format of a time.
    #[error("no time specifier {specifier:?}")]
    TimeSpecifier {
        /// As written.
        specifier: String,
    },
    /// An unknown style of `GRPC_STATUS`.
    #[error("no style {style:?} of a gRPC status; there are CAMEL_STRING, SNAKE_STRING and NUMBER")]
    StatusStyle {
        /// As written.
        style: String,
    },
    /// A JSON format that is no JSON object.
    #[error("the JSON format is no JSON object: {reason}")]
    Json {
        /// Why.
        reason: String,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    match nearest {
        None => "; docs/access-log.md lists all".to_owned(),
        Some(name) => format!("; did you mean %{name}%?"),
    }
}

/// Reads templates, and gathers the headers that they name.
pub(super) struct Reader<'a> {
    pub(super) facts: Facts<'a>,
    pub(super) headers: Headers,
}

/// A fault and the byte at which it is.
type Located = (usize, FormatFault);

impl<'a> Reader<'a> {
    pub(super) fn new(facts: Facts<'a>) -> Self {
        Self {
            facts,
            headers: Headers::default(),
        }
    }

    /// Reads a text; `key` is where it stands in a JSON format.
    pub(super) fn template(&mut self, text: &str, key: &str) -> Result<Template, FormatError> {
        self.pieces(text).map_err(|(byte, fault)| FormatError {
            place: Place {
                key: key.to_owned(),
                column: text[..byte].chars().count() + 1,
            },
            fault,
        })
    }

    fn pieces(&mut self, text: &str) -> Result<Template, Located> {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text[at..].find('%') {
            literal.push_str(&text[at..at + found]);
            at += found;
            if text[at + 1..].starts_with('%') {
                literal.push('%');
                at += 2;
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut literal)));
            }
            let (piece, end) = self.operator(text, at)?;
            pieces.push(piece);
            at = end;
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal));
        }
        Ok(Template(pieces))
    }

    /// Reads the operator whose `%` is at `start`; answers with the byte after its end.
    fn operator(&mut self, text: &str, start: usize) -> Result<(Piece, usize), Located> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name_at = start + 1;
        let rest = &text[name_at..];
        let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
        let mut at = name_at + name.len();
        let mut argument = None;
        if text[at..].starts_with('(') {
            let unclosed = || FormatFault::UnclosedArgument {
                operator: name.to_owned(),
            };
            let end = text[at..].find(')').ok_or_else(|| (at, unclosed()))?;
            argument = Some((at + 1, &text[at + 1..at + end]));
            at += end + 1;
        }
        let mut most = None;
        if text[at..].starts_with(':') {
            let digits: String = text[at + 1..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            most = digits.parse().ok();
            if most.is_some() {
                at += 1 + digits.len();
            }
        }
        let Some(next) = text[at..].chars().next() else {
            return Err((start, FormatFault::Unclosed));
        };
        if next != '%' || name.is_empty() {
            let found = text[at..].chars().take(10).collect();
            return Err((at, FormatFault::Malformed { found }));
        }
        let field = self.field(name, name_at, argument)?;
        Ok((Piece::Field { field, most }, at + 1))
    }

    fn field(
        &mut self,
        name: &str,
        at: usize,
        argument: Option<(usize, &str)>,
    ) -> Result<Field, Located> {
        let needs = |example| {
            let operator = name.to_owned();
            argument.ok_or((at, FormatFault::NoArgument { operator, example }))
        };
        match name {
            "REQ" => {
                let pseudo = Some(pseudo_header as fn(&str) -> Option<Source>);
                header(needs("%REQ(:PATH)%")?, &mut self.headers.request, pseudo)
                    .map(Field::Request)
            }
            "RESP" => header(needs("%RESP(SERVER)%")?, &mut self.headers.response, None)
                .map(Field::Response),
            "TRAILER" => {
                let argument = needs("%TRAILER(GRPC-MESSAGE)%")?;
                header(argument, &mut self.headers.trailers, None).map(Field::Trailer)
            }
            "START_TIME" => start_time(argument).map(Field::StartTime),
            "GRPC_STATUS" => status_style(argument).map(Field::Status),
            "ENVIRONMENT" => {
                let (_, variable) = needs("%ENVIRONMENT(POD_NAME)%")?;
                Ok(Field::Constant((self.facts)(Fact::Variable(variable))))
            }
            _ => self.plain(name, at, argument),
        }
    }

    fn plain(
        &self,
        name: &str,
        at: usize,
        argument: Option<(usize, &str)>,
    ) -> Result<Field, Located> {
        if NOT_HERE.contains(&name) {
            let name = name.to_owned();
            return Err((at, FormatFault::UnsupportedOperator { name }));
        }
        let read = PLAIN.iter().find(|(known, _)| *known == name);
        let field = match (name, read) {
            ("HOSTNAME", _) => Field::Constant((self.facts)(Fact::HostName)),
            (_, Some((_, read))) => Field::Plain(*read),
            (_, None) => return Err((at, unknown(name))),
        };
        match argument {
            None => Ok(field),
            Some((at, argument)) => Err((
                at,
                FormatFault::Argument {
                    operator: name.to_owned(),
                    argument: argument.to_owned(),
                },
            )),
        }
    }
}

/// Those of [`Reader::field`] and [`Reader::plain`] that are in no list.
const WITH_ARGUMENT: [&str; 7] = [
    "REQ",
    "RESP",
    "TRAILER",
    "START_TIME",
    "GRPC_STATUS",
    "ENVIRONMENT",
    "HOSTNAME",
];

/// Every operator that there is.
pub fn operators() -> impl Iterator<Item = &'static str> {
    let plain = PLAIN.iter().map(|(name, _)| *name);
    plain.chain(WITH_ARGUMENT)
}

fn unknown(name: &str) -> FormatFault {
    FormatFault::UnknownOperator {
        name: name.to_owned(),
        nearest: nearest::nearest(&name.to_ascii_uppercase(), operators())
            .first()
            .copied(),
    }
}

fn start_time(argument: Option<(usize, &str)>) -> Result<TimeFormat, Located> {
    let Some((at, format)) = argument.filter(|(_, format)| !format.is_empty()) else {
        return Ok(TimeFormat::default());
    };
    TimeFormat::parse(format).map_err(|unknown| {
        let specifier = unknown.specifier;
        (at + unknown.at, FormatFault::TimeSpecifier { specifier })
    })
}

fn status_style(argument: Option<(usize, &str)>) -> Result<StatusStyle, Located> {
    let Some((at, style)) = argument.filter(|(_, style)| !style.is_empty()) else {
        return Ok(StatusStyle::Camel);
    };
    let known = StatusStyle::NAMES.iter().find(|(name, _)| *name == style);
    let style = style.to_owned();
    known
        .map(|(_, style)| *style)
        .ok_or((at, FormatFault::StatusStyle { style }))
}

fn pseudo_header(name: &str) -> Option<Source> {
    Some(match name {
        ":method" => Source::Method,
        ":path" => Source::Path,
        ":authority" => Source::Authority,
        ":scheme" => Source::Scheme,
        _ => return None,
    })
}

/// Reads `X` or `X?Y`.
fn header(
    (at, argument): (usize, &str),
    names: &mut Vec<HeaderName>,
    pseudo: Option<fn(&str) -> Option<Source>>,
) -> Result<Header, Located> {
    let mut source = |at, name: &str| -> Result<Source, Located> {
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(':') {
            let name = name.to_owned();
            let found = pseudo.and_then(|find| find(&lower));
            return found.ok_or((at, FormatFault::PseudoHeader { name }));
        }
        let Ok(header) = HeaderName::from_bytes(lower.as_bytes()) else {
            let name = name.to_owned();
            return Err((at, FormatFault::HeaderName { name }));
        };
        let index = names.iter().position(|known| *known == header);
        Ok(Source::Captured(index.unwrap_or_else(|| {
            names.push(header);
            names.len() - 1
        })))
    };
    let (main, other) = match argument.split_once('?') {
        Some((main, other)) => (main, Some(other)),
        None => (argument, None),
    };
    Ok(Header {
        main: source(at, main)?,
        other: other
            .map(|other| source(at + main.len() + 1, other))
            .transpose()?,
    })
}

impl Template {
    /// Appends the text for a call; what is not set is `-`.
    pub(super) fn write(&self, record: &Record, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Field { field, most } => match cut(field.value(record), *most) {
                    Value::Missing => out.push('-'),
                    Value::Text(text) => out.push_str(&text),
                    Value::Number(number) => out.push_str(&number.to_string()),
                },
            }
        }
    }

    /// The one operator's value if the text is nothing else, for typed JSON.
    pub(super) fn single<'a>(&'a self, record: &'a Record) -> Option<Value<'a>> {
        match self.0.as_slice() {
            [Piece::Field { field, most }] => Some(cut(field.value(record), *most)),
            _ => None,
        }
    }

    /// Appends a newline if the text does not end with one.
    pub(super) fn end_line(&mut self) {
        match self.0.last_mut() {
            Some(Piece::Text(text)) if text.ends_with('\n') => {}
            Some(Piece::Text(text)) => text.push('\n'),
            _ => self.0.push(Piece::Text("\n".to_owned())),
        }
    }
}

fn cut(value: Value<'_>, most: Option<usize>) -> Value<'_> {
    match (value, most) {
        (Value::Text(text), Some(most)) => {
            Value::Text(Cow::Owned(text.chars().take(most).collect()))
        }
        (value, _) => value,
    }
}

impl Field {
    fn value<'a>(&'a self, record: &'a Record) -> Value<'a> {
        match self {
            Self::Plain(read) => read(record),
            Self::StartTime(format) => {
                let mut out = String::new();
                format.write(record.start, &mut out);
                out.into()
            }
            Self::Request(header) => header.value(record, &record.request),
            Self::Response(header) => header.value(record, &record.response),
            Self::Trailer(header) => header.value(record, &record.trailers),
            Self::Status(style) => record
                .grpc_status
                .map_or(Value::Missing, |c| style.write(c)),
            Self::Constant(value) => value.as_deref().into(),
        }
    }
}

impl Header {
    fn value<'a>(&self, record: &'a Record, captured: &'a Captured) -> Value<'a> {
        match (self.main.value(record, captured), self.other) {
            (Value::Missing, Some(other)) => other.value(record, captured),
            (value, _) => value,
        }
    }
}

impl Source {
    fn value<'a>(self, record: &'a Record, captured: &'a Captured) -> Value<'a> {
        match self {
            Self::Method => record.method.as_str().into(),
            Self::Path => record.uri.path_and_query().map(|path| path.as_str()).into(),
            Self::Authority => record.authority.as_deref().into(),
            Self::Scheme => record.scheme.map(|scheme| scheme.name()).into(),
            Self::Captured(index) => match captured.value(index) {
                None => Value::Missing,
                Some(value) => match String::from_utf8_lossy(value.as_bytes()) {
                    text if text.is_empty() => Value::Missing,
                    text => Value::Text(text),
                },
            },
        }
    }
}
