//! The interop client, from its flags to its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidestep::Channel;
use tokio::time::Instant;
use tonic::Code;

use crate::client::{Calls, Outcome};
use crate::flags::{CLIENT, Flags, open_admin, say, upper_case};
use crate::process::{self, Terminated, terminated, text};

/// Runs it.
///
/// # Errors
/// What is wrong with its flags, its bootstrap or its target.
pub async fn run() -> Result<(), String> {
    let flags = Flags::of_process(&CLIENT)?;
    let calls = Calls::from_flags(&flags)?;
    let pace = Pace::from_flags(&flags)?;
    let concurrency: usize = flags.number("concurrency", 1)?;
    let linger = Duration::from_millis(flags.number("linger-ms", 0)?);
    let (channel, admin) = channel(&flags)?;
    let terminated = terminated()?;
    say(
        "ready",
        admin.map_or_else(|| json!({}), |admin| json!({ "admin": admin })),
    );

    let run = Arc::new(Run {
        calls,
        pace,
        started: Instant::now(),
        next: AtomicU64::new(0),
        tally: Mutex::default(),
    });
    let workers: Vec<_> = (0..concurrency.max(1))
        .map(|_| tokio::spawn(Arc::clone(&run).work(channel.clone(), terminated.clone())))
        .collect();
    for worker in workers {
        worker.await.map_err(text)?;
    }
    say("summary", run.summary());
    // The channel stays open, and its connections with it, until then.
    _ = tokio::time::timeout(linger, terminated.wait()).await;
    drop(channel);
    Ok(())
}

/// The channel, and where the admin endpoint is if it was asked for.
fn channel(flags: &Flags) -> Result<(Channel, Option<String>), String> {
    let target = flags.text("target").ok_or("--target is missing")?;
    match flags.text("creds").unwrap_or("insecure") {
        "insecure" | "xds" => {}
        other => return Err(format!("--creds: {other:?} is neither insecure nor xds")),
    }
    let mesh = process::mesh()?;
    let channel = mesh.channel(target).map_err(text)?;
    let admin = open_admin(&mesh, flags)?;
    Ok((
        channel.wait_for_ready(flags.is_set("wait-for-ready")),
        admin,
    ))
}

/// Which calls are made, and when.
struct Pace {
    /// Calls in all; 0: no end.
    n: u64,
    /// No call starts later than this.
    duration: Option<Duration>,
    /// Calls per second; 0: as fast as it goes.
    qps: f64,
}

impl Pace {
    fn from_flags(flags: &Flags) -> Result<Self, String> {
        let duration = flags.number("duration-ms", 0)?;
        let qps: f64 = flags.number("qps", 0.0)?;
        if !qps.is_finite() || qps < 0.0 {
            return Err("--qps: neither negative nor infinite rates can be kept".to_owned());
        }
        Ok(Self {
            n: flags.number("n", 10)?,
            duration: (duration > 0).then(|| Duration::from_millis(duration)),
            qps,
        })
    }

    /// When call `i` starts at the earliest, counted from the start. `None`: never.
    fn start_of(&self, i: u64, elapsed: Duration) -> Option<Duration> {
        #[expect(clippy::cast_precision_loss, reason = "no run has 2^52 calls")]
        let paced = if self.qps > 0.0 {
            i as f64 / self.qps
        } else {
            0.0
        };
        let start = Duration::try_from_secs_f64(paced).ok()?.max(elapsed);
        let over = self.n > 0 && i >= self.n || self.duration.is_some_and(|limit| start > limit);
        (!over).then_some(start)
    }
}

struct Run {
    calls: Calls,
    pace: Pace,
    started: Instant,
    next: AtomicU64,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    codes: BTreeMap<String, u64>,
    servers: BTreeMap<String, u64>,
    latencies: Vec<f64>,
}

impl Run {
    /// Makes calls, one after the other, until there are no more or the process is told to end.
    async fn work(self: Arc<Self>, channel: Channel, terminated: Terminated) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(start) = self.pace.start_of(i, self.started.elapsed()) else {
                return;
            };
            tokio::select! {
                biased;
                () = terminated.clone().wait() => return,
                () = tokio::time::sleep_until(self.started + start) => {}
            }
            let (begun, start_ms) = (Instant::now(), wall_clock());
            let outcome = tokio::select! {
                outcome = self.calls.call(channel.clone(), i) => outcome,
                () = terminated.clone().cut() => Outcome::cut(),
            };
            self.record(i, &outcome, start_ms, milliseconds(begun.elapsed()));
        }
    }

    fn record(&self, i: u64, outcome: &Outcome, start_ms: f64, latency: f64) {
        let mut fields = outcome.fields(self.calls.print_metadata);
        fields.insert("i".to_owned(), json!(i));
        fields.insert("method".to_owned(), json!(self.calls.method.name()));
        fields.insert("latency_ms".to_owned(), json!(latency));
        fields.insert("start_ms".to_owned(), json!(start_ms));
        say("rpc", Value::Object(fields));
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        *tally.codes.entry(upper_case(outcome.code)).or_default() += 1;
        if outcome.code == Code::Ok {
            *tally.servers.entry(outcome.server.clone()).or_default() += 1;
        }
        tally.latencies.push(latency);
    }

    fn summary(&self) -> Value {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.latencies.sort_by(f64::total_cmp);
        let latencies = &tally.latencies;
        let at = |share: usize| {
            latencies.get((latencies.len() * share / 100).min(latencies.len().saturating_sub(1)))
        };
        json!({
            "total": latencies.len(),
            "ok": tally.codes.get("OK").unwrap_or(&0),
            "codes": tally.codes,
            "servers": tally.servers,
            "latency_ms": {"p50": at(50), "p90": at(90), "p99": at(99), "max": latencies.last()},
            "elapsed_ms": milliseconds(self.started.elapsed()),
        })
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn wall_clock() -> f64 {
    milliseconds(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
