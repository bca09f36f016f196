//! `wrr_locality.v3.WrrLocality`, `wrr_locality_experimental` (gRFC A52).

use prost_types::Struct;

use super::{At, Depth, Family, Result, custom, decode_child, to_list};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::load_balancing::WrrLocality;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<WrrLocality>,
    decode,
    json: None,
};

fn decode(at: &At<'_>, any: &Any, depth: Depth) -> Result<LbPolicy> {
    let config: WrrLocality = at.unpack(any)?;
    let child = decode_child(
        at,
        "endpoint_picking_policy",
        config.endpoint_picking_policy,
        depth,
    )?;
    Ok(child.by_locality())
}

pub(super) fn of_json(at: &At<'_>, config: &Struct, depth: Depth) -> Result<LbPolicy> {
    let child = custom::of_list(at, config, "childPolicy", depth)?;
    Ok(child.by_locality())
}

pub(super) fn to_message(child: &LbPolicy) -> Any {
    Any::pack(&WrrLocality {
        endpoint_picking_policy: Some(to_list(child)),
    })
}
