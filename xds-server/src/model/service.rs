//! Services: identity, endpoints, versions, and what must hold between services.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use sidestep_proto::code;
use sidestep_proto::resource::Address;

use super::diagnostic::{Located, Place, Report};
use super::reader::{Fields, choice, count, fields, list, located_text, map, text, timeout};
use super::route::{self, Route};
use super::yaml::{Key, Node};
use super::{Mesh, Mtls, Policy, Settings, keys};

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
    pub endpoints: Option<Vec<Endpoint>>,
    /// Names for endpoint versions: each is the version of at least one endpoint.
    pub versions: BTreeMap<String, Located<String>>,
    /// First match wins. Empty: all calls go to all endpoints.
    pub routes: Vec<Route>,
    /// Its own settings over the defaults.
    pub settings: Settings,
}

impl Service {
    /// Its endpoints; none for a service that only calls others.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        self.endpoints.as_deref().unwrap_or_default()
    }
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
    let versions = versions(&fields, endpoints.as_deref(), report);
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
            .map(|node| route::routes(node, &versions, report))
            .unwrap_or_default(),
        endpoints,
        versions,
        settings: settings(&fields, defaults, report),
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
        settings.policy = policy(node, report).unwrap_or(builtin.policy);
    }
    if let Some(node) = fields.find("limits") {
        settings.max_outstanding_per_client =
            max_outstanding(node, report).unwrap_or(builtin.max_outstanding_per_client);
    }
    settings
}

fn policy(node: &Node, report: &mut Report) -> Option<Policy> {
    let balance = fields(node, &keys::BALANCE, report)?;
    match choice(balance.find("policy")?, keys::POLICIES, report)? {
        "least_request" => Some(Policy::LeastRequest),
        "pick_first" => Some(Policy::PickFirst),
        _ => Some(Policy::RoundRobin),
    }
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
    for name in ["hosts", "versions", "routes"] {
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

fn endpoints(node: &Node, report: &mut Report) -> Vec<Endpoint> {
    let Some(source) = fields(node, &keys::ENDPOINTS, report) else {
        return Vec::new();
    };
    let Some(items) = source.find("static") else {
        let other = ["dns", "targets"]
            .iter()
            .any(|key| source.find(key).is_some());
        // An unenforced source has been reported already.
        if !other {
            report
                .error(
                    code::NO_ENDPOINT_SOURCE,
                    source.place(),
                    &node.path,
                    "no source of endpoints",
                )
                .help("write `static:` and a list");
        }
        return Vec::new();
    };
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
        weight,
    })
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
            report
                .error(code::BAD_ADDRESS, &node.place, &node.path, message)
                .help(
                    "write `IP:PORT`, `[IPv6]:PORT` or `unix:/path`; host names are not resolved",
                );
            None
        }
    }
}

fn versions(
    fields: &Fields<'_>,
    endpoints: Option<&[Endpoint]>,
    report: &mut Report,
) -> BTreeMap<String, Located<String>> {
    let mut versions = BTreeMap::new();
    let Some(entries) = fields.find("versions").and_then(|node| map(node, report)) else {
        return versions;
    };
    let mut there: Vec<&str> = endpoints
        .unwrap_or_default()
        .iter()
        .filter_map(|e| e.version.as_deref())
        .collect();
    there.sort_unstable();
    there.dedup();
    for (key, node) in entries {
        check_name(key, node, report);
        let Some(version) = located_text(node, report) else {
            continue;
        };
        if endpoints.is_some() && !there.contains(&version.value.as_str()) {
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
        versions.insert(key.text.clone(), version);
    }
    versions
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
