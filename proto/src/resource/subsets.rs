//! Endpoints divided by what is noted of them: `lb_subset_config`, `subset.v3.Subset`.

use std::collections::BTreeSet;

use super::{Labels, LbPolicy};

/// How a cluster's endpoints are divided, and which of them a call may meet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subsets {
    /// Among the endpoints of a subset.
    pub policy: LbPolicy,
    /// The keys by which there are subsets: one for each combination of values that an endpoint
    /// has. Each set of keys comes once; without any, all calls go by the fallback.
    pub selectors: Vec<SubsetSelector>,
    /// Where calls go that ask for nothing, or for a subset without endpoints.
    pub fallback: SubsetFallback,
    /// What endpoints of the default subset have. Empty: all endpoints are in it.
    pub default: Labels,
    /// Calls meet any endpoint where the fallback has none.
    pub panic_any: bool,
    /// An endpoint whose value is a list has each of its values, and not the list.
    pub list_as_any: bool,
    /// A locality's weight is cut by the share of its endpoints that are in the subset.
    pub scale_locality_weight: bool,
    /// `fallback_list` among what a route asks for is a list of alternatives.
    pub by_list: bool,
    /// What a call asks for beyond the keys of the longest selector that it satisfies does not
    /// count. Otherwise it must name the keys of a selector and no others.
    pub redundant_keys: bool,
}

impl Subsets {
    /// Subsets by these keys, and calls that meet none fail.
    #[must_use]
    pub fn new(policy: LbPolicy, selectors: Vec<SubsetSelector>) -> Self {
        Self {
            policy,
            selectors,
            fallback: SubsetFallback::Nowhere,
            default: Labels::default(),
            panic_any: false,
            list_as_any: false,
            scale_locality_weight: false,
            by_list: false,
            redundant_keys: false,
        }
    }
}

/// Where calls go that meet no subset.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum SubsetFallback {
    /// They fail (`NO_FALLBACK`).
    #[default]
    Nowhere,
    /// To all endpoints (`ANY_ENDPOINT`).
    Any,
    /// To the default subset (`DEFAULT_SUBSET`).
    Default,
}

/// Keys by whose values endpoints are divided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SubsetSelector {
    /// Not empty.
    pub keys: BTreeSet<Box<str>>,
    /// Where calls go that name these keys and meet no endpoint; `None`: as the cluster says.
    pub fallback: Option<SelectorFallback>,
    /// Of several endpoints with the same values the first is used, by priority.
    pub single_endpoint: bool,
}

impl SubsetSelector {
    /// By these keys.
    #[must_use]
    pub fn by(keys: &[&str]) -> Self {
        Self {
            keys: keys.iter().map(|key| (*key).into()).collect(),
            fallback: None,
            single_endpoint: false,
        }
    }
}

/// Where calls go that name the keys of a selector and meet no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SelectorFallback {
    /// As a cluster's.
    To(SubsetFallback),
    /// They ask again, with these of their keys: fewer than the selector's, at least one
    /// (`KEYS_SUBSET`).
    Keys(BTreeSet<Box<str>>),
}
