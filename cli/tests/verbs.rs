//! The built binary, as people and scripts use it.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const MESH: &str = r#"mesh: v1
services:
  web: {}
  greeter:
    endpoints:
      static:
        - {address: "127.0.0.1:50051", version: v1}
        - {address: "127.0.0.1:50052", version: v2}
    versions: {stable: v1, canary: v2}
    routes:
      - name: beta
        match: {method: hello.Greeter/SayHello, headers: {x-beta: "1"}}
        to: canary
      - name: main
        to: {stable: 3, canary: 1}
        timeout: 800ms
"#;

struct Directory(tempfile::TempDir);

impl Directory {
    fn with(text: &str) -> Self {
        let directory = Self(tempfile::tempdir().expect("a directory"));
        directory.write(text);
        directory
    }

    fn mesh(&self) -> PathBuf {
        self.0.path().join("mesh.yaml")
    }

    fn write(&self, text: &str) {
        fs::write(self.mesh(), text).expect("writes");
    }
}

fn sidestep() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestep"));
    for variable in ["SIDESTEP_LISTEN", "SIDESTEP_SERVER", "SIDESTEP_MESH"] {
        command.env_remove(variable);
    }
    command
}

fn run(arguments: &[&str]) -> Output {
    sidestep().args(arguments).output().expect("runs")
}

fn exit(output: &Output) -> i32 {
    output.status.code().expect("ends by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn check_says_ok_under_all_its_names() {
    let directory = Directory::with(MESH);
    for verb in ["check", "validate", "analyze"] {
        let output = run(&[verb, path(&directory.mesh())]);
        assert_eq!(exit(&output), 0, "{}", stderr(&output));
        assert_eq!(stdout(&output), "ok: 2 services, 2 endpoints\n");
    }
}

#[test]
fn check_locates_what_is_wrong() {
    let directory = Directory::with(&MESH.replace("timeout", "timout"));
    let mesh = directory.mesh();
    let output = run(&["check", path(&mesh)]);
    assert_eq!(exit(&output), 1);
    assert_eq!(stdout(&output), "");
    let expected = format!("{}:16:9: ", path(&mesh));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    assert!(stderr(&output).contains("did you mean \"timeout\"?"));

    let output = run(&["check", "--json", path(&mesh)]);
    assert_eq!(exit(&output), 1);
    let answer = json(&output);
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["errors"][0]["line"], 16);
}

#[test]
fn check_shows_a_mesh_with_defaults_that_passes_itself() {
    let directory = Directory::with(MESH);
    let output = run(&["check", "--show-defaults", path(&directory.mesh())]);
    assert!(stdout(&output).contains("policy: round_robin"));
    directory.write(&stdout(&output));
    assert_eq!(exit(&run(&["check", path(&directory.mesh())])), 0);
}

#[test]
fn check_writes_the_resources_of_the_mesh() {
    let directory = Directory::with(MESH);
    let mesh = directory.mesh();
    let emitted = mesh.with_extension("pb");
    let output = run(&["check", path(&mesh), "--emit", path(&emitted)]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let bytes = fs::read(&emitted).unwrap();
    let resources = sidestep::StaticResources::decode(&bytes).unwrap();
    assert!(!resources.is_empty());
    directory.write(&MESH.replace("timeout", "timout"));
    fs::remove_file(&emitted).unwrap();
    let output = run(&["check", path(&mesh), "--emit", path(&emitted)]);
    assert_eq!(exit(&output), 1);
    assert!(
        !emitted.exists(),
        "nothing is written of a mesh with faults"
    );
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["check"][..],
        &["explain", "greeter"],
        &["explain", "greeter", "--mesh", "m", "-H", "no value"],
        &["serve", "m", "--listen", "nowhere"],
        &["serve", "m", "--listen", "0.0.0.0:0"],
        &["serve", "m", "--tls-cert", "c.pem"],
        &["serve", "m", "--client-ca", "ca.pem"],
        &[
            "serve",
            "m",
            "--insecure",
            "--tls-cert",
            "c",
            "--tls-key",
            "k",
        ],
        &["status", "--cert", "c.pem", "--key", "c.key"],
        &["frobnicate"],
    ] {
        assert_eq!(exit(&run(arguments)), 2, "{arguments:?}");
    }
}

#[test]
fn help_teaches_with_examples_and_exit_codes() {
    let help = stdout(&run(&["--help"]));
    assert!(help.contains("Exit codes:"), "{help}");
    for verb in ["serve", "check", "status", "explain"] {
        let help = stdout(&run(&[verb, "--help"]));
        assert!(help.contains("Examples:"), "{verb}: {help}");
    }
}

#[test]
fn explain_follows_the_route_of_a_call() {
    let directory = Directory::with(MESH);
    let mesh = directory.mesh();
    let output = run(&["explain", "greeter", "--mesh", path(&mesh)]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("rule       main: takes the call"), "{text}");
    assert!(text.contains("75.00 %   greeter/stable"), "{text}");
    assert!(text.contains("at most 800ms"), "{text}");

    let question = ["explain", "xds:///greeter", "hello.Greeter/SayHello"];
    let options = ["-H", "x-beta=1", "--as", "web", "--json", "--mesh"];
    let output = run(&[&question[..], &options, &[path(&mesh)]].concat());
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let answer = json(&output);
    assert_eq!(answer["rules"][0]["name"], "beta");
    assert_eq!(answer["rules"][0]["takes_the_call"], true);
    assert_eq!(answer["caller"], "web");
    let clusters = &answer["outcome"]["clusters"];
    assert_eq!(clusters[0]["name"], "greeter/canary");
    assert_eq!(clusters[0]["endpoints"][0]["address"], "127.0.0.1:50052");
}

#[test]
fn explain_says_when_a_call_would_fail() {
    let only_beta = MESH.split("      - name: main").next().expect("a part");
    let directory = Directory::with(only_beta);
    let output = run(&["explain", "greeter", "--mesh", path(&directory.mesh())]);
    assert_eq!(exit(&output), 1);
    assert!(stdout(&output).contains("fails: no rule takes the call"));
}

#[test]
fn explain_knows_the_nearest_name() {
    let directory = Directory::with(MESH);
    let mesh = directory.mesh();
    let service = run(&["explain", "greter", "--mesh", path(&mesh)]);
    let caller = run(&["explain", "greeter", "--as", "wbe", "--mesh", path(&mesh)]);
    for (output, nearest) in [(service, "greeter"), (caller, "web")] {
        assert_eq!(exit(&output), 1);
        let expected = format!("did you mean {nearest:?}?");
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
}

/// A running `sidestep serve`.
struct Server {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: String,
}

impl Server {
    fn start(mesh: &Path) -> Self {
        Self::start_with(mesh, &[])
    }

    fn start_with(mesh: &Path, arguments: &[&str]) -> Self {
        let mut child = sidestep()
            .args(["serve", "--listen", "127.0.0.1:0", "--log-format", "json"])
            .args(arguments)
            .arg(mesh)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let out = child.stdout.take().expect("is piped");
        let mut server = Self {
            child,
            lines: BufReader::new(out).lines(),
            address: String::new(),
        };
        let banner = server.next();
        assert_eq!(banner["event"], "serving");
        server.address = banner["address"].as_str().expect("an address").to_owned();
        server
    }

    /// What it says next.
    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("it goes on").expect("text");
        serde_json::from_str(&line).expect("JSON")
    }

    fn status(&self, arguments: &[&str]) -> Output {
        let server = ["status", "--server", &self.address];
        run(&[&server, arguments].concat())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_follows_edits_and_status_tells() {
    let directory = Directory::with(MESH);
    let mut server = Server::start(&directory.mesh());
    let output = server.status(&[]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("revision 1: 2 services, 2 endpoints\n"));

    directory.write(&format!("{MESH}  payments: {{}}\n"));
    let change = server.next();
    assert_eq!(change["event"], "changed", "{change}");
    assert_eq!(change["revision"], 2);
    assert_eq!(change["summary"], "3 services, 2 endpoints");

    directory.write(&MESH.replace("canary: v2", "canary: v3"));
    let refusal = server.next();
    assert_eq!(refusal["event"], "refused", "{refusal}");
    assert_eq!(refusal["errors"][0]["line"], 9, "{refusal}");
    let output = server.status(&["--json"]);
    assert_eq!(exit(&output), 4, "{}", stderr(&output));
    let status = json(&output);
    assert_eq!(status["revision"], "2", "the last good one stays");
    let error = status["refusal"]["errors"][0].as_str().expect("a text");
    assert!(error.contains("v3"), "{error}");

    directory.write(MESH);
    assert_eq!(server.next()["revision"], 3);
    assert_eq!(exit(&server.status(&[])), 0);
}

/// A self-signed certificate for 127.0.0.1 that is its own root: `NAME.pem` and `NAME.key`.
fn certificate(directory: &Directory, name: &str) -> [String; 2] {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let texts = [made.cert.pem(), made.signing_key.serialize_pem()];
    ["pem", "key"]
        .map(|kind| directory.0.path().join(format!("{name}.{kind}")))
        .into_iter()
        .zip(texts)
        .map(|(file, text)| {
            fs::write(&file, text).expect("writes");
            path(&file).to_owned()
        })
        .collect::<Vec<_>>()
        .try_into()
        .expect("two files")
}

#[test]
fn status_asks_a_server_with_tls() {
    let directory = Directory::with(MESH);
    let [server_cert, server_key] = certificate(&directory, "server");
    let [web_cert, web_key] = certificate(&directory, "web");
    let tls = ["--tls-cert", &server_cert, "--tls-key", &server_key];
    let demand = [&tls[..], &["--client-ca", &web_cert]].concat();
    let server = Server::start_with(&directory.mesh(), &demand);

    let mutual = ["--ca", &server_cert, "--cert", &web_cert, "--key", &web_key];
    let output = server.status(&mutual);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    for (arguments, reason) in [
        (&[][..], "needs --ca"),
        (&["--ca", &server_cert], "--cert and --key"),
        (&["--ca", &web_cert], "certificate"),
    ] {
        let output = server.status(arguments);
        assert_eq!(exit(&output), 3, "{arguments:?}");
        assert!(stderr(&output).contains(reason), "{}", stderr(&output));
    }
}

#[test]
fn serve_names_the_tls_file_that_it_cannot_use() {
    let directory = Directory::with(MESH);
    let mesh = directory.mesh();
    let [_, key] = certificate(&directory, "server");
    let tls = ["--tls-cert", path(&mesh), "--tls-key", &key];
    let output = run(&[&["serve", path(&mesh)], &tls[..]].concat());
    assert_eq!(exit(&output), 1);
    let expected = format!("{}: holds no certificate", path(&mesh));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

#[test]
fn serve_ends_in_good_order_when_asked_to() {
    let directory = Directory::with(MESH);
    let mut server = Server::start(&directory.mesh());
    let id = server.child.id().to_string();
    let asked = Command::new("kill").args(["-TERM", &id]).status();
    assert!(asked.expect("there is a kill").success());
    assert!(server.child.wait().expect("ends").success());
    let output = server.status(&[]);
    assert_eq!(exit(&output), 3);
    assert!(stderr(&output).contains("--server"), "{}", stderr(&output));
}

#[test]
fn schema_describes_the_keys_of_the_mesh_file() {
    let output = run(&["schema"]);
    assert_eq!(exit(&output), 0);
    let schema = json(&output);
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    for key in ["mesh", "trust_domain", "defaults", "services", "resources"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

#[test]
fn sources_of_endpoints_are_followed_and_shown() {
    let mesh = "mesh: v1\nservices:\n  greeter:\n    endpoints: {targets: greeter.json}\n";
    let directory = Directory::with(mesh);
    let list = directory.0.path().join("greeter.json");
    let check = || run(&["check", path(&directory.mesh())]);
    assert_eq!(exit(&check()), 0);
    assert!(
        stderr(&check()).contains("No such file"),
        "{}",
        stderr(&check())
    );

    fs::write(&list, r#"[{"targets": ["127.0.0.1:1"]}]"#).expect("writes");
    assert_eq!(stdout(&check()), "ok: 1 service, 1 endpoint\n");
    let mut server = Server::start(&directory.mesh());
    assert_eq!(exit(&server.status(&[])), 0);

    let two = r#"[{"targets": ["127.0.0.1:1", "127.0.0.1:2"]}]"#;
    fs::write(&list, two).expect("writes");
    let change = server.next();
    assert_eq!(change["summary"], "1 service, 2 endpoints", "{change}");

    fs::write(&list, "nonsense").expect("writes");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while exit(&server.status(&[])) != 4 {
        assert!(std::time::Instant::now() < deadline, "it never fails");
    }
    let status = json(&server.status(&["--json"]));
    let source = &status["sources"][0];
    assert_eq!(source["kind"], "targets");
    assert_eq!(source["endpoints"], 2, "the last good list stays");
    assert!(source["age_s"].is_number(), "{source}");
    let error = source["error"].as_str().expect("a text");
    assert!(error.contains("not a list of targets"), "{error}");
    let text = stdout(&server.status(&[]));
    assert!(text.contains("FAILS targets "), "{text}");
}

#[test]
fn check_says_what_it_did_not_ask() {
    let mesh = "mesh: v1\nservices:\n  a: {endpoints: {dns: \"a.b:1\"}}\n";
    let directory = Directory::with(mesh);
    let output = run(&["check", path(&directory.mesh())]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    assert!(
        text.contains("mesh.yaml:3:24: dns a.b:1 was not asked"),
        "{text}"
    );
    let output = run(&["check", "--json", path(&directory.mesh())]);
    assert!(json(&output)["not_asked"][0].is_string());
    let output = run(&["explain", "a", "--mesh", path(&directory.mesh())]);
    let text = stdout(&output);
    assert!(text.contains("whatever `dns: a.b:1` tells"), "{text}");
}

#[test]
fn check_lists_what_a_kind_of_client_ignores() {
    let mesh = "mesh: v1\nservices:\n  a:\n    endpoints: {static: [{address: \"127.0.0.1:1\"}]}\n    timeout: 1s\n    balance: {policy: least_request}\n";
    let directory = Directory::with(mesh);
    let output = run(&["check", "--profile", "grpc-node", path(&directory.mesh())]);
    assert_eq!(exit(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    for part in [
        "grpc-node 1.13 does not do 1 of the things in it:",
        "mesh.yaml:6:23: services.a.balance.policy: least request (A48): not there: the cluster is refused",
        "mesh.yaml:5:14: services.a.timeout: longest duration of a call (A31): since 1.4",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let file = directory.mesh();
    let output = run(&["check", "--json", "--profile", "grpc-go", path(&file)]);
    let profile = &json(&output)["profile"];
    assert_eq!(profile["client"], "grpc-go");
    let findings = profile["findings"].as_array().expect("a list");
    assert_eq!(findings.len(), 2, "{profile}");
    assert_eq!(findings[1]["id"], "least-request");
    assert_eq!(findings[1]["since"], "1.73");
    assert_eq!(findings[1]["ignored"], false);
    assert_eq!(findings[1]["line"], 6);
    let output = run(&["check", "--profile", "envoy", path(&file)]);
    assert!(stdout(&output).contains("does all of it"));
    let output = run(&["check", "--profile", "grpc", path(&file)]);
    assert_ne!(exit(&output), 0);
}

#[test]
fn serve_does_not_begin_with_a_broken_mesh() {
    let directory = Directory::with("mesh: v2\n");
    let mesh = directory.mesh();
    let output = run(&["serve", "--listen", "127.0.0.1:0", path(&mesh)]);
    assert_eq!(exit(&output), 1);
    let expected = format!("{}:1:7: ", path(&mesh));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}

/// A process under a control plane, with its admin endpoint, in a runtime of its own.
struct Process {
    runtime: tokio::runtime::Runtime,
    mesh: sidestep::Mesh,
    admin: String,
}

impl Process {
    fn start(control_plane: &str, service: &str) -> Self {
        let bootstrap = serde_json::json!({
            "xds_servers": [{
                "server_uri": control_plane,
                "channel_creds": [{"type": "insecure"}],
            }],
            "node": {"id": format!("{service}-1"), "cluster": service},
            "server_listener_resource_name_template":
                "grpc/server?xds.resource.listening_address=%s",
        });
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let builder = sidestep::Mesh::builder().bootstrap_json(&bootstrap.to_string());
        let mesh = builder.and_then(|b| b.build()).expect("a valid bootstrap");
        let guard = runtime.enter();
        let admin = mesh.admin("127.0.0.1:0").expect("a free port").to_string();
        drop(guard);
        Self {
            runtime,
            mesh,
            admin,
        }
    }

    /// Dials, and waits until there is a configuration or a reason why not.
    fn dial(&self, target: &str) -> sidestep::Channel {
        let _guard = self.runtime.enter();
        let channel = self.mesh.channel(target).expect("a good target");
        let settled = async {
            loop {
                let process = self.mesh.inspect().await.expect("it runs");
                let problems = process.targets.iter().filter_map(|t| t.problem());
                if problems.filter(|p| p.contains("waiting")).count() == 0 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        self.runtime.block_on(settled);
        channel
    }

    /// Serves nothing at `address`, as part of the mesh.
    fn serve(&self, address: &str) {
        let server = self.mesh.server(address);
        let serving = async move { server.serve().await.expect("the port is free") };
        self.runtime.spawn(serving);
    }

    /// Waits for a state of the clusters.
    fn until(&self, wanted: impl Fn(&sidestep::inspect::Connectivity) -> bool) {
        let reached = async {
            loop {
                let clusters = self.mesh.clusters().await.expect("it runs");
                if clusters.iter().all(|c| wanted(&c.connectivity)) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(20);
        let reached = async { tokio::time::timeout(patience, reached).await };
        self.runtime.block_on(reached).expect("it comes to that");
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        run(&[arguments, &["--process", &self.admin]].concat())
    }
}

#[test]
fn a_running_process_tells_what_it_runs_and_where_calls_go() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let [one, two] =
        [free(), free()].map(|socket| socket.local_addr().expect("it is bound").to_string());
    let mesh = MESH
        .replace("127.0.0.1:50051", &one)
        .replace("127.0.0.1:50052", &two);
    let directory = Directory::with(&mesh);
    let server = Server::start(&directory.mesh());
    let backends = Process::start(&server.address, "greeter");
    backends.serve(&one);
    backends.serve(&two);
    let process = Process::start(&server.address, "web");
    let channel = process.dial("xds:///greeter");
    process.runtime.block_on(channel.ready());

    let output = process.ask(&["status"]);
    let text = stdout(&output);
    assert!(
        text.starts_with("process web-1 (web), sidestep\nstate LIVE\n"),
        "{text}"
    );
    assert!(
        text.contains(&format!("control plane {}: connected\n", server.address)),
        "{text}"
    );
    assert!(text.contains("LDS   greeter"), "{text}");
    assert!(text.contains("ACKED"), "{text}");
    assert!(text.contains("round robin"), "{text}");
    assert_eq!(exit(&output), 0, "{text}");
    let status = json(&process.ask(&["status", "--json"]));
    assert_eq!(status["nodes"][0]["id"], "web-1");
    assert_eq!(status["ready"]["ready"], true);
    assert!(
        status["resources"]
            .as_array()
            .is_some_and(|all| all.len() >= 4),
        "{status:#}"
    );
    assert!(
        status["clusters"][0]["host_statuses"].is_array(),
        "{status:#}"
    );

    let question = ["explain", "xds:///greeter", "hello.Greeter/SayHello"];
    let output = process.ask(&question);
    let text = stdout(&output);
    assert!(
        text.starts_with("greeter: /hello.Greeter/SayHello\n"),
        "{text}"
    );
    assert!(text.contains("takes the call"), "{text}");
    assert_eq!(exit(&output), 0, "{text}");
    let answer = json(&process.ask(&[&question[..], &["--json"]].concat()));
    assert_eq!(answer["outcome"]["sent"], true);
    let unknown = process.ask(&["explain", "nobody"]);
    assert_eq!(exit(&unknown), 1);
    assert!(stderr(&unknown).contains("greeter"), "{}", stderr(&unknown));

    // The endpoints go, and calls with them.
    drop(backends);
    process.until(|state| matches!(state, sidestep::inspect::Connectivity::TransientFailure(_)));
    let output = process.ask(&["status"]);
    assert_eq!(exit(&output), 4);
    assert!(
        stdout(&output).contains("TRANSIENT_FAILURE"),
        "{}",
        stdout(&output)
    );
    let output = process.ask(&question);
    assert_eq!(exit(&output), 1);
    assert!(
        stdout(&output).contains("calls fail"),
        "{}",
        stdout(&output)
    );

    // Something is missing now.
    let _missing = process.dial("xds:///nobody");
    let output = process.ask(&["status"]);
    assert_eq!(exit(&output), 4);
    let text = stdout(&output);
    assert!(text.contains("state INITIALIZING\n"), "{text}");
    assert!(text.contains("target nobody: "), "{text}");
    assert!(
        text.contains("RECEIVED_ERROR LDS nobody (nothing of it is in use):\n"),
        "{text}"
    );
}

#[test]
fn a_process_that_is_not_there_ends_with_3() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let nobody = socket.local_addr().expect("it is bound").to_string();
    drop(socket);
    for verb in [&["status"][..], &["explain", "greeter"]] {
        let output = run(&[verb, &["--process", &nobody]].concat());
        assert_eq!(exit(&output), 3);
        assert!(stderr(&output).contains(&nobody), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("mesh.admin"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn errors_of_the_command_line_have_codes() {
    let directory = Directory::with(MESH);
    let mesh = directory.mesh();
    let cases: &[(&str, &[&str])] = &[
        ("SX0603", &["serve", "m", "--listen", "nowhere"]),
        ("SX0606", &["serve", "m", "--listen", "0.0.0.0:0"]),
        ("SX0701", &["frobnicate"]),
        ("SX0702", &["status", "--server", "127.0.0.1:1"]),
        ("SX0703", &["explain", "greter", "--mesh", path(&mesh)]),
        ("SX0704", &["help", "SX9999"]),
    ];
    for (code, arguments) in cases {
        let said = stderr(&run(arguments));
        assert!(said.starts_with(&format!("error[{code}]: ")), "{said}");
        assert!(said.contains("\n  hint: "), "{said}");
    }
}

#[test]
fn help_explains_each_code_and_each_verb() {
    let list = run(&["help", "--list", "--json"]);
    let codes = json(&list);
    let codes = codes.as_array().expect("a list");
    assert!(codes.len() > 100, "{}", codes.len());
    let one = codes[0]["code"].as_str().expect("a code");
    let page = stdout(&run(&["help", one]));
    assert!(page.starts_with(&format!("# {one}: ")), "{page}");
    assert!(page.contains("**What to do:**"), "{page}");
    assert!(stdout(&run(&["help", "serve"])).contains("Examples:"));
    assert!(stdout(&run(&["help"])).contains("Commands:"));
}
