//! Which endpoints of a cluster sessions lead to, and for how long (gRFC A55, A75).

use super::at::{At, Result, wire_duration};
use crate::resource::SessionHosts;
use crate::wire::cluster::{Cluster, cluster::CommonLbConfig};
use crate::wire::core::{HealthStatus, HealthStatusSet, HttpProtocolOptions, TypedExtensionConfig};
use crate::wire::{Any, upstream_http};

/// The name by which Envoy knows the HTTP options.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn decode(at: &At<'_>, wire: &Cluster) -> Result<SessionHosts> {
    let mut hosts = SessionHosts::default();
    let common = wire.common_lb_config.as_ref();
    if let Some(set) = common.and_then(|common| common.override_host_status.as_ref()) {
        // An empty set is one: sessions lead nowhere then.
        let has = |status| set.statuses.contains(&(status as i32));
        hosts.unknown = has(HealthStatus::Unknown);
        hosts.healthy = has(HealthStatus::Healthy);
        hosts.draining = has(HealthStatus::Draining);
        let place = at.field("common_lb_config");
        let place = place.field("override_host_status");
        let others = [
            HealthStatus::Unhealthy,
            HealthStatus::Timeout,
            HealthStatus::Degraded,
        ];
        place.ignore(
            "statuses",
            others.into_iter().any(has),
            "only UNKNOWN, HEALTHY and DRAINING endpoints are ever used",
        );
    }
    if let Some(timeout) = idle_timeout(at, wire)? {
        hosts.idle_timeout = timeout;
    }
    Ok(hosts)
}

fn idle_timeout(at: &At<'_>, wire: &Cluster) -> Result<Option<std::time::Duration>> {
    const TUNED: &str = "connections are tuned in the process";
    let at = at.field("upstream_config");
    let Some(config) = &wire.upstream_config else {
        return Ok(None);
    };
    let at = at.field("typed_config");
    let any = config.typed_config.as_ref();
    let Some(any) = any.filter(|any| any.is::<upstream_http::HttpProtocolOptions>()) else {
        at.note(TUNED);
        return Ok(None);
    };
    let options: upstream_http::HttpProtocolOptions = at.unpack(any)?;
    let common = options.common_http_protocol_options;
    let known = upstream_http::HttpProtocolOptions {
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: common.as_ref().and_then(|common| common.idle_timeout),
            ..Default::default()
        }),
        ..Default::default()
    };
    if options != known {
        at.note(TUNED);
    }
    let at = at.field("common_http_protocol_options");
    at.optional_duration("idle_timeout", common.and_then(|c| c.idle_timeout))
}

/// Nothing for what is the default anyway.
pub(super) fn encode(hosts: &SessionHosts, wire: &mut Cluster) {
    let default = SessionHosts::default();
    let states = |hosts: &SessionHosts| (hosts.unknown, hosts.healthy, hosts.draining);
    if states(hosts) != states(&default) {
        let statuses = [
            (hosts.unknown, HealthStatus::Unknown),
            (hosts.healthy, HealthStatus::Healthy),
            (hosts.draining, HealthStatus::Draining),
        ];
        let named = statuses.iter().filter(|(on, _)| *on);
        wire.common_lb_config
            .get_or_insert_with(CommonLbConfig::default)
            .override_host_status = Some(HealthStatusSet {
            statuses: named.map(|(_, status)| *status as i32).collect(),
        });
    }
    if hosts.idle_timeout != default.idle_timeout {
        let options = upstream_http::HttpProtocolOptions {
            common_http_protocol_options: Some(HttpProtocolOptions {
                idle_timeout: Some(wire_duration(hosts.idle_timeout)),
                ..Default::default()
            }),
            ..Default::default()
        };
        wire.upstream_config = Some(TypedExtensionConfig {
            name: HTTP_OPTIONS.to_owned(),
            typed_config: Some(Any::pack(&options)),
        });
    }
}
