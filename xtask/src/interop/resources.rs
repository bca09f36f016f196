//! xDS resources in JSON, as scenarios serve them. The service is `greeter`.

use serde_json::{Map, Value, json};

/// The service that all scenarios call.
pub(crate) const SERVICE: &str = "greeter";

const PREFIX: &str = "type.googleapis.com/";

/// The `@type` of a message.
pub(crate) fn kind(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// `base` with these fields, too.
pub(crate) fn with(mut base: Value, fields: Value) -> Value {
    if let (Some(base), Value::Object(fields)) = (base.as_object_mut(), fields) {
        base.extend::<Map<String, Value>>(fields);
    }
    base
}

/// From the same control plane.
fn ads() -> Value {
    json!({"ads": {}, "resource_api_version": "V3"})
}

/// A connection manager with these routes (a field `rds` or `route_config`).
fn manager(routes: Value) -> Value {
    let router = kind("envoy.extensions.filters.http.router.v3.Router");
    with(
        json!({
            "@type": kind("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
            "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
        }),
        routes,
    )
}

/// An API listener of this name whose routes are another resource.
pub(crate) fn listener(name: &str, routes: &str) -> Value {
    api_listener(
        name,
        json!({"rds": {"config_source": ads(), "route_config_name": routes}}),
    )
}

/// An API listener with its routes in it.
pub(crate) fn listener_with_routes(name: &str, routes: &[Value]) -> Value {
    let mut routes = route_configuration("inline", routes);
    if let Some(routes) = routes.as_object_mut() {
        routes.remove("@type");
    }
    api_listener(name, json!({"route_config": routes}))
}

fn api_listener(name: &str, routes: Value) -> Value {
    json!({
        "@type": kind("envoy.config.listener.v3.Listener"),
        "name": name,
        "api_listener": {"api_listener": manager(routes)},
    })
}

/// What a meshed server at this address takes in; with a `DownstreamTlsContext`, over TLS.
pub(crate) fn server_listener(address: &str, tls: Option<&Value>) -> Value {
    let (host, port) = host_and_port(address);
    let routes = json!({
        "route_config": {
            "name": "inbound",
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": ""}, "non_forwarding_action": {}}],
            }],
        },
    });
    let mut chain = json!({
        "name": "all",
        "filters": [{"name": "http", "typed_config": manager(routes)}],
    });
    if let Some(tls) = tls {
        chain["transport_socket"] = transport_socket(tls);
    }
    json!({
        "@type": kind("envoy.config.listener.v3.Listener"),
        "name": format!("grpc/server?xds.resource.listening_address={address}"),
        "address": {"socket_address": {"address": host, "port_value": port}},
        "filter_chains": [chain],
    })
}

/// The socket of a TLS context.
pub(crate) fn transport_socket(tls: &Value) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typed_config": tls})
}

/// Routes for every host.
pub(crate) fn route_configuration(name: &str, routes: &[Value]) -> Value {
    json!({
        "@type": kind("envoy.config.route.v3.RouteConfiguration"),
        "name": name,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}],
    })
}

/// Calls of which `matches` is true go to this cluster.
pub(crate) fn route(matches: Value, cluster: &str) -> Value {
    json!({"match": matches, "route": {"cluster": cluster}})
}

/// All calls go to this cluster.
pub(crate) fn all_to(cluster: &str) -> Value {
    route(json!({"prefix": ""}), cluster)
}

/// A cluster with round robin whose endpoints are another resource of the same name.
pub(crate) fn cluster(name: &str) -> Value {
    json!({
        "@type": kind("envoy.config.cluster.v3.Cluster"),
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": ads()},
        "lb_policy": "ROUND_ROBIN",
    })
}

/// A locality with these endpoints and a weight and a priority.
pub(crate) fn locality(zone: &str, weight: u32, priority: u32, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses.iter().map(|address| endpoint(address)).collect();
    json!({
        "locality": {"region": "here", "zone": zone},
        "load_balancing_weight": weight,
        "priority": priority,
        "lb_endpoints": endpoints,
    })
}

/// One endpoint.
pub(crate) fn endpoint(address: &str) -> Value {
    json!({"endpoint": {"address": socket_address(address)}})
}

/// An address as xDS has it.
pub(crate) fn socket_address(address: &str) -> Value {
    let (host, port) = host_and_port(address);
    json!({"socket_address": {"address": host, "port_value": port}})
}

/// The parts of `host:port`; the host without brackets.
fn host_and_port(address: &str) -> (&str, u16) {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, port.parse().unwrap_or_default())
}

/// The endpoints of a cluster, by locality.
pub(crate) fn assignment(cluster: &str, localities: &[Value]) -> Value {
    json!({
        "@type": kind("envoy.config.endpoint.v3.ClusterLoadAssignment"),
        "cluster_name": cluster,
        "endpoints": localities,
    })
}

/// The endpoints of a cluster, all in one locality.
pub(crate) fn endpoints(cluster: &str, addresses: &[&str]) -> Value {
    assignment(cluster, &[locality("a", 1, 0, addresses)])
}

/// The service with these routes.
pub(crate) fn service(routes: &[Value]) -> Vec<Value> {
    vec![
        listener(SERVICE, "routes"),
        route_configuration("routes", routes),
    ]
}

/// A cluster and its endpoints.
pub(crate) fn cluster_at(name: &str, addresses: &[&str]) -> Vec<Value> {
    vec![cluster(name), endpoints(name, addresses)]
}

/// The service with one cluster, `one`.
pub(crate) fn simple(addresses: &[&str]) -> Vec<Value> {
    [service(&[all_to("one")]), cluster_at("one", addresses)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_parts() {
        assert_eq!(host_and_port("127.0.0.1:80"), ("127.0.0.1", 80));
        assert_eq!(host_and_port("[::1]:80"), ("::1", 80));
    }

    #[test]
    fn fields_are_added_and_replaced() {
        let merged = with(json!({"a": 1, "b": 1}), json!({"b": 2, "c": 3}));
        assert_eq!(merged, json!({"a": 1, "b": 2, "c": 3}));
    }
}
