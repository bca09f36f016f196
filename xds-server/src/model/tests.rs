use super::*;
use serde_json::json;

const EXAMPLE: &str = include_str!("testdata/example.yaml");

fn errors(files: &[(&str, &str)]) -> Vec<String> {
    match Mesh::parse(files) {
        Ok((_, warnings)) => panic!("accepted, warnings: {warnings:?}"),
        Err(found) => found
            .iter()
            .filter(|d| d.is_error())
            .map(Diagnostic::uncoded)
            .collect(),
    }
}

/// A file with one service of two endpoints; `body` begins on line 9 with four spaces.
fn with_service(body: &str) -> String {
    format!(
        "mesh: v1\ntrust_domain: t\nservices:\n  s:\n    endpoints:\n      static:\n        - {{address: \"1.1.1.1:1\", version: v1}}\n        - {{address: \"1.1.1.2:1\", version: v2}}\n{body}"
    )
}

#[test]
fn the_example_is_read() {
    let (mesh, warnings) = Mesh::parse(&[("mesh.yaml", EXAMPLE)]).expect("is valid");
    assert_eq!(warnings, []);
    assert_eq!(
        mesh.summary(&ResolvedEndpoints::default()),
        "2 services, 2 endpoints"
    );
    let greeter = &mesh.services["greeter"];
    assert_eq!(greeter.place.to_string(), "mesh.yaml:11:3");
    assert_eq!(
        mesh.spiffe_id(greeter).as_deref(),
        Some("spiffe://prod.example/ns/prod/sa/greeter")
    );
    assert_eq!(greeter.settings.policy, Policy::LeastRequest);
    assert_eq!(greeter.settings.mtls, Mtls::Strict);
    assert_eq!(greeter.endpoints()[1].weight, 2);
    let [beta, safe, main] = greeter.routes.as_slice() else {
        panic!("three routes");
    };
    assert_eq!(beta.headers.len(), 1);
    assert_eq!(safe.retry.map(|r| r.max_attempts), Some(3));
    let shares = [("canary".to_owned(), 5), ("stable".to_owned(), 95)];
    let Destination::Versions(mut to) = main.to.clone() else {
        panic!("to versions");
    };
    to.sort();
    assert_eq!(to, shares);
    assert_eq!(
        main.timeout,
        Some(Timeout::After(Duration::from_millis(800)))
    );
}

#[test]
fn bad_files_are_refused_with_the_place() {
    let cases: &[(&str, &[&str])] = &[
        (
            "",
            &["m.yaml:1:1: the file is empty; a mesh file begins with `mesh: v1`"],
        ),
        ("- a\n", &["m.yaml:1:1: expected a map, found a list"]),
        ("services: {}\n", &["m.yaml:1:1: the key `mesh` is missing"]),
        (
            "mesh: v2\nwhatever: 1\n",
            &[
                "m.yaml:1:7: mesh: unknown format \"v2\"; this version reads `mesh: v1`",
                "m.yaml:2:1: unknown key \"whatever\"; valid keys are mesh, trust_domain, defaults, services, resources",
            ],
        ),
        (
            "mesh: 1\n",
            &["m.yaml:1:7: mesh: expected a text, found the number 1; write it in quotes: \"1\""],
        ),
        (
            "mesh: v1\nservcies: {}\n",
            &["m.yaml:2:1: unknown key \"servcies\"; did you mean \"services\"?"],
        ),
        (
            "mesh: v1\nservices:\n  a: {}\n  b: {}\n  a: {}\n",
            &["m.yaml:5:3: services: the key \"a\" is already at m.yaml:3:3"],
        ),
        (
            "mesh: v1\ndefaults:\n  retry: {max_attempts: 2, on: [unavailable]}\n",
            &[
                "m.yaml:3:3: defaults: `retry` is not allowed in `defaults`: whether a call may be repeated is for each route to say",
            ],
        ),
        (
            "mesh: v1\ndefaults: {timeout: 5, mtls: on}\n",
            &[
                "m.yaml:2:21: defaults.timeout: the duration 5 has no unit; write a number with a unit, as in `800ms`, `5s` or `1m`, or `none`",
                "m.yaml:2:30: defaults.mtls: unknown value \"on\"; did you mean \"off\"?",
            ],
        ),
        (
            "mesh: v1\ndefaults: {timeout: 5 seconds}\n",
            &[
                "m.yaml:2:21: defaults.timeout: \"5 seconds\" is not a duration; write a number with a unit, as in `800ms`, `5s` or `1m`, or `none`",
            ],
        ),
        (
            "mesh: v1\ndefaults: {timeout: 0s}\n",
            &[
                "m.yaml:2:21: defaults.timeout: a limit of zero lets no call succeed; write a number with a unit, as in `800ms`, `5s` or `1m`, or `none`",
            ],
        ),
        (
            "mesh: v1\ndefaults: {balance: {policy: random, slow_start: 3s}}\n",
            &[
                "m.yaml:2:50: defaults.balance.slow_start: the policy does not go by weight: `slow_start` has no effect; with `policy: round_robin`, `least_request` or `weighted_round_robin` it has",
            ],
        ),
        (
            "mesh: v1\ndefaults: {balance: {policy: pick_first, zones: prefer_local}}\n",
            &[
                "m.yaml:2:49: defaults.balance.zones: the policy sees the endpoints of all zones as one: it cannot prefer one; with any policy but `pick_first`, `ring_hash` and `maglev` it can",
            ],
        ),
        (
            "mesh: v1\ndefaults: {balance: {zones: near}}\n",
            &[
                "m.yaml:2:29: defaults.balance.zones: unknown value \"near\"; valid values are by_weight, prefer_local",
            ],
        ),
        (
            "mesh: v1\ndefaults: {balance: {slow_start: 0s}}\n",
            &[
                "m.yaml:2:34: defaults.balance.slow_start: a window of zero is none: write `none`; write a number with a unit, as in `800ms`, `5s` or `1m`, or `none`",
            ],
        ),
        (
            "mesh: v1\ntrust_domain: Prod\n",
            &[
                "m.yaml:2:15: trust_domain: \"Prod\" cannot be a trust domain; use lower-case letters, digits, `-`, `_` and `.`",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a: {mtls: strict}\n",
            &[
                "m.yaml:3:3: services.a: `mtls` needs a trust domain; write `trust_domain:` at the top of the file",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a/b: {}\n",
            &[
                "m.yaml:3:3: services.\"a/b\": \"a/b\" cannot be the name of a service; use letters, digits, `-`, `_` and `.`",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    identity: /sa/a\n    routes: []\n",
            &[
                "m.yaml:4:15: services.a.identity: \"/sa/a\" cannot be the path of a SPIFFE id; write it without `spiffe://`, trust domain and leading slash, as in `ns/prod/sa/web`",
                "m.yaml:5:5: services.a.routes: `routes` needs `endpoints`",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    endpoints:\n      dns: a.b\n",
            &[
                "m.yaml:5:12: services.a.endpoints.dns: \"a.b\" has no port; write `NAME:PORT`, or `_service._tcp.NAME` for SRV records",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    endpoints:\n      targets: https://a/\n",
            &[
                "m.yaml:5:16: services.a.endpoints.targets: targets over https are not supported yet; write the path of a file, or a URL as in `http://registry:8080/targets`",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    endpoints:\n      targets: t.json\n      dns: a.b:1\n",
            &[
                "m.yaml:5:7: services.a.endpoints: there are two sources of endpoints, `dns` and `targets`; write exactly one",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    endpoints: {dns: \"a.b:1\"}\n    versions: {x: v1}\n",
            &[
                "m.yaml:5:5: services.a.versions: `dns` does not tell versions; use `static` or `targets`, or a service for each version",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a: {endpoints: {}}\n",
            &[
                "m.yaml:3:18: services.a.endpoints: no source of endpoints; write `static:` and a list, `dns: NAME:PORT` or `targets: FILE`",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    endpoints:\n      static:\n        - {address: \"host:80\"}\n        - {address: \"1.1.1.1:0\"}\n        - {address: \"unix:x\"}\n        - {zone: a}\n        - {address: \"1.1.1.1:1\", weight: 0}\n",
            &[
                "m.yaml:6:21: services.a.endpoints.static[0].address: \"host:80\" is not an address; write `IP:PORT`, `[IPv6]:PORT` or `unix:/path`; for a host name, write `dns: NAME:PORT` in the place of `static`",
                "m.yaml:7:21: services.a.endpoints.static[1].address: port 0 is not a port to connect to",
                "m.yaml:8:21: services.a.endpoints.static[2].address: the path of a Unix socket must be absolute; as in `unix:/run/greeter.sock`",
                "m.yaml:9:11: services.a.endpoints.static[3]: the key `address` is missing",
                "m.yaml:10:42: services.a.endpoints.static[4].weight: 0 is out of range, expected a whole number from 1 to 4294967295",
            ],
        ),
        (
            "mesh: v1\nservices:\n  a:\n    endpoints:\n      static:\n        - {address: \"1.1.1.1:1\", weight: 4294967295}\n        - {address: \"1.1.1.1:1\"}\n",
            &[
                "m.yaml:5:7: services.a.endpoints: the weights add up to 4294967296, more than 4294967295",
                "m.yaml:7:11: services.a.endpoints: the address 1.1.1.1:1 is already at m.yaml:6:11",
            ],
        ),
        (
            "mesh: v1\nresources:\n  - name: x\n",
            &[
                "m.yaml:3:5: resources[0]: the key `@type` is missing; as in `\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster`",
            ],
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(errors(&[("m.yaml", text)]), *expected, "{text}");
    }
}

#[test]
fn bad_services_are_refused_with_the_place() {
    let cases: &[(&str, &[&str])] = &[
        (
            "    allow: []\n    timout: 5s\n",
            &[
                "m.yaml:9:5: services.s: `allow` is not enforced yet",
                "m.yaml:10:5: services.s: unknown key \"timout\"; did you mean \"timeout\"?",
            ],
        ),
        (
            "    versions: {stable: v1, canary: v3}\n",
            &[
                "m.yaml:9:36: services.s.versions.canary: no endpoint has the version \"v3\"; did you mean \"v1\"?",
            ],
        ),
        (
            "    versions: {stable: 1}\n",
            &[
                "m.yaml:9:24: services.s.versions.stable: expected a text, found the number 1; write it in quotes: \"1\"",
            ],
        ),
        (
            "    outlier_detection: {consecutive_failures: 0, interval: 0s, max_ejection_percent: 101, failure_percentage: {threshold: 101}, success_rate: {enforcing: 0}}\n",
            &[
                "m.yaml:9:47: services.s.outlier_detection.consecutive_failures: 0 is out of range, expected a whole number from 1 to 4294967295",
                "m.yaml:9:60: services.s.outlier_detection.interval: the duration must be more than zero; write a number with a unit, as in `800ms`, `5s` or `1m`",
                "m.yaml:9:86: services.s.outlier_detection.max_ejection_percent: 101 is out of range, expected a whole number from 1 to 100",
                "m.yaml:9:123: services.s.outlier_detection.failure_percentage.threshold: 101 is out of range, expected a whole number from 0 to 100",
                "m.yaml:9:155: services.s.outlier_detection.success_rate.enforcing: 0 is out of range, expected a whole number from 1 to 100",
            ],
        ),
        (
            "    outlier_detection: {interval: 10}\n    balance: {subset_size: 0}\n",
            &[
                "m.yaml:9:24: services.s.outlier_detection: no rule says whom to leave out; write `consecutive_failures: 5`, `success_rate: {}` or `failure_percentage: {}`; or `none`",
                "m.yaml:9:35: services.s.outlier_detection.interval: the duration 10 has no unit; write a number with a unit, as in `800ms`, `5s` or `1m`",
                "m.yaml:10:28: services.s.balance.subset_size: 0 is out of range, expected a whole number from 1 to 4294967295",
            ],
        ),
        (
            "    versions: {stable: v1}\n    routes:\n      - to: stabel\n",
            &[
                "m.yaml:11:13: services.s.routes[0].to: no such version: \"stabel\"; did you mean \"stable\"?",
            ],
        ),
        (
            "    versions: {a: v1, b: v2}\n    routes:\n      - to: {a: 0, b: 0}\n",
            &["m.yaml:11:13: services.s.routes[0].to: the weights add up to 0"],
        ),
        (
            "    versions: {a: v1, b: v2}\n    routes:\n      - to: {a: 4294967295, b: 1}\n",
            &[
                "m.yaml:11:13: services.s.routes[0].to: the weights add up to 4294967296, more than 4294967295",
            ],
        ),
        (
            "    versions: {a: v1, b: v2}\n    routes:\n      - to: {a: 4294967296, b: -1}\n",
            &[
                "m.yaml:11:17: services.s.routes[0].to.a: 4294967296 is out of range, expected a whole number from 0 to 4294967295",
                "m.yaml:11:32: services.s.routes[0].to.b: -1 is out of range, expected a whole number from 0 to 4294967295",
            ],
        ),
        (
            "    routes:\n      - match: {method: Say, from: [web], headers: {x: 1, X-B: b, t-bin: b, y: {regex: \"(\"}, z: {exact: a, prefix: b}, p: {present: 1}}}\n",
            &[
                "m.yaml:10:25: services.s.routes[0].match.method: \"Say\" is not a method; write `package.Service/Method` or `package.Service/*`",
                "m.yaml:10:30: services.s.routes[0].match: `from` is not enforced yet",
                "m.yaml:10:56: services.s.routes[0].match.headers.x: expected a text, found the number 1; write it in quotes: \"1\"",
                "m.yaml:10:59: services.s.routes[0].match.headers.X-B: \"X-B\" cannot be the name of a header; names are in lower case",
                "m.yaml:10:67: services.s.routes[0].match.headers.t-bin: binary headers (`-bin`) cannot be matched",
                "m.yaml:10:88: services.s.routes[0].match.headers.y.regex: bad regular expression \"(\": unclosed group",
                "m.yaml:10:97: services.s.routes[0].match.headers.z: exactly one condition is expected; use `regex` to say several things about one header",
                "m.yaml:10:133: services.s.routes[0].match.headers.p.present: expected true or false, found the number 1",
            ],
        ),
        (
            "    routes:\n      - retry: {max_attempts: 9, on: [unavailible]}\n      - retry: {max_attempts: 2, on: []}\n      - retry: {}\n",
            &[
                "m.yaml:10:31: services.s.routes[0].retry.max_attempts: 9 is out of range, expected a whole number from 2 to 5",
                "m.yaml:10:39: services.s.routes[0].retry.on[0]: unknown value \"unavailible\"; did you mean \"unavailable\"?",
                "m.yaml:11:38: services.s.routes[1].retry.on: must not be empty",
                "m.yaml:12:16: services.s.routes[2].retry: the key `max_attempts` is missing",
                "m.yaml:12:16: services.s.routes[2].retry: the key `on` is missing",
            ],
        ),
        (
            "    hosts: [\"xds:///s\", s]\n",
            &[
                "m.yaml:9:13: services.s.hosts[0]: \"xds:///s\" is not a name to dial; write what follows `xds:///`, with the port if callers write one",
                "m.yaml:9:25: services.s.hosts: the name \"s\" is already at m.yaml:4:3",
            ],
        ),
        (
            "    limits: {max_outstanding_per_client: 0}\n    retry: {}\n",
            &[
                "m.yaml:9:42: services.s.limits.max_outstanding_per_client: 0 is out of range, expected a whole number from 1 to 4294967295",
                "m.yaml:10:5: services.s: `retry` belongs in a route: whether a call may be repeated is for each route to say",
            ],
        ),
        (
            "    session_affinity: {cookie: c, header: x}\n    routes:\n      - session_affinity: {ttl: 5s}\n      - session_affinity: non\n      - session_affinity: {header: X-Session}\n      - session_affinity: {header: x, ttl: 5s}\n      - session_affinity: {cookie: a b}\n      - session_affinity: {cookie: a, path: s}\n      - session_affinity: {header: grpc-x}\n",
            &[
                "m.yaml:9:23: services.s.session_affinity: exactly one of `cookie` and `header` is expected; name what the client sends back, as in `cookie: session`",
                "m.yaml:11:27: services.s.routes[0].session_affinity: exactly one of `cookie` and `header` is expected; name what the client sends back, as in `cookie: session`",
                "m.yaml:12:27: services.s.routes[1].session_affinity: expected `none` or a map with `cookie` or `header`",
                "m.yaml:13:36: services.s.routes[2].session_affinity.header: \"X-Session\" cannot be the name of a header; names are in lower case",
                "m.yaml:14:44: services.s.routes[3].session_affinity.ttl: `ttl` is for cookies: headers have none",
                "m.yaml:15:36: services.s.routes[4].session_affinity.cookie: \"a b\" cannot be the name of a cookie; use letters, digits, `-`, `_` and `.`",
                "m.yaml:16:45: services.s.routes[5].session_affinity.path: \"s\" cannot be the path of a cookie; write `/package.Service` or `/package.Service/Method`",
                "m.yaml:17:36: services.s.routes[6].session_affinity.header: \"grpc-x\" is a name that gRPC keeps for itself",
            ],
        ),
        (
            "    routes:\n      - {name: a, match: {method: a.B/C}}\n      - {name: a}\n",
            &["m.yaml:11:9: services.s.routes: the route \"a\" is already at m.yaml:10:9"],
        ),
    ];
    for (body, expected) in cases {
        let text = with_service(body);
        assert_eq!(errors(&[("m.yaml", &text)]), *expected, "{text}");
    }
}

#[test]
fn several_files_are_one_mesh() {
    let one = "mesh: v1\ntrust_domain: t\ndefaults: {timeout: 3s}\n";
    let two = "mesh: v1\nservices:\n  a: {}\n";
    let (mesh, _) = Mesh::parse(&[("b.yaml", two), ("a.yaml", one)]).expect("valid");
    assert_eq!(
        mesh.services["a"].settings.timeout,
        Timeout::After(Duration::from_secs(3))
    );
    let again = [
        ("a.yaml", two),
        ("b.yaml", two),
        ("c.yaml", one),
        ("d.yaml", one),
    ];
    assert_eq!(
        errors(&again),
        [
            "b.yaml:3:3: services: the service \"a\" is already at a.yaml:3:3",
            "d.yaml:2:1: `trust_domain` is already at c.yaml:2:1; write it in one file only",
            "d.yaml:3:1: `defaults` is already at c.yaml:3:1; write it in one file only",
        ]
    );
}

#[test]
fn one_fault_does_not_bring_others_that_mislead() {
    let broken = ("a.yaml", "mesh: v1\ntrust_domain: [t\n");
    let secured = ("b.yaml", "mesh: v1\nservices:\n  a: {mtls: strict}\n");
    let found = errors(&[broken, secured]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a.yaml:"), "{found:?}");
    let wrong = ("a.yaml", "mesh: v1\ntrust_domain: T\n");
    let found = errors(&[wrong, secured]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("a.yaml:2:15"), "{found:?}");
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let retry = "retry: {max_attempts: 2, on: [unavailable]}";
    let text = with_service(&format!(
        "    routes:\n      - {{{retry}}}\n      - {{match: {{method: a.B/*}}}}\n"
    ));
    let only = with_service("    routes:\n      - {match: {method: a.B/*}}\n");
    let shown = |text: &str| -> Vec<String> {
        let (_, warnings) = Mesh::parse(&[("m.yaml", text)]).expect("valid");
        warnings.iter().map(Diagnostic::uncoded).collect()
    };
    assert_eq!(
        shown(&text),
        [
            "m.yaml:10:9: warning: services.s.routes[0]: retries on a route that takes every call; a repeated call may run twice; name the methods for which that is safe",
            "m.yaml:11:9: warning: services.s.routes[1]: is never reached: the route at m.yaml:10:9 takes every call",
        ]
    );
    assert_eq!(
        shown(&only),
        [
            "m.yaml:10:7: warning: services.s.routes: no route takes every call; calls that no route takes fail UNAVAILABLE; end the list with a route without `match`"
        ]
    );
}

#[test]
fn a_service_replaces_a_default_whole() {
    let text = "mesh: v1\ndefaults: {balance: {policy: pick_first}, limits: {max_outstanding_per_client: 7}}\nservices:\n  a: {}\n  b: {balance: {}, limits: {}}\n";
    let (mesh, _) = Mesh::parse(&[("m.yaml", text)]).expect("valid");
    let (a, b) = (&mesh.services["a"].settings, &mesh.services["b"].settings);
    assert_eq!(
        (a.policy, a.max_outstanding_per_client),
        (Policy::PickFirst, 7)
    );
    assert_eq!(
        (b.policy, b.max_outstanding_per_client),
        (Policy::RoundRobin, 1024)
    );
}

#[test]
fn outlier_detection_is_read_with_grpcs_defaults_and_shown_whole() {
    let text = "mesh: v1\ndefaults: {outlier_detection: {consecutive_failures: 5}}\nservices:\n  a: {}\n  \
         b: {outlier_detection: none, balance: {subset_size: 7}}\n  \
         c: {outlier_detection: {success_rate: {}, failure_percentage: {threshold: 40}, base_ejection_time: 10m}}\n";
    let (mesh, _) = Mesh::parse(&[("m.yaml", text)]).expect("valid");
    let of = |name: &str| mesh.services[name].settings.outlier_detection.clone();
    let a = of("a").expect("the default");
    assert_eq!(a.consecutive_failures.map(|run| run.count), Some(5));
    assert_eq!((a.max_ejection_percent, &a.success_rate), (10, &None));
    assert_eq!(of("b"), None);
    let c = of("c").expect("its own");
    assert_eq!(c.consecutive_failures, None, "nothing merges deeper");
    assert_eq!(
        c.max_ejection_time.as_secs(),
        600,
        "never less than the base"
    );
    assert_eq!(
        c.failure_percentage
            .as_ref()
            .map(|f| (f.threshold, f.request_volume)),
        Some((40, 50))
    );
    assert_eq!(c.success_rate.as_ref().map(|r| r.stdev_factor), Some(1900));
    let shown = mesh.show_defaults();
    let (again, _) = Mesh::parse(&[("shown.yaml", &shown)]).expect("is a mesh file");
    for (name, service) in &mesh.services {
        assert_eq!(again.services[name].settings, service.settings, "{shown}");
    }
}

#[test]
fn shown_defaults_read_as_the_same_mesh() {
    let (mesh, _) = Mesh::parse(&[("mesh.yaml", EXAMPLE)]).expect("valid");
    let shown = mesh.show_defaults();
    let (again, warnings) = Mesh::parse(&[("shown.yaml", &shown)]).expect("is a mesh file");
    assert_eq!(warnings, []);
    assert_eq!(again.show_defaults(), shown);
    let (first, _) = crate::compile::compile(&mesh, &Default::default()).expect("compiles");
    let (second, _) = crate::compile::compile(&again, &Default::default()).expect("compiles");
    let contents = |mesh: &crate::compile::CompiledMesh| -> Vec<_> {
        mesh.resources.iter().map(|r| r.content.clone()).collect()
    };
    assert_eq!(contents(&first), contents(&second));
    assert!(
        shown.contains("\n    identity: ns/prod/sa/web\n    timeout: 5s\n"),
        "{shown}"
    );
}

#[test]
fn shown_sessions_read_as_the_same_mesh() {
    let text = with_service(
        "    session_affinity: {cookie: c, ttl: 90s, path: /p.S}\n    routes:\n      - {match: {method: a.B/C}, session_affinity: none}\n      - {match: {method: a.B/D}, session_affinity: {header: x-s}}\n      - {}\n",
    );
    let (mesh, _) = Mesh::parse(&[("m.yaml", &text)]).expect("valid");
    let shown = mesh.show_defaults();
    for line in [
        "\n    session_affinity: {cookie: c, ttl: 90s, path: \"/p.S\"}\n",
        "\n        session_affinity: none\n",
        "\n        session_affinity: {header: x-s}\n",
        "\n        session_affinity: {cookie: c, ttl: 90s, path: \"/p.S\"}\n",
    ] {
        assert!(shown.contains(line), "{line}{shown}");
    }
    let (again, _) = Mesh::parse(&[("m.yaml", &shown)]).expect("valid");
    assert_eq!(again.show_defaults(), shown);
}

#[test]
fn load_reads_directories_and_reports_unreadable_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("write");
    assert!(Mesh::load(&[dir.path().into()]).is_err(), "nothing to read");
    file("a.yaml", "mesh: v1\nservices: {a: {}}\n");
    file("b.yml", "mesh: v1\nservices: {b: {}}\n");
    file(".b.yml", "junk");
    file("notes.txt", "junk");
    let (mesh, _) = Mesh::load(&[dir.path().into()]).expect("valid");
    assert_eq!(mesh.services.keys().collect::<Vec<_>>(), ["a", "b"]);
    let missing = dir.path().join("none.yaml");
    let found = Mesh::load(std::slice::from_ref(&missing)).expect_err("is not there");
    assert_eq!(
        (found[0].line, found[0].file.as_str()),
        (0, missing.to_str().expect("utf-8"))
    );
}

#[test]
fn a_diagnostic_as_json() {
    let found = Mesh::parse(&[("m.yaml", "mesh: v1\nx: 1\n")]).expect_err("unknown key");
    assert_eq!(
        serde_json::to_value(&found).expect("serializes"),
        json!([{
            "code": "SX0205", "severity": "error", "file": "m.yaml", "line": 2, "column": 1, "path": "",
            "message": "unknown key \"x\"",
            "help": "valid keys are mesh, trust_domain, defaults, services, resources",
        }])
    );
}

/// Every key that the schema offers anywhere is accepted by the parser at that place, and every
/// key that the parser accepts in the example is in the schema.
#[test]
fn schema_and_parser_agree() {
    let schema = schema();
    assert_eq!(schema["additionalProperties"], false);
    let mut report = Report::default();
    let node = yaml::parse(&Arc::from("m"), EXAMPLE, &mut report).expect("parses");
    conforms(&schema, &crate::native::json(&node), "");
    for pointer in [
        "/properties/defaults",
        "/properties/services/additionalProperties",
        "/properties/services/additionalProperties/properties/routes/items",
        "/properties/services/additionalProperties/properties/routes/items/properties/match",
    ] {
        let found = schema.pointer(pointer).expect(pointer);
        for key in ["allow", "from"] {
            assert!(
                found["properties"].get(key).is_none(),
                "{pointer} offers {key}"
            );
        }
    }
    // A wrong value for every key: the parser must complain of the value, not of the key.
    let service = &schema["properties"]["services"]["additionalProperties"];
    for key in service["properties"].as_object().expect("keys").keys() {
        let text = format!("mesh: v1\nservices:\n  a:\n    {key}: 17\n");
        for error in errors(&[("m", &text)]) {
            assert!(!error.contains("unknown key"), "{error}");
        }
    }
}

/// The few words of JSON Schema that ours uses.
fn conforms(schema: &serde_json::Value, value: &serde_json::Value, path: &str) {
    assert!(valid(schema, value), "{path}: {value} is not {schema}");
}

fn valid(schema: &serde_json::Value, value: &serde_json::Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|one| valid(one, value));
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.contains(value);
    }
    match schema["type"].as_str() {
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.as_u64().is_some_and(|n| {
            (schema["minimum"].as_u64() <= Some(n)) && (Some(n) <= schema["maximum"].as_u64())
        }),
        Some("array") => value
            .as_array()
            .is_some_and(|items| items.iter().all(|item| valid(&schema["items"], item))),
        Some("object") => value.as_object().is_some_and(|fields| {
            fields.iter().all(|(key, value)| {
                let known = schema["properties"].get(key);
                match known.unwrap_or_else(|| &schema["additionalProperties"]) {
                    serde_json::Value::Bool(allowed) => *allowed,
                    schema => valid(schema, value),
                }
            })
        }),
        other => panic!("the schema has a type {other:?}"),
    }
}

#[test]
fn living_sources_are_shown_as_they_were_written() {
    let text = "mesh: v1\nservices:\n  a: {endpoints: {dns: _grpc._tcp.a.b}}\n  b:\n    endpoints: {targets: lists/b.json}\n    versions: {next: v2}\n";
    let (mesh, warnings) = Mesh::parse(&[("etc/m.yaml", text)]).expect("valid");
    assert!(warnings.is_empty(), "{warnings:?}");
    let ids: Vec<String> = mesh.sources().keys().map(ToString::to_string).collect();
    assert_eq!(ids, ["dns _grpc._tcp.a.b", "targets etc/lists/b.json"]);
    let shown = mesh.show_defaults();
    for line in [
        "      dns: \"_grpc._tcp.a.b\"\n",
        "      targets: lists/b.json\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let (again, _) = Mesh::parse(&[("etc/m.yaml", &shown)]).expect("valid");
    assert_eq!(again.show_defaults(), shown);
}

#[test]
fn labels_are_shown_as_they_were_written() {
    let text = "mesh: v1\nservices:\n  s:\n    endpoints: {static: [{address: \"10.0.0.1:1\", labels: {stage: canary, shard: \"3\"}}]}\n    subset_fallback: any\n    routes: [{subset: {stage: canary}}]\n";
    let (mesh, warnings) = Mesh::parse(&[("m.yaml", text)]).expect("valid");
    assert!(warnings.is_empty(), "{warnings:?}");
    let shown = mesh.show_defaults();
    for line in [
        "labels: {shard: \"3\", stage: canary}",
        "\n        subset: {stage: canary}\n",
        "\n    subset_fallback: any\n",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let (again, _) = Mesh::parse(&[("m.yaml", &shown)]).expect("valid");
    assert_eq!(again.show_defaults(), shown);
}

#[test]
fn labels_that_cannot_be_are_told() {
    let text = "mesh: v1\nservices:\n  a:\n    endpoints: {static: [{address: \"10.0.0.1:1\", labels: {}}]}\n    subset_fallback: all\n    routes: [{subset: {stage: [x]}}]\n  b:\n    endpoints: {dns: \"b:1\"}\n    routes: [{subset: {stage: x}}]\n";
    let found = Mesh::parse(&[("m.yaml", text)]).expect_err("has faults");
    let mut codes: Vec<_> = found.iter().map(|d| (d.line, d.code)).collect();
    codes.sort_unstable();
    assert_eq!(
        codes,
        [
            (4, code::EMPTY_VALUE),
            (5, code::UNKNOWN_VALUE),
            (6, code::WRONG_TYPE),
            (9, code::KEY_NOT_USABLE),
        ]
    );
}
