//! Each counter and key alone: is it linearizable, whatever revisions say?
//!
//! This check believes in no revision: they may lie as well. It looks for an order of the
//! operations on one item that agrees with real time and explains what their answers say of values
//! and bounds. (Linearizability is local: all items are if each one is. What happens on several at
//! once is `order.rs`'s.)
//!
//! **The search** is that of Wing and Gong: take an operation that nothing left over had to precede,
//! try it, go on, and come back if that leads nowhere. What makes it fast enough for one hot counter:
//!
//! 1. *What changes nothing is taken at once* (reads, refusals, adds of 0), as soon as it may come
//!    next and fits. That loses no solution: in any order that goes on from here it can be moved to
//!    the front, since nothing that is left had to precede it, it fits now, and changes nothing.
//! 2. *Of unknown writes that ask for the same only the one called first.* In any order with a later
//!    one instead, the two can change places.
//! 3. *Dead ends are seen early*: some answer that is left over needs the value that the item is
//!    about to leave, and nothing left over can make that value again. With this rule a counter that
//!    only rises, or a key of which every value is written once, leaves no choice: at each value it
//!    is certain what has to come before the next one, and the search is a sort, O(n log n).
//! 4. States that failed (which operations are left, and the item) are remembered as 128-bit hashes.
//! 5. Where there is a choice, the told revisions say what to try first, else which operation has to
//!    end first. That guides and proves nothing.
//!
//! **Without a search** where one of two things makes it needless:
//!
//! - *The order that revisions give explains every answer and agrees with real time* (`order.rs`,
//!   `time.rs`), and every operation on the item has its place in it. Restricted to this item it still
//!   does both, so it is an order as this check looks for it. Revisions proposed it; nobody had to
//!   believe them.
//! - *Adds in one direction, and reads*: `chain.rs`.
//!
//! Left out, so that what this check rejects is wrong for certain: expected revisions (taken as
//! fulfilled), conditions of atomic steps on other items, refused steps of several parts.

mod events;
mod one_way;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash as _,
};

use tally_client::history::{Answer, Level};

use self::{
    events::{after, steps},
    one_way::chain,
};
use super::{
    Rule, Verdict,
    chain::Alone,
    logical::{History, Outcome, Place},
    model::{Act, Item, Slot, Value, run},
    order::Order,
    search::Fnv,
    show::show_all,
};

/// Operations tried on one item, at least …
const BUDGET: u64 = 3_000_000;
/// … and of a long history so many for each operation: about as many as are under way at once.
const BUDGET_EACH: u64 = 100;
const MEMO_MAX: usize = 500_000;

/// What one operation does to the item: a part, or several at once.
type Steps<'a> = Vec<(Act, Option<&'a Answer>)>;

struct Event<'a> {
    operation: usize,
    call: u64,
    ret: u64,
    steps: Steps<'a>,
    /// It was refused with this.
    refusal: Option<&'a str>,
    /// It changes nothing wherever it stands.
    is_pure: bool,
    guide: u64,
    /// The value that it met, if its answer tells (`usize::MAX`: it does not).
    needs: usize,
    /// The value that it left behind.
    gives: usize,
}

const NOT_TOLD: usize = usize::MAX;

/// Unknown writes that ask for the same, in the order of their calls, each with its guide.
struct Class<'a> {
    steps: Steps<'a>,
    calls: Vec<(u64, u64)>,
    gives: usize,
}

/// `verified`: the order explains every answer that has a place, and agrees with real time.
pub(super) fn check(history: &History<'_>, order: &Order, verified: bool, verdict: &mut Verdict) {
    let mut by_name: Vec<Vec<usize>> = vec![Vec::new(); history.names.len()];
    for (index, operation) in history.operations.iter().enumerate() {
        if operation.outcome == Outcome::Failed
            || (operation.is_read() && operation.level() != Level::Linearizable)
        {
            continue;
        }
        for deed in operation.possible() {
            if by_name[deed.name].last() != Some(&index) {
                by_name[deed.name].push(index);
            }
        }
    }
    for (name, operations) in by_name.iter().enumerate() {
        let has_place = |index: &usize| {
            let operation = &history.operations[*index];
            operation.place != Place::Nowhere || operation.outcome == Outcome::Unknown
        };
        if verified && operations.iter().all(has_place) {
            continue;
        }
        match chain(history, name, operations).map_or(Alone::NotOneWay, |mut chain| chain.judge()) {
            Alone::NotOneWay => {}
            Alone::Linearizable => continue,
            Alone::Contradiction { message, operations } => {
                let quoted = operations.iter().map(|index| history.operations[*index].record);
                let message = format!(
                    "{} alone, whatever revisions say, has no order that explains its answers: \
                     {message}:{}",
                    history.name(name),
                    show_all(quoted)
                );
                verdict.violation(Rule::NotLinearizable, message);
                continue;
            }
        }
        let mut item = Search::new(history, order, name, operations);
        match item.run() {
            Some(true) => {}
            Some(false) => verdict.violation(Rule::NotLinearizable, item.explain(history, name)),
            None => verdict.undecided(format!(
                "{} alone: no order was found within the budget, and none was excluded",
                history.name(name)
            )),
        }
    }
}

/// What the search and the chain say of the first name, each by itself.
#[cfg(test)]
pub(super) fn by_both(history: &History<'_>, order: &Order) -> (Option<bool>, Alone) {
    let judged = |operation: &super::logical::Logical<'_>| operation.outcome != Outcome::Failed;
    let all = history.operations.iter().enumerate();
    let operations: Vec<usize> =
        all.filter(|(_, operation)| judged(operation)).map(|(index, _)| index).collect();
    let searched = Search::new(history, order, 0, &operations).run();
    let chain = chain(history, 0, &operations);
    (searched, chain.map_or(Alone::NotOneWay, |mut chain| chain.judge()))
}

enum Undo {
    Known(usize),
    Unknown(usize),
}

struct Frame {
    trail: usize,
    slot: Slot,
    choices: Vec<(u64, Choice, Slot)>,
    tried: usize,
    signature: u128,
}

#[derive(Debug, Clone, Copy)]
enum Choice {
    Known(usize),
    Unknown(usize),
}

struct Search<'a> {
    events: Vec<Event<'a>>,
    classes: Vec<Class<'a>>,
    values: BTreeMap<Option<Value>, usize>,
    by_call: BTreeSet<(u64, usize)>,
    by_ret: BTreeSet<(u64, usize)>,
    used: Vec<usize>,
    slot: Slot,
    /// By value: answers left that need it, and operations left that make it.
    needs: Vec<u32>,
    gives: Vec<u32>,
    /// Operations left that may make any value.
    wild: u32,
    /// The value never comes back to what it was.
    one_way: bool,
    trail: Vec<Undo>,
    frames: Vec<Frame>,
    memo: BTreeSet<u128>,
    left: u128,
    tried: u64,
    /// The most operations explained, the item then, and what could have come next.
    best: (usize, Slot, Vec<usize>),
}

impl<'a> Search<'a> {
    fn new(history: &History<'a>, order: &Order, name: usize, operations: &[usize]) -> Self {
        let slot = if history.base == 0 { Slot::Absent } else { Slot::Unseen };
        let mut search = Self {
            events: Vec::new(),
            classes: Vec::new(),
            values: BTreeMap::new(),
            by_call: BTreeSet::new(),
            by_ret: BTreeSet::new(),
            used: Vec::new(),
            best: (0, slot.clone(), Vec::new()),
            slot,
            needs: Vec::new(),
            gives: Vec::new(),
            wild: 0,
            one_way: false,
            trail: Vec::new(),
            frames: Vec::new(),
            memo: BTreeSet::new(),
            left: 0,
            tried: 0,
        };
        let mut classes: BTreeMap<Vec<Act>, Class<'a>> = BTreeMap::new();
        for &index in operations {
            let operation = &history.operations[index];
            if operation.outcome == Outcome::Unknown {
                let guide = order.assigned.get(&index).copied().unwrap_or(u64::MAX);
                for branch in [&operation.then, &operation.otherwise] {
                    search.add_unknown(&mut classes, steps(branch, name), operation.call, guide);
                }
            } else {
                search.add_known(index, operation, name);
            }
        }
        search.classes = classes.into_values().collect();
        search.used = vec![0; search.classes.len()];
        search.one_way = search.is_one_way();
        search
    }

    fn value(&mut self, value: Option<Value>) -> usize {
        let next = self.values.len();
        let index = *self.values.entry(value).or_insert(next);
        if index == next {
            self.needs.push(0);
            self.gives.push(0);
        }
        index
    }

    /// Counts what an operation that is left needs and makes; or no longer does.
    fn count(&mut self, needs: usize, gives: usize, is_pure: bool, is_left: bool) {
        let change = |count: &mut u32| {
            *count = if is_left { *count + 1 } else { *count - 1 };
        };
        if needs != NOT_TOLD {
            change(&mut self.needs[needs]);
        }
        match gives {
            NOT_TOLD if is_pure => {}
            NOT_TOLD => change(&mut self.wild),
            gives => change(&mut self.gives[gives]),
        }
    }

    /// All that changes the value are adds in one direction.
    fn is_one_way(&self) -> bool {
        let known = self.events.iter().filter(|event| !event.is_pure);
        let steps = known.map(|event| &event.steps).chain(self.classes.iter().map(|c| &c.steps));
        let mut directions = BTreeSet::new();
        for (act, _) in steps.flatten() {
            match act {
                Act::Incr { delta, .. } => directions.insert(delta.signum()),
                Act::Read | Act::Configure { .. } => false,
                // A delete and what sets a value may bring any value back.
                Act::Store { .. } | Act::Delete { .. } => return false,
            };
        }
        !(directions.contains(&1) && directions.contains(&-1))
    }

    /// Whether there is an order; nothing, if the budget ends first.
    fn run(&mut self) -> Option<bool> {
        loop {
            self.take_pure();
            if self.by_ret.is_empty() {
                return Some(true);
            }
            let signature = self.signature();
            let choices = if self.memo.contains(&signature) { Vec::new() } else { self.choices() };
            let (trail, slot) = (self.trail.len(), self.slot.clone());
            self.frames.push(Frame { trail, slot, choices, tried: 0, signature });
            if !self.choose() {
                return Some(false);
            }
            if self.tried > BUDGET.max(self.events.len() as u64 * BUDGET_EACH) {
                return None;
            }
        }
    }

    /// The earliest end of what is left: what was called later can't come next.
    fn horizon(&self) -> u64 {
        self.by_ret.first().map_or(u64::MAX, |(ret, _)| *ret)
    }

    fn may_come_next(&self) -> Vec<usize> {
        let horizon = self.horizon();
        let called = self.by_call.iter().take_while(|(call, _)| *call <= horizon);
        called.map(|(_, id)| *id).collect()
    }

    fn take_pure(&mut self) {
        loop {
            let next = self.may_come_next();
            let fits = |id: &usize| {
                let event = &self.events[*id];
                // (On an item of which nothing is known a read teaches something: a choice.)
                event.is_pure && self.outcome(event).as_ref() == Some(&self.slot)
            };
            let pure: Vec<usize> = next.into_iter().filter(fits).collect();
            self.tried += 1;
            if pure.is_empty() {
                return;
            }
            for id in pure {
                self.take_known(id);
            }
        }
    }

    fn take_known(&mut self, id: usize) {
        let Event { call, ret, needs, gives, is_pure, .. } = self.events[id];
        self.by_call.remove(&(call, id));
        self.by_ret.remove(&(ret, id));
        self.left ^= mark(id);
        self.count(needs, gives, is_pure, false);
        self.trail.push(Undo::Known(id));
    }

    fn take_unknown(&mut self, class: usize) {
        self.used[class] += 1;
        self.count(NOT_TOLD, self.classes[class].gives, false, false);
        self.trail.push(Undo::Unknown(class));
    }

    fn undo(&mut self, trail: usize) {
        while self.trail.len() > trail {
            match self.trail.pop() {
                Some(Undo::Known(id)) => {
                    let Event { call, ret, needs, gives, is_pure, .. } = self.events[id];
                    self.by_call.insert((call, id));
                    self.by_ret.insert((ret, id));
                    self.left ^= mark(id);
                    self.count(needs, gives, is_pure, true);
                }
                Some(Undo::Unknown(class)) => {
                    self.used[class] -= 1;
                    self.count(NOT_TOLD, self.classes[class].gives, false, true);
                }
                None => return,
            }
        }
    }

    /// The item after an operation, if the operation fits it now.
    fn outcome(&self, event: &Event<'_>) -> Option<Slot> {
        match event.refusal {
            None => after(&event.steps, &self.slot),
            Some(_) if self.slot.is_unseen() => Some(self.slot.clone()),
            Some(reason) => {
                let value = self.slot.item().map(|item| item.value.clone());
                let met = self.values.get(&value).copied();
                let fits = event.needs == NOT_TOLD || met == Some(event.needs);
                let refused = run(&event.steps[0].0, &self.slot, 0) == Err(reason);
                (fits && refused).then(|| self.slot.clone())
            }
        }
    }

    /// Some answer that is left needs the present value, and it can't come again.
    fn strands(&self, after: &Slot, taken: Option<&Event<'_>>) -> bool {
        let value = |slot: &Slot| slot.item().map(|item| item.value.clone());
        if self.slot.is_unseen() || value(&self.slot) == value(after) {
            return false;
        }
        let Some(&left) = self.values.get(&value(&self.slot)) else { return false };
        let own = taken.is_some_and(|event| event.needs == left);
        let needed = self.needs[left] > u32::from(own);
        needed && (self.one_way || (self.gives[left] == 0 && self.wild_besides(taken) == 0))
    }

    fn wild_besides(&self, taken: Option<&Event<'_>>) -> u32 {
        let own = taken.is_some_and(|event| event.gives == NOT_TOLD);
        self.wild - u32::from(own)
    }

    fn choices(&mut self) -> Vec<(u64, Choice, Slot)> {
        let horizon = self.horizon();
        let next = self.may_come_next();
        let mut choices = Vec::new();
        for &id in &next {
            let event = &self.events[id];
            self.tried += 1;
            if let Some(after) = self.outcome(event)
                && !self.strands(&after, Some(event))
            {
                choices.push((event.guide, Choice::Known(id), after));
            }
        }
        for (index, class) in self.classes.iter().enumerate() {
            self.tried += 1;
            if let Some((call, guide)) = class.calls.get(self.used[index])
                && *call <= horizon
                && let Some(after) = after(&class.steps, &self.slot)
                && (after != self.slot || after.is_unseen())
                && !self.strands(&after, None)
            {
                choices.push((*guide, Choice::Unknown(index), after));
            }
        }
        // Without a guide what has to end first; unknown writes only when they are needed.
        choices.sort_by_key(|(guide, choice, _)| match choice {
            Choice::Known(id) => (*guide, self.events[*id].ret),
            Choice::Unknown(_) => (*guide, u64::MAX),
        });
        let explained = self.events.len() - self.by_call.len();
        if explained >= self.best.0 {
            self.best = (explained, self.slot.clone(), next);
        }
        choices
    }

    fn choose(&mut self) -> bool {
        while let Some(frame) = self.frames.last_mut() {
            let (trail, slot) = (frame.trail, frame.slot.clone());
            let choice = frame.choices.get(frame.tried).cloned();
            frame.tried += 1;
            self.undo(trail);
            self.slot = slot;
            let Some((_, choice, after)) = choice else {
                if let Some(frame) = self.frames.pop()
                    && self.memo.len() < MEMO_MAX
                {
                    self.memo.insert(frame.signature);
                }
                continue;
            };
            match choice {
                Choice::Known(id) => self.take_known(id),
                Choice::Unknown(class) => self.take_unknown(class),
            }
            self.slot = after;
            return true;
        }
        false
    }

    fn signature(&self) -> u128 {
        let mut hash = Fnv::default();
        (self.left, &self.used, &self.slot).hash(&mut hash);
        hash.0
    }

    fn explain(&self, history: &History<'_>, name: usize) -> String {
        let (explained, slot, next) = &self.best;
        let record = |id: &usize| history.operations[self.events[*id].operation].record;
        format!(
            "{} alone has no order that explains its answers, whatever revisions say. The best \
             explains {explained} of {}; it is then {}, and one of these has to be next:{}",
            history.name(name),
            self.events.len(),
            shown(slot),
            show_all(next.iter().map(record))
        )
    }
}

/// A value and its bounds; the revision means nothing here.
fn shown(slot: &Slot) -> String {
    match slot {
        Slot::There(Item { value, floor, ceiling, .. }) => {
            let bound = |name: &str, bound: &Option<i64>| {
                bound.map_or(String::new(), |bound| format!(", {name} {bound}"))
            };
            format!("{value}{}{}", bound("floor", floor), bound("ceiling", ceiling))
        }
        other => other.to_string(),
    }
}

/// A pattern of bits for each operation: what is left is their sum without carry.
fn mark(id: usize) -> u128 {
    let half = |seed: u64| {
        // SplitMix64.
        let mut z = (id as u64).wrapping_add(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(z ^ (z >> 31))
    };
    half(0x2545_f491) << 64 | half(0x9e6c_63d0_676a_9a99)
}
