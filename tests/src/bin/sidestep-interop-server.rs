//! The interop server: answers `grpc.testing.TestService`, plain or meshed. Its flags and events
//! are a contract that others drive it by.

use std::time::Duration;

use serde_json::json;
use sidestep::{BoundServer, Mesh, Server};
use sidestep_tests::flags::{Flag, Flags, boolean, refuse, say, value};
use sidestep_tests::service::{Faults, Testing};
use sidestep_tests::testing::test_service_server::TestServiceServer;
use tokio::signal::unix::{SignalKind, signal};
use tonic::Code;

const FLAGS: [Flag; 20] = [
    value("listen"),
    value("id"),
    value("mode"),
    boolean("xds-creds"),
    value("fail-first"),
    value("fail-attempts-below"),
    value("fail-percent"),
    value("fail-code"),
    value("delay-ms"),
    value("orca").later(),
    value("orca-cpu").later(),
    value("orca-app").later(),
    value("orca-qps").later(),
    value("orca-eps").later(),
    value("orca-named").later(),
    value("orca-oob-ms").later(),
    boolean("log-rpcs").later(),
    value("admin").later(),
    boolean("not-serving").later(),
    boolean("help").later(),
];

#[tokio::main]
async fn main() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    if let Err(message) = run().await {
        refuse(&message);
    }
}

async fn run() -> Result<(), String> {
    let flags = Flags::parse(&FLAGS, std::env::args().skip(1))?;
    let id = flags.text("id").unwrap_or("server");
    let mode = flags.text("mode").unwrap_or("plain");
    let service = TestServiceServer::new(Testing::new(id, faults(&flags)?));
    let listen = flags.text("listen").unwrap_or("127.0.0.1:0");
    let server = match mode {
        "plain" => Mesh::builder().build().map_err(text)?.plain_server(listen),
        "xds" => meshed(listen, flags.is_set("xds-creds"))?,
        other => return Err(format!("--mode: {other:?} is neither plain nor xds")),
    };
    let bound: BoundServer = server.add_service(service).bind().map_err(text)?;
    let addr = bound.address().to_string();
    say("ready", json!({ "addr": addr, "id": id, "mode": mode }));
    let mut term = signal(SignalKind::terminate()).map_err(text)?;
    bound
        .serve_with_shutdown(async move { term.recv().await })
        .await
        .map_err(text)
}

fn meshed(listen: &str, secured: bool) -> Result<Server, String> {
    let mesh = Mesh::from_env().map_err(text)?;
    let server = mesh.server(listen).on_mode_change(|address, mode| {
        let (mode, error) = mode.parts();
        say(
            "serving_mode",
            json!({ "mode": mode, "addr": address, "error": error }),
        );
    });
    Ok(if secured {
        server
    } else {
        server.plaintext_where_unsecured()
    })
}

fn faults(flags: &Flags) -> Result<Faults, String> {
    let code = flags.text("fail-code").unwrap_or("UNAVAILABLE");
    Ok(Faults {
        fail_first: flags.number("fail-first", 0)?,
        fail_attempts_below: flags.number("fail-attempts-below", 0)?,
        fail_percent: flags.number("fail-percent", 0)?,
        code: code_named(code).ok_or_else(|| format!("--fail-code: no status {code:?}"))?,
        delay: Duration::from_millis(flags.number("delay-ms", 0)?),
    })
}

fn code_named(name: &str) -> Option<Code> {
    (0..=16)
        .map(Code::from)
        .find(|code| upper_case(*code) == name)
}

/// `DeadlineExceeded` as the contract writes it: `DEADLINE_EXCEEDED`.
fn upper_case(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
