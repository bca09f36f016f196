//! The examples run as their README says, over TLS with certificates and bootstraps of the tools,
//! and meshing a service changes as little as it says.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use sidestep_cli::bootstrap::{self, Certificates};
use sidestep_cli::certificates::{self, CONTROL_PLANE, Order};
use sidestep_server::model::Mesh;
use sidestep_server::{FileSource, ManagementServer, Running, ServerTls};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// Lines of `after` that `before` does not have, file headers apart.
fn changed(before: &str, after: &str) -> Vec<String> {
    let code = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("//!"));
        lines.map(|line| line.trim().to_owned()).collect()
    };
    let mut known: HashMap<String, usize> = HashMap::new();
    for line in code(before) {
        *known.entry(line).or_default() += 1;
    }
    let is_new = |line: &String| match known.get_mut(line) {
        Some(left) if *left > 0 => {
            *left -= 1;
            false
        }
        _ => !line.is_empty(),
    };
    code(after).into_iter().filter(is_new).collect()
}

#[test]
fn meshing_a_service_changes_at_most_five_lines_a_side() {
    for (before, after) in [
        (
            include_str!("../hello/before/server.rs"),
            include_str!("../hello/server.rs"),
        ),
        (
            include_str!("../hello/before/client.rs"),
            include_str!("../hello/client.rs"),
        ),
    ] {
        let added = changed(before, after);
        let removed = changed(after, before);
        assert!(!added.is_empty() && added.len() <= 5, "{added:#?}");
        assert!(removed.len() <= 5, "{removed:#?}");
    }
}

/// The README's `cert dev`: an authority, and certificates for all services of the mesh.
fn cert_dev(mesh: &str, directory: &Path) {
    let (mesh, _) = Mesh::parse(&[("mesh.yaml", mesh)]).expect("a good mesh file");
    let (trust_domain, identities) =
        certificates::identities(Some(&mesh), None, &[]).expect("it has services");
    let order = Order {
        directory: directory.to_owned(),
        identities,
        trust_domain,
        control_plane_hosts: Vec::new(),
        lifetime: Duration::from_secs(3_600),
        renew: false,
        now: SystemTime::now(),
    };
    certificates::issue(&order).expect("issues");
}

/// The README's `serve`, with a file of targets beside the mesh file: nobody gets an answer without
/// a certificate.
async fn control_plane(mesh: &str, directory: &Path, ports: [u16; 2]) -> Running {
    let addresses = ports.map(|port| format!("127.0.0.1:{port}"));
    let [first, second] = &addresses;
    let mesh = mesh
        .replace("127.0.0.1:50051", first)
        .replace("127.0.0.1:50052", second);
    let targets = format!("[{{\"targets\": {addresses:?}}}]");
    let file = directory.join("mesh.yaml");
    fs::write(&file, mesh).expect("writes");
    fs::write(directory.join("targets.json"), targets).expect("writes");
    let [certificate, key] =
        ["pem", "key"].map(|end| directory.join(format!("{CONTROL_PLANE}.{end}")));
    let tls = ServerTls::from_files(certificate, key).client_ca(directory.join("ca.pem"));
    let running = ManagementServer::builder()
        .source(FileSource::new([file]))
        .tls(tls)
        .start()
        .await;
    running.expect("a free port")
}

/// A program of the examples as `service`, with the README's `bootstrap`.
fn program(path: &str, service: &str, certs: &Path, server: &Running) -> Command {
    let address = server.address().to_string();
    let certificates = Certificates::of(certs, service).expect("it has a certificate");
    let process = bootstrap::Process::new(
        service,
        address.parse().expect("an address"),
        Some(certificates),
        false,
    );
    let process = process.expect("it makes sense");
    assert!(process.tls);
    let mut command = Command::new(path);
    command
        .env_remove("GRPC_XDS_BOOTSTRAP")
        .env(
            "GRPC_XDS_BOOTSTRAP_CONFIG",
            bootstrap::grpc(&process).to_string(),
        )
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    command
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").port()
}

async fn lines(mut child: Child) -> Vec<String> {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut all = Vec::new();
    let read = async {
        while let Ok(Some(line)) = lines.next_line().await {
            all.push(line);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("the program ends");
    assert!(child.wait().await.expect("it ran").success());
    all
}

/// Starts the control plane and two servers, and runs `client` until calls reach both.
async fn run(mesh: &str, client: &str) -> (Vec<String>, [u16; 2]) {
    let ports = [free_port(), free_port()];
    let directory = tempfile::tempdir().expect("a directory");
    let certs = directory.path();
    cert_dev(mesh, certs);
    let control = control_plane(mesh, certs, ports).await;
    let servers = ports.map(|port| {
        let mut server = program(
            env!("CARGO_BIN_EXE_hello-server"),
            "greeter",
            certs,
            &control,
        );
        server
            .arg(format!("127.0.0.1:{port}"))
            .spawn()
            .expect("it starts")
    });
    let listening = async {
        for port in ports {
            while tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_err()
            {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), listening)
        .await
        .expect("both serve");
    let printed = lines(
        program(client, "web", certs, &control)
            .spawn()
            .expect("it starts"),
    )
    .await;
    drop(servers);
    (printed, ports)
}

#[tokio::test]
async fn hello_greets_from_every_server() {
    let mesh = include_str!("../hello/mesh.yaml");
    let (printed, ports) = run(mesh, env!("CARGO_BIN_EXE_hello-client")).await;
    assert_eq!(printed.len(), 4);
    for line in &printed {
        let known = ports
            .iter()
            .any(|port| *line == format!("hello, mesh (from 127.0.0.1:{port})"));
        assert!(known, "{line}");
    }
}

#[tokio::test]
async fn split_goes_by_the_header() {
    let mesh = include_str!("../split/mesh.yaml");
    let (printed, [stable, canary]) = run(mesh, env!("CARGO_BIN_EXE_split-client")).await;
    let expected = [
        (false, stable),
        (true, canary),
        (false, stable),
        (true, canary),
    ];
    let expected = expected.map(|(beta, port)| format!("x-beta: {beta:5} -> 127.0.0.1:{port}"));
    assert_eq!(printed, expected);
}
