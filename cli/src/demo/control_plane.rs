//! The management server of the demo: started, killed, asked.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use sidestep_server::store::{Report, Store};
use sidestep_server::tracker::{Client, Progress};
use sidestep_server::{FileSource, ListenAddress, ManagementServer, Running};

/// How long an edit may take to be read; 100 ms are promised.
const EDIT_LIMIT: Duration = Duration::from_secs(5);

/// The server and its address, which it keeps over restarts.
pub(super) struct ControlPlane {
    mesh_file: PathBuf,
    address: ListenAddress,
    running: Mutex<Option<Running>>,
}

impl ControlPlane {
    pub(super) async fn start(mesh_file: PathBuf) -> anyhow::Result<Self> {
        let any_port = ListenAddress::Tcp(([127, 0, 0, 1], 0).into());
        let running = serve(&mesh_file, any_port).await?;
        Ok(Self {
            mesh_file,
            address: running.address().clone(),
            running: Mutex::new(Some(running)),
        })
    }

    pub(super) fn address(&self) -> &ListenAddress {
        &self.address
    }

    pub(super) fn is_up(&self) -> bool {
        self.lock().is_some()
    }

    /// Ends it as a crash would.
    pub(super) async fn kill(&self) {
        let running = self.lock().take();
        if let Some(running) = running {
            running.kill().await;
        }
    }

    /// Starts it again at its old address, if it is down. It knows nothing of its former life.
    pub(super) async fn restart(&self) -> anyhow::Result<()> {
        if !self.is_up() {
            let running = serve(&self.mesh_file, self.address.clone()).await?;
            *self.lock() = Some(running);
        }
        Ok(())
    }

    /// Runs an edit of the mesh file and waits for what the server makes of it.
    pub(super) async fn verdict(
        &self,
        edit: impl FnOnce() -> std::io::Result<()>,
    ) -> anyhow::Result<Report> {
        let store = self.store()?;
        let before = store.report();
        let refused_at = |report: &Report| report.refusal.as_ref().map(|refusal| refusal.at);
        let mut reports = store.watch_reports();
        edit()?;
        let news = reports.wait_for(|report| {
            report.revision > before.revision
                || (report.refusal.is_some() && refused_at(report) != refused_at(&before))
        });
        let report = tokio::time::timeout(EDIT_LIMIT, news)
            .await
            .with_context(|| format!("the edit was not noticed within {EDIT_LIMIT:?}"))??;
        Ok(report.clone())
    }

    /// The clients that are connected now; none while the server is down.
    fn clients(&self) -> Vec<Client> {
        let running = self.lock();
        let running = running.as_ref();
        running.map_or_else(Vec::new, |running| running.tracker().clients())
    }

    /// How far a process has got with a resource type, if it is connected.
    pub(super) fn progress(&self, node_id: &str, type_url: &str) -> Option<Progress> {
        let mut clients = self.clients().into_iter();
        let client = clients.find(|client| client.node_id == node_id)?;
        client.types.get(type_url).cloned()
    }

    /// The revision in use, and the newest refusal.
    pub(super) fn report(&self) -> Option<Report> {
        self.store().ok().map(|store| store.report())
    }

    fn store(&self) -> anyhow::Result<Store> {
        let running = self.lock();
        let running = running.as_ref().context("the control plane is down")?;
        Ok(running.store().clone())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(mesh_file: &PathBuf, address: ListenAddress) -> anyhow::Result<Running> {
    let running = ManagementServer::builder()
        .source(FileSource::new([mesh_file]))
        .listen(address)
        .start()
        .await?;
    Ok(running)
}
