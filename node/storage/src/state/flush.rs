//! Moving the dirty map into the byte store.

use std::{sync::Arc, time::Duration};

use tally_seeded_bugs as seeded_bugs;
use tokio::time::Instant;

use super::{StateStore, Writer, core::Frozen, error::StateError, hash, meta::META_KEY};
use crate::byte_store::{ByteStore, Records};
use tally_machine::view::Change;

/// What is done for each record of a flush, which may be hundreds of thousands, is done for so many
/// and then lets others run: the end of the upkeep, or what else is on the thread of whoever closes it.
const PIECE_RECORDS: usize = 512;

/// How long a flush waits that found no room on the disk, or an install.
pub(super) const PAUSE_WITHOUT_ROOM: Duration = Duration::from_secs(1);

/// Drops what was frozen, unless somebody else still has it.
async fn let_go(frozen: Frozen) {
    let Ok(records) = Arc::try_unwrap(frozen.records) else { return };
    let mut records = records.into_iter();
    while records.by_ref().take(PIECE_RECORDS).count() == PIECE_RECORDS {
        tokio::task::yield_now().await;
    }
}

impl StateStore {
    /// Flushes every `interval`, and at once when the dirty map is full or a replay would take long.
    /// Without room on the disk it tries again and again: commits wait when the map is full, and
    /// writes are refused by then. Ends when storage has failed. [`super::Upkeep`] runs it; without it
    /// [`StateStore::wait_for_room`] waits for ever.
    pub async fn run_flusher(self: Arc<Self>, interval: Duration) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = self.flush_wanted.notified() => {}
            }
            loop {
                match self.flush_now().await {
                    Ok(()) => break,
                    // Not at once, though somebody may want it: only time makes room.
                    Err(StateError::NoRoomToFlush) => {
                        tokio::time::sleep(interval.min(PAUSE_WITHOUT_ROOM)).await;
                    }
                    Err(_) => return,
                }
            }
        }
    }

    /// Makes everything committed so far durable in the byte store. Waits for a snapshot that is
    /// being built.
    pub async fn flush_now(&self) -> Result<(), StateError> {
        let mut writer = self.writer.lock().await;
        self.flush(&mut writer).await
    }

    /// The flush itself. May be cancelled at any await: what was frozen stays frozen, and the next
    /// flush writes it once more, which changes nothing.
    pub(super) async fn flush(&self, writer: &mut Writer) -> Result<(), StateError> {
        self.check()?;
        let mut has_frozen = false;
        loop {
            let is_left = self.core().oldest_frozen().is_some();
            if !is_left {
                // What is committed after this is the next flush's.
                if std::mem::replace(&mut has_frozen, true) || !self.core_mut().freeze() {
                    return Ok(());
                }
                self.room.notify_waiters();
            }
            self.write_frozen(writer).await?;
        }
    }

    /// Writes the oldest of the frozen maps.
    async fn write_frozen(&self, _writer: &mut Writer) -> Result<(), StateError> {
        let began = Instant::now();
        self.hash_frozen().await?;
        let (frozen, store, cache) = {
            let core = self.core();
            let frozen = core.oldest_frozen().cloned().expect("there is something to flush");
            (frozen, core.store.clone(), core.cache.clone())
        };
        // A store ahead of its own log would survive a power cut with an entry that the log lost.
        if let Some(applied) = frozen.meta.applied
            && !seeded_bugs::is_on("flush-ahead-of-log")
        {
            (self.hooks.wait_log_synced)(applied.index)
                .await
                .map_err(|error| self.fail(format!("waiting for the log's sync: {error}")))?;
        }
        let has_room = (self.hooks.room_to_flush)(frozen.bytes as u64).await;
        if !has_room.map_err(|error| self.fail(format!("looking for room to flush: {error}")))? {
            return Err(StateError::NoRoomToFlush);
        }
        // Both in one batch, and nothing of it before.
        if seeded_bugs::is_on("applied-saved-after") {
            self.write_part(store.as_ref(), &frozen, |key| *key != META_KEY).await?;
        }
        if seeded_bugs::is_on("applied-saved-before") {
            self.write_part(store.as_ref(), &frozen, |key| *key == META_KEY).await?;
        }
        store
            .write(frozen.records.clone())
            .await
            .map_err(|error| self.fail(format!("writing to the byte store: {error}")))?;
        if seeded_bugs::is_on("stored-byte-flips") {
            self.write_one_flipped(store.as_ref(), &frozen).await?;
        }
        let flushed = store.flush().await;
        if !seeded_bugs::is_on("store-error-overlooked") {
            flushed.map_err(|error| self.fail(format!("flushing the byte store: {error}")))?;
        }
        if !seeded_bugs::is_on("record-cache-stale") {
            let mut records = frozen.records.iter();
            while cache.update(records.by_ref().take(PIECE_RECORDS)) == PIECE_RECORDS {
                tokio::task::yield_now().await;
            }
        }
        let (records, elapsed) = (frozen.records.len(), began.elapsed());
        self.options.meters.flush.record(elapsed);
        self.options.meters.flushed_records.add(records as u64);
        tracing::debug!(records, elapsed_ms = elapsed.as_millis() as u64, "flushed the state");
        drop(self.core_mut().thaw());
        // Whoever waits may have more room now: frozen maps behind this one count against it.
        self.room.notify_waiters();
        let_go(frozen).await;
        Ok(())
    }

    /// Makes the hash of the state with the oldest frozen map, unless a flush that was cancelled has, and tells whoever
    /// compares it.
    async fn hash_frozen(&self) -> Result<(), StateError> {
        let (frozen, store, cache, mut hash) = {
            let core = self.core();
            let frozen = core.oldest_frozen().cloned().expect("there is something to flush");
            (frozen, core.store.clone(), core.cache.clone(), core.flushed_hash)
        };
        if frozen.hash.is_some() {
            return Ok(());
        }
        let mut changes = frozen.records.iter();
        loop {
            let piece = changes.by_ref().take(PIECE_RECORDS);
            let (next, count) = hash::after(hash, piece, store.as_ref(), &cache)
                .map_err(|error| self.fail(format!("reading the byte store: {error}")))?;
            hash = next;
            if count < PIECE_RECORDS {
                break;
            }
            tokio::task::yield_now().await;
        }
        let (meta, is_compared) = (frozen.meta.clone(), frozen.is_compared);
        drop(frozen);
        self.core_mut().set_hash(hash);
        if is_compared {
            self.tell_hash(meta, hash);
        }
        Ok(())
    }

    /// Writes and flushes some of the records alone, and takes its time until the rest follows:
    /// what only a seeded bug does.
    async fn write_part(
        &self,
        store: &dyn ByteStore,
        frozen: &Frozen,
        part: fn(&[u8]) -> bool,
    ) -> Result<(), StateError> {
        let records: Records = frozen
            .records
            .iter()
            .filter(|(key, _)| part(key))
            .map(|(key, value)| (key.to_bytes(), value.clone()))
            .collect();
        let written = async {
            store.write(Arc::new(records)).await?;
            store.flush().await
        };
        written.await.map_err(|error| self.fail(format!("writing to the byte store: {error}")))?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok(())
    }

    /// Writes the first counter or key of a flush once more, with a bit of it flipped, now and then: what only a seeded
    /// bug does.
    async fn write_one_flipped(
        &self,
        store: &dyn ByteStore,
        frozen: &Frozen,
    ) -> Result<(), StateError> {
        let is_item = |key: &[u8]| matches!(key.first(), Some(0x10 | 0x11));
        let items = frozen.records.iter().filter(|(key, _)| is_item(key));
        let mut items = items.filter_map(|(key, change)| Some((key, change.value()?)));
        let is_chosen = frozen.meta.applied.is_some_and(|applied| applied.index % 5 == 0);
        let Some((key, value)) = items.next().filter(|_| is_chosen) else { return Ok(()) };
        let mut flipped = value.to_vec();
        *flipped.last_mut().expect("a record is not empty") ^= 1;
        let record = Records::from([(key.to_bytes(), Change::Put(flipped.into()))]);
        let written = store.write(Arc::new(record)).await;
        written.map_err(|error| self.fail(format!("writing to the byte store: {error}")))
    }

    /// Flushes and gives the byte store back, at the end of a process that ends well. Nothing else
    /// is called after it.
    pub async fn close(&self) -> Result<(), StateError> {
        let _giving_way = self.snapshots.make_builds_give_way();
        let mut writer = self.writer.lock().await;
        let flushed = self.flush(&mut writer).await;
        if matches!(flushed, Err(StateError::Fatal(_))) {
            return flushed;
        }
        self.closed.store(true, std::sync::atomic::Ordering::SeqCst);
        let store = self.core().store.clone();
        store.close().await;
        self.failed.store(true, std::sync::atomic::Ordering::SeqCst);
        self.flush_wanted.notify_one();
        flushed
    }
}
