//! Unary calls in a closed loop.
//!
//! `run` is server and client in one process, for a clock; `serve` and `client` are the two apart,
//! so that valgrind counts the client alone.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use sidestep_benches::client::{self, Load};
use sidestep_benches::lab::Lab;
use tokio::io::AsyncReadExt as _;
use tokio::runtime::{Builder, Runtime};

#[derive(Parser)]
#[command(about = "Unary calls in a closed loop")]
struct Flags {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Start servers and control plane, print their addresses as JSON, serve until stdin ends.
    Serve(Size),
    /// Make calls to what `serve` printed.
    Client {
        #[command(flatten)]
        load: Load,
        /// The line that `serve` printed.
        #[arg(long)]
        lab: String,
    },
    /// Both in one process, each on a thread of its own; prints calls per second.
    Run {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        size: Size,
    },
}

#[derive(Args)]
struct Size {
    /// How many servers.
    #[arg(long, default_value_t = 3)]
    endpoints: usize,
}

fn main() -> Result<()> {
    match Flags::parse().role {
        Role::Serve(size) => runtime()?.block_on(async {
            let lab = Lab::start(size.endpoints).await?;
            println!("{}", describe(&lab));
            tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
            Ok(())
        }),
        Role::Client { load, lab } => call(&load, &serde_json::from_str(&lab)?),
        Role::Run { load, size } => {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || -> Result<()> {
                runtime()?.block_on(async {
                    let lab = Lab::start(size.endpoints).await?;
                    tell.send(describe(&lab))?;
                    std::future::pending().await
                })
            });
            let lab = told.recv().context("the servers did not start")?;
            let start = Instant::now();
            call(&load, &lab)?;
            let rate = f64::from(load.calls) / start.elapsed().as_secs_f64();
            println!("{:?}: {rate:.0} calls/s", load.case);
            Ok(())
        }
    }
}

fn describe(lab: &Lab) -> Value {
    json!({"endpoints": lab.endpoints, "control": lab.control()})
}

fn call(load: &Load, lab: &Value) -> Result<()> {
    let endpoints: Vec<String> = serde_json::from_value(lab["endpoints"].clone())?;
    let control = lab["control"].as_str().context("no control plane")?;
    runtime()?.block_on(client::run(load, &endpoints, control))
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
