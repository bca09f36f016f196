//! Each error code has a page, and each page a test that provokes it. What really goes wrong is in
//! misconfigurations.rs; here is the rest, and the pages themselves.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use sidestep::security::SecurityError;
use sidestep::server::Refusal;
use sidestep::{AdminError, BuildError, CallError, Mesh, ServerError};
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_proto::ads::ResourceError;
use sidestep_proto::code::{self, Code, Entry};
use sidestep_proto::codec::{Reason, Unnamed};
use sidestep_tests::events::Events;
use sidestep_tests::fixture::{Fixture, bootstrap, plain_mesh};
use sidestep_tests::load::call;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("a crate of the workspace").to_owned()
}

/// The text of a test function; `None` if there is no such test.
fn body(proof: &str) -> Option<String> {
    let (file, function) = proof.split_once("::")?;
    let text = fs::read_to_string(root().join(file)).ok()?;
    let at = text.find(&format!("fn {function}()"))?;
    let before = text[..at].trim_end_matches("async ").trim_end();
    let end = text[at..].find("\n}\n")?;
    before.ends_with(']').then(|| text[at..at + end].to_owned())
}

/// Why the page of a code is not as it must be.
fn fault(entry: &Entry) -> Option<String> {
    let code = entry.code;
    let path = format!("docs/errors/{code}.md");
    let Ok(page) = fs::read_to_string(root().join(&path)) else {
        return Some(format!("{path} is missing"));
    };
    if !page.starts_with(&format!("# {code}: {}\n", entry.what)) {
        return Some(format!("{path} does not begin with its title"));
    }
    if !page.contains(&format!("**What to do:** {}.", entry.hint)) {
        return Some(format!("{path} does not say what to do"));
    }
    let proof = page.split("*Provoked by `").nth(1);
    let Some(proof) = proof.and_then(|rest| rest.split('`').next()) else {
        return Some(format!("{path} names no test"));
    };
    match body(proof) {
        None => Some(format!("{path}: no test {proof}")),
        Some(body) if body.contains(&code.to_string()) => None,
        Some(_) => Some(format!("{path}: {proof} does not speak of {code}")),
    }
}

#[test]
fn each_code_has_a_page_that_names_a_test_which_provokes_it() {
    let faults: Vec<String> = code::ALL.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_page_is_without_a_code() {
    let codes: BTreeSet<String> = code::ALL.iter().map(|e| format!("{}.md", e.code)).collect();
    for file in fs::read_dir(root().join("docs/errors")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(codes.contains(&name), "docs/errors/{name} has no code");
    }
}

#[test]
fn the_index_of_the_docs_is_the_registry() {
    let index = fs::read_to_string(root().join("docs/errors.md")).unwrap();
    let rows: Vec<&str> = index.lines().filter(|l| l.starts_with("| [SX")).collect();
    let expected: Vec<String> = code::ALL.iter().map(row).collect();
    assert_eq!(rows, expected, "docs/errors.md");
}

fn row(entry: &Entry) -> String {
    let Entry { code, what, hint } = entry;
    let cell = |text: &str| text.replace('|', "\\|");
    format!(
        "| [{code}](errors/{code}.md) | {} | {} |",
        cell(what),
        cell(hint)
    )
}

#[test]
fn each_misconfiguration_of_the_table_names_a_test_and_its_code() {
    let table = fs::read_to_string(root().join("docs/misconfigurations.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.contains("tests/misconfigurations.rs::"))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 30, "{}", rows.len());
    for row in rows {
        let code = row[1].trim_start_matches('[').split(']').next().unwrap();
        assert!(code.parse::<Code>().is_ok(), "{row:?}");
        let proof = row.last().unwrap().trim_matches('`');
        let body = body(proof).unwrap_or_else(|| panic!("no test {proof}"));
        assert!(body.contains(code), "{proof} does not speak of {code}");
    }
}

/// The codes that `sidestep check` finds in a text.
fn found(text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mesh.yaml");
    fs::write(&path, text).unwrap();
    let found = match sidestep_server::check(&[path]) {
        Ok(checked) => checked.configuration.warnings,
        Err(error) => error.diagnostics(),
    };
    found.iter().map(|d| d.code.to_string()).collect()
}

#[test]
fn mesh_files() {
    let service = |body: &str| {
        format!(
            "mesh: v1\ntrust_domain: t\nservices:\n  s:\n    endpoints:\n      static:\n        - {{address: \"1.1.1.1:1\", version: v1}}\n{body}"
        )
    };
    let resource = |body: &str| format!("mesh: v1\nresources:\n  - {body}\n");
    let cluster = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let endpoints = "endpoints: {static: []}";
    let cases = [
        ("SX0202", String::new()),
        ("SX0203", "mesh: [v1\n".to_owned()),
        ("SX0204", "mesh: v2\n".to_owned()),
        ("SX0207", "services: {}\n".to_owned()),
        ("SX0208", service("    versions: {stable: 1}\n")),
        (
            "SX0209",
            service("    routes:\n      - retry: {max_attempts: 2, on: []}\n"),
        ),
        (
            "SX0210",
            service("    limits: {max_outstanding_per_client: 0}\n"),
        ),
        ("SX0211", service("    balance: {policy: robin}\n")),
        ("SX0214", "mesh: v1\nservices:\n  a/b: {}\n".to_owned()),
        ("SX0215", "mesh: v1\nservices:\n  a: {endpoints: {}}\n".to_owned()),
        (
            "SX0217",
            "mesh: v1\nservices:\n  a: {endpoints: {static: [{address: \"1.1.1.1:1\"}, {address: \"1.1.1.1:1\"}]}}\n".to_owned(),
        ),
        (
            "SX0223",
            service("    routes:\n      - {match: {method: a.B/*}}\n"),
        ),
        (
            "SX0225",
            service("    routes:\n      - {match: {method: Say}}\n"),
        ),
        (
            "SX0226",
            service("    routes:\n      - {match: {headers: {X-B: b}}}\n"),
        ),
        (
            "SX0227",
            service("    routes:\n      - {match: {headers: {y: {regex: \"(\"}}}}\n"),
        ),
        ("SX0228", "mesh: v1\nservices:\n  a: {routes: []}\n".to_owned()),
        (
            "SX0230",
            format!("mesh: v1\nservices:\n  a: {{{endpoints}}}\n  b: {{identity: sa/a, {endpoints}}}\n"),
        ),
        (
            "SX0231",
            resource("{\"@type\": type.googleapis.com/no.Such, name: x}"),
        ),
        ("SX0232", resource(&format!("{{{cluster}, name: x, nmae: y}}"))),
        (
            "SX0233",
            format!(
                "mesh: v1\nservices:\n  s: {{{endpoints}}}\nresources:\n  - {{{cluster}, name: s, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}}}}}\n"
            ),
        ),
        (
            "SX0235",
            "mesh: v1\nservices:\n  a: {endpoints: {dns: a.b}}\n".to_owned(),
        ),
        (
            "SX0236",
            "mesh: v1\nservices:\n  a:\n    endpoints: {dns: \"a.b:1\"}\n    versions: {x: v1}\n".to_owned(),
        ),
        ("SX0301", resource(&format!("{{{cluster}, name: x}}"))),
        (
            "SX0309",
            resource(
                "{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret}",
            ),
        ),
        (
            "SX0310",
            format!(
                "mesh: v1\nservices:\n  s: {{{endpoints}}}\nresources:\n  - {{{cluster}, name: x, type: EDS, eds_cluster_config: {{eds_config: {{ads: {{}}}}, service_name: s}}, ignore_health_on_host_removal: true}}\n"
            ),
        ),
    ];
    for (code, text) in cases {
        let found = found(&text);
        assert!(
            found.contains(&code.to_owned()),
            "{code}: {found:?}\n{text}"
        );
    }
}

#[test]
fn rules_of_resources() {
    let text = String::new;
    let expected = "one to ten";
    let cases = [
        (Reason::Empty, "SX0302"),
        (
            Reason::OutOfRange {
                value: text(),
                expected,
            },
            "SX0303",
        ),
        (Reason::Duplicate(text()), "SX0304"),
        (Reason::Undecodable(text()), "SX0306"),
        (Reason::BadPattern(text()), "SX0307"),
    ];
    for (reason, code) in cases {
        let shown = Unnamed { index: 3, reason }.to_string();
        assert!(shown.ends_with(&format!("[{code}]")), "{shown}");
    }
}

fn refusal<T>(made: Result<T, BuildError>) -> String {
    match made {
        Ok(_) => panic!("it was made"),
        Err(error) => {
            let text = error.to_string();
            assert!(
                text.contains(&format!(" [{}]\n  hint: ", error.code())),
                "{text}"
            );
            error.code().to_string()
        }
    }
}

#[tokio::test]
async fn what_stops_a_process_from_starting() {
    let parsed = |text: &str| refusal(Mesh::builder().bootstrap_json(text));
    assert_eq!(parsed("{"), "SX0103");
    assert_eq!(parsed(r#"{"xds_servers": 1}"#), "SX0105");
    let builder = Mesh::builder().bootstrap_json(&bootstrap("127.0.0.1:1", "web").to_string());
    let mesh = builder.unwrap().build().unwrap();
    assert_eq!(refusal(mesh.channel("xds:///")), "SX0109");
    assert_eq!(refusal(mesh.channel("xds://other/greeter")), "SX0110");
    let mode = |name: &str| (name == "SIDESTEP_MODE").then(|| "off".into());
    let made = Mesh::builder().from_lookup(mode);
    assert_eq!(refusal(made.and_then(|builder| builder.build())), "SX0112");
    assert_eq!(refusal(mesh.replace(Default::default())), "SX0113");

    let address = mesh.server("nowhere").serve().await.unwrap_err();
    assert_eq!(address.code().to_string(), "SX0501");
    let elsewhere = mesh.server("192.0.2.1:1").serve().await.unwrap_err();
    assert_eq!(elsewhere.code().to_string(), "SX0503", "{elsewhere}");

    let admin = |address: &str| mesh.admin(address).unwrap_err().code().to_string();
    assert_eq!(admin("nowhere"), "SX0516");
    assert_eq!(admin("0.0.0.0:0"), "SX0517");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(admin(&taken.local_addr().unwrap().to_string()), "SX0518");
    assert_eq!(AdminError::NoRuntime.code().to_string(), "SX0519");
}

/// Those that take long or a broken system to come about are made by hand: what is tested is the
/// number and the form.
#[test]
fn errors_of_a_running_mesh() {
    let text = String::new;
    let refused = ResourceError::Refused {
        code: 7,
        message: text(),
    };
    assert!(refused.to_string().ends_with("[SX0313]"));
    assert!(ResourceError::Deleted.to_string().ends_with("[SX0311]"));
    assert!(ResourceError::TimedOut.to_string().ends_with("[SX0314]"));
    let calls = [
        (
            CallError::UnsupportedRoute {
                route: text(),
                origin: text(),
            },
            "SX0405",
        ),
        (
            CallError::Dropped {
                cluster: text(),
                category: text(),
                origin: text(),
            },
            "SX0413",
        ),
        (
            CallError::Transport {
                code: 14,
                endpoint: text(),
                reason: text(),
            },
            "SX0412",
        ),
        (CallError::RequestBody(text()), "SX0416"),
    ];
    for (error, code) in calls {
        assert!(error.to_string().ends_with(&format!("[{code}]")), "{error}");
    }
    let listen = ServerError::Listen {
        address: sidestep_proto::resource::Address::Unix(text()),
        source: io::ErrorKind::OutOfMemory.into(),
    };
    assert_eq!(listen.code().to_string(), "SX0504");
    let direct = ServerError::Direct {
        address: sidestep_proto::resource::Address::Unix(text()),
    };
    assert_eq!(direct.code().to_string(), "SX0515");
    let named = ServerError::Listener {
        address: sidestep_proto::resource::Address::Unix(text()),
        source: "nobody".into(),
    };
    assert_eq!(named.code().to_string(), "SX0505");
    let security = [
        (SecurityError::NoProvider(text()), "SX0801"),
        (
            SecurityError::Content {
                path: text(),
                reason: text(),
            },
            "SX0803",
        ),
        (
            SecurityError::Lacks {
                instance: text(),
                what: "trusted roots",
            },
            "SX0805",
        ),
        (SecurityError::Tls(text()), "SX0806"),
    ];
    for (error, code) in security {
        assert_eq!(error.code().to_string(), code, "{error}");
    }
}

#[tokio::test]
async fn calls_that_must_not_leave_this_machine_in_plaintext() {
    let fixture = Fixture::start(&plain_mesh(&["192.0.2.1:1"])).await;
    let channel = fixture.mesh("web").channel("xds:///greeter").unwrap();
    let status = call(&mut TestServiceClient::new(channel))
        .await
        .unwrap_err();
    assert!(status.message().ends_with("[SX0411]"), "{status}");
}

#[tokio::test]
async fn a_channel_without_a_way_around_the_mesh() {
    let direct = |name: &str| (name == "SIDESTEP_MODE").then(|| "direct".into());
    let mesh = Mesh::builder()
        .from_lookup(direct)
        .unwrap()
        .build()
        .unwrap();
    let channel = mesh.channel("xds:///greeter").unwrap();
    let status = call(&mut TestServiceClient::new(channel))
        .await
        .unwrap_err();
    assert!(status.message().ends_with("[SX0418]"), "{status}");
}

#[test]
fn connections_that_a_server_refuses() {
    let cases = [
        (Refusal::NotServing, "SX0509"),
        (Refusal::Gone, "SX0510"),
        (Refusal::FirstBytesTimeout, "SX0511"),
        (Refusal::HandshakeTimeout, "SX0511"),
        (Refusal::PrefaceTimeout, "SX0511"),
        (Refusal::FirstBytesJunk, "SX0512"),
        (Refusal::Preface, "SX0512"),
        (Refusal::NoFilterChain, "SX0513"),
        (Refusal::Handshake, "SX0514"),
        (Refusal::Plaintext, "SX0507"),
        (Refusal::Security, "SX0806"),
    ];
    for (why, code) in cases {
        assert_eq!(why.code().to_string(), code, "{why}");
    }
}

#[test]
fn odd_bootstraps_are_told_of() {
    let events = Events::catch();
    let mut odd = bootstrap("127.0.0.1:1", "web");
    odd["node"]["id"] = json!("");
    odd["node"]["clutser"] = json!("web");
    let builder = Mesh::builder().bootstrap_json(&odd.to_string()).unwrap();
    builder.build().unwrap();
    let all = events.all();
    let told = |code: &str| all.iter().find(|event| event.field("code") == code);
    let unknown = told("SX0107").expect("an unknown key");
    assert_eq!(unknown.field("key"), "node.clutser");
    let nameless = told("SX0108").expect("no id");
    assert_eq!(nameless.field("key"), "node.id");
}
