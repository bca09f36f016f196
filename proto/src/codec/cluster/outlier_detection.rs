//! `Cluster.outlier_detection` (gRFC A50), and the rows of failures that Envoy counts besides.

use std::time::Duration;

use super::{At, Result, wire_duration};
use crate::resource::{FailurePercentage, FailureRun, OutlierDetection, SuccessRate};
use crate::wire::cluster::OutlierDetection as Wire;

const LOCAL_ORIGIN: &str = "errors of the connection and of the answer are counted together";

pub(super) fn decode(at: &At<'_>, wire: &Wire) -> Result<OutlierDetection> {
    let duration = |field, value, default| {
        let value = at.optional_duration(field, value)?;
        Ok(value.unwrap_or(default))
    };
    let percent = |field, value: Option<u32>, default| match value {
        Some(value @ 101..) => Err(at.field(field).out_of_range(value, "0 to 100")),
        value => Ok(value.unwrap_or(default)),
    };
    let standard = OutlierDetection::default();
    let base_ejection_time = duration(
        "base_ejection_time",
        wire.base_ejection_time,
        standard.base_ejection_time,
    )?;
    let max_ejection_time = duration(
        "max_ejection_time",
        wire.max_ejection_time,
        standard.max_ejection_time,
    )?;
    let rate_enforcing = percent("enforcing_success_rate", wire.enforcing_success_rate, 100)?;
    let percentage_enforcing = percent(
        "enforcing_failure_percentage",
        wire.enforcing_failure_percentage,
        0,
    )?;
    let failures = FailurePercentage::default();
    let threshold = percent(
        "failure_percentage_threshold",
        wire.failure_percentage_threshold,
        failures.threshold,
    )?;
    note_ignored(at, wire);
    Ok(OutlierDetection {
        interval: duration("interval", wire.interval, standard.interval)?,
        base_ejection_time,
        max_ejection_time: max_ejection_time.max(base_ejection_time),
        max_ejection_percent: percent(
            "max_ejection_percent",
            wire.max_ejection_percent,
            standard.max_ejection_percent,
        )?,
        success_rate: (rate_enforcing > 0).then(|| success_rate(wire, rate_enforcing)),
        failure_percentage: (percentage_enforcing > 0).then(|| FailurePercentage {
            threshold,
            enforcing: percentage_enforcing,
            minimum_hosts: wire
                .failure_percentage_minimum_hosts
                .unwrap_or(failures.minimum_hosts),
            request_volume: wire
                .failure_percentage_request_volume
                .unwrap_or(failures.request_volume),
        }),
        consecutive_failures: run(
            at,
            wire.consecutive_5xx,
            "enforcing_consecutive_5xx",
            wire.enforcing_consecutive_5xx.unwrap_or(100),
        ),
        consecutive_gateway_failures: run(
            at,
            wire.consecutive_gateway_failure,
            "enforcing_consecutive_gateway_failure",
            wire.enforcing_consecutive_gateway_failure.unwrap_or(0),
        ),
    })
}

fn success_rate(wire: &Wire, enforcing: u32) -> SuccessRate {
    let standard = SuccessRate::default();
    SuccessRate {
        stdev_factor: wire
            .success_rate_stdev_factor
            .unwrap_or(standard.stdev_factor),
        enforcing,
        minimum_hosts: wire
            .success_rate_minimum_hosts
            .unwrap_or(standard.minimum_hosts),
        request_volume: wire
            .success_rate_request_volume
            .unwrap_or(standard.request_volume),
    }
}

/// Envoy counts five in a row where nothing is said; gRPC counts none, so here somebody has to say
/// it. gRPC looks at no bound of these fields: too much is what it can be at most.
fn run(at: &At<'_>, count: Option<u32>, field: &'static str, enforcing: u32) -> Option<FailureRun> {
    let count = count.filter(|count| *count > 0)?;
    at.ignore(field, enforcing > 100, "more than 100 percent is all");
    (enforcing > 0).then_some(FailureRun {
        count,
        enforcing: enforcing.min(100),
    })
}

fn note_ignored(at: &At<'_>, wire: &Wire) {
    at.ignore(
        "split_external_local_origin_errors",
        wire.split_external_local_origin_errors,
        LOCAL_ORIGIN,
    );
    at.ignore(
        "consecutive_local_origin_failure",
        wire.consecutive_local_origin_failure.is_some(),
        LOCAL_ORIGIN,
    );
    at.ignore(
        "enforcing_local_origin_success_rate",
        wire.enforcing_local_origin_success_rate.is_some(),
        LOCAL_ORIGIN,
    );
    at.ignore(
        "enforcing_failure_percentage_local_origin",
        wire.enforcing_failure_percentage_local_origin.is_some(),
        LOCAL_ORIGIN,
    );
    at.ignore(
        "max_ejection_time_jitter",
        wire.max_ejection_time_jitter.is_some(),
        "ejections last as long as computed",
    );
    at.ignore(
        "successful_active_health_check_uneject_host",
        wire.successful_active_health_check_uneject_host.is_some(),
        "no endpoint is checked but by calls",
    );
    at.ignore("monitors", !wire.monitors.is_empty(), "monitors do not run");
    at.ignore(
        "detect_degraded_hosts",
        wire.detect_degraded_hosts == Some(true),
        "an endpoint is ejected or not",
    );
}

/// Says everything: clients differ in what they take for unsaid.
pub(super) fn encode(detection: &OutlierDetection) -> Wire {
    let time = |value: Duration| Some(wire_duration(value));
    let mut wire = Wire {
        interval: time(detection.interval),
        base_ejection_time: time(detection.base_ejection_time),
        max_ejection_time: time(detection.max_ejection_time),
        max_ejection_percent: Some(detection.max_ejection_percent),
        enforcing_success_rate: Some(0),
        enforcing_failure_percentage: Some(0),
        enforcing_consecutive_5xx: Some(0),
        enforcing_consecutive_gateway_failure: Some(0),
        ..Default::default()
    };
    if let Some(rate) = &detection.success_rate {
        wire.enforcing_success_rate = Some(rate.enforcing);
        wire.success_rate_stdev_factor = Some(rate.stdev_factor);
        wire.success_rate_minimum_hosts = Some(rate.minimum_hosts);
        wire.success_rate_request_volume = Some(rate.request_volume);
    }
    if let Some(failures) = &detection.failure_percentage {
        wire.enforcing_failure_percentage = Some(failures.enforcing);
        wire.failure_percentage_threshold = Some(failures.threshold);
        wire.failure_percentage_minimum_hosts = Some(failures.minimum_hosts);
        wire.failure_percentage_request_volume = Some(failures.request_volume);
    }
    if let Some(run) = detection.consecutive_failures {
        wire.consecutive_5xx = Some(run.count);
        wire.enforcing_consecutive_5xx = Some(run.enforcing);
    }
    if let Some(run) = detection.consecutive_gateway_failures {
        wire.consecutive_gateway_failure = Some(run.count);
        wire.enforcing_consecutive_gateway_failure = Some(run.enforcing);
    }
    wire
}
