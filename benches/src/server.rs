//! One server that is measured itself.

use std::sync::Arc;

use anyhow::{Context, Result};
use clap::ValueEnum;
use sidestep::{Mesh, ServerMode};
use tokio::sync::Notify;

use crate::echo::echo_server::EchoServer;
use crate::lab::{self, Echoing};

/// What serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stack {
    /// The mesh's server, configured by a live control plane; plaintext.
    Sidestep,
    /// tonic's own.
    Tonic,
}

/// Starts a server, which lives as long as the runtime, and returns its address once it serves.
///
/// # Errors
/// No port is free.
pub async fn start(stack: Stack, control: &str) -> Result<String> {
    match stack {
        Stack::Tonic => lab::serve().await,
        Stack::Sidestep => meshed(control).await,
    }
}

async fn meshed(control: &str) -> Result<String> {
    let mesh = Mesh::builder().bootstrap_json(&lab::bootstrap(control, "echo"))?;
    let mesh = mesh.build().context("the mesh")?;
    let serving = Arc::new(Notify::new());
    let tell = Arc::clone(&serving);
    let server = mesh
        .server("127.0.0.1:0")
        .add_service(EchoServer::new(Echoing))
        .on_mode_change(move |_, mode| {
            if *mode == ServerMode::Serving {
                tell.notify_one();
            }
        })
        .bind()?;
    let address = server.address().to_string();
    tokio::spawn(async move {
        let ended = server.serve().await;
        drop(mesh);
        ended
    });
    serving.notified().await;
    Ok(address)
}
