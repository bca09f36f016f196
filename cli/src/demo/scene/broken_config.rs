//! Somebody saves a mesh file with a mistake.

use super::{Claim, Scene, no_failures};
use crate::demo::mesh_file::MeshFile;
use crate::demo::world::World;

pub(super) const SCENE: Scene = Scene {
    name: "broken-config",
    title: "a broken configuration is pushed",
    promise: "refused, with the exact field; 0 failed",
    play: |world| Box::pin(play(world)),
    judge: no_failures,
};

/// Calls made while the file is broken.
const MEANWHILE: u64 = 200;

async fn play(world: &World) -> anyhow::Result<Vec<Claim>> {
    let good = world.file();
    let (text, line) = broken(&good);
    let before = world.control_plane.report().map(|it| it.revision);
    let report = world.push(&text).await?;
    let said = report
        .refusal
        .as_ref()
        .map(|refusal| refusal.error.diagnostics());
    let said = said.unwrap_or_default();
    for diagnostic in &said {
        world.say(format!("refused: {diagnostic}"));
    }
    let located = said
        .iter()
        .any(|it| it.line == line && it.to_string().contains("\"timeout\""));
    world.until_calls(MEANWHILE).await?;
    let after = world.control_plane.report().map(|it| it.revision);
    world.push(&good.render()).await?;
    world.say("mended; the next revision is in use");
    Ok(vec![
        Claim::new(
            located,
            format!("refused at line {line}, with the nearest valid key"),
        ),
        Claim::new(
            before == after,
            format!("{MEANWHILE} calls by the last good revision"),
        ),
    ])
}

/// The file with a typing mistake, and its line.
fn broken(good: &MeshFile) -> (String, u32) {
    let text = good.render().replace("timeout:", "timeuot:");
    let line = text.lines().position(|line| line.contains("timeuot"));
    let line = line.and_then(|index| u32::try_from(index + 1).ok());
    (text, line.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mistake_is_in_the_file() {
        let (text, line) = broken(&MeshFile::default());
        assert_eq!(
            text.lines().nth(line as usize - 1),
            Some("        timeuot: 5s")
        );
    }
}
