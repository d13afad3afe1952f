//! What a search says in the end: what is wrong where there is no way through, and what made what where
//! there is one.

use std::collections::BTreeMap;

use super::{Choice, Dead, End, Search};
use crate::check::{
    Rule,
    logical::Place,
    model::Slot,
    show::{show, show_all},
};

impl Search<'_, '_> {
    pub(super) fn give_up(&mut self) -> End {
        let Some(Dead { revision, entry, wrong, .. }) = self.deepest.take() else {
            return End::OutOfBudget;
        };
        if self.guessed {
            return End::OutOfBudget;
        }
        if self.classes.is_empty() && !self.history.assumptions.others_write {
            return End::Stuck(self.all_mismatches());
        }
        let operation = show(self.history.operations[self.entries[entry].operation].record);
        let Some(wrong) = wrong else {
            let message = format!(
                "revision {} has no writer, and no write of unknown outcome can have made it; it \
                 was there before {operation}",
                revision + 1
            );
            return End::Stuck(vec![(Rule::UnexplainedRevision, message)]);
        };
        let mut message = format!(
            "no choice among the writes of unknown outcome explains all answers. The best comes to \
             revision {revision}, and then {operation}: {}",
            wrong.message
        );
        let unknown = self.classes.iter().flatten();
        let touching: Vec<_> = unknown
            .map(|index| &self.history.operations[*index])
            .filter(|unknown| unknown.possible().any(|deed| wrong.names.contains(&deed.name)))
            .collect();
        if !touching.is_empty() {
            message += ". Writes of unknown outcome on it:";
            message += &show_all(touching.iter().map(|operation| operation.record));
        }
        End::Stuck(vec![(Rule::WrongAnswer, message)])
    }

    /// Without unknown outcomes there is one way through only: all that is wrong on it, where each
    /// wrong answer is believed from there on.
    fn all_mismatches(&mut self) -> Vec<(Rule, String)> {
        const MISMATCHES_MAX: usize = 20;
        let mut found = Vec::new();
        let initial = if self.history.base == 0 { Slot::Absent } else { Slot::Unseen };
        self.slots.fill(initial);
        self.log.clear();
        (self.next, self.revision) = (0, self.history.base);
        while found.len() < MISMATCHES_MAX {
            let result = self.advance();
            let Some(entry) = self.entries.get(self.next).copied() else { break };
            let operation = &self.history.operations[entry.operation];
            match result {
                Ok(_) => {
                    let revision = self.revision + 1;
                    self.revision += self.room(&entry);
                    let message = format!(
                        "revision {revision} has no writer; it was there before {}",
                        show(operation.record)
                    );
                    found.push((Rule::UnexplainedRevision, message));
                }
                Err(mismatch) => {
                    let message = format!("{}: {}", show(operation.record), mismatch.message);
                    found.push((Rule::WrongAnswer, message));
                    for deed in operation.deeds() {
                        self.slots[deed.name] = Slot::Unseen;
                    }
                    if let Place::Made { last, .. } = entry.place {
                        self.revision = last;
                    }
                    self.next += 1;
                }
            }
        }
        found
    }

    /// The revisions that writes of unknown outcome made.
    pub(in crate::check) fn assigned(&self) -> BTreeMap<usize, u64> {
        let made = self.frames.iter().filter_map(|frame| {
            match frame.choices[frame.tried.checked_sub(1)?] {
                Choice::Write { operation, .. } => Some((operation, frame.mark.revision + 1)),
                Choice::Nobody => None,
            }
        });
        made.collect()
    }

    /// For each name from which revision on it was what.
    pub(in crate::check) fn states(self) -> Vec<Vec<(u64, Slot)>> {
        let mut states: Vec<Vec<(u64, Slot)>> = vec![Vec::new(); self.slots.len()];
        let mut now = self.slots;
        for change in self.log.into_iter().rev() {
            let after = std::mem::replace(&mut now[change.name], change.before);
            states[change.name].push((change.revision, after));
        }
        for (states, initial) in states.iter_mut().zip(now) {
            states.push((0, initial));
            states.reverse();
            // Of several changes at one revision (the parts of a step on one item) the last stays.
            let mut last: Vec<(u64, Slot)> = Vec::with_capacity(states.len());
            for state in states.drain(..) {
                match last.last_mut() {
                    Some(before) if before.0 == state.0 && state.0 > 0 => *before = state,
                    _ => last.push(state),
                }
            }
            *states = last;
        }
        states
    }
}
