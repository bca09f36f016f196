//! Calls over a served connection.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tonic::Code;
use tower::util::MapRequestLayer;

use super::kit::*;
use super::routes;

const UNARY: &str = "test.Echo/Unary";

#[tokio::test]
async fn unary_and_streams_are_answered() {
    let server = start().await;
    let client = server.client().await;
    assert_eq!(client.unary(UNARY, "hello").await.unwrap(), "hello");
    let request = tonic::Request::new(String::new());
    let replies = client
        .server_streaming("test.Echo/Count", request)
        .await
        .unwrap();
    let replies: Vec<_> = soon(replies.map(Result::unwrap).collect::<Vec<_>>()).await;
    assert_eq!(replies, ["1", "2", "3"]);
    let words = stream::iter(["a", "b"].map(String::from));
    let echoed = client.chat(words).await.unwrap();
    let echoed: Vec<_> = soon(echoed.map(Result::unwrap).collect::<Vec<_>>()).await;
    assert_eq!(echoed, ["a", "b"]);
    assert_eq!(server.stats.plaintext(), 1);
}

#[tokio::test]
async fn a_conversation_does_not_wait_for_its_own_end() {
    let server = start().await;
    let client = server.client().await;
    let (say, words) = tokio::sync::mpsc::unbounded_channel::<String>();
    let words = stream::unfold(words, |mut words| async {
        words.recv().await.map(|word| (word, words))
    });
    let mut replies = client.chat(words).await.unwrap();
    for word in ["one", "two"] {
        say.send(word.into()).unwrap();
        assert_eq!(soon(replies.next()).await.unwrap().unwrap(), word);
    }
    drop(say);
    assert!(soon(replies.next()).await.is_none());
}

#[tokio::test]
async fn the_handlers_status_and_unknown_methods_reach_the_caller() {
    let server = start().await;
    let client = server.client().await;
    let failed = client.unary("test.Echo/Fail", "").await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::FailedPrecondition, "as asked")
    );
    for unknown in ["test.Echo/Nope", "test.Nobody/Unary"] {
        let status = client.unary(unknown, "").await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{unknown}");
    }
}

#[tokio::test]
async fn a_handler_knows_its_connection() {
    let server = start().await;
    let who = server
        .client()
        .await
        .unary("test.Echo/Who", "")
        .await
        .unwrap();
    assert_eq!(who, "tls=false peer=nobody loopback=Some(true)");
}

/// A call of `method` that may take 5 s, over a pipe with a virtual clock.
async fn within_5_seconds(method: &str) -> (Piped, Client, tonic::Request<String>) {
    let server = start_piped(&Plan::default(), no_certificates(), |server| server).await;
    let client = Client::over(server.connect(NEAR)).await;
    let mut request = tonic::Request::new(method.to_owned());
    request.set_timeout(Duration::from_secs(5));
    (server, client, request)
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_the_call_fails_and_its_handler_is_dropped() {
    let (server, client, request) = within_5_seconds("Hold").await;
    let began = Instant::now();
    let status = client
        .unary_request("test.Echo/Hold", request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("at the server"), "{status}");
    assert_eq!(began.elapsed().as_secs(), 5);
    server.running.echo.until(|echo| echo.ended() == 1).await;
    assert!(
        client.unary(UNARY, "").await.is_ok(),
        "the connection lives on"
    );
}

#[tokio::test(start_paused = true)]
async fn the_deadline_also_ends_a_stream_that_has_begun() {
    let (server, client, request) = within_5_seconds("Trickle").await;
    let began = Instant::now();
    let mut replies = client
        .server_streaming("test.Echo/Trickle", request)
        .await
        .unwrap();
    for expected in ["1", "2", "3"] {
        assert_eq!(soon(replies.message()).await.unwrap().unwrap(), expected);
    }
    let status = soon(replies.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(began.elapsed().as_secs(), 5);
    server.running.echo.until(|echo| echo.ended() == 1).await;
}

#[tokio::test]
async fn a_malformed_deadline_is_refused_before_the_handler() {
    let server = start().await;
    let mut request = tonic::Request::new(String::new());
    request
        .metadata_mut()
        .insert("grpc-timeout", "soon".parse().unwrap());
    let client = server.client().await;
    let status = client
        .unary_request("test.Echo/Hold", request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert_eq!(server.echo.held(), 0);
}

#[tokio::test]
async fn routes_are_asked_for_each_call_and_change_under_a_live_connection() {
    let server = start().await;
    let client = server.client().await;
    assert!(client.unary(UNARY, "").await.is_ok());
    for broken in [
        routes::failed(),
        routes::nothing(),
        routes::not_for_servers(),
        routes::another_host(),
    ] {
        server.routes.store(std::sync::Arc::new(broken));
        let status = client.unary(UNARY, "").await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(
            !status.message().contains("secret"),
            "not for callers: {status}"
        );
    }
    server
        .routes
        .store(std::sync::Arc::new(routes::everything()));
    assert!(client.unary(UNARY, "").await.is_ok(), "same connection");
    server
        .routes
        .store(std::sync::Arc::new(routes::only("/test.Echo/U")));
    assert!(client.unary(UNARY, "").await.is_ok());
    let status = client.unary("test.Echo/Who", "").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(server.stats.plaintext(), 1);
}

#[tokio::test]
async fn the_stream_limit_holds_and_a_freed_place_is_used() {
    let server = start_with(&Plan::default(), no_certificates(), |server| {
        server.options(|options| options.max_concurrent_streams = 2)
    });
    let server = started(server).await;
    let client = server.client().await;
    // The peer's limit is known once its settings have arrived, which a reply proves.
    client.unary(UNARY, "").await.unwrap();
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.unary("test.Echo/Hold", "x").await })
        })
        .collect();
    server.echo.until(|echo| echo.held() == 2).await;
    server.release(1);
    server.echo.until(|echo| echo.held() == 3).await;
    assert!(server.echo.ended() >= 1, "the third waited for the first");
    server.release(2);
    for call in calls {
        assert_eq!(soon(call).await.unwrap().unwrap(), "x");
    }
}

#[tokio::test]
async fn too_large_a_header_list_is_refused_and_the_connection_lives() {
    let server = start().await;
    let client = server.client().await;
    client.unary(UNARY, "").await.unwrap();
    let mut request = tonic::Request::new(String::new());
    let large = "x".repeat(17 * 1024).parse().unwrap();
    request.metadata_mut().insert("large", large);
    assert!(client.unary_request(UNARY, request).await.is_err());
    assert!(client.unary(UNARY, "").await.is_ok());
}

#[tokio::test]
async fn layers_see_every_call_the_first_one_outermost() {
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let note = |name: &'static str| {
        let seen = seen.clone();
        MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
            seen.lock().unwrap().push(name);
            request
        })
    };
    let states = pending_states();
    let server = super::super::Server::new("127.0.0.1:0", source(&states, no_certificates()))
        .layer(note("outer"))
        .layer(note("inner"))
        .add_service(Echo::default())
        .bind()
        .unwrap();
    let address = tcp(&server);
    states.send_replace(Plan::default().state(address).0);
    let serving = tokio::spawn(server.serve());
    let client = Client::over(connect_until_listening(address).await).await;
    client.unary(UNARY, "").await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["outer", "inner"]);
    serving.abort();
}

#[tokio::test]
async fn what_a_layer_or_a_body_fails_with_reaches_the_caller_as_a_status() {
    let states = pending_states();
    let fail = |request: http::Request<tonic::body::Body>| {
        let broken = request.uri().path().ends_with("/Body");
        let body = stream::iter([Err::<http_body::Frame<bytes::Bytes>, _>(
            tonic::Status::data_loss("the body broke"),
        )]);
        async move {
            match broken {
                true => Ok(http::Response::new(http_body_util::StreamBody::new(body))),
                false => Err(tonic::Status::resource_exhausted("no more")),
            }
        }
    };
    let server = super::super::Server::new("127.0.0.1:0", source(&states, no_certificates()))
        .layer(tower_layer::layer_fn(move |_| tower::service_fn(fail)))
        .bind()
        .unwrap();
    let address = tcp(&server);
    states.send_replace(Plan::default().state(address).0);
    let serving = tokio::spawn(server.serve());
    let client = Client::over(connect_until_listening(address).await).await;
    let failed = client.unary("test.Echo/Head", "").await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::ResourceExhausted, "no more")
    );
    let failed = client.unary("test.Echo/Body", "").await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.message()),
        (Code::DataLoss, "the body broke")
    );
    serving.abort();
}

/// h2 ends a connection on which too many small frames wait unread.
#[tokio::test]
async fn a_handler_that_does_not_read_leaves_the_other_calls_alone() {
    const ROUNDS: usize = 20;
    const MESSAGES: usize = 1_000;
    let states = pending_states();
    let held = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let hold = held.clone();
    let answer = move |request: http::Request<tonic::body::Body>| {
        let slow = request.uri().path().ends_with("/Slow");
        if slow {
            hold.lock().unwrap().push(request);
        }
        async move {
            let body = http_body_util::Empty::<bytes::Bytes>::new();
            match slow {
                true => std::future::pending().await,
                false => Ok::<_, tonic::Status>(http::Response::new(body)),
            }
        }
    };
    let server = super::super::Server::new("127.0.0.1:0", source(&states, no_certificates()))
        .layer(tower_layer::layer_fn(move |_| {
            tower::service_fn(answer.clone())
        }))
        .bind()
        .unwrap();
    let address = tcp(&server);
    states.send_replace(Plan::default().state(address).0);
    let serving = tokio::spawn(server.serve());
    let io = connect_until_listening(address).await;
    let (mut sender, connection) = h2::client::handshake(io).await.unwrap();
    let mut driver = tokio::spawn(connection);
    let request = |path| {
        let request = http::Request::post(format!("http://echo.test/test.Echo/{path}"));
        request.body(()).unwrap()
    };
    let (_slow, mut messages) = sender.send_request(request("Slow"), false).unwrap();
    let message = bytes::Bytes::from_static(&[0, 0, 0, 0, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    for _ in 0..ROUNDS {
        for _ in 0..MESSAGES {
            messages.send_data(message.clone(), false).unwrap();
        }
        let (other, _) = sender.send_request(request("Other"), true).unwrap();
        tokio::select! {
            answered = soon(other) => assert_eq!(answered.unwrap().status(), 200),
            ended = &mut driver => panic!("the connection ended: {ended:?}"),
        }
    }
    drop(held.lock().unwrap().pop().expect("it was begun"));
    serving.abort();
}
