use super::*;
use crate::model::Mesh;

/// Compiles one native resource whose body begins on line 4.
fn outcome(body: &str) -> (Option<CompiledResource>, Vec<String>) {
    let text = format!("mesh: v1\nresources:\n  -\n{body}");
    let (mesh, _) = Mesh::parse(&[("m.yaml", &text)]).expect("a mesh file");
    let mut report = Report::default();
    let made = compile(&mesh.resources[0], &mut report);
    let lines = report
        .diagnostics
        .iter()
        .map(crate::model::Diagnostic::uncoded);
    (made, lines.collect())
}

const CLUSTER: &str = "    \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n    name: c\n    type: EDS\n    eds_cluster_config: {eds_config: {ads: {}}}\n";

#[test]
fn the_descriptors_hold_everything_of_ours() {
    let ours = DescriptorPool::decode(wire::DESCRIPTORS).expect("decodes");
    for message in ours.all_messages() {
        let name = message.full_name();
        assert!(pool().get_message_by_name(name).is_some(), "{name}");
    }
}

#[test]
fn a_cluster_is_carried_with_the_fields_that_only_envoy_knows() {
    let (made, found) = outcome(&format!("{CLUSTER}    connect_timeout: 2.5s\n"));
    let made = made.unwrap_or_else(|| panic!("{found:?}"));
    assert_eq!(made.name, "c");
    assert_eq!(made.provenance.line, 4);
    let again = DynamicMessage::decode(
        pool()
            .get_message_by_name("envoy.config.cluster.v3.Cluster")
            .expect("known"),
        made.to_any().value,
    )
    .expect("decodes");
    let timeout = again.get_field_by_name("connect_timeout").expect("a field");
    assert_eq!(
        timeout.as_message().expect("a message").to_string(),
        "seconds:2,nanos:500000000"
    );
}

/// What admin pages show is written from the small set of descriptors; protobuf's own mapping of the
/// whole set is the judge.
#[test]
fn messages_are_shown_as_protobufs_json_has_them() {
    let bodies = [
        r#"
    "@type": type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: c
    type: EDS
    eds_cluster_config: {eds_config: {ads: {}, resource_api_version: V3}, service_name: s}
    lb_policy: LEAST_REQUEST
    least_request_lb_config: {choice_count: 3}
    circuit_breakers: {thresholds: [{priority: HIGH, max_requests: 7}, {max_requests: 0}]}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificate_provider_instance: {instance_name: default}
          combined_validation_context:
            default_validation_context:
              ca_certificate_provider_instance: {instance_name: default}
              match_subject_alt_names: [{exact: "spiffe://a"}]
"#,
        r#"
    "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: r
    virtual_hosts:
      - name: v
        domains: ["*"]
        routes:
          - name: first
            match:
              prefix: /a.B/
              headers: [{name: x, range_match: {start: -5, end: 9000000000}}]
              runtime_fraction: {default_value: {numerator: 25, denominator: HUNDRED}}
            route:
              weighted_clusters: {clusters: [{name: c, weight: 3}, {name: d, weight: 0}]}
              max_stream_duration: {max_stream_duration: 1.250s, grpc_timeout_header_max: 0s}
              retry_policy: {retry_on: unavailable, num_retries: 2, retry_back_off: {base_interval: 0.025s}}
          - match: {safe_regex: {regex: "/x.*"}}
            non_forwarding_action: {}
"#,
        r#"
    "@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment
    cluster_name: c
    endpoints:
      - locality: {region: r, zone: "ü"}
        load_balancing_weight: 4
        lb_endpoints:
          - health_status: DRAINING
            load_balancing_weight: 2
            endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 443}}, hostname: h}
            metadata:
              filter_metadata: {a: {list: [1, 2.5, true, null, {b: c}]}}
    policy: {drop_overloads: [{category: x, drop_percentage: {numerator: 1, denominator: MILLION}}]}
"#,
    ];
    for body in bodies {
        let (made, found) = outcome(body);
        let any = made.unwrap_or_else(|| panic!("{found:?}")).to_any();
        let descriptor = pool().get_message_by_name(any.type_name()).expect("known");
        let message = DynamicMessage::decode(descriptor, any.value.clone()).expect("decodes");
        let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
        let theirs = message
            .serialize_with_options(serde_json::value::Serializer, &options)
            .expect("is JSON");
        let mut ours = wire::json::render(&any).json;
        let fields = ours.as_object_mut().expect("an object");
        fields.shift_remove("@type");
        assert_eq!(ours, theirs, "{body}");
    }
}

#[test]
fn a_type_that_the_runtime_does_not_know_is_carried() {
    let (made, found) = outcome(
        "    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n    name: s\n    generic_secret: {secret: {inline_string: x}}\n",
    );
    assert_eq!(found, [""; 0]);
    assert_eq!(made.expect("is made").name, "s");
}

#[test]
fn faults_are_found_at_their_line() {
    let cases: &[(&str, &[&str])] = &[
        (
            "    \"@type\": type.googleapis.com/envoy.config.cluster.v3.Clutser\n    name: x\n",
            &[
                "m.yaml:4:5: resources[0]: unknown type \"envoy.config.cluster.v3.Clutser\"; did you mean \"envoy.config.cluster.v3.Cluster\"?",
            ],
        ),
        (
            "    \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n    nam: x\n    eds_cluster_config:\n      service_nam: y\n    lb_policy: ROUND_ROBINN\n",
            &[
                "m.yaml:5:5: resources[0]: envoy.config.cluster.v3.Cluster has no field \"nam\"; did you mean \"name\"?",
                "m.yaml:7:7: resources[0].eds_cluster_config: envoy.config.cluster.v3.Cluster.EdsClusterConfig has no field \"service_nam\"; did you mean \"service_name\"?",
                "m.yaml:8:16: resources[0].lb_policy: unrecognized enum value 'ROUND_ROBINN'",
            ],
        ),
        (
            "    \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n    name: l\n    api_listener:\n      api_listener:\n        \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n        rds: {route_config_nam: r}\n",
            &[
                "m.yaml:9:15: resources[0].api_listener.api_listener.rds: envoy.extensions.filters.network.http_connection_manager.v3.Rds has no field \"route_config_nam\"; did you mean \"route_config_name\"?",
            ],
        ),
    ];
    for (body, expected) in cases {
        let (made, found) = outcome(body);
        assert!(made.is_none(), "{body}");
        assert_eq!(found, *expected, "{body}");
    }
}

#[test]
fn a_rule_of_the_runtime_that_is_broken_is_an_error_at_the_field() {
    let (made, found) = outcome(
        "    \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n    name: r\n    virtual_hosts:\n      - name: v\n        domains: [\"*\"]\n        routes:\n          - match: {safe_regex: {regex: \"(\"}}\n            route: {cluster: c}\n",
    );
    assert!(made.is_none());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("m.yaml:10:"), "{found:?}");
    assert!(found[0].contains("bad regular expression"), "{found:?}");
}

#[test]
fn a_security_field_that_is_not_enforced_is_an_error() {
    let (made, found) = outcome(&format!(
        "{CLUSTER}    transport_socket:\n      name: envoy.transport_sockets.tls\n      typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n        common_tls_context:\n          validation_context:\n            ca_certificate_provider_instance: {{instance_name: default}}\n            verify_certificate_hash: [\"00\"]\n"
    ));
    assert!(made.is_none());
    assert!(found[0].contains("verify_certificate_hash"), "{found:?}");
}

#[test]
fn an_envoy_listener_may_use_the_routes_of_a_service() {
    let (made, found) = outcome(
        r#"    "@type": type.googleapis.com/envoy.config.listener.v3.Listener
    name: edge
    address: {socket_address: {address: 127.0.0.1, port_value: 10000}}
    filter_chains:
      - filters:
          - name: hcm
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
              stat_prefix: edge
              codec_type: AUTO
              rds: {route_config_name: greeter, config_source: {ads: {}, resource_api_version: V3}}
              http_filters:
                - name: router
                  typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#,
    );
    assert_eq!(found, [""; 0]);
    assert_eq!(made.expect("is made").name, "edge");
}
