//! Running the built binary.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub(crate) fn sidestep() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestep"));
    for variable in [
        "SIDESTEP_LISTEN",
        "SIDESTEP_SERVER",
        "SIDESTEP_MESH",
        "GRPC_XDS_BOOTSTRAP",
        "GRPC_XDS_BOOTSTRAP_CONFIG",
    ] {
        command.env_remove(variable);
    }
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    sidestep().args(arguments).output().expect("runs")
}

/// Runs it and insists on its exit code; what it printed on standard output and on standard error.
pub(crate) fn run_to(code: i32, arguments: &[&str]) -> (String, String) {
    let output = run(arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{out}\n{err}"
    );
    (out, err)
}

pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

pub(crate) fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}
