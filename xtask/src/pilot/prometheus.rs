//! A real Prometheus that watches the pilot, with the alert rules as they are.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::readme::free_address;
use crate::http;
use crate::interop::{Process, eventually};
use crate::ops;

pub(super) struct Prometheus {
    _process: Process,
    address: String,
}

impl Prometheus {
    /// Starts it in `folder`, to scrape each `(job, address)` every second.
    pub(super) fn start(folder: &Path, jobs: &[(&str, &str)]) -> Result<Self> {
        let address = free_address()?;
        let scraped = jobs.iter().map(
            |(job, address)| json!({"job_name": job, "static_configs": [{"targets": [address]}]}),
        );
        // JSON is YAML.
        let configuration = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [ops::rules()],
            "scrape_configs": merged(scraped),
        });
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration.to_string())?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=warn"]);
        let process = Process::start("prometheus", folder, &mut command)
            .context("`apt-get install prometheus` has it")?;
        let started = Self {
            _process: process,
            address,
        };
        eventually(|| http::get(&started.address, "/-/ready"))?;
        Ok(started)
    }

    /// What a query finds now: the series.
    pub(super) fn query(&self, query: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/query?query={}", http::quoted(query));
        let mut answer = http::json(&self.address, &path).with_context(|| query.to_owned())?;
        ensure!(answer["status"] == "success", "{query}: {answer}");
        match answer["data"]["result"].take() {
            Value::Array(series) => Ok(series),
            other => anyhow::bail!("{query}: {other}"),
        }
    }

    /// The one value that a query finds now.
    pub(super) fn value(&self, query: &str) -> Result<f64> {
        let series = self.query(query)?;
        let value = series.first().and_then(|one| one["value"][1].as_str());
        let value = value.with_context(|| format!("{query} finds nothing"))?;
        Ok(value.parse()?)
    }

    /// An alert that fires, with its labels.
    pub(super) fn firing(&self, alert: &str) -> Result<Value> {
        let answer = http::json(&self.address, "/api/v1/alerts")?;
        let alerts = answer["data"]["alerts"].as_array().context("alerts")?;
        let found = alerts
            .iter()
            .find(|a| a["labels"]["alertname"] == alert && a["state"] == "firing");
        found
            .cloned()
            .with_context(|| format!("{alert} does not fire; all alerts: {alerts:?}"))
    }
}

/// Targets of one job in one entry: Prometheus refuses a job's name twice.
fn merged(jobs: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    for job in jobs {
        match all
            .iter_mut()
            .find(|known| known["job_name"] == job["job_name"])
        {
            Some(known) => {
                if let Some(targets) = known["static_configs"].as_array_mut() {
                    targets.push(job["static_configs"][0].clone());
                }
            }
            None => all.push(job),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_may_have_several_targets() {
        let job =
            |name, target| json!({"job_name": name, "static_configs": [{"targets": [target]}]});
        let all = merged([job("a", 1), job("b", 2), job("a", 3)].into_iter());
        assert_eq!(all.len(), 2);
        assert_eq!(all[0]["static_configs"].as_array().unwrap().len(), 2);
    }
}
