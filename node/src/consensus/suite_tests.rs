//! openraft's own storage suite, over real files and sled, and over the simulated ones.
//!
//! The suite does two things that never happen to a node, so [`SuiteLog`] stands between: it purges
//! without a snapshot that would carry what it drops, which `log_store` refuses, and it begins some
//! logs at index 1, where the write-ahead log insists on 0. [`SuiteMachine`] does the same for the
//! state machine: the suite installs a snapshot without a network that would have received it, and
//! builds one of a state to which nothing was applied. Everything else goes straight through.

use std::{
    fmt::Debug,
    io,
    ops::RangeBounds,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::Duration,
};

use futures_util::Stream;
use openraft::{
    LogState, RaftLogReader, RaftSnapshotBuilder, StorageError,
    storage::{EntryResponder, RaftLogStorage, RaftStateMachine},
    testing::log::StoreBuilder,
};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    apply::{self, StateMachine},
    cluster_id::ClusterId,
    compare::Comparisons,
    log_store::{LogStore, to_wal},
    membership::LastIn,
    traced::TracedEntries,
    types::{
        Entry, IoFlushed, LogId, Snapshot, SnapshotData, SnapshotMeta, StoredMembership,
        TypeConfig, Vote,
    },
};
use crate::{
    env::Fatal,
    metrics::{Metrics, hot::Names},
    storage::{
        byte_store::StoreFactory,
        disk::Disk,
        real_disk::RealDisk,
        simulated_disk::SimulatedDisk,
        simulated_store::SimulatedStores,
        sled_store::{SledFactory, SledOptions},
        state::{LogExtent, StateHooks, StateOptions, StateStore},
        wal::{self, Wal, WalOptions},
    },
};

/// Keeps a store's directory and log writer for as long as a test of the suite runs.
struct Guard {
    writer: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// The log as the suite wants it. See the module.
#[derive(Clone)]
struct SuiteLog {
    inner: LogStore,
    log: Wal,
    /// The entry that the log was told to begin behind: it never was.
    begun_behind: Arc<Mutex<Option<wal::LogId>>>,
    /// Its true id, once the suite purges what it never appended.
    purged_as: Arc<Mutex<Option<LogId>>>,
}

impl SuiteLog {
    fn hide_beginning(&self, log_id: Option<LogId>) -> Option<LogId> {
        let begun_behind = *self.begun_behind.lock().unwrap();
        match log_id {
            Some(log_id) if Some(to_wal(&log_id)) == begun_behind => {
                *self.purged_as.lock().unwrap()
            }
            other => other,
        }
    }
}

impl RaftLogReader<TypeConfig> for SuiteLog {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<Entry>>
    where
        R: RangeBounds<u64> + Clone + Debug + Send,
    {
        self.inner.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, from: u64, to: u64) -> io::Result<Vec<Entry>> {
        self.inner.limited_get_log_entries(from, to).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.inner.read_vote().await
    }
}

impl RaftLogStorage<TypeConfig> for SuiteLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let state = self.inner.get_log_state().await?;
        Ok(LogState {
            last_purged_log_id: self.hide_beginning(state.last_purged_log_id),
            last_log_id: self.hide_beginning(state.last_log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.inner.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.inner.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.inner.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IoFlushed) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let Some(first) = entries.first().map(|entry| entry.log_id.index)
            && first > 0
            && self.log.last().is_none()
        {
            let before = wal::LogId { term: 0, index: first - 1 };
            *self.begun_behind.lock().unwrap() = Some(before);
            self.log.purge(before).await?;
        }
        self.inner.append(entries, callback).await
    }

    async fn truncate_after(&mut self, keep: Option<LogId>) -> io::Result<()> {
        let keep = keep.as_ref().map(to_wal).or(*self.begun_behind.lock().unwrap());
        self.log.truncate_after(keep).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if self.begun_behind.lock().unwrap().is_some_and(|before| before.index == upto.index) {
            *self.purged_as.lock().unwrap() = Some(upto);
        }
        self.log.purge(to_wal(&upto)).await
    }
}

/// The state machine as the suite wants it. See the module.
#[derive(Clone)]
struct SuiteMachine {
    inner: StateMachine,
    state: Arc<StateStore>,
}

/// A snapshot, or that of the empty state, for which there is no file.
enum SuiteSnapshot {
    Real(SnapshotData),
    OfNothing,
}

type SnapshotOfSuite = openraft::type_config::alias::SnapshotOf<TypeConfig, SuiteSnapshot>;

impl RaftStateMachine<TypeConfig> for SuiteMachine {
    type SnapshotData = SuiteSnapshot;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.inner.applied_state().await
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        self.inner.apply(entries).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SuiteSnapshot,
    ) -> io::Result<()> {
        let SuiteSnapshot::Real(SnapshotData::Outgoing(mut reader)) = snapshot else {
            return Ok(());
        };
        let announced = reader.info().last_log_id;
        let mut receiver = self.state.begin_receive().await.map_err(io::Error::other)?;
        while let Some(chunk) = reader.next_chunk(1000).await.map_err(io::Error::other)? {
            receiver.write(&chunk).await.map_err(io::Error::other)?;
        }
        let received = receiver.finish(announced).await.map_err(io::Error::other)?;
        self.inner.install_snapshot(meta, SnapshotData::Received(received)).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOfSuite>> {
        let snapshot = self.inner.get_current_snapshot().await?;
        Ok(snapshot.map(|Snapshot { meta, snapshot }| SnapshotOfSuite {
            meta,
            snapshot: SuiteSnapshot::Real(snapshot),
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SuiteMachine {
    type SnapshotData = SuiteSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOfSuite> {
        if self.state.applied().is_none() {
            let meta = SnapshotMeta::default();
            return Ok(SnapshotOfSuite { meta, snapshot: SuiteSnapshot::OfNothing });
        }
        let Snapshot { meta, snapshot } = self.inner.build_snapshot().await?;
        Ok(SnapshotOfSuite { meta, snapshot: SuiteSnapshot::Real(snapshot) })
    }
}

async fn build(
    disk: Arc<dyn Disk>,
    stores: Arc<dyn StoreFactory>,
    directory: Option<TempDir>,
) -> (Guard, SuiteLog, SuiteMachine) {
    let fatal: Fatal = Arc::new(|reason| panic!("storage failed: {reason}"));
    let mut options = WalOptions::new(7);
    options.segment_bytes = 1 << 20;
    let (log, writer, recovered) =
        Wal::open(Arc::clone(&disk), options, Arc::clone(&fatal)).await.expect("the log opens");
    let writer = tokio::spawn(writer.run());
    let synced = log.clone();
    let hooks = StateHooks {
        // The suite applies entries that it never appended.
        wait_log_synced: Arc::new(move |_| {
            let synced = synced.clone();
            Box::pin(async move { synced.flush().await })
        }),
        room_to_flush: Arc::new(|_| Box::pin(async { Ok(true) })),
        room_for: Arc::new(|_| Box::pin(async { Ok(true) })),
        log_reaches: Arc::new(|_| Box::pin(async { Ok(()) })),
        fatal,
    };
    assert_eq!(recovered.purged, None, "each test starts from nothing");
    let log_extent = LogExtent { purged: None, last: None };
    let comparisons = Comparisons::open(1, Arc::clone(&disk)).await.expect("the disk is healthy");
    let state = StateStore::open(disk, stores, StateOptions::default(), hooks, log_extent)
        .await
        .expect("the state opens");
    let (snapshots, upkeep) = state.upkeep(Duration::from_secs(3600));
    tokio::spawn(upkeep.run(async {}));
    let applied = watch::channel(0).0;
    let metrics = Metrics::new(0, Names::Off);
    let traced = TracedEntries::default();
    let machine = StateMachine::new(apply::Foundation {
        state: Arc::clone(&state),
        snapshots,
        applied,
        observer: None,
        traced: traced.clone(),
        metrics,
        cluster_id: ClusterId::default(),
        comparisons,
        last_in: LastIn::new(1),
    });
    let machine = SuiteMachine { inner: machine, state: Arc::clone(&state) };
    let inner = LogStore::new(log.clone(), state, Arc::new(AtomicU64::new(0)), None, traced);
    let log = SuiteLog { inner, log, begun_behind: Arc::default(), purged_as: Arc::default() };
    (Guard { writer, _directory: directory }, log, machine)
}

struct Real;

impl StoreBuilder<TypeConfig, SuiteLog, SuiteMachine, Guard> for Real {
    async fn build(&self) -> Result<(Guard, SuiteLog, SuiteMachine), StorageError<TypeConfig>> {
        let directory = TempDir::new().expect("a temporary directory");
        let root = directory.path().to_path_buf();
        let disk = Arc::new(RealDisk::new(root.clone()).expect("the directory is there"));
        let options = SledOptions { cache_bytes: 8 << 20, ..SledOptions::default() };
        let stores = Arc::new(SledFactory::new(root, options));
        // The suite's own future holds one of these for each of its tests.
        Ok(Box::pin(build(disk, stores, Some(directory))).await)
    }
}

struct Simulated;

impl StoreBuilder<TypeConfig, SuiteLog, SuiteMachine, Guard> for Simulated {
    async fn build(&self) -> Result<(Guard, SuiteLog, SuiteMachine), StorageError<TypeConfig>> {
        let disk = Arc::new(SimulatedDisk::new(11));
        let stores = Arc::new(SimulatedStores::new(13));
        Ok(Box::pin(build(disk, stores, None)).await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_suite_passes_on_files_and_sled() {
    openraft::testing::log::Suite::test_all(Real).await.expect("the suite passes");
}

#[tokio::test]
async fn openrafts_suite_passes_on_simulated_storage() {
    openraft::testing::log::Suite::test_all(Simulated).await.expect("the suite passes");
}

/// Found by the simulator: a stream that had failed read once more while its entries were purged.
#[tokio::test]
async fn a_read_for_replication_begins_where_it_was_asked_to() {
    let (_guard, log, _machine) =
        Simulated.build().await.expect("there is nothing that could fail");
    let id = |index| wal::LogId { term: 1, index };
    let entry = |index| wal::Entry { log_id: id(index), kind: 0, payload: bytes::Bytes::new() };
    log.log.append((0..10).map(entry).collect(), Box::new(|_| {})).await.unwrap();
    log.log.purge(id(4)).await.unwrap();
    let mut reader = log.inner.clone();
    assert_eq!(reader.limited_get_log_entries(3, 10).await.unwrap(), Vec::new());
    let indexes = |entries: Vec<Entry>| -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    };
    let found = reader.limited_get_log_entries(5, 10).await.unwrap();
    assert_eq!(indexes(found), [5, 6, 7, 8, 9]);
    // Any other read gets all that there is.
    assert_eq!(indexes(reader.try_get_log_entries(3..7).await.unwrap()), [5, 6]);
}
