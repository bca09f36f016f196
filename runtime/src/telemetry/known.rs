//! Methods by name, read without a lock. What peers can make up is bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

/// What a method counts as that nobody registered (A66).
pub(super) const OTHER: &str = "other";

/// Most methods that are known by being called.
const MOST: usize = 1000;

/// Values by name. Reading is free of locks; a new name, which is rare, copies the table.
#[derive(Debug)]
pub(super) struct Known<T> {
    table: ArcSwap<HashMap<Box<str>, Arc<T>>>,
    writing: Mutex<()>,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            table: ArcSwap::default(),
            writing: Mutex::new(()),
        }
    }
}

impl<T> Known<T> {
    pub(super) fn get(&self, name: &str) -> Option<Arc<T>> {
        self.table.load().get(name).cloned()
    }

    /// The value of this name, made if it is new; `None` if there are too many.
    pub(super) fn learn(&self, name: &str, make: impl FnOnce() -> Arc<T>) -> Option<Arc<T>> {
        let _one_at_a_time = super::lock(&self.writing);
        if let Some(known) = self.get(name) {
            return Some(known);
        }
        let mut table = HashMap::clone(&self.table.load());
        if table.len() >= MOST {
            return None;
        }
        let made = make();
        table.insert(name.into(), Arc::clone(&made));
        self.table.store(Arc::new(table));
        Some(made)
    }

    /// All, by name.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        let table = self.table.load();
        let mut all: Vec<_> = table.iter().collect();
        all.sort_unstable_by_key(|(name, _)| *name);
        all.into_iter()
            .map(|(_, value)| Arc::clone(value))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_learnt_is_bounded() {
        let known = Known::default();
        for n in 0..MOST {
            assert!(known.learn(&n.to_string(), || Arc::new(n)).is_some());
        }
        assert_eq!(known.learn("one more", || Arc::new(0)), None);
        assert_eq!(known.learn("7", || Arc::new(0)).as_deref(), Some(&7));
        assert_eq!(known.get("7").as_deref(), Some(&7));
        assert_eq!(known.all().len(), MOST);
    }
}
