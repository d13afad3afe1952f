//! The state store over a simulated disk and simulated byte stores.

mod basics;
mod crashes;
mod hashes;
mod random;
mod real;
mod recovery;
mod together;
mod upkeep;

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::{LogExtent, StateAt, StateHooks, StateOptions, StateStore, error::StateError};
use crate::{
    log_id::LogId,
    simulated_store::SimulatedStores,
    snapshot::Membership,
    test_disk::{Steps, TestDisk},
};
use tally_machine::view::{Change, View, Writes};
use tally_state_hash::StateHash;

/// One simulated node's storage, across crashes.
struct Node {
    disk: TestDisk,
    stores: SimulatedStores,
    steps: Steps,
    options: StateOptions,
    fatal: Arc<Mutex<Vec<String>>>,
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

impl Node {
    fn new(seed: u64) -> Self {
        let steps = Steps::default();
        Node {
            disk: TestDisk::new(seed, steps.clone()),
            stores: SimulatedStores::with_hook(seed, steps.hook()),
            steps,
            options: StateOptions::default(),
            fatal: Arc::default(),
        }
    }

    fn hooks(&self) -> StateHooks {
        let fatal = self.fatal.clone();
        StateHooks {
            wait_log_synced: Arc::new(|_| Box::pin(async { Ok::<(), io::Error>(()) })),
            room_to_flush: Arc::new(|_| Box::pin(async { Ok(true) })),
            room_for: Arc::new(|_| Box::pin(async { Ok(true) })),
            log_reaches: Arc::new(|_| Box::pin(async { Ok(()) })),
            fatal: Arc::new(move |reason| fatal.lock().unwrap().push(reason)),
        }
    }

    async fn open(&self, log_purged_upto: Option<LogId>) -> Result<Arc<StateStore>, StateError> {
        self.open_with(self.hooks(), log_purged_upto).await
    }

    async fn open_with(
        &self,
        hooks: StateHooks,
        log_purged_upto: Option<LogId>,
    ) -> Result<Arc<StateStore>, StateError> {
        // There is no log here; one that reaches as far as anybody asks.
        let log = LogExtent { purged: log_purged_upto, last: Some(id(u64::MAX)) };
        self.open_behind(hooks, log).await
    }

    async fn open_behind(
        &self,
        hooks: StateHooks,
        log: LogExtent,
    ) -> Result<Arc<StateStore>, StateError> {
        let disk = Arc::new(self.disk.mount());
        let stores = Arc::new(self.stores.clone());
        StateStore::open(disk, stores, self.options.clone(), hooks, log).await
    }

    fn crash(&self) {
        self.steps.stop_at(None);
        self.disk.crash();
        self.stores.crash();
    }
}

fn id(index: u64) -> LogId {
    LogId::new(1, index)
}

fn membership(index: u64) -> Membership {
    Membership { log_id: Some(id(index)), encoded: format!("voters at {index}").into() }
}

/// The effect of entry `index`: it overwrites, adds and deletes, so that no two states are alike.
fn effect(index: u64) -> Writes {
    let mut writes = Writes::default();
    writes.put("index".into(), index.to_string().into());
    writes.insert(format!("key {:04}", index).into(), format!("value {index}").into());
    writes.put(format!("slot {}", index % 7).into(), index.to_string().into());
    if index >= 5 {
        writes.delete(format!("key {:04}", index - 5).into());
    }
    writes
}

fn commit(state: &StateStore, index: u64) {
    let membership = (index % 10 == 1).then(|| membership(index));
    state.commit(effect(index), id(index), membership);
}

/// Enough large records that a build takes several pieces.
fn big(index: u64) -> Writes {
    let mut writes = effect(index);
    writes.put(format!("big {}", index % 9).into(), vec![index as u8; 100_000].into());
    writes
}

async fn build_has_begun(node: &Node) {
    while node.disk.read("snap/build.tmp").is_none() {
        tokio::task::yield_now().await;
    }
}

/// What the state is after entries 1 to `upto`.
fn model(upto: u64) -> Records {
    let mut records = Records::new();
    for index in 1..=upto {
        for (key, value) in effect(index).records {
            match value.value() {
                Some(value) => records.insert(key.bytes().to_vec(), value.to_vec()),
                None => records.remove(&key.bytes()[..]),
            };
        }
    }
    records
}

fn model_membership(upto: u64) -> Membership {
    (1..=upto).rev().find(|index| index % 10 == 1).map(membership).unwrap_or_default()
}

fn contents(state: &StateStore) -> Records {
    let mut records = Records::new();
    state.view().scan(&[], &[0xFF; 8], &mut |key, value: &Bytes| {
        let doubled = records.insert(key.to_vec(), value.to_vec());
        assert_eq!(doubled, None, "a scan visited {key:?} twice");
        ControlFlow::Continue(())
    });
    records
}

fn hash_of(records: &Records) -> StateHash {
    let mut hash = StateHash::default();
    records.iter().for_each(|(key, value)| hash.add(key, value));
    hash
}

/// The hash that is kept is that of the records, counted anew, wherever it is known.
fn check_hashes(state: &StateStore) {
    let (flushed, hash) = state.flushed_hash();
    let at = flushed.map_or(0, |flushed| flushed.index);
    assert_eq!(hash, hash_of(&model(at)), "the hash of what was flushed at {at}");
    for StateAt { applied, hash, membership } in &*state.compared().borrow() {
        assert_eq!(*hash, hash_of(&model(applied.index)), "the hash at {applied}");
        assert_eq!(*membership, model_membership(applied.index), "membership at {applied}");
    }
}

/// The state is exactly the one after its applied id. Answers with that.
fn check_whole(state: &StateStore) -> u64 {
    let applied = state.applied().map_or(0, |applied| applied.index);
    assert_eq!(contents(state), model(applied), "at {applied} the state is another one's");
    assert_eq!(state.membership(), model_membership(applied), "membership at {applied}");
    if let Some(limit) = state.purge_limit() {
        assert!(Some(limit) <= state.flushed_applied(), "the log may be purged above the store");
        assert!(Some(limit) <= state.current_snapshot().map(|snapshot| snapshot.last_log_id));
    }
    applied
}
