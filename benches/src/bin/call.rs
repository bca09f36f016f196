//! Unary calls in a closed loop.
//!
//! `run` is server and client in one process, for a clock; `serve` and `client` are the two apart,
//! so that valgrind counts the client alone; `server` is one more server, to be counted itself.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use sidestep_benches::client::{self, Load};
use sidestep_benches::lab::{Lab, Place};
use sidestep_benches::server::{self, Stack};
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
    /// Start one server, print where it is as JSON for a client, serve until stdin ends.
    Server {
        /// What serves.
        #[arg(long, value_enum)]
        stack: Stack,
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
            announced(&lab.place).await
        }),
        Role::Client { load, lab } => call(&load, &serde_json::from_str(&lab)?),
        Role::Server { stack, lab } => runtime()?.block_on(async {
            let lab: Place = serde_json::from_str(&lab)?;
            let place = Place {
                endpoints: vec![server::start(stack, &lab.control).await?],
                ..lab
            };
            announced(&place).await
        }),
        Role::Run { load, size } => {
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || -> Result<()> {
                runtime()?.block_on(async {
                    let lab = Lab::start(size.endpoints).await?;
                    tell.send(lab.place.clone())?;
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

/// Says where the servers are, and holds on until nobody needs them any more.
async fn announced(place: &Place) -> Result<()> {
    println!("{}", serde_json::to_string(place)?);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

fn call(load: &Load, place: &Place) -> Result<()> {
    runtime()?.block_on(client::run(load, place))
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}
