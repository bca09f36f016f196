//! Messages, flow control, stream accounting.

use super::*;
use http_body_util::combinators::BoxBody;

#[tokio::test]
async fn unary_is_one_headers_and_one_data_frame_with_the_end() {
    let (connection, mut server, _driver) = pair().await;
    let exchange = connection.send(unary("hello"));
    let (response, ()) = soon(async {
        tokio::join!(exchange, async {
            let (request, mut reply) = server.accept().await.unwrap().unwrap();
            assert_eq!(request.uri(), "http://mesh.test/pkg.Service/Method");
            let mut body = request.into_body();
            let serving = async {
                assert_eq!(body.data().await.unwrap().unwrap(), "hello");
                // Known at once: no empty frame follows to say so.
                assert!(body.is_end_stream());
                answer(&mut reply, "world");
            };
            tokio::select! { biased; () = serving => {}, _ = server.accept() => panic!("ended") }
            tokio::spawn(async move { while server.accept().await.is_some() {} });
        })
    })
    .await;
    assert_eq!(connection.in_flight(), 1);
    let collected = soon(response.unwrap().into_body().collect()).await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "world");
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_response_of_trailers_alone_ends_at_once() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let exchange = tokio::spawn(connection.send(unary("x")));
    let (_request, mut reply) = soon(calls.recv()).await.unwrap();
    let mut head = Response::new(());
    *head.headers_mut() = trailers("5");
    reply.send_response(head, true).unwrap();
    let response = soon(exchange).await.unwrap().unwrap();
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.body().is_end_stream());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_body_that_ends_with_its_trailers_sends_them() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let body = Ready([data("a"), data("b"), Frame::trailers(trailers("7"))].into());
    let exchange = tokio::spawn(connection.send(request(body)));
    let (request, mut reply) = soon(calls.recv()).await.unwrap();
    let mut body = request.into_body();
    assert_eq!(soon(read(&mut body)).await.concat(), b"ab");
    let received = soon(body.trailers()).await.unwrap().unwrap();
    assert_eq!(received["grpc-status"], "7");
    answer(&mut reply, "ok");
    soon(exchange).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_may_answer_before_the_request_ends() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let (teller, body) = told();
    let exchange = tokio::spawn(connection.send(request(body)));
    let (incoming, mut reply) = soon(calls.recv()).await.unwrap();
    let mut incoming = incoming.into_body();
    let mut out = reply.send_response(Response::new(()), false).unwrap();
    let mut response = soon(exchange).await.unwrap().unwrap().into_body();
    for message in ["one", "two", "three"] {
        teller.send(Ok(data(message))).unwrap();
        let heard = soon(incoming.data()).await.unwrap().unwrap();
        out.send_data(heard, false).unwrap();
        let echoed = soon(response.frame()).await.unwrap().unwrap();
        assert_eq!(echoed.into_data().unwrap(), message);
    }
    drop(teller);
    assert_eq!(soon(read(&mut incoming)).await.concat(), b"");
    out.send_trailers(trailers("0")).unwrap();
    assert!(soon(response.frame()).await.unwrap().unwrap().is_trailers());
    assert!(soon(response.frame()).await.is_none());
}

#[tokio::test]
async fn an_early_end_of_the_response_stops_the_request() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let (teller, body) = told();
    let exchange = tokio::spawn(connection.send(request(body)));
    let (_incoming, mut reply) = soon(calls.recv()).await.unwrap();
    answer(&mut reply, "enough");
    let response = soon(exchange).await.unwrap().unwrap();
    soon(response.into_body().collect()).await.unwrap();
    assert_eq!(connection.in_flight(), 0);
    soon(teller.closed()).await;
}

#[tokio::test]
async fn large_bodies_pass_both_ways_under_flow_control() {
    const SIZE: usize = 12 * 1024 * 1024;
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let message = Bytes::from(vec![7u8; SIZE]);
    let half = message.slice(..SIZE / 2);
    let body = Ready([data(half.clone()), data(half)].into());
    let exchange = tokio::spawn(connection.send(request(body)));
    let (incoming, mut reply) = soon(calls.recv()).await.unwrap();
    let received = soon(read(&mut incoming.into_body())).await;
    assert_eq!(received.iter().map(Bytes::len).sum::<usize>(), SIZE);
    answer(&mut reply, message.clone());
    let response = soon(exchange).await.unwrap().unwrap();
    let collected = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.to_bytes(), message);
}

#[tokio::test]
async fn a_body_is_not_polled_ahead_of_a_slow_reader() {
    let mut builder = server::Builder::new();
    builder.initial_window_size(1024);
    let (connection, server, _driver) = pair_with(builder).await;
    let mut calls = serve(server);
    let (teller, body) = told();
    let exchange = tokio::spawn(connection.send(request(body)));
    let (incoming, mut reply) = soon(calls.recv()).await.unwrap();
    let mut incoming = incoming.into_body();
    for _ in 0..8 {
        teller.send(Ok(data(vec![1u8; 1024]))).unwrap();
    }
    drop(teller);
    // The window holds one message; the rest comes only as it is given back.
    let first = soon(incoming.data()).await.unwrap().unwrap();
    assert_eq!(first.len(), 1024);
    incoming.flow_control().release_capacity(1024).unwrap();
    assert_eq!(soon(read(&mut incoming)).await.concat().len(), 7 * 1024);
    answer(&mut reply, "ok");
    soon(exchange).await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_beyond_the_limit_come_back_at_once() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(2);
    let (connection, server, _driver) = pair_with(builder).await;
    let mut calls = serve(server);
    let first = tokio::spawn(connection.send(unary("1")));
    let mut held = vec![soon(calls.recv()).await.unwrap()];
    let second = tokio::spawn(connection.send(unary("2")));
    held.push(soon(calls.recv()).await.unwrap());
    assert!(!connection.has_room());
    let refused = soon(connection.send(unary("3"))).await.unwrap_err();
    assert!(matches!(refused.cause, SendFailure::Full));
    assert!(refused.unprocessed.is_some() && refused.unbegun);
    let mut room = std::pin::pin!(connection.room());
    let no_waker = &mut Context::from_waker(std::task::Waker::noop());
    assert!(room.as_mut().poll(no_waker).is_pending());
    answer(&mut held[0].1, "done");
    let response = soon(first).await.unwrap().unwrap();
    soon(response.into_body().collect()).await.unwrap();
    soon(room).await;
    assert!(connection.has_room());
    let third = tokio::spawn(connection.send(refused.unprocessed.unwrap()));
    let (_, mut reply) = soon(calls.recv()).await.unwrap();
    answer(&mut reply, "3");
    soon(third).await.unwrap().unwrap();
    answer(&mut held[1].1, "done");
    soon(second).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_failing_body_fails_the_call_with_its_own_error() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let (teller, body) = told();
    let exchange = tokio::spawn(connection.send(request(body)));
    let (incoming, _reply) = soon(calls.recv()).await.unwrap();
    teller.send(Err("disk on fire".into())).unwrap();
    let error = soon(exchange).await.unwrap().unwrap_err();
    assert!(matches!(&error.cause, SendFailure::RequestBody(e) if e.to_string() == "disk on fire"));
    assert!(!error.unbegun && error.unprocessed.is_none());
    let reset = soon(incoming.into_body().data())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(reset.reason(), Some(h2::Reason::CANCEL));
}

#[tokio::test]
async fn a_relative_uri_is_the_requests_own_fault() {
    let (connection, server, _driver) = pair().await;
    let _calls = serve(server);
    let mut request = unary("x");
    *request.uri_mut() = "/no/authority".parse().unwrap();
    let error = soon(connection.send(request)).await.unwrap_err();
    assert!(matches!(error.cause, SendFailure::Invalid(_)), "{error:?}");
    assert!(!connection.draining());
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn a_tonic_client_runs_over_one_connection() {
    use tower_service::Service;
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let authority = "control.test:18000".parse().unwrap();
    let mut single = Single::new(connection, http::uri::Scheme::HTTP, authority);
    let body: BoxBody<Bytes, BoxError> = Ready([data("x")].into()).boxed();
    let request = Request::post("/pkg.Service/Method").body(body).unwrap();
    let exchange = tokio::spawn(single.call(request));
    let (request, mut reply) = soon(calls.recv()).await.unwrap();
    assert_eq!(
        request.uri(),
        "http://control.test:18000/pkg.Service/Method"
    );
    answer(&mut reply, "ok");
    soon(exchange).await.unwrap().unwrap();
    fn fits<T: tonic::client::GrpcService<tonic::body::Body>>(_: &T) {}
    fits(&single);
}
