//! A cluster, for people.

use std::collections::HashMap;

use super::super::dependency::{ClusterConfig, Resolution};
use super::super::endpoint::Endpoint;
use super::super::inspect::Calendar;
use super::super::reconcile::EndpointKey;
use super::Cluster;
use crate::balancer::{LoadBalancer as _, SubchannelId};
use crate::explain::words;
use crate::inspect;

impl Cluster {
    /// Everything about it, for people.
    pub(in crate::control) fn inspect(
        &self,
        from_control_plane: bool,
        calendar: Calendar,
    ) -> inspect::Cluster {
        let config = match &self.config {
            Resolution::Ready(config) => Some(config),
            Resolution::Waiting | Resolution::Failed(_) => None,
        };
        let cluster = config.map(|config| &config.cluster);
        let drops = self.drops.iter();
        let breaker = self.shared.breaker();
        inspect::Cluster {
            name: self.shared.name().to_string(),
            from_control_plane,
            policy: cluster.map(|cluster| cluster.lb_policy.clone()),
            discovery: cluster.map(|cluster| cluster.discovery.clone()),
            security: cluster.map_or_else(String::new, |c| words::security(c.tls.as_ref())),
            connectivity: self.publication.connectivity().clone(),
            error: self.error(),
            max_requests: breaker.max(),
            in_flight: breaker.in_flight(),
            drops: drops
                .map(|d| (d.category.clone(), d.share.parts()))
                .collect(),
            leaves: Vec::new(),
            endpoints: config
                .map_or_else(Vec::new, |config| self.inspect_endpoints(config, calendar)),
        }
    }

    fn inspect_endpoints(
        &self,
        config: &ClusterConfig,
        calendar: Calendar,
    ) -> Vec<inspect::Endpoint> {
        let known: HashMap<&EndpointKey, (SubchannelId, &Endpoint)> = self
            .endpoints
            .iter()
            .map(|(id, endpoint)| (endpoint.key(), (*id, &**endpoint)))
            .collect();
        let policy = self.policy.as_ref().map(|(_, policy)| policy);
        let groups = config.endpoints.iter().flat_map(|e| &e.localities);
        let all = groups.flat_map(|group| group.endpoints.iter().map(move |e| (group, e)));
        all.map(|(group, wire)| {
            let ours = known.get(&EndpointKey::of(wire)).copied();
            let standing = ours
                .zip(policy)
                .map(|((id, _), policy)| policy.standing(id));
            let standing = standing.unwrap_or_default();
            let ours = ours.map(|(_, endpoint)| endpoint);
            inspect::Endpoint {
                addresses: wire.addresses.clone(),
                hostname: wire.hostname.clone(),
                locality: group.locality.clone(),
                priority: group.priority,
                weight: wire.weight,
                locality_weight: group.weight,
                health: wire.health,
                connectivity: ours.map(|endpoint| endpoint.connectivity()),
                in_flight: ours.map_or(0, |endpoint| endpoint.in_flight()),
                ejected: standing.ejected.map(|ejected| inspect::Ejection {
                    reason: ejected.reason.to_string(),
                    remaining: calendar.until(ejected.until),
                    until: calendar.date(ejected.until),
                }),
                current_weight: standing.weight.unwrap_or_else(|| wire.weight.into()),
                locality_share: standing.locality_share,
                passed_over: standing.passed_over,
                last_error: ours.and_then(|endpoint| endpoint.last_error(calendar)),
            }
        })
        .collect()
    }
}
