//! What no public suite plays: a control plane that is slow, wrong, torn or restarted, servers that
//! leave and certificates that change; all of it under calls, none of which may fail.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::interop::cast::{Cast, Tier};
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::mesh::{self, Certificates, TRUST_DOMAIN};
use crate::interop::peer::{Client, Plane, Server};
use crate::interop::resources::{
    all_to, cluster, cluster_at, endpoints, kind, server_listener, service, simple,
    transport_socket, with,
};
use crate::interop::scenario::Scenario;
use crate::interop::stage::{Backend, Stage};
use crate::interop::traffic::answered_by;

/// Under our own control plane and another one; and with grpc-go on either side, for parity.
const CASTS: &[Cast] = &[
    Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
    Cast::new(Client::Ours, Server::Go, Plane::GoControlPlane),
    Cast::new(Client::Go, Server::Ours, Plane::GoControlPlane),
];

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "slow-control-plane",
        features: &[Feature::SlowPlane],
        about: "the control plane stops for seconds: calls go on, who starts meanwhile waits, and the change made meanwhile comes",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: slow,
    },
    Scenario {
        name: "nack-storm",
        features: &[Feature::Nack],
        about: "thirty bad changes one after the other are refused while calls go on; the good one after them is followed",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: nack_storm,
    },
    Scenario {
        name: "torn-changes",
        features: &[Feature::Tears],
        about: "route, cluster and endpoints of a switch come one by one, in any order, and the old ones go last",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: |stage| tears(stage, &SWITCHES),
    },
    Scenario {
        name: "early-removal",
        features: &[Feature::Tears],
        about: "the old cluster and its endpoints go before the new ones come and before the route moves",
        casts: &[
            Cast::new(Client::Ours, Server::Ours, Plane::Mgmt),
            Cast::new(Client::Ours, Server::Ours, Plane::GoControlPlane),
        ],
        helpers: &[],
        tier: Tier::Quick,
        play: |stage| tears(stage, &EARLY_REMOVALS),
    },
    Scenario {
        name: "rolling-control-plane",
        features: &[Feature::SlowPlane],
        about: "the control plane is killed and started again, three times, each time with a change",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: rolling,
    },
    Scenario {
        name: "drain",
        features: &[Feature::Drain],
        about: "servers end and start again one after the other while all of them are endpoints; then one leaves the mesh and ends",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: drain,
    },
    Scenario {
        name: "rotation",
        features: &[Feature::Rotation],
        about: "client and server are moved to another authority, file by file, while calls go on; then only the new one counts",
        casts: CASTS,
        helpers: &[],
        tier: Tier::Quick,
        play: rotation,
    },
];

fn slow(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let management = Management::start(stage, &simple(&[&a.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    management.process().signal("STOP")?;
    let waits = [
        "--target=xds:///greeter",
        "--wait-for-ready",
        "--n=3",
        "--timeout-ms=30000",
    ];
    let late = stage.client("late-client", &bootstrap, &waits)?;
    // Three seconds of calls, at their pace.
    answered_by(&traffic.next(600)?, &["a"])?;
    management.process().signal("CONT")?;
    let calls = late.run_to_end()?;
    let calls: Vec<Value> = calls.into_iter().filter(|e| e["event"] == "rpc").collect();
    answered_by(&calls, &["a"])?;
    management.replace(&simple(&[&b.address]))?;
    traffic.until_answered_by(&["b"])?;
    traffic.end_without_failure()
}

fn nack_storm(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let management = Management::start(stage, &simple(&[&a.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    for n in 0..30 {
        // No client takes a cluster with such a type; each time it is another one.
        let bad = with(
            cluster("one"),
            json!({"type": "ORIGINAL_DST", "connect_timeout": format!("{}s", n + 1)}),
        );
        let rest = vec![bad, endpoints("one", &[&a.address])];
        management.replace(&[service(&[all_to("one")]), rest].concat())?;
        if n % 10 == 0 {
            answered_by(&traffic.next(20)?, &["a"])?;
        }
    }
    answered_by(&traffic.next(100)?, &["a"])?;
    management.replace(&simple(&[&b.address]))?;
    traffic.until_answered_by(&["b"])?;
    traffic.end_without_failure()
}

/// One piece of the switch from one cluster to another.
#[derive(Clone, Copy)]
enum Piece {
    Route,
    New,
    NewEndpoints,
    NoOld,
    NoOldEndpoints,
}

use Piece::{New, NewEndpoints, NoOld, NoOldEndpoints, Route};

const SWITCHES: [[Piece; 5]; 6] = [
    [Route, New, NewEndpoints, NoOld, NoOldEndpoints],
    [Route, NewEndpoints, New, NoOldEndpoints, NoOld],
    [New, Route, NewEndpoints, NoOld, NoOldEndpoints],
    [New, NewEndpoints, Route, NoOldEndpoints, NoOld],
    [NewEndpoints, Route, New, NoOld, NoOldEndpoints],
    [NewEndpoints, New, Route, NoOldEndpoints, NoOld],
];

const EARLY_REMOVALS: [[Piece; 5]; 5] = [
    [NoOld, NoOldEndpoints, Route, New, NewEndpoints],
    [NoOldEndpoints, NoOld, New, NewEndpoints, Route],
    [Route, NoOld, New, NoOldEndpoints, NewEndpoints],
    [New, NoOldEndpoints, Route, NoOld, NewEndpoints],
    [NewEndpoints, NoOld, Route, NoOldEndpoints, New],
];

fn tears(stage: &Stage<'_>, orders: &[[Piece; 5]]) -> Result<()> {
    let backends = [stage.backend("a", &[])?, stage.ours("b", &[])?];
    let first = cluster_at("c0", &[&backends[0].address]);
    let management = Management::start(stage, &[service(&[all_to("c0")]), first].concat())?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    for (turn, order) in orders.iter().enumerate() {
        let [old, new] = [turn, turn + 1].map(|n| format!("c{n}"));
        let address = |n: usize| backends[n % 2].address.as_str();
        let mut route = &old;
        let mut pieces = cluster_at(&old, &[address(turn)]);
        for piece in order {
            let without = |kind: &str| {
                let wanted = |piece: &&Value| !piece.to_string().contains(kind);
                // Everything of the old cluster has its name in it.
                let is_old =
                    |piece: &&Value| piece["name"] == *old || piece["cluster_name"] == *old;
                let kept = pieces.iter().filter(|p| !is_old(p) || wanted(p));
                kept.cloned().collect::<Vec<Value>>()
            };
            match piece {
                Route => route = &new,
                New => pieces.push(cluster(&new)),
                NewEndpoints => pieces.push(endpoints(&new, &[address(turn + 1)])),
                NoOld => pieces = without("cluster.v3.Cluster"),
                NoOldEndpoints => pieces = without("ClusterLoadAssignment"),
            }
            let resources = [service(&[all_to(route)]), pieces.clone()].concat();
            management.replace(&resources)?;
            traffic.next(4)?;
        }
        traffic.until_answered_by(&[["b", "a"][turn % 2]])?;
    }
    traffic.end_without_failure()
}

fn rolling(stage: &Stage<'_>) -> Result<()> {
    let a = stage.backend("a", &[])?;
    let b = stage.ours("b", &[])?;
    let mut management = Management::start(stage, &simple(&[&a.address]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let address = management.address.clone();
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a"])?;
    for (n, (backend, id)) in [(&b, "b"), (&a, "a"), (&b, "b")].iter().enumerate() {
        drop(management);
        traffic.next(20)?;
        let name = format!("management-{n}");
        let resources = simple(&[&backend.address]);
        management = Management::start_at(stage, &name, &address, &resources)?;
        traffic.until_answered_by(&[id])?;
    }
    traffic.end_without_failure()
}

fn drain(stage: &Stage<'_>) -> Result<()> {
    let [a, b] = [stage.backend("a", &[])?, stage.backend("b", &[])?];
    let addresses = [a.address.clone(), b.address.clone()];
    let [at_a, at_b] = addresses.each_ref().map(String::as_str);
    let management = Management::start(stage, &simple(&[at_a, at_b]))?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &[])?;
    traffic.until_answered_by(&["a", "b"])?;
    let restart = |server: Backend, id: &str, address: &str| {
        server.process.terminate()?;
        server.process.run_to_end()?;
        stage.backend(id, &[&format!("--listen={address}")])
    };
    let a = restart(a, "a-again", at_a)?;
    traffic.until_answered_by(&["a-again", "b"])?;
    let b = restart(b, "b-again", at_b)?;
    traffic.until_answered_by(&["a-again", "b-again"])?;
    management.replace(&simple(&[at_a]))?;
    b.process.terminate()?;
    b.process.run_to_end()?;
    traffic.until_answered_by(&["a-again"])?;
    let ended = traffic.end_without_failure();
    // The last server outlives the calls.
    drop(a);
    ended
}

/// Certificates of one authority for both sides.
struct Authority {
    certificates: Certificates,
}

impl Authority {
    fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)?;
        let certificates = Certificates::new(&folder, TRUST_DOMAIN)?;
        Ok(Self { certificates })
    }

    fn of(&self, service: &str) -> Result<PathBuf> {
        self.certificates.of(service)
    }
}

/// The file appears whole.
fn put(folder: &Path, name: &str, content: &[u8]) -> Result<()> {
    let new = folder.join(format!("{name}.new"));
    fs::write(&new, content)?;
    Ok(fs::rename(new, folder.join(name))?)
}

/// A bootstrap whose files are read again each half second.
fn watching(stage: &Stage<'_>, address: &str, name: &str, own: &Path) -> Result<PathBuf> {
    let file = mesh::bootstrap(stage.folder, address, name, Some(own))?;
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replace("\"600s\"", "\"0.5s\""))?;
    Ok(file)
}

fn secured(server: &str) -> Vec<Value> {
    let provider = json!({"instance_name": "default"});
    let name = format!("spiffe://{TRUST_DOMAIN}/sa/greeter");
    let upstream = json!({
        "@type": kind("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"),
        "common_tls_context": {
            "tls_certificate_provider_instance": provider,
            "validation_context": {
                "ca_certificate_provider_instance": provider,
                "match_subject_alt_names": [{"exact": name}],
            },
        },
    });
    let socket = json!({"transport_socket": transport_socket(&upstream)});
    let rest = vec![with(cluster("one"), socket), endpoints("one", &[server])];
    [service(&[all_to("one")]), rest, vec![listener(server)]].concat()
}

fn listener(server: &str) -> Value {
    let provider = json!({"instance_name": "default"});
    let downstream = json!({
        "@type": kind("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {
            "tls_certificate_provider_instance": provider,
            "validation_context": {"ca_certificate_provider_instance": provider},
        },
        "require_client_certificate": true,
    });
    server_listener(server, Some(&downstream))
}

fn rotation(stage: &Stage<'_>) -> Result<()> {
    let old = Authority::new(stage.file("old"))?;
    let new = Authority::new(stage.file("new"))?;
    let [server_files, client_files] = [old.of("greeter")?, old.of("web")?];
    let management = Management::start(stage, &[])?;
    let at = &management.address;
    let server =
        stage.meshed_server("greeter-1", &watching(stage, at, "greeter", &server_files)?)?;
    management.replace(&[listener(&server.address)])?;
    server.serves()?;
    management.replace(&secured(&server.address))?;
    let web = watching(stage, at, "web", &client_files)?;
    let traffic = stage.traffic(&web, &["--creds=xds"])?;
    traffic.until_answered_by(&["greeter-1"])?;

    // Who comes with certificates of the new authority alone.
    let newcomer = watching(stage, at, "newcomer", &new.of("web")?)?;
    let newcomers = |name: &str| -> Result<Vec<Value>> {
        let flags = [
            "--target=xds:///greeter",
            "--creds=xds",
            "--n=3",
            "--timeout-ms=3000",
        ];
        let events = stage.client(name, &newcomer, &flags)?.run_to_end()?;
        Ok(events.into_iter().filter(|e| e["event"] == "rpc").collect())
    };
    let refused = newcomers("newcomer-before")?;
    ensure!(
        refused.iter().all(|call| call["code"] == "UNAVAILABLE"),
        "the new authority counts already: {refused:?}"
    );

    let both = [old.of("greeter")?, new.of("greeter")?].map(|f| fs::read(f.join("roots.pem")));
    let [old_roots, new_roots] = both;
    let (old_roots, new_roots) = (old_roots?, new_roots?);
    let both = [&old_roots[..], &new_roots[..]].concat();
    for files in [&server_files, &client_files] {
        put(files, "roots.pem", &both)?;
    }
    traffic.next(300)?;
    for (files, service) in [(&server_files, "greeter"), (&client_files, "web")] {
        let fresh = new.of(service)?;
        // In this order the key is wrong for a while.
        for name in ["certificate.pem", "key.pem"] {
            put(files, name, &fs::read(fresh.join(name))?)?;
            traffic.next(20)?;
        }
    }
    for files in [&server_files, &client_files] {
        put(files, "roots.pem", &new_roots)?;
    }
    let accepted = || answered_by(&newcomers("newcomer-after")?, &["greeter-1"]);
    crate::interop::process::eventually(accepted)?;
    answered_by(&traffic.next(100)?, &["greeter-1"])?;
    traffic.end_without_failure()
}
