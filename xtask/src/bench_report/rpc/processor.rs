//! Processors: who may run where, and how much time processes have used.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// The client and what is beside it.
pub(super) const CLIENT: usize = 0;
/// The servers and what is beside them.
pub(super) const SERVERS: usize = 1;

/// Keeps all threads of a process, and those that they will start, on one processor. On a machine
/// with only one there is nothing to do.
pub(super) fn pin(id: u32, processor: usize) -> Result<()> {
    if std::thread::available_parallelism()?.get() <= SERVERS {
        return Ok(());
    }
    let status = Command::new("taskset")
        .args(["--all-tasks", "--pid", "--cpu-list"])
        .args([processor.to_string(), id.to_string()])
        .stdout(Stdio::null())
        .status()
        .context("taskset (Debian package util-linux)")?;
    ensure!(status.success(), "taskset: process {id}");
    Ok(())
}

/// A command that runs on one processor from its first instruction on.
pub(super) fn pinned(program: &Path, processor: Option<usize>) -> Result<Command> {
    let cores = std::thread::available_parallelism()?.get();
    let Some(processor) = processor.filter(|_| cores > SERVERS) else {
        return Ok(Command::new(program));
    };
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &processor.to_string()]);
    command.arg(program);
    Ok(command)
}

/// What these processes have used so far, all their threads together. Threads that have ended are
/// not in it: none of the programs ends any while it is measured.
pub(super) fn used(ids: &[u32]) -> Result<Duration> {
    ids.iter().map(|id| used_by(*id)).sum()
}

fn used_by(id: u32) -> Result<Duration> {
    let folder = format!("/proc/{id}/task");
    let tasks = fs::read_dir(&folder).context(folder)?;
    tasks.map(|task| used_by_thread(&task?.path())).sum()
}

/// To the nanosecond where the kernel says so, else to its tick.
fn used_by_thread(task: &Path) -> Result<Duration> {
    if let Ok(text) = fs::read_to_string(task.join("schedstat")) {
        return scheduled(&text);
    }
    let text = fs::read_to_string(task.join("stat"))?;
    ticked(&text)
}

/// The first field of `schedstat`: nanoseconds on a processor.
fn scheduled(text: &str) -> Result<Duration> {
    let nanos = text.split_whitespace().next().context("an empty line")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

/// Fields 14 and 15 of `stat`, in hundredths of a second: in user space and in the kernel. The
/// second field, a name in parentheses, may hold spaces and parentheses.
fn ticked(text: &str) -> Result<Duration> {
    let (_, after) = text.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let field = |number: usize| -> Result<u64> {
        let text = fields.get(number - 3).context("too few fields")?;
        Ok(text.parse()?)
    };
    Ok(Duration::from_millis(10 * (field(14)? + field(15)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedulers_nanoseconds_are_read() {
        let time = scheduled("123456789 42 7\n").unwrap();
        assert_eq!(time, Duration::from_nanos(123_456_789));
        assert!(scheduled("\n").is_err());
    }

    #[test]
    fn ticks_are_read_whatever_the_name_is() {
        let text = "17 (a) b (c) S 1 17 17 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0";
        assert_eq!(ticked(text).unwrap(), Duration::from_secs(3));
        assert!(ticked("17 (a) S 1").is_err());
    }

    #[test]
    fn what_this_process_used_grows() {
        let own = [std::process::id()];
        let before = used(&own).unwrap();
        let mut sum = 0_u64;
        while used(&own).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(used(&[0]).is_err());
    }
}
