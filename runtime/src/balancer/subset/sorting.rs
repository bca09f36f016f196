//! Endpoints, sorted into subsets by what is noted of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sidestep_proto::resource::{
    LabelValue, Labels, Locality, SelectorFallback, SubsetFallback, SubsetSelector, Subsets,
};

use super::super::Endpoint;

/// An endpoint whose values are lists is in at most so many subsets of one selector.
const MOST_COMBINATIONS: usize = 1024;

/// Which subset.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Sort {
    /// All endpoints.
    Any,
    /// Those that have what the default subset has.
    Default,
    /// Those that have these.
    Labels(Labels),
}

/// The subsets of a list of endpoints.
pub(super) struct Sorting<'a> {
    subsets: &'a Subsets,
    found: Vec<(Sort, Vec<Endpoint>)>,
    places: HashMap<Sort, usize>,
}

impl<'a> Sorting<'a> {
    pub(super) fn of(subsets: &'a Subsets, endpoints: &[Endpoint]) -> Self {
        let mut sorting = Self {
            subsets,
            found: Vec::new(),
            places: HashMap::new(),
        };
        if needs(subsets, SubsetFallback::Any) || subsets.panic_any {
            sorting.found(Sort::Any).extend_from_slice(endpoints);
        }
        if needs(subsets, SubsetFallback::Default) {
            let own = endpoints
                .iter()
                .filter(|endpoint| is_default(subsets, endpoint));
            sorting.found(Sort::Default).extend(own.cloned());
        }
        for endpoint in endpoints {
            for selector in &subsets.selectors {
                sorting.sort(selector, endpoint);
            }
        }
        if subsets.scale_locality_weight {
            let all = Counts::of(endpoints);
            for (_, endpoints) in &mut sorting.found {
                all.scale(endpoints);
            }
        }
        sorting
    }

    fn sort(&mut self, selector: &SubsetSelector, endpoint: &Endpoint) {
        let combinations = combinations(self.subsets, &selector.keys, &endpoint.labels);
        for labels in combinations {
            let found = self.found(Sort::Labels(labels));
            match found.last() {
                // It has the same value twice.
                Some(last) if last.id == endpoint.id => {}
                Some(first) if selector.single_endpoint => {
                    if endpoint.priority < first.priority {
                        found[0] = endpoint.clone();
                    }
                }
                _ => found.push(endpoint.clone()),
            }
        }
    }

    fn found(&mut self, sort: Sort) -> &mut Vec<Endpoint> {
        let next = self.found.len();
        let at = *self.places.entry(sort.clone()).or_insert(next);
        if at == next {
            self.found.push((sort, Vec::new()));
        }
        &mut self.found[at].1
    }

    /// In the order in which they were found.
    pub(super) fn subsets(&self) -> impl Iterator<Item = (&Sort, &[Endpoint])> {
        let found = self.found.iter();
        found.map(|(sort, endpoints)| (sort, endpoints.as_slice()))
    }

    pub(super) fn has(&self, sort: &Sort) -> bool {
        self.places.contains_key(sort)
    }

    /// Whether the subset has one endpoint by its selector.
    pub(super) fn is_single(&self, sort: &Sort) -> bool {
        let Sort::Labels(labels) = sort else {
            return false;
        };
        let keys: BTreeSet<Box<str>> = labels.iter().map(|(key, _)| key.into()).collect();
        let mut selectors = self.subsets.selectors.iter();
        selectors.any(|selector| selector.single_endpoint && selector.keys == keys)
    }
}

fn needs(subsets: &Subsets, fallback: SubsetFallback) -> bool {
    let to = Some(SelectorFallback::To(fallback));
    subsets.fallback == fallback || subsets.selectors.iter().any(|s| s.fallback == to)
}

fn is_default(subsets: &Subsets, endpoint: &Endpoint) -> bool {
    let mut wanted = subsets.default.iter();
    wanted.all(|(key, wanted)| match endpoint.labels.get(key) {
        Some(value) if value == wanted => true,
        Some(LabelValue::List(values)) => subsets.list_as_any && values.contains(wanted),
        _ => false,
    })
}

/// What an endpoint has under these keys: one combination of values, more where lists count as
/// their values, none if it lacks a key.
fn combinations(subsets: &Subsets, keys: &BTreeSet<Box<str>>, labels: &Labels) -> Vec<Labels> {
    let mut all: Vec<Vec<(&str, &LabelValue)>> = vec![Vec::new()];
    for key in keys {
        let values = match labels.get(key) {
            None => return Vec::new(),
            Some(LabelValue::List(values)) if subsets.list_as_any => &**values,
            Some(value) => std::slice::from_ref(value),
        };
        let longer = all.iter().flat_map(|pairs| {
            values.iter().map(move |value| {
                let pairs = pairs.iter().copied();
                pairs.chain([(&**key, value)]).collect()
            })
        });
        all = longer.take(MOST_COMBINATIONS).collect();
    }
    all.into_iter().map(Labels::from_iter).collect()
}

/// How many endpoints each locality of each priority has.
struct Counts(HashMap<(u32, Arc<Locality>), u64>);

impl Counts {
    fn of(endpoints: &[Endpoint]) -> Self {
        let mut counts = HashMap::new();
        for endpoint in endpoints {
            let key = (endpoint.priority, Arc::clone(&endpoint.locality));
            *counts.entry(key).or_default() += 1;
        }
        Self(counts)
    }

    /// Cuts the weights of localities by the share of their endpoints that are here. All of them
    /// are multiplied by the same first, so that small ones do not all become one.
    fn scale(&self, endpoints: &mut [Endpoint]) {
        let here = Self::of(endpoints);
        let greatest = endpoints
            .iter()
            .map(|endpoint| endpoint.locality_weight)
            .max();
        let spare = greatest.unwrap_or(1).leading_zeros().min(16);
        for endpoint in endpoints {
            let key = (endpoint.priority, Arc::clone(&endpoint.locality));
            let (here, all) = (here.0[&key], self.0[&key]);
            let weight = (u64::from(endpoint.locality_weight) << spare) * here / all;
            endpoint.locality_weight = u32::try_from(weight).unwrap_or(u32::MAX).max(1);
        }
    }
}
