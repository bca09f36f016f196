use prost_types::{ListValue, Value, value::Kind};

use super::*;
use crate::codec::tests::{ignored, read};
use crate::codec::{Context, decode, encode};
use crate::resource::{LabelValue, Labels, Resource, ResourceType};
use crate::wire::cluster::LoadBalancingPolicy;
use crate::wire::cluster::cluster::lb_subset_config::{
    LbSubsetSelector, lb_subset_selector::LbSubsetSelectorFallbackPolicy as Wire,
};
use crate::wire::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy as Enum,
};
use crate::wire::cluster::load_balancing_policy::Policy;
use crate::wire::core::TypedExtensionConfig;
use crate::wire::load_balancing::{RoundRobin, WrrLocality};

const TYPE: ResourceType = ResourceType::Cluster;

fn cluster(config: LbSubsetConfig) -> Cluster {
    Cluster {
        name: "a".into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(crate::codec::at::ads()),
            ..Default::default()
        }),
        lb_subset_config: Some(config),
        ..Default::default()
    }
}

fn by(keys: &[&str]) -> LbSubsetSelector {
    LbSubsetSelector {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..Default::default()
    }
}

fn falling_back(keys: &[&str], to: i32, left: &[&str]) -> LbSubsetSelector {
    LbSubsetSelector {
        fallback_policy: to,
        fallback_keys_subset: by(left).keys,
        ..by(keys)
    }
}

fn config(selectors: Vec<LbSubsetSelector>) -> LbSubsetConfig {
    LbSubsetConfig {
        subset_selectors: selectors,
        ..Default::default()
    }
}

/// The policy; what is written of it reads back as the same.
fn policy(wire: &Cluster) -> std::result::Result<LbPolicy, String> {
    let resource = read(TYPE, wire)?;
    let again = decode(TYPE, &encode(&resource), &Context::default());
    assert_eq!(again.expect("can be named").result, Ok(resource.clone()));
    let Resource::Cluster(cluster) = resource else {
        panic!("not a cluster");
    };
    Ok(cluster.lb_policy.clone())
}

fn subsets(wire: &Cluster) -> Subsets {
    match policy(wire) {
        Ok(LbPolicy::Subsets(subsets)) => *subsets,
        other => panic!("{other:?}"),
    }
}

fn listed(message: Any) -> LoadBalancingPolicy {
    LoadBalancingPolicy {
        policies: vec![Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                name: String::new(),
                typed_config: Some(message),
            }),
        }],
    }
}

#[test]
fn without_selectors_there_are_no_subsets() {
    let wire = cluster(LbSubsetConfig {
        fallback_policy: 1,
        ..config(Vec::new())
    });
    assert_eq!(policy(&wire), Ok(LbPolicy::round_robin()));
    assert_eq!(ignored(TYPE, &wire), ["lb_subset_config"]);
}

#[test]
fn selectors_have_keys_and_come_once() {
    let wire = cluster(config(vec![
        by(&[]),
        by(&["b", "a", "b"]),
        falling_back(&["a", "b"], Wire::AnyEndpoint as i32, &[]),
    ]));
    let found = subsets(&wire);
    assert_eq!(found.selectors, [SubsetSelector::by(&["a", "b"])]);
    let noted = [
        "lb_subset_config.subset_selectors[0].keys",
        "lb_subset_config.subset_selectors[2].keys",
    ];
    assert_eq!(ignored(TYPE, &wire), noted);
    // Subsets by nothing are still subsets: calls go by the fallback.
    assert_eq!(subsets(&cluster(config(vec![by(&[])]))).selectors, []);
}

#[test]
fn fallbacks_are_read() {
    for (number, expected) in [
        (0, SubsetFallback::Nowhere),
        (1, SubsetFallback::Any),
        (2, SubsetFallback::Default),
    ] {
        let wire = cluster(LbSubsetConfig {
            fallback_policy: number,
            ..config(vec![by(&["a"])])
        });
        assert_eq!(subsets(&wire).fallback, expected);
    }
    let left = ["a".into()].into();
    for (to, left, expected) in [
        (0, &[][..], None),
        (1, &[], Some(SelectorFallback::To(SubsetFallback::Nowhere))),
        (2, &[], Some(SelectorFallback::To(SubsetFallback::Any))),
        (3, &[], Some(SelectorFallback::To(SubsetFallback::Default))),
        (4, &["a"], Some(SelectorFallback::Keys(left))),
    ] {
        let wire = cluster(config(vec![falling_back(&["a", "b"], to, left)]));
        assert_eq!(subsets(&wire).selectors[0].fallback, expected);
    }
}

#[test]
fn what_envoy_refuses_is_refused() {
    let keys = Wire::KeysSubset as i32;
    let selector = |to, left: &[&str]| config(vec![falling_back(&["a", "b"], to, left)]);
    let place = "lb_subset_config.subset_selectors[0].fallback_keys_subset";
    let cases = [
        (selector(keys, &[]), format!("{place}: must not be empty")),
        (
            selector(keys, &["c"]),
            format!("{place}: must be some of the selector's keys, and not all of them"),
        ),
        (
            selector(keys, &["b", "a"]),
            format!("{place}: must be some of the selector's keys, and not all of them"),
        ),
        (
            selector(2, &["a"]),
            format!("{place}: can only be set with KEYS_SUBSET"),
        ),
        (
            selector(9, &[]),
            "lb_subset_config.subset_selectors[0].fallback_policy: the number 9".to_owned(),
        ),
        (
            LbSubsetConfig {
                fallback_policy: 9,
                ..Default::default()
            },
            "lb_subset_config.fallback_policy: the number 9".to_owned(),
        ),
        (
            LbSubsetConfig {
                metadata_fallback_policy: 9,
                ..Default::default()
            },
            "lb_subset_config.metadata_fallback_policy: the number 9".to_owned(),
        ),
    ];
    for (config, expected) in cases {
        let found = policy(&cluster(config)).expect_err("is refused");
        assert!(found.starts_with(&expected), "{found}");
    }
    let both = Cluster {
        load_balancing_policy: Some(listed(Any::pack(&RoundRobin::default()))),
        ..cluster(config(vec![by(&["a"])]))
    };
    let found = policy(&both).expect_err("is refused");
    assert!(
        found.starts_with("load_balancing_policy: cannot be combined with lb_subset_config"),
        "{found}"
    );
}

#[test]
fn localities_have_weights_where_that_is_asked_for() {
    let with = |aware, scale| {
        cluster(LbSubsetConfig {
            locality_weight_aware: aware,
            scale_locality_weight: scale,
            ..config(vec![by(&["a"])])
        })
    };
    let found = subsets(&with(false, false));
    assert_eq!(found.policy, LbPolicy::RoundRobin);
    let found = subsets(&with(true, true));
    assert_eq!(found.policy, LbPolicy::round_robin());
    assert!(found.scale_locality_weight);
    let wire = with(false, true);
    assert!(!subsets(&wire).scale_locality_weight);
    let noted = ["lb_subset_config.scale_locality_weight"];
    assert_eq!(ignored(TYPE, &wire), noted);
    // Policies that see one list have no weights to begin with.
    let hashed = Cluster {
        lb_policy: Enum::RingHash as i32,
        ..with(true, true)
    };
    let found = subsets(&hashed);
    assert!(matches!(found.policy, LbPolicy::RingHash { .. }));
    assert!(!found.scale_locality_weight);
}

#[test]
fn the_policy_of_its_own_says_the_same_and_more() {
    let child = WrrLocality {
        endpoint_picking_policy: Some(listed(Any::pack(&RoundRobin::default()))),
    };
    let message = Subset {
        fallback_policy: 1,
        subset_selectors: vec![own::LbSubsetSelector {
            keys: vec!["a".into()],
            single_host_per_subset: true,
            ..Default::default()
        }],
        locality_weight_aware: true,
        panic_mode_any: true,
        list_as_any: true,
        metadata_fallback_policy: 1,
        subset_lb_policy: Some(listed(Any::pack(&child))),
        allow_redundant_keys: true,
        ..Default::default()
    };
    let wire = Cluster {
        lb_subset_config: None,
        load_balancing_policy: Some(listed(Any::pack(&message))),
        ..cluster(LbSubsetConfig::default())
    };
    let expected = Subsets {
        fallback: SubsetFallback::Any,
        panic_any: true,
        list_as_any: true,
        by_list: true,
        redundant_keys: true,
        ..Subsets::new(
            LbPolicy::round_robin(),
            vec![SubsetSelector {
                single_endpoint: true,
                ..SubsetSelector::by(&["a"])
            }],
        )
    };
    assert_eq!(subsets(&wire), expected);
    let childless = Subset {
        subset_lb_policy: None,
        ..message
    };
    let wire = Cluster {
        load_balancing_policy: Some(listed(Any::pack(&childless))),
        ..wire
    };
    let found = policy(&wire).expect_err("is refused");
    assert!(found.contains("subset_lb_policy: is required"), "{found}");
}

#[test]
fn clients_that_lack_subsets_find_the_policy_inside() {
    let inside = LbPolicy::RoundRobin;
    let subsets = |redundant_keys| {
        let config = Subsets::new(inside.clone(), vec![SubsetSelector::by(&["a"])]);
        LbPolicy::Subsets(Box::new(Subsets {
            redundant_keys,
            ..config
        }))
    };
    let mut wire = Cluster::default();
    super::super::encode(&subsets(false), &mut wire);
    assert_eq!(wire.lb_policy, Enum::RoundRobin as i32);
    assert!(wire.lb_subset_config.is_some() && wire.load_balancing_policy.is_none());
    let mut wire = Cluster::default();
    super::super::encode(&subsets(true), &mut wire);
    let list = wire.load_balancing_policy.expect("is written");
    assert_eq!(list.policies.len(), 2);
    assert!(wire.lb_subset_config.is_none());
}

#[test]
fn values_of_all_kinds_are_read_but_those_that_nothing_equals() {
    let value = |kind| Value { kind: Some(kind) };
    let list = vec![
        value(Kind::BoolValue(true)),
        value(Kind::NumberValue(f64::NAN)),
    ];
    let fields = [
        ("text", value(Kind::StringValue("t".into()))),
        ("nothing", Value { kind: None }),
        ("no-number", value(Kind::NumberValue(f64::INFINITY))),
        ("list", value(Kind::ListValue(ListValue { values: list }))),
    ];
    let default = Struct {
        fields: fields.map(|(key, value)| (key.to_owned(), value)).into(),
    };
    let wire = cluster(LbSubsetConfig {
        default_subset: Some(default),
        ..config(vec![by(&["a"])])
    });
    let expected: Labels = [
        ("text", "t".into()),
        ("list", LabelValue::List([LabelValue::Bool(true)].into())),
    ]
    .into_iter()
    .collect();
    assert_eq!(subsets(&wire).default, expected);
}
