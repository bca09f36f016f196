//! The scenes: each changes the world in one way and keeps a promise while it does.
//!
//! A new scene is a file here and a line in [`SCENES`].

mod broken_config;
mod control_plane;
mod errors;
mod hang;
mod kill;
mod rolling;
mod rotate;
mod split;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::tally::Counts;
use super::world::{News, World};

/// All scenes, in the order in which they are played.
pub(super) const SCENES: &[&Scene] = &[
    &split::SCENE,
    &rolling::SCENE,
    &kill::SCENE,
    &errors::SCENE,
    &hang::SCENE,
    &rotate::SCENE,
    &control_plane::SCENE,
    &broken_config::SCENE,
];

/// Something that happens to a mesh, and what must hold while it does.
#[derive(Debug)]
pub(super) struct Scene {
    /// For `--scene`.
    pub(super) name: &'static str,
    /// What happens.
    pub(super) title: &'static str,
    /// What the mesh group keeps. Nothing is promised for the control group.
    pub(super) promise: &'static str,
    /// Makes it happen; the claims are on what only this scene knows.
    play: for<'a> fn(&'a World) -> Playing<'a>,
    /// The claims on all calls of the mesh group that began in the scene.
    judge: fn(&Counts) -> Vec<Claim>,
}

type Playing<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<Claim>>> + Send + 'a>>;

/// Part of a promise, with the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) text: String,
    pub(super) held: bool,
}

impl Claim {
    fn new(held: bool, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            held,
        }
    }

    fn no_failures(counts: &Counts) -> Self {
        let failures = counts.failures();
        let first = counts.first_failure.as_deref();
        let said = first.map_or_else(String::new, |first| format!(", the first: {first}"));
        Self::new(failures == 0, format!("{failures} failed{said}"))
    }

    fn no_retries(counts: &Counts) -> Self {
        Self::new(counts.retried == 0, format!("{} retried", counts.retried))
    }
}

/// How a scene went.
#[derive(Debug, Clone)]
pub(super) struct Verdict {
    pub(super) scene: &'static Scene,
    pub(super) took: Duration,
    pub(super) claims: Vec<Claim>,
    /// The user killed a backend meanwhile: a promise is for the scene as it is written.
    pub(super) touched: bool,
    pub(super) mesh: Counts,
    pub(super) control: Counts,
}

impl Verdict {
    /// Whether every claim held.
    pub(super) fn kept(&self) -> bool {
        self.claims.iter().all(|claim| claim.held)
    }
}

/// Finds a scene by its name.
pub(super) fn find(name: &str) -> Option<&'static Scene> {
    SCENES.iter().copied().find(|scene| scene.name == name)
}

/// Plays a scene from a world in good order. What goes wrong in it is a claim that does not hold.
pub(super) async fn play(world: &World, scene: &'static Scene) -> Verdict {
    let ready = world.restore().await;
    world.mesh.next_scene();
    world.control.next_scene();
    world.tell(News::Scene(scene));
    let started = world.elapsed();
    let played = match ready {
        Ok(()) => (scene.play)(world).await,
        Err(error) => Err(error),
    };
    let took = world.elapsed() - started;
    let (mesh, control) = (world.mesh.next_scene(), world.control.next_scene());
    let over = || mesh.open() == 0 && control.open() == 0;
    let ended = world.until("the scene's calls to end", over).await;
    let mut claims = played
        .and_then(|claims| ended.map(|()| claims))
        .unwrap_or_else(|error| vec![Claim::new(false, format!("{error:#}"))]);
    let (mesh, control) = (mesh.counts(), control.counts());
    claims.extend((scene.judge)(&mesh));
    Verdict {
        scene,
        took,
        claims,
        touched: world.touched(),
        mesh,
        control,
    }
}

/// Most scenes promise this, and nothing else.
fn no_failures(counts: &Counts) -> Vec<Claim> {
    vec![Claim::no_failures(counts)]
}
