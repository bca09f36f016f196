//! The interop management server: gives every client the resources of a folder, as they are, and
//! tells what clients make of them. Its flags and events are a contract that others drive it by.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sidestep_interop::flags::{Flags, say};
use sidestep_interop::mgmt::{MGMT, Narrator};
use sidestep_interop::process;
use sidestep_server::{
    Configuration, ListenAddress, LoadReporting, ManagementServer, RawResources, Running,
    StartError,
};
use tokio::signal::unix::{SignalKind, signal};

/// How often clients are asked to report their load.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

#[tokio::main]
async fn main() {
    process::run(serve()).await;
}

async fn serve() -> Result<(), String> {
    let flags = Flags::of_process(&MGMT)?;
    let listen = address(flags.text("listen").unwrap_or("127.0.0.1:0")).await?;
    let path = flags.text("resources").map(PathBuf::from);
    // Before anybody can send them.
    let mut hangup = signal(SignalKind::hangup()).map_err(text)?;
    let terminated = process::terminated()?;

    let first = read(path.clone())
        .await
        .inspect_err(|error| refused(error))?;
    let narrator = Arc::new(Narrator::default());
    let started = ManagementServer::builder()
        .source(RawResources::with(first))
        .listen(listen)
        .observer(narrator.clone())
        .load_reporting(LoadReporting::new(REPORT_INTERVAL, narrator))
        .start()
        .await;
    let running = started.map_err(|error| {
        let message = error.to_string();
        if matches!(error, StartError::Source(_)) {
            refused(&message);
        }
        message
    })?;
    say("ready", json!({ "addr": running.address().to_string() }));
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&running, path.clone()).await,
            () = terminated.clone().wait() => break,
        }
    }
    running.shutdown().await;
    Ok(())
}

/// An address to listen on; a host may be given by name.
async fn address(wanted: &str) -> Result<ListenAddress, String> {
    let error = match wanted.parse() {
        Ok(address) => return Ok(address),
        Err(error) => format!("--listen: {error}"),
    };
    let found = tokio::net::lookup_host(wanted).await;
    let first = found.ok().and_then(|mut addresses| addresses.next());
    first.map(ListenAddress::Tcp).ok_or(error)
}

/// What the files say now; nothing, if there are none.
async fn read(path: Option<PathBuf>) -> Result<Configuration, String> {
    let Some(path) = path else {
        return Ok(Configuration::as_written(Vec::new()));
    };
    let reading = tokio::task::spawn_blocking(move || Configuration::read_resources(&path));
    reading.await.map_err(text)?.map_err(text)
}

/// Puts what the files say now in the place of what they said, or changes nothing.
async fn reload(running: &Running, path: Option<PathBuf>) {
    let applied = match read(path).await {
        Ok(configuration) => running.store().apply(Ok(configuration)).map_err(text),
        Err(error) => Err(error),
    };
    match applied {
        Ok(_) => say("reload", json!({ "ok": true })),
        Err(error) => refused(&error),
    }
}

fn refused(error: &str) {
    say("reload", json!({ "ok": false, "error": error }));
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
