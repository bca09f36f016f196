//! Version skew: programs of earlier tags beside today's.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::baseline;
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::install::{Installed, earlier};
use crate::interop::mesh::Security;
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "skew",
    features: &[Feature::Skew],
    about: "client, server or control plane of each earlier tag beside today's others, plaintext and mutual TLS",
    casts: &[Cast::new(Client::Ours, Server::Ours, Plane::Serve)],
    helpers: &[],
    tier: Tier::IfTagged,
    play,
}];

/// Which of the three is of the tag.
#[derive(Debug, Clone, Copy)]
enum Part {
    Client,
    Server,
    ControlPlane,
}

const PARTS: [Part; 3] = [Part::Client, Part::Server, Part::ControlPlane];

fn play(stage: &Stage<'_>) -> Result<()> {
    let tags = earlier::tags();
    ensure!(!tags.is_empty(), "there is no earlier tag");
    for tag in tags {
        let earlier = earlier::programs(&tag)?;
        for part in PARTS {
            let installed = mixed(stage.installed, &earlier, part);
            for security in [Security::Plaintext, Security::MutualTls] {
                let credentials = security.credentials();
                let name = format!("{tag}-{part:?}-{credentials}");
                let folder = stage.file(&name);
                fs::create_dir_all(&folder)?;
                let mixed = Stage {
                    installed: &installed,
                    folder: &folder,
                    cast: stage.cast,
                };
                baseline::calls(&mixed, security).with_context(|| name)?;
            }
        }
    }
    Ok(())
}

/// Today's programs, but for one.
fn mixed(today: &Installed, earlier: &earlier::Earlier, part: Part) -> Installed {
    let mut mixed = Installed {
        sidestep: today.sidestep.clone(),
        client: today.client.clone(),
        server: today.server.clone(),
        ..Installed::default()
    };
    let (place, program): (&mut PathBuf, _) = match part {
        Part::Client => (&mut mixed.client, &earlier.client),
        Part::Server => (&mut mixed.server, &earlier.server),
        Part::ControlPlane => (&mut mixed.sidestep, &earlier.sidestep),
    };
    place.clone_from(program);
    mixed
}
