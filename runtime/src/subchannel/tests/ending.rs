//! Cancelling, refusing, going away, dying.

use super::*;

#[tokio::test]
async fn dropping_the_exchange_cancels_the_stream() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let exchange = tokio::spawn(connection.send(unary("x")));
    let (_request, mut reply) = soon(calls.recv()).await.unwrap();
    exchange.abort();
    let reason = soon(std::future::poll_fn(|cx| reply.poll_reset(cx))).await;
    assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
    assert_eq!(connection.in_flight(), 0);
    assert!(!connection.draining());
}

#[tokio::test]
async fn dropping_the_response_cancels_both_directions() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let (teller, body) = told();
    let exchange = tokio::spawn(connection.send(request(body)));
    let (_request, mut reply) = soon(calls.recv()).await.unwrap();
    let mut out = reply.send_response(Response::new(()), false).unwrap();
    drop(soon(exchange).await.unwrap().unwrap());
    let reason = soon(std::future::poll_fn(|cx| out.poll_reset(cx))).await;
    assert_eq!(reason.unwrap(), h2::Reason::CANCEL);
    soon(teller.closed()).await;
}

#[tokio::test]
async fn a_refused_stream_is_handed_back_whole() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let exchange = tokio::spawn(connection.send(unary("again")));
    let (_request, mut reply) = soon(calls.recv()).await.unwrap();
    reply.send_reset(h2::Reason::REFUSED_STREAM);
    let error = soon(exchange).await.unwrap().unwrap_err();
    assert!(matches!(error.cause, SendFailure::Refused) && error.unbegun);
    let retry = tokio::spawn(connection.send(error.unprocessed.unwrap()));
    let (request, mut reply) = soon(calls.recv()).await.unwrap();
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(
        soon(read(&mut request.into_body())).await.concat(),
        b"again"
    );
    answer(&mut reply, "ok");
    soon(retry).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_began_is_not_handed_back() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let exchange = tokio::spawn(connection.send(unary("once")));
    let (_request, mut reply) = soon(calls.recv()).await.unwrap();
    reply.send_reset(h2::Reason::INTERNAL_ERROR);
    let error = soon(exchange).await.unwrap().unwrap_err();
    assert!(matches!(
        error.cause,
        SendFailure::Reset(h2::Reason::INTERNAL_ERROR)
    ));
    assert!(error.unprocessed.is_none() && !error.unbegun);
}

#[tokio::test]
async fn what_is_kept_can_be_sent_again_after_a_failure_and_after_a_mere_status() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    for ends_well in [false, true] {
        let mut exchange = connection.send_kept(unary("again"), true);
        let (ended, ()) = tokio::join!(soon(&mut exchange), async {
            let (_request, mut reply) = soon(calls.recv()).await.unwrap();
            if ends_well {
                let mut status = Response::new(());
                *status.headers_mut() = trailers("14");
                reply.send_response(status, true).unwrap();
            } else {
                reply.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        });
        assert_eq!(ended.is_ok(), ends_well);
        let request = exchange.again().expect("it was kept");
        assert_eq!(request.headers()["te"], "trailers");
        let (_, body) = request.into_parts();
        assert!(matches!(body, RequestBody::Whole(Some(data)) if data == "again"));
        assert!(exchange.again().is_none(), "once");
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_keeps_nothing() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let mut exchange = connection.send_kept(unary("once"), true);
    let (answered, ()) = tokio::join!(soon(&mut exchange), async {
        let (_request, mut reply) = soon(calls.recv()).await.unwrap();
        answer(&mut reply, "ok");
    });
    answered.unwrap();
    assert!(exchange.again().is_none());
}

#[tokio::test]
async fn a_request_that_goes_on_is_kept_while_it_is_sent() {
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let long = request(Ready([data("one"), data("two"), data("three")].into()));
    let mut exchange = connection.send_kept(long, true);
    let (ended, ()) = tokio::join!(soon(&mut exchange), async {
        let (request, mut reply) = soon(calls.recv()).await.unwrap();
        let body = soon(read(&mut request.into_body())).await.concat();
        assert_eq!(body, b"onetwothree");
        reply.send_reset(h2::Reason::INTERNAL_ERROR);
    });
    assert!(!ended.unwrap_err().unbegun);
    let (_, body) = exchange.again().expect("it was kept").into_parts();
    let RequestBody::Replay(kept) = body else {
        panic!("a body that goes on is replayed");
    };
    let again = kept.again().expect("it is whole");
    let sent = tokio::spawn(connection.send(request(again)));
    let (request, mut reply) = soon(calls.recv()).await.unwrap();
    let body = soon(read(&mut request.into_body())).await.concat();
    assert_eq!(body, b"onetwothree");
    answer(&mut reply, "ok");
    soon(sent).await.unwrap().unwrap();
}

#[tokio::test]
async fn goaway_lets_streams_finish_and_takes_no_more() {
    let (connection, mut server, driver) = pair().await;
    let exchange = tokio::spawn(connection.send(unary("last")));
    let (_request, mut reply) = soon(server.accept()).await.unwrap().unwrap();
    server.graceful_shutdown();
    let mut calls = serve(server);
    soon(connection.closed_or_draining()).await;
    assert!(connection.draining());
    let error = soon(connection.send(unary("new"))).await.unwrap_err();
    assert!(error.unprocessed.is_some() && error.unbegun);
    answer(&mut reply, "done");
    let response = soon(exchange).await.unwrap().unwrap();
    let collected = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.to_bytes(), "done");
    soon(driver).await.unwrap();
    assert!(soon(calls.recv()).await.is_none());
}

#[tokio::test]
async fn a_stream_above_the_goaways_last_is_handed_back() {
    let (client, mut server) = raw_pair().await;
    let (connection, _driver) = client;
    let first = tokio::spawn(connection.send(unary("kept")));
    server.frame_of(HEADERS).await;
    let second = tokio::spawn(connection.send(unary("lost")));
    server.frame_of(HEADERS).await;
    server
        .write(&[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0])
        .await;
    let error = soon(second).await.unwrap().unwrap_err();
    assert!(
        matches!(error.cause, SendFailure::GoAway(h2::Reason::NO_ERROR)),
        "{error:?}"
    );
    assert!(error.unbegun);
    let (_, body) = error.unprocessed.unwrap().into_parts();
    assert!(matches!(body, RequestBody::Whole(Some(data)) if data == "lost"));
    // `:status 200` from the static table, END_HEADERS and END_STREAM, on stream 1.
    server.write(&[0, 0, 1, HEADERS, 5, 0, 0, 0, 1, 0x88]).await;
    assert_eq!(soon(first).await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_that_breaks_fails_what_was_written_for_good() {
    let ((connection, driver), mut server) = raw_pair().await;
    let exchange = tokio::spawn(connection.send(unary("x")));
    server.frame_of(HEADERS).await;
    drop(server);
    let error = soon(exchange).await.unwrap().unwrap_err();
    assert!(
        matches!(error.cause, SendFailure::ConnectionClosed(_)),
        "{error:?}"
    );
    assert!(!error.unbegun && error.unprocessed.is_none());
    soon(driver).await.unwrap();
    assert!(connection.draining());
}

#[tokio::test]
async fn what_waited_behind_a_full_socket_is_handed_back() {
    let (near, far) = tokio::io::duplex(256);
    let ((connection, driver), mut server) = raw_over(near, far, Http2Options::default()).await;
    let filling = request(Ready([data(vec![0; 10_000])].into()));
    let written = tokio::spawn(connection.send(filling));
    server.frame_of(HEADERS).await;
    let mut waiting = connection.send(unary("behind"));
    let no_waker = &mut Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(&mut waiting).poll(no_waker).is_pending());
    drop(server);
    let error = soon(waiting).await.unwrap_err();
    assert!(error.unbegun && error.unprocessed.is_some(), "{error:?}");
    let error = soon(written).await.unwrap().unwrap_err();
    assert!(!error.unbegun && error.unprocessed.is_none(), "{error:?}");
    soon(driver).await.unwrap();
}

#[tokio::test]
async fn a_slow_reader_of_small_messages_keeps_the_connection() {
    const MESSAGES: usize = 30_000;
    let ((connection, _driver), mut server) = raw_pair().await;
    let slow = tokio::spawn(connection.send(unary("slow")));
    server.frame_of(HEADERS).await;
    let other = tokio::spawn(connection.send(unary("other")));
    server.frame_of(HEADERS).await;
    let mut bytes = vec![0, 0, 1, HEADERS, 4, 0, 0, 0, 1, 0x88];
    for _ in 0..MESSAGES {
        bytes.extend([0, 0, 5, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
    }
    // Answered last, so once this is here everything before it waits unread.
    bytes.extend([0, 0, 1, HEADERS, 5, 0, 0, 0, 3, 0x88]);
    server.write(&bytes).await;
    soon(other).await.unwrap().unwrap();
    let mut body = soon(slow).await.unwrap().unwrap().into_body();
    for _ in 0..MESSAGES {
        soon(body.frame()).await.unwrap().unwrap();
    }
    assert!(!connection.draining());
}

/// A stream whose messages are always there never waits for its timer.
#[tokio::test]
async fn a_stream_that_never_pauses_meets_its_deadline() {
    use crate::channel::{Deadline, InFlight, ResponseBody};
    let (connection, server, _driver) = pair().await;
    let mut calls = serve(server);
    let call = tokio::spawn(connection.send(unary("x")));
    let (_, mut reply) = soon(calls.recv()).await.unwrap();
    let mut messages = reply.send_response(Response::new(()), false).unwrap();
    messages.send_data("1".into(), false).unwrap();
    messages.send_data("2".into(), false).unwrap();
    let incoming = soon(call).await.unwrap().unwrap().into_body();
    // Answered last, so once this is here both messages are.
    let other = tokio::spawn(connection.send(unary("y")));
    let (_, mut last) = soon(calls.recv()).await.unwrap();
    answer(&mut last, "done");
    soon(other).await.unwrap().unwrap();
    let slot = Arc::new(crate::snapshot::Slot::new(
        "here".into(),
        Arc::default(),
        Arc::default(),
    ));
    let breaker = Arc::new(crate::circuit_breaker::CircuitBreaker::new(1));
    let in_flight = InFlight::new(slot, breaker.try_acquire().unwrap());
    let passed = Deadline {
        at: std::time::Instant::now(),
        after: Duration::ZERO,
    };
    let body = ResponseBody::new(incoming, in_flight, Some(passed), true, None);
    let mut body = Box::pin(body);
    let mut ends = Vec::new();
    while let Some(frame) = soon(body.frame()).await {
        ends.push(frame.unwrap());
    }
    let trailers = ends.pop().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "4");
    assert_eq!(
        ends.len(),
        1,
        "the first message, without a look at the clock"
    );
    assert_eq!(breaker.in_flight(), 0);
}

/// Nobody who waits for room is woken by calls that find none.
#[tokio::test]
async fn a_refused_call_wakes_nobody() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    let (connection, server, _driver) = pair_with(builder).await;
    let mut calls = serve(server);
    let _held = tokio::spawn(connection.send(unary("1")));
    let _first = soon(calls.recv()).await.unwrap();
    let woken = Arc::new(Woken::default());
    let waker = std::task::Waker::from(woken.clone());
    let mut room = std::pin::pin!(connection.room());
    assert!(
        room.as_mut()
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    let refused = soon(connection.send(unary("2"))).await.unwrap_err();
    assert!(matches!(refused.cause, SendFailure::Full));
    assert!(!woken.0.load(std::sync::atomic::Ordering::SeqCst));
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_dead_connection_hands_back_at_once() {
    let (connection, server, driver) = pair().await;
    driver.abort();
    assert!(soon(driver).await.unwrap_err().is_cancelled());
    soon(connection.closed_or_draining()).await;
    let error = soon(connection.send(unary("x"))).await.unwrap_err();
    assert!(error.unprocessed.is_some() && error.unbegun, "{error:?}");
    drop(server);
}

#[tokio::test]
async fn the_last_handle_closes_an_idle_connection() {
    let (connection, server, driver) = pair().await;
    let mut calls = serve(server);
    drop(connection);
    soon(driver).await.unwrap();
    assert!(soon(calls.recv()).await.is_none());
}

#[tokio::test]
async fn the_last_handle_does_not_cut_a_stream() {
    let (connection, server, driver) = pair().await;
    let mut calls = serve(server);
    let exchange = tokio::spawn(connection.send(unary("x")));
    let (_request, mut reply) = soon(calls.recv()).await.unwrap();
    drop(connection);
    answer(&mut reply, "still here");
    let response = soon(exchange).await.unwrap().unwrap();
    let collected = soon(response.into_body().collect()).await.unwrap();
    assert_eq!(collected.to_bytes(), "still here");
    soon(driver).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_found_dead_by_keepalive() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let options = Http2Options {
        keepalive_interval: Some(Duration::from_secs(30)),
        ..Http2Options::default()
    };
    let (client, mut server) = raw_over(near, far, options).await;
    let (connection, driver) = client;
    let begun = tokio::time::Instant::now();
    let exchange = tokio::spawn(connection.send(unary("x")));
    server.frame_of(PING).await;
    assert_eq!(begun.elapsed().as_secs(), 30);
    let closed = driver.await.unwrap();
    assert!(closed.reason.contains("keepalive"), "{}", closed.reason);
    assert_eq!(begun.elapsed().as_secs(), 50);
    let error = exchange.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("keepalive"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answering_peer_is_pinged_on_and_on() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let options = Http2Options {
        keepalive_interval: Some(Duration::from_secs(30)),
        ..Http2Options::default()
    };
    let ((connection, driver), mut server) = raw_over(near, far, options).await;
    let _exchange = tokio::spawn(connection.send(unary("x")));
    for _ in 0..5 {
        let payload = server.frame_of(PING).await;
        let mut pong = vec![0, 0, 8, PING, 1, 0, 0, 0, 0];
        pong.extend(payload);
        server.write(&pong).await;
    }
    assert!(!connection.draining());
    assert!(!driver.is_finished());
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

type Client = (Connection, tokio::task::JoinHandle<Closed>);

/// A server that speaks in bytes.
struct Raw<T>(T);

async fn raw_pair() -> (Client, Raw<TcpStream>) {
    let listener = listen().await;
    let near = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    let (far, _) = listener.accept().await.unwrap();
    raw_over(near, far, Http2Options::default()).await
}

async fn raw_over<T: Io>(near: impl Io, far: T, options: Http2Options) -> (Client, Raw<T>) {
    let near = std::sync::Mutex::new(Some(near));
    let connector: Connector = Arc::new(move |_| {
        let near: Box<dyn Io> = Box::new(near.lock().unwrap().take().unwrap());
        Box::pin(async move { Ok(near) })
    });
    let mut target = target(vec![Address::Unix("pipe".to_owned())]);
    target.options = Arc::new(options);
    let mut server = Raw(far);
    let (client, ()) = tokio::join!(connect(&connector, &target), async {
        server.take(24).await;
        server.frame_of(SETTINGS).await;
        // Ours, and the acknowledgement of the client's.
        server.write(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await;
        server.write(&[0, 0, 0, SETTINGS, 1, 0, 0, 0, 0]).await;
    });
    let (connection, driver) = client.unwrap();
    ((connection, tokio::spawn(driver)), server)
}

impl<T: Io> Raw<T> {
    async fn take(&mut self, length: usize) -> Vec<u8> {
        use tokio::io::AsyncReadExt;
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn write(&mut self, bytes: &[u8]) {
        use tokio::io::AsyncWriteExt;
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// Passes over frames up to the next of `kind` and returns its payload.
    async fn frame_of(&mut self, kind: u8) -> Vec<u8> {
        loop {
            let header = self.take(9).await;
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let payload = self.take(length as usize).await;
            if header[3] == kind {
                return payload;
            }
        }
    }
}
