//! Replicas compare their states: each takes the hash at the same entries, tells it to the others, and judges itself.
//!
//! **Claim.** A node whose state differs from that of a majority of the voters stops answering anything but LOCAL reads,
//! and where no majority agrees nothing is written. A node whose state is what every other's is never stops for this.
//!
//! **It relies on** apply being a function of state and entry, so that at an equal log index all replicas have equal
//! records, whatever each of them keeps besides (`machine`'s law); on the log, which gives every replica the same entry
//! at an index once it is applied; and on the store's hash being of exactly the records after that entry
//! (`StateStore::compare_here`, called between the commit of that entry and the next commit).
//!
//! **The steps.** A leader proposes a comparison ([`super::comparing`]) once enough time has passed since the last one was applied, if
//! anything else was applied since. Whoever applies it takes the hash with its next flush, and tells it with every
//! introduction ([`crate::peer::hello`]), which go both ways once a second. What a node knows of one entry is judged by the
//! voters as of that entry, which all have alike ([`judge`]): a hash that a majority of them has is right; a node with
//! another one [differs](Verdict::differs), learners too. Two hashes and no majority for one of them: if those that have not
//! told could still make one, it is waited for them ([`UNHEARD_PATIENCE`]); after that, and at once where they could not,
//! writes wait ([`Verdict::no_majority`]) until a report, or a later comparison, shows a majority.
//!
//! **Races.** *A snapshot is installed over the entry*: there is no hash of it here and no report, and the next comparison
//! judges what was installed. *A restart*: reports are in memory, so what was told is lost; an entry that was not flushed
//! before is applied again and its hash taken again, which is the same. *A flush that runs, or a snapshot that is built,
//! while the entry is applied*: the map of that moment waits as it is; if too many wait already, this node has no
//! report, and is judged by the next comparison. *A change of the voters*: each entry is judged by those as of it. *Late
//! reports*: they name the entry with its term, and a round is kept until [`ROUNDS_MAX`] later ones came.
//!
//! **What breaks it.** A majority that is wrong: it is believed. A leader whose state went wrong since the last comparison
//! may send a snapshot of it; where bytes rotted in its store it can't, as whoever builds a snapshot counts all records
//! first. Between the fault and the next comparison a replica answers as it always does.
//!
//! **Why a node that differs still votes.** Its log is sound as far as anybody knows, has checksums of its own, and what
//! the node has acknowledged counts for majorities. It is treated as one that is drained ([`super::drain`]): it does
//! not lead if anybody else can, and if it must, it serves nobody, sends no snapshot, and hands over.
//!
//! **It stays so.** The verdict is kept in the data directory ([`FILE`]): the state on the disk is as wrong after a restart,
//! and nothing but the next comparison would show it, a minute of wrong answers later. It goes with the directory: the way
//! back is to remove the node, to wipe it, and to let it join anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tally_proto::{peer::v1 as wire, seeded_bugs};
use tally_state_hash::StateHash;
use tokio::{sync::watch, time::Instant};

use super::membership::{decode_membership, is_majority};
use crate::storage::{
    disk::{Disk, OpenMode, replace_file},
    log_id::LogId,
    state::StateAt,
};

/// Where a node keeps that its state differs, below its data directory.
pub const FILE: &str = "state-differs";
const NEW_FILE: &str = "state-differs.tmp";

/// Longest text that is read from it.
const FILE_BYTES_MAX: usize = 4096;

/// Entries of which reports are kept, and told: a comparison comes every half minute, and a report is told every second.
const ROUNDS_MAX: usize = 8;

/// How long writes go on while voters differ and the word of those that have not told yet could decide between them: five
/// introductions. Each node takes its hash with a flush of its own and tells it with its next introduction, so that reports
/// of one entry come up to some seconds apart, the one that differs as often first as last. To refuse writes at once would
/// refuse them for each replica that ever differs; and what is written meanwhile is as what was written since the last
/// comparison.
const UNHEARD_PATIENCE: Duration = Duration::from_secs(5);

/// What everybody is told to do.
const WAY_BACK: &str =
    "remove the node, wipe its data directory and let it join anew (docs/operations.md)";

/// What the reports of one entry say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// Nobody differs, of those that are known, and they are no majority yet.
    Open,
    /// A majority of the voters has this hash.
    Agreed(StateHash),
    /// Voters differ, and those that have not told decide whether one hash is that of a majority.
    Unheard,
    /// Voters differ, and no hash is that of a majority, whatever the others tell.
    Split,
}

/// Judges the reports of an entry by the voters as of it: one set, or two while they change, and a majority is one of
/// each.
fn judge(voters: &[BTreeSet<u64>], hashes: &BTreeMap<u64, StateHash>) -> Judged {
    let of_voters = hashes.iter().filter(|(id, _)| voters.iter().any(|set| set.contains(id)));
    let distinct: BTreeSet<StateHash> = of_voters.map(|(_, hash)| *hash).collect();
    let has = |hash| {
        is_majority(voters, |id| hashes.get(&id) == Some(hash))
            || seeded_bugs::is_on("one-state-is-believed") && distinct.len() > 1
    };
    let may_have = |hash| is_majority(voters, |id| hashes.get(&id).is_none_or(|told| told == hash));
    match distinct.iter().find(|hash| has(hash)) {
        Some(hash) => Judged::Agreed(*hash),
        None if distinct.len() < 2 => Judged::Open,
        None if distinct.iter().any(may_have) => Judged::Unheard,
        None => Judged::Split,
    }
}

/// What is known of one entry.
#[derive(Debug, Default)]
struct Round {
    /// The voters as of it, once this node has applied it.
    voters: Vec<BTreeSet<u64>>,
    hashes: BTreeMap<u64, StateHash>,
    /// A majority agreed.
    is_settled: bool,
    /// Nodes that the log was told of.
    told: BTreeSet<u64>,
}

/// What is known of all of them.
#[derive(Debug, Default)]
struct Known {
    /// By the entry.
    rounds: BTreeMap<(u64, u64), Round>,
    /// Since when voters differ of whom more have to tell, and how they do. It outlasts the entries that showed it: where
    /// comparisons come often, those of one that does not tell are forgotten before its time is over.
    unheard: Option<(Instant, String)>,
}

/// Of a node's state, as far as comparisons have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// It differs, and how.
    pub differs: Option<String>,
    /// Voters differ, and no majority of them agrees.
    pub no_majority: Option<String>,
}

/// The comparisons of a node. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Comparisons {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node_id: u64,
    disk: Arc<dyn Disk>,
    known: Mutex<Known>,
    verdict: watch::Sender<Verdict>,
    /// As in the verdict, for whoever asks with every request.
    differs: AtomicBool,
    /// The last comparison that was applied: its index, and when.
    last: Mutex<(u64, Instant)>,
    compared: AtomicU64,
    /// Nodes that said that they do not know the command.
    older: Mutex<BTreeSet<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Comparisons {
    /// Of a node, which may have been found to differ before it was started.
    pub async fn open(node_id: u64, disk: Arc<dyn Disk>) -> io::Result<Comparisons> {
        let found = match disk.open(FILE, OpenMode::Read).await {
            Ok(_) if seeded_bugs::is_on("verdict-forgotten") => None,
            Ok(file) => {
                let bytes = file.read_at(0, FILE_BYTES_MAX).await?;
                Some(String::from_utf8_lossy(&bytes).trim().to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(reason) = &found {
            tracing::error!(reason, "{}", Self::consequence());
        }
        Ok(Comparisons {
            inner: Arc::new(Inner {
                node_id,
                disk,
                known: Mutex::default(),
                differs: AtomicBool::new(found.is_some()),
                verdict: watch::channel(Verdict { differs: found, no_majority: None }).0,
                last: Mutex::new((0, Instant::now())),
                compared: AtomicU64::new(0),
                older: Mutex::default(),
            }),
        })
    }

    fn consequence() -> String {
        format!("this node's state differs: it answers LOCAL reads only. The way back: {WAY_BACK}")
    }

    /// What comparisons have shown.
    pub fn verdict(&self) -> Verdict {
        self.inner.verdict.borrow().clone()
    }

    /// Whether the node's state differs from that of a majority.
    pub fn differs(&self) -> bool {
        self.inner.differs.load(Ordering::Acquire)
    }

    /// What whoever asks more of a node that differs is told.
    pub fn why_it_differs(&self) -> Option<String> {
        // With every request: nothing is locked while there is nothing to say.
        if !self.differs() {
            return None;
        }
        let reason = self.inner.verdict.borrow().differs.clone()?;
        Some(format!("{reason}; it answers LOCAL reads only. The way back: {WAY_BACK}"))
    }

    /// Tells of changes of the verdict.
    pub(super) fn watch(&self) -> watch::Receiver<Verdict> {
        self.inner.verdict.subscribe()
    }

    /// Why nothing is written, if no majority of states agrees.
    pub fn why_nothing_is_written(&self) -> Option<String> {
        self.inner.verdict.borrow().no_majority.clone()
    }

    /// Comparisons that this node has judged with a majority since it started.
    pub fn compared(&self) -> u64 {
        self.inner.compared.load(Ordering::Relaxed)
    }

    /// An entry with the command was applied.
    pub(super) fn applied(&self, index: u64) {
        *lock(&self.inner.last) = (index, Instant::now());
    }

    /// What this node tells others.
    pub(crate) fn reports(&self) -> Vec<wire::StateReport> {
        let known = lock(&self.inner.known);
        let own = known.rounds.iter().filter_map(|(at, round)| {
            let hash = round.hashes.get(&self.inner.node_id)?;
            let log_id = Some(wire::LogId { index: at.0, term: at.1 });
            Some(wire::StateReport { log_id, hash: hash.to_bytes().to_vec().into() })
        });
        own.collect()
    }

    /// Another member told this.
    pub(crate) fn learn(&self, node_id: u64, reports: &[wire::StateReport], knows_command: bool) {
        {
            let mut older = lock(&self.inner.older);
            match knows_command {
                true => older.remove(&node_id),
                false => older.insert(node_id),
            };
        }
        let read = |report: &wire::StateReport| {
            let log_id = report.log_id?;
            Some(((log_id.index, log_id.term), StateHash::from_bytes(&report.hash)?))
        };
        let mut is_new = false;
        {
            let rounds = &mut lock(&self.inner.known).rounds;
            // What is older than all that is kept, of as many as are kept, was forgotten.
            let oldest = match rounds.len() >= ROUNDS_MAX {
                true => rounds.keys().next().copied(),
                false => None,
            };
            for (at, hash) in reports.iter().take(ROUNDS_MAX).filter_map(read) {
                if oldest.is_none_or(|oldest| at >= oldest) {
                    let round = rounds.entry(at).or_default();
                    is_new |= round.hashes.insert(node_id, hash) != Some(hash);
                }
            }
        }
        if is_new {
            self.look();
        }
    }

    /// This node's state was this.
    pub(super) fn knows_own(&self, state: &StateAt) {
        let StateAt { applied: LogId { index, term }, membership, hash } = state;
        let voters = match decode_membership(&membership.encoded) {
            Ok(members) => members.get_joint_config().clone(),
            Err(error) => {
                tracing::warn!(%error, "a comparison can't be judged: the membership can't be read");
                return;
            }
        };
        {
            let mut known = lock(&self.inner.known);
            let round = known.rounds.entry((*index, *term)).or_default();
            round.voters = voters;
            round.hashes.insert(self.inner.node_id, *hash);
        }
        self.look();
    }

    /// The state does not hold what was written to it. That needs no other's word.
    pub(super) fn knows_rotten(&self, reason: &str) {
        let known = lock(&self.inner.known);
        self.set(Some(reason.to_owned()), self.why_nothing_is_written());
        drop(known);
    }

    /// Judges all that is known: with each report, and as time goes by, for those that do not tell.
    pub(super) fn look(&self) {
        let own = self.inner.node_id;
        let mut known = lock(&self.inner.known);
        let Known { rounds, unheard } = &mut *known;
        let mut differs = None;
        let mut no_majority = self.why_nothing_is_written();
        let mut undecided = unheard.as_ref().map(|(_, text)| text.clone());
        for ((index, _), round) in rounds.iter_mut().filter(|(_, round)| !round.voters.is_empty()) {
            let Round { voters, hashes, is_settled, told } = round;
            match judge(voters, hashes) {
                Judged::Open => {}
                Judged::Unheard => undecided = Some(split_text(*index, voters, hashes)),
                Judged::Split => no_majority = Some(split_text(*index, voters, hashes)),
                Judged::Agreed(right) => {
                    (no_majority, undecided) = (None, None);
                    if !std::mem::replace(is_settled, true) {
                        self.inner.compared.fetch_add(1, Ordering::Relaxed);
                    }
                    for (id, hash) in hashes.iter().filter(|(_, hash)| **hash != right) {
                        let what = format!(
                            "after entry {index} the state of node {id} has the hash {}, and that of a majority of \
                             the voters {}",
                            short(hash),
                            short(&right)
                        );
                        if *id == own {
                            differs = Some(what);
                        } else if told.insert(*id) {
                            tracing::error!(node = id, "{what}");
                        }
                    }
                }
            }
        }
        while rounds.len() > ROUNDS_MAX {
            rounds.pop_first();
        }
        let since = unheard.as_ref().map_or_else(Instant::now, |(since, _)| *since);
        *unheard = undecided.map(|text| (since, text));
        if let Some((since, text)) = unheard
            && since.elapsed() >= UNHEARD_PATIENCE
        {
            no_majority = Some(text.clone());
        }
        self.set(differs, no_majority);
    }

    /// Under the lock of what is known, so that what was judged first is not said last. A node that differs does so for
    /// good.
    fn set(&self, differs: Option<String>, no_majority: Option<String>) {
        self.inner.verdict.send_if_modified(|verdict| {
            let before = verdict.clone();
            if verdict.differs.is_none()
                && let Some(reason) = differs
            {
                tracing::error!(reason, "{}", Self::consequence());
                verdict.differs = Some(reason);
                self.inner.differs.store(true, Ordering::Release);
            }
            if verdict.no_majority != no_majority {
                match &no_majority {
                    Some(reason) => tracing::error!(reason, "nothing is written any more"),
                    None => tracing::info!("a majority of the voters' states agrees again"),
                }
                verdict.no_majority = no_majority;
            }
            *verdict != before
        });
    }

    /// Keeps a verdict, durably.
    pub(super) async fn keep(&self, reason: &str) -> io::Result<()> {
        let content = format!("{reason}\n");
        replace_file(&*self.inner.disk, "", FILE, NEW_FILE, content.as_bytes()).await
    }

    /// Whether a comparison is due at a node that leads and has applied this: of what was applied since the last one, or
    /// of the same state again while nothing is written for want of a majority. Then nothing else is applied, and a voter
    /// that comes back by a snapshot, behind the entry that was compared, has no report of that one: without another
    /// comparison its word would never count.
    pub(super) fn is_due(&self, applied: u64, interval: Duration, members: &BTreeSet<u64>) -> bool {
        let (index, at) = *lock(&self.inner.last);
        let says_more = applied > index || self.why_nothing_is_written().is_some();
        says_more && at.elapsed() >= interval && lock(&self.inner.older).is_disjoint(members)
    }
}

/// The beginning of a hash, for people.
fn short(hash: &StateHash) -> String {
    format!("{hash:.16}")
}

fn split_text(index: u64, voters: &[BTreeSet<u64>], hashes: &BTreeMap<u64, StateHash>) -> String {
    let all: BTreeSet<u64> = voters.iter().flatten().copied().collect();
    let of = |id: &u64| match hashes.get(id) {
        Some(hash) => format!("node {id} {}", short(hash)),
        None => format!("node {id} not told"),
    };
    let each: Vec<String> = all.iter().map(of).collect();
    format!(
        "the voters' states differ after entry {index}, and no majority of them agrees ({}): nothing is written \
         until one does",
        each.join(", ")
    )
}

#[cfg(test)]
mod tests;
