//! The other side of the calls: servers, the control plane that names them, sidecars.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::envoy::{self, Side, Sidecar, Tls, Way};
use super::peers::Peers;
use super::processor::{CLIENT, SERVERS, pinned};
use super::sets::{Client, ECHO, FEW, MANY, SINGLE, Security, Set, To};
use crate::interop::{Certificates, Process, last_lines};

/// The trust domain of every stage.
const TRUST_DOMAIN: &str = "bench.example";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// How many servers there are.
const ENDPOINTS: usize = 3;
/// The service that has joined the mesh.
const MESHED: &str = "meshed";

/// What sets must have in common to run on one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) threads: usize,
    pub(super) security: Security,
}

/// Everything but the client, running.
pub(super) struct Stage<'a> {
    peers: &'a Peers,
    key: Key,
    pub(super) logs: PathBuf,
    /// The folders of certificates of the client and of the servers.
    certificates: Option<(PathBuf, PathBuf)>,
    control: String,
    servers: Servers,
    plaintext: Option<Servers>,
    meshed: Option<Servers>,
    sidecar: Option<Sidecar>,
    /// The one with the client and the one with the servers.
    sidecars: Option<[Sidecar; 2]>,
    plane: Process,
}

/// A process that serves on several ports.
pub(super) struct Servers {
    process: Process,
    pub(super) addresses: Vec<String>,
}

/// Where a client goes, and who else has a share in its calls.
pub(super) struct Route {
    /// `--lab` of the client.
    pub(super) lab: Value,
    /// `--tls` of the client.
    pub(super) tls: Option<PathBuf>,
    pub(super) servers: Vec<u32>,
    pub(super) proxies: Vec<u32>,
}

impl<'a> Stage<'a> {
    /// Starts what the cases of these sets need; logs go to a folder in `logs`.
    pub(super) fn start(peers: &'a Peers, key: Key, sets: &[Set], logs: &Path) -> Result<Self> {
        let logs = logs.join(format!("{}-{}", key.security.name(), key.threads));
        fs::create_dir_all(&logs)?;
        let certificates = certificates(key.security, &logs)?;
        let own = certificates.as_ref().map(|(_, servers)| servers.as_path());
        let servers = Servers::start(peers, key, &logs, "servers", own, &[])?;
        let mesh = logs.join("mesh.yaml");
        fs::write(&mesh, mesh_file(key.security, &servers.addresses, &[]))?;
        let (plane, control) = control_plane(peers, &mesh, &logs)?;
        let mut stage = Self {
            peers,
            key,
            logs,
            certificates,
            control,
            servers,
            plaintext: None,
            meshed: None,
            sidecar: None,
            sidecars: None,
            plane,
        };
        stage.complete(sets, &mesh)?;
        Ok(stage)
    }

    /// Starts what not every case needs.
    fn complete(&mut self, sets: &[Set], mesh: &Path) -> Result<()> {
        let cases = sets.iter().flat_map(|set| &set.cases);
        let needs = |to: To| cases.clone().any(|case| case.to == to);
        let sidecars = needs(To::TwoSidecars);
        if self.key.security == Security::Mtls && (needs(To::Plaintext) || sidecars) {
            let name = "plaintext-servers";
            let plain = Servers::start(self.peers, self.key, &self.logs, name, None, &[])?;
            self.plaintext = Some(plain);
        }
        if needs(To::Meshed) {
            self.join(mesh)?;
        }
        if needs(To::Sidecar) {
            let servers = [self.servers.addresses.as_slice()];
            self.sidecar = Some(self.sidecar("sidecar", &self.client_side(), &servers)?);
        }
        if sidecars {
            self.sidecars = Some(self.two_sidecars()?);
        }
        Ok(())
    }

    /// Servers join the mesh, and callers are told of them.
    fn join(&mut self, mesh: &Path) -> Result<()> {
        let Key { security, .. } = self.key;
        let lab = json!({"control": self.control, "node": MESHED, "servers": []}).to_string();
        let flags = ["--meshed", lab.as_str()];
        let own = self.logs.join(format!("{MESHED}-certificates"));
        let own = (security == Security::Mtls).then_some(own.as_path());
        let name = "meshed-servers";
        let meshed = Servers::start(self.peers, self.key, &self.logs, name, own, &flags)?;
        let new = mesh.with_extension("new");
        let text = mesh_file(security, &self.servers.addresses, &meshed.addresses);
        fs::write(&new, text)?;
        fs::rename(&new, mesh)?;
        self.plane.event("changed")?;
        self.meshed = Some(meshed);
        Ok(())
    }

    fn client_side(&self) -> Side<'_> {
        Side::Client(self.certificates.as_ref().map(|(client, _)| Tls {
            own: client,
            peer: format!("spiffe://{TRUST_DOMAIN}/sa/{ECHO}"),
        }))
    }

    fn sidecar(&self, name: &str, side: &Side<'_>, ways: &[&[String]]) -> Result<Sidecar> {
        let core = match side {
            Side::Client(_) => CLIENT,
            Side::Servers(_) => SERVERS,
        };
        let ways: Vec<_> = ways.iter().map(|servers| Way { servers }).collect();
        envoy::start(self.peers, &self.logs.join(name), side, &ways, core)
    }

    /// The one in front of the servers has a port for each of them, and speaks plaintext to them.
    fn two_sidecars(&self) -> Result<[Sidecar; 2]> {
        let behind = self.plaintext.as_ref().unwrap_or(&self.servers);
        let side = Side::Servers(self.certificates.as_ref().map(|(_, servers)| Tls {
            own: servers,
            peer: format!("spiffe://{TRUST_DOMAIN}/sa/web"),
        }));
        let ways: Vec<&[String]> = behind.addresses.chunks(1).collect();
        let far = self.sidecar("servers-sidecar", &side, &ways)?;
        let near = self.sidecar(
            "clients-sidecar",
            &self.client_side(),
            &[&far.listeners[..]],
        )?;
        Ok([near, far])
    }

    /// The way of a case's calls.
    pub(super) fn route(&self, to: To) -> Result<Route> {
        let tls = self.certificates.as_ref().map(|(client, _)| client.clone());
        let plaintext = self.plaintext.as_ref().unwrap_or(&self.servers);
        let route = |addresses: &[String], service: &str, tls, servers: &Servers| Route {
            lab: json!({
                "servers": addresses,
                "control": self.control,
                "service": service,
                "node": "web",
            }),
            tls,
            servers: vec![servers.process.id()],
            proxies: Vec::new(),
        };
        Ok(match to {
            To::Servers(service) => route(&self.servers.addresses, service, tls, &self.servers),
            To::Plaintext => route(&plaintext.addresses, ECHO, None, plaintext),
            To::Meshed => {
                let meshed = self.meshed.as_ref().context("no meshed servers")?;
                route(&meshed.addresses, MESHED, tls, meshed)
            }
            To::Sidecar => {
                let sidecar = self.sidecar.as_ref().context("no sidecar")?;
                let mut route = route(&sidecar.listeners, ECHO, None, &self.servers);
                route.proxies.push(sidecar.id());
                route
            }
            To::TwoSidecars => {
                let [near, far] = self.sidecars.as_ref().context("no sidecars")?;
                let mut route = route(&near.listeners, ECHO, None, plaintext);
                route.proxies.extend([near.id(), far.id()]);
                route
            }
        })
    }

    /// A client program, where the client belongs.
    pub(super) fn client(&self, client: Client) -> Result<Command> {
        client_command(self.peers, client, self.key.threads)
    }
}

/// A client program: on its processor, if it has one thread.
pub(super) fn client_command(peers: &Peers, client: Client, threads: usize) -> Result<Command> {
    let (program, case) = match client {
        Client::Rust(case) => (&peers.rust_client, case),
        Client::Go(case) => (&peers.go_client, case),
    };
    let mut command = pinned(program, (threads == 1).then_some(CLIENT))?;
    command.args(["--case", case, "--threads", &threads.to_string()]);
    Ok(command)
}

impl Servers {
    fn start(
        peers: &Peers,
        key: Key,
        logs: &Path,
        name: &str,
        certificates: Option<&Path>,
        flags: &[&str],
    ) -> Result<Self> {
        let mut command = pinned(&peers.server, (key.threads == 1).then_some(SERVERS))?;
        command.args(["--threads", &key.threads.to_string()]);
        command.args(["--listeners", &ENDPOINTS.to_string()]);
        if let Some(folder) = certificates {
            command.arg("--tls").arg(folder);
        }
        Self::spawn(logs, name, command.args(flags))
    }

    /// So many plain ones.
    pub(super) fn many(peers: &Peers, count: usize, logs: &Path) -> Result<Self> {
        let mut command = pinned(&peers.server, Some(SERVERS))?;
        command.args(["--listeners", &count.to_string()]);
        Self::spawn(logs, "many-servers", &mut command)
    }

    fn spawn(logs: &Path, name: &str, command: &mut Command) -> Result<Self> {
        let process = Process::start_listening(name, logs, command)?;
        let ready = process.event("ready");
        let ready = ready.with_context(|| last_lines(&logs.join(format!("{name}.log"))))?;
        let addresses = ready["addresses"].as_array().context("addresses")?;
        let text = |address: &Value| address.as_str().map(str::to_owned);
        Ok(Self {
            addresses: addresses.iter().filter_map(text).collect(),
            process,
        })
    }
}

/// `sidestep serve` of this file, and where it listens.
pub(super) fn control_plane(peers: &Peers, mesh: &Path, logs: &Path) -> Result<(Process, String)> {
    let mut command = Command::new(&peers.sidestep);
    command.args(["serve", "--log-format=json", "--listen=127.0.0.1:0"]);
    let process = Process::start("serve", logs, command.arg(mesh))?;
    let serving = process.event("serving")?;
    let address = serving["address"].as_str().context("an address")?;
    Ok((process, address.to_owned()))
}

/// Of the client and of the servers.
fn certificates(security: Security, folder: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    if security == Security::Plaintext {
        return Ok(None);
    }
    let authority = Certificates::new(folder, TRUST_DOMAIN)?;
    authority.at(MESHED, LOOPBACK)?;
    Ok(Some((
        authority.at("web", LOOPBACK)?,
        authority.at(ECHO, LOOPBACK)?,
    )))
}

/// The mesh: a third of the calls of `echo` to each server, by a weighted route.
fn mesh_file(security: Security, servers: &[String], meshed: &[String]) -> String {
    let mtls = match security {
        Security::Plaintext => "off",
        Security::Mtls => "strict",
    };
    let versions = ["a", "a", "b"];
    let both: Vec<Value> = servers
        .iter()
        .zip(versions)
        .map(|(address, version)| json!({"address": address, "version": version}))
        .collect();
    let meshed: Vec<Value> = meshed
        .iter()
        .map(|address| json!({"address": address}))
        .collect();
    let single = json!([{"address": servers[0]}]);
    let resources: Vec<Value> = match security {
        Security::Plaintext => {
            [resources(FEW, 3, servers), resources(MANY, 1_000, servers)].concat()
        }
        Security::Mtls => Vec::new(),
    };
    format!(
        "mesh: v1\n\
         trust_domain: {TRUST_DOMAIN}\n\
         defaults: {{mtls: {mtls}}}\n\
         services:\n  \
           web: {{}}\n  \
           {ECHO}:\n    \
             endpoints: {{static: {both}}}\n    \
             balance: {{policy: round_robin}}\n    \
             versions: {{two: a, one: b}}\n    \
             routes: [{{name: main, to: {{two: 67, one: 33}}, timeout: 60s}}]\n  \
           {SINGLE}:\n    \
             endpoints: {{static: {single}}}\n    \
             routes: [{{name: main, timeout: 60s}}]\n  \
           {MESHED}:\n    \
             endpoints: {{static: {meshed}}}\n    \
             balance: {{policy: round_robin}}\n    \
             routes: [{{name: main, timeout: 60s}}]\n\
         resources: {resources}\n",
        both = Value::from(both),
        meshed = Value::from(meshed),
        resources = Value::from(resources),
    )
}

/// A service with so many routes, each to a cluster of its own. The last route is the one that is
/// called, and its cluster the only one with endpoints.
fn resources(service: &str, routes: usize, servers: &[String]) -> Vec<Value> {
    let cluster = |number: usize| format!("{service}-{number}");
    let prefix = |number: usize| match number + 1 == routes {
        true => "/bench.Echo/".to_owned(),
        false => format!("/bench.Other{number}/"),
    };
    let table: Vec<Value> = (0..routes)
        .map(|number| {
            json!({
                "match": {"prefix": prefix(number)},
                "route": {
                    "cluster": cluster(number),
                    "max_stream_duration": {"max_stream_duration": "60s"},
                },
            })
        })
        .collect();
    let mut all = vec![listener(service, &table)];
    for number in 0..routes {
        let endpoints: &[String] = if number + 1 == routes { servers } else { &[] };
        all.extend(clustered(&cluster(number), endpoints));
    }
    all
}

fn listener(service: &str, routes: &[Value]) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": service,
        "api_listener": {"api_listener": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "route_config": {
                "name": service,
                "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
            },
            "http_filters": [{
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        }},
    })
}

fn clustered(name: &str, servers: &[String]) -> [Value; 2] {
    let endpoint = |server: &String| {
        let (address, port) = server.rsplit_once(':').unwrap_or((server, "0"));
        let port: u16 = port.parse().unwrap_or_default();
        json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
    };
    let endpoints: Vec<Value> = servers.iter().map(endpoint).collect();
    let cluster = json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}},
        "lb_policy": "ROUND_ROBIN",
    });
    let assignment = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": name,
        "endpoints": [{
            "locality": {"zone": "a"},
            "load_balancing_weight": 1,
            "lb_endpoints": endpoints,
        }],
    });
    [cluster, assignment]
}

/// The mesh of the memory's measurement: all of these servers, and the first three.
pub(super) fn wide_mesh_file(servers: &[String]) -> String {
    let list = |servers: &[String]| {
        let entries = servers.iter().map(|address| json!({"address": address}));
        Value::from(entries.collect::<Vec<_>>())
    };
    let few = &servers[..ENDPOINTS.min(servers.len())];
    format!(
        "mesh: v1\n\
         defaults: {{mtls: off}}\n\
         services:\n  \
           web: {{}}\n  \
           {FEW}:\n    \
             endpoints: {{static: {}}}\n    \
             balance: {{policy: round_robin}}\n  \
           {MANY}:\n    \
             endpoints: {{static: {}}}\n    \
             balance: {{policy: round_robin}}\n",
        list(few),
        list(servers)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_called_route_has_servers() {
        let servers = ["127.0.0.1:1".to_owned()];
        let all = resources("few", 3, &servers);
        assert_eq!(all.len(), 1 + 2 * 3);
        let with_servers = all.iter().filter(|resource| {
            let endpoints = &resource["endpoints"][0]["lb_endpoints"];
            endpoints.as_array().is_some_and(|list| !list.is_empty())
        });
        assert_eq!(with_servers.count(), 1);
        let api = &all[0]["api_listener"]["api_listener"];
        let routes = &api["route_config"]["virtual_hosts"][0]["routes"];
        assert_eq!(routes[2]["match"]["prefix"], "/bench.Echo/");
        assert_eq!(routes[2]["route"]["cluster"], "few-2");
    }
}
