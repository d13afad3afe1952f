//! Replacing the whole state by a snapshot.

use std::{io, ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use tally_seeded_bugs as seeded_bugs;
use tally_state_hash::StateHash;

use super::{
    StateStore,
    core::Core,
    error::StateError,
    flush::PAUSE_WITHOUT_ROOM,
    hash::{self, HASH_KEY},
    layout::{generation_path, snapshot_path, write_pointer},
    meta::{FIRST_KEY, META_KEY, Meta},
};
use crate::{
    byte_store::{ByteStore, Records, StoreFactory},
    disk::{Disk, remove_if_there},
    snapshot::{SnapshotInfo, reader::SnapshotFile, receive::ReceivedSnapshot},
};
use tally_machine::view::Change;

/// Bytes in one batch while a generation is filled. Nothing depends on it being one batch: the
/// generation counts from the moment that the pointer names it.
const FILL_BATCH_BYTES: usize = 4 << 20;

impl StateStore {
    /// Makes a received snapshot the state: durable when this returns. Everything that was there
    /// before is gone, and readers see the old state or the new one.
    ///
    /// The caller sees to it that no commit happens meanwhile. Cancelled while the pointer is written,
    /// it ends the process: memory and disk would be of two different states.
    ///
    /// The steps, and what a crash after each of them leaves:
    /// 1. the file gets its name: the old state. The next start removes the file, unless the log has
    ///    its last entry: then it may roll forward to it;
    /// 2. a new generation is filled and flushed: the same, and the next start removes the copy;
    /// 3. the log jumps to the snapshot, durably: the old state is behind where the log begins now, so
    ///    the next start makes the new state of the snapshot, whose file is durable since step 1;
    /// 4. the pointer names the new generation: the new state;
    /// 5. memory, then the old generation and older snapshots: the next start removes those.
    ///
    /// The log's jump comes before the pointer, so that the state is ahead of its log after no step.
    pub async fn install_snapshot(
        &self,
        received: ReceivedSnapshot,
    ) -> Result<SnapshotInfo, StateError> {
        let waits = self.snapshots.make_builds_give_way();
        let mut writer = self.writer.lock().await;
        drop(waits);
        self.check()?;
        let ReceivedSnapshot { info, name } = received;
        let snapshot = info.last_log_id;
        if let Some(applied) = self.applied()
            && snapshot <= applied
        {
            let _ = remove_if_there(self.disk.as_ref(), &name.path).await;
            return Err(StateError::SnapshotBehind { snapshot, applied });
        }
        self.wait_for_room_to_install(info.size).await?;
        let path = snapshot_path(snapshot);
        self.adopt(&name.path, &path).await?;
        let info = SnapshotInfo { path, ..info };

        let generation = writer.generation + 1;
        if seeded_bugs::is_on("install-not-atomic") {
            let written = write_pointer(self.disk.as_ref(), generation).await;
            written.map_err(|error| self.fail(format!("writing the state's pointer: {error}")))?;
        }
        let filled = fill(self.disk.as_ref(), self.factory.as_ref(), generation, &info).await;
        let (store, meta) = filled.map_err(|error| self.fail(format!("installing: {error}")))?;
        let hash = hash::stored_or_counted(store.as_ref(), &meta);
        let hash = hash.map_err(|error| self.fail(format!("installing: {error}")))?;
        if seeded_bugs::is_on("install-merges") {
            let merged = self.add_old_records(store.as_ref()).await;
            merged.map_err(|error| self.fail(format!("installing: {error}")))?;
        }
        if !seeded_bugs::is_on("install-before-jump") {
            let reached = (self.hooks.log_reaches)(snapshot).await;
            reached.map_err(|error| self.fail(format!("the log's jump: {error}")))?;
        }
        let swap = Swap(self);
        let written = write_pointer(self.disk.as_ref(), generation).await;
        swap.end();
        written.map_err(|error| self.fail(format!("writing the state's pointer: {error}")))?;

        let old_generation = std::mem::replace(&mut writer.generation, generation);
        let old = {
            let mut core = self.core_mut();
            assert!(
                core.meta.applied < Some(snapshot),
                "commits went past {snapshot} while it was installed"
            );
            std::mem::replace(&mut *core, Core::new(store, self.options.cache(), meta, hash))
        };
        self.snapshots.set_current(info.clone());
        self.room.notify_waiters();
        old.store.close().await;
        drop(old);
        self.remove_generation(old_generation).await;
        drop(writer);
        self.remove_older_snapshots().await;
        Ok(info)
    }

    /// A new generation takes about as much as the snapshot's file. One that meets a full disk half-way would
    /// end the process; until there is room, the old state serves what it can.
    async fn wait_for_room_to_install(&self, bytes: u64) -> Result<(), StateError> {
        let mut is_told = false;
        loop {
            let has_room = (self.hooks.room_for)(bytes).await;
            let has_room =
                has_room.map_err(|error| self.fail(format!("looking for room: {error}")))?;
            if has_room {
                return Ok(());
            }
            if !is_told {
                tracing::error!(
                    bytes,
                    "the disk has no room to install a snapshot: waiting for some"
                );
                is_told = true;
            }
            self.check()?;
            tokio::time::sleep(PAUSE_WITHOUT_ROOM).await;
        }
    }

    /// Adds what the state has and a new generation lacks: what only a seeded bug does.
    async fn add_old_records(&self, store: &dyn ByteStore) -> io::Result<()> {
        let mut old = Records::new();
        self.core().scan(FIRST_KEY, &[u8::MAX], &mut |key, value| {
            old.insert(Bytes::copy_from_slice(key), Change::Put(value.clone()));
            ControlFlow::Continue(())
        })?;
        store.scan(FIRST_KEY, None, &mut |key, _| {
            old.remove(key);
            ControlFlow::Continue(())
        })?;
        store.write(Arc::new(old)).await?;
        store.flush().await
    }

    /// What stays behind is removed by the next start.
    async fn remove_generation(&self, generation: u64) {
        let path = generation_path(generation);
        if let Err(error) = self.factory.remove(&path).await {
            tracing::warn!(path, %error, "an old generation of the state could not be removed");
        }
    }
}

/// Stands for the time in which nobody knows which generation the pointer names.
struct Swap<'a>(&'a StateStore);

impl Swap<'_> {
    fn end(self) {
        std::mem::forget(self);
    }
}

impl Drop for Swap<'_> {
    fn drop(&mut self) {
        self.0.fail("an install was cancelled while it wrote the state's pointer".into());
    }
}

/// Makes a new generation of a snapshot: flushed, and not named by the pointer yet.
pub(super) async fn fill(
    disk: &dyn Disk,
    factory: &dyn StoreFactory,
    generation: u64,
    snapshot: &SnapshotInfo,
) -> Result<(Arc<dyn ByteStore>, Meta), StateError> {
    let path = generation_path(generation);
    let io = StateError::io(&path);
    // Left by an install that was cancelled.
    factory.remove(&path).await.map_err(&io)?;
    let store = factory.create(&path).await.map_err(&io)?;
    let mut file = SnapshotFile::open(disk, &snapshot.path).await?;
    let mut batch = Records::new();
    let mut batch_bytes = 0;
    // Of what is in the file: a record that does not get into the store differs from it.
    let mut hash = StateHash::default();
    if seeded_bugs::is_on("install-not-atomic") {
        let membership = file.header().membership.clone();
        let meta = Meta { applied: Some(snapshot.last_log_id), membership };
        store
            .write(Arc::new(Records::from([(META_KEY, Change::Put(meta.encode()))])))
            .await
            .map_err(&io)?;
        store.flush().await.map_err(&io)?;
    }
    while let Some(records) = file.next_block().await? {
        if batch_bytes > 0 && seeded_bugs::is_on("install-forgets-a-block") {
            batch = Records::new();
        }
        for (key, value) in records {
            batch_bytes += key.len() + value.len();
            hash.add(&key, &value);
            batch.insert(key, Change::Put(value));
        }
        if batch_bytes >= FILL_BATCH_BYTES {
            store.write(Arc::new(std::mem::take(&mut batch))).await.map_err(&io)?;
            batch_bytes = 0;
        }
        tokio::task::yield_now().await;
    }
    let meta =
        Meta { applied: Some(snapshot.last_log_id), membership: file.header().membership.clone() };
    batch.insert(META_KEY, Change::Put(meta.encode()));
    batch.insert(HASH_KEY, Change::Put(hash::encode(meta.applied, &hash)));
    store.write(Arc::new(batch)).await.map_err(&io)?;
    store.flush().await.map_err(&io)?;
    Ok((store, meta))
}

/// Makes a new generation that is empty: the state before the first entry.
pub(super) async fn fill_empty(
    factory: &dyn StoreFactory,
    generation: u64,
) -> Result<(Arc<dyn ByteStore>, Meta), StateError> {
    let path = generation_path(generation);
    let io = StateError::io(&path);
    let store = factory.create(&path).await.map_err(&io)?;
    let meta = Meta::default();
    store
        .write(Arc::new(Records::from([(META_KEY, Change::Put(meta.encode()))])))
        .await
        .map_err(&io)?;
    store.flush().await.map_err(&io)?;
    Ok((store, meta))
}
