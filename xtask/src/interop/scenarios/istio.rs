//! Our client and our servers in pods of a mesh that Istio configures: nothing of ours is in
//! control, and their bootstrap is what Istio's agent writes.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::interop::calls::{all_ok, summary};
use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::istio::{
    IDENTITIES, Istio, destination, destination_rule, endpoint, free_port, host,
    peer_authentication, service, sidecar, split, virtual_service,
};
use crate::interop::mesh::plain_server;
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::process::{Process, eventually};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;
use crate::interop::statistics::share;

const OURS: &[Cast] = &[Cast::new(Client::Ours, Server::Ours, Plane::Istio)];

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "istio-baseline",
        features: &[Feature::Baseline, Feature::RoundRobin, Feature::WireTruth],
        about: "under Istio: servers get their listeners, a client calls both of them in plaintext",
        casts: OURS,
        helpers: &[],
        tier: Tier::IfBuilt,
        play: baseline,
    },
    Scenario {
        name: "istio-split",
        features: &[Feature::TrafficSplit],
        about: "under Istio: a VirtualService's split is followed as it changes, and no call fails",
        casts: OURS,
        helpers: &[],
        tier: Tier::IfBuilt,
        play: traffic_split,
    },
    Scenario {
        name: "istio-subset",
        features: &[Feature::ClusterChange, Feature::EndpointChange],
        about: "under Istio: a DestinationRule's subset moves to another version, and no call fails",
        casts: OURS,
        helpers: &[],
        tier: Tier::IfBuilt,
        play: subset,
    },
    Scenario {
        name: "istio-routes",
        features: &[
            Feature::HeaderMatching,
            Feature::PathMatching,
            Feature::Timeout,
            Feature::LeastRequest,
        ],
        about: "under Istio: routes by header and path, a time limit, and every policy that Istio hands to gRPC",
        casts: OURS,
        helpers: &[],
        tier: Tier::IfBuilt,
        play: routes,
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
        tier: Tier::IfBuilt,
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
        tier: Tier::IfBuilt,
        play: beside_envoy,
    },
];

/// Traffic policies.
const PLAIN: &str = "tls: {mode: DISABLE}";
const MUTUAL: &str = "tls: {mode: ISTIO_MUTUAL}";

/// Calls after which a share is judged.
const SAMPLE: usize = 1000;

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

fn traffic_split(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "v2"])?;
    let v1 = istio.server("v1", "greeter", &[])?;
    let v2 = istio.server("v2", "greeter", &[])?;
    let endpoints = [v1.endpoint("greeter"), v2.endpoint("greeter")];
    let service = service("greeter", istio.port, &endpoints);
    let rule = destination_rule("greeter", &[("old", "v1"), ("new", "v2")], PLAIN);
    let shift = |old, new| {
        let weights = split("greeter", &[("old", old), ("new", new)]);
        istio.apply(&[service.as_str(), &rule, &weights].concat())
    };
    shift(100, 0)?;
    v1.serves()?;
    v2.serves()?;
    let traffic = istio.traffic("web", "greeter")?;
    traffic.until_answered_by(&["v1"])?;
    shift(30, 70)?;
    traffic.until_answered_by(&["v1", "v2"])?;
    share(&traffic.next(SAMPLE)?, "v2", 0.7)?;
    shift(0, 100)?;
    traffic.until_answered_by(&["v2"])?;
    traffic.end_without_failure()?;
    istio.finish().map(drop)
}

fn subset(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "v2"])?;
    let v1 = istio.server("v1", "greeter", &[])?;
    let v2 = istio.server("v2", "greeter", &[])?;
    let endpoints = [v1.endpoint("greeter"), v2.endpoint("greeter")];
    let service = service("greeter", istio.port, &endpoints);
    let all = split("greeter", &[("stable", 100)]);
    let stable = |version| {
        let rule = destination_rule("greeter", &[("stable", version)], PLAIN);
        istio.apply(&[service.as_str(), &rule, &all].concat())
    };
    stable("v1")?;
    v1.serves()?;
    v2.serves()?;
    let traffic = istio.traffic("web", "greeter")?;
    traffic.until_answered_by(&["v1"])?;
    stable("v2")?;
    traffic.until_answered_by(&["v2"])?;
    stable("v1")?;
    traffic.until_answered_by(&["v1"])?;
    traffic.end_without_failure()?;
    istio.finish().map(drop)
}

fn routes(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "v2", "slow"])?;
    let v1 = istio.server("v1", "greeter", &[])?;
    let v2 = istio.server("v2", "greeter", &[])?;
    let slow = istio.server("slow", "greeter", &["--delay-ms=60000"])?;
    let endpoints = [&v1, &v2, &slow].map(|pod| pod.endpoint("greeter"));
    // What of this gRPC has no use for must not be in the way.
    let policy = "tls: {mode: DISABLE}, loadBalancer: {simple: LEAST_REQUEST}, \
                  connectionPool: {http: {http2MaxRequests: 100}, tcp: {maxConnections: 10}}, \
                  outlierDetection: {consecutive5xxErrors: 5, interval: 1s}";
    let subsets = [("v1", "v1"), ("v2", "v2"), ("slow", "slow")];
    let [to_v1, to_v2, to_slow] = ["v1", "v2", "slow"].map(|pod| destination("greeter", pod));
    let http = format!(
        "  - match: [{{headers: {{x-to: {{exact: v2}}}}}}, {{headers: {{x-to: {{regex: 'second|two'}}}}}}]\n    \
             route: [{{{to_v2}}}]\n    \
             retries: {{attempts: 3, perTryTimeout: 1s, retryOn: 'unavailable,cancelled'}}\n  \
           - match: [{{uri: {{exact: /grpc.testing.TestService/EmptyCall}}}}]\n    \
             route: [{{{to_slow}}}]\n    \
             timeout: 0.5s\n  \
           - match: [{{uri: {{prefix: /old}}}}]\n    \
             redirect: {{uri: /new}}\n  \
           - route: [{{{to_v1}}}]\n    \
             mirror: {{host: {}}}\n    \
             mirrorPercentage: {{value: 1}}\n",
        host("greeter"),
    );
    let objects = [
        service("greeter", istio.port, &endpoints),
        destination_rule("greeter", &subsets, policy),
        virtual_service("greeter", &http),
    ];
    istio.apply(&objects.concat())?;
    for pod in [&v1, &v2, &slow] {
        pod.serves()?;
    }
    for (metadata, server) in [("x-to:v1", "v1"), ("x-to:v2", "v2"), ("x-to:second", "v2")] {
        let flags = ["--n=20", "--wait-for-ready", "--metadata", metadata];
        let client = istio.client("web", "greeter", &flags)?;
        all_ok(&client.run_to_end()?, &[server])?;
    }
    let flags = ["--n=1", "--method=EmptyCall", "--timeout-ms=0"];
    let call = istio.client("web", "greeter", &flags)?.event("rpc")?;
    ensure!(call["code"] == "DEADLINE_EXCEEDED", "no time limit: {call}");
    istio.finish().map(drop)
}

fn mtls(stage: &Stage<'_>) -> Result<()> {
    let istio = Istio::start(stage, &["web", "v1", "impostor"])?;
    let v1 = istio.server("v1", "greeter", &["--xds-creds"])?;
    let impostor = istio.server("impostor", "thief", &["--xds-creds"])?;
    let subsets = [("v1", "v1"), ("impostor", "impostor")];
    let objects = [
        // Callers are told to expect the service account that endpoints should have.
        service(
            "greeter",
            istio.port,
            &[v1.endpoint("greeter"), impostor.endpoint("greeter")],
        ),
        destination_rule("greeter", &subsets, MUTUAL),
        peer_authentication("STRICT"),
    ]
    .concat();
    let all_to = |subset| istio.apply(&[&*objects, &split("greeter", &[(subset, 100)])].concat());
    all_to("v1")?;
    v1.serves()?;
    impostor.serves()?;
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

    all_to("impostor")?;
    let flags = ["--n=1", "--creds=xds", "--timeout-ms=10000"];
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
        destination_rule("greeter", &[], MUTUAL),
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
        destination_rule("legacy", &[], MUTUAL),
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

fn refuses_plaintext(stage: &Stage<'_>, address: &str) -> Result<()> {
    let mut command = Command::new(&stage.installed.client);
    command.args(["--target", address, "--n=1", "--timeout-ms=3000"]);
    let events = Process::start("plaintext", stage.folder, &mut command)?.run_to_end()?;
    let summary = summary(&events)?;
    ensure!(summary["ok"] == 0, "{address} took plaintext: {summary}");
    Ok(())
}
