//! A capture of the demo's terminal view, by way of `tmux`.

use std::process::Command;

use anyhow::{Result, ensure};

use super::process::{output, wait_for};
use super::program;

const COLUMNS: &str = "110";
const ROWS: &str = "34";
/// An event of the scene that tells most: a backend was killed under both groups and is back.
const MOMENT: &str = "it takes calls after";

/// The screen of `sidestep demo`, with colours, at the moment that is shown.
pub(super) fn capture() -> Result<String> {
    let session = Session::start()?;
    let screen = wait_for("a backend that is back in the demo", || {
        let screen = session.tmux(&["capture-pane", "-e", "-p"])?;
        Ok(screen.contains(MOMENT).then_some(screen))
    })?;
    ensure!(
        screen.contains("\x1b["),
        "the demo drew no colours:\n{screen}"
    );
    Ok(screen.trim_end().to_owned())
}

/// A tmux server of our own, which ends with its owner, and the demo with it.
struct Session {
    /// Holds the server's socket.
    directory: tempfile::TempDir,
}

impl Session {
    fn start() -> Result<Self> {
        let session = Self {
            directory: tempfile::tempdir()?,
        };
        let demo = format!("exec '{}' demo", program("sidestep")?.display());
        session.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            COLUMNS,
            "-y",
            ROWS,
            &demo,
        ])?;
        Ok(session)
    }

    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command
            .args(["-u", "-S"])
            .arg(self.directory.path().join("tmux"))
            .args(arguments)
            .env("COLORTERM", "truecolor")
            .env_remove("NO_COLOR")
            .env_remove("TMUX");
        output(&mut command)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The demo may have ended by itself, and tmux with it.
        _ = self.tmux(&["kill-server"]);
    }
}
