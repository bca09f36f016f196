//! `MAGLEV`, `maglev.v3.Maglev`.

use super::{At, Depth, Family, Result, note_of_hashing};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::cluster::cluster::{LbConfig, MaglevLbConfig};
use crate::wire::load_balancing::Maglev;

pub(super) const FAMILY: Family = Family {
    is: Any::is::<Maglev>,
    decode,
    json: None,
};

const DEFAULT_TABLE: u64 = 65_537;
/// Greater tables are refused.
const MAX_TABLE: u64 = 5_000_011;

fn decode(at: &At<'_>, any: &Any, _: Depth) -> Result<LbPolicy> {
    let config: Maglev = at.unpack(any)?;
    note_of_hashing(
        at,
        config.consistent_hashing_lb_config.is_some(),
        config.locality_weighted_lb_config.is_some(),
    );
    policy(at, config.table_size)
}

pub(super) fn of_enum(at: &At<'_>, config: &Option<LbConfig>) -> Result<LbPolicy> {
    let at = at.field("maglev_lb_config");
    match config {
        Some(LbConfig::MaglevLbConfig(config)) => policy(&at, config.table_size),
        _ => policy(&at, None),
    }
}

fn policy(at: &At<'_>, size: Option<u64>) -> Result<LbPolicy> {
    let size = size.unwrap_or(DEFAULT_TABLE);
    let place = at.field("table_size");
    if size > MAX_TABLE {
        return Err(place.out_of_range(size, "at most 5000011"));
    }
    if !is_prime(size) {
        return Err(place.rule(format!("{size} is not a prime number")));
    }
    Ok(LbPolicy::Maglev {
        // Below 2^32, as the bound is.
        table_size: size as u32,
    })
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|d| d * d <= number);
    number >= 2 && divisors.all(|d| !number.is_multiple_of(d))
}

pub(super) fn to_enum(table_size: u32) -> LbConfig {
    LbConfig::MaglevLbConfig(MaglevLbConfig {
        table_size: Some(table_size.into()),
    })
}

pub(super) fn to_message(table_size: u32) -> Any {
    Any::pack(&Maglev {
        table_size: Some(table_size.into()),
        ..Default::default()
    })
}
