//! What must hold inside the cluster at every moment, compared across the nodes.
//!
//! From the events of each node ([`tally_node::env::Observer`]) and from a look at each node every
//! simulated millisecond. Names and statements are those of the Raft paper (Ongaro and Ousterhout,
//! 2014, figure 3):
//!
//! - **Election safety**: at most one node leads in a term.
//! - **Log matching**: two logs that hold an entry of the same index and term hold the same entry.
//! - **Leader completeness**: what is committed at an index is what every later leader has there; so
//!   no leader of a term after the one that committed an entry ever appends another at its index.
//! - **State machine safety**: no two nodes apply different entries at an index, and the same entry
//!   leads to the same answers and, at an equal applied index, to the same state.
//! - Applied index and revision of a node never fall while its process runs; a restart may fall back
//!   to what is on its disk.
//! - A node keeps what it has promised, across restarts ([`promises`]).
//! - Voters change so that majorities overlap ([`voters`]).
//! - What is applied is held durably by a majority of the voters ([`commits`]).
//! - Log time passes no faster than time.
//!
//! An entry counts as committed once any node has applied it: that is the moment from which it can
//! be seen from outside.

mod commits;
mod promises;
mod voters;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_node::{
    env::{Event, Observer},
    machine::query,
    storage::simulated_disk::SimulatedDisk,
};

use self::{
    commits::Commits,
    promises::Promises,
    voters::{Voters, VotersInLog},
};
use crate::{
    cluster::{Cluster, host_of},
    trace_event,
};

/// Log time may be ahead of simulated time by this: each leader rounds to milliseconds.
const LOG_TIME_ROUNDING_MS: u64 = 1_000;

/// A snapshot above this has several blocks and is sent in several chunks.
const LARGE_SNAPSHOT_BYTES: u64 = 2 * tally_node::consensus::SNAPSHOT_CHUNK_BYTES as u64;

/// How often things happened inside the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// Terms in which somebody led.
    pub elections: u64,
    /// Entries applied, on all nodes.
    pub applied: u64,
    /// Truncations of a log.
    pub truncations: u64,
    /// Snapshots built.
    pub snapshots_built: u64,
    /// Snapshots installed from another node.
    pub snapshots_installed: u64,
    /// Torn tails cut off when a log was opened.
    pub torn_tails: u64,
    /// Equal states compared at an equal applied index.
    pub states_compared: u64,
    /// Writes that were answered with a remembered answer.
    pub replays: u64,
    /// Rounds for reads that several reads at a leader shared …
    pub rounds_shared_leading: u64,
    /// … and at another node.
    pub rounds_shared_following: u64,
    /// Installed snapshots of more than one block, each sent in more than one chunk.
    pub large_installs: u64,
}

/// Sees all nodes.
#[derive(Debug, Clone, Default)]
pub struct Invariants {
    shared: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    counts: NodeCounts,
    violations: Vec<String>,
    leaders: BTreeMap<u64, u64>,
    /// Digest of each entry ever appended anywhere, by index and term.
    entries: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Of each committed index: term, digest of the answers, and the highest term in which somebody
    /// led when it was first applied, which is at least the term that committed it.
    committed: BTreeMap<u64, (u64, u64, u64)>,
    /// Revision of the store after each committed entry.
    revisions: BTreeMap<u64, u64>,
    /// State hash at an applied index, and whose it was.
    states: BTreeMap<u64, (u64, [u8; 32])>,
    /// Applied index and revision of each node as last seen, with the boot they belong to.
    progress: BTreeMap<u64, (u64, u64, u64)>,
    /// Applied index in each node's flushed state, as last seen.
    flushed: BTreeMap<u64, u64>,
    /// Nodes that have installed a snapshot since they were last looked at.
    installed: BTreeSet<u64>,
    /// Up to where a node's log was purged since it was last looked at.
    purged: BTreeMap<u64, u64>,
    promises: BTreeMap<u64, Promises>,
    /// The disk of each node, and the errors of its log that it had had when the node last opened its log.
    disks: BTreeMap<u64, (SimulatedDisk, u64)>,
    voters: BTreeMap<u64, VotersInLog>,
    commits: Commits,
    /// Every entry ever appended that names voters, by index and term.
    voter_entries: BTreeMap<u64, BTreeMap<u64, Voters>>,
    /// How often an entry that names two sets of voters was appended, first of all nodes.
    joints: u64,
    /// What nodes had promised whose disks are lost for a while.
    set_aside: BTreeMap<u64, Promises>,
}

impl Invariants {
    /// The observer of one node.
    pub fn observer(&self, node: u64) -> Arc<dyn Observer> {
        Arc::new(OfNode { node, all: self.clone() })
    }

    /// How often things happened.
    pub fn counts(&self) -> NodeCounts {
        self.seen().counts
    }

    /// What was violated so far.
    pub fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().violations)
    }

    /// Looks at this disk when the node calls something durable.
    pub fn watch_disk(&self, node: u64, disk: SimulatedDisk) {
        self.seen().disks.insert(node, (disk, 0));
    }

    /// A machine lost its disk: it may never take part again.
    pub fn loses_disk(&self, node: u64) {
        self.seen().promises.entry(node).or_default().lose_disk();
    }

    /// The machine has its disk again, with all that it had on it.
    pub fn gets_disk_back(&self, node: u64) {
        let seen = &mut *self.seen();
        if let Some(promises) = seen.set_aside.remove(&node) {
            seen.promises.insert(node, promises);
        }
    }

    /// A machine lost its disk, for a while: as long as it has another one, it may take part in nothing.
    pub fn lends_disk(&self, node: u64) {
        let seen = &mut *self.seen();
        let promises = seen.promises.remove(&node).unwrap_or_default();
        seen.set_aside.insert(node, promises);
        seen.promises.entry(node).or_default().lose_disk();
    }

    /// How often voters began to change: an entry was appended that names two sets of them.
    pub fn joints(&self) -> u64 {
        self.seen().joints
    }

    /// The voters by the last committed entry that names some: one set, or two while they change.
    pub fn committed_voters(&self) -> Voters {
        let seen = self.seen();
        let mut committed = seen.voter_entries.iter().rev().filter_map(|(index, terms)| {
            let (term, ..) = seen.committed.get(index)?;
            terms.get(term)
        });
        committed.next().cloned().unwrap_or_default()
    }

    /// Whether these were ever, by a committed entry, all the voters.
    pub fn were_voters(&self, voters: &BTreeSet<u64>) -> bool {
        let seen = self.seen();
        seen.voter_entries.iter().any(|(index, terms)| {
            let term = seen.committed.get(index).map(|(term, ..)| term);
            term.and_then(|term| terms.get(term)).is_some_and(|sets| *sets == [voters.clone()])
        })
    }

    /// The highest index that was applied anywhere.
    pub fn committed(&self) -> u64 {
        self.seen().committed.keys().next_back().copied().unwrap_or(0)
    }

    /// Revision of the store after this entry and all before it, if it was applied anywhere.
    pub fn revision_after(&self, applied: u64) -> Option<u64> {
        if applied == 0 {
            return Some(0);
        }
        self.seen().revisions.get(&applied).copied()
    }

    /// Looks at every running node at a simulated time. `with_states` also compares whole states,
    /// which takes longer.
    pub fn look(&self, cluster: &Cluster, now_ms: u64, with_states: bool) {
        for id in cluster.ids() {
            let Some(consensus) = cluster.consensus(id) else { continue };
            let seen = &mut *self.seen();
            if let Some(term) = consensus.leadership().term_as_leader() {
                seen.leads(id, term);
            }
            let view = consensus.state().view();
            let applied = view.applied().map_or(0, |applied| applied.index);
            let boot = cluster.machine(id).boots();
            if seen.progress.get(&id).is_none_or(|seen| (seen.0, seen.1) != (boot, applied)) {
                let meta = query::meta(&view);
                seen.moves(id, boot, applied, meta.revision);
                seen.time_passes(id, meta.log_time_ms, now_ms);
            }
            let flushed = consensus.state().flushed_applied().map_or(0, |flushed| flushed.index);
            if seen.flushed.insert(id, flushed) != Some(flushed) {
                let snapshot = consensus.state().current_snapshot();
                seen.flushes(id, flushed, snapshot.map_or(0, |info| info.last_log_id.index));
            }
            if seen.installed.remove(&id) {
                let size = consensus.state().current_snapshot().map_or(0, |info| info.size);
                seen.counts.large_installs += u64::from(size > LARGE_SNAPSHOT_BYTES);
            }
            if let Some(purged) = seen.purged.remove(&id) {
                let limit = consensus.state().purge_limit().map_or(0, |limit| limit.index);
                seen.purges(id, purged, limit);
            }
            if with_states {
                let metrics = consensus.leadership().metrics();
                if let Some(log_id) = metrics.membership_config.log_id() {
                    let shown = (log_id.leader_id.term, log_id.index);
                    seen.shows_membership(id, shown, applied, now_ms);
                }
            }
            if with_states && applied > 0 {
                seen.state(id, applied, query::state_hash(&view));
            }
        }
    }

    /// Applied index and state of each given node, if all of them run and are equal.
    pub fn converged(cluster: &Cluster, ids: &[u64]) -> Option<u64> {
        let mut states = ids.iter().map(|id| {
            let consensus = cluster.consensus(*id)?;
            let view = consensus.state().view();
            Some((view.applied()?.index, query::state_hash(&view)))
        });
        let first = states.next()??;
        states.all(|state| state == Some(first)).then_some(first.0)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct OfNode {
    node: u64,
    all: Invariants,
}

impl Observer for OfNode {
    fn observe(&self, event: Event<'_>) {
        let host = host_of(self.node);
        let seen = &mut *self.all.seen();
        match event {
            Event::LogOpened { cut_bytes, vote, last } => {
                // What it purged just before it died can't be judged by what it holds now.
                seen.purged.remove(&self.node);
                if let Some((disk, errors)) = seen.disks.get_mut(&self.node) {
                    *errors = disk.counts().log_errors;
                }
                seen.counts.torn_tails += u64::from(cut_bytes > 0);
                trace_event!(&host, "opens its log, cutting {cut_bytes} bytes");
                seen.voters.entry(self.node).or_default().forget();
                let broken = seen.promises(self.node).opened(vote, last);
                seen.breaks_promise(&host, broken);
            }
            Event::Found { term, index, payload } => {
                seen.found(&host, index, term, digest(payload));
                seen.commits.holds(self.node, index, term);
                if let Some(voters) = seen.voter_entries.get(&index).and_then(|all| all.get(&term))
                {
                    let voters = voters.clone();
                    let wrong = seen.voters.entry(self.node).or_default().appended(index, &voters);
                    wrong.into_iter().for_each(|what| seen.violated(format!("{host}: {what}")));
                }
                let broken = seen.promises(self.node).found(index, term);
                seen.breaks_promise(&host, broken);
            }
            Event::VoteSaved(vote) => {
                seen.acknowledges(self.node, "a vote");
                let broken = seen.promises(self.node).voted(vote);
                seen.breaks_promise(&host, broken);
            }
            Event::Appended { term, index, payload, voters } => {
                seen.appended(&host, index, term, digest(payload));
                let broken = seen.promises(self.node).appended(index, term);
                seen.breaks_promise(&host, broken);
                if let Some(voters) = voters {
                    trace_event!(&host, "appends {term}-{index}: the voters are {voters:?}");
                    seen.commits.names(index, term, voters);
                    let terms = seen.voter_entries.entry(index).or_default();
                    let is_first = terms.insert(term, voters.to_vec()).is_none();
                    seen.joints += u64::from(is_first && voters.len() > 1);
                    let wrong = seen.voters.entry(self.node).or_default().appended(index, voters);
                    wrong.into_iter().for_each(|what| seen.violated(format!("{host}: {what}")));
                }
            }
            Event::AppendSynced { term, index } => {
                seen.acknowledges(self.node, "an entry");
                for (index, term) in seen.promises(self.node).synced(index, term) {
                    seen.commits.holds(self.node, index, term);
                }
            }
            Event::Truncated { keep } => {
                seen.counts.truncations += 1;
                trace_event!(&host, "drops its log behind {keep}");
                seen.voters.entry(self.node).or_default().truncated(keep);
                let broken = seen.promises(self.node).truncated(keep);
                seen.breaks_promise(&host, broken);
            }
            Event::Purged { index, jump } => {
                seen.promises(self.node).purged(index, jump);
                if jump {
                    seen.voters.entry(self.node).or_default().forget();
                } else {
                    seen.purged.insert(self.node, index);
                }
            }
            Event::Applied { term, index, replies } => {
                seen.counts.applied += 1;
                seen.counts.replays += replies.iter().filter(|reply| reply.replayed).count() as u64;
                let mut digest = Digest::default();
                let _ = write!(digest, "{replies:?}");
                trace_event!(&host, "applies {term}-{index}: {:016x}", digest.0);
                seen.applied(&host, index, term, digest.0);
                // (A remembered answer has the revision of its own time.)
                let before = seen.revisions.range(..index).next_back().map_or(0, |(_, at)| *at);
                let after = replies.iter().map(|reply| reply.revision).max().unwrap_or(0);
                seen.revisions.entry(index).or_insert(before.max(after));
            }
            Event::ReadRound { reads, leading } => {
                let shared = u64::from(reads > 1);
                if leading {
                    seen.counts.rounds_shared_leading += shared;
                } else {
                    seen.counts.rounds_shared_following += shared;
                }
            }
            Event::SnapshotBuilt { index } => {
                seen.counts.snapshots_built += 1;
                trace_event!(&host, "has built a snapshot at {index}");
            }
            Event::SnapshotReceived { index } => {
                trace_event!(&host, "installs a snapshot at {index}");
            }
            Event::SnapshotInstalled { index } => {
                seen.counts.snapshots_installed += 1;
                seen.installed.insert(self.node);
                trace_event!(&host, "has installed a snapshot at {index}");
            }
        }
    }
}

impl Seen {
    fn violated(&mut self, what: String) {
        trace_event!("safety", "VIOLATED: {what}");
        self.violations.push(what);
    }

    /// After a failed write or sync of its log a node must end before it calls anything durable.
    fn acknowledges(&mut self, node: u64, what: &str) {
        let Some((disk, before)) = self.disks.get(&node) else { return };
        let errors = disk.counts().log_errors;
        if errors > *before {
            self.violated(format!(
                "node {node} calls {what} durable, after {} failed writes and syncs of its log",
                errors - before
            ));
        }
    }

    fn promises(&mut self, node: u64) -> &mut Promises {
        self.promises.entry(node).or_default()
    }

    fn breaks_promise(&mut self, host: &str, broken: Option<String>) {
        if let Some(how) = broken {
            self.violated(format!("{host} breaks its promise: {how}"));
        }
    }

    fn time_passes(&mut self, node: u64, log_time_ms: u64, now_ms: u64) {
        if log_time_ms > now_ms + LOG_TIME_ROUNDING_MS {
            self.violated(format!("log time on node {node} is {log_time_ms} ms after {now_ms} ms"));
        }
    }

    /// What is flushed is in the node's own synced log, or it came as a snapshot.
    fn flushes(&mut self, node: u64, flushed: u64, snapshot: u64) {
        let synced = self.promises(node).synced_index();
        if flushed > synced.max(snapshot) {
            self.violated(format!(
                "the state on node {node}'s disk is after entry {flushed}, and its log is synced up \
                 to {synced} only"
            ));
        }
    }

    /// What a log gives up is in a snapshot and in the state, both on the disk. It is looked at a
    /// little later, when the limit may only have risen.
    fn purges(&mut self, node: u64, purged: u64, limit: u64) {
        if purged > limit {
            self.violated(format!(
                "node {node} purged its log up to {purged}; its snapshot and its state on disk reach \
                 to {limit} only"
            ));
        }
    }

    /// What is in a log when it is opened was appended by somebody, as it is.
    fn found(&mut self, host: &str, index: u64, term: u64, digest: u64) {
        let appended = self.entries.get(&index).and_then(|terms| terms.get(&term)).copied();
        if appended != Some(digest) {
            let what = if appended.is_some() { "another" } else { "an invented" };
            self.violated(format!(
                "log matching: {host} finds {what} entry {term}-{index} in its log"
            ));
        }
    }

    fn leads(&mut self, node: u64, term: u64) {
        match self.leaders.get(&term) {
            None => {
                trace_event!(&host_of(node), "leads in term {term}");
                self.counts.elections += 1;
                self.leaders.insert(term, node);
            }
            Some(other) if *other != node => {
                let other = *other;
                self.violated(format!(
                    "election safety: nodes {other} and {node} both led in term {term}"
                ));
            }
            Some(_) => {}
        }
    }

    fn moves(&mut self, node: u64, boot: u64, applied: u64, revision: u64) {
        if let Some((boot_before, applied_before, revision_before)) =
            self.progress.insert(node, (boot, applied, revision))
            && boot_before == boot
            && (applied < applied_before || revision < revision_before)
        {
            self.violated(format!(
                "node {node} went back from applied index {applied_before}, revision \
                 {revision_before} to {applied}, {revision}"
            ));
        }
    }

    fn appended(&mut self, host: &str, index: u64, term: u64, digest: u64) {
        let before = *self.entries.entry(index).or_default().entry(term).or_insert(digest);
        if before != digest {
            self.violated(format!("log matching: {host} has another entry {term}-{index}"));
        }
        // A leader of a term up to that one may not have known of it (figure 8 of the paper).
        if let Some((committed, _, by)) = self.committed.get(&index).copied()
            && by < term
            && committed < term
        {
            self.violated(format!(
                "leader completeness: {host} appends {term}-{index}, and {committed}-{index} is \
                 committed"
            ));
        }
    }

    fn applied(&mut self, host: &str, index: u64, term: u64, answers: u64) {
        match self.committed.get(&index).copied() {
            None => {
                let by = self.leaders.keys().next_back().copied().unwrap_or(0).max(term);
                self.committed.insert(index, (term, answers, by));
                let of = |index| self.committed.get(&index).map(|(term, ..)| *term);
                if let Some(wrong) = self.commits.committed(index, term, of) {
                    self.violated(format!("commitment: {host}: {wrong}"));
                }
            }
            Some((committed, ..)) if committed != term => self.violated(format!(
                "state machine safety: {host} applies {term}-{index}, another node \
                 {committed}-{index}"
            )),
            Some((_, other, _)) if other != answers => self.violated(format!(
                "state machine safety: applying {term}-{index} has other outcomes on {host}"
            )),
            Some(_) => {}
        }
    }

    fn shows_membership(
        &mut self,
        node: u64,
        (term, index): (u64, u64),
        applied: u64,
        now_ms: u64,
    ) {
        let applied_term = self.committed.get(&index).filter(|_| index <= applied);
        let applied_term = applied_term.map(|(term, ..)| *term);
        if let Some(wrong) = self.commits.shows(node, (term, index), applied_term, now_ms) {
            self.violated(format!("node {node}: {wrong}"));
        }
    }

    fn state(&mut self, node: u64, applied: u64, hash: [u8; 32]) {
        match self.states.get(&applied) {
            None => drop(self.states.insert(applied, (node, hash))),
            Some((other, _)) if *other == node => {}
            Some((other, theirs)) => {
                self.counts.states_compared += 1;
                if *theirs != hash {
                    let other = *other;
                    self.violated(format!(
                        "state machine safety: nodes {other} and {node} differ at applied index \
                         {applied}"
                    ));
                }
            }
        }
    }
}

/// FNV-1a of what is written into it.
#[derive(Debug)]
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl std::fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.add(bytes);
    digest.0
}
