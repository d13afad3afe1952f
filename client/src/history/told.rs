//! What the library's typed answers and errors say, as a history has it.

use tally_proto::reason;

use super::{Answer, Level, Op, Part, Record, RefusedPart, Scalar, Status};
use crate::{
    Applied, Batch, Branch, CounterChange, CounterValue, Error, Header, KeyChange, KeyValue,
    OperationResult, Outcome, WriteInfo, words::millis,
};

/// An answer that a history can hold.
///
/// ```
/// use tally_client::{CounterChange, history::{Part, Record, Told as _}};
///
/// let mut record = Record::new(1, Part::incr("hits", 1), 0);
/// CounterChange { value: 7, revision: 42, ..Default::default() }.tell(&mut record);
/// assert_eq!(record.part.result.unwrap().version, Some(42));
/// ```
pub trait Told {
    /// Adds what this says to the record of the operation that it answers.
    fn tell(&self, record: &mut Record);
}

fn header(header: &Header, record: &mut Record) {
    record.consistency = Level::of(header.consistency);
    if header.cluster_id.is_empty() {
        return;
    }
    record.staleness_ms = header.staleness_max.map(millis);
    record.node = Some(header.node_id);
    record.term = Some(header.term);
    record.applied = Some(header.applied_index);
    record.revision = Some(header.revision);
}

fn write(info: &WriteInfo, on: &Header, record: &mut Record) {
    header(on, record);
    record.replayed = Some(info.replayed);
}

/// What a write on a counter says. The value after a delete is told as 0, and is none.
fn counter_change(change: &CounterChange, op: Op) -> Answer {
    Answer {
        value: Some((op != Op::Delete).then_some(Scalar::Int(change.value))),
        version: Some(change.revision),
        before: Some(change.value_before),
        applied_delta: (op == Op::Incr).then_some(change.delta_applied),
        existed: Some(change.existed),
        created: None,
        previous_version: None,
        floor: Some(change.floor),
        ceiling: Some(change.ceiling),
    }
}

fn counter_value(counter: &CounterValue) -> Answer {
    Answer {
        value: Some(Some(Scalar::Int(counter.value))),
        version: Some(counter.modified_revision),
        created: Some(counter.created_revision),
        floor: Some(counter.floor),
        ceiling: Some(counter.ceiling),
        ..Answer::default()
    }
}

fn key_change(change: &KeyChange, op: Op) -> Answer {
    Answer {
        // The value after a put is its argument; repeating it would double the history.
        value: (op == Op::Delete).then_some(None),
        version: Some(change.revision),
        existed: Some(change.existed),
        previous_version: Some(change.previous_revision),
        ..Answer::default()
    }
}

fn key_value(item: &KeyValue) -> Answer {
    Answer {
        value: Some(Some(Scalar::from(&*item.value))),
        version: Some(item.modified_revision),
        created: Some(item.created_revision),
        ..Answer::default()
    }
}

fn absent() -> Answer {
    Answer { value: Some(None), version: Some(0), ..Answer::default() }
}

impl Told for CounterChange {
    fn tell(&self, record: &mut Record) {
        write(&self.write, &self.header, record);
        record.part.result = Some(counter_change(self, record.part.op));
    }
}

impl Told for CounterValue {
    fn tell(&self, record: &mut Record) {
        header(&self.header, record);
        record.part.result = Some(counter_value(self));
    }
}

impl Told for KeyChange {
    fn tell(&self, record: &mut Record) {
        write(&self.write, &self.header, record);
        record.part.result = Some(key_change(self, record.part.op));
    }
}

impl Told for KeyValue {
    fn tell(&self, record: &mut Record) {
        header(&self.header, record);
        record.part.result = Some(key_value(self));
    }
}

impl Told for Applied {
    fn tell(&self, record: &mut Record) {
        write(&self.write, &self.header, record);
        record.branch = Some(self.branch);
        record.part.result = Some(Answer { version: Some(self.revision), ..Answer::default() });
        let parts = match self.branch {
            Branch::Then => &mut record.ops,
            Branch::Else => &mut record.else_ops,
        };
        for (part, result) in parts.iter_mut().zip(&self.results) {
            part.result = Some(match result {
                OperationResult::CounterChange(change) => counter_change(change, part.op),
                OperationResult::Counter(counter) => counter_value(counter),
                OperationResult::KeyChange(change) => key_change(change, part.op),
                OperationResult::Item(item) => key_value(item),
                OperationResult::Missing => absent(),
            });
        }
    }
}

/// Gives each part of a batch read what was found under its name.
fn batch<T>(parts: &mut [Part], batch: &Batch<T>, name: fn(&T) -> &str, answer: fn(&T) -> Answer) {
    for part in parts {
        let key = part.key.as_deref().unwrap_or_default();
        part.result = match batch.items.iter().find(|item| name(item) == key) {
            Some(item) => Some(answer(item)),
            // What is in neither list was not answered at all, and must not look like an answer.
            None => batch.missing.iter().any(|missing| missing == key).then(absent),
        };
    }
}

impl Told for Batch<CounterValue> {
    fn tell(&self, record: &mut Record) {
        header(&self.header, record);
        batch(&mut record.ops, self, |counter| &counter.name, counter_value);
    }
}

impl Told for Batch<KeyValue> {
    fn tell(&self, record: &mut Record) {
        header(&self.header, record);
        batch(&mut record.ops, self, |item| &item.key, key_value);
    }
}

/// Adds what an error says: the record is then `fail`, `unknown`, or, for a read of what does not
/// exist, `ok`.
pub(super) fn tell_error(error: &Error, record: &mut Record) {
    if let Some(on) = error.header() {
        header(&on, record);
        // Where in the history it was decided, which other writes of its log entry may have followed.
        record.revision = error.decided_at_revision().or(record.revision);
    }
    let missing = [reason::COUNTER_NOT_FOUND, reason::KEY_NOT_FOUND].contains(&error.reason());
    if record.is_read() && missing {
        record.status = Status::Ok;
        record.part.result = Some(absent());
        return;
    }
    record.reason = Some(error.reason().to_owned());
    record.status = match error.outcome() {
        Some(Outcome::Unknown) if !record.is_read() => Status::Unknown,
        _ => Status::Fail,
    };
    record.found = found(error);
    record.refused_part = error.step().and_then(|step| {
        use tally_proto::v1::step_failure::Part;
        let mut refused = RefusedPart { else_branch: step.else_branch, ..RefusedPart::default() };
        match step.part? {
            Part::ConditionIndex(index) => refused.condition = Some(index),
            Part::OperationIndex(index) => refused.op = Some(index),
        }
        Some(refused)
    });
}

/// What a refusal found in its way.
fn found(error: &Error) -> Option<Answer> {
    if let Some(bound) = error.bound() {
        return Some(Answer { value: Some(Some(bound.value.into())), ..Answer::default() });
    }
    let condition = error.condition()?;
    if !condition.exists {
        return Some(absent());
    }
    let counter = condition.counter_value.map(Scalar::Int);
    // A value above 1 KiB is not told.
    let value = counter.or_else(|| condition.value.as_ref().map(|value| Scalar::from(&**value)));
    let version = Some(condition.modified_revision);
    Some(Answer { value: value.map(Some), version, ..Answer::default() })
}
