//! The body of a response: what the server sends, bounded by the deadline, keeping the call
//! counted as in flight until its end.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::call::Observed;
use super::deadline::{self, Deadline};
use super::in_flight::InFlight;
use super::status::{CANCELLED, CallError};
use crate::subchannel::{Incoming, IncomingError};

/// The body of a response.
///
/// A gRPC call always ends with a status: where the stream breaks or the deadline passes, the
/// body ends with trailers that say so. Dropping it early resets the stream.
#[derive(Debug, Default)]
pub struct ResponseBody {
    open: Option<Open>,
    /// Made at the first wait, so that an answer that is already there needs none, nor the room
    /// for it wherever it is moved.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Open {
    incoming: Incoming,
    in_flight: InFlight,
    deadline: Option<Deadline>,
    grpc: bool,
    /// A message has been handed on.
    streaming: bool,
    observed: Observed,
}

impl Open {
    /// The answer is complete.
    fn complete(&mut self, trailers: Option<&HeaderMap>) {
        self.in_flight.ended(trailers, self.grpc);
        if let Some(call) = &mut self.observed {
            call.ended(trailers, self.grpc);
        }
    }

    fn take_in(&mut self, frame: &Frame<Bytes>) {
        self.in_flight.message();
        if let (Some(call), Some(data)) = (&mut self.observed, frame.data_ref()) {
            call.received(data);
        }
    }

    /// A stream whose messages are always there never waits, and so never meets its timer: from
    /// the second message on each looks at the clock. A unary answer never does.
    fn late(&mut self) -> Option<CallError> {
        let streaming = std::mem::replace(&mut self.streaming, true);
        let deadline = self.deadline.filter(|_| streaming)?;
        (deadline.at <= deadline::now()).then(|| too_late(deadline, self.in_flight.endpoint()))
    }
}

fn too_late(deadline: Deadline, endpoint: &str) -> CallError {
    CallError::DeadlineExceeded {
        after: deadline.after,
        waiting_for: "the rest of the answer",
        of: format!("endpoint {endpoint}"),
    }
}

impl ResponseBody {
    pub(crate) fn new(
        incoming: Incoming,
        in_flight: InFlight,
        deadline: Option<Deadline>,
        grpc: bool,
        observed: Observed,
    ) -> Self {
        Self {
            open: Some(Open {
                incoming,
                in_flight,
                deadline,
                grpc,
                streaming: false,
                observed,
            }),
            timer: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        let this = self.get_mut();
        let Some(open) = this.open.as_mut() else {
            return Poll::Ready(None);
        };
        let broken = match Pin::new(&mut open.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() {
                    open.complete(frame.trailers_ref());
                    this.open = None;
                    return Poll::Ready(Some(Ok(frame)));
                }
                match open.late() {
                    Some(late) => late,
                    None => {
                        open.take_in(&frame);
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
            }
            Poll::Ready(None) => {
                open.complete(None);
                this.open = None;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                if let IncomingError::RequestBody(_) = error {
                    open.in_flight.withdraw();
                }
                let endpoint = open.in_flight.endpoint();
                let late = open
                    .deadline
                    .filter(|deadline| deadline.left(deadline::now()).is_zero());
                match late.filter(|_| error.code() == CANCELLED) {
                    Some(deadline) => too_late(deadline, endpoint),
                    None => CallError::Transport {
                        code: error.code(),
                        endpoint: endpoint.to_string(),
                        reason: error.to_string(),
                    },
                }
            }
            Poll::Pending => {
                let Some(deadline) = open.deadline else {
                    return Poll::Pending;
                };
                let sleep = || Box::pin(tokio::time::sleep_until(deadline.at.into()));
                let timer = this.timer.get_or_insert_with(sleep);
                ready!(timer.as_mut().poll(cx));
                too_late(deadline, open.in_flight.endpoint())
            }
        };
        let grpc = open.grpc;
        open.in_flight.failed(broken.grpc_code());
        if let Some(call) = &mut open.observed {
            call.failed(&broken);
        }
        this.open = None;
        Poll::Ready(Some(end_with(broken, grpc)))
    }

    fn is_end_stream(&self) -> bool {
        self.open
            .as_ref()
            .is_none_or(|open| open.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.open
            .as_ref()
            .map_or_else(SizeHint::default, |open| open.incoming.size_hint())
    }
}

use std::future::Future as _;

fn end_with(error: CallError, grpc: bool) -> Result<Frame<Bytes>, CallError> {
    if !grpc {
        return Err(error);
    }
    let mut trailers = HeaderMap::with_capacity(3);
    error.write(&mut trailers);
    Ok(Frame::trailers(trailers))
}
