//! What a node has promised, and whether it still knows.
//!
//! Raft rests on what each node tells the others: its vote, and the entries that it acknowledged. A
//! node that forgets one of them lies, though nothing needs to go wrong at once: usually the other
//! nodes hold the entry too, and nobody asks for a second vote. So the promises themselves are
//! checked, at every start of a node:
//!
//! - the vote in its log is the last one that it had saved, or a later one;
//! - its log reaches to the last entry that it had acknowledged, in the same term, unless entries
//!   were overruled since;
//! - each entry that it finds is, byte for byte, one that somebody appended under that index and term
//!   (that check is with the other entries, in `Seen::found`).
//!
//! And while it runs:
//!
//! - entries of the term in which it votes are never taken away (a leader only appends);
//! - the state on its disk is not ahead of its synced log.
//!
//! A machine that lost its disk has forgotten everything, and may start; but it must take no part
//! under its old id.

use std::collections::{BTreeMap, VecDeque};

use tally_node::storage::wal::{Ballot, LogId};

/// The promises of one node, across all its starts.
#[derive(Debug, Default)]
pub(super) struct Promises {
    vote: Option<Ballot>,
    /// The last entry acknowledged and not overruled since: index and term, 0 if that is not known.
    acknowledged: Option<(u64, u64)>,
    /// Terms of the entries in its log, by index, as handed to it.
    log: BTreeMap<u64, u64>,
    /// Entries handed to the log and not synced yet, in their order: index, term, and up to where
    /// the sync of each promises something, as what follows may be overruled meanwhile.
    under_way: VecDeque<(u64, u64, u64)>,
    /// What was acknowledged before the log was opened, to be found in it.
    to_find: Option<(u64, u64)>,
    disk_lost: bool,
}

impl Promises {
    /// The log was opened: says what is missing in it.
    pub(super) fn opened(&mut self, vote: Option<Ballot>, last: Option<LogId>) -> Option<String> {
        self.under_way.clear();
        self.log.clear();
        if self.disk_lost {
            // An older copy has a log, too, and a state that is not ahead of it.
            self.acknowledged = last.map(|last| (last.index, last.term));
            return None;
        }
        let (saved, acknowledged) = (self.vote, self.acknowledged);
        self.vote = vote.max_by_promise(saved);
        self.acknowledged = last.map(|last| (last.index, last.term));
        self.to_find = acknowledged.filter(|(_, term)| *term > 0);
        if let Some(saved) = saved
            && vote.is_none_or(|vote| !keeps(vote, saved))
        {
            return Some(format!("it had saved the vote {saved:?}, and has {vote:?} now"));
        }
        if let Some((index, term)) = acknowledged
            && last.is_none_or(|last| last.index < index)
        {
            return Some(format!(
                "it had acknowledged entry {term}-{index}, and its log ends with {last:?} now"
            ));
        }
        None
    }

    /// An entry is found in an opened log.
    pub(super) fn found(&mut self, index: u64, term: u64) -> Option<String> {
        self.log.insert(index, term);
        let (_, acknowledged) = self.to_find.take_if(|(at, _)| *at == index)?;
        (acknowledged != term).then(|| {
            format!("it had acknowledged entry {acknowledged}-{index}, and has {term}-{index} now")
        })
    }

    pub(super) fn voted(&mut self, vote: Ballot) -> Option<String> {
        self.vote = Some(vote);
        self.takes_part()
    }

    pub(super) fn appended(&mut self, index: u64, term: u64) -> Option<String> {
        self.log.insert(index, term);
        self.under_way.push_back((index, term, index));
        self.takes_part()
    }

    /// Entries up to one are synced; says which of them were not overruled meanwhile: index and term.
    pub(super) fn synced(&mut self, index: u64, term: u64) -> Vec<(u64, u64)> {
        let mut durable = Vec::new();
        if !self.under_way.iter().any(|(at, of, _)| (*at, *of) == (index, term)) {
            return durable;
        }
        // Syncs come in the order of appends, one for several entries.
        while let Some((at, of, promised)) = self.under_way.pop_front() {
            if promised > 0 && self.acknowledged.is_none_or(|(before, _)| before < promised) {
                let term = self.log.get(&promised).copied().unwrap_or(of);
                self.acknowledged = Some((promised, term));
            }
            if promised == at {
                durable.push((at, of));
            }
            if (at, of) == (index, term) {
                break;
            }
        }
        durable
    }

    pub(super) fn truncated(&mut self, keep: u64) -> Option<String> {
        let last = self.log.last_key_value().map(|(index, term)| (*index, *term));
        self.lower(keep);
        let (index, term) = last.filter(|(index, _)| *index > keep)?;
        let vote = self.vote.filter(|vote| vote.term <= term)?;
        Some(format!(
            "it drops its log behind {keep}, with entry {term}-{index}, while it votes in term {}: \
             a leader only appends",
            vote.term
        ))
    }

    pub(super) fn purged(&mut self, index: u64, jump: bool) {
        if jump {
            self.lower(index);
            self.log.clear();
        } else {
            self.log = self.log.split_off(&(index + 1));
        }
    }

    /// What lies behind an index is no promise any more.
    fn lower(&mut self, keep: u64) {
        drop(self.log.split_off(&(keep + 1)));
        for (_, _, promised) in &mut self.under_way {
            *promised = keep.min(*promised);
        }
        if let Some((index, _)) = self.acknowledged
            && index > keep
        {
            self.acknowledged = Some((keep, self.log.get(&keep).copied().unwrap_or(0)));
        }
    }

    /// Up to where its log is synced.
    pub(super) fn synced_index(&self) -> u64 {
        self.acknowledged.map_or(0, |(index, _)| index)
    }

    pub(super) fn lose_disk(&mut self) {
        *self = Promises { disk_lost: true, ..Promises::default() };
    }

    fn takes_part(&self) -> Option<String> {
        let forgotten =
            "it takes part in Raft, though its disk was lost with all that it had promised";
        self.disk_lost.then(|| forgotten.to_owned())
    }
}

/// Whether somebody who knows `vote` still keeps what `saved` promises.
///
/// A candidate that loses follows the winner of the same term: what it had voted, for itself, gives
/// way to a vote that a majority has made final.
fn keeps(vote: Ballot, saved: Ballot) -> bool {
    let same_node = vote.node_id == saved.node_id;
    let same_term = vote.term == saved.term
        && (same_node && vote.committed >= saved.committed || vote.committed && !saved.committed);
    vote.term > saved.term || same_term
}

trait Later {
    fn max_by_promise(self, other: Option<Ballot>) -> Option<Ballot>;
}

impl Later for Option<Ballot> {
    fn max_by_promise(self, other: Option<Ballot>) -> Option<Ballot> {
        match (self, other) {
            (Some(vote), Some(saved)) => Some(if keeps(vote, saved) { vote } else { saved }),
            (vote, saved) => vote.or(saved),
        }
    }
}
