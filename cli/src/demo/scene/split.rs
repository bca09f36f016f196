//! A split moves while calls go on.

use super::{Claim, Scene, no_failures};
use crate::demo::odds::within_five_sigma;
use crate::demo::world::World;

pub(super) const SCENE: Scene = Scene {
    name: "split",
    title: "the split between v1 and v2 moves from 90/10 to 50/50",
    promise: "0 failed; shares within 5 sigma of what the mesh file says",
    play: |world| Box::pin(play(world)),
    judge: no_failures,
};

/// Calls that are counted for each split.
const SAMPLE: u64 = 500;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    Ok(vec![
        hold(world, [90, 10]).await?,
        hold(world, [50, 50]).await?,
    ])
}

/// Sets a split and compares a sample of calls with it.
async fn hold(world: &World, split: [u32; 2]) -> anyhow::Result<Claim> {
    let took = world.edit(|file| file.split = Some(split)).await?;
    let [v1, v2] = split;
    world.say(format!(
        "{v1}/{v2}: accepted by the client {} ms after the edit",
        took.as_millis()
    ));
    // Calls that were routed before the change are still to end.
    world.until_calls(50).await?;
    let before = world.mesh.total.counts();
    world.until_calls(SAMPLE).await?;
    let after = world.mesh.total.counts();
    let answered = after.ok - before.ok;
    let canary = |counts: &_| of_version(world, counts, "v2");
    let to_v2 = canary(&after) - canary(&before);
    let expected = within_five_sigma(answered, f64::from(v2) / f64::from(v1 + v2));
    Ok(Claim::new(
        expected.contains(&to_v2),
        format!(
            "{v1}/{v2}: {to_v2} of {answered} calls to v2, expected {} to {}",
            expected.start(),
            expected.end()
        ),
    ))
}

fn of_version(world: &World, counts: &crate::demo::tally::Counts, version: &str) -> u64 {
    let backends = world.backends.iter();
    let theirs = backends.filter(|backend| backend.version == version);
    theirs.map(|backend| counts.by(backend.name)).sum()
}
