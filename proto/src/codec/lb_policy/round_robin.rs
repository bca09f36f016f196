//! `ROUND_ROBIN`, `round_robin.v3.RoundRobin`, `round_robin`.

use super::{At, Depth, Family, Result, slow_start, zone_aware};
use crate::resource::{LbPolicy, SlowStart};
use crate::wire::Any;
use crate::wire::cluster::cluster::{LbConfig, RoundRobinLbConfig};
use crate::wire::load_balancing::RoundRobin;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<RoundRobin>,
    decode,
    json: Some(("round_robin", |_, _| Ok(LbPolicy::RoundRobin))),
};

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: RoundRobin = at.unpack(any)?;
    let policy = slow_start::around(at, config.slow_start_config, LbPolicy::RoundRobin)?;
    let localities = config.locality_lb_config.as_ref();
    Ok(zone_aware::of_policy(at, localities, policy))
}

pub(super) fn of_enum(at: &At<'_>, config: &Option<LbConfig>) -> Result<LbPolicy> {
    let Some(LbConfig::RoundRobinLbConfig(config)) = config else {
        return Ok(LbPolicy::RoundRobin);
    };
    let at = at.field("round_robin_lb_config");
    let slow_start = slow_start::of_enum(&config.slow_start_config);
    slow_start::around(&at, slow_start, LbPolicy::RoundRobin)
}

pub(super) fn to_enum(growth: Option<&SlowStart>) -> Option<LbConfig> {
    growth.map(|growth| {
        LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
            slow_start_config: Some(slow_start::to_enum(growth)),
        })
    })
}

pub(super) fn to_message(growth: Option<&SlowStart>) -> Any {
    Any::pack(&RoundRobin {
        slow_start_config: growth.map(slow_start::to_message),
        ..Default::default()
    })
}
