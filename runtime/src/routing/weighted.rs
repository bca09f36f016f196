//! The action of a route: which cluster, under which bound (gRFC A28, A31).

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use sidestep_proto::resource::{self, HttpFilter};

use super::table::Around;
use super::{
    Action, ClusterIndex, Criteria, Forward, HashRule, Purpose, RouteTimeout, SessionRule, below,
    draw,
};
use crate::channel::deadline;

impl Action {
    /// Resolves the cluster names of `action`.
    pub(super) fn compile(
        action: &resource::RouteAction,
        cluster: &mut impl FnMut(&str) -> ClusterIndex,
        around: &Around<'_>,
    ) -> Self {
        match action {
            resource::RouteAction::Forward(forward) => {
                Self::Forward(Forward::compile(forward, cluster, around))
            }
            resource::RouteAction::NonForwarding => Self::NonForwarding,
            resource::RouteAction::Unsupported => Self::Unsupported,
        }
    }
}

impl Forward {
    fn compile(
        forward: &resource::Forward,
        cluster: &mut impl FnMut(&str) -> ClusterIndex,
        around: &Around<'_>,
    ) -> Self {
        let mut sum = 0_u64;
        let cumulative = forward.clusters.iter().map(|share| {
            sum += u64::from(share.weight);
            (sum, cluster(&share.name))
        });
        let clusters = cumulative.collect();
        let timeout = RouteTimeout::of(forward, around.max_stream_duration);
        let grpc_timeout = match timeout {
            RouteTimeout::Application => None,
            RouteTimeout::AtMost(limit) => Some(deadline::format(limit)),
        };
        Self {
            clusters,
            timeout,
            grpc_timeout,
            retry: forward.retry.clone().map(Arc::new),
            hash: HashRule::compile(&forward.hash_policies),
            sessions: sessions(&forward.clusters, around.filters),
            subsets: subsets(&forward.clusters),
        }
    }

    /// The value of `grpc-timeout` for a call that is given so long.
    #[must_use]
    pub fn grpc_timeout(&self, given: Duration) -> HeaderValue {
        match &self.grpc_timeout {
            Some(ready) if self.timeout == RouteTimeout::AtMost(given) => ready.clone(),
            _ => deadline::format(given),
        }
    }

    /// The cluster for a call with this random number. Connectivity plays no part (gRFC A31).
    #[must_use]
    pub fn pick(&self, random: u64) -> ClusterIndex {
        let share = self.clusters.get(self.share(random));
        // Validation refuses a route without clusters; there is no such index in any table.
        share.map_or(ClusterIndex(u32::MAX), |(_, cluster)| *cluster)
    }

    /// How a call with this random number keeps to an endpoint: the cluster that it draws decides,
    /// even if its session then leads to another one (gRFC A60).
    #[must_use]
    pub fn session(&self, random: u64) -> Option<&Arc<SessionRule>> {
        let rules = self.sessions.as_ref()?;
        rules.get(self.share(random))?.as_ref()
    }

    /// What a call with this random number asks of the endpoints of its cluster: of the one that it
    /// draws or, where its session is in another one, of that.
    #[must_use]
    pub fn subset(&self, random: u64, cluster: ClusterIndex) -> Option<&Arc<Criteria>> {
        let subsets = self.subsets.as_ref()?;
        let is_of = |at: usize| {
            self.clusters
                .get(at)
                .is_some_and(|(_, own)| *own == cluster)
        };
        let drawn = self.share(random);
        let at = match is_of(drawn) {
            true => drawn,
            false => (0..self.clusters.len()).find(|at| is_of(*at))?,
        };
        subsets.get(at)?.as_ref()
    }

    /// Which of the shares a call with this random number draws.
    fn share(&self, random: u64) -> usize {
        let [.., (sum, _)] = *self.clusters else {
            return 0;
        };
        if self.clusters.len() == 1 {
            return 0;
        }
        let at = below(draw(random, Purpose::Cluster), sum);
        let index = self.clusters.partition_point(|(upto, _)| *upto <= at);
        index.min(self.clusters.len() - 1)
    }
}

/// Whether calls that such a route takes may have sessions.
pub(crate) fn has_sessions(forward: &resource::Forward, filters: &[HttpFilter]) -> bool {
    let mut shares = forward.clusters.iter();
    shares.any(|share| SessionRule::compile(filters, &share.overrides).is_some())
}

/// The rule of each share; `None` if there is none.
fn sessions(
    shares: &[resource::WeightedCluster],
    filters: &[HttpFilter],
) -> Option<Box<[Option<Arc<SessionRule>>]>> {
    let rules = shares.iter();
    let rules = rules.map(|share| SessionRule::compile(filters, &share.overrides).map(Arc::new));
    let rules: Box<[_]> = rules.collect();
    rules.iter().any(Option::is_some).then_some(rules)
}

/// What each share asks for; `None` if that is nothing.
fn subsets(shares: &[resource::WeightedCluster]) -> Option<Box<[Option<Arc<Criteria>>]>> {
    let all = shares.iter();
    let all = all.map(|share| Criteria::compile(&share.subset).map(Arc::new));
    let all: Box<[_]> = all.collect();
    all.iter().any(Option::is_some).then_some(all)
}

impl RouteTimeout {
    /// gRFC A31: `grpc_timeout_header_max` decides alone if it is set; else the route's
    /// `max_stream_duration`, else the connection manager's. Zero is no bound.
    fn of(forward: &resource::Forward, hcm_max: Option<Duration>) -> Self {
        let bound = forward
            .grpc_timeout_header_max
            .or(forward.max_stream_duration)
            .or(hcm_max);
        match bound {
            Some(bound) if !bound.is_zero() => Self::AtMost(bound),
            _ => Self::Application,
        }
    }

    /// The call's time limit: the smaller of the route's and the application's.
    #[must_use]
    pub fn limit(self, application: Option<Duration>) -> Option<Duration> {
        match (self, application) {
            (Self::Application, application) => application,
            (Self::AtMost(bound), None) => Some(bound),
            (Self::AtMost(bound), Some(application)) => Some(bound.min(application)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(weights: &[u32]) -> Forward {
        let clusters = weights
            .iter()
            .enumerate()
            .map(|(i, w)| resource::WeightedCluster::new(i.to_string(), *w));
        let forward = resource::Forward {
            clusters: clusters.collect(),
            max_stream_duration: None,
            grpc_timeout_header_max: None,
            retry: None,
            hash_policies: Vec::new(),
        };
        Forward::compile(
            &forward,
            &mut |n| ClusterIndex(n.parse().unwrap()),
            &Around::default(),
        )
    }

    #[test]
    fn shares_follow_the_weights() {
        for weights in [&[1][..], &[95, 5], &[1, 1, 2], &[u32::MAX - 1, 1]] {
            let forward = forward(weights);
            let mut counts = vec![0_u64; weights.len()];
            for random in 0..100_000 {
                counts[forward.pick(random).0 as usize] += 1;
            }
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for (weight, count) in weights.iter().zip(&counts) {
                let share = f64::from(*weight) / sum;
                let sigma = (100_000.0 * share * (1.0 - share)).sqrt();
                let off = (*count as f64 - 100_000.0 * share).abs();
                assert!(off <= 5.0 * sigma + 1.0, "{weights:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn timeout_table() {
        let s = |n| Some(Duration::from_secs(n));
        let at_most = |n| RouteTimeout::AtMost(Duration::from_secs(n));
        let application = RouteTimeout::Application;
        // header_max, max_stream_duration, of the connection manager, result
        let table = [
            (None, None, None, application),
            (None, None, s(3), at_most(3)),
            (None, s(2), s(3), at_most(2)),
            (None, s(0), s(3), application),
            (None, None, s(0), application),
            (s(0), s(2), s(3), application),
            (s(1), s(2), s(3), at_most(1)),
            (s(9), s(2), None, at_most(9)),
        ];
        for (grpc_timeout_header_max, max_stream_duration, hcm, expected) in table {
            let forward = resource::Forward {
                clusters: vec![],
                max_stream_duration,
                grpc_timeout_header_max,
                retry: None,
                hash_policies: Vec::new(),
            };
            assert_eq!(
                RouteTimeout::of(&forward, hcm),
                expected,
                "{forward:?} {hcm:?}"
            );
        }
    }

    #[test]
    fn a_route_never_lengthens_a_deadline() {
        let s = |n| Some(Duration::from_secs(n));
        let at_most = RouteTimeout::AtMost(Duration::from_secs(2));
        assert_eq!(RouteTimeout::Application.limit(None), None);
        assert_eq!(RouteTimeout::Application.limit(s(5)), s(5));
        assert_eq!(at_most.limit(None), s(2));
        assert_eq!(at_most.limit(s(5)), s(2));
        assert_eq!(at_most.limit(s(1)), s(1));
    }
}
