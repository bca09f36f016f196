//! What a run comes to: a table for people, JSON for programs, an exit code for both.

use std::time::Duration;

use serde_json::{Value, json};

use super::scene::Verdict;
use super::tally::Counts;
use crate::output::{Cell, Exit, Style, table};

/// In order only if there was something to judge, and every promise held.
pub(super) fn exit(verdicts: &[Verdict]) -> Exit {
    let broken = verdicts.iter().any(|it| !it.touched && !it.kept());
    if verdicts.is_empty() || broken {
        Exit::Failed
    } else {
        Exit::Ok
    }
}

/// One row a scene, both groups side by side.
pub(super) fn as_table(style: Style, verdicts: &[Verdict]) -> String {
    let heading = [
        "SCENE",
        "PROMISE",
        "MESH OK",
        "FAILED",
        "RETRIED",
        "P50",
        "P99",
        "|",
        "CONTROL OK",
        "FAILED",
        "P50",
        "P99",
    ];
    let mut rows = vec![heading.map(Cell::plain).into_iter().collect::<Vec<_>>()];
    rows.extend(verdicts.iter().map(row));
    table(style, &rows)
}

fn row(verdict: &Verdict) -> Vec<Cell> {
    let Verdict { mesh, control, .. } = verdict;
    let promise = match (verdict.touched, verdict.kept()) {
        (true, _) => Cell::painted("by hand", Style::odd),
        (false, true) => Cell::painted("kept", Style::good),
        (false, false) => Cell::painted("BROKEN", Style::bad),
    };
    vec![
        Cell::plain(verdict.scene.name),
        promise,
        Cell::plain(mesh.ok.to_string()),
        failures(mesh),
        Cell::plain(mesh.retried.to_string()),
        Cell::plain(quantile(mesh, 0.5)),
        Cell::plain(quantile(mesh, 0.99)),
        Cell::plain("|"),
        Cell::plain(control.ok.to_string()),
        failures(control),
        Cell::plain(quantile(control, 0.5)),
        Cell::plain(quantile(control, 0.99)),
    ]
}

fn failures(counts: &Counts) -> Cell {
    let text = counts.failures().to_string();
    if counts.failures() == 0 {
        Cell::plain(text)
    } else {
        Cell::painted(text, Style::bad)
    }
}

/// A latency as people read it: `11.3 ms`; `-` without an answered call.
pub(super) fn quantile(counts: &Counts, quantile: f64) -> String {
    counts
        .latency(quantile)
        .map_or_else(|| "-".to_owned(), milliseconds)
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// The whole run as JSON.
pub(super) fn as_json(seed: u64, verdicts: &[Verdict]) -> Value {
    let scenes: Vec<Value> = verdicts.iter().map(scene).collect();
    json!({"ok": exit(verdicts) == Exit::Ok, "seed": seed, "scenes": scenes})
}

fn scene(verdict: &Verdict) -> Value {
    let claims = verdict.claims.iter();
    let claims: Vec<Value> = claims
        .map(|claim| json!({"held": claim.held, "text": claim.text}))
        .collect();
    json!({
        "name": verdict.scene.name,
        "promise": verdict.scene.promise,
        "kept": verdict.kept(),
        "touched_by_hand": verdict.touched,
        "claims": claims,
        "seconds": verdict.took.as_secs_f64(),
        "mesh": group(&verdict.mesh),
        "control": group(&verdict.control),
    })
}

fn group(counts: &Counts) -> Value {
    let ms = |quantile| counts.latency(quantile).map(|it| it.as_secs_f64() * 1000.0);
    json!({
        "ok": counts.ok,
        "failed": counts.failures(),
        "failed_by_code": counts.failed,
        "retried": counts.retried,
        "p50_ms": ms(0.5),
        "p99_ms": ms(0.99),
        "endpoints": counts.endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scene::{Claim, SCENES};

    fn verdict(held: bool, touched: bool) -> Verdict {
        Verdict {
            scene: SCENES[0],
            took: Duration::from_secs(1),
            claims: vec![Claim {
                text: "0 failed".to_owned(),
                held,
            }],
            touched,
            mesh: Counts::default(),
            control: Counts::default(),
        }
    }

    #[test]
    fn one_broken_promise_fails_the_run() {
        assert_eq!(exit(&[verdict(true, false)]), Exit::Ok);
        assert_eq!(
            exit(&[verdict(true, false), verdict(false, false)]),
            Exit::Failed
        );
    }

    #[test]
    fn a_run_that_judged_nothing_proves_nothing() {
        assert_eq!(exit(&[]), Exit::Failed);
    }

    #[test]
    fn what_the_user_broke_is_not_held_against_the_mesh() {
        assert_eq!(exit(&[verdict(false, true)]), Exit::Ok);
    }

    #[test]
    fn both_forms_say_which_promise_was_broken() {
        let verdicts = [verdict(false, false)];
        let json = as_json(7, &verdicts);
        assert_eq!(json["ok"], false);
        assert_eq!(json["scenes"][0]["claims"][0]["held"], false);
        let style = Style::of(&std::io::stdout());
        assert!(as_table(style, &verdicts).contains("BROKEN"));
    }
}
