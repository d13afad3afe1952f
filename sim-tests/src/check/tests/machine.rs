//! Records as commands to the node's state machine, and its replies as records have them.

use tally_client::{
    Branch,
    history::{Answer, Compare, Condition, Kind, Op, Part, Record, RefusedPart, Scalar, Status},
};
use tally_node::machine::{
    command::{self, *},
    memory::MemoryView,
    query,
};
use tally_proto::reason;

/// It took a revision of its own.
pub(super) fn changed(record: &Record) -> bool {
    let parts = match record.branch {
        Some(Branch::Else) => &record.else_ops,
        Some(Branch::Then) => &record.ops,
        None => std::slice::from_ref(&record.part),
    };
    parts.iter().any(|part| {
        let Some(result) = &part.result else { return false };
        match part.op {
            Op::Get | Op::Read => false,
            Op::Delete => result.existed == Some(true),
            Op::Incr => result.existed == Some(false) || result.applied_delta != Some(0),
            _ => true,
        }
    })
}

fn bytes(scalar: &Scalar) -> bytes::Bytes {
    match scalar {
        Scalar::Text(text) => text.clone().into(),
        other => panic!("{other:?} is no key's value here"),
    }
}

fn int(scalar: &Scalar) -> i64 {
    match scalar {
        Scalar::Int(value) => *value,
        other => panic!("{other:?} is no counter's value"),
    }
}

fn operation(part: &Part) -> Operation {
    let name = part.key.clone().unwrap();
    let bounds = command::Bounds { floor: part.floor, ceiling: part.ceiling };
    let key_expect = || match (&part.expect, part.expect_version, part.expect_present) {
        (Some(None), _, _) => command::KeyExpectation::Absent,
        (Some(Some(value)), _, _) => command::KeyExpectation::Value(bytes(value)),
        (_, Some(version), _) => command::KeyExpectation::Revision(version),
        (_, _, true) => command::KeyExpectation::Present,
        _ => command::KeyExpectation::Any,
    };
    match (part.op, part.is_counter()) {
        (Op::Get, _) => Operation::CounterGet(CounterGet { name }),
        (Op::Incr, _) => Operation::CounterAdd(CounterAdd {
            name,
            delta: part.delta.unwrap(),
            bounds,
            on_violation: if part.saturate {
                command::OnViolation::Saturate
            } else {
                command::OnViolation::Reject
            },
            must_exist: part.must_exist,
        }),
        (Op::Set, _) => {
            Operation::CounterSet(CounterSet { name, value: int(part.value.as_ref().unwrap()) })
        }
        (Op::Configure, _) => Operation::CounterConfigure(CounterConfigure { name, bounds }),
        (Op::Cas, true) => Operation::CounterCompareAndSet(CounterCompareAndSet {
            name,
            expect: match (&part.expect, part.expect_version) {
                (Some(Some(value)), _) => command::CounterExpectation::Value(int(value)),
                (Some(None), _) => command::CounterExpectation::Absent,
                (None, version) => command::CounterExpectation::Revision(version.unwrap()),
            },
            value: int(part.value.as_ref().unwrap()),
        }),
        (Op::Delete, true) => Operation::CounterDelete(CounterDelete { name }),
        (Op::Read, _) => Operation::KeyGet(KeyGet { key: name }),
        (Op::Put | Op::Cas, _) => Operation::KeyPut(KeyPut {
            key: name,
            value: bytes(part.value.as_ref().unwrap()),
            expect: key_expect(),
        }),
        (Op::Delete, false) => Operation::KeyDelete(KeyDelete { key: name, expect: key_expect() }),
        (Op::Apply | Op::BatchGet, _) => unreachable!("no part is one"),
    }
}

pub(super) fn action(record: &Record) -> Action {
    if record.part.op != Op::Apply {
        return Action::Single(operation(&record.part));
    }
    let condition = |condition: &Condition| command::Condition {
        target: match condition.kind {
            Kind::Counter => command::Target::Counter(condition.key.clone()),
            Kind::Key => command::Target::Key(condition.key.clone()),
        },
        test: match (condition.exists, &condition.value) {
            (Some(exists), _) => command::Test::Exists(exists),
            (None, value) => {
                let comparison = match condition.compare {
                    Some(Compare::Less) => command::Comparison::Less,
                    _ => command::Comparison::GreaterOrEqual,
                };
                command::Test::CounterValue(comparison, int(value.as_ref().unwrap()))
            }
        },
    };
    Action::Apply(command::ApplyStep {
        conditions: record.when.iter().map(condition).collect(),
        operations: record.ops.iter().map(operation).collect(),
        else_operations: record.else_ops.iter().map(operation).collect(),
    })
}

pub(super) fn look(state: &MemoryView, part: &Part) -> Answer {
    let name = part.key.as_deref().unwrap();
    if part.op == Op::Get {
        told(&OperationAnswer::CounterRead(query::counter(state, name)), Op::Get)
    } else {
        told(&OperationAnswer::KeyRead(query::key(state, name)), Op::Read)
    }
}

fn told(answer: &OperationAnswer, op: Op) -> Answer {
    let absent = Answer { value: Some(None), version: Some(0), ..Answer::default() };
    match answer {
        OperationAnswer::CounterChanged(change) => Answer {
            value: Some((op != Op::Delete).then_some(change.value.into())),
            version: Some(change.revision),
            before: Some(change.value_before),
            applied_delta: (op == Op::Incr).then_some(change.delta_applied),
            existed: Some(change.existed),
            floor: Some(change.bounds.floor),
            ceiling: Some(change.bounds.ceiling),
            ..Answer::default()
        },
        OperationAnswer::CounterRead(Some(record)) => Answer {
            value: Some(Some(record.value.into())),
            version: Some(record.modified_revision),
            created: Some(record.created_revision),
            floor: Some(record.bounds.floor),
            ceiling: Some(record.bounds.ceiling),
            ..Answer::default()
        },
        OperationAnswer::KeyChanged(change) => Answer {
            value: (op == Op::Delete).then_some(None),
            version: Some(change.revision),
            existed: Some(change.existed),
            previous_version: Some(change.previous_revision),
            ..Answer::default()
        },
        OperationAnswer::KeyRead(Some(record)) => Answer {
            value: Some(Some(Scalar::from(&*record.value))),
            version: Some(record.modified_revision),
            created: Some(record.created_revision),
            ..Answer::default()
        },
        OperationAnswer::CounterRead(None) | OperationAnswer::KeyRead(None) => absent,
    }
}

pub(super) fn tell(record: &mut Record, reply: &command::Reply) {
    record.revision = Some(reply.revision);
    record.replayed = Some(reply.replayed);
    match &reply.result {
        Ok(command::Answer::Single(answer)) => {
            record.status = Status::Ok;
            record.part.result = Some(told(answer, record.part.op));
        }
        Ok(command::Answer::Apply { else_branch, answers }) => {
            record.status = Status::Ok;
            record.branch = Some(if *else_branch { Branch::Else } else { Branch::Then });
            let version = Some(reply.revision);
            record.part.result = Some(Answer { version, ..Answer::default() });
            let parts = if *else_branch { &mut record.else_ops } else { &mut record.ops };
            for (part, answer) in parts.iter_mut().zip(answers) {
                part.result = Some(told(answer, part.op));
            }
        }
        Ok(other) => panic!("{other:?} is no answer to a write"),
        Err(refusal) => {
            record.status = Status::Fail;
            record.replayed = None;
            refuse(record, refusal);
        }
    }
}

fn refuse(record: &mut Record, refusal: &Refusal) {
    let value = |value: i64| Answer { value: Some(Some(value.into())), ..Answer::default() };
    let (reason, found) = match refusal {
        Refusal::BelowFloor { value: at, .. } => (reason::BELOW_FLOOR, Some(value(*at))),
        Refusal::AboveCeiling { value: at, .. } => (reason::ABOVE_CEILING, Some(value(*at))),
        Refusal::Overflow { value: at, .. } => (reason::OVERFLOW, Some(value(*at))),
        Refusal::CounterNotFound { .. } => (reason::COUNTER_NOT_FOUND, None),
        Refusal::ConditionFailed { found, .. } => (
            reason::CONDITION_FAILED,
            Some(match found {
                command::Found::Nothing | command::Found::Hidden => {
                    Answer { value: Some(None), version: Some(0), ..Answer::default() }
                }
                command::Found::Counter { value: at, modified_revision } => {
                    Answer { version: Some(*modified_revision), ..value(*at) }
                }
                command::Found::Key { value, modified_revision, .. } => Answer {
                    value: value.as_ref().map(|value| Some(Scalar::from(&**value))),
                    version: Some(*modified_revision),
                    ..Answer::default()
                },
            }),
        ),
        Refusal::Step { part, refusal } => {
            refuse(record, refusal);
            record.refused_part = Some(match part {
                StepPart::Condition(index) => {
                    RefusedPart { condition: Some(*index), ..RefusedPart::default() }
                }
                StepPart::Operation(index) => {
                    RefusedPart { op: Some(*index), ..RefusedPart::default() }
                }
                StepPart::ElseOperation(index) => {
                    RefusedPart { op: Some(*index), else_branch: true, condition: None }
                }
            });
            return;
        }
        other => panic!("{other:?} is not expected here"),
    };
    record.reason = Some(reason.to_owned());
    record.found = found;
}
