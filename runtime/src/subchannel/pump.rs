//! Sends the rest of a request body that did not end at once.
//!
//! One task for each such request, tied to the response: when that has ended or was dropped, the
//! pump stops and resets what is left of the stream.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::{Body, Frame};
use tokio::sync::oneshot;

use super::request_body::{BoxError, RequestBody};
use crate::telemetry::messages::Shared;

/// The response's end of a pump. Dropping it cancels the request.
#[derive(Debug)]
pub(super) struct PumpLink {
    stop: Option<oneshot::Sender<()>>,
    failure: oneshot::Receiver<BoxError>,
}

impl PumpLink {
    /// Why the application's body failed, if it did.
    pub(super) fn failure(&mut self) -> Option<BoxError> {
        self.failure.try_recv().ok()
    }

    /// The response has ended well: whatever the request still had to say is not wanted.
    pub(super) fn finish(mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails if the pump has ended before, which is the usual case.
            let _ = stop.send(());
        }
    }
}

/// Starts a pump; `taken` are the frames that were polled already.
pub(super) fn spawn<B>(
    stream: SendStream<Bytes>,
    taken: [Option<Frame<Bytes>>; 2],
    body: RequestBody<B>,
    count: Option<Shared>,
) -> PumpLink
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (stop, stopped) = oneshot::channel();
    let (fail, failure) = oneshot::channel();
    tokio::spawn(run(stream, taken, body, count, (stopped, fail)));
    PumpLink {
        stop: Some(stop),
        failure,
    }
}

async fn run<B>(
    mut stream: SendStream<Bytes>,
    taken: [Option<Frame<Bytes>>; 2],
    mut body: RequestBody<B>,
    mut count: Option<Shared>,
    (stopped, fail): (oneshot::Receiver<()>, oneshot::Sender<BoxError>),
) where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let end = tokio::select! {
        biased;
        // RFC 9113 section 8.1: no error if the answer did not need the rest.
        ended = stopped => End::Reset(if ended.is_ok() { Reason::NO_ERROR } else { Reason::CANCEL }),
        end = transfer(&mut stream, taken, &mut body, &mut count) => end,
    };
    match end {
        End::Sent | End::Gone => {}
        End::Reset(reason) => stream.send_reset(reason),
        End::Failed(error) => {
            // Told before the reset, so that the response finds the cause.
            let _ = fail.send(error);
            stream.send_reset(Reason::CANCEL);
        }
    }
}

enum End {
    /// END_STREAM was sent.
    Sent,
    /// The stream was closed from elsewhere; the response says why.
    Gone,
    Reset(Reason),
    /// The application's body failed.
    Failed(BoxError),
}

async fn transfer<B>(
    stream: &mut SendStream<Bytes>,
    taken: [Option<Frame<Bytes>>; 2],
    body: &mut RequestBody<B>,
    count: &mut Option<Shared>,
) -> End
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let mut counted = |frame: Frame<Bytes>| {
        if let (Some(count), Some(data)) = (count.as_mut(), frame.data_ref()) {
            count.take(data);
        }
        frame
    };
    for frame in taken.into_iter().flatten() {
        if let Some(end) = send(stream, counted(frame), body.is_end()) {
            return end;
        }
    }
    loop {
        if poll_fn(|cx| poll_writable(stream, cx)).await.is_err() {
            return End::Gone;
        }
        let next = poll_fn(|cx| {
            // A peer that resets frees the body, even one that never yields again.
            match stream.poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(Err(StreamClosed)),
                Poll::Pending => body.poll_next(cx).map(Ok),
            }
        });
        let end = match next.await {
            Err(StreamClosed) => return End::Gone,
            Ok(None) => return end_of_stream(stream),
            Ok(Some(Err(error))) => return End::Failed(error),
            Ok(Some(Ok(frame))) => send(stream, counted(frame), body.is_end()),
        };
        if let Some(end) = end {
            return end;
        }
    }
}

#[derive(Debug)]
struct StreamClosed;

/// Ready once at least one byte may be sent, so that no more than one frame waits in memory.
fn poll_writable(
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), StreamClosed>> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None | Some(Err(_))) => return Poll::Ready(Err(StreamClosed)),
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(Ok(()))
}

/// Sends one frame; says so if the request ends with it.
fn send(stream: &mut SendStream<Bytes>, frame: Frame<Bytes>, last: bool) -> Option<End> {
    let (sent, last) = match frame.into_data() {
        Ok(data) => (stream.send_data(data, last), last),
        Err(other) => match other.into_trailers() {
            Ok(trailers) => (stream.send_trailers(trailers), true),
            // A kind of frame that HTTP/2 does not know.
            Err(_) => (Ok(()), false),
        },
    };
    match sent {
        Err(_) => Some(End::Gone),
        Ok(()) => last.then_some(End::Sent),
    }
}

fn end_of_stream(stream: &mut SendStream<Bytes>) -> End {
    match stream.send_data(Bytes::new(), true) {
        Ok(()) => End::Sent,
        Err(_) => End::Gone,
    }
}
