//! Parity of refusal: what grpc-go accepts is accepted, what it refuses is refused; `docs/parity.md`
//! justifies each difference. `cargo xtask interop --only parity` has a live grpc-go say so.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use sidestep::Mesh;
use sidestep::inspect::Status;
use sidestep_interop::corpus::{self, Case, Verdict};
use sidestep_proto::ads::Variant;
use sidestep_server::RawResources;
use sidestep_tests::fixture::{Fixture, quick};

fn cases() -> Vec<Case> {
    corpus::load(corpus::folder()).unwrap()
}

fn root(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What grpc-go was seen to do.
fn recorded() -> BTreeMap<String, Verdict> {
    let text = root("tests/interop/corpus/verdicts/grpc-go.json");
    let value: Value = serde_json::from_str(&text).unwrap();
    let verdicts = value["verdicts"].as_object().unwrap();
    let read = |(name, verdict): (&String, &Value)| {
        (
            name.clone(),
            Verdict::of(verdict.as_str() == Some("accept")),
        )
    };
    verdicts.iter().map(read).collect()
}

/// The table of differences: what grpc-go does with each case in it.
fn justified() -> BTreeMap<String, Verdict> {
    let page = root("docs/parity.md");
    corpus::differences(&page).unwrap()
}

#[test]
fn every_verdict_is_as_expected() {
    let recorded = recorded();
    let cases = cases();
    for case in &cases {
        assert_eq!(
            recorded.get(&case.name),
            Some(&case.expect),
            "{}",
            case.name
        );
    }
    assert_eq!(
        recorded.len(),
        cases.len(),
        "verdicts on cases that are gone"
    );
}

#[test]
fn the_corpus_covers_each_side_and_both_verdicts() {
    let mut seen: BTreeMap<_, BTreeSet<Verdict>> = BTreeMap::new();
    for case in cases() {
        let is_server = case.json.get("filter_chains").is_some();
        let kinds = seen.entry((case.resource_type, is_server)).or_default();
        kinds.insert(case.expect);
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
    assert!(
        seen.values().all(|verdicts| verdicts.len() == 2),
        "{seen:?}"
    );
}

/// Compares our verdicts with grpc-go's: `ours` gives the reason of a refusal.
fn compare(ours: &BTreeMap<String, Result<(), String>>) {
    let differences = corpus::compare(&recorded(), ours, &justified());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn our_codec_agrees_with_grpc_go() {
    let judged = cases()
        .into_iter()
        .map(|case| (case.name.clone(), corpus::judge(&case)));
    compare(&judged.collect());
}

#[tokio::test]
async fn our_runtime_agrees_with_grpc_go() {
    for variant in [Variant::StateOfTheWorld, Variant::Delta] {
        compare(&judged_live(variant).await);
    }
}

/// Subscribes to everything under a live control plane and reads what the process says.
async fn judged_live(variant: Variant) -> BTreeMap<String, Result<(), String>> {
    let cases = cases();
    let own = cases.iter().map(|case| case.any.clone());
    let parents = corpus::parents(&cases).into_iter().map(|(_, any)| any);
    let resources = RawResources::unchecked(own.chain(parents)).unwrap();
    let fixture = Fixture::raw(resources).await;
    let bootstrap = corpus::bootstrap(&fixture.address()).to_string();
    let mesh = Mesh::builder()
        .timers(quick())
        .bootstrap_json(&bootstrap)
        .unwrap();
    let mesh = mesh.variant(variant).build().unwrap();
    let channels = corpus::targets(&cases)
        .into_iter()
        .map(|name| mesh.channel(&format!("xds:///{name}")).unwrap());
    let _channels: Vec<_> = channels.collect();
    let wanted: BTreeSet<_> = cases
        .iter()
        .map(|c| (c.resource_type, c.name.clone()))
        .collect();
    let judged = sidestep_tests::admin::eventually(
        || async { mesh.resources().await.unwrap() },
        |resources| {
            let done = resources.iter().filter(|r| {
                matches!(r.status, Status::Acked | Status::Nacked)
                    && wanted.contains(&(r.resource_type, r.name.clone()))
            });
            done.count() == wanted.len()
        },
    )
    .await;
    let judged = judged
        .into_iter()
        .filter(|r| wanted.contains(&(r.resource_type, r.name.clone())));
    let judged = judged.map(|resource| {
        let verdict = match (resource.status, resource.failure) {
            (Status::Nacked, failure) => Err(failure.unwrap().details),
            _ => Ok(()),
        };
        (resource.name, verdict)
    });
    judged.collect()
}
