//! How many bytes of messages a body has carried: what A66 counts, without the five bytes in
//! front of each message. Pure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// In front of each message: a flag and its length.
const PREFIX: u8 = 5;

/// Follows the messages of one direction, however they are cut into chunks.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: u64,
    /// Of the prefix under way.
    prefix: u8,
    length: u32,
    /// Of the message under way, still to come.
    left: u32,
}

impl Messages {
    /// The next chunk.
    pub(crate) fn take(&mut self, mut chunk: &[u8]) {
        if self.left == 0 && self.prefix == 0 {
            // A chunk that is one whole message: every unary call.
            if let [_, a, b, c, d, message @ ..] = chunk {
                let length = u32::from_be_bytes([*a, *b, *c, *d]);
                if length as usize == message.len() {
                    self.bytes += u64::from(length);
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
                continue;
            }
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(chunk[0]);
            }
            self.prefix += 1;
            chunk = &chunk[1..];
            if self.prefix == PREFIX {
                self.left = self.length;
                self.prefix = 0;
                self.length = 0;
            }
        }
    }

    /// So far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// What a request sends. A body that is there at once is counted in place; one that goes on is
/// sent by a task of its own, which shares its count.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    whole: Messages,
    going: Option<Arc<AtomicU64>>,
}

impl Outgoing {
    pub(crate) fn whole(&mut self, body: &[u8]) {
        self.whole.take(body);
    }

    pub(crate) fn goes_on(&mut self) -> Shared {
        Shared {
            messages: Messages::default(),
            bytes: Arc::clone(self.going.get_or_insert_default()),
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        let going = self.going.as_ref();
        self.whole.bytes() + going.map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }
}

/// A count that another task reads.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    messages: Messages,
    bytes: Arc<AtomicU64>,
}

impl Shared {
    pub(crate) fn new(bytes: Arc<AtomicU64>) -> Self {
        Self {
            messages: Messages::default(),
            bytes,
        }
    }

    pub(crate) fn take(&mut self, chunk: &[u8]) {
        self.messages.take(chunk);
        self.bytes.store(self.messages.bytes(), Ordering::Relaxed);
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
