//! Sums: what an accountant can prove from answers alone, without any order.
//!
//! - **A counter that is only added to** holds in the end what was acknowledged, and of each add of
//!   unknown outcome something between nothing and all of it (bounds may cut it short). Less is a
//!   lost write, more is one that was counted twice. The end is a linearizable read that began after
//!   every answer on the counter.
//! - **Transfers** (atomic steps whose deltas add up to 0, and which can't be cut short) leave the
//!   sum over the accounts that they connect as it was, whether or not each one happened. So every
//!   batch read over all those accounts shows the same sum, once nothing else changes them.
//! - **Bounds**: no answer shows a counter outside the bounds that it names, and no add moves a
//!   counter beyond the bound of its own request.

use std::collections::{BTreeMap, BTreeSet};

use tally_client::history::{Level, Scalar};

use super::{
    Rule, Verdict,
    logical::{Deed, History, Logical, Outcome, makes_revision},
    model::Act,
    show::{show, show_all},
};

pub(super) fn check(history: &History<'_>, verdict: &mut Verdict) {
    for operation in &history.operations {
        if operation.outcome == Outcome::Answered {
            operation.deeds().iter().for_each(|deed| bounds(operation, deed, verdict));
        }
    }
    sums(history, verdict);
    transfers(history, verdict);
}

fn int(scalar: Option<&Scalar>) -> Option<i64> {
    match scalar {
        Some(Scalar::Int(value)) => Some(*value),
        _ => None,
    }
}

/// The counter's value in an answer.
fn value(deed: &Deed<'_>) -> Option<i64> {
    int(deed.answer?.value.as_ref()?.as_ref())
}

fn bounds(operation: &Logical<'_>, deed: &Deed<'_>, verdict: &mut Verdict) {
    let (Some(answer), Some(value)) = (deed.answer, value(deed)) else { return };
    let mut broken = |bound: i64, whose: &str| {
        let message = format!(
            "the value {value} is beyond {whose} bound {bound}: {}",
            show(operation.record)
        );
        verdict.violation(Rule::BoundBroken, message);
    };
    if let Some(floor) = answer.floor.flatten().filter(|floor| value < *floor) {
        broken(floor, "the stored");
    }
    if let Some(ceiling) = answer.ceiling.flatten().filter(|ceiling| value > *ceiling) {
        broken(ceiling, "the stored");
    }
    let Act::Incr { delta, floor, ceiling, .. } = &deed.act else { return };
    // What was beyond the request's bound before may stay there.
    let before = answer.before.or_else(|| value.checked_sub(answer.applied_delta?));
    let Some(before) = before else { return };
    match (delta.signum(), floor, ceiling) {
        (-1, Some(floor), _) if value < before.min(*floor) => broken(*floor, "the request's"),
        (1, _, Some(ceiling)) if value > before.max(*ceiling) => broken(*ceiling, "the request's"),
        _ => {}
    }
}

/// What is known of a counter that is only added to.
#[derive(Default)]
struct Account {
    other_writes: bool,
    began_at_zero: bool,
    acknowledged: i128,
    answered: u64,
    unknown_down: i128,
    unknown_up: i128,
    unknown: u64,
    last_answer: u64,
}

fn sums(history: &History<'_>, verdict: &mut Verdict) {
    let mut accounts: BTreeMap<usize, Account> = BTreeMap::new();
    for operation in &history.operations {
        if operation.outcome == Outcome::Failed {
            continue;
        }
        let answered = operation.outcome == Outcome::Answered;
        let writes = |deed: &&Deed<'_>| deed.act != Act::Read;
        let deeds: Vec<&Deed<'_>> = if answered {
            operation.deeds().iter().filter(writes).collect()
        } else {
            operation.possible().filter(writes).collect()
        };
        for deed in deeds {
            book(accounts.entry(deed.name).or_default(), operation, deed);
        }
    }
    for operation in &history.operations {
        let reads = operation.is_read() && operation.outcome == Outcome::Answered;
        if !reads || operation.level() != Level::Linearizable {
            continue;
        }
        for deed in operation.deeds() {
            let Some(account) = accounts.get(&deed.name) else { continue };
            let knows_start = history.base == 0 || account.began_at_zero;
            if account.other_writes || !knows_start || operation.call <= account.last_answer {
                continue;
            }
            verdict.counts.sums += 1;
            let held = i128::from(value(deed).unwrap_or(0));
            let low = account.acknowledged + account.unknown_down;
            let high = account.acknowledged + account.unknown_up;
            if !(low..=high).contains(&held) {
                verdict.violation(
                    Rule::WrongSum,
                    format!(
                        "{} is {held} in the end, but {} acknowledged adds make {}, and {} of \
                         unknown outcome between {} and {} more: {}",
                        history.name(deed.name),
                        account.answered,
                        account.acknowledged,
                        account.unknown,
                        account.unknown_down,
                        account.unknown_up,
                        show(operation.record)
                    ),
                );
            }
        }
    }
}

fn book(account: &mut Account, operation: &Logical<'_>, deed: &Deed<'_>) {
    if operation.outcome != Outcome::Unknown {
        account.last_answer = account.last_answer.max(operation.ret);
    }
    let answer = deed.answer;
    account.began_at_zero |=
        answer.is_some_and(|answer| answer.existed == Some(false) && answer.before == Some(0));
    let Act::Incr { delta, .. } = deed.act else {
        // Configure changes no value.
        account.other_writes |= !matches!(deed.act, Act::Configure { .. });
        return;
    };
    match operation.outcome {
        Outcome::Answered => {
            account.answered += 1;
            match applied(deed) {
                Some(applied) => account.acknowledged += i128::from(applied),
                None => account.other_writes = true,
            }
        }
        Outcome::Unknown => {
            account.unknown += 1;
            account.unknown_down += i128::from(delta.min(0));
            account.unknown_up += i128::from(delta.max(0));
        }
        Outcome::Refused | Outcome::Failed => {}
    }
}

/// How far an acknowledged add moved its counter.
fn applied(deed: &Deed<'_>) -> Option<i64> {
    let Act::Incr { delta, saturate, .. } = deed.act else { return None };
    let told = deed.answer.and_then(|answer| {
        answer.applied_delta.or_else(|| value(deed)?.checked_sub(answer.before?))
    });
    told.or((!saturate).then_some(delta))
}

/// An atomic step that moves without making or losing anything, whichever branch runs.
fn is_balanced(operation: &Logical<'_>) -> bool {
    let sum = |deeds: &[Deed<'_>]| {
        let mut sum = 0;
        for deed in deeds {
            match deed.act {
                Act::Incr { delta, saturate: false, .. } => sum += i128::from(delta),
                Act::Read | Act::Configure { .. } => {}
                _ => return false,
            }
        }
        sum == 0
    };
    operation.then.len() > 1 && sum(&operation.then) && sum(&operation.otherwise)
}

fn changes(operation: &Logical<'_>) -> impl Iterator<Item = usize> {
    let changes = |deed: &&Deed<'_>| !matches!(deed.act, Act::Read | Act::Configure { .. });
    operation.possible().filter(changes).map(|deed| deed.name)
}

/// Accounts that transfers connect, and what else happens to them.
#[derive(Default)]
struct Group {
    names: BTreeSet<usize>,
    /// The sum that other changes made, while it is known.
    made: Option<i128>,
    other_changes: bool,
    other_unknown: bool,
    /// When the last other change was answered.
    settled: u64,
}

fn transfers(history: &History<'_>, verdict: &mut Verdict) {
    let effective = |operation: &&Logical<'_>| {
        matches!(operation.outcome, Outcome::Answered | Outcome::Unknown)
    };
    let operations = || history.operations.iter().filter(effective);
    let mut leader: Vec<usize> = (0..history.names.len()).collect();
    fn find(leader: &mut [usize], mut name: usize) -> usize {
        while leader[name] != name {
            leader[name] = leader[leader[name]];
            name = leader[name];
        }
        name
    }
    let mut connected = BTreeSet::new();
    for operation in operations().filter(|operation| is_balanced(operation)) {
        let mut names = changes(operation);
        let Some(first) = names.next() else { continue };
        connected.insert(first);
        for name in names {
            let (one, other) = (find(&mut leader, first), find(&mut leader, name));
            leader[one] = other;
            connected.insert(name);
        }
    }
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for name in connected {
        let group = groups.entry(find(&mut leader, name)).or_default();
        group.names.insert(name);
        group.made = (history.base == 0).then_some(0);
    }
    for operation in operations().filter(|operation| !is_balanced(operation)) {
        for deed in operation.possible() {
            let Some(group) = groups.get_mut(&find(&mut leader, deed.name)) else { continue };
            if !matches!(deed.act, Act::Read | Act::Configure { .. }) {
                other_change(group, operation, deed);
            }
        }
    }
    for group in groups.values_mut().filter(|group| group.names.len() > 1) {
        if !group.other_unknown {
            balance(history, group, verdict);
        }
    }
}

fn other_change(group: &mut Group, operation: &Logical<'_>, deed: &Deed<'_>) {
    group.other_changes = true;
    group.other_unknown |= operation.outcome == Outcome::Unknown;
    group.settled = group.settled.max(operation.ret);
    // An account that is set when it is made has what it is set to.
    let amount = match &deed.act {
        Act::Incr { .. } if operation.otherwise.is_empty() => applied(deed),
        Act::Store { value, .. } if operation.otherwise.is_empty() => {
            let is_new = deed.answer.and_then(|answer| answer.existed) == Some(false);
            value.int().filter(|_| is_new && makes_revision(deed) == Some(true))
        }
        _ => None,
    };
    group.made = group.made.zip(amount).map(|(made, amount)| made + i128::from(amount));
}

/// Every batch read over a group shows the same sum.
fn balance(history: &History<'_>, group: &Group, verdict: &mut Verdict) {
    let mut first = None;
    for operation in &history.operations {
        let settled = !group.other_changes
            || (operation.call > group.settled && operation.level() == Level::Linearizable);
        if !operation.is_read() || operation.outcome != Outcome::Answered || !settled {
            continue;
        }
        let shown: BTreeMap<usize, i128> = operation
            .deeds()
            .iter()
            .map(|deed| (deed.name, i128::from(value(deed).unwrap_or(0))))
            .collect();
        if !group.names.iter().all(|name| shown.contains_key(name)) {
            continue;
        }
        verdict.counts.transfer_sums += 1;
        let sum: i128 = group.names.iter().map(|name| shown[name]).sum();
        let (expected, by) = *first.get_or_insert((group.made.unwrap_or(sum), operation.record));
        if sum != expected {
            let accounts: Vec<_> = group.names.iter().map(|name| history.name(*name)).collect();
            verdict.violation(
                Rule::BrokenSum,
                format!(
                    "transfers keep the sum over {} at {expected}, but a read shows {sum}:{}",
                    accounts.join(", "),
                    show_all([by, operation.record])
                ),
            );
        }
    }
}
