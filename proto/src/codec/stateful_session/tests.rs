use std::time::Duration;

use super::*;
use crate::codec::tests::{ignored, read};
use crate::resource::{FilterConfig, ListenerKind, Resource, ResourceType, RouteAction};
use crate::wire::hcm::{self, http_connection_manager::RouteSpecifier, http_filter::ConfigType};
use crate::wire::http_filter::Router;
use crate::wire::{listener, route};

fn filter(config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: "sessions".into(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// A client's listener with this filter before the router.
fn listener(filter: hcm::HttpFilter) -> listener::Listener {
    let router = hcm::HttpFilter {
        name: "router".into(),
        config_type: Some(ConfigType::TypedConfig(Any::pack(&Router::default()))),
        ..Default::default()
    };
    let http = hcm::HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(Default::default())),
        http_filters: vec![filter, router],
        ..Default::default()
    };
    listener::Listener {
        name: "a".into(),
        api_listener: Some(listener::ApiListener {
            api_listener: Some(Any::pack(&http)),
        }),
        ..Default::default()
    }
}

fn decoded(filter: hcm::HttpFilter) -> std::result::Result<Vec<FilterConfig>, String> {
    let listener = match read(ResourceType::Listener, &listener(filter))? {
        Resource::Listener(listener) => listener,
        other => panic!("not a listener: {other:?}"),
    };
    match &listener.kind {
        ListenerKind::Api(http) => Ok(http.filters.iter().map(|f| f.config.clone()).collect()),
        ListenerKind::Server(_) => panic!("a client's"),
    }
}

fn with_state(state: Any) -> StatefulSession {
    StatefulSession {
        session_state: Some(TypedExtensionConfig {
            name: "any".into(),
            typed_config: Some(state),
        }),
        strict: false,
    }
}

fn with_cookie(name: &str, path: &str, seconds: Option<i64>) -> StatefulSession {
    with_state(Any::pack(&CookieBasedSessionState {
        cookie: Some(Cookie {
            name: name.into(),
            path: path.into(),
            ttl: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        }),
    }))
}

fn with_header(name: &str) -> StatefulSession {
    with_state(Any::pack(&HeaderBasedSessionState { name: name.into() }))
}

#[test]
fn cookies_and_headers_are_read_and_a_filter_without_state_is_there_without_effect() {
    let first = |wire: &StatefulSession| decoded(filter(Any::pack(wire))).map(|f| f[0].clone());
    let cookie = |ttl| {
        FilterConfig::StatefulSession(Some(SessionState::Cookie(SessionCookie {
            name: "c".into(),
            path: "/p.S/".into(),
            ttl: Duration::from_secs(ttl),
        })))
    };
    assert_eq!(first(&with_cookie("c", "/p.S/", None)), Ok(cookie(0)));
    assert_eq!(
        first(&with_cookie("c", "/p.S/", Some(120))),
        Ok(cookie(120))
    );
    let header = SessionState::Header {
        name: "x-session".into(),
    };
    assert_eq!(
        first(&with_header("X-Session")),
        Ok(FilterConfig::StatefulSession(Some(header)))
    );
    assert_eq!(
        first(&StatefulSession::default()),
        Ok(FilterConfig::StatefulSession(None))
    );
}

#[test]
fn what_could_never_carry_a_session_is_refused() {
    let unnamed = with_state(Any::pack(&CookieBasedSessionState { cookie: None }));
    let no_state = StatefulSession {
        session_state: Some(TypedExtensionConfig::default()),
        strict: false,
    };
    for (expected, wire) in [
        (".cookie: ", unnamed),
        (".cookie.name: ", with_cookie("", "", None)),
        (
            ".cookie.name: \"a b\" cannot be",
            with_cookie("a b", "", None),
        ),
        (
            ".cookie.name: \"a=b\" cannot be",
            with_cookie("a=b", "", None),
        ),
        (
            ".cookie.path: \"/;x\" cannot be",
            with_cookie("c", "/;x", None),
        ),
        (".cookie.ttl: ", with_cookie("c", "", Some(-1))),
        (".name: ", with_header("")),
        (".name: \"a b\" cannot be", with_header("a b")),
        (".name: \"x-bin\" is a name", with_header("x-bin")),
        (
            ": the session state",
            with_state(Any::pack(&Router::default())),
        ),
        (": ", no_state),
    ] {
        let found = decoded(filter(Any::pack(&wire))).expect_err(expected);
        let place = format!("typed_config.session_state.typed_config{expected}");
        assert!(found.contains(&place), "{found}\n{place}");
    }
}

#[test]
fn an_unusable_filter_is_refused_even_if_it_is_optional() {
    let wire = hcm::HttpFilter {
        is_optional: true,
        ..filter(Any::pack(&with_cookie("", "", None)))
    };
    decoded(wire).expect_err("a filter that we have must be right");
}

#[test]
fn strictness_is_told_as_not_honoured() {
    let wire = StatefulSession {
        strict: true,
        ..with_cookie("c", "", None)
    };
    let notes = ignored(ResourceType::Listener, &listener(filter(Any::pack(&wire))));
    assert!(
        matches!(notes.as_slice(), [note] if note.ends_with("typed_config.strict")),
        "{notes:?}"
    );
}

type Config = std::collections::BTreeMap<String, Any>;

fn override_of(name: Option<&str>) -> Config {
    let wire = StatefulSessionPerRoute {
        r#override: Some(match name {
            None => Override::Disabled(true),
            Some(name) => Override::StatefulSession(with_cookie(name, "", None)),
        }),
    };
    [("sessions".to_owned(), Any::pack(&wire))].into()
}

/// The cookie that calls of each share have by overrides: `-` is none, empty is no override.
fn cookies(all: Config, host: Config, route: Config, shares: [Config; 2]) -> [String; 2] {
    let share = |(i, config)| route::weighted_cluster::ClusterWeight {
        name: format!("{i}"),
        weight: Some(1),
        typed_per_filter_config: config,
        ..Default::default()
    };
    let action = route::RouteAction {
        cluster_specifier: Some(route::route_action::ClusterSpecifier::WeightedClusters(
            route::WeightedCluster {
                clusters: shares.into_iter().enumerate().map(share).collect(),
                ..Default::default()
            },
        )),
        ..Default::default()
    };
    let wire = route::RouteConfiguration {
        name: "r".into(),
        typed_per_filter_config: all,
        virtual_hosts: vec![route::VirtualHost {
            name: "h".into(),
            domains: vec!["*".into()],
            typed_per_filter_config: host,
            routes: vec![route::Route {
                r#match: Some(route::RouteMatch {
                    path_specifier: Some(route::route_match::PathSpecifier::Prefix(String::new())),
                    ..Default::default()
                }),
                action: Some(route::route::Action::Route(action)),
                typed_per_filter_config: route,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let routes = match read(ResourceType::RouteConfiguration, &wire).expect("is valid") {
        Resource::RouteConfiguration(routes) => routes,
        other => panic!("not routes: {other:?}"),
    };
    let RouteAction::Forward(forward) = &routes.virtual_hosts[0].routes[0].action else {
        panic!("forwards");
    };
    let shares = forward
        .clusters
        .iter()
        .map(|share| match share.overrides.get("sessions") {
            None => String::new(),
            Some(FilterConfig::StatefulSession(None)) => "-".to_owned(),
            Some(FilterConfig::StatefulSession(Some(SessionState::Cookie(c)))) => c.name.clone(),
            other => panic!("{other:?}"),
        });
    let shares: Vec<String> = shares.collect();
    shares.try_into().expect("two")
}

#[test]
fn the_most_specific_override_holds() {
    let none = Config::new;
    let on = |name| override_of(Some(name));
    let off = || override_of(None);
    for (found, expected) in [
        (cookies(none(), none(), none(), [none(), none()]), ["", ""]),
        (
            cookies(on("a"), none(), none(), [none(), none()]),
            ["a", "a"],
        ),
        (
            cookies(on("a"), on("b"), none(), [none(), on("d")]),
            ["b", "d"],
        ),
        (
            cookies(none(), on("b"), off(), [none(), on("d")]),
            ["-", "d"],
        ),
        (cookies(none(), off(), on("c"), [off(), none()]), ["-", "c"]),
    ] {
        assert_eq!(found, expected.map(str::to_owned));
    }
}

#[test]
fn the_filters_own_configuration_is_no_override_of_it() {
    let wire = route::RouteConfiguration {
        name: "r".into(),
        typed_per_filter_config: [("f".to_owned(), Any::pack(&with_cookie("c", "", None)))].into(),
        ..Default::default()
    };
    let found = read(ResourceType::RouteConfiguration, &wire).expect_err("another message");
    assert!(found.contains("takes no override"), "{found}");
}
