//! Power cuts at chosen moments: directly after a node has done something that matters.
//!
//! What a power cut takes depends on where in its work the disk is, and the moments that matter (a
//! vote just saved, a snapshot just received) are short and rare; a cut at a random time hardly ever
//! meets one. So a trap is set for a moment, and the power fails so many disk steps after it. The
//! disk's steps are those of the log, of snapshots and of the state's store alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tally_node::{
    env::{Event, Observer},
    storage::simulated_disk::SimulatedDisk,
};

/// What a node has just done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Moment {
    /// Its vote is saved, and may be told.
    Vote,
    /// Entries are handed to its log.
    Append,
    /// Entries are synced, and may be acknowledged.
    Synced,
    /// Entries of an overruled leader are about to be dropped.
    Truncate,
    /// The log is about to be purged.
    Purge,
    /// A snapshot is built.
    Snapshot,
    /// A snapshot of another node is about to be installed.
    Install,
    /// Its log moves on into a file that an older segment has left. (The disk sees it, not the node.)
    Segment,
}

/// All traps. Clones are handles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traps {
    set: Arc<Mutex<BTreeMap<u64, Vec<Trap>>>>,
    /// The last term in which a node stood for election, its vote for itself saved.
    stood: Arc<Mutex<BTreeMap<u64, u64>>>,
    /// Nodes that dropped entries, and have synced nothing of their logs since …
    cut_back: Arc<Mutex<BTreeSet<u64>>>,
    /// … and those of them for which an install has sprung a trap.
    sprung_over_cut: Arc<Mutex<BTreeSet<u64>>>,
}

#[derive(Debug)]
struct Trap {
    moment: Moment,
    steps: u64,
    disk: SimulatedDisk,
}

impl Traps {
    /// Lets the power of a node's machine fail so many disk steps after a moment, once.
    pub(crate) fn set(&self, node: u64, moment: Moment, steps: u64, disk: SimulatedDisk) {
        if moment == Moment::Segment {
            return disk.crash_after_next_segment(steps);
        }
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.entry(node).or_default().push(Trap { moment, steps, disk });
    }

    /// The last term in which a node stood for election.
    pub(crate) fn stood_in(&self, node: u64) -> u64 {
        let stood = self.stood.lock().unwrap_or_else(PoisonError::into_inner);
        stood.get(&node).copied().unwrap_or(0)
    }

    /// Whether the power of this node fails in an install that began before the log had synced what
    /// was dropped from it. Asked once.
    pub(crate) fn take_sprung_over_cut(&self, node: u64) -> bool {
        self.sprung_over_cut.lock().unwrap_or_else(PoisonError::into_inner).remove(&node)
    }

    /// Takes all traps away.
    pub(crate) fn clear(&self) {
        self.set.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Watches one node, beside another observer.
    pub(crate) fn observer(&self, node: u64, beside: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Watch { node, traps: self.clone(), beside })
    }

    fn happens(&self, node: u64, moment: Moment) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(traps) = set.get_mut(&node) else { return };
        // Each moment springs one trap; another one for it waits for the next.
        if let Some(at) = traps.iter().position(|trap| trap.moment == moment) {
            let trap = traps.swap_remove(at);
            trap.disk.crash_after_steps(trap.steps);
            let cut_back = self.cut_back.lock().unwrap_or_else(PoisonError::into_inner);
            if moment == Moment::Install && cut_back.contains(&node) {
                let mut over_cut =
                    self.sprung_over_cut.lock().unwrap_or_else(PoisonError::into_inner);
                over_cut.insert(node);
            }
        }
    }
}

struct Watch {
    node: u64,
    traps: Traps,
    beside: Arc<dyn Observer>,
}

impl Watch {
    fn cut_back(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.traps.cut_back.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Watch {
    fn observe(&self, event: Event<'_>) {
        let moment = match event {
            Event::VoteSaved(_) => Some(Moment::Vote),
            Event::Appended { .. } => Some(Moment::Append),
            Event::AppendSynced { .. } => Some(Moment::Synced),
            Event::Truncated { .. } => Some(Moment::Truncate),
            Event::Purged { .. } => Some(Moment::Purge),
            Event::SnapshotBuilt { .. } => Some(Moment::Snapshot),
            Event::SnapshotReceived { .. } => Some(Moment::Install),
            Event::LogOpened { .. }
            | Event::Found { .. }
            | Event::Applied { .. }
            | Event::ReadRound { .. }
            | Event::SnapshotInstalled { .. }
            | Event::SnapshotSent { .. }
            | Event::SnapshotSentEnds { .. } => None,
        };
        if let Event::VoteSaved(vote) = &event
            && vote.node_id == Some(self.node)
            && !vote.committed
        {
            let mut stood = self.traps.stood.lock().unwrap_or_else(PoisonError::into_inner);
            stood.insert(self.node, vote.term);
        }
        match &event {
            Event::Truncated { .. } => drop(self.cut_back().insert(self.node)),
            // In the log's order: what is synced after a truncation says that it is, too.
            Event::AppendSynced { .. } | Event::VoteSaved(_) | Event::LogOpened { .. } => {
                self.cut_back().remove(&self.node);
            }
            _ => {}
        }
        self.beside.observe(event);
        if let Some(moment) = moment {
            self.traps.happens(self.node, moment);
        }
    }
}
