//! A backend: a meshed server that can be stopped, killed and started again like a process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use sidestep::{Mesh, ServerError, ServerMode};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;

use super::hello::greeter_server::GreeterServer;
use super::service::{Dials, Greeting};

/// How long a backend may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(10);

/// One of the backends; its address stays the same over restarts.
pub(super) struct Backend {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    pub(super) dials: Arc<Dials>,
    bootstrap: PathBuf,
    address: OnceLock<SocketAddr>,
    state: Arc<AtomicU8>,
    process: Mutex<Option<Process>>,
}

/// What people see of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Down,
    Starting,
    Up,
    Draining,
}

/// What a process of its own would hold.
struct Process {
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServerError>>,
    _mesh: Mesh,
}

impl Backend {
    pub(super) fn new(
        name: &'static str,
        version: &'static str,
        bootstrap: PathBuf,
        seed: u64,
    ) -> Self {
        Self {
            name,
            version,
            dials: Arc::new(Dials::new(seed)),
            bootstrap,
            address: OnceLock::new(),
            state: Arc::new(AtomicU8::new(State::Down as u8)),
            process: Mutex::default(),
        }
    }

    /// Where it listens, once it was started.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address.get().copied()
    }

    pub(super) fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            1 => State::Starting,
            2 => State::Up,
            3 => State::Draining,
            _ => State::Down,
        }
    }

    /// Starts it, if it is down, and waits until it serves.
    pub(super) async fn start(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock().await;
        if process.is_some() {
            return Ok(());
        }
        self.enter(State::Starting);
        let (started, mut mode) = self.launch()?;
        *process = Some(started);
        let serving = mode.wait_for(|mode| *mode == Some(ServerMode::Serving));
        if tokio::time::timeout(START_LIMIT, serving).await.is_err() {
            let said = mode.borrow().clone();
            bail!(
                "{} does not serve after {START_LIMIT:?}: {said:?}",
                self.name
            );
        }
        Ok(())
    }

    fn launch(&self) -> anyhow::Result<(Process, watch::Receiver<Option<ServerMode>>)> {
        let mesh = mesh(&self.bootstrap)?;
        let greeting = Greeting {
            name: self.name,
            dials: Arc::clone(&self.dials),
        };
        let address = self.address();
        let address = address.map_or_else(|| "127.0.0.1:0".to_owned(), |it| it.to_string());
        let (tell, mode) = watch::channel(None);
        let state = Arc::clone(&self.state);
        let server = mesh
            .server(address)
            .add_service(GreeterServer::new(greeting))
            .on_mode_change(move |_, mode| {
                if *mode == ServerMode::Serving {
                    state.store(State::Up as u8, Ordering::Relaxed);
                }
                tell.send_replace(Some(mode.clone()));
            })
            .bind()?;
        let bound = server.address().to_string();
        let bound = bound.parse().context("loopback is an IP address")?;
        self.address.get_or_init(|| bound);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.serve_with_shutdown(stopped));
        let process = Process {
            stop,
            serving,
            _mesh: mesh,
        };
        Ok((process, mode))
    }

    /// Stops it in good order: calls in flight are finished.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        let mut process = self.process.lock().await;
        if let Some(running) = process.take() {
            self.enter(State::Draining);
            // It may have ended by itself; waiting for it says so.
            let _ = running.stop.send(());
            running.serving.await??;
        }
        self.enter(State::Down);
        Ok(())
    }

    /// Ends it as a crash would: its sockets are closed, whatever is in flight.
    pub(super) async fn kill(&self) {
        let mut process = self.process.lock().await;
        if let Some(running) = process.take() {
            running.serving.abort();
            // Cancelled, as just asked for.
            let _ = running.serving.await;
        }
        self.enter(State::Down);
    }

    fn enter(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }
}

/// The mesh of a process, from its bootstrap file: what `Mesh::from_env` does in a process of
/// its own.
pub(super) fn mesh(bootstrap: &std::path::Path) -> anyhow::Result<Mesh> {
    let file = |name: &str| (name == "GRPC_XDS_BOOTSTRAP").then(|| bootstrap.into());
    Ok(Mesh::builder().from_lookup(file)?.build()?)
}
