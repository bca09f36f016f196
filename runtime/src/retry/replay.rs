//! A request body that can be sent again: what was taken from it is kept until the call is
//! committed, up to a limit.
//!
//! Only routes with a retry policy pay for it, and only for bodies that are not one message.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Most bytes kept for one call (the default of the other gRPC runtimes' per-call buffer).
pub(crate) const LIMIT: usize = 1 << 20;

/// One attempt's view of a request body. Attempts follow each other: an older one that is still
/// polled, because its task has not heard of its end yet, gets nothing more.
#[derive(Debug)]
pub struct Replay<B> {
    shared: Arc<Mutex<Shared<B>>>,
    attempt: u32,
    at: usize,
}

#[derive(Debug)]
struct Shared<B> {
    body: B,
    frames: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    size: usize,
    /// The newest attempt, which alone may take from the body.
    attempt: u32,
    ended: bool,
    /// Nothing is kept any more: the call is committed, or the body is too large.
    closed: bool,
}

impl<B> Replay<B> {
    pub(crate) fn new(body: B) -> Self {
        let shared = Shared {
            body,
            frames: Vec::new(),
            trailers: None,
            size: 0,
            attempt: 0,
            ended: false,
            closed: false,
        };
        Self {
            shared: Arc::new(Mutex::new(shared)),
            attempt: 0,
            at: 0,
        }
    }

    /// Of a body of which these frames were taken already.
    pub(crate) fn begun(body: B, taken: [Option<Frame<Bytes>>; 2]) -> Self {
        let replay = Self::new(body);
        replay.with(|shared| {
            for frame in taken.into_iter().flatten() {
                match frame.into_data() {
                    Ok(data) => shared.take(data),
                    Err(frame) => {
                        shared.ended = true;
                        shared.trailers = frame.into_trailers().ok();
                    }
                }
            }
        });
        replay
    }

    /// The body from its beginning, for a new attempt; `None` if it is not whole any more.
    pub(crate) fn again(&self) -> Option<Self> {
        let attempt = self.with(|shared| {
            shared.attempt += u32::from(!shared.closed);
            (!shared.closed).then_some(shared.attempt)
        })?;
        Some(Self {
            shared: Arc::clone(&self.shared),
            attempt,
            at: 0,
        })
    }

    /// For later attempts, while this one has the body.
    pub(crate) fn keeper(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            attempt: self.attempt,
            at: 0,
        }
    }

    /// Whether there can be another attempt.
    pub(crate) fn is_whole(&self) -> bool {
        self.with(|shared| !shared.closed)
    }

    /// The call is committed to this attempt: what was kept is given back.
    pub(crate) fn commit(&self) {
        self.with(|shared| shared.closed = true);
    }

    fn with<R>(&self, f: impl FnOnce(&mut Shared<B>) -> R) -> R {
        f(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let shared = Arc::clone(&this.shared);
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.attempt != this.attempt {
            // Its task is about to be stopped, which wakes it.
            return Poll::Pending;
        }
        shared.closed |= shared.size > LIMIT;
        let closed = shared.closed;
        if let Some(kept) = shared.frames.get_mut(this.at) {
            this.at += 1;
            let frame = if closed {
                std::mem::take(kept)
            } else {
                kept.clone()
            };
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if closed {
            shared.frames = Vec::new();
            this.at = 0;
        }
        if shared.ended {
            return Poll::Ready(shared.trailers.take().map(|t| Ok(Frame::trailers(t))));
        }
        let frame = match ready!(Pin::new(&mut shared.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                shared.closed = true;
                shared.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                shared.ended = true;
                return Poll::Ready(None);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                shared.keep(&data);
                if !shared.closed {
                    this.at += 1;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                shared.ended = true;
                shared.trailers = frame.trailers_ref().cloned();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.with(|s| s.ended && s.trailers.is_none() && self.at >= s.frames.len())
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl<B> Shared<B> {
    /// For the first attempt, which has not seen it yet, however large it is.
    fn take(&mut self, data: Bytes) {
        self.size += data.len();
        self.frames.push(data);
    }

    fn keep(&mut self, data: &Bytes) {
        if self.closed {
            return;
        }
        self.size += data.len();
        if self.size > LIMIT {
            self.closed = true;
            self.frames = Vec::new();
        } else {
            self.frames.push(data.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    fn frames(
        parts: &[&'static str],
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + use<> {
        let parts: Vec<_> = parts
            .iter()
            .map(|p| Ok(Frame::data(Bytes::from_static(p.as_bytes()))))
            .collect();
        http_body_util::StreamBody::new(futures_util::stream::iter(parts))
    }

    fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Option<Bytes>
    where
        B::Error: std::fmt::Debug,
    {
        let frame = body.frame().now_or_never().expect("ready")?;
        frame.expect("no error").into_data().ok()
    }

    #[test]
    fn a_second_attempt_sees_the_whole_body() {
        let mut first = Replay::new(frames(&["a", "b", "c"]));
        assert_eq!(next(&mut first).unwrap(), "a");
        assert_eq!(next(&mut first).unwrap(), "b");
        let mut second = first.again().expect("still whole");
        drop(first);
        for part in ["a", "b", "c"] {
            assert_eq!(next(&mut second).unwrap(), part);
        }
        assert!(next(&mut second).is_none());
        assert!(second.is_end_stream());
        let mut third = second.again().expect("still whole");
        assert_eq!(next(&mut third).unwrap(), "a");
    }

    #[test]
    fn frames_that_were_taken_before_come_first_in_every_attempt() {
        let taken = || [Some(Frame::data(Bytes::from("a"))), None];
        let first = Replay::begun(frames(&["b"]), taken());
        let mut second = first.again().expect("still whole");
        assert_eq!(next(&mut second).unwrap(), "a");
        let mut third = second.again().expect("still whole");
        for part in ["a", "b"] {
            assert_eq!(next(&mut third).unwrap(), part);
        }
        assert!(next(&mut third).is_none());
    }

    #[test]
    fn a_frame_beyond_the_limit_is_sent_once() {
        let large = Bytes::from(vec![0; LIMIT + 1]);
        let body = Replay::begun(frames(&["b"]), [Some(Frame::data(large.clone())), None]);
        let mut first = body.again().expect("its first attempt");
        assert_eq!(next(&mut first).unwrap(), large);
        assert!(first.again().is_none());
        assert_eq!(next(&mut first).unwrap(), "b");
        assert!(next(&mut first).is_none());
    }

    #[test]
    fn a_committed_call_cannot_be_repeated_but_goes_on() {
        let mut first = Replay::new(frames(&["a", "b", "c"]));
        next(&mut first);
        next(&mut first);
        let mut second = first.again().expect("still whole");
        second.commit();
        assert!(second.again().is_none());
        for part in ["a", "b", "c"] {
            assert_eq!(next(&mut second).unwrap(), part);
        }
        assert!(next(&mut second).is_none());
    }

    #[test]
    fn an_attempt_that_was_overtaken_takes_nothing_more() {
        let mut first = Replay::new(frames(&["a", "b"]));
        assert_eq!(next(&mut first).unwrap(), "a");
        let mut second = first.again().expect("still whole");
        assert!(first.frame().now_or_never().is_none());
        for part in ["a", "b"] {
            assert_eq!(next(&mut second).unwrap(), part);
        }
        assert!(next(&mut second).is_none());
    }

    #[test]
    fn a_committed_call_keeps_nothing_that_was_sent() {
        let mut body = Replay::new(frames(&["a", "b"]));
        next(&mut body);
        body.commit();
        assert_eq!(next(&mut body).unwrap(), "b");
        assert!(body.with(|shared| shared.frames.is_empty()));
        assert!(next(&mut body).is_none());
    }

    #[test]
    fn a_body_above_the_limit_passes_through_unkept() {
        let big = Bytes::from(vec![7u8; LIMIT / 2 + 1]);
        let parts: Vec<Result<_, std::convert::Infallible>> =
            (0..3).map(|_| Ok(Frame::data(big.clone()))).collect();
        let mut body = Replay::new(http_body_util::StreamBody::new(futures_util::stream::iter(
            parts,
        )));
        next(&mut body).unwrap();
        let mut body = body.again().expect("within the limit");
        next(&mut body).unwrap();
        next(&mut body).unwrap();
        assert!(body.again().is_none(), "over the limit");
        assert_eq!(next(&mut body).unwrap().len(), big.len());
        assert!(next(&mut body).is_none());
    }
}
