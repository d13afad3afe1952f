//! Which write of unknown outcome made which revision that nobody was told?
//!
//! **Argument.** The search goes through the revisions in ascending order with one state of the
//! store. What was answered leaves no choice. At a revision without a writer it tries the writes of
//! unknown outcome that are not used yet, were called before anybody can have seen that revision,
//! and would change something in the present state; and goes on to the next such revision, where the
//! answers between the two prove the choice wrong or leave it standing. It tries all choices before
//! it gives up, so giving up is a proof, except for what is left out:
//!
//! - Of several writes that do the same, only the one called first: in every solution with another
//!   one the two can change places, since the later one is needed, if at all, at a later revision,
//!   which more time has passed before.
//! - If skipping the revision makes an answer before the next such revision wrong, then only writes
//!   that touch the items of that answer.
//! - Writes that always succeed, to items that nobody looks at later, are alike: one stands for all.
//! - Choices that lead to a state which failed before (kept as 128-bit hashes).
//! - Choices that contradict what a later answer says of the very revision (`pins.rs`).
//!
//! **In leaps first.** Where an answer is wrong, the choice made last often has nothing to do with it,
//! and trying all others in its place leads to the same wrong answer again. So the search first goes
//! back to the last choice that touches an item of the wrong answer, or that has such an alternative.
//! That may leap over a solution. So what it finds counts, and what it doesn't find proves nothing:
//! then everything is tried from the beginning, step by step.
//!
//! Which choice is tried first decides nothing but the time: those that the next look at an item
//! asks for, then those that nobody sees.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash as _,
};

mod choices;
mod end;
mod fnv;
mod pins;

pub(super) use self::fnv::Fnv;
use self::{choices::is_plain, pins::Pins};
use super::{
    Rule,
    logical::{Deed, History, Outcome, Place},
    model::{Slot, run},
    play::{Mismatch, Overlay, play},
};

/// Operations played, those that are played again included; of a history so long that it would be played
/// less often than [`ROUNDS`] times, so many rounds.
const BUDGET: u64 = 3_000_000;
/// Of these, so many in leaps: see [`Search::leap`].
const BUDGET_IN_LEAPS: u64 = 1_000_000;
const ROUNDS: u64 = 3;
/// Failed states that are remembered.
const MEMO_MAX: usize = 200_000;

/// An operation that has a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) operation: usize,
    pub(super) place: Place,
}

pub(super) enum End {
    Explained,
    OutOfBudget,
    Stuck(Vec<(Rule, String)>),
}

/// Where the search is. Everything after it can be undone.
#[derive(Debug, Clone, Copy)]
struct Mark {
    log: usize,
    next: usize,
    revision: u64,
}

/// A choice: a write and whether its `else` branch runs; or nobody that the history knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    Write { operation: usize, otherwise: bool },
    Nobody,
}

struct Frame {
    mark: Mark,
    choices: Vec<Choice>,
    tried: usize,
    signature: u128,
    /// Items of the answers that went wrong below it.
    conflict: BTreeSet<usize>,
}

/// Where the search could not go on.
struct Dead {
    reached: usize,
    revision: u64,
    entry: usize,
    wrong: Option<Mismatch>,
}

struct Change {
    name: usize,
    before: Slot,
    revision: u64,
}

pub(super) struct Search<'h, 'a> {
    history: &'h History<'a>,
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    revision: u64,
    /// The first entry that is not played.
    next: usize,
    log: Vec<Change>,
    frames: Vec<Frame>,
    /// Writes of unknown outcome, those that do the same together, each in the order of calls.
    classes: Vec<Vec<usize>>,
    used: BTreeSet<usize>,
    /// For each name the entries that look at it, with the first part that does.
    looks: Vec<Vec<(usize, usize)>>,
    /// For each name the number of entries after which nothing depends on it any more.
    needed_until: Vec<usize>,
    /// Names that a write of unknown outcome may touch.
    doubtful: Vec<usize>,
    /// Names on which all of these are plain: see [`Search::is_plain`].
    plain: Vec<bool>,
    /// Revisions reached, ascending, with the time at which somebody first knew of it or a later one.
    known_at: Vec<(u64, u64)>,
    /// What answers say of single revisions.
    pins: Pins,
    memo: BTreeSet<u128>,
    played: u64,
    /// How far it came, and what was wrong with which entry.
    deepest: Option<Dead>,
    /// A condition hung on an item of which nothing is known: giving up proves nothing.
    guessed: bool,
}

impl<'h, 'a> Search<'h, 'a> {
    pub(super) fn new(history: &'h History<'a>, entries: Vec<Entry>) -> Self {
        let initial = if history.base == 0 { Slot::Absent } else { Slot::Unseen };
        let mut looks = vec![Vec::new(); history.names.len()];
        let mut needed_until = vec![0; history.names.len()];
        for (index, entry) in entries.iter().enumerate() {
            let operation = &history.operations[entry.operation];
            let conditions = operation.when.iter().map(|when| when.name);
            for name in conditions.chain(operation.possible().map(|deed| deed.name)) {
                needed_until[name] = index + 1;
            }
            for (part, deed) in history.operations[entry.operation].deeds().iter().enumerate() {
                let of_name: &mut Vec<(usize, usize)> = &mut looks[deed.name];
                if of_name.last().is_none_or(|(last, _)| *last != index) {
                    of_name.push((index, part));
                }
            }
        }
        let mut search = Self {
            history,
            slots: vec![initial; history.names.len()],
            revision: history.base,
            next: 0,
            log: Vec::new(),
            frames: Vec::new(),
            classes: classes(history),
            used: BTreeSet::new(),
            looks,
            needed_until,
            doubtful: Vec::new(),
            plain: vec![true; history.names.len()],
            known_at: known_at(history, &entries),
            pins: Pins::new(history, &entries),
            entries,
            memo: BTreeSet::new(),
            played: 0,
            deepest: None,
            guessed: false,
        };
        let mut doubtful = BTreeSet::new();
        for &index in search.classes.iter().flatten() {
            let operation = &history.operations[index];
            let plain = operation.when.is_empty() && operation.then.len() == 1;
            for when in &operation.when {
                doubtful.insert(when.name);
                search.plain[when.name] = false;
            }
            for deed in operation.possible() {
                doubtful.insert(deed.name);
                search.plain[deed.name] &= plain && is_plain(deed);
            }
        }
        search.doubtful = doubtful.into_iter().collect();
        search
    }

    pub(super) fn run(&mut self) -> End {
        if !self.classes.is_empty() {
            if self.leap() {
                return End::Explained;
            }
            self.start_again();
        }
        loop {
            match self.advance() {
                Ok(true) => return End::Explained,
                Ok(false) => drop(self.open_frame()),
                Err(wrong) => {
                    let (next, revision) = (self.next, self.revision);
                    self.note(Dead { reached: next, revision, entry: next, wrong: Some(wrong) });
                }
            }
            if self.played > self.budget(BUDGET) {
                return End::OutOfBudget;
            }
            if self.next < self.entries.len() && !self.choose() {
                return self.give_up();
            }
        }
    }

    fn budget(&self, least: u64) -> u64 {
        least.max(self.entries.len() as u64 * ROUNDS)
    }

    /// Looks for a solution in leaps; true if it has one.
    fn leap(&mut self) -> bool {
        while self.played <= self.budget(BUDGET_IN_LEAPS) {
            let conflict = match self.advance() {
                Ok(true) => return true,
                Ok(false) => {
                    let wanted = self.open_frame();
                    let has_choice =
                        self.frames.last().is_some_and(|frame| !frame.choices.is_empty());
                    if has_choice {
                        None
                    } else {
                        let mut names = wanted.unwrap_or_default();
                        names.extend(self.pins.changed_by(self.revision + 1));
                        if names.is_empty() {
                            // Anything may be in the way.
                            names.extend(&self.doubtful);
                        }
                        Some(names)
                    }
                }
                Err(wrong) => Some(wrong.names.into_iter().collect()),
            };
            if let Some(conflict) = conflict {
                self.go_back(conflict);
            }
            if !self.choose() {
                return false;
            }
        }
        false
    }

    /// Drops the innermost frames that a wrong answer on these items has nothing to do with.
    fn go_back(&mut self, mut conflict: BTreeSet<usize>) {
        while let Some(frame) = self.frames.last() {
            let touches =
                |choice: &Choice| self.names_of(*choice).any(|name| conflict.contains(&name));
            let last = frame.tried.saturating_sub(1);
            let is_concerned = frame.choices[last.min(frame.choices.len())..].iter().any(touches);
            let has_more = frame.tried < frame.choices.len();
            if is_concerned && has_more {
                break;
            }
            let own: Vec<usize> = match frame.choices.get(last) {
                Some(choice) if is_concerned => self.names_of(*choice).collect(),
                _ => Vec::new(),
            };
            let Some(frame) = self.frames.pop() else { return };
            if let Some(Choice::Write { operation, .. }) =
                frame.tried.checked_sub(1).map(|tried| frame.choices[tried])
            {
                self.used.remove(&operation);
            }
            self.undo(frame.mark);
            conflict.extend(own);
            conflict.extend(frame.conflict);
        }
        if let Some(frame) = self.frames.last_mut() {
            frame.conflict.extend(conflict);
        }
    }

    /// Items that a choice looks at or changes.
    fn names_of(&self, choice: Choice) -> impl Iterator<Item = usize> {
        let operation = match choice {
            Choice::Write { operation, .. } => Some(&self.history.operations[operation]),
            Choice::Nobody => None,
        };
        operation.into_iter().flat_map(|operation| {
            let conditions = operation.when.iter().map(|when| when.name);
            conditions.chain(operation.possible().map(|deed| deed.name))
        })
    }

    fn start_again(&mut self) {
        self.undo(Mark { log: 0, next: 0, revision: self.history.base });
        self.frames.clear();
        self.used.clear();
        self.memo.clear();
        self.deepest = None;
        self.guessed = false;
        self.played = 0;
    }

    /// Plays until the next revision without a writer (false) or the end (true).
    fn advance(&mut self) -> Result<bool, Mismatch> {
        while let Some(entry) = self.entries.get(self.next) {
            if self.room(entry) > 0 {
                return Ok(false);
            }
            self.played += 1;
            let operation = &self.history.operations[entry.operation];
            if let Place::Saw(revision) = entry.place
                && revision < self.revision
            {
                let message = "it saw a revision in the middle of an atomic step".to_owned();
                return Err(Mismatch { message, names: Vec::new() });
            }
            let slots = &self.slots;
            let below = |name: usize| slots[name].clone();
            let mut state = Overlay::new(&below, self.revision);
            play(self.history, operation, &mut state)?;
            self.revision = state.revision;
            let changes = state.changes();
            self.write(changes);
            self.next += 1;
        }
        Ok(true)
    }

    /// Revisions without a writer before an entry.
    fn room(&self, entry: &Entry) -> u64 {
        match entry.place {
            Place::Made { first, .. } => first.saturating_sub(self.revision + 1),
            Place::Saw(revision) => revision.saturating_sub(self.revision),
            Place::Nowhere => 0,
        }
    }

    fn write(&mut self, changes: BTreeMap<usize, Slot>) {
        for (name, slot) in changes {
            if self.slots[name] != slot {
                let before = std::mem::replace(&mut self.slots[name], slot);
                self.log.push(Change { name, before, revision: self.revision });
            }
        }
    }

    fn mark(&self) -> Mark {
        Mark { log: self.log.len(), next: self.next, revision: self.revision }
    }

    fn undo(&mut self, mark: Mark) {
        for change in self.log.drain(mark.log..).rev() {
            self.slots[change.name] = change.before;
        }
        (self.next, self.revision) = (mark.next, mark.revision);
    }

    fn note(&mut self, dead: Dead) {
        if self.deepest.as_ref().is_none_or(|deepest| deepest.reached < dead.reached) {
            self.deepest = Some(dead);
        }
    }

    /// At a revision without a writer: what may have made it, the most likely first. Returns the
    /// items of the answer that is wrong unless somebody made it.
    fn open_frame(&mut self) -> Option<BTreeSet<usize>> {
        let signature = self.signature();
        let mut choices = Vec::new();
        let mut wanted = None;
        if !self.memo.contains(&signature) {
            let without = self.without();
            wanted = without.as_ref().map(|(_, wrong)| wrong.names.iter().copied().collect());
            choices = self.choices(without.as_ref());
            if choices.is_empty() {
                let (reached, revision) = (self.next, self.revision);
                let entry = without.as_ref().map_or(reached, |(entry, _)| *entry);
                let wrong = without.map(|(_, wrong)| wrong);
                self.note(Dead { reached, revision, entry, wrong });
            }
        }
        let (mark, conflict) = (self.mark(), BTreeSet::new());
        self.frames.push(Frame { mark, choices, tried: 0, signature, conflict });
        wanted
    }

    /// Makes the next choice of the innermost frame that has one left.
    fn choose(&mut self) -> bool {
        while let Some(frame) = self.frames.last_mut() {
            let mark = frame.mark;
            if let Some(Choice::Write { operation, .. }) =
                frame.tried.checked_sub(1).map(|tried| frame.choices[tried])
            {
                self.used.remove(&operation);
            }
            let choice = frame.choices.get(frame.tried).copied();
            frame.tried += 1;
            self.undo(mark);
            match choice {
                Some(choice) => {
                    let made = self.take(choice);
                    debug_assert!(made, "a choice was tried when it was collected");
                    return true;
                }
                None => {
                    if let Some(frame) = self.frames.pop()
                        && self.memo.len() < MEMO_MAX
                    {
                        self.memo.insert(frame.signature);
                    }
                }
            }
        }
        false
    }

    /// Does it, if it can be done now and changes something.
    fn take(&mut self, choice: Choice) -> bool {
        let Choice::Write { operation: index, otherwise } = choice else {
            self.revision += 1;
            return true;
        };
        self.played += 1;
        let room = self.entries.get(self.next).map_or(0, |entry| self.room(entry));
        let operation = &self.history.operations[index];
        let deeds = if otherwise { &operation.otherwise } else { &operation.then };
        let mark = self.mark();
        for deed in deeds {
            let Ok(ran) = run(&deed.act, &self.slots[deed.name], self.revision + 1) else {
                self.undo(mark);
                return false;
            };
            self.revision += u64::from(ran.mutated);
            self.write(BTreeMap::from([(deed.name, ran.after)]));
        }
        let width = self.revision - mark.revision;
        let changes: Vec<_> =
            self.log[mark.log..].iter().map(|change| (change.name, change.revision)).collect();
        if width == 0 || width > room || !self.pins.allow(mark.revision, self.revision, &changes) {
            self.undo(mark);
            return false;
        }
        self.used.insert(index);
        true
    }

    /// What is wrong, and with which entry, if nobody that the history knows made the revisions that
    /// come next without a writer.
    fn without(&mut self) -> Option<(usize, Mismatch)> {
        let mark = self.mark();
        self.revision += self.room(&self.entries[self.next]);
        let wrong = self.advance().err().map(|wrong| (self.next, wrong));
        self.undo(mark);
        wrong
    }

    /// A hash of all that decides how the search goes on from here.
    fn signature(&self) -> u128 {
        let mut hash = Fnv::default();
        (self.revision, self.next, &self.used).hash(&mut hash);
        for &name in &self.doubtful {
            if self.needed_until[name] > self.next || !self.plain[name] {
                self.slots[name].hash(&mut hash);
            }
        }
        hash.0
    }
}

/// Writes of unknown outcome, those that ask for the same together.
fn classes(history: &History<'_>) -> Vec<Vec<usize>> {
    let mut classes: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, operation) in history.operations.iter().enumerate() {
        if operation.outcome == Outcome::Unknown {
            let deeds = |deeds: &[Deed<'_>]| -> Vec<_> {
                deeds.iter().map(|deed| (deed.name, deed.act.clone())).collect()
            };
            let when = format!("{:?}", operation.record.when);
            let class = (deeds(&operation.then), deeds(&operation.otherwise), when);
            classes.entry(class).or_default().push(index);
        }
    }
    // Operations are in the order of their calls, and so are these.
    classes.into_values().collect()
}

fn known_at(history: &History<'_>, entries: &[Entry]) -> Vec<(u64, u64)> {
    let reached = |entry: &Entry| {
        entry.place.reached().map(|reached| (reached, history.operations[entry.operation].ret))
    };
    let mut known: Vec<_> = entries.iter().filter_map(reached).collect();
    known.sort_unstable();
    let mut earliest = u64::MAX;
    for (_, time) in known.iter_mut().rev() {
        earliest = earliest.min(*time);
        *time = earliest;
    }
    known
}
