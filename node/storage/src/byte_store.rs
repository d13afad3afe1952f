//! The byte-store contract: the least that the replicated state needs of a storage engine.
//!
//! It is kept this low on purpose. What is hard about a state store (which writes are durable
//! together, what may be purged, how a snapshot replaces everything) lives above it, in
//! [`super::state`], and runs unchanged over the real engine and over a simulated one. An
//! implementation maps these few calls and adds no cleverness.
//!
//! # What holds
//!
//! - **Order.** There is one writer: `write` and `flush` are never called while another `write` or
//!   `flush` of the same store runs. Writes take effect in the order of the calls. A call whose
//!   future was dropped counts too: it has an effect, none, or will have it before the next call.
//! - **Durability is a prefix.** After a crash the store holds the batches up to some point in the
//!   order of the calls: at least everything written before the last `flush` that returned `Ok`, at
//!   most everything. A batch is there whole or not at all.
//! - **Reading meanwhile.** `get` and `scan` may be called from any number of tasks at any time,
//!   also while a batch is written. A reader may then see *part* of that batch; the layer above
//!   hides this by reading the batch from memory until it is written. A scan is no point in time
//!   either, unless nothing is written while it runs.
//! - **Errors are final.** After the first error of `write` or `flush` nothing is known about the
//!   store any more; none of its methods is called again and the process ends. An error of `get`
//!   or `scan` ends it too.

use std::{fmt::Debug, io, ops::ControlFlow, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use tally_machine::changes::Changes;

/// Records to write. Shared, because readers look into it while it is written. For a store an
/// insert is a put: after a flush that was cancelled the same batch comes again.
pub type Records = Changes;

/// Is called with each record of a scan and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>;

/// An ordered map from bytes to bytes. See the module for its contract.
#[async_trait]
pub trait ByteStore: Debug + Send + Sync + 'static {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>>;

    /// Visits `start <= key < end` in ascending byte order until told to stop; no `end` means to
    /// the last record.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> io::Result<()>;

    /// Writes one batch, atomic against a crash. Not durable before a `flush`.
    async fn write(&self, batch: Arc<Records>) -> io::Result<()>;

    /// Makes everything written so far durable.
    async fn flush(&self) -> io::Result<()>;

    /// Gives memory and files back. The caller has no reader left and calls nothing after it.
    /// Without it, dropping a store leaves its files as a crash would.
    async fn close(&self);

    /// Bytes on disk, approximately.
    fn size_bytes(&self) -> io::Result<u64>;
}

/// Makes and opens byte stores, each in a directory of its own.
///
/// Paths are relative to the node's data directory, with `/` between parts, as in
/// [`super::disk::Disk`].
#[async_trait]
pub trait StoreFactory: Debug + Send + Sync + 'static {
    /// Makes an empty store. When it returns, every file and directory of it is durable, and so is
    /// its entry in the parent directory. A crash before that leaves nothing, or something that
    /// `list` shows and that may or may not open.
    async fn create(&self, path: &str) -> io::Result<Arc<dyn ByteStore>>;

    /// Opens a store, after having read all of it: damage is found here, where another copy of the
    /// state can take its place, and not by a reader some day.
    ///
    /// `InvalidData` means that its content can't be used (damaged, or the engine crashed or hung
    /// on it), `NotFound` that there is none: in both cases another copy of the state has to take
    /// its place. Every other error says nothing about the content: leave the directory alone.
    async fn open(&self, path: &str) -> io::Result<Arc<dyn ByteStore>>;

    /// Names of the stores below a directory, sorted.
    async fn list(&self, parent: &str) -> io::Result<Vec<String>>;

    /// Moves a store that is not open to another name, durably.
    async fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a store that is not open. It may be back, whole or in part, after a crash.
    async fn remove(&self, path: &str) -> io::Result<()>;
}
