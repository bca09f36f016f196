//! Session affinity: where a client keeps which endpoint its session is at (gRFC A55, A60).

use std::time::Duration;

/// What carries the session from a response to the calls that follow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// A cookie with the base64 of `address[,address…];cluster`.
    Cookie(SessionCookie),
    /// A header with the base64 of the address, as Envoy has it; gRPC's own clients have none.
    Header {
        /// ASCII lower case.
        name: String,
    },
}

/// The cookie of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionCookie {
    /// Not empty.
    pub name: String,
    /// Calls below this path have sessions, by the rules of RFC 6265; empty is all.
    pub path: String,
    /// How long the client keeps it. Zero, the default: as long as its own session.
    pub ttl: Duration,
}

impl SessionCookie {
    /// Whether calls to `path` (`/package.Service/Method`) have sessions (RFC 6265 section 5.1.4).
    #[must_use]
    pub fn covers(&self, path: &str) -> bool {
        match path.strip_prefix(&*self.path) {
            None => false,
            Some(rest) => {
                rest.is_empty()
                    || self.path.is_empty()
                    || self.path.ends_with('/')
                    || rest.starts_with('/')
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_covers_paths_by_whole_segments() {
        let covers = |cookie: &str, path: &str| {
            let cookie = SessionCookie {
                name: "c".into(),
                path: cookie.into(),
                ttl: Duration::ZERO,
            };
            cookie.covers(path)
        };
        for (cookie, path, expected) in [
            ("", "/p.S/M", true),
            ("/", "/p.S/M", true),
            ("/p.S", "/p.S/M", true),
            ("/p.S/", "/p.S/M", true),
            ("/p.S/M", "/p.S/M", true),
            ("/p.S/M", "/p.S/More", false),
            ("/p.S/More", "/p.S/M", false),
            ("/p.T", "/p.S/M", false),
        ] {
            assert_eq!(covers(cookie, path), expected, "{cookie} {path}");
        }
    }
}
