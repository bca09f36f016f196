//! From the calls to the sink: a bounded queue and one thread. Rim.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use super::record::Record;

/// How long the end of a mesh waits for the lines that are still in the queue.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where calls leave their records. Never waits: what finds no room is counted and gone.
#[derive(Debug)]
pub(super) struct Queue {
    sender: Option<SyncSender<Box<Record>>>,
    dropped: AtomicU64,
    /// Answers, by ending, that everything is written.
    written: Mutex<Receiver<()>>,
}

impl Queue {
    /// Starts the thread. `render` makes a record's line, `sink` takes it.
    pub(super) fn start(
        room: usize,
        mut render: impl FnMut(&Record, &mut String) + Send + 'static,
        sink: Box<dyn Write + Send>,
    ) -> io::Result<Self> {
        let (sender, records) = mpsc::sync_channel(room.max(1));
        let (ending, written) = mpsc::channel();
        let work = move || {
            write_all(&records, &mut render, sink);
            drop(ending);
        };
        let thread = std::thread::Builder::new().name("sidestep-access-log".to_owned());
        thread.spawn(work)?;
        Ok(Self {
            sender: Some(sender),
            dropped: AtomicU64::new(0),
            written: Mutex::new(written),
        })
    }

    pub(super) fn push(&self, record: Box<Record>) {
        let sent = self.sender.as_ref().map(|sender| sender.try_send(record));
        if !matches!(sent, Some(Ok(()))) && self.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                target: "sidestep::access_log",
                "the sink is slower than the calls: lines are dropped from now on, and counted"
            );
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.sender.take());
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        // Ends with the thread's end of it; a sink that hangs is not waited for longer.
        let _ = written.recv_timeout(FAREWELL);
    }
}

/// Writes until no call can come any more. Flushes whenever nothing waits.
fn write_all(
    records: &Receiver<Box<Record>>,
    render: &mut impl FnMut(&Record, &mut String),
    mut sink: Box<dyn Write + Send>,
) {
    let mut line = String::new();
    let mut failed = false;
    while let Ok(mut record) = records.recv() {
        let flushed = loop {
            line.clear();
            render(&record, &mut line);
            if let Err(error) = sink.write_all(line.as_bytes()) {
                break Err(error);
            }
            match records.try_recv() {
                Ok(next) => record = next,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break sink.flush(),
            }
        };
        if let Err(error) = flushed
            && !std::mem::replace(&mut failed, true)
        {
            tracing::warn!(target: "sidestep::access_log", %error, "the sink fails");
        }
    }
}

/// Calls a function with each line.
pub(super) struct Callback<F>(pub(super) F);

impl<F: FnMut(&str)> Write for Callback<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Lines are made as text, and written whole.
        (self.0)(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
