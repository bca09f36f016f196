//! Which rules of a virtual host can match a path at all.
//!
//! The first matching rule wins, so an index may skip rules but never reorder them: it answers
//! with the candidates in the order in which they were written, and each is still checked.

use std::collections::HashMap;

use sidestep_proto::resource::PathMatcher;

/// Below this number of rules looking at each is cheaper than hashing the path.
const SCAN_LIMIT: usize = 8;

/// Positions of rules, each list ascending.
#[derive(Debug, Clone, Default)]
pub(super) struct PathIndex {
    /// Rules for one path.
    exact: HashMap<Box<str>, Vec<u32>>,
    /// Rules for a prefix that includes a whole service, by `/package.Service/`.
    services: HashMap<Box<str>, Vec<u32>>,
    /// All others: shorter prefixes, patterns, matches without regard to case.
    others: Vec<u32>,
}

impl PathIndex {
    pub(super) fn compile<'a>(paths: impl ExactSizeIterator<Item = &'a PathMatcher>) -> Self {
        let mut index = Self::default();
        let small = paths.len() <= SCAN_LIMIT;
        for (position, path) in (0..).zip(paths) {
            match path {
                _ if small => index.others.push(position),
                PathMatcher::Exact(text) if !text.ignore_case => {
                    push(&mut index.exact, &text.value, position);
                }
                PathMatcher::Prefix(text) if !text.ignore_case => match service(&text.value) {
                    Some(service) => push(&mut index.services, service, position),
                    None => index.others.push(position),
                },
                _ => index.others.push(position),
            }
        }
        index
    }

    /// Positions of the rules that may match `path`, ascending. Allocates nothing.
    pub(super) fn candidates<'a>(&'a self, path: &str) -> Candidates<'a> {
        let exact = lookup(&self.exact, Some(path));
        let services = lookup(&self.services, service(path));
        Candidates {
            lists: [exact, services, &self.others],
        }
    }
}

fn push(map: &mut HashMap<Box<str>, Vec<u32>>, key: &str, position: u32) {
    map.entry(key.into()).or_default().push(position);
}

fn lookup<'a>(map: &'a HashMap<Box<str>, Vec<u32>>, key: Option<&str>) -> &'a [u32] {
    // An empty map answers without hashing.
    let list = key.filter(|_| !map.is_empty()).and_then(|key| map.get(key));
    list.map_or(&[], |list| list)
}

/// `/package.Service/` of a path or prefix that goes at least that far.
fn service(path: &str) -> Option<&str> {
    let name = path.strip_prefix('/')?;
    let length = name.find('/')?;
    path.get(..length + 2)
}

/// Merges ascending lists.
pub(super) struct Candidates<'a> {
    lists: [&'a [u32]; 3],
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let heads = self.lists.iter_mut().filter(|list| !list.is_empty());
        let list = heads.min_by_key(|list| list[0])?;
        let (head, tail) = list.split_first()?;
        *list = tail;
        usize::try_from(*head).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_table() {
        for (path, expected) in [
            ("/a.B/C", Some("/a.B/")),
            ("/a.B/", Some("/a.B/")),
            ("/a.B", None),
            ("//C", Some("//")),
            ("/", None),
            ("", None),
            ("a/b/", None),
            ("/ä/x", Some("/ä/")),
        ] {
            assert_eq!(service(path), expected, "{path}");
        }
    }
}
