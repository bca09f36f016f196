//! Subsets by endpoint metadata: `lb_subset_config` of a cluster, and Envoy's policy
//! `subset.v3.Subset`. gRPC's runtimes know neither.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use prost_types::Struct;

use super::{At, Depth, Family, Result, decode_child, to_list};
use crate::codec::labels;
use crate::resource::{LbPolicy, SelectorFallback, SubsetFallback, SubsetSelector, Subsets};
use crate::wire::Any;
use crate::wire::cluster::Cluster;
use crate::wire::cluster::cluster::LbSubsetConfig;
use crate::wire::cluster::cluster::lb_subset_config as common;
use crate::wire::load_balancing::{Subset, subset as own};

pub(super) const FAMILY: Family = Family {
    is: Any::is::<Subset>,
    decode,
    json: None,
};

const FIELD: &str = "lb_subset_config";

/// What both spellings say.
struct Config {
    fallback: i32,
    default: Option<Struct>,
    selectors: Vec<common::LbSubsetSelector>,
    locality_weight_aware: bool,
    scale_locality_weight: bool,
    panic_mode_any: bool,
    list_as_any: bool,
    metadata_fallback: i32,
    redundant_keys: bool,
}

impl From<LbSubsetConfig> for Config {
    fn from(wire: LbSubsetConfig) -> Self {
        Self {
            fallback: wire.fallback_policy,
            default: wire.default_subset,
            selectors: wire.subset_selectors,
            locality_weight_aware: wire.locality_weight_aware,
            scale_locality_weight: wire.scale_locality_weight,
            panic_mode_any: wire.panic_mode_any,
            list_as_any: wire.list_as_any,
            metadata_fallback: wire.metadata_fallback_policy,
            redundant_keys: false,
        }
    }
}

impl From<Subset> for Config {
    fn from(wire: Subset) -> Self {
        // The two have the same fields under the same numbers.
        let selector = |wire: own::LbSubsetSelector| common::LbSubsetSelector {
            keys: wire.keys,
            single_host_per_subset: wire.single_host_per_subset,
            fallback_policy: wire.fallback_policy,
            fallback_keys_subset: wire.fallback_keys_subset,
        };
        Self {
            fallback: wire.fallback_policy,
            default: wire.default_subset,
            selectors: wire.subset_selectors.into_iter().map(selector).collect(),
            locality_weight_aware: wire.locality_weight_aware,
            scale_locality_weight: wire.scale_locality_weight,
            panic_mode_any: wire.panic_mode_any,
            list_as_any: wire.list_as_any,
            metadata_fallback: wire.metadata_fallback_policy,
            redundant_keys: wire.allow_redundant_keys,
        }
    }
}

/// The policy of a cluster by the cluster's own field. Without selectors there are no subsets.
pub(super) fn of_cluster(at: &At<'_>, wire: &Cluster, policy: LbPolicy) -> Result<LbPolicy> {
    let Some(config) = &wire.lb_subset_config else {
        return Ok(policy);
    };
    if wire.load_balancing_policy.is_some() {
        let at = at.field("load_balancing_policy");
        return Err(at.rule("cannot be combined with lb_subset_config"));
    }
    around(&at.field(FIELD), config.clone().into(), policy)
}

fn decode(at: &At<'_>, any: &Any, depth: Depth) -> Result<LbPolicy> {
    let mut config: Subset = at.unpack(any)?;
    let child = config.subset_lb_policy.take();
    let policy = decode_child(at, "subset_lb_policy", child, depth)?;
    around(at, config.into(), policy)
}

fn around(at: &At<'_>, config: Config, policy: LbPolicy) -> Result<LbPolicy> {
    let fallback = fallback(at, config.fallback)?;
    let by_list = by_list(at, config.metadata_fallback)?;
    let any = !config.selectors.is_empty();
    let selectors = selectors(at, config.selectors)?;
    at.ignore(
        "scale_locality_weight",
        config.scale_locality_weight && !config.locality_weight_aware,
        "localities have no weights unless locality_weight_aware is set",
    );
    if !any {
        at.note("there are no selectors, so there are no subsets");
        return Ok(policy);
    }
    let policy = match policy {
        LbPolicy::WrrLocality(inside) if !config.locality_weight_aware => *inside,
        policy => policy,
    };
    let weighted = matches!(policy, LbPolicy::WrrLocality(_));
    Ok(LbPolicy::Subsets(Box::new(Subsets {
        policy,
        selectors,
        fallback,
        default: labels::decode(config.default.unwrap_or_default()),
        panic_any: config.panic_mode_any,
        list_as_any: config.list_as_any,
        scale_locality_weight: config.scale_locality_weight && weighted,
        by_list,
        redundant_keys: config.redundant_keys,
    })))
}

fn fallback(at: &At<'_>, wire: i32) -> Result<SubsetFallback> {
    match common::LbSubsetFallbackPolicy::try_from(wire) {
        Ok(common::LbSubsetFallbackPolicy::NoFallback) => Ok(SubsetFallback::Nowhere),
        Ok(common::LbSubsetFallbackPolicy::AnyEndpoint) => Ok(SubsetFallback::Any),
        Ok(common::LbSubsetFallbackPolicy::DefaultSubset) => Ok(SubsetFallback::Default),
        Err(_) => Err(unknown(&at.field("fallback_policy"), wire)),
    }
}

fn by_list(at: &At<'_>, wire: i32) -> Result<bool> {
    match common::LbSubsetMetadataFallbackPolicy::try_from(wire) {
        Ok(policy) => Ok(policy == common::LbSubsetMetadataFallbackPolicy::FallbackList),
        Err(_) => Err(unknown(&at.field("metadata_fallback_policy"), wire)),
    }
}

fn unknown(at: &At<'_>, number: i32) -> super::super::at::Fault {
    at.unsupported(format!("the number {number}"))
}

/// Of selectors with the same keys the first counts; those without keys select nothing.
fn selectors(at: &At<'_>, wire: Vec<common::LbSubsetSelector>) -> Result<Vec<SubsetSelector>> {
    let mut selectors: Vec<SubsetSelector> = Vec::new();
    for (i, selector) in wire.into_iter().enumerate() {
        let at = at.item("subset_selectors", i);
        let keys: BTreeSet<Box<str>> = selector.keys.into_iter().map(Into::into).collect();
        let left = selector.fallback_keys_subset.into_iter();
        let left: BTreeSet<Box<str>> = left.map(Into::into).collect();
        if keys.is_empty() {
            at.field("keys")
                .note("a selector without keys selects nothing");
            continue;
        }
        let fallback = selector_fallback(&at, selector.fallback_policy, &keys, left)?;
        if selectors.iter().any(|known| known.keys == keys) {
            at.field("keys")
                .note("the first selector by these keys counts");
            continue;
        }
        selectors.push(SubsetSelector {
            keys,
            fallback,
            single_endpoint: selector.single_host_per_subset,
        });
    }
    Ok(selectors)
}

fn selector_fallback(
    at: &At<'_>,
    wire: i32,
    keys: &BTreeSet<Box<str>>,
    left: BTreeSet<Box<str>>,
) -> Result<Option<SelectorFallback>> {
    use common::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire;
    let place = at.field("fallback_keys_subset");
    let Ok(policy) = Wire::try_from(wire) else {
        return Err(unknown(&at.field("fallback_policy"), wire));
    };
    if policy != Wire::KeysSubset && !left.is_empty() {
        return Err(place.rule("can only be set with KEYS_SUBSET"));
    }
    Ok(match policy {
        Wire::NotDefined => None,
        Wire::NoFallback => Some(SelectorFallback::To(SubsetFallback::Nowhere)),
        Wire::AnyEndpoint => Some(SelectorFallback::To(SubsetFallback::Any)),
        Wire::DefaultSubset => Some(SelectorFallback::To(SubsetFallback::Default)),
        Wire::KeysSubset if left.is_empty() => {
            return Err(place.fault(super::super::Reason::Empty));
        }
        Wire::KeysSubset if !left.is_subset(keys) || left.len() == keys.len() => {
            return Err(place.rule("must be some of the selector's keys, and not all of them"));
        }
        Wire::KeysSubset => Some(SelectorFallback::Keys(left)),
    })
}

/// The cluster's own field, if it can say all of it.
pub(super) fn to_common(subsets: &Subsets) -> Option<LbSubsetConfig> {
    if subsets.redundant_keys {
        return None;
    }
    let Subset {
        fallback_policy,
        default_subset,
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
        ..
    } = to_own(subsets);
    Some(LbSubsetConfig {
        fallback_policy,
        default_subset,
        subset_selectors: to_selectors(subsets),
        locality_weight_aware,
        scale_locality_weight,
        panic_mode_any,
        list_as_any,
        metadata_fallback_policy,
    })
}

pub(super) fn to_message(subsets: &Subsets) -> Any {
    let selectors = to_selectors(subsets).into_iter();
    let selectors = selectors.map(|selector| own::LbSubsetSelector {
        keys: selector.keys,
        single_host_per_subset: selector.single_host_per_subset,
        fallback_policy: selector.fallback_policy,
        fallback_keys_subset: selector.fallback_keys_subset,
    });
    Any::pack(&Subset {
        subset_selectors: selectors.collect(),
        subset_lb_policy: Some(to_list(&subsets.policy)),
        ..to_own(subsets)
    })
}

/// All but the selectors and the policy inside.
fn to_own(subsets: &Subsets) -> Subset {
    let default = labels::encode(&subsets.default);
    Subset {
        fallback_policy: to_fallback(subsets.fallback) as i32,
        default_subset: (!subsets.default.is_empty()).then_some(default),
        locality_weight_aware: matches!(subsets.policy, LbPolicy::WrrLocality(_)),
        scale_locality_weight: subsets.scale_locality_weight,
        panic_mode_any: subsets.panic_any,
        list_as_any: subsets.list_as_any,
        metadata_fallback_policy: i32::from(subsets.by_list),
        allow_redundant_keys: subsets.redundant_keys,
        ..Default::default()
    }
}

fn to_fallback(fallback: SubsetFallback) -> common::LbSubsetFallbackPolicy {
    match fallback {
        SubsetFallback::Nowhere => common::LbSubsetFallbackPolicy::NoFallback,
        SubsetFallback::Any => common::LbSubsetFallbackPolicy::AnyEndpoint,
        SubsetFallback::Default => common::LbSubsetFallbackPolicy::DefaultSubset,
    }
}

fn to_selectors(subsets: &Subsets) -> Vec<common::LbSubsetSelector> {
    use common::lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire;
    let text = |keys: &BTreeSet<Box<str>>| keys.iter().map(ToString::to_string).collect();
    if subsets.selectors.is_empty() {
        // One without keys: without any at all there would be no subsets.
        return vec![common::LbSubsetSelector::default()];
    }
    let selectors = subsets.selectors.iter().map(|selector| {
        let (policy, left) = match &selector.fallback {
            None => (Wire::NotDefined, Vec::new()),
            Some(SelectorFallback::To(SubsetFallback::Nowhere)) => (Wire::NoFallback, Vec::new()),
            Some(SelectorFallback::To(SubsetFallback::Any)) => (Wire::AnyEndpoint, Vec::new()),
            Some(SelectorFallback::To(SubsetFallback::Default)) => {
                (Wire::DefaultSubset, Vec::new())
            }
            Some(SelectorFallback::Keys(left)) => (Wire::KeysSubset, text(left)),
        };
        common::LbSubsetSelector {
            keys: text(&selector.keys),
            single_host_per_subset: selector.single_endpoint,
            fallback_policy: policy as i32,
            fallback_keys_subset: left,
        }
    });
    selectors.collect()
}
