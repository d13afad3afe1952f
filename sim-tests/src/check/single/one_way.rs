//! Which counters need no search: adds in one direction and reads (`chain.rs`).

use tally_client::history::Scalar;

use crate::check::{
    chain::{Chain, Deed, Step},
    logical::{History, Logical, Outcome},
    model::Act,
};

/// The operations on a counter, if they are of that kind. What is left out of the search is left out here:
/// a step's other parts and its conditions on other items.
pub(super) fn chain(history: &History<'_>, name: usize, operations: &[usize]) -> Option<Chain> {
    let mut chain = Chain { unseen: history.base > 0, ..Chain::default() };
    for &index in operations {
        let operation = &history.operations[index];
        if operation.outcome == Outcome::Unknown {
            // A step of unknown outcome may run either branch, or refuse all of it.
            let [deed] = &*operation.then else { return None };
            if !operation.when.is_empty() || !operation.otherwise.is_empty() {
                return None;
            }
            chain.unknown.push((operation.call, plain_add(&deed.act)?));
            continue;
        }
        let deed = deed(operation, name)?;
        let (call, ret) = (operation.call, operation.ret);
        chain.steps.push(Step { call, ret, deed, operation: index });
    }
    Some(chain)
}

fn deed(operation: &Logical<'_>, name: usize) -> Option<Deed> {
    let mut on_it = operation.deeds().iter().filter(|deed| deed.name == name);
    let (deed, None) = (on_it.next()?, on_it.next()) else { return None };
    let answer = deed.answer.filter(|_| operation.outcome == Outcome::Answered)?;
    if answer.floor.flatten().is_some() || answer.ceiling.flatten().is_some() {
        return None;
    }
    let value = answer.value.as_ref()?.as_ref();
    let int = |scalar: &Scalar| match scalar {
        Scalar::Int(value) => Some(*value),
        Scalar::Text(_) | Scalar::Bytes { .. } => None,
    };
    if deed.act == Act::Read {
        let is_plain = [answer.before.is_some(), answer.existed.is_some()] == [false; 2]
            && answer.applied_delta.is_none();
        let value = match value {
            Some(value) => Some(int(value)?),
            None => None,
        };
        return is_plain.then_some(Deed::Read(value));
    }
    let delta = plain_add(&deed.act)?;
    let after = int(value?)?;
    let before = answer.before.or_else(|| after.checked_sub(delta))?;
    let is_plain = answer.applied_delta.is_none_or(|told| told == delta);
    is_plain.then_some(Deed::Add { delta, before, after, existed: answer.existed })
}

/// The delta of an add without bounds of its own.
fn plain_add(act: &Act) -> Option<i64> {
    match act {
        Act::Incr { delta, floor: None, ceiling: None, saturate: false, must_exist: false } => {
            Some(*delta).filter(|delta| *delta != 0)
        }
        _ => None,
    }
}
