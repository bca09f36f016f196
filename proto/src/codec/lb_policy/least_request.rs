//! `LEAST_REQUEST`, `least_request.v3.LeastRequest`, `least_request_experimental` (gRFC A48).

use prost_types::Struct;

use super::{At, Depth, Family, Result, json_count, slow_start, zone_aware};
use crate::resource::{LbPolicy, SlowStart};
use crate::wire::Any;
use crate::wire::cluster::cluster::{LbConfig, LeastRequestLbConfig};
use crate::wire::load_balancing::LeastRequest;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<LeastRequest>,
    decode,
    json: Some(("least_request_experimental", of_json)),
};

pub(super) const DEFAULT_CHOICES: u32 = 2;
/// More choices are cut down to this.
const MAX_CHOICES: u32 = 10;

const BIAS: &str = "load is counted without bias";
const DRAWN: &str = "endpoints are always drawn";

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: LeastRequest = at.unpack(any)?;
    let is_set = config.active_request_bias.is_some();
    at.ignore("active_request_bias", is_set, BIAS);
    at.ignore("selection_method", config.selection_method != 0, DRAWN);
    let is_set = config.enable_full_scan == Some(true);
    at.ignore("enable_full_scan", is_set, DRAWN);
    let policy = policy(at, config.choice_count)?;
    let policy = slow_start::around(at, config.slow_start_config, policy)?;
    let localities = config.locality_lb_config.as_ref();
    Ok(zone_aware::of_policy(at, localities, policy))
}

pub(super) fn of_enum(at: &At<'_>, config: &Option<LbConfig>) -> Result<LbPolicy> {
    let at = at.field("least_request_lb_config");
    let Some(LbConfig::LeastRequestLbConfig(config)) = config else {
        return policy(&at, None);
    };
    let is_set = config.active_request_bias.is_some();
    at.ignore("active_request_bias", is_set, BIAS);
    let policy = policy(&at, config.choice_count)?;
    slow_start::around(&at, slow_start::of_enum(&config.slow_start_config), policy)
}

fn of_json(at: &At<'_>, config: &Struct) -> Result<LbPolicy> {
    let count = json_count(at, config, "choiceCount")?;
    let too_great = |_| at.field("choiceCount").rule("must be a whole number");
    policy(at, count.map(u32::try_from).transpose().map_err(too_great)?)
}

fn policy(at: &At<'_>, choice_count: Option<u32>) -> Result<LbPolicy> {
    match choice_count.unwrap_or(DEFAULT_CHOICES) {
        few @ 0..2 => Err(at.field("choice_count").out_of_range(few, "at least 2")),
        choices => Ok(LbPolicy::LeastRequest {
            choice_count: choices.min(MAX_CHOICES),
        }),
    }
}

pub(super) fn to_enum(choice_count: u32, growth: Option<&SlowStart>) -> LbConfig {
    LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
        choice_count: Some(choice_count),
        slow_start_config: growth.map(slow_start::to_enum),
        ..Default::default()
    })
}

pub(super) fn to_message(choice_count: u32, growth: Option<&SlowStart>) -> Any {
    Any::pack(&LeastRequest {
        choice_count: Some(choice_count),
        slow_start_config: growth.map(slow_start::to_message),
        ..Default::default()
    })
}
