//! Which calls have a session, where it is, and how its client is told (gRFC A55, A60).
//!
//! The text that a client keeps is the base64 of `address[,address…]`, in cookies with `;cluster`
//! after it. Whatever cannot be read is no session yet: the call goes by the policy, and its
//! answer says where.

use std::time::Instant;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use sidestep_proto::resource::{
    FilterConfig, FilterOverrides, HttpFilter, SessionCookie, SessionState,
};

/// Padding is written and, because cookies lose it on their way, not demanded.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The session of a call, as a picker sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sticky<'a> {
    /// Comma-separated addresses of the session's endpoint, the preferred one first; empty: the
    /// session begins with this call.
    pub hosts: &'a str,
    /// When the pick is made.
    pub now: Instant,
}

/// Where a session is, by what a request says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// Comma-separated addresses of its endpoint; empty: nowhere yet.
    pub hosts: &'a str,
    /// Its cluster, if that was said.
    pub cluster: Option<&'a str>,
}

impl Found<'_> {
    /// Whether an endpoint with these comma-separated addresses is the session's.
    #[must_use]
    pub fn is_at(&self, hosts: &str) -> bool {
        let mut named = self.hosts.split(',').filter(|host| !host.is_empty());
        named.any(|named| hosts.split(',').any(|host| host == named))
    }
}

/// Room for the text of a session, so that reading one allocates only if it is uncommonly long.
#[derive(Debug)]
pub struct Buffer {
    near: [u8; 256],
    far: Vec<u8>,
}

impl Default for Buffer {
    fn default() -> Self {
        Self {
            near: [0; 256],
            far: Vec::new(),
        }
    }
}

impl Buffer {
    fn decode(&mut self, text: &[u8]) -> Option<&str> {
        let room = base64::decoded_len_estimate(text.len());
        let place = if room <= self.near.len() {
            &mut self.near[..]
        } else {
            self.far.resize(room, 0);
            &mut self.far[..]
        };
        let len = BASE64.decode_slice(text, place).ok()?;
        std::str::from_utf8(&place[..len]).ok()
    }
}

/// How the calls of a route's share keep to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRule {
    state: SessionState,
    /// The header that tells the client.
    header: HeaderName,
}

impl SessionRule {
    /// What the filters of a chain say of sessions, after the overrides of a share. With several
    /// such filters the last one that has sessions decides.
    pub(super) fn compile(filters: &[HttpFilter], overrides: &FilterOverrides) -> Option<Self> {
        let mut states = filters.iter().filter_map(|filter| {
            let FilterConfig::StatefulSession(own) = &filter.config else {
                return None;
            };
            match overrides.get(&filter.name) {
                Some(FilterConfig::StatefulSession(instead)) => instead.as_ref(),
                _ => own.as_ref(),
            }
        });
        let state = states.next_back()?.clone();
        let header = match &state {
            SessionState::Cookie(_) => SET_COOKIE,
            SessionState::Header { name } => HeaderName::from_bytes(name.as_bytes()).ok()?,
        };
        Some(Self { state, header })
    }

    /// Where the session of a call is; `None`: calls to this path have none.
    #[must_use]
    pub fn find<'b>(
        &self,
        path: &str,
        headers: &HeaderMap,
        buffer: &'b mut Buffer,
    ) -> Option<Found<'b>> {
        let text = match &self.state {
            SessionState::Cookie(cookie) if !cookie.covers(path) => return None,
            SessionState::Cookie(cookie) => value(headers, &cookie.name),
            SessionState::Header { .. } => headers.get(&self.header).map(HeaderValue::as_bytes),
        };
        let text = text.and_then(|text| buffer.decode(text)).unwrap_or("");
        Some(match &self.state {
            SessionState::Header { .. } => Found {
                hosts: text,
                cluster: None,
            },
            SessionState::Cookie(_) => match text.split_once(';') {
                None => Found {
                    hosts: text,
                    cluster: None,
                },
                Some((hosts, cluster)) => Found {
                    hosts,
                    cluster: Some(cluster),
                },
            },
        })
    }

    /// What tells the client where its session is, if it has `found` it elsewhere or nowhere.
    /// `hosts` are the comma-separated addresses of the endpoint that answers.
    #[must_use]
    pub fn tell(&self, found: &Found<'_>, hosts: &str, cluster: &str) -> Option<Told> {
        let value = match &self.state {
            SessionState::Cookie(_) if found.is_at(hosts) && found.cluster == Some(cluster) => {
                return None;
            }
            SessionState::Header { .. } if found.is_at(hosts) => return None,
            SessionState::Cookie(cookie) => set_cookie(cookie, &format!("{hosts};{cluster}")),
            SessionState::Header { .. } => {
                BASE64.encode(hosts.split(',').next().unwrap_or_default())
            }
        };
        Some(Told {
            name: self.header.clone(),
            // Names and paths were validated, so there is nothing that a header cannot carry.
            value: HeaderValue::try_from(value).ok()?,
        })
    }

    /// For people: what carries the session.
    #[must_use]
    pub fn state(&self) -> &SessionState {
        &self.state
    }
}

/// What a client is told of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    name: HeaderName,
    value: HeaderValue,
}

impl Told {
    /// Adds it to the headers of a response.
    pub fn apply(self, headers: &mut HeaderMap) {
        if self.name == SET_COOKIE {
            // The server's own cookies stay.
            headers.append(self.name, self.value);
        } else {
            headers.insert(self.name, self.value);
        }
    }
}

/// The value of the first cookie of this name.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let lines = headers.get_all(COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    pairs.find_map(|pair| {
        let at = pair.iter().position(|b| *b == b'=')?;
        let (key, value) = pair.split_at(at);
        let value = value[1..].trim_ascii();
        let quoted = value
            .strip_prefix(b"\"")
            .and_then(|v| v.strip_suffix(b"\""));
        (key.trim_ascii() == name.as_bytes()).then(|| quoted.unwrap_or(value))
    })
}

fn set_cookie(cookie: &SessionCookie, text: &str) -> String {
    let mut line = format!("{}={}; HttpOnly", cookie.name, BASE64.encode(text));
    if !cookie.path.is_empty() {
        line.push_str("; Path=");
        line.push_str(&cookie.path);
    }
    if !cookie.ttl.is_zero() {
        line.push_str("; Max-Age=");
        line.push_str(&cookie.ttl.as_secs().to_string());
    }
    line
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cookie(path: &str, ttl: u64) -> SessionState {
        SessionState::Cookie(SessionCookie {
            name: "c".into(),
            path: path.into(),
            ttl: Duration::from_secs(ttl),
        })
    }

    fn header() -> SessionState {
        SessionState::Header {
            name: "x-session".into(),
        }
    }

    fn filter(name: &str, config: FilterConfig) -> HttpFilter {
        HttpFilter {
            name: name.into(),
            config,
        }
    }

    fn rule(state: SessionState) -> SessionRule {
        let filters = [filter("s", FilterConfig::StatefulSession(Some(state)))];
        SessionRule::compile(&filters, &FilterOverrides::new()).expect("has sessions")
    }

    fn found(rule: &SessionRule, name: HeaderName, lines: &[String]) -> (String, Option<String>) {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, line.parse().unwrap());
        }
        let mut buffer = Buffer::default();
        let found = rule.find("/p.S/M", &headers, &mut buffer).expect("covered");
        (found.hosts.to_owned(), found.cluster.map(str::to_owned))
    }

    fn cookies(lines: &[&str]) -> (String, Option<String>) {
        let lines: Vec<_> = lines.iter().map(|line| (*line).to_owned()).collect();
        found(&rule(cookie("", 0)), COOKIE, &lines)
    }

    fn some(hosts: &str, cluster: &str) -> (String, Option<String>) {
        (hosts.to_owned(), Some(cluster.to_owned()))
    }

    fn none() -> (String, Option<String>) {
        (String::new(), None)
    }

    #[test]
    fn the_first_cookie_of_the_name_counts_wherever_it_stands() {
        let one = BASE64.encode("1.2.3.4:5;a");
        let two = BASE64.encode("6.7.8.9:5,[::1]:5;b");
        assert_eq!(cookies(&[&format!("c={one}")]), some("1.2.3.4:5", "a"));
        assert_eq!(
            cookies(&[&format!("x=1; c={two}; c={one}")]),
            some("6.7.8.9:5,[::1]:5", "b")
        );
        assert_eq!(
            cookies(&["x=1", &format!("cc=2;c=\"{one}\"")]),
            some("1.2.3.4:5", "a")
        );
        let bare = one.trim_end_matches('=');
        assert_eq!(cookies(&[&format!("c={bare}")]), some("1.2.3.4:5", "a"));
    }

    #[test]
    fn a_cookie_without_a_cluster_names_hosts_alone() {
        let text = BASE64.encode("1.2.3.4:5");
        assert_eq!(
            cookies(&[&format!("c={text}")]),
            ("1.2.3.4:5".to_owned(), None)
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_session_yet() {
        for lines in [
            &[][..],
            &["d=MS4yLjMuNDo1"],
            &["c"],
            &["c="],
            &["c=%%%"],
            &["c=/w=="],
        ] {
            assert_eq!(cookies(lines), none(), "{lines:?}");
        }
        // The first one counts, even if another one could be read.
        let good = BASE64.encode("1.2.3.4:5;a");
        assert_eq!(cookies(&[&format!("c=%; c={good}")]), none());
    }

    #[test]
    fn a_long_text_is_read_too() {
        let cluster = "x".repeat(1000);
        let text = BASE64.encode(format!("1.2.3.4:5;{cluster}"));
        assert_eq!(
            cookies(&[&format!("c={text}")]),
            some("1.2.3.4:5", &cluster)
        );
    }

    #[test]
    fn a_header_carries_one_address() {
        let rule = rule(header());
        let name = HeaderName::from_static("x-session");
        let lines = [BASE64.encode("1.2.3.4:5")];
        let (hosts, cluster) = found(&rule, name, &lines);
        assert_eq!((&*hosts, cluster), ("1.2.3.4:5", None));
        let nowhere = Found::default();
        let told = rule.tell(&nowhere, "1.2.3.4:5,[::1]:5", "a").unwrap();
        assert_eq!(told.value, lines[0]);
        assert_eq!(told.name, "x-session");
        let there = Found {
            hosts: "[::1]:5",
            cluster: None,
        };
        assert_eq!(rule.tell(&there, "1.2.3.4:5,[::1]:5", "a"), None);
    }

    #[test]
    fn calls_beside_the_path_have_no_session() {
        let rule = rule(cookie("/p.T", 0));
        let mut buffer = Buffer::default();
        assert_eq!(rule.find("/p.S/M", &HeaderMap::new(), &mut buffer), None);
    }

    #[test]
    fn a_cookie_is_set_when_the_endpoint_or_the_cluster_is_another() {
        let rule = rule(cookie("/p.S", 90));
        let found = |hosts, cluster| Found { hosts, cluster };
        let told = |found: Found<'_>| rule.tell(&found, "1.2.3.4:5", "a").map(|told| told.value);
        let line = format!(
            "c={}; HttpOnly; Path=/p.S; Max-Age=90",
            BASE64.encode("1.2.3.4:5;a")
        );
        for other in [
            Found::default(),
            found("1.2.3.4:6", Some("a")),
            found("1.2.3.4:5", Some("b")),
            found("1.2.3.4:5", None),
        ] {
            assert_eq!(told(other).as_ref().unwrap(), line.as_str(), "{other:?}");
        }
        assert_eq!(told(found("1.2.3.4:5", Some("a"))), None);
        assert_eq!(told(found("9.9.9.9:9,1.2.3.4:5", Some("a"))), None);
    }

    #[test]
    fn a_cookie_without_ttl_and_path_says_neither() {
        let told = rule(cookie("", 0)).tell(&Found::default(), "h", "c");
        let line = format!("c={}; HttpOnly", BASE64.encode("h;c"));
        assert_eq!(told.unwrap().value, line);
    }

    #[test]
    fn the_servers_own_cookies_stay() {
        let mut headers = HeaderMap::new();
        headers.insert(SET_COOKIE, HeaderValue::from_static("own=1"));
        let told = rule(cookie("", 0)).tell(&Found::default(), "h", "c");
        told.unwrap().apply(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().count(), 2);
    }

    #[test]
    fn an_override_replaces_its_filter_and_no_other() {
        let chain = [
            filter("f", FilterConfig::NoFault),
            filter("s", FilterConfig::StatefulSession(Some(cookie("/a", 0)))),
            filter("off", FilterConfig::StatefulSession(None)),
            filter("router", FilterConfig::Router),
        ];
        let overrides = |name: &str, state| {
            let mut overrides = FilterOverrides::new();
            overrides.insert(name.to_owned(), FilterConfig::StatefulSession(state));
            overrides
        };
        let state = |overrides: &FilterOverrides| {
            SessionRule::compile(&chain, overrides).map(|rule| rule.state)
        };
        assert_eq!(state(&FilterOverrides::new()), Some(cookie("/a", 0)));
        assert_eq!(state(&overrides("s", None)), None);
        assert_eq!(state(&overrides("s", Some(header()))), Some(header()));
        assert_eq!(state(&overrides("off", Some(header()))), Some(header()));
        // Names of other filters, and of none.
        for other in ["f", "router", "nobody"] {
            let overrides = overrides(other, Some(header()));
            assert_eq!(state(&overrides), Some(cookie("/a", 0)), "{other}");
        }
        assert_eq!(
            SessionRule::compile(&[], &overrides("s", Some(header()))),
            None
        );
    }
}
