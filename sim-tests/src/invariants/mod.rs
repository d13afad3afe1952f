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
//! - No node finds that replicas differ when they compare themselves, but where a stored bit was flipped: the
//!   node that has it, and nobody else, differs; and once it was found out it answers LOCAL reads only.
//! - A leader whose writes do not get on says that it has no quorum ([`standstill`]).
//! - Log time passes no faster than time.
//!
//! An entry counts as committed once any node has applied it: that is the moment from which it can
//! be seen from outside.

mod commits;
mod promises;
mod seen;
mod standstill;
mod voters;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tally_node::{
    env::{Event, Observer},
    machine::query,
    storage::simulated_disk::SimulatedDisk,
};
use tally_proto::seeded_bugs;

use self::{
    seen::{Differs, Digest, Seen, digest},
    voters::Voters,
};
use crate::{
    cluster::{Cluster, Condition, host_of},
    env::simulated_ms,
    trace_event,
};

/// A snapshot above this has several blocks and is sent in several chunks.
const LARGE_SNAPSHOT_BYTES: u64 = 2 * tally_node::consensus::SNAPSHOT_CHUNK_BYTES as u64;

/// How often things happened inside the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NodeCounts {
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
    /// Comparisons of the replicas that a node saw a majority agree in, at most.
    pub comparisons: u64,
    /// Writes that were answered with a remembered answer.
    pub replays: u64,
    /// Rounds for reads that several reads at a leader shared …
    pub rounds_shared_leading: u64,
    /// … and at another node.
    pub rounds_shared_following: u64,
    /// Installed snapshots of more than one block, each sent in more than one chunk.
    pub large_installs: u64,
    /// Snapshots installed between the two entries of a change of the voters.
    pub joint_installs: u64,
}

/// Sees all nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Invariants {
    shared: Arc<Mutex<Seen>>,
}

impl Invariants {
    /// The observer of one node.
    pub(crate) fn observer(&self, node: u64) -> Arc<dyn Observer> {
        Arc::new(OfNode { node, all: self.clone() })
    }

    /// How often things happened.
    pub(crate) fn counts(&self) -> NodeCounts {
        self.seen().counts
    }

    /// What was violated so far.
    pub(crate) fn take_violations(&self) -> Vec<String> {
        std::mem::take(&mut self.seen().violations)
    }

    /// Looks at this disk when the node calls something durable.
    pub(crate) fn watch_disk(&self, node: u64, disk: SimulatedDisk) {
        self.seen().disks.insert(node, (disk, 0));
    }

    /// A machine lost its disk: it may never take part again.
    pub(crate) fn loses_disk(&self, node: u64) {
        self.seen().promises.entry(node).or_default().lose_disk();
    }

    /// A bit flips in what the node has stored of its state.
    pub(crate) fn differs(&self, node: u64) {
        self.seen().differ.insert(node, Differs::default());
    }

    /// When a node whose bit has flipped was first seen to have found out, in simulated ms.
    pub(crate) fn found_out_ms(&self, node: u64) -> Option<u64> {
        self.seen().differ.get(&node)?.knew.first().map(|(_, from_ms, _)| *from_ms)
    }

    /// Since when a node knew that its state differs, if one run of its process did all the while from a call to its
    /// answer. In simulated ms, and the call and its answer in ns.
    pub(crate) fn knew_since_ms(&self, node: u64, (call, ret): (u64, u64)) -> Option<u64> {
        let all_the_while = |(_, from_ms, until_ms): &&(u64, u64, u64)| {
            call > from_ms * 1_000_000 && ret <= until_ms * 1_000_000
        };
        self.seen().differ.get(&node)?.knew.iter().find(all_the_while).map(|(_, from, _)| *from)
    }

    /// It has a whole new state since.
    pub(crate) fn gets_another_state(&self, node: u64) {
        if let Some(differs) = self.seen().differ.get_mut(&node) {
            differs.has_another_state = true;
        }
    }

    /// Whether it has had a whole new state since.
    pub(crate) fn has_another_state(&self, node: u64) -> bool {
        self.seen().differ.get(&node).is_some_and(|differs| differs.has_another_state)
    }

    /// The machine has its disk again, with all that it had on it.
    pub(crate) fn gets_disk_back(&self, node: u64) {
        let seen = &mut *self.seen();
        if let Some(promises) = seen.set_aside.remove(&node) {
            seen.promises.insert(node, promises);
        }
    }

    /// A machine lost its disk, for a while: as long as it has another one, it may take part in nothing.
    pub(crate) fn lends_disk(&self, node: u64) {
        let seen = &mut *self.seen();
        let promises = seen.promises.remove(&node).unwrap_or_default();
        seen.set_aside.insert(node, promises);
        seen.promises.entry(node).or_default().lose_disk();
    }

    /// How often voters began to change: an entry was appended that names two sets of them.
    pub(crate) fn joints(&self) -> u64 {
        self.seen().joints
    }

    /// The voters by the last committed entry that names some: one set, or two while they change.
    pub(crate) fn committed_voters(&self) -> Voters {
        self.seen().committed_voters().cloned().unwrap_or_default()
    }

    /// Whether these were ever, by a committed entry, all the voters.
    pub(crate) fn were_voters(&self, voters: &BTreeSet<u64>) -> bool {
        let seen = self.seen();
        seen.voter_entries.iter().any(|(index, terms)| {
            let term = seen.committed.get(index).map(|(term, ..)| term);
            term.and_then(|term| terms.get(term)).is_some_and(|sets| *sets == [voters.clone()])
        })
    }

    /// The highest index that was applied anywhere.
    pub(crate) fn committed(&self) -> u64 {
        self.seen().committed.keys().next_back().copied().unwrap_or(0)
    }

    /// Revision of the store after this entry and all before it, if it was applied anywhere.
    pub(crate) fn revision_after(&self, applied: u64) -> Option<u64> {
        if applied == 0 {
            return Some(0);
        }
        self.seen().revisions.get(&applied).copied()
    }

    /// Looks at every running node at a simulated time. `with_states` also compares whole states,
    /// which takes longer.
    pub(crate) fn look(&self, cluster: &Cluster, now_ms: u64, with_states: bool) {
        for id in cluster.ids() {
            if now_ms.is_multiple_of(standstill::LOOK_EVERY_MS) {
                self.look_whether_it_gets_on(cluster, id, now_ms);
            }
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
            // With these the nodes have to notice by themselves.
            let is_theirs = seeded_bugs::is_on("one-replica-applies-otherwise")
                || seeded_bugs::is_on("stored-byte-flips");
            // One with a flipped bit has to find out, too; and is held to all the rest.
            let differs = seen.differ.get(&id).is_some_and(|differs| !differs.has_another_state);
            let is_theirs = is_theirs || differs;
            if with_states && applied > 0 && !is_theirs {
                seen.state(id, applied, query::state_hash(&view));
            }
            let verdict = consensus.comparisons().verdict();
            seen.judges_itself(id, boot, &verdict, now_ms);
            seen.counts.comparisons =
                seen.counts.comparisons.max(consensus.comparisons().compared());
        }
    }

    fn look_whether_it_gets_on(&self, cluster: &Cluster, id: u64, now_ms: u64) {
        let machine = cluster.machine(id);
        let runs = machine.condition() == Condition::Running;
        let consensus = cluster.consensus(id).filter(|_| runs);
        let seen = &mut *self.seen();
        let wrong = seen.standstills.look(id, machine.boots(), consensus.as_ref(), now_ms);
        wrong.into_iter().for_each(|what| seen.violated(format!("{}: {what}", host_of(id))));
    }

    /// Applied index and state of each given node, if all of them run and are equal, and say so.
    pub(crate) fn converged(cluster: &Cluster, ids: &[u64]) -> Option<u64> {
        let mut states = ids.iter().map(|id| {
            let consensus = cluster.consensus(*id)?;
            let verdict = consensus.comparisons().verdict();
            let is_clear = verdict.differs.is_none() && verdict.no_majority.is_none();
            let view = consensus.state().view();
            is_clear.then_some((view.applied()?.index, query::state_hash(&view)))
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
                seen.sent.retain(|(from, _), _| *from != self.node);
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
                    seen.purges_beside_snapshots(self.node, index, simulated_ms().unwrap_or(0));
                    seen.purged.insert(self.node, index);
                }
            }
            Event::SnapshotSent { to, index } => {
                seen.sent.insert((self.node, to), (index, simulated_ms().unwrap_or(0)));
            }
            Event::SnapshotSentEnds { to, index } => {
                if seen.sent.get(&(self.node, to)).is_some_and(|(of, _)| *of == index) {
                    seen.sent.remove(&(self.node, to));
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
                seen.counts.joint_installs +=
                    u64::from(seen.committed_voters().is_some_and(|sets| sets.len() > 1));
                seen.installed.insert(self.node);
                if let Some(differs) = seen.differ.get_mut(&self.node) {
                    differs.has_another_state = true;
                }
                trace_event!(&host, "has installed a snapshot at {index}");
            }
        }
    }
}
