//! The public interop cases, ours against ours.

use serde_json::Value;

use crate::program::{Mesh, Program, SERVER, Served};

const CASES: &str = env!("CARGO_BIN_EXE_sidestep-interop-cases");

/// Load reports are part of the cases; a server that says nothing by itself says what it is told.
const REPORTING: [&str; 3] = ["--orca=both", "--orca-qps=0", "--orca-oob-ms=100"];

/// Sizes that a busy machine bears.
const MODEST: [&str; 3] = [
    "--num_concurrent=30",
    "--soak_per_iteration_max_acceptable_latency_ms=20000",
    "--soak_overall_timeout_seconds=60",
];

fn check(events: &[Value], status: i32) {
    let failed: Vec<_> = events.iter().filter(|e| e["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(status, 0);
    let names: Vec<_> = events.iter().map(|e| e["case"].as_str().unwrap()).collect();
    let all: Vec<_> = sidestep_interop::cases::CASES
        .iter()
        .map(|case| case.0)
        .collect();
    assert_eq!(names, all);
}

#[tokio::test]
async fn all_cases_directly() {
    let server = Served::start(&REPORTING).await;
    let (host, port) = server.address.split_once(':').unwrap();
    let (host, port) = (
        format!("--server_host={host}"),
        format!("--server_port={port}"),
    );
    let arguments = [
        &[&*host, &port, "--use_tls=false", "--test_case=all"],
        &MODEST[..],
    ]
    .concat();
    let (events, status) = Program::start(CASES, &arguments).end().await;
    check(&events, status);
}

#[tokio::test]
async fn all_cases_through_the_mesh() {
    let mesh = Mesh::start(&[]).await;
    let server = [&["--mode=xds"], &REPORTING[..]].concat();
    let server = Program::meshed(SERVER, &server, &mesh.bootstrap("greeter"));
    let mut server = Served::of(server).await;
    mesh.push(&[&server.address]);
    while server.program.event("serving_mode").await["mode"] != "SERVING" {}
    let arguments = [
        "--server_host=xds:///greeter",
        "--server_port=0",
        "--test_case=all",
    ];
    let arguments = [&arguments[..], &MODEST[..]].concat();
    let cases = Program::meshed(CASES, &arguments, &mesh.bootstrap("web"));
    let (events, status) = cases.end().await;
    check(&events, status);
}

#[tokio::test]
async fn a_case_that_fails_ends_with_1_and_one_that_is_not_there_with_2() {
    let server = Served::start(&["--fail-first=1", "--fail-code=NOT_FOUND"]).await;
    let (host, port) = server.address.split_once(':').unwrap();
    let arguments = [
        "--server_host",
        host,
        "--server_port",
        port,
        "--test_case=empty_unary",
    ];
    let (events, status) = Program::start(CASES, &arguments).end().await;
    assert_eq!(status, 1);
    assert_eq!(events[0]["ok"], false);
    assert!(
        events[0]["message"]
            .as_str()
            .unwrap()
            .starts_with("NOT_FOUND: "),
        "{events:?}"
    );
    for (argument, expected) in [
        (
            "--test_case=oauth2_auth_token",
            "not supported yet: --test_case=oauth2_auth_token",
        ),
        ("--use_tls=true", "not supported yet: --use_tls"),
        ("--oauth_scope=x", "not supported yet: --oauth_scope"),
        ("--test_case=dance", "--test_case: no case \"dance\""),
    ] {
        let message = crate::program::refused(CASES, &[argument]).await;
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test]
async fn metadata_of_the_command_line_goes_with_each_call() {
    let server = Served::start(&["--id=s1"]).await;
    let (host, port) = server.address.split_once(':').unwrap();
    let told = "--additional_metadata=rpc-behavior:hostname=s1 error-code-9;other:x";
    let arguments = [
        "--server_host",
        host,
        "--server_port",
        port,
        told,
        "--num_times=2",
    ];
    let (events, status) = Program::start(CASES, &arguments).end().await;
    assert_eq!((events.len(), status), (2, 1));
    let message = events[1]["message"].as_str().unwrap();
    assert!(message.starts_with("FAILED_PRECONDITION: "), "{message}");
}
