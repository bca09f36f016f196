//! The mesh file, version 1: what a person writes, read strictly.
//!
//! ```text
//!   texts ──yaml──▶ located tree ──keys + reader──▶ fields ──service, route──▶ Mesh
//! ```
//!
//! [`Mesh::parse`] is pure and reports every fault it finds, each with file, line and column. All
//! names that one part of the file uses of another (versions, hosts, weights) are checked here, so
//! a [`Mesh`] always compiles; only native resources can still be refused.
//!
//! Where a service runs is said by exactly one key under `endpoints`:
//!
//! | key | what it says | when it is asked again |
//! |---|---|---|
//! | `static: [{address: "10.0.0.1:80", zone: a, version: v1, weight: 2}]` | itself | at each edit |
//! | `dns: greeter.prod:80` | all A and AAAA records, each with this port | after the TTL, 1 s to 5 min |
//! | `dns: _grpc._tcp.greeter.prod` | the targets of the SRV record: port, priority, weight | after the shortest TTL |
//! | `targets: greeter.json` | a file in Prometheus' `file_sd` JSON, relative to the mesh file; labels `zone`, `version`, `weight` | when it changes, and every 10 s |
//! | `targets: http://registry:8080/greeter` | the same by `http_sd` | every 10 s |
//!
//! `dns` and `targets` are asked by the server and sent as EDS, so every kind of client can use
//! them. One that fails, or whose list is suddenly empty, keeps its last list; one that has never
//! told a list gives none, with a warning. `dns` tells no versions.

mod diagnostic;
mod keys;
mod outlier_detection;
mod reader;
mod route;
mod schema;
mod service;
mod session;
mod show;
pub(crate) mod yaml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sidestep_proto::code;
use sidestep_proto::resource::OutlierDetection;

pub use diagnostic::{Diagnostic, Located, Place, Severity};
pub use route::{Destination, MethodMatch, Retry, Route};
pub use schema::schema;
pub use service::{Endpoint, Endpoints, Service, SourceRef};

use crate::compile::ResolvedEndpoints;
use crate::source::endpoints::SourceId;
pub(crate) use diagnostic::Report;
use reader::{Fields, fields, list, located_text, map};
use yaml::Node;

/// All mesh files together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// The trust domain of all SPIFFE ids. There wherever a service uses mutual TLS.
    pub trust_domain: Option<Located<String>>,
    /// What services get that do not say otherwise.
    pub defaults: Settings,
    /// The services by name.
    pub services: BTreeMap<String, Service>,
    /// Envoy-native resources, in the order written.
    pub resources: Vec<NativeResource>,
}

/// What `defaults` and every service can say. A service's own key replaces the default whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Longest duration of a whole call, retries included. Default: none.
    pub timeout: Timeout,
    /// Whether the servers demand mutual TLS. Default: off.
    pub mtls: Mtls,
    /// `balance.policy`. Default: round robin.
    pub policy: Policy,
    /// `balance.hash_header`: what policies that pick by hash go by. Default: none.
    pub hash_header: Option<String>,
    /// `balance.subset_size`: how many endpoints each process uses (gRFC A68), at least 1. Default:
    /// all.
    pub subset_size: Option<u32>,
    /// `balance.slow_start`: how long new endpoints take to grow into their share. Default: none.
    pub slow_start: Option<Duration>,
    /// `balance.zones: prefer_local`: calls stay in the caller's zone as far as its endpoints carry
    /// them. Default: zones get calls by the weight of their endpoints.
    pub prefer_local: bool,
    /// `limits.max_outstanding_per_client`: calls in flight that one process may have to one set
    /// of endpoints (gRFC A32). Default 1024.
    pub max_outstanding_per_client: u32,
    /// `outlier_detection`: which endpoints callers leave out for what their calls came to (gRFC
    /// A50). Default: none.
    pub outlier_detection: Option<OutlierDetection>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Timeout::None,
            mtls: Mtls::Off,
            policy: Policy::RoundRobin,
            hash_header: None,
            subset_size: None,
            slow_start: None,
            prefer_local: false,
            max_outstanding_per_client: 1024,
            outlier_detection: None,
        }
    }
}

/// A time limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// No limit.
    None,
    /// Whole milliseconds, at least one.
    After(Duration),
}

impl Timeout {
    /// The limit, if there is one.
    #[must_use]
    pub fn limit(self) -> Option<Duration> {
        match self {
            Self::None => None,
            Self::After(limit) => Some(limit),
        }
    }
}

/// Mutual TLS of a service's servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtls {
    /// Plaintext only.
    Off,
    /// Mutual TLS and plaintext on the same port; meshed callers use mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

/// How calls are spread over endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Each ready endpoint in turn.
    RoundRobin,
    /// The less loaded of two random endpoints (gRFC A48).
    LeastRequest,
    /// All calls of a process to one endpoint, drawn at random (gRFC A62).
    PickFirst,
    /// Any endpoint, by chance.
    Random,
    /// The next endpoint on a ring of hashes (gRFC A42).
    RingHash,
    /// The endpoint in a table of hashes, as in Envoy.
    Maglev,
    /// Each in turn, by weights made of the load that endpoints report (gRFC A58).
    WeightedRoundRobin,
    /// The one of two random endpoints that is likely to answer sooner.
    PeakEwma,
}

impl Policy {
    /// Whether new endpoints can grow into their share (`slow_start`).
    #[must_use]
    pub fn grows(self) -> bool {
        matches!(
            self,
            Self::RoundRobin | Self::LeastRequest | Self::WeightedRoundRobin
        )
    }

    /// Whether a zone is chosen before an endpoint.
    #[must_use]
    pub fn by_zone(self) -> bool {
        !matches!(self, Self::PickFirst) && !self.hashes()
    }

    /// Whether calls with the same hash meet the same endpoint.
    #[must_use]
    pub fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }
}

/// An entry of `resources`, not yet read as protobuf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NativeResource {
    /// Where it begins.
    pub place: Place,
    /// Its `@type`.
    pub type_url: String,
    pub(crate) node: Node,
}

impl Mesh {
    /// Reads files and directories (their `.yaml` and `.yml` files, in the order of their names)
    /// as one mesh. The second part of the answer are warnings.
    ///
    /// # Errors
    /// Everything that is wrong, warnings included; unreadable files too.
    pub fn load(paths: &[PathBuf]) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut texts = Vec::new();
        let mut faults = Vec::new();
        for path in paths {
            match read(path) {
                Ok(read) => texts.extend(read),
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let named: Vec<(&str, &str)> = texts.iter().map(|(n, t)| (&**n, &**t)).collect();
        Self::parse(&named)
    }

    /// Reads `(file name, text)` pairs as one mesh. The second part of the answer are warnings.
    ///
    /// # Errors
    /// Everything that is wrong, warnings included.
    pub fn parse(files: &[(&str, &str)]) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let mut report = Report::default();
        if files.is_empty() {
            let fault = Diagnostic::whole_file(
                code::NO_MESH_FILE,
                "mesh",
                "there is no mesh file".to_owned(),
            );
            return Err(vec![fault]);
        }
        let mut roots = Vec::new();
        for (name, text) in files {
            roots.extend(yaml::parse(&Arc::from(*name), text, &mut report));
        }
        let mut opened = Vec::new();
        for root in &roots {
            opened.extend(open(root, &mut report));
        }
        let complete = opened.len() == files.len();
        let mesh = assemble(&opened, complete, &mut report);
        let warnings = report.finish()?;
        Ok((mesh, warnings))
    }

    /// The SPIFFE id of a service; `None` without a trust domain.
    #[must_use]
    pub fn spiffe_id(&self, service: &Service) -> Option<String> {
        let domain = &self.trust_domain.as_ref()?.value;
        Some(format!("spiffe://{domain}/{}", service.identity))
    }

    /// The living sources that services name: each once, with those services.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<&SourceId, Vec<&Service>> {
        let mut sources: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for service in self.services.values() {
            if let Some(source) = service.source() {
                sources.entry(&source.id).or_default().push(service);
            }
        }
        sources
    }

    /// Everything in a few words: `2 services, 5 endpoints`.
    #[must_use]
    pub fn summary(&self, resolved: &ResolvedEndpoints) -> String {
        let living = |s: &Service| resolved.of(&s.source()?.id).map(<[_]>::len);
        let count = |s: &Service| living(s).unwrap_or_else(|| s.endpoints().len());
        let endpoints: usize = self.services.values().map(count).sum();
        let native = self.resources.len();
        let mut parts = vec![
            counted(self.services.len(), "service"),
            counted(endpoints, "endpoint"),
        ];
        if native > 0 {
            parts.push(counted(native, "native resource"));
        }
        parts.join(", ")
    }
}

fn counted(n: usize, noun: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{s}")
}

fn read(path: &Path) -> Result<Vec<(String, String)>, Diagnostic> {
    let fault = |path: &Path, error: std::io::Error| {
        Diagnostic::whole_file(
            code::FILE_UNREADABLE,
            &path.display().to_string(),
            error.to_string(),
        )
    };
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(|e| fault(path, e))? {
            let file = entry.map_err(|e| fault(path, e))?.path();
            if is_mesh_file(&file) {
                files.push(file);
            }
        }
        files.sort();
        if files.is_empty() {
            let message = "holds no .yaml or .yml file".to_owned();
            return Err(Diagnostic::whole_file(
                code::NO_MESH_FILE,
                &path.display().to_string(),
                message,
            ));
        }
    } else {
        files.push(path.to_owned());
    }
    let mut texts = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|e| fault(&file, e))?;
        texts.push((file.display().to_string(), text));
    }
    Ok(texts)
}

/// Hidden files are left out: editors and mounted Kubernetes volumes keep copies under such names.
fn is_mesh_file(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    let hidden = path
        .file_name()
        .and_then(|n| n.to_str())
        .is_some_and(|n| n.starts_with('.'));
    matches!(extension, Some("yaml" | "yml")) && !hidden && path.is_file()
}

/// Checks the keys and the format of one file.
fn open<'a>(root: &'a Node, report: &mut Report) -> Option<Fields<'a>> {
    let file = fields(root, &keys::FILE, report)?;
    if let Some(node) = file.find("mesh") {
        let format = reader::text(node, report)?;
        if !keys::FORMATS.contains(&format) {
            let message = format!("unknown format {format:?}");
            report
                .error(code::UNKNOWN_FORMAT, &node.place, &node.path, message)
                .help("this version reads `mesh: v1`");
            // Another format has other rules: further errors would only mislead.
            return None;
        }
    }
    Some(file)
}

/// `complete`: no file was left out because it could not be read.
fn assemble(files: &[Fields<'_>], complete: bool, report: &mut Report) -> Mesh {
    let domain_node = once(files, "trust_domain", report);
    let trust_domain = domain_node
        .and_then(|node| located_text(node, report))
        .filter(|domain| service::check_trust_domain(domain, report));
    let defaults = once(files, "defaults", report)
        .and_then(|node| fields(node, &keys::DEFAULTS, report))
        .map(|fields| service::settings(&fields, &Settings::default(), report))
        .unwrap_or_default();
    let mut mesh = Mesh {
        trust_domain,
        defaults,
        services: BTreeMap::new(),
        resources: Vec::new(),
    };
    for file in files {
        services(file, &mut mesh, report);
        resources(file, &mut mesh, report);
    }
    service::check_together(&mesh, report);
    if complete && domain_node.is_none() {
        service::check_no_mtls(&mesh, report);
    }
    mesh
}

/// A key that may stand in one file only.
fn once<'a>(files: &[Fields<'a>], name: &str, report: &mut Report) -> Option<&'a Node> {
    let mut first: Option<(&'a Place, &'a Node)> = None;
    for file in files {
        let Some(node) = file.find(name) else {
            continue;
        };
        let place = file.key_place(name);
        match first {
            None => first = Some((place, node)),
            Some((earlier, _)) => {
                let message = format!("`{name}` is already at {earlier}");
                report
                    .error(code::DEFINED_TWICE, place, "", message)
                    .help("write it in one file only");
            }
        }
    }
    first.map(|(_, node)| node)
}

fn services(file: &Fields<'_>, mesh: &mut Mesh, report: &mut Report) {
    let Some(entries) = file.find("services").and_then(|node| map(node, report)) else {
        return;
    };
    for (key, node) in entries {
        if let Some(first) = mesh.services.get(&key.text) {
            let message = format!("the service {:?} is already at {}", key.text, first.place);
            report.error(code::DEFINED_TWICE, &key.place, "services", message);
            continue;
        }
        if let Some(service) = service::service(key, node, &mesh.defaults, report) {
            mesh.services.insert(key.text.clone(), service);
        }
    }
}

fn resources(file: &Fields<'_>, mesh: &mut Mesh, report: &mut Report) {
    if let Some(node) = file.find("resources") {
        mesh.resources.extend(native_resources(node, report));
    }
}

/// The entries of a file that holds nothing but native resources.
pub(crate) fn resource_file(root: &Node, report: &mut Report) -> Vec<NativeResource> {
    let file = fields(root, &keys::RESOURCE_FILE, report);
    match file.and_then(|file| file.find("resources")) {
        Some(list) => native_resources(list, report),
        None => Vec::new(),
    }
}

/// The entries of a list of native resources, each with its type.
fn native_resources(list_node: &Node, report: &mut Report) -> Vec<NativeResource> {
    let mut resources = Vec::new();
    for node in list(list_node, report).unwrap_or_default() {
        let Some(entries) = map(node, report) else {
            continue;
        };
        let Some((_, type_node)) = entries.iter().find(|(key, _)| key.text == "@type") else {
            report
                .error(
                    code::MISSING_KEY,
                    &node.place,
                    &node.path,
                    "the key `@type` is missing",
                )
                .help("as in `\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster`");
            continue;
        };
        if let Some(type_url) = reader::text(type_node, report) {
            resources.push(NativeResource {
                place: node.place.clone(),
                type_url: type_url.to_owned(),
                node: node.clone(),
            });
        }
    }
    resources
}

#[cfg(test)]
mod tests;
