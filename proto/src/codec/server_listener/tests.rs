use super::*;
use crate::codec::http_filter::encode_chain as encode_filters;
use crate::codec::tests::{check, ignored, read};
use crate::resource::{FilterConfig, HttpFilter, ResourceType};
use crate::wire::hcm::http_connection_manager::RouteSpecifier;
use crate::wire::http_filter::Router;
use crate::wire::listener::{Filter, FilterChain as WireChain, FilterChainMatch as WireMatch};
use crate::wire::tls;

type Wire = listener::Listener;

const TYPE: ResourceType = ResourceType::Listener;

fn http() -> hcm::HttpConnectionManager {
    hcm::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(Default::default())),
        http_filters: encode_filters(&[HttpFilter {
            name: "router".into(),
            config: FilterConfig::Router,
        }]),
        ..Default::default()
    }
}

fn filter(name: &str, any: Any) -> Filter {
    Filter {
        name: name.into(),
        config_type: Some(filter::ConfigType::TypedConfig(any)),
    }
}

fn chain(change: impl Fn(&mut WireMatch)) -> WireChain {
    let mut matches = WireMatch::default();
    change(&mut matches);
    WireChain {
        filter_chain_match: Some(matches),
        filters: vec![filter("http", Any::pack(&http()))],
        ..Default::default()
    }
}

fn base() -> Wire {
    Wire {
        name: "server".into(),
        address: Some(encode_socket_address(SocketAddr::from((
            [127, 0, 0, 1],
            80,
        )))),
        filter_chains: vec![chain(|_| ())],
        ..Default::default()
    }
}

fn range(prefix: &str, len: Option<u32>) -> core::CidrRange {
    core::CidrRange {
        address_prefix: prefix.into(),
        prefix_len: len,
    }
}

#[test]
fn the_listener_itself() {
    let inspector = |any: Any| listener::ListenerFilter {
        name: "any".into(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(any)),
        filter_disabled: None,
    };
    check(
        TYPE,
        &base(),
        &[
            ("address: is required", &|w| w.address = None),
            ("address.pipe: listening on a Unix socket", &|w| {
                w.address = Some(core::Address {
                    address: Some(core::address::Address::Pipe(Default::default())),
                });
            }),
            (
                "address.envoy_internal_address: an internal address",
                &|w| {
                    w.address = Some(core::Address {
                        address: Some(core::address::Address::EnvoyInternalAddress(
                            Default::default(),
                        )),
                    });
                },
            ),
            ("use_original_dst: the field", &|w| {
                w.use_original_dst = Some(true)
            }),
            ("", &|w| w.use_original_dst = Some(false)),
            ("filter_chain_matcher: the field", &|w| {
                w.filter_chain_matcher = Some(Default::default());
            }),
            ("fcds_config: the field", &|w| {
                w.fcds_config = Some(Default::default())
            }),
            ("filter_chains: must not be empty", &|w| {
                w.filter_chains.clear()
            }),
            ("", &|w| w.default_filter_chain = w.filter_chains.pop()),
            ("default_filter_chain.filters: must not be empty", &|w| {
                w.default_filter_chain = Some(WireChain::default());
            }),
            // The default chain has no conditions, whatever it says.
            ("", &|w| {
                w.default_filter_chain = Some(chain(|m| m.suffix_len = Some(1)));
            }),
            // A chain for a port is not even read.
            ("", &|w| {
                w.filter_chains.push(WireChain {
                    filters: Vec::new(),
                    ..chain(|m| m.destination_port = Some(80))
                });
            }),
            ("filter_chains: must not be empty", &|w| {
                w.filter_chains = vec![chain(|m| m.destination_port = Some(80))];
            }),
            ("filter_chains: none can ever match", &|w| {
                w.filter_chains = vec![
                    chain(|m| m.server_names = vec!["a".into()]),
                    chain(|m| m.application_protocols = vec!["h2".into()]),
                    chain(|m| m.transport_protocol = "quic".into()),
                ];
            }),
            ("", &|w| {
                w.filter_chains = vec![chain(|m| m.server_names = vec!["a".into()])];
                w.default_filter_chain = Some(chain(|_| ()));
            }),
            ("", &|w| {
                w.filter_chains = vec![chain(|m| m.transport_protocol = "tls".into())];
            }),
            ("", &|w| {
                w.listener_filters
                    .push(inspector(Any::pack(&TlsInspector::default())))
            }),
            (
                "listener_filters[0].typed_config: the listener filter",
                &|w| {
                    w.listener_filters
                        .push(inspector(Any::pack(&Router::default())));
                },
            ),
            ("listener_filters[0].typed_config: is required", &|w| {
                w.listener_filters.push(Default::default());
            }),
        ],
    );
}

#[test]
fn network_filters() {
    fn filters(wire: &mut Wire) -> &mut Vec<Filter> {
        &mut wire.filter_chains[0].filters
    }
    let changed = |change: fn(&mut hcm::HttpConnectionManager)| {
        move |wire: &mut Wire| {
            let mut http = http();
            change(&mut http);
            filters(wire)[0] = filter("http", Any::pack(&http));
        }
    };
    check(
        TYPE,
        &base(),
        &[
            ("filter_chains[0].filters: must not be empty", &|w| {
                filters(w).clear()
            }),
            ("filter_chains[0].filters[0].name: is required", &|w| {
                filters(w)[0].name.clear()
            }),
            (
                "filter_chains[0].filters[1].name: \"http\" appears twice",
                &|w| {
                    filters(w).push(filter("http", Any::pack(&http())));
                },
            ),
            // A second manager sees no call; still its filters must be right, its routes not.
            ("", &|w| {
                let mut second = http();
                second.route_specifier = None;
                second.xff_num_trusted_hops = 1;
                filters(w).push(filter("more", Any::pack(&second)));
            }),
            (
                "filter_chains[0].filters[1].typed_config.http_filters: must not be empty",
                &|w| {
                    let mut second = http();
                    second.http_filters.clear();
                    filters(w).push(filter("more", Any::pack(&second)));
                },
            ),
            (
                "filter_chains[0].filters[1].typed_config: the network filter",
                &|w| {
                    filters(w).push(filter("more", Any::pack(&Router::default())));
                },
            ),
            (
                "filter_chains[0].filters[0].typed_config: the network filter",
                &|w| {
                    filters(w)[0] = filter("x", Any::pack(&Router::default()));
                },
            ),
            (
                "filter_chains[0].filters[0].typed_config: is required",
                &|w| {
                    filters(w)[0].config_type = None;
                },
            ),
            (
                "filter_chains[0].filters[0].typed_config.http_filters: must not be empty",
                &changed(|h| h.http_filters.clear()),
            ),
            (
                "filter_chains[0].filters[0].typed_config.xff_num_trusted_hops: the field",
                &changed(|h| h.xff_num_trusted_hops = 1),
            ),
            ("filter_chains[0].use_proxy_proto: the field", &|w| {
                w.filter_chains[0].use_proxy_proto = Some(true);
            }),
        ],
    );
}

#[test]
fn matches() {
    let matching = |change: fn(&mut WireMatch)| {
        move |wire: &mut Wire| wire.filter_chains = vec![chain(change)]
    };
    const AT: &str = "filter_chains[0].filter_chain_match.";
    let at = |rest: &str| format!("{AT}{rest}");
    check(
        TYPE,
        &base(),
        &[
            // Zero is no port. To read it as "any" would open the chain to everybody.
            ("", &matching(|m| m.destination_port = Some(0))),
            (
                &at("source_ports[1]: 70000"),
                &matching(|m| m.source_ports = vec![1, 70000]),
            ),
            (
                &at("source_ports[1]: 1 appears twice"),
                &matching(|m| m.source_ports = vec![1, 1]),
            ),
            (
                "",
                &matching(|m| {
                    m.prefix_ranges = vec![range("10.0.0.0", Some(32)), range("::", None)]
                }),
            ),
            (
                &at("prefix_ranges[0].prefix_len: 33"),
                &matching(|m| m.prefix_ranges = vec![range("10.0.0.0", Some(33))]),
            ),
            (
                "",
                &matching(|m| m.source_prefix_ranges = vec![range("::1", Some(128))]),
            ),
            (
                &at("source_prefix_ranges[0].prefix_len: 129"),
                &matching(|m| m.source_prefix_ranges = vec![range("::1", Some(129))]),
            ),
            (
                &at("prefix_ranges[0].address_prefix: ::ffff:10.0.0.0 must be written"),
                &matching(|m| m.prefix_ranges = vec![range("::ffff:10.0.0.0", Some(104))]),
            ),
            (
                &at("prefix_ranges[0].address_prefix: \"x\" is not an IP"),
                &matching(|m| m.prefix_ranges = vec![range("x", None)]),
            ),
            (
                &at("source_prefix_ranges[1]: CidrRange"),
                &matching(|m| {
                    m.source_prefix_ranges =
                        vec![range("10.0.0.1", Some(8)), range("10.9.9.9", Some(8))]
                }),
            ),
            (&at("source_type: 9"), &matching(|m| m.source_type = 9)),
            (
                &at("address_suffix: the field"),
                &matching(|m| m.address_suffix = "x".into()),
            ),
            (
                &at("suffix_len: the field"),
                &matching(|m| m.suffix_len = Some(1)),
            ),
            (
                &at("direct_source_prefix_ranges: the field"),
                &matching(|m| m.direct_source_prefix_ranges = vec![range("::", None)]),
            ),
        ],
    );
}

#[test]
fn chains_must_not_overlap_once_their_lists_are_multiplied_out() {
    let pair = |a: fn(&mut WireMatch), b: fn(&mut WireMatch)| {
        move |wire: &mut Wire| wire.filter_chains = vec![chain(a), chain(b)]
    };
    const OVERLAP: &str = "filter_chains[1].filter_chain_match: matches the same";
    check(
        TYPE,
        &base(),
        &[
            (OVERLAP, &pair(|_| (), |_| ())),
            ("", &pair(|_| (), |m| m.source_ports = vec![1])),
            (
                "",
                &pair(|m| m.source_ports = vec![2], |m| m.source_ports = vec![1]),
            ),
            (
                OVERLAP,
                &pair(
                    |m| m.source_ports = vec![2, 1],
                    |m| m.source_ports = vec![1, 3],
                ),
            ),
            // Equal in one list only.
            (
                "",
                &pair(
                    |m| {
                        m.source_ports = vec![1];
                        m.prefix_ranges = vec![range("10.0.0.0", Some(8))];
                    },
                    |m| {
                        m.source_ports = vec![1];
                        m.prefix_ranges = vec![range("11.0.0.0", Some(8))];
                    },
                ),
            ),
            // Equal once masked.
            (
                OVERLAP,
                &pair(
                    |m| m.prefix_ranges = vec![range("10.1.0.0", Some(8))],
                    |m| m.prefix_ranges = vec![range("10.2.0.0", Some(8))],
                ),
            ),
            // A range of everything is not the absence of ranges.
            (
                "",
                &pair(|_| (), |m| m.prefix_ranges = vec![range("0.0.0.0", None)]),
            ),
            (
                "",
                &pair(
                    |m| m.transport_protocol = "tls".into(),
                    |m| m.transport_protocol = "raw_buffer".into(),
                ),
            ),
            // Even chains that can never match must differ.
            (
                OVERLAP,
                &pair(
                    |m| m.server_names = vec!["A".into()],
                    |m| m.server_names = vec!["a".into()],
                ),
            ),
            ("", &|w| w.default_filter_chain = Some(chain(|_| ()))),
        ],
    );
}

#[test]
fn what_sees_no_connection_is_left_out_and_reported() {
    let mut wire = base();
    wire.filter_chains.push(WireChain {
        filters: Vec::new(),
        ..chain(|m| m.destination_port = Some(80))
    });
    let second = Any::pack(&http());
    wire.filter_chains[0].filters.push(filter("second", second));
    wire.default_filter_chain = Some(chain(|m| m.source_ports = vec![1]));
    let expected = [
        "filter_chains[0].filters[1].typed_config",
        "filter_chains[1].filter_chain_match.destination_port",
        "default_filter_chain.filter_chain_match",
    ];
    assert_eq!(ignored(TYPE, &wire), expected);
    let Ok(crate::resource::Resource::Listener(found)) = read(TYPE, &wire) else {
        panic!("is valid");
    };
    let crate::resource::ListenerKind::Server(found) = &found.kind else {
        panic!("is a server's");
    };
    assert_eq!(found.filter_chains.len(), 1);
    let default = found.default_filter_chain.as_ref().expect("is there");
    assert_eq!(default.matches, FilterChainMatch::default());
}

type Context = tls::DownstreamTlsContext;

fn instance(name: &str) -> tls::CertificateProviderPluginInstance {
    tls::CertificateProviderPluginInstance {
        instance_name: name.into(),
        certificate_name: String::new(),
    }
}

fn deprecated(name: &str) -> tls::common_tls_context::CertificateProviderInstance {
    tls::common_tls_context::CertificateProviderInstance {
        instance_name: name.into(),
        certificate_name: String::new(),
    }
}

fn common(context: &mut Context) -> &mut tls::CommonTlsContext {
    context.common_tls_context.get_or_insert_default()
}

fn validation(context: &mut Context) -> &mut tls::CertificateValidationContext {
    use tls::common_tls_context::ValidationContextType::ValidationContext;
    match &mut common(context).validation_context_type {
        Some(ValidationContext(validation)) => validation,
        other => panic!("the base has one: {other:?}"),
    }
}

#[test]
fn transport_security() {
    use tls::common_tls_context::ValidationContextType as Validation;
    let secured = |change: fn(&mut Context)| {
        move |wire: &mut Wire| {
            let mut context = Context {
                common_tls_context: Some(tls::CommonTlsContext {
                    tls_certificate_provider_instance: Some(instance("identity")),
                    validation_context_type: Some(Validation::ValidationContext(
                        tls::CertificateValidationContext {
                            ca_certificate_provider_instance: Some(instance("roots")),
                            ..Default::default()
                        },
                    )),
                    ..Default::default()
                }),
                require_client_certificate: Some(true),
                ..Default::default()
            };
            change(&mut context);
            wire.filter_chains[0].transport_socket = Some(core::TransportSocket {
                name: "envoy.transport_sockets.tls".into(),
                config_type: Some(core::transport_socket::ConfigType::TypedConfig(Any::pack(
                    &context,
                ))),
            });
        }
    };
    const AT: &str = "filter_chains[0].transport_socket.typed_config.";
    let at = |rest: &str| format!("{AT}{rest}");
    let common_at = |rest: &str| format!("{AT}common_tls_context.{rest}");
    let validation_at = |rest: &str| format!("{AT}common_tls_context.validation_context.{rest}");
    check(
        TYPE,
        &base(),
        &[
            ("", &secured(|_| ())),
            (
                &at("common_tls_context: is required"),
                &secured(|c| c.common_tls_context = None),
            ),
            (
                &at("require_sni: the field"),
                &secured(|c| c.require_sni = Some(true)),
            ),
            ("", &secured(|c| c.require_sni = Some(false))),
            (
                &at("ocsp_staple_policy: the field"),
                &secured(|c| c.ocsp_staple_policy = 1),
            ),
            (
                &common_at("validation_context: require_client_certificate needs"),
                &secured(|c| common(c).validation_context_type = None),
            ),
            (
                "",
                &secured(|c| {
                    common(c).validation_context_type = None;
                    c.require_client_certificate = None;
                }),
            ),
            (
                &common_at("tls_certificate_provider_instance: is required"),
                &secured(|c| common(c).tls_certificate_provider_instance = None),
            ),
            (
                &common_at("tls_certificate_provider_instance.instance_name: the bootstrap has no"),
                &secured(|c| common(c).tls_certificate_provider_instance = Some(instance("other"))),
            ),
            (
                &common_at("tls_certificate_provider_instance.instance_name: is required"),
                &secured(|c| common(c).tls_certificate_provider_instance = Some(instance(""))),
            ),
            (
                "",
                &secured(|c| {
                    let common = common(c);
                    common.tls_certificate_provider_instance = None;
                    common.tls_certificate_certificate_provider_instance =
                        Some(deprecated("identity"));
                }),
            ),
            (
                &common_at("tls_certificates: the field"),
                &secured(|c| {
                    common(c).tls_certificate_provider_instance = None;
                    common(c).tls_certificates.push(Default::default());
                }),
            ),
            (
                &common_at("tls_certificate_sds_secret_configs: the field"),
                &secured(|c| {
                    common(c).tls_certificate_provider_instance = None;
                    common(c)
                        .tls_certificate_sds_secret_configs
                        .push(Default::default());
                }),
            ),
            (
                &common_at("tls_params: the field"),
                &secured(|c| common(c).tls_params = Some(Default::default())),
            ),
            (
                &common_at("custom_handshaker: the field"),
                &secured(|c| common(c).custom_handshaker = Some(Default::default())),
            ),
            (
                &common_at("validation_context_sds_secret_config: secret discovery"),
                &secured(|c| {
                    common(c).validation_context_type = Some(
                        Validation::ValidationContextSdsSecretConfig(Default::default()),
                    );
                }),
            ),
            (
                "",
                &secured(|c| {
                    common(c).validation_context_type =
                        Some(Validation::ValidationContextCertificateProviderInstance(
                            deprecated("roots"),
                        ));
                }),
            ),
            (
                &common_at(
                    "combined_validation_context.default_validation_context.ca_certificate_provider_instance: is",
                ),
                &secured(|c| {
                    common(c).validation_context_type =
                        Some(Validation::CombinedValidationContext(Default::default()));
                }),
            ),
            (
                &common_at(
                    "combined_validation_context.validation_context_sds_secret_config: the field",
                ),
                &secured(|c| {
                    let combined = tls::common_tls_context::CombinedCertificateValidationContext {
                        validation_context_sds_secret_config: Some(Default::default()),
                        ..Default::default()
                    };
                    common(c).validation_context_type =
                        Some(Validation::CombinedValidationContext(combined));
                }),
            ),
            // The older identity does not make up for roots that are not there: to go on without
            // them would let in clients of any kind.
            (
                &common_at(
                    "combined_validation_context.default_validation_context.ca_certificate_provider_instance: is",
                ),
                &secured(|c| {
                    c.require_client_certificate = None;
                    let common = common(c);
                    common.tls_certificate_provider_instance = None;
                    common.tls_certificate_certificate_provider_instance =
                        Some(deprecated("identity"));
                    common.validation_context_type =
                        Some(Validation::CombinedValidationContext(Default::default()));
                }),
            ),
            (
                "",
                &secured(|c| {
                    common(c).custom_tls_certificate_selector = Some(Default::default());
                }),
            ),
            (
                &validation_at("ca_certificate_provider_instance: is required"),
                &secured(|c| validation(c).ca_certificate_provider_instance = None),
            ),
            (
                &validation_at("ca_certificate_provider_instance.instance_name: the bootstrap"),
                &secured(|c| validation(c).ca_certificate_provider_instance = Some(instance("x"))),
            ),
            (
                &validation_at("verify_certificate_spki: the field"),
                &secured(|c| validation(c).verify_certificate_spki.push("x".into())),
            ),
            (
                &validation_at("verify_certificate_hash: the field"),
                &secured(|c| validation(c).verify_certificate_hash.push("x".into())),
            ),
            (
                &validation_at("require_signed_certificate_timestamp: the field"),
                &secured(|c| validation(c).require_signed_certificate_timestamp = Some(true)),
            ),
            (
                &validation_at("crl: the field"),
                &secured(|c| validation(c).crl = Some(Default::default())),
            ),
            (
                &validation_at("custom_validator_config: the field"),
                &secured(|c| validation(c).custom_validator_config = Some(Default::default())),
            ),
            (
                &validation_at("max_verify_depth: the field"),
                &secured(|c| validation(c).max_verify_depth = Some(1)),
            ),
            (
                &validation_at("match_typed_subject_alt_names: the field"),
                &secured(|c| {
                    validation(c)
                        .match_typed_subject_alt_names
                        .push(Default::default())
                }),
            ),
            (
                &validation_at("system_root_certs: the field"),
                &secured(|c| {
                    validation(c).ca_certificate_provider_instance = None;
                    validation(c).system_root_certs = Some(Default::default());
                }),
            ),
            // gRFC A29 ignores it; the provider's roots are the only ones.
            (
                "",
                &secured(|c| validation(c).trusted_ca = Some(Default::default())),
            ),
            (
                &validation_at("match_subject_alt_names: matching names"),
                &secured(|c| {
                    use crate::wire::matcher::{StringMatcher, string_matcher::MatchPattern};
                    validation(c).match_subject_alt_names.push(StringMatcher {
                        match_pattern: Some(MatchPattern::Exact("x".into())),
                        ignore_case: false,
                    });
                }),
            ),
        ],
    );
}
