//! What a call is hashed by (gRFC A42), for policies that send equal hashes to one endpoint.

use std::borrow::Cow;

use http::HeaderMap;
use sidestep_proto::resource::{self, HashSource, Rewrite};
use xxhash_rust::xxh64::xxh64;

use super::header::Source;

/// The hash policies of a route. Empty for most: then nothing is computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashRule(Box<[Part]>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    input: Input,
    terminal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Input {
    Header(Source, Option<Rewrite>),
    Channel,
}

impl HashRule {
    pub(super) fn compile(policies: &[resource::HashPolicy]) -> Self {
        let parts = policies.iter().map(|policy| Part {
            input: match &policy.source {
                HashSource::Header { name, rewrite } => {
                    Input::Header(Source::of(name), rewrite.clone())
                }
                HashSource::ChannelId => Input::Channel,
            },
            terminal: policy.terminal,
        });
        Self(parts.collect())
    }

    /// The hash of a call with these headers over the channel with this id; `None` if no policy
    /// finds anything. Allocates only for a header that is rewritten or there more than once.
    #[must_use]
    pub fn hash(&self, headers: &HeaderMap, channel: u64) -> Option<u64> {
        let mut hash = None::<u64>;
        for part in &self.0 {
            if let Some(new) = part.input.hash(headers, channel) {
                // Rotated, so that two equal parts do not cancel each other out.
                hash = Some(hash.map_or(new, |old| old.rotate_left(1) ^ new));
            }
            if part.terminal && hash.is_some() {
                break;
            }
        }
        hash
    }
}

impl Input {
    fn hash(&self, headers: &HeaderMap, channel: u64) -> Option<u64> {
        match self {
            Self::Channel => Some(channel),
            Self::Header(source, rewrite) => {
                let value = source.value(headers)?;
                let value = match rewrite {
                    Some(rewrite) => Cow::Owned(rewrite.apply(&value).into_owned()),
                    None => value,
                };
                Some(xxh64(value.as_bytes(), 0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::HashPolicy;

    use super::*;

    fn header(name: &str, terminal: bool) -> HashPolicy {
        HashPolicy {
            source: HashSource::Header {
                name: name.to_owned(),
                rewrite: None,
            },
            terminal,
        }
    }

    fn channel() -> HashPolicy {
        HashPolicy {
            source: HashSource::ChannelId,
            terminal: false,
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, http::HeaderValue::from_static(value))
        });
        let mut map = HeaderMap::new();
        pairs.for_each(|(name, value)| _ = map.append(name, value));
        map
    }

    fn hash(policies: &[HashPolicy], pairs: &[(&'static str, &'static str)]) -> Option<u64> {
        HashRule::compile(policies).hash(&headers(pairs), 7)
    }

    #[test]
    fn nothing_found_is_no_hash() {
        assert_eq!(hash(&[], &[("user", "a")]), None);
        assert_eq!(hash(&[header("user", true)], &[("other", "a")]), None);
        // Binary metadata is not seen.
        assert_eq!(
            hash(&[header("user-bin", false)], &[("user-bin", "a")]),
            None
        );
    }

    #[test]
    fn a_header_is_hashed_whole() {
        let user = [header("user", false)];
        assert_eq!(hash(&user, &[("user", "a")]), Some(xxh64(b"a", 0)));
        let twice = [("user", "a"), ("user", "b")];
        assert_eq!(hash(&user, &twice), Some(xxh64(b"a,b", 0)));
    }

    #[test]
    fn parts_are_mixed_until_a_terminal_one_has_found_something() {
        let (a, b) = (xxh64(b"a", 0), xxh64(b"b", 0));
        let both = [("x", "a"), ("y", "b")];
        let mixed = a.rotate_left(1) ^ b;
        assert_eq!(
            hash(&[header("x", false), header("y", false)], &both),
            Some(mixed)
        );
        assert_eq!(
            hash(&[header("x", true), header("y", false)], &both),
            Some(a)
        );
        assert_eq!(
            hash(&[header("z", true), header("y", false)], &both),
            Some(b)
        );
        // Also one that found nothing itself ends it, once there is a hash.
        let policies = [header("x", false), header("z", true), header("y", false)];
        assert_eq!(hash(&policies, &both), Some(a));
        assert_eq!(hash(&[channel(), header("x", false)], &both), Some(14 ^ a));
    }

    #[test]
    fn a_value_is_rewritten_first() {
        let policy = HashPolicy {
            source: HashSource::Header {
                name: "path".to_owned(),
                rewrite: Some(Rewrite::new("^/([a-z]+)/.*$", "\\1").unwrap()),
            },
            terminal: false,
        };
        let found = hash(&[policy], &[("path", "/users/42")]);
        assert_eq!(found, Some(xxh64(b"users", 0)));
    }
}
