//! `pick_first.v3.PickFirst`, `pick_first` (gRFC A62).

use prost_types::{Struct, value::Kind};

use super::{At, Depth, Family, Result, json_field};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::load_balancing::PickFirst;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<PickFirst>,
    decode,
    json: Some(("pick_first", of_json)),
};

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: PickFirst = at.unpack(any)?;
    Ok(LbPolicy::PickFirst {
        shuffle: config.shuffle_address_list,
    })
}

fn of_json(at: &At<'_>, config: &Struct) -> Result<LbPolicy> {
    match json_field(config, "shuffleAddressList") {
        None => Ok(LbPolicy::PickFirst { shuffle: false }),
        Some(Kind::BoolValue(shuffle)) => Ok(LbPolicy::PickFirst { shuffle }),
        Some(_) => Err(at.field("shuffleAddressList").rule("must be a boolean")),
    }
}

pub(super) fn to_message(shuffle: bool) -> Any {
    Any::pack(&PickFirst {
        shuffle_address_list: shuffle,
    })
}
