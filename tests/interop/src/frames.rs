//! Messages as they are framed on the wire: what no generated code shows, such as whether a message
//! came compressed.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::Status;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A flag of one byte and a length of four.
const HEAD: usize = 5;

/// A compressed message may not become larger than this.
const LARGEST: u64 = 64 * 1024 * 1024;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its flag.
    pub compressed: bool,
    /// Its bytes, compressed if the flag says so.
    pub bytes: Bytes,
}

impl Message {
    /// The same message, compressed by gzip.
    #[must_use]
    pub fn gzipped(self) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        let written = encoder
            .write_all(&self.bytes)
            .and_then(|()| encoder.finish());
        // Writing to memory does not fail; if it did, the message would go as it is.
        match written {
            Ok(bytes) => Self {
                compressed: true,
                bytes: bytes.into(),
            },
            Err(_) => self,
        }
    }

    /// The same message, not compressed.
    ///
    /// # Errors
    /// It is not in gzip's format, or too large.
    pub fn plain(self) -> Result<Self, Status> {
        if !self.compressed {
            return Ok(self);
        }
        let mut bytes = Vec::new();
        let mut decoder = GzDecoder::new(&*self.bytes).take(LARGEST);
        let read = decoder.read_to_end(&mut bytes);
        read.map_err(|error| Status::internal(format!("a message that is no gzip: {error}")))?;
        Ok(Self {
            compressed: false,
            bytes: bytes.into(),
        })
    }

    fn take(buffer: &mut BytesMut) -> Option<Self> {
        let length = buffer
            .get(1..HEAD)?
            .try_into()
            .ok()
            .map(u32::from_be_bytes)?;
        let length = usize::try_from(length).ok()?;
        if buffer.len() - HEAD < length {
            return None;
        }
        let compressed = buffer.get_u8() == 1;
        buffer.advance(HEAD - 1);
        Some(Self {
            compressed,
            bytes: buffer.split_to(length).freeze(),
        })
    }

    fn framed(&self) -> Bytes {
        let mut frame = BytesMut::with_capacity(HEAD + self.bytes.len());
        frame.put_u8(self.compressed.into());
        frame.put_u32(u32::try_from(self.bytes.len()).unwrap_or(u32::MAX));
        frame.put_slice(&self.bytes);
        frame.freeze()
    }
}

/// What becomes of each message of a body.
type Change = Box<dyn FnMut(Message) -> Result<Message, Status> + Send>;

/// A body whose messages are looked at, or changed, one by one.
pub struct Frames {
    inner: tonic::body::Body,
    change: Change,
    buffer: BytesMut,
    trailers: HeaderMap,
}

impl Frames {
    /// Passes each message of `inner` through `change`.
    pub fn new(
        inner: tonic::body::Body,
        change: impl FnMut(Message) -> Result<Message, Status> + Send + 'static,
    ) -> Self {
        Self {
            inner,
            change: Box::new(change),
            buffer: BytesMut::new(),
            trailers: HeaderMap::new(),
        }
    }

    /// Adds these to the trailers.
    #[must_use]
    pub fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = trailers;
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            if let Some(message) = Message::take(&mut this.buffer) {
                let changed = (this.change)(message).map(|message| Frame::data(message.framed()));
                return Poll::Ready(Some(changed.map_err(Into::into)));
            }
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.buffer.extend_from_slice(&data),
                Some(Ok(Err(mut last))) => {
                    if let Some(trailers) = last.trailers_mut() {
                        trailers.extend(std::mem::take(&mut this.trailers));
                    }
                    return Poll::Ready(Some(Ok(last)));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.buffer.is_empty() && self.inner.is_end_stream()
    }
}

/// Which of the messages to come are compressed, in order; the rest is not.
#[derive(Debug, Default)]
pub struct Plan(VecDeque<bool>);

impl Plan {
    /// One more.
    pub fn add(&mut self, compressed: bool) {
        self.0.push_back(compressed);
    }

    /// Whether any is compressed.
    #[must_use]
    pub fn any(&self) -> bool {
        self.0.contains(&true)
    }

    /// Makes the next message as planned.
    pub fn apply(&mut self, message: Message) -> Message {
        match self.0.pop_front() {
            Some(true) => message.gzipped(),
            _ => message,
        }
    }
}

/// Whether a list such as `identity,gzip` names gzip.
#[must_use]
pub fn names_gzip(headers: &HeaderMap, name: &str) -> bool {
    let all = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|value| value.split(','))
        .any(|encoding| encoding.trim() == "gzip")
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn plain(text: &str) -> Message {
        Message {
            compressed: false,
            bytes: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    #[test]
    fn gzip_there_and_back() {
        let message = plain("the same again and again, again and again");
        let gzipped = message.clone().gzipped();
        assert!(gzipped.compressed && gzipped.bytes != message.bytes);
        assert_eq!(gzipped.plain().unwrap(), message);
        let broken = Message {
            compressed: true,
            ..plain("no gzip")
        };
        assert!(broken.plain().is_err());
    }

    #[tokio::test]
    async fn messages_are_found_wherever_the_pieces_are_cut() {
        let wire = [
            plain("one").framed(),
            plain("").framed(),
            plain("three").framed(),
        ]
        .concat();
        for size in 1..wire.len() {
            let pieces: Vec<_> = wire
                .chunks(size)
                .map(|piece| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(piece))))
                .collect();
            let body = StreamBody::new(futures_util::stream::iter(pieces));
            let frames = Frames::new(tonic::body::Body::new(body), |message| {
                Ok(Message {
                    bytes: message.bytes.to_ascii_uppercase().into(),
                    ..message
                })
            });
            let all = frames.collect().await.unwrap().to_bytes();
            let wanted = [
                plain("ONE").framed(),
                plain("").framed(),
                plain("THREE").framed(),
            ];
            assert_eq!(all, wanted.concat());
        }
    }
}
