//! Takes a snapshot file from another node, and hands one out.
//!
//! What arrives goes to `snap/incoming-<n>.tmp`. Nothing reads such a file before
//! [`SnapshotReceiver::finish`] has synced and checked all of it; one whose receiver is gone is
//! removed when the next begins, or at the next start.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::{
    SnapshotInfo,
    reader::{SnapshotError, SnapshotFile, verify},
};
use crate::{
    disk::{Disk, File},
    log_id::LogId,
};

/// Names of the incoming files that still have a receiver (or wait to be installed).
pub(crate) type Incoming = Arc<Mutex<BTreeSet<String>>>;

/// Keeps an incoming file from being removed.
#[derive(Debug)]
pub(crate) struct IncomingName {
    pub(crate) path: String,
    pub(crate) live: Incoming,
}

impl Drop for IncomingName {
    fn drop(&mut self) {
        // Only a panic elsewhere can have poisoned it, and then a left-over file does not matter.
        if let Ok(mut live) = self.live.lock() {
            live.remove(&self.path);
        }
    }
}

/// A snapshot that is arriving.
#[derive(Debug)]
pub struct SnapshotReceiver {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) file: Box<dyn File>,
    pub(crate) name: IncomingName,
    pub(crate) received: u64,
}

impl SnapshotReceiver {
    /// Bytes so far: where the next chunk goes.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Appends a chunk.
    pub async fn write(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        match self.file.write_at(self.received, chunk).await {
            Ok(()) => {
                self.received += chunk.len() as u64;
                Ok(())
            }
            Err(source) => Err(SnapshotError::Io { path: self.name.path.clone(), source }),
        }
    }

    /// All chunks are here: makes the file durable and checks every byte of it, and that it is the
    /// snapshot that was announced.
    pub async fn finish(mut self, announced: LogId) -> Result<ReceivedSnapshot, SnapshotError> {
        if let Err(source) = self.file.sync().await {
            return Err(SnapshotError::Io { path: self.name.path.clone(), source });
        }
        let info = verify(self.disk.as_ref(), &self.name.path).await?;
        if info.last_log_id != announced {
            return Err(SnapshotError::Damaged {
                path: info.path,
                offset: 0,
                reason: "it is not the snapshot that was announced",
            });
        }
        Ok(ReceivedSnapshot { info, name: self.name })
    }
}

/// A snapshot that arrived whole and is durable, but not part of this node's state yet.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    pub(crate) info: SnapshotInfo,
    pub(crate) name: IncomingName,
}

impl ReceivedSnapshot {
    /// What it is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }
}

/// A complete snapshot file, read in chunks to send it. The file stays until this is dropped.
#[derive(Debug)]
pub struct SnapshotReader {
    pub(crate) info: SnapshotInfo,
    pub(crate) file: Box<dyn File>,
    pub(crate) offset: u64,
    /// Counted by the state store, which removes only files that nobody reads.
    pub(crate) _lease: Arc<()>,
}

/// A complete snapshot file, read record by record. The file stays until this is dropped.
#[derive(Debug)]
pub struct SnapshotRecords {
    pub(crate) info: SnapshotInfo,
    pub(crate) file: SnapshotFile,
    /// As that of a [`SnapshotReader`].
    pub(crate) _lease: Arc<()>,
}

impl SnapshotRecords {
    /// What it is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// How many bytes of the file were read.
    pub fn position(&self) -> u64 {
        self.file.position()
    }

    /// The next records, in ascending order; `None` after the last, when all of the file was right.
    pub async fn next_block(&mut self) -> Result<Option<Vec<(Bytes, Bytes)>>, SnapshotError> {
        self.file.next_block().await
    }
}

impl SnapshotReader {
    /// What it is.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// The next chunk, at most `len` bytes; `None` at the end.
    pub async fn next_chunk(&mut self, len: usize) -> Result<Option<Bytes>, SnapshotError> {
        let bytes = self
            .file
            .read_at(self.offset, len)
            .await
            .map_err(|source| SnapshotError::Io { path: self.info.path.clone(), source })?;
        self.offset += bytes.len() as u64;
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}
