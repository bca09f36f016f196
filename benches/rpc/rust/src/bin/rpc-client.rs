//! Calls the echo service over one transport and prints what came of it.
//!
//! Warms up, prints the event `begin`, waits for a line (or the end) of standard input, makes the
//! calls that count, prints the event `end` and then `result`. Who starts it reads the servers'
//! processor time at `begin` and at `end`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, ValueEnum as _};
use rpc::bare;
use rpc::lab::{Certificates, Lab};
use rpc::load::{self, Load};
use rpc::outcome::processor_time;
use rpc::transport::{self, Case, Transport};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

#[derive(Parser)]
#[command(about = "Calls the echo service over one transport")]
struct Flags {
    /// What makes the calls.
    #[arg(long, value_enum)]
    case: Case,
    /// Servers and control plane: {"servers": [...], "control": "...", "service": "...", "node": "..."}.
    #[arg(long)]
    lab: String,
    #[command(flatten)]
    load: Load,
    /// Threads of the runtime; 1 is a runtime without threads of its own.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Mutual TLS, with certificate.pem, key.pem and roots.pem of this folder.
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Seconds after which the program gives up.
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    ensure!(flags.load.in_flight > 0, "--in-flight: at least 1");
    let runtime = runtime(flags.threads)?;
    runtime.block_on(async {
        let limit = Duration::from_secs(flags.limit);
        let ended = tokio::time::timeout(limit, call(&flags)).await;
        ended.with_context(|| format!("not done within {limit:?}"))?
    })
}

fn runtime(threads: usize) -> Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

async fn call(flags: &Flags) -> Result<()> {
    let lab = Lab::parse(&flags.lab)?;
    let certificates = flags.tls.as_deref().map(Certificates::new);
    let certificates = certificates.as_ref();
    match flags.case {
        Case::H2 => {
            ensure!(certificates.is_none(), "there is no TLS over bare h2");
            let server = lab.servers.first().context("no servers")?;
            measure(flags, &[bare::Sender::connect(server).await?]).await
        }
        Case::Tonic1 => {
            let first = lab.servers.get(..1).context("no servers")?;
            measure(flags, &transport::tonic(first, certificates).await?).await
        }
        Case::TonicX3 => {
            let clients = transport::tonic(&lab.servers, certificates).await?;
            measure(flags, &clients).await
        }
        Case::TonicBalance => {
            let client = transport::tonic_balance(&lab.servers, certificates)?;
            measure(flags, &[client]).await
        }
        Case::TonicXds => measure(flags, &[transport::tonic_xds(&lab, certificates)?]).await,
        Case::Sidestep => {
            let client = transport::sidestep(&lab, certificates).await?;
            measure(flags, &[client]).await
        }
    }
}

async fn measure<T: Transport>(flags: &Flags, transports: &[T]) -> Result<()> {
    let load = &flags.load;
    let callers = load.callers(transports);
    let (before, callers) = load::closed(callers, load.warm_up).await?;
    if let Some(fault) = before.fault {
        bail!("warm-up: {} calls failed: {fault:#}", before.failed);
    }
    say(&json!({"event": "begin"}))?;
    // The other side reads clocks meanwhile; nobody is called, so nothing is held up.
    std::io::stdin().read_line(&mut String::new())?;
    let (used, start) = (processor_time()?, Instant::now());
    let (calls, _callers) = match load.rate {
        Some(rate) => (load::open(transports, load, rate).await?, callers),
        None => load::closed(callers, load.calls).await?,
    };
    let elapsed = start.elapsed();
    let used = processor_time()?.saturating_sub(used);
    say(&json!({"event": "end"}))?;
    let case = flags.case.to_possible_value().context("a name")?;
    say(&calls.result(case.get_name(), elapsed, used)?)
}

fn say(event: &Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{event}")?;
    Ok(out.flush()?)
}
