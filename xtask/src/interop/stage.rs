//! What a scenario has to work with.

use std::path::Path;
use std::process::Command;

use super::cast::Cast;
use super::install::Installed;
use super::mesh::Security;
use crate::codegen::root;

/// The peers, a folder and the cast of one run.
pub(crate) struct Stage<'a> {
    pub(crate) installed: &'a Installed,
    /// A folder of this run's own: configurations, certificates, logs.
    pub(crate) folder: &'a Path,
    /// Who plays.
    pub(crate) cast: Cast,
}

impl Stage<'_> {
    /// The C-core client, which logs what it thinks of our configuration.
    pub(crate) fn python(&self, target: &str, n: u64, security: Security) -> Command {
        let mut command = Command::new(&self.installed.python);
        command
            .arg(root().join("tests/interop/python_client.py"))
            .args([target, &n.to_string(), security.credentials()])
            .env("GRPC_VERBOSITY", "INFO")
            .env("GRPC_TRACE", "xds_client");
        command
    }
}
