//! The order of revisions against real time.
//!
//! **Argument.** If A was answered before B was called, A comes before B in every order that a
//! client may be shown. A change that made revision r and an operation that saw revision s have
//! their place in the order, so each pair is settled by comparing numbers: what B made must be above
//! what A reached, what B saw must not be below it. It is enough to compare B with the highest
//! revision that anybody had reached before B's call. Operations that saw the same revision change
//! nothing, so among themselves they can stand in the order of their calls. So if every comparison
//! holds, there is one order that agrees with real time; together with `order.rs`, which shows that
//! it explains every answer, that is strict serializability.
//!
//! What is weaker than linearizable need not see what is new, but it proves that its revision
//! existed when it was answered: nothing that was called later can have made that revision, and no
//! linearizable read that was called later may miss it.
//!
//! A refusal (or read) that does not tell which revision it saw must fit some state between what
//! was reached before its call and what was made after its return. Such operations are placed in
//! the order of their calls, each as early as possible: that leaves the most room for the others.

use tally_client::history::Level;

use super::{
    Rule, Verdict,
    logical::{History, Logical, Outcome, Place},
    order::Order,
    play::{Overlay, play},
    show::{show, show_all},
};

/// Which revision had been reached when, and by whose answer.
#[derive(Debug)]
pub(super) struct Reached(Vec<(u64, u64, usize)>);

impl Reached {
    pub(super) fn new(history: &History<'_>) -> Self {
        let reached = |(index, operation): (usize, &Logical<'_>)| {
            operation.place.reached().map(|reached| (operation.ret, reached, index))
        };
        let mut all: Vec<_> = history.operations.iter().enumerate().filter_map(reached).collect();
        all.sort_unstable();
        for at in 1..all.len() {
            if all[at].1 < all[at - 1].1 {
                (all[at].1, all[at].2) = (all[at - 1].1, all[at - 1].2);
            }
        }
        Self(all)
    }

    /// The highest revision of an answer that was there before this time, and that answer.
    pub(super) fn before(&self, time: u64) -> Option<(u64, usize)> {
        let answered = self.0.partition_point(|(ret, _, _)| *ret < time);
        answered.checked_sub(1).map(|last| (self.0[last].1, self.0[last].2))
    }
}

/// Whether all operations that have a place agree with real time.
pub(super) fn check(history: &History<'_>, order: &Order, verdict: &mut Verdict) -> bool {
    let reached = Reached::new(history);
    let mut all_do = true;
    for operation in &history.operations {
        let strict = !operation.is_read() || operation.level() == Level::Linearizable;
        let Some((floor, by)) = reached.before(operation.call) else { continue };
        let before = &history.operations[by];
        let wrong = match operation.place {
            Place::Made { first, .. } if first <= floor => match before.place {
                Place::Saw(_) => {
                    "a read of the future: a revision was seen before the write that \
                                  made it was called"
                }
                _ => "writes in the wrong order: the later one made the lower revision",
            },
            Place::Saw(revision) if strict && revision < floor => match before.place {
                Place::Saw(_) => "reads in the wrong order: the later one saw the older state",
                _ => {
                    "a stale answer: it does not see a write that was acknowledged before it began"
                }
            },
            _ => continue,
        };
        all_do = false;
        let both = show_all([before.record, operation.record]);
        verdict.violation(Rule::RealTime, format!("{wrong}:{both}"));
    }
    if order.found {
        unplaced(history, order, &reached, verdict);
    }
    all_do
}

/// Operations that do not tell which state they saw.
fn unplaced(history: &History<'_>, order: &Order, reached: &Reached, verdict: &mut Verdict) {
    let mut doubtful = vec![false; history.names.len()];
    for operation in &history.operations {
        if operation.outcome == Outcome::Unknown {
            operation.possible().for_each(|deed| doubtful[deed.name] = true);
        }
    }
    // When a write was called, and the revision that it made: what ended before can't have seen it.
    let mut made: Vec<(u64, u64)> = history
        .operations
        .iter()
        .filter_map(|operation| match operation.place {
            Place::Made { first, .. } => Some((operation.call, first)),
            _ => None,
        })
        .collect();
    made.sort_unstable();
    let mut lowest = u64::MAX;
    for (_, first) in made.iter_mut().rev() {
        lowest = lowest.min(*first);
        *first = lowest;
    }
    let mut placed: Vec<(u64, u64)> = Vec::new();
    for operation in &history.operations {
        let judged = matches!(operation.outcome, Outcome::Refused | Outcome::Answered);
        let strict = !operation.is_read() || operation.level() == Level::Linearizable;
        // Which unknown write made which revision is one choice of several that may be right, so
        // what hangs on it is left to the check of the item alone.
        let is_clear = operation.possible().all(|deed| !doubtful[deed.name])
            && operation.when.iter().all(|when| !doubtful[when.name]);
        if operation.place != Place::Nowhere || !judged || !strict || !is_clear {
            continue;
        }
        let earlier = placed.iter().filter(|(ret, _)| *ret < operation.call).map(|(_, at)| *at);
        let floor = reached.before(operation.call).map_or(history.base, |(floor, _)| floor);
        let low = floor.max(earlier.max().unwrap_or(0));
        let after = made.partition_point(|(call, _)| *call <= operation.ret);
        let high = made.get(after).map_or(order.last, |(_, first)| first - 1);
        match earliest(history, order, operation, low, high) {
            Ok(revision) => placed.push((operation.ret, revision)),
            Err(why) => verdict.violation(
                Rule::WrongAnswer,
                format!(
                    "{} fits none of the states that it may have seen, revisions {low}..{high}: \
                     {why}",
                    show(operation.record)
                ),
            ),
        }
        verdict.counts.refusals += u64::from(operation.outcome == Outcome::Refused);
    }
}

/// The lowest revision whose state explains an operation.
fn earliest(
    history: &History<'_>,
    order: &Order,
    operation: &Logical<'_>,
    low: u64,
    high: u64,
) -> Result<u64, String> {
    let names = operation.possible().map(|deed| deed.name);
    let names = names.chain(operation.when.iter().map(|when| when.name));
    let mut revisions = vec![low];
    for name in names {
        revisions.extend(order.changes(name, low, high));
    }
    revisions.sort_unstable();
    revisions.dedup();
    let mut why = "no state is left".to_owned();
    for revision in revisions {
        let below = |name: usize| order.at(name, revision);
        let mut state = Overlay::new(&below, revision);
        match play(history, operation, &mut state) {
            Ok(()) => return Ok(revision),
            Err(mismatch) => why = format!("at {revision} {}", mismatch.message),
        }
    }
    Err(why)
}
