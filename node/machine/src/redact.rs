//! Leaving out of an answer what its caller may not read.

use tally_seeded_bugs as seeded_bugs;

use super::{
    auth::Permissions,
    command::{Action, ApplyStep},
    item::{Bounds, CounterChange, Found, KeyChange},
    operation::Operation,
    reply::{Answer, BoundReached, OperationAnswer, Refusal, Reply, StepPart},
    rights::{Need, Rights},
};

impl Rights {
    /// The reply to an action, as far as its caller may know it. What is left out is 0, and
    /// [`Reply::hidden`] says so: that is *not known*, not *zero*.
    pub(crate) fn redact(&self, action: &Action, reply: &mut Reply) {
        let mut hidden = false;
        match (action, &mut reply.result) {
            (Action::Single(operation), Ok(Answer::Single(answer))) => {
                hidden = self.redact_answer(operation, answer);
            }
            (Action::Single(operation), Err(refusal)) => {
                hidden = redact_refusal(self.may_read(operation), refusal);
            }
            (Action::Apply(step), Ok(Answer::Apply { else_branch, answers })) => {
                for (operation, answer) in branch(step, *else_branch).iter().zip(answers) {
                    hidden |= self.redact_answer(operation, answer);
                }
            }
            (Action::Apply(step), Err(Refusal::Step { part, refusal })) => {
                let (operations, at) = match *part {
                    StepPart::Condition(_) => (&[][..], 0),
                    StepPart::Operation(at) => (&step.operations[..], at),
                    StepPart::ElseOperation(at) => (&step.else_operations[..], at),
                };
                let may_read = match *part {
                    StepPart::Condition(at) => {
                        let condition = step.conditions.get(at as usize);
                        condition.is_some_and(|it| self.allow(Need::read(&it.target)))
                    }
                    _ => operations.get(at as usize).is_some_and(|it| self.may_read(it)),
                };
                hidden = redact_refusal(may_read, refusal);
            }
            _ => {}
        }
        if let Err(refusal) = &mut reply.result {
            hidden |= self.redact_quota(refusal);
        }
        reply.hidden = hidden;
    }

    /// How much is used tells of items that the caller may not list.
    fn redact_quota(&self, refusal: &mut Refusal) -> bool {
        match refusal {
            Refusal::Step { refusal, .. } => self.redact_quota(refusal),
            Refusal::QuotaExceeded { scope, prefix, unit, .. }
                if !self.may_list(*scope, prefix) =>
            {
                let (scope, unit) = (*scope, *unit);
                *refusal = Refusal::QuotaHidden { scope, prefix: std::mem::take(prefix), unit };
                true
            }
            _ => false,
        }
    }

    fn may_read(&self, operation: &Operation) -> bool {
        let need = Need::of(operation);
        self.allow(Need { permissions: Permissions::READ, ..need })
    }

    fn redact_answer(&self, operation: &Operation, answer: &mut OperationAnswer) -> bool {
        let is_add = matches!(operation, Operation::CounterAdd(_));
        if self.may_read(operation) || is_add && seeded_bugs::is_on("adds-show-values") {
            return false;
        }
        match answer {
            OperationAnswer::CounterChanged(change) => {
                *change = CounterChange {
                    value_before: 0,
                    value: 0,
                    bounds: Bounds::default(),
                    existed: false,
                    // What it did itself.
                    delta_requested: change.delta_requested,
                    delta_applied: match operation {
                        Operation::CounterAdd(_) => change.delta_applied,
                        // The difference to what was there.
                        _ => 0,
                    },
                    revision: change.revision,
                };
            }
            OperationAnswer::KeyChanged(change) => {
                *change =
                    KeyChange { revision: change.revision, existed: false, previous_revision: 0 };
            }
            // A remembered answer, to one who might read it then.
            OperationAnswer::CounterRead(record) => *record = None,
            OperationAnswer::KeyRead(record) => *record = None,
        }
        true
    }
}

fn redact_refusal(may_read: bool, refusal: &mut Refusal) -> bool {
    if may_read {
        return false;
    }
    let (name, which) = match refusal {
        Refusal::BelowFloor { name, .. } => (name, BoundReached::Floor),
        Refusal::AboveCeiling { name, .. } => (name, BoundReached::Ceiling),
        Refusal::Overflow { name, .. } => (name, BoundReached::Integer),
        Refusal::ConditionFailed { found, .. } => {
            *found = Found::Hidden;
            return true;
        }
        _ => return false,
    };
    *refusal = Refusal::BoundHidden { name: std::mem::take(name), which };
    true
}

fn branch(step: &ApplyStep, else_branch: bool) -> &[Operation] {
    match else_branch {
        true => &step.else_operations,
        false => &step.operations,
    }
}
