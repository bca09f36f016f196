//! The interop server: answers `grpc.testing.TestService`, plain or meshed. Its flags and events
//! are a contract that others drive it by.

use std::time::Duration;

use serde_json::json;
use sidestep::{Mesh, Server, ServerMode};
use sidestep_interop::flags::{Flags, SERVER, code_named, open_admin, refuse, say};
use sidestep_interop::service::{Faults, Testing};
use sidestep_interop::testing::test_service_server::TestServiceServer;
use tokio::signal::unix::{SignalKind, signal};

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
    let flags = Flags::parse(&SERVER, std::env::args().skip(1))?;
    let id = flags.text("id").unwrap_or("server");
    let mode = flags.text("mode").unwrap_or("plain");
    let service = TestServiceServer::new(Testing::new(id, faults(&flags)?));
    let listen = flags.text("listen").unwrap_or("127.0.0.1:0");
    let mesh = match mode {
        "xds" => Mesh::from_env(),
        _ => Mesh::builder().build(),
    };
    let mesh = mesh.map_err(text)?;
    let admin = open_admin(&mesh, &flags)?;
    let ready = |addr: &str| {
        let mut event = json!({ "addr": addr, "id": id, "mode": mode });
        if let Some(admin) = &admin {
            event["admin"] = json!(admin);
        }
        say("ready", event);
    };
    let mut term = signal(SignalKind::terminate()).map_err(text)?;
    let terminated = async move { _ = term.recv().await };
    match mode {
        "plain" => {
            let socket = tokio::net::TcpListener::bind(listen).await.map_err(text)?;
            ready(&socket.local_addr().map_err(text)?.to_string());
            let incoming =
                tonic::transport::server::TcpIncoming::from(socket).with_nodelay(Some(true));
            let server = tonic::transport::Server::builder().add_service(service);
            server
                .serve_with_incoming_shutdown(incoming, terminated)
                .await
                .map_err(text)
        }
        "xds" => {
            let server = meshed(&mesh, listen);
            let bound = server.add_service(service).bind().map_err(text)?;
            ready(&bound.address().to_string());
            bound.serve_with_shutdown(terminated).await.map_err(text)
        }
        other => Err(format!("--mode: {other:?} is neither plain nor xds")),
    }
}

/// A server whose Listener comes from the control plane that the environment names. With or without
/// `--xds-creds`: it follows the security that xDS asks for in any case, and takes plaintext where
/// xDS asks for none.
fn meshed(mesh: &Mesh, listen: &str) -> Server {
    let server = mesh.server(listen).on_mode_change(|address, mode| {
        let (mode, error) = match mode {
            ServerMode::Serving => ("SERVING", None),
            ServerMode::NotServing { reason } => ("NOT_SERVING", Some(reason)),
        };
        say(
            "serving_mode",
            json!({ "mode": mode, "addr": address.to_string(), "error": error }),
        );
    });
    server.plaintext_where_unsecured()
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

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
