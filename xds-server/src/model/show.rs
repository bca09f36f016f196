//! The mesh as a file in which every default is written out.

use std::fmt::Write as _;
use std::time::Duration;

use sidestep_proto::resource::{
    Address, HeaderCondition, HeaderMatcher, Labels, SessionState, StringMatcher,
};

use super::{
    Destination, Endpoint, Mesh, MethodMatch, Mtls, Policy, Route, Service, Settings, Timeout,
    keys, outlier_detection,
};

impl Mesh {
    /// The mesh as one file with every default filled in. Reading it gives the same mesh.
    #[must_use]
    pub fn show_defaults(&self) -> String {
        let mut out = Lines::default();
        out.line(0, "mesh: v1");
        if let Some(domain) = &self.trust_domain {
            out.line(0, &format!("trust_domain: {}", word(&domain.value)));
        }
        out.line(0, "defaults:");
        out.settings(2, &self.defaults);
        let empty = if self.services.is_empty() { " {}" } else { "" };
        out.line(0, &format!("services:{empty}"));
        for service in self.services.values() {
            out.service(service);
        }
        if self.resources.is_empty() {
            out.line(0, "resources: []");
        } else {
            out.line(0, "resources:");
        }
        for resource in &self.resources {
            // JSON is YAML's flow style.
            out.line(2, &format!("- {}", crate::native::json(&resource.node)));
        }
        out.0
    }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, indent: usize, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{:indent$}{text}", "");
    }

    fn settings(&mut self, indent: usize, settings: &Settings) {
        self.line(indent, &format!("timeout: {}", timeout(settings.timeout)));
        let mtls = match settings.mtls {
            Mtls::Off => "off",
            Mtls::Permissive => "permissive",
            Mtls::Strict => "strict",
        };
        self.line(indent, &format!("mtls: {mtls}"));
        let policy = match settings.policy {
            Policy::RoundRobin => "round_robin",
            Policy::LeastRequest => "least_request",
            Policy::PickFirst => "pick_first",
            Policy::Random => "random",
            Policy::RingHash => "ring_hash",
            Policy::Maglev => "maglev",
            Policy::WeightedRoundRobin => "weighted_round_robin",
            Policy::PeakEwma => "peak_ewma",
        };
        let hash = settings.hash_header.as_deref();
        let hash = hash.map_or_else(String::new, |name| format!(", hash_header: {}", word(name)));
        let slow = settings.slow_start;
        let slow = slow.map_or_else(String::new, |over| {
            format!(", slow_start: {}", duration(over))
        });
        let subset = settings.subset_size;
        let subset = subset.map_or_else(String::new, |size| format!(", subset_size: {size}"));
        let zones = match settings.prefer_local {
            true => ", zones: prefer_local",
            false => "",
        };
        self.line(
            indent,
            &format!("balance: {{policy: {policy}{hash}{slow}{subset}{zones}}}"),
        );
        let limit = settings.max_outstanding_per_client;
        self.line(
            indent,
            &format!("limits: {{max_outstanding_per_client: {limit}}}"),
        );
        let detection = settings.outlier_detection.as_ref();
        let detection = outlier_detection::show(detection, duration);
        self.line(indent, &format!("outlier_detection: {detection}"));
    }

    fn service(&mut self, service: &Service) {
        self.line(2, &format!("{}:", word(&service.name)));
        if let Some(owner) = &service.owner {
            self.line(4, &format!("owner: {}", word(owner)));
        }
        self.line(4, &format!("identity: {}", word(&service.identity)));
        if service.endpoints.is_some() {
            let hosts: Vec<String> = service.hosts.iter().map(|h| word(&h.value)).collect();
            self.line(4, &format!("hosts: [{}]", hosts.join(", ")));
            self.source(service);
            self.versions(service);
            self.routes(service);
        }
        self.settings(4, &service.settings);
        if service.endpoints.is_some() {
            let session = session(service.session.as_ref());
            self.line(4, &format!("session_affinity: {session}"));
            let fallback = if service.subset_falls_back {
                "any"
            } else {
                keys::NONE
            };
            self.line(4, &format!("subset_fallback: {fallback}"));
        }
    }

    fn source(&mut self, service: &Service) {
        self.line(4, "endpoints:");
        match service.source() {
            Some(source) => {
                let text = word(&source.written.value);
                self.line(6, &format!("{}: {text}", source.id.kind));
            }
            None => self.endpoints(service.endpoints()),
        }
    }

    fn endpoints(&mut self, endpoints: &[Endpoint]) {
        if endpoints.is_empty() {
            self.line(6, "static: []");
            return;
        }
        self.line(6, "static:");
        for endpoint in endpoints {
            let address = match &endpoint.address {
                Address::Tcp(address) => address.to_string(),
                Address::Unix(path) => format!("unix:{path}"),
            };
            let mut parts = vec![format!("address: {}", word(&address))];
            parts.extend(endpoint.zone.iter().map(|z| format!("zone: {}", word(z))));
            parts.extend(
                endpoint
                    .version
                    .iter()
                    .map(|v| format!("version: {}", word(v))),
            );
            if !endpoint.labels.is_empty() {
                parts.push(format!("labels: {}", labels(&endpoint.labels)));
            }
            parts.push(format!("weight: {}", endpoint.weight));
            self.line(8, &format!("- {{{}}}", parts.join(", ")));
        }
    }

    fn versions(&mut self, service: &Service) {
        let versions = service.versions.iter();
        let pairs: Vec<String> = versions
            .map(|(name, version)| format!("{}: {}", word(name), word(&version.value)))
            .collect();
        self.line(4, &format!("versions: {{{}}}", pairs.join(", ")));
    }

    fn routes(&mut self, service: &Service) {
        if service.routes.is_empty() {
            self.line(4, "routes: []");
            return;
        }
        self.line(4, "routes:");
        for route in &service.routes {
            self.route(route, service);
        }
    }

    fn route(&mut self, route: &Route, service: &Service) {
        let limit = timeout(route.timeout.unwrap_or(service.settings.timeout));
        self.line(6, &format!("- timeout: {limit}"));
        if !route.name.is_empty() {
            self.line(8, &format!("name: {}", word(&route.name)));
        }
        self.matches(route);
        if let Destination::Versions(shares) = &route.to {
            let pairs: Vec<String> = shares
                .iter()
                .map(|(name, weight)| format!("{}: {weight}", word(name)))
                .collect();
            self.line(8, &format!("to: {{{}}}", pairs.join(", ")));
        }
        if !route.subset.is_empty() {
            self.line(8, &format!("subset: {}", labels(&route.subset)));
        }
        if let Some(retry) = &route.retry {
            let names = retry.on.to_wire().replace('-', "_").replace(',', ", ");
            let attempts = retry.max_attempts;
            self.line(
                8,
                &format!("retry: {{max_attempts: {attempts}, on: [{names}]}}"),
            );
        }
        let own = route.session.as_ref().unwrap_or(&service.session);
        let session = session(own.as_ref());
        self.line(8, &format!("session_affinity: {session}"));
    }

    fn matches(&mut self, route: &Route) {
        if route.is_catch_all() {
            return;
        }
        self.line(8, "match:");
        match &route.method {
            Some(MethodMatch::Exact(method)) => self.line(10, &format!("method: {}", word(method))),
            Some(MethodMatch::Service(service)) => {
                self.line(10, &format!("method: {}", word(&format!("{service}/*"))));
            }
            None => {}
        }
        if !route.headers.is_empty() {
            let pairs: Vec<String> = route.headers.iter().map(header).collect();
            self.line(10, &format!("headers: {{{}}}", pairs.join(", ")));
        }
    }
}

fn session(state: Option<&SessionState>) -> String {
    match state {
        None => keys::NONE.to_owned(),
        Some(SessionState::Header { name }) => format!("{{header: {}}}", word(name)),
        Some(SessionState::Cookie(cookie)) => {
            let mut parts = vec![format!("cookie: {}", word(&cookie.name))];
            let ttl = match cookie.ttl {
                Duration::ZERO => keys::NONE.to_owned(),
                ttl => duration(ttl),
            };
            parts.push(format!("ttl: {ttl}"));
            if !cookie.path.is_empty() {
                parts.push(format!("path: {}", word(&cookie.path)));
            }
            format!("{{{}}}", parts.join(", "))
        }
    }
}

fn labels(labels: &Labels) -> String {
    let pairs = labels.iter();
    let pairs = pairs.map(|(key, value)| format!("{}: {}", word(key), word(&value.to_string())));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

fn header(matcher: &HeaderMatcher) -> String {
    let condition = match &matcher.condition {
        HeaderCondition::Value(StringMatcher::Exact(text)) => word(&text.value),
        HeaderCondition::Value(StringMatcher::Prefix(text)) => one("prefix", &text.value),
        HeaderCondition::Value(StringMatcher::Suffix(text)) => one("suffix", &text.value),
        HeaderCondition::Value(StringMatcher::Contains(text)) => one("contains", &text.value),
        HeaderCondition::Value(StringMatcher::Regex(pattern)) => one("regex", pattern.as_str()),
        HeaderCondition::Present(present) => format!("{{present: {present}}}"),
        // The mesh file has no ranges.
        HeaderCondition::Range(range) => format!("{{range: {range:?}}}"),
    };
    format!("{}: {condition}", word(&matcher.name))
}

fn one(key: &str, text: &str) -> String {
    format!("{{{key}: {}}}", word(text))
}

fn timeout(timeout: Timeout) -> String {
    match timeout {
        Timeout::None => keys::NONE.to_owned(),
        Timeout::After(limit) => duration(limit),
    }
}

/// In the largest unit that needs no decimals.
fn duration(limit: Duration) -> String {
    let ms = limit.as_millis();
    for (unit_ms, unit) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if ms.is_multiple_of(unit_ms) {
            return format!("{}{unit}", ms / unit_ms);
        }
    }
    format!("{ms}ms")
}

/// A text, quoted unless every reader of YAML takes it for a text. JSON's quoting is valid YAML.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/' | '.');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    if begins && text.chars().all(plain) && !reserved.contains(&text.to_lowercase().as_str()) {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}
