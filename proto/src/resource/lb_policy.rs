//! How calls are spread over the endpoints of a cluster.

use super::{CustomPolicy, Subsets, ZoneAware};
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// How calls are spread: policies that pick endpoints, and policies made of policies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LbPolicy {
    /// Each ready endpoint in turn.
    RoundRobin,
    /// The least loaded of `choice_count` random ones (gRFC A48), 2 to 10.
    LeastRequest {
        /// How many are drawn, with repetition.
        choice_count: u32,
    },
    /// One connection, the first that works (gRFC A62).
    PickFirst {
        /// Whether the order is random, so that clients spread.
        shuffle: bool,
    },
    /// The ready endpoint that a random number names.
    Random,
    /// The next endpoint on a ring of hashes (gRFC A42): calls with one hash meet one endpoint.
    RingHash {
        /// Least number of entries; default 1024, at most 8 Mi and `max_ring_size`.
        min_ring_size: u32,
        /// Greatest number of entries; default and at most 8 Mi. The runtime caps it again.
        max_ring_size: u32,
    },
    /// The endpoint in a table of hashes: spreads more evenly than a ring, and moves a little more
    /// when endpoints change.
    Maglev {
        /// Entries of the table: a prime of at most 5000011; default 65537.
        table_size: u32,
    },
    /// Each ready endpoint in turn, by weights made of what endpoints report (gRFC A58, A114).
    WeightedRoundRobin(WeightedRoundRobin),
    /// The one of two random endpoints where a call is likely to be answered sooner: by a moving
    /// average of latencies and the calls in flight.
    PeakEwma(PeakEwma),
    /// A policy that picks endpoints by weight, around which new endpoints grow into theirs.
    SlowStart {
        /// How they grow.
        growth: SlowStart,
        /// The policy.
        child: Box<Self>,
    },
    /// A locality at random, by weight, and a policy inside of each (`wrr_locality`, gRFC A52).
    /// Without it a policy sees the endpoints of all localities of a priority as one list.
    WrrLocality(Box<Self>),
    /// Some of the endpoints, others for each process, and a policy that sees only those (gRFC A68).
    RandomSubset {
        /// How many, at least 1.
        size: u32,
        /// The policy that sees them.
        child: Box<Self>,
    },
    /// The caller's zone first, and a policy inside of each locality.
    ZoneAware(Box<ZoneAware>),
    /// The endpoints that a call's route asks for, and a policy among them: over all priorities.
    Subsets(Box<Subsets>),
    /// One that the process has registered (gRFC A52).
    Custom(CustomPolicy),
}

impl LbPolicy {
    /// This policy with new endpoints growing into their weights, if that is wanted.
    #[must_use]
    pub fn with_slow_start(self, growth: Option<SlowStart>) -> Self {
        match growth {
            None => self,
            Some(growth) => Self::SlowStart {
                growth,
                child: Box::new(self),
            },
        }
    }

    /// This policy inside of each locality, which are chosen by weight.
    #[must_use]
    pub fn by_locality(self) -> Self {
        Self::WrrLocality(Box::new(self))
    }

    /// What `ROUND_ROBIN` means, the policy of a cluster that names none.
    #[must_use]
    pub fn round_robin() -> Self {
        Self::RoundRobin.by_locality()
    }
}

/// Settings of [`LbPolicy::WeightedRoundRobin`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WeightedRoundRobin {
    /// How often endpoints are asked for reports beside calls; `None`: reports come at the end of
    /// calls.
    pub out_of_band: Option<Duration>,
    /// For so long after the first report an endpoint's weight does not count yet. Default 10 s.
    pub blackout: Duration,
    /// So long after the last report it counts no more. Default 3 min.
    pub expiration: Duration,
    /// How often new weights are taken into use: 100 ms and up. Default 1 s.
    pub update_period: Duration,
    /// How much failed calls count as load: 0 and up. Default 1.
    pub error_penalty: Finite,
    /// The greatest of these is the utilization, where any is reported; else it is what A58 says.
    pub metrics: Vec<Metric>,
}

impl Default for WeightedRoundRobin {
    fn default() -> Self {
        Self {
            out_of_band: None,
            blackout: Duration::from_secs(10),
            expiration: Duration::from_secs(180),
            update_period: Duration::from_secs(1),
            error_penalty: Finite(1.0),
            metrics: Vec::new(),
        }
    }
}

impl WeightedRoundRobin {
    /// The default period of reports beside calls.
    pub const OUT_OF_BAND: Duration = Duration::from_secs(10);
    /// Shorter update periods count as this.
    pub const LEAST_UPDATE_PERIOD: Duration = Duration::from_millis(100);
}

/// One measure of utilization that endpoints report (gRFC A114).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `cpu_utilization`
    Cpu,
    /// `mem_utilization`
    Memory,
    /// `application_utilization`
    Application,
    /// `utilization.NAME`
    Utilization(Box<str>),
    /// `named_metrics.NAME`
    Named(Box<str>),
}

impl Metric {
    /// Reads a name; `None`: there is no such metric.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "cpu_utilization" => Some(Self::Cpu),
            "mem_utilization" => Some(Self::Memory),
            "application_utilization" => Some(Self::Application),
            _ => match name.split_once('.') {
                Some(("utilization", name)) => Some(Self::Utilization(name.into())),
                Some(("named_metrics", name)) => Some(Self::Named(name.into())),
                _ => None,
            },
        }
    }
}

/// The name.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu_utilization"),
            Self::Memory => f.write_str("mem_utilization"),
            Self::Application => f.write_str("application_utilization"),
            Self::Utilization(name) => write!(f, "utilization.{name}"),
            Self::Named(name) => write!(f, "named_metrics.{name}"),
        }
    }
}

/// Settings of [`LbPolicy::PeakEwma`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeakEwma {
    /// Until an old latency counts 1/e: above 0. Default 10 s.
    pub decay: Duration,
    /// What an endpoint counts as before its first call has ended; `None`: as much as the one that
    /// it is compared with.
    pub default_latency: Option<Duration>,
    /// How long a failed call counts to have taken. Default 5 s.
    pub failure_penalty: Duration,
}

impl Default for PeakEwma {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            default_latency: None,
            failure_penalty: Duration::from_secs(5),
        }
    }
}

/// How new endpoints grow into their weights: after a share `t` of the window they have
/// `t^(1/aggression)` of it, and never less than the least.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SlowStart {
    /// How long it takes: above 0.
    pub window: Duration,
    /// 1: evenly; more: faster at first. Above 0. Default 1.
    pub aggression: Finite,
    /// What they begin with, in percent of their weight: 0 to 100. Default 10.
    pub min_weight_percent: Finite,
}

impl SlowStart {
    /// A window of this length, and all else by default.
    #[must_use]
    pub fn over(window: Duration) -> Self {
        Self {
            window,
            aggression: Finite(1.0),
            min_weight_percent: Finite(10.0),
        }
    }
}

/// A number: never NaN, never infinite, so that resources compare and hash.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finite(f64);

impl Finite {
    /// `None` for what is no finite number.
    #[must_use]
    pub fn new(number: f64) -> Option<Self> {
        // Adding zero makes minus zero zero: equal numbers have equal bits.
        number.is_finite().then_some(Self(number + 0.0))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Eq for Finite {}

/// By number: the order is total, because neither is infinite or none.
impl Ord for Finite {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Finite {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for Finite {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_metrics_read_back() {
        for name in [
            "cpu_utilization",
            "mem_utilization",
            "application_utilization",
            "utilization.disk",
            "named_metrics.a.b",
        ] {
            let metric = Metric::parse(name).expect(name);
            assert_eq!(metric.to_string(), name);
        }
        for name in ["", "gpu", "eps.a", "rps_fractional"] {
            assert_eq!(Metric::parse(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_are_finite_and_have_one_zero() {
        assert_eq!(Finite::new(f64::NAN), None);
        assert_eq!(Finite::new(f64::INFINITY), None);
        let zeros = [0.0, -0.0].map(|zero| Finite::new(zero).unwrap().get().to_bits());
        assert_eq!(zeros, [0, 0]);
    }
}
