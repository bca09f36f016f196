//! What the programs do as processes: where logs go, when they end, how they say what went wrong.

use std::future::Future;
use std::time::Duration;

use sidestep::Mesh;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::flags::refuse;

/// What is still open so long after SIGTERM is cut: a program ends within 5 s.
pub const GRACE: Duration = Duration::from_secs(4);

/// Runs a program; what is wrong with its call ends it as the contract has it.
pub async fn run(program: impl Future<Output = Result<(), String>>) {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    if let Err(message) = program.await {
        refuse(&message);
    }
}

/// Becomes true at SIGTERM.
///
/// # Errors
/// The signal cannot be had.
pub fn terminated() -> Result<Terminated, String> {
    let mut term = signal(SignalKind::terminate()).map_err(text)?;
    let (told, receiver) = watch::channel(false);
    tokio::spawn(async move {
        term.recv().await;
        told.send_replace(true);
    });
    Ok(Terminated(receiver))
}

/// Whether the process was told to end.
#[derive(Debug, Clone)]
pub struct Terminated(watch::Receiver<bool>);

impl Terminated {
    /// Waits for it.
    pub async fn wait(mut self) {
        // The other end is kept by a task that ends only after it has told.
        let _ = self.0.wait_for(|told| *told).await;
    }

    /// Waits until what is open has had its time.
    pub async fn cut(self) {
        self.wait().await;
        tokio::time::sleep(GRACE).await;
    }
}

/// The mesh that the environment names; without a bootstrap, one for direct targets.
///
/// # Errors
/// A bootstrap that is wrong.
pub fn mesh() -> Result<Mesh, String> {
    let set = |name| std::env::var_os(name).is_some();
    let mut builder = Mesh::builder().plaintext_where_unsecured();
    if set("GRPC_XDS_BOOTSTRAP") || set("GRPC_XDS_BOOTSTRAP_CONFIG") {
        builder = builder.from_env().map_err(text)?;
    }
    builder.build().map_err(text)
}

/// An error as the `error` event tells it.
pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
