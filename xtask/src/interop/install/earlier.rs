//! Ourselves at earlier tags: client, server and control plane as they were.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::cache;
use super::run::{output, run};
use crate::codegen::root;

const PROGRAMS: [&str; 3] = [
    "sidestep",
    "sidestep-interop-client",
    "sidestep-interop-server",
];

/// The programs of one tag.
pub(in crate::interop) struct Earlier {
    pub(in crate::interop) sidestep: PathBuf,
    pub(in crate::interop) client: PathBuf,
    pub(in crate::interop) server: PathBuf,
}

/// The tags that this version comes from, oldest first; none where there is no repository.
pub(in crate::interop) fn tags() -> Vec<String> {
    let list = ["tag", "--list", "v*", "--sort=version:refname"];
    let earlier = ["--merged", "HEAD", "--no-contains", "HEAD"];
    let tags = output(git().args(list).args(earlier)).unwrap_or_default();
    tags.lines().map(str::to_owned).collect()
}

/// Builds the programs of a tag, once for each commit.
pub(in crate::interop) fn programs(tag: &str) -> Result<Earlier> {
    let commit = output(git().args(["rev-parse", &format!("{tag}^{{commit}}")]))?;
    let folder = cache::built_of("sidestep", &commit, |folder| {
        let (sources, target) = (folder.join("sources"), folder.join("target"));
        let clone = ["clone", "--quiet", "--shared"];
        run(git().args(clone).arg(root()).arg(&sources))?;
        let checkout = ["checkout", "--quiet", "--detach", &commit];
        run(git().args(checkout).current_dir(&sources))?;
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--quiet", "--workspace"]);
        for program in PROGRAMS {
            build.args(["--bin", program]);
        }
        run(build.env("CARGO_TARGET_DIR", &target).current_dir(&sources))?;
        for program in PROGRAMS {
            fs::copy(target.join("debug").join(program), folder.join(program))
                .with_context(|| format!("{program} of {tag}"))?;
        }
        fs::remove_dir_all(target)?;
        Ok(fs::remove_dir_all(sources)?)
    })?;
    let [sidestep, client, server] = PROGRAMS.map(|program| folder.join(program));
    Ok(Earlier {
        sidestep,
        client,
        server,
    })
}

fn git() -> Command {
    let mut command = Command::new("git");
    command.current_dir(root());
    command
}
