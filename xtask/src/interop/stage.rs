//! What a scenario has to work with: programs as they are cast, and a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use serde_json::Value;

use super::cast::Cast;
use super::install::Installed;
use super::mesh::Security;
use super::peer::{Client, Plane, Server};
use super::process::{Process, address};
use super::traffic::Traffic;
use crate::codegen::root;

/// The peers, a folder and the cast of one run.
pub(crate) struct Stage<'a> {
    pub(crate) installed: &'a Installed,
    /// A folder of this run's own: configurations, certificates, logs.
    pub(crate) folder: &'a Path,
    /// Who plays.
    pub(crate) cast: Cast,
}

/// A server that answers.
pub(crate) struct Backend {
    pub(crate) process: Process,
    /// `127.0.0.1:port`, or with an IPv6 address in brackets.
    pub(crate) address: String,
}

impl Backend {
    /// Waits until a meshed server has its listener and serves.
    pub(crate) fn serves(&self) -> Result<()> {
        let serves = |event: &Value| event["mode"] == "SERVING";
        self.process.find("serving mode SERVING", serves).map(drop)
    }
}

impl Stage<'_> {
    /// The cast's server, without xDS.
    pub(crate) fn backend(&self, id: &str, flags: &[&str]) -> Result<Backend> {
        self.start_server(self.cast.server, id, flags)
    }

    /// A server of ours, without xDS: the others of a mixed fleet.
    pub(crate) fn ours(&self, id: &str, flags: &[&str]) -> Result<Backend> {
        self.start_server(Server::Ours, id, flags)
    }

    fn start_server(&self, server: Server, id: &str, flags: &[&str]) -> Result<Backend> {
        let mut command = server.command(self.installed)?;
        command.args(["--id", id]).args(flags);
        let process = Process::start(id, self.folder, &mut command)?;
        let address = process.ready()?;
        Ok(Backend { process, address })
    }

    /// The cast's server, configured by this bootstrap; it may wait for its listener yet.
    pub(crate) fn meshed_server(&self, id: &str, bootstrap: &Path) -> Result<Backend> {
        let mut command = self.cast.server.command(self.installed)?;
        command
            .args(["--id", id, "--mode", "xds", "--xds-creds"])
            .env("GRPC_XDS_BOOTSTRAP", bootstrap);
        let process = Process::start(id, self.folder, &mut command)?;
        let address = process.ready()?;
        Ok(Backend { process, address })
    }

    /// The cast's client. Its log is `NAME.log`.
    pub(crate) fn client(&self, name: &str, bootstrap: &Path, flags: &[&str]) -> Result<Process> {
        self.start_client(self.cast.client, name, bootstrap, flags)
    }

    fn start_client(
        &self,
        client: Client,
        name: &str,
        bootstrap: &Path,
        flags: &[&str],
    ) -> Result<Process> {
        let mut command = client.command(self.installed)?;
        command.args(flags).env("GRPC_XDS_BOOTSTRAP", bootstrap);
        Process::start(name, self.folder, &mut command)
    }

    /// Calls of the cast's client to `xds:///greeter`, up to their end.
    pub(crate) fn calls(&self, bootstrap: &Path, flags: &[&str]) -> Result<Vec<Value>> {
        self.calls_of(self.cast.client, "client", bootstrap, flags)
    }

    /// The same with our client, whoever the cast's is.
    pub(crate) fn our_calls(&self, bootstrap: &Path, flags: &[&str]) -> Result<Vec<Value>> {
        self.calls_of(Client::Ours, "our-client", bootstrap, flags)
    }

    fn calls_of(
        &self,
        client: Client,
        name: &str,
        bootstrap: &Path,
        flags: &[&str],
    ) -> Result<Vec<Value>> {
        // A first call waits for configuration, which takes seconds where processors are busy.
        let patient = ["--wait-for-ready", "--timeout-ms=25000"];
        let flags = [&["--target=xds:///greeter"], &patient[..], flags].concat();
        let client = self.start_client(client, name, bootstrap, &flags)?;
        client.run_to_end()
    }

    /// Calls of the cast's client that do not end by themselves.
    pub(crate) fn traffic(&self, bootstrap: &Path, flags: &[&str]) -> Result<Traffic> {
        let endless = [
            "--timeout-ms=25000",
            "--wait-for-ready",
            "--n=0",
            "--qps=200",
            "--concurrency=8",
        ];
        let flags = [&["--target=xds:///greeter"], &endless[..], flags].concat();
        let client = self.client("traffic", bootstrap, &flags)?;
        Ok(Traffic::new(client, self.cast.client != Client::Ours))
    }

    /// A free name for a file of this run.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

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

impl Client {
    /// The program, as far as its own flags.
    fn command(self, installed: &Installed) -> Result<Command> {
        Ok(match self {
            Self::Ours => Command::new(&installed.client),
            Self::Go => verb(installed.go_peer(), "client"),
            Self::Python => verb(installed.python_peer(), "client"),
            Self::Node => verb(installed.node_peer(), "client"),
            Self::Java => verb(installed.java_peer(), "client"),
            other => bail!("{other} has no client that speaks the contract"),
        })
    }
}

impl Server {
    /// The program, as far as its own flags.
    fn command(self, installed: &Installed) -> Result<Command> {
        Ok(match self {
            Self::Ours => Command::new(&installed.server),
            Self::Go => verb(installed.go_peer(), "server"),
            Self::Python => verb(installed.python_peer(), "server"),
            Self::Node => verb(installed.node_peer(), "server"),
            Self::Java => verb(installed.java_peer(), "server"),
            other => bail!("{other} has no server that speaks the contract"),
        })
    }
}

impl Plane {
    /// The program, as far as its own flags.
    pub(super) fn command(self, installed: &Installed) -> Result<Command> {
        Ok(match self {
            Self::Mgmt => Command::new(&installed.mgmt),
            Self::GoControlPlane => verb(installed.go_peer(), "mgmt"),
            other => bail!("{other} serves no resources from a folder"),
        })
    }
}

fn verb(mut command: Command, verb: &str) -> Command {
    command
        .arg(verb)
        .env("GRPC_GO_LOG_SEVERITY_LEVEL", "info")
        .env("GRPC_VERBOSITY", "INFO");
    command
}

/// The address in an event `ready` of a client with `--admin`.
pub(crate) fn admin(event: &Value) -> Result<String> {
    address(event, "admin")
}
