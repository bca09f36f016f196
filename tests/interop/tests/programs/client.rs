//! Each flag and each event of `sidestep-interop-client`, by running it.

use std::convert::Infallible;

use crate::program::{
    CLIENT, Mesh, Program, SERVER, Served, client, finished, refused, unused_address,
};
use http::{HeaderValue, Request, Response};
use serde_json::{Value, json};
use sidestep_interop::service::{Faults, Testing};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::{Service, ServiceExt as _};

fn texts<'a>(rpcs: &'a [Value], field: &str) -> Vec<&'a str> {
    rpcs.iter()
        .map(|rpc| rpc[field].as_str().unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn calls_are_told_one_by_one_and_summed_up() {
    let server = Served::start(&["--id", "s1"]).await;
    let (rpcs, summary) = client(&server.address, &[]).await;
    assert_eq!(rpcs.len(), 10);
    for (i, rpc) in rpcs.iter().enumerate() {
        assert_eq!(rpc["i"], i);
        assert_eq!(
            (&rpc["method"], &rpc["code"]),
            (&"UnaryCall".into(), &"OK".into())
        );
        assert_eq!(
            (&rpc["server"], &rpc["messages"]),
            (&"s1".into(), &1.into())
        );
        let (start, end) = (
            rpc["start_ms"].as_f64().unwrap(),
            rpc["t_ms"].as_f64().unwrap(),
        );
        let latency = rpc["latency_ms"].as_f64().unwrap();
        assert!(latency > 0.0 && start + latency <= end + 1.0, "{rpc}");
        assert!(rpc.get("headers").is_none() && rpc.get("message").is_none());
    }
    assert_eq!(summary["ok"], 10);
    assert_eq!(summary["codes"], json!({"OK": 10}));
    assert_eq!(summary["servers"], json!({"s1": 10}));
    let latency = |key: &str| summary["latency_ms"][key].as_f64().unwrap();
    assert!(latency("p50") <= latency("p90") && latency("p90") <= latency("p99"));
    assert!(latency("p99") <= latency("max"));
    assert!(summary["elapsed_ms"].as_f64().unwrap() >= latency("max"));
}

#[tokio::test]
async fn methods_messages_and_payloads() {
    let server = Served::start(&["--id=s1"]).await;
    let target = format!("dns:///{}", server.address);
    let big = ["--n=2", "--payload-size=5000000"];
    for (arguments, messages) in [
        (&["--method=EmptyCall"][..], 1),
        (&["--method=UnaryCall", big[0], big[1]], 1),
        (&["--method", "StreamingOutputCall"], 3),
        (
            &[
                "--method=StreamingOutputCall",
                "--stream-messages=5",
                big[0],
                big[1],
            ],
            5,
        ),
        (&["--method=StreamingOutputCall", "--stream-messages=0"], 0),
    ] {
        let (rpcs, summary) = client(&target, arguments).await;
        assert_eq!(
            summary["codes"]["OK"],
            rpcs.len(),
            "{arguments:?} {summary}"
        );
        for rpc in rpcs {
            assert_eq!(
                (&rpc["server"], &rpc["messages"]),
                (&"s1".into(), &messages.into())
            );
        }
    }
}

#[tokio::test]
async fn metadata_goes_out_with_the_index_and_is_shown_when_it_comes_back() {
    let server = Served::start(&["--id", "s1"]).await;
    let arguments = [
        "--n=5",
        "--print-metadata",
        "--metadata=user:a:{i}-{i%3}",
        "--metadata",
        "x-echo:user,:authority,:deadline-ms,:attempts,:peer-san,missing",
        "--authority=svc.example",
        "--timeout-ms=7000",
    ];
    let (rpcs, _) = client(&server.address, &arguments).await;
    for (i, rpc) in rpcs.iter().enumerate() {
        let headers = &rpc["headers"];
        assert_eq!(headers["echo-user"], format!("a:{i}-{}", i % 3));
        assert_eq!(headers["echo-authority"], "svc.example");
        assert_eq!(headers["echo-attempts"], "0");
        assert_eq!(headers["hostname"], "s1");
        let left: u64 = headers["echo-deadline-ms"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        assert!((1..=7000).contains(&left), "{left}");
        assert!(headers.get("echo-peer-san").is_none() && headers.get("echo-missing").is_none());
        assert!(rpc["trailers"].is_object());
    }
    let (rpcs, _) = client(
        &server.address,
        &[
            "--n=1",
            "--timeout-ms=0",
            "--metadata=x-echo::deadline-ms",
            "--print-metadata",
        ],
    )
    .await;
    assert!(rpcs[0]["headers"].get("echo-deadline-ms").is_none());
}

#[tokio::test]
async fn calls_are_paced_and_end_in_time() {
    let server = Served::start(&[]).await;
    let paced = ["--n=20", "--qps=100", "--concurrency=4"];
    let (rpcs, summary) = client(&server.address, &paced).await;
    let first = rpcs[0]["start_ms"].as_f64().unwrap();
    let last = rpcs[19]["start_ms"].as_f64().unwrap();
    assert!(
        last - first >= 185.0,
        "20 calls began in {} ms",
        last - first
    );
    assert!(summary["elapsed_ms"].as_f64().unwrap() >= 190.0);

    let limited = ["--n=0", "--qps=50", "--duration-ms=200"];
    let (rpcs, _) = client(&server.address, &limited).await;
    assert!((1..=11).contains(&rpcs.len()), "{} calls", rpcs.len());
}

#[tokio::test]
async fn calls_run_side_by_side() {
    let server = Served::start(&["--delay-ms=150"]).await;
    let (_, summary) = client(&server.address, &["--n=20", "--concurrency=20"]).await;
    // One after the other they would take 3 s.
    assert!(
        summary["elapsed_ms"].as_f64().unwrap() < 2500.0,
        "{summary}"
    );
}

#[tokio::test]
async fn failures_are_told_and_do_not_change_the_exit_status() {
    let server = Served::start(&["--id=s1"]).await;
    let late = [
        "--n=2",
        "--timeout-ms=100",
        "--metadata=rpc-behavior:keep-open",
    ];
    let (rpcs, summary) = client(&server.address, &late).await;
    assert_eq!(texts(&rpcs, "code"), ["DEADLINE_EXCEEDED"; 2]);
    assert!(
        rpcs[0]["message"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    assert_eq!(
        (&summary["ok"], &summary["servers"]),
        (&0.into(), &json!({}))
    );

    let nobody = unused_address();
    let (rpcs, _) = client(&nobody, &["--n=1", "--timeout-ms=5000"]).await;
    assert_eq!(
        (texts(&rpcs, "code")[0], texts(&rpcs, "server")[0]),
        ("UNAVAILABLE", "")
    );
    let patient = ["--n=1", "--timeout-ms=300", "--wait-for-ready"];
    let (rpcs, _) = client(&nobody, &patient).await;
    assert_eq!(texts(&rpcs, "code"), ["DEADLINE_EXCEEDED"]);
}

#[tokio::test]
async fn a_client_that_is_told_to_end_waits_for_what_is_in_flight() {
    let server = Served::start(&["--delay-ms=400"]).await;
    let arguments = ["--target", &server.address, "--n=0", "--concurrency=3"];
    let mut program = Program::start(CLIENT, &arguments);
    program.event("ready").await;
    program.event("rpc").await;
    program.terminate().await;
    let (events, status) = program.end().await;
    assert_eq!(status, 0);
    let (summary, rpcs) = events.split_last().unwrap();
    assert_eq!(summary["event"], "summary");
    // Those in flight at the signal: three at most in each of the rounds that it may meet.
    assert!(
        rpcs.len() <= 6 && rpcs.iter().all(|rpc| rpc["code"] == "OK"),
        "{rpcs:?}"
    );
    assert_eq!(summary["total"], rpcs.len() + 1);
}

#[tokio::test]
async fn a_client_that_lingers_keeps_its_channel_and_its_admin_port() {
    let mesh = Mesh::start(&[]).await;
    let server = ["--mode=xds", "--id=m1"];
    let server = Program::meshed(SERVER, &server, &mesh.bootstrap("greeter"));
    let mut server = Served::of(server).await;
    mesh.push(&[&server.address]);
    while server.program.event("serving_mode").await["mode"] != "SERVING" {}
    let arguments = [
        "--target=xds:///greeter",
        "--creds=xds",
        "--n=3",
        "--wait-for-ready",
        "--admin=127.0.0.1:0",
        "--linger-ms=600000",
    ];
    let mut program = Program::meshed(CLIENT, &arguments, &mesh.bootstrap("web"));
    let ready = program.event("ready").await;
    let summary = program.event("summary").await;
    assert_eq!(summary["servers"], json!({"m1": 3}));
    let names = crate::status::acked(ready["admin"].as_str().unwrap()).await;
    assert!(names.contains(&"greeter".to_owned()), "{names:?}");
    program.terminate().await;
    assert_eq!(program.end().await, (vec![], 0));
}

/// Adds a cookie to each answer.
#[derive(Clone)]
struct Baker<S>(S);

impl<S: NamedService> NamedService for Baker<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Baker<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S: Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let mut response = inner.oneshot(request).await?;
            let cookie = HeaderValue::from_static("session=s1=; Path=/grpc.testing.TestService");
            response.headers_mut().insert("set-cookie", cookie);
            Ok(response)
        })
    }
}

#[tokio::test]
async fn cookies_are_kept_and_sent_back() {
    let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let service = Baker(Testing::new("s1", Faults::default()).into_service());
    let incoming = tonic::transport::server::TcpIncoming::from(socket);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));

    let arguments = ["--n=3", "--print-metadata", "--metadata=x-echo:cookie"];
    let (rpcs, _) = client(&address, &[&arguments[..], &["--cookie-jar"]].concat()).await;
    let sent = |rpcs: &[Value]| -> Vec<_> {
        rpcs.iter()
            .map(|rpc| rpc["headers"].get("echo-cookie").cloned())
            .collect()
    };
    let cookie = Some(Value::from("session=s1="));
    assert_eq!(sent(&rpcs), [None, cookie.clone(), cookie]);
    let (rpcs, _) = client(&address, &arguments).await;
    assert_eq!(sent(&rpcs), [None, None, None]);
}

#[tokio::test]
async fn targets_of_another_authority_are_asked_for_there() {
    let mesh = Mesh::start(&[]).await;
    let mut bootstrap = mesh.bootstrap("web");
    bootstrap["authorities"] = json!({ "other.example": {} });
    let arguments = [
        "--target=xds://other.example/greeter",
        "--n=1",
        "--timeout-ms=5000",
    ];
    let (rpcs, _) = finished(Program::meshed(CLIENT, &arguments, &bootstrap)).await;
    let message = texts(&rpcs, "message")[0];
    assert!(message.contains("xdstp://other.example/"), "{message}");
}

#[tokio::test]
async fn a_bad_call_ends_with_an_error_event_and_2() {
    for (arguments, expected) in [
        (&[][..], "--target is missing"),
        (&["--what"], "unknown flag --what"),
        (
            &["--target=a:1", "--n=x"],
            "--n: \"x\" is not a number in range",
        ),
        (&["--target=a:1", "--qps=-1"], "--qps"),
        (
            &["--target=a:1", "--creds=tls"],
            "--creds: \"tls\" is neither insecure nor xds",
        ),
        (
            &["--target=a:1", "--method=Sing"],
            "--method: no method \"Sing\"",
        ),
        (&["--target=xds:///a"], "bootstrap"),
        (&["--target=a:1", "--admin=nowhere"], "admin endpoint"),
    ] {
        let message = refused(CLIENT, arguments).await;
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[tokio::test]
async fn help_prints_the_flags_to_standard_error() {
    for path in [CLIENT, SERVER] {
        let mut program = Program::start(path, &["--help"]);
        assert!(program.stderr().await.contains("--admin VALUE"));
        assert_eq!(program.end().await, (vec![], 0));
    }
}
