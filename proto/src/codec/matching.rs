//! Matchers: strings, headers, fractions.

use super::Reason;
use super::at::{At, Result};
use crate::resource::{HeaderCondition, HeaderMatcher, Pattern, PerMillion, StringMatcher, Text};
use crate::wire::matcher::{self, RegexMatcher, string_matcher::MatchPattern};
use crate::wire::number::{FractionalPercent, Int64Range, fractional_percent::DenominatorType};
use crate::wire::route::{self, header_matcher::HeaderMatchSpecifier};

pub(super) fn decode_pattern(at: &At<'_>, regex: &RegexMatcher) -> Result<Pattern> {
    Pattern::new(&regex.regex).map_err(|e| at.fault(Reason::BadPattern(e)))
}

pub(super) fn encode_pattern(pattern: &Pattern) -> RegexMatcher {
    RegexMatcher {
        regex: pattern.as_str().to_owned(),
        ..Default::default()
    }
}

pub(super) fn decode_string(
    at: &At<'_>,
    wire: Option<matcher::StringMatcher>,
) -> Result<StringMatcher> {
    let wire = at.required(wire)?;
    let ignore_case = wire.ignore_case;
    let text = |value| Text { value, ignore_case };
    Ok(match at.required(wire.match_pattern)? {
        MatchPattern::Exact(v) => StringMatcher::Exact(text(v)),
        MatchPattern::Prefix(v) => StringMatcher::Prefix(text(at.field("prefix").text(v)?)),
        MatchPattern::Suffix(v) => StringMatcher::Suffix(text(at.field("suffix").text(v)?)),
        MatchPattern::Contains(v) => StringMatcher::Contains(text(at.field("contains").text(v)?)),
        MatchPattern::SafeRegex(r) => {
            StringMatcher::Regex(decode_pattern(&at.field("safe_regex"), &r)?)
        }
        MatchPattern::Custom(_) => {
            return Err(at.field("custom").unsupported("a custom string matcher"));
        }
    })
}

pub(super) fn encode_string(matcher: &StringMatcher) -> matcher::StringMatcher {
    let (pattern, ignore_case) = match matcher {
        StringMatcher::Exact(t) => (MatchPattern::Exact(t.value.clone()), t.ignore_case),
        StringMatcher::Prefix(t) => (MatchPattern::Prefix(t.value.clone()), t.ignore_case),
        StringMatcher::Suffix(t) => (MatchPattern::Suffix(t.value.clone()), t.ignore_case),
        StringMatcher::Contains(t) => (MatchPattern::Contains(t.value.clone()), t.ignore_case),
        StringMatcher::Regex(p) => (MatchPattern::SafeRegex(encode_pattern(p)), false),
    };
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ignore_case,
    }
}

pub(super) fn decode_header(at: &At<'_>, wire: route::HeaderMatcher) -> Result<HeaderMatcher> {
    // It turns an absent header into a match: a call could be routed where it must not go.
    at.refuse(
        "treat_missing_header_as_empty",
        wire.treat_missing_header_as_empty,
    )?;
    Ok(HeaderMatcher {
        name: at.field("name").text(wire.name)?.to_ascii_lowercase(),
        condition: decode_condition(at, at.required(wire.header_match_specifier)?)?,
        invert: wire.invert_match,
    })
}

fn decode_condition(at: &At<'_>, wire: HeaderMatchSpecifier) -> Result<HeaderCondition> {
    use HeaderMatchSpecifier as Wire;
    // The deprecated spellings of a string matcher (gRFC A63 keeps them).
    let text = |field, value| at.field(field).text(value).map(Text::exact);
    let matcher = match wire {
        Wire::ExactMatch(v) => StringMatcher::Exact(Text::exact(v)),
        Wire::PrefixMatch(v) => StringMatcher::Prefix(text("prefix_match", v)?),
        Wire::SuffixMatch(v) => StringMatcher::Suffix(text("suffix_match", v)?),
        Wire::ContainsMatch(v) => StringMatcher::Contains(text("contains_match", v)?),
        Wire::SafeRegexMatch(r) => {
            StringMatcher::Regex(decode_pattern(&at.field("safe_regex_match"), &r)?)
        }
        Wire::StringMatch(m) => decode_string(&at.field("string_match"), Some(m))?,
        Wire::RangeMatch(r) => return Ok(HeaderCondition::Range(r.start..r.end)),
        Wire::PresentMatch(present) => return Ok(HeaderCondition::Present(present)),
    };
    Ok(HeaderCondition::Value(matcher))
}

pub(super) fn encode_header(matcher: &HeaderMatcher) -> route::HeaderMatcher {
    let specifier = match &matcher.condition {
        HeaderCondition::Value(m) => HeaderMatchSpecifier::StringMatch(encode_string(m)),
        HeaderCondition::Range(r) => HeaderMatchSpecifier::RangeMatch(Int64Range {
            start: r.start,
            end: r.end,
        }),
        HeaderCondition::Present(present) => HeaderMatchSpecifier::PresentMatch(*present),
    };
    route::HeaderMatcher {
        name: matcher.name.clone(),
        header_match_specifier: Some(specifier),
        invert_match: matcher.invert,
        ..Default::default()
    }
}

pub(super) fn decode_fraction(at: &At<'_>, wire: FractionalPercent) -> Result<PerMillion> {
    let factor = match DenominatorType::try_from(wire.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => {
            let place = at.field("denominator");
            return Err(place.out_of_range(wire.denominator, "HUNDRED, TEN_THOUSAND or MILLION"));
        }
    };
    Ok(PerMillion::new(wire.numerator.saturating_mul(factor)))
}

pub(super) fn encode_fraction(share: PerMillion) -> FractionalPercent {
    FractionalPercent {
        numerator: share.parts(),
        denominator: DenominatorType::Million as i32,
    }
}
