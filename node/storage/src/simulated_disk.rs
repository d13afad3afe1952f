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

mod content;
mod contract;
mod state;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::{
    content::Content,
    state::{Fate, Node, State, Step, end},
};

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

impl SimulatedDisk {
    /// An empty disk. Equal seeds and equal operations give equal outcomes.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk { shared: Arc::new(Mutex::new(State::new(seed))), mounted: None }
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
