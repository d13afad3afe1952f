//! The order that revisions give, and whether it explains every answer.
//!
//! **Argument.** Every change tells the revision that it made, every linearizable read, refusal and
//! change of nothing the revision of the state that it saw. Revisions are unique, so they give one
//! order of all that was answered. Played in that order on one store, every answer must be what the
//! store says: that is what "one order explains every answer" means, across all counters and keys,
//! with atomic steps and batch reads as single points. (That the order agrees with real time is
//! `time.rs`'s; both together are strict serializability.) Reads of weaker levels have their place
//! too: the state that they claim to be of.
//!
//! A revision that nobody was told must have been made by a write of unknown outcome, which one is
//! searched for (`search.rs`). If no choice explains all answers, that is a violation; if the search
//! runs out of its budget, the history is undecided.

use std::collections::BTreeMap;

use super::{
    Rule, Verdict,
    logical::{History, Logical, Outcome, Place},
    model::Slot,
    search::{End, Entry, Search},
    show::{show, show_all},
};

/// All states of the store, one after another.
#[derive(Debug)]
pub(super) struct Order {
    /// The states below are what the history proves; else they are not to be used.
    pub(super) found: bool,
    /// For each name: from which revision on it was what.
    states: Vec<Vec<(u64, Slot)>>,
    /// The revisions that writes of unknown outcome made, by index of the operation.
    pub(super) assigned: BTreeMap<usize, u64>,
    /// The last revision that an answer tells of.
    pub(super) last: u64,
}

impl Order {
    /// What an item was in the state of a revision.
    pub(super) fn at(&self, name: usize, revision: u64) -> Slot {
        let states = &self.states[name];
        let after = states.partition_point(|(from, _)| *from <= revision);
        after.checked_sub(1).map_or(Slot::Unseen, |index| states[index].1.clone())
    }

    /// The revisions in a range at which an item became another.
    pub(super) fn changes(&self, name: usize, from: u64, to: u64) -> impl Iterator<Item = u64> {
        let states = &self.states[name];
        let first = states.partition_point(|(revision, _)| *revision <= from);
        states[first..].iter().map(|(revision, _)| *revision).take_while(move |at| *at <= to)
    }

    pub(super) fn find(history: &History<'_>, verdict: &mut Verdict) -> Self {
        let (entries, certain) = entries(history, verdict);
        let last = entries.iter().filter_map(|entry| entry.place.reached()).max();
        let mut order = Self {
            found: false,
            states: vec![Vec::new(); history.names.len()],
            assigned: BTreeMap::new(),
            last: last.unwrap_or(history.base),
        };
        let revisions = order.last.saturating_sub(history.base);
        verdict.counts.revisions = revisions;
        if !certain || too_many_gaps(history, &entries, revisions, verdict) {
            return order;
        }
        let mut search = Search::new(history, entries);
        match search.run() {
            End::Explained => {
                order.found = true;
                order.assigned = search.assigned();
                order.states = search.states();
                verdict.counts.unknown_applied = order.assigned.len() as u64;
                let refused = |operation: &&Logical<'_>| {
                    operation.outcome == Outcome::Refused && operation.place != Place::Nowhere
                };
                verdict.counts.refusals = history.operations.iter().filter(refused).count() as u64;
            }
            End::OutOfBudget => verdict.undecided(
                "which writes of unknown outcome made which revisions was not found within the \
                 budget: the order across counters and keys is undecided",
            ),
            End::Stuck(failures) => {
                for (rule, message) in failures {
                    verdict.violation(rule, message);
                }
            }
        }
        order
    }
}

/// What was answered, in the order of revisions; and whether that is all that was answered.
fn entries(history: &History<'_>, verdict: &mut Verdict) -> (Vec<Entry>, bool) {
    let mut entries = Vec::new();
    let mut without = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let is_change = operation.outcome == Outcome::Answered && !operation.is_read();
        match operation.place {
            Place::Nowhere if is_change => without.push(operation.record),
            Place::Nowhere => {}
            place => entries.push(Entry { operation: index, place }),
        }
    }
    if !without.is_empty() {
        verdict.notes.push(format!(
            "{} changes tell no revision, so the order across counters and keys was not checked; \
             each alone was",
            without.len()
        ));
    }
    // Changes before what saw them. Stable: what saw the same state stays in the order of calls.
    entries.sort_by_key(|entry| match entry.place {
        Place::Made { first, .. } => (first, 0),
        Place::Saw(revision) => (revision, 1),
        Place::Nowhere => unreachable!("it was left out above"),
    });
    let mut made: Option<(u64, usize)> = None;
    let mut duplicates = Vec::new();
    entries.retain(|entry| {
        let Place::Made { first, last } = entry.place else { return true };
        if let Some((_, other)) = made.filter(|(reached, _)| first <= *reached) {
            duplicates.push((first, other, entry.operation));
            return false;
        }
        made = Some((last, entry.operation));
        true
    });
    for (revision, one, other) in &duplicates {
        let both = [*one, *other].map(|index| history.operations[index].record);
        let message = format!("two changes made revision {revision}:{}", show_all(both));
        verdict.violation(Rule::DuplicateRevision, message);
    }
    (entries, without.is_empty() && duplicates.is_empty())
}

/// More revisions without a writer than there are writes that may have made them.
fn too_many_gaps(
    history: &History<'_>,
    entries: &[Entry],
    revisions: u64,
    verdict: &mut Verdict,
) -> bool {
    let made = entries.iter().map(|entry| match entry.place {
        Place::Made { first, last } => last.saturating_sub(history.base).min(last - first + 1),
        _ => 0,
    });
    let gaps = revisions.saturating_sub(made.sum());
    let unknown =
        history.operations.iter().filter(|operation| operation.outcome == Outcome::Unknown);
    let possible: u64 = unknown
        .clone()
        .map(|operation| operation.then.len().max(operation.otherwise.len()) as u64)
        .sum();
    if gaps <= possible || history.assumptions.others_write {
        return false;
    }
    let mut next = history.base + 1;
    let mut missing = Vec::new();
    let mut before = None;
    for entry in entries {
        let Place::Made { first, last } = entry.place else { continue };
        if first > next {
            missing.push((next, first - 1, before, Some(entry.operation)));
        }
        (next, before) = (last + 1, Some(entry.operation));
    }
    let seen = entries.iter().filter_map(|entry| entry.place.reached()).max().unwrap_or(0);
    if seen >= next {
        missing.push((next, seen, before, None));
    }
    let quoted = |index: Option<usize>| {
        index.map_or("-".to_owned(), |index| show(history.operations[index].record))
    };
    let example = missing.first().map_or(String::new(), |(from, to, before, after)| {
        format!(
            "; the first: {from}..{to}, after {} and before {}",
            quoted(*before),
            quoted(*after)
        )
    });
    verdict.violation(
        Rule::UnexplainedRevision,
        format!(
            "{gaps} revisions have no writer, and the {} writes of unknown outcome can have made \
             only {possible}{example} (if others wrote to the store at that time, say so)",
            unknown.count()
        ),
    );
    true
}
