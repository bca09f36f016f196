//! A client that calls without end, watched while the world changes around it.

use std::cell::RefCell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::calls::{answered, summary};
use super::process::{PATIENCE, Process};

/// A client and what it says of its calls.
pub(crate) struct Traffic {
    process: Process,
    /// Whether the client is not ours to answer for.
    is_foreign: bool,
    /// The first call that failed.
    failed: RefCell<Option<Value>>,
}

impl Traffic {
    pub(super) fn new(process: Process, is_foreign: bool) -> Self {
        Self {
            process,
            is_foreign,
            failed: RefCell::new(None),
        }
    }

    /// The next calls, all begun after now.
    pub(crate) fn next(&self, n: usize) -> Result<Vec<Value>> {
        let now = wall_clock();
        let mut calls = Vec::with_capacity(n);
        while calls.len() < n {
            let call = self.process.event("rpc")?;
            if call["code"] != "OK" {
                self.failed.borrow_mut().get_or_insert_with(|| call.clone());
            }
            if call["start_ms"].as_f64().is_none_or(|start| start >= now) {
                calls.push(call);
            }
        }
        Ok(calls)
    }

    /// Waits for `n` calls in a row of which `holds` is true.
    pub(crate) fn until(&self, n: usize, holds: impl Fn(&[Value]) -> Result<()>) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match holds(&self.next(n)?) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Waits until all of these servers answer, and no others do.
    pub(crate) fn until_answered_by(&self, servers: &[&str]) -> Result<()> {
        // So many that each of a few servers has its turn.
        let n = 20 * servers.len();
        self.until(n, |calls| answered_by(calls, servers))
    }

    /// Ends the client. No call of ours may have failed in all its time, and few of others': grpc-go
    /// fails one now and then while routes change ("unknown cluster selected for RPC").
    pub(crate) fn end_without_failure(self) -> Result<()> {
        self.process.terminate()?;
        let events = self.process.run_to_end()?;
        let is_failed = |event: &&Value| event["event"] == "rpc" && event["code"] != "OK";
        let first = self.failed.into_inner();
        let first = first.as_ref().or_else(|| events.iter().find(is_failed));
        let summary = summary(&events)?;
        let count = |field: &str| summary[field].as_u64().unwrap_or_default();
        let failed = count("total") - count("ok");
        let allowed = if self.is_foreign {
            (count("total") / 20).max(3)
        } else {
            0
        };
        ensure!(
            failed <= allowed && count("ok") > 0,
            "calls failed, first {}; {summary}",
            json!(first)
        );
        Ok(())
    }
}

/// All calls succeeded, and these servers answered, no others.
pub(crate) fn answered_by(calls: &[Value], servers: &[&str]) -> Result<()> {
    let failed = calls.iter().find(|call| call["code"] != "OK");
    ensure!(failed.is_none(), "a call failed: {}", json!(failed));
    let seen = answered(calls);
    ensure!(
        seen == servers,
        "answers came from {seen:?}, not from {servers:?}"
    );
    Ok(())
}

/// Milliseconds, as the events have them.
fn wall_clock() -> f64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64() * 1000.0
}
