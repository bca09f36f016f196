//! How a cluster spreads calls: `lb_policy` and its successor (gRFC A48, A52, A62).
//!
//! A policy is one file here, which reads its message and the JSON that gRPC's service config
//! gives it, and a line in [`FAMILIES`].

mod custom;
mod least_request;
mod maglev;
mod peak_ewma;
mod pick_first;
mod random;
mod random_subsetting;
mod ring_hash;
mod round_robin;
mod slow_start;
mod subset;
#[cfg(test)]
mod tests;
mod weighted_round_robin;
mod wrr_locality;
mod zone_aware;

use std::time::Duration;

use prost_types::{Struct, value::Kind};

use super::at::{At, Result};
use crate::resource::{LbPolicy, SlowStart, Subsets};
use crate::wire::Any;
use crate::wire::cluster::{
    self, LoadBalancingPolicy, cluster::LbPolicy as Enum, load_balancing_policy::Policy,
};
use crate::wire::core::TypedExtensionConfig;
use crate::wire::typed_struct::{TypedStruct, UdpaTypedStruct};

/// Policies may hold policies this deep.
const MAX_DEPTH: usize = 16;
const TOO_DEEP: &str = "policies are nested more than 16 levels deep";

const LOCALITY: &str = "localities are weighted by wrr_locality alone";

/// One policy, as extension lists have it.
struct Family {
    /// Whether a message is its configuration.
    is: fn(&Any) -> bool,
    /// Reads the message.
    decode: fn(&At<'_>, &Any, Depth) -> Result<LbPolicy>,
    /// What gRPC's service config calls it, and how it reads the JSON there. That comes inside of
    /// a `TypedStruct`.
    json: Option<(&'static str, Json)>,
}

type Json = fn(&At<'_>, &Struct) -> Result<LbPolicy>;

/// How many policies are around one.
#[derive(Clone, Copy)]
struct Depth(usize);

impl Depth {
    /// Of a list of policies inside of another policy.
    fn inside(self, at: &At<'_>) -> Result<Self> {
        match self.0 + 1 {
            MAX_DEPTH => Err(at.rule(TOO_DEEP)),
            depth => Ok(Self(depth)),
        }
    }
}

/// The policies there are.
const FAMILIES: &[Family] = &[
    round_robin::FAMILY,
    least_request::FAMILY,
    pick_first::FAMILY,
    random::FAMILY,
    ring_hash::FAMILY,
    maglev::FAMILY,
    weighted_round_robin::FAMILY,
    peak_ewma::FAMILY,
    wrr_locality::FAMILY,
    random_subsetting::FAMILY,
    subset::FAMILY,
];

/// Reads the policy of the cluster at `at`. The extension list wins over the enum.
pub(super) fn decode(at: &At<'_>, wire: &cluster::Cluster) -> Result<LbPolicy> {
    let policy = decode_named_or_listed(at, wire)?;
    let policy = zone_aware::of_cluster(at, wire.common_lb_config.as_ref(), policy);
    subset::of_cluster(at, wire, policy)
}

fn decode_named_or_listed(at: &At<'_>, wire: &cluster::Cluster) -> Result<LbPolicy> {
    if let Some(list) = &wire.load_balancing_policy {
        return decode_list(&at.field("load_balancing_policy"), list, Depth(0));
    }
    let config = &wire.lb_config;
    match Enum::try_from(wire.lb_policy) {
        Ok(Enum::RoundRobin) => Ok(round_robin::of_enum(at, config)?.by_locality()),
        Ok(Enum::LeastRequest) => Ok(least_request::of_enum(at, config)?.by_locality()),
        Ok(Enum::Random) => Ok(LbPolicy::Random.by_locality()),
        Ok(Enum::RingHash) => ring_hash::of_enum(at, config),
        Ok(Enum::Maglev) => maglev::of_enum(at, config),
        Ok(other) => Err(at.field("lb_policy").unsupported(other.as_str_name())),
        Err(_) => {
            let place = at.field("lb_policy");
            Err(place.unsupported(format!("the number {}", wire.lb_policy)))
        }
    }
}

/// The first entry that is supported. If that one is wrong, the cluster is.
fn decode_list(at: &At<'_>, list: &LoadBalancingPolicy, depth: Depth) -> Result<LbPolicy> {
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
    let unknown: Vec<_> = unknown.iter().map(String::as_str).collect();
    custom::of_unknown_process(at, list).ok_or_else(|| at.field("policies").rule(none_of(&unknown)))
}

fn none_of(unsupported: &[&str]) -> String {
    match unsupported {
        [] => "names no policy".to_owned(),
        names => format!("none of the policies is supported: {}", names.join(", ")),
    }
}

/// The list of a policy that holds another one.
fn decode_child(
    at: &At<'_>,
    field: &'static str,
    list: Option<LoadBalancingPolicy>,
    depth: Depth,
) -> Result<LbPolicy> {
    let at = at.field(field);
    let list = at.required(list)?;
    decode_list(&at, &list, depth.inside(&at)?)
}

/// A policy, or `None` for one that we do not have.
fn decode_policy(at: &At<'_>, any: &Any, depth: Depth) -> Result<Option<LbPolicy>> {
    if let Some(family) = FAMILIES.iter().find(|family| (family.is)(any)) {
        return (family.decode)(at, any, depth).map(Some);
    }
    let Some(config) = typed_struct(at, any)? else {
        return Ok(None);
    };
    let at = at.field("value");
    decode_named(
        &at,
        name_in(&config.type_url),
        &config.value.unwrap_or_default(),
        depth,
    )
}

/// The `TypedStruct` that this is, if it is one, whichever of its two names it has.
fn typed_struct(at: &At<'_>, any: &Any) -> Result<Option<TypedStruct>> {
    if any.is::<TypedStruct>() {
        return at.unpack(any).map(Some);
    }
    if any.is::<UdpaTypedStruct>() {
        let UdpaTypedStruct { type_url, value } = at.unpack(any)?;
        return Ok(Some(TypedStruct { type_url, value }));
    }
    Ok(None)
}

/// A policy by name, with a JSON configuration; `None` for one that we do not have. The names are
/// those of gRPC's service config, and of what the process has registered.
fn decode_named(
    at: &At<'_>,
    name: &str,
    config: &Struct,
    depth: Depth,
) -> Result<Option<LbPolicy>> {
    let mut named = FAMILIES.iter().filter_map(|family| family.json);
    match named.find(|(known, _)| *known == name) {
        Some((_, read)) => read(at, config).map(Some),
        None => custom::named(at, name, config, depth),
    }
}

fn name_in(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or_default()
}

/// What a policy is called, looking into a `TypedStruct`: for people.
fn inner_type(any: &Any) -> String {
    let inner = match any.type_name() {
        "xds.type.v3.TypedStruct" => any.unpack::<TypedStruct>().map(|s| s.type_url),
        "udpa.type.v1.TypedStruct" => any.unpack::<UdpaTypedStruct>().map(|s| s.type_url),
        own => Ok(own.to_owned()),
    };
    name_in(&inner.unwrap_or_default()).to_owned()
}

/// A value of a JSON object; JSON's null is no value.
fn json_field(config: &Struct, name: &str) -> Option<Kind> {
    let kind = config.fields.get(name)?.kind.clone()?;
    (!matches!(kind, Kind::NullValue(_))).then_some(kind)
}

/// A count in a JSON object. Fractions, and numbers beyond u64, are none.
fn json_count(at: &At<'_>, config: &Struct, name: &'static str) -> Result<Option<u64>> {
    match json_field(config, name) {
        None => Ok(None),
        Some(Kind::NumberValue(n)) if n == (n as u64) as f64 => Ok(Some(n as u64)),
        Some(_) => Err(at.field(name).rule("must be a whole number")),
    }
}

/// A length of time in a JSON object, written as protobuf does: `10s`, `0.25s`.
fn json_duration(at: &At<'_>, config: &Struct, name: &'static str) -> Result<Option<Duration>> {
    let wrong = || {
        at.field(name)
            .rule("must be a text of seconds such as \"1.5s\"")
    };
    let text = match json_field(config, name) {
        None => return Ok(None),
        Some(Kind::StringValue(text)) => text,
        Some(_) => return Err(wrong()),
    };
    let seconds = text.strip_suffix('s').ok_or_else(wrong)?;
    let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
    let digits = |text: &str| text.len() <= 12 && text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(wrong());
    }
    let nanos = format!("{fraction:0<9}").parse().map_err(|_| wrong())?;
    let seconds = whole.parse().map_err(|_| wrong())?;
    let duration = prost_types::Duration { seconds, nanos };
    at.field(name).duration(duration).map(Some)
}

/// What both policies that pick by hash do not honour.
fn note_of_hashing(at: &At<'_>, bounded: bool, weighted: bool) {
    at.ignore(
        "consistent_hashing_lb_config",
        bounded,
        "an endpoint may get more than its share",
    );
    at.ignore(
        "locality_weighted_lb_config",
        weighted,
        "the weight of its locality is part of an endpoint's weight",
    );
}

/// Writes the enum where it suffices, because every client knows it.
pub(super) fn encode(policy: &LbPolicy, wire: &mut cluster::Cluster) {
    if let LbPolicy::ZoneAware(aware) = policy {
        // Who does not know the field chooses by weight.
        wire.common_lb_config = Some(zone_aware::to_common(aware));
        return encode(&aware.policy.clone().by_locality(), wire);
    }
    if let LbPolicy::Subsets(subsets) = policy
        && encode_subsets(subsets, wire)
    {
        return;
    }
    let written = match policy {
        LbPolicy::WrrLocality(child) => {
            let (child, growth) = grown(child);
            match child {
                LbPolicy::RoundRobin => Some((Enum::RoundRobin, round_robin::to_enum(growth))),
                LbPolicy::Random if growth.is_none() => Some((Enum::Random, None)),
                LbPolicy::LeastRequest { choice_count } => Some((
                    Enum::LeastRequest,
                    Some(least_request::to_enum(*choice_count, growth)),
                )),
                _ => None,
            }
        }
        LbPolicy::RingHash {
            min_ring_size,
            max_ring_size,
        } => Some((
            Enum::RingHash,
            Some(ring_hash::to_enum(*min_ring_size, *max_ring_size)),
        )),
        LbPolicy::Maglev { table_size } => Some((Enum::Maglev, Some(maglev::to_enum(*table_size)))),
        _ => None,
    };
    match written {
        Some((policy, config)) => {
            wire.lb_policy = policy as i32;
            wire.lb_config = config;
        }
        None => wire.load_balancing_policy = Some(to_list(policy)),
    }
}

/// Writes subsets into the cluster's own field, for which the policy inside must be one of the
/// enum. Whether that could be done.
fn encode_subsets(subsets: &Subsets, wire: &mut cluster::Cluster) -> bool {
    let inside = match &subsets.policy {
        // The enum's have localities, and the field says whether they count.
        leaf @ (LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. } | LbPolicy::Random) => {
            leaf.clone().by_locality()
        }
        leaf @ LbPolicy::SlowStart { .. } => leaf.clone().by_locality(),
        policy => policy.clone(),
    };
    let mut of_enum = cluster::Cluster::default();
    encode(&inside, &mut of_enum);
    let config = subset::to_common(subsets);
    let nested = of_enum.lb_subset_config.is_some();
    if nested || of_enum.load_balancing_policy.is_some() || config.is_none() {
        return false;
    }
    wire.lb_policy = of_enum.lb_policy;
    wire.lb_config = of_enum.lb_config;
    wire.common_lb_config = of_enum.common_lb_config;
    wire.lb_subset_config = config;
    true
}

/// A policy apart from how its endpoints grow into their weights: on the wire that is a part of its
/// own configuration.
fn grown(policy: &LbPolicy) -> (&LbPolicy, Option<&SlowStart>) {
    match policy {
        LbPolicy::SlowStart { growth, child } => (child, Some(growth)),
        policy => (policy, None),
    }
}

/// A list of this policy, and of what clients that lack it may use instead.
fn to_list(policy: &LbPolicy) -> LoadBalancingPolicy {
    let mut policies = vec![to_entry(policy)];
    match grown(policy).0 {
        LbPolicy::WeightedRoundRobin(_) => policies.push(to_entry(&LbPolicy::RoundRobin)),
        LbPolicy::PeakEwma(_) => {
            let choice_count = least_request::DEFAULT_CHOICES;
            policies.push(to_entry(&LbPolicy::LeastRequest { choice_count }));
            policies.push(to_entry(&LbPolicy::RoundRobin));
        }
        // Few clients know subsets: the others use all endpoints.
        LbPolicy::RandomSubset { child, .. } => policies.extend(to_list(child).policies),
        LbPolicy::Subsets(subsets) => policies.extend(to_list(&subsets.policy).policies),
        _ => {}
    }
    LoadBalancingPolicy { policies }
}

fn to_entry(policy: &LbPolicy) -> Policy {
    let (policy, growth) = grown(policy);
    let (name, message) = match policy {
        LbPolicy::RoundRobin => ("round_robin", round_robin::to_message(growth)),
        LbPolicy::LeastRequest { choice_count } => (
            "least_request",
            least_request::to_message(*choice_count, growth),
        ),
        LbPolicy::PickFirst { shuffle } => ("pick_first", pick_first::to_message(*shuffle)),
        LbPolicy::Random => ("random", random::to_message()),
        LbPolicy::RingHash {
            min_ring_size,
            max_ring_size,
        } => (
            "ring_hash",
            ring_hash::to_message(*min_ring_size, *max_ring_size),
        ),
        LbPolicy::Maglev { table_size } => ("maglev", maglev::to_message(*table_size)),
        LbPolicy::WeightedRoundRobin(config) => (
            "client_side_weighted_round_robin",
            weighted_round_robin::to_message(config, growth),
        ),
        LbPolicy::PeakEwma(config) => ("peak_ewma", peak_ewma::to_message(config)),
        LbPolicy::WrrLocality(child) => ("wrr_locality", wrr_locality::to_message(child)),
        LbPolicy::RandomSubset { size, child } => (
            "random_subsetting",
            random_subsetting::to_message(*size, child),
        ),
        LbPolicy::Subsets(subsets) => ("subset", subset::to_message(subsets)),
        LbPolicy::ZoneAware(aware) => return zone_aware::to_entry(aware),
        // One around another says what the inner one says.
        LbPolicy::SlowStart { child, .. } => return to_entry(child),
        LbPolicy::Custom(policy) => return entry(&policy.name, custom::to_message(policy)),
    };
    entry(&format!("envoy.load_balancing_policies.{name}"), message)
}

fn entry(name: &str, message: Any) -> Policy {
    Policy {
        typed_extension_config: Some(TypedExtensionConfig {
            name: name.to_owned(),
            typed_config: Some(message),
        }),
    }
}
