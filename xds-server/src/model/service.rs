//! Services: identity, endpoints, versions, and what must hold between services.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sidestep_proto::code;
use sidestep_proto::resource::{Address, Labels, SessionState};

use super::diagnostic::{Located, Place, Report};
use super::outlier_detection::outlier_detection;
use super::reader::{Fields, choice, count, fields, list, located_text, map, text, time, timeout};
use super::route::{self, Route};
use super::session::session;
use super::yaml::{Key, Node};
use super::{Mesh, Mtls, Policy, Settings, keys};
use crate::source::endpoints::{KINDS, Kind, Misspelt, SourceId};

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name: what callers dial as `xds:///NAME`, and the `node.cluster` of its processes.
    pub name: String,
    /// Where its name is written.
    pub place: Place,
    /// Who answers for it, for people.
    pub owner: Option<String>,
    /// The path of its SPIFFE id, without the leading slash. Default `sa/NAME`.
    pub identity: String,
    /// Other names that callers may dial.
    pub hosts: Vec<Located<String>>,
    /// Where it runs. `None`: it only calls others.
    pub endpoints: Option<Endpoints>,
    /// Names for endpoint versions. In a fixed list, each is the version of at least one endpoint.
    pub versions: BTreeMap<String, Located<String>>,
    /// First match wins. Empty: all calls go to all endpoints.
    pub routes: Vec<Route>,
    /// Its own settings over the defaults.
    pub settings: Settings,
    /// `session_affinity`: what keeps the calls of a session at one endpoint, on routes that do
    /// not say otherwise. `None`: there are no sessions.
    pub session: Option<SessionState>,
    /// `subset_fallback: any`: calls whose route asks for labels that no endpoint has go to any
    /// endpoint. Otherwise they fail.
    pub subset_falls_back: bool,
}

impl Service {
    /// The endpoints that are written in the file; none where a living source tells them, and none
    /// for a service that only calls others.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        match &self.endpoints {
            Some(Endpoints::Static(endpoints)) => endpoints,
            _ => &[],
        }
    }

    /// The living source of its endpoints, if it has one.
    #[must_use]
    pub fn source(&self) -> Option<&SourceRef> {
        match &self.endpoints {
            Some(Endpoints::Living(source)) => Some(source),
            _ => None,
        }
    }
}

/// Where a service's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoints {
    /// A fixed list in the file.
    Static(Vec<Endpoint>),
    /// Something that is asked, and asked again.
    Living(SourceRef),
}

/// A living source as a service names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRef {
    /// Which source it is; services with the same one share it.
    pub id: SourceId,
    /// What follows the key in the file.
    pub written: Located<String>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is written.
    pub place: Place,
    /// Where it listens.
    pub address: Address,
    /// Its zone, if said.
    pub zone: Option<String>,
    /// What it runs, if said.
    pub version: Option<String>,
    /// What routes may ask for by `subset`.
    pub labels: Labels,
    /// Relative to the service's other endpoints; at least 1, all together within `u32`.
    pub weight: u32,
}

/// Reads one service.
pub(super) fn service(
    key: &Key,
    node: &Node,
    defaults: &Settings,
    report: &mut Report,
) -> Option<Service> {
    check_name(key, node, report);
    let fields = fields(node, &keys::SERVICE, report)?;
    let endpoints = fields.find("endpoints").map(|node| endpoints(node, report));
    let versions = versions(&fields, endpoints.as_ref(), report);
    let labelled = !matches!(endpoints, Some(Endpoints::Living(_)));
    if endpoints.is_none() {
        needs_endpoints(&fields, report);
    }
    Some(Service {
        name: key.text.clone(),
        place: key.place.clone(),
        owner: fields
            .find("owner")
            .and_then(|node| text(node, report))
            .map(str::to_owned),
        identity: identity(&key.text, &fields, report),
        hosts: hosts(&fields, report),
        routes: fields
            .find("routes")
            .map(|node| route::routes(node, &versions, labelled, report))
            .unwrap_or_default(),
        endpoints,
        versions,
        settings: settings(&fields, defaults, report),
        session: fields
            .find("session_affinity")
            .and_then(|node| session(node, report))
            .flatten(),
        subset_falls_back: fields
            .find("subset_fallback")
            .and_then(|node| choice(node, keys::SUBSET_FALLBACKS, report))
            == Some("any"),
    })
}

/// The keys that `defaults` and a service share.
pub(super) fn settings(fields: &Fields<'_>, defaults: &Settings, report: &mut Report) -> Settings {
    let mut settings = defaults.clone();
    let builtin = Settings::default();
    if let Some(limit) = fields.find("timeout").and_then(|n| timeout(n, report)) {
        settings.timeout = limit;
    }
    if let Some(word) = fields
        .find("mtls")
        .and_then(|n| choice(n, keys::MTLS, report))
    {
        settings.mtls = match word {
            "strict" => Mtls::Strict,
            "permissive" => Mtls::Permissive,
            _ => Mtls::Off,
        };
    }
    if let Some(node) = fields.find("balance") {
        balance(node, &mut settings, report);
    }
    if let Some(node) = fields.find("limits") {
        settings.max_outstanding_per_client =
            max_outstanding(node, report).unwrap_or(builtin.max_outstanding_per_client);
    }
    if let Some(node) = fields.find("outlier_detection") {
        settings.outlier_detection = outlier_detection(node, report);
    }
    settings
}

fn balance(node: &Node, settings: &mut Settings, report: &mut Report) {
    let builtin = Settings::default();
    (settings.policy, settings.hash_header) = (builtin.policy, None);
    (settings.slow_start, settings.subset_size) = (None, None);
    settings.prefer_local = builtin.prefer_local;
    let Some(keys) = fields(node, &keys::BALANCE, report) else {
        return;
    };
    let policy = keys.find("policy");
    let policy = policy.and_then(|node| choice(node, keys::POLICIES, report));
    let policy = match policy {
        Some("least_request") => Policy::LeastRequest,
        Some("pick_first") => Policy::PickFirst,
        Some("random") => Policy::Random,
        Some("ring_hash") => Policy::RingHash,
        Some("maglev") => Policy::Maglev,
        Some("weighted_round_robin") => Policy::WeightedRoundRobin,
        Some("peak_ewma") => Policy::PeakEwma,
        _ => builtin.policy,
    };
    let header = keys.find("hash_header");
    match header {
        None if policy.hashes() => {
            let message = "the policy picks by hash, but nothing says what calls are hashed by";
            let place = report.error(code::MISSING_KEY, &node.place, &node.path, message);
            place.help("name a header: `hash_header: x-user-id`");
        }
        Some(header) if !policy.hashes() => {
            let message = "the policy does not pick by hash: `hash_header` has no effect";
            let place = report.error(code::BAD_HEADER, &header.place, &header.path, message);
            place.help("with `policy: ring_hash` or `maglev` it has");
        }
        _ => {}
    }
    settings.policy = policy;
    settings.hash_header = header.and_then(|node| hash_header(node, report));
    let size = keys.find("subset_size");
    settings.subset_size = size.and_then(|node| count(node, 1, u32::MAX, report));
    let slow_start = keys.find("slow_start");
    settings.slow_start = slow_start.and_then(|node| slow_start_of(node, policy, report));
    let zones = keys.find("zones");
    settings.prefer_local = zones.is_some_and(|node| prefers_local(node, policy, report));
}

fn prefers_local(node: &Node, policy: Policy, report: &mut Report) -> bool {
    let prefers = choice(node, keys::ZONES, report) == Some("prefer_local");
    if prefers && !policy.by_zone() {
        let message = "the policy sees the endpoints of all zones as one: it cannot prefer one";
        let place = report.error(code::UNKNOWN_VALUE, &node.place, &node.path, message);
        place.help("with any policy but `pick_first`, `ring_hash` and `maglev` it can");
    }
    prefers
}

fn slow_start_of(node: &Node, policy: Policy, report: &mut Report) -> Option<Duration> {
    if !policy.grows() {
        let message = "the policy does not go by weight: `slow_start` has no effect";
        let place = report.error(code::UNKNOWN_VALUE, &node.place, &node.path, message);
        place.help("with `policy: round_robin`, `least_request` or `weighted_round_robin` it has");
    }
    time(node, "a window of zero is none: write `none`", report)?.limit()
}

fn hash_header(node: &Node, report: &mut Report) -> Option<String> {
    let name = text(node, report)?;
    route::header_name(name, &node.place, &node.path, report).then(|| name.to_owned())
}

fn max_outstanding(node: &Node, report: &mut Report) -> Option<u32> {
    let limits = fields(node, &keys::LIMITS, report)?;
    count(
        limits.find("max_outstanding_per_client")?,
        1,
        u32::MAX,
        report,
    )
}

/// A name becomes part of resource names (`greeter/canary`) and of URIs (`xds:///greeter`).
fn check_name(key: &Key, node: &Node, report: &mut Report) {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if key.text.is_empty() || !key.text.chars().all(valid) {
        let message = format!("{:?} cannot be the name of a service", key.text);
        report
            .error(code::BAD_NAME, &key.place, &node.path, message)
            .help("use letters, digits, `-`, `_` and `.`");
    }
}

fn identity(service: &str, fields: &Fields<'_>, report: &mut Report) -> String {
    let default = || format!("sa/{service}");
    let Some(node) = fields.find("identity") else {
        return default();
    };
    let Some(path) = text(node, report) else {
        return default();
    };
    // The SPIFFE ID standard, section 2.2.
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let segment = |s: &str| !s.is_empty() && s != "." && s != ".." && s.chars().all(valid);
    if !path.split('/').all(segment) {
        let message = format!("{path:?} cannot be the path of a SPIFFE id");
        report.error(code::BAD_NAME, &node.place, &node.path, message).help(
            "write it without `spiffe://`, trust domain and leading slash, as in `ns/prod/sa/web`",
        );
    }
    path.to_owned()
}

/// Whether a trust domain is well formed (SPIFFE ID standard, section 2.1).
pub(super) fn check_trust_domain(domain: &Located<String>, report: &mut Report) -> bool {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    let ok = domain.value.chars().all(valid);
    if !ok {
        let message = format!("{:?} cannot be a trust domain", domain.value);
        report
            .error(code::BAD_NAME, &domain.place, "trust_domain", message)
            .help("use lower-case letters, digits, `-`, `_` and `.`");
    }
    ok
}

fn hosts(fields: &Fields<'_>, report: &mut Report) -> Vec<Located<String>> {
    let Some(items) = fields.find("hosts").and_then(|node| list(node, report)) else {
        return Vec::new();
    };
    let mut hosts = Vec::new();
    for node in items {
        let Some(host) = located_text(node, report) else {
            continue;
        };
        if host
            .value
            .contains(|c: char| c == '/' || c == '*' || c.is_whitespace() || c.is_control())
        {
            let message = format!("{:?} is not a name to dial", host.value);
            report
                .error(code::BAD_NAME, &node.place, &node.path, message)
                .help("write what follows `xds:///`, with the port if callers write one");
        } else {
            hosts.push(host);
        }
    }
    hosts
}

/// What only makes sense for a service that has endpoints.
fn needs_endpoints(fields: &Fields<'_>, report: &mut Report) {
    for name in [
        "hosts",
        "versions",
        "routes",
        "session_affinity",
        "subset_fallback",
    ] {
        if let Some(node) = fields.find(name) {
            let message = format!("`{name}` needs `endpoints`");
            report.error(
                code::NEEDS_ENDPOINTS,
                fields.key_place(name),
                &node.path,
                message,
            );
        }
    }
}

fn endpoints(node: &Node, report: &mut Report) -> Endpoints {
    let none = Endpoints::Static(Vec::new());
    let Some(source) = fields(node, &keys::ENDPOINTS, report) else {
        return none;
    };
    let mut found: Vec<(Endpoints, &str)> = Vec::new();
    if let Some(items) = source.find("static") {
        found.push((Endpoints::Static(fixed(node, items, report)), "static"));
    }
    for kind in KINDS {
        if let Some(value) = source.find(kind.key) {
            let living = living(kind, value, report).map(Endpoints::Living);
            found.push((living.unwrap_or_else(|| none.clone()), kind.key));
        }
    }
    if let [(_, first), (_, second), ..] = &found[..] {
        let message = format!("there are two sources of endpoints, `{first}` and `{second}`");
        report
            .error(
                code::NO_ENDPOINT_SOURCE,
                source.key_place(second),
                &node.path,
                message,
            )
            .help("write exactly one");
    }
    if found.is_empty() {
        report
            .error(
                code::NO_ENDPOINT_SOURCE,
                source.place(),
                &node.path,
                "no source of endpoints",
            )
            .help("write `static:` and a list, `dns: NAME:PORT` or `targets: FILE`");
    }
    found.into_iter().next().map_or(none, |(first, _)| first)
}

fn living(kind: &'static Kind, node: &Node, report: &mut Report) -> Option<SourceRef> {
    let written = located_text(node, report)?;
    match (kind.read)(&written.value, Path::new(&*node.place.file)) {
        Ok(locator) => Some(SourceRef {
            id: SourceId {
                kind: kind.key,
                locator,
            },
            written,
        }),
        Err(Misspelt { message, help }) => {
            report
                .error(code::BAD_SOURCE, &node.place, &node.path, message)
                .help(help);
            None
        }
    }
}

fn fixed(node: &Node, items: &Node, report: &mut Report) -> Vec<Endpoint> {
    let items = list(items, report).unwrap_or_default();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for item in items {
        endpoints.extend(endpoint(item, report));
    }
    check_endpoints(node, &endpoints, report);
    endpoints
}

fn check_endpoints(node: &Node, endpoints: &[Endpoint], report: &mut Report) {
    let mut seen: HashMap<&Address, &Place> = HashMap::new();
    for endpoint in endpoints {
        if let Some(first) = seen.insert(&endpoint.address, &endpoint.place) {
            let message = format!("the address {} is already at {first}", endpoint.address);
            report.error(code::ADDRESS_TWICE, &endpoint.place, &node.path, message);
        }
    }
    // The weight of a locality is the sum of its endpoints' weights, and localities are summed
    // up too: both must fit the wire's 32 bits.
    let sum: u64 = endpoints.iter().map(|e| u64::from(e.weight)).sum();
    if sum > u64::from(u32::MAX) {
        let message = format!("the weights add up to {sum}, more than {}", u32::MAX);
        report.error(code::WEIGHTS_OVERFLOW, &node.place, &node.path, message);
    }
}

fn endpoint(node: &Node, report: &mut Report) -> Option<Endpoint> {
    let fields = fields(node, &keys::ENDPOINT, report)?;
    let mut word = |name: &str| {
        let node = fields.find(name)?;
        text(node, report).map(str::to_owned)
    };
    let (zone, version) = (word("zone"), word("version"));
    let weight = match fields.find("weight") {
        Some(node) => count(node, 1, u32::MAX, report)?,
        None => 1,
    };
    Some(Endpoint {
        place: node.place.clone(),
        address: address(fields.find("address")?, report)?,
        zone,
        version,
        labels: fields
            .find("labels")
            .and_then(|node| labels(node, report))
            .unwrap_or_default(),
        weight,
    })
}

/// Labels, at least one.
pub(super) fn labels(node: &Node, report: &mut Report) -> Option<Labels> {
    let entries = map(node, report)?;
    if entries.is_empty() {
        report.error(
            code::EMPTY_VALUE,
            &node.place,
            &node.path,
            "must not be empty",
        );
        return None;
    }
    let mut labels = Vec::new();
    for (key, node) in entries {
        labels.push((key.text.as_str(), text(node, report)?));
    }
    Some(labels.into_iter().collect())
}

fn address(node: &Node, report: &mut Report) -> Option<Address> {
    let written = text(node, report)?;
    if let Some(path) = written.strip_prefix("unix:") {
        if path.starts_with('/') {
            return Some(Address::Unix(path.to_owned()));
        }
        report
            .error(
                code::BAD_ADDRESS,
                &node.place,
                &node.path,
                "the path of a Unix socket must be absolute",
            )
            .help("as in `unix:/run/greeter.sock`");
        return None;
    }
    match written.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Some(Address::Tcp(address)),
        Ok(_) => {
            report.error(
                code::BAD_ADDRESS,
                &node.place,
                &node.path,
                "port 0 is not a port to connect to",
            );
            None
        }
        Err(_) => {
            let message = format!("{written:?} is not an address");
            report.error(code::BAD_ADDRESS, &node.place, &node.path, message).help(
                "write `IP:PORT`, `[IPv6]:PORT` or `unix:/path`; for a host name, write `dns: NAME:PORT` in the place of `static`",
            );
            None
        }
    }
}

fn versions(
    fields: &Fields<'_>,
    endpoints: Option<&Endpoints>,
    report: &mut Report,
) -> BTreeMap<String, Located<String>> {
    let mut versions = BTreeMap::new();
    let Some(node) = fields.find("versions") else {
        return versions;
    };
    let Some(entries) = map(node, report) else {
        return versions;
    };
    if let Some(Endpoints::Living(source)) = endpoints
        && !source.id.kind().tells_versions
        && !entries.is_empty()
    {
        let message = format!("`{}` does not tell versions", source.id.kind);
        report
            .error(
                code::VERSIONS_NOT_TOLD,
                fields.key_place("versions"),
                &node.path,
                message,
            )
            .help("use `static` or `targets`, or a service for each version");
    }
    for (key, node) in entries {
        check_name(key, node, report);
        let Some(version) = located_text(node, report) else {
            continue;
        };
        if let Some(Endpoints::Static(there)) = endpoints {
            check_version(&version, node, there, report);
        }
        versions.insert(key.text.clone(), version);
    }
    versions
}

/// A version that no endpoint in a fixed list has is misspelt.
fn check_version(
    version: &Located<String>,
    node: &Node,
    endpoints: &[Endpoint],
    report: &mut Report,
) {
    let there = endpoints.iter().filter_map(|e| e.version.as_deref());
    let mut there: Vec<&str> = there.collect();
    there.sort_unstable();
    there.dedup();
    if !there.contains(&version.value.as_str()) {
        let message = format!("no endpoint has the version {:?}", version.value);
        report
            .error(
                code::VERSION_WITHOUT_ENDPOINT,
                &node.place,
                &node.path,
                message,
            )
            .help(super::reader::suggest(&version.value, &there, "there are"));
    }
}

/// What must hold between services: names are unique, no two services have one identity.
pub(super) fn check_together(mesh: &Mesh, report: &mut Report) {
    let mut names: HashMap<&str, &Place> = HashMap::new();
    for service in mesh.services.values() {
        names.insert(&service.name, &service.place);
    }
    for service in mesh.services.values() {
        for host in &service.hosts {
            if let Some(first) = names.insert(&host.value, &host.place) {
                let path = format!("services.{}.hosts", service.name);
                let message = format!("the name {:?} is already at {first}", host.value);
                report.error(code::DEFINED_TWICE, &host.place, &path, message);
            }
        }
    }
    let mut identities: HashMap<&str, &Service> = HashMap::new();
    for service in mesh.services.values() {
        let path = format!("services.{}", service.name);
        if let Some(first) = identities.insert(&service.identity, service) {
            let message = format!(
                "has the same identity as {:?} at {}",
                first.name, first.place
            );
            report.warning(code::SAME_IDENTITY, &service.place, &path, message);
        }
    }
}

/// Without a trust domain nobody has a SPIFFE id, so mutual TLS could admit nobody.
pub(super) fn check_no_mtls(mesh: &Mesh, report: &mut Report) {
    let secured = mesh
        .services
        .values()
        .filter(|s| s.settings.mtls != Mtls::Off);
    for service in secured {
        let path = format!("services.{}", service.name);
        report
            .error(
                code::MTLS_WITHOUT_TRUST_DOMAIN,
                &service.place,
                &path,
                "`mtls` needs a trust domain",
            )
            .help("write `trust_domain:` at the top of the file");
    }
}
