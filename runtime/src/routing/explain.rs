//! Why a call goes where it goes: the same rules, asked aloud.

use super::rule::{Mismatch, Rule};
use super::{Call, Route, RouteTable};

/// How a table decides over one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation<'a> {
    /// The virtual host for the call's authority.
    pub virtual_host: Option<&'a str>,
    /// Every rule that was tried, in order; the last one took the call if `route` is set.
    pub tried: Vec<Tried<'a>>,
    /// The route that takes the call.
    pub route: Option<&'a Route>,
}

/// One rule against one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried<'a> {
    /// The rule's name; may be empty.
    pub name: &'a str,
    /// The first condition that was not met; `None` if the rule took the call.
    pub mismatch: Option<Mismatch<'a>>,
    /// For a mismatch of a header: its value as rules see it, comma-joined.
    pub seen: Option<String>,
}

impl RouteTable {
    /// What [`RouteTable::find`] does with `call`, step by step. For people: allocates, and looks
    /// at each rule.
    #[must_use]
    pub fn explain<'a>(&'a self, call: &Call<'_>) -> Explanation<'a> {
        let mut explanation = Explanation {
            virtual_host: self.virtual_host(call.authority),
            tried: Vec::new(),
            route: None,
        };
        let host = self.host(call.authority);
        for rule in host.iter().flat_map(|host| &host.rules) {
            let tried = Tried::of(rule, call);
            let matched = tried.mismatch.is_none();
            explanation.tried.push(tried);
            if matched {
                explanation.route = Some(&rule.route);
                break;
            }
        }
        explanation
    }
}

impl<'a> Tried<'a> {
    fn of(rule: &'a Rule, call: &Call<'_>) -> Self {
        let mismatch = rule.mismatch(call);
        let seen = match &mismatch {
            Some(Mismatch::Header(matcher)) => rule.seen(matcher, call),
            _ => None,
        };
        Self {
            name: &rule.route.name,
            mismatch,
            seen,
        }
    }
}
