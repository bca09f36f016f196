//! The task behind a connection: moves frames, sends keepalive pings, notices the end.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection as H2, SendRequest};
use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::connection::Status;
use super::disconnect::Disconnect;
use super::watched::Watched;

/// Pings more often than this are taken as an attack by servers (gRFC A8).
const LEAST_KEEPALIVE: Duration = Duration::from_secs(10);

/// Drives one connection; must be spawned or polled, else nothing moves.
///
/// Resolves when the connection is at its end, which after a GOAWAY is when its last stream has
/// ended. The GOAWAY itself shows in [`super::Connection::draining`]. Dropping it cuts the
/// connection.
#[must_use = "a connection moves only while its driver is polled"]
pub struct Driver {
    /// `None` once resolved: dropping h2's end fails what is left of the streams.
    h2: Option<H2<Watched, Bytes>>,
    /// Tells of a GOAWAY. Given up with the last handle, or h2 would wait for it.
    probe: Option<SendRequest<Bytes>>,
    keepalive: Option<Keepalive>,
    /// Something was read: whatever a peer changes, it changes so.
    news: Arc<AtomicBool>,
    status: Arc<Status>,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// In words, for logs and for the status of calls.
    pub reason: String,
    /// The first cause, in gRFC A94's words: what follows a GOAWAY is its consequence.
    pub disconnect: Disconnect,
}

impl Driver {
    pub(super) fn new(
        h2: H2<Watched, Bytes>,
        probe: SendRequest<Bytes>,
        keepalive: Option<Keepalive>,
        news: Arc<AtomicBool>,
        status: Arc<Status>,
    ) -> Self {
        status.set_limit(h2.max_concurrent_send_streams());
        Self {
            h2: Some(h2),
            probe: Some(probe),
            keepalive,
            news,
            status,
        }
    }

    fn close(&mut self, closed: Closed) -> Closed {
        self.status.drain(|| closed.clone());
        self.h2 = None;
        self.probe = None;
        let first = self.status.closed().map(|first| first.disconnect);
        Closed {
            disconnect: first.unwrap_or(closed.disconnect),
            ..closed
        }
    }

    /// After h2 has taken in what was there: is the connection still good for new streams?
    fn look(&mut self, cx: &mut Context<'_>, counts: fn(&h2::Error) -> bool) {
        if let Some(h2) = &self.h2 {
            self.status.set_limit(h2.max_concurrent_send_streams());
        }
        if let Some(probe) = &mut self.probe
            && let Poll::Ready(Err(error)) = probe.poll_ready(cx)
            && counts(&error)
        {
            self.status.drain(|| Closed {
                reason: format!("server is going away: {error}"),
                disconnect: Disconnect::of(&error),
            });
        }
    }

    fn give_up_probe(&mut self, cx: &Context<'_>) {
        if self.probe.is_some() {
            self.status.register_driver(cx.waker());
            if self.status.abandoned() {
                self.probe = None;
            }
        }
    }
}

impl Future for Driver {
    type Output = Closed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Closed> {
        let this = &mut *self;
        this.give_up_probe(cx);
        let Some(h2) = &mut this.h2 else {
            panic!("polled after it resolved");
        };
        if let Poll::Ready(ended) = Pin::new(h2).poll(cx) {
            // A GOAWAY on an idle connection and its end are seen in one poll.
            this.look(cx, h2::Error::is_go_away);
            let (reason, disconnect) = match ended {
                Ok(()) => ("connection closed".to_owned(), Disconnect::Unknown),
                Err(error) => (error.to_string(), Disconnect::of(&error)),
            };
            return Poll::Ready(this.close(Closed { reason, disconnect }));
        }
        if this.news.swap(false, Ordering::Relaxed) {
            this.look(cx, |_| true);
        }
        if let Some(keepalive) = &mut this.keepalive {
            let reason = ready!(keepalive.poll(cx, &this.status));
            let disconnect = Disconnect::TimedOut;
            return Poll::Ready(this.close(Closed { reason, disconnect }));
        }
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.status.drain(|| Closed {
            reason: "connection was given up".to_owned(),
            disconnect: Disconnect::Shutdown,
        });
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("open", &self.h2.is_some())
            .finish_non_exhaustive()
    }
}

/// Client keepalive (gRFC A8): a ping at the end of an interval in which nothing was heard, if
/// streams are open; the end of the connection if nothing is heard for a time-out after it.
/// Intervals follow each other, so a silence is asked about one to two of them after it began.
///
/// ```text
///   Quiet ── interval over, nothing heard, streams open ──> Asked ── time-out ──> dead
///     ^                                                       │
///     └────────────────────── anything heard ─────────────────┘
/// ```
pub(super) struct Keepalive {
    ping: PingPong,
    heard: Arc<AtomicBool>,
    interval: Duration,
    timeout: Duration,
    asked: bool,
    timer: Pin<Box<Sleep>>,
}

impl Keepalive {
    pub(super) fn new(
        ping: PingPong,
        heard: Arc<AtomicBool>,
        interval: Duration,
        timeout: Duration,
    ) -> Self {
        let interval = interval.max(LEAST_KEEPALIVE);
        // The handshake belongs to no interval.
        heard.store(false, Ordering::Relaxed);
        Self {
            ping,
            heard,
            interval,
            timeout,
            asked: false,
            timer: Box::pin(sleep(interval)),
        }
    }

    /// Resolves with the reason for which the connection is held dead.
    fn poll(&mut self, cx: &mut Context<'_>, status: &Status) -> Poll<String> {
        // Only to free h2's slot for the next ping: any byte read counts, not just the pong.
        let _ = self.ping.poll_pong(cx);
        if self.asked && self.heard.swap(false, Ordering::Relaxed) {
            self.asked = false;
            self.restart(self.interval);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.asked {
                return Poll::Ready(format!(
                    "keepalive: nothing heard for {:?} after a ping",
                    self.timeout
                ));
            }
            let heard = self.heard.swap(false, Ordering::Relaxed);
            // Fails while an earlier ping waits for its pong; that one asks as well.
            if !heard && status.in_use() {
                let _ = self.ping.send_ping(Ping::opaque());
                self.asked = true;
                self.restart(self.timeout);
            } else {
                self.restart(self.interval);
            }
        }
        Poll::Pending
    }

    fn restart(&mut self, after: Duration) {
        self.timer.as_mut().reset(Instant::now() + after);
    }
}
