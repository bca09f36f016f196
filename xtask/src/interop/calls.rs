//! What clients say of their calls, judged.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Every call of a client succeeded, and these servers and no others answered.
pub(crate) fn all_ok(events: &[Value], servers: &[&str]) -> Result<()> {
    let failed = events
        .iter()
        .find(|e| e["event"] == "rpc" && e["code"] != "OK");
    ensure!(failed.is_none(), "a call failed: {}", json!(failed));
    let summary = summary(events)?;
    let complete = summary["ok"] == summary["total"] && summary["ok"] != 0;
    ensure!(complete, "calls are missing: {summary}");
    let seen = answered(events);
    ensure!(
        seen == servers,
        "answers came from {seen:?}, not from {servers:?}"
    );
    Ok(())
}

/// The servers that answered, in order of their names.
pub(crate) fn answered(events: &[Value]) -> Vec<&str> {
    let servers = events.iter().filter_map(|event| event["server"].as_str());
    let servers: BTreeSet<&str> = servers.collect();
    servers.into_iter().collect()
}

/// A client's last line.
pub(crate) fn summary(events: &[Value]) -> Result<&Value> {
    let last = events.last().filter(|event| event["event"] == "summary");
    last.context("the client ended without a summary")
}
