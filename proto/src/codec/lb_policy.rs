//! How a cluster spreads calls: `lb_policy` and its successor (gRFC A48, A52, A62).

use prost_types::{Struct, value::Kind};

use super::at::{At, Result};
use crate::resource::LbPolicy;
use crate::wire::Any;
use crate::wire::cluster::{
    self, LoadBalancingPolicy, cluster::LbConfig, cluster::LbPolicy as Enum,
    cluster::LeastRequestLbConfig, cluster::MaglevLbConfig, cluster::RingHashLbConfig,
    cluster::ring_hash_lb_config::HashFunction as EnumHash, load_balancing_policy::Policy,
};
use crate::wire::core::TypedExtensionConfig;
use crate::wire::load_balancing::{
    LeastRequest, Maglev, PickFirst, Random, RingHash, RoundRobin, WrrLocality,
    ring_hash::HashFunction,
};
use crate::wire::typed_struct::{TypedStruct, UdpaTypedStruct};

/// Policies may hold policies this deep.
const MAX_DEPTH: usize = 16;
const DEFAULT_CHOICES: u32 = 2;
/// More choices are cut down to this.
const MAX_CHOICES: u32 = 10;

const DEFAULT_MIN_RING: u64 = 1024;
/// Greater rings are refused.
const MAX_RING: u64 = 8 << 20;
const DEFAULT_TABLE: u64 = 65_537;
/// Greater tables are refused.
const MAX_TABLE: u64 = 5_000_011;

const BOUNDED_LOAD: &str = "an endpoint may get more than its share";
const SLOW_START: &str = "new endpoints get their full share at once";
const LOCALITY: &str = "localities are always weighted";

/// Reads the policy of the cluster at `at`. The extension list wins over the enum.
pub(super) fn decode(at: &At<'_>, wire: &cluster::Cluster) -> Result<LbPolicy> {
    if let Some(list) = &wire.load_balancing_policy {
        return decode_list(&at.field("load_balancing_policy"), list, 0);
    }
    match Enum::try_from(wire.lb_policy) {
        Ok(Enum::RoundRobin) => {
            if let Some(LbConfig::RoundRobinLbConfig(config)) = &wire.lb_config {
                let at = at.field("round_robin_lb_config");
                at.ignore(
                    "slow_start_config",
                    config.slow_start_config.is_some(),
                    SLOW_START,
                );
            }
            Ok(LbPolicy::RoundRobin)
        }
        Ok(Enum::LeastRequest) => {
            let at = at.field("least_request_lb_config");
            match &wire.lb_config {
                Some(LbConfig::LeastRequestLbConfig(config)) => {
                    at.ignore(
                        "active_request_bias",
                        config.active_request_bias.is_some(),
                        "load is counted without bias",
                    );
                    at.ignore(
                        "slow_start_config",
                        config.slow_start_config.is_some(),
                        SLOW_START,
                    );
                    least_request(&at, config.choice_count)
                }
                _ => least_request(&at, None),
            }
        }
        Ok(Enum::RingHash) => {
            let at = at.field("ring_hash_lb_config");
            let Some(LbConfig::RingHashLbConfig(config)) = &wire.lb_config else {
                return ring_hash(&at, None, None);
            };
            if config.hash_function != EnumHash::XxHash as i32 {
                return Err(at.field("hash_function").unsupported("another hash"));
            }
            ring_hash(&at, config.minimum_ring_size, config.maximum_ring_size)
        }
        Ok(Enum::Maglev) => {
            let at = at.field("maglev_lb_config");
            match &wire.lb_config {
                Some(LbConfig::MaglevLbConfig(config)) => maglev(&at, config.table_size),
                _ => maglev(&at, None),
            }
        }
        Ok(Enum::Random) => Ok(LbPolicy::Random),
        Ok(other) => Err(at.field("lb_policy").unsupported(other.as_str_name())),
        Err(_) => {
            let place = at.field("lb_policy");
            Err(place.unsupported(format!("the number {}", wire.lb_policy)))
        }
    }
}

fn least_request(at: &At<'_>, choice_count: Option<u32>) -> Result<LbPolicy> {
    match choice_count.unwrap_or(DEFAULT_CHOICES) {
        few @ 0..2 => Err(at.field("choice_count").out_of_range(few, "at least 2")),
        choices => Ok(LbPolicy::LeastRequest {
            choice_count: choices.min(MAX_CHOICES),
        }),
    }
}

fn ring_hash(at: &At<'_>, min: Option<u64>, max: Option<u64>) -> Result<LbPolicy> {
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

fn maglev(at: &At<'_>, size: Option<u64>) -> Result<LbPolicy> {
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

/// What both policies that pick by hash do not honour.
fn note_of_hashing(at: &At<'_>, bounded: bool, weighted: bool) {
    at.ignore("consistent_hashing_lb_config", bounded, BOUNDED_LOAD);
    at.ignore(
        "locality_weighted_lb_config",
        weighted,
        "the weight of its locality is part of an endpoint's weight",
    );
}

fn is_prime(number: u64) -> bool {
    let mut divisors = (2..).take_while(|d| d * d <= number);
    number >= 2 && divisors.all(|d| !number.is_multiple_of(d))
}

/// The first entry that is supported. If that one is wrong, the cluster is.
fn decode_list(at: &At<'_>, list: &LoadBalancingPolicy, depth: usize) -> Result<LbPolicy> {
    if depth == MAX_DEPTH {
        return Err(at.rule("policies are nested more than 16 levels deep"));
    }
    let mut unknown = Vec::new();
    for (i, policy) in list.policies.iter().enumerate() {
        let at = at.item("policies", i);
        let at = at.field("typed_extension_config");
        let extension = policy.typed_extension_config.as_ref();
        // An entry that names no policy is one that we do not have.
        let Some(config) = extension.and_then(|e| e.typed_config.as_ref()) else {
            continue;
        };
        let at = at.field("typed_config");
        if let Some(policy) = decode_policy(&at, config, depth)? {
            return Ok(policy);
        }
        unknown.push(inner_type(config));
    }
    let place = at.field("policies");
    Err(place.rule(match unknown.is_empty() {
        true => "names no policy".to_owned(),
        false => format!("none of the policies is supported: {}", unknown.join(", ")),
    }))
}

/// A policy, or `None` for one that we do not have.
fn decode_policy(at: &At<'_>, any: &Any, depth: usize) -> Result<Option<LbPolicy>> {
    if any.is::<RoundRobin>() {
        let config: RoundRobin = at.unpack(any)?;
        at.ignore(
            "slow_start_config",
            config.slow_start_config.is_some(),
            SLOW_START,
        );
        at.ignore(
            "locality_lb_config",
            config.locality_lb_config.is_some(),
            LOCALITY,
        );
        return Ok(Some(LbPolicy::RoundRobin));
    }
    if any.is::<LeastRequest>() {
        let config: LeastRequest = at.unpack(any)?;
        at.ignore(
            "active_request_bias",
            config.active_request_bias.is_some(),
            "load is counted without bias",
        );
        at.ignore(
            "slow_start_config",
            config.slow_start_config.is_some(),
            SLOW_START,
        );
        at.ignore(
            "locality_lb_config",
            config.locality_lb_config.is_some(),
            LOCALITY,
        );
        at.ignore(
            "selection_method",
            config.selection_method != 0,
            "endpoints are always drawn",
        );
        at.ignore(
            "enable_full_scan",
            config.enable_full_scan == Some(true),
            "endpoints are always drawn",
        );
        return least_request(at, config.choice_count).map(Some);
    }
    if any.is::<RingHash>() {
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
        return ring_hash(at, config.minimum_ring_size, config.maximum_ring_size).map(Some);
    }
    if any.is::<Maglev>() {
        let config: Maglev = at.unpack(any)?;
        note_of_hashing(
            at,
            config.consistent_hashing_lb_config.is_some(),
            config.locality_weighted_lb_config.is_some(),
        );
        return maglev(at, config.table_size).map(Some);
    }
    if any.is::<Random>() {
        let config: Random = at.unpack(any)?;
        at.ignore(
            "locality_lb_config",
            config.locality_lb_config.is_some(),
            LOCALITY,
        );
        return Ok(Some(LbPolicy::Random));
    }
    if any.is::<PickFirst>() {
        let config: PickFirst = at.unpack(any)?;
        let shuffle = config.shuffle_address_list;
        return Ok(Some(LbPolicy::PickFirst { shuffle }));
    }
    if any.is::<WrrLocality>() {
        let config: WrrLocality = at.unpack(any)?;
        let at = at.field("endpoint_picking_policy");
        let list = at.required(config.endpoint_picking_policy)?;
        return decode_list(&at, &list, depth + 1).map(Some);
    }
    if any.is::<TypedStruct>() {
        let config: TypedStruct = at.unpack(any)?;
        return decode_struct(at, &config.type_url, config.value.unwrap_or_default());
    }
    if any.is::<UdpaTypedStruct>() {
        let config: UdpaTypedStruct = at.unpack(any)?;
        return decode_struct(at, &config.type_url, config.value.unwrap_or_default());
    }
    Ok(None)
}

/// What a policy is called, looking into a `TypedStruct`: for people.
fn inner_type(any: &Any) -> String {
    let inner = match any.type_name() {
        "xds.type.v3.TypedStruct" => any.unpack::<TypedStruct>().map(|s| s.type_url),
        "udpa.type.v1.TypedStruct" => any.unpack::<UdpaTypedStruct>().map(|s| s.type_url),
        own => Ok(own.to_owned()),
    };
    let inner = inner.unwrap_or_default();
    inner.rsplit('/').next().unwrap_or_default().to_owned()
}

/// A policy under the name and with the JSON configuration that gRPC's service config gives it.
fn decode_struct(at: &At<'_>, type_url: &str, config: Struct) -> Result<Option<LbPolicy>> {
    let at = at.field("value");
    let field = |name: &str| config.fields.get(name).and_then(|v| v.kind.clone());
    match type_url.rsplit('/').next().unwrap_or_default() {
        "round_robin" => Ok(Some(LbPolicy::RoundRobin)),
        "ring_hash_experimental" => {
            let size = |name: &'static str| match field(name) {
                None | Some(Kind::NullValue(_)) => Ok(None),
                Some(Kind::NumberValue(n)) if n == (n as u64) as f64 => Ok(Some(n as u64)),
                Some(_) => Err(at.field(name).rule("must be a whole number")),
            };
            ring_hash(&at, size("minRingSize")?, size("maxRingSize")?).map(Some)
        }
        "pick_first" => match field("shuffleAddressList") {
            None | Some(Kind::NullValue(_)) => Ok(Some(LbPolicy::PickFirst { shuffle: false })),
            Some(Kind::BoolValue(shuffle)) => Ok(Some(LbPolicy::PickFirst { shuffle })),
            Some(_) => Err(at.field("shuffleAddressList").rule("must be a boolean")),
        },
        "least_request_experimental" => match field("choiceCount") {
            None | Some(Kind::NullValue(_)) => least_request(&at, None).map(Some),
            // Fractions and numbers beyond u32 are no counts.
            Some(Kind::NumberValue(n)) if n == f64::from(n as u32) => {
                least_request(&at, Some(n as u32)).map(Some)
            }
            Some(_) => Err(at.field("choiceCount").rule("must be a whole number")),
        },
        _ => Ok(None),
    }
}

/// Writes the enum where it suffices, because every client knows it.
pub(super) fn encode(policy: LbPolicy, wire: &mut cluster::Cluster) {
    match policy {
        LbPolicy::RoundRobin => wire.lb_policy = Enum::RoundRobin as i32,
        LbPolicy::LeastRequest { choice_count } => {
            wire.lb_policy = Enum::LeastRequest as i32;
            wire.lb_config = Some(LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                choice_count: Some(choice_count),
                ..Default::default()
            }));
        }
        LbPolicy::Random => wire.lb_policy = Enum::Random as i32,
        LbPolicy::RingHash {
            min_ring_size,
            max_ring_size,
        } => {
            wire.lb_policy = Enum::RingHash as i32;
            wire.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig {
                minimum_ring_size: Some(min_ring_size.into()),
                maximum_ring_size: Some(max_ring_size.into()),
                ..Default::default()
            }));
        }
        LbPolicy::Maglev { table_size } => {
            wire.lb_policy = Enum::Maglev as i32;
            wire.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig {
                table_size: Some(table_size.into()),
            }));
        }
        LbPolicy::PickFirst { shuffle } => {
            wire.load_balancing_policy = Some(list_of(&PickFirst {
                shuffle_address_list: shuffle,
            }));
        }
    }
}

fn list_of(config: &PickFirst) -> LoadBalancingPolicy {
    LoadBalancingPolicy {
        policies: vec![Policy {
            typed_extension_config: Some(TypedExtensionConfig {
                name: "envoy.load_balancing_policies.pick_first".to_owned(),
                typed_config: Some(Any::pack(config)),
            }),
        }],
    }
}
