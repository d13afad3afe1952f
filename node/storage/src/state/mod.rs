//! The replicated state of one node, durable and readable while it changes.
//!
//! # How it works
//!
//! A commit puts its writes into the **dirty map** in memory, together with the log id that they
//! are the state after. Every now and then, or when the map is full, a flush *freezes* it, writes it
//! into the byte store as one batch with its applied id and membership in that same batch, and
//! flushes the store. Readers look into the dirty map, then the frozen one, then the store, of which
//! a cache holds what was read lately.
//!
//! What is not flushed is not lost: the write-ahead log has it, and replays it from the applied id
//! that the store holds. That is the division of labour: the log carries durability, the store
//! carries the past. A flush writes a record once however often it changed, and a leaf of the store once
//! however many of its records did, so flushes are as far apart as memory and the time of a replay allow.
//!
//! # What holds
//!
//! - **Never a mixture.** After a crash the state is exactly the one after some applied id, with
//!   that id and its membership, whatever was going on: flush, snapshot, install, restart.
//! - **Never ahead of its own log.** A flush first waits until the log has synced everything up to
//!   the applied id that it will hold. A leader applies what its followers made durable before its
//!   own sync returns; a store that kept such an entry through a power cut would be at an entry
//!   that its log does not have. An install has the log jump to the snapshot first. So a state that
//!   is ahead of its log says that the log was lost, or is an older copy, and is refused.
//! - **The log may be purged up to [`StateStore::purge_limit`]** and no further: to there, both the
//!   newest snapshot and the byte store are durable. So whichever of the two is damaged, the other
//!   one and the rest of the log still make the whole state.
//! - **Snapshots do not stop writes.** While one is built no flush happens, so the byte store stands
//!   still and is the state at one log id; writes gather in the dirty map. If they fill it, the
//!   snapshot is abandoned, and the next one gets more room ([`ABANDONED_MAX`]). Only where that was not
//!   enough either do writes wait for it, as without snapshots the log would grow without end.
//! - **Its hash is kept with it** ([`hash`]): of the state at each flush, and at each entry that asks for it
//!   ([`StateStore::compare_here`]).
//! - **Installing replaces.** The snapshot becomes a new generation beside the old one, and a rename
//!   makes it the state.
//!
//! # Limits
//!
//! Memory: two dirty maps (one frozen, further frozen ones count with the other) of [`StateOptions::dirty_bytes_max`], one commit above that, while a
//! snapshot is built that was abandoned before as many of them more as it was abandoned ([`ABANDONED_MAX`]),
//! the cache of records, and the room that an empty map keeps for as many records as the one before had
//! (some 100 bytes each, at most 40 MiB). [`StateStore::wait_for_room`] before each commit is what keeps it so. A record counts by its own
//! length: one that is a slice of a larger buffer keeps all of that buffer alive.
//!
//! An error of the byte store, of the pointer file or of a directory sync ends the process through
//! [`StateHooks::fatal`]: nothing is known about storage after it. Errors while a snapshot file is
//! written are answers: the file is thrown away.

mod cache;
mod compared;
mod core;
mod error;
mod flush;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gaps;
mod hash;
mod install;
mod layout;
mod meta;
mod open;
mod snapshots;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{
    fmt, io,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, Notify};

use self::core::Core;
use self::layout::STATE_DIR;
pub use self::{
    compared::StateAt,
    core::StateView,
    error::StateError,
    upkeep::{SnapshotRequests, Upkeep},
};
use super::{
    byte_store::StoreFactory, disk::Disk, log_id::LogId, meters::StorageMeters,
    snapshot::Membership,
};
use tally_machine::view::Writes;

/// Changes between two flushes. A restart applies those again that were not flushed, and this bounds how
/// long it takes: a write changes some three records. While a snapshot is built no flush begins, so then
/// it is more. Measured on two cores with twice as many changes: 650,000 adds to 100,000 counters are
/// applied in under 4 s; with ten million counters, most of which are not in the cache, 300,000 took 20 s.
const CHANGES_MAX: usize = 1_000_000;

/// A snapshot that fills the dirty map is abandoned so often in a row, and has as much room again each time.
/// After that, commits that find no room wait for it.
const ABANDONED_MAX: u32 = 3;

/// How the state store behaves.
#[derive(Debug, Clone)]
pub struct StateOptions {
    /// Bytes of records (with their overhead) in the dirty map before commits have to wait for a
    /// flush, and before a snapshot that is being built is abandoned.
    pub dirty_bytes_max: usize,
    /// Bytes of records, as the byte store holds them, that are kept at hand after a read.
    pub record_cache_bytes: usize,
    /// Makes the cache's hash one that clients can't foresee.
    pub hash_seed: u64,
    /// What the state counts.
    pub meters: Arc<StorageMeters>,
}

impl StateOptions {
    fn cache(&self) -> cache::Cache {
        cache::Cache::new(self.record_cache_bytes, self.hash_seed, Arc::clone(&self.meters))
    }
}

impl Default for StateOptions {
    fn default() -> Self {
        // Some 150,000 records of 256 bytes: a few seconds of writes at full speed.
        StateOptions {
            dirty_bytes_max: 64 << 20,
            record_cache_bytes: 64 << 20,
            hash_seed: 0,
            meters: Arc::default(),
        }
    }
}

/// What the state store needs from the node around it.
#[derive(Clone)]
pub struct StateHooks {
    /// Returns when the write-ahead log has synced everything up to this applied index, truncations
    /// included.
    pub wait_log_synced: Arc<dyn Fn(u64) -> BoxFuture<'static, io::Result<()>> + Send + Sync>,
    /// Whether the disk has room for a flush of so many bytes of changes; makes some where it can. Without
    /// room the flush is put off ([`StateError::NoRoomToFlush`]): one that meets a full disk half-way ends
    /// the process.
    pub room_to_flush: Arc<dyn Fn(u64) -> BoxFuture<'static, io::Result<bool>> + Send + Sync>,
    /// Whether the disk has room for so many bytes besides what is held for flushes.
    pub room_for: Arc<dyn Fn(u64) -> BoxFuture<'static, io::Result<bool>> + Send + Sync>,
    /// Makes the log reach this entry, durably, before a snapshot that ends there becomes the state:
    /// by a jump where the log has another entry there, or none.
    pub log_reaches: Arc<dyn Fn(LogId) -> BoxFuture<'static, io::Result<()>> + Send + Sync>,
    /// Storage can't be trusted any more: ends the process, and does not return there. A test's may
    /// return; then the call that failed answers [`StateError::Fatal`], and a read panics.
    pub fatal: Arc<dyn Fn(String) + Send + Sync>,
}

impl fmt::Debug for StateHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateHooks").finish_non_exhaustive()
    }
}

/// How far the log reaches when the state is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogExtent {
    /// The last entry that it no longer has: a state below it can't be completed by a replay.
    pub purged: Option<LogId>,
    /// Its last entry, or `purged` where there is none: a state is never above it.
    pub last: Option<LogId>,
}

impl LogExtent {
    fn has(&self, log_id: LogId) -> bool {
        self.last.is_some_and(|last| log_id.index <= last.index)
    }
}

/// The replicated state. See the module.
#[derive(Debug)]
pub struct StateStore {
    disk: Arc<dyn Disk>,
    factory: Arc<dyn StoreFactory>,
    options: StateOptions,
    hooks: StateHooks,
    core: RwLock<Core>,
    /// Whoever holds this may write to the byte store or replace it: one flush, one snapshot build
    /// or one install at a time.
    writer: Mutex<Writer>,
    snapshots: snapshots::Snapshots,
    /// Somebody needs room in the dirty map.
    flush_wanted: Notify,
    /// There is room in the dirty map.
    room: Notify,
    /// Snapshots in a row that were abandoned for want of room in the dirty map.
    abandoned: AtomicU32,
    /// One is being built, so no flush makes room.
    building: AtomicBool,
    /// Hashes that were asked for.
    compared: compared::Compared,
    failed: AtomicBool,
    /// Given back at the end of a process that ends well.
    closed: AtomicBool,
}

/// What only the holder of [`StateStore::writer`] knows and changes.
#[derive(Debug)]
struct Writer {
    /// The generation that the pointer names.
    generation: u64,
}

impl StateStore {
    /// Makes writes part of the state, together with the entry that they are the effect of, and the
    /// membership if that entry set one. Readers see all of it or nothing.
    ///
    /// Not durable by itself; the log is. Call [`Self::wait_for_room`] before.
    ///
    /// # Panics
    /// If `applied` is not above what is applied, or a key begins with a zero byte: those are the
    /// state store's own.
    pub fn commit(&self, writes: Writes, applied: LogId, membership: Option<Membership>) {
        let wants_flush = |core: &Core| {
            core.dirty_bytes() >= self.options.dirty_bytes_max || core.changes() >= CHANGES_MAX
        };
        let mut core = self.core_mut();
        let wanted_before = wants_flush(&core);
        core.commit(writes, applied, membership);
        let wants_it_now = !wanted_before && wants_flush(&core);
        drop(core);
        // Once: while the flusher waits for a snapshot each commit would ask for one more.
        if wants_it_now {
            self.flush_wanted.notify_one();
        }
    }

    /// Waits until the dirty map takes another commit. At once, unless it is full, which it is only
    /// while a flush is running behind.
    pub async fn wait_for_room(&self) -> Result<(), StateError> {
        loop {
            let mut freed = std::pin::pin!(self.room.notified());
            // Registered before looking, so that room made in between is not missed.
            freed.as_mut().enable();
            self.check()?;
            if self.core().dirty_bytes() < self.dirty_bytes_max() {
                return Ok(());
            }
            self.flush_wanted.notify_one();
            freed.await;
        }
    }

    /// How full the dirty map may be.
    fn dirty_bytes_max(&self) -> usize {
        let more = match self.building.load(Ordering::SeqCst) {
            true => self.abandoned.load(Ordering::SeqCst).min(ABANDONED_MAX) as usize,
            false => 0,
        };
        self.options.dirty_bytes_max.saturating_mul(1 + more)
    }

    /// Bytes of changes that are not in the byte store yet.
    pub fn unflushed_bytes(&self) -> u64 {
        self.core().unflushed_bytes() as u64
    }

    /// Whether the disk has room for a file of this size, or for a state made of a snapshot of it.
    pub async fn has_room_for(&self, bytes: u64) -> io::Result<bool> {
        (self.hooks.room_for)(bytes).await
    }

    /// The state as it is now, held still while it is read.
    pub fn view(&self) -> StateView<'_> {
        StateView { core: self.core(), state: self }
    }

    /// The last entry applied, durable or not.
    pub fn applied(&self) -> Option<LogId> {
        self.core().meta.applied
    }

    /// The membership as of [`Self::applied`].
    pub fn membership(&self) -> Membership {
        self.core().meta.membership.clone()
    }

    /// The applied id inside the byte store when a flush last returned.
    pub fn flushed_applied(&self) -> Option<LogId> {
        self.core().flushed.applied
    }

    /// How far the log may be purged: what both the newest snapshot and the byte store hold durably.
    pub fn purge_limit(&self) -> Option<LogId> {
        let snapshot = self.current_snapshot()?.last_log_id;
        Some(snapshot.min(self.flushed_applied()?))
    }

    /// Bytes in the dirty map, as counted against [`StateOptions::dirty_bytes_max`].
    pub fn dirty_bytes(&self) -> usize {
        self.core().dirty_bytes()
    }

    /// Bytes of the byte store on disk, approximately. An error says nothing about the state: an
    /// install may have replaced the store while it was measured.
    pub fn size_bytes(&self) -> Result<u64, StateError> {
        let store = self.core().store.clone();
        store.size_bytes().map_err(StateError::io(STATE_DIR))
    }

    fn check(&self) -> Result<(), StateError> {
        match self.failed.load(Ordering::SeqCst) {
            true => Err(StateError::Fatal("it has failed before".into())),
            false => Ok(()),
        }
    }

    /// Storage can't be trusted any more.
    fn fail(&self, reason: String) -> StateError {
        self.failed.store(true, Ordering::SeqCst);
        // Whoever still reads at the end of the process (a peer's question is not waited for) comes
        // too late; the end is a good one all the same.
        if !self.closed.load(Ordering::SeqCst) {
            (self.hooks.fatal)(reason.clone());
        }
        self.room.notify_waiters();
        self.flush_wanted.notify_one();
        StateError::Fatal(reason)
    }

    /// A node that can't read its own state has nothing true to say.
    fn read_failed(&self, error: &io::Error) -> ! {
        let reason = self.fail(format!("reading the byte store: {error}"));
        panic!("{reason}");
    }

    fn core(&self) -> std::sync::RwLockReadGuard<'_, Core> {
        self.core.read().expect("a commit panicked half-way: the state in memory is torn")
    }

    fn core_mut(&self) -> std::sync::RwLockWriteGuard<'_, Core> {
        self.core.write().expect("a commit panicked half-way: the state in memory is torn")
    }
}
