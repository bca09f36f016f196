//! `examples/polyglot`: one mesh file, callers in four languages, servers in two.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::codegen::root;
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::install::{Installed, polyglot};
use crate::interop::peer::{Client, Peer, Plane, Server};
use crate::interop::process::{Process, address, eventually};
use crate::interop::scenario::Scenario;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "polyglot",
    features: &[Feature::Mtls],
    about: "`examples/polyglot`: callers in Rust, Go, Python and JavaScript, servers in Rust and Go, one mesh file, strict mutual TLS",
    casts: &[Cast::new(Client::Go, Server::Ours, Plane::Serve)],
    helpers: &PEERS,
    tier: Tier::Quick,
    play: |stage| answers(stage.installed, stage.folder).map(drop),
}];

/// Whose packages the example needs.
pub(in crate::interop) const PEERS: [Peer; 3] = [Peer::GrpcGo, Peer::Grpcio, Peer::GrpcNode];

/// Who is answered by whom: a caller's language, and those of the servers.
pub(in crate::interop) type Answers = Vec<(&'static str, BTreeSet<String>)>;

/// Runs the example in `folder`: every caller must be answered by every server.
pub(in crate::interop) fn answers(installed: &Installed, folder: &Path) -> Result<Answers> {
    let programs = polyglot(installed)?;
    let (mesh, addresses) = mesh()?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, mesh)?;
    let sidestep = || Command::new(&installed.sidestep);
    finish(
        sidestep()
            .args(["cert", "dev", "--mesh"])
            .arg(&file)
            .arg("--out")
            .arg(folder),
    )?;
    let mut serve = sidestep();
    serve
        .args(["serve", "--log-format=json", "--listen=127.0.0.1:0"])
        .arg(&file);
    let serve = Process::start("sidestep-serve", folder, &mut serve)?;
    let control_plane = address(&serve.event("serving")?, "address")?;
    let bootstrap = |service: &str| -> Result<_> {
        let out = folder.join(format!("{service}.json"));
        let mut command = sidestep();
        command.args(["bootstrap", "grpc", "--insecure", "--service", service]);
        command
            .args(["--server", &control_plane, "--certs"])
            .arg(folder);
        finish(command.arg("--out").arg(&out))?;
        Ok(out)
    };
    let (web, greeter) = (bootstrap("web")?, bootstrap("greeter")?);
    let mut running = Vec::new();
    let mut languages = BTreeSet::new();
    for ((language, mut command), address) in programs.servers.into_iter().zip(&addresses) {
        command.arg(address).env("GRPC_XDS_BOOTSTRAP", &greeter);
        running.push(Process::start(
            &format!("server-{language}"),
            folder,
            &mut command,
        )?);
        languages.insert(language.to_owned());
    }
    let mut all = Vec::new();
    for (language, mut command) in programs.clients {
        command.env("GRPC_XDS_BOOTSTRAP", &web);
        // The servers do not say when they have their listeners.
        let answered = eventually(|| call((language, &mut command), &languages))?;
        all.push((language, answered));
    }
    Ok(all)
}

/// The mesh file with free ports in the place of those that it shows, and these.
fn mesh() -> Result<(String, Vec<String>)> {
    let file = root().join("examples/polyglot/mesh.yaml");
    let mut text = fs::read_to_string(file)?;
    let mut sockets = Vec::new();
    let mut addresses = Vec::new();
    for shown in ["127.0.0.1:50051", "127.0.0.1:50052"] {
        let socket = TcpListener::bind("127.0.0.1:0")?;
        let address = socket.local_addr()?.to_string();
        ensure!(text.contains(shown), "the mesh file has no {shown}");
        text = text.replace(shown, &address);
        addresses.push(address);
        sockets.push(socket);
    }
    Ok((text, addresses))
}

/// Runs a caller once: the servers that answered.
fn call(program: (&str, &mut Command), wanted: &BTreeSet<String>) -> Result<BTreeSet<String>> {
    let (language, command) = program;
    let said = finish(command).with_context(|| format!("the caller in {language}"))?;
    let from = |line: &str| {
        let (_, server) = line.strip_suffix(')')?.rsplit_once("(from ")?;
        Some(server.to_owned())
    };
    let answered: BTreeSet<String> = said.lines().filter_map(from).collect();
    ensure!(answered == *wanted, "the caller in {language} got: {said}");
    Ok(answered)
}

/// Runs a command to its end, which must be a good one: what it said.
fn finish(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    let program = command.get_program().display();
    ensure!(output.status.success(), "{program}: {said}{log}");
    Ok(said.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither imports nor comments nor the frame of `main`, nor what only closes something.
    fn own_lines(text: &str) -> Vec<&str> {
        let mut is_import = false;
        let mut is_comment = false;
        text.lines()
            .map(str::trim)
            .filter(|line| {
                is_comment ^= line.matches("\"\"\"").count() == 1;
                is_import |= *line == "import (";
                let was_import = is_import;
                is_import &= *line != ")";
                let is_frame = ["import ", "from ", "use ", "package ", "#[tokio::main]"]
                    .iter()
                    .chain(&[
                        "//",
                        "\"\"\"",
                        "func main()",
                        "async fn main()",
                        "(async () =>",
                    ])
                    .any(|start| line.starts_with(start))
                    || line.contains("= require(");
                let is_closing = line.chars().all(|c| "()[]{};,".contains(c));
                let is_end = ["Ok(())", "})().finally(() => process.exit());"].contains(line);
                !was_import && !is_comment && !is_frame && !is_closing && !is_end
            })
            .collect()
    }

    #[test]
    fn no_program_has_more_than_ten_lines_of_its_own() {
        let example = root().join("examples/polyglot");
        let files = ["client.rs", "server.rs", "client.py", "client.js"];
        for file in files
            .iter()
            .chain(&["go/client/main.go", "go/server/main.go"])
        {
            let text = fs::read_to_string(example.join(file)).unwrap();
            let own = own_lines(&text);
            assert!((3..=10).contains(&own.len()), "{file}: {own:#?}");
        }
    }
}
