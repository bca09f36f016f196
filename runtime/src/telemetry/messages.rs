//! How many bytes of messages a body has carried: what A66 counts, without the five bytes in
//! front of each message. Pure.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// In front of each message: a flag and its length.
const PREFIX: u8 = 5;

/// Messages of one direction that are noted one by one, at most.
const MOST_NOTED: usize = 128;

/// One message that passed.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Passed {
    /// When its last byte did.
    pub at: SystemTime,
    /// Its bytes, without the prefix.
    pub size: u32,
    /// Whether they are compressed.
    pub compressed: bool,
}

/// Follows the messages of one direction, however they are cut into chunks.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: u64,
    count: u64,
    /// Of the prefix under way.
    prefix: u8,
    compressed: bool,
    length: u32,
    /// Of the message under way, still to come.
    left: u32,
    /// Only where somebody wants them.
    noted: Option<Vec<Passed>>,
}

impl Messages {
    /// Notes each message if somebody `wants` them.
    pub(crate) fn new(wants: bool) -> Self {
        Self {
            noted: wants.then(Vec::new),
            ..Self::default()
        }
    }

    /// The next chunk.
    pub(crate) fn take(&mut self, mut chunk: &[u8]) {
        if self.left == 0 && self.prefix == 0 {
            // A chunk that is one whole message: every unary call.
            if let [flag, a, b, c, d, message @ ..] = chunk {
                let length = u32::from_be_bytes([*a, *b, *c, *d]);
                if length as usize == message.len() {
                    self.bytes += u64::from(length);
                    (self.length, self.compressed) = (length, *flag != 0);
                    self.passed();
                    return;
                }
            }
        }
        while !chunk.is_empty() {
            if self.left > 0 {
                let taken = chunk.len().min(self.left as usize);
                self.bytes += taken as u64;
                // No more than `left`, which is a u32.
                self.left -= u32::try_from(taken).unwrap_or(self.left);
                chunk = &chunk[taken..];
                if self.left == 0 {
                    self.passed();
                }
                continue;
            }
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(chunk[0]);
            } else {
                self.length = 0;
                self.compressed = chunk[0] != 0;
            }
            self.prefix += 1;
            chunk = &chunk[1..];
            if self.prefix == PREFIX {
                self.left = self.length;
                self.prefix = 0;
                if self.left == 0 {
                    self.passed();
                }
            }
        }
    }

    fn passed(&mut self) {
        self.count += 1;
        if let Some(noted) = &mut self.noted
            && noted.len() < MOST_NOTED
        {
            noted.push(Passed {
                at: SystemTime::now(),
                size: self.length,
                compressed: self.compressed,
            });
        }
    }

    /// So far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So far, with the prefixes.
    pub(crate) fn body_bytes(&self) -> u64 {
        self.bytes + self.count * u64::from(PREFIX)
    }

    /// The first ones, if they were wanted.
    pub(crate) fn noted(&mut self) -> Vec<Passed> {
        self.noted.take().unwrap_or_default()
    }
}

/// What a body that somebody else carries has come to.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    bytes: AtomicU64,
    body: AtomicU64,
    /// Only where somebody wants them.
    noted: Option<Mutex<Vec<Passed>>>,
}

impl Progress {
    pub(crate) fn new(wants: bool) -> Arc<Self> {
        Arc::new(Self {
            noted: wants.then(Mutex::default),
            ..Self::default()
        })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        self.body.load(Ordering::Relaxed)
    }

    pub(crate) fn noted(&self) -> Vec<Passed> {
        let Some(noted) = &self.noted else {
            return Vec::new();
        };
        std::mem::take(&mut noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What a request sends. A body that is there at once is counted in place; one that goes on is
/// sent by a task of its own, which shares its count.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    whole: Messages,
    going: Option<Arc<Progress>>,
}

impl Outgoing {
    /// Notes each message if somebody `wants` them.
    pub(crate) fn new(wants: bool) -> Self {
        Self {
            whole: Messages::new(wants),
            going: None,
        }
    }

    pub(crate) fn whole(&mut self, body: &[u8]) {
        self.whole.take(body);
    }

    pub(crate) fn goes_on(&mut self) -> Shared {
        let wants = self.whole.noted.is_some();
        let progress = self.going.get_or_insert_with(|| Progress::new(wants));
        Shared::new(Arc::clone(progress))
    }

    pub(crate) fn bytes(&self) -> u64 {
        let going = self.going.as_ref();
        self.whole.bytes() + going.map_or(0, |going| going.bytes())
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        let going = self.going.as_ref();
        self.whole.body_bytes() + going.map_or(0, |going| going.body_bytes())
    }

    pub(crate) fn noted(&mut self) -> Vec<Passed> {
        let mut noted = self.whole.noted();
        noted.extend(self.going.iter().flat_map(|going| going.noted()));
        noted
    }
}

/// The other end of an [`Outgoing`], or of a body that a server's handler reads.
#[derive(Debug)]
pub(crate) struct Shared {
    messages: Messages,
    progress: Arc<Progress>,
}

impl Shared {
    pub(crate) fn new(progress: Arc<Progress>) -> Self {
        Self {
            messages: Messages::new(progress.noted.is_some()),
            progress,
        }
    }

    pub(crate) fn take(&mut self, chunk: &[u8]) {
        let Self { messages, progress } = self;
        messages.take(chunk);
        progress.bytes.store(messages.bytes(), Ordering::Relaxed);
        progress
            .body
            .store(messages.body_bytes(), Ordering::Relaxed);
        if let (Some(shared), Some(new)) = (&progress.noted, &mut messages.noted)
            && !new.is_empty()
        {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MOST_NOTED.saturating_sub(shared.len());
            shared.extend(new.drain(..).take(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.resize(5 + length as usize, 7);
        bytes
    }

    #[test]
    fn counts_messages_however_they_are_cut() {
        let wire = [message(0), message(3), message(300), message(1)].concat();
        for size in 1..=wire.len() {
            let mut messages = Messages::default();
            wire.chunks(size).for_each(|chunk| messages.take(chunk));
            assert_eq!(messages.bytes(), 304, "in chunks of {size}");
        }
    }

    #[test]
    fn a_message_that_broke_off_counts_as_far_as_it_came() {
        let mut messages = Messages::default();
        messages.take(&message(100)[..45]);
        assert_eq!(messages.bytes(), 40);
    }

    #[test]
    fn what_another_task_sends_is_seen() {
        let mut outgoing = Outgoing::default();
        outgoing.whole(&message(2));
        let mut rest = outgoing.goes_on();
        rest.take(&message(10));
        assert_eq!(outgoing.bytes(), 12);
    }
}
