//! Conditions on headers (gRFC A28, A63).

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, HeaderValue};
use sidestep_proto::resource::{HeaderCondition, HeaderMatcher};

/// What every gRPC call carries as `content-type`, as far as routes can see.
const CONTENT_TYPE: &str = "application/grpc";

/// A header condition, its name looked up once.
#[derive(Debug, Clone)]
pub(super) struct HeaderRule {
    source: Source,
    matcher: HeaderMatcher,
}

/// Where the value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Routes cannot see it: it counts as absent.
    Hidden,
    /// Always [`CONTENT_TYPE`].
    ContentType,
    /// The call's metadata.
    Metadata(HeaderName),
}

impl Source {
    pub(super) fn of(name: &str) -> Self {
        // Binary metadata, and what the transport rather than the application writes.
        let hidden = name.ends_with("-bin") || name.starts_with("grpc-") || name == "te";
        match HeaderName::try_from(name) {
            Ok(name) if name == http::header::CONTENT_TYPE => Self::ContentType,
            Ok(name) if !hidden => Self::Metadata(name),
            _ => Self::Hidden,
        }
    }

    /// The value: several are joined by commas, which allocates.
    pub(super) fn value<'a>(&self, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
        match self {
            Self::Hidden => None,
            Self::ContentType => Some(Cow::Borrowed(CONTENT_TYPE)),
            Self::Metadata(name) => {
                let mut values = headers.get_all(name).iter();
                let first = text(values.next()?);
                Some(values.fold(first, |mut joined, value| {
                    let all = joined.to_mut();
                    all.push(',');
                    all.push_str(&text(value));
                    joined
                }))
            }
        }
    }
}

impl HeaderRule {
    pub(super) fn compile(matcher: &HeaderMatcher) -> Self {
        Self {
            source: Source::of(&matcher.name),
            matcher: matcher.clone(),
        }
    }

    pub(super) fn matcher(&self) -> &HeaderMatcher {
        &self.matcher
    }

    /// Whether the condition holds. Allocates only for several values of one name.
    pub(super) fn is_match(&self, headers: &HeaderMap) -> bool {
        let value = self.value(headers);
        let plain = match (&self.matcher.condition, value) {
            (HeaderCondition::Present(wanted), value) => value.is_some() == *wanted,
            // Not even an inverted condition holds for a header that is not there.
            (_, None) => return false,
            (HeaderCondition::Value(matcher), Some(value)) => matcher.is_match(&value),
            (HeaderCondition::Range(range), Some(value)) => {
                value.parse().is_ok_and(|n: i64| range.contains(&n))
            }
        };
        plain != self.matcher.invert
    }

    /// The value that is compared.
    pub(super) fn value<'a>(&self, headers: &'a HeaderMap) -> Option<Cow<'a, str>> {
        self.source.value(headers)
    }
}

fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::{Pattern, StringMatcher, Text};

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(n, v): &(&str, &str)| {
            let name = HeaderName::try_from(*n).unwrap();
            (name, HeaderValue::try_from(*v).unwrap())
        };
        let mut map = HeaderMap::new();
        pairs.iter().map(pair).for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    #[test]
    fn matching_table() {
        let exact = |v: &str| HeaderCondition::Value(StringMatcher::Exact(Text::exact(v)));
        let regex =
            |v: &str| HeaderCondition::Value(StringMatcher::Regex(Pattern::new(v).unwrap()));
        let range = |a, b| HeaderCondition::Range(a..b);
        let present = HeaderCondition::Present;
        let none: &[(&str, &str)] = &[];
        let a1: &[_] = &[("a", "1")];
        let a1a2: &[_] = &[("a", "1"), ("a", "2")];
        // name, condition, headers, plain answer, inverted answer
        let table = [
            ("a", exact("1"), a1, true, false),
            ("a", exact("2"), a1, false, true),
            ("a", exact("1"), none, false, false),
            ("a", exact(""), none, false, false),
            ("a", exact("1,2"), a1a2, true, false),
            ("a", exact("1"), a1a2, false, true),
            ("a", regex("[0-9]"), a1, true, false),
            ("a", regex("[0-9]"), a1a2, false, true),
            ("a", range(1, 2), a1, true, false),
            ("a", range(0, 1), a1, false, true),
            ("a", range(0, 9), a1a2, false, true),
            ("a", range(0, 9), none, false, false),
            ("a", range(-5, 0), &[("a", "-5")], true, false),
            ("a", range(i64::MIN, i64::MAX), &[("a", "x")], false, true),
            ("a", present(true), a1, true, false),
            ("a", present(true), none, false, true),
            ("a", present(false), a1, false, true),
            ("a", present(false), none, true, false),
            ("a-bin", exact("1"), &[("a-bin", "1")], false, false),
            ("a-bin", present(true), &[("a-bin", "1")], false, true),
            ("content-type", exact("application/grpc"), none, true, false),
            (
                "content-type",
                exact("application/grpc"),
                &[("content-type", "application/grpc+proto")],
                true,
                false,
            ),
            (
                "grpc-timeout",
                present(true),
                &[("grpc-timeout", "1S")],
                false,
                true,
            ),
            ("te", exact("trailers"), &[("te", "trailers")], false, false),
            (":path", present(true), none, false, true),
        ];
        for (name, condition, pairs, plain, inverted) in table {
            for (invert, expected) in [(false, plain), (true, inverted)] {
                let rule = HeaderRule::compile(&HeaderMatcher {
                    name: name.to_owned(),
                    condition: condition.clone(),
                    invert,
                });
                assert_eq!(
                    rule.is_match(&headers(pairs)),
                    expected,
                    "{rule:?} {pairs:?}"
                );
            }
        }
    }

    #[test]
    fn a_single_value_is_borrowed() {
        let rule = HeaderRule::compile(&HeaderMatcher {
            name: "a".into(),
            condition: HeaderCondition::Present(true),
            invert: false,
        });
        assert!(matches!(
            rule.value(&headers(&[("a", "1")])),
            Some(Cow::Borrowed("1"))
        ));
        let joined = headers(&[("a", "1"), ("a", "2"), ("a", "3")]);
        assert_eq!(rule.value(&joined).as_deref(), Some("1,2,3"));
    }
}
