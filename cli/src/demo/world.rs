//! Everything that the demo runs, and the few ways to change it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sidestep::Mesh;
use sidestep::telemetry::Reading;
use sidestep::telemetry::instruments::OUTLIER_DETECTION_EJECTIONS_ENFORCED;
use sidestep_proto::resource::ResourceType;
use sidestep_server::store::Report;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::backend::{self, Backend};
use super::certificates::Authority;
use super::control_plane::ControlPlane;
use super::directory::Directory;
use super::load::{self, Client, Group};
use super::mesh_file::{Endpoint, MeshFile};
use super::scene::Verdict;

/// The process that calls: its bootstrap, its certificate, its `node.id`.
const CLIENT: &str = "client";

/// Names and versions of the backends.
pub(super) const BACKENDS: [(&str, &str); 3] = [
    ("greeter-a", "v1"),
    ("greeter-b", "v1"),
    ("greeter-c", "v2"),
];

/// The longest wait for anything that the demo expects to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The demo's world.
pub(super) struct World {
    pub(super) directory: Directory,
    pub(super) control_plane: ControlPlane,
    pub(super) backends: Vec<Backend>,
    /// The callers through the mesh: the ones under test.
    pub(super) mesh: Arc<Group>,
    /// The callers over tonic's own channel.
    pub(super) control: Arc<Group>,
    pub(super) paused: Arc<AtomicBool>,
    pub(super) calls_per_second: u32,
    /// The process that calls.
    client: Mesh,
    authority: Authority,
    generation: AtomicU32,
    file: Mutex<MeshFile>,
    /// Somebody faulted a backend by hand: the scene is not judged.
    touched: AtomicBool,
    skip: Notify,
    news: mpsc::UnboundedSender<News>,
    started: Instant,
    tasks: Mutex<JoinSet<()>>,
}

/// What happens, for whoever shows it.
#[derive(Debug)]
pub(super) enum News {
    /// A scene begins.
    Scene(&'static super::scene::Scene),
    /// Something happened at this time since the start.
    Said(Duration, String),
    /// A scene is over.
    Verdict(Box<Verdict>),
    /// All scenes are over, or nothing works any more.
    End,
}

/// What the user can choose.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) keep: Option<std::path::PathBuf>,
    pub(super) seed: u64,
    /// Of each group.
    pub(super) calls_per_second: u32,
}

impl World {
    /// Starts everything and returns once calls are answered.
    pub(super) async fn start(
        settings: &Settings,
    ) -> anyhow::Result<(Arc<Self>, mpsc::UnboundedReceiver<News>)> {
        let started = Instant::now();
        let directory = Directory::open(settings.keep.as_deref())
            .context("the demo's files cannot be written")?;
        directory.write_mesh(&MeshFile::default().render())?;
        let control_plane = ControlPlane::start(directory.mesh_file()).await?;
        let authority = Authority::new()?;
        directory.write_root(&authority.root())?;
        for (process, service) in processes() {
            directory.write_identity(process, &authority.issue(service, 1)?)?;
            let address = control_plane.address().to_string();
            directory.write_bootstrap(&address, process, service)?;
        }
        let mut seeds = fastrand::Rng::with_seed(settings.seed);
        let mut backends = Vec::new();
        for (name, version) in BACKENDS {
            let backend = Backend::new(name, version, directory.bootstrap(name), seeds.u64(..));
            backend.start().await?;
            backends.push(backend);
        }
        let client = backend::mesh(&directory.bootstrap(CLIENT))?;
        let channel = client.channel("xds:///greeter")?;
        let plain = Client::plain(
            backends.iter().filter_map(Backend::address),
            &authority.root(),
            &authority.issue(CLIENT, 1)?,
        )?;
        let (news, heard) = mpsc::unbounded_channel();
        let world = Arc::new(Self {
            directory,
            control_plane,
            backends,
            mesh: Arc::new(Group::new(Client::mesh(channel.clone()))),
            control: Arc::new(Group::new(plain)),
            paused: Arc::default(),
            calls_per_second: settings.calls_per_second,
            client,
            authority,
            generation: AtomicU32::new(1),
            file: Mutex::default(),
            touched: AtomicBool::new(false),
            skip: Notify::new(),
            news,
            started,
            tasks: Mutex::default(),
        });
        world.edit(|file| *file = world.standard()).await?;
        tokio::time::timeout(PATIENCE, channel.ready())
            .await
            .context("no endpoint could be connected")?;
        world.drive(settings.calls_per_second);
        Ok((world, heard))
    }

    fn drive(&self, calls_per_second: u32) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        for group in [&self.mesh, &self.control] {
            let paused = Arc::clone(&self.paused);
            tasks.spawn(load::drive(Arc::clone(group), calls_per_second, paused));
        }
    }

    /// The mesh file with which each scene begins: every backend takes calls.
    fn standard(&self) -> MeshFile {
        let lines = self.backends.iter().filter_map(endpoint);
        MeshFile {
            endpoints: lines.collect(),
            split: None,
            guard: None,
        }
    }

    /// Puts everything back in order, whatever the last scene left behind.
    pub(super) async fn restore(&self) -> anyhow::Result<()> {
        self.control_plane.restart().await?;
        for backend in &self.backends {
            backend.dials.fail(0);
            backend.dials.hang(false);
            backend.start().await?;
        }
        self.edit(|file| *file = self.standard()).await?;
        for backend in &self.backends {
            self.until_served_by(backend, 1).await?;
        }
        self.touched.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// The mesh file as it was last written in good order.
    pub(super) fn file(&self) -> MeshFile {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.clone()
    }

    /// Edits the mesh file, and waits until the caller's process has accepted the new
    /// configuration. Answers how long that took; at once if nothing changes.
    pub(super) async fn edit(
        &self,
        change: impl FnOnce(&mut MeshFile),
    ) -> anyhow::Result<Duration> {
        let (before, after) = {
            let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
            let before = file.clone();
            change(&mut file);
            (before, file.clone())
        };
        let text = after.render();
        if std::fs::read_to_string(self.directory.mesh_file())? == text {
            return Ok(Duration::ZERO);
        }
        let started = Instant::now();
        let report = self.push(&text).await?;
        if let Some(refusal) = report.refusal {
            bail!("the mesh file was refused: {}", refusal.error);
        }
        if before.endpoints != after.endpoints {
            self.until_accepted(ResourceType::EndpointAssignment, report.revision)
                .await?;
        }
        if before.guard != after.guard {
            self.until_accepted(ResourceType::Cluster, report.revision)
                .await?;
        }
        if before.split != after.split || before.guard != after.guard {
            self.until_accepted(ResourceType::RouteConfiguration, report.revision)
                .await?;
        }
        Ok(started.elapsed())
    }

    /// Writes any text as the mesh file, and waits for what the control plane makes of it.
    pub(super) async fn push(&self, text: &str) -> anyhow::Result<Report> {
        self.control_plane
            .verdict(|| self.directory.write_mesh(text))
            .await
    }

    /// Writes the mesh file while nobody reads it.
    pub(super) fn edit_unread(&self, change: impl FnOnce(&mut MeshFile)) -> anyhow::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut file);
        Ok(self.directory.write_mesh(&file.render())?)
    }

    /// Whether the caller's process has this revision of a type. It does not ask at all before
    /// its first call.
    async fn until_accepted(&self, kind: ResourceType, revision: u64) -> anyhow::Result<()> {
        let what = format!("the client to accept revision {revision}");
        let url = kind.type_url();
        if self.control_plane.progress(CLIENT, url).is_none() {
            return Ok(());
        }
        let accepted = || {
            let progress = self.control_plane.progress(CLIENT, url);
            progress
                .and_then(|it| it.acked)
                .is_some_and(|it| it >= revision)
        };
        self.until(&what, accepted).await
    }

    /// Waits until the caller's process is connected to the control plane and in step with it.
    pub(super) async fn until_in_step(&self) -> anyhow::Result<()> {
        let in_step = || {
            let routes = ResourceType::RouteConfiguration.type_url();
            let progress = self.control_plane.progress(CLIENT, routes);
            progress.is_some_and(|it| it.state() == sidestep_server::tracker::State::Synced)
        };
        self.until("the client to come back", in_step).await
    }

    /// Waits until `more` calls of the mesh group have ended.
    pub(super) async fn until_calls(&self, more: u64) -> anyhow::Result<()> {
        let goal = self.mesh.total.calls() + more;
        let reached = || self.mesh.total.calls() >= goal;
        self.until(&format!("{more} calls to end"), reached).await
    }

    /// Waits until a backend has answered `more` calls of the mesh group.
    pub(super) async fn until_served_by(&self, backend: &Backend, more: u64) -> anyhow::Result<()> {
        let goal = self.mesh.total.by(backend.name) + more;
        let reached = || self.mesh.total.by(backend.name) >= goal;
        self.until(&format!("{} to answer calls", backend.name), reached)
            .await
    }

    /// Waits for a condition that nothing announces. Time in which calls are paused does not
    /// count.
    pub(super) async fn until(&self, what: &str, holds: impl Fn() -> bool) -> anyhow::Result<()> {
        let mut left = PATIENCE;
        while !holds() {
            if left.is_zero() {
                bail!("waited {PATIENCE:?} for {what}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
            if !self.paused.load(Ordering::Relaxed) {
                left = left.saturating_sub(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Replaces a backend as a deployment does: out of the mesh, drained, ended; a new process,
    /// into the mesh. Returns once the new one has answered a call.
    pub(super) async fn roll(&self, backend: &Backend) -> anyhow::Result<()> {
        let line = endpoint(backend).context("a backend has an address")?;
        self.edit(|file| file.endpoints.retain(|it| *it != line))
            .await?;
        let started = Instant::now();
        backend.stop().await?;
        let drained = started.elapsed();
        backend.start().await?;
        self.edit(|file| file.endpoints.push(line)).await?;
        self.until_served_by(backend, 5).await?;
        self.say(format!(
            "{} replaced: drained in {} ms, back after {} ms",
            backend.name,
            drained.as_millis(),
            started.elapsed().as_millis()
        ));
        Ok(())
    }

    /// How often the caller's process has left a backend out.
    pub(super) fn ejections(&self) -> u64 {
        let mut sum = 0;
        let counter = &OUTLIER_DETECTION_EJECTIONS_ENFORCED;
        self.client.telemetry().read(counter, |_, reading| {
            if let Reading::Number(n) = reading {
                sum += n.unsigned_abs();
            }
        });
        sum
    }

    /// Gives every process a new certificate and key. Answers their generation.
    pub(super) fn rotate(&self) -> anyhow::Result<u32> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        for (process, service) in processes() {
            let issued = self.authority.issue(service, generation)?;
            self.directory.write_identity(process, &issued)?;
        }
        Ok(generation)
    }

    /// Kills a backend, or starts it again, by the user's hand.
    pub(super) async fn toggle(&self, index: usize) {
        let Some(backend) = self.backends.get(index) else {
            return;
        };
        self.touched.store(true, Ordering::Relaxed);
        if backend.state() == backend::State::Down {
            self.say(format!("{} started by hand", backend.name));
            if let Err(error) = backend.start().await {
                self.say(format!("{error:#}"));
            }
        } else {
            backend.kill().await;
            self.say(format!("{} killed by hand", backend.name));
        }
    }

    /// Ends everything: callers first, so that nobody calls into the end.
    pub(super) async fn stop(&self) {
        self.tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .abort_all();
        for backend in &self.backends {
            backend.kill().await;
        }
        self.control_plane.kill().await;
    }

    /// Ends the scene in play, without a verdict.
    pub(super) fn skip(&self) {
        self.skip.notify_waiters();
    }

    /// Resolves when the scene in play shall end.
    pub(super) async fn skipped(&self) {
        self.skip.notified().await;
    }

    /// Whether the user faulted a backend in this scene.
    pub(super) fn touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// The time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells whoever watches.
    pub(super) fn say(&self, text: impl Into<String>) {
        self.tell(News::Said(self.elapsed(), text.into()));
    }

    /// Tells whoever watches. Nobody may be left, at the end.
    pub(super) fn tell(&self, news: News) {
        let _ = self.news.send(news);
    }
}

/// Between two looks at something that nothing announces.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

fn endpoint(backend: &Backend) -> Option<Endpoint> {
    backend.address().map(|address| Endpoint {
        address,
        version: backend.version,
    })
}

/// Every process of the demo and the service that it is.
fn processes() -> impl Iterator<Item = (&'static str, &'static str)> {
    let backends = BACKENDS.iter().map(|(name, _)| (*name, "greeter"));
    backends.chain([(CLIENT, CLIENT)])
}
