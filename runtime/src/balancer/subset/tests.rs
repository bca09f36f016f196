use std::time::Duration;

use http::HeaderMap;
use sidestep_proto::resource::{
    LabelValue, Labels, SelectorFallback, SubsetFallback, SubsetSelector,
};

use super::super::build;
use super::super::conformance::{Rig, pick};
use super::*;
use crate::routing::Criteria;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn subsets(keys: &[&[&str]]) -> Subsets {
    let selectors = keys.iter().map(|keys| SubsetSelector::by(keys));
    Subsets::new(LbPolicy::RoundRobin, selectors.collect())
}

fn rig(subsets: Subsets) -> Rig {
    Rig::new(build(&LbPolicy::Subsets(Box::new(subsets)), 7))
}

fn endpoint(rig: &Rig, id: u32, pairs: &[(&str, &str)]) -> Endpoint {
    Endpoint {
        labels: labels(pairs),
        ..rig.endpoint(id)
    }
}

fn ask<T>(pairs: &[(&str, &str)], then: impl FnOnce(&Call<'_>) -> T) -> T {
    let criteria = Criteria::compile(&labels(pairs));
    then(&Call {
        authority: "a",
        path: "/a.A/M",
        headers: &HeaderMap::new(),
        random: 0,
        hash: 0,
        session: None,
        subset: criteria.as_ref(),
    })
}

/// Where calls go that ask for this, in turn.
fn met(rig: &Rig, pairs: &[(&str, &str)]) -> Vec<u32> {
    let mut ids = BTreeSet::new();
    for _ in 0..20 {
        ask(pairs, |call| match rig.picker().pick(call) {
            Pick::Ready(SubchannelId(id)) => _ = ids.insert(id),
            Pick::Fail(failure) => assert_eq!(failure.1, code::NO_SUBSET, "{failure}"),
            other => panic!("{other:?}"),
        });
    }
    ids.into_iter().collect()
}

fn told(rig: &Rig, pairs: &[(&str, &str)]) -> String {
    ask(pairs, |call| rig.picker().explain(call)).expect("there are subsets")
}

/// Five endpoints that are ready: the example of Envoy's documentation.
fn five(rig: &mut Rig) -> Vec<Endpoint> {
    let prod = ("stage", "prod");
    let of = |id, version, hw| endpoint(rig, id, &[prod, ("version", version), ("type", hw)]);
    let all = vec![
        of(1, "1.0", "std"),
        of(2, "1.0", "big"),
        of(3, "1.1", "std"),
        of(4, "1.1", "std"),
        endpoint(rig, 5, &[("stage", "dev"), ("version", "1.2")]),
    ];
    rig.update(&all);
    all.iter().for_each(|e| rig.set(e.id, Connectivity::Ready));
    all
}

#[test]
fn calls_meet_the_endpoints_that_they_ask_for() {
    let mut rig = rig(subsets(&[
        &["stage", "type"],
        &["stage", "version"],
        &["version"],
    ]));
    five(&mut rig);
    assert_eq!(met(&rig, &[("version", "1.0")]), [1, 2]);
    assert_eq!(met(&rig, &[("version", "1.2")]), [5]);
    assert_eq!(met(&rig, &[("stage", "prod"), ("type", "std")]), [1, 3, 4]);
    assert_eq!(met(&rig, &[("stage", "prod"), ("version", "1.1")]), [3, 4]);
    // Neither keys without a selector nor values that nobody has, nor nothing.
    for nobody in [
        &[("stage", "prod")][..],
        &[("version", "2.0")],
        &[("version", "1.0"), ("type", "std")],
        &[],
    ] {
        assert_eq!(met(&rig, nobody), [0; 0], "{nobody:?}");
    }
    assert_eq!(told(&rig, &[("version", "1.0")]), "subset {version=1.0}");
    assert_eq!(
        told(&rig, &[("version", "2.0")]),
        "subset {version=2.0}: no endpoint has it, and there is nothing to fall back to"
    );
    assert_eq!(
        told(&rig, &[]),
        "no subset is asked for, and there is nothing to fall back to"
    );
}

#[test]
fn calls_fall_back_as_the_cluster_says() {
    let mut any = rig(Subsets {
        fallback: SubsetFallback::Any,
        ..subsets(&[&["version"]])
    });
    five(&mut any);
    assert_eq!(met(&any, &[("version", "9")]), [1, 2, 3, 4, 5]);
    assert_eq!(met(&any, &[]), [1, 2, 3, 4, 5]);
    assert_eq!(
        told(&any, &[("version", "9")]),
        "subset {version=9}: no endpoint has it, so any endpoint"
    );
    let with_default = |stage, panic_any| Subsets {
        fallback: SubsetFallback::Default,
        default: labels(&[("stage", stage)]),
        panic_any,
        ..subsets(&[&["version"]])
    };
    let mut default = rig(with_default("dev", false));
    five(&mut default);
    assert_eq!(met(&default, &[("version", "9")]), [5]);
    assert_eq!(met(&default, &[("version", "1.0")]), [1, 2]);
    assert_eq!(
        told(&default, &[]),
        "no subset is asked for: the default subset {stage=dev}"
    );
    let mut empty = rig(with_default("test", false));
    five(&mut empty);
    assert_eq!(met(&empty, &[]), [0; 0]);
    let mut panics = rig(with_default("test", true));
    five(&mut panics);
    assert_eq!(met(&panics, &[]), [1, 2, 3, 4, 5]);
    assert_eq!(
        told(&panics, &[]),
        "no subset is asked for: the fallback has no endpoint, so any endpoint"
    );
}

#[test]
fn a_selector_may_say_otherwise() {
    let selector = |keys: &[&str], fallback| SubsetSelector {
        fallback: Some(fallback),
        ..SubsetSelector::by(keys)
    };
    let left = ["version".into()].into();
    let selectors = vec![
        selector(&["stage"], SelectorFallback::To(SubsetFallback::Nowhere)),
        selector(&["stage", "version"], SelectorFallback::Keys(left)),
        selector(&["type"], SelectorFallback::To(SubsetFallback::Default)),
        SubsetSelector::by(&["version"]),
    ];
    let mut rig = rig(Subsets {
        fallback: SubsetFallback::Any,
        default: labels(&[("stage", "dev")]),
        ..Subsets::new(LbPolicy::RoundRobin, selectors)
    });
    five(&mut rig);
    assert_eq!(met(&rig, &[("stage", "test")]), [0; 0]);
    assert_eq!(met(&rig, &[("type", "none")]), [5]);
    // By fewer keys, and then by the cluster.
    let asked = [("stage", "test"), ("version", "1.1")];
    assert_eq!(met(&rig, &asked), [3, 4]);
    assert_eq!(
        told(&rig, &asked),
        "subset {stage=test, version=1.1}: no endpoint has it, by its keys subset {version=1.1}"
    );
    let asked = [("stage", "test"), ("version", "9")];
    assert_eq!(met(&rig, &asked), [1, 2, 3, 4, 5]);
}

#[test]
fn more_may_be_asked_for_than_there_are_keys_if_that_is_said() {
    let asked = [("version", "1.0"), ("stage", "prod"), ("other", "x")];
    let strict = subsets(&[&["version"], &["stage", "version"]]);
    let mut lax = rig(Subsets {
        redundant_keys: true,
        ..strict.clone()
    });
    let mut strict = rig(strict);
    five(&mut strict);
    five(&mut lax);
    assert_eq!(met(&strict, &asked), [0; 0]);
    assert_eq!(met(&lax, &asked), [1, 2]);
    assert_eq!(met(&lax, &[("version", "1.1"), ("stage", "dev")]), [0; 0]);
}

#[test]
fn each_value_of_a_list_counts_if_that_is_said() {
    let of = |list_as_any| {
        let mut rig = rig(Subsets {
            list_as_any,
            ..subsets(&[&["v"], &["v", "w"]])
        });
        let list =
            |texts: &[&str]| LabelValue::List(texts.iter().map(|text| (*text).into()).collect());
        let listed = [("v", list(&["1", "2", "2"])), ("w", list(&["a", "b"]))];
        let one = Endpoint {
            labels: listed.into_iter().collect(),
            ..rig.endpoint(1)
        };
        let two = endpoint(&rig, 2, &[("v", "2")]);
        rig.update(&[one.clone(), two.clone()]);
        [one, two]
            .iter()
            .for_each(|e| rig.set(e.id, Connectivity::Ready));
        rig
    };
    assert_eq!(met(&of(true), &[("v", "1")]), [1]);
    assert_eq!(met(&of(true), &[("v", "2")]), [1, 2]);
    assert_eq!(met(&of(true), &[("v", "2"), ("w", "b")]), [1]);
    assert_eq!(met(&of(false), &[("v", "1")]), [0; 0]);
    assert_eq!(met(&of(false), &[("v", "2")]), [2]);
}

#[test]
fn alternatives_are_tried_in_order_where_the_cluster_goes_by_them() {
    let list = |versions: &[&str]| {
        let each = versions.iter();
        let each = each.map(|version| LabelValue::Object(labels(&[("version", version)])));
        let asked = [
            ("version", "1.0".into()),
            ("fallback_list", LabelValue::List(each.collect())),
        ];
        Criteria::compile(&asked.into_iter().collect()).expect("asks for something")
    };
    let find = |by_list, versions: &[&str]| {
        let mut rig = rig(Subsets {
            by_list,
            ..subsets(&[&["version"]])
        });
        five(&mut rig);
        let criteria = list(versions);
        ask(&[], |call| {
            let subset = Some(&criteria);
            match rig.picker().pick(&Call { subset, ..*call }) {
                Pick::Ready(id) => Some(id.0),
                _ => None,
            }
        })
    };
    assert_eq!(find(true, &["9", "1.2"]), Some(5));
    assert!(matches!(find(true, &[]), Some(1 | 2)));
    assert_eq!(find(true, &["9"]), None);
    assert_eq!(find(false, &["1.2"]), None);
}

#[test]
fn one_endpoint_of_a_subset_is_used_if_that_is_said() {
    let mut selectors = subsets(&[&["version"]]);
    selectors.selectors[0].single_endpoint = true;
    let mut rig = rig(selectors);
    let v = |rig: &Rig, id, priority| Endpoint {
        labels: labels(&[("version", "1")]),
        ..rig.endpoint_in(id, "a", 1, priority)
    };
    let all = [v(&rig, 1, 1), v(&rig, 2, 0), v(&rig, 3, 0)];
    rig.update(&all);
    assert_eq!(rig.connects, [SubchannelId(2)]);
    rig.set(SubchannelId(2), Connectivity::Ready);
    assert_eq!(met(&rig, &[("version", "1")]), [2]);
    let why = rig.standing(SubchannelId(3)).passed_over;
    assert_eq!(why.as_deref(), Some("it is in no subset"));
}

#[test]
fn an_endpoint_that_moves_keeps_its_connection() {
    let mut rig = rig(subsets(&[&["version"]]));
    let mut all = five(&mut rig);
    let connects = rig.connects.len();
    all[4].labels = labels(&[("version", "1.0")]);
    rig.update(&all);
    assert_eq!(met(&rig, &[("version", "1.0")]), [1, 2, 5]);
    assert_eq!(met(&rig, &[("version", "1.2")]), [0; 0]);
    assert_eq!(rig.closes, []);
    assert!(rig.connects[connects..].iter().all(|id| id.0 == 5));
    // Into a subset of its own.
    all[0].labels = labels(&[("version", "7")]);
    rig.update(&all);
    assert_eq!(met(&rig, &[("version", "7")]), [1]);
    assert_eq!(rig.closes, []);
    // Into none: nobody needs it.
    all[0].labels = Labels::default();
    rig.update(&all);
    assert_eq!(rig.closes, [SubchannelId(1)]);
    assert_eq!(met(&rig, &[("version", "1.0")]), [2, 5]);
    // A connection that somebody else made of it is not kept.
    rig.set(SubchannelId(1), Connectivity::Ready);
    assert_eq!(rig.closes.len(), 2);
}

#[test]
fn only_subsets_that_change_are_made_anew() {
    let mut rig = rig(subsets(&[&["version"]]));
    let mut all = five(&mut rig);
    let publishes = rig.publishes;
    rig.update(&all);
    assert_eq!(rig.publishes, publishes);
    // Their order in one subset says nothing of the other's.
    let turn = |rig: &Rig| {
        ask(&[("version", "1.1")], |call| {
            rig.picker().pick(call) == Pick::Ready(SubchannelId(3))
        })
    };
    let before = turn(&rig);
    all.remove(0);
    rig.update(&all);
    assert_eq!(rig.publishes, publishes + 1);
    // The untouched picker goes on where it was.
    assert_ne!(turn(&rig), before);
    assert_eq!(met(&rig, &[("version", "1.0")]), [2]);
}

#[test]
fn a_shared_connection_is_closed_when_the_last_gives_it_up() {
    // One endpoint of two in each subset, drawn by itself, over all of them and by label.
    let few = LbPolicy::RandomSubset {
        size: 1,
        child: Box::new(LbPolicy::RoundRobin),
    };
    let selectors = vec![SubsetSelector::by(&["v"])];
    let mut rig = rig(Subsets {
        fallback: SubsetFallback::Any,
        ..Subsets::new(few, selectors)
    });
    let all: Vec<_> = (1..=6)
        .map(|id| endpoint(&rig, id, &[("v", if id % 2 == 0 { "even" } else { "odd" })]))
        .collect();
    rig.update(&all);
    for endpoint in &all {
        rig.set(endpoint.id, Connectivity::Ready);
    }
    let wanted: BTreeSet<_> = rig.connects.iter().copied().collect();
    assert!((2..=3).contains(&wanted.len()), "{wanted:?}");
    for asked in [&[][..], &[("v", "odd")], &[("v", "even")]] {
        let met = met(&rig, asked);
        assert_eq!(met.len(), 1, "{met:?}");
        assert!(wanted.contains(&SubchannelId(met[0])));
        assert!(!rig.closes.contains(&SubchannelId(met[0])));
    }
    for endpoint in all.iter().filter(|e| !wanted.contains(&e.id)) {
        assert!(rig.closes.contains(&endpoint.id), "{:?}", endpoint.id);
    }
}

#[test]
fn one_who_gave_a_connection_up_hears_of_the_call_that_asks_for_it() {
    let first = LbPolicy::PickFirst { shuffle: false };
    let mut rig = rig(Subsets {
        fallback: SubsetFallback::Any,
        ..Subsets::new(first, Vec::new())
    });
    let all = [rig.endpoint(1), rig.endpoint(2)];
    rig.update(&all);
    rig.fail(SubchannelId(1), "connection refused");
    rig.set(SubchannelId(2), Connectivity::Ready);
    assert_eq!(rig.closes, [SubchannelId(1)]);
    rig.set(SubchannelId(2), Connectivity::Idle);
    assert_eq!(rig.pick(0), Pick::Connect(SubchannelId(1)));
    let connects = rig.connects.len();
    rig.connect_requested(SubchannelId(1));
    assert_eq!(rig.connects[connects..], [SubchannelId(1)]);
}

#[test]
fn each_subset_has_priorities_of_its_own() {
    let mut rig = rig(subsets(&[&["v"]]));
    let v = |rig: &Rig, id, v, priority| Endpoint {
        labels: labels(&[("v", v)]),
        ..rig.endpoint_in(id, "a", 1, priority)
    };
    let all = [v(&rig, 1, "1", 0), v(&rig, 2, "1", 1), v(&rig, 3, "2", 1)];
    rig.update(&all);
    rig.set(SubchannelId(3), Connectivity::Ready);
    assert_eq!(met(&rig, &[("v", "2")]), [3]);
    rig.fail(SubchannelId(1), "connection refused");
    rig.set(SubchannelId(2), Connectivity::Ready);
    assert_eq!(met(&rig, &[("v", "1")]), [2]);
    // Failing is not missing: a subset that cannot be reached does not fall back.
    rig.fail(SubchannelId(3), "connection refused");
    ask(&[("v", "2")], |call| {
        let failed = rig.picker().pick(call);
        assert!(matches!(failed, Pick::Fail(failure) if failure.1 == code::CANNOT_CONNECT));
    });
    assert_eq!(rig.state(), Connectivity::Ready);
}

#[test]
fn weights_of_localities_are_cut_by_the_share_of_endpoints_in_the_subset() {
    let counts = |scale| {
        let mut rig = rig(Subsets {
            scale_locality_weight: scale,
            ..Subsets::new(LbPolicy::round_robin(), vec![SubsetSelector::by(&["v"])])
        });
        let all: Vec<_> = (0..10)
            .map(|id| {
                let zone = if id < 5 { "a" } else { "b" };
                let v = if id == 0 || id >= 5 { "1" } else { "2" };
                Endpoint {
                    labels: labels(&[("v", v)]),
                    ..rig.endpoint_in(id, zone, 1, 0)
                }
            })
            .collect();
        rig.update(&all);
        all.iter().for_each(|e| rig.set(e.id, Connectivity::Ready));
        let criteria = Criteria::compile(&labels(&[("v", "1")]));
        let first = (0..6_000).filter(|random| {
            ask(&[], |call| {
                let subset = criteria.as_ref();
                let random = *random;
                let call = Call {
                    subset,
                    random,
                    ..*call
                };
                rig.picker().pick(&call) == Pick::Ready(SubchannelId(0))
            })
        });
        first.count()
    };
    // One of five in one locality, all five in the other: half of the calls, or a sixth.
    assert!(counts(false).abs_diff(3_000) < 200);
    assert!(counts(true).abs_diff(1_000) < 150);
}

#[test]
fn a_probe_stays_in_its_subset() {
    let mut rig = rig(subsets(&[&["version"]]));
    five(&mut rig);
    let admits =
        |pairs: &[(&str, &str)], id| ask(pairs, |call| rig.picker().admits(call, SubchannelId(id)));
    assert!(admits(&[("version", "1.0")], 1));
    assert!(!admits(&[("version", "1.0")], 5));
    assert!(!admits(&[], 1));
}

#[test]
fn timers_of_all_subsets_are_kept() {
    let mut rig = rig(subsets(&[&["v"]]));
    let v = |rig: &Rig, id, v, priority| Endpoint {
        labels: labels(&[("v", v)]),
        ..rig.endpoint_in(id, "a", 1, priority)
    };
    let all = [v(&rig, 1, "1", 0), v(&rig, 2, "1", 1), v(&rig, 3, "2", 0)];
    rig.update(&all);
    assert!(rig.next_timeout().is_some());
    // The first priority has had its ten seconds: the second one is tried.
    rig.advance(Duration::from_secs(11));
    assert!(rig.connects.contains(&SubchannelId(2)));
    rig.update(&[]);
    assert_eq!(rig.next_timeout(), None);
    assert!(
        matches!(pick(rig.picker(), 0), Pick::Fail(failure) if failure.1 == code::NO_ENDPOINTS)
    );
}
