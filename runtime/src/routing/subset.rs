//! What the endpoints must have that a route's calls meet: compiled once, looked up by a number and
//! compared.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use sidestep_proto::resource::{LabelValue, Labels};
use xxhash_rust::xxh64::Xxh64;

/// The key under which Envoy looks for alternatives.
const LIST: &str = "fallback_list";

/// What a route's share asks of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Criteria {
    labels: Labels,
    hash: u64,
    tries: Option<Box<[Self]>>,
}

impl Criteria {
    /// `None` where nothing is asked for.
    #[must_use]
    pub fn compile(labels: &Labels) -> Option<Self> {
        (!labels.is_empty()).then(|| Self {
            tries: labels.get(LIST).map(|list| tries(labels, list)),
            ..Self::plain(labels.clone())
        })
    }

    fn plain(labels: Labels) -> Self {
        Self {
            hash: hash(&labels),
            labels,
            tries: None,
        }
    }

    /// What is asked for.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// For a cluster that goes by the list in it: what is asked for instead, one after the other.
    #[must_use]
    pub fn tries(&self) -> Option<&[Self]> {
        self.tries.as_deref()
    }

    /// All of it.
    #[must_use]
    pub fn whole(&self) -> Asked<'_> {
        Asked {
            labels: &self.labels,
            keys: None,
            hash: self.hash,
        }
    }
}

/// Each alternative over what is asked for beside the list; that alone if there is none.
fn tries(labels: &Labels, list: &LabelValue) -> Box<[Criteria]> {
    let others = labels.iter().filter(|(key, _)| *key != LIST);
    let others: Labels = others.collect();
    let LabelValue::List(list) = list else {
        return [Criteria::plain(others)].into();
    };
    if list.is_empty() {
        return [Criteria::plain(others)].into();
    }
    let each = list.iter().map(|alternative| match alternative {
        LabelValue::Object(instead) => Criteria::plain(others.overridden_by(instead)),
        _ => Criteria::plain(others.clone()),
    });
    each.collect()
}

/// What is asked for, or what is left of it under fewer keys. Made and compared without an
/// allocation.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    labels: &'a Labels,
    /// `None`: all.
    keys: Option<&'a BTreeSet<Box<str>>>,
    hash: u64,
}

impl<'a> Asked<'a> {
    /// What is left of it under these keys, each of which is asked for.
    #[must_use]
    pub fn only(self, keys: &'a BTreeSet<Box<str>>) -> Self {
        let left = keys.iter();
        let left = left.filter_map(|key| Some(one(key, self.labels.get(key)?)));
        Self {
            hash: left.fold(0, u64::wrapping_add),
            keys: Some(keys),
            ..self
        }
    }

    /// Equal ones have equal numbers; see [`hash`].
    #[must_use]
    pub fn hash(self) -> u64 {
        self.hash
    }

    /// Whether a subset with these labels is what is asked for.
    #[must_use]
    pub fn is(self, subset: &Labels) -> bool {
        let Some(keys) = self.keys else {
            return self.labels == subset;
        };
        let same = |key: &str| {
            let value = self.labels.get(key);
            value.is_some() && value == subset.get(key)
        };
        keys.len() == subset.len() && keys.iter().all(|key| same(key))
    }

    /// Whether these are its keys, all of them.
    #[must_use]
    pub fn is_by(self, keys: &BTreeSet<Box<str>>) -> bool {
        match self.keys {
            Some(own) => own == keys,
            None => {
                let own = self.labels.iter().map(|(key, _)| key);
                self.labels.len() == keys.len() && own.eq(keys.iter().map(|key| &**key))
            }
        }
    }

    /// Whether it asks for all of these keys.
    #[must_use]
    pub fn has(self, keys: &BTreeSet<Box<str>>) -> bool {
        let has = |key: &str| {
            self.labels.get(key).is_some() && self.keys.is_none_or(|own| own.contains(key))
        };
        keys.iter().all(|key| has(key))
    }
}

/// The number of labels, whatever their order.
#[must_use]
pub fn hash(labels: &Labels) -> u64 {
    let each = labels.iter().map(|(key, value)| one(key, value));
    each.fold(0, u64::wrapping_add)
}

fn one(key: &str, value: &LabelValue) -> u64 {
    let mut hasher = Xxh64::new(0);
    (key, value).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn keys(keys: &[&str]) -> BTreeSet<Box<str>> {
        keys.iter().map(|key| (*key).into()).collect()
    }

    #[test]
    fn nothing_asked_for_is_no_criteria() {
        assert_eq!(Criteria::compile(&Labels::default()), None);
    }

    #[test]
    fn what_is_left_is_what_would_have_been_asked_for() {
        let both = labels(&[("a", "1"), ("b", "2")]);
        let criteria = Criteria::compile(&both).unwrap();
        let left = keys(&["b"]);
        let asked = criteria.whole().only(&left);
        let b = labels(&[("b", "2")]);
        assert_eq!(asked.hash(), hash(&b));
        assert!(asked.is(&b));
        assert!(!asked.is(&both));
        assert!(!asked.is(&labels(&[("b", "3")])));
        assert!(asked.is_by(&left));
        assert!(asked.has(&left) && !asked.has(&keys(&["a"])));
        let whole = criteria.whole();
        assert!(whole.is(&both) && whole.is_by(&keys(&["a", "b"])));
        assert!(!whole.is(&b) && !whole.is_by(&left) && whole.has(&left));
        assert_eq!(whole.hash(), hash(&both));
    }

    #[test]
    fn keys_and_values_do_not_run_into_each_other() {
        let pairs = [("ab", "c"), ("a", "bc"), ("c", "ab")];
        let numbers: BTreeSet<_> = pairs.iter().map(|pair| hash(&labels(&[*pair]))).collect();
        assert_eq!(numbers.len(), pairs.len());
    }

    #[test]
    fn alternatives_are_laid_over_the_rest() {
        let object = |pairs| LabelValue::Object(labels(pairs));
        let list = [
            object(&[("v", "2"), ("hw", "c64")]),
            object(&[("hw", "c32")]),
        ];
        let asked = [("v", "1".into()), (LIST, LabelValue::List(list.into()))];
        let criteria = Criteria::compile(&asked.into_iter().collect()).unwrap();
        let tries = criteria.tries().unwrap().iter();
        let tries: Vec<_> = tries.map(|one| one.labels().clone()).collect();
        let expected = [
            labels(&[("v", "2"), ("hw", "c64")]),
            labels(&[("v", "1"), ("hw", "c32")]),
        ];
        assert_eq!(tries, expected);
        let no_list = [("v", "1".into()), (LIST, LabelValue::Null)];
        let criteria = Criteria::compile(&no_list.into_iter().collect()).unwrap();
        assert_eq!(
            criteria.tries().unwrap()[0].labels(),
            &labels(&[("v", "1")])
        );
    }
}
