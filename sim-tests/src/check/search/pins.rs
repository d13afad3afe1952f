//! What answers say of single revisions: which item a revision changed, and where an item stayed as it
//! was.
//!
//! **Argument.** An answer that saw an item in the state of revision R tells the revision v that last
//! changed it, if it is there. So revision v changed that item, and none of v+1 … R did. Each choice
//! of a writer must agree with that: a choice that does not would be found wrong only when that
//! answer is played, perhaps after many other choices, of which all combinations would be tried.
//! (What is absent tells no revision, and proves nothing here.)

use std::collections::BTreeMap;

use super::Entry;
use crate::check::{
    logical::{Deed, History, Place},
    model::{Act, Expect},
};

/// What is known of single revisions.
#[derive(Debug, Default)]
pub(super) struct Pins {
    /// Items that a revision must have changed.
    changed: BTreeMap<u64, Vec<usize>>,
    /// For each item the revisions, ascending and apart, that did not change it: after the first, up
    /// to the second of each pair.
    unchanged: Vec<Vec<(u64, u64)>>,
}

impl Pins {
    pub(super) fn new(history: &History<'_>, entries: &[Entry]) -> Self {
        let mut pins =
            Self { changed: BTreeMap::new(), unchanged: vec![Vec::new(); history.names.len()] };
        for entry in entries {
            let seen_at = match entry.place {
                Place::Saw(revision) => revision,
                Place::Made { first, .. } => first.saturating_sub(1),
                Place::Nowhere => continue,
            };
            let deeds = history.operations[entry.operation].deeds();
            for (at, deed) in deeds.iter().enumerate() {
                // What an earlier part may have changed says nothing of the state before.
                if deeds[..at].iter().all(|before| before.name != deed.name)
                    && let Some(version) = met_version(deed).filter(|version| *version > 0)
                    && version <= seen_at
                {
                    pins.unchanged[deed.name].push((version, seen_at));
                    pins.changed.entry(version).or_default().push(deed.name);
                }
            }
        }
        pins.changed.values_mut().for_each(|names| {
            names.sort_unstable();
            names.dedup();
        });
        pins.unchanged.iter_mut().for_each(merge);
        pins
    }

    /// Items that a revision must have changed.
    pub(super) fn changed_by(&self, revision: u64) -> impl Iterator<Item = usize> {
        self.changed.get(&revision).into_iter().flatten().copied()
    }

    /// Whether these changes, all that revisions `after + 1 ..= to` did, may be what they did.
    pub(super) fn allow(&self, after: u64, to: u64, changes: &[(usize, u64)]) -> bool {
        let stays = |&(name, revision): &(usize, u64)| {
            let ranges = &self.unchanged[name];
            let next = ranges.partition_point(|(from, _)| *from < revision);
            next.checked_sub(1).is_some_and(|at| revision <= ranges[at].1)
        };
        let is_missing = |(revision, names): (&u64, &Vec<usize>)| {
            names.iter().any(|name| !changes.contains(&(*name, *revision)))
        };
        !changes.iter().any(stays) && !self.changed.range(after + 1..=to).any(is_missing)
    }
}

/// The revision that had changed the item when the operation met it, if the answer tells.
fn met_version(deed: &Deed<'_>) -> Option<u64> {
    match &deed.act {
        Act::Read => deed.answer?.version,
        Act::Store { expect: Expect { version: Some(version), .. }, .. }
        | Act::Delete { expect: Expect { version: Some(version), .. } } => {
            deed.answer.map(|_| *version)
        }
        _ => deed.answer?.previous_version,
    }
}

fn merge(ranges: &mut Vec<(u64, u64)>) {
    ranges.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
    for (from, to) in ranges.drain(..) {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => merged.push((from, to)),
        }
    }
    *ranges = merged;
}
