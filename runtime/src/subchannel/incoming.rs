//! The body of a response.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};

use super::connection::Permit;
use super::pump::PumpLink;
use super::request_body::BoxError;
use crate::channel::status;

/// A response's messages and trailers.
///
/// What is taken makes room for more (flow control); what is not taken stops the sender. Dropping
/// it before the end resets the stream with `CANCEL`.
pub struct Incoming {
    stream: RecvStream,
    /// Until the end of the response; then the stream counts no more.
    open: Option<Open>,
    data_ended: bool,
}

struct Open {
    _permit: Permit,
    pump: Option<PumpLink>,
}

/// Why a response broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncomingError {
    /// The stream was reset or the connection ended.
    #[error("response broke off: {0}")]
    Stream(#[source] h2::Error),
    /// The application's request body failed.
    #[error("request body failed: {0}")]
    RequestBody(#[source] BoxError),
}

impl IncomingError {
    /// The gRPC status code that it stands for.
    pub(crate) fn code(&self) -> u32 {
        match self {
            Self::RequestBody(_) => status::CANCELLED,
            // The connection's end, whatever it says: not a word about this stream.
            Self::Stream(error) if error.is_go_away() => status::UNAVAILABLE,
            Self::Stream(error) => error
                .reason()
                .map_or(status::UNAVAILABLE, status::code_of_reset),
        }
    }

    /// The HTTP/2 error code, where there is one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Stream(error) => error.reason(),
            Self::RequestBody(_) => None,
        }
    }
}

impl Incoming {
    pub(super) fn new(stream: RecvStream, permit: Permit, pump: Option<PumpLink>) -> Self {
        let mut incoming = Self {
            stream,
            open: Some(Open {
                _permit: permit,
                pump,
            }),
            data_ended: false,
        };
        if incoming.stream.is_end_stream() {
            incoming.finish();
        }
        incoming
    }

    /// The response is complete.
    fn finish(&mut self) {
        self.data_ended = true;
        if let Some(pump) = self.open.take().and_then(|open| open.pump) {
            pump.finish();
        }
    }

    fn failed(&mut self, error: h2::Error) -> Option<IncomingError> {
        // The server has said all it wants to say and does not care for the rest of the request.
        if error.reason() == Some(Reason::NO_ERROR) && error.is_reset() && error.is_remote() {
            self.finish();
            return None;
        }
        self.data_ended = true;
        let pump = self.open.take().and_then(|open| open.pump);
        Some(match pump.and_then(|mut pump| pump.failure()) {
            Some(error) => IncomingError::RequestBody(error),
            None => IncomingError::Stream(error),
        })
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // Fails only if more is released than was received.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(self.failed(error).map(Err)),
            None => {
                self.data_ended = true;
                self.poll_trailers(cx)
            }
        }
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => {
                self.finish();
                Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Err(error) => Poll::Ready(self.failed(error).map(Err)),
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = IncomingError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, IncomingError>>> {
        if self.open.is_none() {
            Poll::Ready(None)
        } else if self.data_ended {
            self.poll_trailers(cx)
        } else {
            self.poll_data(cx)
        }
    }

    fn is_end_stream(&self) -> bool {
        self.open.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            SizeHint::with_exact(0)
        } else {
            SizeHint::default()
        }
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("stream", &self.stream.stream_id())
            .field("ended", &self.is_end_stream())
            .finish()
    }
}
