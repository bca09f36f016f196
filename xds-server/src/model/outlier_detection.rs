//! `outlier_detection`: which endpoints callers leave out for what their calls came to.

use std::time::Duration;

use sidestep_proto::code;
use sidestep_proto::resource::{FailurePercentage, FailureRun, OutlierDetection, SuccessRate};

use super::diagnostic::Report;
use super::keys;
use super::reader::{Fields, count, fields, period, word};
use super::yaml::Node;

/// Reads the key. `none`, and what has a fault: nobody is left out.
pub(super) fn outlier_detection(node: &Node, report: &mut Report) -> Option<OutlierDetection> {
    if word(node) == Some(keys::NONE) {
        return None;
    }
    let keys = fields(node, &keys::OUTLIER_DETECTION, report)?;
    let standard = OutlierDetection::default();
    let mut time = |name, default: Duration| {
        let found = keys.find(name).and_then(|node| period(node, report));
        found.unwrap_or(default)
    };
    let interval = time("interval", standard.interval);
    let base_ejection_time = time("base_ejection_time", standard.base_ejection_time);
    let max_ejection_time = time("max_ejection_time", standard.max_ejection_time);
    let run = keys.find("consecutive_failures");
    let run = run.and_then(|node| count(node, 1, u32::MAX, report));
    let detection = OutlierDetection {
        interval,
        base_ejection_time,
        max_ejection_time: max_ejection_time.max(base_ejection_time),
        max_ejection_percent: number(
            &keys,
            "max_ejection_percent",
            (1, 100),
            standard.max_ejection_percent,
            report,
        ),
        success_rate: keys
            .find("success_rate")
            .and_then(|node| success_rate(node, report)),
        failure_percentage: keys
            .find("failure_percentage")
            .and_then(|node| failure_percentage(node, report)),
        consecutive_failures: run.map(|count| FailureRun {
            count,
            enforcing: 100,
        }),
        consecutive_gateway_failures: None,
    };
    let rules = ["consecutive_failures", "success_rate", "failure_percentage"];
    if !rules.iter().any(|rule| keys.find(rule).is_some()) {
        let message = "no rule says whom to leave out";
        let place = report.error(code::MISSING_KEY, &node.place, &node.path, message);
        place.help(
            "write `consecutive_failures: 5`, `success_rate: {}` or `failure_percentage: {}`; or `none`",
        );
    }
    Some(detection)
}

fn success_rate(node: &Node, report: &mut Report) -> Option<SuccessRate> {
    let keys = fields(node, &keys::SUCCESS_RATE, report)?;
    let standard = SuccessRate::default();
    let mut any = |name, default| number(&keys, name, (0, u32::MAX), default, report);
    Some(SuccessRate {
        stdev_factor: any("stdev_factor", standard.stdev_factor),
        minimum_hosts: any("minimum_hosts", standard.minimum_hosts),
        request_volume: any("request_volume", standard.request_volume),
        enforcing: number(&keys, "enforcing", (1, 100), standard.enforcing, report),
    })
}

fn failure_percentage(node: &Node, report: &mut Report) -> Option<FailurePercentage> {
    let keys = fields(node, &keys::FAILURE_PERCENTAGE, report)?;
    let standard = FailurePercentage::default();
    let mut any = |name, default| number(&keys, name, (0, u32::MAX), default, report);
    Some(FailurePercentage {
        minimum_hosts: any("minimum_hosts", standard.minimum_hosts),
        request_volume: any("request_volume", standard.request_volume),
        threshold: number(&keys, "threshold", (0, 100), standard.threshold, report),
        enforcing: number(&keys, "enforcing", (1, 100), standard.enforcing, report),
    })
}

fn number(
    keys: &Fields<'_>,
    name: &str,
    (min, max): (u32, u32),
    default: u32,
    report: &mut Report,
) -> u32 {
    let found = keys
        .find(name)
        .and_then(|node| count(node, min, max, report));
    found.unwrap_or(default)
}

/// The key as it reads with everything written out.
pub(super) fn show(detection: Option<&OutlierDetection>, time: fn(Duration) -> String) -> String {
    let Some(detection) = detection else {
        return keys::NONE.to_owned();
    };
    let mut parts = Vec::new();
    if let Some(run) = detection.consecutive_failures {
        parts.push(format!("consecutive_failures: {}", run.count));
    }
    for (name, value) in [
        ("interval", detection.interval),
        ("base_ejection_time", detection.base_ejection_time),
        ("max_ejection_time", detection.max_ejection_time),
    ] {
        parts.push(format!("{name}: {}", time(value)));
    }
    let percent = detection.max_ejection_percent;
    parts.push(format!("max_ejection_percent: {percent}"));
    if let Some(rate) = &detection.success_rate {
        parts.push(format!(
            "success_rate: {{stdev_factor: {}, minimum_hosts: {}, request_volume: {}, enforcing: {}}}",
            rate.stdev_factor, rate.minimum_hosts, rate.request_volume, rate.enforcing
        ));
    }
    if let Some(failures) = &detection.failure_percentage {
        parts.push(format!(
            "failure_percentage: {{threshold: {}, minimum_hosts: {}, request_volume: {}, enforcing: {}}}",
            failures.threshold, failures.minimum_hosts, failures.request_volume, failures.enforcing
        ));
    }
    format!("{{{}}}", parts.join(", "))
}
