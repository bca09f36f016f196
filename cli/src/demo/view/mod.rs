//! The terminal view: a model of what there is to see, a pure rendering of it, and the terminal.

mod render;
mod sampler;
mod terminal;

use std::time::Duration;

use super::backend::State;

pub(super) use terminal::watch;

/// Everything that one picture shows.
#[derive(Debug, Clone)]
struct View {
    elapsed: Duration,
    paused: bool,
    control_plane: String,
    control_plane_up: bool,
    /// The scene in play.
    scene: Option<Playing>,
    endpoints: Vec<EndpointView>,
    mesh: GroupView,
    control: GroupView,
    /// Every scene, and how it last went.
    marks: Vec<(&'static str, Mark)>,
    /// The newest last.
    log: Vec<String>,
}

#[derive(Debug, Clone, Copy)]
struct Playing {
    name: &'static str,
    title: &'static str,
    promise: &'static str,
}

#[derive(Debug, Clone)]
struct EndpointView {
    name: &'static str,
    version: &'static str,
    address: String,
    state: State,
    /// Of the mesh group's answered calls in the last second, 0 to 1.
    mesh_share: f64,
    /// Of the control group's.
    control_share: f64,
}

/// A group in the scene in play; the rate is that of the last second.
#[derive(Debug, Clone, Default)]
struct GroupView {
    calls_per_second: f64,
    ok: u64,
    failed: u64,
    retried: u64,
    p50: String,
    p99: String,
}

/// How a scene went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    NotYet,
    Playing,
    Kept,
    Broken,
    /// The user interfered.
    ByHand,
}
