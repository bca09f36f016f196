//! One of ten backends is twenty times slower than the others: what that does to the latency of
//! calls under round robin, least request and peak EWMA.
//!
//! In virtual time over pipes in memory: service times are drawn, everything else takes none, so
//! that the figures do not depend on the machine. Prints JSON; `--svg FILE` draws the curves.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use futures_util::stream::Empty;
use serde_json::{Value, json};
use sidestep::subchannel::{Connector, Io};
use sidestep::{Mesh, StaticResources};
use sidestep_benches::echo::Message;
use sidestep_benches::echo::echo_client::EchoClient;
use sidestep_benches::echo::echo_server::{Echo, EchoServer};
use sidestep_proto::resource::Address;
use sidestep_server::Bundle;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// The control comes first.
const POLICIES: [&str; 3] = ["round_robin", "least_request", "peak_ewma"];
const BACKENDS: u16 = 10;
/// How many times longer the last one takes.
const SLOWER: f64 = 20.0;
/// Calls per second: four in flight at each healthy backend.
const RATE: f64 = 4000.0;
const BUFFER: usize = 64 * 1024;

#[derive(Parser)]
#[command(about = "Latency with one slow backend, by policy")]
struct Flags {
    /// Fewer calls.
    #[arg(long)]
    short: bool,
    /// Draw the curves.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Fail unless both policies at least halve the p99 of round robin.
    #[arg(long)]
    check: bool,
}

/// What came of one policy.
struct Outcome {
    /// Sorted, in milliseconds.
    latencies: Vec<f64>,
    /// Share of the calls that the slow backend took.
    slow_share: f64,
}

impl Outcome {
    fn percentile(&self, percent: f64) -> f64 {
        let rank = percent / 100.0 * (self.latencies.len() - 1) as f64;
        self.latencies[rank.round() as usize]
    }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let calls = if flags.short { 8_000 } else { 40_000 };
    let mut outcomes = Vec::new();
    for policy in POLICIES {
        // A thread of its own, whose random numbers are its own.
        let ran = std::thread::spawn(move || run(policy, calls)).join();
        outcomes.push(ran.ok().context("a run panicked")??);
    }
    let [control, rest @ ..] = outcomes.as_slice() else {
        unreachable!("as many as policies");
    };
    println!("{:#}", report(calls, &outcomes));
    if let Some(file) = flags.svg {
        std::fs::write(&file, drawing(&outcomes))?;
    }
    for (policy, outcome) in POLICIES[1..].iter().zip(rest) {
        let ratio = outcome.percentile(99.0) / control.percentile(99.0);
        ensure!(
            !flags.check || ratio <= 0.5,
            "{policy}: {ratio:.2} of the control's p99"
        );
    }
    Ok(())
}

fn report(calls: usize, outcomes: &[Outcome]) -> Value {
    let control = outcomes[0].percentile(99.0);
    let policies: BTreeMap<_, _> = POLICIES
        .iter()
        .zip(outcomes)
        .map(|(policy, outcome)| {
            let at = |percent| (outcome.percentile(percent) * 10.0).round() / 10.0;
            let ratio = outcome.percentile(99.0) / control;
            let figures = json!({
                "p50_ms": at(50.0), "p90_ms": at(90.0), "p99_ms": at(99.0), "p99.9_ms": at(99.9),
                "p99_of_round_robin": (ratio * 1000.0).round() / 1000.0,
                "share_of_the_slow_backend": (outcome.slow_share * 10_000.0).round() / 10_000.0,
            });
            (*policy, figures)
        })
        .collect();
    json!({"backends": BACKENDS, "times_slower": SLOWER, "calls": calls, "policies": policies})
}

fn run(policy: &str, calls: usize) -> Result<Outcome> {
    fastrand::seed(7);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(play(policy, calls))
}

async fn play(policy: &str, calls: usize) -> Result<Outcome> {
    let (connector, taken) = backends();
    let list: String = (0..BACKENDS).fold(String::new(), |mut list, n| {
        // Writing to a string cannot fail.
        let _ = writeln!(list, "        - {{address: \"127.0.0.1:{}\"}}", n + 1);
        list
    });
    let text = format!(
        "mesh: v1\nservices:\n  web: {{}}\n  echo:\n    limits: {{max_outstanding_per_client: 100000}}\n    balance: {{policy: {policy}}}\n    endpoints:\n      static:\n{list}"
    );
    let bundle = Bundle::from_mesh(&[sidestep_server::source::SourceText {
        path: "mesh.yaml".to_owned(),
        text,
    }]);
    let bundle = bundle.map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    let mesh = Mesh::builder()
        .static_resources(StaticResources::new(bundle.resources)?)
        .connector(connector)
        .build()?;
    let channel = mesh.channel("xds:///echo")?;
    channel.ready().await;
    // All of them are connected by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    // The first tenth is not counted.
    let early = offer(&channel, calls / 10).await?;
    drop(early);
    let before = taken.load(Relaxed);
    let mut latencies = offer(&channel, calls).await?;
    latencies.sort_by(f64::total_cmp);
    let slow = f64::from(taken.load(Relaxed) - before);
    Ok(Outcome {
        slow_share: slow / calls as f64,
        latencies,
    })
}

/// Calls that come by chance, whether others have been answered or not; their latencies.
async fn offer(channel: &sidestep::Channel, calls: usize) -> Result<Vec<f64>> {
    let mut running = Vec::with_capacity(calls);
    let mut next = Instant::now();
    for _ in 0..calls {
        next += exponential(1.0 / RATE);
        tokio::time::sleep_until(next).await;
        let mut client = EchoClient::new(channel.clone());
        running.push(tokio::spawn(async move {
            let start = Instant::now();
            let answered = client.unary(Message::default()).await;
            answered.map(|_| start.elapsed().as_secs_f64() * 1000.0)
        }));
    }
    let mut latencies = Vec::with_capacity(calls);
    for call in running {
        latencies.push(call.await??);
    }
    Ok(latencies)
}

fn exponential(mean: f64) -> Duration {
    Duration::from_secs_f64(-mean * (1.0 - fastrand::f64()).ln())
}

/// Starts the backends; answers with the way to them, and a count of what the slow one takes.
fn backends() -> (Connector, Arc<AtomicU32>) {
    let taken = Arc::new(AtomicU32::new(0));
    let doors: Arc<[UnboundedSender<DuplexStream>]> = (0..BACKENDS)
        .map(|n| {
            let is_slow = n + 1 == BACKENDS;
            serve(is_slow.then(|| Arc::clone(&taken)))
        })
        .collect();
    let connector: Connector = Arc::new(move |address| {
        let connected = connect(&doors, &address);
        Box::pin(async move { connected })
    });
    (connector, taken)
}

fn connect(
    doors: &[UnboundedSender<DuplexStream>],
    address: &Address,
) -> std::io::Result<Box<dyn Io>> {
    let refused = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let Address::Tcp(address) = address else {
        return Err(refused());
    };
    let door = doors.get(usize::from(address.port()) - 1);
    let (near, far) = duplex(BUFFER);
    let sent = door.ok_or_else(refused)?.send(far);
    sent.map_err(|_| refused())?;
    Ok(Box::new(near))
}

fn serve(slow: Option<Arc<AtomicU32>>) -> UnboundedSender<DuplexStream> {
    let (door, mut pipes) = unbounded_channel();
    let incoming = futures_util::stream::poll_fn(move |cx| {
        pipes
            .poll_recv(cx)
            .map(|pipe| pipe.map(Ok::<_, std::io::Error>))
    });
    let router = tonic::transport::Server::builder().add_service(EchoServer::new(Backend(slow)));
    tokio::spawn(router.serve_with_incoming(incoming));
    door
}

/// Answers after 5 ms and a random time of 5 ms in the mean; the slow one counts its calls.
struct Backend(Option<Arc<AtomicU32>>);

#[tonic::async_trait]
impl Echo for Backend {
    async fn unary(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        let mut time = Duration::from_millis(5) + exponential(0.005);
        if let Some(taken) = &self.0 {
            taken.fetch_add(1, Relaxed);
            time = time.mul_f64(SLOWER);
        }
        tokio::time::sleep(time).await;
        Ok(Response::new(request.into_inner()))
    }

    type StreamStream = Empty<Result<Message, Status>>;

    async fn stream(
        &self,
        _: Request<Streaming<Message>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        Err(Status::unimplemented("this bench makes unary calls"))
    }
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 56.0;
/// The rightmost percentile is 99.9.
const NINES: f64 = 3.0;
const SLOWEST_MS: f64 = 1000.0;
const FASTEST_MS: f64 = 5.0;
const COLOURS: [&str; 3] = ["#b45309", "#2563eb", "#15803d"];

/// How far along the axis, which grows by tenths of what is left: 90, 99, 99.9.
fn across(percent: f64) -> f64 {
    let nines = -(1.0 - percent / 100.0).log10() / NINES;
    MARGIN + nines.clamp(0.0, 1.0) * (WIDTH - 2.0 * MARGIN)
}

fn down(ms: f64) -> f64 {
    let share = (ms / FASTEST_MS).log10() / (SLOWEST_MS / FASTEST_MS).log10();
    HEIGHT - MARGIN - share.clamp(0.0, 1.0) * (HEIGHT - 2.0 * MARGIN)
}

/// Latency by percentile, both by their logarithms.
fn drawing(outcomes: &[Outcome]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut line = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    line(format!(
        "<text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">Latency by percentile, one of {BACKENDS} backends {SLOWER} times slower</text>"
    ));
    let (left, right, bottom) = (across(0.0), across(99.9), down(FASTEST_MS));
    for percent in [0.0, 50.0, 90.0, 99.0, 99.9] {
        let x = across(percent);
        line(format!(
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{percent}</text>",
            down(SLOWEST_MS),
            bottom + 18.0
        ));
    }
    for ms in [5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0] {
        let y = down(ms);
        line(format!(
            "<line x1=\"{left:.1}\" y1=\"{y:.1}\" x2=\"{right:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ms} ms</text>",
            left - 6.0,
            y + 4.0
        ));
    }
    for (n, (policy, outcome)) in POLICIES.iter().zip(outcomes).enumerate() {
        let points: String = (0..=150).fold(String::new(), |mut points, step| {
            let nines = NINES * f64::from(step) / 150.0;
            let percent = 100.0 * (1.0 - 10.0_f64.powf(-nines));
            let (x, y) = (across(percent), down(outcome.percentile(percent)));
            // Writing to a string cannot fail.
            let _ = write!(points, "{x:.1},{y:.1} ");
            points
        });
        let (colour, y) = (COLOURS[n], 60.0 + 18.0 * n as f64);
        line(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.trim_end()
        ));
        line(format!(
            "<line x1=\"{0:.1}\" y1=\"{1:.1}\" x2=\"{2:.1}\" y2=\"{1:.1}\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{3:.1}\" y=\"{4:.1}\">{5}</text>",
            left + 12.0,
            y,
            left + 36.0,
            left + 42.0,
            y + 4.0,
            policy.replace('_', " ")
        ));
    }
    svg.push_str("</svg>\n");
    svg
}
