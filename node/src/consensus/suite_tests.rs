//! openraft's own storage suite, over real files and sled, and over the simulated ones.
//!
//! The suite purges logs on its own authority, without a snapshot that would carry what it drops.
//! In a node such a purge is refused (see `log_store`), so here the rule is switched off: what is
//! tested is openraft's contract, and the rule has tests of its own.

use std::sync::{Arc, atomic::AtomicU64};

use openraft::{StorageError, testing::log::StoreBuilder};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};

use super::{apply::StateMachine, log_store::LogStore, types::TypeConfig};
use crate::{
    env::Fatal,
    storage::{
        byte_store::StoreFactory,
        disk::Disk,
        real_disk::RealDisk,
        simulated_disk::SimulatedDisk,
        simulated_store::SimulatedStores,
        sled_store::{SledFactory, SledOptions},
        state::{StateHooks, StateOptions, StateStore},
        wal::{Wal, WalOptions},
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

async fn build(
    disk: Arc<dyn Disk>,
    stores: Arc<dyn StoreFactory>,
    directory: Option<TempDir>,
) -> (Guard, LogStore, StateMachine) {
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
        fatal,
    };
    assert_eq!(recovered.purged, None, "each test starts from nothing");
    let state = StateStore::open(disk, stores, StateOptions::default(), hooks, None)
        .await
        .expect("the state opens");
    let machine = StateMachine::new(Arc::clone(&state), log.clone(), watch::channel(0).0);
    let log = LogStore::new_unguarded(log, state, Arc::new(AtomicU64::new(0)));
    (Guard { writer, _directory: directory }, log, machine)
}

struct Real;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Real {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = TempDir::new().expect("a temporary directory");
        let root = directory.path().to_path_buf();
        let disk = Arc::new(RealDisk::new(root.clone()).expect("the directory is there"));
        let options = SledOptions { cache_bytes: 8 << 20, ..SledOptions::default() };
        let stores = Arc::new(SledFactory::new(root, options));
        Ok(build(disk, stores, Some(directory)).await)
    }
}

struct Simulated;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Simulated {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError<TypeConfig>> {
        let disk = Arc::new(SimulatedDisk::new(11));
        let stores = Arc::new(SimulatedStores::new(13));
        Ok(build(disk, stores, None).await)
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
