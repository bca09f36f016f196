//! The ordinary gRPC interop cases, which know nothing of xDS.

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::process::Process;
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[Scenario {
    name: "cases",
    features: &[Feature::PlainGrpc],
    about: "the ordinary interop cases: unary and streaming calls, compression, cancelling, deadlines, metadata, status, load reports, soak",
    casts: CASTS,
    helpers: &[],
    tier: Tier::Quick,
    play,
}];

const CASTS: &[Cast] = &[
    Cast::new(Client::Go, Server::Ours, Plane::None),
    Cast::new(Client::Python, Server::Ours, Plane::None),
];

/// Cases that every client has.
const COMMON: &[&str] = &[
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "cancel_after_begin",
    "cancel_after_first_response",
    "timeout_on_sleeping_server",
    "rpc_soak",
    "channel_soak",
];

/// What C-core's client plays besides; grpc-go's has no cases with compression.
const COMPRESSED: &[&str] = &[
    "client_compressed_unary",
    "server_compressed_unary",
    "concurrent_large_unary",
];

/// What grpc-go's client plays besides.
const LOADED: &[&str] = &["orca_per_rpc", "orca_oob"];

fn play(stage: &Stage<'_>) -> Result<()> {
    let server = stage.backend("server", &["--orca=both"])?;
    let (host, port) = server
        .address
        .rsplit_once(':')
        .context("an address has a port")?;
    for case in cases(stage.cast.client)? {
        let mut command = client(stage)?;
        command
            .arg(format!("--server_host={host}"))
            .arg(format!("--server_port={port}"))
            .arg(format!("--test_case={case}"));
        let output = Process::start(case, stage.folder, &mut command)?.status()?;
        ensure!(output.success(), "the case {case} fails: {output}");
    }
    Ok(())
}

/// What a client has of them.
fn cases(client: Client) -> Result<Vec<&'static str>> {
    let more = match client {
        Client::Go => LOADED,
        Client::Python => COMPRESSED,
        other => bail!("{other} has no client of the cases"),
    };
    Ok([COMMON, more].concat())
}

fn client(stage: &Stage<'_>) -> Result<Command> {
    Ok(match stage.cast.client {
        Client::Go => Command::new(&stage.installed.go_cases[0]),
        Client::Python => {
            let mut command = stage.installed.python_peer();
            command.arg("cases");
            command
        }
        other => bail!("{other} has no client of the cases"),
    })
}
