//! Who is an outlier, by the counters of an interval (gRFC A50).

use std::fmt;

use sidestep_proto::resource::{FailurePercentage, SuccessRate};

/// What the calls of an interval came to: successes and failures.
pub(super) type Outcomes = (u32, u32);

/// Why an endpoint is an outlier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// It does worse than the others.
    SuccessRate {
        /// Its share of successes.
        rate: f64,
        /// The least that the others ask of it.
        required: f64,
    },
    /// It does badly.
    FailurePercentage {
        /// Its share of failures, in percent.
        percentage: f64,
        /// What it may have.
        threshold: u32,
    },
    /// It failed so often in a row.
    ConsecutiveFailures(u32),
    /// It failed so often in a row in ways that a gateway reports.
    ConsecutiveGatewayFailures(u32),
    /// The call that was to show whether it works again failed.
    Probe,
}

impl Cause {
    /// As metrics have it: gRFC A91's words, and Envoy's for what gRPC does not have.
    #[must_use]
    pub fn method(&self) -> &'static str {
        match self {
            Self::SuccessRate { .. } => "success_rate",
            Self::FailurePercentage { .. } => "failure_percentage",
            Self::ConsecutiveFailures(_) => "consecutive_5xx",
            Self::ConsecutiveGatewayFailures(_) => "consecutive_gateway_failure",
            Self::Probe => "probe",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuccessRate { rate, required } => {
                let (rate, required) = (rate * 100.0, required * 100.0);
                write!(
                    f,
                    "{rate:.1}% of its calls succeeded, the others' results ask for {required:.1}%"
                )
            }
            Self::FailurePercentage {
                percentage,
                threshold,
            } => write!(f, "{percentage:.1}% of its calls failed, {threshold}% may"),
            Self::ConsecutiveFailures(1) | Self::ConsecutiveGatewayFailures(1) => {
                f.write_str("a call failed")
            }
            Self::ConsecutiveFailures(n) | Self::ConsecutiveGatewayFailures(n) => {
                write!(f, "{n} calls in a row failed")
            }
            Self::Probe => f.write_str("the call that was to show whether it works again failed"),
        }
    }
}

fn rate((successes, failures): Outcomes) -> f64 {
    f64::from(successes) / (f64::from(successes) + f64::from(failures))
}

/// Those with enough calls, unless they are too few. One without any call shows nothing.
fn comparable<K: Copy>(
    all: &[(K, Outcomes)],
    request_volume: u32,
    minimum_hosts: u32,
) -> Vec<(K, Outcomes)> {
    let enough = |(_, (good, bad)): &&(K, Outcomes)| {
        let calls = u64::from(*good) + u64::from(*bad);
        calls > 0 && calls >= u64::from(request_volume)
    };
    let found: Vec<_> = all.iter().filter(enough).copied().collect();
    let few = found.len() < usize::try_from(minimum_hosts).unwrap_or(usize::MAX);
    if few { Vec::new() } else { found }
}

/// The endpoints that do worse than the others.
pub(super) fn by_success_rate<K: Copy>(
    rule: &SuccessRate,
    all: &[(K, Outcomes)],
) -> Vec<(K, Cause)> {
    let all = comparable(all, rule.request_volume, rule.minimum_hosts);
    let count = all.len() as f64;
    let mean = all.iter().map(|(_, calls)| rate(*calls)).sum::<f64>() / count;
    let deviation = |calls: Outcomes| (rate(calls) - mean).powi(2);
    let variance = all.iter().map(|(_, calls)| deviation(*calls)).sum::<f64>() / count;
    let required = mean - variance.sqrt() * f64::from(rule.stdev_factor) / 1000.0;
    let outliers = all.into_iter().filter_map(|(key, calls)| {
        let rate = rate(calls);
        (rate < required).then_some((key, Cause::SuccessRate { rate, required }))
    });
    outliers.collect()
}

/// The endpoints that do badly.
pub(super) fn by_failure_percentage<K: Copy>(
    rule: &FailurePercentage,
    all: &[(K, Outcomes)],
) -> Vec<(K, Cause)> {
    let all = comparable(all, rule.request_volume, rule.minimum_hosts);
    let outliers = all.into_iter().filter_map(|(key, (good, bad))| {
        let percentage = f64::from(bad) * 100.0 / (f64::from(good) + f64::from(bad));
        let cause = Cause::FailurePercentage {
            percentage,
            threshold: rule.threshold,
        };
        (percentage > f64::from(rule.threshold)).then_some((key, cause))
    });
    outliers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> SuccessRate {
        SuccessRate {
            stdev_factor: 1900,
            enforcing: 100,
            minimum_hosts: 5,
            request_volume: 100,
        }
    }

    fn keys(found: Vec<(usize, Cause)>) -> Vec<usize> {
        found.into_iter().map(|(key, _)| key).collect()
    }

    fn hosts(calls: &[Outcomes]) -> Vec<(usize, Outcomes)> {
        calls.iter().copied().enumerate().collect()
    }

    #[test]
    fn one_that_does_worse_is_found() {
        // Rates 1, 1, 1, 1, 0.5: mean 0.9, deviation 0.2; 1.9 of it below the mean is 0.52.
        let calls = [(100, 0), (100, 0), (100, 0), (100, 0), (50, 50)];
        let found = by_success_rate(&rule(), &hosts(&calls));
        let [(4, Cause::SuccessRate { rate, required })] = found[..] else {
            panic!("{found:?}");
        };
        assert!((rate - 0.5).abs() < 1e-9);
        assert!((required - 0.52).abs() < 1e-9);
        // A wider allowance.
        let wide = SuccessRate {
            stdev_factor: 2100,
            ..rule()
        };
        assert!(keys(by_success_rate(&wide, &hosts(&calls))).is_empty());
    }

    #[test]
    fn all_alike_are_no_outliers_however_bad() {
        let found = by_success_rate(&rule(), &hosts(&[(0, 100); 8]));
        assert!(keys(found).is_empty());
    }

    #[test]
    fn few_calls_or_few_endpoints_show_nothing() {
        let calls = [(100, 0), (100, 0), (100, 0), (100, 0), (49, 50)];
        assert!(keys(by_success_rate(&rule(), &hosts(&calls))).is_empty());
        assert!(keys(by_success_rate(&rule(), &hosts(&calls[1..]))).is_empty());
        let none = SuccessRate {
            minimum_hosts: 0,
            request_volume: 0,
            ..rule()
        };
        assert!(keys(by_success_rate(&none, &hosts(&[(0, 0); 5]))).is_empty());
        assert!(keys(by_success_rate(&none, &[])).is_empty());
    }

    #[test]
    fn a_percentage_must_be_exceeded() {
        let rule = FailurePercentage {
            threshold: 85,
            enforcing: 100,
            minimum_hosts: 3,
            request_volume: 20,
        };
        let calls = [(3, 17), (2, 18), (0, 19), (20, 0)];
        let found = by_failure_percentage(&rule, &hosts(&calls));
        assert_eq!(keys(found), [1], "85% is not more than 85%");
        let many = FailurePercentage {
            minimum_hosts: 4,
            ..rule
        };
        assert!(keys(by_failure_percentage(&many, &hosts(&calls))).is_empty());
    }
}
