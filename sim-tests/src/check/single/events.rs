//! What the operations on one item do and say, for the search of their order.

use std::collections::BTreeMap;

use tally_proto::reason;

use super::{Class, Event, NOT_TOLD, Search, Steps};
use crate::check::{
    logical::{Deed, Logical, Outcome, Place, makes_revision},
    model::{Act, Expect, Slot, Value, agrees, learn, run},
};

impl<'a> Search<'a> {
    pub(super) fn add_known(&mut self, index: usize, operation: &Logical<'a>, name: usize) {
        let deeds: Vec<&Deed<'a>> =
            operation.deeds().iter().filter(|deed| deed.name == name).collect();
        let refused = operation.outcome == Outcome::Refused;
        let alone = operation.possible().count() == 1 && operation.when.is_empty();
        let Some((first, last)) = deeds.first().zip(deeds.last()) else { return };
        // How much a step reads is no matter of one item.
        let too_large = operation.record.reason.as_deref() == Some(reason::ANSWER_TOO_LARGE);
        if refused && (!alone || too_large || first.act.expects_version()) {
            return;
        }
        let is_pure = refused || deeds.iter().all(|deed| makes_revision(deed) == Some(false));
        let needs = if refused { refused_at(operation) } else { met(first) };
        let gives = if is_pure { None } else { left_behind(last) };
        let needs = needs.map_or(NOT_TOLD, |value| self.value(value));
        let gives = gives.map_or(NOT_TOLD, |value| self.value(value));
        let guide = match operation.place {
            Place::Made { first, .. } => first,
            Place::Saw(revision) => revision,
            Place::Nowhere => u64::MAX,
        };
        let id = self.events.len();
        let event = Event {
            operation: index,
            call: operation.call,
            ret: operation.ret,
            steps: steps(operation.deeds(), name),
            refusal: operation.record.reason.as_deref().filter(|_| refused),
            is_pure,
            guide,
            needs,
            gives,
        };
        self.by_call.insert((event.call, id));
        self.by_ret.insert((event.ret, id));
        self.events.push(event);
        self.count(needs, gives, is_pure, true);
    }

    pub(super) fn add_unknown(
        &mut self,
        classes: &mut BTreeMap<Vec<Act>, Class<'a>>,
        steps: Steps<'a>,
        call: u64,
        guide: u64,
    ) {
        let acts: Vec<_> = steps.iter().map(|(act, _)| act.clone()).collect();
        if acts.iter().all(|act| *act == Act::Read) {
            return;
        }
        let gives = match &*acts {
            [Act::Store { value, .. }] => self.value(Some(value.clone())),
            [Act::Delete { .. }] => self.value(None),
            [Act::Configure { .. }] => self.value(Some(Value::Int(0))),
            _ => NOT_TOLD,
        };
        self.count(NOT_TOLD, gives, false, true);
        let class = classes.entry(acts);
        let class = class.or_insert_with(|| Class { steps, calls: Vec::new(), gives });
        class.calls.push((call, guide));
    }
}

/// What an operation does to this item, without what it expects of revisions.
pub(super) fn steps<'a>(deeds: &[Deed<'a>], name: usize) -> Steps<'a> {
    let of_name = deeds.iter().filter(|deed| deed.name == name);
    of_name.map(|deed| (without_version(&deed.act), deed.answer)).collect()
}

fn without_version(act: &Act) -> Act {
    let relaxed = |expect: &Expect| Expect { version: None, ..expect.clone() };
    match act {
        Act::Store { value, expect } => {
            Act::Store { value: value.clone(), expect: relaxed(expect) }
        }
        Act::Delete { expect } => Act::Delete { expect: relaxed(expect) },
        other => other.clone(),
    }
}

/// The item after these steps, if it explains what was answered.
pub(super) fn after(steps: &Steps<'_>, slot: &Slot) -> Option<Slot> {
    let mut slot = slot.clone();
    for (act, answer) in steps {
        let mut ran = run(act, &slot, 0).ok()?;
        if let Some(answer) = answer {
            if slot.is_unseen() {
                ran.after = learn(act, &ran, answer, 0);
            }
            agrees(act, &slot, &ran, answer, false).ok()?;
        }
        slot = ran.after.without_version();
    }
    Some(slot)
}

/// The value that an operation met, if its answer tells. `Some(None)`: it did not exist.
fn met(deed: &Deed<'_>) -> Option<Option<Value>> {
    let answer = deed.answer?;
    if let (Act::Read, Some(value)) = (&deed.act, &answer.value) {
        return Some(value.as_ref().and_then(|scalar| Value::of(scalar).ok()));
    }
    if answer.existed == Some(false) {
        return Some(None);
    }
    if let Act::Store { expect, .. } | Act::Delete { expect } = &deed.act
        && expect.value.is_some()
    {
        return expect.value.clone();
    }
    let before = answer.before.filter(|_| answer.existed == Some(true))?;
    Some(Some(Value::Int(before)))
}

/// The value that a refusal says that it met.
fn refused_at(operation: &Logical<'_>) -> Option<Option<Value>> {
    let found = operation.record.found.as_ref()?.value.as_ref()?;
    let value = found.as_ref().and_then(|scalar| Value::of(scalar).ok());
    // A bound calls a counter 0 that does not exist.
    (value != Some(Value::Int(0))).then_some(value)
}

/// The value that a change left behind, if its answer tells.
fn left_behind(deed: &Deed<'_>) -> Option<Option<Value>> {
    match &deed.act {
        Act::Delete { .. } => Some(None),
        Act::Store { value, .. } => Some(Some(value.clone())),
        _ => deed
            .answer?
            .value
            .as_ref()
            .map(|value| value.as_ref().and_then(|scalar| Value::of(scalar).ok())),
    }
}
