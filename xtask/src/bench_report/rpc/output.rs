//! `target/bench-report/rpc.json`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::peers::Peers;
use super::run::Round;
use super::sets::{Case, Load, Set};

/// All that was measured.
pub(super) struct Report {
    machine: Value,
    versions: Value,
    rounds: usize,
    pub(super) sets: Vec<SetRounds>,
}

/// What was measured of a set.
pub(super) struct SetRounds {
    pub(super) name: String,
    /// Its description, without the cases.
    described: Value,
    pub(super) cases: Vec<CaseRounds>,
}

/// What was measured of a case in a set.
pub(super) struct CaseRounds {
    pub(super) name: &'static str,
    pub(super) rounds: Vec<Round>,
    /// Bytes of resident memory, if they were measured.
    pub(super) memory_per_connection: Option<f64>,
}

impl CaseRounds {
    pub(super) const fn new(case: &Case) -> Self {
        Self {
            name: case.name,
            rounds: Vec::new(),
            memory_per_connection: None,
        }
    }

    fn report(&self) -> Value {
        json!({
            "name": self.name,
            "rounds": self.rounds.iter().map(Round::report).collect::<Vec<_>>(),
            "memory_per_connection_bytes": self.memory_per_connection.map(f64::round),
        })
    }
}

impl SetRounds {
    /// `rate` is that of an open loop.
    pub(super) fn new(set: &Set, rate: Option<f64>, cases: Vec<CaseRounds>) -> Self {
        let load = match set.load {
            Load::Closed => json!("closed"),
            Load::Open { of_saturation } => {
                json!({"open": {"rate": rate, "of_saturation": of_saturation}})
            }
        };
        let described = json!({
            "name": set.name,
            "security": set.security.name(),
            "payload": set.payload,
            "shape": set.shape.name(),
            "in_flight": set.in_flight,
            "threads": set.threads,
            "load": load,
        });
        Self {
            name: set.name.clone(),
            described,
            cases,
        }
    }

    fn report(&self) -> Value {
        let mut report = self.described.clone();
        let cases = self.cases.iter().map(CaseRounds::report);
        report["cases"] = Value::from(cases.collect::<Vec<_>>());
        report
    }
}

impl Report {
    pub(super) fn new(peers: &Peers, rounds: usize) -> Result<Self> {
        Ok(Self {
            machine: machine()?,
            versions: Value::from(peers.versions()?),
            rounds,
            sets: Vec::new(),
        })
    }

    /// Calls that failed, of all.
    pub(super) fn failed(&self) -> u64 {
        let cases = self.sets.iter().flat_map(|set| &set.cases);
        let rounds = cases.flat_map(|case| &case.rounds);
        rounds.map(|round| round.failed).sum()
    }

    pub(super) fn write(&self, file: &Path) -> Result<()> {
        let sets = self.sets.iter().map(SetRounds::report);
        let report = json!({
            "machine": self.machine,
            "versions": self.versions,
            "rounds": self.rounds,
            "sets": sets.collect::<Vec<_>>(),
        });
        fs::write(file, report.to_string()).with_context(|| file.display().to_string())
    }
}

fn machine() -> Result<Value> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let processors = fs::read_to_string("/proc/cpuinfo")?;
    Ok(json!({
        "cores": std::thread::available_parallelism()?.get(),
        "cpu": model(&processors),
        "kernel": kernel.trim(),
    }))
}

/// The name of the first processor; not every architecture gives one.
fn model(processors: &str) -> &str {
    let line = processors
        .lines()
        .find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench_report::rpc::sets;

    #[test]
    fn a_set_is_described_as_agreed() {
        let all = sets::all();
        let described = |name: &str| {
            let set = all.iter().find(|set| set.name == name).unwrap();
            SetRounds::new(set, Some(12_345.0), Vec::new()).report()
        };
        let closed = described("plaintext-128-unary-16");
        let expected = json!({
            "name": "plaintext-128-unary-16", "security": "plaintext", "payload": 128,
            "shape": "unary", "in_flight": 16, "threads": 1, "load": "closed", "cases": [],
        });
        assert_eq!(closed, expected);
        let open = json!({"open": {"rate": 12_345.0, "of_saturation": 0.5}});
        assert_eq!(described("open-50")["load"], open);
    }

    #[test]
    fn the_processor_has_a_name_or_none() {
        assert_eq!(model("processor\t: 0\nmodel name\t: A B\n"), "A B");
        assert_eq!(model("processor\t: 0\n"), "unknown");
    }
}
