//! A backend takes calls and answers none.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Claim, Scene};
use crate::demo::mesh_file::Guard;
use crate::demo::odds::at_most;
use crate::demo::tally::Counts;
use crate::demo::world::{BACKENDS, World};

pub(super) const SCENE: Scene = Scene {
    name: "hang",
    title: "a backend takes calls and answers none",
    promise: "calls wait within bounds, it is left out, and comes back by one call",
    play: |world| Box::pin(play(world)),
    judge,
};

/// Calls made while it is left out.
const WITHOUT: u64 = 500;

/// How long it may take until it is left out: its first calls have to time out.
const PROMPT: Duration = Duration::from_secs(2);

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    let guard = Guard::for_rate(world.calls_per_second);
    world.edit(|file| file.guard = Some(guard)).await?;
    let sick = &world.backends[0];
    let most = [AtomicU64::new(0), AtomicU64::new(0)];
    let watch = || {
        for (group, most) in [&world.mesh, &world.control].into_iter().zip(&most) {
            most.fetch_max(group.scene().open(), Ordering::Relaxed);
        }
    };
    let begun = || world.mesh.scene().open() + world.mesh.scene().calls();
    let failed = || world.mesh.scene().counts().failures();

    let (calls_before, failed_before, before) = (begun(), failed(), world.ejections());
    let started = Instant::now();
    sick.dials.hang(true);
    world.say(format!("{} answers nothing any more", sick.name));
    let ejected = || {
        watch();
        world.ejections() > before
    };
    world.until("it to be left out", ejected).await?;
    let took = started.elapsed();
    let met = begun() - calls_before;
    world.say(format!(
        "{} left out after {} ms: {} calls in a row timed out after {} ms each",
        sick.name,
        took.as_millis(),
        guard.failures,
        guard.timeout.as_millis()
    ));

    let goal = world.mesh.total.calls() + WITHOUT;
    let without = || {
        watch();
        world.mesh.total.calls() >= goal
    };
    world.until("calls without it", without).await?;
    sick.dials.hang(false);
    let healed = Instant::now();
    world.until_served_by(sick, 5).await?;
    let back = healed.elapsed();
    let probes = world.ejections() - before - 1;
    world.say(format!(
        "{} answers again, and is back after {} ms; {probes} calls had tried it before",
        sick.name,
        back.as_millis()
    ));

    // Each of its share until then, and then one at a time.
    let share = met as f64 / BACKENDS.len() as f64;
    let allowed = at_most(share) + probes;
    let failures = failed() - failed_before;
    let [waiting, control] = most.map(AtomicU64::into_inner);
    Ok(vec![
        Claim::new(
            took <= PROMPT,
            format!("left out after {} ms", took.as_millis()),
        ),
        Claim::new(
            waiting <= guard.outstanding,
            format!(
                "at most {waiting} calls waited at once, {} may; in the control group {control}",
                guard.outstanding
            ),
        ),
        Claim::new(
            failures <= allowed,
            format!(
                "{failures} failed; its share until it was left out is {share:.0}, {allowed} within 5 sigma and {probes} tries"
            ),
        ),
        Claim::new(true, format!("back after {} ms", back.as_millis())),
    ])
}

/// What fails is judged where the figures are.
fn judge(_: &Counts) -> Vec<Claim> {
    Vec::new()
}
