//! Certificates are replaced while calls go on.

use super::{Claim, Scene, no_failures};
use crate::demo::world::World;

pub(super) const SCENE: Scene = Scene {
    name: "rotate",
    title: "all processes get new certificates",
    promise: "0 failed; new connections show the new certificates",
    play: |world| Box::pin(play(world)),
    judge: no_failures,
};

/// A new connection is forced this often, at most, before the new certificate must be seen. The
/// files are read again twice a second.
const ROUNDS: usize = 6;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    let generation = world.rotate()?;
    world.say(format!(
        "certificates and keys of generation {generation} are on disk"
    ));
    for backend in world.backends.iter().cycle().take(ROUNDS) {
        world.until_calls(100).await?;
        // Connections keep the certificates of their handshake: a new process makes new ones.
        world.roll(backend).await?;
        let seen = backend.dials.newest_client();
        if seen == generation {
            let text = format!("{} saw a client of generation {generation}", backend.name);
            return Ok(vec![Claim::new(true, text)]);
        }
    }
    let text = format!("no backend saw a client of generation {generation}");
    Ok(vec![Claim::new(false, text)])
}
