//! Routes: which calls go to which versions, for how long, and how often they are tried.

use std::collections::{BTreeMap, HashMap};

use sidestep_proto::code;
use sidestep_proto::resource::{
    HeaderCondition, HeaderMatcher, Labels, Pattern, RetryOn, SessionState, StringMatcher, Text,
};

use super::diagnostic::{Located, Place, Report};
use super::reader::{choice, count, fields, list, map, suggest, text, timeout, truth};
use super::service::labels;
use super::session::session;
use super::yaml::{Key, Node, Value};
use super::{Timeout, keys};

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it is written.
    pub place: Place,
    /// For people; empty if not said.
    pub name: String,
    /// Which methods it takes; `None` is all.
    pub method: Option<MethodMatch>,
    /// Conditions on headers, all together.
    pub headers: Vec<HeaderMatcher>,
    /// Where its calls go.
    pub to: Destination,
    /// Its own time limit. `None`: the service's.
    pub timeout: Option<Timeout>,
    /// Which failed calls are repeated. `None`: only those that no server has begun.
    pub retry: Option<Retry>,
    /// `session_affinity`. `None`: as the service says; `Some(None)`: its calls have no sessions.
    pub session: Option<Option<SessionState>>,
    /// `subset`: the labels of the endpoints that its calls may meet. Empty: any.
    pub subset: Labels,
}

impl Route {
    /// Whether it takes every call.
    #[must_use]
    pub fn is_catch_all(&self) -> bool {
        self.method.is_none() && self.headers.is_empty()
    }
}

/// Which methods a route takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MethodMatch {
    /// `package.Service/Method`.
    Exact(String),
    /// `package.Service/*`: all methods of this gRPC service.
    Service(String),
}

/// Where a route's calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// To all endpoints.
    All,
    /// To names of `versions`, with relative weights above zero whose sum fits `u32`.
    Versions(Vec<(String, u32)>),
}

/// When a failed call is tried again (gRFC A44).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// First try included, 2 to 5.
    pub max_attempts: u32,
    /// After which status codes; not empty.
    pub on: RetryOn,
}

type Versions = BTreeMap<String, Located<String>>;

/// Reads the routes of a service; `labelled` says whether its endpoints may have labels.
pub(super) fn routes(
    node: &Node,
    versions: &Versions,
    labelled: bool,
    report: &mut Report,
) -> Vec<Route> {
    let items = list(node, report).unwrap_or_default();
    let mut routes = Vec::new();
    for item in items {
        routes.extend(route(item, versions, labelled, report));
    }
    // Routes that could not be read are missing here, so what follows would mislead.
    if routes.len() == items.len() {
        check_together(node, &routes, report);
    }
    routes
}

fn check_together(node: &Node, routes: &[Route], report: &mut Report) {
    let mut names: HashMap<&str, &Place> = HashMap::new();
    let named = routes.iter().filter(|route| !route.name.is_empty());
    for route in named {
        if let Some(first) = names.insert(&route.name, &route.place) {
            let message = format!("the route {:?} is already at {first}", route.name);
            report.error(code::DEFINED_TWICE, &route.place, &node.path, message);
        }
    }
    let catch_all = routes.iter().position(Route::is_catch_all);
    match catch_all {
        None if !routes.is_empty() => {
            report
                .warning(code::NO_CATCH_ALL, &node.place, &node.path, "no route takes every call")
                .help("calls that no route takes fail UNAVAILABLE; end the list with a route without `match`");
        }
        Some(at) if at + 1 < routes.len() => {
            let message = format!(
                "is never reached: the route at {} takes every call",
                routes[at].place
            );
            let path = format!("{}[{}]", node.path, at + 1);
            report.warning(
                code::ROUTE_UNREACHABLE,
                &routes[at + 1].place,
                &path,
                message,
            );
        }
        _ => {}
    }
    for (at, route) in routes.iter().enumerate() {
        if route.is_catch_all() && route.retry.is_some() {
            let path = format!("{}[{at}]", node.path);
            report
                .warning(
                    code::RETRY_ON_CATCH_ALL,
                    &route.place,
                    &path,
                    "retries on a route that takes every call",
                )
                .help("a repeated call may run twice; name the methods for which that is safe");
        }
    }
}

fn route(node: &Node, versions: &Versions, labelled: bool, report: &mut Report) -> Option<Route> {
    let before = report.diagnostics.len();
    let fields = fields(node, &keys::ROUTE, report)?;
    let (method, headers) = match fields.find("match") {
        Some(node) => matches(node, report),
        None => (None, Vec::new()),
    };
    let name = fields.find("name").and_then(|node| text(node, report));
    let route = Route {
        place: node.place.clone(),
        name: name.unwrap_or_default().to_owned(),
        method,
        headers,
        to: match fields.find("to") {
            Some(node) => destination(node, versions, report)?,
            None => Destination::All,
        },
        timeout: fields.find("timeout").and_then(|n| timeout(n, report)),
        retry: fields.find("retry").and_then(|n| retry(n, report)),
        session: fields
            .find("session_affinity")
            .and_then(|n| session(n, report)),
        subset: fields
            .find("subset")
            .and_then(|n| subset(n, labelled, report))
            .unwrap_or_default(),
    };
    // A route whose match is only half read would take calls that it was not meant for.
    (report.diagnostics.len() == before).then_some(route)
}

fn subset(node: &Node, labelled: bool, report: &mut Report) -> Option<Labels> {
    if !labelled {
        let message = "only endpoints that are written under `static` have labels";
        report.error(code::KEY_NOT_USABLE, &node.place, &node.path, message);
        return None;
    }
    labels(node, report)
}

fn matches(node: &Node, report: &mut Report) -> (Option<MethodMatch>, Vec<HeaderMatcher>) {
    let Some(fields) = fields(node, &keys::MATCH, report) else {
        return (None, Vec::new());
    };
    let method = fields.find("method").and_then(|node| method(node, report));
    let entries = fields.find("headers").and_then(|node| map(node, report));
    let mut headers = Vec::new();
    for (key, node) in entries.unwrap_or_default() {
        headers.extend(header(key, node, report));
    }
    (method, headers)
}

fn method(node: &Node, report: &mut Report) -> Option<MethodMatch> {
    let written = text(node, report)?;
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let word = |s: &str| !s.is_empty() && s.chars().all(valid);
    match written.split_once('/') {
        Some((service, "*")) if word(service) => Some(MethodMatch::Service(service.to_owned())),
        Some((service, method)) if word(service) && word(method) => {
            Some(MethodMatch::Exact(written.to_owned()))
        }
        _ => {
            report
                .error(
                    code::BAD_METHOD,
                    &node.place,
                    &node.path,
                    format!("{written:?} is not a method"),
                )
                .help("write `package.Service/Method` or `package.Service/*`");
            None
        }
    }
}

/// Whether routes can look at a header of this name; says why not.
pub(super) fn header_name(name: &str, place: &Place, path: &str, report: &mut Report) -> bool {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(valid) {
        let message = format!("{name:?} cannot be the name of a header");
        let error = report.error(code::BAD_HEADER, place, path, message);
        error.help("names are in lower case");
        return false;
    }
    let binary = name.ends_with("-bin");
    if binary {
        let message = "binary headers (`-bin`) cannot be matched";
        report.error(code::BAD_HEADER, place, path, message);
    }
    !binary
}

fn header(key: &Key, node: &Node, report: &mut Report) -> Option<HeaderMatcher> {
    let name = key.text.as_str();
    if !header_name(name, &key.place, &node.path, report) {
        return None;
    }
    let condition = match &node.value {
        Value::Map(_) => condition(node, report)?,
        _ => HeaderCondition::Value(StringMatcher::Exact(Text::exact(text(node, report)?))),
    };
    Some(HeaderMatcher {
        name: name.to_owned(),
        condition,
        invert: false,
    })
}

fn condition(node: &Node, report: &mut Report) -> Option<HeaderCondition> {
    fields(node, &keys::HEADER, report)?;
    let [(key, value)] = map(node, report)? else {
        report
            .error(
                code::BAD_HEADER,
                &node.place,
                &node.path,
                "exactly one condition is expected",
            )
            .help("use `regex` to say several things about one header");
        return None;
    };
    if key.text == "present" {
        return truth(value, report).map(HeaderCondition::Present);
    }
    let written = text(value, report)?;
    let matcher = match key.text.as_str() {
        "exact" => StringMatcher::Exact(Text::exact(written)),
        "prefix" => StringMatcher::Prefix(Text::exact(written)),
        "suffix" => StringMatcher::Suffix(Text::exact(written)),
        "contains" => StringMatcher::Contains(Text::exact(written)),
        "regex" => StringMatcher::Regex(pattern(value, written, report)?),
        // Reported as unknown above.
        _ => return None,
    };
    Some(HeaderCondition::Value(matcher))
}

fn pattern(node: &Node, written: &str, report: &mut Report) -> Option<Pattern> {
    // On its own first, so that the message shows the pattern as it was written.
    let compiled = match regex::Regex::new(written) {
        Ok(_) => Pattern::new(written),
        Err(error) => Err(error.to_string()),
    };
    match compiled {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            let reason = error.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            let message = format!("bad regular expression {written:?}: {reason}");
            report.error(code::BAD_REGEX, &node.place, &node.path, message);
            None
        }
    }
}

fn destination(node: &Node, versions: &Versions, report: &mut Report) -> Option<Destination> {
    if let Value::Map(entries) = &node.value {
        return weighted(node, entries, versions, report);
    }
    let name = text(node, report)?;
    known(name, &node.place, node, versions, report)
        .then(|| Destination::Versions(vec![(name.to_owned(), 1)]))
}

fn weighted(
    node: &Node,
    entries: &[(Key, Node)],
    versions: &Versions,
    report: &mut Report,
) -> Option<Destination> {
    let mut shares = Vec::new();
    let mut complete = true;
    for (key, weight) in entries {
        complete &= known(&key.text, &key.place, node, versions, report);
        match count(weight, 0, u32::MAX, report) {
            Some(weight) => shares.push((key.text.clone(), weight)),
            None => complete = false,
        }
    }
    let sum: u64 = shares.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if complete && sum == 0 {
        report.error(
            code::WEIGHTS_ALL_ZERO,
            &node.place,
            &node.path,
            "the weights add up to 0",
        );
        return None;
    }
    if sum > u64::from(u32::MAX) {
        let message = format!("the weights add up to {sum}, more than {}", u32::MAX);
        report.error(code::WEIGHTS_OVERFLOW, &node.place, &node.path, message);
        return None;
    }
    // A version of weight 0 gets no call, which xDS says by not naming it.
    shares.retain(|(_, weight)| *weight > 0);
    complete.then_some(Destination::Versions(shares))
}

fn known(name: &str, place: &Place, node: &Node, versions: &Versions, report: &mut Report) -> bool {
    let known = versions.contains_key(name);
    if !known {
        let names: Vec<&str> = versions.keys().map(String::as_str).collect();
        let help = if names.is_empty() {
            "name versions under `versions`, or leave `to` out for all endpoints".to_owned()
        } else {
            suggest(name, &names, "there are")
        };
        report
            .error(
                code::NO_SUCH_VERSION,
                place,
                &node.path,
                format!("no such version: {name:?}"),
            )
            .help(help);
    }
    known
}

fn retry(node: &Node, report: &mut Report) -> Option<Retry> {
    let fields = fields(node, &keys::RETRY, report)?;
    let max_attempts = fields
        .find("max_attempts")
        .and_then(|node| count(node, 2, 5, report));
    let on_node = fields.find("on")?;
    let items = list(on_node, report)?;
    if items.is_empty() {
        report.error(
            code::EMPTY_VALUE,
            &on_node.place,
            &on_node.path,
            "must not be empty",
        );
    }
    let mut on = RetryOn::default();
    for item in items {
        match choice(item, keys::RETRY_ON, report) {
            Some("cancelled") => on.cancelled = true,
            Some("deadline_exceeded") => on.deadline_exceeded = true,
            Some("internal") => on.internal = true,
            Some("resource_exhausted") => on.resource_exhausted = true,
            Some(_) => on.unavailable = true,
            None => {}
        }
    }
    Some(Retry {
        max_attempts: max_attempts?,
        on,
    })
}
