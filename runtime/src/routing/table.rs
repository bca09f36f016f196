//! The compiled route configuration.

use std::time::Duration;

use sidestep_proto::resource::{self, HttpFilter, RouteConfiguration};

use super::host::HostIndex;
use super::path::PathIndex;
use super::rule::{Route, Rule};
use super::{Action, Call, ClusterIndex};

/// A route configuration, ready to be asked.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    index: HostIndex,
    pub(super) hosts: Vec<Host>,
}

/// What the connection manager around the routes says.
#[derive(Debug, Clone, Copy, Default)]
pub struct Around<'a> {
    /// Its bound on streams (gRFC A31), used by routes that have none of their own.
    pub max_stream_duration: Option<Duration>,
    /// Its HTTP filters.
    pub filters: &'a [HttpFilter],
}

/// A virtual host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: Box<str>,
    index: PathIndex,
    pub(super) rules: Vec<Rule>,
}

impl RouteTable {
    /// Compiles `config` where there are no filters.
    ///
    /// `cluster` turns a cluster's name into its index and is asked once for each mention.
    /// `max_stream_duration_of_hcm` is the connection manager's bound (gRFC A31), used by routes
    /// that have none of their own.
    pub fn compile(
        config: &RouteConfiguration,
        cluster: impl FnMut(&str) -> ClusterIndex,
        max_stream_duration_of_hcm: Option<Duration>,
    ) -> Self {
        let around = Around {
            max_stream_duration: max_stream_duration_of_hcm,
            ..Around::default()
        };
        Self::compile_in(config, cluster, &around)
    }

    /// Compiles `config` as a connection manager uses it.
    pub fn compile_in(
        config: &RouteConfiguration,
        mut cluster: impl FnMut(&str) -> ClusterIndex,
        around: &Around<'_>,
    ) -> Self {
        let mut table = Self::default();
        for host in &config.virtual_hosts {
            for domain in &host.domains {
                table.index.insert(domain, table.hosts.len());
            }
            let host = Host::compile(host, &mut cluster, around);
            table.hosts.push(host);
        }
        table
    }

    /// The route that takes `call`; `None` is `UNAVAILABLE`.
    #[must_use]
    pub fn find<'a>(&'a self, call: &Call<'_>) -> Option<&'a Route> {
        self.host(call.authority)?.find(call)
    }

    /// Name of the virtual host for `authority`.
    #[must_use]
    pub fn virtual_host(&self, authority: &str) -> Option<&str> {
        self.host(authority).map(|host| &*host.name)
    }

    pub(super) fn host(&self, authority: &str) -> Option<&Host> {
        self.hosts.get(self.index.find(authority)?)
    }
}

impl Host {
    fn compile(
        host: &resource::VirtualHost,
        cluster: &mut impl FnMut(&str) -> ClusterIndex,
        around: &Around<'_>,
    ) -> Self {
        let rules = (0..).zip(&host.routes).map(|(position, route)| {
            let compiled = Route {
                name: route.name.as_str().into(),
                action: Action::compile(&route.action, cluster, around),
            };
            Rule::compile(&route.matches, position, compiled)
        });
        Self {
            name: host.name.as_str().into(),
            rules: rules.collect(),
            index: PathIndex::compile(host.routes.iter().map(|r| &r.matches.path)),
        }
    }

    fn find(&self, call: &Call<'_>) -> Option<&Route> {
        let mut candidates = self.index.candidates(call.path);
        let rule = candidates.find(|at| self.rules[*at].mismatch(call).is_none());
        rule.map(|at| &self.rules[at].route)
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use sidestep_proto::resource::{
        Forward, HeaderCondition, HeaderMatcher, PathMatcher, Pattern, PerMillion, RouteAction,
        RouteMatch, StringMatcher, Text, VirtualHost, WeightedCluster,
    };

    use super::*;

    fn forward(cluster: &str) -> RouteAction {
        RouteAction::Forward(Forward {
            clusters: vec![WeightedCluster::new(cluster.to_owned(), 1)],
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            retry: None,
            hash_policies: Vec::new(),
        })
    }

    fn random_path(rng: &mut fastrand::Rng) -> String {
        let service = rng.choice(["/a.A/", "/a.B/", "/A.b/", "/", "//"]).unwrap();
        let method = rng.choice(["", "M", "Me", "m", "M/x"]).unwrap();
        format!("{service}{method}")
    }

    fn random_matcher(rng: &mut fastrand::Rng) -> PathMatcher {
        let path = random_path(rng);
        let text = Text {
            ignore_case: rng.u8(..4) == 0,
            value: path.clone(),
        };
        match rng.u8(..8) {
            0 => PathMatcher::Regex(Pattern::new(&format!("{path}.?")).unwrap()),
            1..=3 => PathMatcher::Prefix(text),
            _ => PathMatcher::Exact(text),
        }
    }

    fn random_route(rng: &mut fastrand::Rng, at: usize) -> resource::Route {
        let header = HeaderMatcher {
            name: "x".into(),
            condition: HeaderCondition::Value(StringMatcher::Exact(Text::exact("1"))),
            invert: rng.bool(),
        };
        resource::Route {
            name: at.to_string(),
            matches: RouteMatch {
                path: random_matcher(rng),
                headers: if rng.bool() { vec![header] } else { vec![] },
                fraction: (rng.u8(..4) == 0).then(|| PerMillion::new(500_000)),
            },
            action: forward("c"),
        }
    }

    #[test]
    fn index_and_scan_agree_on_random_tables() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..200 {
            let routes = (0..rng.usize(0..40)).map(|at| random_route(&mut rng, at));
            let config = RouteConfiguration {
                name: String::new(),
                virtual_hosts: vec![VirtualHost {
                    name: "v".into(),
                    domains: vec!["*".into()],
                    routes: routes.collect(),
                }],
            };
            let table = RouteTable::compile(&config, |_| ClusterIndex(0), None);
            for _ in 0..50 {
                let mut headers = HeaderMap::new();
                if rng.bool() {
                    headers.insert(
                        "x",
                        HeaderValue::from_static(rng.choice(["1", "2"]).unwrap()),
                    );
                }
                let path = random_path(&mut rng);
                let call = Call {
                    authority: "a",
                    path: &path,
                    headers: &headers,
                    random: rng.u64(..),
                    hash: 0,
                    session: None,
                    subset: None,
                };
                let mut scan = table.hosts[0].rules.iter();
                let naive = scan.find(|rule| rule.mismatch(&call).is_none());
                let naive = naive.map(|rule| &rule.route.name);
                assert_eq!(
                    table.find(&call).map(|r| &r.name),
                    naive,
                    "seed {seed}: {call:?}"
                );
            }
        }
    }

    #[test]
    fn clusters_become_indices_in_order_of_mention() {
        let route = |name: &str, action| resource::Route {
            name: name.into(),
            matches: RouteMatch {
                path: PathMatcher::Prefix(Text::exact("")),
                headers: vec![],
                fraction: None,
            },
            action,
        };
        let host = |name: &str, routes| VirtualHost {
            name: name.into(),
            domains: vec![name.into()],
            routes,
        };
        let config = RouteConfiguration {
            name: String::new(),
            virtual_hosts: vec![
                host("one", vec![route("r", forward("x"))]),
                host("two", vec![route("r", RouteAction::NonForwarding)]),
                host("three", vec![route("r", RouteAction::Unsupported)]),
                host("four", vec![]),
                host("five", vec![route("r", forward("y"))]),
            ],
        };
        let mut names = Vec::new();
        let table = RouteTable::compile(
            &config,
            |name| {
                names.push(name.to_owned());
                ClusterIndex(names.len() as u32 - 1)
            },
            None,
        );
        assert_eq!(names, ["x", "y"]);
        let headers = HeaderMap::new();
        let find = |authority| {
            let call = Call {
                authority,
                path: "/a/b",
                headers: &headers,
                random: 0,
                hash: 0,
                session: None,
                subset: None,
            };
            match &table.find(&call)?.action {
                Action::Forward(forward) => Some(forward.pick(0).0.to_string()),
                other => Some(format!("{other:?}")),
            }
        };
        assert_eq!(find("one").as_deref(), Some("0"));
        assert_eq!(find("two").as_deref(), Some("NonForwarding"));
        assert_eq!(find("three").as_deref(), Some("Unsupported"));
        assert_eq!(find("four"), None);
        assert_eq!(find("five").as_deref(), Some("1"));
        assert_eq!(find("six"), None);
        assert_eq!(table.virtual_host("FIVE"), Some("five"));
        assert_eq!(table.virtual_host("six"), None);
    }
}
