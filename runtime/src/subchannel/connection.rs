//! The handle to one HTTP/2 connection, and the accounting of its streams.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use h2::client::SendRequest;
use http::Request;
use http::uri::Scheme;
use sidestep_proto::resource::Address;
use tokio::sync::Notify;

use super::driver::Closed;
use super::exchange::Exchange;
use super::request_body::RequestBody;

/// One HTTP/2 connection. Cloning it is one reference count; the socket is closed when the last
/// clone is gone and its last stream has ended.
#[derive(Clone)]
pub struct Connection {
    handle: Arc<Handle>,
}

/// Ends with the last [`Connection`], which is how the driver hears of it.
struct Handle {
    sender: SendRequest<Bytes>,
    status: Arc<Status>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.status.abandoned.store(true, Ordering::Release);
        self.status.driver.wake();
    }
}

impl Connection {
    pub(super) fn new(sender: SendRequest<Bytes>, status: Arc<Status>) -> Self {
        Self {
            handle: Arc::new(Handle { sender, status }),
        }
    }

    /// Sends `request`, whose URI must be absolute (scheme and authority become pseudo headers).
    ///
    /// Nothing happens before the first poll. Dropping the future resets the stream (`CANCEL`).
    #[must_use = "nothing is sent before the exchange is polled"]
    pub fn send<B>(&self, request: Request<RequestBody<B>>) -> Exchange<B> {
        Exchange::new(self.clone(), request, false)
    }

    /// As [`Self::send`], but with `keep` the request is kept until the head of the answer, one
    /// message by reference, others up to a limit: see [`Exchange::again`].
    pub(crate) fn send_kept<B>(&self, request: Request<RequestBody<B>>, keep: bool) -> Exchange<B> {
        Exchange::new(self.clone(), request, keep)
    }

    /// Whether both are handles to one connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle, &other.handle)
    }

    /// Whether new streams are impossible: the peer said GOAWAY, the stream ids are used up or
    /// the connection is dead. Streams under way may still end well.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.status().draining()
    }

    /// Why new streams are impossible; `None` while they are not.
    #[must_use]
    pub fn closed(&self) -> Option<&Closed> {
        self.status().closed()
    }

    /// Resolves once [`Self::draining`] holds; cancel safe.
    pub async fn closed_or_draining(&self) {
        let status = self.status();
        loop {
            let mut changed = std::pin::pin!(status.drained.notified());
            changed.as_mut().enable();
            if status.draining() {
                return;
            }
            changed.await;
        }
    }

    /// Resolves once [`Self::has_room`] or [`Self::draining`] holds; cancel safe. A stream may
    /// be taken by somebody else before the caller sends.
    pub async fn room(&self) {
        let status = self.status();
        loop {
            let mut changed = std::pin::pin!(status.freed.notified());
            changed.as_mut().enable();
            // Announced before the look: whoever frees a stream afterwards sees the count.
            let _waiting = Waiting::new(&status.waiting);
            if status.has_room() || status.draining() {
                return;
            }
            changed.await;
        }
    }

    /// `https` if the connection is secured, else `http`.
    #[must_use]
    pub fn scheme(&self) -> &Scheme {
        &self.status().scheme
    }

    /// The address that answered.
    #[must_use]
    pub fn peer(&self) -> &Address {
        &self.status().peer
    }

    /// Streams open now, by our own count.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.status().in_flight.load(Ordering::Relaxed)
    }

    /// Whether one more stream stays within the peer's `SETTINGS_MAX_CONCURRENT_STREAMS`.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.status().has_room()
    }

    pub(super) fn status(&self) -> &Arc<Status> {
        &self.handle.status
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.handle.sender.clone()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer().to_string())
            .field("in_flight", &self.in_flight())
            .field("draining", &self.draining())
            .finish()
    }
}

/// What handles, streams and driver know together. No lock in it.
pub(super) struct Status {
    peer: Address,
    scheme: Scheme,
    /// The peer's limit, kept current by the driver.
    limit: AtomicUsize,
    in_flight: AtomicUsize,
    draining: AtomicBool,
    drained: Notify,
    freed: Notify,
    /// Callers in [`Connection::room`]; while there are none, freeing a stream notifies nobody.
    waiting: AtomicUsize,
    /// All [`Connection`]s are gone.
    abandoned: AtomicBool,
    /// Wakes the driver when they are.
    driver: AtomicWaker,
    /// Set once, before `draining`.
    closed: OnceLock<Closed>,
    /// The highest stream whose HEADERS went to the socket.
    pub(super) written: Arc<AtomicU32>,
}

impl Status {
    pub(super) fn new(peer: Address, scheme: Scheme, written: Arc<AtomicU32>) -> Self {
        Self {
            peer,
            scheme,
            limit: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            drained: Notify::new(),
            freed: Notify::new(),
            waiting: AtomicUsize::new(0),
            abandoned: AtomicBool::new(false),
            driver: AtomicWaker::new(),
            closed: OnceLock::new(),
            written,
        }
    }

    pub(super) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why no new stream can start; only meaningful while draining.
    pub(super) fn reason(&self) -> &str {
        let closed = self.closed.get();
        closed.map_or("connection is closing", |closed| &closed.reason)
    }

    /// Set before `draining` is.
    pub(super) fn closed(&self) -> Option<&Closed> {
        self.closed.get()
    }

    pub(super) fn abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }

    pub(super) fn register_driver(&self, waker: &std::task::Waker) {
        self.driver.register(waker);
    }

    pub(super) fn set_limit(&self, limit: usize) {
        if self.limit.swap(limit, Ordering::AcqRel) < limit {
            self.freed.notify_waiters();
        }
    }

    /// The first reason stays: it is the cause, later ones are consequences.
    pub(super) fn drain(&self, closed: impl FnOnce() -> Closed) {
        if self.draining() {
            return;
        }
        self.closed.get_or_init(closed);
        self.draining.store(true, Ordering::Release);
        self.drained.notify_waiters();
        self.freed.notify_waiters();
    }

    fn has_room(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) < self.limit.load(Ordering::Acquire)
    }

    /// Whether any stream is open.
    pub(super) fn in_use(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Counts one stream, or refuses at the limit.
    ///
    /// h2 would queue it instead, and for a fresh clone of its sender without telling anyone.
    pub(super) fn try_begin(self: &Arc<Self>) -> Option<Permit> {
        let limit = self.limit.load(Ordering::Acquire);
        // Never above the limit, not even for a moment: taking that back would have to wake all
        // who wait for room, at each call that finds none.
        let one_more = |n| (n < limit).then_some(n + 1);
        let counted = self
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more);
        counted.ok().map(|_| Permit {
            status: Arc::clone(self),
        })
    }
}

/// One stream of the peer's limit; given back when dropped.
pub(super) struct Permit {
    status: Arc<Status>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Sequentially consistent with `Waiting`: either it sees the free stream or we see it.
        self.status.in_flight.fetch_sub(1, Ordering::SeqCst);
        if self.status.waiting.load(Ordering::SeqCst) > 0 {
            self.status.freed.notify_waiters();
        }
    }
}

impl Permit {
    pub(super) fn status(&self) -> &Status {
        &self.status
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
