//! What the log's callers see.

use std::{fmt, io, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::meters::StorageMeters;

/// Term and index of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that wrote it.
    pub term: u64,
    /// Its place in the log. The first is 0.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// A vote: for whom, in which term, and whether a quorum granted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ballot {
    /// The term.
    pub term: u64,
    /// The candidate, if there is one.
    pub node_id: Option<u64>,
    /// Whether a quorum granted it.
    pub committed: bool,
}

/// One entry of the log.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub log_id: LogId,
    /// What the payload is; the log only keeps it.
    pub kind: u8,
    /// The payload.
    pub payload: Bytes,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (kind {}, {} bytes)", self.log_id, self.kind, self.payload.len())
    }
}

/// Called once when what it was given with is durable, or with an error where it never was asked of
/// the disk. After a failed write it is dropped uncalled.
pub type Callback = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called when a write or a sync failed. Production ends the process here.
pub type Fatal = Arc<dyn Fn(String) + Send + Sync>;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Its directory, below the data directory.
    pub directory: String,
    /// Length of a segment. A third of it bounds one record.
    pub segment_bytes: u64,
    /// Payload bytes of recent entries kept in memory; older ones are read from their segment.
    pub cache_bytes: usize,
    /// Payload bytes that wait for the writer before `append` waits too. One larger append is let
    /// through when the queue is empty.
    pub queue_bytes: usize,
    /// Old segments kept to be used again instead of allocating new ones.
    pub spare_segments: usize,
    /// How long nothing is asked for before the writer seals.
    pub seal_after: Duration,
    /// How often the writer tries again to get space while there is none.
    pub space_retry: Duration,
    /// Incarnation of the data directory: written into each segment, so that those of another one are
    /// told from ours. `None`, and segments of any owner are ours.
    pub owner: Option<u128>,
    /// The sequence that this log had reached when it was last opened. It was there, so a log that is
    /// not, or does not reach so far, was lost or replaced by an older copy. `None` for one that may
    /// begin.
    pub sequence_min: Option<u64>,
    /// Seeds the salts of segments. Random in production: who can guess it could write payloads
    /// that look like frames.
    pub salt_seed: u64,
    /// What its writer counts.
    pub meters: Arc<StorageMeters>,
}

impl WalOptions {
    /// The defaults with a seed for salts.
    pub fn new(salt_seed: u64) -> WalOptions {
        WalOptions {
            directory: "wal".to_owned(),
            segment_bytes: 16 << 20,
            cache_bytes: 64 << 20,
            queue_bytes: 8 << 20,
            spare_segments: 4,
            seal_after: Duration::from_millis(5),
            space_retry: Duration::from_secs(1),
            owner: None,
            sequence_min: None,
            salt_seed,
            meters: Arc::default(),
        }
    }

    /// The longest payload of an entry.
    pub fn payload_bytes_max(&self) -> usize {
        (self.segment_bytes / 3) as usize
    }
}

/// Whether the log can go on past its present segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceState {
    /// Space for the next segment is held.
    Ok,
    /// The disk had no room for the next segment. What is asked of the log still fits into the
    /// present one, and once that is full waits for room; the layer above refuses new writes now.
    /// The writer tries again by itself, so this goes back to `Ok` when there is room.
    NearlyFull,
}

/// What an open found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The last vote.
    pub vote: Option<Ballot>,
    /// The last committed hint, not beyond `last`.
    pub committed: Option<LogId>,
    /// The last purged entry.
    pub purged: Option<LogId>,
    /// The last entry, or `purged` where there is none.
    pub last: Option<LogId>,
    /// Bytes that were zeroed because the tail was torn; 0 where it was not.
    pub cut_bytes: u64,
    /// Sequence of the next frame: what [`WalOptions::sequence_min`] is at the next open.
    pub next_sequence: u64,
}

/// Why a log does not open.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Bytes that had been durable have changed, or a file is missing. Nothing was changed on disk.
    #[error(
        "the log is damaged at byte {offset} of {file}: {reason}. Entries or a vote that this node \
         has acknowledged are lost, so it must not serve or vote. Way out: remove this node from \
         the cluster, move its data directory away and let it join again under a new id; it then \
         gets a snapshot from the leader"
    )]
    Corrupt {
        /// The file, below the data directory.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The log is not there, and it was. Nothing was changed on disk.
    #[error(
        "the log in {directory}/ is gone: this node had one when it last started. Entries and a vote \
         that it has acknowledged are lost to it, so it must not serve or vote. Way out: put the \
         directory back (is a volume not mounted?); or remove this node from the cluster, move its \
         data directory away and let it join again under a new id"
    )]
    Missing {
        /// Its directory, below the data directory.
        directory: String,
    },
    /// An older copy of the log is in its place. Nothing was changed on disk.
    #[error(
        "the log in {directory}/ is an older copy: it ends at frame {found}, and it had reached \
         {expected} when this node last started. Entries and a vote that this node has acknowledged \
         may be lost to it, so it must not serve or vote. Way out: put the newer one back; or remove \
         this node from the cluster, move its data directory away and let it join again under a new id"
    )]
    Older {
        /// Its directory, below the data directory.
        directory: String,
        /// Sequence of the next frame.
        found: u64,
        /// The least that it must be.
        expected: u64,
    },
    /// A segment of another data directory is in its place. Nothing was changed on disk.
    #[error(
        "{file} was made in another data directory ({found:032x}, and this is {own:032x}): the log of \
         another node, or of this one before it was set up anew. Its votes and entries are not this \
         node's. Way out: put this node's own files back; or remove this node from the cluster, move \
         its data directory away and let it join again under a new id"
    )]
    AnotherOwner {
        /// The file, below the data directory.
        file: String,
        /// Whose it is.
        found: u128,
        /// Whose it should be.
        own: u128,
    },
    /// Written by a newer program. Nothing was changed on disk.
    #[error(
        "{file} has log format version {found}; this program knows versions up to {supported}. \
         Start the newer program again"
    )]
    NewerVersion {
        /// The file, below the data directory.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version known here.
        supported: u32,
    },
    /// The options make no sense.
    #[error("log options: {0}")]
    Options(String),
    /// The disk failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the disk said.
        source: io::Error,
    },
}

/// Adds what was tried to a disk's error.
pub(super) fn doing<T>(
    result: io::Result<T>,
    what: impl FnOnce() -> String,
) -> Result<T, WalError> {
    result.map_err(|source| WalError::Io { doing: what(), source })
}
