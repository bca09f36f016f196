//! `sidestep demo` as CI runs it: the whole mesh, in a process of its own.

use std::process::{Command, Output};

use serde_json::Value;

fn demo(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestep"));
    command.arg("demo").args(arguments);
    command.output().expect("runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn a_killed_backend_costs_no_call() {
    let output = demo(&["--plain", "--scene", "kill", "--seed", "7"]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("control plane  127.0.0.1:"), "{said}");
    assert!(said.contains("kept     0 failed"), "{said}");
    assert!(said.contains("MESH OK"), "{said}");
    assert!(!said.contains("BROKEN"), "{said}");
}

#[test]
fn the_summary_is_json_and_the_files_stay() {
    let directory = tempfile::tempdir().expect("a directory");
    let keep = directory.path().join("mesh");
    let keep = keep.to_str().expect("a plain path");
    let output = demo(&["--json", "--scene", "broken-config", "--keep", keep]);
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON alone");
    assert_eq!(output.status.code(), Some(0), "{summary:#}");
    assert_eq!(summary["ok"], true);
    let scene = &summary["scenes"][0];
    assert_eq!(scene["name"], "broken-config");
    assert_eq!(scene["mesh"]["failed"], 0);
    assert!(scene["mesh"]["ok"].as_u64() > Some(100), "{scene:#}");
    for file in [
        "mesh.yaml",
        "client.json",
        "client.pem",
        "client-key.pem",
        "ca.pem",
        "greeter-a.json",
    ] {
        assert!(directory.path().join("mesh").join(file).exists(), "{file}");
    }
}

#[test]
fn a_run_that_is_too_short_to_judge_anything_proves_nothing() {
    let output = demo(&["--plain", "--for", "1s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("nothing was judged"));
}

#[test]
fn an_unknown_scene_is_wrong_usage_and_the_known_ones_are_shown() {
    let output = demo(&["--scene", "apocalypse"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("rolling"), "{said}");
}
