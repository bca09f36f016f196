use super::*;
use crate::codec::tests::{Case, check, ignored, read, typed_struct};
use crate::resource::{Resource, ResourceType};
use crate::wire::hcm::http_filter::ConfigType;
use crate::wire::http_filter::{FaultAbort, FaultDelay, FaultRateLimit, HttpFault, Router};
use crate::wire::number::FractionalPercent;

type Wire = hcm::HttpConnectionManager;

const TYPE: ResourceType = ResourceType::Listener;

fn filter(name: &str, any: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.into(),
        config_type: Some(ConfigType::TypedConfig(any)),
        ..Default::default()
    }
}

fn router() -> hcm::HttpFilter {
    filter("router", Any::pack(&Router::default()))
}

fn unknown(is_optional: bool) -> hcm::HttpFilter {
    hcm::HttpFilter {
        is_optional,
        ..filter("f", typed_struct("org.Filter", Default::default()))
    }
}

fn base() -> Wire {
    Wire {
        route_specifier: Some(RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(ads()),
            route_config_name: "routes".into(),
        })),
        http_filters: vec![router()],
        ..Default::default()
    }
}

/// A listener around a connection manager.
fn api(http: &Wire) -> listener::Listener {
    listener::Listener {
        name: "a".into(),
        api_listener: Some(listener::ApiListener {
            api_listener: Some(Any::pack(http)),
        }),
        ..Default::default()
    }
}

fn check_http(cases: &[Case<'_, Wire>]) {
    for (expected, change) in cases {
        let mut http = base();
        change(&mut http);
        let prefix = "api_listener.api_listener.";
        let expected = match expected.is_empty() {
            true => String::new(),
            false => format!("{prefix}{expected}"),
        };
        let replace = |wire: &mut listener::Listener| *wire = api(&http);
        check(TYPE, &api(&base()), &[(&expected, &replace)]);
    }
}

#[test]
fn api_listeners() {
    check(
        TYPE,
        &api(&base()),
        &[
            ("api_listener.api_listener: is required", &|w| {
                w.api_listener = Some(listener::ApiListener::default());
            }),
            (
                "api_listener.api_listener: \"type.googleapis.com/envoy.ext",
                &|w| {
                    w.api_listener = Some(listener::ApiListener {
                        api_listener: Some(Any::pack(&Router::default())),
                    });
                },
            ),
            ("api_listener.api_listener: cannot be decoded", &|w| {
                let broken = Any {
                    value: vec![0x0a, 0xff].into(),
                    ..Any::pack(&base())
                };
                w.api_listener = Some(listener::ApiListener {
                    api_listener: Some(broken),
                });
            }),
            // Only the API listener of such a listener is read.
            ("", &|w| w.use_original_dst = Some(true)),
        ],
    );
}

#[test]
fn route_sources() {
    let rds = |change: fn(&mut hcm::Rds)| {
        move |wire: &mut Wire| {
            if let Some(RouteSpecifier::Rds(rds)) = &mut wire.route_specifier {
                change(rds);
            }
        }
    };
    check_http(&[
        ("route_specifier: is required", &|w| {
            w.route_specifier = None
        }),
        ("scoped_routes: scoped routes", &|w| {
            w.route_specifier = Some(RouteSpecifier::ScopedRoutes(Default::default()));
        }),
        (
            "rds.config_source: is required",
            &rds(|r| r.config_source = None),
        ),
        (
            "rds.config_source: a configuration source",
            &rds(|r| {
                r.config_source = Some(Default::default());
            }),
        ),
        (
            "rds.route_config_name: is required",
            &rds(|r| r.route_config_name.clear()),
        ),
        ("", &|w| {
            w.route_specifier = Some(RouteSpecifier::RouteConfig(Default::default()))
        }),
        (
            "route_config.virtual_hosts[0].domains: must not be empty",
            &|w| {
                w.route_specifier = Some(RouteSpecifier::RouteConfig(
                    crate::wire::route::RouteConfiguration {
                        virtual_hosts: vec![Default::default()],
                        ..Default::default()
                    },
                ));
            },
        ),
    ]);
}

#[test]
fn forwarded_addresses_are_never_trusted() {
    check_http(&[
        ("xff_num_trusted_hops: the field", &|w| {
            w.xff_num_trusted_hops = 1
        }),
        ("original_ip_detection_extensions: the field", &|w| {
            w.original_ip_detection_extensions.push(Default::default());
        }),
    ]);
}

#[test]
fn http_filters() {
    check_http(&[
        ("http_filters: must not be empty", &|w| {
            w.http_filters.clear()
        }),
        ("http_filters: must not be empty", &|w| {
            w.http_filters = vec![unknown(true)]
        }),
        ("http_filters[0].name: is required", &|w| {
            w.http_filters[0].name.clear()
        }),
        ("http_filters[1].name: \"router\" appears twice", &|w| {
            w.http_filters.push(router())
        }),
        (
            "http_filters[0]: a terminal filter must be the last",
            &|w| {
                w.http_filters
                    .push(filter("other", Any::pack(&Router::default())));
            },
        ),
        // What nobody enforces must not be left out in silence.
        (
            "http_filters[0].typed_config: the HTTP filter org.Filter",
            &|w| {
                w.http_filters.insert(0, unknown(false));
            },
        ),
        ("", &|w| w.http_filters.insert(0, unknown(true))),
        ("", &|w| w.http_filters.push(unknown(true))),
        ("http_filters[0].typed_config: is required", &|w| {
            w.http_filters[0].config_type = None
        }),
        ("http_filters[0].config_discovery: discovery", &|w| {
            w.http_filters[0].config_type = Some(ConfigType::ConfigDiscovery(Default::default()));
        }),
        // A filter that we have must be right even if it is optional.
        ("http_filters[0].typed_config: cannot be decoded", &|w| {
            let broken = Any {
                value: vec![0x0a, 0xff].into(),
                ..Any::pack(&Router::default())
            };
            w.http_filters[0] = filter("router", broken);
            w.http_filters[0].is_optional = true;
        }),
        (
            "http_filters[0].typed_config: \"type.googleapis.com/xds.type.v3.TypedStruct\"",
            &|w| {
                let name = "envoy.extensions.filters.http.router.v3.Router";
                w.http_filters[0] = filter("router", typed_struct(name, Default::default()));
            },
        ),
    ]);
}

fn share(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator,
        ..Default::default()
    })
}

fn fault(abort: u32, delay: u32) -> HttpFault {
    HttpFault {
        abort: Some(FaultAbort {
            percentage: share(abort),
            ..Default::default()
        }),
        delay: Some(FaultDelay {
            percentage: share(delay),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn faults_are_accepted_where_they_hit_no_call() {
    let with = |config: HttpFault| {
        move |wire: &mut Wire| {
            let any = Any::pack(&config);
            wire.http_filters.insert(0, filter("fault", any));
        }
    };
    let at = |rest| format!("http_filters[0].typed_config{rest}");
    check_http(&[
        // What Istio puts before every router.
        ("", &with(HttpFault::default())),
        ("", &with(fault(0, 0))),
        (&at(".abort: fault injection"), &with(fault(1, 0))),
        (&at(".delay: fault injection"), &with(fault(0, 1))),
        ("http_filters[0]: the last filter must be terminal", &|w| {
            w.http_filters = vec![filter("fault", Any::pack(&HttpFault::default()))];
        }),
        // One that could hit calls must not be left out because it is optional.
        (&at(".abort: fault injection"), &|w| {
            with(fault(1, 0))(w);
            w.http_filters[0].is_optional = true;
        }),
    ]);
    let mut http = base();
    with(HttpFault {
        response_rate_limit: Some(FaultRateLimit {
            percentage: share(1),
        }),
        ..Default::default()
    })(&mut http);
    let path = "api_listener.api_listener.http_filters[0].typed_config.response_rate_limit";
    assert_eq!(ignored(TYPE, &api(&http)), [path]);
}

#[test]
fn the_longest_stream() {
    let limit = |seconds, nanos| core::HttpProtocolOptions {
        max_stream_duration: Some(prost_types::Duration { seconds, nanos }),
        ..Default::default()
    };
    check_http(&[(
        "common_http_protocol_options.max_stream_duration: -1s",
        &|w| w.common_http_protocol_options = Some(limit(-1, 0)),
    )]);
    for (seconds, expected) in [(0, None), (9, Some(Duration::from_secs(9)))] {
        let wire = api(&Wire {
            common_http_protocol_options: Some(limit(seconds, 0)),
            ..base()
        });
        let Ok(Resource::Listener(found)) = read(TYPE, &wire) else {
            panic!("must be valid");
        };
        let ListenerKind::Api(http) = &found.kind else {
            panic!("must be a client's");
        };
        assert_eq!(http.max_stream_duration, expected);
    }
}

#[test]
fn fields_that_are_not_honoured_are_reported() {
    let wire = api(&Wire {
        request_timeout: Some(Default::default()),
        http_filters: vec![unknown(true), router()],
        ..base()
    });
    let expected = [
        "api_listener.api_listener.request_timeout",
        "api_listener.api_listener.http_filters[0].typed_config",
    ];
    assert_eq!(ignored(TYPE, &wire), expected);
}
