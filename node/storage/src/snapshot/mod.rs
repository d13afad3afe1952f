//! Snapshot files: the whole state at one log id, in one file that any replica can check.
//!
//! [`mod@format`] says what the bytes are, [`writer`] and [`reader`] stream them over a
//! [`Disk`](super::disk::Disk), [`receive`] takes a file from another node. When a snapshot is made
//! and what installing one means is the state store's business, see [`super::state`].

pub mod format;
pub mod reader;
pub mod receive;
pub mod writer;

use bytes::Bytes;

use super::log_id::LogId;

/// The cluster's membership, as bytes that only consensus reads, with the entry that set it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// The entry that set it; none before the first.
    pub log_id: Option<LogId>,
    /// Its encoding.
    pub encoded: Bytes,
}

/// A complete snapshot file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last entry in it.
    pub last_log_id: LogId,
    /// The membership as of that entry.
    pub membership: Membership,
    /// Where it is, below the data directory.
    pub path: String,
    /// Its length in bytes.
    pub size: u64,
}
