//! A byte store in memory that forgets in a crash what was not flushed.
//!
//! [`SimulatedStores`] is the disk of one simulated node: the test driver owns it, hands clones to
//! the node that it starts, and calls [`SimulatedStores::crash`] when it kills that node. Everything
//! that the contract in [`super::byte_store`] leaves open is decided by the seed, against the code
//! above: how much of the unflushed tail survives, whether a removed store is back, whether a store
//! whose creation was cut off exists, and readers do see half-written batches.

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::byte_store::{ByteStore, Records, StoreFactory, Visit};
use tally_machine::{changes::KeyBytes, view::Change};

/// Runs before each operation that changes something: may take (simulated) time, fail, or never
/// return, which is how a test stops a node between two steps.
pub type IoHook = Arc<dyn Fn(&'static str) -> BoxFuture<'static, io::Result<()>> + Send + Sync>;

/// All byte stores of one simulated node.
#[derive(Clone)]
pub struct SimulatedStores {
    shared: Arc<Mutex<Shared>>,
    hook: IoHook,
}

#[derive(Debug)]
struct Shared {
    rng: SmallRng,
    /// Counts crashes, so that a handle from before one can't reach what is there after it.
    boot: u64,
    next_id: u64,
    names: BTreeMap<String, u64>,
    /// Removed since the last crash, which may bring them back.
    removed: BTreeMap<String, u64>,
    stores: BTreeMap<u64, Content>,
}

#[derive(Debug, Default, Clone)]
struct Content {
    live: BTreeMap<Bytes, Bytes>,
    durable: BTreeMap<Bytes, Bytes>,
    /// Written and not flushed, in order.
    pending: Vec<Arc<Records>>,
    /// Its creation returned.
    created: bool,
    /// Why it does not open, if it does not.
    damage: Option<String>,
    failed: bool,
}

impl fmt::Debug for SimulatedStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedStores").finish_non_exhaustive()
    }
}

impl SimulatedStores {
    /// No stores yet. The seed decides what crashes keep.
    pub fn new(seed: u64) -> Self {
        Self::with_hook(seed, Arc::new(|_| Box::pin(std::future::ready(Ok(())))))
    }

    /// Like [`Self::new`], with a hook before every changing operation.
    pub fn with_hook(seed: u64, hook: IoHook) -> Self {
        let shared = Shared {
            rng: SmallRng::seed_from_u64(seed),
            boot: 0,
            next_id: 0,
            names: BTreeMap::new(),
            removed: BTreeMap::new(),
            stores: BTreeMap::new(),
        };
        SimulatedStores { shared: Arc::new(Mutex::new(shared)), hook }
    }

    /// The node lost power: what was not flushed survives as a prefix of unknown length, and
    /// handles from before fail.
    pub fn crash(&self) {
        let mut shared = self.lock();
        let shared = &mut *shared;
        shared.boot += 1;
        for (name, id) in std::mem::take(&mut shared.removed) {
            if shared.rng.random() && !shared.names.contains_key(&name) {
                shared.names.insert(name, id);
            }
        }
        let named: Vec<(String, u64)> =
            shared.names.iter().map(|(name, id)| (name.clone(), *id)).collect();
        for (name, id) in named {
            let content = shared.stores.get_mut(&id).expect("a named store exists");
            if !content.created {
                match shared.rng.random_range(0..3) {
                    0 => drop(shared.names.remove(&name)),
                    1 => content.damage = Some("its creation was cut off".into()),
                    _ => {}
                }
                content.created = true;
            }
            let kept = shared.rng.random_range(0..=content.pending.len());
            for batch in content.pending.drain(..).take(kept) {
                apply(&mut content.durable, batch.iter());
            }
            content.live = content.durable.clone();
            content.failed = false;
        }
        let names = &shared.names;
        shared.stores.retain(|id, _| names.values().any(|named| named == id));
    }

    /// The paths of all stores, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// Makes a store refuse to open, as bit rot would.
    pub fn damage(&self, path: &str, reason: &str) {
        let mut shared = self.lock();
        let id = *shared.names.get(path).expect("only an existing store can be damaged");
        shared.stores.get_mut(&id).expect("a named store exists").damage = Some(reason.into());
    }

    /// Flips the last bit of the first stored value whose key is chosen, as a cell of the disk may that no checksum
    /// covers: in the newest store, which goes on as if nothing were. Says whose it was.
    pub fn rot(&self, is_chosen: impl Fn(&[u8]) -> bool) -> Option<Bytes> {
        let mut shared = self.lock();
        let newest = shared.names.iter().rfind(|(name, _)| !name.contains('.'))?;
        let id = *newest.1;
        let content = shared.stores.get_mut(&id)?;
        let is_value = |(key, value): &(&Bytes, &Bytes)| !value.is_empty() && is_chosen(key);
        let (key, value) = content.live.iter().find(is_value)?;
        let (key, mut flipped) = (key.clone(), value.to_vec());
        *flipped.last_mut().expect("it is not empty") ^= 1;
        let flipped = Bytes::from(flipped);
        for records in [&mut content.live, &mut content.durable] {
            if let Some(value) = records.get_mut(&key) {
                *value = flipped.clone();
            }
        }
        Some(key)
    }

    /// Puts a store back to an earlier flush as sled does when its metadata log is damaged: here,
    /// to empty.
    pub fn roll_back(&self, path: &str) {
        let mut shared = self.lock();
        let id = *shared.names.get(path).expect("only an existing store can be rolled back");
        let content = shared.stores.get_mut(&id).expect("a named store exists");
        *content = Content { created: true, ..Content::default() };
    }

    /// A copy of what is durable, without anything that happens to it later.
    pub fn save(&self) -> Self {
        let shared = self.lock();
        let copy = Shared {
            rng: SmallRng::seed_from_u64(0),
            boot: 0,
            next_id: shared.next_id,
            names: shared.names.clone(),
            removed: BTreeMap::new(),
            stores: shared.stores.clone(),
        };
        let hook: IoHook = Arc::new(|_| Box::pin(std::future::ready(Ok(()))));
        SimulatedStores { shared: Arc::new(Mutex::new(copy)), hook }
    }

    /// Puts what [`Self::save`] kept in the place of what is here. Only between two lives.
    pub fn put_back(&self, saved: &SimulatedStores) {
        let (names, stores) = {
            let saved = saved.lock();
            (saved.names.clone(), saved.stores.clone())
        };
        let mut shared = self.lock();
        shared.boot += 1;
        shared.next_id = shared.next_id.max(stores.keys().next_back().map_or(0, |last| last + 1));
        shared.removed.clear();
        (shared.names, shared.stores) = (names, stores);
    }

    /// No stores any more, as after a replacement of the disk.
    pub fn wipe(&self) {
        let mut shared = self.lock();
        shared.boot += 1;
        shared.names.clear();
        shared.removed.clear();
        shared.stores.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nothing panics while it holds the simulated stores")
    }

    fn handle(&self, shared: &Shared, id: u64) -> Arc<dyn ByteStore> {
        Arc::new(SimulatedStore { stores: self.clone(), id, boot: shared.boot })
    }
}

#[async_trait]
impl StoreFactory for SimulatedStores {
    async fn create(&self, path: &str) -> io::Result<Arc<dyn ByteStore>> {
        (self.hook)("store create begins").await?;
        let id = {
            let mut shared = self.lock();
            if shared.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            shared.next_id += 1;
            let id = shared.next_id;
            shared.names.insert(path.into(), id);
            shared.stores.insert(id, Content::default());
            id
        };
        (self.hook)("store create ends").await?;
        let mut shared = self.lock();
        shared.stores.get_mut(&id).ok_or(io::ErrorKind::NotFound)?.created = true;
        Ok(self.handle(&shared, id))
    }

    async fn open(&self, path: &str) -> io::Result<Arc<dyn ByteStore>> {
        let shared = self.lock();
        let id = *shared.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        if let Some(reason) = &shared.stores[&id].damage {
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason.clone()));
        }
        Ok(self.handle(&shared, id))
    }

    async fn list(&self, parent: &str) -> io::Result<Vec<String>> {
        let below = format!("{parent}/");
        let shared = self.lock();
        Ok(shared
            .names
            .keys()
            .filter_map(|name| name.strip_prefix(&below))
            .map(Into::into)
            .collect())
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        (self.hook)("store rename").await?;
        let mut shared = self.lock();
        if shared.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = shared.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        shared.names.insert(to.into(), id);
        Ok(())
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        (self.hook)("store remove").await?;
        let mut shared = self.lock();
        if let Some(id) = shared.names.remove(path) {
            shared.removed.insert(path.into(), id);
        }
        Ok(())
    }
}

/// One open simulated store.
#[derive(Debug)]
struct SimulatedStore {
    stores: SimulatedStores,
    id: u64,
    boot: u64,
}

impl SimulatedStore {
    fn with<T>(&self, use_content: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut shared = self.stores.lock();
        if shared.boot != self.boot {
            return Err(io::Error::other("the node of this handle has crashed"));
        }
        let content = shared.stores.get_mut(&self.id).ok_or(io::ErrorKind::NotFound)?;
        Ok(use_content(content))
    }

    async fn hook(&self, step: &'static str) -> io::Result<()> {
        // Reads may still come while the process is about to end.
        self.with(|content| {
            assert!(!content.failed, "a byte store was written to after it had failed");
        })?;
        match (self.stores.hook)(step).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.with(|content| content.failed = true)?;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl ByteStore for SimulatedStore {
    fn get(&self, key: &[u8]) -> io::Result<Option<Bytes>> {
        self.with(|content| content.live.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> io::Result<()> {
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        if matches!(end, Bound::Excluded(end) if end <= start) {
            return Ok(());
        }
        self.with(|content| {
            for (key, value) in content.live.range::<[u8], _>((Bound::Included(start), end)) {
                if visit(key, value).is_break() {
                    return;
                }
            }
        })
    }

    async fn write(&self, batch: Arc<Records>) -> io::Result<()> {
        self.hook("store write").await?;
        // In two halves, so that a reader who relies on seeing whole batches is found out.
        let half = batch.len() / 2;
        self.with(|content| apply(&mut content.live, batch.iter().take(half)))?;
        tokio::task::yield_now().await;
        self.with(|content| {
            apply(&mut content.live, batch.iter().skip(half));
            content.pending.push(batch);
        })
    }

    async fn flush(&self) -> io::Result<()> {
        self.hook("store flush").await?;
        self.with(|content| {
            for batch in content.pending.drain(..) {
                apply(&mut content.durable, batch.iter());
            }
        })
    }

    async fn close(&self) {}

    fn size_bytes(&self) -> io::Result<u64> {
        self.with(|content| {
            content.live.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum()
        })
    }
}

fn apply<'a>(
    to: &mut BTreeMap<Bytes, Bytes>,
    records: impl Iterator<Item = (KeyBytes<'a>, &'a Change)>,
) {
    for (key, change) in records {
        match change.value() {
            Some(value) => to.insert(key.to_bytes(), value.clone()),
            None => to.remove(&key[..]),
        };
    }
}
