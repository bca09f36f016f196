//! Istio's own discovery code as a control plane, and pods as Istio's agent sets them up: a socket
//! of the agent, a bootstrap that its code writes, certificates in files.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::envoy::Envoy;
use super::mesh::Certificates;
use super::process::{Process, address};
use super::stage::Stage;
use super::traffic::Traffic;

pub(super) mod sidecar;
mod wire;

/// The namespace that every pod is in, as its identities name it after the trust domain.
pub(super) const IDENTITIES: &str = "cluster.local/ns/shop";
const NAMESPACE: &str = "shop";

/// The name of a service as callers know it.
pub(super) fn host(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc.cluster.local")
}

/// A running discovery server.
pub(super) struct Istio<'a> {
    stage: &'a Stage<'a>,
    process: Process,
    certificates: Certificates,
    pods: &'static [&'static str],
    /// The sockets of agents: paths of sockets must be short.
    sockets: TempDir,
    /// The port of services. Nothing of ours listens there: endpoints have their own.
    pub(super) port: u16,
}

impl<'a> Istio<'a> {
    /// Starts it without objects, with an agent's socket for each of these pods.
    pub(super) fn start(stage: &'a Stage<'a>, pods: &'static [&'static str]) -> Result<Self> {
        fs::create_dir_all(stage.folder.join("objects"))?;
        fs::create_dir_all(stage.folder.join("responses"))?;
        let sockets = tempfile::tempdir()?;
        let mut command = Command::new(&stage.installed.istio);
        // With these, sidecars would be told to run filters that only Istio's build of Envoy has.
        command
            .env("PILOT_ENABLE_METADATA_EXCHANGE", "false")
            .env("PILOT_ENABLE_ALPN_FILTER", "false")
            .arg("discovery");
        command.arg("--config").arg(stage.folder.join("objects"));
        command.arg("--dump").arg(stage.folder.join("responses"));
        for pod in pods {
            command.arg("--unix").arg(sockets.path().join(pod));
        }
        let process = Process::start("istio", stage.folder, &mut command)?;
        process.ready()?;
        Ok(Self {
            stage,
            process,
            certificates: Certificates::new(stage.folder, IDENTITIES)?,
            pods,
            sockets,
            port: free_port("127.0.0.1")?,
        })
    }

    /// Replaces all objects.
    pub(super) fn apply(&self, objects: &str) -> Result<()> {
        let file = self.stage.folder.join("objects/all.yaml");
        let new = file.with_extension("new");
        fs::write(&new, objects)?;
        fs::rename(&new, &file)?;
        self.process.signal("HUP")?;
        let reload = self.process.event("reload")?;
        ensure!(
            reload["ok"] == true,
            "Istio takes no such objects: {reload}"
        );
        Ok(())
    }

    /// Istio's names for the files with the certificate of this service account.
    pub(super) fn certificates(&self, account: &str) -> Result<PathBuf> {
        let ours = self.certificates.of(account)?;
        for (our, theirs) in [
            ("certificate.pem", "cert-chain.pem"),
            ("roots.pem", "root-cert.pem"),
        ] {
            fs::copy(ours.join(our), ours.join(theirs))?;
        }
        Ok(ours)
    }

    /// What Istio's agent writes for a pod: a bootstrap for gRPC; with these flags, something else.
    fn agent(&self, pod: &str, account: &str, flags: &[&str]) -> Result<PathBuf> {
        let file = self.stage.folder.join(format!("{pod}-bootstrap.json"));
        let socket = self.sockets.path().join(pod);
        let mut command = Command::new(&self.stage.installed.istio);
        command.args(["bootstrap", "--pod", pod, "--namespace", NAMESPACE]);
        command.args(["--ip", &self.ip(pod)?, "--service-account", account]);
        command.args(["--label", &format!("version={pod}"), "--unix"]);
        // As in a pod, where the agent runs in the root folder and gives a path from there.
        command.arg(socket.strip_prefix("/").unwrap_or(&socket));
        command
            .arg("--certificates")
            .arg(self.certificates(account)?);
        run(command.args(flags).arg("--out").arg(&file))?;
        Ok(file)
    }

    /// Istio tells workloads apart by their addresses; loopback has enough of them.
    pub(super) fn ip(&self, pod: &str) -> Result<String> {
        let place = self.pods.iter().position(|known| *known == pod);
        let place = place.with_context(|| format!("no pod {pod}"))?;
        Ok(format!("127.0.0.{}", place + 2))
    }

    /// Our server, xDS-enabled: bound, and waiting for its listener.
    pub(super) fn server(&self, pod: &str, account: &str, flags: &[&str]) -> Result<Pod> {
        let listen = format!("{}:0", self.ip(pod)?);
        let mut command = Command::new(&self.stage.installed.server);
        command.args(["--mode", "xds", "--listen", &listen, "--id", pod]);
        command.args(flags);
        command.env("GRPC_XDS_BOOTSTRAP", self.agent(pod, account, &[])?);
        let process = Process::start(pod, self.stage.folder, &mut command)?;
        let address = process.ready()?;
        Ok(Pod {
            name: pod.to_owned(),
            address,
            process,
        })
    }

    /// Our client, which calls a service.
    pub(super) fn client(&self, pod: &str, service: &str, flags: &[&str]) -> Result<Process> {
        let target = format!("xds:///{}:{}", host(service), self.port);
        let mut command = Command::new(&self.stage.installed.client);
        command.args(["--target", &target]).args(flags);
        command.env("GRPC_XDS_BOOTSTRAP", self.agent(pod, pod, &[])?);
        Process::start(pod, self.stage.folder, &mut command)
    }

    /// Our client, which calls a service without end.
    pub(super) fn traffic(&self, pod: &str, service: &str) -> Result<Traffic> {
        let flags = ["--n=0", "--qps=400", "--concurrency=4", "--wait-for-ready"];
        let client = self.client(pod, service, &flags)?;
        Ok(Traffic::new(client, false))
    }

    /// An Envoy as the sidecar of a pod, and the agent that gives it certificates. No traffic is
    /// captured: a Sidecar object says where it listens.
    pub(super) fn envoy(&self, pod: &str) -> Result<(Envoy, Process)> {
        let flags = ["--generator=", "--meta=INTERCEPTION_MODE=NONE"];
        let node: Value = serde_json::from_slice(&fs::read(self.agent(pod, pod, &flags)?)?)?;
        let mut command = Command::new(&self.stage.installed.istio);
        command
            .arg("secrets")
            .arg("--certificates")
            .arg(self.certificates(pod)?)
            .current_dir(self.sockets.path());
        let name = format!("{pod}-agent");
        let agent = Process::start(&name, self.stage.folder, &mut command)?;
        let secrets = address(&agent.event("ready")?, "addr")?;
        let secrets = secrets.trim_start_matches("unix:");
        let folder = self.stage.folder.join(format!("{pod}-envoy"));
        fs::create_dir_all(&folder)?;
        let file = folder.join("envoy.json");
        let discovery = self.sockets.path().join(pod);
        let content = sidecar::bootstrap(node, &discovery, Path::new(secrets));
        fs::write(&file, content.to_string())?;
        let envoy = Envoy::by_file(&self.stage.installed.envoy, &folder, &file)?;
        Ok((envoy, agent))
    }

    /// Nobody refused anything, no process opened a second stream, and everything that Istio sent
    /// to gRPC reads and writes without loss. Says how many types that was.
    pub(super) fn finish(self) -> Result<usize> {
        self.process.terminate()?;
        let summary = self.process.event("summary")?;
        ensure!(summary["nacks"] == 0, "a response was refused: {summary}");
        ensure!(summary["acks"] != 0, "nothing was accepted: {summary}");
        ensure!(
            summary["replaced"] == 0,
            "a pod opened a second stream, which ends the first at Istio's agent: {summary}"
        );
        wire::check(&self.stage.folder.join("responses"))
    }
}

/// A server of ours in a pod.
pub(super) struct Pod {
    name: String,
    /// Where it listens.
    pub(super) address: String,
    process: Process,
}

impl Pod {
    /// Waits until its listener is in force.
    pub(super) fn serves(&self) -> Result<()> {
        let event = self.process.find("serving mode SERVING", |event| {
            event["event"] == "serving_mode" && event["mode"] == "SERVING"
        });
        event.map(drop)
    }

    /// As an endpoint of a ServiceEntry.
    pub(super) fn endpoint(&self, account: &str) -> String {
        endpoint(&self.name, &self.address, account)
    }
}

/// An endpoint of a ServiceEntry, with the service account that callers are to expect there.
pub(super) fn endpoint(version: &str, address: &str, account: &str) -> String {
    let (ip, port) = address.rsplit_once(':').unwrap_or_default();
    format!(
        "  - {{address: {ip}, ports: {{grpc: {port}}}, labels: {{version: {version}}}, serviceAccount: {account}}}\n"
    )
}

/// A service with these endpoints.
pub(super) fn service(name: &str, port: u16, endpoints: &[String]) -> String {
    let endpoints = endpoints.concat();
    let host = host(name);
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: ServiceEntry\n\
         metadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  \
           hosts: [{host}]\n  \
           location: MESH_INTERNAL\n  \
           resolution: STATIC\n  \
           ports: [{{number: {port}, name: grpc, protocol: GRPC}}]\n  \
           endpoints:\n{endpoints}---\n"
    )
}

/// What holds for callers of a service: subsets by version, and a traffic policy in YAML.
pub(super) fn destination_rule(service: &str, subsets: &[(&str, &str)], policy: &str) -> String {
    let subsets: String = subsets
        .iter()
        .map(|(name, version)| format!("{{name: {name}, labels: {{version: {version}}}}}, "))
        .collect();
    let host = host(service);
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: DestinationRule\n\
         metadata: {{name: {service}, namespace: {NAMESPACE}}}\n\
         spec:\n  \
           host: {host}\n  \
           trafficPolicy: {{{policy}}}\n  \
           subsets: [{subsets}]\n---\n"
    )
}

/// Where calls to a service go: subsets and their weights.
pub(super) fn split(service: &str, weights: &[(&str, u32)]) -> String {
    let routes: String = weights
        .iter()
        .map(|(subset, weight)| format!("{{{}, weight: {weight}}}, ", destination(service, subset)))
        .collect();
    virtual_service(service, &format!("  - route: [{routes}]\n"))
}

/// A subset as the place that a route leads to.
pub(super) fn destination(service: &str, subset: &str) -> String {
    let host = host(service);
    format!("destination: {{host: {host}, subset: {subset}}}")
}

/// Where calls to a service go: these entries of `http`.
pub(super) fn virtual_service(service: &str, http: &str) -> String {
    let host = host(service);
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: VirtualService\n\
         metadata: {{name: {service}, namespace: {NAMESPACE}}}\n\
         spec:\n  \
           hosts: [{host}]\n  \
           http:\n{http}---\n"
    )
}

/// What servers of the namespace ask of callers.
pub(super) fn peer_authentication(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\n\
         kind: PeerAuthentication\n\
         metadata: {{name: default, namespace: {NAMESPACE}}}\n\
         spec: {{mtls: {{mode: {mode}}}}}\n---\n"
    )
}

/// A port that nothing listens on.
pub(super) fn free_port(ip: &str) -> Result<u16> {
    let listener = TcpListener::bind((ip, 0)).with_context(|| ip.to_owned())?;
    Ok(listener.local_addr()?.port())
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| program.clone())?;
    let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program}: {said}\n{error}");
    Ok(said)
}
