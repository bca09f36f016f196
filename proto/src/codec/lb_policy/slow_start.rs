//! `slow_start_config` of the policies that go by weight.

use super::{At, Result};
use crate::resource::{Finite, LbPolicy, SlowStart};
use crate::wire::cluster::cluster::SlowStartConfig as EnumConfig;
use crate::wire::core::RuntimeDouble;
use crate::wire::load_balancing::SlowStartConfig;
use crate::wire::number::Percent;

const FIELD: &str = "slow_start_config";
const DEFAULT_AGGRESSION: f64 = 1.0;
const DEFAULT_MIN_PERCENT: f64 = 10.0;

/// Puts the wrapper around `policy` that the config asks for. No window, or one of no length, asks
/// for nothing.
pub(super) fn around(
    at: &At<'_>,
    config: Option<SlowStartConfig>,
    policy: LbPolicy,
) -> Result<LbPolicy> {
    let at = at.field(FIELD);
    let Some(config) = config else {
        return Ok(policy);
    };
    let window = at.optional_duration("slow_start_window", config.slow_start_window)?;
    let aggression = aggression(&at, config.aggression)?;
    let min_weight_percent = percent(&at, config.min_weight_percent)?;
    let window = window.filter(|window| !window.is_zero());
    Ok(policy.with_slow_start(window.map(|window| SlowStart {
        window,
        aggression,
        min_weight_percent,
    })))
}

fn aggression(at: &At<'_>, aggression: Option<RuntimeDouble>) -> Result<Finite> {
    let at = at.field("aggression");
    let aggression = aggression.unwrap_or_else(|| RuntimeDouble {
        default_value: DEFAULT_AGGRESSION,
        ..Default::default()
    });
    let keyed = !aggression.runtime_key.is_empty();
    at.ignore("runtime_key", keyed, "the default value counts");
    let value = Finite::new(aggression.default_value).filter(|value| value.get() > 0.0);
    value.ok_or_else(|| {
        at.field("default_value")
            .out_of_range(aggression.default_value, "above 0")
    })
}

fn percent(at: &At<'_>, percent: Option<Percent>) -> Result<Finite> {
    let percent = percent.map_or(DEFAULT_MIN_PERCENT, |percent| percent.value);
    let value = Finite::new(percent).filter(|value| (0.0..=100.0).contains(&value.get()));
    value.ok_or_else(|| {
        at.field("min_weight_percent")
            .out_of_range(percent, "0 to 100")
    })
}

/// The message in the place where the policy enum has it.
pub(super) fn of_enum(config: &Option<EnumConfig>) -> Option<SlowStartConfig> {
    config.clone().map(|config| SlowStartConfig {
        slow_start_window: config.slow_start_window,
        aggression: config.aggression,
        min_weight_percent: config.min_weight_percent,
    })
}

pub(super) fn to_message(growth: &SlowStart) -> SlowStartConfig {
    SlowStartConfig {
        // Read from one, so it fits.
        slow_start_window: prost_types::Duration::try_from(growth.window).ok(),
        aggression: Some(RuntimeDouble {
            default_value: growth.aggression.get(),
            // Envoy wants one.
            runtime_key: String::new(),
        }),
        min_weight_percent: Some(Percent {
            value: growth.min_weight_percent.get(),
        }),
    }
}

pub(super) fn to_enum(growth: &SlowStart) -> EnumConfig {
    let message = to_message(growth);
    EnumConfig {
        slow_start_window: message.slow_start_window,
        aggression: message.aggression,
        min_weight_percent: message.min_weight_percent,
    }
}
