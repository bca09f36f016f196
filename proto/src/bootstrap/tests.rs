use super::*;

const MINIMAL: &str =
    r#"{"xds_servers": [{"server_uri": "xds:443", "channel_creds": [{"type": "insecure"}]}]}"#;

fn parse(json: &str) -> Bootstrap {
    Bootstrap::parse(json).expect("is valid")
}

/// The minimal bootstrap with more members.
fn with(members: &str) -> String {
    let body = MINIMAL.strip_suffix('}').expect("is an object");
    format!("{body}, {members}}}")
}

/// A bootstrap with one server.
fn server(members: &str) -> String {
    format!(r#"{{"xds_servers": [{{{members}}}]}}"#)
}

#[test]
fn little_is_needed() {
    let bootstrap = parse(MINIMAL);
    assert_eq!(bootstrap.servers.len(), 1);
    assert_eq!(bootstrap.servers[0].uri, "xds:443");
    assert_eq!(bootstrap.servers[0].credentials, Credentials::Insecure);
    assert_eq!(bootstrap.servers[0].features, ServerFeatures::default());
    assert_eq!(bootstrap.node, Node::default());
    assert_eq!(bootstrap.client_listener_template, "%s");
    assert_eq!(bootstrap.server_listener_template, None);
    assert!(bootstrap.certificate_providers.is_empty());
    assert!(bootstrap.authorities.is_empty());
    assert!(bootstrap.ignored.is_empty());
}

#[test]
fn everything_is_read() {
    let bootstrap = parse(
        r#"{
          "xds_servers": [
            {
              "server_uri": "dns:///xds:443",
              "channel_creds": [
                {"type": "google_default"},
                {"type": "tls", "config": {
                  "ca_certificate_file": "/ca", "certificate_file": "/cert",
                  "private_key_file": "/key", "refresh_interval": "0.5s"}}
              ],
              "server_features": ["xds_v3", "ignore_resource_deletion", "trusted_xds_server",
                "fail_on_data_errors", "resource_timer_is_transient_error"]
            },
            {"server_uri": "fallback:443", "channel_creds": [{"type": "tls"}]}
          ],
          "node": {
            "id": "n", "cluster": "c", "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
            "metadata": {"a": [1, true, null, {"b": "x"}]}
          },
          "certificate_providers": {
            "files": {"plugin_name": "file_watcher", "config": {
              "certificate_file": "/cert", "private_key_file": "/key"}},
            "other": {"plugin_name": "vault", "config": {"anything": 1}}
          },
          "server_listener_resource_name_template": "server/%s",
          "client_default_listener_resource_name_template": "client/%s",
          "authorities": {
            "own": {"xds_servers": [{"server_uri": "own:1", "channel_creds": [{"type": "insecure"}]}],
              "client_listener_resource_name_template": "xdstp://own/L/%s"},
            "plain": {}
          }
        }"#,
    );
    let [first, fallback] = bootstrap.servers.as_slice() else {
        panic!("two servers");
    };
    assert_eq!(
        first.credentials,
        Credentials::Tls {
            ca_certificate_file: Some("/ca".into()),
            certificate_file: Some("/cert".into()),
            private_key_file: Some("/key".into()),
            refresh_interval: Duration::from_millis(500),
        }
    );
    let all = ServerFeatures {
        ignore_resource_deletion: true,
        trusted_xds_server: true,
        fail_on_data_errors: true,
        resource_timer_is_transient_error: true,
    };
    assert_eq!(first.features, all);
    assert_eq!(
        fallback.credentials,
        Credentials::Tls {
            ca_certificate_file: None,
            certificate_file: None,
            private_key_file: None,
            refresh_interval: Duration::from_secs(600),
        }
    );
    assert_eq!(
        bootstrap.certificate_providers["files"],
        CertificateProviderConfig::FileWatcher {
            certificate_file: Some("/cert".into()),
            private_key_file: Some("/key".into()),
            ca_certificate_file: None,
            refresh_interval: Duration::from_secs(600),
        }
    );
    assert_eq!(
        bootstrap.certificate_providers["other"],
        CertificateProviderConfig::Unsupported {
            plugin_name: "vault".into()
        }
    );
    assert_eq!(
        bootstrap.server_listener_template.as_deref(),
        Some("server/%s")
    );
    assert_eq!(bootstrap.client_listener_template, "client/%s");
    assert_eq!(bootstrap.authorities["own"].servers[0].uri, "own:1");
    assert_eq!(bootstrap.authorities["plain"].servers, bootstrap.servers);
    assert!(bootstrap.ignored.is_empty(), "{:?}", bootstrap.ignored);
}

#[test]
fn bad_input_is_refused_where_it_is_bad() {
    let creds = r#""channel_creds": [{"type": "insecure"}]"#;
    let tls = |config: &str| {
        server(&format!(
            r#""server_uri": "x", "channel_creds": [{{"type": "tls", "config": {config}}}]"#
        ))
    };
    let provider = |text: &str| with(&format!(r#""certificate_providers": {{"p": {text}}}"#));
    let watcher = |config: &str| {
        provider(&format!(
            r#"{{"plugin_name": "file_watcher", "config": {config}}}"#
        ))
    };
    let cases = [
        ("".to_owned(), "line 1, column 0: EOF while parsing a value"),
        (
            "{\n  \"a\": x}".to_owned(),
            "line 2, column 8: expected value",
        ),
        ("[]".to_owned(), ".: expected an object, found a list"),
        ("{}".to_owned(), "xds_servers: is required"),
        (
            r#"{"xds_servers": {}}"#.to_owned(),
            "xds_servers: expected a list, found an object",
        ),
        (
            r#"{"xds_servers": []}"#.to_owned(),
            "xds_servers: must not be empty",
        ),
        (
            r#"{"xds_servers": [1]}"#.to_owned(),
            "xds_servers[0]: expected an object, found a number",
        ),
        (server(creds), "xds_servers[0].server_uri: is required"),
        (
            server(&format!(r#""server_uri": "", {creds}"#)),
            "xds_servers[0].server_uri: must not be empty",
        ),
        (
            server(&format!(r#""server_uri": true, {creds}"#)),
            "xds_servers[0].server_uri: expected a string, found a boolean",
        ),
        (
            server(r#""server_uri": "x""#),
            "xds_servers[0].channel_creds: is required",
        ),
        (
            server(r#""server_uri": "x", "channel_creds": null"#),
            "xds_servers[0].channel_creds: is required",
        ),
        (
            server(r#""server_uri": "x", "channel_creds": []"#),
            "xds_servers[0].channel_creds: must not be empty",
        ),
        (
            server(r#""server_uri": "x", "channel_creds": [{"type": "a"}, {"type": "b"}]"#),
            "xds_servers[0].channel_creds: none of the types is supported: a, b",
        ),
        (
            server(r#""server_uri": "x", "channel_creds": [{}]"#),
            "xds_servers[0].channel_creds: none of the types is supported: ",
        ),
        (
            tls(r#"{"certificate_file": "/a"}"#),
            "xds_servers[0].channel_creds[0].config: certificate_file and private_key_file",
        ),
        (
            tls(r#"{"ca_certificate_file": ""}"#),
            "xds_servers[0].channel_creds[0].config.ca_certificate_file: must not be empty",
        ),
        (
            tls(r#"{"refresh_interval": "soon"}"#),
            "xds_servers[0].channel_creds[0].config.refresh_interval: \"soon\" is not a duration",
        ),
        (
            tls(r#"{"refresh_interval": "1e3s"}"#),
            "xds_servers[0].channel_creds[0].config.refresh",
        ),
        (
            tls(r#"{"refresh_interval": "-1s"}"#),
            "xds_servers[0].channel_creds[0].config.refresh",
        ),
        (
            tls(r#"{"certificate_file": "/a/c", "private_key_file": "/b/k"}"#),
            "xds_servers[0].channel_creds[0].config: certificate_file and private_key_file must be",
        ),
        (
            server(&format!(
                r#""server_uri": "x", {creds}, "server_features": "a""#
            )),
            "xds_servers[0].server_features: expected a list, found a string",
        ),
        (
            with(r#""node": 1"#),
            "node: expected an object, found a number",
        ),
        (with(r#""node": {"id": 1}"#), "node.id: expected a string"),
        (
            with(r#""node": {"metadata": []}"#),
            "node.metadata: expected an object, found a list",
        ),
        (
            with(r#""node": {"locality": {"zone": {}}}"#),
            "node.locality.zone: expected a string",
        ),
        (
            with(r#""certificate_providers": []"#),
            "certificate_providers: expected an object",
        ),
        (
            provider(r#"{"plugin_name": 1}"#),
            "certificate_providers[\"p\"].plugin_name: expected a string",
        ),
        (
            watcher(r#"{"certificate_file": "/a/c", "private_key_file": "/b/k"}"#),
            "certificate_providers[\"p\"].config: certificate_file and private_key_file must be",
        ),
        (
            provider(r#"{"plugin_name": "file_watcher"}"#),
            "certificate_providers[\"p\"]: needs",
        ),
        (
            watcher("{}"),
            "certificate_providers[\"p\"]: needs certificate_file",
        ),
        (
            watcher(r#"{"private_key_file": "/k", "ca_certificate_file": "/c"}"#),
            "certificate_providers[\"p\"].config: certificate_file and private_key_file",
        ),
        (
            watcher(r#"{"ca_certificate_file": "/c", "spiffe_trust_bundle_map_file": "/m"}"#),
            "certificate_providers[\"p\"].config.spiffe_trust_bundle_map_file: is not supported",
        ),
        (
            with(r#""server_listener_resource_name_template": 1"#),
            "server_listener_resource_name_template: expected a string",
        ),
        (
            with(r#""authorities": {"a": 1}"#),
            "authorities[\"a\"]: expected an object",
        ),
        (
            with(r#""authorities": {"a": {"client_listener_resource_name_template": "x/%s"}}"#),
            "authorities[\"a\"].client_listener_resource_name_template: must begin with xdstp://a/",
        ),
        // Without the slash the name of another authority would do.
        (
            with(
                r#""authorities": {"a": {"client_listener_resource_name_template": "xdstp://ab/%s"}}"#,
            ),
            "authorities[\"a\"].client_listener_resource_name_template: must begin with xdstp://a/",
        ),
        (
            with(r#""authorities": {"a": {"xds_servers": [{}]}}"#),
            "authorities[\"a\"].xds_servers[0].server_uri: is required",
        ),
    ];
    for (json, expected) in cases {
        let error = Bootstrap::parse(&json).expect_err(&json).to_string();
        assert!(
            error.starts_with(expected),
            "expected {expected:?}, found {error:?}"
        );
    }
}

#[test]
fn empty_and_absent_are_the_same_where_grpc_says_so() {
    let bootstrap = parse(
        r#"{
      "xds_servers": [{"server_uri": "x", "channel_creds": [{}, {"type": ""}, {
        "type": "tls", "config": {"refresh_interval": "0s"}
      }]}],
      "server_listener_resource_name_template": "",
      "client_default_listener_resource_name_template": "",
      "certificate_providers": {"nameless": {}},
      "authorities": {"a/b": {"client_listener_resource_name_template": ""}}
    }"#,
    );
    let Credentials::Tls {
        refresh_interval, ..
    } = &bootstrap.servers[0].credentials
    else {
        panic!("the first supported type is tls");
    };
    assert_eq!(*refresh_interval, Duration::from_secs(600));
    assert_eq!(bootstrap.server_listener_template, None);
    assert_eq!(bootstrap.client_listener_template, "%s");
    assert_eq!(
        bootstrap.certificate_providers["nameless"],
        CertificateProviderConfig::Unsupported {
            plugin_name: String::new()
        }
    );
    assert_eq!(
        bootstrap.authorities["a/b"].client_listener_template,
        "xdstp://a%2Fb/envoy.config.listener.v3.Listener/%s"
    );
}

#[test]
fn what_is_not_read_is_listed() {
    let json = r#"{
      "xds_servers": [{
        "server_uri": "x", "channel_creds": [{"type": "insecure", "more": 1}],
        "server_features": ["tomorrow", 7, {"a": 1}], "call_creds": []
      }],
      "node": {"ID": "x", "locality": {"rack": "1"}},
      "allowed_grpc_services": {}
    }"#;
    let expected = [
        "xds_servers[0].channel_creds[0].more",
        "xds_servers[0].server_features[0]",
        "xds_servers[0].server_features[1]",
        "xds_servers[0].server_features[2]",
        "xds_servers[0].call_creds",
        "node.locality.rack",
        "node.ID",
        "allowed_grpc_services",
    ];
    assert_eq!(parse(json).ignored, expected);
}

/// What Istio's agent writes for a pod of proxyless gRPC, but for the length of its metadata.
#[test]
fn the_file_of_istios_agent() {
    let bootstrap = parse(
        r#"{
          "xds_servers": [{
            "server_uri": "unix:///etc/istio/proxy/XDS",
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"]
          }],
          "node": {
            "id": "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local",
            "metadata": {
              "GENERATOR": "grpc", "INSTANCE_IPS": "10.1.2.3", "NAMESPACE": "shop",
              "PROXY_CONFIG": {"statNameLength": 189}
            },
            "locality": {},
            "UserAgentVersionType": null
          },
          "certificate_providers": {"default": {
            "plugin_name": "file_watcher",
            "config": {
              "certificate_file": "/var/lib/istio/data/cert-chain.pem",
              "private_key_file": "/var/lib/istio/data/key.pem",
              "ca_certificate_file": "/var/lib/istio/data/root-cert.pem",
              "refresh_interval": "900s"
            }
          }},
          "server_listener_resource_name_template": "xds.istio.io/grpc/lds/inbound/%s"
        }"#,
    );
    assert_eq!(bootstrap.servers[0].uri, "unix:///etc/istio/proxy/XDS");
    assert_eq!(
        bootstrap.node.id,
        "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local"
    );
    assert!(bootstrap.certificate_providers.contains_key("default"));
    // An unknown key with nothing in it is nothing that anybody asked for.
    assert!(bootstrap.ignored.is_empty(), "{:?}", bootstrap.ignored);
}

#[test]
fn listener_names() {
    let bootstrap = parse(&with(
        r#""server_listener_resource_name_template": "xdstp://s/L/%s",
           "authorities": {"a": {}, "b": {"client_listener_resource_name_template": "xdstp://b/%s"}}"#,
    ));
    let client = |authority, target| bootstrap.client_listener_name(authority, target);
    let ok = |name: &str| Ok(name.to_owned());
    assert_eq!(client(None, "shop:80 "), ok("shop:80 "));
    assert_eq!(client(Some(""), "shop"), ok("shop"));
    let standard = ok("xdstp://a/envoy.config.listener.v3.Listener/shop/%C3%A4");
    assert_eq!(client(Some("a"), "shop/ä"), standard);
    assert_eq!(client(Some("b"), "shop"), ok("xdstp://b/shop"));
    assert_eq!(
        client(Some("c"), "shop"),
        Err(NameError::UnknownAuthority("c".into()))
    );
    assert_eq!(
        bootstrap.server_listener_name("[::1]:80"),
        ok("xdstp://s/L/%5B::1%5D:80")
    );
    assert_eq!(
        parse(MINIMAL).server_listener_name("1.2.3.4:80"),
        Err(NameError::NoServerTemplate)
    );
}

#[test]
fn the_node_says_who_and_what_it_is() {
    let bootstrap = parse(&with(
        r#""node": {"id": "n", "metadata": {"GENERATOR": "grpc"}}"#,
    ));
    let node = bootstrap.wire_node("1.2.3");
    assert_eq!(node.id, "n");
    assert_eq!(node.user_agent_name, "sidestep");
    let version = core::node::UserAgentVersionType::UserAgentVersion("1.2.3".into());
    assert_eq!(node.user_agent_version_type, Some(version));
    assert_eq!(
        node.client_features,
        [
            "envoy.lb.does_not_support_overprovisioning",
            "xds.config.resource-in-sotw"
        ]
    );
    assert_eq!(node.locality, None);
    let generator = prost_types::value::Kind::StringValue("grpc".into());
    let metadata = node.metadata.expect("was given");
    assert_eq!(metadata.fields["GENERATOR"].kind, Some(generator));
}
