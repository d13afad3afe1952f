//! The lines that wait to be written, and the places of those to come: bounded together, in bytes.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use crate::env::spaced::Spaced;

/// See the module's doc.
#[derive(Debug)]
pub(super) struct Queue {
    bytes_max: usize,
    /// Bytes of lines that are not in the file yet, and of places.
    taken: AtomicUsize,
    lines: Mutex<Lines>,
    /// There is something to write, or the log ends.
    pub(super) ready: Notify,
    /// The file can't be written now.
    failing: AtomicBool,
    /// Why, or nothing.
    pub(super) error: Mutex<String>,
    pub(super) written_lines: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) refused: AtomicU64,
    drops: Spaced,
    refusals: Spaced,
}

#[derive(Debug, Default)]
struct Lines {
    chunks: Vec<Chunk>,
    closed: bool,
}

/// Some lines. They are kept in chunks, as one text would be copied whole, under the lock, whenever it has to grow.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    pub(super) lines: u64,
}

/// A chunk is closed at this many bytes, unless its first line alone is longer.
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// Lines on their way into the file.
pub(super) struct Taken {
    pub(super) chunks: Vec<Chunk>,
    /// There will be no more.
    pub(super) is_last: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize) -> Queue {
        Queue {
            bytes_max,
            taken: AtomicUsize::new(0),
            lines: Mutex::default(),
            ready: Notify::new(),
            failing: AtomicBool::new(false),
            error: Mutex::default(),
            written_lines: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            drops: Spaced::default(),
            refusals: Spaced::default(),
        }
    }

    /// Takes room, if there is some.
    pub(super) fn reserve(&self, bytes: usize) -> bool {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        let fits = before.saturating_add(bytes) <= self.bytes_max;
        if !fits {
            self.release(bytes);
        }
        fits
    }

    /// Gives room back.
    pub(super) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Takes a line in, for which so much room is held. Without any it looks for some, and drops the line if there is
    /// none. A line may come out a little longer than what was held for it, and is taken all the same.
    pub(super) fn push(&self, line: &[u8], held: usize) -> bool {
        if held == 0 {
            if !self.reserve(line.len()) {
                self.dropped();
                return false;
            }
        } else if line.len() > held {
            self.taken.fetch_add(line.len() - held, Ordering::Relaxed);
        } else {
            self.release(held - line.len());
        }
        let mut lines = self.lock();
        if lines.closed {
            drop(lines);
            self.release(line.len());
            self.dropped();
            return false;
        }
        let is_first = lines.chunks.is_empty();
        match lines.chunks.last_mut() {
            Some(last) if last.text.len() + line.len() <= CHUNK_BYTES_MAX => {
                last.text.extend_from_slice(line);
                last.lines += 1;
            }
            _ => lines.chunks.push(Chunk { text: line.to_vec(), lines: 1 }),
        }
        drop(lines);
        if is_first {
            self.ready.notify_one();
        }
        true
    }

    /// All that waits. Its room is held until it is released.
    pub(super) fn take(&self) -> Taken {
        let mut lines = self.lock();
        Taken { chunks: std::mem::take(&mut lines.chunks), is_last: lines.closed }
    }

    /// There will be no more lines.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn taken_bytes(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// The file can be written, or why it can't.
    pub(super) fn set_error(&self, error: Option<String>) {
        self.failing.store(error.is_some(), Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error.unwrap_or_default();
    }

    fn dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = self.drops.happened() {
            let (waiting, bytes_max) = (self.taken_bytes(), self.bytes_max);
            tracing::warn!(times, waiting, bytes_max, "lines of the audit log are dropped");
        }
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(times) = self.refusals.happened() {
            tracing::warn!(times, "requests are refused, as the audit log can't take their lines");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
