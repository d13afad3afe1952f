//! Making, keeping and handing out snapshot files.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_seeded_bugs as seeded_bugs;
use tally_state_hash::StateHash;
use tokio::time::Instant;

use super::{
    ABANDONED_MAX, StateStore,
    core::SESSION_KEYS,
    error::StateError,
    layout::{BUILD_TMP, SNAPSHOT_DIR, parse_snapshot, snapshot_path},
    meta::{FIRST_KEY, Meta},
};
use crate::{
    byte_store::ByteStore,
    disk::{OpenMode, is_exhausted, is_full, open_patiently, remove_if_there},
    log_id::LogId,
    snapshot::{
        SnapshotInfo,
        format::{Block, Header},
        reader::{SnapshotError, SnapshotFile},
        receive::{Incoming, IncomingName, SnapshotReader, SnapshotReceiver, SnapshotRecords},
        writer::SnapshotWriter,
    },
};

/// Bytes of a snapshot between two looks at the room on the disk: little beside any reserve, and many beside a look.
const ROOM_EVERY_BYTES: u64 = 1 << 20;

/// For so long it is known that a snapshot needs more than there was room for. Meanwhile the state may have become smaller,
/// which nothing else says: then it is tried again, and takes what is not reserved of the disk once more.
const LACKED_FOR: Duration = Duration::from_secs(600);

/// What the state store knows about its snapshot files.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    current: Mutex<Option<SnapshotInfo>>,
    /// The last one that found no room was to become larger than this, and when that was.
    lacked: Mutex<Option<(u64, Instant)>>,
    /// Files that are being read, with what their readers share.
    leases: Mutex<BTreeMap<LogId, Arc<()>>>,
    incoming: Incoming,
    next_temporary: AtomicU64,
    /// Those that wait for a build to give way: installs, as its snapshot would be older than theirs,
    /// and the end of the process.
    urgent: AtomicU64,
}

impl Snapshots {
    pub(super) fn new(current: Option<SnapshotInfo>) -> Self {
        Snapshots { current: Mutex::new(current), ..Snapshots::default() }
    }

    /// Makes builds give way for as long as the guard lives.
    pub(super) fn make_builds_give_way(&self) -> BuildsGiveWay<'_> {
        self.urgent.fetch_add(1, Ordering::SeqCst);
        BuildsGiveWay(self)
    }

    /// A name that no other file of this process has. What is left of it is removed by the next start.
    fn temporary(&self, what: &str) -> String {
        let number = self.next_temporary.fetch_add(1, Ordering::SeqCst);
        format!("{SNAPSHOT_DIR}/{what}-{number}.tmp")
    }

    pub(super) fn set_current(&self, info: SnapshotInfo) {
        *lock(&self.lacked) = None;
        *lock(&self.current) = Some(info);
    }

    fn found_no_room(&self, written: u64) -> StateError {
        let bytes = written + ROOM_EVERY_BYTES;
        *lock(&self.lacked) = Some((bytes, Instant::now()));
        StateError::NoRoomForSnapshot { bytes }
    }

    fn is_read(&self, log_id: LogId) -> bool {
        let mut leases = lock(&self.leases);
        leases.retain(|_, lease| Arc::strong_count(lease) > 1);
        leases.contains_key(&log_id)
    }
}

/// Stands for a build under way, also one that is cancelled.
struct Building<'a>(&'a StateStore);

impl<'a> Building<'a> {
    fn begin(state: &'a StateStore) -> Building<'a> {
        state.building.store(true, Ordering::SeqCst);
        // Whoever waits may have more room now.
        state.room.notify_waiters();
        Building(state)
    }
}

impl Drop for Building<'_> {
    fn drop(&mut self) {
        self.0.building.store(false, Ordering::SeqCst);
    }
}

/// See [`Snapshots::make_builds_give_way`].
pub(super) struct BuildsGiveWay<'a>(&'a Snapshots);

impl Drop for BuildsGiveWay<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds the list of snapshots")
}

impl StateStore {
    /// The newest snapshot whose file and directory entry are durable.
    pub fn current_snapshot(&self) -> Option<SnapshotInfo> {
        lock(&self.snapshots.current).clone()
    }

    /// What the next snapshot takes on the disk at least, as far as that is known: as much as the last one, or as the files
    /// of the state where there is none, which are compressed; and more than what one has lately been written of that found
    /// no room.
    pub fn next_snapshot_bytes(&self) -> u64 {
        let last = self.current_snapshot().map(|snapshot| snapshot.size);
        let known = last.unwrap_or_else(|| self.size_bytes().unwrap_or(0));
        let lacked = lock(&self.snapshots.lacked).filter(|(_, at)| at.elapsed() < LACKED_FOR);
        known.max(lacked.map_or(0, |(bytes, _)| bytes))
    }

    /// A snapshot is being written: it takes of the room that is measured.
    pub fn is_building_snapshot(&self) -> bool {
        self.building.load(Ordering::SeqCst)
    }

    /// Makes a snapshot of everything applied by now (or later, but at one log id), durable when
    /// this returns. Flushes meanwhile wait, commits do not.
    ///
    /// May be cancelled; what it wrote is then removed by the next one, or by the next start.
    pub async fn build_snapshot(&self) -> Result<SnapshotInfo, StateError> {
        let began = Instant::now();
        let mut writer = self.writer.lock().await;
        let before = seeded_bugs::is_on("snapshot-newer-data").then(|| self.core().flushed.clone());
        self.flush(&mut writer).await?;
        // From here to the end the byte store stands still: it changes only under `writer`.
        let (store, meta, hash) = {
            let core = self.core();
            (core.store.clone(), core.flushed.clone(), core.flushed_hash)
        };
        // What describes the records is of the same flush as they are.
        let meta = before.filter(|before| before.applied.is_some()).unwrap_or(meta);
        let last_log_id = meta.applied.ok_or(StateError::NothingApplied)?;
        if let Some(current) = self.current_snapshot()
            && current.last_log_id >= last_log_id
        {
            return Ok(current);
        }
        let building = Building::begin(self);
        let written = self.write_snapshot(store.as_ref(), &meta, last_log_id, &hash).await;
        drop(building);
        let size = match written {
            Ok(size) => {
                self.abandoned.store(0, Ordering::SeqCst);
                size
            }
            // What was written means nothing without its name.
            Err(error @ StateError::SnapshotAbandoned) => {
                // Whoever it gave way to does not wait for its removal.
                let aside = self.snapshots.temporary("abandoned");
                if self.disk.rename(BUILD_TMP, &aside).await.is_ok() {
                    drop(writer);
                    let _ = self.disk.remove_file_aside(&aside).await;
                }
                return Err(error);
            }
            Err(error) => {
                // Whoever is next may need the room.
                let _ = remove_if_there(self.disk.as_ref(), BUILD_TMP).await;
                return Err(error);
            }
        };
        let path = snapshot_path(last_log_id);
        self.adopt(BUILD_TMP, &path).await?;
        let info = SnapshotInfo { last_log_id, membership: meta.membership, path, size };
        self.snapshots.set_current(info.clone());
        drop(writer);
        // One line for some hundred thousand entries: how large the state has grown and how long a
        // build takes by now.
        self.options.meters.snapshot.record(began.elapsed());
        let elapsed_ms = began.elapsed().as_millis() as u64;
        tracing::info!(index = last_log_id.index, bytes = size, elapsed_ms, "built a snapshot");
        self.remove_older_snapshots().await;
        Ok(info)
    }

    /// Streams the byte store into a file, a bounded piece at a time so that other tasks run.
    ///
    /// **Claim.** A snapshot takes nothing of the room that flushes need, but for [`ROOM_EVERY_BYTES`]. How large it becomes
    /// is known only when it is written: the files of the state are compressed, and the last snapshot may be of a smaller
    /// one. So the room is looked at on the way, each so many bytes, and what was written is removed where there is too
    /// little: a disk that a snapshot has filled refuses writes, and ends the process in the next flush. Whoever tries again
    /// first asks for the room that this one lacked ([`StateStore::next_snapshot_bytes`]), so that it is not filled over and
    /// over. What breaks it: an attempt without that question. (`a_snapshot_leaves_the_room_of_flushes`.)
    async fn write_snapshot(
        &self,
        store: &dyn ByteStore,
        meta: &Meta,
        last_log_id: LogId,
        hash: &StateHash,
    ) -> Result<u64, StateError> {
        let io =
            |source| StateError::Snapshot(SnapshotError::Io { path: BUILD_TMP.into(), source });
        remove_if_there(self.disk.as_ref(), BUILD_TMP).await.map_err(io)?;
        let file = self.disk.open(BUILD_TMP, OpenMode::CreateNew).await.map_err(io)?;
        let header = Header { last_log_id, membership: meta.membership.clone() };
        let mut file = SnapshotWriter::begin(file, &header).await.map_err(io)?;
        let mut next = Some(FIRST_KEY.to_vec());
        let mut block = Block::default();
        let mut counted = StateHash::default();
        let mut looked_at = 0;
        while let Some(start) = next {
            self.check_build()?;
            next = read_piece(store, &start, &mut block, &mut counted)
                .map_err(|error| self.fail(format!("reading the byte store: {error}")))?;
            if block.is_full() || (next.is_none() && !block.is_empty()) {
                match file.block(&std::mem::take(&mut block)).await {
                    // Somebody else was faster.
                    Err(error) if is_full(&error) || is_exhausted(&error) => {
                        return Err(self.snapshots.found_no_room(file.written()));
                    }
                    written => written.map_err(io)?,
                }
            }
            if file.written() - looked_at >= ROOM_EVERY_BYTES {
                looked_at = file.written();
                if !self.has_room_for(ROOM_EVERY_BYTES).await.map_err(io)? {
                    return Err(self.snapshots.found_no_room(looked_at));
                }
            }
            tokio::task::yield_now().await;
        }
        self.check_count(last_log_id, hash, &counted)?;
        file.finish().await.map_err(io)
    }

    /// Commits that find no room, an install, and the end are more urgent than a snapshot.
    fn check_build(&self) -> Result<(), StateError> {
        if self.snapshots.urgent.load(Ordering::SeqCst) > 0 {
            return Err(StateError::SnapshotAbandoned);
        }
        let abandoned = self.abandoned.load(Ordering::SeqCst);
        if abandoned < ABANDONED_MAX && self.dirty_bytes() >= self.dirty_bytes_max() {
            self.abandoned.store(abandoned + 1, Ordering::SeqCst);
            if abandoned + 1 == ABANDONED_MAX {
                tracing::warn!(
                    "writes filled the memory beside {ABANDONED_MAX} snapshots in a row: they wait for \
                     the next one if they do so again"
                );
            }
            return Err(StateError::SnapshotAbandoned);
        }
        Ok(())
    }

    /// Gives a complete, synced file its name, durably.
    pub(super) async fn adopt(&self, from: &str, path: &str) -> Result<(), StateError> {
        let renamed = async {
            self.disk.rename(from, path).await?;
            self.disk.sync_dir(SNAPSHOT_DIR).await
        };
        renamed.await.map_err(|error| self.fail(format!("naming the snapshot {path}: {error}")))
    }

    /// Removes what the current snapshot replaces, unless somebody reads it. What stays is removed
    /// by the next snapshot or the next start.
    pub(super) async fn remove_older_snapshots(&self) {
        let Some(current) = self.current_snapshot() else { return };
        let Ok(names) = self.disk.list(SNAPSHOT_DIR).await else { return };
        for log_id in names.iter().filter_map(|name| parse_snapshot(name)) {
            if log_id < current.last_log_id && !self.snapshots.is_read(log_id) {
                let path = snapshot_path(log_id);
                // Aside is fine: the names of snapshots only grow.
                if let Err(error) = self.disk.remove_file_aside(&path).await
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path, %error, "an old snapshot could not be removed");
                }
            }
        }
    }

    /// Opens the current snapshot for sending; `None` if there is none.
    pub async fn open_snapshot_reader(&self) -> Result<Option<SnapshotReader>, StateError> {
        let (info, lease) = {
            let current = lock(&self.snapshots.current);
            let Some(info) = current.clone() else { return Ok(None) };
            let mut leases = lock(&self.snapshots.leases);
            (info.clone(), leases.entry(info.last_log_id).or_default().clone())
        };
        let file = open_patiently(self.disk.as_ref(), &info.path, OpenMode::Read)
            .await
            .map_err(|source| SnapshotError::Io { path: info.path.clone(), source })?;
        Ok(Some(SnapshotReader { info, file, offset: 0, _lease: lease }))
    }

    /// Opens the current snapshot for reading its records; `None` if there is none. What is read is the state at
    /// one log id, whatever is committed, flushed or built meanwhile, and none of that waits for it: all
    /// that it holds is the file, which takes room on the disk for as long as this is kept.
    pub async fn open_snapshot_records(&self) -> Result<Option<SnapshotRecords>, StateError> {
        let Some(SnapshotReader { info, _lease: lease, .. }) = self.open_snapshot_reader().await?
        else {
            return Ok(None);
        };
        let file = SnapshotFile::open(self.disk.as_ref(), &info.path).await?;
        Ok(Some(SnapshotRecords { info, file, _lease: lease }))
    }

    /// Begins to receive a snapshot from another node.
    pub async fn begin_receive(&self) -> Result<SnapshotReceiver, StateError> {
        let path = self.snapshots.temporary("incoming");
        let live = self.snapshots.incoming.clone();
        lock(&live).insert(path.clone());
        let name = IncomingName { path, live };
        self.remove_dead_incoming()
            .await
            .map_err(|source| SnapshotError::Io { path: SNAPSHOT_DIR.into(), source })?;
        let file = self
            .disk
            .open(&name.path, OpenMode::CreateNew)
            .await
            .map_err(|source| SnapshotError::Io { path: name.path.clone(), source })?;
        Ok(SnapshotReceiver { disk: self.disk.clone(), file, name, received: 0 })
    }

    async fn remove_dead_incoming(&self) -> io::Result<()> {
        for name in self.disk.list(SNAPSHOT_DIR).await? {
            let path = format!("{SNAPSHOT_DIR}/{name}");
            let live = lock(&self.snapshots.incoming).contains(&path);
            if name.starts_with("incoming-") && !live {
                remove_if_there(self.disk.as_ref(), &path).await?;
            }
        }
        Ok(())
    }
}

/// So many records are read at once, then others run: a block of small records has thousands.
const PIECE_RECORDS: usize = 256;

/// Reads on from a key into a block, until that is full or it has read [`PIECE_RECORDS`]. Says where to
/// go on, unless that was all.
fn read_piece(
    store: &dyn ByteStore,
    start: &[u8],
    block: &mut Block,
    hash: &mut StateHash,
) -> io::Result<Option<Vec<u8>>> {
    let mut next = None;
    let mut read = 0;
    store.scan(start, None, &mut |key, value| {
        hash.add(key, value);
        if seeded_bugs::is_on("sessions-not-in-snapshot") && SESSION_KEYS.contains(&key[0]) {
            return ControlFlow::Continue(());
        }
        block.push(key, value);
        read += 1;
        if !block.is_full() && read < PIECE_RECORDS {
            return ControlFlow::Continue(());
        }
        // The smallest key above this one.
        next = Some([key, &[0]].concat());
        ControlFlow::Break(())
    })?;
    Ok(next)
}
