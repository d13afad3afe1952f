//! A model of the log beside the log, and the questions that a test asks after a crash.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::{
    disk::Disk,
    simulated_disk::SimulatedDisk,
    wal::{Ballot, Entry, Fatal, LogId, Recovered, Wal, WalError, WalOptions},
};

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

pub(super) fn ballot(term: u64) -> Ballot {
    Ballot { term, node_id: Some(term % 3), committed: term.is_multiple_of(2) }
}

/// A payload that differs with every generation, so that an old entry is never taken for a new one.
pub(super) fn entry(term: u64, index: u64, generation: u64, len: usize) -> Entry {
    let mut payload = format!("{term}.{index}/{generation}:").into_bytes();
    payload.resize(payload.len().max(len), generation as u8);
    Entry { log_id: id(term, index), kind: (index % 3) as u8, payload: Bytes::from(payload) }
}

/// Small segments, a small cache and a seal after every pause, so that all of it happens soon.
pub(super) fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 16 << 10,
        cache_bytes: 500,
        queue_bytes: 64 << 10,
        spare_segments: 1,
        seal_after: Duration::ZERO,
        space_retry: Duration::from_millis(2),
        ..WalOptions::new(42)
    }
}

/// A log with its writer running as a task.
pub(super) struct Running {
    pub wal: Wal,
    pub recovered: Recovered,
    pub writer: JoinHandle<()>,
    pub fatal: Arc<Mutex<Vec<String>>>,
}

pub(super) async fn open(disk: &SimulatedDisk) -> Result<Running, WalError> {
    open_with(Arc::new(disk.mount()), options()).await
}

pub(super) async fn open_with(
    disk: Arc<dyn Disk>,
    options: WalOptions,
) -> Result<Running, WalError> {
    let said = Arc::new(Mutex::new(Vec::new()));
    let fatal: Fatal = {
        let said = Arc::clone(&said);
        Arc::new(move |why| said.lock().unwrap().push(why))
    };
    let (wal, writer, recovered) = Wal::open(disk, options, fatal).await?;
    Ok(Running { wal, recovered, writer: tokio::spawn(writer.run()), fatal: said })
}

/// Appends and waits until durable.
pub(super) async fn append(wal: &Wal, entries: Vec<Entry>) -> io::Result<()> {
    let (done, wait) = oneshot::channel();
    wal.append(entries, Box::new(move |result| drop(done.send(result)))).await?;
    wait.await.unwrap_or_else(|_| Err(io::Error::other("dropped")))
}

/// What a log should hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Model {
    pub vote: Option<Ballot>,
    pub purged: Option<LogId>,
    pub entries: Vec<Entry>,
}

impl Model {
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    pub(super) fn end(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    pub(super) fn truncate(&mut self, keep: Option<LogId>) {
        let end = keep.map_or(0, |keep| keep.index + 1);
        self.entries.retain(|entry| entry.log_id.index < end);
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        let known = self.entries.iter().any(|entry| entry.log_id == upto);
        self.entries.retain(|entry| known && entry.log_id.index > upto.index);
        self.purged = Some(upto);
    }
}

/// Everything that a log holds.
pub(super) async fn read_all(wal: &Wal) -> Model {
    let (first, end) = (wal.first_index(), wal.last().map_or(0, |last| last.index + 1));
    let mut entries = Vec::new();
    let mut at = first;
    while at < end {
        let some = wal.read(at..end, 2000).await.unwrap();
        assert!(!some.is_empty(), "the log has a hole at {at} before {end}");
        assert_eq!(some[0].log_id.index, at);
        at += some.len() as u64;
        entries.extend(some);
    }
    assert_eq!(wal.last(), entries.last().map(|entry| entry.log_id).or(wal.purged()));
    Model { vote: wal.vote(), purged: wal.purged(), entries }
}
