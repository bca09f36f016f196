//! The greeter's client as a load: calls without end, and a line of JSON each second about them.
//!
//! ```text
//! GRPC_XDS_BOOTSTRAP=certs/web.json cargo run -p sidestep-examples --bin hello-load
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidestep::{Channel, Mesh};
use sidestep_examples::hello::HelloRequest;
use sidestep_examples::hello::greeter_client::GreeterClient;
use tonic::Status;

/// Calls in flight at any time, unless the first argument says otherwise.
const IN_FLIGHT: usize = 8;

/// What became of the calls so far.
#[derive(Default)]
struct Count {
    answered: u64,
    failed: u64,
    last_error: Option<String>,
    /// Calls answered by each server since the last line.
    servers: BTreeMap<String, u64>,
}

type Counted = Arc<Mutex<Count>>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let in_flight = match std::env::args().nth(1) {
        Some(number) => number.parse()?,
        None => IN_FLIGHT,
    };
    let greeter = GreeterClient::new(Mesh::from_env()?.channel("xds:///greeter")?);
    let count = Counted::default();
    for _ in 0..in_flight {
        tokio::spawn(call(greeter.clone(), Arc::clone(&count)));
    }
    tokio::select! {
        () = tell(count) => {}
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    Ok(())
}

/// One call after the other.
async fn call(mut greeter: GreeterClient<Channel>, count: Counted) {
    loop {
        let name = "mesh".to_owned();
        let reply = greeter.say_hello(HelloRequest { name }).await;
        note(&count, reply.map(|reply| reply.into_inner().server));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn note(count: &Counted, reply: Result<String, Status>) {
    let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
    match reply {
        Ok(server) => {
            count.answered += 1;
            *count.servers.entry(server).or_default() += 1;
        }
        Err(status) => {
            count.failed += 1;
            count.last_error = Some(status.to_string());
        }
    }
}

async fn tell(count: Counted) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        let servers = std::mem::take(&mut count.servers);
        println!(
            "{}",
            serde_json::json!({
                "event": "load",
                "answered": count.answered,
                "failed": count.failed,
                "last_error": count.last_error,
                "servers": servers,
            })
        );
    }
}
