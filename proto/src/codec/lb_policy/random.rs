//! `RANDOM`, `random.v3.Random`.

use super::{At, Depth, Family, Result, zone_aware};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::load_balancing::Random;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<Random>,
    decode,
    json: None,
};

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: Random = at.unpack(any)?;
    let localities = config.locality_lb_config.as_ref();
    Ok(zone_aware::of_policy(at, localities, LbPolicy::Random))
}

pub(super) fn to_message() -> Any {
    Any::pack(&Random::default())
}
