//! One rule: its conditions, and what it does.

use std::fmt;

use sidestep_proto::resource::{self, HeaderMatcher, PathMatcher, PerMillion};

use super::header::HeaderRule;
use super::{Action, Call, Purpose, below, draw};

/// What the caller learns of the rule that took its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The route's name in the configuration; may be empty.
    pub name: Box<str>,
    /// What it does.
    pub action: Action,
}

/// A compiled rule.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    path: PathMatcher,
    headers: Box<[HeaderRule]>,
    fraction: Option<PerMillion>,
    /// Position in its virtual host: each rule draws its own fraction.
    position: u32,
    pub(super) route: Route,
}

impl Rule {
    pub(super) fn compile(matches: &resource::RouteMatch, position: u32, route: Route) -> Self {
        Self {
            path: matches.path.clone(),
            headers: matches.headers.iter().map(HeaderRule::compile).collect(),
            fraction: matches.fraction,
            position,
            route,
        }
    }

    /// The first condition that `call` does not meet, if there is one.
    pub(super) fn mismatch(&self, call: &Call<'_>) -> Option<Mismatch<'_>> {
        if !self.path.is_match(call.path) {
            return Some(Mismatch::Path(&self.path));
        }
        let unmet = self.headers.iter().find(|h| !h.is_match(call.headers));
        if let Some(header) = unmet {
            return Some(Mismatch::Header(header.matcher()));
        }
        let share = self.fraction?;
        let number = draw(call.random, Purpose::Fraction(self.position));
        // Below one million, so it fits.
        let outside = !share.contains(below(number, 1_000_000) as u32);
        outside.then_some(Mismatch::Fraction(share))
    }

    /// The header's value as the rule sees it.
    pub(super) fn seen(&self, matcher: &HeaderMatcher, call: &Call<'_>) -> Option<String> {
        let rule = self.headers.iter().find(|h| h.matcher() == matcher)?;
        rule.value(call.headers).map(String::from)
    }
}

/// Why a rule does not take a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mismatch<'a> {
    /// The path is another.
    Path(&'a PathMatcher),
    /// A header does not meet this condition.
    Header(&'a HeaderMatcher),
    /// The draw fell outside of the rule's share of calls.
    Fraction(PerMillion),
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(PathMatcher::Prefix(text)) => {
                write!(f, "path does not begin with {:?}", text.value)
            }
            Self::Path(PathMatcher::Exact(text)) => write!(f, "path is not {:?}", text.value),
            Self::Path(PathMatcher::Regex(pattern)) => {
                write!(f, "path does not match {:?}", pattern.as_str())
            }
            Self::Header(matcher) => {
                let not = if matcher.invert { "not " } else { "" };
                let name = &matcher.name;
                write!(
                    f,
                    "header {name:?} is not {not}{}",
                    Wanted(&matcher.condition)
                )
            }
            Self::Fraction(share) => {
                let percent = f64::from(share.parts()) / 10_000.0;
                write!(f, "drawn outside of its {percent} % of calls")
            }
        }
    }
}

/// A header condition in words.
struct Wanted<'a>(&'a resource::HeaderCondition);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use resource::{HeaderCondition, StringMatcher};
        match self.0 {
            HeaderCondition::Present(true) => f.write_str("present"),
            HeaderCondition::Present(false) => f.write_str("absent"),
            HeaderCondition::Range(range) => write!(f, "in {}..{}", range.start, range.end),
            HeaderCondition::Value(StringMatcher::Exact(t)) => write!(f, "{:?}", t.value),
            HeaderCondition::Value(StringMatcher::Prefix(t)) => write!(f, "{:?}…", t.value),
            HeaderCondition::Value(StringMatcher::Suffix(t)) => write!(f, "…{:?}", t.value),
            HeaderCondition::Value(StringMatcher::Contains(t)) => write!(f, "…{:?}…", t.value),
            HeaderCondition::Value(StringMatcher::Regex(p)) => write!(f, "like {:?}", p.as_str()),
        }
    }
}
