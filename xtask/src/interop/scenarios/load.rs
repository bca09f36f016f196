//! Balancing by what is known of endpoints' calls: what they report, and how calls to them end.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::interop::calls::answered;
use crate::interop::cast::Tier;
use crate::interop::casts::{EVERYBODY, WEIGHTED_ROUND_ROBIN};
use crate::interop::feature::Feature;
use crate::interop::management::Management;
use crate::interop::resources::{all_to, cluster, endpoints, kind, service, with};
use crate::interop::scenario::Scenario;
use crate::interop::stage::Stage;
use crate::interop::statistics::share;
use crate::interop::traffic::answered_by;

pub(in crate::interop) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "wrr",
        features: &[Feature::WeightedRoundRobin],
        about: "an endpoint that reports three times the utilization with its calls gets a third of the other's calls",
        casts: WEIGHTED_ROUND_ROBIN,
        helpers: &[],
        tier: Tier::Quick,
        play: wrr_by_call,
    },
    Scenario {
        name: "wrr-oob",
        features: &[Feature::WeightedRoundRobin],
        about: "the same where endpoints report beside their calls only",
        casts: WEIGHTED_ROUND_ROBIN,
        helpers: &[],
        tier: Tier::Quick,
        play: wrr_out_of_band,
    },
    Scenario {
        name: "outlier-detection",
        features: &[Feature::OutlierDetection],
        about: "an endpoint whose calls fail is ejected, and used again once it is well and its time is over",
        casts: EVERYBODY,
        helpers: &[],
        tier: Tier::Quick,
        play: outlier_detection,
    },
];

/// Calls for a distribution.
const MANY: usize = 400;

fn wrr_by_call(stage: &Stage<'_>) -> Result<()> {
    wrr(stage, "per-request", false)
}

fn wrr_out_of_band(stage: &Stage<'_>) -> Result<()> {
    wrr(stage, "oob", true)
}

fn wrr(stage: &Stage<'_>, reports: &str, out_of_band: bool) -> Result<()> {
    let reports = format!("--orca={reports}");
    let load = |utilization| {
        let utilization = format!("--orca-app={utilization}");
        [
            reports.clone(),
            utilization,
            "--orca-qps=100".to_owned(),
            "--orca-oob-ms=100".to_owned(),
        ]
    };
    let (busy, idle) = (load("0.9"), load("0.3"));
    let a = stage.backend("a-busy", &busy.each_ref().map(String::as_str))?;
    let b = stage.ours("b-idle", &idle.each_ref().map(String::as_str))?;
    let policy = json!({
        "@type": kind("envoy.extensions.load_balancing_policies.client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin"),
        "enable_oob_load_report": out_of_band,
        "oob_reporting_period": "0.1s",
        "blackout_period": "0s",
        "weight_update_period": "0.1s",
    });
    let by_locality = json!({
        "@type": kind("envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality"),
        "endpoint_picking_policy": list("round robin by load", &policy),
    });
    let policy = json!({"load_balancing_policy": list("localities by weight", &by_locality)});
    let addresses = [a.address.as_str(), b.address.as_str()];
    let rest = vec![with(cluster("one"), policy), endpoints("one", &addresses)];
    let resources = [service(&[all_to("one")]), rest].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &["--qps=400"])?;
    traffic.until_answered_by(&["a-busy", "b-idle"])?;
    // Weights are queries by utilization: 111 and 333. Without them it would be a half each.
    traffic.until(MANY, |calls| share(calls, "a-busy", 0.25))?;
    traffic.end_without_failure()
}

/// A list of this policy alone.
fn list(name: &str, policy: &Value) -> Value {
    json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": policy}}]})
}

fn outlier_detection(stage: &Stage<'_>) -> Result<()> {
    let bad = stage.backend("a-bad", &["--fail-first=40", "--fail-code=INTERNAL"])?;
    let b = stage.ours("b", &[])?;
    let c = stage.ours("c", &[])?;
    let detection = json!({"outlier_detection": {
        "interval": "0.5s",
        "base_ejection_time": "2s",
        "max_ejection_percent": 50,
        "enforcing_success_rate": 0,
        "enforcing_failure_percentage": 100,
        "failure_percentage_threshold": 50,
        "failure_percentage_minimum_hosts": 3,
        "failure_percentage_request_volume": 5,
    }});
    let addresses = [bad.address.as_str(), b.address.as_str(), c.address.as_str()];
    let rest = vec![
        with(cluster("one"), detection),
        endpoints("one", &addresses),
    ];
    let resources = [service(&[all_to("one")]), rest].concat();
    let management = Management::start(stage, &resources)?;
    let bootstrap = management.bootstrap(stage, "web")?;
    let traffic = stage.traffic(&bootstrap, &["--qps=100"])?;
    traffic.until(10, |calls| {
        let failed = calls.iter().any(|call| call["code"] == "INTERNAL");
        ensure!(failed, "no call failed: {:?}", answered(calls));
        Ok(())
    })?;
    // A second without it: by chance that would be (2/3)^100.
    traffic.until(100, |calls| answered_by(calls, &["b", "c"]))?;
    traffic.until_answered_by(&["a-bad", "b", "c"])
}
