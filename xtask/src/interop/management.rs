//! The cast's control plane, which serves resources as they are written to a folder.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::mesh;
use super::process::Process;
use super::stage::Stage;

/// A management server and its folder of resources.
pub(crate) struct Management {
    process: Process,
    folder: PathBuf,
    /// `127.0.0.1:port`.
    pub(crate) address: String,
}

impl Management {
    /// Serves these resources.
    pub(crate) fn start(stage: &Stage<'_>, resources: &[Value]) -> Result<Self> {
        Self::start_at(stage, "management", "127.0.0.1:0", resources)
    }

    /// The same, of this name and at this address.
    pub(crate) fn start_at(
        stage: &Stage<'_>,
        name: &str,
        listen: &str,
        resources: &[Value],
    ) -> Result<Self> {
        let folder = stage.file(&format!("{name}-resources"));
        fs::create_dir_all(&folder)?;
        write(&folder, resources)?;
        let mut command = stage.cast.plane.command(stage.installed)?;
        command
            .args(["--listen", listen, "--resources"])
            .arg(&folder);
        let process = Process::start(name, stage.folder, &mut command)?;
        let address = process.ready()?;
        Ok(Self {
            process,
            folder,
            address,
        })
    }

    /// Serves these resources in place of the others, from when this returns.
    pub(crate) fn replace(&self, resources: &[Value]) -> Result<()> {
        write(&self.folder, resources)?;
        self.process.signal("HUP")?;
        let reload = self.process.event("reload")?;
        ensure!(reload["ok"] == true, "the resources are refused: {reload}");
        Ok(())
    }

    /// For what is done to the process itself.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The bootstrap of a process that is `service`.
    pub(crate) fn bootstrap(&self, stage: &Stage<'_>, service: &str) -> Result<PathBuf> {
        mesh::bootstrap(stage.folder, &self.address, service, None)
    }
}

/// The file appears whole.
fn write(folder: &std::path::Path, resources: &[Value]) -> Result<()> {
    let new = folder.join("all.new");
    let text = serde_json::to_string_pretty(&json!({ "resources": resources }))?;
    fs::write(&new, text)?;
    Ok(fs::rename(new, folder.join("all.json"))?)
}
