//! `client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin`, `weighted_round_robin`
//! (gRFC A58, A114).

use std::time::Duration;

use prost_types::{Struct, value::Kind};

use super::{At, Depth, Family, Result, json_duration, json_field, slow_start};
use crate::resource::{Finite, LbPolicy, Metric, SlowStart, WeightedRoundRobin};
use crate::wire::Any;
use crate::wire::load_balancing::ClientSideWeightedRoundRobin;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<ClientSideWeightedRoundRobin>,
    decode,
    json: Some(("weighted_round_robin", of_json)),
};

const NO_METRIC: &str = "no metric has this name";

/// The settings as either form has them, not yet looked at.
struct Said {
    enabled: bool,
    period: Option<Duration>,
    blackout: Option<Duration>,
    expiration: Option<Duration>,
    update_period: Option<Duration>,
    penalty: Option<f64>,
    metrics: Vec<String>,
}

/// What the fields are called.
struct Names {
    penalty: &'static str,
    metrics: &'static str,
}

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: ClientSideWeightedRoundRobin = at.unpack(any)?;
    at.ignore(
        "oob_reporting_config",
        config.oob_reporting_config.is_some(),
        "reports come on the connection that carries the calls",
    );
    let names = Names {
        penalty: "error_utilization_penalty",
        metrics: "metric_names_for_computing_utilization",
    };
    let said = Said {
        enabled: config.enable_oob_load_report == Some(true),
        period: at.optional_duration("oob_reporting_period", config.oob_reporting_period)?,
        blackout: at.optional_duration("blackout_period", config.blackout_period)?,
        expiration: at
            .optional_duration("weight_expiration_period", config.weight_expiration_period)?,
        update_period: at.optional_duration("weight_update_period", config.weight_update_period)?,
        penalty: config.error_utilization_penalty.map(f64::from),
        metrics: config.metric_names_for_computing_utilization,
    };
    let policy = LbPolicy::WeightedRoundRobin(settings(at, &names, said)?);
    slow_start::around(at, config.slow_start_config, policy)
}

fn of_json(at: &At<'_>, config: &Struct) -> Result<LbPolicy> {
    let names = Names {
        penalty: "errorUtilizationPenalty",
        metrics: "metricNamesForComputingUtilization",
    };
    let duration = |name| json_duration(at, config, name);
    let said = Said {
        enabled: match json_field(config, "enableOobLoadReport") {
            None => false,
            Some(Kind::BoolValue(enabled)) => enabled,
            Some(_) => return Err(at.field("enableOobLoadReport").rule("must be a boolean")),
        },
        period: duration("oobReportingPeriod")?,
        blackout: duration("blackoutPeriod")?,
        expiration: duration("weightExpirationPeriod")?,
        update_period: duration("weightUpdatePeriod")?,
        penalty: match json_field(config, names.penalty) {
            None => None,
            Some(Kind::NumberValue(penalty)) => Some(penalty),
            Some(_) => return Err(at.field(names.penalty).rule("must be a number")),
        },
        metrics: texts(at, config, names.metrics)?,
    };
    Ok(LbPolicy::WeightedRoundRobin(settings(at, &names, said)?))
}

/// A list of texts in a JSON object.
fn texts(at: &At<'_>, config: &Struct, name: &'static str) -> Result<Vec<String>> {
    let wrong = || at.field(name).rule("must be a list of texts");
    let list = match json_field(config, name) {
        None => return Ok(Vec::new()),
        Some(Kind::ListValue(list)) => list,
        Some(_) => return Err(wrong()),
    };
    let texts = list.values.into_iter().map(|value| match value.kind {
        Some(Kind::StringValue(text)) => Ok(text),
        _ => Err(wrong()),
    });
    texts.collect()
}

fn settings(at: &At<'_>, names: &Names, said: Said) -> Result<WeightedRoundRobin> {
    let defaults = WeightedRoundRobin::default();
    let error_penalty = match said.penalty {
        None => defaults.error_penalty,
        Some(penalty) => Finite::new(penalty)
            .filter(|penalty| penalty.get() >= 0.0)
            .ok_or_else(|| at.field(names.penalty).out_of_range(penalty, "0 or more"))?,
    };
    let mut metrics = Vec::new();
    for (i, name) in said.metrics.iter().enumerate() {
        match Metric::parse(name) {
            Some(metric) => metrics.push(metric),
            // As if nobody ever reported it (A114).
            None => at.item(names.metrics, i).note(NO_METRIC),
        }
    }
    let period = said.period.unwrap_or(WeightedRoundRobin::OUT_OF_BAND);
    let update_period = said.update_period.unwrap_or(defaults.update_period);
    Ok(WeightedRoundRobin {
        out_of_band: said.enabled.then_some(period),
        blackout: said.blackout.unwrap_or(defaults.blackout),
        expiration: said.expiration.unwrap_or(defaults.expiration),
        update_period: update_period.max(WeightedRoundRobin::LEAST_UPDATE_PERIOD),
        error_penalty,
        metrics,
    })
}

pub(super) fn to_message(config: &WeightedRoundRobin, growth: Option<&SlowStart>) -> Any {
    // Read from such ones, so they fit.
    let duration = |duration: Duration| prost_types::Duration::try_from(duration).ok();
    let metrics = config.metrics.iter().map(Metric::to_string);
    Any::pack(&ClientSideWeightedRoundRobin {
        enable_oob_load_report: Some(config.out_of_band.is_some()),
        oob_reporting_period: config.out_of_band.and_then(duration),
        blackout_period: duration(config.blackout),
        weight_expiration_period: duration(config.expiration),
        weight_update_period: duration(config.update_period),
        // Of such a number, or one that loses nothing that anybody could notice.
        error_utilization_penalty: Some(config.error_penalty.get() as f32),
        metric_names_for_computing_utilization: metrics.collect(),
        slow_start_config: growth.map(slow_start::to_message),
        oob_reporting_config: None,
    })
}
