//! `sidestep.peak_ewma`, and `peak_ewma.v3alpha.PeakEwma` of Envoy's contributed extensions.

use std::time::Duration;

use prost_types::{Struct, Value, value::Kind};

use super::{At, Depth, Family, Result, json_duration};
use crate::resource::{LbPolicy, PeakEwma};
use crate::wire::Any;
use crate::wire::load_balancing;
use crate::wire::typed_struct::TypedStruct;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<load_balancing::PeakEwma>,
    decode,
    json: Some((NAME, of_json)),
};

const NAME: &str = "sidestep.peak_ewma";
const SHARED: &str = "all threads share one average";

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: load_balancing::PeakEwma = at.unpack(any)?;
    let is_set = config.aggregation_interval.is_some();
    at.ignore("aggregation_interval", is_set, SHARED);
    let is_set = config.max_samples_per_host.is_some();
    at.ignore("max_samples_per_host", is_set, SHARED);
    let is_set = config.penalty_value.is_some();
    let note = "an endpoint without a latency counts by default_rtt";
    at.ignore("penalty_value", is_set, note);
    let decay = at.optional_duration("decay_time", config.decay_time)?;
    let default_latency = at.optional_duration("default_rtt", config.default_rtt)?;
    policy(&at.field("decay_time"), decay, default_latency, None)
}

fn of_json(at: &At<'_>, config: &Struct) -> Result<LbPolicy> {
    let duration = |name| json_duration(at, config, name);
    let penalty = duration("failurePenalty")?;
    let (decay, default_latency) = (duration("decayTime")?, duration("defaultRtt")?);
    policy(&at.field("decayTime"), decay, default_latency, penalty)
}

/// `at` is where the decay time is.
fn policy(
    at: &At<'_>,
    decay: Option<Duration>,
    default_latency: Option<Duration>,
    penalty: Option<Duration>,
) -> Result<LbPolicy> {
    let defaults = PeakEwma::default();
    let decay = decay.unwrap_or(defaults.decay);
    if decay.is_zero() {
        return Err(at.out_of_range("0s", "more than 0s"));
    }
    Ok(LbPolicy::PeakEwma(PeakEwma {
        decay,
        default_latency,
        failure_penalty: penalty.unwrap_or(defaults.failure_penalty),
    }))
}

/// Envoy's message where it says all.
pub(super) fn to_message(config: &PeakEwma) -> Any {
    let defaults = PeakEwma::default();
    if config.failure_penalty == defaults.failure_penalty {
        // Read from such ones, so they fit.
        let duration = |duration| prost_types::Duration::try_from(duration).ok();
        return Any::pack(&load_balancing::PeakEwma {
            decay_time: duration(config.decay),
            default_rtt: config.default_latency.and_then(duration),
            ..Default::default()
        });
    }
    let said = [
        ("decayTime", Some(config.decay)),
        ("defaultRtt", config.default_latency),
        ("failurePenalty", Some(config.failure_penalty)),
    ];
    let fields = said.into_iter().filter_map(|(name, duration)| {
        let duration = duration?;
        let text = format!("{}.{:09}s", duration.as_secs(), duration.subsec_nanos());
        let kind = Some(Kind::StringValue(text));
        Some((name.to_owned(), Value { kind }))
    });
    Any::pack(&TypedStruct {
        type_url: format!("type.googleapis.com/{NAME}"),
        value: Some(Struct {
            fields: fields.collect(),
        }),
    })
}
