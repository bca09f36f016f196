//! Which failed calls are made again, and which never.

use std::time::Duration;

use futures_util::stream;
use sidestep::{CallError, CallInfo};
use sidestep_interop::service::Faults;
use sidestep_interop::testing::{Payload, SimpleRequest, StreamingInputCallRequest};
use sidestep_tests::fixture::{Backend, Fixture, mesh_file, plain_mesh};
use sidestep_tests::load::{Load, call, until};
use tonic::{Code, Request};

const RETRY: &str = "routes:
  - match: {method: \"grpc.testing.TestService/*\"}
    retry: {max_attempts: 3, on: [unavailable]}";

async fn faulty(faults: Faults, keys: &str) -> (Fixture, Backend) {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let backend = Backend::start(&fixture.mesh("greeter"), "a", faults);
    fixture.push(&mesh_file(&[(&backend.address, "v1")], keys));
    (fixture, backend)
}

fn failing_below(attempts: u64) -> Faults {
    Faults {
        fail_attempts_below: attempts,
        ..Faults::default()
    }
}

#[tokio::test]
async fn a_call_is_tried_again_as_the_route_says() {
    // The server reads `grpc-previous-rpc-attempts`: only the third attempt is answered.
    let (fixture, backend) = faulty(failing_below(2), RETRY).await;
    let mut client = fixture.client("xds:///greeter");
    let answer = call(&mut client).await.unwrap();
    assert_eq!(answer.attempts, 3);
    assert_eq!(answer.endpoint, backend.address);
    assert_eq!(backend.testing.calls(), 3);
}

#[tokio::test]
async fn after_the_last_attempt_the_servers_own_status_is_the_answer() {
    let (fixture, backend) = faulty(failing_below(9), RETRY).await;
    let status = call(&mut fixture.client("xds:///greeter"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.message(), "a fails on purpose");
    assert_eq!(CallError::from_status(&status), None, "a server sent it");
    assert_eq!(backend.testing.calls(), 3);
}

#[tokio::test]
async fn without_a_policy_an_answered_failure_is_final() {
    let (fixture, backend) = faulty(failing_below(1), "").await;
    let status = call(&mut fixture.client("xds:///greeter"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(backend.testing.calls(), 1);
}

#[tokio::test]
async fn a_code_that_the_policy_does_not_name_is_final() {
    let faults = Faults {
        code: Code::Internal,
        ..failing_below(1)
    };
    let (fixture, backend) = faulty(faults, RETRY).await;
    let status = call(&mut fixture.client("xds:///greeter"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(backend.testing.calls(), 1);
}

#[tokio::test]
async fn a_streamed_request_is_sent_again_whole() {
    let (fixture, backend) = faulty(failing_below(2), RETRY).await;
    let mut client = fixture.client("xds:///greeter");
    let messages = (0..10).map(|_| StreamingInputCallRequest {
        payload: Some(Payload {
            body: vec![7; 100],
            ..Payload::default()
        }),
        ..StreamingInputCallRequest::default()
    });
    let answer = client
        .streaming_input_call(stream::iter(messages))
        .await
        .unwrap();
    assert_eq!(answer.get_ref().aggregated_payload_size, 1000);
    let info = answer.extensions().get::<CallInfo>().unwrap();
    assert_eq!(info.attempts, 3);
    assert_eq!(backend.testing.calls(), 3);
}

#[tokio::test]
async fn a_deadline_bounds_all_attempts_together() {
    let faults = Faults {
        delay: Duration::from_secs(60),
        ..failing_below(9)
    };
    let (fixture, backend) = faulty(faults, RETRY).await;
    let mut client = fixture.client("xds:///greeter");
    let mut request = Request::new(SimpleRequest::default());
    request.set_timeout(Duration::from_millis(200));
    let started = std::time::Instant::now();
    let status = client.unary_call(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(backend.testing.calls(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_fails_no_call_that_may_be_retried() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let [a, b, c] = ["a", "b", "c"].map(|id| Backend::start(&servers, id, Faults::default()));
    let endpoints = [&a, &b, &c].map(|backend| (backend.address.as_str(), "v1"));
    fixture.push(&mesh_file(&endpoints, RETRY));
    let load = Load::start(&fixture.client("xds:///greeter"), 8).await;
    load.further(300).await;
    a.kill().await;
    load.further(300).await;
    let tally = load.stop().await;
    tally.assert_none_failed();
    assert!(tally.by_server["b"] > 0 && tally.by_server["c"] > 0);
}

#[tokio::test]
async fn without_a_policy_a_begun_call_fails_and_is_not_made_twice() {
    let fixture = Fixture::start(&mesh_file(&[], "")).await;
    let servers = fixture.mesh("greeter");
    let slow = Faults {
        delay: Duration::from_secs(60),
        ..Faults::default()
    };
    let backend = Backend::start(&servers, "a", slow);
    let other = Backend::start(&servers, "b", Faults::default());
    fixture.push(&plain_mesh(&[&backend.address]));
    let mut client = fixture.client("xds:///greeter");
    let testing = backend.testing.clone();
    let begun = tokio::spawn({
        let mut client = client.clone();
        async move { call(&mut client).await }
    });
    while testing.calls() == 0 {
        tokio::task::yield_now().await;
    }
    // Now another endpoint could take it.
    fixture.push(&plain_mesh(&[&backend.address, &other.address]));
    backend.kill().await;
    let status = begun.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(CallError::from_status(&status), Some("transport"));
    // Calls that no server has begun go on at the other.
    let answer = until(&mut client, Result::is_ok).await.unwrap();
    assert_eq!(answer.server, "b");
    assert_eq!(testing.calls(), 1);
}
