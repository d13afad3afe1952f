//! A disk in memory that loses, tears and refuses, from a seed.
//!
//! It stands behind the same contract as real files ([`super::disk`]) and uses all the freedom that
//! the contract leaves to a crash. The driver of a test owns a [`SimulatedDisk`] and gives the code
//! under test a [`SimulatedDisk::mount`]; after [`SimulatedDisk::crash`] everything opened through an
//! older mount fails, so that what is left of a dead process can't write any more.
//!
//! What a crash does, unless [`CrashMode::LoseUnsynced`] is set:
//! - each 512-byte sector written since the file's last `sync` is kept, lost, or torn inside (its
//!   first bytes new, the rest old), each for itself;
//! - the length of a file that grew or shrank since then is the old one, the new one or between;
//! - each directory entry changed since the last `sync_dir` of its directory shows the value it had
//!   then or any it had since, each for itself: after a rename both names may be there, or neither.
//!
//! Faults, all off at first: time per operation, errors on writes and syncs (a failed sync leaves
//! its bytes looking written, and no later sync makes them durable, as Linux does), a capacity, a
//! flipped bit, a crash at the n-th step.
//!
//! Leaves out: damage to synced bytes other than by [`SimulatedDisk::flip_bit`], reordering across a
//! returned `sync`, and files that are still open after their removal in the count of used space.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::disk::{Disk, File, OpenMode};

/// Bytes that a disk writes as one.
const SECTOR_BYTES: usize = 512;
/// `EIO`.
const EIO: i32 = 5;

/// What a crash does to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashMode {
    /// Each sector and each directory entry is kept, lost or torn for itself.
    Harsh,
    /// Everything that was not synced is gone.
    LoseUnsynced,
    /// Nothing is lost: what the end of a process leaves, and no power cut.
    KeepAll,
}

/// Time that operations take. Each takes between half and one and a half of what is set here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latency {
    /// Reads, listing and opening.
    pub read: Duration,
    /// Writes and changes of names.
    pub write: Duration,
    /// `sync` and `sync_dir`.
    pub sync: Duration,
}

/// What happened on a disk so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskCounts {
    /// Operations that change something, syncs among them.
    pub steps: u64,
    /// Calls of `write_at`.
    pub writes: u64,
    /// Calls of `sync` and `sync_dir`.
    pub syncs: u64,
    /// Crashes.
    pub crashes: u64,
    /// Sectors that crashes could have lost.
    pub sectors_at_risk: u64,
    /// Sectors that crashes lost.
    pub sectors_lost: u64,
    /// Sectors that crashes tore.
    pub sectors_torn: u64,
    /// Directory changes that crashes lost.
    pub entries_lost: u64,
    /// Operations that a fault made fail.
    pub errors: u64,
    /// Of these, writes and syncs of the log's files that failed with room on the disk: nobody may go on
    /// after one.
    pub log_errors: u64,
}

/// A handle to a simulated disk; clones are handles to the same disk.
#[derive(Debug, Clone)]
pub struct SimulatedDisk {
    shared: Arc<Mutex<State>>,
    /// The crash count that this handle belongs to; `None` for the driver's, which is always good.
    mounted: Option<u64>,
}

#[derive(Debug)]
struct State {
    rng: SmallRng,
    mode: CrashMode,
    latency: Latency,
    counts: DiskCounts,
    /// Set when `crash_after_steps` struck: everything fails until `crash`.
    dead: bool,
    steps_left: Option<u64>,
    /// Steps to go from the first write of the log's next segment, once it comes …
    steps_from_segment: Option<u64>,
    /// … and whether such a write has set `steps_left`.
    at_segment: bool,
    capacity: Option<u64>,
    fail_writes: u64,
    fail_syncs: u64,
    fail_reads: u64,
    write_error_rate: f64,
    sync_error_rate: f64,
    /// What a reader sees now.
    names: BTreeMap<String, Node>,
    /// What a crash is sure to leave.
    durable: BTreeMap<String, Node>,
    /// The values that entries had since their directory was last synced.
    unsynced: BTreeMap<String, Vec<Option<Node>>>,
}

#[derive(Debug, Clone)]
enum Node {
    Directory,
    File(Arc<Mutex<Content>>),
}

/// A file's bytes as seen now, and what is needed to go back to what is durable.
#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    durable_len: usize,
    /// Durable content of each sector changed since the last sync; zeros past the durable end.
    undo: BTreeMap<usize, Box<[u8; SECTOR_BYTES]>>,
    /// Where the last write ended.
    written_end: usize,
    /// Sectors whose sync failed: a later sync does not cover them unless they are written again.
    doomed: BTreeSet<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Write,
    Name,
    Sync,
}

/// How a step that was let through goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    /// Takes effect as far as nothing durable goes, then the process is gone.
    Dies,
}

impl SimulatedDisk {
    /// An empty disk. Equal seeds and equal operations give equal outcomes.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk {
            shared: Arc::new(Mutex::new(State {
                rng: SmallRng::seed_from_u64(seed),
                mode: CrashMode::Harsh,
                latency: Latency::default(),
                counts: DiskCounts::default(),
                dead: false,
                steps_left: None,
                steps_from_segment: None,
                at_segment: false,
                capacity: None,
                fail_writes: 0,
                fail_syncs: 0,
                fail_reads: 0,
                write_error_rate: 0.0,
                sync_error_rate: 0.0,
                names: BTreeMap::new(),
                durable: BTreeMap::new(),
                unsynced: BTreeMap::new(),
            })),
            mounted: None,
        }
    }

    /// A handle for one life of the process under test: it fails after the next crash.
    pub fn mount(&self) -> SimulatedDisk {
        let epoch = self.state().counts.crashes;
        SimulatedDisk { shared: Arc::clone(&self.shared), mounted: Some(epoch) }
    }

    /// The power cut. Open files and mounts fail from here on; the next mount sees what is left.
    pub fn crash(&self) {
        self.state().crash();
    }

    /// Chooses what a crash does.
    pub fn set_crash_mode(&self, mode: CrashMode) {
        self.state().mode = mode;
    }

    /// Sets how long operations take, by tokio's clock. Zero does not yield.
    pub fn set_latency(&self, latency: Latency) {
        self.state().latency = latency;
    }

    /// The `n`-th step from now (0 is the next) and everything after it fails, until `crash`.
    pub fn crash_after_steps(&self, n: u64) {
        self.state().steps_left = Some(n);
    }

    /// The same, counted from the write that begins the log's next segment in a file that was used
    /// before: the disk then still has what an earlier segment left there.
    pub fn crash_after_next_segment(&self, n: u64) {
        self.state().steps_from_segment = Some(n);
    }

    /// Whether [`Self::crash_after_next_segment`] has struck and `crash` was not called yet.
    pub fn died_at_segment(&self) -> bool {
        let state = self.state();
        state.dead && state.at_segment
    }

    /// A step of something else on the same disk that keeps its own bytes: counted, and refused by a
    /// dead disk, so that a crash may strike between its steps too.
    pub fn step_elsewhere(&self) -> io::Result<()> {
        self.state().admit(None, Step::Name).and_then(end)
    }

    /// Whether `crash_after_steps` has struck and `crash` was not called yet.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The next `n` writes fail with EIO.
    pub fn fail_writes(&self, n: u64) {
        self.state().fail_writes = n;
    }

    /// The next `n` syncs fail with EIO.
    pub fn fail_syncs(&self, n: u64) {
        self.state().fail_syncs = n;
    }

    /// The next `n` reads of a file's bytes fail with EIO.
    pub fn fail_reads(&self, n: u64) {
        self.state().fail_reads = n;
    }

    /// Each write and each sync fails with these probabilities.
    pub fn set_error_rates(&self, write: f64, sync: f64) {
        let mut state = self.state();
        state.write_error_rate = write;
        state.sync_error_rate = sync;
    }

    /// Bytes that the disk holds in all; `None` for no limit. Below what is used it is simply full.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Bit rot: flips one bit of a file, synced or not. False where there is no such byte.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> bool {
        let state = self.state();
        let Some(Node::File(content)) = state.names.get(path) else { return false };
        lock(content).flip(offset as usize, 1 << (bit % 8))
    }

    /// Where the last write to a file ended; 0 where there is no such file.
    pub fn written_end(&self, path: &str) -> u64 {
        let state = self.state();
        let Some(Node::File(content)) = state.names.get(path) else { return 0 };
        lock(content).written_end as u64
    }

    /// An empty disk again, as after a replacement of the hardware. Open files fail.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.names.clear();
        state.durable.clear();
        state.unsynced.clear();
        state.crash();
    }

    /// What lies below a path is gone, durably, as where a volume is not mounted. False where there was
    /// nothing. Only between two lives: files that are open stay as they are.
    pub fn lose(&self, directory: &str) -> bool {
        let mut state = self.state();
        let below =
            |path: &String| path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'));
        let before = state.names.len();
        state.names.retain(|path, _| !below(path));
        state.durable.retain(|path, _| !below(path));
        state.unsynced.retain(|path, _| !below(path));
        state.names.len() < before
    }

    /// Puts all of another disk's files in the place of what is here, durably: a copy that was made by
    /// [`Self::fork`] before. Only between two lives.
    pub fn put_back(&self, copy: &SimulatedDisk) {
        let copy = copy.fork(0);
        let (names, durable) = {
            let copy = copy.state();
            (copy.names.clone(), copy.durable.clone())
        };
        let mut state = self.state();
        state.unsynced.clear();
        (state.names, state.durable) = (names, durable);
        state.crash();
    }

    /// What happened so far.
    pub fn counts(&self) -> DiskCounts {
        self.state().counts
    }

    /// Every file with its bytes as a reader sees them now.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let files = state.names.iter().filter_map(|(path, node)| match node {
            Node::File(content) => Some((path.clone(), lock(content).bytes.clone())),
            Node::Directory => None,
        });
        files.collect()
    }

    /// A copy of what a reader sees, all of it durable, on a disk of its own with its own seed.
    pub fn fork(&self, seed: u64) -> SimulatedDisk {
        let copy = SimulatedDisk::new(seed);
        let names: BTreeMap<String, Node> = (self.state().names.iter())
            .map(|(path, node)| {
                let node = match node {
                    Node::Directory => Node::Directory,
                    Node::File(content) => Node::File(Arc::new(Mutex::new({
                        let bytes = lock(content).bytes.clone();
                        Content { durable_len: bytes.len(), bytes, ..Content::default() }
                    }))),
                };
                (path.clone(), node)
            })
            .collect();
        let mut state = copy.state();
        state.durable.clone_from(&names);
        state.names = names;
        drop(state);
        copy
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared)
    }

    /// Takes the time of a step, then lets it through or refuses it.
    async fn enter(
        &self,
        mounted: Option<u64>,
        step: Step,
    ) -> io::Result<(MutexGuard<'_, State>, Fate)> {
        let pause = self.state().pause(step);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let mut state = self.state();
        let fate = state.admit(mounted, step)?;
        Ok((state, fate))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn crashed() -> io::Error {
    io::Error::other("crashed")
}

fn error(kind: io::ErrorKind, path: &str) -> io::Error {
    io::Error::new(kind, format!("{kind}: {path}"))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What a step that was let through ends with.
fn end(fate: Fate) -> io::Result<()> {
    match fate {
        Fate::Fine => Ok(()),
        Fate::Dies => Err(crashed()),
    }
}

impl State {
    fn pause(&mut self, step: Step) -> Duration {
        let full = match step {
            Step::Read => self.latency.read,
            Step::Write | Step::Name => self.latency.write,
            Step::Sync => self.latency.sync,
        };
        if full.is_zero() { full } else { full.mul_f64(self.rng.random_range(0.5..1.5)) }
    }

    fn admit(&mut self, mounted: Option<u64>, step: Step) -> io::Result<Fate> {
        if self.dead || mounted.is_some_and(|epoch| epoch != self.counts.crashes) {
            return Err(crashed());
        }
        if step == Step::Read {
            return Ok(Fate::Fine);
        }
        self.counts.steps += 1;
        match step {
            Step::Write => self.counts.writes += 1,
            Step::Sync => self.counts.syncs += 1,
            Step::Read | Step::Name => {}
        }
        match &mut self.steps_left {
            Some(0) => {
                self.dead = true;
                Ok(Fate::Dies)
            }
            Some(left) => {
                *left -= 1;
                Ok(Fate::Fine)
            }
            None => Ok(Fate::Fine),
        }
    }

    fn write_fails(&mut self, of_log: bool) -> bool {
        let fails = take_one(&mut self.fail_writes) || chance(&mut self.rng, self.write_error_rate);
        self.counts.errors += u64::from(fails);
        self.counts.log_errors += u64::from(fails && of_log);
        fails
    }

    fn sync_fails(&mut self, of_log: bool) -> bool {
        let fails = take_one(&mut self.fail_syncs) || chance(&mut self.rng, self.sync_error_rate);
        self.counts.errors += u64::from(fails);
        self.counts.log_errors += u64::from(fails && of_log);
        fails
    }

    fn read_fails(&mut self) -> bool {
        let fails = take_one(&mut self.fail_reads);
        self.counts.errors += u64::from(fails);
        fails
    }

    fn used_bytes(&self) -> u64 {
        let files = self.names.values().filter_map(|node| match node {
            Node::File(content) => Some(lock(content).bytes.len() as u64),
            Node::Directory => None,
        });
        files.sum()
    }

    fn check_room(&mut self, growth: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        if growth > 0 && self.used_bytes() + growth > capacity {
            self.counts.errors += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on this disk"));
        }
        Ok(())
    }

    fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || matches!(self.names.get(path), Some(Node::Directory))
    }

    fn set_name(&mut self, path: &str, node: Option<Node>) {
        match &node {
            Some(node) => self.names.insert(path.to_owned(), node.clone()),
            None => self.names.remove(path),
        };
        self.unsynced.entry(path.to_owned()).or_default().push(node);
    }

    fn sync_names(&mut self, directory: &str) {
        let changed: Vec<String> =
            self.unsynced.keys().filter(|path| parent(path) == directory).cloned().collect();
        for path in changed {
            self.unsynced.remove(&path);
            match self.names.get(&path) {
                Some(node) => self.durable.insert(path, node.clone()),
                None => self.durable.remove(&path),
            };
        }
    }

    fn crash(&mut self) {
        self.crash_contents();
        let mut left = mem::take(&mut self.durable);
        for (path, values) in mem::take(&mut self.unsynced) {
            let pick = match self.mode {
                CrashMode::LoseUnsynced => 0,
                CrashMode::Harsh => self.rng.random_range(0..=values.len()),
                CrashMode::KeepAll => values.len(),
            };
            self.counts.entries_lost += u64::from(pick != values.len());
            match pick.checked_sub(1).map(|at| &values[at]) {
                None => {}
                Some(Some(node)) => drop(left.insert(path, node.clone())),
                Some(None) => drop(left.remove(&path)),
            }
        }
        // In ascending order a directory comes before what is in it.
        let mut reachable: BTreeMap<String, Node> = BTreeMap::new();
        for (path, node) in left {
            let up = parent(&path);
            if up.is_empty() || matches!(reachable.get(up), Some(Node::Directory)) {
                reachable.insert(path, node);
            }
        }
        self.names.clone_from(&reachable);
        self.durable = reachable;
        self.counts.crashes += 1;
        self.dead = false;
        self.steps_left = None;
        self.steps_from_segment = None;
        self.at_segment = false;
    }

    /// Each file once, however many names lead to it.
    fn crash_contents(&mut self) {
        let nodes = (self.names.values())
            .chain(self.durable.values())
            .chain(self.unsynced.values().flatten().flatten());
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for node in nodes {
            if let Node::File(content) = node
                && seen.insert(Arc::as_ptr(content) as usize)
            {
                files.push(Arc::clone(content));
            }
        }
        for file in files {
            lock(&file).crash(self.mode, &mut self.rng, &mut self.counts);
        }
    }
}

fn take_one(count: &mut u64) -> bool {
    let some = *count > 0;
    *count = count.saturating_sub(1);
    some
}

/// Draws only where there is a chance, so that a fault switched off changes no other draw.
fn chance(rng: &mut SmallRng, probability: f64) -> bool {
    probability > 0.0 && rng.random_bool(probability.min(1.0))
}

impl Content {
    fn sector(&self, sector: usize) -> Box<[u8; SECTOR_BYTES]> {
        let mut copy = Box::new([0; SECTOR_BYTES]);
        let start = (sector * SECTOR_BYTES).min(self.bytes.len());
        let end = (start + SECTOR_BYTES).min(self.bytes.len());
        copy[..end - start].copy_from_slice(&self.bytes[start..end]);
        copy
    }

    fn remember(&mut self, start: usize, end: usize) {
        if start >= end {
            return;
        }
        for sector in start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            if !self.undo.contains_key(&sector) {
                let old = self.sector(sector);
                self.undo.insert(sector, old);
            }
            self.doomed.remove(&sector);
        }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.written_end = end;
        self.remember(offset, end);
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[offset..end].copy_from_slice(bytes);
    }

    fn resize(&mut self, len: usize) {
        self.remember(len, self.bytes.len());
        self.bytes.resize(len, 0);
    }

    fn sync(&mut self) {
        let doomed = &self.doomed;
        self.undo.retain(|sector, _| doomed.contains(sector));
        self.durable_len = self.bytes.len();
    }

    /// What Linux does after a failed writeback: the pages count as clean.
    fn fail_sync(&mut self) {
        self.doomed.extend(self.undo.keys());
    }

    fn flip(&mut self, offset: usize, mask: u8) -> bool {
        let Some(byte) = self.bytes.get_mut(offset) else { return false };
        *byte ^= mask;
        if let Some(old) = self.undo.get_mut(&(offset / SECTOR_BYTES)) {
            old[offset % SECTOR_BYTES] ^= mask;
        }
        true
    }

    fn crash(&mut self, mode: CrashMode, rng: &mut SmallRng, counts: &mut DiskCounts) {
        let (low, high) =
            (self.durable_len.min(self.bytes.len()), self.durable_len.max(self.bytes.len()));
        let len = match mode {
            CrashMode::LoseUnsynced => self.durable_len,
            CrashMode::KeepAll => self.bytes.len(),
            CrashMode::Harsh if low == high => low,
            CrashMode::Harsh => match rng.random_range(0..3) {
                0 => low,
                1 => high,
                _ => rng.random_range(low..=high),
            },
        };
        self.bytes.resize(high, 0);
        for (sector, old) in mem::take(&mut self.undo) {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(high);
            if start >= end {
                continue;
            }
            // New bytes up to here, old ones behind.
            let keep = match mode {
                CrashMode::LoseUnsynced => 0,
                CrashMode::KeepAll => SECTOR_BYTES,
                CrashMode::Harsh if self.doomed.contains(&sector) => 0,
                CrashMode::Harsh => match rng.random_range(0..8) {
                    0..4 => SECTOR_BYTES,
                    4..7 => 0,
                    _ => rng.random_range(1..SECTOR_BYTES),
                },
            };
            counts.sectors_at_risk += 1;
            counts.sectors_lost += u64::from(keep == 0);
            counts.sectors_torn += u64::from(keep > 0 && keep < SECTOR_BYTES);
            if start + keep < end {
                self.bytes[start + keep..end].copy_from_slice(&old[keep..end - start]);
            }
        }
        self.bytes.truncate(len);
        self.durable_len = len;
        self.doomed.clear();
    }
}

#[async_trait]
impl Disk for SimulatedDisk {
    async fn create_dir_all(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for part in ends.map(|at| &path[..at]).filter(|part| !part.is_empty()) {
            match state.names.get(part) {
                Some(Node::Directory) => {}
                Some(Node::File(_)) => return Err(error(io::ErrorKind::AlreadyExists, part)),
                None => state.set_name(part, Some(Node::Directory)),
            }
        }
        end(fate)
    }

    async fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let (state, _) = self.enter(self.mounted, Step::Read).await?;
        if !state.is_directory(path) {
            return Err(error(io::ErrorKind::NotFound, path));
        }
        let names = state.names.keys().filter(|name| parent(name) == path);
        Ok(names.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    async fn open(&self, path: &str, mode: OpenMode) -> io::Result<Box<dyn File>> {
        let create = mode == OpenMode::CreateNew;
        let step = if create { Step::Name } else { Step::Read };
        let (mut state, fate) = self.enter(self.mounted, step).await?;
        let content = match state.names.get(path) {
            Some(_) if create => return Err(error(io::ErrorKind::AlreadyExists, path)),
            Some(Node::Directory) => return Err(error(io::ErrorKind::IsADirectory, path)),
            Some(Node::File(content)) => Arc::clone(content),
            None if create && state.is_directory(parent(path)) => {
                let content = Arc::<Mutex<Content>>::default();
                state.set_name(path, Some(Node::File(Arc::clone(&content))));
                content
            }
            None => return Err(error(io::ErrorKind::NotFound, path)),
        };
        end(fate)?;
        Ok(Box::new(SimulatedFile {
            disk: self.clone(),
            epoch: state.counts.crashes,
            content,
            writable: mode != OpenMode::Read,
            of_log: is_of_log(path),
        }))
    }

    async fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        let Some(node @ Node::File(_)) = state.names.get(from).cloned() else {
            return Err(error(io::ErrorKind::NotFound, from));
        };
        if !state.is_directory(parent(to)) {
            return Err(error(io::ErrorKind::NotFound, to));
        }
        if matches!(state.names.get(to), Some(Node::Directory)) {
            return Err(error(io::ErrorKind::IsADirectory, to));
        }
        if from != to {
            state.set_name(to, Some(node));
            state.set_name(from, None);
        }
        end(fate)
    }

    async fn remove_file(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        if !matches!(state.names.get(path), Some(Node::File(_))) {
            return Err(error(io::ErrorKind::NotFound, path));
        }
        state.set_name(path, None);
        end(fate)
    }

    async fn remove_file_aside(&self, path: &str) -> io::Result<()> {
        let mut file = self.open(path, OpenMode::ReadWrite).await?;
        let len = file.len().await?;
        let left = self.state().rng.random_range(0..=len);
        file.truncate(left).await?;
        self.remove_file(path).await
    }

    async fn remove_dir_all(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Name).await?;
        let below = format!("{path}/");
        let gone: Vec<String> = (state.names.keys())
            .filter(|name| *name == path || name.starts_with(&below))
            .cloned()
            .collect();
        for name in gone {
            state.set_name(&name, None);
        }
        end(fate)
    }

    async fn sync_dir(&self, path: &str) -> io::Result<()> {
        let (mut state, fate) = self.enter(self.mounted, Step::Sync).await?;
        if !state.is_directory(path) {
            return Err(error(io::ErrorKind::NotFound, path));
        }
        end(fate)?;
        if state.sync_fails(is_of_log(path)) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        state.sync_names(path);
        Ok(())
    }

    async fn hold_space(&self, path: &str, bytes: u64) -> io::Result<()> {
        if self.state().capacity.is_none() {
            // There is room without end, so what is held need not be there.
            return Ok(());
        }
        let opened = match self.open(path, OpenMode::ReadWrite).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.open(path, OpenMode::CreateNew).await
            }
            opened => opened,
        };
        let mut file = opened?;
        match bytes < file.len().await? {
            true => file.truncate(bytes).await,
            false => file.allocate(bytes).await,
        }
    }

    async fn free_bytes(&self) -> io::Result<u64> {
        let (state, _) = self.enter(self.mounted, Step::Read).await?;
        Ok(state.capacity.map_or(u64::MAX, |all| all.saturating_sub(state.used_bytes())))
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    epoch: u64,
    content: Arc<Mutex<Content>>,
    writable: bool,
    of_log: bool,
}

/// Whether a path is the log's directory or a file in it.
fn is_of_log(path: &str) -> bool {
    path == "wal" || path.starts_with("wal/")
}

impl SimulatedFile {
    /// A segment's first bytes, unless they only blank what was there.
    fn begins(&self, bytes: &[u8]) {
        let is_used = lock(&self.content).bytes.iter().any(|byte| *byte != 0);
        let mut state = self.disk.state();
        if is_used && bytes.iter().any(|byte| *byte != 0) && state.steps_left.is_none() {
            state.steps_left = state.steps_from_segment.take();
            state.at_segment = state.steps_left.is_some();
        }
    }

    async fn enter(&self, step: Step) -> io::Result<(MutexGuard<'_, State>, Fate)> {
        if step != Step::Read && !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading only"));
        }
        self.disk.enter(Some(self.epoch), step).await
    }
}

#[async_trait]
impl File for SimulatedFile {
    async fn len(&self) -> io::Result<u64> {
        let _entered = self.enter(Step::Read).await?;
        Ok(lock(&self.content).bytes.len() as u64)
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let (mut state, _) = self.enter(Step::Read).await?;
        if state.read_fails() {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        let content = lock(&self.content);
        let start = (offset as usize).min(content.bytes.len());
        let end = start.saturating_add(len).min(content.bytes.len());
        Ok(content.bytes[start..end].to_vec())
    }

    async fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.of_log && offset == 0 {
            self.begins(bytes);
        }
        let (mut state, fate) = self.enter(Step::Write).await?;
        let grown =
            (offset + bytes.len() as u64).saturating_sub(lock(&self.content).bytes.len() as u64);
        state.check_room(grown)?;
        let fails = state.write_fails(self.of_log);
        // After a failed write nothing is known about the bytes: they may be there.
        if !fails || state.rng.random_bool(0.5) {
            lock(&self.content).write(offset as usize, bytes);
        }
        if fails {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        end(fate)
    }

    async fn allocate(&mut self, len: u64) -> io::Result<()> {
        let (mut state, fate) = self.enter(Step::Write).await?;
        let old = lock(&self.content).bytes.len() as u64;
        state.check_room(len.saturating_sub(old))?;
        if len > old {
            lock(&self.content).resize(len as usize);
        }
        end(fate)
    }

    async fn truncate(&mut self, len: u64) -> io::Result<()> {
        let (mut state, fate) = self.enter(Step::Write).await?;
        state.check_room(len.saturating_sub(lock(&self.content).bytes.len() as u64))?;
        lock(&self.content).resize(len as usize);
        end(fate)
    }

    async fn sync(&mut self) -> io::Result<()> {
        let (mut state, fate) = self.enter(Step::Sync).await?;
        end(fate)?;
        let mut content = lock(&self.content);
        if state.sync_fails(self.of_log) {
            content.fail_sync();
            return Err(io::Error::from_raw_os_error(EIO));
        }
        content.sync();
        Ok(())
    }
}
