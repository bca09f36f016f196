//! The real programs, as others run them: arguments in, JSON lines out.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sidestep_server::source::SourceText;
use sidestep_server::{Configuration, RawResources};
use sidestep_test::ControlPlane;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

pub(crate) const CLIENT: &str = env!("CARGO_BIN_EXE_sidestep-interop-client");
pub(crate) const SERVER: &str = env!("CARGO_BIN_EXE_sidestep-interop-server");

/// Nothing here takes longer on a machine that does something.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running program; killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    about: String,
}

impl Program {
    /// Starts it without a bootstrap.
    pub(crate) fn start(path: &str, arguments: &[&str]) -> Self {
        Self::spawn(Command::new(path).args(arguments))
    }

    /// Starts it with one.
    pub(crate) fn meshed(path: &str, arguments: &[&str], bootstrap: &Value) -> Self {
        let mut command = Command::new(path);
        Self::spawn(
            command
                .args(arguments)
                .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string()),
        )
    }

    fn spawn(command: &mut Command) -> Self {
        let about = format!("{:?}", command.as_std());
        let mut child = command
            .env_remove("GRPC_XDS_BOOTSTRAP")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self {
            child,
            lines,
            about,
        }
    }

    async fn line(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} says nothing", self.about));
        let line = line.expect("text")?;
        let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(
            value["event"].is_string() && value["t_ms"].is_number(),
            "{line}"
        );
        Some(value)
    }

    /// The next event of this name; what comes before it is passed over.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            match self.line().await {
                Some(value) if value["event"] == name => return value,
                Some(_) => {}
                None => panic!("{} ended without {name:?}", self.about),
            }
        }
    }

    /// Sends SIGTERM.
    pub(crate) async fn terminate(&self) {
        let id = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await;
        assert!(sent.expect("kill is there").success());
    }

    /// Everything it still says, and its exit status.
    pub(crate) async fn end(mut self) -> (Vec<Value>, i32) {
        let mut all = Vec::new();
        while let Some(value) = self.line().await {
            all.push(value);
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.expect("it ends").expect("its status");
        (all, status.code().expect("no signal"))
    }

    /// What it has written to standard error, once it has ended.
    pub(crate) async fn stderr(&mut self) -> String {
        let mut text = String::new();
        let mut errors = self.child.stderr.take().expect("piped");
        errors.read_to_string(&mut text).await.expect("text");
        text
    }
}

/// An interop server of ours, and where it is.
pub(crate) struct Served {
    pub(crate) program: Program,
    pub(crate) address: String,
    pub(crate) ready: Value,
}

impl Served {
    pub(crate) async fn start(arguments: &[&str]) -> Self {
        Self::of(Program::start(SERVER, arguments)).await
    }

    pub(crate) async fn of(mut program: Program) -> Self {
        let ready = program.event("ready").await;
        Self {
            address: ready["addr"].as_str().expect("an address").to_owned(),
            program,
            ready,
        }
    }
}

/// Runs a client to its end: its `rpc` events by index, and its summary. It must end with 0, and the
/// summary must be its last word.
pub(crate) async fn client(target: &str, arguments: &[&str]) -> (Vec<Value>, Value) {
    let arguments = [&["--target", target][..], arguments].concat();
    finished(Program::start(CLIENT, &arguments)).await
}

pub(crate) async fn finished(program: Program) -> (Vec<Value>, Value) {
    let (mut events, status) = program.end().await;
    assert_eq!(status, 0, "{events:?}");
    let summary = events.pop().expect("a summary");
    assert_eq!(summary["event"], "summary");
    let mut rpcs: Vec<_> = events.into_iter().filter(|e| e["event"] == "rpc").collect();
    rpcs.sort_by_key(|rpc| rpc["i"].as_u64());
    assert_eq!(summary["total"], rpcs.len());
    (rpcs, summary)
}

/// What a program says that was called badly: its only event, with status 2.
pub(crate) async fn refused(path: &str, arguments: &[&str]) -> String {
    let (events, status) = Program::start(path, arguments).end().await;
    assert_eq!(status, 2, "{arguments:?}");
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["event"], "error");
    events[0]["message"].as_str().expect("a text").to_owned()
}

/// A control plane with the service `greeter` at these addresses, and its caller `web`.
pub(crate) struct Mesh {
    resources: RawResources,
    plane: ControlPlane,
}

impl Mesh {
    pub(crate) async fn start(addresses: &[&str]) -> Self {
        let resources = RawResources::unchecked([]).expect("nothing has no name to lack");
        resources.replace_configuration(configuration(addresses));
        let plane = ControlPlane::raw(resources.clone()).await;
        Self {
            resources,
            plane: plane.expect("a free port"),
        }
    }

    pub(crate) fn push(&self, addresses: &[&str]) {
        self.resources
            .replace_configuration(configuration(addresses));
    }

    pub(crate) fn bootstrap(&self, service: &str) -> Value {
        let address = self.plane.address().to_string();
        sidestep_test::bootstrap(&address, service, &format!("{service}-node"))
    }
}

fn configuration(addresses: &[&str]) -> Configuration {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| format!("{{address: \"{address}\"}}"))
        .collect();
    let text = format!(
        "mesh: v1\nservices:\n  web: {{}}\n  greeter:\n    endpoints:\n      static: [{}]\n",
        endpoints.join(", ")
    );
    let text = SourceText {
        path: "mesh.yaml".to_owned(),
        text,
    };
    Configuration::from_mesh(&[text]).expect("a good mesh")
}

/// An address that nobody listens on.
pub(crate) fn unused_address() -> String {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("bound").to_string()
}
