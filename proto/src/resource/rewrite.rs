//! `RegexMatchAndSubstitute`: a text made out of another.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use super::matching::compile;
use super::re2;

/// Replaces whatever in a text matches. Compared by what was written.
#[derive(Debug, Clone)]
pub struct Rewrite {
    pattern: String,
    regex: regex::Regex,
    substitution: String,
    /// The same in the words of `regex`.
    replacement: String,
}

impl Rewrite {
    /// Every match of `pattern`, anywhere in a text, becomes `substitution`, in which `\\1` stands
    /// for the first group.
    ///
    /// # Errors
    /// The compiler's message when the pattern does not parse or is too large.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        Ok(Self {
            pattern: pattern.to_owned(),
            regex: compile(&re2::translate(pattern)?)?,
            substitution: substitution.to_owned(),
            replacement: replacement(substitution),
        })
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The substitution as it was written.
    #[must_use]
    pub fn substitution(&self) -> &str {
        &self.substitution
    }

    /// The text with every match replaced; allocates only if there is one.
    #[must_use]
    pub fn apply<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.regex.replace_all(text, self.replacement.as_str())
    }
}

/// `\1` is `${1}`, and a dollar is a dollar.
fn replacement(substitution: &str) -> String {
    let mut replacement = String::with_capacity(substitution.len());
    let mut letters = substitution.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '$' => replacement.push_str("$$"),
            '\\' => match letters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    replacement.extend(["${", digit.encode_utf8(&mut [0; 4]), "}"]);
                }
                Some('$') => replacement.push_str("$$"),
                other => replacement.extend(other),
            },
            other => replacement.push(other),
        }
    }
    replacement
}

impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.pattern() == other.pattern() && self.substitution == other.substitution
    }
}
impl Eq for Rewrite {}
impl Hash for Rewrite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pattern().hash(state);
        self.substitution.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_match_is_replaced() {
        for (pattern, substitution, text, expected) in [
            ("b+", "x", "abbab", "axax"),
            ("^/users/([0-9]+)/.*$", "\\1", "/users/42/cart", "42"),
            ("(a)(b)", "\\2\\1", "ab ab", "ba ba"),
            ("a", "$1", "a", "$1"),
            ("a", "\\\\", "a", "\\"),
            ("z", "y", "abc", "abc"),
        ] {
            let rewrite = Rewrite::new(pattern, substitution).unwrap();
            assert_eq!(rewrite.apply(text), expected, "{pattern} {substitution}");
        }
        assert!(Rewrite::new("(", "").is_err());
    }
}
