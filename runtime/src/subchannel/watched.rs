//! A socket that remembers what h2 does not tell: whether anything was read of late, the highest
//! stream whose HEADERS left, and whether the peer refused our certificate.
//!
//! The first serves keepalive (gRFC A8: data received counts as an answer); the second tells a
//! request that no server can have seen from one that it may have begun when a connection breaks;
//! of the third h2 keeps the words only.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use sidestep_proto::code;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Io;
use crate::security::handshake_error;

/// Length of the client's connection preface, which precedes the first frame.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;

pub(super) struct Watched {
    io: Box<dyn Io>,
    heard: Arc<AtomicBool>,
    news: Arc<AtomicBool>,
    refused: Arc<AtomicBool>,
    frames: SentFrames,
}

impl Watched {
    pub(super) fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            heard: Arc::default(),
            news: Arc::default(),
            refused: Arc::default(),
            frames: SentFrames::new(),
        }
    }

    /// Set whenever something was read; cleared by the keepalive.
    pub(super) fn heard(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.heard)
    }

    /// Set whenever something was read, or reading ended; cleared by the driver.
    pub(super) fn news(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.news)
    }

    /// Set once the peer's TLS says that it does not take our certificate, or the lack of one: in
    /// TLS 1.3 that comes only after our part of the handshake.
    pub(super) fn refused(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.refused)
    }

    /// The highest stream id whose HEADERS were written, 0 before the first.
    pub(super) fn written(&self) -> Arc<AtomicU32> {
        Arc::clone(&self.frames.highest)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        self.news.store(true, Ordering::Relaxed);
        read.inspect_err(|error| {
            if handshake_error(error).0 == code::CERTIFICATE_REFUSED {
                self.refused.store(true, Ordering::Relaxed);
            }
        })?;
        if buf.filled().len() > before {
            self.heard.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.frames.advance(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = left.min(buf.len());
            self.frames.advance(&buf[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Follows the frame headers in a client's outgoing bytes.
struct SentFrames {
    highest: Arc<AtomicU32>,
    /// Bytes to pass over: the preface, then payloads.
    skip: usize,
    header: [u8; FRAME_HEADER],
    filled: usize,
}

impl SentFrames {
    fn new() -> Self {
        Self {
            highest: Arc::default(),
            skip: PREFACE,
            header: [0; FRAME_HEADER],
            filled: 0,
        }
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let part = (FRAME_HEADER - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + part].copy_from_slice(&bytes[..part]);
            self.filled += part;
            bytes = &bytes[part..];
            if self.filled == FRAME_HEADER {
                self.filled = 0;
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [l0, l1, l2, kind, _, s0, s1, s2, s3] = self.header;
        self.skip = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if kind == HEADERS {
            // The highest bit is reserved.
            let id = u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff;
            self.highest.fetch_max(id, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(payload).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, 0]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(bytes.len() + payload, HEADERS);
        bytes
    }

    fn wire() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 12));
        bytes.extend(frame(HEADERS, 1, 40));
        bytes.extend(frame(0, 1, 300));
        bytes.extend(frame(HEADERS, 3, 5));
        bytes.extend(frame(HEADERS, 1, 5)); // trailers of an older stream
        bytes.extend(frame(0, 7, 0));
        bytes
    }

    #[test]
    fn finds_headers_however_the_writes_are_cut() {
        let wire = wire();
        for cut in 1..wire.len() {
            let mut frames = SentFrames::new();
            for part in wire.chunks(cut) {
                frames.advance(part);
            }
            assert_eq!(frames.highest.load(Ordering::Relaxed), 3, "cut {cut}");
        }
    }

    #[test]
    fn a_torn_header_is_not_sent() {
        let mut frames = SentFrames::new();
        let mut bytes = wire();
        bytes.extend(&frame(HEADERS, 9, 1)[..8]);
        frames.advance(&bytes);
        assert_eq!(frames.highest.load(Ordering::Relaxed), 3);
        frames.advance(&9u32.to_be_bytes()[3..]);
        assert_eq!(frames.highest.load(Ordering::Relaxed), 9);
    }
}
