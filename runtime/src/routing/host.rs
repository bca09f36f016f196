//! From an authority to a virtual host (gRFC A27, A28).
//!
//! Exact domains first, then suffix wildcards (`*.b`), then prefix wildcards (`a.*`), then `*`;
//! the longest inside a class. An authority is compared as it was dialled, port included, without
//! regard to ASCII case. The star stands for at least one character.

use std::borrow::Cow;
use std::collections::HashMap;

/// The domains of a route configuration; the cost of a look-up grows with the number of distinct
/// wildcard lengths only.
#[derive(Debug, Clone, Default)]
pub(super) struct HostIndex {
    exact: HashMap<Box<str>, usize>,
    /// The first of them: most configurations have no other, and comparing is quicker than hashing.
    first: Option<(Box<str>, usize)>,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<usize>,
}

/// Wildcards of one class.
#[derive(Debug, Clone, Default)]
struct Wildcards {
    hosts: HashMap<Box<str>, usize>,
    /// Distinct lengths of the fixed part, longest first.
    lengths: Vec<usize>,
}

impl Wildcards {
    fn insert(&mut self, fixed: &str, host: usize) {
        self.hosts.entry(fixed.into()).or_insert(host);
        if !self.lengths.contains(&fixed.len()) {
            self.lengths.push(fixed.len());
            self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// `part` cuts the fixed part of a given length out of the authority.
    fn find<'a>(&self, part: impl Fn(usize) -> Option<&'a str>) -> Option<usize> {
        let parts = self.lengths.iter().filter_map(|length| part(*length));
        parts
            .filter_map(|part| self.hosts.get(part).copied())
            .next()
    }
}

impl HostIndex {
    /// Adds a domain of the virtual host with index `host`. Domains are unique; if one were not,
    /// the first would win.
    pub(super) fn insert(&mut self, domain: &str, host: usize) {
        let domain = &*lower(domain);
        if domain == "*" {
            self.any.get_or_insert(host);
        } else if let Some(fixed) = domain.strip_prefix('*') {
            self.suffixes.insert(fixed, host);
        } else if let Some(fixed) = domain.strip_suffix('*') {
            self.prefixes.insert(fixed, host);
        } else {
            self.exact.entry(domain.into()).or_insert(host);
            self.first.get_or_insert_with(|| (domain.into(), host));
        }
    }

    /// The virtual host for `authority`. Allocates only for an authority with capitals.
    pub(super) fn find(&self, authority: &str) -> Option<usize> {
        let authority = &*lower(authority);
        let suffix = |length| authority.get(authority.len().checked_sub(length)?..);
        let prefix = |length| authority.get(..length);
        let longer = |part: &&str| part.len() < authority.len();
        let exact = match &self.first {
            Some((first, host)) if **first == *authority => Some(*host),
            _ => self.exact.get(authority).copied(),
        };
        exact
            .or_else(|| self.suffixes.find(|l| suffix(l).filter(longer)))
            .or_else(|| self.prefixes.find(|l| prefix(l).filter(longer)))
            .or(self.any)
    }
}

fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_order_table() {
        let domains = [
            "a.example",
            "a.example:80",
            "*.example",
            "*.b.example",
            "a.*",
            "a.exam*",
            "*",
            "*-x.example",
        ];
        let mut index = HostIndex::default();
        for (host, domain) in domains.iter().enumerate() {
            index.insert(domain, host);
        }
        let table = [
            ("a.example", "a.example"),
            ("A.Example", "a.example"),
            ("a.example:80", "a.example:80"),
            ("a.example:81", "a.exam*"),
            ("c.example", "*.example"),
            ("c.b.example", "*.b.example"),
            ("b.example", "*.example"),
            (".example", "*"),
            (".b.example", "*.example"),
            ("q-x.example", "*-x.example"),
            ("-x.example", "*.example"),
            ("a.", "*"),
            ("a.b", "a.*"),
            ("a.exam", "a.*"),
            ("a.examp", "a.exam*"),
            ("other", "*"),
            ("", "*"),
            ("ä.example", "*.example"),
        ];
        for (authority, expected) in table {
            let found = index.find(authority).map(|host| domains[host]);
            // `-x.example` is too short for `*-x.example`, and so on: a star is never empty.
            assert_eq!(found, Some(expected), "{authority}");
        }
    }

    #[test]
    fn nothing_matches_without_a_star() {
        let mut index = HostIndex::default();
        index.insert("a", 0);
        index.insert("*.b", 1);
        assert_eq!(index.find("b"), None);
        assert_eq!(index.find("x.b"), Some(1));
        assert_eq!(index.find(""), None);
    }
}
