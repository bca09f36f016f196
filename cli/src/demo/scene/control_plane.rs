//! The control plane dies, and comes back with something new.

use std::time::Instant;

use super::{Claim, Scene, no_failures};
use crate::demo::world::World;

pub(super) const SCENE: Scene = Scene {
    name: "control-plane",
    title: "the control plane is killed, and comes back",
    promise: "0 failed; changes made meanwhile arrive",
    play: |world| Box::pin(play(world)),
    judge: no_failures,
};

/// Calls made without it.
const WITHOUT: u64 = 300;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    world.control_plane.kill().await;
    world.say("control plane killed; calls go on by the last good configuration");
    world.until_calls(WITHOUT).await?;
    let served: Vec<bool> = counts(world).iter().map(|count| *count > 0).collect();
    world.edit_unread(|file| file.split = Some([100, 0]))?;
    let started = Instant::now();
    world.control_plane.restart().await?;
    world.until_in_step().await?;
    world.say(format!(
        "control plane back on its port; the client is in step after {} ms",
        started.elapsed().as_millis()
    ));
    // Calls that were routed before are still to end.
    world.until_calls(50).await?;
    let before = counts(world);
    world.until_calls(100).await?;
    let after = counts(world);
    let to_v2 = after[2] - before[2];
    Ok(vec![
        Claim::new(
            served.iter().all(|served| *served),
            format!("{WITHOUT} calls over all backends without a control plane"),
        ),
        Claim::new(
            to_v2 == 0,
            format!("{to_v2} of 100 calls to v2, which was taken out meanwhile"),
        ),
    ])
}

/// Answered calls by backend, in the scene.
fn counts(world: &World) -> Vec<u64> {
    let scene = world.mesh.scene();
    let backends = world.backends.iter();
    backends.map(|backend| scene.by(backend.name)).collect()
}
