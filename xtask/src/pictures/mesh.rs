//! A run of the split example with mutual TLS: control plane, two servers, one client, all of them
//! processes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::process::{Running, output, wait_for};
use super::program;
use crate::codegen::root;
use crate::interop::Certificates;

/// The one of the example's mesh file.
const TRUST_DOMAIN: &str = "hello.example";
/// Calls that are counted, half of them with the header.
pub(super) const CALLS: usize = 200;
/// The header of every other call, as `explain -H` takes it.
pub(super) const HEADER: &str = "x-beta=1";
/// The two endpoints as the example's mesh file has them.
const ENDPOINTS: [&str; 2] = ["127.0.0.1:50051", "127.0.0.1:50052"];

/// What was seen in the run.
pub(super) struct Run {
    /// The mesh file that was served.
    pub(super) mesh_file: String,
    /// Where the control plane listened.
    pub(super) control_plane: String,
    /// `sidestep status --json` while calls were made.
    pub(super) status: Value,
    /// `sidestep explain … --json`: with the header, without it.
    pub(super) explanations: [Value; 2],
    /// Answers by the address of the server that gave them.
    pub(super) answers: BTreeMap<String, usize>,
}

/// Runs the example; every process has ended when this returns.
pub(super) fn run() -> Result<Run> {
    let directory = tempfile::tempdir()?;
    let directory = directory.path();
    let addresses = [free(ENDPOINTS[0])?, free(ENDPOINTS[1])?];
    let mesh_file = mesh_file(&addresses)?;
    fs::write(directory.join("mesh.yaml"), &mesh_file)?;
    let certificates = Certificates::new(directory, TRUST_DOMAIN)?;

    let (_serve, control_plane) = serve(directory)?;
    let server = |id: &str, address: &String| {
        let bootstrap = bootstrap(&certificates, "greeter", &control_plane, id)?;
        meshed("hello-server", &bootstrap, address)
    };
    let _servers = [
        server("greeter-v1", &addresses[0])?,
        server("greeter-v2", &addresses[1])?,
    ];
    for address in &addresses {
        wait_for("a server", || Ok(TcpStream::connect(address).ok()))?;
    }
    let bootstrap = bootstrap(&certificates, "web", &control_plane, "split-client")?;
    // More calls than are counted: the client is still there when the status is asked for.
    let mut client = meshed("split-client", &bootstrap, "1000000")?;
    let mut answers = BTreeMap::new();
    for _ in 0..CALLS {
        let line = client.line()?;
        let (_, address) = line.split_once("-> ").context("an answer")?;
        *answers.entry(address.to_owned()).or_default() += 1;
    }
    Ok(Run {
        status: wait_for("three processes in order", || settled(&control_plane))?,
        explanations: [
            explain(directory, &["-H", HEADER])?,
            explain(directory, &[])?,
        ],
        mesh_file,
        control_plane,
        answers,
    })
}

/// The address of the example if it is free, else a free one.
fn free(preferred: &str) -> Result<String> {
    let listener = TcpListener::bind(preferred).or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
    Ok(listener.local_addr()?.to_string())
}

/// The example's mesh file with these endpoints.
fn mesh_file(addresses: &[String; 2]) -> Result<String> {
    let text = fs::read_to_string(root().join("examples/split/mesh.yaml"))?;
    patch(&text, addresses)
}

fn patch(text: &str, addresses: &[String; 2]) -> Result<String> {
    let mut text = text.to_owned();
    for (old, new) in ENDPOINTS.into_iter().zip(addresses) {
        ensure!(text.contains(old), "the example's mesh file lacks {old:?}");
        text = text.replacen(old, new, 1);
    }
    Ok(text)
}

/// Starts the control plane; the address is the one that it names.
fn serve(directory: &Path) -> Result<(Running, String)> {
    let mut serve = Running::start(
        Command::new(program("sidestep")?)
            .current_dir(directory)
            .args(["serve", "mesh.yaml", "--log-format", "json"])
            .args(["--listen", &free("127.0.0.1:18000")?]),
    )?;
    let banner: Value = serde_json::from_str(&serve.line()?)?;
    let address = banner["address"].as_str().context("an address")?;
    Ok((serve, address.to_owned()))
}

/// The bootstrap of a process that is `service`, for this control plane and node.
fn bootstrap(
    certificates: &Certificates,
    service: &str,
    control_plane: &str,
    id: &str,
) -> Result<String> {
    let folder = certificates.of(service)?;
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": control_plane,
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {"id": id, "cluster": service},
        "server_listener_resource_name_template":
            "grpc/server?xds.resource.listening_address=%s",
        "certificate_providers": {"default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": folder.join("certificate.pem"),
                "private_key_file": folder.join("key.pem"),
                "ca_certificate_file": folder.join("roots.pem"),
                "refresh_interval": "600s",
            },
        }},
    });
    Ok(bootstrap.to_string())
}

fn meshed(name: &str, bootstrap: &str, argument: &str) -> Result<Running> {
    Running::start(
        Command::new(program(name)?)
            .arg(argument)
            .env_remove("GRPC_XDS_BOOTSTRAP")
            .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap),
    )
}

/// The status, once all three processes run what they were sent.
fn settled(control_plane: &str) -> Result<Option<Value>> {
    let mut command = Command::new(program("sidestep")?);
    let text = output(command.args(["status", "--json", "--server", control_plane]))?;
    let status: Value = serde_json::from_str(&text)?;
    let clients = status["clients"].as_array().context("clients")?;
    let synced = |client: &Value| {
        let mut types = client["types"].as_array().into_iter().flatten();
        types.all(|of_type| of_type["state"] == "SYNCED")
    };
    let all = clients.len() == 3 && clients.iter().all(synced);
    Ok(all.then_some(status))
}

fn explain(directory: &Path, more: &[&str]) -> Result<Value> {
    let mut command = Command::new(program("sidestep")?);
    command
        .current_dir(directory)
        .args([
            "explain",
            "greeter",
            "hello.Greeter/SayHello",
            "--as",
            "web",
        ])
        .args(["--mesh", "mesh.yaml", "--json"])
        .args(more);
    Ok(serde_json::from_str(&output(&mut command)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_can_be_patched() {
        let addresses = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        let text = mesh_file(&addresses).expect("patches");
        for wanted in [
            "mtls: strict",
            "trust_domain: hello.example",
            "\"127.0.0.1:1\"",
            "\"127.0.0.1:2\"",
        ] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        let error = patch("mesh: v1", &addresses).expect_err("nothing to patch");
        assert_eq!(
            error.to_string(),
            "the example's mesh file lacks \"127.0.0.1:50051\""
        );
    }
}
