//! `sidestep demo`: a whole mesh in one process, watched while things happen to it.
//!
//! ```text
//!   scene ── edits ──> mesh.yaml ──> control plane ══ ADS ══> client's Mesh ── mTLS ──> backends
//!     │                                             ══ ADS ══> backends' Meshes            ^
//!     └── kills, rolls, rotates, breaks                                                   │
//!   control group: tonic's own balanced channel, static addresses, tonic's TLS ── mTLS ───┘
//!
//!   load ──> tally (both groups) ──> verdict ──> plain lines | terminal view
//! ```
//!
//! Nothing is imitated: each process of the mesh has its bootstrap file, its certificate files
//! and its own `Mesh`, and all of them talk over loopback TCP. Read in this order: [`world`],
//! [`scene`], [`load`], [`plain`], [`view`].

mod backend;
mod certificates;
mod control_plane;
mod directory;
mod load;
mod mesh_file;
mod odds;
mod plain;
mod scene;
mod service;
mod summary;
mod tally;
mod view;
mod world;

/// The greeter: stubs generated from the examples' `hello.proto`.
#[allow(
    missing_docs,
    dead_code,
    clippy::all,
    clippy::use_self,
    unreachable_pub,
    unused_qualifications,
    reason = "generated"
)]
mod hello {
    include!("generated/hello.rs");
}

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::output::Exit;
use scene::Scene;
use world::{News, Settings, World};

/// What the user asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Stop after this time; otherwise plain runs stop after one round of scenes.
    pub(crate) limit: Option<Duration>,
    /// Lines instead of the terminal view.
    pub(crate) plain: bool,
    /// The summary is JSON on standard output, everything else goes to standard error.
    pub(crate) json: bool,
    /// Names of the scenes to play; empty: all.
    pub(crate) scenes: Vec<String>,
    /// Where to leave the files.
    pub(crate) keep: Option<PathBuf>,
    /// For everything that the demo itself draws.
    pub(crate) seed: u64,
    /// Of each group.
    pub(crate) calls_per_second: u32,
}

/// The names of all scenes, for `--help`.
pub(crate) fn scene_names() -> impl Iterator<Item = &'static str> {
    scene::SCENES.iter().map(|scene| scene.name)
}

/// Runs the demo.
pub(crate) async fn run(options: Options) -> anyhow::Result<Exit> {
    let scenes = chosen(&options.scenes)?;
    let settings = Settings {
        keep: options.keep.clone(),
        seed: options.seed,
        calls_per_second: options.calls_per_second,
    };
    let (world, news) = World::start(&settings).await?;
    let voice = plain::Voice::new(options.json);
    let playing = tokio::spawn(perform(
        Arc::clone(&world),
        scenes,
        options.limit,
        options.plain,
    ));
    voice.banner(&world, options.seed);
    let signals = end_on_signal(&world)?;
    let shown = if options.plain {
        Ok(plain::watch(voice, news).await)
    } else {
        view::watch(&world, news).await
    };
    signals.abort();
    playing.abort();
    world.stop().await;
    let verdicts = shown?;
    voice.summary(options.seed, &verdicts);
    // Whoever watches may leave before the first verdict; a run in CI that judged nothing has
    // proved nothing.
    if verdicts.is_empty() && !options.plain {
        return Ok(Exit::Ok);
    }
    Ok(summary::exit(&verdicts))
}

/// Ctrl-C and the signals by which processes are stopped end the run in good order, with what
/// there is so far: temporary files are removed.
fn end_on_signal(world: &Arc<World>) -> std::io::Result<tokio::task::JoinHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let world = Arc::clone(world);
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        world.tell(News::End);
    }))
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<&'static Scene>> {
    if names.is_empty() {
        return Ok(scene::SCENES.to_vec());
    }
    let found = names.iter().map(|name| {
        scene::find(name).ok_or_else(|| {
            let known: Vec<&str> = scene_names().collect();
            anyhow::anyhow!("no scene {name:?}; there are {}", known.join(", "))
        })
    });
    found.collect()
}

/// Plays the scenes until the time is up: over and over, or, `once` and without a limit, once.
async fn perform(
    world: Arc<World>,
    scenes: Vec<&'static Scene>,
    limit: Option<Duration>,
    once: bool,
) {
    let all = async {
        loop {
            for scene in &scenes {
                tokio::select! {
                    verdict = scene::play(&world, scene) => {
                        world.tell(News::Verdict(Box::new(verdict)));
                    }
                    () = world.skipped() => world.say(format!("{} skipped", scene.name)),
                }
            }
            if once && limit.is_none() {
                return;
            }
        }
    };
    match limit {
        None => all.await,
        // The scene in play is cut off; it has no verdict.
        Some(limit) => {
            let _ = tokio::time::timeout(limit.saturating_sub(world.elapsed()), all).await;
        }
    }
    world.tell(News::End);
}
