//! From the queue into the sink: whatever has gathered at once, again until it is in.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

use super::{
    Sink,
    queue::{Chunk, Queue, Taken},
    text,
};
use crate::env::{Clock, spaced::Spaced};

/// How long lines gather before they are written: a write for each would cost more than all else about it.
const GATHER: Duration = Duration::from_millis(5);

/// When a write that failed is tried again. Without a line to write nothing is tried.
const RETRY: Duration = Duration::from_millis(250);

/// The thread's work.
pub(super) struct Writer {
    pub(super) node_id: u64,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Arc<Queue>,
    pub(super) sink: Box<dyn Sink>,
    pub(super) end: watch::Sender<bool>,
    /// Failures that a stop waits out.
    pub(super) tries_left_to_stop: usize,
}

/// What the file has been told of what is not in it.
#[derive(Default)]
struct Told {
    dropped: u64,
    refused: u64,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut told = Told::default();
        let failures = Spaced::default();
        loop {
            if !self.queue.is_closed() {
                self.queue.ready.notified().await;
            }
            if !self.queue.is_closed() {
                sleep(GATHER).await;
            }
            let Taken { chunks, is_last } = self.queue.take();
            let mut written = true;
            for Chunk { text, lines } in chunks {
                written = self.write(&text, lines, &failures).await;
                self.queue.release(text.len());
            }
            if written {
                self.tell_what_is_missing(&mut told, &failures).await;
            }
            if is_last {
                break;
            }
        }
        if let Err(error) = self.sink.sync() {
            tracing::error!(%error, "the end of the audit log may not be on stable storage");
        }
        let _ = self.end.send(true);
    }

    /// Brings lines into the sink, however long that takes; false if the node stops before.
    async fn write(&mut self, lines: &[u8], count: u64, failures: &Spaced) -> bool {
        let mut left = lines;
        while !left.is_empty() {
            match self.sink.write(left) {
                Ok(taken) => {
                    left = &left[taken..];
                    self.queue.written_bytes.fetch_add(taken as u64, Ordering::Relaxed);
                    if self.queue.is_failing() {
                        self.queue.set_error(None);
                        tracing::info!("the audit log can be written again");
                    }
                }
                Err(error) => {
                    self.failed(&error, failures);
                    if self.queue.is_closed() && self.tries_left_to_stop == 0 {
                        let lost = left.iter().filter(|byte| **byte == b'\n').count() as u64;
                        self.queue.dropped.fetch_add(lost, Ordering::Relaxed);
                        self.queue.written_lines.fetch_add(count - lost, Ordering::Relaxed);
                        tracing::error!(lost, %error, "lines of the audit log are lost");
                        return false;
                    }
                    if self.queue.is_closed() {
                        self.tries_left_to_stop -= 1;
                    }
                    sleep(RETRY).await;
                }
            }
        }
        self.queue.written_lines.fetch_add(count, Ordering::Relaxed);
        true
    }

    fn failed(&self, error: &io::Error, failures: &Spaced) {
        self.queue.set_error(Some(error.to_string()));
        if let Some(times) = failures.happened() {
            tracing::error!(times, %error, "the audit log can't be written");
        }
    }

    /// A line for what has been dropped and refused since the last such line.
    async fn tell_what_is_missing(&mut self, told: &mut Told, failures: &Spaced) {
        let now = Told {
            dropped: self.queue.dropped.load(Ordering::Relaxed),
            refused: self.queue.refused.load(Ordering::Relaxed),
        };
        if now.dropped == told.dropped && now.refused == told.refused {
            return;
        }
        let mut line = text::begin(self.clock.wall_ms(), self.node_id, "dropped");
        for (field, number) in [
            ("dropped", now.dropped - told.dropped),
            ("requests_refused", now.refused - told.refused),
            ("dropped_in_all", now.dropped),
            ("requests_refused_in_all", now.refused),
        ] {
            text::field(&mut line, field);
            text::number(&mut line, number);
        }
        line.push_str("}\n");
        if self.write(line.as_bytes(), 1, failures).await {
            *told = now;
        }
    }
}
