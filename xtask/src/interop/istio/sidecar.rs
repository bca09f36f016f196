//! Envoy as Istio's sidecar, but of the published build: what it starts from, and the object that
//! says where it listens.

use std::path::Path;

use serde_json::{Value, json};

use super::{NAMESPACE, host};

/// Envoy's file: the node that Istio's agent writes, and the two clusters that everything which
/// Istio sends refers to by name.
pub(super) fn bootstrap(mut node: Value, discovery: &Path, secrets: &Path) -> Value {
    node["cluster"] = json!("sidecar");
    let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    json!({
        "node": node,
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds-grpc"}}],
            },
        },
        "static_resources": {
            "clusters": [agent("xds-grpc", discovery), agent("sds-grpc", secrets)],
        },
    })
}

fn agent(name: &str, socket: &Path) -> Value {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name,
        "type": "STATIC",
        "typed_extension_protocol_options": {OPTIONS: {
            "@type": format!("type.googleapis.com/{OPTIONS}"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
        },
    })
}

/// Envoy in front of an application on loopback.
pub(in crate::interop) fn ingress(pod: &str, listen: (&str, u16), application: &str) -> String {
    let (ip, port) = listen;
    object(
        pod,
        &format!(
            "ingress:\n  - {{port: {{number: {port}, name: grpc, protocol: GRPC}}, bind: {ip}, \
             defaultEndpoint: '{application}', captureMode: NONE}}"
        ),
    )
}

/// Envoy on loopback for an application that calls a service.
pub(in crate::interop) fn egress(pod: &str, port: u16, service: &str) -> String {
    let host = host(service);
    object(
        pod,
        &format!(
            "egress:\n  - {{port: {{number: {port}, name: grpc, protocol: GRPC}}, bind: 127.0.0.1, \
             hosts: ['./{host}'], captureMode: NONE}}"
        ),
    )
}

fn object(pod: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: Sidecar\n\
         metadata: {{name: {pod}, namespace: {NAMESPACE}}}\n\
         spec:\n  \
           workloadSelector: {{labels: {{version: {pod}}}}}\n  \
           {spec}\n---\n"
    )
}
