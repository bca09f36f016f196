//! Access log lines of good and of failed calls, on both sides, with Envoy's words and flags.

use std::time::Duration;

use sidestep::telemetry::access_log::{DEFAULT_FORMAT, Side};
use sidestep::{AccessLog, BuildError, Channel, Mesh, MeshBuilder};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::test_service_client::TestServiceClient;
use sidestep_interop::testing::{EchoStatus, Empty, SimpleRequest};
use sidestep_proto::resource::{DropCategory, PerMillion};
use sidestep_server::RawResources;
use sidestep_tests::fixture::{
    Authority, Backend, Fixture, bootstrap, mesh_file, plain_mesh, secured, silent_backend, spiffe,
    unused_address,
};
use sidestep_tests::load::{PATIENCE, call, until};
use sidestep_tests::raw;
use tokio::sync::mpsc;
use tonic::Request;

type Client = TestServiceClient<Channel>;

/// The lines of one process.
struct Lines(mpsc::UnboundedReceiver<String>);

impl Lines {
    fn of(builder: MeshBuilder, log: AccessLog) -> (Mesh, Self) {
        let (sender, lines) = mpsc::unbounded_channel();
        let log = log.to_callback(move |line| {
            // After its end a test reads no more.
            _ = sender.send(line.to_owned());
        });
        (builder.access_log(log).build().unwrap(), Self(lines))
    }

    async fn next(&mut self) -> String {
        let next = tokio::time::timeout(PATIENCE, self.0.recv()).await;
        let line = next.expect("a line comes").expect("the log lives");
        line.strip_suffix('\n').expect("one line each").to_owned()
    }
}

/// What ended a call, and where it went.
const WHY: &str = "%RESPONSE_CODE% %RESPONSE_FLAGS% %GRPC_STATUS% %UPSTREAM_HOST% \
    %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_CODE_DETAILS%";

fn client_of(fixture: &Fixture, format: &str) -> (Client, Lines) {
    let log = AccessLog::text(format).unwrap();
    let (mesh, lines) = Lines::of(fixture.builder("web"), log);
    (
        TestServiceClient::new(mesh.channel("xds:///greeter").unwrap()),
        lines,
    )
}

async fn greeter(faults: Faults, keys: &str) -> (Fixture, Backend) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let backend = Backend::start(&fixture.mesh("greeter"), "a", faults);
    fixture.push(&mesh_file(&[(&backend.address, "v1")], keys));
    (fixture, backend)
}

fn within(time: Duration) -> Request<SimpleRequest> {
    let mut request = Request::new(SimpleRequest::default());
    request.set_timeout(time);
    request
}

#[tokio::test]
async fn a_good_call_gives_a_line_on_each_side() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %PROTOCOL% %RESPONSE_CODE% \
        %RESPONSE_FLAGS% %GRPC_STATUS% %BYTES_RECEIVED% %BYTES_SENT% %REQ(X-REQUEST-ID)% \
        %RESP(HOSTNAME)% %TRAILER(GRPC-STATUS)%";
    let server = format!(
        "{format} %REQ(:SCHEME)% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_HOST%"
    );
    let log = AccessLog::text(&server).unwrap();
    let (servers, mut served) = Lines::of(fixture.builder("greeter"), log);
    let backend = Backend::start(&servers, "a", Faults::default());
    fixture.push(&mesh_file(&[(&backend.address, "v1")], ""));
    let client =
        format!("{format} %UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT%");
    let (mut client, mut called) = client_of(&fixture, &client);

    let mut request = Request::new(SimpleRequest {
        response_size: 100,
        ..SimpleRequest::default()
    });
    request
        .metadata_mut()
        .insert("x-request-id", "r-1".parse().unwrap());
    let answer = client.unary_call(request).await.unwrap();

    let bytes = 5 + prost::Message::encoded_len(answer.get_ref());
    // Two bytes of message after five of prefix: field and value of `response_size`.
    let both = format!(
        "POST /grpc.testing.TestService/UnaryCall greeter HTTP/2 200 - OK 7 {bytes} r-1 a 0"
    );
    let address = &backend.address;
    assert_eq!(called.next().await, format!("{both} {address} greeter 1"));
    assert_eq!(
        served.next().await,
        format!("{both} http {address} 127.0.0.1 -")
    );
}

#[tokio::test]
async fn a_servers_own_failure_has_a_status_and_no_flag() {
    let (fixture, backend) = greeter(Faults::default(), "").await;
    let (mut client, mut lines) = client_of(&fixture, &format!("{WHY} %RESP(GRPC-MESSAGE)%"));
    let request = SimpleRequest {
        response_status: Some(EchoStatus {
            code: 9,
            message: "not now".to_owned(),
        }),
        ..SimpleRequest::default()
    };
    client.unary_call(request).await.unwrap_err();
    let address = &backend.address;
    assert_eq!(
        lines.next().await,
        format!("200 - FailedPrecondition {address} greeter 1 via_upstream not%20now")
    );
}

#[tokio::test]
async fn without_endpoints_uh() {
    let fixture = Fixture::start(&plain_mesh(&[])).await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    call(&mut client).await.unwrap_err();
    assert_eq!(
        lines.next().await,
        "200 UH Unavailable - - 1 no_healthy_upstream"
    );
}

#[tokio::test]
async fn without_a_connection_uf() {
    let fixture = Fixture::start(&plain_mesh(&[&unused_address()])).await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    call(&mut client).await.unwrap_err();
    let failure = "upstream_reset_before_response_started{remote_connection_failure}";
    assert_eq!(
        lines.next().await,
        format!("200 UF Unavailable - - 1 {failure}")
    );
    // Taken out, the endpoint is no reason any more.
    fixture.push(&plain_mesh(&[]));
    let none = |line: &str| line.starts_with("200 UH ");
    let changed = async {
        loop {
            call(&mut client).await.unwrap_err();
            if none(&lines.next().await) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, changed)
        .await
        .expect("it is taken out");
}

#[tokio::test]
async fn without_a_route_nr() {
    let only = "routes: [{match: {method: grpc.testing.TestService/EmptyCall}}]";
    let (fixture, _backend) = greeter(Faults::default(), only).await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    call(&mut client).await.unwrap_err();
    assert_eq!(
        lines.next().await,
        "200 NR Unavailable - - 0 route_not_found"
    );
}

#[tokio::test]
async fn an_unknown_target_is_nc() {
    let fixture = Fixture::start(&plain_mesh(&[])).await;
    let log = AccessLog::text(WHY).unwrap();
    let (mesh, mut lines) = Lines::of(fixture.builder("web"), log);
    let mut client = TestServiceClient::new(mesh.channel("xds:///nobody").unwrap());
    call(&mut client).await.unwrap_err();
    assert_eq!(
        lines.next().await,
        "200 NC Unavailable - - 0 cluster_not_found"
    );
}

#[tokio::test]
async fn a_deadline_is_ut_on_the_client_and_dc_or_ut_on_the_server() {
    let slow = Faults {
        delay: Duration::from_secs(3600),
        ..Faults::default()
    };
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let log = AccessLog::text("%RESPONSE_CODE% %RESPONSE_FLAGS%").unwrap();
    let (servers, mut served) = Lines::of(fixture.builder("greeter"), log);
    let backend = Backend::start(&servers, "a", slow);
    fixture.push(&mesh_file(&[(&backend.address, "v1")], ""));
    let (mut client, mut lines) = client_of(&fixture, WHY);
    client
        .unary_call(within(Duration::from_millis(300)))
        .await
        .unwrap_err();
    let address = &backend.address;
    assert_eq!(
        lines.next().await,
        format!("200 UT DeadlineExceeded {address} greeter 1 response_timeout")
    );
    // Whoever's clock is first: the server's own, or the caller's reset.
    let line = served.next().await;
    assert!(line == "200 UT" || line == "0 DC", "{line}");
}

#[tokio::test]
async fn an_abandoned_call_is_dc_on_both_sides() {
    let slow = Faults {
        delay: Duration::from_secs(3600),
        ..Faults::default()
    };
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let format = "%RESPONSE_CODE% %RESPONSE_FLAGS% %GRPC_STATUS% %RESPONSE_CODE_DETAILS%";
    let log = AccessLog::text(format).unwrap();
    let (servers, mut served) = Lines::of(fixture.builder("greeter"), log);
    let backend = Backend::start(&servers, "a", slow);
    fixture.push(&mesh_file(&[(&backend.address, "v1")], ""));
    let (client, mut lines) = client_of(&fixture, format);
    let mut caller = client.clone();
    let abandoned = tokio::spawn(async move { caller.empty_call(Empty {}).await });
    let begun = async {
        while backend.testing.calls() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun)
        .await
        .expect("it arrives");
    abandoned.abort();
    let gone = "0 DC Canceled downstream_remote_disconnect";
    assert_eq!(lines.next().await, gone);
    assert_eq!(served.next().await, gone);
}

#[tokio::test]
async fn an_open_circuit_is_uo() {
    let keys = "limits: {max_outstanding_per_client: 1}";
    let address = silent_backend().await;
    let fixture = Fixture::start(&mesh_file(&[(&address, "v1")], keys)).await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    let mut first = client.clone();
    let held = tokio::spawn(async move { call(&mut first).await });
    let error = until(&mut client, |outcome| {
        sidestep::CallError::from_status(outcome.as_ref().unwrap_err()) == Some("circuit-open")
    });
    error.await.unwrap_err();
    let overflow = "upstream_reset_before_response_started{overflow}";
    assert_eq!(
        lines.next().await,
        format!("200 UO Unavailable - - 1 {overflow}")
    );
    held.abort();
}

#[tokio::test]
async fn a_broken_connection_is_uc() {
    let slow = Faults {
        delay: Duration::from_secs(3600),
        ..Faults::default()
    };
    let (fixture, backend) = greeter(slow, "").await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    let mut caller = client.clone();
    let broken = tokio::spawn(async move { call(&mut caller).await });
    let begun = async {
        while backend.testing.calls() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun)
        .await
        .expect("it arrives");
    let address = backend.address.clone();
    backend.kill().await;
    broken.await.unwrap().unwrap_err();
    let line = lines.next().await;
    let start = format!("200 UC Unavailable {address} greeter 1 ");
    assert!(line.starts_with(&start), "{line}");
    // And now there is nobody to connect to.
    until(&mut client, Result::is_err).await.unwrap_err();
}

#[tokio::test]
async fn spent_attempts_are_urx() {
    let retry = "routes: [{match: {method: \"grpc.testing.TestService/*\"}, retry: {max_attempts: 3, on: [unavailable]}}]";
    let faults = Faults {
        fail_attempts_below: 9,
        ..Faults::default()
    };
    let (fixture, backend) = greeter(faults, retry).await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    call(&mut client).await.unwrap_err();
    let address = &backend.address;
    assert_eq!(
        lines.next().await,
        format!("200 URX Unavailable {address} greeter 3 via_upstream")
    );
}

#[tokio::test]
async fn a_dropped_call_is_do() {
    let all = DropCategory {
        category: "lottery".to_owned(),
        share: PerMillion::new(1_000_000),
    };
    let endpoints = raw::assignment("greeter", &[(0, 1, &unused_address())], &[all]);
    let resources = RawResources::new(raw::service("greeter", endpoints)).unwrap();
    let fixture = Fixture::raw(resources).await;
    let (mut client, mut lines) = client_of(&fixture, WHY);
    call(&mut client).await.unwrap_err();
    assert_eq!(lines.next().await, "200 DO Unavailable - - 1 drop_overload");
}

#[tokio::test]
async fn a_caller_is_named_by_its_certificate() {
    let authority = Authority::default();
    let fixture = Fixture::start(&secured(&mesh_file(&[], ""), "strict")).await;
    let log = AccessLog::json(
        r#"{"who": "%DOWNSTREAM_PEER_URI_SAN%", "scheme": "%REQ(:SCHEME)%", "status": "%GRPC_STATUS_NUMBER%"}"#,
    );
    let process = |service: &str| {
        let provider = authority.provider(&spiffe(service));
        fixture
            .builder(service)
            .certificate_provider("default", provider)
    };
    let (servers, mut served) = Lines::of(process("greeter"), log.unwrap().only(Side::Server));
    let backend = Backend::start(&servers, "a", Faults::default());
    fixture.push(&secured(&plain_mesh(&[&backend.address]), "strict"));
    let mesh = process("web").build().unwrap();
    let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    until(&mut client, Result::is_ok).await.unwrap();
    assert_eq!(
        served.next().await,
        format!(
            "{{\"who\":\"{}\",\"scheme\":\"https\",\"status\":0}}",
            spiffe("web")
        )
    );
}

#[test]
fn every_operator_is_in_the_documentation() {
    let text = include_str!("../../docs/access-log.md");
    for operator in sidestep::telemetry::access_log::operators() {
        let here = |end: &str| text.contains(&format!("%{operator}{end}"));
        assert!(
            here("%") || here("("),
            "{operator} is not in docs/access-log.md"
        );
    }
    for (short, long) in sidestep::telemetry::access_log::Flags::names_of_all() {
        let row = format!("| `{short}` | `{long}` |");
        assert!(text.contains(&row), "{row} is not in docs/access-log.md");
    }
}

#[tokio::test]
async fn the_environment_turns_it_on_and_a_bad_format_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let (fixture, backend) = greeter(Faults::default(), "").await;
    let bootstrap = fixture.bootstrap("web").to_string();
    let environment = |format: &str| {
        let (format, path, bootstrap) = (format.to_owned(), path.clone(), bootstrap.clone());
        Mesh::builder().from_lookup(move |name| match name {
            "GRPC_XDS_BOOTSTRAP_CONFIG" => Some(bootstrap.clone().into()),
            "SIDESTEP_ACCESS_LOG" => Some(format.clone().into()),
            "SIDESTEP_ACCESS_LOG_PATH" => Some(path.clone().into()),
            _ => None,
        })
    };
    let mesh = environment("text").unwrap().build().unwrap();
    let mut client = TestServiceClient::new(mesh.channel("xds:///greeter").unwrap());
    until(&mut client, Result::is_ok).await.unwrap();
    assert_eq!(mesh.access_log().unwrap().dropped(), 0);
    // The writer is told to hurry by the end of the mesh, and of all that was made of it.
    drop((mesh, client));
    let written = async {
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            if text.ends_with('\n') {
                return text;
            }
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::time::timeout(PATIENCE, written)
        .await
        .expect("it is written");
    let line = text.lines().last().unwrap();
    assert!(line.starts_with('['), "{line}");
    let address = &backend.address;
    assert!(
        line.ends_with(&format!("\"-\" \"greeter\" \"{address}\"")),
        "{line} by {DEFAULT_FORMAT}"
    );

    let refused = environment("%REQ(:PATH)% %DURATOIN%").unwrap_err();
    assert!(matches!(refused, BuildError::AccessLog(_)), "{refused:?}");
    let text = refused.to_string();
    let expected = "access log format, column 15: no operator %DURATOIN%; did you mean %DURATION%?";
    assert!(text.starts_with(expected), "{text}");
    assert_eq!(refused.code().to_string(), "SX0114");
}

#[test]
fn a_file_that_cannot_be_written_stops_the_start() {
    let lookup = |name: &str| match name {
        "GRPC_XDS_BOOTSTRAP_CONFIG" => Some(bootstrap("127.0.0.1:1", "web").to_string().into()),
        "SIDESTEP_ACCESS_LOG" => Some("text".into()),
        "SIDESTEP_ACCESS_LOG_PATH" => Some("/dev/null/access.log".into()),
        _ => None,
    };
    let refused = Mesh::builder().from_lookup(lookup).unwrap_err();
    assert_eq!(refused.code().to_string(), "SX0115");
    let text = refused.to_string();
    assert!(text.contains("/dev/null/access.log"), "{text}");
}
