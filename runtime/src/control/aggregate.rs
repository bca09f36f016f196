//! From an aggregate cluster to the clusters it comes down to (gRFC A37, A74). Pure.
//!
//! ```text
//!   all ─┬─ near ─┬─ a        all comes down to a, b, c: depth first, each where it is met first
//!        │        └─ b
//!        └─ far ──┬─ b
//!                 └─ c
//! ```
//!
//! What cannot be used is passed over, so that a leaf which does not exist (yet) takes nothing
//! down. A tree that leads back to itself, or goes too deep, fails the whole aggregate.

use std::collections::HashSet;
use std::sync::Arc;

use sidestep_proto::code;
use sidestep_proto::resource::{Cluster, Discovery, EndpointAssignment, ResourceType};

use super::dependency::{self, ClusterConfig, ClusterNeeds, Resolution, View};
use super::resource_cache::Lookup;
use crate::balancer::Failure;
use crate::resolver::Transport;

/// Clusters on the way from an aggregate to a leaf, both counted (gRFC A37).
const MOST_LEVELS: usize = 16;

/// What an aggregate comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaves {
    /// Most preferred first, each once, at least one; none is an aggregate.
    pub(super) names: Arc<[Arc<str>]>,
    /// What was passed over, and why.
    pub(super) skipped: Arc<[(Arc<str>, Failure)]>,
}

/// Resolves an aggregate, whose resource is `cluster`: it waits until there is an answer for each
/// cluster below it and for the endpoints of each leaf. Host names are waited for only where no
/// leaf before them has endpoints.
pub(super) fn config(
    view: View<'_>,
    name: &Arc<str>,
    cluster: &Arc<Cluster>,
    needs: &mut ClusterNeeds,
) -> Resolution<ClusterConfig> {
    let mut walk = Walk {
        view,
        needs,
        path: Vec::new(),
        seen: HashSet::new(),
        names: Vec::new(),
        skipped: Vec::new(),
        has_endpoints: false,
        is_waiting: false,
    };
    if let Err(failure) = walk.visit(name) {
        return Resolution::Failed(failure);
    }
    if walk.is_waiting {
        return Resolution::Waiting;
    }
    if walk.names.is_empty() {
        return Resolution::Failed(walk.nothing_left(name));
    }
    Resolution::Ready(ClusterConfig {
        cluster: cluster.clone(),
        endpoints: Ok(Arc::new(EndpointAssignment {
            cluster: name.to_string(),
            localities: Vec::new(),
            drops: Vec::new(),
        })),
        transport: Transport::Unsaid,
        leaves: Some(Leaves {
            names: walk.names.into(),
            skipped: walk.skipped.into(),
        }),
    })
}

struct Walk<'a> {
    view: View<'a>,
    needs: &'a mut ClusterNeeds,
    /// From the aggregate to where the walk is.
    path: Vec<Arc<str>>,
    seen: HashSet<Arc<str>>,
    names: Vec<Arc<str>>,
    skipped: Vec<(Arc<str>, Failure)>,
    /// A leaf before this place has endpoints.
    has_endpoints: bool,
    is_waiting: bool,
}

impl Walk<'_> {
    fn visit(&mut self, name: &Arc<str>) -> Result<(), Failure> {
        if self.path.contains(name) {
            return Err(self.loops(name));
        }
        if self.path.len() == MOST_LEVELS {
            return Err(self.too_deep(name));
        }
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let key = (ResourceType::Cluster, name.clone());
        self.needs.resources.insert(key);
        let cluster = match self.view.cache.cluster(name) {
            Lookup::Waiting => {
                self.is_waiting = true;
                return Ok(());
            }
            Lookup::Failed(error) => {
                let failure =
                    dependency::failure(self.view.origins, ResourceType::Cluster, name, &error);
                self.skipped.push((name.clone(), failure));
                return Ok(());
            }
            Lookup::Found(cluster) => cluster,
        };
        let Discovery::Aggregate { clusters } = &cluster.discovery else {
            self.leaf(name, cluster);
            return Ok(());
        };
        self.path.push(name.clone());
        for below in clusters {
            self.visit(&Arc::from(below.as_str()))?;
        }
        self.path.pop();
        Ok(())
    }

    fn leaf(&mut self, name: &Arc<str>, cluster: &Cluster) {
        match dependency::cluster_config(self.view, name, self.needs) {
            Resolution::Waiting => {
                // A slow name server must not hold up what needs it last, if at all.
                if self.has_endpoints && is_named(cluster) {
                    self.names.push(name.clone());
                } else {
                    self.is_waiting = true;
                }
            }
            // Without endpoints it is a leaf all the same: one that fails.
            Resolution::Ready(config) => {
                let endpoints = config.endpoints.iter().flat_map(|e| &e.localities);
                self.has_endpoints |= endpoints.map(|l| l.endpoints.len()).sum::<usize>() > 0;
                self.names.push(name.clone());
            }
            Resolution::Failed(failure) => self.skipped.push((name.clone(), failure)),
        }
    }

    /// `"a" -> "b" -> "c"`, as people read it.
    fn path_to(&self, name: &Arc<str>) -> String {
        let path = self.path.iter().chain([name]);
        let names: Vec<String> = path.map(|name| format!("{name:?}")).collect();
        names.join(" -> ")
    }

    fn loops(&self, name: &Arc<str>) -> Failure {
        let text = format!("leads back to itself: {}", self.path_to(name));
        self.wrong(code::AGGREGATE_LOOP, &text)
    }

    fn too_deep(&self, name: &Arc<str>) -> Failure {
        let path = self.path_to(name);
        let text = format!("goes deeper than {MOST_LEVELS} clusters: {path}");
        self.wrong(code::AGGREGATE_TOO_DEEP, &text)
    }

    fn nothing_left(&self, name: &Arc<str>) -> Failure {
        let skipped = self.skipped.iter();
        let reasons: Vec<&str> = skipped.map(|(_, failure)| &*failure.0).collect();
        let text = format!(
            "aggregate Cluster {name:?} has no cluster that can be used: {}",
            reasons.join("; ")
        );
        Failure::new(code::AGGREGATE_EMPTY, text)
    }

    fn wrong(&self, code: code::Code, what: &str) -> Failure {
        let name = self.path.first().cloned().unwrap_or_default();
        let origin = self.view.origins.of(&(ResourceType::Cluster, name.clone()));
        Failure::new(code, format!("aggregate Cluster {name:?} {what} {origin}"))
    }
}

/// Whether its endpoints are host names.
fn is_named(cluster: &Cluster) -> bool {
    matches!(
        cluster.discovery,
        Discovery::LogicalDns { .. } | Discovery::StrictDns { .. }
    )
}

#[cfg(test)]
mod tests {
    use sidestep_proto::resource::Resource;

    use super::super::dependency::tests::{cache, origins, view};
    use super::super::tests::fixtures;
    use super::*;

    fn aggregate(name: &str, clusters: &[&str]) -> Resource {
        let mut cluster = fixtures::plain_cluster(name);
        cluster.discovery = Discovery::Aggregate {
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
        };
        Resource::Cluster(Arc::new(cluster))
    }

    fn leaf(name: &str) -> [Resource; 2] {
        [fixtures::cluster(name), fixtures::endpoints(name, &[])]
    }

    fn resolve(
        resources: &[Resource],
        missing: &[(ResourceType, &str)],
    ) -> (Resolution<ClusterConfig>, usize) {
        let (cache, origins) = (cache(resources, missing), origins());
        let mut needs = ClusterNeeds::default();
        let view = view(&cache, &origins);
        let config = dependency::cluster_config(view, &Arc::from("all"), &mut needs);
        (config, needs.resources.len())
    }

    #[track_caller]
    fn leaves(resources: &[Resource], missing: &[(ResourceType, &str)]) -> Leaves {
        match resolve(resources, missing).0 {
            Resolution::Ready(config) => config.leaves.expect("it is an aggregate"),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn failure(resources: &[Resource], missing: &[(ResourceType, &str)]) -> Failure {
        match resolve(resources, missing).0 {
            Resolution::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn names(leaves: &Leaves) -> Vec<&str> {
        leaves.names.iter().map(|name| &**name).collect()
    }

    #[test]
    fn a_tree_comes_down_to_its_leaves_depth_first_each_once() {
        let mut all = vec![
            aggregate("all", &["near", "d", "far"]),
            aggregate("near", &["a", "b"]),
            aggregate("far", &["b", "near", "c", "a"]),
        ];
        all.extend(["a", "b", "c", "d"].into_iter().flat_map(leaf));
        assert_eq!(names(&leaves(&all, &[])), ["a", "b", "d", "c"]);
    }

    #[test]
    fn everything_below_is_asked_for_and_waited_for() {
        let all = aggregate("all", &["a", "b"]);
        assert_eq!(
            resolve(std::slice::from_ref(&all), &[]),
            (Resolution::Waiting, 3)
        );
        let [a, its_endpoints] = leaf("a");
        let mut known = vec![all, a];
        assert_eq!(resolve(&known, &[]), (Resolution::Waiting, 4));
        known.push(its_endpoints);
        known.extend(leaf("b"));
        assert_eq!(names(&leaves(&known, &[])), ["a", "b"]);
    }

    #[test]
    fn what_does_not_exist_is_passed_over() {
        let mut known = vec![aggregate("all", &["a", "b", "c"])];
        known.extend(leaf("b"));
        known.push(fixtures::cluster("c"));
        let missing = [
            (ResourceType::Cluster, "a"),
            (ResourceType::EndpointAssignment, "c"),
        ];
        let leaves = leaves(&known, &missing);
        // A leaf whose endpoints are missing is there, and fails.
        assert_eq!(names(&leaves), ["b", "c"]);
        let (name, why) = &leaves.skipped[0];
        assert_eq!(
            (&**name, &*why.0),
            (
                "a",
                "Cluster \"a\" does not exist (xDS server plane:1, node \"me\")"
            )
        );
    }

    #[test]
    fn host_names_are_waited_for_only_where_nothing_before_them_has_endpoints() {
        let mut named = fixtures::plain_cluster("named");
        named.discovery = Discovery::LogicalDns {
            host: "greeter.example".into(),
            port: 80,
            lookup: sidestep_proto::resource::DnsLookup::default(),
            labels: sidestep_proto::resource::Labels::default(),
        };
        let named = Resource::Cluster(Arc::new(named));
        let mut known = vec![aggregate("all", &["named", "a"]), named];
        let address = ([127, 0, 0, 1], 80).into();
        known.extend([fixtures::cluster("a"), fixtures::endpoints("a", &[address])]);
        assert_eq!(resolve(&known, &[]).0, Resolution::Waiting);
        known[0] = aggregate("all", &["a", "named"]);
        assert_eq!(names(&leaves(&known, &[])), ["a", "named"]);
        // Endpoints that are none do not count.
        known.push(fixtures::endpoints("a", &[]));
        assert_eq!(resolve(&known, &[]).0, Resolution::Waiting);
    }

    #[test]
    fn with_nothing_left_the_aggregate_fails_and_says_what_each_lacks() {
        let missing = [(ResourceType::Cluster, "a"), (ResourceType::Cluster, "b")];
        let failure = failure(&[aggregate("all", &["a", "b"])], &missing);
        assert_eq!(failure.1, code::AGGREGATE_EMPTY);
        for part in [
            "aggregate Cluster \"all\"",
            "Cluster \"a\" does not exist",
            "Cluster \"b\" does not exist",
            "node \"me\"",
        ] {
            assert!(failure.0.contains(part), "{failure}");
        }
    }

    #[test]
    fn a_loop_is_named() {
        for (tree, path) in [
            (vec![("all", vec!["all"])], "\"all\" -> \"all\""),
            (
                vec![("all", vec!["x"]), ("x", vec!["y"]), ("y", vec!["x"])],
                "\"all\" -> \"x\" -> \"y\" -> \"x\"",
            ),
        ] {
            let tree: Vec<_> = tree.iter().map(|(n, b)| aggregate(n, b)).collect();
            let failure = failure(&tree, &[]);
            assert_eq!(failure.1, code::AGGREGATE_LOOP);
            let text = format!("aggregate Cluster \"all\" leads back to itself: {path} (xDS");
            assert!(failure.0.starts_with(&text), "{failure}");
        }
    }

    /// `all -> 1 -> 2 -> …`, the last of which is a leaf.
    fn chain(clusters: usize) -> Vec<Resource> {
        let name = |at: usize| match at {
            0 => "all".to_owned(),
            at => at.to_string(),
        };
        let above = 0..clusters - 1;
        let mut chain: Vec<_> = above
            .map(|at| aggregate(&name(at), &[&name(at + 1)]))
            .collect();
        chain.extend(leaf(&name(clusters - 1)));
        chain
    }

    #[test]
    fn sixteen_levels_and_no_more() {
        assert_eq!(names(&leaves(&chain(16), &[])), ["15"]);
        let failure = failure(&chain(17), &[]);
        assert_eq!(failure.1, code::AGGREGATE_TOO_DEEP);
        assert!(failure.0.contains("deeper than 16 clusters"), "{failure}");
        assert!(
            failure.0.contains("\"14\" -> \"15\" -> \"16\""),
            "{failure}"
        );
    }

    #[test]
    fn a_wide_tree_is_walked_once() {
        // Without memory of what was seen: 3^15 visits.
        let mut all = Vec::new();
        for level in 0..15 {
            let name = if level == 0 {
                "all".into()
            } else {
                format!("l{level}")
            };
            let below = match level {
                14 => "leaf".to_owned(),
                _ => format!("l{}", level + 1),
            };
            all.push(aggregate(&name, &[&below, &below, &below]));
        }
        all.extend(leaf("leaf"));
        assert_eq!(names(&leaves(&all, &[])), ["leaf"]);
    }
}
