//! Matchers shared by routes, SAN checks and (later) authorization.

use super::re2;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

/// A regular expression that is known to compile, compared by its text.
///
/// Its dialect is RE2's, as in the other runtimes and in Envoy. Matching is always anchored at both
/// ends.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    compiled: regex::Regex,
}

/// Above this compiled size (bytes) a pattern is refused.
const PATTERN_SIZE_LIMIT: usize = 1 << 20;

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// The compiler's message when the pattern does not parse or is too large.
    pub fn new(text: &str) -> Result<Self, String> {
        let inner = re2::translate(text)?;
        // By itself first: within the group around it, `)(` would be two good groups.
        compile(&inner)?;
        Ok(Self {
            text: text.to_owned(),
            compiled: compile(&format!("^(?:{inner})$"))?,
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole of `input` matches.
    #[must_use]
    pub fn is_match(&self, input: &str) -> bool {
        self.compiled.is_match(input)
    }
}

/// Compiles a regular expression, if it is not too large.
pub(super) fn compile(text: &str) -> Result<regex::Regex, String> {
    let mut builder = regex::RegexBuilder::new(text);
    let compiled = builder.size_limit(PATTERN_SIZE_LIMIT).build();
    compiled.map_err(|e| e.to_string())
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for Pattern {}
impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}
impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A text to compare with, with or without regard to ASCII case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Text {
    /// As it was written.
    pub value: String,
    /// Whether `A` equals `a`.
    pub ignore_case: bool,
}

impl Text {
    /// A text that is compared exactly.
    #[must_use]
    pub fn exact(value: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            ignore_case: false,
        }
    }

    /// Whether `input` is the text.
    #[must_use]
    pub fn equals(&self, input: &str) -> bool {
        self.same(input.as_bytes())
    }

    /// Whether `input` begins with the text.
    #[must_use]
    pub fn starts(&self, input: &str) -> bool {
        let head = input.as_bytes().get(..self.value.len());
        head.is_some_and(|head| self.same(head))
    }

    /// Whether `input` ends with the text.
    #[must_use]
    pub fn ends(&self, input: &str) -> bool {
        let at = input.len().checked_sub(self.value.len());
        at.is_some_and(|at| self.same(&input.as_bytes()[at..]))
    }

    /// Whether the text is a part of `input`.
    #[must_use]
    pub fn is_in(&self, input: &str) -> bool {
        let mut windows = input.as_bytes().windows(self.value.len().max(1));
        self.value.is_empty() || windows.any(|w| self.same(w))
    }

    fn same(&self, input: &[u8]) -> bool {
        let value = self.value.as_bytes();
        if self.ignore_case {
            input.eq_ignore_ascii_case(value)
        } else {
            input == value
        }
    }
}

/// `envoy.type.matcher.v3.StringMatcher` (gRFC A63).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StringMatcher {
    /// The whole string.
    Exact(Text),
    /// Its beginning; never empty.
    Prefix(Text),
    /// Its end; never empty.
    Suffix(Text),
    /// Any part; never empty.
    Contains(Text),
    /// A full-match regular expression; `ignore_case` does nothing for it.
    Regex(Pattern),
}

impl StringMatcher {
    /// Whether `input` matches. Allocates nothing.
    #[must_use]
    pub fn is_match(&self, input: &str) -> bool {
        match self {
            Self::Exact(text) => text.equals(input),
            Self::Prefix(text) => text.starts(input),
            Self::Suffix(text) => text.ends(input),
            Self::Contains(text) => text.is_in(input),
            Self::Regex(pattern) => pattern.is_match(input),
        }
    }
}

/// A share in parts per million, 0 to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PerMillion(u32);

impl PerMillion {
    /// Everything.
    pub const ALL: Self = Self(1_000_000);

    /// Caps `parts` at one million.
    #[must_use]
    pub fn new(parts: u32) -> Self {
        Self(parts.min(1_000_000))
    }

    /// The share in parts per million.
    #[must_use]
    pub fn parts(self) -> u32 {
        self.0
    }

    /// Whether a draw in `0..1_000_000` falls inside the share.
    #[must_use]
    pub fn contains(self, draw: u32) -> bool {
        draw < self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_matcher_table() {
        let exact = |v: &str, i| {
            StringMatcher::Exact(Text {
                value: v.into(),
                ignore_case: i,
            })
        };
        let prefix = |v: &str, i| {
            StringMatcher::Prefix(Text {
                value: v.into(),
                ignore_case: i,
            })
        };
        let suffix = |v: &str, i| {
            StringMatcher::Suffix(Text {
                value: v.into(),
                ignore_case: i,
            })
        };
        let contains = |v: &str, i| {
            StringMatcher::Contains(Text {
                value: v.into(),
                ignore_case: i,
            })
        };
        let cases = [
            (exact("a", false), "a", true),
            (exact("a", false), "A", false),
            (exact("a", true), "A", true),
            (prefix("ab", false), "abc", true),
            (prefix("ab", false), "a", false),
            (prefix("ab", true), "ABC", true),
            (suffix("bc", false), "abc", true),
            (suffix("bc", true), "aBC", true),
            (suffix("abcd", false), "abc", false),
            (contains("b", false), "abc", true),
            (contains("B", false), "abc", false),
            (contains("B", true), "abc", true),
            (
                StringMatcher::Regex(Pattern::new("a.c|b").unwrap()),
                "abc",
                true,
            ),
            (
                StringMatcher::Regex(Pattern::new("a.c|b").unwrap()),
                "xabc",
                false,
            ),
        ];
        for (matcher, input, expected) in cases {
            assert_eq!(
                matcher.is_match(input),
                expected,
                "{matcher:?} on {input:?}"
            );
        }
    }

    #[test]
    fn pattern_is_refused_when_it_does_not_compile() {
        assert!(Pattern::new("a(").is_err());
        assert!(Pattern::new("(a{1000}){1000}").is_err());
    }
}
