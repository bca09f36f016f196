//! Our client and our servers in pods of a mesh that Istio configures: nothing of ours is in
//! control, and their bootstrap is what Istio's agent writes.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::interop::calls::{all_ok, summary};
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::istio::{
    IDENTITIES, Istio, answer, destination_rule, endpoint, free_port, host, peer_authentication,
    service, sidecar, signal, virtual_service,
};
use crate::interop::mesh::plain_server;
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::process::{Process, eventually};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;

const OURS: &[Cast] = &[Cast::new(Client::Ours, Server::Ours, Plane::Istio)];

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "istio-baseline",
        features: &[Feature::Baseline, Feature::RoundRobin, Feature::WireTruth],
        about: "under Istio: servers get their listeners, a client calls both of them in plaintext",
        casts: OURS,
        helpers: &[],
        tier: Tier::Full,
        play: baseline,
    },
    Scenario {
        name: "istio-split",
        features: &[Feature::TrafficSplit],
        about: "under Istio: a VirtualService's split is followed as it changes, and no call fails",
        casts: OURS,
        helpers: &[],
        tier: Tier::Full,
        play: split,
    },
    Scenario {
        name: "istio-subset",
        features: &[Feature::ClusterChange, Feature::EndpointChange],
        about: "under Istio: a DestinationRule's subset moves to another version, and no call fails",
        casts: OURS,
        helpers: &[],
        tier: Tier::Full,
        play: subset,
    },
    Scenario {
        name: "istio-mtls",
        features: &[
            Feature::Mtls,
            Feature::WrongServer,
            Feature::NoClientCertificate,
        ],
        about: "under Istio: STRICT mutual TLS, and neither plaintext nor another's identity passes",
        casts: OURS,
        helpers: &[],
        tier: Tier::Full,
        play: mtls,
    },
    Scenario {
        name: "istio-sidecar",
        features: &[Feature::Sidecar, Feature::Mtls],
        about: "under Istio: an Envoy with Istio's own sidecar configuration on the other side, STRICT mutual TLS",
        casts: &[
            Cast::new(Client::Ours, Server::Envoy, Plane::Istio),
            Cast::new(Client::Envoy, Server::Ours, Plane::Istio),
        ],
        helpers: &[],
        tier: Tier::Full,
        play: beside_envoy,
    },
];

/// A client that goes on until it is told to end. Failed calls are events as well.
const WITHOUT_END: &[&str] = &["--n=0", "--qps=400", "--concurrency=4", "--wait-for-ready"];
/// Calls after which a share is judged.
const SAMPLE: u32 = 1000;

fn baseline(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "v2"])?;
    let v1 = istio.server("v1", "greeter", &[])?;
    let v2 = istio.server("v2", "greeter", &[])?;
    let endpoints = [v1.endpoint("greeter"), v2.endpoint("greeter")];
    istio.apply(&service("greeter", istio.port, &endpoints))?;
    v1.serves()?;
    v2.serves()?;
    let client = istio.client("web", "greeter", &["--n=40", "--wait-for-ready"])?;
    all_ok(&client.run_to_end()?, &["v1", "v2"])?;
    let types = istio.finish()?;
    ensure!(types == 4, "{types} types of resources in place of four");
    Ok(())
}

fn split(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "v2"])?;
    let v1 = istio.server("v1", "greeter", &[])?;
    let v2 = istio.server("v2", "greeter", &[])?;
    let endpoints = [v1.endpoint("greeter"), v2.endpoint("greeter")];
    let service = service("greeter", istio.port, &endpoints);
    let rule = destination_rule("greeter", &[("old", "v1"), ("new", "v2")], "DISABLE");
    let shift = |old, new| {
        let weights = virtual_service("greeter", &[("old", old), ("new", new)]);
        istio.apply(&[service.as_str(), &rule, &weights].concat())
    };
    shift(100, 0)?;
    v1.serves()?;
    v2.serves()?;
    let client = istio.client("web", "greeter", WITHOUT_END)?;
    for _ in 0..100 {
        ensure!(
            answer(&client)? == "v1",
            "the split sends nothing to v2 yet"
        );
    }
    shift(30, 70)?;
    until(&client, "v2", 1)?;
    let mut new = 0;
    for _ in 0..SAMPLE {
        new += u32::from(answer(&client)? == "v2");
    }
    ensure!(
        is_share(new, 0.7),
        "{new} of {SAMPLE} calls in place of 70 %"
    );
    shift(0, 100)?;
    until(&client, "v2", 100)?;
    no_call_failed(client)?;
    istio.finish().map(drop)
}

fn subset(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "v2"])?;
    let v1 = istio.server("v1", "greeter", &[])?;
    let v2 = istio.server("v2", "greeter", &[])?;
    let endpoints = [v1.endpoint("greeter"), v2.endpoint("greeter")];
    let service = service("greeter", istio.port, &endpoints);
    let all = virtual_service("greeter", &[("stable", 100)]);
    let stable = |version| {
        let rule = destination_rule("greeter", &[("stable", version)], "DISABLE");
        istio.apply(&[service.as_str(), &rule, &all].concat())
    };
    stable("v1")?;
    v1.serves()?;
    v2.serves()?;
    let client = istio.client("web", "greeter", WITHOUT_END)?;
    for _ in 0..100 {
        ensure!(answer(&client)? == "v1", "v2 is not in the subset");
    }
    stable("v2")?;
    until(&client, "v2", 100)?;
    stable("v1")?;
    until(&client, "v1", 100)?;
    no_call_failed(client)?;
    istio.finish().map(drop)
}

fn mtls(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "impostor"])?;
    let secure = ["--xds-creds"];
    let v1 = istio.server("v1", "greeter", &secure)?;
    let rule = destination_rule("greeter", &[], "ISTIO_MUTUAL");
    let strict = peer_authentication("STRICT");
    let serve = |endpoint| {
        istio.apply(
            &[
                service("greeter", istio.port, &[endpoint]),
                rule.clone(),
                strict.clone(),
            ]
            .concat(),
        )
    };
    serve(v1.endpoint("greeter"))?;
    v1.serves()?;
    let flags = [
        "--n=20",
        "--creds=xds",
        "--wait-for-ready",
        "--print-metadata",
        "--metadata=x-echo::peer-san",
    ];
    let events = istio.client("web", "greeter", &flags)?.run_to_end()?;
    all_ok(&events, &["v1"])?;
    is_caller(&events, "web")?;
    refuses_plaintext(stage, &v1.address)?;

    // Istio tells callers which service accounts an endpoint may have.
    let impostor = istio.server("impostor", "thief", &secure)?;
    serve(impostor.endpoint("greeter"))?;
    impostor.serves()?;
    let flags = ["--n=1", "--creds=xds", "--timeout-ms=5000"];
    let events = istio.client("web", "greeter", &flags)?.run_to_end()?;
    let call = events.iter().find(|event| event["event"] == "rpc");
    let is_refused = call.is_some_and(|call| call["code"] == "UNAVAILABLE");
    ensure!(
        is_refused,
        "a server of another account was called: {call:?}"
    );
    istio.finish().map(drop)
}

/// An Envoy with the configuration that Istio has for a sidecar, on the other side.
fn beside_envoy(stage: &Stage<'_>) -> Result<()> {
    match stage.cast.client {
        Client::Envoy => called_by_envoy(stage),
        _ => calls_envoy(stage),
    }
}

fn called_by_envoy(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["legacy", "v1"])?;
    let v1 = istio.server("v1", "greeter", &["--xds-creds"])?;
    let objects = [
        service("greeter", istio.port, &[v1.endpoint("greeter")]),
        destination_rule("greeter", &[], "ISTIO_MUTUAL"),
        peer_authentication("STRICT"),
        sidecar::egress("legacy", istio.port, "greeter"),
    ];
    istio.apply(&objects.concat())?;
    v1.serves()?;
    let (envoy, _agent) = istio.envoy("legacy")?;
    let address = eventually(|| envoy.listener())?;
    let authority = format!("{}:{}", host("greeter"), istio.port);
    eventually(|| {
        let mut command = Command::new(&stage.installed.client);
        command.args(["--target", &address, "--authority", &authority, "--n=20"]);
        command.args(["--print-metadata", "--metadata=x-echo::peer-san"]);
        let events = Process::start("legacy", stage.folder, &mut command)?.run_to_end()?;
        all_ok(&events, &["v1"])?;
        is_caller(&events, "legacy")
    })?;
    refuses_plaintext(stage, &v1.address)?;
    envoy.accepted_everything()?;
    istio.finish().map(drop)
}

fn calls_envoy(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "legacy"])?;
    let (_application, address) = plain_server(stage.installed, stage.folder, "old-1", &[])?;
    let ip = istio.ip("legacy")?;
    let port = free_port(&ip)?;
    let endpoint = endpoint("legacy", &format!("{ip}:{port}"), "legacy");
    let objects = [
        service("legacy", istio.port, &[endpoint]),
        destination_rule("legacy", &[], "ISTIO_MUTUAL"),
        peer_authentication("STRICT"),
        sidecar::ingress("legacy", (&ip, port), &address),
    ];
    istio.apply(&objects.concat())?;
    let (envoy, _agent) = istio.envoy("legacy")?;
    eventually(|| envoy.listener())?;
    let flags = ["--n=20", "--creds=xds", "--wait-for-ready"];
    let events = istio.client("web", "legacy", &flags)?.run_to_end()?;
    all_ok(&events, &["old-1"])?;
    refuses_plaintext(stage, &format!("{ip}:{port}"))?;
    envoy.accepted_everything()?;
    istio.finish().map(drop)
}

/// The server saw this service account.
fn is_caller(events: &[Value], account: &str) -> Result<()> {
    let id = format!("spiffe://{IDENTITIES}/sa/{account}");
    let call = events.iter().find(|event| event["event"] == "rpc");
    let is_seen = call.is_some_and(|call| call["headers"]["echo-peer-san"] == id.as_str());
    ensure!(is_seen, "the server saw another caller: {call:?}");
    Ok(())
}

/// Reads calls until so many in a row were answered by `server`.
fn until(client: &Process, server: &str, wanted: u32) -> Result<()> {
    const GIVE_UP: u32 = 20_000;
    let mut in_row = 0;
    for _ in 0..GIVE_UP {
        in_row = if answer(client)? == server {
            in_row + 1
        } else {
            0
        };
        if in_row == wanted {
            return Ok(());
        }
    }
    anyhow::bail!("{GIVE_UP} calls, and never {wanted} in a row to {server}")
}

/// Within five standard deviations.
fn is_share(hits: u32, share: f64) -> bool {
    let n = f64::from(SAMPLE);
    let deviation = (n * share * (1.0 - share)).sqrt();
    (f64::from(hits) - n * share).abs() < 5.0 * deviation
}

fn no_call_failed(client: Process) -> Result<()> {
    signal(&client, "TERM")?;
    let events = client.run_to_end()?;
    let summary = summary(&events)?;
    ensure!(summary["ok"] == summary["total"], "calls failed: {summary}");
    Ok(())
}

fn refuses_plaintext(stage: &Stage<'_>, address: &str) -> Result<()> {
    let mut command = Command::new(&stage.installed.client);
    command.args(["--target", address, "--n=1", "--timeout-ms=3000"]);
    let events = Process::start("plaintext", stage.folder, &mut command)?.run_to_end()?;
    let summary = summary(&events)?;
    ensure!(summary["ok"] == 0, "{address} took plaintext: {summary}");
    Ok(())
}
