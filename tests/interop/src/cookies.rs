//! A client's cookies: kept from responses, sent with the requests that follow (RFC 6265, without
//! domains: there is one channel).

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The cookies of a channel, by name and path.
#[derive(Debug, Default)]
pub struct Jar(BTreeMap<(String, String), Cookie>);

#[derive(Debug)]
struct Cookie {
    value: String,
    expires: Option<Instant>,
}

impl Jar {
    /// Takes in the value of a `set-cookie` header. What is none is ignored, as browsers do.
    pub fn keep(&mut self, set_cookie: &str, now: Instant) {
        let mut parts = set_cookie.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let (mut path, mut lifetime) = ("/", None);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            if key.eq_ignore_ascii_case("path") && value.starts_with('/') {
                path = value;
            } else if key.eq_ignore_ascii_case("max-age") {
                lifetime = value.parse::<i64>().ok();
            }
        }
        let key = (name.to_owned(), path.to_owned());
        // Zero or less takes a cookie back.
        let lifetime = lifetime.map(|seconds| u64::try_from(seconds).unwrap_or(0));
        if lifetime == Some(0) {
            self.0.remove(&key);
            return;
        }
        let cookie = Cookie {
            value: value.to_owned(),
            expires: lifetime.and_then(|s| now.checked_add(Duration::from_secs(s))),
        };
        self.0.insert(key, cookie);
    }

    /// The `cookie` header of a request for `path`, if there is anything to send.
    #[must_use]
    pub fn header(&self, path: &str, now: Instant) -> Option<String> {
        let fresh = |cookie: &Cookie| cookie.expires.is_none_or(|expires| expires > now);
        let mut fitting: Vec<_> = self
            .0
            .iter()
            .filter(|((_, scope), cookie)| covers(scope, path) && fresh(cookie))
            .collect();
        fitting.sort_by_key(|((_, scope), _)| std::cmp::Reverse(scope.len()));
        let pairs = fitting
            .iter()
            .map(|((name, _), cookie)| format!("{name}={}", cookie.value));
        let pairs: Vec<_> = pairs.collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }
}

fn covers(scope: &str, path: &str) -> bool {
    let Some(rest) = path.strip_prefix(scope) else {
        return false;
    };
    rest.is_empty() || scope.ends_with('/') || rest.starts_with('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_are_sent_where_and_as_long_as_they_hold() {
        let (mut jar, now) = (Jar::default(), Instant::now());
        assert_eq!(jar.header("/a", now), None);
        jar.keep("session=abc=; HttpOnly; Path=/a", now);
        jar.keep("other=1", now);
        jar.keep("nonsense", now);
        assert_eq!(jar.header("/a/b", now).unwrap(), "session=abc=; other=1");
        assert_eq!(jar.header("/ab", now).unwrap(), "other=1");
        jar.keep("other=2; Max-Age=5", now);
        assert_eq!(jar.header("/", now).unwrap(), "other=2");
        let later = now + Duration::from_secs(5);
        assert_eq!(jar.header("/", later), None);
        jar.keep("session=; Path=/a; Max-Age=0", now);
        assert_eq!(jar.header("/a", later), None);
    }
}
