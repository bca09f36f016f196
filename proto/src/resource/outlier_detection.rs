//! `envoy.config.cluster.v3.OutlierDetection`: whom to leave out for what its calls came to.

use std::time::Duration;

/// Whom to leave out, and for how long (gRFC A50). The defaults are gRPC's, with no rule at all.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OutlierDetection {
    /// Between two looks at the counters. Default 10 s.
    pub interval: Duration,
    /// How long the first ejection lasts; each further one lasts this much longer. Default 30 s.
    pub base_ejection_time: Duration,
    /// How long an ejection lasts at most. Default 300 s; at least `base_ejection_time`.
    pub max_ejection_time: Duration,
    /// From this share of ejected endpoints on nobody is ejected, in percent: 0 to 100, default 10.
    pub max_ejection_percent: u32,
    /// Ejects those that do worse than the others.
    pub success_rate: Option<SuccessRate>,
    /// Ejects those that do badly.
    pub failure_percentage: Option<FailurePercentage>,
    /// Ejects at once after failures in a row: statuses that stand for HTTP's 5xx (Envoy's
    /// `consecutive_5xx`; no gRPC client but this one reads it).
    pub consecutive_failures: Option<FailureRun>,
    /// As before, but only those that stand for 502 to 504 (`consecutive_gateway_failure`).
    pub consecutive_gateway_failures: Option<FailureRun>,
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            success_rate: None,
            failure_percentage: None,
            consecutive_failures: None,
            consecutive_gateway_failures: None,
        }
    }
}

impl OutlierDetection {
    /// Whether there is any rule.
    #[must_use]
    pub fn has_rules(&self) -> bool {
        self.success_rate.is_some()
            || self.failure_percentage.is_some()
            || self.consecutive_failures.is_some()
            || self.consecutive_gateway_failures.is_some()
    }
}

/// Ejects endpoints whose share of successes is below `mean - stdev * stdev_factor / 1000`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SuccessRate {
    /// In thousandths. Default 1900.
    pub stdev_factor: u32,
    /// How many of those found are ejected, in percent: 1 to 100, default 100.
    pub enforcing: u32,
    /// With fewer endpoints of enough calls nobody is compared. Default 5.
    pub minimum_hosts: u32,
    /// Calls in an interval from which on an endpoint is compared. Default 100.
    pub request_volume: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            stdev_factor: 1900,
            enforcing: 100,
            minimum_hosts: 5,
            request_volume: 100,
        }
    }
}

/// Ejects endpoints of whose calls more than `threshold` percent failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FailurePercentage {
    /// In percent: 0 to 100, default 85.
    pub threshold: u32,
    /// How many of those found are ejected, in percent: 1 to 100.
    pub enforcing: u32,
    /// With fewer endpoints of enough calls nobody is looked at. Default 5.
    pub minimum_hosts: u32,
    /// Calls in an interval from which on an endpoint is looked at. Default 50.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self {
            threshold: 85,
            enforcing: 100,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}

/// Ejects an endpoint as soon as it has failed so often in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FailureRun {
    /// Failures in a row, at least 1.
    pub count: u32,
    /// How many of those found are ejected, in percent: 1 to 100.
    pub enforcing: u32,
}
