//! One operation, or several in an atomic step.
//!
//! Nothing here undoes anything: a refusal part-way through a step leaves the earlier operations
//! in place, and the caller rolls back to where the command began.

use tally_seeded_bugs as seeded_bugs;

use super::{
    command::{Action, ApplyStep, Comparison, Condition, Test},
    item::{Found, Target},
    limits::{APPLY_READ_BYTES_MAX, COUNTER_READ_BYTES},
    operation::{Operation, counter_found, key_found},
    reply::{Answer, OperationAnswer, Refusal, StepPart},
    view::View,
    work::Work,
};

impl<V: View + ?Sized> Work<'_, '_, V> {
    /// Executes a write on counters and keys.
    pub(super) fn execute(&mut self, action: &Action) -> Result<Answer, Refusal> {
        match action {
            Action::Single(operation) => operation.run(self).map(Answer::Single),
            Action::Apply(step) => self.step(step),
            other => unreachable!("{other:?} is not a write on counters and keys"),
        }
    }

    fn step(&mut self, step: &ApplyStep) -> Result<Answer, Refusal> {
        let mut failed = None;
        for (index, condition) in (0..).zip(&step.conditions) {
            if let Err(found) = self.condition(condition) {
                failed = Some((index, condition.target.clone(), found));
                break;
            }
        }
        match failed {
            None => self.branch(&step.operations, StepPart::Operation, false),
            Some((index, target, found)) if step.else_operations.is_empty() => {
                let refusal = Box::new(Refusal::ConditionFailed { target, found });
                Err(Refusal::Step { part: StepPart::Condition(index), refusal })
            }
            Some(_) => self.branch(&step.else_operations, StepPart::ElseOperation, true),
        }
    }

    fn branch(
        &mut self,
        operations: &[Operation],
        part: fn(u32) -> StepPart,
        else_branch: bool,
    ) -> Result<Answer, Refusal> {
        let mut answers = Vec::with_capacity(operations.len());
        let mut bytes = 0;
        for (index, operation) in (0..).zip(operations) {
            let refuse = |refusal| Refusal::Step { part: part(index), refusal: Box::new(refusal) };
            let answer = operation.run(self).map_err(refuse)?;
            let read = bytes_read(&answer);
            bytes = if seeded_bugs::is_on("step-reads-unbounded") { read } else { bytes + read };
            if bytes > APPLY_READ_BYTES_MAX {
                let bytes_max = APPLY_READ_BYTES_MAX as u64;
                return Err(refuse(Refusal::AnswerTooLarge { bytes_max }));
            }
            answers.push(answer);
        }
        Ok(Answer::Apply { else_branch, answers })
    }

    /// Ok if the condition holds, else what was found in its place.
    fn condition(&mut self, condition: &Condition) -> Result<(), Found> {
        match &condition.target {
            Target::Counter(name) => {
                let record = self.counter(name);
                let holds = match &condition.test {
                    Test::Exists(exists) => record.is_some() == *exists,
                    Test::Revision(comparison, revision) => {
                        let stored = record.map_or(0, |record| record.modified_revision);
                        holds(*comparison, &stored, revision)
                    }
                    Test::CounterValue(comparison, value) => {
                        record.is_some_and(|record| holds(*comparison, &record.value, value))
                    }
                    // The api refuses it; a condition that makes no sense does not hold.
                    Test::KeyValue(..) => false,
                };
                if holds { Ok(()) } else { Err(counter_found(record)) }
            }
            Target::Key(key) => {
                let record = self.key(key);
                let holds = match &condition.test {
                    Test::Exists(exists) => record.is_some() == *exists,
                    Test::Revision(comparison, revision) => {
                        let stored = record.as_ref().map_or(0, |record| record.modified_revision);
                        holds(*comparison, &stored, revision)
                    }
                    Test::KeyValue(comparison, value) => record
                        .as_ref()
                        .is_some_and(|record| holds(*comparison, &record.value, value)),
                    Test::CounterValue(..) => false,
                };
                if holds { Ok(()) } else { Err(key_found(record.as_ref())) }
            }
        }
    }
}

fn holds<T: Ord>(comparison: Comparison, stored: &T, given: &T) -> bool {
    match comparison {
        Comparison::Equal => stored == given,
        Comparison::NotEqual => stored != given,
        Comparison::Less => stored < given,
        Comparison::LessOrEqual if seeded_bugs::is_on("equal-is-not-at-most") => stored < given,
        Comparison::LessOrEqual => stored <= given,
        Comparison::Greater => stored > given,
        Comparison::GreaterOrEqual => stored >= given,
    }
}

/// What an answer counts towards [`APPLY_READ_BYTES_MAX`]: what was read, not what says so.
fn bytes_read(answer: &OperationAnswer) -> usize {
    match answer {
        OperationAnswer::CounterRead(Some(_)) => COUNTER_READ_BYTES,
        OperationAnswer::KeyRead(Some(record)) => record.value.len(),
        _ => 0,
    }
}
