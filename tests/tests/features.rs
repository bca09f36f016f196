//! FEATURES.md promises tests; each of them must exist.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("a crate of the workspace").to_owned()
}

/// What stands between backticks in the last cell of each row of a table.
fn proofs(text: &str) -> Vec<(usize, String)> {
    let mut proofs = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let Some(row) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else {
            continue;
        };
        let cell = row.rsplit(" | ").next().unwrap_or_default();
        let quoted = cell.split('`').skip(1).step_by(2);
        proofs.extend(quoted.map(|proof| (number + 1, proof.to_owned())));
    }
    proofs
}

/// The sources of the interop suite, in which its scenarios are.
fn scenarios() -> String {
    let suite = root().join("xtask/src/interop");
    let folders = [suite.join("scenarios"), suite];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("the suite has scenarios"))
        .map(|file| file.unwrap().path());
    let sources = files.filter(|path| path.extension().is_some_and(|e| e == "rs"));
    sources
        .map(|file| fs::read_to_string(file).unwrap())
        .collect()
}

/// Why a proof does not hold; `None` if it does.
fn fault(proof: &str) -> Option<String> {
    if let Some(name) = proof.strip_prefix("interop ") {
        let known = scenarios().contains(&format!("name: \"{name}\""));
        return (!known).then(|| format!("no interop scenario {name:?}"));
    }
    let Some((file, function)) = proof.split_once("::") else {
        return Some(format!("{proof:?} is no file::function"));
    };
    let Ok(text) = fs::read_to_string(root().join(file)) else {
        return Some(format!("no file {file}"));
    };
    let Some(at) = text.find(&format!("fn {function}()")) else {
        return Some(format!("no fn {function} in {file}"));
    };
    let before = text[..at].trim_end_matches("async ").trim_end();
    (!before.ends_with(']')).then(|| format!("fn {function} in {file} is no test"))
}

#[test]
fn every_test_that_the_feature_table_names_exists() {
    let text = fs::read_to_string(root().join("FEATURES.md")).unwrap();
    let proofs = proofs(&text);
    assert!(proofs.len() > 80, "the table is read: {}", proofs.len());
    let faults: Vec<String> = proofs
        .iter()
        .filter_map(|(line, proof)| Some(format!("FEATURES.md:{line}: {}", fault(proof)?)))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_feature_that_is_there_names_a_test() {
    let text = fs::read_to_string(root().join("FEATURES.md")).unwrap();
    for (number, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let claims = cells.iter().rev().nth(1);
        let claims = claims.is_some_and(|c| c.starts_with("yes") || c.starts_with("partial"));
        assert!(
            !claims || line.contains("` |"),
            "FEATURES.md:{}",
            number + 1
        );
    }
}

#[test]
fn a_proof_that_does_not_exist_is_found() {
    assert_eq!(
        fault("tests/tests/features.rs::a_proof_that_does_not_exist_is_found"),
        None
    );
    assert!(fault("tests/tests/features.rs::no_such_test").is_some());
    assert!(fault("tests/tests/features.rs::root").is_some());
    assert!(fault("no/such/file.rs::f").is_some());
    assert!(fault("interop nobody").is_some());
}
