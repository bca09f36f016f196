//! What a request carries.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};

use crate::retry::replay::Replay;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, in the form in which it was met.
#[derive(Debug)]
pub enum RequestBody<B> {
    /// As the application gave it.
    Stream(B),
    /// One message that is already there (`None`: no body at all). A request that is handed back
    /// unprocessed has this form.
    Whole(Option<Bytes>),
    /// One attempt's view of a body that may be sent again.
    Replay(Replay<B>),
}

impl<B> RequestBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Whether no frame will follow, as far as is known without polling.
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Stream(body) => body.is_end_stream(),
            Self::Whole(data) => data.is_none(),
            Self::Replay(body) => body.is_end_stream(),
        }
    }

    /// The next frame.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Stream(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map_err(Into::into))),
            Self::Replay(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map_err(Into::into))),
            Self::Whole(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
        }
    }
}
