//! What a disk is made of: its names, its faults, the steps that it lets through or refuses, and what a
//! crash makes of names that were not synced.
//!
//! Leaves out: the bytes of a file (`content`), and what an operation does once it was let through
//! (`contract`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{CrashMode, DiskCounts, Latency, content::Content, lock};

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: SmallRng,
    pub(super) mode: CrashMode,
    pub(super) latency: Latency,
    pub(super) counts: DiskCounts,
    /// Set when `crash_after_steps` struck: everything fails until `crash`.
    pub(super) dead: bool,
    pub(super) steps_left: Option<u64>,
    /// Steps to go from the first write of the log's next segment, once it comes …
    pub(super) steps_from_segment: Option<u64>,
    /// … and whether such a write has set `steps_left`.
    pub(super) at_segment: bool,
    pub(super) capacity: Option<u64>,
    pub(super) fail_writes: u64,
    pub(super) fail_syncs: u64,
    pub(super) fail_reads: u64,
    pub(super) write_error_rate: f64,
    pub(super) sync_error_rate: f64,
    /// What a reader sees now.
    pub(super) names: BTreeMap<String, Node>,
    /// What a crash is sure to leave.
    pub(super) durable: BTreeMap<String, Node>,
    /// The values that entries had since their directory was last synced.
    pub(super) unsynced: BTreeMap<String, Vec<Option<Node>>>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Directory,
    File(Arc<Mutex<Content>>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    Write,
    Name,
    Sync,
}

/// How a step that was let through goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Fine,
    /// Takes effect as far as nothing durable goes, then the process is gone.
    Dies,
}

pub(super) fn crashed() -> io::Error {
    io::Error::other("crashed")
}

pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// What a step that was let through ends with.
pub(super) fn end(fate: Fate) -> io::Result<()> {
    match fate {
        Fate::Fine => Ok(()),
        Fate::Dies => Err(crashed()),
    }
}

impl State {
    /// Empty, without a fault.
    pub(super) fn new(seed: u64) -> State {
        State {
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
        }
    }

    pub(super) fn pause(&mut self, step: Step) -> Duration {
        let full = match step {
            Step::Read => self.latency.read,
            Step::Write | Step::Name => self.latency.write,
            Step::Sync => self.latency.sync,
        };
        if full.is_zero() { full } else { full.mul_f64(self.rng.random_range(0.5..1.5)) }
    }

    pub(super) fn admit(&mut self, mounted: Option<u64>, step: Step) -> io::Result<Fate> {
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

    pub(super) fn write_fails(&mut self, of_log: bool) -> bool {
        let fails = take_one(&mut self.fail_writes) || chance(&mut self.rng, self.write_error_rate);
        self.counts.errors += u64::from(fails);
        self.counts.log_errors += u64::from(fails && of_log);
        fails
    }

    pub(super) fn sync_fails(&mut self, of_log: bool) -> bool {
        let fails = take_one(&mut self.fail_syncs) || chance(&mut self.rng, self.sync_error_rate);
        self.counts.errors += u64::from(fails);
        self.counts.log_errors += u64::from(fails && of_log);
        fails
    }

    pub(super) fn read_fails(&mut self) -> bool {
        let fails = take_one(&mut self.fail_reads);
        self.counts.errors += u64::from(fails);
        fails
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let files = self.names.values().filter_map(|node| match node {
            Node::File(content) => Some(lock(content).bytes.len() as u64),
            Node::Directory => None,
        });
        files.sum()
    }

    pub(super) fn check_room(&mut self, growth: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        if growth > 0 && self.used_bytes() + growth > capacity {
            self.counts.errors += 1;
            return Err(io::Error::new(io::ErrorKind::StorageFull, "no space left on this disk"));
        }
        Ok(())
    }

    pub(super) fn is_directory(&self, path: &str) -> bool {
        path.is_empty() || matches!(self.names.get(path), Some(Node::Directory))
    }

    pub(super) fn set_name(&mut self, path: &str, node: Option<Node>) {
        match &node {
            Some(node) => self.names.insert(path.to_owned(), node.clone()),
            None => self.names.remove(path),
        };
        self.unsynced.entry(path.to_owned()).or_default().push(node);
    }

    pub(super) fn sync_names(&mut self, directory: &str) {
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

    pub(super) fn crash(&mut self) {
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
