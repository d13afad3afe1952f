//! The audit log: one line of JSON for each thing that somebody did to a node, or tried to.
//!
//! Whoever has something to record makes a [`Line`], reserves its place, does what there is to do, and writes the line
//! with what came of it. A line is handed to a queue in memory, from where a thread of its own ([`writer`]) brings it
//! into the file ([`file`]). What a line says is the business of those who make it; the fields are documented in
//! `docs/audit.md`.
//!
//! # What is promised
//! - The queue is bounded in bytes: lines that wait, and places reserved for those to come.
//! - **A line whose place was reserved is never dropped** while the process runs and is stopped in good order. So the
//!   outcome of an operation that was let in is recorded, or the operation was not let in.
//! - Nobody who makes a line waits for the disk.
//! - What was dropped is counted, and the count stands in the log once it can be written.
//! - With [`Settings::must_not_drop`] no place is given while the file can't be written.
//!
//! Leaves out: durability. Lines are not synced one by one, and a process that is killed loses what it queued.

mod file;
mod queue;
mod text;
mod writer;

use std::{
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use tokio::{sync::watch, time::Instant};

use self::{queue::Queue, writer::Writer};
use crate::env::{Clock, Threads};

/// Version of the lines' fields: the `v` of each.
pub const SCHEMA_VERSION: u64 = 1;

/// Bytes of lines that wait, and of places for those to come. A place takes some 700 bytes, so this is room for 90,000
/// requests under way.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What is held beside what a line has already for who asked and what came of it; most need half of it.
const REST_BYTES: usize = 512;

/// How often a stop tries again to write what can't be written.
const TRIES_TO_STOP: usize = 2;

/// How the audit log is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its file.
    pub file: PathBuf,
    /// A file that would grow above this is put aside; 0: never.
    pub file_bytes: u64,
    /// So many that were put aside are kept.
    pub files: usize,
    /// Reads are recorded, too.
    pub reads: bool,
    /// Refuse what can't be recorded.
    pub must_not_drop: bool,
}

/// Where lines go.
pub trait Sink: Send + 'static {
    /// Takes whole lines from the beginning of these, each ended by a newline; returns how many bytes that were. May
    /// take fewer than there are, and at least one line. After an error it has taken nothing.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize>;

    /// What was taken is on stable storage.
    fn sync(&mut self) -> io::Result<()>;
}

/// What was counted since the node started.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    /// Requests are refused while they can't be recorded.
    pub must_not_drop: bool,
    /// Lines that are in the file.
    pub written_lines: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Lines that were dropped, as there was no room for them.
    pub dropped_lines: u64,
    /// Requests that were refused, as there was no room for their lines.
    pub refused_requests: u64,
    /// Bytes of lines that wait, and of places for those to come.
    pub queued_bytes: u64,
    /// Why the file can't be written now; empty: it can be.
    pub error: String,
}

/// The audit log of a node.
pub struct AuditLog {
    node_id: u64,
    reads: bool,
    must_not_drop: bool,
    clock: Arc<dyn Clock>,
    queue: Arc<Queue>,
    ended: watch::Receiver<bool>,
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditLog").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// There is no place for another line, or the file can't be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPlace;

impl AuditLog {
    /// Opens the file, and starts the thread that writes it. On a full disk a log that may drop lines starts all the
    /// same.
    pub fn open(
        settings: Settings,
        node_id: u64,
        clock: Arc<dyn Clock>,
        threads: &dyn Threads,
    ) -> io::Result<Arc<AuditLog>> {
        let mut sink = file::FileSink::new(&settings);
        match sink.open() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && !settings.must_not_drop => {
                tracing::error!(%error, "the audit log can't be written yet");
            }
            opened => opened?,
        }
        Ok(AuditLog::over(Box::new(sink), QUEUE_BYTES_MAX, &settings, node_id, clock, threads))
    }

    /// Over any sink.
    fn over(
        sink: Box<dyn Sink>,
        queue_bytes_max: usize,
        settings: &Settings,
        node_id: u64,
        clock: Arc<dyn Clock>,
        threads: &dyn Threads,
    ) -> Arc<AuditLog> {
        let queue = Arc::new(Queue::new(queue_bytes_max));
        let (end, ended) = watch::channel(false);
        let log = Arc::new(AuditLog {
            node_id,
            reads: settings.reads,
            must_not_drop: settings.must_not_drop,
            clock: Arc::clone(&clock),
            queue: Arc::clone(&queue),
            ended,
        });
        let writer = Writer { node_id, clock, queue, sink, end, tries_left_to_stop: TRIES_TO_STOP };
        threads.run_blocking("tally-audit", Box::pin(writer.run()));
        let mut started = log.line("start");
        started.word("version", env!("CARGO_PKG_VERSION"));
        started.number("pid", u64::from(threads.process_id()));
        started.flag("reads", log.reads);
        started.flag("must_not_drop", log.must_not_drop);
        started.write();
        log
    }

    /// Whether reads are recorded that are not refused.
    pub fn records_reads(&self) -> bool {
        self.reads
    }

    /// Whether what can't be recorded is refused.
    pub fn must_not_drop(&self) -> bool {
        self.must_not_drop
    }

    /// A line of a kind, with the present time. Nothing is recorded until it is written.
    pub fn line(self: &Arc<Self>, kind: &'static str) -> Line {
        let text = text::begin(self.clock.wall_ms(), self.node_id, kind);
        Line { log: Arc::clone(self), text, held: 0 }
    }

    /// Records that a connection to a port was refused before anything could be asked over it.
    pub fn connection_refused(
        self: &Arc<Self>,
        port: &'static str,
        from: Option<IpAddr>,
        why: &str,
    ) {
        let mut line = self.line("connection_refused");
        line.word("port", port);
        if let Some(from) = from {
            line.word("from", &from.to_canonical().to_string());
        }
        line.word("why", why);
        line.write();
    }

    /// A request was refused, as there was no place for its line.
    pub fn refused_request(&self) {
        self.queue.refused();
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        let queue = &self.queue;
        Counts {
            must_not_drop: self.must_not_drop,
            written_lines: queue.written_lines.load(Ordering::Relaxed),
            written_bytes: queue.written_bytes.load(Ordering::Relaxed),
            dropped_lines: queue.dropped.load(Ordering::Relaxed),
            refused_requests: queue.refused.load(Ordering::Relaxed),
            queued_bytes: queue.taken_bytes() as u64,
            error: queue.error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Writes what is queued, and ends. Whatever comes later is dropped. Lines that can't be written by then are lost,
    /// which the node's log says.
    pub async fn close(self: &Arc<Self>, until: Instant) {
        let mut stopped = self.line("stop");
        stopped.number("dropped_in_all", self.queue.dropped.load(Ordering::Relaxed));
        stopped.write();
        self.queue.close();
        let mut ended = self.ended.clone();
        if tokio::time::timeout_at(until, ended.wait_for(|ended| *ended)).await.is_err() {
            tracing::error!(
                "the audit log was not written to its end in time: lines of it are lost"
            );
        }
    }
}

/// A line under way: an object that is still open.
pub struct Line {
    log: Arc<AuditLog>,
    text: String,
    /// Bytes reserved for it.
    held: usize,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Line {
    /// A field with a text that anybody may have chosen: escaped, and cut if it is long.
    pub fn word(&mut self, field: &str, word: &str) {
        text::field(&mut self.text, field);
        text::word(&mut self.text, word);
    }

    /// A field with a number.
    pub fn number(&mut self, field: &str, number: u64) {
        text::field(&mut self.text, field);
        text::number(&mut self.text, number);
    }

    /// A field that is true or false.
    pub fn flag(&mut self, field: &str, is_so: bool) {
        text::field(&mut self.text, field);
        self.text.push_str(if is_so { "true" } else { "false" });
    }

    /// A field whose value is a list of objects.
    pub fn list(&mut self, field: &str) -> List<'_> {
        text::field(&mut self.text, field);
        self.text.push('[');
        List { begin: self.text.len(), line: self, items: 0 }
    }

    /// Fields that another line has, as [`Line::since`] gave them.
    pub fn fields(&mut self, fields: &str) {
        self.text.push_str(fields);
    }

    /// How far it is.
    pub fn position(&self) -> usize {
        self.text.len()
    }

    /// The fields that it got since a position.
    pub fn since(&self, position: usize) -> &str {
        &self.text[position..]
    }

    /// Reserves its place, and what is usually to come. Where lines may be dropped it never fails: the line looks for
    /// a place again when it is written.
    pub fn reserve(&mut self) -> Result<(), NoPlace> {
        if self.log.must_not_drop && self.log.queue.is_failing() {
            return Err(NoPlace);
        }
        self.reserve_in_queue()
    }

    /// The same for what neither does nor tells anything: its line may wait until the file can be written again.
    pub fn reserve_in_queue(&mut self) -> Result<(), NoPlace> {
        let log = &self.log;
        let bytes = self.text.len() + REST_BYTES;
        match log.queue.reserve(bytes) {
            true => self.held = bytes,
            false if log.must_not_drop => return Err(NoPlace),
            false => {}
        }
        Ok(())
    }

    /// Hands it over; false if there was no place, and it is counted as dropped. One with a place always is taken.
    pub fn write(mut self) -> bool {
        self.text.push_str("}\n");
        let held = std::mem::take(&mut self.held);
        self.log.queue.push(self.text.as_bytes(), held)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // One that was not written after all.
        self.log.queue.release(std::mem::take(&mut self.held));
    }
}

/// A list of objects in a line.
pub struct List<'a> {
    line: &'a mut Line,
    begin: usize,
    items: usize,
}

impl List<'_> {
    /// Bytes that it has.
    pub fn bytes(&self) -> usize {
        self.line.text.len() - self.begin
    }

    /// Begins an object.
    pub fn item(&mut self) {
        let text = &mut self.line.text;
        if self.items > 0 {
            text.push_str("},");
        }
        self.items += 1;
        text.push('{');
    }

    /// A field of the object.
    pub fn word(&mut self, field: &str, word: &str) {
        if !self.line.text.ends_with('{') {
            self.line.text.push(',');
        }
        text::word(&mut self.line.text, field);
        self.line.text.push(':');
        text::word(&mut self.line.text, word);
    }

    /// A field of the object that is a number.
    pub fn number(&mut self, field: &str, number: u64) {
        if !self.line.text.ends_with('{') {
            self.line.text.push(',');
        }
        text::word(&mut self.line.text, field);
        self.line.text.push(':');
        text::number(&mut self.line.text, number);
    }
}

impl Drop for List<'_> {
    fn drop(&mut self) {
        let text = &mut self.line.text;
        text.push_str(if self.items > 0 { "}]" } else { "]" });
    }
}

#[cfg(test)]
mod tests;
