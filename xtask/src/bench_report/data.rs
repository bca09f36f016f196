//! What the parts of the report have left in their files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::statistics::{Estimate, median};

/// Everything that was measured; `None` is a part that was not.
#[derive(Default)]
pub(super) struct Data {
    pub(super) rpc: Option<Rpc>,
    /// What `cargo xtask bench --json` says.
    pub(super) counts: Option<Value>,
    pub(super) push: Option<Push>,
    pub(super) micro: Option<Value>,
    pub(super) memory: Option<Value>,
    /// What `cargo xtask footprint --json` says.
    pub(super) footprint: Option<Value>,
}

/// Calls beside peers, by the clock.
#[derive(Debug, Deserialize)]
pub(super) struct Rpc {
    /// By the name of what has it.
    #[serde(default)]
    pub(super) versions: BTreeMap<String, Value>,
    pub(super) sets: Vec<Set>,
}

/// Cases under one load, whose rounds are paired.
#[derive(Debug, Deserialize)]
pub(super) struct Set {
    pub(super) name: String,
    /// `plaintext` or `mtls`.
    pub(super) security: String,
    /// Bytes in each message.
    pub(super) payload: u64,
    /// `unary` or `stream`.
    pub(super) shape: String,
    pub(super) in_flight: u64,
    pub(super) threads: u64,
    pub(super) load: Load,
    pub(super) cases: Vec<Case>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Load {
    /// The next call is made when one has ended.
    Closed,
    /// So many calls a second, whatever becomes of them.
    Open { rate: f64, of_saturation: f64 },
}

#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) rounds: Vec<Round>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Round {
    pub(super) calls: f64,
    pub(super) failed: f64,
    pub(super) seconds: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) p999_us: f64,
    pub(super) cpu_us: Cpu,
    /// Percentile, microseconds.
    #[serde(default)]
    pub(super) curve: Vec<(f64, f64)>,
}

/// Microseconds of CPU for each call.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct Cpu {
    #[serde(default)]
    pub(super) client: f64,
    #[serde(default)]
    pub(super) proxy: f64,
    #[serde(default)]
    pub(super) server: f64,
}

impl Cpu {
    pub(super) fn total(self) -> f64 {
        self.client + self.proxy + self.server
    }
}

/// Changes that a control plane sends to many clients, by the clock.
#[derive(Debug, Deserialize)]
pub(super) struct Push {
    #[serde(default)]
    pub(super) versions: BTreeMap<String, Value>,
    pub(super) sets: Vec<PushSet>,
}

/// Servers with the same streams and resources, whose rounds are paired.
#[derive(Debug, Deserialize)]
pub(super) struct PushSet {
    /// `sotw` or `delta`.
    pub(super) protocol: String,
    pub(super) streams: u64,
    pub(super) clusters: u64,
    /// Of each cluster.
    pub(super) endpoints: u64,
    pub(super) servers: Vec<PushServer>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PushServer {
    pub(super) name: String,
    pub(super) rounds: Vec<PushRound>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PushRound {
    /// Of the server, for each client, until all have everything.
    pub(super) sync_cpu_us: f64,
    /// Of the server, for each client and change, acknowledgements included.
    pub(super) push_cpu_us: f64,
    /// From the change until a client has it.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// For each client and change.
    pub(super) bytes: f64,
    /// Resident memory of the server for each stream, what it had without any taken off.
    pub(super) rss_kib: f64,
}

impl Data {
    /// Reads what is there; what is there and cannot be read is an error.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        Ok(Self {
            rpc: read(&folder.join("rpc.json"))?,
            counts: read(&folder.join("counts.json"))?,
            push: read(&folder.join("push.json"))?,
            micro: read(&folder.join("micro.json"))?,
            memory: read(&folder.join("memory.json"))?,
            footprint: read(&folder.join("footprint.json"))?,
        })
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let parsed = fs::read_to_string(path).map(|text| serde_json::from_str(&text));
    let at = || path.display().to_string();
    Ok(Some(parsed.with_context(at)?.with_context(at)?))
}

impl Rpc {
    /// The sets of closed loops of unary calls like these, one worker thread before several.
    pub(super) fn closed(&self, security: &str, payload: u64, in_flight: u64) -> Option<&Set> {
        let alike = self.sets.iter().filter(|set| {
            set.load == Load::Closed
                && set.shape == "unary"
                && (set.security.as_str(), set.payload, set.in_flight)
                    == (security, payload, in_flight)
        });
        alike.min_by_key(|set| set.threads)
    }

    /// The set whose rate is this share of what tonic can do, as nearly as there is one.
    pub(super) fn open(&self, of_saturation: f64) -> Option<&Set> {
        self.sets.iter().find(|set| match set.load {
            Load::Open {
                of_saturation: share,
                ..
            } => (share - of_saturation).abs() < 0.02,
            Load::Closed => false,
        })
    }
}

impl Set {
    /// The load in a few words.
    pub(super) fn describe(&self) -> String {
        let security = match &*self.security {
            "mtls" => "mutual TLS",
            other => other,
        };
        let (payload, shape, threads) = (self.payload, &self.shape, self.threads);
        let load = match self.load {
            Load::Closed => format!("{} in flight", self.in_flight),
            Load::Open {
                rate,
                of_saturation,
            } => format!(
                "{rate:.0} calls/s, {:.0} % of saturation",
                of_saturation * 100.0
            ),
        };
        let threads = match threads {
            1 => String::new(),
            more => format!(", {more} threads"),
        };
        format!("{security}, {payload} B, {shape}, {load}{threads}")
    }

    pub(super) fn case(&self, name: &str) -> Option<&Case> {
        self.cases.iter().find(|case| case.name == name)
    }

    /// What one case costs of another.
    pub(super) fn ratio(&self, a: &str, b: &str, of: impl Fn(&Round) -> f64) -> Option<Estimate> {
        Estimate::ratio(&self.case(a)?.each(&of), &self.case(b)?.each(of))
    }
}

impl Case {
    pub(super) fn each(&self, of: impl Fn(&Round) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }

    /// The median over the rounds; no rounds, no number.
    pub(super) fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(&self.each(of)).unwrap_or(f64::NAN)
    }

    /// The median latency at each percentile that all rounds have.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        let Some(first) = self.rounds.first() else {
            return Vec::new();
        };
        let at = |percentile: f64| {
            let of = |round: &Round| {
                let mut points = round.curve.iter();
                points.find(|(p, _)| *p == percentile).map(|(_, us)| *us)
            };
            let all: Option<Vec<f64>> = self.rounds.iter().map(of).collect();
            Some((percentile, median(&all?)?))
        };
        first.curve.iter().filter_map(|(p, _)| at(*p)).collect()
    }
}

impl Push {
    pub(super) fn set(&self, protocol: &str, streams: u64, shape: (u64, u64)) -> Option<&PushSet> {
        self.sets.iter().find(|set| {
            set.protocol == protocol
                && set.streams == streams
                && (set.clusters, set.endpoints) == shape
        })
    }
}

impl PushSet {
    pub(super) fn server(&self, name: &str) -> Option<&PushServer> {
        self.servers.iter().find(|server| server.name == name)
    }

    pub(super) fn ratio(
        &self,
        a: &str,
        b: &str,
        of: impl Fn(&PushRound) -> f64,
    ) -> Option<Estimate> {
        Estimate::ratio(&self.server(a)?.each(&of), &self.server(b)?.each(of))
    }
}

impl PushServer {
    pub(super) fn each(&self, of: impl Fn(&PushRound) -> f64) -> Vec<f64> {
        self.rounds.iter().map(of).collect()
    }

    pub(super) fn median(&self, of: impl Fn(&PushRound) -> f64) -> f64 {
        median(&self.each(of)).unwrap_or(f64::NAN)
    }
}
