//! What can go wrong in the state store, by what the caller can do about it.

use std::io;

use crate::{log_id::LogId, snapshot::reader::SnapshotError};

/// An error of the state store.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Storage failed and nothing is known about it any more. The `fatal` hook was called; the
    /// process ends.
    #[error("the state store failed: {0}")]
    Fatal(String),
    /// Something more urgent was next: writes that came faster than it was built and no longer fit in
    /// memory, an install, or the end of the process. Try again later.
    #[error("the snapshot was abandoned for something more urgent")]
    SnapshotAbandoned,
    /// The disk is too full for a flush. What was committed stays in memory (and in the log); a
    /// later flush writes it.
    #[error("the disk has no room for a flush of the state")]
    NoRoomToFlush,
    /// A snapshot finds no room beside what is held for flushes. What was written of it is removed. It needs more than this.
    #[error("the disk has no room for a snapshot of {bytes} bytes or more beside the reserve")]
    NoRoomForSnapshot {
        /// Bytes that were written and the next ones, for which there was no room.
        bytes: u64,
    },
    /// Its records are not those that were written: their hash is another one. Nothing is made of them.
    #[error(
        "the state after entry {applied} does not hold what was written to it: its hash is {counted}, and was {written}"
    )]
    Rotten {
        /// The state.
        applied: LogId,
        /// What its records come to.
        counted: String,
        /// What they came to when they were written.
        written: String,
    },
    /// There is nothing to make a snapshot of.
    #[error("nothing has been applied yet")]
    NothingApplied,
    /// Installing it would go back.
    #[error("the snapshot ends at {snapshot}, and {applied} is applied already")]
    SnapshotBehind {
        /// Where the snapshot ends.
        snapshot: LogId,
        /// What is applied.
        applied: LogId,
    },
    /// A snapshot file is damaged, of a later format, or could not be read or written. The state
    /// itself is untouched.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A later release wrote this. Start that release, or a later one.
    #[error(
        "{path}: has format version {version}, and this release reads up to {supported}. Start the \
         newer release again; nothing was deleted"
    )]
    NewerFormat {
        /// The file or directory.
        path: String,
        /// Its version.
        version: u32,
        /// The newest version that this release reads.
        supported: u32,
    },
    /// This node's state is lost, and nothing on this disk can replace it.
    #[error(
        "{path}: {reason}; {no_substitute}. This node can't rebuild its state by itself: remove it \
         from the cluster, and let it join again as a new member with an empty data directory"
    )]
    Unrecoverable {
        /// The file or directory.
        path: String,
        /// What is wrong with it.
        reason: String,
        /// Why no local snapshot helps.
        no_substitute: String,
    },
    /// The log ends before the state: it was lost, or an older copy is in its place.
    #[error(
        "{path}: the state is after entry {applied}, and the log ends {log_end}. The state is never \
         ahead of its own log, so the log was lost, or is an older copy: entries and a vote that this \
         node has acknowledged are lost to it, and it must not serve or vote. Way out: put the newer log back; or remove this node from the \
         cluster, move its data directory away and let it join again under a new id. Nothing was \
         changed"
    )]
    AheadOfLog {
        /// The state's directory.
        path: String,
        /// What the state is after.
        applied: LogId,
        /// Where the log ends.
        log_end: String,
    },
    /// The disk failed, or a store did for a reason that says nothing about its content.
    #[error("{path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// What the disk said.
        source: io::Error,
    },
}

impl StateError {
    pub(super) fn io(path: &str) -> impl Fn(io::Error) -> Self {
        let path = path.to_owned();
        move |source| StateError::Io { path: path.clone(), source }
    }
}
