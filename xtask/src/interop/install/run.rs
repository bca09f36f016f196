//! Commands that must succeed.

use std::io::ErrorKind;
use std::process::Command;

use anyhow::{Result, anyhow, bail, ensure};

/// Runs a command that must succeed; what it says is only of interest if it does not.
pub(super) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// What a command that must succeed says.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("{program} is not there{}", packages(&program));
        }
        Err(error) => return Err(anyhow!(error).context(program)),
    };
    ensure!(
        output.status.success(),
        "{program} {}: {}\n{}{}",
        command
            .get_args()
            .collect::<Vec<_>>()
            .join(" ".as_ref())
            .display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What to install for a program that is missing.
fn packages(program: &str) -> &'static str {
    match program {
        "go" => ": install Go 1.26 or later",
        "python3" => ": install Python 3.9 or later (apt-get install python3 python3-venv)",
        "node" | "npm" => ": install Node.js 18 or later (apt-get install nodejs npm)",
        "java" | "mvn" => {
            ": install Java 17 and Maven (apt-get install default-jdk-headless maven)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let error = output(&mut Command::new("no-such-program-of-ours")).unwrap_err();
        assert_eq!(error.to_string(), "no-such-program-of-ours is not there");
        assert!(packages("npm").contains("apt-get install nodejs npm"));
    }

    #[test]
    fn a_failure_says_what_the_command_said() {
        let mut command = Command::new("sh");
        let error = run(command.args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("exit status: 3\nout\nerr"), "{error}");
    }
}
