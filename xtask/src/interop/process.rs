//! Peers as child processes that speak in JSON lines. None of them outlives its [`Process`].

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// How long any peer may take for any one step. Machines of two cores under load need some of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A running peer and its events. Dropping it ends it.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command`; its standard error goes to `NAME.log` in `logs`, its events to
    /// `NAME.jsonl`.
    pub(crate) fn start(name: &str, logs: &Path, command: &mut Command) -> Result<Self> {
        Self::spawn(name, logs, command.stdin(Stdio::null()))
    }

    /// The same, with a standard input that [`Self::tell`] writes to. It ends with the `Process`, or
    /// with us, however we end.
    pub(crate) fn start_listening(name: &str, logs: &Path, command: &mut Command) -> Result<Self> {
        Self::spawn(name, logs, command.stdin(Stdio::piped()))
    }

    fn spawn(name: &str, logs: &Path, command: &mut Command) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| log.display().to_string())?;
        let mut child = command
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .with_context(|| format!("{name}: {}", command.get_program().display()))?;
        let out = child.stdout.take().context("the pipe was asked for")?;
        let (sender, lines) = mpsc::channel();
        let mut kept = File::create(logs.join(format!("{name}.jsonl")))?;
        // Ends with the process: at the end of its standard output.
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // For who looks into a failure; nothing depends on it.
                _ = writeln!(kept, "{line}");
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
        })
    }

    /// The process's id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Writes a line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("it does not listen")?;
        writeln!(input, "{line}").with_context(|| self.name.clone())
    }

    /// Sends it a signal: `HUP`, `TERM`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        // A shell's own `kill` is on every machine.
        let command = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status()?;
        ensure!(status.success(), "{}: {command} failed", self.name);
        Ok(())
    }

    /// Asks it to end, as its contract has it.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// The next event of this kind; others are passed over.
    pub(crate) fn event(&self, kind: &str) -> Result<Value> {
        self.event_within(PATIENCE, kind)
    }

    /// The same, for what may take longer than any one step of a peer.
    pub(crate) fn event_within(&self, limit: Duration, kind: &str) -> Result<Value> {
        self.find_within(limit, &format!("the event {kind:?}"), |event| {
            event["event"] == kind
        })
    }

    /// Whether it has ended. What it said up to now is passed over.
    pub(crate) fn is_over(&self) -> bool {
        loop {
            match self.lines.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }

    /// The first event of this kind from now on: what was said earlier is passed over.
    pub(crate) fn fresh(&self, kind: &str) -> Result<Value> {
        while self.lines.try_recv().is_ok() {}
        self.event(kind)
    }

    /// The next event that `wanted` holds for; `what` names it in errors.
    pub(crate) fn find(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.find_within(PATIENCE, what, wanted)
    }

    fn find_within(
        &self,
        limit: Duration,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => match serde_json::from_str::<Value>(&line) {
                    Ok(event) if wanted(&event) => return Ok(event),
                    // Not ours to read: peers may print other things.
                    _ => {}
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!("{} did not give {what} within {limit:?}", self.name)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("{} ended before {what}", self.name)
                }
            }
        }
    }

    /// The address in the event `ready`.
    pub(crate) fn ready(&self) -> Result<String> {
        address(&self.event("ready")?, "addr")
    }

    /// How it ended, once it has; it must come by itself.
    pub(crate) fn status(mut self) -> Result<ExitStatus> {
        self.wait()?;
        Ok(self.child.wait()?)
    }

    /// Waits for the end of what it says, which is passed over.
    fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => bail!("{} does not end", self.name),
            }
        }
    }

    /// Every event up to the end of the process, which must come by itself.
    pub(crate) fn run_to_end(self) -> Result<Vec<Value>> {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut events = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => events.extend(serde_json::from_str::<Value>(&line).ok()),
                Err(RecvTimeoutError::Disconnected) => return Ok(events),
                Err(RecvTimeoutError::Timeout) => bail!("{} does not end", self.name),
            }
        }
    }
}

impl Drop for Process {
    /// A peer that ended by itself is merely reaped.
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A text field of an event.
pub(super) fn address(event: &Value, field: &str) -> Result<String> {
    let text = event[field].as_str();
    Ok(text
        .with_context(|| format!("no {field} in {event}"))?
        .to_owned())
}

/// The last lines of a log.
pub(crate) fn last_lines(log: &Path) -> String {
    const SHOWN: usize = 15;
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let shown = lines[lines.len().saturating_sub(SHOWN)..].iter();
    shown
        .map(|line| format!("      {name}: {line}\n"))
        .collect()
}

/// Runs `step` again until it succeeds, for as long as a peer may take: for what no peer announces.
pub(crate) fn eventually<T>(step: impl FnMut() -> Result<T>) -> Result<T> {
    within(PATIENCE, step)
}

/// Runs `step` again until it succeeds, for so long. The pause keeps it from taking the processor
/// from the peer that it waits for.
pub(crate) fn within<T>(limit: Duration, mut step: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match step() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
