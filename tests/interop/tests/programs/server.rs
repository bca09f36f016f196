//! Each flag and each event of `sidestep-interop-server`, by running it.

use prost::Message as _;
use serde_json::{Value, json};
use sidestep_proto::wire::orca::{OrcaLoadReport, OrcaLoadReportRequest};
use tonic::Code;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Binary, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;

use crate::program::{CLIENT, Mesh, Program, SERVER, Served, client, refused, unused_address};

fn codes(rpcs: &[Value]) -> Vec<&str> {
    rpcs.iter()
        .map(|rpc| rpc["code"].as_str().unwrap())
        .collect()
}

/// The codes of so many calls one after the other.
async fn calls(server: &Served, n: usize, arguments: &[&str]) -> Vec<String> {
    let n = format!("--n={n}");
    let (rpcs, _) = client(&server.address, &[&[&*n], arguments].concat()).await;
    codes(&rpcs).into_iter().map(str::to_owned).collect()
}

async fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint.connect().await.unwrap()
}

#[tokio::test]
async fn the_ready_event_says_where_and_who() {
    let address = unused_address();
    let server = Served::start(&["--listen", &address, "--id", "s1"]).await;
    let ready = &server.ready;
    assert_eq!(
        (&ready["addr"], &ready["id"]),
        (&address.clone().into(), &"s1".into())
    );
    assert_eq!(ready["mode"], "plain");
    let taken = refused(SERVER, &["--listen", &address]).await;
    assert!(taken.contains(&address), "{taken}");
    let server = Served::start(&[]).await;
    let (rpcs, _) = client(&server.address, &["--n=1"]).await;
    assert_eq!(
        (&server.ready["id"], &rpcs[0]["server"]),
        (&"server".into(), &"server".into())
    );
}

#[tokio::test]
async fn failures_on_purpose() {
    let server = Served::start(&["--fail-first=2", "--fail-code=ABORTED"]).await;
    assert_eq!(calls(&server, 3, &[]).await, ["ABORTED", "ABORTED", "OK"]);

    let server = Served::start(&["--fail-attempts-below=2"]).await;
    assert_eq!(calls(&server, 1, &[]).await, ["UNAVAILABLE"]);
    let second = ["--metadata=grpc-previous-rpc-attempts:2"];
    assert_eq!(calls(&server, 1, &second).await, ["OK"]);

    let server = Served::start(&["--fail-percent=100", "--fail-code=INTERNAL"]).await;
    assert_eq!(calls(&server, 2, &[]).await, ["INTERNAL", "INTERNAL"]);

    // 5 standard deviations around 200 of 400 are 150 to 250.
    let server = Served::start(&["--fail-percent", "50"]).await;
    let failed = calls(&server, 400, &["--concurrency=8"]).await;
    let failed = failed.iter().filter(|code| *code == "UNAVAILABLE").count();
    assert!((150..=250).contains(&failed), "{failed}");
}

#[tokio::test]
async fn a_failure_is_a_status_alone_and_says_who_fails() {
    let server = Served::start(&["--id=s1", "--fail-first=9"]).await;
    for method in ["--method=UnaryCall", "--method=StreamingOutputCall"] {
        let arguments = [
            "--n=1",
            "--print-metadata",
            "--metadata=x-echo:a",
            "--metadata=a:b",
            method,
        ];
        let (rpcs, _) = client(&server.address, &arguments).await;
        assert_eq!(rpcs[0]["server"], "s1");
        // Nothing came before the trailers.
        assert_eq!(rpcs[0]["headers"], json!({}));
        assert_eq!(rpcs[0]["trailers"]["echo-a"], "b");
    }
}

#[tokio::test]
async fn an_answer_may_be_delayed() {
    let server = Served::start(&["--delay-ms=120"]).await;
    let (rpcs, _) = client(&server.address, &["--n=2"]).await;
    assert!(
        rpcs.iter()
            .all(|rpc| rpc["latency_ms"].as_f64().unwrap() >= 119.0),
        "{rpcs:?}"
    );
    assert_eq!(
        calls(&server, 1, &["--timeout-ms=30"]).await,
        ["DEADLINE_EXCEEDED"]
    );
}

#[tokio::test]
async fn callers_tell_servers_how_to_behave() {
    let server = Served::start(&["--id=s1"]).await;
    for (behavior, code) in [
        ("error-code-5", "NOT_FOUND"),
        ("hostname=s2 error-code-5", "OK"),
        (
            "hostname=s1 error-code-5,hostname=s2 keep-open",
            "NOT_FOUND",
        ),
        ("succeed-on-retry-attempt-0,error-code-14", "OK"),
        ("succeed-on-retry-attempt-2,error-code-14", "UNAVAILABLE"),
        ("hostname=s2 error-code-5, error-code-6", "ALREADY_EXISTS"),
        ("dance", "INVALID_ARGUMENT"),
    ] {
        let metadata = format!("--metadata=rpc-behavior:{behavior}");
        assert_eq!(calls(&server, 1, &[&metadata]).await, [code], "{behavior}");
    }
    let asleep = ["--n=1", "--metadata=rpc-behavior:sleep-1,error-code-3"];
    let (rpcs, _) = client(&server.address, &asleep).await;
    assert_eq!(rpcs[0]["code"], "INVALID_ARGUMENT");
    assert!(rpcs[0]["latency_ms"].as_f64().unwrap() >= 999.0, "{rpcs:?}");
    let open = [
        "--metadata=rpc-behavior:keep-open",
        "--timeout-ms=50",
        "--method=EmptyCall",
    ];
    assert_eq!(calls(&server, 1, &open).await, ["DEADLINE_EXCEEDED"]);
}

#[tokio::test]
async fn calls_are_logged_as_they_begin() {
    let mut server = Served::start(&["--log-rpcs"]).await;
    let arguments = [
        "--n=2",
        "--timeout-ms=1999",
        "--authority=svc",
        "--metadata=grpc-previous-rpc-attempts:{i}",
    ];
    client(&server.address, &arguments).await;
    for n in 1..=2 {
        let rpc = server.program.event("rpc").await;
        assert_eq!((&rpc["n"], &rpc["attempts"]), (&n.into(), &(n - 1).into()));
        assert_eq!(
            (&rpc["method"], &rpc["authority"]),
            (&"UnaryCall".into(), &"svc".into())
        );
        assert_eq!(rpc["peer_san"], "");
        let left: u64 = rpc["deadline_ms"].as_str().unwrap().parse().unwrap();
        assert!((1..=1999).contains(&left), "{left}");
    }
    let quiet = Served::start(&[]).await;
    client(&quiet.address, &["--n=1"]).await;
    quiet.program.terminate().await;
    assert_eq!(quiet.program.end().await, (vec![], 0));
}

async fn health(address: &str, service: &str) -> Result<ServingStatus, Code> {
    let mut client = HealthClient::new(channel(address).await);
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = client
        .check(request)
        .await
        .map_err(|status| status.code())?;
    Ok(answer.into_inner().status())
}

#[tokio::test]
async fn health_is_always_told() {
    let (serving, other) = tokio::join!(Served::start(&[]), Served::start(&["--not-serving"]));
    for service in ["", "grpc.testing.TestService"] {
        assert_eq!(
            health(&serving.address, service).await,
            Ok(ServingStatus::Serving)
        );
        assert_eq!(
            health(&other.address, service).await,
            Ok(ServingStatus::NotServing)
        );
    }
    assert_eq!(health(&serving.address, "who").await, Err(Code::NotFound));
    // It only says so.
    assert_eq!(calls(&other, 1, &[]).await, ["OK"]);
}

fn report(rpc: &Value) -> Option<OrcaLoadReport> {
    let text = rpc["trailers"]["endpoint-load-metrics-bin"].as_str()?;
    let mut metadata = http::HeaderMap::new();
    metadata.insert("endpoint-load-metrics-bin", text.parse().unwrap());
    let metadata = tonic::metadata::MetadataMap::from_headers(metadata);
    let value: MetadataValue<Binary> = metadata.get_bin("endpoint-load-metrics-bin")?.clone();
    Some(OrcaLoadReport::decode(value.to_bytes().unwrap()).unwrap())
}

async fn report_with_call(server: &Served) -> Option<OrcaLoadReport> {
    let (rpcs, _) = client(&server.address, &["--n=1", "--print-metadata"]).await;
    report(&rpcs[0])
}

async fn reports_beside_calls(server: &Served, n: usize) -> Result<Vec<OrcaLoadReport>, Code> {
    let mut grpc = Grpc::new(channel(&server.address).await);
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics");
    let codec = ProstCodec::<OrcaLoadReportRequest, OrcaLoadReport>::default();
    let request = tonic::Request::new(OrcaLoadReportRequest::default());
    let answers = grpc.server_streaming(request, path, codec).await;
    let mut answers = answers.map_err(|status| status.code())?.into_inner();
    let mut reports = Vec::new();
    while reports.len() < n {
        reports.push(answers.message().await.unwrap().expect("another"));
    }
    Ok(reports)
}

const LOAD: [&str; 5] = [
    "--orca-cpu=0.25",
    "--orca-app=0.5",
    "--orca-qps=70",
    "--orca-eps=3.5",
    "--orca-named=queue=7.5",
];

#[tokio::test]
async fn load_is_reported_with_calls() {
    let server = Served::start(&[&["--orca=per-request"], &LOAD[..]].concat()).await;
    let report = report_with_call(&server).await.expect("a report");
    assert_eq!(
        (report.cpu_utilization, report.application_utilization),
        (0.25, 0.5)
    );
    assert_eq!((report.rps_fractional, report.eps), (70.0, 3.5));
    assert_eq!(report.named_metrics["queue"], 7.5);
    assert_eq!(
        reports_beside_calls(&server, 1).await,
        Err(Code::Unimplemented)
    );

    let plain = Served::start(&["--orca", "per-request"]).await;
    let report = report_with_call(&plain).await.expect("a report");
    let wanted = OrcaLoadReport {
        rps_fractional: 100.0,
        ..OrcaLoadReport::default()
    };
    assert_eq!(report, wanted);
}

#[tokio::test]
async fn load_is_reported_beside_calls() {
    let beside = ["--orca=oob", "--orca-oob-ms=50"];
    let server = Served::start(&[&beside[..], &LOAD[..]].concat()).await;
    assert_eq!(report_with_call(&server).await, None);
    let begun = std::time::Instant::now();
    let reports = reports_beside_calls(&server, 3).await.expect("a stream");
    assert!(begun.elapsed().as_millis() >= 99, "{:?}", begun.elapsed());
    assert_eq!(
        (reports[2].cpu_utilization, reports[2].rps_fractional),
        (0.25, 70.0)
    );
    assert!(reports[2].named_metrics.is_empty());
}

#[tokio::test]
async fn load_is_reported_both_ways_or_not_at_all() {
    let both = Served::start(&["--orca=both", "--orca-cpu=0.1"]).await;
    assert!(report_with_call(&both).await.is_some());
    assert_eq!(
        reports_beside_calls(&both, 1).await.map(|all| all.len()),
        Ok(1)
    );
    let none = Served::start(&["--orca-cpu=0.1", "--orca-named=a=1"]).await;
    assert_eq!(report_with_call(&none).await, None);
    assert_eq!(
        reports_beside_calls(&none, 1).await,
        Err(Code::Unimplemented)
    );
}

#[tokio::test]
async fn a_meshed_server_tells_its_mode_and_what_it_runs() {
    let mesh = Mesh::start(&[]).await;
    let arguments = [
        "--mode=xds",
        "--xds-creds",
        "--id=m1",
        "--admin=127.0.0.1:0",
    ];
    let mut bootstrap = mesh.bootstrap("greeter");
    // Without this word a server keeps a Listener that was deleted.
    bootstrap["xds_servers"][0]["server_features"] = json!(["xds_v3", "fail_on_data_errors"]);
    let server = Program::meshed(SERVER, &arguments, &bootstrap);
    let mut server = Served::of(server).await;
    assert_eq!(server.ready["mode"], "xds");
    let first = server.program.event("serving_mode").await;
    assert_eq!(
        (&first["mode"], &first["addr"]),
        (&"NOT_SERVING".into(), &server.address.clone().into())
    );
    assert!(first["error"].is_string());
    mesh.push(&[&server.address]);
    let second = server.program.event("serving_mode").await;
    assert_eq!(
        (&second["mode"], &second["error"]),
        (&"SERVING".into(), &Value::Null)
    );
    let names = crate::status::acked(server.ready["admin"].as_str().unwrap()).await;
    let listener = format!(
        "grpc/server?xds.resource.listening_address={}",
        server.address
    );
    assert!(names.contains(&listener), "{names:?}");
    assert_eq!(
        health(&server.address, "").await,
        Ok(ServingStatus::Serving)
    );
    // Gone again: nobody is served.
    mesh.push(&[]);
    let third = server.program.event("serving_mode").await;
    assert_eq!(third["mode"], "NOT_SERVING");
}

#[tokio::test]
async fn a_server_that_is_told_to_end_does_so_in_time() {
    let server = Served::start(&["--log-rpcs"]).await;
    let arguments = [
        "--target",
        &server.address,
        "--metadata=rpc-behavior:keep-open",
        "--timeout-ms=0",
    ];
    let mut caller = Program::start(CLIENT, &arguments);
    caller.event("ready").await;
    let mut program = server.program;
    program.event("rpc").await;
    let begun = std::time::Instant::now();
    program.terminate().await;
    assert_eq!(program.end().await, (vec![], 0));
    assert!(begun.elapsed().as_secs_f64() < 5.0, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_bad_call_ends_with_an_error_event_and_2() {
    for (argument, expected) in [
        ("--what", "unknown flag --what"),
        (
            "--mode=sidecar",
            "--mode: \"sidecar\" is neither plain nor xds",
        ),
        ("--mode=xds", "bootstrap"),
        ("--fail-code=Ok", "--fail-code: no status \"Ok\""),
        ("--fail-percent=101", "--fail-percent"),
        ("--delay-ms=-1", "--delay-ms"),
        ("--orca=some", "--orca: \"some\""),
        ("--orca-cpu=-1", "--orca-cpu"),
        ("--orca-named=x", "--orca-named: \"x\" is not name=value"),
        ("--listen=nowhere", "nowhere"),
        ("--not-serving=1", "--not-serving takes no value"),
    ] {
        let message = refused(SERVER, &[argument]).await;
        assert!(message.contains(expected), "{argument}: {message}");
    }
}
