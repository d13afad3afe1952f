//! What was seen of all nodes so far, and what is compared with it: the statements of the Raft paper, one
//! function each, and Tally's own.
//!
//! Leaves out: where it comes from, events of nodes and a look at each; that is `invariants`.

use std::collections::{BTreeMap, BTreeSet};

use tally_node::{consensus::compare::Verdict, storage::simulated_disk::SimulatedDisk};

use super::{
    NodeCounts,
    commits::Commits,
    promises::Promises,
    standstill::Standstills,
    voters::{Voters, VotersInLog},
};
use crate::{cluster::host_of, trace_event};

/// Log time may be ahead of simulated time by this: each leader rounds to milliseconds.
const LOG_TIME_ROUNDING_MS: u64 = 1_000;

/// A purge that was asked for is done within this, also beside other work of Raft's.
const PURGE_ASKED_MS: u64 = 500;

#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) counts: NodeCounts,
    pub(super) violations: Vec<String>,
    pub(super) leaders: BTreeMap<u64, u64>,
    /// Digest of each entry ever appended anywhere, by index and term.
    pub(super) entries: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Of each committed index: term, digest of the answers, and the highest term in which somebody
    /// led when it was first applied, which is at least the term that committed it.
    pub(super) committed: BTreeMap<u64, (u64, u64, u64)>,
    /// Revision of the store after each committed entry.
    pub(super) revisions: BTreeMap<u64, u64>,
    /// State hash at an applied index, and whose it was.
    pub(super) states: BTreeMap<u64, (u64, [u8; 32])>,
    /// Applied index and revision of each node as last seen, with the boot they belong to.
    pub(super) progress: BTreeMap<u64, (u64, u64, u64)>,
    /// Applied index in each node's flushed state, as last seen.
    pub(super) flushed: BTreeMap<u64, u64>,
    /// Nodes that have installed a snapshot since they were last looked at.
    pub(super) installed: BTreeSet<u64>,
    /// Up to where a node's log was purged since it was last looked at.
    pub(super) purged: BTreeMap<u64, u64>,
    /// Snapshots on their way, by from and to: their last entry, and since when, in simulated ms.
    pub(super) sent: BTreeMap<(u64, u64), (u64, u64)>,
    pub(super) promises: BTreeMap<u64, Promises>,
    /// The disk of each node, and the errors of its log that it had had when the node last opened its log.
    pub(super) disks: BTreeMap<u64, (SimulatedDisk, u64)>,
    pub(super) voters: BTreeMap<u64, VotersInLog>,
    pub(super) commits: Commits,
    pub(super) standstills: Standstills,
    /// Every entry ever appended that names voters, by index and term.
    pub(super) voter_entries: BTreeMap<u64, BTreeMap<u64, Voters>>,
    /// How often an entry that names two sets of voters was appended, first of all nodes.
    pub(super) joints: u64,
    /// Nodes that found that replicas differ.
    pub(super) differing: BTreeSet<u64>,
    /// Nodes in whose stored state a bit has flipped.
    pub(super) differ: BTreeMap<u64, Differs>,
    /// What nodes had promised whose disks are lost for a while.
    pub(super) set_aside: BTreeMap<u64, Promises>,
}

/// A node in whose stored state a bit has flipped.
#[derive(Debug, Default)]
pub(super) struct Differs {
    /// Of each run of its process that knew it: which run, and from when until when it was seen to, in simulated ms. One
    /// whose verdict was not on the disk yet when its process ended may not know it any more.
    pub(super) knew: Vec<(u64, u64, u64)>,
    pub(super) has_another_state: bool,
}

impl Differs {
    fn knows(&mut self, boot: u64, now_ms: u64) {
        match self.knew.last_mut().filter(|(last, ..)| *last == boot) {
            Some((_, _, until_ms)) => *until_ms = now_ms,
            None => self.knew.push((boot, now_ms, now_ms)),
        }
    }
}

impl Seen {
    pub(super) fn violated(&mut self, what: String) {
        trace_event!("safety", "VIOLATED: {what}");
        self.violations.push(what);
    }

    /// What a node found out when the replicas compared themselves. A node in whose state a bit has flipped has to
    /// find that it differs, and nobody else may. While there was such a bit anywhere, voters may be without a
    /// majority of one state: where one of three is down and another one differs, nobody can tell who is right. That
    /// it is over in the end is looked at there (`Invariants::converged`).
    pub(super) fn judges_itself(&mut self, node: u64, boot: u64, verdict: &Verdict, now_ms: u64) {
        let is_explained = match self.differ.get_mut(&node) {
            Some(differs) if verdict.differs.is_some() => {
                differs.knows(boot, now_ms);
                true
            }
            _ => verdict.differs.is_none() && !self.differ.is_empty(),
        };
        let found = verdict.differs.as_ref().or(verdict.no_majority.as_ref());
        if let Some(found) = found.filter(|_| !is_explained)
            && self.differing.insert(node)
        {
            self.violated(format!("{}: replicas that compare themselves: {found}", host_of(node)));
        }
    }

    /// The voters by the last committed entry that names some.
    pub(super) fn committed_voters(&self) -> Option<&Voters> {
        let mut committed = self.voter_entries.iter().rev().filter_map(|(index, terms)| {
            let (term, ..) = self.committed.get(index)?;
            terms.get(term)
        });
        committed.next()
    }

    /// What follows a snapshot stays in the log while it is sent. What was asked to be purged just before may still go.
    pub(super) fn purges_beside_snapshots(&mut self, node: u64, upto: u64, now_ms: u64) {
        let own = self.sent.range((node, 0)..=(node, u64::MAX));
        let lost = own
            .filter(|(_, (index, since_ms))| *index < upto && since_ms + PURGE_ASKED_MS <= now_ms);
        let lost: Vec<_> =
            lost.map(|((_, to), (index, since_ms))| (*to, *index, now_ms - since_ms)).collect();
        for (to, index, ms) in lost {
            let (from, to) = (host_of(node), host_of(to));
            self.violated(format!("{from}: it purges its log up to {upto}, and sends {to} a snapshot up to {index} for {ms} ms"));
        }
    }

    /// After a failed write or sync of its log a node must end before it calls anything durable.
    pub(super) fn acknowledges(&mut self, node: u64, what: &str) {
        let Some((disk, before)) = self.disks.get(&node) else { return };
        let errors = disk.counts().log_errors;
        if errors > *before {
            self.violated(format!(
                "node {node} calls {what} durable, after {} failed writes and syncs of its log",
                errors - before
            ));
        }
    }

    pub(super) fn promises(&mut self, node: u64) -> &mut Promises {
        self.promises.entry(node).or_default()
    }

    pub(super) fn breaks_promise(&mut self, host: &str, broken: Option<String>) {
        if let Some(how) = broken {
            self.violated(format!("{host} breaks its promise: {how}"));
        }
    }

    pub(super) fn time_passes(&mut self, node: u64, log_time_ms: u64, now_ms: u64) {
        if log_time_ms > now_ms + LOG_TIME_ROUNDING_MS {
            self.violated(format!("log time on node {node} is {log_time_ms} ms after {now_ms} ms"));
        }
    }

    /// What is flushed is in the node's own synced log, or it came as a snapshot.
    pub(super) fn flushes(&mut self, node: u64, flushed: u64, snapshot: u64) {
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
    pub(super) fn purges(&mut self, node: u64, purged: u64, limit: u64) {
        if purged > limit {
            self.violated(format!(
                "node {node} purged its log up to {purged}; its snapshot and its state on disk reach \
                 to {limit} only"
            ));
        }
    }

    /// What is in a log when it is opened was appended by somebody, as it is.
    pub(super) fn found(&mut self, host: &str, index: u64, term: u64, digest: u64) {
        let appended = self.entries.get(&index).and_then(|terms| terms.get(&term)).copied();
        if appended != Some(digest) {
            let what = if appended.is_some() { "another" } else { "an invented" };
            self.violated(format!(
                "log matching: {host} finds {what} entry {term}-{index} in its log"
            ));
        }
    }

    pub(super) fn leads(&mut self, node: u64, term: u64) {
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

    pub(super) fn moves(&mut self, node: u64, boot: u64, applied: u64, revision: u64) {
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

    pub(super) fn appended(&mut self, host: &str, index: u64, term: u64, digest: u64) {
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

    pub(super) fn applied(&mut self, host: &str, index: u64, term: u64, answers: u64) {
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

    pub(super) fn shows_membership(
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

    pub(super) fn state(&mut self, node: u64, applied: u64, hash: [u8; 32]) {
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
pub(super) struct Digest(pub(super) u64);

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

pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut digest = Digest::default();
    digest.add(bytes);
    digest.0
}
