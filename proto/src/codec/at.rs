//! Where decoding stands in a resource.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::Duration;

use prost::Name;

use super::{Context, Ignored, Reason};
use crate::wire::{Any, UnpackError, core};

/// A broken rule and its place. Becomes an [`InvalidResource`](super::InvalidResource) once the
/// resource is known.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) path: String,
    pub(super) reason: Reason,
}

/// What decoders return.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// A place in a resource, with what decoding needs everywhere. Places form a chain on the stack;
/// a path is only spelled out when there is something to report.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    parent: Option<&'a Self>,
    segment: Segment<'a>,
    pub(super) context: &'a Context,
    ledger: &'a RefCell<Vec<Ignored>>,
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Root,
    Field(&'static str),
    Item(&'static str, usize),
    Entry(&'static str, &'a str),
}

impl<'a> At<'a> {
    /// The resource itself.
    pub(super) fn root(context: &'a Context, ledger: &'a RefCell<Vec<Ignored>>) -> Self {
        Self {
            parent: None,
            segment: Segment::Root,
            context,
            ledger,
        }
    }

    /// A field of this message.
    pub(super) fn field<'b>(&'b self, name: &'static str) -> At<'b> {
        self.child(Segment::Field(name))
    }

    /// An item of a repeated field of this message.
    pub(super) fn item<'b>(&'b self, name: &'static str, index: usize) -> At<'b> {
        self.child(Segment::Item(name, index))
    }

    /// An entry of a map of this message.
    pub(super) fn entry<'b>(&'b self, name: &'static str, key: &'b str) -> At<'b> {
        self.child(Segment::Entry(name, key))
    }

    fn child<'b>(&'b self, segment: Segment<'b>) -> At<'b> {
        At {
            parent: Some(self),
            segment,
            context: self.context,
            ledger: self.ledger,
        }
    }

    /// Refuses what is here.
    pub(super) fn fault(&self, reason: Reason) -> Fault {
        Fault {
            path: self.path(),
            reason,
        }
    }

    /// Refuses what is here, for a rule in words.
    pub(super) fn rule(&self, text: impl Into<String>) -> Fault {
        self.fault(Reason::Rule(text.into()))
    }

    /// Refuses what is here because Sidestep does not have it.
    pub(super) fn unsupported(&self, what: impl Into<String>) -> Fault {
        self.fault(Reason::Unsupported(what.into()))
    }

    /// The value of a field that must be set.
    pub(super) fn required<T>(&self, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.fault(Reason::Missing))
    }

    /// A text that must not be empty.
    pub(super) fn text(&self, value: String) -> Result<String> {
        if value.is_empty() {
            return Err(self.fault(Reason::Missing));
        }
        Ok(value)
    }

    /// Refuses what is here if it `is_set`: for fields that would restrict or redirect calls and
    /// that nothing enforces.
    pub(super) fn refuse(&self, field: &'static str, is_set: bool) -> Result<()> {
        if is_set {
            let place = self.field(field);
            return Err(place.unsupported(format!("the field {field}")));
        }
        Ok(())
    }

    /// Notes that a field is not honoured, if it `is_set`.
    pub(super) fn ignore(&self, field: &'static str, is_set: bool, note: &'static str) {
        if is_set {
            self.field(field).note(note);
        }
    }

    /// Notes that what is here is not honoured.
    pub(super) fn note(&self, note: &'static str) {
        self.ledger.borrow_mut().push(Ignored {
            path: self.path(),
            note,
        });
    }

    /// A port number.
    pub(super) fn port(&self, value: u32) -> Result<u16> {
        u16::try_from(value).map_err(|_| self.out_of_range(value, "a port up to 65535"))
    }

    /// Refuses the number that is here.
    pub(super) fn out_of_range(&self, value: impl ToString, expected: &'static str) -> Fault {
        self.fault(Reason::OutOfRange {
            value: value.to_string(),
            expected,
        })
    }

    /// A length of time within protobuf's own bounds, not negative.
    pub(super) fn duration(&self, value: prost_types::Duration) -> Result<Duration> {
        const LONGEST: i64 = 315_576_000_000;
        match (value.seconds, u32::try_from(value.nanos)) {
            (0..=LONGEST, Ok(nanos @ 0..=999_999_999)) => {
                Ok(Duration::new(value.seconds.unsigned_abs(), nanos))
            }
            _ => Err(self.out_of_range(
                format!("{}s {}ns", value.seconds, value.nanos),
                "0 to 315576000000s, at most 999999999ns",
            )),
        }
    }

    /// [`duration`](Self::duration) of an optional field of this message.
    pub(super) fn optional_duration(
        &self,
        field: &'static str,
        value: Option<prost_types::Duration>,
    ) -> Result<Option<Duration>> {
        value.map(|v| self.field(field).duration(v)).transpose()
    }

    /// The message that an `Any` must hold.
    pub(super) fn unpack<M: Name + Default>(&self, any: &Any) -> Result<M> {
        any.unpack().map_err(|e| {
            self.fault(match e {
                UnpackError::WrongType { found, .. } => {
                    Reason::Unsupported(format!("{found:?} in place of {}", M::full_name()))
                }
                malformed @ UnpackError::Malformed { .. } => {
                    Reason::Undecodable(malformed.to_string())
                }
            })
        })
    }

    /// Where a further resource is to come from: only the same stream will do (gRFC A27, A47).
    pub(super) fn config_source(&self, source: Option<core::ConfigSource>) -> Result<()> {
        use core::config_source::ConfigSourceSpecifier as From;
        match self.required(source)?.config_source_specifier {
            Some(From::Ads(_) | From::Self_(_)) => Ok(()),
            _ => Err(self.unsupported("a configuration source other than ads and self")),
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        self.write_path(&mut path);
        path
    }

    fn write_path(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_path(out);
        }
        if !out.is_empty() {
            out.push('.');
        }
        // Writing to a string cannot fail.
        let _ = match self.segment {
            Segment::Root => Ok(()),
            Segment::Field(name) => write!(out, "{name}"),
            Segment::Item(name, index) => write!(out, "{name}[{index}]"),
            Segment::Entry(name, key) => write!(out, "{name}[{key:?}]"),
        };
    }
}

/// "This stream", as a configuration source.
pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        resource_api_version: core::ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// A length of time as the wire has it. Beyond protobuf's range it is the longest there is.
pub(super) fn wire_duration(value: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: value.subsec_nanos() as i32,
    }
}
