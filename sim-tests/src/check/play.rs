//! One operation against a state: does the state explain what the operation was told?

use std::collections::BTreeMap;

use tally_client::history::{Answer, Compare, Op};
use tally_proto::reason;

use super::{
    logical::{Deed, History, Logical, Outcome, Place, When, makes_revision},
    model::{Act, STEP_READ_BYTES_MAX, Slot, Value, agrees, bytes_read, learn, run},
};

/// Why a state does not explain an operation, and on which items it would have to be another one.
#[derive(Debug, Clone)]
pub(super) struct Mismatch {
    pub(super) message: String,
    pub(super) names: Vec<usize>,
}

fn mismatch<T>(names: Vec<usize>, message: String) -> Result<T, Mismatch> {
    Err(Mismatch { message, names })
}

/// All items that an operation looks at or may change.
fn names(operation: &Logical<'_>) -> Vec<usize> {
    let conditions = operation.when.iter().map(|when| when.name);
    conditions.chain(operation.possible().map(|deed| deed.name)).collect()
}

/// The state of some items, over that of all.
pub(super) struct Overlay<'s> {
    below: &'s dyn Fn(usize) -> Slot,
    changed: BTreeMap<usize, Slot>,
    pub(super) revision: u64,
}

impl<'s> Overlay<'s> {
    pub(super) fn new(below: &'s dyn Fn(usize) -> Slot, revision: u64) -> Self {
        Self { below, changed: BTreeMap::new(), revision }
    }

    fn get(&self, name: usize) -> Slot {
        self.changed.get(&name).cloned().unwrap_or_else(|| (self.below)(name))
    }

    pub(super) fn changes(self) -> BTreeMap<usize, Slot> {
        self.changed
    }
}

/// Whether a condition holds, if the item is known.
fn holds(when: &When<'_>, slot: &Slot) -> Option<bool> {
    if slot.is_unseen() {
        return None;
    }
    let compare = when.condition.compare.unwrap_or(Compare::Equal);
    Some(if let Some(exists) = when.condition.exists {
        slot.item().is_some() == exists
    } else if let Some(version) = when.condition.version {
        compare.holds(&slot.version(), &version)
    } else {
        let stored = slot.item().map(|item| &item.value);
        match (stored, &when.value) {
            (Some(stored @ Value::Int(_)), Some(given @ Value::Int(_)))
            | (Some(stored @ Value::Bytes(_)), Some(given @ Value::Bytes(_))) => {
                compare.holds(stored, given)
            }
            _ => false,
        }
    })
}

/// The first condition that does not hold; unknown if that hangs on an item that is not known.
pub(super) fn failing(
    operation: &Logical<'_>,
    slot: &dyn Fn(usize) -> Slot,
) -> Option<Option<usize>> {
    let mut unclear = false;
    for (index, when) in operation.when.iter().enumerate() {
        match holds(when, &slot(when.name)) {
            Some(true) => {}
            Some(false) if !unclear => return Some(Some(index)),
            Some(false) | None => unclear = true,
        }
    }
    (!unclear).then_some(None)
}

/// Does what the operation did, and compares each answer.
pub(super) fn play(
    history: &History<'_>,
    operation: &Logical<'_>,
    state: &mut Overlay<'_>,
) -> Result<(), Mismatch> {
    if operation.outcome == Outcome::Refused {
        return refuses(history, operation, state);
    }
    let ran_then = std::ptr::eq(operation.deeds(), &*operation.then);
    match failing(operation, &|name| state.get(name)) {
        Some(None) if !ran_then => {
            return mismatch(names(operation), "all conditions held, but `else` ran".into());
        }
        Some(Some(index)) if ran_then => {
            let message = format!("condition {index} did not hold, but its operations ran");
            return mismatch(names(operation), message);
        }
        _ => {}
    }
    let mut bytes = 0;
    for (index, deed) in operation.deeds().iter().enumerate() {
        bytes += bytes_read(&deed.act, &state.get(deed.name));
        if operation.record.part.op == Op::Apply && bytes > STEP_READ_BYTES_MAX {
            let message = format!("part {index}: it succeeded, but read {bytes} bytes by then");
            return mismatch(names(operation), message);
        }
        play_deed(history, deed, state).map_err(|mut wrong| {
            if operation.record.part.op == Op::Apply {
                wrong.message = format!("part {index}: {}", wrong.message);
            }
            if wrong.names.is_empty() {
                wrong.names = names(operation);
            }
            wrong
        })?;
    }
    let told = match operation.place {
        Place::Made { last, .. } => last,
        Place::Saw(revision) => revision,
        Place::Nowhere => return Ok(()),
    };
    if told != state.revision {
        let message = format!(
            "it was told revision {told}, but what it did leads to revision {}",
            state.revision
        );
        return mismatch(names(operation), message);
    }
    Ok(())
}

fn play_deed(
    history: &History<'_>,
    deed: &Deed<'_>,
    state: &mut Overlay<'_>,
) -> Result<(), Mismatch> {
    let on = |message: String| Mismatch {
        message: format!("{}: {message}", history.name(deed.name)),
        names: vec![deed.name],
    };
    let before = state.get(deed.name);
    let next = state.revision + 1;
    let mut ran = run(&deed.act, &before, next)
        .map_err(|reason| on(format!("it succeeded, but {reason} was in its way ({before})")))?;
    let nothing = Answer::default();
    let answer = deed.answer.unwrap_or(&nothing);
    if before.is_unseen() {
        ran.mutated = ran.mutated && makes_revision(deed).unwrap_or(true);
        let made = if ran.mutated { next } else { state.revision };
        ran.after = learn(&deed.act, &ran, answer, made);
    }
    agrees(&deed.act, &before, &ran, answer, true).map_err(on)?;
    if ran.mutated {
        state.revision = next;
    }
    if let Some(told) = answer.version
        && deed.act != Act::Read
        && told != state.revision
    {
        // Its revision hangs on what the parts before it changed, so on all items.
        let message = format!("it was told revision {told}, but that was {}", state.revision);
        return Err(Mismatch { names: Vec::new(), ..on(message) });
    }
    state.changed.insert(deed.name, ran.after);
    Ok(())
}

/// Holds a refusal against the state that refused.
fn refuses(
    history: &History<'_>,
    operation: &Logical<'_>,
    state: &Overlay<'_>,
) -> Result<(), Mismatch> {
    let record = operation.record;
    let told = record.reason.as_deref().unwrap_or_default();
    let part = record.refused_part;
    let differs = |is: &str, at: &str, slot: &Slot, name: usize| {
        let on = history.name(name);
        let message = format!("it was refused with {told}, but {on} ({slot}) meant {is}{at}");
        mismatch(names(operation), message)
    };
    let failing = match failing(operation, &|name| state.get(name)) {
        // A condition on an item that is not known yet: nothing to hold against it.
        None => return Ok(()),
        Some(failing) => failing,
    };
    let branch = match failing {
        Some(index) if operation.otherwise.is_empty() => {
            let name = operation.when[index].name;
            let same = part.is_none_or(|part| part.condition == Some(index as u32));
            if told == reason::CONDITION_FAILED && same {
                return Ok(());
            }
            let at = format!(" by condition {index}");
            return differs(reason::CONDITION_FAILED, &at, &state.get(name), name);
        }
        Some(_) => &operation.otherwise,
        None => &operation.then,
    };
    let below = |name| state.get(name);
    let mut scratch = Overlay::new(&below, state.revision);
    let mut bytes = 0;
    for (index, deed) in branch.iter().enumerate() {
        let before = scratch.get(deed.name);
        if before.is_unseen() {
            return Ok(());
        }
        bytes += bytes_read(&deed.act, &before);
        let ran = run(&deed.act, &before, scratch.revision + 1);
        let too_large = record.part.op == Op::Apply && bytes > STEP_READ_BYTES_MAX;
        match if too_large { Err(reason::ANSWER_TOO_LARGE) } else { ran } {
            Ok(ran) => {
                scratch.revision += u64::from(ran.mutated);
                scratch.changed.insert(deed.name, ran.after);
            }
            Err(is) => {
                let same = part.is_none_or(|part| part.op == Some(index as u32));
                if is != told || !same {
                    return differs(is, &format!(" at part {index}"), &before, deed.name);
                }
                return found(history, record.found.as_ref(), &before, deed.name)
                    .map_err(|wrong| Mismatch { names: names(operation), ..wrong });
            }
        }
    }
    let states: Vec<_> = names(operation)
        .into_iter()
        .map(|name| format!("{} was {}", history.name(name), state.get(name)))
        .collect();
    let message =
        format!("it was refused with {told}, but nothing was in its way: {}", states.join(", "));
    mismatch(names(operation), message)
}

/// What a refusal says that it found.
fn found(
    history: &History<'_>,
    told: Option<&Answer>,
    slot: &Slot,
    name: usize,
) -> Result<(), Mismatch> {
    let Some(told) = told else { return Ok(()) };
    let mut told = told.clone();
    // A bound that is in the way of a counter that does not exist calls it 0.
    let zero = Value::Int(0);
    if *slot == Slot::Absent
        && let Some(Some(scalar)) = &told.value
        && Value::of(scalar).as_ref() == Ok(&zero)
        && told.version.is_none()
    {
        told.value = Some(None);
    }
    let ran = super::model::Ran { after: slot.clone(), mutated: false };
    agrees(&Act::Read, slot, &ran, &told, true).or_else(|message| {
        let message =
            format!("{}: the refusal found something else: {message}", history.name(name));
        mismatch(vec![name], message)
    })
}
