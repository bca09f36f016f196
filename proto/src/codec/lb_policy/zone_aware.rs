//! Calls that stay in the caller's zone: `common_lb_config.zone_aware_lb_config` of a cluster, and
//! `locality_lb_config.zone_aware_lb_config` of a policy.
//!
//! The fields are Envoy's; gRPC's runtimes know neither and go by the localities' weights. Envoy
//! decides by the size of the caller's own cluster in each zone, which a client does not know: what
//! the runtime does instead is in its `balancer::zone_aware`.

use super::{At, LOCALITY};
use crate::resource::{LbPolicy, PerMillion, ZoneAware};
use crate::wire::Any;
use crate::wire::cluster::cluster::CommonLbConfig;
use crate::wire::cluster::cluster::common_lb_config as common;
use crate::wire::cluster::load_balancing_policy::Policy;
use crate::wire::load_balancing::locality_lb_config as own;
use crate::wire::load_balancing::{LeastRequest, LocalityLbConfig, Random, RoundRobin};
use crate::wire::number::Percent;

const FIELD: &str = "zone_aware_lb_config";
const PANIC: &str = "calls fail over by priority alone";
const FORCED: &str = "calls stay in their zone as far as its endpoints carry them";
const COUNTED: &str = "what a zone carries is counted by the weight of its endpoints";
const FLAT: &str = "only a policy that chooses among localities can prefer one";

/// What [`ZoneAware`] consists of, beside the policy inside.
struct Options {
    share: PerMillion,
    min_endpoints: u32,
}

impl Options {
    fn new(routing_enabled: Option<Percent>, min_cluster_size: Option<u64>) -> Self {
        let percent = routing_enabled.map_or(100.0, |percent| percent.value);
        let default = u64::from(ZoneAware::DEFAULT_MIN_ENDPOINTS);
        let min = min_cluster_size.unwrap_or(default);
        Self {
            // What is no number becomes 0.
            share: PerMillion::new((percent.clamp(0.0, 100.0) * 10_000.0) as u32),
            min_endpoints: u32::try_from(min).unwrap_or(u32::MAX),
        }
    }

    fn around(self, policy: LbPolicy) -> LbPolicy {
        LbPolicy::ZoneAware(Box::new(ZoneAware {
            policy,
            share: self.share,
            min_endpoints: self.min_endpoints,
        }))
    }
}

/// The policy of a cluster by the cluster's own field: what would choose localities by weight
/// prefers the caller's zone.
pub(super) fn of_cluster(
    at: &At<'_>,
    config: Option<&CommonLbConfig>,
    policy: LbPolicy,
) -> LbPolicy {
    let specifier = config.and_then(|config| config.locality_config_specifier);
    let Some(common::LocalityConfigSpecifier::ZoneAwareLbConfig(config)) = specifier else {
        return policy;
    };
    let at = at.field("common_lb_config");
    let LbPolicy::WrrLocality(inside) = policy else {
        at.ignore(FIELD, true, FLAT);
        return policy;
    };
    let at = at.field(FIELD);
    at.ignore("fail_traffic_on_panic", config.fail_traffic_on_panic, PANIC);
    Options::new(config.routing_enabled, config.min_cluster_size).around(*inside)
}

/// The policy by the field of its own message.
pub(super) fn of_policy(
    at: &At<'_>,
    config: Option<&LocalityLbConfig>,
    policy: LbPolicy,
) -> LbPolicy {
    let specifier = config.and_then(|config| config.locality_config_specifier.as_ref());
    let Some(own::LocalityConfigSpecifier::ZoneAwareLbConfig(config)) = specifier else {
        at.ignore("locality_lb_config", config.is_some(), LOCALITY);
        return policy;
    };
    let at = at.field("locality_lb_config");
    let at = at.field(FIELD);
    at.ignore("fail_traffic_on_panic", config.fail_traffic_on_panic, PANIC);
    at.ignore(
        "force_local_zone",
        config.force_local_zone.is_some(),
        FORCED,
    );
    at.ignore("locality_basis", config.locality_basis != 0, COUNTED);
    Options::new(config.routing_enabled, config.min_cluster_size).around(policy)
}

/// The cluster's own field.
pub(super) fn to_common(aware: &ZoneAware) -> CommonLbConfig {
    let config = common::ZoneAwareLbConfig {
        routing_enabled: percent(aware.share),
        min_cluster_size: min_cluster_size(aware),
        fail_traffic_on_panic: false,
    };
    CommonLbConfig {
        locality_config_specifier: Some(common::LocalityConfigSpecifier::ZoneAwareLbConfig(config)),
        ..Default::default()
    }
}

/// The entry of the policy inside, with the field that says it. Where its message has none, and
/// decoding never makes such a policy inside of another one, localities go by weight.
pub(super) fn to_entry(aware: &ZoneAware) -> Policy {
    let mut entry = super::to_entry(&aware.policy);
    let extension = entry.typed_extension_config.as_mut();
    let message = extension.and_then(|extension| extension.typed_config.as_mut());
    let config = own::ZoneAwareLbConfig {
        routing_enabled: percent(aware.share),
        min_cluster_size: min_cluster_size(aware),
        ..Default::default()
    };
    let config = LocalityLbConfig {
        locality_config_specifier: Some(own::LocalityConfigSpecifier::ZoneAwareLbConfig(config)),
    };
    match message.and_then(|message| Some((with(message, config)?, message))) {
        Some((with, message)) => *message = with,
        None => return super::to_entry(&aware.policy.clone().by_locality()),
    }
    entry
}

/// The message with its field set, if it has one.
fn with(message: &Any, config: LocalityLbConfig) -> Option<Any> {
    let locality_lb_config = Some(config);
    if let Ok(policy) = message.unpack::<RoundRobin>() {
        return Some(Any::pack(&RoundRobin {
            locality_lb_config,
            ..policy
        }));
    }
    if let Ok(policy) = message.unpack::<LeastRequest>() {
        return Some(Any::pack(&LeastRequest {
            locality_lb_config,
            ..policy
        }));
    }
    let is_random = message.is::<Random>();
    is_random.then(|| Any::pack(&Random { locality_lb_config }))
}

fn percent(share: PerMillion) -> Option<Percent> {
    let value = f64::from(share.parts()) / 10_000.0;
    (share != PerMillion::ALL).then_some(Percent { value })
}

fn min_cluster_size(aware: &ZoneAware) -> Option<u64> {
    let min = aware.min_endpoints;
    (min != ZoneAware::DEFAULT_MIN_ENDPOINTS).then_some(min.into())
}
