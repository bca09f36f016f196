//! A backend dies without a word.

use std::time::Instant;

use super::{Claim, Scene, no_failures};
use crate::demo::backend::Backend;
use crate::demo::world::World;

pub(super) const SCENE: Scene = Scene {
    name: "kill",
    title: "a backend is killed and started again, then another",
    promise: "0 failed; calls that it had begun are retried",
    play: |world| Box::pin(play(world)),
    judge: no_failures,
};

/// Calls made while it is dead.
const WITHOUT: u64 = 300;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for victim in &world.backends[..2] {
        claims.push(kill(world, victim).await?);
    }
    Ok(claims)
}

async fn kill(world: &World, victim: &Backend) -> anyhow::Result<Claim> {
    let busy = || victim.dials.open() > 0;
    world.until("calls in flight at the victim", busy).await?;
    let open = victim.dials.open();
    victim.kill().await;
    world.say(format!("{} killed, {open} calls in flight", victim.name));
    // What it answered before it died is still on its way.
    world.until_calls(20).await?;
    let before = world.mesh.total.by(victim.name);
    world.until_calls(WITHOUT).await?;
    let answered = world.mesh.total.by(victim.name) - before;
    let started = Instant::now();
    victim.start().await?;
    world.until_served_by(victim, 5).await?;
    world.say(format!(
        "{} started again; it takes calls after {} ms",
        victim.name,
        started.elapsed().as_millis()
    ));
    Ok(Claim::new(
        answered == 0,
        format!("{WITHOUT} calls answered without {}", victim.name),
    ))
}
