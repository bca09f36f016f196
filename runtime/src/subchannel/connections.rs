//! The connections of one endpoint as its calls see them, and where calls wait for room.
//!
//! Most endpoints have one connection, whose peer takes more streams than there are calls: a call
//! then costs one look at a pointer that is not set. The queue is made by the first call that has
//! to wait. From then on calls go to the oldest connection with room; while any call waits the
//! others line up behind it (gRFC A105).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::select_all;
use tokio::sync::{Mutex, MutexGuard, Notify};

use super::connection::Connection;

/// Written by `control` alone.
#[derive(Default)]
pub struct Connections {
    /// The oldest.
    first: ArcSwapOption<Connection>,
    queue: OnceLock<Box<Queue>>,
}

/// Where a call goes.
#[derive(Debug)]
pub enum Choice {
    /// There.
    Send(Arc<Connection>),
    /// No connection has room, or others wait already: see [`Connections::turn`].
    Full,
    /// There is no connection.
    None,
}

struct Queue {
    /// The connections beside the first, oldest first.
    more: ArcSwap<Vec<Arc<Connection>>>,
    /// Calls that wait, the one whose turn it is included.
    waiting: AtomicUsize,
    /// Fair: first come, first served.
    turn: Mutex<()>,
    /// The connections changed.
    changed: Notify,
    /// `control` knows that more connections may be of use.
    asked: AtomicBool,
}

impl Connections {
    /// Where the next call goes.
    #[must_use]
    pub fn choose(&self) -> Choice {
        let Some(first) = self.first.load_full() else {
            return Choice::None;
        };
        match self.queue.get() {
            None => Choice::Send(first),
            Some(queue) => queue.choose(first),
        }
    }

    /// Whether there is any connection.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.first.load().is_some()
    }

    /// These are the connections from now on, oldest first.
    pub(crate) fn set(&self, mut all: impl Iterator<Item = Arc<Connection>>) {
        self.first.store(all.next());
        // Either a call that makes the queue now sees the new connections, or we see its queue.
        fence(Ordering::SeqCst);
        if let Some(queue) = self.queue.get() {
            queue.more.store(Arc::new(all.collect()));
            queue.changed.notify_waiters();
        } else if let Some(second) = all.next() {
            let queue = self.queue();
            queue
                .more
                .store(Arc::new([second].into_iter().chain(all).collect()));
            queue.changed.notify_waiters();
        }
    }

    /// Notes that `control` knows of the wish for more connections. Answers whether that is news.
    pub(crate) fn ask(&self) -> bool {
        !self.queue().asked.swap(true, Ordering::SeqCst)
    }

    /// Whether one more connection is of use now: a call waits, and no connection has room. If
    /// not, the next call that waits asks again.
    pub(crate) fn need_more(&self) -> bool {
        let Some(queue) = self.queue.get() else {
            return false;
        };
        queue.asked.store(false, Ordering::SeqCst);
        // Whoever asks after that is heard; who asked before waits, and is seen here.
        let need = queue.waiting.load(Ordering::SeqCst) > 0 && queue.usable(&self.first).is_none();
        if need {
            queue.asked.store(true, Ordering::SeqCst);
        }
        need
    }

    /// Waits in line; cancel safe. Calls that come meanwhile wait behind.
    pub async fn turn(&self) -> Turn<'_> {
        let queue = self.queue();
        queue.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(&queue.waiting);
        Turn {
            connections: self,
            queue,
            _turn: queue.turn.lock().await,
            _waiting: waiting,
        }
    }

    fn queue(&self) -> &Queue {
        self.queue.get_or_init(Box::default)
    }
}

/// The first place in the line, until it is dropped.
pub struct Turn<'a> {
    connections: &'a Connections,
    queue: &'a Queue,
    _turn: MutexGuard<'a, ()>,
    _waiting: Waiting<'a>,
}

impl Turn<'_> {
    /// The oldest connection with room, as soon as there is one; `None` when the last connection
    /// is gone. `full` is called when there is none with room; cancel safe.
    pub async fn room(&self, mut full: impl FnMut()) -> Option<Arc<Connection>> {
        loop {
            let mut changed = std::pin::pin!(self.queue.changed.notified());
            changed.as_mut().enable();
            fence(Ordering::SeqCst);
            let first = self.connections.first.load_full()?;
            if let Some(usable) = self.queue.usable(&self.connections.first) {
                return Some(usable);
            }
            full();
            let more = self.queue.more.load_full();
            let all = std::iter::once(&first).chain(more.iter());
            // One that drains is about to be taken out, which is a change.
            let alive: Vec<_> = all
                .filter(|connection| !connection.draining())
                .map(|connection| Box::pin(connection.room()))
                .collect();
            if alive.is_empty() {
                changed.await;
            } else {
                tokio::select! {
                    () = changed => {}
                    _ = select_all(alive) => {}
                }
            }
        }
    }
}

impl Queue {
    fn choose(&self, first: Arc<Connection>) -> Choice {
        if self.waiting.load(Ordering::Relaxed) > 0 {
            return Choice::Full;
        }
        if is_usable(&first) {
            return Choice::Send(first);
        }
        let more = self.more.load();
        match more.iter().find(|connection| is_usable(connection)) {
            Some(usable) => Choice::Send(usable.clone()),
            // It says why it fails, and the call goes elsewhere.
            None if first.draining() => Choice::Send(first),
            None => Choice::Full,
        }
    }

    fn usable(&self, first: &ArcSwapOption<Connection>) -> Option<Arc<Connection>> {
        let first = first.load_full()?;
        if is_usable(&first) {
            return Some(first);
        }
        let more = self.more.load();
        more.iter().find(|c| is_usable(c)).cloned()
    }
}

fn is_usable(connection: &Connection) -> bool {
    connection.has_room() && !connection.draining()
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            more: ArcSwap::default(),
            waiting: AtomicUsize::new(0),
            turn: Mutex::new(()),
            changed: Notify::new(),
            asked: AtomicBool::new(false),
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let queue = self.queue.get();
        f.debug_struct("Connections")
            .field("first", &self.first.load_full())
            .field("more", &queue.map_or(0, |queue| queue.more.load().len()))
            .field("waiting", &queue.map(|queue| &queue.waiting))
            .finish()
    }
}
