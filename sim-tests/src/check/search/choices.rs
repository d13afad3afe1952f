//! What may have made a revision that nobody was told, the most likely first.

use super::{Choice, Mark, Search};
use crate::check::{
    logical::{Deed, Logical, Outcome, Place},
    model::{Act, Expect, Item, Slot, agrees, run},
    play::{Mismatch, failing},
};

// Ranks of choices. One that a wrong answer does not ask for ranks 10 lower.
const WANTED: u32 = 0;
const STEP: u32 = 1;
const NOBODY: u32 = 2;
const UNSEEN: u32 = 3;
const HARMLESS: u32 = 4;
const CONTRADICTED: u32 = 5;

impl<'h, 'a> Search<'h, 'a> {
    pub(super) fn choices(&mut self, without: Option<&(usize, Mismatch)>) -> Vec<Choice> {
        let mark = self.mark();
        let room = self.room(&self.entries[self.next]);
        let seen_at = self.seen_at(self.revision + 1);
        let wanted = without.map_or(&[][..], |(_, mismatch)| &mismatch.names);
        let mut choices = Vec::new();
        let mut has_sink = false;
        for class in 0..self.classes.len() {
            let unused = self.classes[class].iter().find(|index| !self.used.contains(index));
            let Some(&index) = unused else { continue };
            if self.history.operations[index].call > seen_at {
                continue;
            }
            for choice in self.branches(index) {
                let before: Vec<_> = self.touched(choice).map(|deed| deed.name).collect();
                let touches = before.iter().any(|name| wanted.contains(name));
                if without.is_some() && room == 1 && !touches {
                    continue;
                }
                let Some((rank, sink)) = self.rank(choice, mark) else { continue };
                if sink && std::mem::replace(&mut has_sink, true) {
                    continue;
                }
                let rank = if without.is_some() && !touches { rank + 10 } else { rank };
                choices.push((rank, self.history.operations[index].call, choice));
            }
        }
        if self.history.assumptions.others_write && (without.is_none() || room > 1) {
            choices.push((NOBODY, 0, Choice::Nobody));
        }
        choices.sort_by_key(|(rank, call, _)| (*rank, *call));
        choices.into_iter().map(|(_, _, choice)| choice).collect()
    }

    /// When somebody first knew of this revision or a later one.
    fn seen_at(&self, revision: u64) -> u64 {
        let at = self.known_at.partition_point(|(reached, _)| *reached < revision);
        self.known_at.get(at).map_or(u64::MAX, |(_, time)| *time)
    }

    /// The branches of an unused write that may run in the present state.
    fn branches(&mut self, index: usize) -> Vec<Choice> {
        let operation = &self.history.operations[index];
        let slots = &self.slots;
        let branch = |otherwise| Choice::Write { operation: index, otherwise };
        match failing(operation, &|name| slots[name].clone()) {
            Some(failing) => vec![branch(failing.is_some())],
            None => {
                self.guessed = true;
                vec![branch(false), branch(true)]
            }
        }
    }

    fn touched(&self, choice: Choice) -> impl Iterator<Item = &'h Deed<'a>> + use<'h, 'a> {
        let history = self.history;
        let deeds: &[Deed<'a>] = match choice {
            Choice::Nobody => &[],
            Choice::Write { operation, otherwise: false } => &history.operations[operation].then,
            Choice::Write { operation, otherwise: true } => {
                &history.operations[operation].otherwise
            }
        };
        deeds.iter().filter(|deed| deed.act != Act::Read)
    }

    /// How likely a choice is, lowest first; and whether nobody can ever see it. Nothing, if it
    /// can't be made now.
    fn rank(&mut self, choice: Choice, mark: Mark) -> Option<(u32, bool)> {
        let before: Vec<_> =
            self.touched(choice).map(|deed| (deed.name, self.look_fits(deed.name))).collect();
        if !self.take(choice) {
            return None;
        }
        let mut fits_after = true;
        for (name, _) in &before {
            fits_after &= self.look_fits(*name).unwrap_or(true);
        }
        let Choice::Write { operation, .. } = choice else { return None };
        self.used.remove(&operation);
        self.undo(mark);
        let wanted = before.iter().any(|(_, fits)| *fits == Some(false));
        let unseen = before.iter().all(|(_, fits)| fits.is_none());
        let is_sink = before.len() == 1 && self.is_sink(before[0].0);
        Some(match (wanted, fits_after, unseen) {
            (true, true, _) => (WANTED, false),
            (true, false, _) => (STEP, false),
            (false, _, true) => (UNSEEN, is_sink),
            (false, true, false) => (HARMLESS, false),
            (false, false, false) => (CONTRADICTED, false),
        })
    }

    /// Nobody looks at it later, and all that may still happen to it always succeeds.
    fn is_sink(&self, name: usize) -> bool {
        const FAR: u64 = 1 << 62;
        let is_free = |item: &Item| {
            let far = item.value.int().is_some_and(|value| value.unsigned_abs() >= FAR);
            item.floor.is_none() && item.ceiling.is_none() && !far
        };
        self.plain[name]
            && self.needed_until[name] <= self.next
            && self.slots[name].item().is_none_or(is_free)
    }

    /// Whether the next look at an item fits the present state, if there is one.
    fn look_fits(&self, name: usize) -> Option<bool> {
        let looks = &self.looks[name];
        let at = looks.partition_point(|(entry, _)| *entry < self.next);
        let (entry, part) = *looks.get(at)?;
        let operation = &self.history.operations[self.entries[entry].operation];
        let deed = &operation.deeds()[part];
        let slot = &self.slots[name];
        Some(fits(operation, deed, slot))
    }
}

/// Always succeeds on an item without bounds, and always makes one revision.
pub(super) fn is_plain(deed: &Deed<'_>) -> bool {
    const FAR: i64 = 1 << 40;
    match &deed.act {
        Act::Store { expect, .. } => *expect == Expect::default(),
        Act::Incr { delta, floor: None, ceiling: None, must_exist: false, .. } => {
            *delta != 0 && delta.abs_diff(0) < FAR as u64
        }
        _ => false,
    }
}

/// Whether a look at an item, as its answer tells it, fits a state of that item.
fn fits(operation: &Logical<'_>, deed: &Deed<'_>, slot: &Slot) -> bool {
    let first = match operation.place {
        Place::Made { first, .. } => first,
        Place::Saw(revision) => revision + 1,
        Place::Nowhere => return true,
    };
    match (operation.outcome, run(&deed.act, slot, first)) {
        // The part of a refused step that was refused may be another one.
        (Outcome::Refused, _) if operation.possible().count() > 1 || !operation.when.is_empty() => {
            true
        }
        (Outcome::Refused, Ok(_)) | (Outcome::Answered, Err(_)) => false,
        (Outcome::Refused, Err(reason)) => operation.record.reason.as_deref() == Some(reason),
        (_, Ok(ran)) => {
            deed.answer.is_none_or(|answer| agrees(&deed.act, slot, &ran, answer, true).is_ok())
        }
        (_, Err(_)) => true,
    }
}
