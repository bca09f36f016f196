//! The body of a reply: the handler's, until the caller's deadline.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::BoxError;
use super::drain::OpenCall;
use super::service::{Observed, deadline_exceeded, refused};
use crate::telemetry::Refusal;
use crate::telemetry::trace_context::Carried;

pin_project! {
    /// Ends with the handler's trailers, or with a status in their place when the handler fails
    /// or the deadline passes; then the handler's body is dropped at once.
    pub(super) struct ReplyBody<B> {
        #[pin]
        inner: Option<B>,
        deadline: Option<Pin<Box<Sleep>>>,
        // The call counts as open until its reply was sent or given up.
        _open: Option<OpenCall>,
        observed: Observed,
        carried: Carried,
    }
}

impl<B> ReplyBody<B> {
    pub(super) fn new(
        inner: B,
        deadline: Option<Pin<Box<Sleep>>>,
        open: Option<OpenCall>,
        observed: Observed,
        carried: Carried,
    ) -> Self {
        Self {
            inner: Some(inner),
            deadline,
            _open: open,
            observed,
            carried,
        }
    }

    /// Of a reply that is a status only.
    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            deadline: None,
            _open: None,
            observed: None,
            carried: Carried::default(),
        }
    }
}

impl<B> Body for ReplyBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        let last = match this.carried.enter(|| inner.poll_frame(cx)) {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                // A handler that always has more never waits, and so never meets its timer.
                let late = |d: &Pin<Box<Sleep>>| d.deadline() <= Instant::now();
                match this.deadline.as_ref().is_some_and(late) {
                    true => {
                        refused(this.observed, Refusal::Deadline);
                        Some(trailers(&deadline_exceeded()))
                    }
                    false => {
                        if let (Some(call), Some(data)) = (this.observed, frame.data_ref()) {
                            call.sent(data);
                            // Nobody asks what comes after it then.
                            if this
                                .inner
                                .as_pin_mut()
                                .is_some_and(|body| body.is_end_stream())
                            {
                                call.ended(None);
                            }
                        }
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
            Poll::Ready(Some(Ok(trailers))) => Some(trailers),
            Poll::Ready(Some(Err(error))) => Some(trailers(&Status::from_error(error.into()))),
            Poll::Ready(None) => None,
            Poll::Pending => {
                let Some(deadline) = this.deadline else {
                    return Poll::Pending;
                };
                ready!(deadline.as_mut().poll(cx));
                refused(this.observed, Refusal::Deadline);
                Some(trailers(&deadline_exceeded()))
            }
        };
        this.inner.set(None);
        if let Some(mut call) = this.observed.take() {
            call.ended(last.as_ref().and_then(Frame::trailers_ref));
        }
        Poll::Ready(last.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

fn trailers(status: &Status) -> Frame<Bytes> {
    let mut headers = HeaderMap::new();
    if status.add_header(&mut headers).is_err() {
        // Only a message that is no header value can fail, and tonic escapes those.
        headers.insert("grpc-status", i32::from(status.code()).into());
    }
    Frame::trailers(headers)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_handler_that_always_has_more_meets_its_deadline() {
        let more = stream::repeat_with(|| Ok::<_, BoxError>(Frame::data(Bytes::new())));
        let deadline = Box::pin(tokio::time::sleep(std::time::Duration::from_secs(1)));
        let mut body = ReplyBody::new(
            StreamBody::new(more),
            Some(deadline),
            None,
            None,
            Carried::default(),
        );
        let mut next = || body.frame().now_or_never().expect("ready");
        assert!(next().expect("a frame").expect("no error").is_data());
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        let end = next().expect("a frame").expect("no error");
        let trailers = end.into_trailers().expect("the end");
        assert_eq!(trailers["grpc-status"], "4");
        assert!(next().is_none());
    }
}
