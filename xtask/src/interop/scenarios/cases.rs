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
    about: "the ordinary interop cases: unary and streaming calls, compression, cancelling, deadlines, metadata, status, soak",
    casts: CASTS,
    helpers: &[],
    tier: Tier::Quick,
    play,
}];

const CASTS: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::None),
    Cast::new(Client::Ours, Server::Go, Plane::None),
    Cast::new(Client::Ours, Server::Python, Plane::None),
    Cast::new(Client::Go, Server::Ours, Plane::None),
    Cast::new(Client::Python, Server::Ours, Plane::None),
];

/// Cases that everybody has.
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

/// grpc-go's programs have no compression.
const COMPRESSED: &[&str] = &["client_compressed_unary", "server_compressed_unary"];

const COMPRESSED_STREAMS: &[&str] = &["client_compressed_streaming", "server_compressed_streaming"];

const CONCURRENT: &[&str] = &["concurrent_large_unary"];

const PICKED: &[&str] = &["pick_first_unary"];

/// C-core's server in Python does not have it.
const CACHEABLE: &[&str] = &["cacheable_unary"];

fn play(stage: &Stage<'_>) -> Result<()> {
    let server = stage.backend("server", &[])?;
    let (host, port) = server
        .address
        .rsplit_once(':')
        .context("an address has a port")?;
    for case in cases(stage.cast)? {
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

/// What client and server have of them.
fn cases(cast: Cast) -> Result<Vec<&'static str>> {
    let more: &[&[&str]] = match (cast.client, cast.server) {
        // To come: `orca_per_rpc` and `orca_oob`, on which grpc-go and we do not agree yet.
        (Client::Go, _) | (_, Server::Go) => &[],
        (Client::Python, _) => &[COMPRESSED, CONCURRENT],
        // A server in Python does not see whether a message was compressed.
        (_, Server::Python) => &[CONCURRENT, PICKED],
        (Client::Ours, Server::Ours) => &[
            COMPRESSED,
            COMPRESSED_STREAMS,
            CONCURRENT,
            PICKED,
            CACHEABLE,
        ],
        _ => bail!("no cases for {cast}"),
    };
    Ok([COMMON, &more.concat()].concat())
}

fn client(stage: &Stage<'_>) -> Result<Command> {
    Ok(match stage.cast.client {
        Client::Ours => {
            let programs = &stage.installed.server;
            Command::new(programs.with_file_name("sidestep-interop-cases"))
        }
        Client::Go => Command::new(&stage.installed.go_cases[0]),
        Client::Python => {
            let mut command = stage.installed.python_peer();
            command.arg("cases");
            command
        }
        other => bail!("{other} has no client of the cases"),
    })
}
