//! `session_affinity`: what keeps the calls of a session at one endpoint.

use std::time::Duration;

use sidestep_proto::code;
use sidestep_proto::resource::{SessionCookie, SessionState};

use super::diagnostic::Report;
use super::reader::{fields, text, timeout};
use super::yaml::{Node, Value};
use super::{Timeout, keys, route};

/// Reads it. `Some(None)` is `none`: calls have no sessions.
pub(super) fn session(node: &Node, report: &mut Report) -> Option<Option<SessionState>> {
    if !matches!(node.value, Value::Map(_)) {
        if text(node, report)? == keys::NONE {
            return Some(None);
        }
        let message = "expected `none` or a map with `cookie` or `header`";
        report.error(code::WRONG_TYPE, &node.place, &node.path, message);
        return None;
    }
    let fields = fields(node, &keys::SESSION, report)?;
    match (fields.find("cookie"), fields.find("header")) {
        (Some(name), None) => {
            let path = match fields.find("path") {
                None => Some(String::new()),
                Some(node) => path(node, report),
            };
            let ttl = match fields.find("ttl").map(|node| timeout(node, report)) {
                None | Some(Some(Timeout::None)) => Some(Duration::ZERO),
                Some(Some(Timeout::After(ttl))) => Some(ttl),
                Some(None) => None,
            };
            Some(Some(SessionState::Cookie(SessionCookie {
                name: cookie_name(name, report)?,
                path: path?,
                ttl: ttl?,
            })))
        }
        (None, Some(name)) => {
            for cookies_only in ["ttl", "path"] {
                if let Some(node) = fields.find(cookies_only) {
                    let message = format!("`{cookies_only}` is for cookies: headers have none");
                    report.error(code::KEY_NOT_USABLE, &node.place, &node.path, message);
                }
            }
            let written = text(name, report)?;
            if written.starts_with("grpc-") {
                let message = format!("{written:?} is a name that gRPC keeps for itself");
                report.error(code::BAD_HEADER, &name.place, &name.path, message);
                return None;
            }
            let valid = route::header_name(written, &name.place, &name.path, report);
            valid.then(|| {
                Some(SessionState::Header {
                    name: written.to_owned(),
                })
            })
        }
        _ => {
            let message = "exactly one of `cookie` and `header` is expected";
            let error = report.error(code::MISSING_KEY, &node.place, &node.path, message);
            error.help("name what the client sends back, as in `cookie: session`");
            None
        }
    }
}

fn cookie_name(node: &Node, report: &mut Report) -> Option<String> {
    let name = text(node, report)?;
    // RFC 6265 takes its names from HTTP's tokens.
    let valid = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if !name.chars().all(valid) {
        let message = format!("{name:?} cannot be the name of a cookie");
        report
            .error(code::BAD_NAME, &node.place, &node.path, message)
            .help("use letters, digits, `-`, `_` and `.`");
        return None;
    }
    Some(name.to_owned())
}

fn path(node: &Node, report: &mut Report) -> Option<String> {
    let path = text(node, report)?;
    let valid = |c: char| c.is_ascii_graphic() && c != ';';
    if !path.starts_with('/') || !path.chars().all(valid) {
        let message = format!("{path:?} cannot be the path of a cookie");
        report
            .error(code::BAD_METHOD, &node.place, &node.path, message)
            .help("write `/package.Service` or `/package.Service/Method`");
        return None;
    }
    Some(path.to_owned())
}
