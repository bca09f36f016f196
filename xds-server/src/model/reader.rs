//! Typed reading of nodes. Each function answers `None` after it has reported what is wrong, so
//! that a caller can go on and find the next fault.

use std::time::Duration;

use super::Timeout;
use super::diagnostic::{Located, Place, Report};
use super::keys::{Object, Status};
use super::yaml::{Key, Kind, Node, Value};
use sidestep_proto::code;

use crate::nearest;

/// The entries of a map whose keys have been checked.
pub(crate) struct Fields<'a> {
    node: &'a Node,
    entries: &'a [(Key, Node)],
}

impl<'a> Fields<'a> {
    /// The value of a key that is written.
    pub(crate) fn find(&self, name: &str) -> Option<&'a Node> {
        let mut entries = self.entries.iter();
        entries.find(|(k, _)| k.text == name).map(|(_, node)| node)
    }

    /// Where the map begins.
    pub(crate) fn place(&self) -> &'a Place {
        &self.node.place
    }

    /// Where the key itself stands, else the map.
    pub(crate) fn key_place(&self, name: &str) -> &'a Place {
        let mut entries = self.entries.iter();
        entries
            .find(|(k, _)| k.text == name)
            .map_or(&self.node.place, |(key, _)| &key.place)
    }
}

/// A map with the keys of `object`: unknown, unenforced and missing ones are reported.
pub(crate) fn fields<'a>(
    node: &'a Node,
    object: &Object,
    report: &mut Report,
) -> Option<Fields<'a>> {
    let entries = map(node, report)?;
    for (key, _) in entries {
        check_key(key, node, object, report);
    }
    for rule in object.keys {
        let written = entries.iter().any(|(key, _)| key.text == rule.name);
        if rule.status == Status::Required && !written {
            report.error(
                code::MISSING_KEY,
                &node.place,
                &node.path,
                format!("the key `{}` is missing", rule.name),
            );
        }
    }
    Some(Fields { node, entries })
}

fn check_key(key: &Key, node: &Node, object: &Object, report: &mut Report) {
    let name = key.text.as_str();
    let Some(rule) = object.keys.iter().find(|rule| rule.name == name) else {
        let usable = object
            .keys
            .iter()
            .filter(|rule| matches!(rule.status, Status::Optional | Status::Required));
        let names: Vec<&str> = usable.map(|rule| rule.name).collect();
        report
            .error(
                code::UNKNOWN_KEY,
                &key.place,
                &node.path,
                format!("unknown key {name:?}"),
            )
            .help(suggest(name, &names, "valid keys are"));
        return;
    };
    match rule.status {
        Status::Optional | Status::Required => {}
        Status::NotYet => {
            let message = format!("`{name}` is not enforced yet");
            report.error(code::KEY_NOT_USABLE, &key.place, &node.path, message);
        }
        Status::Elsewhere(message) => {
            report.error(code::KEY_NOT_USABLE, &key.place, &node.path, message);
        }
    }
}

/// `did you mean "x"?`, or the list of what there is.
pub(crate) fn suggest(wanted: &str, names: &[&str], otherwise: &str) -> String {
    let near = nearest::nearest(wanted, names.iter().copied());
    match near.first() {
        Some(name) => format!("did you mean {name:?}?"),
        None if names.is_empty() => String::new(),
        None => format!("{otherwise} {}", names.join(", ")),
    }
}

/// A map with free keys.
pub(crate) fn map<'a>(node: &'a Node, report: &mut Report) -> Option<&'a [(Key, Node)]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        _ => expected("a map", node, report),
    }
}

/// A list.
pub(crate) fn list<'a>(node: &'a Node, report: &mut Report) -> Option<&'a [Node]> {
    match &node.value {
        Value::List(items) => Some(items),
        _ => expected("a list", node, report),
    }
}

/// A text that is not empty. A number is not one.
pub(crate) fn text<'a>(node: &'a Node, report: &mut Report) -> Option<&'a str> {
    match &node.value {
        Value::Scalar {
            kind: Kind::Text,
            text,
        } if text.is_empty() => {
            report.error(
                code::EMPTY_VALUE,
                &node.place,
                &node.path,
                "must not be empty",
            );
            None
        }
        Value::Scalar {
            kind: Kind::Text,
            text,
        } => Some(text),
        Value::Scalar {
            kind: Kind::Number | Kind::Bool,
            text,
        } => {
            let message = format!("expected a text, found {}", node.describe());
            report
                .error(code::WRONG_TYPE, &node.place, &node.path, message)
                .help(format!("write it in quotes: \"{text}\""));
            None
        }
        _ => expected("a text", node, report),
    }
}

/// A text with its place.
pub(crate) fn located_text(node: &Node, report: &mut Report) -> Option<Located<String>> {
    text(node, report).map(|value| Located {
        value: value.to_owned(),
        place: node.place.clone(),
    })
}

/// A whole number in `min..=max`.
pub(crate) fn count(node: &Node, min: u32, max: u32, report: &mut Report) -> Option<u32> {
    let Value::Scalar {
        kind: Kind::Number,
        text,
    } = &node.value
    else {
        return expected("a whole number", node, report);
    };
    match text.parse::<u32>() {
        Ok(value) if (min..=max).contains(&value) => Some(value),
        _ => {
            let message =
                format!("{text} is out of range, expected a whole number from {min} to {max}");
            report.error(code::OUT_OF_RANGE, &node.place, &node.path, message);
            None
        }
    }
}

/// `true` or `false`.
pub(crate) fn truth(node: &Node, report: &mut Report) -> Option<bool> {
    match &node.value {
        Value::Scalar {
            kind: Kind::Bool,
            text,
        } => Some(text.eq_ignore_ascii_case("true")),
        _ => expected("true or false", node, report),
    }
}

/// One of a few words.
pub(crate) fn choice(
    node: &Node,
    words: &'static [&'static str],
    report: &mut Report,
) -> Option<&'static str> {
    let found = text(node, report)?;
    let word = words.iter().find(|word| **word == found);
    if word.is_none() {
        report
            .error(
                code::UNKNOWN_VALUE,
                &node.place,
                &node.path,
                format!("unknown value {found:?}"),
            )
            .help(suggest(found, words, "valid values are"));
    }
    word.copied()
}

/// A bare word, for maps that a word may stand for.
pub(crate) fn word(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar {
            kind: Kind::Text,
            text,
        } => Some(text),
        _ => None,
    }
}

/// A duration with its unit, or `none`.
pub(crate) fn timeout(node: &Node, report: &mut Report) -> Option<Timeout> {
    time(node, "a limit of zero lets no call succeed", report)
}

/// A duration with its unit, or `none`; `zero` is what is wrong with one of no length.
pub(crate) fn time(node: &Node, zero: &str, report: &mut Report) -> Option<Timeout> {
    const FORM: &str = "write a number with a unit, as in `800ms`, `5s` or `1m`, or `none`";
    if let Value::Scalar { text, .. } = &node.value
        && text == super::keys::NONE
    {
        return Some(Timeout::None);
    }
    positive(node, zero, FORM, report).map(Timeout::After)
}

/// A duration with its unit, more than zero.
pub(crate) fn period(node: &Node, report: &mut Report) -> Option<Duration> {
    const FORM: &str = "write a number with a unit, as in `800ms`, `5s` or `1m`";
    positive(node, "the duration must be more than zero", FORM, report)
}

fn positive(node: &Node, zero: &str, form: &str, report: &mut Report) -> Option<Duration> {
    let Value::Scalar { kind, text } = &node.value else {
        return expected("a duration", node, report);
    };
    let message = match (kind, duration(text)) {
        (_, Some(Duration::ZERO)) => zero.to_owned(),
        (_, Some(duration)) => return Some(duration),
        (Kind::Number, None) => format!("the duration {text} has no unit"),
        (Kind::Null, None) => "expected a duration, found nothing".to_owned(),
        _ => format!("{text:?} is not a duration"),
    };
    report
        .error(code::BAD_DURATION, &node.place, &node.path, message)
        .help(form);
    None
}

/// `800ms`, `5s`, `1.5s`, `1m`, `2h`: whole milliseconds, at most a year. Three decimals at most.
fn duration(text: &str) -> Option<Duration> {
    const YEAR_MS: u64 = 365 * 24 * 3600 * 1000;
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.is_empty() || decimals.len() > 3 || decimals.contains('.') {
        return None;
    }
    let thousandths: u64 = format!("{decimals:0<3}").parse().ok()?;
    let scaled = whole.parse::<u64>().ok()?.checked_mul(1000)?;
    let total = scaled.checked_add(thousandths)?.checked_mul(unit_ms)?;
    // Less than a millisecond would be rounded away.
    (total.is_multiple_of(1000) && total / 1000 <= YEAR_MS)
        .then(|| Duration::from_millis(total / 1000))
}

fn expected<T>(what: &str, node: &Node, report: &mut Report) -> Option<T> {
    let message = format!("expected {what}, found {}", node.describe());
    report.error(code::WRONG_TYPE, &node.place, &node.path, message);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let ms = |n| Some(Duration::from_millis(n));
        let cases = [
            ("800ms", ms(800)),
            ("5s", ms(5000)),
            ("1.5s", ms(1500)),
            ("0.25m", ms(15_000)),
            ("1m", ms(60_000)),
            ("2h", ms(7_200_000)),
            ("8760h", ms(31_536_000_000)),
            ("8761h", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
            ("5", None),
            ("s", None),
            ("1.", None),
            ("1.s", None),
            ("1..5s", None),
            ("1.5ms", None),
            ("-1s", None),
            ("5 s", None),
            ("5S", None),
            ("1d", None),
        ];
        for (text, expected) in cases {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
