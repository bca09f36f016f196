//! `cargo xtask ops`: what an operator takes from `ops/`, checked by Prometheus' own tool.
//!
//! That the names in rules and dashboard are those of the instruments is `tests/tests/ops.rs`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::codegen::root;

pub(crate) mod dashboard;

/// The alert rules.
pub(crate) fn rules() -> PathBuf {
    root().join("ops/prometheus/alerts.yaml")
}

pub(crate) fn run() -> Result<()> {
    let tests = root().join("ops/prometheus/alerts_test.yaml");
    promtool(&["check", "rules"], &rules())?;
    promtool(&["test", "rules"], &tests)?;
    let rules = fs::read_to_string(rules())?;
    let alerts = alerts(&rules);
    let faults = [
        untested(&alerts, &fs::read_to_string(tests)?),
        without_page(&alerts, &root().join("docs/runbooks"))?,
        dashboard::read()?.faults(),
    ]
    .concat();
    for fault in &faults {
        eprintln!("{fault}");
    }
    ensure!(faults.is_empty(), "{} faults", faults.len());
    let queries = dashboard::read()?.queries();
    well_formed(&queries)?;
    println!(
        "{} alerts, each tested and with a runbook; {} queries of the dashboard parse",
        alerts.len(),
        queries.len()
    );
    Ok(())
}

fn promtool(verb: &[&str], file: &Path) -> Result<()> {
    let output = Command::new("promtool")
        .args(verb)
        .arg(file)
        .output()
        .context("promtool: `apt-get install prometheus` has it")?;
    ensure!(
        output.status.success(),
        "promtool {} {}:\n{}{}",
        verb.join(" "),
        file.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}

/// Names of the alerts in a file of rules.
fn alerts(rules: &str) -> Vec<&str> {
    let lines = rules.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix("- alert: "))
        .collect()
}

/// Alerts without a case in which they fire or one in which they do not.
fn untested(alerts: &[&str], tests: &str) -> Vec<String> {
    let cases: Vec<&str> = tests.split("- alertname: ").skip(1).collect();
    let has = |alert: &str, quiet: bool| {
        cases.iter().any(|case| {
            let named = case.lines().next() == Some(alert);
            named && case.contains("exp_alerts: []") == quiet
        })
    };
    let mut faults = Vec::new();
    for alert in alerts {
        if !has(alert, false) {
            faults.push(format!("no test in which {alert} fires"));
        }
        if !has(alert, true) {
            faults.push(format!("no test in which {alert} does not fire"));
        }
    }
    faults
}

/// Alerts without a runbook and runbooks without an alert; both in the table of runbooks.
fn without_page(alerts: &[&str], folder: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string(folder.join("README.md"))?;
    let mut pages = BTreeSet::new();
    for file in fs::read_dir(folder)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if let Some(name) = name.strip_suffix(".md").filter(|name| *name != "README") {
            pages.insert(name.to_owned());
        }
    }
    let mut faults = Vec::new();
    for alert in alerts {
        if !pages.remove(*alert) {
            faults.push(format!("no docs/runbooks/{alert}.md"));
        }
        if !table.contains(&format!("[{alert}]({alert}.md)")) {
            faults.push(format!("docs/runbooks/README.md does not list {alert}"));
        }
    }
    faults.extend(pages.iter().map(|page| format!("no alert {page}")));
    Ok(faults)
}

/// Has promtool read queries: as rules, which is the only form in which it reads any.
fn well_formed(queries: &[(String, String)]) -> Result<()> {
    let rules: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(number, (_, query))| json!({"record": format!("dashboard:{number}"), "expr": query}))
        .collect();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("dashboard.json");
    // JSON is YAML.
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(&file, groups.to_string())?;
    promtool(&["check", "rules"], &file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_needs_both_kinds_of_tests() {
        let alerts = alerts("  - alert: A\n    expr: x\n  - alert: B\n");
        assert_eq!(alerts, ["A", "B"]);
        let tests = "- alertname: A\n exp_alerts: []\n- alertname: A\n exp_alerts:\n  - x\n\
                     - alertname: B\n exp_alerts: []\n";
        assert_eq!(untested(&alerts, tests), ["no test in which B fires"]);
    }

    #[test]
    fn every_alert_has_its_page() {
        let text = fs::read_to_string(rules()).unwrap();
        let faults = without_page(&alerts(&text), &root().join("docs/runbooks")).unwrap();
        assert!(faults.is_empty(), "{faults:?}");
        let faults = without_page(&["Nobody"], &root().join("docs/runbooks")).unwrap();
        assert!(faults.len() > 2, "{faults:?}");
    }

    #[test]
    fn the_dashboard_is_in_order() {
        let dashboard = dashboard::read().unwrap();
        assert!(dashboard.faults().is_empty(), "{:?}", dashboard.faults());
        assert!(dashboard.queries().len() > 30);
    }
}
