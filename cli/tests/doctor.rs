//! `sidestep doctor` against servers that live, and things that do not.

mod program;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, SystemTime};

use program::{json, path, run_to, sidestep};
use serde_json::Value;
use sidestep_cli::certificates::{self, Identity, Order};
use sidestep_cli::doctor::{self, Group, Origin, State, Subject};
use sidestep_proto::wire::discovery::{DiscoveryRequest, DiscoveryResponse};
use sidestep_proto::wire::rpc;
use sidestep_server::{FileSource, ManagementServer, Running};
use tokio::sync::mpsc;
use tonic_prost::ProstCodec;

const DAY: Duration = Duration::from_secs(86_400);

/// A mesh whose `greeter` listens there.
fn mesh(endpoint: &str) -> String {
    format!(
        "mesh: v1\ntrust_domain: mesh.test\nservices:\n  web: {{}}\n  greeter:\n    \
         endpoints: {{static: [{{address: \"{endpoint}\"}}]}}\n"
    )
}

/// A directory with `mesh.yaml`.
struct Directory(tempfile::TempDir);

impl Directory {
    fn with(mesh: &str) -> Self {
        let directory = Self(tempfile::tempdir().expect("a directory"));
        fs::write(directory.mesh(), mesh).expect("writes");
        directory
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mesh(&self) -> PathBuf {
        self.join("mesh.yaml")
    }

    /// The bootstrap of a process that is `service`.
    fn bootstrap(&self, service: &str, server: &str, certs: Option<&Path>) -> PathBuf {
        let out = self.join(&format!("{service}.json"));
        let mut arguments = vec!["bootstrap", "runtime", "--service", service];
        arguments.extend(["--server", server, "--out", path(&out)]);
        if let Some(certs) = certs {
            arguments.extend(["--certs", path(certs)]);
        }
        run_to(0, &arguments);
        out
    }

    /// Certificates of `web`, issued then, by an authority of their own.
    fn certificates(&self, name: &str, issued: SystemTime) -> PathBuf {
        let directory = self.join(name);
        let order = Order {
            directory: directory.clone(),
            identities: vec![Identity {
                service: "web".to_owned(),
                spiffe_id: "spiffe://mesh.test/sa/web".to_owned(),
            }],
            trust_domain: "mesh.test".to_owned(),
            control_plane_hosts: Vec::new(),
            lifetime: 90 * DAY,
            renew: false,
            now: issued,
        };
        certificates::issue(&order).expect("issues");
        directory
    }
}

/// `sidestep serve` until it is dropped.
struct Serve {
    child: Child,
    address: String,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Serve {
    fn start(mesh: &Path) -> Self {
        Self::with(mesh, &[])
    }

    /// Over TLS, with the certificates of this directory; it demands one too.
    fn secured(mesh: &Path, certs: &Path) -> Self {
        let file = |name| certs.join(name).to_str().expect("a plain path").to_owned();
        let files = ["control-plane.pem", "control-plane.key", "ca.pem"].map(file);
        let [certificate, key, roots] = files.each_ref().map(String::as_str);
        let first = ["--tls-cert", certificate, "--tls-key", key];
        Self::with(mesh, &[&first[..], &["--client-ca", roots]].concat())
    }

    fn with(mesh: &Path, more: &[&str]) -> Self {
        let mut child = sidestep()
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(more)
            .arg(mesh)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let banner = json(&lines.next().expect("a banner").expect("text"));
        let address = banner["address"].as_str().expect("an address").to_owned();
        Self {
            child,
            address,
            lines,
        }
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `doctor --json` of this bootstrap: its checks.
fn doctor(code: i32, bootstrap: &Path, more: &[&str]) -> Vec<Value> {
    let first = ["doctor", "--json", "--bootstrap", path(bootstrap)];
    let (printed, _) = run_to(code, &[&first, more].concat());
    let report = json(&printed);
    assert_eq!(report["ok"], code == 0, "{report:#}");
    report["checks"].as_array().expect("a list").clone()
}

/// The check of this group and state that says this; it has a hint if it is not in order.
fn find(checks: &[Value], group: &str, state: &str, says: &str) {
    let found = checks.iter().find(|check| {
        let text = check["says"].as_str().expect("a text");
        check["group"] == group && check["state"] == state && text.contains(says)
    });
    let found = found.unwrap_or_else(|| panic!("{group} {state} {says:?} in {checks:#?}"));
    let needs_hint = matches!(state, "warn" | "fail");
    assert_eq!(found["hint"].is_string(), needs_hint, "{found:#}");
}

#[test]
fn all_is_well_in_a_line_a_group() {
    // Any gRPC server can be greeter: another control plane.
    let other = Directory::with("mesh: v1\nservices: {a: {}}\n");
    let greeter = Serve::start(&other.mesh());
    let directory = Directory::with(&mesh(&greeter.address));
    let server = Serve::start(&directory.mesh());
    let bootstrap = directory.bootstrap("web", &server.address, None);
    let more = ["--mesh", path(&directory.mesh()), "--call", "greeter"].map(str::to_owned);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();

    let checks = doctor(0, &bootstrap, &more);
    for (group, says) in [
        ("bootstrap", "the mesh file has the service \"web\""),
        ("ports", greeter.address.as_str()),
        ("control plane", "connected by plaintext"),
        ("control plane", "revision 1"),
        ("clock", "agree"),
        ("subscription", "calls to greeter"),
        ("subscription", "a server of \"web\""),
        ("call", "it has no health service"),
    ] {
        find(&checks, group, "ok", says);
    }
    let call = "xds:///greeter/sidestep.operations.v1.Operations/Status";
    let checks = doctor(0, &bootstrap, &["--call", call]);
    find(&checks, "call", "ok", &greeter.address);
    let checks = doctor(0, &bootstrap, &["--call", "greeter/a.B/C"]);
    find(&checks, "call", "warn", "Unimplemented");

    let of = ["doctor", "--bootstrap", path(&bootstrap)];
    let (terse, _) = run_to(0, &of);
    assert_eq!(terse.lines().count(), Group::ALL.len() + 2, "{terse}");
    assert!(terse.ends_with("all is well\n"), "{terse}");
    let (verbose, _) = run_to(0, &[&of[..], &["--verbose"]].concat());
    assert!(verbose.lines().count() > terse.lines().count(), "{verbose}");
}

#[test]
fn a_dead_control_plane_ends_with_3() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let server = Serve::start(&directory.mesh());
    let bootstrap = directory.bootstrap("web", &server.address, None);
    drop(server);
    let checks = doctor(3, &bootstrap, &["--mesh", path(&directory.mesh())]);
    find(&checks, "control plane", "fail", "refused");
    find(
        &checks,
        "ports",
        "warn",
        "nobody takes connections at 127.0.0.1:1",
    );
    find(&checks, "subscription", "skip", "");
}

#[test]
fn names_that_are_not_there_are_said_by_who_says_so() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let server = Serve::start(&directory.mesh());
    let bootstrap = directory.bootstrap("gretter", &server.address, None);
    let mesh = directory.mesh();
    let checks = doctor(1, &bootstrap, &["--mesh", path(&mesh), "--call", "wbe"]);
    find(&checks, "bootstrap", "fail", "did you mean \"greeter\"?");
    find(
        &checks,
        "subscription",
        "fail",
        "refused by the control plane: node.cluster",
    );
    find(&checks, "subscription", "fail", "no such Listener: \"wbe\"");
    find(&checks, "call", "fail", "no such Listener: \"wbe\"");

    let arguments = [
        "doctor",
        "--server",
        &server.address,
        "--service",
        "web",
        "--json",
    ];
    let (printed, _) = run_to(0, &arguments);
    find(
        json(&printed)["checks"].as_array().expect("a list"),
        "subscription",
        "ok",
        "\"web\"",
    );
}

#[test]
fn bootstraps_that_are_wrong() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let file = directory.join("b.json");
    let checks = doctor(1, &file, &[]);
    find(&checks, "bootstrap", "fail", "No such file");
    find(&checks, "call", "skip", "needs a bootstrap");
    fs::write(&file, "{\"xds_servers\": []}").expect("writes");
    find(
        &doctor(1, &file, &[]),
        "bootstrap",
        "fail",
        "xds_servers: must not be empty",
    );
    let (printed, _) = run_to(1, &["doctor"]);
    assert!(printed.contains("GRPC_XDS_BOOTSTRAP"), "{printed}");

    let server = Serve::start(&directory.mesh());
    let misspelt = serde_json::json!({
        "xds_servers": [{"server_uri": server.address, "channel_creds": [{"type": "insecure"}]}],
        "nodes": {"cluster": "web"},
    });
    fs::write(&file, misspelt.to_string()).expect("writes");
    let checks = doctor(0, &file, &[]);
    find(&checks, "bootstrap", "warn", "nodes is not read");
    find(&checks, "bootstrap", "warn", "node.cluster is empty");
    find(
        &checks,
        "bootstrap",
        "warn",
        "server_listener_resource_name_template",
    );
    run_to(2, &["doctor", "--server", "10.0.0.1:1"]);
    run_to(2, &["doctor", "--certs", "x"]);
}

#[test]
fn ports_that_are_taken() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let server = Serve::start(&directory.mesh());
    let bootstrap = directory.bootstrap("web", &server.address, None);
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    let taken = doctor(1, &bootstrap, &["--listen", &address]);
    find(&taken, "ports", "fail", &address);
    drop(free);
    let free = doctor(0, &bootstrap, &["--listen", &address]);
    find(&free, "ports", "ok", &address);
}

#[test]
fn certificates_that_do_not_hold() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let server = Serve::start(&directory.mesh());
    let now = SystemTime::now();
    let good = directory.certificates("good", now);
    let of = |certs: &Path| {
        // The server speaks plaintext; here the certificates are for peers.
        let (text, _) = run_to(
            0,
            &[
                "bootstrap",
                "runtime",
                "--service",
                "web",
                "--server",
                &server.address,
                "--certs",
                path(certs),
                "--insecure",
            ],
        );
        let file = directory.join("b.json");
        fs::write(&file, text).expect("writes");
        file
    };
    let mesh = directory.mesh();
    let checks = doctor(0, &of(&good), &["--mesh", path(&mesh)]);
    for says in [
        "web.key: the key of",
        "web.pem: spiffe://mesh.test/sa/web",
        "valid for 89 days",
        "vouched for",
    ] {
        find(&checks, "certificates", "ok", says);
    }
    fs::set_permissions(good.join("web.key"), fs::Permissions::from_mode(0o644)).expect("sets");
    find(
        &doctor(0, &of(&good), &[]),
        "certificates",
        "warn",
        "others can read",
    );

    let old = directory.certificates("old", now - 80 * DAY);
    find(
        &doctor(0, &of(&old), &[]),
        "certificates",
        "warn",
        "CN=web, 80 days old",
    );
    let expired = directory.certificates("expired", now - 100 * DAY);
    find(
        &doctor(1, &of(&expired), &[]),
        "certificates",
        "fail",
        "CN=web expired 10 days ago",
    );
    let early = directory.certificates("early", now + 10 * DAY);
    find(
        &doctor(1, &of(&early), &[]),
        "certificates",
        "fail",
        "becomes valid in",
    );

    fs::copy(old.join("ca.pem"), good.join("ca.pem")).expect("copies");
    find(
        &doctor(1, &of(&good), &[]),
        "certificates",
        "fail",
        "vouches for it",
    );
    fs::copy(old.join("web.key"), good.join("web.key")).expect("copies");
    find(
        &doctor(1, &of(&good), &[]),
        "certificates",
        "fail",
        "is not the key of",
    );
    let file = of(&good);
    fs::write(good.join("web.pem"), "garbage").expect("writes");
    find(
        &doctor(1, &file, &[]),
        "certificates",
        "fail",
        "no certificate in it",
    );
    fs::remove_file(good.join("web.pem")).expect("is there");
    find(
        &doctor(1, &file, &[]),
        "certificates",
        "fail",
        "No such file",
    );

    let other = "mesh: v1\ntrust_domain: other.test\nservices: {web: {}}\n";
    fs::write(&mesh, other).expect("writes");
    let checks = doctor(1, &of(&old), &["--mesh", path(&mesh)]);
    find(
        &checks,
        "certificates",
        "fail",
        "the mesh file says spiffe://other.test/sa/web",
    );
}

#[test]
fn a_control_plane_over_tls() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let certs = directory.certificates("certs", SystemTime::now());
    let server = Serve::secured(&directory.mesh(), &certs);
    let bootstrap = directory.bootstrap("web", &server.address, Some(&certs));
    let checks = doctor(0, &bootstrap, &[]);
    find(&checks, "control plane", "ok", "connected by TLS");
    find(&checks, "subscription", "ok", "arrived");

    let hinted = |bootstrap: &Path, hint: &str| {
        let checks = doctor(1, bootstrap, &[]);
        find(&checks, "control plane", "fail", &server.address);
        let failed = checks
            .iter()
            .find(|check| check["group"] == "control plane");
        let text = failed.expect("there")["hint"].to_string();
        assert!(text.contains(hint), "{checks:#?}");
    };
    let other = directory.certificates("other", SystemTime::now());
    let others = directory.bootstrap("web", &server.address, Some(&other));
    hinted(&others, "of another authority");
    let plain = directory.bootstrap("web", &server.address, None);
    hinted(&plain, "may want TLS");

    let server = Serve::start(&directory.mesh());
    let bootstrap = directory.bootstrap("web", &server.address, Some(&certs));
    let checks = doctor(1, &bootstrap, &[]);
    find(&checks, "control plane", "fail", "TLS handshake");
}

#[test]
fn a_refused_edit_ends_with_4() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let mut server = Serve::start(&directory.mesh());
    let bootstrap = directory.bootstrap("web", &server.address, None);
    fs::write(directory.mesh(), "mesh: v2\n").expect("writes");
    let said = server.lines.next().expect("a line").expect("text");
    assert_eq!(json(&said)["event"], "refused");
    let checks = doctor(4, &bootstrap, &[]);
    find(
        &checks,
        "control plane",
        "warn",
        "the newest edit was refused",
    );
}

async fn running(mesh: &Path) -> Running {
    let builder = ManagementServer::builder().source(FileSource::new([mesh.to_owned()]));
    builder.start().await.expect("a free port")
}

fn subject(server: &Running) -> Subject {
    let text = serde_json::json!({
        "xds_servers": [{
            "server_uri": server.address().to_string(),
            "channel_creds": [{"type": "insecure"}],
        }],
        "node": {"id": "web", "cluster": "web"},
        "server_listener_resource_name_template": "%s",
    });
    Subject {
        origin: Origin::Made(text.to_string()),
        mesh: None,
        listen: Vec::new(),
        call: None,
        now: SystemTime::now(),
    }
}

#[tokio::test]
async fn clocks_that_are_apart() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let server = running(&directory.mesh()).await;
    let now = SystemTime::now();
    let day = Duration::from_secs(86_400 + 1_800);
    let minute = Duration::from_secs(60);
    for (here, state, says) in [
        (now, State::Good, "agree"),
        (now + minute, State::Warning, "ahead of"),
        (now - minute, State::Warning, "behind"),
        (now + day, State::Failed, "is 24 h ahead of"),
        (now - day, State::Failed, "is 24 h behind"),
    ] {
        let subject = Subject {
            now: here,
            ..subject(&server)
        };
        let report = doctor::examine(&subject).await;
        let clock = report.of(Group::Clock).next().expect("a finding");
        assert_eq!(clock.state, state, "{clock:?}");
        assert!(clock.says.contains(says), "{clock:?}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_refused_its_configuration_is_named() {
    let directory = Directory::with(&mesh("127.0.0.1:1"));
    let server = running(&directory.mesh()).await;
    let subject = subject(&server);
    let before = doctor::examine(&subject).await;
    assert_eq!(before.worst(), State::Skipped, "{before:?}");

    let refusal = refuse(&server.address().to_string()).await;
    let read = async {
        while !server.tracker().clients().iter().any(|client| {
            client
                .types
                .values()
                .any(|progress| progress.nacked.is_some())
        }) {
            tokio::task::yield_now().await;
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    read.expect("the server reads the refusal");
    let report = doctor::examine(&subject).await;
    assert_eq!(report.worst(), State::Partial, "{report:?}");
    let named = report.of(Group::ControlPlane).any(|finding| {
        finding.state == State::Partial
            && finding.says.contains("picky")
            && finding.says.contains("not to my taste")
    });
    assert!(named, "{report:?}");
    drop(refusal);
    server.shutdown().await;
}

/// Subscribes to `greeter` and refuses what comes.
async fn refuse(address: &str) -> mpsc::UnboundedSender<DiscoveryRequest> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint
        .expect("an address")
        .connect()
        .await
        .expect("connects");
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.expect("ready");
    let (requests, queue) = mpsc::unbounded_channel();
    let ask = |names: &[&str]| DiscoveryRequest {
        type_url: "type.googleapis.com/envoy.config.listener.v3.Listener".to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DiscoveryRequest::default()
    };
    let mut first = ask(&["greeter"]);
    first.node = Some(sidestep_proto::wire::core::Node {
        id: "picky".to_owned(),
        ..Default::default()
    });
    requests.send(first).expect("open");
    let stream = futures_util::stream::unfold(queue, |mut queue| async move {
        let request = queue.recv().await?;
        Some((request, queue))
    });
    let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
    let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
    let path = http::uri::PathAndQuery::from_static(path);
    let opened = grpc.streaming(tonic::Request::new(Box::pin(stream)), path, codec);
    let mut responses = opened.await.expect("opens").into_inner();
    let response = responses.message().await.expect("answers").expect("one");
    let refused = DiscoveryRequest {
        response_nonce: response.nonce,
        error_detail: Some(rpc::Status {
            code: 3,
            message: "not to my taste".to_owned(),
            ..Default::default()
        }),
        ..ask(&["greeter"])
    };
    requests.send(refused).expect("open");
    requests
}
