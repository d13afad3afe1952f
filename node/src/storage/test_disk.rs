//! A disk in memory for the tests of this directory: loses in a crash what was not synced, and can
//! stop the world between any two steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::sync::Notify;

use super::{
    disk::{Disk, File, OpenMode},
    simulated_store::IoHook,
};

/// Counts the steps of disk and stores, and stops for good at one of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Steps(Arc<Mutex<StepsInner>>, Arc<Notify>);

#[derive(Debug, Default)]
struct StepsInner {
    taken: usize,
    stop_at: Option<usize>,
    fail_at: Option<usize>,
    log: Vec<&'static str>,
}

impl Steps {
    pub(super) fn stop_at(&self, step: Option<usize>) {
        *self.0.lock().unwrap() = StepsInner { stop_at: step, ..StepsInner::default() };
    }

    /// Runs a scenario to its end, or to the step where the world stands still.
    pub(super) async fn run(&self, scenario: impl Future<Output = ()>) {
        tokio::select! {
            () = scenario => {}
            () = self.1.notified() => {}
        }
    }

    pub(super) fn fail_at(&self, step: usize) {
        *self.0.lock().unwrap() = StepsInner { fail_at: Some(step), ..StepsInner::default() };
    }

    pub(super) fn log(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().log.clone()
    }

    pub(super) async fn step(&self, name: &'static str) -> io::Result<()> {
        let (stops, fails) = {
            let mut inner = self.0.lock().unwrap();
            let step = inner.taken;
            inner.taken += 1;
            inner.log.push(name);
            (inner.stop_at.is_some_and(|at| step >= at), inner.fail_at == Some(step))
        };
        if stops {
            self.1.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        match fails {
            true => Err(io::Error::other(format!("injected at {name}"))),
            false => Ok(()),
        }
    }

    pub(super) fn hook(&self) -> IoHook {
        let steps = self.clone();
        Arc::new(move |name| {
            let steps = steps.clone();
            Box::pin(async move { steps.step(name).await })
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    Dir,
    File(u64),
}

#[derive(Debug, Default, Clone)]
struct Inode {
    live: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug)]
struct Inner {
    rng: SmallRng,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    live: BTreeMap<String, Entry>,
    durable: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct TestDisk {
    inner: Arc<Mutex<Inner>>,
    steps: Steps,
}

impl TestDisk {
    pub(super) fn new(seed: u64, steps: Steps) -> Self {
        let inner = Inner {
            rng: SmallRng::seed_from_u64(seed),
            next_inode: 0,
            inodes: BTreeMap::new(),
            live: BTreeMap::new(),
            durable: BTreeMap::new(),
        };
        TestDisk { inner: Arc::new(Mutex::new(inner)), steps }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Power cut: unsynced bytes are kept or lost by sector, unsynced entries each for itself.
    pub(super) fn crash(&self) {
        let mut inner = self.lock();
        let Inner { rng, inodes, live, durable, .. } = &mut *inner;
        for inode in inodes.values_mut() {
            if inode.live == inode.durable {
                continue;
            }
            let len = if rng.random() { inode.live.len() } else { inode.durable.len() };
            let mut after = vec![0; len];
            for (sector, bytes) in after.chunks_mut(512).enumerate() {
                let from = if rng.random() { &inode.live } else { &inode.durable };
                let at = (sector * 512).min(from.len());
                let end = (at + bytes.len()).min(from.len());
                bytes[..end - at].copy_from_slice(&from[at..end]);
            }
            *inode = Inode { live: after.clone(), durable: after };
        }
        let names: BTreeSet<String> = live.keys().chain(durable.keys()).cloned().collect();
        for name in names {
            let (is, was) = (live.get(&name).copied(), durable.get(&name).copied());
            let after = if is == was || rng.random() { is } else { was };
            match after {
                Some(entry) => durable.insert(name, entry),
                None => durable.remove(&name),
            };
        }
        let orphans: Vec<String> = durable
            .keys()
            .filter(|name| !parent(name).is_empty() && !durable.contains_key(parent(name)))
            .cloned()
            .collect();
        for name in orphans {
            durable.remove(&name);
        }
        *live = durable.clone();
    }

    /// Bit rot in a file.
    pub(super) fn flip_bit(&self, path: &str, bit: usize) {
        let mut inner = self.lock();
        let Some(Entry::File(id)) = inner.live.get(path).copied() else { panic!("no file {path}") };
        let inode = inner.inodes.get_mut(&id).unwrap();
        inode.live[bit / 8] ^= 1 << (bit % 8);
        inode.durable = inode.live.clone();
    }

    pub(super) fn read(&self, path: &str) -> Option<Vec<u8>> {
        let inner = self.lock();
        match inner.live.get(path)? {
            Entry::File(id) => Some(inner.inodes[id].live.clone()),
            Entry::Dir => None,
        }
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.next_inode += 1;
        let id = inner.next_inode;
        inner.inodes.insert(id, Inode { live: bytes.to_vec(), durable: bytes.to_vec() });
        inner.live.insert(path.into(), Entry::File(id));
        inner.durable.insert(path.into(), Entry::File(id));
    }

    pub(super) fn names(&self, directory: &str) -> Vec<String> {
        let prefix = format!("{directory}/");
        let inner = self.lock();
        inner
            .live
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .filter(|name| !name.contains('/'))
            .map(Into::into)
            .collect()
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[async_trait]
impl Disk for TestDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        self.steps.step("mkdir").await?;
        let mut inner = self.lock();
        let mut at = String::new();
        for part in path.split('/') {
            if !at.is_empty() {
                at.push('/');
            }
            at.push_str(part);
            inner.live.entry(at.clone()).or_insert(Entry::Dir);
        }
        Ok(())
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        if !self.lock().live.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(self.names(path))
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        if mode == OpenMode::CreateNew {
            self.steps.step("create file").await?;
        }
        let mut inner = self.lock();
        let id = match (inner.live.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::CreateNew) => {
                if !inner.live.contains_key(parent(path)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                inner.next_inode += 1;
                let id = inner.next_inode;
                inner.inodes.insert(id, Inode::default());
                inner.live.insert(path.into(), Entry::File(id));
                id
            }
            (Some(Entry::File(id)), _) => id,
            (Some(Entry::Dir), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Box::new(TestFile { disk: self.clone(), id }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.steps.step("rename").await?;
        let mut inner = self.lock();
        let entry = inner.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inner.live.insert(to.into(), entry);
        Ok(())
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        self.steps.step("remove file").await?;
        self.lock().live.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        self.steps.step("remove dir").await?;
        let below = format!("{path}/");
        self.lock().live.retain(|name, _| name != path && !name.starts_with(&below));
        Ok(())
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.steps.step("sync dir").await?;
        let mut inner = self.lock();
        let Inner { live, durable, .. } = &mut *inner;
        durable.retain(|name, _| parent(name) != path || live.contains_key(name));
        for (name, entry) in live.iter().filter(|(name, _)| parent(name) == path) {
            durable.insert(name.clone(), *entry);
        }
        Ok(())
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

#[derive(Debug)]
struct TestFile {
    disk: TestDisk,
    id: u64,
}

#[async_trait]
impl File for TestFile {
    async fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[&self.id].live.len() as u64)
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let inner = self.disk.lock();
        let live = &inner.inodes[&self.id].live;
        let begin = (offset as usize).min(live.len());
        Ok(live[begin..(begin + len).min(live.len())].to_vec())
    }

    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.steps.step("write").await?;
        let mut inner = self.disk.lock();
        let live = &mut inner.inodes.get_mut(&self.id).unwrap().live;
        let begin = offset as usize;
        if live.len() < begin + bytes.len() {
            live.resize(begin + bytes.len(), 0);
        }
        live[begin..begin + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    async fn allocate(&mut self, len: u64) -> io::Result<()> {
        let mut inner = self.disk.lock();
        let live = &mut inner.inodes.get_mut(&self.id).unwrap().live;
        live.resize(live.len().max(len as usize), 0);
        Ok(())
    }

    async fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.lock().inodes.get_mut(&self.id).unwrap().live.truncate(len as usize);
        Ok(())
    }

    async fn sync(&mut self) -> io::Result<()> {
        self.disk.steps.step("sync file").await?;
        let mut inner = self.disk.lock();
        let inode = inner.inodes.get_mut(&self.id).unwrap();
        inode.durable = inode.live.clone();
        Ok(())
    }
}
