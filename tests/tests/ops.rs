//! The alert rules and the dashboard in `ops/` ask for series that a process really has.
//! `cargo xtask ops` has Prometheus' own tool check the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;
use sidestep::telemetry::instruments::{ALL, Instrument, Kind};

fn file(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// An instrument's series in Prometheus.
fn series(instrument: &Instrument) -> Vec<String> {
    let unit = match instrument.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let name = instrument.name.replace('.', "_") + unit;
    match instrument.kind {
        Kind::Counter => vec![name + "_total"],
        Kind::UpDownCounter | Kind::Gauge => vec![name],
        Kind::Histogram(_) => ["_bucket", "_sum", "_count"]
            .map(|part| name.clone() + part)
            .into(),
    }
}

/// Every name of a series or label that a process may give.
fn known() -> BTreeSet<String> {
    let labels = ALL.iter().flat_map(|instrument| instrument.labels);
    let labels = labels.map(|label| label.replace('.', "_"));
    ALL.iter().flat_map(|i| series(i)).chain(labels).collect()
}

/// What in a text looks like a name of ours.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("grpc_") || word.starts_with("sidestep_"))
}

fn unknown(text: &str) -> Vec<String> {
    let known = known();
    let unknown: BTreeSet<&str> = names(text).filter(|name| !known.contains(*name)).collect();
    unknown.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_alert_rules_name_what_is_counted() {
    for path in [
        "ops/prometheus/alerts.yaml",
        "ops/prometheus/alerts_test.yaml",
    ] {
        let text = file(path);
        assert!(names(&text).count() > 20, "{path}");
        assert_eq!(unknown(&text), [""; 0], "{path}");
    }
}

#[test]
fn the_dashboard_names_what_is_counted() {
    let board: Value = serde_json::from_str(&file("ops/grafana/sidestep.json")).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|t| t["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 30, "{}", queries.len());
    assert_eq!(unknown(&queries.join(" ")), [""; 0]);
}

/// What nobody looks at might as well not be counted.
#[test]
fn the_dashboard_shows_every_instrument() {
    let board = file("ops/grafana/sidestep.json");
    let shown: BTreeSet<&str> = names(&board).collect();
    let hidden: Vec<&str> = ALL
        .iter()
        .filter(|instrument| {
            !series(instrument)
                .iter()
                .any(|s| shown.contains(s.as_str()))
        })
        .map(|instrument| instrument.name)
        .collect();
    // Of attempts the ended ones are shown, which are soon all of them.
    assert_eq!(hidden, ["grpc.client.attempt.started"]);
}

#[test]
fn a_name_that_nobody_counts_is_found() {
    let text =
        "rate(grpc_client_call_duration_seconds_count{grpc_statsu=\"OK\"}[1m]) + grpc_nothing";
    assert_eq!(unknown(text), ["grpc_nothing", "grpc_statsu"]);
}
