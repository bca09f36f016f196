//! `random_subsetting.v3.RandomSubsetting`, `random_subsetting_experimental` (gRFC A68).

use prost_types::Struct;

use super::{At, Depth, Family, Result, custom, decode_child, json_count, to_list};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::load_balancing::RandomSubsetting;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<RandomSubsetting>,
    decode,
    json: None,
};

fn decode(at: &At<'_>, any: &Any, depth: Depth) -> Result<LbPolicy> {
    let config: RandomSubsetting = at.unpack(any)?;
    let size = subset_size(&at.field("subset_size"), config.subset_size.map(u64::from))?;
    let child = decode_child(at, "child_policy", config.child_policy, depth)?;
    Ok(policy(size, child))
}

pub(super) fn of_json(at: &At<'_>, config: &Struct, depth: Depth) -> Result<LbPolicy> {
    let size = json_count(at, config, "subsetSize")?;
    let size = subset_size(&at.field("subsetSize"), size)?;
    let child = custom::of_list(at, config, "childPolicy", depth)?;
    Ok(policy(size, child))
}

fn subset_size(at: &At<'_>, size: Option<u64>) -> Result<u32> {
    let size = at.required(size)?;
    match u32::try_from(size) {
        Ok(size @ 1..) => Ok(size),
        _ => Err(at.out_of_range(size, "1 to 4294967295")),
    }
}

fn policy(size: u32, child: LbPolicy) -> LbPolicy {
    LbPolicy::RandomSubset {
        size,
        child: Box::new(child),
    }
}

pub(super) fn to_message(size: u32, child: &LbPolicy) -> Any {
    Any::pack(&RandomSubsetting {
        subset_size: Some(size),
        child_policy: Some(to_list(child)),
    })
}
