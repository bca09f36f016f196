//! One run of one client: from its start to its result.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::processor::used;
use super::sets::{Case, Set, Shape};
use super::stage::{Route, Stage};
use crate::interop::{Process, last_lines};

/// Longest that a client may take for anything; it gives up by itself as well.
const LIMIT: Duration = Duration::from_secs(60);

/// Fewest and most calls of a run that count.
const CALLS: (u32, u32) = (200, 40_000);

/// How many calls a run makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Size {
    pub(super) calls: u32,
    pub(super) warm_up: u32,
    /// Calls begun in a second, of an open loop.
    pub(super) rate: Option<f64>,
}

impl Size {
    /// So many, after a fifth of that.
    pub(super) const fn calls(calls: u32) -> Self {
        Self {
            calls,
            warm_up: calls / 5,
            rate: None,
        }
    }

    /// Enough to see how fast a case is.
    pub(super) fn first(in_flight: usize) -> Self {
        let in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
        Self::calls(500_u32.max(in_flight.saturating_mul(40)))
    }

    /// As many as a case makes in that time.
    pub(super) fn closed(first: &Round, time: Duration, in_flight: usize) -> Self {
        let least = u32::try_from(in_flight * 10).unwrap_or(CALLS.0);
        let (fewest, most) = (CALLS.0.max(least), CALLS.1);
        Self::calls(bounded(first.rate() * time.as_secs_f64(), fewest, most))
    }

    /// As many as are due in that time.
    pub(super) fn open(rate: f64, time: Duration) -> Self {
        Self {
            rate: Some(rate),
            ..Self::calls(bounded(rate * time.as_secs_f64(), CALLS.0, CALLS.1))
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within the bounds"
)]
fn bounded(calls: f64, fewest: u32, most: u32) -> u32 {
    calls.clamp(f64::from(fewest), f64::from(most)) as u32
}

/// What came of a run.
#[derive(Debug, Clone)]
pub(super) struct Round {
    pub(super) calls: u64,
    pub(super) failed: u64,
    seconds: f64,
    percentiles: [f64; 3],
    curve: Value,
    /// Of the client, the proxies and the servers: microseconds a call.
    processor: [f64; 3],
    pub(super) resident_bytes: f64,
    pub(super) sockets: f64,
}

impl Round {
    /// From the client's result and what proxies and servers used meanwhile.
    fn new(result: &Value, proxies: Duration, servers: Duration) -> Result<Self> {
        let number = |field: &str| {
            let found = result[field].as_f64();
            found.with_context(|| format!("no {field} in {result}"))
        };
        let count = |field: &str| result[field].as_u64().with_context(|| field.to_owned());
        let calls = count("calls")?;
        ensure!(calls > 0, "no calls: {result}");
        Ok(Self {
            calls,
            failed: count("failed")?,
            seconds: number("seconds")?,
            percentiles: [number("p50_us")?, number("p99_us")?, number("p999_us")?],
            curve: result["curve"].clone(),
            processor: [
                number("cpu_us")?,
                per_call(proxies, calls),
                per_call(servers, calls),
            ],
            resident_bytes: number("rss_bytes")?,
            sockets: number("sockets")?,
        })
    }

    /// Calls a second.
    pub(super) fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
        let calls = self.calls as f64;
        calls / self.seconds.max(1e-6)
    }

    pub(super) fn report(&self) -> Value {
        let [p50, p99, p999] = self.percentiles;
        let [client, proxy, server] = self.processor;
        json!({
            "calls": self.calls,
            "failed": self.failed,
            "seconds": self.seconds,
            "p50_us": p50,
            "p99_us": p99,
            "p999_us": p999,
            "cpu_us": {"client": client, "proxy": proxy, "server": server},
            "curve": self.curve,
        })
    }
}

/// Microseconds.
fn per_call(used: Duration, calls: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    let calls = calls.max(1) as f64;
    used.as_secs_f64() * 1e6 / calls
}

/// Runs a case once.
pub(super) fn once(stage: &Stage<'_>, set: &Set, case: &Case, size: &Size) -> Result<Round> {
    let route = stage.route(case.to)?;
    let mut command = stage.client(case.client)?;
    shape(&mut command, set, size);
    play(case.name, &stage.logs, &mut command, &route)
}

fn shape(command: &mut Command, set: &Set, size: &Size) {
    let shape = match set.shape {
        Shape::Unary => "unary",
        Shape::Stream => "stream",
    };
    let numbers = [
        ("--payload", set.payload.to_string()),
        ("--in-flight", set.in_flight.to_string()),
    ];
    for (flag, number) in numbers {
        command.args([flag, &number]);
    }
    command.args(["--shape", shape]);
    count(command, size);
}

/// The flags that say how many calls.
pub(super) fn count(command: &mut Command, size: &Size) {
    command.args(["--calls", &size.calls.to_string()]);
    command.args(["--warm-up", &size.warm_up.to_string()]);
    if let Some(rate) = size.rate {
        command.args(["--rate", &rate.to_string()]);
    }
}

/// Runs a client along a route. Between its events `begin` and `end` are the calls that count.
pub(super) fn play(name: &str, logs: &Path, command: &mut Command, route: &Route) -> Result<Round> {
    command.args(["--lab", &route.lab.to_string()]);
    command.args(["--limit", &LIMIT.as_secs().to_string()]);
    if let Some(folder) = &route.tls {
        command.arg("--tls").arg(folder);
    }
    let played = listen(name, logs, command, route);
    played.with_context(|| last_lines(&logs.join(format!("{name}.log"))))
}

fn listen(name: &str, logs: &Path, command: &mut Command, route: &Route) -> Result<Round> {
    let mut client = Process::start_listening(name, logs, command)?;
    let clocks = || Ok::<_, anyhow::Error>((used(&route.proxies)?, used(&route.servers)?));
    client.event_within(LIMIT, "begin")?;
    let (proxies, servers) = clocks()?;
    client.tell("go")?;
    client.event_within(LIMIT, "end")?;
    let (proxies_after, servers_after) = clocks()?;
    let result = client.event_within(LIMIT, "result")?;
    if result["failed"] != 0 {
        println!(
            "  {name}: {} calls failed: {}",
            result["failed"], result["fault"]
        );
    }
    Round::new(
        &result,
        proxies_after.saturating_sub(proxies),
        servers_after.saturating_sub(servers),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(calls: u64, seconds: f64) -> Value {
        json!({
            "event": "result", "calls": calls, "failed": 1, "seconds": seconds, "p50_us": 1.0,
            "p99_us": 2.0, "p999_us": 3.0, "curve": [[50.0, 1.0]], "cpu_us": 9.5,
            "rss_bytes": 1024, "sockets": 4,
        })
    }

    #[test]
    fn what_others_used_is_divided_by_the_calls() {
        let (proxies, servers) = (Duration::from_millis(3), Duration::from_millis(2));
        let round = Round::new(&result(1_000, 0.5), proxies, servers).unwrap();
        let report = round.report();
        let expected = json!({"client": 9.5, "proxy": 3.0, "server": 2.0});
        assert_eq!(report["cpu_us"], expected);
        assert_eq!((report["failed"].as_u64(), round.failed), (Some(1), 1));
        assert!((round.rate() - 2_000.0).abs() < 1e-9);
    }

    #[test]
    fn half_a_result_is_none() {
        let mut half = result(1_000, 0.5);
        half["p99_us"] = Value::Null;
        assert!(Round::new(&half, Duration::ZERO, Duration::ZERO).is_err());
        assert!(Round::new(&result(0, 0.5), Duration::ZERO, Duration::ZERO).is_err());
    }

    #[test]
    fn a_run_is_as_long_as_asked_within_its_bounds() {
        let round = |calls, seconds| {
            Round::new(&result(calls, seconds), Duration::ZERO, Duration::ZERO).unwrap()
        };
        let fifth = Duration::from_millis(200);
        assert_eq!(Size::closed(&round(1_000, 0.1), fifth, 1).calls, 2_000);
        assert_eq!(Size::closed(&round(10, 1.0), fifth, 1).calls, CALLS.0);
        assert_eq!(Size::closed(&round(10, 1.0), fifth, 64).calls, 640);
        assert_eq!(
            Size::closed(&round(9_000_000, 1.0), fifth, 1).calls,
            CALLS.1
        );
        assert_eq!(Size::open(10_000.0, fifth).rate, Some(10_000.0));
    }
}
