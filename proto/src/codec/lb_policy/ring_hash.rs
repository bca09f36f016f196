//! `RING_HASH`, `ring_hash.v3.RingHash`, `ring_hash_experimental` (gRFC A42).

use prost_types::Struct;

use super::{At, Depth, Family, Result, json_count, note_of_hashing};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::cluster::cluster::{
    LbConfig, RingHashLbConfig, ring_hash_lb_config::HashFunction as EnumHash,
};
use crate::wire::load_balancing::{RingHash, ring_hash::HashFunction};

pub(super) const FAMILY: Family = Family {
    is: Any::is::<RingHash>,
    decode,
    json: Some(("ring_hash_experimental", of_json)),
};

const DEFAULT_MIN_RING: u64 = 1024;
/// Greater rings are refused.
const MAX_RING: u64 = 8 << 20;

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: RingHash = at.unpack(any)?;
    note_of_hashing(
        at,
        config.consistent_hashing_lb_config.is_some(),
        config.locality_weighted_lb_config.is_some(),
    );
    let known = [HashFunction::DefaultHash, HashFunction::XxHash];
    if !known.iter().any(|f| *f as i32 == config.hash_function) {
        return Err(at.field("hash_function").unsupported("another hash"));
    }
    policy(at, config.minimum_ring_size, config.maximum_ring_size)
}

pub(super) fn of_enum(at: &At<'_>, config: &Option<LbConfig>) -> Result<LbPolicy> {
    let at = at.field("ring_hash_lb_config");
    let Some(LbConfig::RingHashLbConfig(config)) = config else {
        return policy(&at, None, None);
    };
    if config.hash_function != EnumHash::XxHash as i32 {
        return Err(at.field("hash_function").unsupported("another hash"));
    }
    policy(&at, config.minimum_ring_size, config.maximum_ring_size)
}

fn of_json(at: &At<'_>, config: &Struct) -> Result<LbPolicy> {
    let size = |name| json_count(at, config, name);
    policy(at, size("minRingSize")?, size("maxRingSize")?)
}

fn policy(at: &At<'_>, min: Option<u64>, max: Option<u64>) -> Result<LbPolicy> {
    let size = |field, size: u64| {
        let fits = size <= MAX_RING;
        let wrong = || at.field(field).out_of_range(size, "at most 8388608");
        // Below 2^32, as the bound is.
        if fits { Ok(size as u32) } else { Err(wrong()) }
    };
    let min_ring_size = size("minimum_ring_size", min.unwrap_or(DEFAULT_MIN_RING))?;
    let max_ring_size = size("maximum_ring_size", max.unwrap_or(MAX_RING))?;
    if min_ring_size > max_ring_size {
        let place = at.field("minimum_ring_size");
        return Err(place.rule(format!(
            "{min_ring_size} is more than maximum_ring_size, {max_ring_size}"
        )));
    }
    Ok(LbPolicy::RingHash {
        min_ring_size,
        max_ring_size,
    })
}

pub(super) fn to_enum(min: u32, max: u32) -> LbConfig {
    LbConfig::RingHashLbConfig(RingHashLbConfig {
        minimum_ring_size: Some(min.into()),
        maximum_ring_size: Some(max.into()),
        ..Default::default()
    })
}

pub(super) fn to_message(min: u32, max: u32) -> Any {
    Any::pack(&RingHash {
        minimum_ring_size: Some(min.into()),
        maximum_ring_size: Some(max.into()),
        ..Default::default()
    })
}
