//! A deployment replaces every backend.

use super::{Claim, Scene};
use crate::demo::world::World;

pub(super) const SCENE: Scene = Scene {
    name: "rolling",
    title: "a rolling deployment replaces all backends, one after the other",
    promise: "0 failed, 0 retried",
    play: |world| Box::pin(play(world)),
    judge: |counts| vec![Claim::no_failures(counts), Claim::no_retries(counts)],
};

/// Calls between one backend and the next.
const SETTLE: u64 = 150;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    for backend in &world.backends {
        world.roll(backend).await?;
        world.until_calls(SETTLE).await?;
    }
    Ok(Vec::new())
}
