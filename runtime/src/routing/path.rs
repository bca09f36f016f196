//! Which rules of a virtual host can match a path at all.
//!
//! The first matching rule wins, so an index may skip rules but never reorder them: it answers
//! with the candidates in the order in which they were written, and each is still checked.

use sidestep_proto::resource::PathMatcher;

use super::trie::{Met, Trie};

/// Up to this number of rules looking at each is cheaper than a walk.
const SCAN_LIMIT: usize = 8;

/// Positions of rules.
#[derive(Debug, Clone)]
pub(super) struct PathIndex {
    /// Rules for a path or a prefix.
    plain: Trie,
    /// The same, without regard to case.
    folded: Trie,
    /// All others, ascending: patterns, and whatever is in a short list.
    others: Vec<u32>,
}

impl PathIndex {
    pub(super) fn compile<'a>(paths: impl ExactSizeIterator<Item = &'a PathMatcher>) -> Self {
        let mut index = Self {
            plain: Trie::new(false),
            folded: Trie::new(true),
            others: Vec::new(),
        };
        let small = paths.len() <= SCAN_LIMIT;
        for (position, path) in (0..).zip(paths) {
            match path {
                PathMatcher::Exact(text) if !small => {
                    index
                        .trie(text.ignore_case)
                        .insert_exact(&text.value, position);
                }
                PathMatcher::Prefix(text) if !small => {
                    index
                        .trie(text.ignore_case)
                        .insert_prefix(&text.value, position);
                }
                _ => index.others.push(position),
            }
        }
        index.plain.finish();
        index.folded.finish();
        index
    }

    fn trie(&mut self, ignore_case: bool) -> &mut Trie {
        if ignore_case {
            &mut self.folded
        } else {
            &mut self.plain
        }
    }

    /// Positions of the rules that may match `path`, ascending. Allocates nothing.
    pub(super) fn candidates<'a>(&'a self, path: &str) -> Candidates<'a> {
        let met = |trie: &'a Trie| (!trie.is_empty()).then(|| trie.find(path));
        Candidates {
            met: [met(&self.plain), met(&self.folded)],
            others: &self.others,
            position: 0,
        }
    }
}

/// Merges what was met, in the order of the rules.
pub(super) struct Candidates<'a> {
    met: [Option<Met<'a>>; 2],
    others: &'a [u32],
    /// The first that was not looked at yet.
    position: u32,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let met = self.met.iter().flatten();
        let met = met.filter_map(|met| met.first_from(self.position)).min();
        let other = self.others.first().copied();
        let first = match (met, other) {
            (Some(met), Some(other)) => met.min(other),
            (met, other) => met.or(other)?,
        };
        if other == Some(first) {
            self.others = &self.others[1..];
        }
        self.position = first + 1;
        usize::try_from(first).ok()
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::{Pattern, Text};

    use super::*;

    #[test]
    fn candidates_come_in_the_order_of_the_rules() {
        let folded = |value: &str| Text {
            value: value.to_owned(),
            ignore_case: true,
        };
        let mut paths = vec![
            PathMatcher::Regex(Pattern::new("/a.*").unwrap()),
            PathMatcher::Prefix(folded("/A/")),
            PathMatcher::Exact(Text::exact("/a/M")),
            PathMatcher::Prefix(Text::exact("/a/")),
            PathMatcher::Exact(folded("/A/m")),
            PathMatcher::Regex(Pattern::new("/b.*").unwrap()),
        ];
        let others = |n| PathMatcher::Exact(Text::exact(format!("/other/{n}")));
        paths.extend((0..10).map(others));
        paths.push(PathMatcher::Prefix(Text::exact("")));
        let index = PathIndex::compile(paths.iter());
        let candidates = |path| index.candidates(path).collect::<Vec<_>>();
        assert_eq!(candidates("/a/M"), [0, 1, 2, 3, 4, 5, 16]);
        assert_eq!(candidates("/a/m"), [0, 1, 3, 4, 5, 16]);
        assert_eq!(candidates("/other/7"), [0, 5, 13, 16]);
        assert_eq!(candidates(""), [0, 5, 16]);
    }
}
