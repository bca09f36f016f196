//! What came of the calls, and what the process used for them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::{Value, json};

/// Points of the curve, in percent.
const PERCENTILES: [f64; 12] = [
    0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0,
];

/// Longest time of a call that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(120);

/// The calls of one phase.
#[derive(Default)]
pub struct Calls {
    /// How long each answered call took.
    times: Vec<Duration>,
    /// How many failed.
    pub failed: u32,
    /// Why the first of them did.
    pub fault: Option<anyhow::Error>,
}

impl Calls {
    /// None yet, with room for so many.
    #[must_use]
    pub fn with_capacity(calls: usize) -> Self {
        Self {
            times: Vec::with_capacity(calls),
            ..Self::default()
        }
    }

    /// A call that began then and has ended now.
    pub fn add(&mut self, begun: Instant, result: Result<()>) {
        match result {
            Ok(()) => self.times.push(begun.elapsed()),
            Err(fault) => {
                self.failed += 1;
                self.fault.get_or_insert(fault);
            }
        }
    }

    /// Takes over another's calls.
    pub fn append(&mut self, other: Self) {
        self.times.extend(other.times);
        self.failed += other.failed;
        self.fault = self.fault.take().or(other.fault);
    }

    /// The event `result`: times in microseconds, the process's own processor time for each call.
    ///
    /// # Errors
    /// `/proc` cannot be read.
    pub fn result(&self, case: &str, elapsed: Duration, used: Duration) -> Result<Value> {
        let times = self.histogram()?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let at = |percentile: f64| times.value_at_percentile(percentile) as f64 / 1e3;
        let curve: Vec<_> = PERCENTILES
            .map(|percent| json!([percent, at(percent)]))
            .into();
        let calls = self.times.len() + self.failed as usize;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let each = used.as_secs_f64() * 1e6 / calls.max(1) as f64;
        Ok(json!({
            "event": "result",
            "case": case,
            "calls": calls,
            "failed": self.failed,
            "fault": self.fault.as_ref().map(|fault| format!("{fault:#}")).unwrap_or_default(),
            "seconds": elapsed.as_secs_f64(),
            "p50_us": at(50.0),
            "p99_us": at(99.0),
            "p999_us": at(99.9),
            "curve": curve,
            "cpu_us": each,
            "rss_bytes": resident()?,
            "sockets": sockets()?,
        }))
    }

    fn histogram(&self) -> Result<Histogram<u64>> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut histogram = Histogram::new_with_bounds(1, nanos(LONGEST), 3)?;
        for time in &self.times {
            histogram.saturating_record(nanos(*time));
        }
        Ok(histogram)
    }
}

/// What the process has used so far, in user space and in the kernel.
///
/// # Errors
/// The kernel does not say.
pub fn processor_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// Resident memory of this process in bytes.
fn resident() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().split(' ').next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? * 1024)
}

/// How many sockets it has open.
fn sockets() -> Result<usize> {
    let files = std::fs::read_dir("/proc/self/fd")?;
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    Ok(targets
        .filter(|target| target.to_string_lossy().starts_with("socket:"))
        .count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_calls_are_counted_and_not_timed() {
        let mut calls = Calls::default();
        let now = Instant::now();
        calls.add(now, Ok(()));
        calls.add(now, Err(anyhow::anyhow!("first")));
        let mut others = Calls::default();
        others.add(now, Err(anyhow::anyhow!("second")));
        calls.append(others);
        let second = Duration::from_secs(1);
        let result = calls.result("h2", second, second).unwrap();
        assert_eq!(
            (&result["calls"], &result["failed"]),
            (&json!(3), &json!(2))
        );
        assert_eq!(result["fault"], "first");
        assert_eq!(calls.times.len(), 1);
    }

    #[test]
    fn percentiles_are_of_the_times_in_microseconds() {
        let calls = Calls {
            times: (1..=1_000).map(Duration::from_micros).collect(),
            ..Calls::default()
        };
        let (elapsed, used) = (Duration::from_secs(1), Duration::from_millis(10));
        let result = calls.result("h2", elapsed, used).unwrap();
        let close = |field: &str, to: f64| {
            let value = result[field].as_f64().unwrap();
            assert!((value / to - 1.0).abs() < 0.002, "{field}: {value}");
        };
        close("p50_us", 500.0);
        close("p99_us", 990.0);
        close("p999_us", 999.0);
        close("cpu_us", 10.0);
        assert!(result["rss_bytes"].as_u64().unwrap() > 100_000);
    }

    #[test]
    fn what_the_process_used_grows() {
        let before = processor_time().unwrap();
        let mut sum = 0_u64;
        while processor_time().unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
