//! Which subset a call meets: by a number, compared, and then what there is to fall back to.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use sidestep_proto::resource::{Labels, SelectorFallback, SubsetFallback, Subsets};

use super::super::{Failure, SubchannelId};
use super::sorting::Sort;
use crate::routing::{Asked, Criteria, hash_labels};

/// Subsets by what is in them.
#[derive(Debug)]
pub(super) struct Index {
    subsets: Arc<Subsets>,
    by_hash: HashMap<u64, Entry, BuildHasherDefault<Itself>>,
    /// Those whose numbers others have, too.
    others: Vec<Entry>,
    any: Option<usize>,
    default: Option<usize>,
    /// Who is in each, in order, by place.
    ids: Vec<Box<[SubchannelId]>>,
    /// Places among the selectors, those with the most keys first.
    longest: Box<[usize]>,
    nowhere: Failure,
}

#[derive(Debug)]
struct Entry {
    labels: Labels,
    at: usize,
}

/// A subset, and how it was come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// Its place; `None`: there is none.
    pub(super) at: Option<usize>,
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// It is what was asked for.
    Asked,
    /// The selector of its keys falls back to it.
    Selector,
    /// The cluster falls back to it.
    Cluster,
    /// The fallback has no endpoints.
    Panic,
}

impl Index {
    /// Without any subset. Calls that meet none are told of `nowhere`.
    pub(super) fn new(subsets: Arc<Subsets>, nowhere: Failure) -> Self {
        let mut longest: Box<[usize]> = (0..subsets.selectors.len()).collect();
        longest.sort_by_key(|at| std::cmp::Reverse(subsets.selectors[*at].keys.len()));
        Self {
            subsets,
            by_hash: HashMap::default(),
            others: Vec::new(),
            any: None,
            default: None,
            ids: Vec::new(),
            longest,
            nowhere,
        }
    }

    /// Adds a subset of these endpoints. One without any is none.
    pub(super) fn insert(&mut self, sort: &Sort, at: usize, ids: &[SubchannelId]) {
        let filled = !ids.is_empty();
        let mut ids: Box<[_]> = ids.into();
        ids.sort_unstable();
        if self.ids.len() <= at {
            self.ids.resize(at + 1, Box::default());
        }
        self.ids[at] = ids;
        match sort {
            Sort::Any => self.any = filled.then_some(at),
            Sort::Default => self.default = filled.then_some(at),
            Sort::Labels(labels) => {
                let labels = labels.clone();
                let hash = hash_labels(&labels);
                if let Some(same) = self.by_hash.insert(hash, Entry { labels, at }) {
                    self.others.push(same);
                }
            }
        }
    }

    pub(super) fn nowhere(&self) -> &Failure {
        &self.nowhere
    }

    /// The subset for a call that asks for this. Allocates nothing.
    pub(super) fn find(&self, criteria: Option<&Criteria>) -> Way {
        let Some(criteria) = criteria else {
            return self.fall_back();
        };
        match criteria.tries().filter(|_| self.subsets.by_list) {
            None => self.resolve(criteria.whole()),
            Some(tries) => {
                let ways = tries.iter().map(|criteria| self.resolve(criteria.whole()));
                let mut found = ways.filter(|way| way.at.is_some());
                found.next().unwrap_or(Way {
                    at: None,
                    by: By::Cluster,
                })
            }
        }
    }

    fn resolve(&self, asked: Asked<'_>) -> Way {
        let asked = self.narrow(asked);
        if let Some(at) = self.get(asked) {
            let (at, by) = (Some(at), By::Asked);
            return Way { at, by };
        }
        let mut selectors = self.subsets.selectors.iter();
        let selector = selectors.find(|selector| asked.is_by(&selector.keys));
        match selector.and_then(|selector| selector.fallback.as_ref()) {
            None => self.fall_back(),
            Some(SelectorFallback::To(fallback)) => Way {
                at: self.place(*fallback),
                by: By::Selector,
            },
            // They are fewer each time.
            Some(SelectorFallback::Keys(left)) => {
                let way = self.resolve(asked.only(left));
                match way.by {
                    By::Asked => Way {
                        by: By::Selector,
                        ..way
                    },
                    _ => way,
                }
            }
        }
    }

    /// What counts of it where more may be asked for than there are keys.
    fn narrow<'a>(&'a self, asked: Asked<'a>) -> Asked<'a> {
        if !self.subsets.redundant_keys {
            return asked;
        }
        let selectors = self.longest.iter().map(|at| &self.subsets.selectors[*at]);
        let mut selectors = selectors.filter(|selector| asked.has(&selector.keys));
        selectors
            .next()
            .map_or(asked, |selector| asked.only(&selector.keys))
    }

    fn get(&self, asked: Asked<'_>) -> Option<usize> {
        let entry = self.by_hash.get(&asked.hash())?;
        if asked.is(&entry.labels) {
            return Some(entry.at);
        }
        let mut others = self.others.iter();
        others
            .find(|entry| asked.is(&entry.labels))
            .map(|entry| entry.at)
    }

    fn fall_back(&self) -> Way {
        let at = self.place(self.subsets.fallback);
        let panics = self.subsets.panic_any && self.subsets.fallback != SubsetFallback::Nowhere;
        if at.is_none() && panics {
            return Way {
                at: self.any,
                by: By::Panic,
            };
        }
        Way {
            at,
            by: By::Cluster,
        }
    }

    fn place(&self, fallback: SubsetFallback) -> Option<usize> {
        match fallback {
            SubsetFallback::Nowhere => None,
            SubsetFallback::Any => self.any,
            SubsetFallback::Default => self.default,
        }
    }

    /// For people: what a call asks for, and what it gets.
    pub(super) fn explain(&self, criteria: Option<&Criteria>) -> String {
        let asked = match criteria {
            None => "no subset is asked for".to_owned(),
            Some(criteria) => format!("subset {}", criteria.labels()),
        };
        let way = self.find(criteria);
        let got = match way.at {
            None => "nothing to fall back to".to_owned(),
            Some(_) if way.at == self.any => "any endpoint".to_owned(),
            Some(_) if way.at == self.default => {
                format!("the default subset {}", self.subsets.default)
            }
            Some(at) => {
                let mut entries = self.by_hash.values().chain(&self.others);
                let entry = entries.find(|entry| entry.at == at);
                entry.map_or_else(String::new, |entry| format!("subset {}", entry.labels))
            }
        };
        match (way.by, way.at) {
            (By::Asked, Some(_)) if got == asked => asked,
            (By::Asked, Some(_)) => format!("{asked}: {got}"),
            (By::Panic, Some(_)) => {
                format!("{asked}: the fallback has no endpoint, so {got}")
            }
            (By::Selector, Some(_)) => {
                format!("{asked}: no endpoint has it, by its keys {got}")
            }
            (_, Some(_)) if criteria.is_none() => format!("{asked}: {got}"),
            (_, Some(_)) => format!("{asked}: no endpoint has it, so {got}"),
            (_, None) if criteria.is_none() => format!("{asked}, and there is {got}"),
            (_, None) => format!("{asked}: no endpoint has it, and there is {got}"),
        }
    }

    /// Whether an endpoint is in the subset that such a call meets.
    pub(super) fn admits(&self, criteria: Option<&Criteria>, id: SubchannelId) -> bool {
        let ids = self.find(criteria).at.and_then(|at| self.ids.get(at));
        ids.is_some_and(|ids| ids.binary_search(&id).is_ok())
    }
}

/// The number is a hash already.
#[derive(Debug, Default, Clone, Copy)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
