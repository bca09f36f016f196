//! What a connection begins with: a TLS record, the HTTP/2 preface, or something that is not for us.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 client sends first (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A verdict on the first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstBytes {
    /// A TLS record with a ClientHello.
    Tls,
    /// The whole HTTP/2 preface.
    Http2,
    /// Neither.
    Other,
}

/// Judges what has come so far; `None`: more bytes are needed, never more than the preface has.
fn judge(bytes: &[u8]) -> Option<FirstBytes> {
    if bytes.starts_with(PREFACE) {
        return Some(FirstBytes::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // Record type 22, version 3.0 to 3.4, two bytes of length, handshake type 1.
    let fits = |at: usize, good: fn(u8) -> bool| bytes.get(at).is_none_or(|&b| good(b));
    let hello = fits(0, |b| b == 22) && fits(1, |b| b == 3) && fits(2, |b| b <= 4);
    match hello && fits(5, |b| b == 1) {
        true if bytes.len() >= 6 => Some(FirstBytes::Tls),
        true => None,
        false => Some(FirstBytes::Other),
    }
}

/// Reads until the verdict is clear, and gives the connection back as if nothing had been read.
///
/// # Errors
/// Whatever reading fails with; `UnexpectedEof` if the peer closes before the verdict.
pub(super) async fn read<I: AsyncRead + Unpin>(mut io: I) -> io::Result<(FirstBytes, Rewind<I>)> {
    let mut head = [0; PREFACE.len()];
    let mut len = 0;
    loop {
        if let Some(verdict) = judge(&head[..len]) {
            let rewind = Rewind {
                head,
                pending: 0..len,
                io,
            };
            return Ok((verdict, rewind));
        }
        match io.read(&mut head[len..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => len += more,
        }
    }
}

/// A connection whose first bytes were read and are given out once more.
#[derive(Debug)]
pub(super) struct Rewind<I> {
    head: [u8; PREFACE.len()],
    pending: std::ops::Range<usize>,
    io: I,
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewind<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let end = self.pending.end.min(self.pending.start + buf.remaining());
        buf.put_slice(&self.head[self.pending.start..end]);
        self.pending.start = end;
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewind<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn verdicts_come_as_soon_as_they_are_certain() {
        let hello = [22, 3, 1, 2, 0, 1, 0, 0];
        assert_eq!(judge(b""), None);
        assert_eq!(judge(&hello[..5]), None);
        assert_eq!(judge(&hello[..6]), Some(FirstBytes::Tls));
        assert_eq!(judge(&hello), Some(FirstBytes::Tls));
        assert_eq!(judge(&PREFACE[..23]), None);
        assert_eq!(judge(PREFACE), Some(FirstBytes::Http2));
        let junk: [&[u8]; 6] = [
            b"GET / HTTP/1.1\r\n",
            b"PRX",
            b"\0",
            &[22, 2],
            &[22, 3, 9],
            &[22, 3, 1, 0, 4, 2],
        ];
        for bytes in junk {
            assert_eq!(judge(bytes), Some(FirstBytes::Other), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_was_read_is_read_again_in_any_piece_size() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(PREFACE).await.unwrap();
        near.write_all(b"after").await.unwrap();
        drop(near);
        let (verdict, mut again) = read(far).await.unwrap();
        assert_eq!(verdict, FirstBytes::Http2);
        let mut first = [0; 7];
        again.read_exact(&mut first).await.unwrap();
        let mut rest = Vec::new();
        again.read_to_end(&mut rest).await.unwrap();
        assert_eq!(
            [&first[..], &rest].concat(),
            [&PREFACE[..], b"after"].concat()
        );
    }

    #[tokio::test]
    async fn closing_before_the_verdict_is_an_error() {
        let (mut near, far) = tokio::io::duplex(64);
        near.write_all(&[22, 3]).await.unwrap();
        drop(near);
        let closed = read(far).await.unwrap_err();
        assert_eq!(closed.kind(), io::ErrorKind::UnexpectedEof);
    }
}
