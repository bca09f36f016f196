//! Resident memory of a process.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Resident MiB once it has not moved by more than 1 % for two seconds.
pub(crate) fn at_rest(id: u32) -> Result<f64> {
    const CALM: Duration = Duration::from_secs(2);
    let start = Instant::now();
    let mut base = now(id)?;
    let mut since = Instant::now();
    while since.elapsed() < CALM {
        if start.elapsed() > Duration::from_secs(60) {
            bail!("the memory of process {id} does not come to rest");
        }
        std::thread::sleep(Duration::from_millis(100));
        let now = now(id)?;
        if (now - base).abs() > base * 0.01 {
            base = now;
            since = Instant::now();
        }
    }
    now(id)
}

/// Resident MiB.
pub(crate) fn now(id: u32) -> Result<f64> {
    let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next());
    let kib: f64 = kib.context("no VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}

/// How many files a process has open.
pub(crate) fn open_files(id: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{id}/fd"))?.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_has_is_read() {
        let own = std::process::id();
        assert!(now(own).unwrap() > 1.0);
        assert!(open_files(own).unwrap() > 0);
    }
}
