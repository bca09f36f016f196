//! A backend answers, but with errors.

use super::{Claim, Scene};
use crate::demo::mesh_file::MAX_ATTEMPTS;
use crate::demo::odds::{at_most, within_five_sigma};
use crate::demo::tally::Counts;
use crate::demo::world::{BACKENDS, World};

pub(super) const SCENE: Scene = Scene {
    name: "errors",
    title: "a backend fails 20 % of its calls",
    promise: "no more failures than the attempts predict, at 5 sigma",
    play: |world| Box::pin(play(world)),
    judge,
};

/// Percent of the backend's calls.
const FAILING: u32 = 20;

/// Calls made meanwhile.
const CALLS: u64 = 900;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    let sick = &world.backends[0];
    sick.dials.fail(FAILING);
    world.say(format!(
        "{} fails {FAILING} % of its calls with UNAVAILABLE; the route allows {MAX_ATTEMPTS} attempts",
        sick.name
    ));
    world.until_calls(CALLS).await?;
    sick.dials.fail(0);
    Ok(Vec::new())
}

/// Each attempt goes to the sick backend with its share of the calls, and fails there at its
/// rate; a call fails if all its attempts do.
fn judge(counts: &Counts) -> Vec<Claim> {
    let calls = counts.calls();
    let attempt_fails = f64::from(FAILING) / 100.0 / BACKENDS.len() as f64;
    let all_fail = attempt_fails.powf(f64::from(MAX_ATTEMPTS));
    let failures = counts.failures();
    let allowed = at_most(calls as f64 * all_fail);
    let retried = within_five_sigma(calls, attempt_fails);
    vec![
        Claim::new(
            failures <= allowed,
            format!(
                "{failures} of {calls} failed; {:.1} are predicted, {allowed} within 5 sigma",
                calls as f64 * all_fail
            ),
        ),
        Claim::new(
            retried.contains(&counts.retried),
            format!(
                "{} retried; {} to {} are predicted",
                counts.retried,
                retried.start(),
                retried.end()
            ),
        ),
    ]
}
